"""Passthrough opens, cached opens, and both of one file: the kernel is never asked to mix them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from tests.fuse import trees
from tests.support import mounts

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="passthrough needs CAP_SYS_ADMIN"),
]

SIZE = 3_000_000
READ = "print(__import__('hashlib').md5(open(argv[0], 'rb').read()).hexdigest())"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with a file of 3 MB, and 50 small ones."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "big").write_bytes(trees.pattern(SIZE))
    for number in range(50):
        (folder / f"small{number}").write_bytes(b"%d" % number)
    return folder


def needs_passthrough(server: mounts.Server) -> None:
    why = server.ready["passthrough_off"]
    if why:
        pytest.skip(f"no passthrough: {why}")


def test_passthrough_reads_without_the_daemon(mountpoint: Path, source: Path) -> None:
    """A file opened with passthrough is read without one READ request; mmap too."""
    with mounts.mounted(mountpoint, "FolderTree", {"root": str(source)}) as server:
        needs_passthrough(server)
        ran = mounts.python(
            f"import mmap\n{READ}\nf = os.open(argv[0], os.O_RDONLY)\n"
            "m = mmap.mmap(f, 0, prot=mmap.PROT_READ); print(len(m[:]))",
            mountpoint / "big",
            mountpoint=mountpoint,
        )
        calls = server.ask("calls")

    assert ran.out.split() == [hashlib.md5(trees.pattern(SIZE)).hexdigest(), str(SIZE)]
    assert "read" not in calls


def test_switched_off_reads_through_the_cache(mountpoint: Path, source: Path) -> None:
    """Without passthrough the same opens are served by the filesystem."""
    with mounts.mounted(
        mountpoint, "FolderTree", {"root": str(source)}, passthrough=False
    ) as server:
        ran = mounts.python(READ, mountpoint / "big", mountpoint=mountpoint)
        calls = server.ask("calls")

    assert ran.out.strip() == hashlib.md5(trees.pattern(SIZE)).hexdigest()
    assert calls["read"] > 0
    assert server.ready["passthrough_off"]


@pytest.mark.parametrize("how", ["slice", "bytes"])
def test_files_read_the_same_however_they_are_served(
    mountpoint: Path, source: Path, how: str
) -> None:
    """Spliced slices and copied bytes are the file, its end and its small neighbours included."""
    with mounts.mounted(mountpoint, "FolderTree", {"root": str(source), "how": how}):
        ran = mounts.run(["diff", "-r", source, mountpoint], mountpoint=mountpoint)

    assert (ran.status, ran.out) == (0, "")


def test_slice_past_the_end_is_short(mountpoint: Path, source: Path) -> None:
    """A file that shrank under a slice gives what is there, and the reader an end."""
    with mounts.mounted(mountpoint, "FolderTree", {"root": str(source), "how": "slice"}) as server:
        mounts.run(["stat", mountpoint / "big"], mountpoint=mountpoint)
        os.truncate(source / "big", 1_000_000)
        ran = mounts.run(["cat", mountpoint / "big"], mountpoint=mountpoint)
        alive = mounts.run(["cat", mountpoint / "small7"], mountpoint=mountpoint)

    assert server.ready["closed"] == ""
    assert ran.status == 0
    assert alive.out == "7"


@pytest.mark.parametrize("first", ["passthrough", "bytes"])
def test_mixed_opens_never_fail(mountpoint: Path, source: Path, first: str) -> None:
    """While one mode is open the other is asked for: every open succeeds and reads right."""
    second = "bytes" if first == "passthrough" else "passthrough"
    with mounts.mounted(mountpoint, "FolderTree", {"root": str(source), "how": first}) as server:
        needs_passthrough(server)
        code = (
            "import hashlib\n"
            "a = open(argv[0], 'rb'); a.read(10)\nprint('opened', flush=True); sys.stdin.readline()\n"
            "b = open(argv[0], 'rb'); print(hashlib.md5(b.read()).hexdigest())\n"
            "a.seek(0); print(hashlib.md5(a.read()).hexdigest())\n"
            "a.close(); c = open(argv[0], 'rb'); print(hashlib.md5(c.read()).hexdigest())\n"
            "b.close(); c.close(); d = open(argv[0], 'rb'); print(hashlib.md5(d.read()).hexdigest())"
        )
        with mounts.client(code, mountpoint / "big") as reader:
            assert reader.line() == "opened"
            server.ask("how", how=second)
            reader.say("go")
            sums = [reader.line() for _ in range(4)]
        mounts.eventually(lambda: server.state()["handles"] == 0)

    assert sums == [hashlib.md5(trees.pattern(SIZE)).hexdigest()] * 4


def test_opens_from_many_processes_never_fail(mountpoint: Path, source: Path) -> None:
    """Opens and closes race, modes change under them: no EIO, and no handle is left."""
    with mounts.mounted(mountpoint, "FolderTree", {"root": str(source)}) as server:
        needs_passthrough(server)
        code = (
            "from concurrent.futures import ThreadPoolExecutor\n"
            "def read(n):\n"
            "    with open(argv[0], 'rb') as f: return len(f.read(100))\n"
            "with ThreadPoolExecutor(8) as pool: print(sum(pool.map(read, range(2000))))"
        )
        with mounts.client(code, mountpoint / "big") as reader:
            for number in range(40):
                server.ask("how", how=("bytes", "passthrough")[number % 2])
            total = reader.line()
        mounts.eventually(lambda: server.state()["handles"] == 0)

    assert total == "200000"


@pytest.mark.parametrize("transport_name", ["kernel", "libfuse"])
def test_stale_open_gets_the_new_content(mountpoint: Path, transport_name: str) -> None:
    """When the name leads to a newer content, the opener gets it and never notices; an earlier reader
    keeps the old bytes to the end."""
    files = {"doc": "old content"}
    with mounts.mounted(
        mountpoint, "MemoryTree", {"files": files, "ttl_s": 3600.0}, transport=transport_name
    ) as server:
        code = (
            "a = open(argv[0]); i = os.fstat(a.fileno()).st_ino; first = a.read(3)\n"
            "print(first, flush=True); sys.stdin.readline()\n"
            "b = open(argv[0]); print(b.read()); print(first + a.read())\n"
            "print(os.stat(argv[0]).st_ino == i)"
        )
        with mounts.client(code, mountpoint / "doc") as reader:
            reader.line()
            server.ask("replace", path="doc", text="new content!", notify=False)
            reader.say("go")
            told = [reader.line() for _ in range(3)]

    assert told == ["new content!", "old content", "True"]


def test_backing_ids_do_not_pile_up(mountpoint: Path, source: Path) -> None:
    """Each closed file gives its backing id back: the objects are not held open for ever."""
    with mounts.mounted(mountpoint, "FolderTree", {"root": str(source)}) as server:
        needs_passthrough(server)
        mounts.run(["sh", "-c", f"cat {mountpoint}/small* > /dev/null"], mountpoint=mountpoint)
        mounts.eventually(lambda: server.state()["handles"] == 0)
        left = [
            name
            for fd in os.listdir(f"/proc/{server.pid}/fd")
            if str(source) in (name := os.readlink(f"/proc/{server.pid}/fd/{fd}"))
        ]

    assert left == []
