"""State and cache on one small disk: edits take the room of cached files, and what was taken away has bounds."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from synd.control import changes
from tests.fuse.e2e.conftest import MakeWorld
from tests.support.disks import mount_disk, unmount_disk
from tests.support.mounts import eventually
from tests.support.world import Remote, World, random_file

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

MIB = 1 << 20
WAYS: dict[str, dict[str, object]] = {
    "kernel": {},
    "cached": {"passthrough": "false"},
    "libfuse": {"transport": "libfuse"},
}
WRITE = """
import hashlib
data = bytes(range(256)) * 4096
with open(argv[0], 'wb', buffering=0) as f:
    for n in range(int(argv[1])):
        left = memoryview(n.to_bytes(4, 'big') + data[4:])
        while left:
            left = left[f.write(left):]
    os.fsync(f.fileno())
"""


class Shared:
    """A world on a disk of 48 MiB, half of it taken by cached files; nothing is sent until told."""

    def __init__(self, world: World, project: str) -> None:
        self.world = world
        self.project = project

    def at(self, name: str) -> str:
        return self.world.at("@id", self.project, name)

    def write(self, name: str, mib: int) -> str:
        """The errno of writing so many MiB."""
        return self.world.errno(WRITE, self.at(name), str(mib), timeout_s=60)

    @property
    def cached(self) -> int:
        return self.world.status()["cache"]["objects"]


@pytest.fixture(params=list(WAYS))
def shared(
    request: pytest.FixtureRequest, make: MakeWorld, server: Remote, tmp_path: Path
) -> Iterator[Shared]:
    options = dict(WAYS[request.param])
    folder = tmp_path / "files"
    for number in range(6):
        random_file(folder / f"{number}.bin", 4 * MIB, seed=number)
    project = server.seed(folder, f"Shared {request.param} {tmp_path.name}")
    world = make(server, up=False, upload_delay_s=0.1, **options)
    mount_disk(world.home, "size=48m")
    try:
        world.up()
        world.control.post(changes.PAUSE)
        made = Shared(world, project)
        for number in range(6):
            world.md5(made.at(f"{number}.bin"))
        eventually(lambda: made.cached == 6)
        yield made
    finally:
        world.close()
        unmount_disk(world.home)


def test_write_when_the_disk_is_full_of_cached_files_evicts_them(shared: Shared) -> None:
    """The writer sees no error; what it wrote is whole, and so is what is read again afterwards."""
    assert shared.write("new.bin", 30) == "ok"

    assert shared.cached < 6
    assert shared.world.text("stat", "-c", "%s", shared.at("new.bin")).strip() == str(30 * MIB)
    assert shared.world.text("head", "-c", "4", shared.at("new.bin")) == "\0\0\0\0"


def test_write_when_nothing_is_left_to_evict_is_enospc_and_loses_nothing(shared: Shared) -> None:
    """What was closed before is there and is sent once there is room; the daemon is the same."""
    pid = shared.world.daemon_pid()
    assert shared.write("safe.bin", 20) == "ok"
    digest = shared.world.md5(shared.at("safe.bin"))
    assert shared.write("much.bin", 60) == "ENOSPC"
    assert shared.cached == 0
    assert digest == shared.world.md5(shared.at("safe.bin"))
    subprocess.run(
        ["mount", "-o", "remount,size=300m", str(shared.world.home)], timeout=20, check=True
    )
    shared.world.text("rm", shared.at("much.bin"))
    shared.world.control.post(changes.RESUME)
    done = shared.world.synd("wait", "--timeout", "60", timeout_s=90)

    assert done.status == 0, f"{done.out}{done.err}\n{shared.world.log()[-3000:]}"
    assert digest == shared.world.remote.tree(shared.project)["safe.bin"].md5
    assert pid == shared.world.daemon_pid()


class TestRecoveryArea:
    """The daemon keeps its bounds by itself."""

    def listed(self, world: World) -> list[dict[str, Any]]:
        done = world.synd("restore", "--list", "--json")
        assert done.status == 0, done.err
        found: list[dict[str, Any]] = json.loads(done.out)["recovered"]
        return found

    def discard(self, world: World, path: str, text: str) -> None:
        world.text("sh", "-c", 'printf "$1" > "$2"', "sh", text, path)
        done = world.synd("discard", "--yes", path)
        assert done.status == 0, done.err

    def test_taken_bytes_over_the_bound_go_but_for_the_newest(
        self, make: MakeWorld, server: Remote
    ) -> None:
        """Soon after they were taken away, and again at the start of a daemon with another bound."""
        project = server.project("Taken")
        world = make(server, uploads="false", recovery_max_bytes=8 * 4096)
        for number in range(3):
            self.discard(world, world.at("@id", project, f"{number}.txt"), f"text {number}")
        assert [row["size"] for row in self.listed(world)] == [6, 6, 6]
        assert world.synd("down").status == 0
        world.env["SYND_RECOVERY_MAX_BYTES"] = "1"
        world.up()
        eventually(lambda: len(self.listed(world)) == 1)
        self.discard(world, world.at("@id", project, "3.txt"), "text 3")
        eventually(lambda: [row["path"][-5:] for row in self.listed(world)] == ["3.txt"])

        assert len(list(world.folders.recovered.iterdir())) == 1
