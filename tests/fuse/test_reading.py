"""Reading through a real mount gives what the tree holds, over both transports."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse import trees
from tests.support import mounts

pytestmark = pytest.mark.fuse


@pytest.fixture(params=["kernel", "libfuse", "deferred"], scope="module")
def root(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Path]:
    """The conformance tree, mounted once per transport; `deferred` answers everything by Futures."""
    mountpoint = tmp_path_factory.mktemp("reading") / "m"
    mounts.mount_fusectl()
    how = {"transport": "libfuse"} if request.param == "libfuse" else {}
    arguments = {"defer_s": 0.003} if request.param == "deferred" else {}
    with mounts.mounted(mountpoint, "conformance", arguments, limit_s=240, **how):
        yield mountpoint


def client(code: str, *arguments: object, root: Path) -> str:
    ran = mounts.python(code, *[str(a) for a in arguments], mountpoint=root)
    assert ran.status == 0, ran.err
    return ran.out.rstrip("\n")


def failing(code: str, *arguments: object, root: Path) -> str:
    """The errno's name with which `code` fails."""
    wrapped = (
        "try:\n"
        + "".join(f"    {line}\n" for line in code.splitlines())
        + "except OSError as error: print(errno.errorcode[error.errno])\nelse: print('succeeded')"
    )
    return client(wrapped, *arguments, root=root)


def test_cat_gives_the_bytes(root: Path) -> None:
    """A file reads as its content."""
    ran = mounts.run(["cat", root / "hello.txt"], mountpoint=root)

    assert ran.out == "hello, world\n"


def test_stat_shows_what_the_tree_says(root: Path) -> None:
    """Mode, size, times, blocks and inode number arrive unchanged; the owner is the mount's."""
    told = client(
        "s = os.stat(argv[0]); print(oct(s.st_mode), s.st_size, s.st_mtime_ns, s.st_ctime_ns, "
        "s.st_nlink, s.st_uid == os.getuid(), s.st_blocks)",
        root / "hello.txt",
        root=root,
    )

    when = trees.WHEN_NS
    assert told == f"0o100644 13 {when} {when + 1} 1 True 1"


def test_reads_at_offsets_match(root: Path) -> None:
    """pread at any offset, across pages, and past the end gives exactly those bytes."""
    data = trees.pattern(3_000_000)
    offsets = [
        0,
        1,
        4095,
        4096,
        131_071,
        1_048_575,
        1_500_000,
        2_999_990,
        2_999_999,
        3_000_000,
        9**9,
    ]
    told = client(
        "import hashlib\nf = os.open(argv[0], os.O_RDONLY)\n"
        "for at in map(int, argv[1:]): print(hashlib.md5(os.pread(f, 300_001, at)).hexdigest())",
        root / "pattern",
        *offsets,
        root=root,
    )

    assert told.split() == [hashlib.md5(data[at : at + 300_001]).hexdigest() for at in offsets]


def test_dd_with_skip_matches(root: Path) -> None:
    """A tool that seeks reads the same."""
    ran = mounts.run(
        ["sh", "-c", f"dd if={root}/pattern bs=1000 skip=777 count=3 status=none | md5sum"],
        mountpoint=root,
    )

    expected = hashlib.md5(trees.pattern(3_000_000)[777_000:780_000]).hexdigest()
    assert ran.out.split()[0] == expected


def test_mmap_reads_the_same(root: Path) -> None:
    """A mapped file shows the same bytes, at the end too."""
    told = client(
        "import mmap, hashlib\nf = os.open(argv[0], os.O_RDONLY)\n"
        "m = mmap.mmap(f, 0, prot=mmap.PROT_READ)\n"
        "print(len(m), hashlib.md5(m[:]).hexdigest(), m[-1])",
        root / "pattern",
        root=root,
    )

    data = trees.pattern(3_000_000)
    assert told == f"3000000 {hashlib.md5(data).hexdigest()} {data[-1]}"


def test_direct_io_reads_the_same(root: Path) -> None:
    """A file that is read without the page cache gives its bytes."""
    ran = mounts.run(["cat", root / "direct-hello"], mountpoint=root)

    assert ran.out == "straight"


def test_empty_file_reads_empty(root: Path) -> None:
    """No bytes are no error."""
    ran = mounts.run(["cat", root / "empty"], mountpoint=root)

    assert (ran.status, ran.out) == (0, "")


def test_symlinks_lead_and_dangle(root: Path) -> None:
    """readlink gives the target; a target that is not there is ENOENT."""
    told = client(
        "print(os.readlink(argv[0] + '/link'), open(argv[0] + '/link').read().strip(), "
        "os.readlink(argv[0] + '/dangling'), os.path.exists(argv[0] + '/dangling'))",
        root,
        root=root,
    )

    assert told == "hello.txt hello, world nowhere False"


def test_xattrs_read_list_and_miss(root: Path) -> None:
    """Values with zero bytes and empty values arrive; a missing one is ENODATA; sizes can be probed."""
    told = client(
        "p = argv[0]\nprint(os.getxattr(p, 'user.synapse.id'), os.getxattr(p, 'user.binary'), "
        "os.getxattr(p, 'user.empty'), sorted(os.listxattr(p)))\n"
        "import ctypes; c = ctypes.CDLL(None, use_errno=True)\n"
        "print(c.getxattr(p.encode(), b'user.synapse.id', None, 0))\n"
        "b = ctypes.create_string_buffer(3)\n"
        "print(c.getxattr(p.encode(), b'user.synapse.id', b, 3), errno.errorcode[ctypes.get_errno()])\n"
        "print(c.listxattr(p.encode(), b, 3), errno.errorcode[ctypes.get_errno()])",
        root / "hello.txt",
        root=root,
    )

    assert told.splitlines() == [
        "b'syn123' b'\\x00\\xff\\n' b'' ['user.binary', 'user.empty', 'user.synapse.id']",
        "6",
        "-1 ERANGE",
        "-1 ERANGE",
    ]
    missing = failing("os.getxattr(argv[0], 'user.none')", root / "hello.txt", root=root)
    foreign = failing(
        "os.getxattr(argv[0], 'system.posix_acl_access')", root / "hello.txt", root=root
    )
    assert (missing, foreign) == ("ENODATA", "ENOTSUP")


def test_statfs_answers(root: Path) -> None:
    """df sees the numbers of the tree."""
    told = client(
        "s = os.statvfs(argv[0])\n"
        "print(s.f_bsize, s.f_blocks, s.f_bfree, s.f_namemax, s.f_files, s.f_ffree, s.f_favail)",
        root,
        root=root,
    )

    assert told == f"4096 {1 << 28} {1 << 27} 255 12345 678 678"


@pytest.mark.parametrize("name", ["nope", "folder/nope", "hello.txt/nope", "n" * 256])
def test_missing_names_fail(root: Path, name: str) -> None:
    """A name that is not there is ENOENT, below a file ENOTDIR, too long ENAMETOOLONG; twice alike."""
    expected = {"hello.txt/nope": "ENOTDIR", "n" * 256: "ENAMETOOLONG"}.get(name, "ENOENT")

    told = [failing("os.stat(argv[0])", root / name, root=root) for _ in range(2)]

    assert told == [expected] * 2


def test_long_and_foreign_names_read(root: Path) -> None:
    """255 bytes and any UTF-8 are names like others."""
    told = client(
        "print(open(argv[0] + '/' + 'n' * 255).read())\n"
        "print(open(argv[0] + '/h\\u00e4ndel \\u4e2d\\u6587 \\U0001f600').read())\n"
        "print(sum(1 for n in os.listdir(argv[0]) if len(os.fsencode(n)) == 255))",
        root,
        root=root,
    )

    assert told.splitlines() == ["a long name", "not ASCII", "1"]


def test_listing_shows_types_and_inodes(root: Path) -> None:
    """d_type and d_ino of a listing agree with stat; dots are there."""
    told = client(
        "e = {x.name: x for x in os.scandir(argv[0])}\n"
        "print(e['folder'].is_dir(follow_symlinks=False), e['link'].is_symlink(), "
        "e['hello.txt'].is_file(follow_symlinks=False))\n"
        "print(all(x.inode() == os.lstat(x.path).st_ino for x in e.values()))",
        root,
        root=root,
    )
    dots = mounts.run(["ls", "-a", root], mountpoint=root).out.split("\n")[:2]

    assert told.splitlines() == ["True True True", "True"]
    assert dots == [".", ".."]


CHANGES = {
    "create": "open(p + '/new', 'w')",
    "create-exclusive": "os.open(p + '/new', os.O_CREAT | os.O_EXCL | os.O_WRONLY)",
    "open-write": "os.open(p + '/hello.txt', os.O_WRONLY)",
    "open-both": "os.open(p + '/hello.txt', os.O_RDWR)",
    "open-append": "os.open(p + '/hello.txt', os.O_WRONLY | os.O_APPEND)",
    "open-truncate": "os.open(p + '/hello.txt', os.O_RDONLY | os.O_TRUNC)",
    "truncate": "os.truncate(p + '/hello.txt', 1)",
    "mkdir": "os.mkdir(p + '/new')",
    "mknod": "os.mknod(p + '/new')",
    "fifo": "os.mkfifo(p + '/new')",
    "symlink": "os.symlink('a', p + '/new')",
    "link": "os.link(p + '/hello.txt', p + '/new')",
    "unlink": "os.unlink(p + '/hello.txt')",
    "rmdir": "os.rmdir(p + '/folder')",
    "rename": "os.rename(p + '/hello.txt', p + '/new')",
    "rename-over": "os.rename(p + '/hello.txt', p + '/empty')",
    "chmod": "os.chmod(p + '/hello.txt', 0o600)",
    "chown": "os.chown(p + '/hello.txt', 1, 1)",
    "utime": "os.utime(p + '/hello.txt')",
    "setxattr": "os.setxattr(p + '/hello.txt', 'user.a', b'1')",
    "removexattr": "os.removexattr(p + '/hello.txt', 'user.empty')",
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_refused(root: Path, change: str) -> None:
    """Whatever would change the tree is EROFS, said by the filesystem itself."""
    told = failing(f"p = argv[0]; {CHANGES[change]}", root, root=root)

    assert told == "EROFS"


def test_reading_goes_on_after_refusals(root: Path) -> None:
    """A refused change leaves the tree as it was."""
    mounts.run(["touch", root / "hello.txt"], mountpoint=root)
    mounts.run(["rm", "-f", root / "hello.txt"], mountpoint=root)

    assert (
        client("print(open(argv[0]).read().strip())", root / "hello.txt", root=root)
        == "hello, world"
    )


def test_read_only_mount_is_refused_by_the_kernel(mountpoint: Path, transport: str) -> None:
    """With `read_only` a change is EROFS and no request."""
    with mounts.mounted(mountpoint, "conformance", transport=transport, read_only=True) as server:
        told = failing("open(argv[0] + '/new', 'w')", mountpoint, root=mountpoint)
        calls = server.ask("calls")

    assert told == "EROFS"
    assert not [name for name in calls if name.startswith("change")]


def test_large_folder_lists_whole(mountpoint: Path, transport: str) -> None:
    """10 000 names come once each, with the right sizes, through small and large buffers."""
    with mounts.mounted(mountpoint, "MemoryTree", {"wide": 10_000}, transport=transport):
        told = client(
            "names = os.listdir(argv[0]); print(len(names), len(set(names)))\n"
            "print(sum(e.stat().st_size for e in os.scandir(argv[0])))",
            mountpoint / "wide",
            root=mountpoint,
        )

    assert told.splitlines() == ["10000 10000", str(sum(n % 7 for n in range(10_000)))]


def test_folder_can_be_sought(mountpoint: Path) -> None:
    """telldir and seekdir come back to the same place, after a rewind too."""
    code = """
import ctypes
c = ctypes.CDLL(None)
c.opendir.restype = ctypes.c_void_p
c.readdir.restype = ctypes.c_void_p
c.telldir.restype = ctypes.c_long
for f in (c.readdir, c.rewinddir, c.telldir): f.argtypes = [ctypes.c_void_p]
c.seekdir.argtypes = [ctypes.c_void_p, ctypes.c_long]
def name(d):
    e = c.readdir(d)
    return ctypes.string_at(e + 19) if e else None
d = c.opendir(argv[0].encode())
first = [name(d) for _ in range(500)]
at = c.telldir(d)
then = [name(d) for _ in range(900)]
c.seekdir(d, at)
again = [name(d) for _ in range(900)]
c.rewinddir(d)
print(then == again, [name(d) for _ in range(500)] == first, first[:2])
"""
    with mounts.mounted(mountpoint, "MemoryTree", {"wide": 3000}):
        told = client(code, mountpoint / "wide", root=mountpoint)

    assert told == "True True [b'.', b'..']"


def test_entries_without_attributes_are_looked_up_on_demand(mountpoint: Path) -> None:
    """A listing whose sizes are not known yet shows its names without a look-up; stat asks."""
    with mounts.mounted(mountpoint, "MemoryTree", {"wide": 300, "attr_none": True}) as server:
        names = client("print(len(os.listdir(argv[0])))", mountpoint / "wide", root=mountpoint)
        listed = server.ask("calls").get("lookup", 0)
        client("[os.stat(e) for e in os.scandir(argv[0])]", mountpoint / "wide", root=mountpoint)
        statted = server.ask("calls")["lookup"] - listed

    assert (names, listed, statted) == ("300", 1, 300)


def test_deep_paths_resolve(mountpoint: Path, transport: str) -> None:
    """200 folders deep is still a path."""
    with mounts.mounted(mountpoint, "MemoryTree", {"deep": 200}, transport=transport):
        told = client(
            "print(open(argv[0] + '/deep' * 200 + '/bottom').read())", mountpoint, root=mountpoint
        )

    assert told == "far down"


def test_second_listing_costs_nothing(mountpoint: Path) -> None:
    """A folder that was listed is listed again from the kernel's cache, attributes included."""
    with mounts.mounted(mountpoint, "MemoryTree", {"wide": 1000}) as server:
        mounts.run(["ls", "-l", mountpoint / "wide"], mountpoint=mountpoint)
        before = server.ask("calls")
        mounts.run(["ls", "-l", mountpoint / "wide"], mountpoint=mountpoint)
        after = server.ask("calls")

    assert before["readdir"] == after["readdir"]
    assert before.get("lookup", 0) == after.get("lookup", 0)


def test_negative_names_are_remembered(mountpoint: Path) -> None:
    """A name that was not there is not asked for again within `negative_ttl_s`."""
    with mounts.mounted(mountpoint, "MemoryTree") as server:
        for _ in range(3):
            failing("os.stat(argv[0])", mountpoint / "nope", root=mountpoint)
        calls = server.ask("calls")

    assert calls["lookup"] == 1


def test_mount_shows_its_type(mountpoint: Path, transport: str) -> None:
    """mountinfo names the type fuse.synd."""
    with mounts.mounted(mountpoint, "MemoryTree", transport=transport):
        kinds = [
            line.split(" - ")[1].split()[0]
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if f" {mountpoint} " in line
        ]

    assert kinds == ["fuse.synd"]
