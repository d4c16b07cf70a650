"""Tracked folders: what people do in an ordinary folder is on the service afterwards, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.mounts import eventually
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

SETTLED_S = 60


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Tracked:
    """A folder outside the mount, and the project that it is sent to."""

    def __init__(self, world: World, folder: Path, project: str) -> None:
        self.world = world
        self.folder = folder
        self.project = project

    def synd(self, *argv: str) -> Any:
        """The command's answer, which must be good."""
        done = self.world.synd(*argv, "--json")
        assert done.status == 0, f"{argv}: {done.out}{done.err}\n{self.world.log()[-3000:]}"
        return json.loads(done.out)

    def track(self) -> None:
        self.synd("track", str(self.folder), self.project)

    def status(self) -> dict[str, Any]:
        (found,) = self.synd("tracked")["tracked"]
        return dict(found)

    def settled(self) -> None:
        """Waits until the service has everything."""
        self.synd("wait", "--timeout", str(SETTLED_S))

    def held(self) -> dict[str, str | None]:
        """Path → md5 (None for folders) on the service."""
        return {path: what.md5 for path, what in self.world.remote.tree(self.project).items()}

    def here(self) -> dict[str, str | None]:
        """The same of the folder."""
        return {
            str(path.relative_to(self.folder)): None if path.is_dir() else md5_of(path.read_bytes())
            for path in sorted(self.folder.rglob("*"))
        }

    def sh(self, script: str) -> None:
        """A shell script in the folder, which must succeed."""
        subprocess.run(["sh", "-ec", script], cwd=self.folder, timeout=60, check=True)


@pytest.fixture(scope="module")
def world(ground: Path, shared_server: Remote) -> Iterator[World]:
    one = World(
        ground / "tracking", shared_server, upload_delay_s=0.1, delete_delay_s=0.2, freshness_s=1,
        request_concurrency=16, requests_per_minute=0, delete_hold_count=10,
        delete_hold_window_s=2,
    )  # fmt: skip
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture
def tracked(world: World, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Tracked]:
    """A folder with two files and a folder, and an empty project; tracked by the tests themselves."""
    folder = tmp_path / "results"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "a.txt").write_text("a\n")
    (folder / "top.csv").write_text("x,y\n1,2\n")
    name = f"Tracked {abs(hash(request.node.nodeid)) % 10**9}"
    one = Tracked(world, folder, world.remote.project(name))
    yield one
    if os.path.exists(folder):
        world.synd("untrack", str(folder))


def test_tracked_folder_when_used_is_the_same_on_the_service(tracked: Tracked) -> None:
    """What was in it goes first; then new, changed, moved and removed things."""
    tracked.track()
    tracked.settled()
    assert tracked.here() == tracked.held()
    assert ("watching", 2) == (tracked.status()["state"], tracked.status()["files"])
    before = {path: what.id for path, what in tracked.world.remote.tree(tracked.project).items()}

    tracked.sh(
        """echo more >> top.csv; mkdir -p deep/er; echo new > deep/er/n.txt; mv run ran; rm -f none
        printf x > .hidden.swp; echo 1 > tmp; mv tmp renamed.txt; touch empty.txt"""
    )
    tracked.settled()
    wanted = {p: m for p, m in tracked.here().items() if p not in (".hidden.swp", "empty.txt")}
    assert wanted == tracked.held()
    after = {path: what.id for path, what in tracked.world.remote.tree(tracked.project).items()}
    assert (before["run"], before["run/a.txt"]) == (after["ran"], after["ran/a.txt"])
    assert before["top.csv"] == after["top.csv"]

    tracked.sh("rm -r deep; rm renamed.txt")
    tracked.settled()
    assert {"ran", "ran/a.txt", "top.csv"} == set(tracked.held())


def test_tracked_folder_shows_in_the_mount_at_once(tracked: Tracked) -> None:
    """The mount does not wait for the service to tell what was sent from here."""
    tracked.world.synd("pause")
    try:
        tracked.track()
        where = tracked.world.at("@id", tracked.project, "run", "a.txt")
        eventually(
            lambda: tracked.world.run("cat", where).out == "a\n",
            timeout_s=30,
            what="the file in the mount",
        )
        assert {} == tracked.held()
    finally:
        tracked.world.synd("resume")
    tracked.settled()

    assert tracked.here() == tracked.held()


def test_tracked_file_when_saved_by_an_editor_is_one_new_version(tracked: Tracked) -> None:
    """Written beside it and renamed over it, with a backup: the entity stays, and nothing else is sent."""
    tracked.track()
    tracked.settled()
    entity = tracked.world.remote.tree(tracked.project)["top.csv"]
    tracked.sh("cp top.csv top.csv~; echo saved > .top.csv.tmp; mv .top.csv.tmp top.csv")
    tracked.settled()
    now = tracked.world.remote.tree(tracked.project)

    assert (entity.id, 2, md5_of(b"saved\n")) == (
        now["top.csv"].id, now["top.csv"].version, now["top.csv"].md5,
    )  # fmt: skip
    assert {"run", "run/a.txt", "top.csv"} == set(now)


def test_tracked_file_while_it_is_being_written_is_not_sent(tracked: Tracked) -> None:
    """Half a file is nobody's version: it goes once it is closed."""
    tracked.track()
    tracked.settled()
    with open(tracked.folder / "slow.bin", "wb", buffering=0) as file:
        for number in range(8):
            file.write(bytes([number]) * 100_000)
            assert "slow.bin" not in tracked.held()
            tracked.synd("status")
    tracked.settled()
    sent = tracked.world.remote.tree(tracked.project)["slow.bin"]

    assert (1, md5_of((tracked.folder / "slow.bin").read_bytes())) == (sent.version, sent.md5)


def test_ignored_files_are_never_sent(tracked: Tracked) -> None:
    """By the syntax of gitignore, in `.syndignore`."""
    (tracked.folder / ".syndignore").write_text("*.log\n/scratch/\n!keep.log\n")
    tracked.sh(
        "echo 1 > a.log; echo 2 > keep.log; mkdir -p scratch run/scratch; echo 3 > scratch/x"
    )
    tracked.sh("echo 4 > run/scratch/y; ln -s .. run/loop; ln -s /etc/passwd out")
    tracked.track()
    tracked.settled()
    held = set(tracked.held())

    assert {"keep.log", "run/scratch/y", "top.csv", "run/a.txt"} <= held
    assert not {"a.log", "scratch", "scratch/x", "run/loop", "out"} & held


def test_changes_while_the_daemon_is_down_are_found_when_it_is_up(tracked: Tracked) -> None:
    """By a comparison with what was known, moves among them."""
    tracked.track()
    tracked.settled()
    before = tracked.world.remote.tree(tracked.project)
    done = tracked.world.synd("down")
    assert done.status == 0, done.err
    tracked.sh("echo while-down > new.txt; mv run/a.txt run/moved.txt; echo z >> top.csv")
    tracked.world.up()
    tracked.settled()
    after = tracked.world.remote.tree(tracked.project)

    assert tracked.here() == tracked.held()
    assert before["run/a.txt"].id == after["run/moved.txt"].id


def test_folder_that_is_gone_deletes_nothing(tracked: Tracked) -> None:
    """A disk that is not there is no wish to delete; the files are compared again when it is back."""
    tracked.track()
    tracked.settled()
    held = tracked.held()
    away = tracked.folder.with_name("away")
    tracked.folder.rename(away)
    found = eventually(
        lambda: (s := tracked.status())["state"] == "missing" and s,
        timeout_s=30,
        what="the folder to be missed",
    )
    assert found["reason"]
    assert held == tracked.held()
    (away / "back.txt").write_text("back\n")
    away.rename(tracked.folder)
    eventually(lambda: "back.txt" in tracked.held(), timeout_s=60, what="the new file")

    assert tracked.here() == tracked.held()


def test_many_removed_files_wait_for_a_yes(tracked: Tracked) -> None:
    """More than the limit at once are held, shown by `synd status`, and go when approved."""
    many = tracked.folder / "many"
    many.mkdir()
    for number in range(30):
        (many / f"{number}.txt").write_text(f"{number}\n")
    tracked.track()
    tracked.settled()
    shutil.rmtree(many)
    eventually(
        lambda: tracked.synd("status")["pending"]["held"] > 0, timeout_s=30, what="held deletes"
    )
    assert 31 == len([p for p in tracked.held() if p.startswith("many")])
    tracked.synd("approve", "--all")
    tracked.settled()

    assert tracked.here() == tracked.held()


def test_wait_and_down_when_a_scan_holds_deletes_say_that_they_are_not_sent(
    tracked: Tracked,
) -> None:
    """What was removed while nobody looked waits for a yes: neither is done before it."""
    many = tracked.folder / "many"
    many.mkdir()
    for number in range(15):
        (many / f"{number}.txt").write_text(f"{number}\n")
    tracked.track()
    tracked.settled()
    assert tracked.world.synd("down").status == 0
    shutil.rmtree(many)
    tracked.world.up()
    mend = f"`synd approve {tracked.folder}`"
    waited = tracked.world.synd("wait", "--timeout", "60")
    assert (65, True) == (waited.status, mend in waited.out), waited
    assert not tracked.synd("status")["safe_to_stop"]
    ended = tracked.world.synd("down")
    assert (75, True) == (ended.status, mend in ended.out), ended
    tracked.world.up()
    assert tracked.world.synd("wait", "--timeout", "60").status == 65
    tracked.synd("approve", str(tracked.folder))
    # The guard of the mount has the last word on what the scan lets go.
    eventually(
        lambda: tracked.synd("status")["pending"]["held"] > 0, timeout_s=30, what="held deletes"
    )
    tracked.synd("approve", "--all")
    tracked.settled()

    assert tracked.here() == tracked.held()


def test_untracked_folder_is_an_ordinary_one(tracked: Tracked) -> None:
    """Nothing is deleted by it, here or there, and nothing more is sent."""
    tracked.track()
    tracked.settled()
    held = tracked.held()
    tracked.synd("untrack", str(tracked.folder))
    tracked.sh("echo later > later.txt; rm top.csv")
    tracked.settled()

    assert held == tracked.held()
    assert [] == tracked.synd("tracked")["tracked"]


@pytest.mark.parametrize(
    ("folder", "target", "status", "said"),
    [
        ("none", "{project}", 66, "is no folder"),
        ("results", "syn99999999", 66, "syn99999999"),
        ("results/run", "{project}", 64, "tracked"),
        ("{mount}", "{project}", 64, "the mount"),
    ],
)
def test_folder_that_cannot_be_tracked_is_refused_with_the_reason(
    tracked: Tracked, folder: str, target: str, status: int, said: str
) -> None:
    """What overlaps, what is not there, and the mount itself."""
    tracked.track()
    where = tracked.folder.parent / folder.format(mount=tracked.world.mount)
    if folder == "results":
        tracked.synd("untrack", str(tracked.folder))
    done = tracked.world.synd("track", str(where), target.format(project=tracked.project))

    assert status == done.status, done.err
    assert said in done.err
