"""kill -9 of the daemon and of workers, at each step: the restart ends what was begun, and leaves nothing.

The daemon here runs jobs only, with a stub for a worker; its processes, folders and rows are the real ones.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store
from syndd.schedule import pool
from tests.support.source import ROOT

pytestmark = pytest.mark.crash

S = JobState
POINTS = [
    "leased", "data.before", "data.after", "index.before", "index.after", "finish.before", "finish.after",
]  # fmt: skip
PATIENCE_S = 60.0


class Place:
    """A home of jobs, and the daemons that run there one after the other."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.started: list[subprocess.Popen[bytes]] = []

    def claim(self, subject: str, **arguments: object) -> JobId:
        store = Store(self.root / "state.db")
        try:
            claim = Queue(store).claim("preprocess", subject, arguments, workflow_key=subject)
            return claim.job.id
        finally:
            store.close()

    def jobs(self) -> list[Job]:
        store = Store(self.root / "state.db")
        try:
            return Queue(store).all()
        finally:
            store.close()

    def newest(self, job: str) -> Job:
        store = Store(self.root / "state.db")
        try:
            return Queue(store).newest(job)
        finally:
            store.close()

    def start(self, point: str = "") -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", "tests.support.job_daemon", str(self.root), point],
                cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process

    def run(self, point: str = "") -> int:
        """Until it ends; its exit status."""
        return self.start(point).wait(PATIENCE_S)

    def log(self) -> str:
        return (self.root / "log").read_text()

    def come(self, check: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not check():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def processes(self) -> list[int]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = f"{pool.MARK}={self.root}/".encode() in (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marked and state not in "ZX":
                found.append(int(folder.name))
        return found

    def check(self, *subjects: str) -> None:
        """Everything is made, and nothing else is there."""
        for subject in subjects:
            assert "data" == (self.root / "made" / f"{subject}.data").read_text()
            assert "index" == (self.root / "made" / f"{subject}.index").read_text()
        assert not [job for job in self.jobs() if job.state in (S.RUNNING, S.PENDING)]
        assert [] == list((self.root / "work").iterdir())
        assert [] == self.processes()

    def tries(self) -> Counter[str]:
        return Counter((self.root / "made" / "tries").read_text().split())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@pytest.mark.req("S1-34", "S1-36")
@pytest.mark.parametrize("point", POINTS)
def test_daemon_that_is_killed_at_a_point_is_followed_by_one_that_ends_the_job(place, point):
    """Completed, or had again; stages that were recorded are not made again."""
    job = place.claim("x")
    assert -signal.SIGKILL == place.run(point), place.log()
    before = place.newest(job)
    place.come(lambda: not place.processes())
    assert 0 == place.run(), place.log()
    place.check("x")
    end = place.newest(job)

    assert S.COMPLETED is end.state
    if point == "finish.after":
        assert (job, 1) == (end.id, len(place.jobs()))
    else:
        assert S.RUNNING is before.state
        first = next(j for j in place.jobs() if j.id == job)
        assert (S.FAILED, Failure.LEASE_LOST, end.id, 2) == (
            first.state, first.failure, first.superseded_by, end.attempt,
        )  # fmt: skip
    # What lay there already, recorded or not yet, was found.
    assert {"x.data": 1, "x.index": 1} == place.tries()


@pytest.mark.req("S1-40")
@pytest.mark.parametrize("stage", ["data", "index"])
def test_daemon_that_is_killed_takes_its_workers_with_it(place, stage):
    """Also while they work; the next one begins at once, without waiting for the lease."""
    job = place.claim("x", slow=True)
    daemon = place.start()
    if stage == "index":
        place.come((place.root / "gate.data").exists)
        (place.root / "gate").touch()
    place.come((place.root / f"gate.{stage}").exists)
    daemon.kill()
    daemon.wait(10)
    place.come(lambda: not place.processes())
    (place.root / "gate").touch()
    began = time.monotonic()
    assert 0 == place.run(), place.log()

    assert time.monotonic() - began < 30  # half of a lease
    place.check("x")
    assert S.COMPLETED is place.newest(job).state


@pytest.mark.parametrize("stage", ["data", "index"])
def test_worker_that_is_killed_is_followed_by_another_attempt(place, stage):
    """Which begins with the stage that is missing."""
    job = place.claim("x", slow=True)
    daemon = place.start()
    if stage == "index":
        place.come((place.root / "gate.data").exists)
        (place.root / "gate").touch()
        place.come((place.root / "gate.index").exists)
    else:
        place.come((place.root / "gate.data").exists)
    told = json.loads((place.root / f"gate.{stage}").read_text())
    (place.root / "gate").unlink(missing_ok=True)
    try:
        os.kill(told["pid"], signal.SIGKILL)
    except ProcessLookupError:
        assert stage == "index"  # its last word was said already
    (place.root / "gate").touch()
    assert 0 == daemon.wait(PATIENCE_S), place.log()
    place.check("x")

    assert S.COMPLETED is place.newest(job).state
    assert 1 == place.tries()["x.data"]


def test_many_jobs_survive_one_kill_after_the_other(place):
    """Each daemon gets some way; at the end everything is made once."""
    names = [f"j{n}" for n in range(6)]
    for name in names:
        place.claim(name)
    for point in ("data.after", "index.before", "leased", "finish.before"):
        place.run(point)
    assert 0 == place.run(), place.log()

    place.check(*names)
    assert {f"{n}.{stage}": 1 for n in names for stage in ("data", "index")} == place.tries()
