"""What changed is seen at once, though the kernel was told to believe its cache for an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import mounts

pytestmark = pytest.mark.fuse

FILES = {"files": {"doc": "old", "other": "same"}, "ttl_s": 3600.0}


def test_new_content_is_seen_after_its_notice(mountpoint: Path) -> None:
    """A name that leads to a new node shows the new size and the new bytes."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        before = mounts.run(["cat", mountpoint / "doc"], mountpoint=mountpoint).out
        server.ask("replace", path="doc", text="brand new")
        server.ask("flush")
        size = mounts.run(["stat", "-c", "%s", mountpoint / "doc"], mountpoint=mountpoint).out
        after = mounts.run(["cat", mountpoint / "doc"], mountpoint=mountpoint).out

    assert (before, size, after) == ("old", "9\n", "brand new")


def test_without_a_notice_the_kernel_believes_itself(mountpoint: Path) -> None:
    """The proof that the notice is what does it: without one, an hour's time-out is believed."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        mounts.run(["ls", "-l", mountpoint], mountpoint=mountpoint)
        server.ask("remove", path="doc", notify=False)
        ran = mounts.run(["stat", mountpoint / "doc"], mountpoint=mountpoint)

    assert ran.status == 0


def test_removed_name_goes_and_new_name_comes(mountpoint: Path) -> None:
    """Listings and look-ups follow, negative entries included."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        mounts.run(["ls", mountpoint], mountpoint=mountpoint)
        missing = mounts.run(["stat", mountpoint / "fresh"], mountpoint=mountpoint).status
        server.ask("remove", path="doc")
        server.ask("add", path="fresh", text="here")
        server.ask("flush")
        names = mounts.run(["ls", mountpoint], mountpoint=mountpoint).out.split()
        gone = mounts.run(["stat", mountpoint / "doc"], mountpoint=mountpoint).status
        fresh = mounts.run(["cat", mountpoint / "fresh"], mountpoint=mountpoint).out

    assert missing == 1
    assert sorted(names) == ["fresh", "other"]
    assert (gone, fresh) == (1, "here")


def test_attributes_follow_and_pages_stay(mountpoint: Path) -> None:
    """A notice about attributes alone shows the new time and reads nothing again."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        mounts.run(["cat", mountpoint / "doc"], mountpoint=mountpoint)
        reads = server.ask("calls")["read"]
        server.ask("touch", path="doc", mtime_ns=5_000_000_000)
        server.ask("flush")
        time = mounts.run(["stat", "-c", "%Y", mountpoint / "doc"], mountpoint=mountpoint).out
        mounts.run(["cat", mountpoint / "doc"], mountpoint=mountpoint)
        again = server.ask("calls")["read"]

    assert time == "5\n"
    assert again == reads


def test_times_before_1970_are_shown(mountpoint: Path) -> None:
    """Negative seconds are times like others."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        server.ask("touch", path="doc", mtime_ns=-1_500_000_000)
        server.ask("flush")
        ran = mounts.python(
            "print(os.stat(argv[0]).st_mtime_ns)", mountpoint / "doc", mountpoint=mountpoint
        )

    assert ran.out == "-1500000000\n"


def test_deleted_file_knows_it(mountpoint: Path) -> None:
    """A program that has a deleted file open sees that it has no name left."""
    code = (
        "f = os.open(argv[0], os.O_RDONLY); print(os.fstat(f).st_nlink, flush=True)\n"
        "sys.stdin.readline(); print(os.readlink(f'/proc/self/fd/{f}').endswith('(deleted)'))"
    )
    with (
        mounts.mounted(mountpoint, "MemoryTree", FILES) as server,
        mounts.client(code, mountpoint / "doc") as holder,
    ):
        links = holder.line()
        server.ask("remove", path="doc")
        server.ask("flush")
        holder.say("go")
        deleted = holder.line()

    assert (links, deleted) == ("1", "True")


def test_notices_do_not_wait_for_readers(mountpoint: Path) -> None:
    """A notice about a node with an unanswered read is queued at once, and requests go on."""
    with (
        mounts.mounted(mountpoint, "conformance") as server,
        mounts.client("open(argv[0]).read()", mountpoint / "never"),
    ):
        mounts.eventually(lambda: server.state()["waiting"])
        server.ask("touch", path="never", mtime_ns=1)
        server.ask("replace", path="hello.txt", text="still served")
        served = mounts.run(["cat", mountpoint / "hello.txt"], mountpoint=mountpoint).out
        mounts.abort(server.connection)

    assert served == "still served"


def test_libfuse_follows_within_its_short_memory(mountpoint: Path) -> None:
    """The transport that cannot tell the kernel anything shows changes within a few seconds."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES, transport="libfuse") as server:
        mounts.run(["cat", mountpoint / "doc"], mountpoint=mountpoint)
        server.ask("replace", path="doc", text="brand new")

        def seen() -> bool:
            return mounts.run(["cat", mountpoint / "doc"], mountpoint=mountpoint).out == "brand new"

        mounts.eventually(seen, timeout_s=5, what="the new content")


def test_listing_when_its_notice_comes_before_its_answer_then_is_read_again(
    mountpoint: Path,
) -> None:
    """Names that were read before a change, and told after its notice, are not what the kernel keeps."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        server.ask("hold")
        with mounts.client("print(os.listdir(argv[0]))", mountpoint) as reader:
            mounts.eventually(lambda: server.ask("holding"))
            server.ask("add", path="fresh", text="here", entry=False)
            server.ask("flush")
            server.ask("release")
            before = reader.line()
        after = mounts.run(["ls", mountpoint], mountpoint=mountpoint).out.split()
        reads = server.ask("calls")["readdir"]
        again = mounts.run(["ls", mountpoint], mountpoint=mountpoint).out.split()
        kept = server.ask("calls")["readdir"] == reads

    assert before == "['doc', 'other']"
    assert after == again == ["doc", "fresh", "other"]
    assert kept


def test_listing_when_all_is_distrusted_then_is_read_again(mountpoint: Path) -> None:
    """A change that nobody was told of shows once the kernel is told to ask about everything."""
    with mounts.mounted(mountpoint, "MemoryTree", FILES) as server:
        before = mounts.run(["ls", mountpoint], mountpoint=mountpoint).out.split()
        server.ask("add", path="fresh", text="here", notify=False)
        believed = mounts.run(["ls", mountpoint], mountpoint=mountpoint).out.split()
        server.ask("everything")
        server.ask("flush")
        after = mounts.run(["ls", mountpoint], mountpoint=mountpoint).out.split()

    assert before == believed == ["doc", "other"]
    assert after == ["doc", "fresh", "other"]
