"""Jobs that wait for a change are taken up when it comes: once, and not without it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from synd.config import Config
from synd.errors import NotFound, StageFailed
from synd.ids import EntityId, JobId
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store
from synd.store.entities import Change
from synd.testing import FakeClock
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.revival import ROOM_BYTES_LEAST, Revival, marks

F = Failure
ME = "me"
FILE = EntityId(7)


class Bench:
    """A queue, and circumstances that a test changes."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "state.db")
        self.clock = FakeClock()
        self.queue = Queue(self.store, self.clock)
        self.marks = {F.TOOL_MISSING: "none", F.SOURCE_FORBIDDEN: "nobody", F.NO_SPACE: "here"}
        self.free = 1 << 30
        self.evicts = False
        self.evicted: list[int] = []
        self.prepared: list[EntityId] = []
        self.refreshed: list[EntityId] = []
        self.gone = False
        self._writer = ThreadPoolExecutor(1)

    def new(self) -> Revival:
        """As a daemon that has just begun."""

        async def write(work: Any) -> Any:
            return await asyncio.get_running_loop().run_in_executor(self._writer, work)

        async def prepare(entity: EntityId) -> None:
            self.prepared.append(entity)
            if entity != FILE:
                raise StageFailed("it is still wrong", failure=F.SOURCE_CORRUPT)

        async def refresh(entity: EntityId) -> None:
            self.refreshed.append(entity)
            if self.gone:
                raise NotFound("it is gone")

        def make_room(needed: int) -> bool:
            self.evicted.append(needed)
            return self.evicts

        return Revival(
            self.queue, Dispatcher(self.queue, write, owner=ME), self.store,
            marks={failure: partial(self.marks.__getitem__, failure) for failure in self.marks},
            free_bytes=lambda: self.free, make_room=make_room, prepare=prepare,
            refresh=refresh, look_s=0.01,
        )  # fmt: skip

    def fail(self, failure: Failure, key: str = "x", **arguments: object) -> JobId:
        """A job of that key that has failed so, as often as it is tried by itself; the last attempt."""
        job = self.claim(key, **arguments)
        while True:
            self.end(job, failure)
            if (newest := self.queue.newest(job.id)).id == job.id:
                return job.id
            job = newest

    def claim(self, key: str, **arguments: object) -> Job:
        self.clock.advance(1.0)
        return self.queue.claim("preprocess", key, arguments, workflow_key=key).job

    def end(self, job: Job, failure: Failure | None = None) -> None:
        self.clock.advance(1.0)
        self.queue.mark_running(job.id, ME, 60.0)
        to = JobState.FAILED if failure else JobState.COMPLETED
        self.queue.finish(job.id, ME, to, failure=failure)

    def close(self) -> None:
        self._writer.shutdown()
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    found.close()


def go(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


WAITING = [F.TOOL_MISSING, F.SOURCE_FORBIDDEN, F.NO_SPACE]


@pytest.mark.parametrize("failure", WAITING)
@pytest.mark.parametrize("restarted", [False, True])
def test_job_when_what_it_lacked_is_there_then_is_taken_up_once(
    bench: Bench, failure: Failure, restarted: bool
) -> None:
    """Also when the change came while no daemon ran."""

    async def live() -> None:
        revival = bench.new()
        assert [] == await revival.look()
        job = bench.fail(failure)
        assert [] == await revival.look()
        bench.marks[failure] = "now it is there"
        revival = bench.new() if restarted else revival
        assert [job] == await revival.look()
        assert [] == await revival.look()
        again = bench.queue.newest(job)
        assert (JobState.PENDING, job) == (again.state, again.retry_of)
        bench.end(again, failure)
        assert [] == await revival.look()

    go(live())


@pytest.mark.parametrize("changed", WAITING)
def test_job_when_something_else_changed_then_stays_as_it_is(
    bench: Bench, changed: Failure
) -> None:
    """A login brings no program."""

    async def live() -> None:
        revival = bench.new()
        await revival.look()
        for failure in WAITING:
            if failure is not changed:
                bench.fail(failure, key=failure)
        bench.fail(F.SOURCE_CORRUPT, key="content")
        bench.fail(F.INTERNAL, key="bug")
        bench.marks[changed] = "another"

        assert [] == await revival.look()

    go(live())


@pytest.mark.parametrize("then", ["done", "failed otherwise", "under way"])
def test_job_when_somebody_asked_again_meanwhile_then_is_left_alone(
    bench: Bench, then: str
) -> None:
    """What came after it is the present state of that work."""

    async def live() -> None:
        revival = bench.new()
        await revival.look()
        bench.fail(F.TOOL_MISSING)
        later = bench.claim("x")
        if then != "under way":
            bench.end(later, None if then == "done" else F.SOURCE_GONE)
        bench.marks[F.TOOL_MISSING] = "there"

        assert [] == await revival.look()

    go(live())


def test_job_without_room_when_cached_content_gives_way_then_is_taken_up_but_once(
    bench: Bench,
) -> None:
    """What did not help is not done again; the cache is not emptied for nothing."""

    async def live() -> None:
        revival = bench.new()
        await revival.look()
        job = bench.fail(F.NO_SPACE, size=100 << 20)
        bench.evicts = True
        assert [job] == await revival.look()
        assert [300 << 20] == bench.evicted
        bench.end(bench.queue.newest(job), F.NO_SPACE)

        assert [] == await revival.look()
        assert 1 == len(bench.evicted)

    go(live())


def test_job_without_room_when_much_is_free_again_then_is_taken_up(bench: Bench) -> None:
    """Much by the size of its file."""

    async def live() -> None:
        revival = bench.new()
        await revival.look()
        job = bench.fail(F.NO_SPACE, size=1)
        assert [] == await revival.look()
        bench.free += ROOM_BYTES_LEAST - 1
        assert [] == await revival.look()
        bench.free += 1

        assert [job] == await revival.look()

    go(live())


@pytest.mark.parametrize(
    ("failure", "taken"),
    [
        (F.SOURCE_CHANGED, True),
        (F.SOURCE_CORRUPT, True),
        (F.SOURCE_GONE, True),
        (F.INTERNAL, False),
    ],
)
def test_file_when_it_has_another_version_then_is_prepared_if_its_job_failed_for_the_old_one(
    bench: Bench, failure: Failure, taken: bool
) -> None:
    """Nothing is begun for files that nobody wanted prepared."""

    async def live() -> None:
        revival = bench.new()
        bench.fail(failure, entity=FILE)
        bench.fail(failure, key="other", entity=EntityId(8))

        def told(entity: int, *, moved_on: bool = True) -> Change:
            return Change(EntityId(entity), EntityId(1), b"n", gone=False, moved_on=moved_on)

        revival.changed([told(8, moved_on=False), told(9), told(FILE)])
        await asyncio.sleep(0)
        await revival.look()
        assert ([FILE] if taken else []) == bench.prepared
        # A refusal of the new version is no end of anything.
        revival.changed([told(8)])
        await asyncio.sleep(0)
        await revival.look()

        assert ([FILE, 8] if taken else []) == bench.prepared

    go(live())


def test_revival_when_a_job_fails_then_looks_by_itself(bench: Bench) -> None:
    """And goes on for ever."""

    async def live() -> None:
        revival = bench.new()
        await revival.look()
        running = asyncio.create_task(revival.run())
        async with asyncio.timeout(20):
            while not bench.evicted:
                if not bench.queue.all():
                    bench.fail(F.NO_SPACE)
                await asyncio.sleep(0)
        assert not running.done()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    go(live())


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize(
    ("failure", "asked"), [(F.SOURCE_CHANGED, True), (F.SOURCE_GONE, True), (F.TIMEOUT, False)]
)
def test_file_when_it_was_not_what_was_known_then_is_asked_for_anew(
    bench: Bench, failure: Failure, asked: bool, gone: bool
) -> None:
    """What the service says of it now comes as any other change."""
    bench.gone = gone

    async def live() -> None:
        revival = bench.new()
        bench.fail(failure, entity=FILE)
        await asyncio.sleep(0)
        await revival.look()

        assert ([FILE] if asked else []) == bench.refreshed

    go(live())


def test_marks_when_circumstances_differ_then_differ(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By login, by program, by the place of references, by the room that the cache may take; and none of them tells the login."""
    (tmp_path / "samtools").write_text("")
    (tmp_path / "samtools").chmod(0o755)
    config = Config(tools="native")

    def told(login: str = "secret", cache: Path = tmp_path, path: str = "") -> dict[Failure, str]:
        monkeypatch.setenv("PATH", path)
        return {failure: tell() for failure, tell in marks(config, login, cache).items()}

    base = told()
    assert base == told()
    assert {F.SOURCE_FORBIDDEN} == differing(base, told("another"))
    assert {F.TOOL_MISSING} == differing(base, told(path=str(tmp_path)))
    assert {F.NO_SPACE} == differing(base, told(cache=tmp_path / "elsewhere"))
    monkeypatch.setenv("REF_PATH", "/srv/references/%2s/%s")
    assert {F.TOOL_MISSING} == differing(base, told())
    assert not any("secret" in mark for mark in base.values())


def differing(one: dict[Failure, str], other: dict[Failure, str]) -> set[Failure]:
    return {failure for failure in one if one[failure] != other[failure]}
