"""Jobs handed to handlers: in turn, within limits, and every one of them comes to an end in the table."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from synd.errors import (
    ConfigError,
    Draining,
    IntegrityError,
    LeaseLost,
    NotFound,
    Offline,
    QueueFull,
    StageFailed,
    StoreError,
)
from synd.jobs import owner as owners
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store
from synd.testing import FakeClock
from syndd.schedule.dispatch import Dispatcher, Times
from syndd.schedule.running import Handler, Kind, Run

S = JobState
F = Failure
DEAD = "host:boot:1:1"
PATIENCE_S = 20.0


class Bench:
    """A queue, a dispatcher over it, and handlers that end when they are told to."""

    def __init__(self, folder: Path, **how: object) -> None:
        self.clock = FakeClock()
        self.store = Store(folder / "state.db")
        self.queue = Queue(self.store, self.clock, uniform=lambda low, high: 1.0)
        self.writer = ThreadPoolExecutor(1)
        self.refuse: list[StoreError] = []
        self.pruned: list[str] = []
        self.dispatcher = Dispatcher(
            self.queue, self.write, clock=self.clock, on_pruned=self.pruned.extend, **how
        )
        self.begun: list[str] = []
        self.runs: dict[str, Run] = {}
        self.gates: dict[str, asyncio.Future[object]] = {}

    async def write(self, work):
        if self.refuse:
            raise self.refuse.pop()
        return await asyncio.get_running_loop().run_in_executor(self.writer, work)

    def register(self, name: str = "preprocess", handler: Handler | None = None, **how) -> None:
        self.dispatcher.register(name, Kind(handler or self.handle, **how))

    async def handle(self, job: Job, run: Run) -> dict[str, object]:
        """Runs until the test opens its gate, with a result or an error."""
        self.begun.append(job.subject)
        self.runs[job.subject] = run
        gate = self.gates[job.subject] = asyncio.get_running_loop().create_future()
        await gate
        return {"of": job.subject}

    def claim(self, subject: str, kind: str = "preprocess", **more) -> Job:
        self.clock.advance(1)
        return self.dispatcher.claim(kind, subject, {}, **more).job

    def open(self, subject: str, error: BaseException | None = None) -> None:
        if error is None:
            self.gates[subject].set_result(None)
        else:
            self.gates[subject].set_exception(error)

    def state(self, job: Job) -> JobState:
        return self.queue.get(job.id).state

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.dispatcher.run())
        try:
            yield
            assert not task.done(), task.exception()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def come(self, check: Callable[[], object]) -> None:
        """Waits for a condition under a deadline."""
        async with asyncio.timeout(PATIENCE_S):
            while not check():  # noqa: ASYNC110 - what is waited for is a row
                await asyncio.sleep(0.005)

    async def end(self, job: Job) -> Job:
        async with asyncio.timeout(PATIENCE_S):
            return await self.dispatcher.ended(job.id)


@pytest.fixture
def play(tmp_path):
    """Runs a scenario with a bench on a loop of its own."""
    made: list[Bench] = []

    def run(scenario: Callable[[Bench], Awaitable[None]], **how: object) -> None:
        async def live() -> None:
            bench = Bench(tmp_path, **how)
            made.append(bench)
            await scenario(bench)

        asyncio.run(live())

    yield run
    for bench in made:
        bench.writer.shutdown()
        bench.store.close()


class TestTurns:
    def test_jobs_run_in_turn_and_no_more_at_once_than_the_kind_allows(self, play):
        """Each kind has slots of its own; a free one is filled at once."""

        async def scenario(b: Bench) -> None:
            b.register(limit=2)
            b.register("verify", limit=1)
            jobs = [b.claim(name) for name in "abc"]
            other = b.claim("v", "verify")
            async with b.running():
                await b.come(lambda: len(b.begun) == 3)
                assert {"a", "b", "v"} == set(b.begun)
                assert S.PENDING is b.state(jobs[2])
                b.open("a")
                await b.come(lambda: "c" in b.begun)
                for name in "bcv":
                    b.open(name)
                ends = [await b.end(job) for job in (*jobs, other)]
            assert [S.COMPLETED] * 4 == [end.state for end in ends]
            assert {"of": "a"} == ends[0].result

        play(scenario)

    @pytest.mark.req("S1-32")
    def test_progress_and_stages_reach_the_row_while_it_runs(self, play):
        """And its listeners."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.runs)
                b.runs["a"].progress(3, 9, "sorting", stage="data")
                await b.come(lambda: b.queue.get(job.id).done == 3)
                await b.runs["a"].stage_done("data", ["key"])
                b.runs["a"].progress(9, 9)
                b.open("a")
                end = await b.end(job)
            assert (9, 9, ["data"]) == (end.done, end.total, [s["stage"] for s in end.stages])

        play(scenario)

    def test_retry_begins_by_itself_when_its_time_has_come(self, play):
        """Nobody has to wake anybody."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.open("a", Offline("gone"))
                await b.come(lambda: b.state(job) is S.FAILED)
                assert F.SOURCE_UNAVAILABLE is b.queue.get(job.id).failure
                assert ["a"] == b.begun
                b.clock.advance(5)
                await b.dispatcher.pause(["preprocess"], paused=False)
                await b.come(lambda: len(b.begun) == 2)
                b.open("a")
                end = await b.end(job)
            assert (S.COMPLETED, 2) == (end.state, end.attempt)

        play(scenario)

    @pytest.mark.req("S1-39")
    def test_job_waits_while_its_kind_is_not_ready_and_begins_soon_after(self, play):
        """A pool that still comes up costs a job nothing."""

        async def scenario(b: Bench) -> None:
            ready: list[bool] = []
            b.register(ready=lambda: bool(ready))
            job = b.claim("a")
            async with b.running():
                await b.dispatcher.beat()
                assert [] == b.begun
                assert S.PENDING is b.state(job)
                ready.append(True)
                await b.come(lambda: b.begun == ["a"])
                b.open("a")
                assert 1 == (await b.end(job)).attempt

        play(scenario)

    def test_paused_kind_begins_nothing_also_after_a_restart(self, play):
        """What runs goes on; other kinds too."""

        async def scenario(b: Bench) -> None:
            b.register()
            b.register("verify")
            first = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                assert {"preprocess"} == await b.dispatcher.pause(["preprocess"])
                b.open("a")
                assert S.COMPLETED is (await b.end(first)).state
                waiting, other = b.claim("b"), b.claim("v", "verify")
                await b.come(lambda: "v" in b.gates)
                assert S.PENDING is b.state(waiting)
                b.open("v")
                await b.end(other)
            again = Dispatcher(b.queue, b.write, clock=b.clock)
            again.register("preprocess", Kind(b.handle))
            assert {"preprocess"} == again.paused()
            with pytest.raises(NotFound, match="verfy"):
                await again.pause(["verfy"])
            await again.pause(paused=False)
            assert not again.paused()
            assert {"preprocess"} == await again.pause()

        play(scenario)

    def test_claim_beyond_what_may_wait_is_busy(self, play):
        """The bound of its kind."""

        async def scenario(b: Bench) -> None:
            b.register(most=1)
            b.claim("a")
            with pytest.raises(QueueFull, match="already 1"):
                b.claim("b")

        play(scenario)


class TestEnds:
    @pytest.mark.req("S1-36")
    @pytest.mark.parametrize(
        ("error", "failure", "again"),
        [
            (StageFailed("bad", failure="INVALID_RECORD", bad_line=7), F.INVALID_RECORD, False),
            (StageFailed("x", failure="TOOL_FAILED"), F.TOOL_FAILED, True),
            (Offline("x"), F.SOURCE_UNAVAILABLE, True),
            (IntegrityError("x"), F.SOURCE_CHANGED, True),
            (ZeroDivisionError("x"), F.INTERNAL, True),
        ],
        ids=lambda v: type(v).__name__ if isinstance(v, Exception) else str(v),
    )
    def test_error_of_a_handler_frees_the_key_and_is_told_with_its_class(
        self, play, caplog, error, failure, again
    ):
        """Whatever it was, somebody may claim again."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a", workflow_key="k")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.open("a", error)
                await b.come(lambda: b.state(job) is S.FAILED and not b.dispatcher.running)
            end = b.queue.get(job.id)
            assert (failure, again) == (end.failure, end.superseded_by is not None)
            assert failure == end.problem["failure"]
            if failure is F.INVALID_RECORD:
                assert 7 == end.problem["bad_line"]
            found = b.dispatcher.claim("preprocess", "a", {}, workflow_key="k")
            assert found.fresh is not again

        play(scenario)

    def test_error_of_a_kind_that_is_not_tried_again_has_no_successor(self, play):
        """Who asked sees it at once."""

        async def scenario(b: Bench) -> None:
            b.register(retries=False)
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.open("a", Offline("gone"))
                end = await b.end(job)
            assert (S.FAILED, 1) == (end.state, len(b.queue.all()))

        play(scenario)

    @pytest.mark.req("S1-37")
    def test_cancel_reaches_the_handler_and_answers_when_it_has_ended(self, play):
        """It becomes cancelled with the reason, with no successor; the handler sees the cancellation."""

        async def scenario(b: Bench) -> None:
            seen: list[str] = []

            async def handle(job: Job, run: Run) -> None:
                try:
                    await b.handle(job, run)
                except asyncio.CancelledError:
                    await asyncio.sleep(0)
                    seen.append(str(run.why))
                    raise

            b.register(handler=handle)
            running, waiting = b.claim("a", workflow_key="k"), b.claim("b")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                ended = await b.dispatcher.cancel(running.id)
                assert (S.CANCELLED, F.CANCELLED, ["cancelled"]) == (
                    ended.state, ended.failure, seen,
                )  # fmt: skip
                assert "asked for its end" in ended.problem["title"]
                assert ended.superseded_by is None
                await b.come(lambda: "b" in b.gates)
                b.open("b")
                assert S.COMPLETED is (await b.end(waiting)).state
                assert S.COMPLETED is (await b.dispatcher.cancel(waiting.id)).state

        play(scenario)

    def test_cancel_of_all_begins_nothing_in_the_place_of_what_ends(self, play):
        """What waits ends first; other kinds go on; a kind that is not there is refused."""

        async def scenario(b: Bench) -> None:
            b.register(limit=2)
            b.register("verify", limit=1)
            jobs = [b.claim(f"{n}") for n in range(1200)]
            after = b.claim("after", after=[jobs[-1].id])
            other = b.claim("v", "verify")
            async with b.running():
                await b.come(lambda: len(b.begun) == 3)
                ended = await b.dispatcher.cancel_all(["preprocess"])
                assert {j.id for j in (*jobs, after)} == {j.id for j in ended}
                assert {(S.CANCELLED, F.CANCELLED)} == {(j.state, j.failure) for j in ended}
                assert {"0", "1", "v"} == set(b.begun)
                assert S.RUNNING is b.state(other)
                with pytest.raises(NotFound, match="verifi"):
                    await b.dispatcher.cancel_all(["verifi"])
                assert [other.id] == [j.id for j in await b.dispatcher.cancel_all()]
                assert [] == await b.dispatcher.cancel_all()

        play(scenario)

    def test_cancel_that_another_wrote_into_the_row_is_seen_at_the_next_beat(self, play):
        """Who runs it ends it."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.queue.cancel(job.id)
                await b.dispatcher.beat()
                assert S.CANCELLED is (await b.end(job)).state

        play(scenario)

    @pytest.mark.req("S1-38")
    def test_job_that_takes_too_long_is_ended_and_tried_again(self, play):
        """Its time is capped by who runs it."""

        async def scenario(b: Bench) -> None:
            b.register(timeout_s=0.05)
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: b.state(job) is S.FAILED)
            end = b.queue.get(job.id)
            assert F.TIMEOUT is end.failure
            assert "longer than 0.05 s" in end.problem["title"]
            assert S.PENDING is b.queue.newest(job.id).state

        play(scenario)

    def test_job_without_a_sign_of_life_is_ended_and_tried_again(self, play):
        """Any sign is enough."""

        async def scenario(b: Bench) -> None:
            b.register(stall_s=100)
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.clock.advance(99)
                b.runs["a"].alive()
                b.clock.advance(99)
                await b.dispatcher.beat()
                assert S.RUNNING is b.state(job)
                b.clock.advance(1)
                await b.dispatcher.beat()
                await b.come(lambda: b.state(job) is S.FAILED)
            assert F.LEASE_LOST is b.queue.get(job.id).failure
            assert "no sign of life for 100 s" in b.queue.get(job.id).problem["title"]

        play(scenario)

    @pytest.mark.announces("job.late")
    @pytest.mark.req("S1-35")
    def test_job_that_was_replaced_is_ended_and_writes_nothing(self, play):
        """The beat tells it, or its own next stage."""

        async def scenario(b: Bench) -> None:
            b.register(limit=2)
            jobs = [b.claim("a"), b.claim("b")]
            async with b.running():
                await b.come(lambda: len(b.gates) == 2)
                for job in jobs:
                    with b.store.write() as tx:
                        tx.execute("UPDATE job SET owner = ? WHERE id = ?", (DEAD, job.id))
                before = [b.queue.get(job.id) for job in jobs]
                with pytest.raises(LeaseLost):
                    await b.runs["b"].stage_done("data", ["k"], lambda tx: pytest.fail("written"))
                b.runs["a"].progress(5, 5)
                await b.come(lambda: not b.dispatcher.running)
                assert before == [b.queue.get(job.id) for job in jobs]

        play(scenario)

    @pytest.mark.announces("job.store_failed", "job.not_recorded", "job.not_claimed")
    @pytest.mark.req("S1-36")
    def test_end_that_the_store_refuses_is_written_later(self, play):
        """A full disk; meanwhile nothing renews it, so its lease would run out."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.refuse.append(StoreError("full"))
                b.open("a")
                await b.come(lambda: not b.dispatcher.running)
                assert S.RUNNING is b.state(job)
                b.refuse.append(StoreError("full"))
                await b.dispatcher.beat()
                await b.dispatcher.beat()
                assert S.COMPLETED is (await b.end(job)).state

        play(scenario)

    @pytest.mark.req("S1-36")
    def test_stage_that_cannot_be_recorded_fails_the_job_and_frees_its_key(self, play):
        """The error of the record is the error of the job."""

        async def scenario(b: Bench) -> None:
            async def handle(_job: Job, run: Run) -> None:
                b.refuse.append(StoreError("full"))
                await run.stage_done("data", ["k"])

            b.register(handler=handle)
            job = b.claim("a", workflow_key="k")
            async with b.running():
                await b.come(lambda: b.state(job) is S.FAILED)
            assert F.INTERNAL is b.queue.get(job.id).failure
            assert () == b.queue.get(job.id).stages
            assert S.PENDING is b.queue.active("k").state

        play(scenario)


class TestLeases:
    def test_beat_renews_what_runs(self, play):
        """For as long as its handler lives."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a", workflow_key="k")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                for _ in range(5):
                    b.clock.advance(59)
                    await b.dispatcher.beat()
                assert b.clock.now_ns() + 60 * 10**9 == b.queue.get(job.id).lease_until_ns
                assert not Queue(b.store, b.clock).claim("k", "s", {}, workflow_key="k").fresh

        play(scenario)

    def test_machine_that_slept_keeps_its_jobs(self, play):
        """All leases look over, but ours are renewed before anybody looks."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                b.clock.advance(8 * 3600)
                await b.dispatcher.beat()
                assert S.RUNNING is b.state(job)
                b.open("a")
                assert 1 == (await b.end(job)).attempt

        play(scenario)

    @pytest.mark.req("S1-34")
    def test_start_takes_up_what_a_dead_daemon_ran_at_once(self, play):
        """Also what this process ran in an earlier life; not what lives elsewhere."""

        async def scenario(b: Bench) -> None:
            host, boot, pid, started = owners.here().rsplit(":", 3)
            gone = f"{host}:{boot}:{pid}:{int(started) - 1}"
            jobs = [b.claim(name) for name in "abc"]
            for job, who in zip(jobs, (gone, owners.here(), "elsewhere:x:1:1"), strict=True):
                b.queue.mark_running(job.id, who, 60)
            b.register(limit=3)
            async with b.running():
                await b.come(lambda: len(b.begun) == 2)
                assert {"a", "b"} == set(b.begun)
                assert S.RUNNING is b.state(jobs[2])

        play(scenario)

    @pytest.mark.announces("job.lost")
    def test_beat_takes_up_what_others_let_go(self, play):
        """Their lease is over, or their process is gone."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            b.queue.mark_running(job.id, "elsewhere:x:1:1", 60)
            async with b.running():
                await b.dispatcher.beat()
                assert S.RUNNING is b.state(job)
                b.clock.advance(60)
                await b.dispatcher.beat()
                await b.come(lambda: b.begun == ["a"])
            assert F.LEASE_LOST is b.queue.get(job.id).failure

        play(scenario)

    def test_lease_of_no_more_than_two_beats_is_refused(self):
        """One beat that comes late must not cost a job."""
        assert 15.0 == Times().beat_s
        with pytest.raises(ConfigError, match="two heartbeats"):
            Times(lease_s=60, beats=2)

    def test_old_rows_go_and_who_keeps_their_logs_is_told(self, play):
        """By number."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            await b.dispatcher.cancel(job.id)
            await b.dispatcher.beat()
            assert [] == b.pruned
            await b.dispatcher.prune(keep=0)
            assert ([job.id], []) == (b.pruned, b.queue.all())

        play(scenario)


class TestDrain:
    @pytest.mark.req("S1-41")
    def test_drain_when_idle_is_0_at_once_and_claims_are_refused_after(self, play):
        """Nothing new begins."""

        async def scenario(b: Bench) -> None:
            b.register()
            async with b.running():
                assert 0 == await b.dispatcher.drain(60)
                with pytest.raises(Draining, match="stopping"):
                    b.claim("a")
                with pytest.raises(Draining, match="stopping"):
                    await b.dispatcher.retry("x")

        play(scenario)

    @pytest.mark.req("S1-41")
    def test_drain_waits_for_what_runs_and_says_how_many(self, play):
        """What waits stays for the next start."""

        async def scenario(b: Bench) -> None:
            b.register(limit=2)
            jobs = [b.claim(name) for name in "abc"]
            async with b.running():
                await b.come(lambda: len(b.gates) == 2)
                draining = asyncio.create_task(b.dispatcher.drain(60))
                await b.come(lambda: b.dispatcher.draining)
                for name in "ab":
                    b.open(name)
                assert 2 == await draining
            assert [S.COMPLETED, S.COMPLETED, S.PENDING] == [b.state(job) for job in jobs]

        play(scenario)

    @pytest.mark.req("S1-41")
    def test_drain_ends_what_is_not_done_in_time_and_the_next_start_goes_on(self, play):
        """Cancelled, with a successor that is the same attempt; what loses nothing is not waited for."""

        async def scenario(b: Bench) -> None:
            b.register()
            b.register("prefetch", drained=False)
            slow, quick = b.claim("a"), b.claim("p", "prefetch")
            async with b.running():
                await b.come(lambda: len(b.gates) == 2)
                draining = asyncio.create_task(b.dispatcher.drain(0.2))
                await b.come(lambda: b.state(quick) is S.CANCELLED)
                assert 2 == await draining
            for job in (slow, quick):
                assert (S.CANCELLED, S.PENDING, 1) == (
                    b.state(job), b.queue.newest(job.id).state, b.queue.newest(job.id).attempt,
                )  # fmt: skip

        play(scenario)

    def test_drain_leaves_nothing_running_that_was_just_being_leased(self, play):
        """Between the row and the handler."""

        async def scenario(b: Bench) -> None:
            held = asyncio.Event()
            leased = asyncio.Event()
            write = b.write

            async def slow(work):
                found = await write(work)
                if isinstance(found, Job) and found.state is S.RUNNING:
                    leased.set()
                    await held.wait()
                return found

            b.dispatcher = Dispatcher(b.queue, slow, clock=b.clock)
            b.register()
            job = b.claim("a")
            async with b.running():
                await leased.wait()
                assert 0 == await b.dispatcher.drain(5)
                held.set()
                await b.come(lambda: b.state(job) is S.CANCELLED)
            assert [] == b.begun
            assert S.PENDING is b.queue.newest(job.id).state

        play(scenario)

    def test_end_of_the_dispatcher_ends_what_runs(self, play):
        """Without a drain; the handler is told, the row has a successor."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
            assert b.gates["a"].cancelled()
            assert (S.CANCELLED, S.PENDING) == (b.state(job), b.queue.newest(job.id).state)

        play(scenario)

    def test_cancellation_from_outside_is_recorded_and_passed_on(self, play):
        """Whoever cancels the task of a job sees it cancelled."""

        async def scenario(b: Bench) -> None:
            b.register()
            job = b.claim("a")
            async with b.running():
                await b.come(lambda: "a" in b.gates)
                task = b.runs["a"].task
                task.cancel()
                await asyncio.wait({task})
                assert task.cancelled()
                assert S.CANCELLED is b.state(job)

        play(scenario)


def test_bug_in_a_handler_is_logged_with_its_traceback(play, caplog):
    """And ends the job, not the dispatcher."""
    caplog.set_level(logging.ERROR)

    async def scenario(b: Bench) -> None:
        b.register(retries=False)
        job = b.claim("a")
        async with b.running():
            await b.come(lambda: "a" in b.gates)
            b.open("a", ZeroDivisionError("by zero"))
            assert F.INTERNAL is (await b.end(job)).failure

    play(scenario)
    assert "ZeroDivisionError" in caplog.text
