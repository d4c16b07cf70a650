"""Names and attributes changed through a real mount: what POSIX says, and every refusal's errno."""

from __future__ import annotations

import os

import pytest

from tests.support import mounts
from tests.support.mounts import Run

pytestmark = pytest.mark.fuse

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users: needs root")

SETUP = (
    "os.mkdir('dir'); os.mkdir('full'); open('full/x', 'w').close(); open('file', 'w').write('f')\n"
    "open('other', 'w').write('o'); os.symlink('file', 'link')\n"
)
TRY = """
def attempt(act):
    try: return repr(act())
    except OSError as e: return errno.errorcode[e.errno]
"""
RENAME = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(old, new, flags):
    if libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
        e = ctypes.get_errno(); raise OSError(e, os.strerror(e))
"""

REFUSALS = {
    "mkdir-over-file": ("os.mkdir('file')", "EEXIST"),
    "mkdir-over-dir": ("os.mkdir('dir')", "EEXIST"),
    "mkdir-nowhere": ("os.mkdir('none/new')", "ENOENT"),
    "mkdir-in-file": ("os.mkdir('file/new')", "ENOTDIR"),
    "create-nowhere": ("open('none/new', 'w')", "ENOENT"),
    "create-over-dir": ("os.open('dir', os.O_CREAT | os.O_WRONLY)", "EISDIR"),
    "symlink-over": ("os.symlink('x', 'file')", "EEXIST"),
    "fifo-over": ("os.mkfifo('link')", "EEXIST"),
    "unlink-none": ("os.unlink('none')", "ENOENT"),
    "unlink-dir": ("os.unlink('dir')", "EISDIR"),
    "rmdir-file": ("os.rmdir('file')", "ENOTDIR"),
    "rmdir-link": ("os.rmdir('link')", "ENOTDIR"),
    "rmdir-full": ("os.rmdir('full')", "ENOTEMPTY"),
    "rmdir-dot": ("os.rmdir('dir/.')", "EINVAL"),
    "rename-none": ("os.rename('none', 'new')", "ENOENT"),
    "rename-nowhere": ("os.rename('file', 'none/new')", "ENOENT"),
    "rename-file-over-dir": ("os.rename('file', 'dir')", "EISDIR"),
    "rename-dir-over-file": ("os.rename('dir', 'file')", "ENOTDIR"),
    "rename-dir-over-full": ("os.rename('dir', 'full')", "ENOTEMPTY"),
    "rename-into-itself": ("os.rename('full', 'full/below')", "EINVAL"),
    "rename-noreplace": ("renameat2('file', 'other', 1)", "EEXIST"),
    "rename-exchange-none": ("renameat2('file', 'none', 2)", "ENOENT"),
    "rename-whiteout": ("renameat2('file', 'new', 4)", "EINVAL"),
    "link": ("os.link('file', 'new')", "EPERM"),
    "link-over": ("os.link('file', 'other')", "EEXIST"),
    "our-name": ("os.mkdir('@new')", "EROFS"),
    "long-create": ("open('n' * 256, 'w')", "ENAMETOOLONG"),
    "long-mkdir": ("os.mkdir('n' * 256)", "ENAMETOOLONG"),
    "long-rename": ("os.rename('file', 'n' * 256)", "ENAMETOOLONG"),
    "long-symlink": ("os.symlink('x', 'n' * 256)", "ENAMETOOLONG"),
    "open-dir-for-writing": ("os.open('dir', os.O_WRONLY)", "EISDIR"),
    "truncate-dir": ("os.truncate('dir', 0)", "EISDIR"),
    "truncate-none": ("os.truncate('none', 0)", "ENOENT"),
    "xattr-none": ("os.removexattr('file', 'user.none')", "ENODATA"),
    "xattr-replace-none": ("os.setxattr('file', 'user.a', b'', os.XATTR_REPLACE)", "ENODATA"),
    "xattr-trusted": ("os.setxattr('file', 'trusted.a', b'')", "ENOTSUP"),
    "xattr-security": ("os.setxattr('file', 'security.a', b'')", "ENOTSUP"),
    "write-a-read-only-file": ("os.write(os.open('file', os.O_RDONLY), b'x')", "EBADF"),
}


def test_refusals_have_their_errno(run: Run) -> None:
    """Each is the errno that a local filesystem gives, and leaves the folder as it was."""
    code = "".join(
        f"print({name!r}, attempt(lambda: {act}))\n" for name, (act, _) in REFUSALS.items()
    )
    seen = run(f"{SETUP}{TRY}{RENAME}{code}print(sorted(os.listdir()), open('file').read())")

    *lines, left = seen.splitlines()
    expected = {name: number for name, (_, number) in REFUSALS.items()}
    if os.geteuid():
        expected["xattr-trusted"] = "EPERM"
    assert dict(line.split(" ", 1) for line in lines) == expected
    assert left == "['dir', 'file', 'full', 'link', 'other'] f"


def test_long_names_and_any_bytes_are_names(run: Run) -> None:
    """255 bytes, spaces, line feeds and what is no UTF-8 come back as they were given."""
    seen = run(
        "names = [b'n' * 255, b'a b', b'new\\nline', b'caf\\xe9', 'h\\u00e4 \\u4e2d'.encode()]\n"
        "for n in names: open(n, 'wb').write(n)\n"
        "print(sorted(os.listdir(b'.')) == sorted(names), all(open(n, 'rb').read() == n for n in names))\n"
        "for n in names: os.rename(n, n[:200] + b'.x'); os.unlink(n[:200] + b'.x')\n"
        "print(os.listdir())"
    )

    assert seen.splitlines() == ["True True", "[]"]


def test_rename_moves_and_replaces(run: Run) -> None:
    """A file or folder keeps its inode, and what it replaces is gone."""
    seen = run(
        f"{SETUP}"
        "i = os.stat('file').st_ino; os.rename('file', 'dir/moved'); os.rename('dir/moved', 'other')\n"
        "print(os.stat('other').st_ino == i, open('other').read(), sorted(os.listdir()))\n"
        "os.rename('full', 'dir'); print(os.listdir('dir'), os.path.exists('full'))\n"
        "os.rename('other', 'other'); os.rename('other', 'file'); print(open('link').read())"
    )

    assert seen.splitlines() == ["True f ['dir', 'full', 'link', 'other']", "['x'] False", "f"]


def test_exchange_loses_nothing(run: Run, how: str) -> None:
    """Two names change places, a file with a folder too; a transport that cannot says EINVAL."""
    seen = run(
        f"{SETUP}{TRY}{RENAME}"
        "f = os.open('file', os.O_RDWR)\n"
        "print(attempt(lambda: renameat2('full', 'file', 2)), attempt(lambda: renameat2('other', 'new', 1)))\n"
        "print(os.listdir('file') if os.path.isdir('file') else '-', sorted(os.listdir()))\n"
        "os.write(f, b'!'); print(os.pread(f, 9, 0), open('full').read() if os.path.isfile('full') else '-')"
    )

    if mounts.knows_rename_flags(how):
        names = "['dir', 'file', 'full', 'link', 'new']"
        assert seen.splitlines() == ["None None", f"['x'] {names}", "b'!' !"]
    else:
        names = "['dir', 'file', 'full', 'link', 'other']"
        assert seen.splitlines() == ["EINVAL EINVAL", f"- {names}", "b'!' -"]


def test_open_files_follow_a_renamed_folder(run: Run) -> None:
    """What is open below it goes on, under the new path and by descriptor."""
    seen = run(
        "os.mkdir('d'); f = os.open('d/a', os.O_CREAT | os.O_RDWR); os.write(f, b'one ')\n"
        "os.rename('d', 'e'); os.write(f, b'two '); open('e/a', 'a').write('three')\n"
        "os.mkdir('d'); open('d/a', 'w').write('another')\n"
        "print(os.pread(f, 99, 0), open('e/a').read(), os.fstat(f).st_size, open('d/a').read())"
    )

    assert seen == "b'one two three' one two three 13 another"


def test_names_that_come_and_go_show_at_once(run: Run) -> None:
    """A name that was missed exists once it is made, and is missed again once it is gone."""
    seen = run(
        "for n in range(3):\n"
        "    print(os.path.exists('a'), os.path.exists('d/x'), end=' ')\n"
        "    open('a', 'w').write(str(n)); os.mkdir('d'); os.symlink('..', 'd/x')\n"
        "    print(open('a').read(), os.listdir('d'), end=' ')\n"
        "    os.unlink('a'); os.unlink('d/x'); os.rmdir('d')\n"
        "print(os.listdir())"
    )

    assert seen == "".join(f"False False {n} ['x'] " for n in range(3)) + "[]"


def test_many_names_are_made_listed_and_removed(run: Run) -> None:
    """500 files and folders, listed and removed while they are listed, as `rm -r` does."""
    seen = run(
        "import shutil, subprocess\n"
        "for n in range(250): open(f'f{n}', 'w').close(); os.makedirs(f'd{n}/below')\n"
        "print(len(os.listdir()), len({e.inode() for e in os.scandir('.')}))\n"
        "subprocess.run(['rm', '-r', *os.listdir()], check=True); print(os.listdir())\n"
        "for n in range(250): open(f'f{n}', 'w').close()\n"
        "for e in os.scandir('.'): os.unlink(e)\n"
        "print(os.listdir())"
    )

    assert seen.splitlines() == ["500 500", "[]", "[]"]


def test_pipe_and_links_work(run: Run) -> None:
    """A pipe carries bytes, a socket and a link are what they are; devices are EPERM."""
    seen = run(
        f"{TRY}"
        "import socket, stat, subprocess\n"
        "os.mkfifo('p'); child = subprocess.Popen(['sh', '-c', 'echo through > p'])\n"
        "print(open('p').read().strip(), child.wait(), stat.S_ISFIFO(os.stat('p').st_mode))\n"
        "socket.socket(socket.AF_UNIX).bind('s'); print(stat.S_ISSOCK(os.stat('s').st_mode))\n"
        "os.symlink('nowhere/' + 'x' * 3000, 'l'); print(len(os.readlink('l')), os.lstat('l').st_size)\n"
        "os.mknod('m', 0o600); print(stat.S_ISREG(os.stat('m').st_mode))\n"
        "print(attempt(lambda: os.mknod('d', stat.S_IFCHR | 0o600, os.makedev(1, 3))))"
    )

    assert seen.splitlines() == ["through 0 True", "True", "3008 3008", "True", "EPERM"]


def test_mode_and_times_are_kept(run: Run) -> None:
    """chmod, by name and descriptor; times to the nanosecond, before 1970 too, one of them or the present."""
    seen = run(
        "open('a', 'w').write('x'); os.mkdir('d'); f = os.open('a', os.O_RDWR)\n"
        "os.chmod('a', 0o4751); os.chmod('d', 0o1777); print(oct(os.stat('a').st_mode), oct(os.stat('d').st_mode))\n"
        "os.fchmod(f, 0o600); print(oct(os.fstat(f).st_mode))\n"
        "os.utime('a', ns=(1_500_000_000_123_456_789, -7)); s = os.stat('a'); print(s.st_atime_ns, s.st_mtime_ns)\n"
        "os.utime(f, ns=(5, 1_073_741_823)); s = os.stat('a'); print(s.st_atime_ns, s.st_mtime_ns)\n"
        "import ctypes\n"
        "class Spec(ctypes.Structure): _fields_ = [('s', ctypes.c_long), ('ns', ctypes.c_long)]\n"
        "libc = ctypes.CDLL(None, use_errno=True); OMIT, NOW = (1 << 30) - 2, (1 << 30) - 1\n"
        "def times(*ns): assert libc.utimensat(-100, b'a', (Spec * 2)(*((0, n) for n in ns)), 0) == 0\n"
        "times(9, OMIT); s = os.stat('a'); print(s.st_atime_ns, s.st_mtime_ns)\n"
        "before = time.time(); times(OMIT, NOW); s = os.stat('a'); print(s.st_atime_ns, abs(s.st_mtime - before) < 5)\n"
        "os.utime('d', ns=(1, 2)); print(os.stat('d').st_mtime_ns, s.st_ctime >= before - 1)"
    )

    assert seen.splitlines() == [
        "0o104751 0o41777",
        "0o100600",
        "1500000000123456789 -7",
        "5 1073741823",
        "9 1073741823",
        "9 True",
        "2 True",
    ]


def test_times_follow_changes(run: Run) -> None:
    """A write moves a file's mtime, a name its folder's; both move ctime."""
    seen = run(
        "open('a', 'w').close(); os.mkdir('d'); os.utime('a', ns=(1, 1)); os.utime('d', ns=(1, 1))\n"
        "f = os.open('a', os.O_WRONLY); os.write(f, b'x'); print(os.fstat(f).st_mtime_ns > 1); os.close(f)\n"
        "print(os.stat('a').st_mtime_ns > 1)\n"
        "for act in (lambda: open('d/x', 'w').close(), lambda: os.rename('d/x', 'd/y'), lambda: os.unlink('d/y'),\n"
        "            lambda: os.mkdir('d/z'), lambda: os.rmdir('d/z')):\n"
        "    os.utime('d', ns=(1, 1)); act(); print(os.stat('d').st_mtime_ns > 1, end=' ')"
    )

    assert seen.split() == ["True"] * 7


@as_root
def test_owner_changes(run: Run) -> None:
    """chown sets what it names and leaves what is -1; links themselves too."""
    seen = run(
        "open('a', 'w').close(); os.symlink('a', 'l')\n"
        "os.chown('a', 7, 8); os.chown('a', -1, 9); s = os.stat('a'); print(s.st_uid, s.st_gid)\n"
        "os.chown('a', 10, -1); s = os.stat('a'); print(s.st_uid, s.st_gid)\n"
        "os.lchown('l', 3, 4); print(os.lstat('l').st_uid, os.stat('a').st_uid)"
    )

    assert seen.splitlines() == ["7 9", "10 9", "3 10"]


def test_attributes_of_the_user_are_kept(run: Run) -> None:
    """Set, replaced, listed, removed; any bytes, none at all, and as many as fit."""
    seen = run(
        f"{TRY}"
        "open('a', 'w').close(); os.mkdir('d')\n"
        "for n in 'ad': os.setxattr(n, 'user.x', b'\\0\\xff\\n'); os.setxattr(n, 'user.none', b'')\n"
        "print([(os.getxattr(n, 'user.x'), os.getxattr(n, 'user.none'), sorted(os.listxattr(n))) for n in 'ad'])\n"
        "print(attempt(lambda: os.setxattr('a', 'user.x', b'', os.XATTR_CREATE)))\n"
        "os.setxattr('a', 'user.x', b'2', os.XATTR_REPLACE); print(os.getxattr('a', 'user.x'))\n"
        "os.setxattr('a', 'user.big', b'v' * 60000); print(len(os.getxattr('a', 'user.big')))\n"
        "os.removexattr('a', 'user.x'); print(sorted(os.listxattr('a')), attempt(lambda: os.getxattr('a', 'user.x')))"
    )

    one = "(b'\\x00\\xff\\n', b'', ['user.none', 'user.x'])"
    assert seen.splitlines() == [
        f"[{one}, {one}]",
        "EEXIST",
        "b'2'",
        "60000",
        "['user.big', 'user.none'] ENODATA",
    ]


def test_folder_that_is_open_can_go(run: Run, how: str) -> None:
    """A removed folder takes no new names, and its open listing ends. libfuse knows no path for it."""
    seen = run(
        f"{TRY}"
        "os.mkdir('d'); f = os.open('d', os.O_RDONLY); os.rmdir('d')\n"
        "print(attempt(lambda: os.listdir(f)))\n"
        "print(attempt(lambda: os.open('x', os.O_CREAT | os.O_WRONLY, dir_fd=f)))"
    )

    listed, made = seen.splitlines()
    assert listed in (("ENOENT", "ESTALE") if how.startswith("libfuse") else ("[]",))
    assert made == "ENOENT"


def test_programs_that_change_many_things_work(run: Run) -> None:
    """tar, cp -a, mv, sed -i and an atomic save do what they do elsewhere."""
    seen = run(
        "import subprocess\n"
        "def sh(c): subprocess.run(['sh', '-ec', c], check=True)\n"
        "sh('mkdir -p s/a/b; for n in 1 2 3; do echo $n > s/a/$n; ln -s ../$n s/a/b/l$n; done; chmod 640 s/a/1')\n"
        "sh('touch -d 2001-02-03 s/a/2; cp -a s c; tar cf t.tar s; mkdir x; tar xf t.tar -C x')\n"
        "sh('diff -r s c; diff -r s x/s; mv c y; sed -i s/1/one/ y/a/1; cat y/a/1')\n"
        "print(oct(os.stat('x/s/a/1').st_mode), os.stat('x/s/a/2').st_mtime == os.stat('s/a/2').st_mtime)\n"
        "sh('echo saved > .tmp; mv .tmp y/a/1; cat y/a/1; rm -r s x y t.tar; ls -A')",
        timeout_s=60,
    )

    assert seen.splitlines() == ["one", "0o100640 True", "saved"]


def test_room_is_told(run: Run) -> None:
    """statfs has the filesystem's numbers."""
    assert (
        run("s = os.statvfs('.'); print(s.f_bsize, s.f_bfree, s.f_namemax)")
        == f"4096 {1 << 27} 255"
    )
