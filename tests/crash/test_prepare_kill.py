"""kill -9 of the worker and of the daemon at each edge of a stage: the whole artifact or none, and then all of it.

Real workers on a real file, over the daemon's own queue, pool and rows.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.cache.folder import Cache
from synd.ids import ContentKey
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.processors.base import Stage
from synd.store.artifacts import ArtifactRow, Artifacts
from synd.store.connect import Store
from syndd.schedule import pool
from syndd.schedule.known import VERSIONS
from tests.support.prepare_daemon import LEASE_S, source
from tests.support.readying import GENOMICS
from tests.support.source import ROOT

pytestmark = [pytest.mark.crash, pytest.mark.tools]

S = JobState
NAME = "unsorted.vcf"
EDGES = [f"worker.{stage}.{edge}" for stage in Stage for edge in ("begin", "made", "told")]
PATIENCE_S = 60.0
START_S = 10.0
"""A daemon of the tests has so long to start and to do the work of a moment, on a busy machine."""


class Home:
    """Where one daemon after the other prepares a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copy(GENOMICS / "variants" / NAME, root / NAME)
        self.file = source((root / NAME).read_bytes(), NAME)
        self.started: list[subprocess.Popen[bytes]] = []

    def run(self, *kill: str) -> int:
        """A daemon until it ends; its exit status."""
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-B", "-m", "tests.support.prepare_daemon", str(self.root), NAME, *kill],
                cwd=ROOT, stdout=log, stderr=log,
            )  # fmt: skip
        self.started.append(process)
        return process.wait(PATIENCE_S)

    def log(self) -> str:
        return (self.root / "log").read_text()

    def jobs(self) -> list[Job]:
        store = Store(self.root / "state.db")
        try:
            return Queue(store).all()
        finally:
            store.close()

    def artifacts(self) -> list[ArtifactRow]:
        """Those that are recorded; the bytes of each are whole."""
        assert self.file.md5 is not None
        store = Store(self.root / "state.db")
        try:
            rows = Artifacts(store).of_content(self.file.md5, VERSIONS)
        finally:
            store.close()
        objects = Cache(self.root / "cache").objects
        for row in rows:
            data = objects.path(ContentKey(row.content)).read_bytes()
            assert f"sha256:{hashlib.sha256(data).hexdigest()}" == row.digest, row
        return rows

    def processes(self) -> list[int]:
        """Of jobs, that live."""
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

    def gone(self) -> None:
        """Waits until no process of a job is left."""
        end = time.monotonic() + PATIENCE_S
        while self.processes():
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def check(self) -> None:
        """All is made and readable as a pair, and nothing else is there."""
        rows = {row.kind: row for row in self.artifacts()}
        assert {"data", "index"} == rows.keys()
        assert rows["index"].of_digest == rows["data"].digest
        told = json.loads((self.root / "pair.json").read_text())
        assert [rows["data"].digest, rows["index"].digest] == told
        assert [] == [job for job in self.jobs() if job.state in (S.RUNNING, S.PENDING)]
        assert [] == list((self.root / "cache/work").iterdir())
        assert [] == self.processes()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    found = Home(tmp_path)
    yield found
    for process in found.started:
        if process.poll() is None:
            process.kill()
        process.wait(10)
    for pid in found.processes():
        os.kill(pid, signal.SIGKILL)


def made_before(point: str) -> set[str]:
    """Stages that were told before a point."""
    _, stage, edge = point.split(".")
    stages = [str(one) for one in Stage]
    return set(stages[: stages.index(stage) + (edge == "told")])


@pytest.mark.req("S1-23", "S1-36", "S1-40")
@pytest.mark.parametrize("point", EDGES)
def test_worker_that_is_killed_at_a_point_is_followed_by_one_that_goes_on(
    home: Home, point: str
) -> None:
    """The next attempt makes what is missing of that very data; what was told is not made again."""
    assert 0 == home.run("worker", point), home.log()
    home.check()
    last, first = home.jobs()

    assert (S.FAILED, Failure.WORKER_DIED) == (first.state, first.failure)
    assert (S.COMPLETED, first.id) == (last.state, last.retry_of)
    told = {str(stage["stage"]) for stage in first.stages}
    assert made_before(point) >= told
    again = {str(stage["stage"]) for stage in last.stages}
    assert set() == again & told & {"data", "index"}
    assert {"data", "index"} <= again | told


@pytest.mark.req("S1-34", "S1-40")
@pytest.mark.parametrize("point", EDGES)
def test_daemon_that_is_killed_at_a_point_of_its_worker_is_followed_by_one_that_ends_the_job(
    home: Home, point: str
) -> None:
    """Within a lease; meanwhile there is the whole of an artifact, or nothing of it."""
    assert -signal.SIGKILL == home.run("daemon", point), home.log()
    home.gone()
    kinds = {row.kind for row in home.artifacts()}
    assert made_before(point) >= kinds
    began = time.monotonic()
    assert 0 == home.run(), home.log()

    assert time.monotonic() - began < LEASE_S + START_S
    home.check()
    last, first = home.jobs()
    assert (S.FAILED, Failure.LEASE_LOST) == (first.state, first.failure)
    assert (S.COMPLETED, first.id) == (last.state, last.retry_of)


@pytest.mark.req("S1-26")
@pytest.mark.parametrize("point", ["data.before", "index.before", "finish.before"])
def test_daemon_that_is_killed_before_it_records_leaves_bytes_that_nobody_counts_on(
    home: Home, point: str
) -> None:
    """The bytes may be in the cache already; without their row they were not made."""
    assert -signal.SIGKILL == home.run("queue", point), home.log()
    home.gone()
    expected = {"data.before": set(), "index.before": {"data"}}.get(point, {"data", "index"})
    assert expected == {row.kind for row in home.artifacts()}
    assert 0 == home.run(), home.log()

    home.check()
