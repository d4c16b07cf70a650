"""A state folder on a disk that is really full: whoever writes is told, nothing acknowledged is lost."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.control import changes
from tests.support.crashing import die
from tests.support.disks import mount_disk, unmount_disk
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

SMALL_DISK = "size=24m"
LARGE_DISK = "size=200m"


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Full:
    """A world whose state folder is a disk of 24 MiB, with nothing sent until told."""

    def __init__(self, world: World, project: str, disk: Path) -> None:
        self.world = world
        self.project = project
        self.disk = disk
        self.where = world.at("@id", project)

    def fill(self) -> None:
        """Not a byte is left."""
        with (
            contextlib.suppress(OSError),
            open(self.disk / "ballast", "ab", buffering=0) as ballast,
        ):
            for size in (1 << 20, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        ballast.write(bytes(size))

    def make_room(self) -> None:
        (self.disk / "ballast").unlink(missing_ok=True)
        subprocess.run(
            ["mount", "-o", f"remount,{LARGE_DISK}", str(self.disk)], timeout=20, check=True
        )

    def errno(self, code: str) -> str:
        return self.world.errno(f"top = argv[0]\n{code}", self.where)

    def write(self, name: str, data: str) -> str:
        """The errno of writing a file; ok when its close was answered well."""
        return self.errno(
            f"with open(top + '/{name}', 'w') as f:\n    f.write({data!r})\n    f.flush()\n    os.fsync(f.fileno())"
        )

    def read(self, name: str) -> str:
        return self.world.text("cat", f"{self.where}/{name}")

    def send(self) -> dict[str, str | None]:
        """Path → md5 on the service, once everything is there."""
        self.world.control.post(changes.RESUME)
        done = self.world.synd("wait", "--timeout", "60", timeout_s=90)
        assert done.status == 0, f"{done.out}{done.err}\n{self.world.log()[-3000:]}"
        return {p: h.md5 for p, h in self.world.remote.tree(self.project).items()}


@pytest.fixture(params=["kernel", "libfuse"])
def full(request: pytest.FixtureRequest, tmp_path: Path, shared_server: Remote) -> Iterator[Full]:
    project = shared_server.project(f"Full {zlib.crc32(request.node.name.encode())}")
    shared_server.file(project, "a.txt", b"first a\n")
    shared_server.file(project, "c.txt", b"first c\n")
    world = World(
        tmp_path, shared_server, transport=request.param, upload_delay_s=0.1, delete_delay_s=0.1,
        request_concurrency=16, requests_per_minute=0, delete_hold_count=100_000,
        delete_hold_percent=100,
    )  # fmt: skip
    disk = world.folders.state
    mount_disk(disk, SMALL_DISK)
    try:
        world.up()
        world.control.post(changes.PAUSE)
        made = Full(world, project, disk)
        made.read("a.txt")
        made.read("c.txt")
        yield made
    finally:
        world.close()
        unmount_disk(disk)


def test_write_when_the_disk_is_full_is_told_and_what_was_closed_before_is_sent(full: Full) -> None:
    """ENOSPC while writing; with room again the same file can be written."""
    assert "ok" == full.write("safe.txt", "safe\n")
    assert "ENOSPC" == full.errno(
        "with open(top + '/big.bin', 'wb', buffering=0) as f:\n"
        "    for n in range(60):\n        f.write(bytes([n]) * 1048576)"
    )
    assert "safe\n" == full.read("safe.txt")
    full.make_room()

    assert "ok" == full.write("big.bin", "small\n")
    found = full.send()
    assert {"a.txt", "big.bin", "c.txt", "safe.txt"} == set(found)
    assert (md5_of(b"safe\n"), md5_of(b"small\n")) == (found["safe.txt"], found["big.bin"])


def test_changes_when_the_database_has_no_room_are_refused_whole(full: Full) -> None:
    """Create, overwrite, rename, delete: each is done or not, and says so; reading goes on."""
    assert "ok" == full.write("safe.txt", "safe\n")
    full.fill()
    refused = {
        "new.txt": full.write("new.txt", "new\n"),
        "a.txt": full.write("a.txt", "second a of more than nothing\n" * 500),
        "d": full.errno("os.mkdir(top + '/d')"),
        "moved.txt": full.errno("os.rename(top + '/c.txt', top + '/moved.txt')"),
    }
    assert set(refused.values()) <= {"ENOSPC", "ok"}, refused
    assert "ENOSPC" in refused.values()
    there = set(full.world.text("ls", full.where + "/").split())
    assert "safe\n" == full.read("safe.txt")
    full.make_room()

    shown = set(full.world.text("ls", full.where + "/").split())
    assert there == shown
    for name in ("d", "moved.txt"):
        assert (refused[name] == "ok") == (name in shown), (name, refused, shown)
    assert "ok" == full.write("after.txt", "after\n")
    assert "ok" == full.write("a.txt", "third a\n")
    found = full.send()
    assert md5_of(b"safe\n") == found["safe.txt"]
    assert md5_of(b"after\n") == found["after.txt"]
    assert md5_of(b"third a\n") == found["a.txt"]
    assert md5_of(b"first c\n") == found["moved.txt" if refused["moved.txt"] == "ok" else "c.txt"]
    if refused["new.txt"] == "ok":
        assert md5_of(b"new\n") == found["new.txt"]
    assert set(found) - {"new.txt"} == (shown | {"after.txt"}) - {"new.txt"}
    assert os.path.getsize(full.disk / "state.db") > 0


def test_daemon_when_killed_on_a_full_disk_starts_again_once_there_is_room(full: Full) -> None:
    """What was acknowledged before the disk was full is still there, and is sent."""
    assert "ok" == full.write("safe.txt", "safe\n")
    assert "ok" == full.write("a.txt", "second a\n")
    full.fill()
    told = full.write("new.txt", "new\n" * 4000)
    assert told in ("ENOSPC", "ok")
    die(full.world)
    full.make_room()
    full.world.up()

    found = full.send()
    assert md5_of(b"safe\n") == found["safe.txt"]
    assert md5_of(b"second a\n") == found["a.txt"]
    if told == "ok":
        assert md5_of(b"new\n" * 4000) == found["new.txt"]
