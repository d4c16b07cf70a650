"""Bytes written through a real mount are the file's, in every way that a file can be written."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import fsx, mounts
from tests.support.mounts import SCRATCH, Run

pytestmark = pytest.mark.fuse

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="acts as several users: needs root")

# Python's own mmap keeps the file open.
MAP = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
class Map:
    def __init__(self, fd, size=4096):
        at = libc.mmap(None, ctypes.c_size_t(size), 3, 1, fd, ctypes.c_long(0))
        self.failed = errno.errorcode[ctypes.get_errno()] if at == 2 ** 64 - 1 else ''
        self.at, self.size = ctypes.c_void_p(at), ctypes.c_size_t(size)
    def __getitem__(self, part):
        return ctypes.string_at(self.at.value + part.start, part.stop - part.start)
    def __setitem__(self, part, data):
        ctypes.memmove(self.at.value + part.start, data, len(data))
    def flush(self): assert libc.msync(self.at, self.size, 4) == 0
    def close(self): assert libc.munmap(self.at, self.size) == 0
"""


def test_new_file_holds_what_was_written(run: Run) -> None:
    """Size and bytes are there at once, by descriptor, by name and by another process."""
    seen = run(
        "f = os.open('a', os.O_CREAT | os.O_RDWR | os.O_EXCL, 0o640)\n"
        "print(os.write(f, b'hello'), os.fstat(f).st_size, os.stat('a').st_size)\n"
        "os.pwrite(f, b'!', 9); print(os.pread(f, 99, 0)); os.close(f)\n"
        "print(oct(os.stat('a').st_mode), open('a', 'rb').read(), os.listdir())"
    )
    later = run("print(open('a', 'rb').read())")

    held = "b'hello\\x00\\x00\\x00\\x00!'"
    assert seen.splitlines() == ["5 5 5", held, f"0o100640 {held} ['a']"]
    assert later == held


def test_create_of_a_file_that_is_there_opens_it(run: Run) -> None:
    """Without O_EXCL the bytes stay, with it the caller gets EEXIST, whoever knows of the file."""
    seen = run(
        "open('a', 'w').write('there')\n"
        "f = os.open('a', os.O_CREAT | os.O_RDWR); print(os.read(f, 9))\n"
        "try: os.open('a', os.O_CREAT | os.O_EXCL | os.O_WRONLY)\n"
        "except FileExistsError as e: print(e.errno == errno.EEXIST)"
    )

    assert seen.splitlines() == ["b'there'", "True"]


def test_truncation_in_every_way(run: Run) -> None:
    """O_TRUNC, truncate and ftruncate cut, and lengthen with zeros."""
    seen = run(
        "open('a', 'w').write('0123456789')\n"
        "os.truncate('a', 4); print(open('a').read(), os.stat('a').st_size)\n"
        "f = os.open('a', os.O_RDWR); os.ftruncate(f, 2); os.ftruncate(f, 4)\n"
        "print(os.pread(f, 9, 0), os.fstat(f).st_size)\n"
        "g = os.open('a', os.O_WRONLY | os.O_TRUNC); print(os.fstat(f).st_size, os.pread(f, 9, 0))\n"
        "os.write(g, b'new'); print(os.pread(f, 9, 0), os.stat('a').st_size)"
    )

    assert seen.splitlines() == ["0123 4", "b'01\\x00\\x00' 4", "0 b''", "b'new' 3"]


def test_appends_of_several_processes_stay_whole(run: Run) -> None:
    """Four processes with O_APPEND lose no line and tear none."""
    seen = run(
        "import subprocess\n"
        "code = '''import os, sys\n"
        "f = os.open('log', os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)\n"
        "for n in range(300): os.write(f, (sys.argv[1] * 50 + '%06d' % n + chr(10)).encode())\n"
        "'''\n"
        "four = [subprocess.Popen([sys.executable, '-S', '-c', code, c]) for c in 'abcd']\n"
        "print([p.wait() for p in four])\n"
        "lines = open('log').read().splitlines()\n"
        "whole = all(len(set(l[:50])) == 1 and len(l) == 56 for l in lines)\n"
        "print(len(lines), whole, len(set(lines)))"
    )

    assert seen.splitlines() == ["[0, 0, 0, 0]", "1200 True 1200"]


def test_appends_beside_another_writer_go_to_the_end(run: Run) -> None:
    """O_APPEND looks where the end is at each write; pwrite elsewhere does not move it."""
    seen = run(
        "a = os.open('f', os.O_CREAT | os.O_WRONLY | os.O_APPEND); b = os.open('f', os.O_RDWR)\n"
        "os.write(a, b'one'); os.pwrite(b, b'X', 0); os.pwrite(b, b'two', 3); os.write(a, b'three')\n"
        "print(os.pread(b, 99, 0))"
    )

    assert seen == "b'Xnetwothree'"


def test_sparse_file_is_long_and_small(run: Run) -> None:
    """A byte far out makes no blocks between; the hole reads as zeros."""
    seen = run(
        "f = os.open('a', os.O_CREAT | os.O_RDWR); os.pwrite(f, b'x', 1 << 33)\n"
        "s = os.fstat(f); print(s.st_size == (1 << 33) + 1, s.st_blocks < 1000)\n"
        "print(os.pread(f, 5, 1 << 32), os.pread(f, 9, 1 << 33))\n"
        "os.ftruncate(f, 0)"
    )

    assert seen.splitlines() == ["True True", "b'\\x00\\x00\\x00\\x00\\x00' b'x'"]


def test_fallocate_makes_room_and_holes(run: Run) -> None:
    """Mode 0 lengthens, KEEP_SIZE does not, PUNCH_HOLE zeroes; what nobody knows is EOPNOTSUPP."""
    seen = run(
        "import ctypes\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "def allocate(mode, offset, length):\n"
        "    done = libc.fallocate(f, mode, ctypes.c_long(offset), ctypes.c_long(length))\n"
        "    return os.fstat(f).st_size if done == 0 else errno.errorcode[ctypes.get_errno()]\n"
        "f = os.open('a', os.O_CREAT | os.O_RDWR); os.write(f, b'y' * 10000)\n"
        "print(allocate(0, 8000, 12000), allocate(1, 0, 100000), allocate(3, 4096, 4096))\n"
        "d = os.pread(f, 30000, 0); print(len(d), d.count(b'y'), d[4096:8192].count(0))\n"
        "print(allocate(8, 0, 4096), os.fstat(f).st_blocks > 150)"
    )

    assert seen.splitlines() == ["20000 20000 20000", "20000 5904 4096", "ENOTSUP True"]


def test_mapped_writes_are_the_files(run: Run, how: str) -> None:
    """A shared mapping shows what is written and writes what shows, also after its file is closed."""
    if how == "direct":
        assert (
            run(f"{MAP}f = os.open('a', os.O_CREAT | os.O_RDWR); print(Map(f).failed)") == "ENODEV"
        )
        return
    seen = run(
        f"{MAP}"
        "f = os.open('a', os.O_CREAT | os.O_RDWR); os.ftruncate(f, 8192)\n"
        "m = Map(f, 8192); m[4090:4100] = b'0123456789'; print(os.pread(f, 12, 4090))\n"
        "os.pwrite(f, b'X', 4091); print(m[4090:4093]); os.close(f)\n"
        "m[0:5] = b'later'; m.flush(); print(open('a', 'rb').read(6)); m[1:2] = b'o'; m.close()\n"
        "print(open('a', 'rb').read(6), os.stat('a').st_size)"
    )

    assert seen.splitlines() == [
        "b'0123456789\\x00\\x00'", "b'0X2'", "b'later\\x00'", "b'loter\\x00' 8192",
    ]  # fmt: skip


def test_readers_see_what_a_writer_has_written(run: Run) -> None:
    """While a file grows, each read gives a prefix of what is written, never less than was told."""
    seen = run(
        "import subprocess\n"
        "code = '''import os, sys\n"
        "f = os.open('a', os.O_CREAT | os.O_WRONLY)\n"
        "for n in range(2000): os.write(f, b'%07d ' % n); print(n, flush=True)\n"
        "'''\n"
        "writer = subprocess.Popen([sys.executable, '-S', '-c', code], stdout=subprocess.PIPE)\n"
        "whole = b''.join(b'%07d ' % n for n in range(2000)); good = 0\n"
        "for line in writer.stdout:\n"
        "    if int(line) % 20 == 0:\n"
        "        d = open('a', 'rb').read(); good += whole.startswith(d) and len(d) >= 8 * int(line) + 8\n"
        "print(good, open('a', 'rb').read() == whole)"
    )

    assert seen == "100 True"


def test_large_file_has_its_digest(run: Run) -> None:
    """64 MB in pieces of all sizes come back the same."""
    seen = run(
        "import hashlib, random\n"
        "r = random.Random(5); m = hashlib.md5(); n = 0\n"
        "with open('a', 'wb', buffering=0) as f:\n"
        "    while n < 64 << 20:\n"
        "        b = r.randbytes(r.choice((1, 4095, 65536, 1 << 20, 3 << 20))); m.update(b)\n"
        "        n += f.write(b)\n"
        "print(hashlib.md5(open('a', 'rb').read()).hexdigest() == m.hexdigest(), n == os.stat('a').st_size)",
        timeout_s=60,
    )

    assert seen == "True True"


def test_copies_within_the_mount(run: Run) -> None:
    """copy_file_range, sendfile and cp copy; no process is told that it cannot."""
    seen = run(
        "import shutil, subprocess\n"
        "open('a', 'wb').write(os.urandom(300_000)); a = os.open('a', os.O_RDONLY)\n"
        "b = os.open('b', os.O_CREAT | os.O_RDWR); n = 0\n"
        "while m := os.copy_file_range(a, b, 1 << 20, n, n): n += m\n"
        "c = os.open('c', os.O_CREAT | os.O_RDWR); k = 0\n"
        "while m := os.sendfile(c, a, k, 1 << 20): k += m\n"
        "subprocess.run(['cp', 'a', 'd'], check=True); shutil.copyfile('a', 'e')\n"
        "print([open(x, 'rb').read() == open('a', 'rb').read() for x in 'bcde'])"
    )

    assert seen == "[True, True, True, True]"


def test_unlinked_file_lives_until_it_is_closed(run: Run) -> None:
    """Read, written, cut, described and synced by descriptor; its name is free and its folder can go."""
    seen = run(
        "os.mkdir('d'); f = os.open('d/a', os.O_CREAT | os.O_RDWR); os.write(f, b'still')\n"
        "os.unlink('d/a'); print(os.listdir('d'), os.fstat(f).st_nlink)\n"
        "g = os.open('d/a', os.O_CREAT | os.O_EXCL | os.O_RDWR); os.write(g, b'other')\n"
        "os.pwrite(f, b'HERE', 5); os.ftruncate(f, 8); os.fchmod(f, 0o600); os.fsync(f)\n"
        "print(os.pread(f, 99, 0), os.fstat(f).st_size, oct(os.fstat(f).st_mode), os.pread(g, 99, 0))\n"
        "os.close(f); os.close(g); os.unlink('d/a'); os.rmdir('d'); print(os.listdir())"
    )

    assert seen.splitlines() == ["[] 0", "b'stillHER' 8 0o100600 b'other'", "[]"]


def test_file_that_was_replaced_keeps_its_bytes(run: Run) -> None:
    """Who has the target of a rename open reads and writes the old file, the name leads to the new."""
    seen = run(
        "open('a', 'w').write('old'); open('b', 'w').write('new')\n"
        "f = os.open('a', os.O_RDWR); os.rename('b', 'a'); os.pwrite(f, b'!', 3)\n"
        "print(os.pread(f, 9, 0), open('a').read(), os.listdir(), os.fstat(f).st_nlink)"
    )

    assert seen == "b'old!' new ['a'] 0"


def test_umask_is_taken_off_once(run: Run) -> None:
    """Files, folders and pipes get the mode that was asked for without the caller's umask."""
    seen = run(
        "os.umask(0o027); os.close(os.open('a', os.O_CREAT | os.O_WRONLY, 0o666)); os.mkdir('d')\n"
        "os.mkfifo('p'); os.umask(0); os.close(os.open('b', os.O_CREAT | os.O_WRONLY, 0o666))\n"
        "print([oct(os.stat(n).st_mode & 0o7777) for n in 'adpb'])"
    )

    assert seen == "['0o640', '0o750', '0o640', '0o666']"


@as_root
def test_file_belongs_to_who_made_it(run: Run) -> None:
    """uid and gid of the caller arrive; others are held off by the mode."""
    seen = run(
        "os.setegid(1234); os.seteuid(4321); open('a', 'w').close(); os.mkdir('d', 0o700)\n"
        "os.symlink('x', 'l'); os.mknod('n'); os.chmod('a', 0o600)\n"
        "print({(s.st_uid, s.st_gid) for s in map(os.lstat, 'adln')})\n"
        "os.seteuid(0); os.setegid(0); os.seteuid(1111)\n"
        "for act in (lambda: open('a'), lambda: open('a', 'w'), lambda: os.listdir('d'),\n"
        "            lambda: open('d/x', 'w'), lambda: os.chmod('a', 0o777), lambda: os.chown('a', 1, 1)):\n"
        "    try: act(); print('let in')\n"
        "    except OSError as e: print(errno.errorcode[e.errno])"
    )

    lines = seen.splitlines()
    assert lines[0] == "{(4321, 1234)}"
    assert lines[1:] == ["EACCES"] * 4 + ["EPERM"] * 2


@as_root
def test_set_id_bits_go_when_somebody_without_privilege_writes(run: Run) -> None:
    """A write, a truncation and a change of owner take them off; what root writes does not."""
    seen = run(
        "def mode(): return oct(os.stat('a').st_mode & 0o7777)\n"
        "open('a', 'w').write('program'); os.chmod('a', 0o6777)\n"
        "with open('a', 'r+') as f: f.write('P')\n"
        "told = [mode()]\n"
        "for act in ('write', 'truncate', 'trunc', 'chown'):\n"
        "    os.chmod('a', 0o6777)\n"
        "    if act == 'chown': os.chown('a', 5, 5)\n"
        "    else:\n"
        "        os.seteuid(4321)\n"
        "        if act == 'truncate': os.truncate('a', 3)\n"
        "        else:\n"
        "            f = os.open('a', os.O_WRONLY | (os.O_TRUNC if act == 'trunc' else 0))\n"
        "            if act == 'write': os.write(f, b'x')\n"
        "            os.close(f)\n"
        "        os.seteuid(0)\n"
        "    told.append(mode())\n"
        "os.chmod('a', 0o2767); os.seteuid(4321); open('a', 'r+').write('x'); told.append(mode())\n"
        "print(*told)"
    )

    assert seen == "0o6777 0o777 0o777 0o777 0o777 0o2767"


def test_temporary_file_without_a_name_is_refused(run: Run) -> None:
    """O_TMPFILE is EOPNOTSUPP, upon which programs make a named one."""
    seen = run(
        "try: os.open('.', os.O_TMPFILE | os.O_RDWR)\n"
        "except OSError as e: print(errno.errorcode[e.errno])\n"
        "import tempfile\n"
        "with tempfile.TemporaryFile(dir='.') as f: f.write(b'x'); f.seek(0); print(f.read())\n"
        "print(os.listdir())"
    )

    assert seen.splitlines() == ["ENOTSUP", "b'x'", "[]"]


def test_locks_hold_between_processes(run: Run) -> None:
    """flock and POSIX locks work as on a local file."""
    seen = run(
        "import fcntl, subprocess\n"
        "f = open('a', 'w'); fcntl.flock(f, fcntl.LOCK_EX); g = open('b', 'w'); fcntl.lockf(g, fcntl.LOCK_EX)\n"
        "code = '''import fcntl\n"
        "for n, lock in (('a', fcntl.flock), ('b', fcntl.lockf)):\n"
        "    try: lock(open(n, 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB); print('got')\n"
        "    except BlockingIOError: print('held')\n"
        "'''\n"
        "subprocess.run([sys.executable, '-S', '-c', code], check=True); f.close(); g.close()\n"
        "subprocess.run([sys.executable, '-S', '-c', code], check=True)"
    )

    assert seen.split() == ["held", "held", "got", "got"]


def test_flush_and_fsync_reach_the_filesystem(mountpoint: Path, way: dict[str, Any]) -> None:
    """Each close of a descriptor that could write is a flush, each fsync an fsync; readers flush nothing
    where the kernel can be told so."""
    with mounts.mounted(
        mountpoint, SCRATCH, {"folder": str(mountpoint.parent / "s")}, **way
    ) as server:
        mounts.told(
            "f = os.open(argv[0], os.O_CREAT | os.O_WRONLY); os.write(f, b'x'); g = os.dup(f)\n"
            "os.fsync(f); os.fdatasync(f); os.close(g); os.close(f)\n"
            "d = os.open(os.path.dirname(argv[0]), os.O_RDONLY); os.fsync(d)",
            mountpoint / "a",
            mountpoint=mountpoint,
        )
        mounts.eventually(lambda: server.state()["handles"] == 0)
        calls = server.ask("calls")
        mounts.told("open(argv[0]).read()", mountpoint / "a", mountpoint=mountpoint)
        after = server.ask("calls")
        left = server.ask("handles")

    counts = [calls[name] for name in ("opened", "flush", "fsync", "fsyncdir", "release")]
    assert counts == [1, 2, 2, 1, 1]
    if "transport" not in way:
        assert after["flush"] == 2
    assert left == {}


def test_passthrough_writes_without_the_daemon(mountpoint: Path) -> None:
    """With passthrough no WRITE and no READ comes, however the file is written; without, they do."""
    calls = {}
    for passthrough in (True, False):
        folder = mountpoint.parent / f"s{passthrough}"
        with mounts.mounted(
            mountpoint, SCRATCH, {"folder": str(folder)}, passthrough=passthrough
        ) as server:
            if passthrough and (why := server.ready["passthrough_off"]):
                pytest.skip(f"no passthrough: {why}")
            mounts.told(
                "f = os.open(argv[0], os.O_CREAT | os.O_RDWR); os.write(f, b'x' * 99999)\n"
                "os.pread(f, 99, 0); open(argv[0], 'a').write('more'); open(argv[0], 'r+').write('y')",
                mountpoint / "a",
                mountpoint=mountpoint,
            )
            calls[passthrough] = server.ask("calls")

    assert not {"write", "read"} & set(calls[True])
    assert calls[False]["write"] >= 3


def test_mapping_outlives_the_release_with_passthrough(mountpoint: Path) -> None:
    """A mapping of a passthrough file holds the backing file alone: the handle is released before it
    is gone, and what it writes then is in the backing file."""
    folder = mountpoint.parent / "s"
    with mounts.mounted(mountpoint, SCRATCH, {"folder": str(folder)}) as server:
        if why := server.ready["passthrough_off"]:
            pytest.skip(f"no passthrough: {why}")
        code = (
            f"{MAP}"
            "f = os.open(argv[0], os.O_CREAT | os.O_RDWR); os.ftruncate(f, 4096)\n"
            "m = Map(f, 4096); os.close(f); print('closed', flush=True); sys.stdin.readline()\n"
            "m[0:4] = b'late'; print('written', flush=True); sys.stdin.readline()"
        )
        with mounts.client(code, mountpoint / "a") as writer:
            assert writer.line() == "closed"
            mounts.eventually(lambda: server.ask("handles") == {}, what="the release")
            writer.say("go")
            assert writer.line() == "written"
            number = server.ask("node", path="a")
            held = (folder / str(number)).read_bytes()[:4]

    assert held == b"late"


@pytest.mark.parametrize("seed", [1, 2])
def test_random_operations_agree_with_memory(writable: Path, how: str, seed: int) -> None:
    """5 000 random reads, writes, mappings, truncations and allocations leave what they should."""
    _fsx(writable, how, 5_000, seed)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_random_operations_agree_with_memory(writable: Path, how: str) -> None:
    """The same, 100 000 times."""
    # Each answer of the deferred filesystem waits for a timer.
    _fsx(writable, how, 20_000 if how == "deferred" else 100_000, 11)


def _fsx(writable: Path, how: str, operations: int, seed: int) -> None:
    command = [sys.executable, "-S", str(Path(fsx.__file__)), str(writable / f"fsx{seed}")]
    # A file without page cache cannot be mapped shared.
    unmapped = ["unmapped"] if how == "direct" else []
    ran = mounts.run(
        [*command, str(operations), str(seed), *unmapped], mountpoint=writable, timeout_s=400
    )

    assert ran.out == f"{operations} operations\n", ran.out + ran.err
