"""Jobs on a real Dask cluster: made there, taken here, and no worker that comes late changes anything."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from synd.ids import EntityId
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.model import FileVersion
from synd.processors.base import ArtifactKind, Caps, Tools
from synd.processors.sharing import SharedStore
from synd.testing import FakeRemote, FakeStorage
from syndd.schedule.dask import DaskPool
from syndd.schedule.known import Pair, Ready, Settings
from syndd.schedule.preparing import Preparer
from syndd.schedule.sources import Sources
from tests.support.dask_cluster import DaskCluster
from tests.support.genomics import FIXTURES, make, order
from tests.support.mounts import eventually
from tests.support.parts import Parts

distributed: Any = pytest.importorskip(
    "distributed", reason="Dask is not installed (pip install 'synd[dask]')"
)

pytestmark = [
    pytest.mark.slow,
    # What Dask itself leaves open when a scheduler is killed.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]

PATIENCE_S = 40.0
FILES = ("variants/unsorted.vcf", "align/unsorted.bam", "align/cut.bam", "intervals/unsorted.bed")


class GatedStorage(FakeStorage):
    """Answers nobody while its gate is shut."""

    def __init__(self, remote: FakeRemote) -> None:
        super().__init__(remote)
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = 0

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        self.waiting += 1
        self.gate.wait(PATIENCE_S)
        super()._answer(request)


class Site:
    """A daemon's parts whose jobs run on a cluster."""

    def __init__(
        self, root: Path, remote: FakeRemote, cluster: DaskCluster, url: str, *,
        lease_s: float = 3.0, wait_s: float = 20.0,
    ) -> None:  # fmt: skip
        self.root = root
        self.cluster = cluster
        self.parts = Parts(root / "home", remote)
        self.store = SharedStore(url)
        parts = self.parts
        self.dispatcher = parts.operations.dispatcher
        parts.call(lambda: self._build(parts, cluster, lease_s, wait_s))

    def _build(self, parts: Parts, cluster: DaskCluster, lease_s: float, wait_s: float) -> None:
        self.pool = DaskPool(
            self.root / "work", parts.pool.logs, cluster.address, self.store, "us",
            lease_s=lease_s, wait_s=wait_s, poll_s=0.2,
        )  # fmt: skip
        self.pool.clear()
        self.pool.start()

        async def head(file: FileVersion, size: int) -> bytes:
            return (FIXTURES / next(f for f in FILES if f.endswith(file.name))).read_bytes()[:size]

        self.preparer = Preparer(
            parts.store, parts.cache, Sources(parts.streams, parts.cache), self.dispatcher, self.pool,
            parts.tree.in_writer, Settings(Caps(tools=Tools.AUTO), jobs=8), read_head=head,
        )  # fmt: skip
        self.running = asyncio.get_running_loop().create_task(self.dispatcher.run())

    def file(self, name: str) -> FileVersion:
        return self.parts.row(f"P/{Path(name).name}").file()

    def want(self, name: str) -> Job:
        """The job that makes a file's artifacts."""
        file = self.file(name)
        found = self.parts.run(self.preparer.want(file, file.name))
        assert isinstance(found, Job)
        return found

    def job(self, job: Job) -> Job:
        return self.parts.queue.get(job.id)

    def ended(self, job: Job) -> Job:
        """The last attempt, once it has ended."""
        return self.parts.run(self.dispatcher.ended(job.id))

    def pair(self, name: str) -> Pair:
        file = self.file(name)
        return self.preparer.look(file, file.name)

    def log(self, job: Job) -> str:
        return self.pool.logs.read(job.id)[0]

    def begun(self, job: Job) -> tuple[str, int]:
        """Where it runs, once it does."""
        eventually(lambda: self.pool.where(job.id) is not None, timeout_s=PATIENCE_S)
        found = self.pool.where(job.id)
        assert found is not None
        return found

    def object(self, ready: Ready) -> bytes:
        return Path(self.parts.cache.objects.path(ready.content)).read_bytes()

    def vanish(self) -> None:
        """As a daemon that is killed: its connection is gone, and it says nothing."""

        async def cut() -> None:
            for task in self.pool.tasks:
                task.cancel()
            await asyncio.gather(*self.pool.tasks, return_exceptions=True)

        self.parts.run(cut())

    def close(self) -> None:
        async def end() -> None:
            self.running.cancel()
            await asyncio.gather(self.running, return_exceptions=True)
            await self.pool.close()

        self.parts.run(end())
        self.parts.close()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaskCluster]:
    """A scheduler; tests that take its workers away bring new ones."""
    with DaskCluster(tmp_path_factory.mktemp("dask")) as found:
        found.start_scheduler()
        yield found


@pytest.fixture
def workers(cluster: DaskCluster) -> None:
    """Two workers are there, or come."""
    while cluster.workers < 2:
        cluster.start_worker()


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def storage(remote: FakeRemote) -> Iterator[GatedStorage]:
    with GatedStorage(remote) as found:
        yield found
        found.gate.set()


@pytest.fixture
def project(remote: FakeRemote) -> EntityId:
    project = remote.project("P")
    for name in FILES:
        remote.file(project, Path(name).name, (FIXTURES / name).read_bytes())
    return project


@pytest.fixture
def site(
    tmp_path: Path, remote: FakeRemote, storage: GatedStorage, project: EntityId,
    cluster: DaskCluster, workers: None,
) -> Iterator[Site]:  # fmt: skip
    found = Site(tmp_path, remote, cluster, f"{tmp_path}/shared")
    try:
        eventually(lambda: len(found.pool.cluster.workers) == 2, timeout_s=PATIENCE_S)
        yield found
    finally:
        storage.gate.set()
        found.close()
    eventually(lambda: not cluster.children(), timeout_s=PATIENCE_S)


def stages(job: Job) -> list[object]:
    return [one["stage"] for one in job.stages]


def left_in(store: SharedStore) -> list[str]:
    """Attempts of which something lies in the shared store."""
    return store.names("us")


class TestRun:
    @pytest.mark.parametrize("name", ["variants/unsorted.vcf", "align/unsorted.bam"])
    def test_job_on_the_cluster_always_makes_what_this_machine_would(
        self, site: Site, name: str, tmp_path: Path
    ) -> None:
        """The same bytes, as objects of the cache; nothing of the attempt is left in between."""
        job = site.want(name)
        done = site.ended(job)
        here = make(order(FIXTURES / name, tmp_path / "here"))
        pair = site.pair(name)

        assert JobState.COMPLETED is done.state, site.log(job)
        assert ["fetch", "data", "index"] == stages(done)
        assert pair.data is not None
        assert pair.index is not None
        assert here.made(ArtifactKind.DATA).digest == pair.data.digest
        assert here.made(ArtifactKind.INDEX).digest == pair.index.digest
        assert here.data.read_bytes() == site.object(pair.data)
        assert "started on" in site.log(job)
        assert [] == left_in(site.store)
        assert [] == list((site.root / "work").iterdir())

    def test_url_of_the_source_never_shows_in_what_dask_keeps(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """It carries the right to read the file: neither log nor task holds it."""
        job = site.want("intervals/unsorted.bed")

        assert JobState.COMPLETED is site.ended(job).state, site.log(job)
        assert storage.url not in site.cluster.log()

    def test_content_that_is_broken_always_fails_as_it_does_here(self, site: Site) -> None:
        """With its class of failure, for good."""
        done = site.ended(site.want("align/cut.bam"))
        refused = site.preparer.refused(site.file("align/cut.bam"), "cut.bam")

        assert (JobState.FAILED, Failure.SOURCE_TRUNCATED) == (done.state, done.failure)
        assert 1 == done.attempt
        assert refused is not None

    def test_data_that_is_stored_when_the_index_is_gone_is_not_made_again(self, site: Site) -> None:
        """It travels to the worker, which indexes those very bytes."""
        name = "variants/unsorted.vcf"
        site.ended(site.want(name))
        first = site.pair(name)
        assert first.data is not None
        assert first.index is not None
        site.parts.cache.objects.path(first.index.content).unlink()
        job = site.want(name)
        done = site.ended(job)
        second = site.pair(name)

        assert JobState.COMPLETED is done.state, site.log(job)
        assert ["index"] == stages(done)
        assert first == second

    def test_more_jobs_than_workers_when_asked_for_wait_their_turn(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """In the queue, where they can be seen and cancelled, and not in Dask's."""
        storage.gate.clear()
        jobs = [site.want(name) for name in FILES[:2]]
        for job in jobs:
            site.begun(job)
        third = site.want("intervals/unsorted.bed")
        assert JobState.PENDING is site.job(third).state
        storage.gate.set()

        assert {JobState.COMPLETED} == {site.ended(job).state for job in (*jobs, third)}


class TestWorkers:
    @pytest.mark.req("S1-34")
    def test_worker_killed_in_the_middle_when_another_is_there_is_replaced(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """The attempt fails, nothing of it lives on, and the next one completes on the other worker."""
        storage.gate.clear()
        job = site.want("variants/unsorted.vcf")
        worker, pid = site.begun(job)
        eventually(lambda: storage.waiting, timeout_s=PATIENCE_S)
        site.cluster.kill_worker(pid)
        eventually(lambda: site.job(job).state is JobState.FAILED, timeout_s=PATIENCE_S)
        storage.gate.set()
        done = site.ended(job)

        assert Failure.WORKER_DIED is site.job(job).failure
        assert (JobState.COMPLETED, 2) == (done.state, done.attempt), site.log(done)
        assert worker in site.log(job)
        assert worker not in site.log(done)
        assert site.pair("variants/unsorted.vcf").index is not None
        assert [] == left_in(site.store)

    @pytest.mark.req("S1-35")
    @pytest.mark.announces("job.late_report")
    def test_worker_that_slept_through_its_lease_when_it_wakes_changes_nothing(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """Its child ends, its files go, and the result is that of the other worker."""
        storage.gate.clear()
        job = site.want("align/unsorted.bam")
        _, pid = site.begun(job)
        eventually(lambda: storage.waiting, timeout_s=PATIENCE_S)
        site.cluster.freeze_worker(pid)
        try:
            eventually(lambda: site.job(job).state is JobState.FAILED, timeout_s=PATIENCE_S)
            storage.gate.set()
            done = site.ended(job)
            before = site.pair("align/unsorted.bam")
        finally:
            site.cluster.thaw_worker(pid)
        eventually(lambda: not site.cluster.children(), timeout_s=PATIENCE_S)
        eventually(lambda: not left_in(site.store), timeout_s=PATIENCE_S)

        assert Failure.LEASE_LOST is site.job(job).failure
        assert JobState.COMPLETED is done.state, site.log(done)
        assert before == site.pair("align/unsorted.bam")

    @pytest.mark.req("S1-35")
    @pytest.mark.announces("job.late_report")
    def test_report_of_a_replaced_attempt_always_is_refused(
        self, site: Site, storage: GatedStorage, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Whatever it says that it made, under the job's own name or none that is known."""
        storage.gate.clear()
        job = site.want("intervals/unsorted.bed")
        site.begun(job)
        forged = {
            "event": "stage_done", "stage": "data", "kind": "data", "file": "data.gz",
            "digest": "sha256:00", "size": 1, "left": {}, "nonce": "of another life",
        }  # fmt: skip
        caplog.set_level(logging.WARNING)
        with distributed.Client(site.cluster.address, set_as_default=False) as client:
            client.log_event(site.pool.cluster.topic, {**forged, "job": "no such job"})
            client.log_event(site.pool.cluster.topic, {**forged, "job": job.id})
            eventually(lambda: "job.late_report" in caplog.text, timeout_s=PATIENCE_S)
        assert [] == stages(site.job(job))
        storage.gate.set()

        assert (JobState.COMPLETED, 1) == (site.ended(job).state, site.ended(job).attempt)


class TestEnd:
    @pytest.mark.req("S1-37")
    def test_cancelled_job_always_ends_on_the_cluster_too(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """Its process is gone, its folder and its files in the store as well."""
        storage.gate.clear()
        job = site.want("variants/unsorted.vcf")
        site.begun(job)
        eventually(site.cluster.children, timeout_s=PATIENCE_S)
        done = site.parts.run(site.dispatcher.cancel(job.id))
        eventually(lambda: not site.cluster.children(), timeout_s=PATIENCE_S)

        assert JobState.CANCELLED is done.state
        assert [] == left_in(site.store)
        assert [] == list((site.root / "work").iterdir())

    @pytest.mark.req("S1-41")
    def test_daemon_that_stops_always_takes_its_jobs_off_the_cluster(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """They wait for the next start."""
        storage.gate.clear()
        job = site.want("variants/unsorted.vcf")
        site.begun(job)
        eventually(site.cluster.children, timeout_s=PATIENCE_S)
        assert 1 == site.parts.run(site.dispatcher.drain(0.0))
        eventually(lambda: not site.cluster.children(), timeout_s=PATIENCE_S)

        assert JobState.CANCELLED is site.job(job).state
        assert JobState.PENDING is site.parts.queue.newest(job.id).state

    def test_daemon_that_vanishes_always_ends_its_jobs_within_a_lease(
        self, site: Site, storage: GatedStorage
    ) -> None:
        """Nobody says so to the workers: they hear nothing any more."""
        storage.gate.clear()
        job = site.want("variants/unsorted.vcf")
        site.begun(job)
        eventually(site.cluster.children, timeout_s=PATIENCE_S)
        site.vanish()

        eventually(lambda: not site.cluster.children(), timeout_s=PATIENCE_S)


class TestAway:
    def test_store_that_cannot_be_written_always_is_told_as_such(
        self, site: Site, tmp_path: Path
    ) -> None:
        """And tried again."""
        (tmp_path / "shared").write_text("a file, and no folder")
        job = site.want("variants/unsorted.vcf")
        eventually(lambda: site.job(job).state is JobState.FAILED, timeout_s=PATIENCE_S)
        (tmp_path / "shared").unlink()
        done = site.ended(job)

        assert Failure.STORE_UNAVAILABLE is site.job(job).failure
        assert (JobState.COMPLETED, 2) == (done.state, done.attempt), site.log(done)

    @pytest.mark.req("S1-39")
    @pytest.mark.announces("dask.away")
    def test_scheduler_that_goes_when_it_is_back_does_what_is_left(
        self, tmp_path: Path, remote: FakeRemote, storage: GatedStorage, project: EntityId
    ) -> None:
        """Jobs wait in the queue while it is away; one that it took along fails as such, and is done anew."""
        with DaskCluster(tmp_path / "dask") as cluster:
            site = Site(tmp_path, remote, cluster, f"file://{tmp_path}/shared")
            try:
                job = site.want("variants/unsorted.vcf")
                eventually(lambda: site.pool.cluster.away, timeout_s=PATIENCE_S)
                assert JobState.PENDING is site.job(job).state
                storage.gate.clear()
                cluster.start_scheduler()
                cluster.start_worker()
                site.begun(job)
                eventually(lambda: storage.waiting, timeout_s=PATIENCE_S)
                cluster.kill_scheduler()
                eventually(lambda: site.job(job).state is JobState.FAILED, timeout_s=PATIENCE_S)
                eventually(lambda: not cluster.children(), timeout_s=PATIENCE_S)
                storage.gate.set()
                cluster.start_scheduler()
                cluster.start_worker()
                done = site.ended(job)

                assert Failure.NO_WORKER is site.job(job).failure
                assert (JobState.COMPLETED, 2) == (done.state, done.attempt), site.log(done)
            finally:
                storage.gate.set()
                site.close()

    @pytest.mark.announces("dask.away")
    def test_job_that_no_worker_takes_always_says_so(
        self, tmp_path: Path, remote: FakeRemote, storage: GatedStorage, project: EntityId
    ) -> None:
        """One asks, so that a cluster which grows by need does; the others wait in the queue."""
        with DaskCluster(tmp_path / "dask") as cluster:
            cluster.start_scheduler()
            site = Site(tmp_path, remote, cluster, f"file://{tmp_path}/shared", wait_s=1.0)
            try:
                job, second = (site.want(name) for name in FILES[:2])
                eventually(lambda: "Dask worker" in site.job(job).note, timeout_s=PATIENCE_S)
                assert JobState.RUNNING is site.job(job).state
                assert JobState.PENDING is site.job(second).state
                eventually(lambda: site.job(job).state is JobState.FAILED, timeout_s=PATIENCE_S)

                assert Failure.NO_WORKER is site.job(job).failure
            finally:
                site.close()
