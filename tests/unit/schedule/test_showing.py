"""Jobs as the control API shows them: every state in the words of the contract, logs and changes as they come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from synd.control import contract
from synd.errors import NotFound
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store
from synd.testing import FakeClock
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.running import Kind, Run
from syndd.schedule.showing import JobShowing

ME = "h:b:1:1"
PATIENCE_S = 20.0


class Desk:
    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.store = Store(root / "state.db")
        self.queue = Queue(self.store, self.clock, uniform=lambda low, high: 1.0)
        self.logs = JobLogs(root / "jobs", self.clock)
        self.dispatcher = Dispatcher(
            self.queue, self.write, clock=self.clock, on_pruned=self.logs.remove
        )
        self.dispatcher.register("preprocess", Kind(self.handle))
        self.showing = JobShowing(self.queue, self.dispatcher, self.logs)

    async def write(self, work):
        return await asyncio.to_thread(work)

    async def handle(self, job: Job, run: Run) -> None:
        raise AssertionError(f"nobody runs {job.id} here: {run.owner}")

    def claim(self, subject: str = "P/x.bam", **more) -> Job:
        self.clock.advance(1)
        return self.queue.claim("preprocess", subject, {}, **more).job

    def shown(self, job: Job) -> contract.Job:
        """As the API has it, checked against its shape."""
        found = self.showing.get(job.id)
        TypeAdapter(contract.Job).validate_python(found)
        return found


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path)
    yield found
    found.store.close()


def play(scenario: Callable[[], Awaitable[None]]) -> None:
    async def live() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await scenario()

    asyncio.run(live())


class TestOne:
    def test_job_that_runs_shows_stage_progress_and_artifacts(self, desk):
        """What it does now, what is done, and when it began."""
        job = desk.claim()
        desk.queue.mark_running(job.id, ME, 60)
        desk.queue.stage_done(job.id, ME, "data", ["synapse/syn1/data"])
        desk.queue.progress(job.id, ME, 3, 9, "sorting", stage="index")
        shown = desk.shown(job)

        assert ("running", "index", ["data"], ["synapse/syn1/data"]) == (
            shown["state"], shown["stage"], shown["stages_done"], shown["artifacts"],
        )  # fmt: skip
        assert {"done": 3, "total": 9, "unit": "bytes", "note": "sorting"} == shown["progress"]
        assert shown["started_at"] is not None
        assert shown["finished_at"] is None
        assert not shown["cancelling"]
        desk.queue.cancel(job.id)
        assert desk.shown(job)["cancelling"]

    def test_job_that_failed_shows_class_and_text_and_what_came_after(self, desk):
        """One can follow it to the newest attempt."""
        job = desk.claim()
        desk.queue.mark_running(job.id, ME, 60)
        desk.queue.finish(
            job.id, ME, JobState.FAILED, failure=Failure.TIMEOUT,
            problem={"type": "StageFailed", "title": "it took too long"},
        )  # fmt: skip
        failed, again = desk.shown(job), desk.shown(desk.queue.newest(job.id))

        assert ("failed", "TIMEOUT", "it took too long") == (
            failed["state"], failed["failure"], failed["problem"]["title"],
        )  # fmt: skip
        assert (failed["superseded_by"], again["retry_of"]) == (again["id"], failed["id"])
        assert ("pending", 2) == (again["state"], again["attempt"])
        assert again["not_before_at"] > failed["finished_at"]

    def test_job_that_waits_for_others_says_for_how_many(self, desk):
        """And nothing that has not come."""
        job = desk.claim(after=[desk.claim().id, desk.claim().id])

        assert 2 == desk.shown(job)["after"]
        assert desk.shown(job)["not_before_at"] is None

    def test_job_that_is_not_there_is_not_found(self, desk):
        """Its log neither."""
        for ask in (desk.showing.get, desk.showing.log):
            with pytest.raises(NotFound):
                ask("nope")


class TestAll:
    def test_list_is_newest_first_and_of_what_was_asked_for(self, desk):
        """Active ones; all; some kinds; so many."""
        jobs = [desk.claim() for _ in range(3)]
        desk.queue.cancel(jobs[1].id)
        desk.queue.add("verify", "x", {}, "bytes")

        def ids(**how) -> list[str]:
            return [job["id"] for job in desk.showing.list(**how)]

        assert [jobs[2].id, jobs[0].id] == ids(all=False, kinds=["preprocess"])
        assert [jobs[2].id, jobs[1].id] == ids(all=True, kinds=["preprocess"], limit=2)
        assert 4 == len(ids(all=True))

    def test_list_of_a_kind_that_is_not_there_is_not_found(self, desk):
        """A mistyped one is not an empty queue."""
        with pytest.raises(NotFound) as caught:
            desk.showing.list(all=True, kinds=["preproces"])

        assert "preprocess" in caught.value.hint

    def test_pause_and_clean_answer_the_state_of_the_queue(self, desk):
        """Logs of what is forgotten go too."""
        job = desk.claim()
        desk.queue.cancel(job.id)
        desk.logs.open(job.id).close()

        async def scenario() -> None:
            assert ["preprocess"] == (await desk.showing.pause([], paused=True))["paused"]
            assert [] == (await desk.showing.pause([], paused=False))["paused"]
            assert 0 == (await desk.showing.clean())["counts"]["cancelled"]

        play(scenario)
        assert not desk.logs.path(job.id).exists()


class TestLive:
    def test_follow_tells_what_is_active_then_every_change(self, desk):
        """Whoever makes it, on any thread."""
        first = desk.claim("first")

        async def scenario() -> None:
            changes = desk.showing.follow()
            event = await anext(changes)
            assert ("job", first.id) == (event["kind"], event["data"]["id"])
            coming = asyncio.ensure_future(anext(changes))
            await asyncio.sleep(0)
            second = await asyncio.to_thread(desk.claim, "second")
            assert ("second", "pending") == (
                (await coming)["data"]["subject"], desk.queue.get(second.id).state,
            )  # fmt: skip
            await asyncio.to_thread(desk.queue.cancel, second.id)
            assert "cancelled" == (await anext(changes))["data"]["state"]
            await changes.aclose()
            assert not desk.showing._listeners

        play(scenario)

    def test_log_is_followed_until_its_job_has_ended(self, desk):
        """All of it, as it grows."""
        job = desk.claim()
        said = desk.logs.open(job.id)
        said.raw(b"one\n")

        async def scenario() -> None:
            parts = desk.showing.follow_log(job.id)
            assert "one\n" == (await anext(parts))["data"]["text"]
            coming = asyncio.ensure_future(anext(parts))
            await asyncio.sleep(0)
            said.raw(b"two\n")
            assert "two\n" == (await coming)["data"]["text"]
            desk.queue.cancel(job.id)
            with pytest.raises(StopAsyncIteration):
                await anext(parts)

        play(scenario)
        said.close()
        assert {"text": "two\n", "offset": 8, "ended": True, "id": job.id} == desk.showing.log(
            job.id, 4
        )
