"""The queue's promises, held against the real one in SQLite and the one in memory."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.errors import Busy, InvalidTransition, NotFound, QueueFull
from synd.jobs.failures import Failure
from synd.jobs.model import ACTIVE, ENDED, Job, JobState, Priority
from synd.jobs.queue import Queue
from synd.jobs.retries import JITTER, WAITS_S
from synd.store.connect import Store
from synd.testing import FakeClock, FakeQueue
from synd.testing.queue import NotUniqueError

S = JobState
F = Failure
ME, OTHER = "host:boot:1:1", "host:boot:2:2"
LEASE_S = 60.0
KEY = "synapse/syn1/00/v1"
NS = 1_000_000_000


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["sqlite", "memory"])
def queue(request, tmp_path: Path, clock: FakeClock) -> Iterator[Queue | FakeQueue]:
    if request.param == "memory":
        yield FakeQueue(clock)
        return
    store = Store(tmp_path / "state.db")
    yield Queue(store, clock, uniform=lambda low, high: (low + high) / 2)
    store.close()


def add(queue, clock, subject="x", kind="preprocess", **more) -> Job:
    clock.advance(1)
    return queue.claim(kind, subject, {"n": 1}, **more).job


def run(queue, job: Job, owner: str = ME) -> Job:
    return queue.mark_running(job.id, owner, LEASE_S)


def fail(queue, job: Job, failure: Failure, **more) -> Job:
    run(queue, job)
    return queue.finish(job.id, ME, S.FAILED, failure=failure, problem={"title": "no"}, **more)


class TestClaim:
    @pytest.mark.req("S1-09")
    def test_job_when_claimed_is_pending_with_all_it_was_given(self, queue, clock):
        """What was given comes back as it went."""
        job = add(queue, clock, "P/a", workflow_key=KEY, priority=Priority.READER, unit="files")

        assert (S.PENDING, "preprocess", "P/a", {"n": 1}, KEY, 0, 1, "files") == (
            job.state, job.kind, job.subject, job.arguments, job.workflow_key, job.priority,
            job.attempt, job.unit,
        )  # fmt: skip
        assert (clock.now_ns(), clock.now_ns()) == (job.created_ns, job.updated_ns)
        assert job == queue.get(job.id) == queue.active(KEY)

    @pytest.mark.req("S1-29")
    def test_claim_when_one_is_under_way_attaches_to_it(self, queue, clock):
        """One job per key, pending or running, whoever asks."""
        first = queue.claim("preprocess", "x", {}, workflow_key=KEY)
        again = queue.claim("preprocess", "y", {"other": 1}, workflow_key=KEY)
        run(queue, first.job)
        third = queue.claim("preprocess", "x", {}, workflow_key=KEY)

        assert (True, False, False) == (first.fresh, again.fresh, third.fresh)
        assert first.job.id == again.job.id == third.job.id
        assert S.RUNNING is third.job.state
        assert 1 == len(queue.all())

    @pytest.mark.req("S1-31")
    @pytest.mark.parametrize("end", sorted(ENDED), ids=str)
    def test_claim_when_the_last_has_ended_is_fresh(self, queue, clock, end):
        """However it ended: the key is free again."""
        job = run(queue, add(queue, clock, workflow_key=KEY))
        queue.finish(job.id, ME, end, again=False)
        found = queue.claim("preprocess", "x", {}, workflow_key=KEY)

        assert found.fresh
        assert job.id != found.job.id
        assert 1 == found.job.attempt

    def test_claim_without_a_key_is_shared_with_nobody(self, queue, clock):
        """Two equal requests are two jobs."""
        assert add(queue, clock).id != add(queue, clock).id

    def test_claim_that_is_more_urgent_raises_what_it_attaches_to(self, queue, clock):
        """A reader's wish is not held up by who asked first; a lesser one lowers nothing."""
        job = add(queue, clock, workflow_key=KEY, priority=Priority.AHEAD)
        add(queue, clock, workflow_key=KEY, priority=Priority.READER)
        assert Priority.READER == queue.get(job.id).priority
        add(queue, clock, workflow_key=KEY, priority=Priority.ASKED)

        assert Priority.READER == queue.get(job.id).priority

    def test_claim_when_too_many_wait_is_busy_and_leaves_nothing(self, queue, clock):
        """A bound per kind; attaching is always possible."""
        add(queue, clock, workflow_key=KEY)
        add(queue, clock)
        with pytest.raises(QueueFull, match="already 2"):
            add(queue, clock, most=2)
        assert 2 == len(queue.all())

        assert not queue.claim("preprocess", "x", {}, workflow_key=KEY, most=2).fresh
        assert queue.claim("verify", "x", {}, most=2).fresh


class TestLease:
    def test_lease_takes_the_urgent_first_then_the_oldest_and_each_once(self, queue, clock):
        """By priority, then age."""
        late = add(queue, clock, priority=Priority.AHEAD)
        first, second = add(queue, clock), add(queue, clock)
        urgent = add(queue, clock, priority=Priority.READER)
        taken = [queue.lease(["preprocess"], ME, LEASE_S) for _ in range(5)]

        assert [urgent.id, first.id, second.id, late.id, None] == [j and j.id for j in taken]
        now = clock.now_ns()
        assert (S.RUNNING, ME, now, now + 60 * NS) == (
            taken[0].state, taken[0].owner, taken[0].started_ns, taken[0].lease_until_ns,
        )  # fmt: skip

    def test_lease_takes_only_what_was_asked_for(self, queue, clock):
        """Kinds have limits of their own."""
        add(queue, clock, kind="verify")
        job = add(queue, clock, kind="prefetch")

        assert queue.lease([], ME, LEASE_S) is None
        assert queue.lease(["preprocess"], ME, LEASE_S) is None
        assert job.id == queue.lease(["preprocess", "prefetch"], ME, LEASE_S).id

    def test_lease_leaves_what_is_to_wait_until_its_time_has_come(self, queue, clock):
        """And tells when that is."""
        job = add(queue, clock)
        fail(queue, job, F.TIMEOUT)
        assert queue.lease(["preprocess"], ME, LEASE_S) is None
        due = queue.next_due_ns(["preprocess"])
        assert due == clock.now_ns() + int(WAITS_S[0] * NS)
        clock.advance(WAITS_S[0])

        assert job.id == queue.lease(["preprocess"], ME, LEASE_S).retry_of
        assert queue.next_due_ns(["preprocess"]) is None

    @pytest.mark.req("S1-32")
    @pytest.mark.parametrize("state", sorted(set(S) - {S.PENDING}), ids=str)
    def test_mark_running_of_what_is_not_pending_raises(self, queue, clock, state):
        """A row runs once."""
        job = run(queue, add(queue, clock))
        if state is not S.RUNNING:
            queue.finish(job.id, ME, state, again=False)

        with pytest.raises(InvalidTransition, match=f"{state} to running"):
            run(queue, job)
        with pytest.raises(NotFound):
            queue.mark_running("nope", ME, LEASE_S)

    @pytest.mark.req("S1-32")
    def test_stages_and_progress_are_kept_in_order(self, queue, clock):
        """What was done, with the keys of what it made."""
        job = run(queue, add(queue, clock))
        assert queue.progress(job.id, ME, 5, 10, "sorting", stage="data")
        assert queue.stage_done(job.id, ME, "fetch")
        assert queue.stage_done(job.id, ME, "data", ["k/data"])
        found = queue.get(job.id)

        assert (5, 10, "sorting", "data") == (found.done, found.total, found.note, found.stage)
        assert found.stages == (
            {"stage": "fetch", "artifacts": []},
            {"stage": "data", "artifacts": ["k/data"]},
        )


class TestFence:
    @pytest.mark.req("S1-35")
    def test_late_writes_of_a_replaced_attempt_change_nothing_and_are_logged(
        self, queue, clock, caplog
    ):
        """Nobody's row but one's own, and only while it runs."""
        caplog.set_level(logging.WARNING)
        job = run(queue, add(queue, clock, workflow_key=KEY))
        clock.advance(LEASE_S)
        fresh = queue.claim("preprocess", "x", {}, workflow_key=KEY).job
        run(queue, fresh, OTHER)
        before = [queue.get(job.id), queue.get(fresh.id)]

        for id, owner in ((job.id, ME), (fresh.id, ME)):
            assert not queue.renew(id, owner, LEASE_S)
            assert not queue.progress(id, owner, 9, 9)
            assert not queue.stage_done(id, owner, "data", ["k"])
            assert queue.finish(id, owner, S.COMPLETED) is None
        assert before == [queue.get(job.id), queue.get(fresh.id)]
        assert "job.late" in caplog.text

        assert S.COMPLETED is queue.finish(fresh.id, OTHER, S.COMPLETED).state

    @pytest.mark.req("S1-34")
    def test_stale_lease_when_claimed_is_failed_and_succeeded(self, queue, clock):
        """Not a second too early."""
        job = run(queue, add(queue, clock, workflow_key=KEY))
        clock.advance(LEASE_S - 1)
        assert not queue.claim("preprocess", "x", {}, workflow_key=KEY).fresh
        clock.advance(1)
        found = queue.claim("preprocess", "x", {}, workflow_key=KEY)
        lost = queue.get(job.id)

        assert found.fresh
        assert (S.FAILED, F.LEASE_LOST, found.job.id) == (
            lost.state, lost.failure, lost.superseded_by,
        )  # fmt: skip
        assert (S.PENDING, 2, job.id) == (found.job.state, found.job.attempt, found.job.retry_of)
        assert found.job == queue.newest(job.id)

    def test_lease_that_is_renewed_is_not_stale(self, queue, clock):
        """As long as somebody says that it lives."""
        job = run(queue, add(queue, clock, workflow_key=KEY))
        for _ in range(5):
            clock.advance(LEASE_S - 1)
            assert queue.renew(job.id, ME, LEASE_S)

        assert not queue.claim("preprocess", "x", {}, workflow_key=KEY).fresh
        assert [] == queue.reclaim(lambda owner: True)

    @pytest.mark.req("S1-34")
    def test_reclaim_replaces_the_dead_at_once_and_the_silent_when_their_lease_is_over(
        self, queue, clock
    ):
        """What the caller runs itself is his to look after."""
        dead, silent, mine = (add(queue, clock) for _ in range(3))
        for job, owner in ((dead, OTHER), (silent, ME), (mine, ME)):
            run(queue, job, owner)
        lost = queue.reclaim(lambda owner: owner != OTHER, held=[mine.id])
        assert [dead.id] == [j.id for j in lost]
        assert S.PENDING is queue.newest(dead.id).state
        assert queue.newest(dead.id).not_before_ns <= clock.now_ns()
        clock.advance(LEASE_S)
        lost = queue.reclaim(lambda owner: True, held=[mine.id])

        assert [silent.id] == [j.id for j in lost]
        assert (S.FAILED, F.LEASE_LOST) == (lost[0].state, lost[0].failure)
        assert S.RUNNING is queue.get(mine.id).state

    def test_reclaim_gives_up_on_what_took_its_holders_down_too_often(self, queue, clock):
        """A job that kills the daemon each time does not do so for ever."""
        job = add(queue, clock)
        for _ in range(3):
            assert S.PENDING is queue.newest(job.id).state
            run(queue, queue.newest(job.id))
            queue.reclaim(lambda owner: False)

        assert S.FAILED is queue.newest(job.id).state
        assert 3 == len(queue.all())

    def test_reclaim_of_what_was_to_be_cancelled_cancels_it(self, queue, clock):
        """Nobody wants it any more."""
        job = run(queue, add(queue, clock))
        queue.cancel(job.id)
        queue.reclaim(lambda owner: False)

        assert (S.CANCELLED, None) == (queue.get(job.id).state, queue.get(job.id).superseded_by)


class TestEnd:
    @pytest.mark.req("S1-33")
    @pytest.mark.parametrize("state", sorted(ACTIVE), ids=str)
    def test_finish_with_an_active_state_is_refused(self, queue, clock, state):
        """An end is an end."""
        job = run(queue, add(queue, clock))
        with pytest.raises(ValueError, match=str(state)):
            queue.finish(job.id, ME, state)

        assert S.RUNNING is queue.get(job.id).state

    def test_finish_keeps_problem_and_result(self, queue, clock):
        """And clears what it was doing."""
        job = run(queue, add(queue, clock))
        queue.progress(job.id, ME, 1, 2, "sorting", stage="data")
        clock.advance(5)
        ended = queue.finish(job.id, ME, S.COMPLETED, result={"n": 1})

        assert (S.COMPLETED, {"n": 1}, None, "", "", clock.now_ns()) == (
            ended.state, ended.result, ended.failure, ended.note, ended.stage, ended.finished_ns,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("failures", "attempts"),
        [
            ([F.TIMEOUT, F.TIMEOUT, F.TIMEOUT], 3),
            ([F.SOURCE_UNAVAILABLE, F.TOOL_FAILED, F.WORKER_DIED], 3),
            ([F.TOOL_FAILED, F.TOOL_FAILED], 2),
            ([F.TOOL_FAILED, F.TIMEOUT, F.TOOL_FAILED], 3),
            ([F.OUT_OF_MEMORY, F.OUT_OF_MEMORY], 2),
            ([F.INVALID_RECORD], 1),
            ([F.SOURCE_GONE], 1),
            ([F.NO_SPACE], 1),
            ([F.SOURCE_FORBIDDEN], 1),
            ([F.CANCELLED], 1),
        ],
        ids=lambda v: "+".join(v) if isinstance(v, list) else str(v),
    )
    def test_failure_has_as_many_successors_as_it_means(self, queue, clock, failures, attempts):
        """Never, once, or as often as is allowed, each a new row with the next number."""
        first = add(queue, clock, workflow_key=KEY)
        for number, failure in enumerate(failures, start=1):
            now = queue.newest(first.id)
            assert (S.PENDING, number) == (now.state, now.attempt)
            clock.advance(300)
            fail(queue, now, failure)

        assert (S.FAILED, attempts) == (
            queue.newest(first.id).state,
            queue.newest(first.id).attempt,
        )
        assert attempts == len(queue.all())
        assert [queue.newest(first.id)] == queue.retryable()
        assert [] == queue.retryable([F.VERIFY_FAILED])
        assert 1 == len(queue.retryable([failures[-1]]))

    def test_successors_wait_longer_each_time_and_as_long_as_the_service_asks(self, queue, clock):
        """5 s, 30 s."""
        first = add(queue, clock)
        middle = sum(JITTER) / 2
        for pause in WAITS_S[:2]:
            fail(queue, queue.newest(first.id), F.TIMEOUT)
            due = queue.newest(first.id).not_before_ns
            assert due == clock.now_ns() + int(pause * middle * NS)
            clock.advance(pause * 2)

        other = add(queue, clock)
        fail(queue, other, F.SOURCE_UNAVAILABLE, least_wait_s=77.0)
        assert queue.newest(other.id).not_before_ns == clock.now_ns() + 77 * NS

    def test_successor_after_too_little_memory_has_half_the_caps_and_one_thread(self, queue, clock):
        """Of what was told, and of what the settings will say."""
        caps = {"sort_memory_bytes": 100 << 20, "samtools_memory_bytes": 1 << 20, "tool_threads": 4}
        job = queue.claim("preprocess", "x", {"source": "s", "caps": caps}).job
        fail(queue, job, F.OUT_OF_MEMORY)
        again = queue.newest(job.id).arguments

        assert {
            "source": "s",
            "caps": {
                "sort_memory_bytes": 50 << 20,
                "samtools_memory_bytes": 1 << 20,
                "tool_threads": 1,
                "share": 0.5,
            },
        } == again

    def test_end_that_forbids_a_successor_has_none(self, queue, clock):
        """Where the caller tries again by himself."""
        job = add(queue, clock)
        fail(queue, job, F.TIMEOUT, again=False)

        assert queue.get(job.id).superseded_by is None

    def test_end_that_was_no_fault_of_its_own_is_the_same_attempt_again_at_once(self, queue, clock):
        """A stop of the daemon, however often, costs no attempt."""
        job = add(queue, clock, workflow_key=KEY)
        for _ in range(4):
            now = run(queue, queue.newest(job.id))
            ended = queue.finish(now.id, ME, S.CANCELLED, again=True)
            assert (S.CANCELLED, F.CANCELLED) == (ended.state, ended.failure)

        newest = queue.newest(job.id)
        assert (S.PENDING, 1, KEY) == (newest.state, newest.attempt, newest.workflow_key)
        assert newest.not_before_ns <= clock.now_ns()


class TestRequests:
    def test_cancel_ends_what_waits_and_asks_for_the_end_of_what_runs(self, queue, clock):
        """Who runs it ends it; what has ended stays as it is."""
        waiting, running = add(queue, clock), run(queue, add(queue, clock))
        assert (S.CANCELLED, F.CANCELLED) == (
            queue.cancel(waiting.id).state, queue.get(waiting.id).failure,
        )  # fmt: skip
        asked = queue.cancel(running.id)
        assert (S.RUNNING, True) == (asked.state, asked.cancel)
        assert [running.id] == queue.cancelling(ME)
        assert [] == queue.cancelling(OTHER)
        done = queue.finish(running.id, ME, S.COMPLETED)

        assert done.state is queue.cancel(done.id).state is S.COMPLETED

    def test_cancel_of_an_attempt_that_is_over_means_the_one_after_it(self, queue, clock):
        """A person knows the id he was given first."""
        job = add(queue, clock)
        fail(queue, job, F.TIMEOUT)
        found = queue.cancel(job.id)

        assert job.id == found.retry_of
        assert S.CANCELLED is found.state

    def test_failure_of_what_was_to_be_cancelled_is_not_tried_again(self, queue, clock):
        """The wish holds for the work, not for the attempt."""
        job = run(queue, add(queue, clock))
        queue.cancel(job.id)

        assert queue.finish(job.id, ME, S.FAILED, failure=F.TIMEOUT).superseded_by is None
        job = run(queue, add(queue, clock))
        queue.cancel(job.id)
        assert queue.finish(job.id, ME, S.CANCELLED, again=True).superseded_by is None

    @pytest.mark.parametrize("end", [S.FAILED, S.CANCELLED], ids=str)
    def test_retry_of_what_ended_is_a_new_attempt_that_may_begin_at_once(self, queue, clock, end):
        """The old one stays as it was, and names it."""
        job = run(queue, add(queue, clock, workflow_key=KEY))
        queue.finish(job.id, ME, end, failure=F.INVALID_RECORD, problem={"title": "no"})
        again = queue.retry(job.id[:9])

        assert (S.PENDING, 2, job.id, KEY, None) == (
            again.state, again.attempt, again.retry_of, again.workflow_key, again.problem,
        )  # fmt: skip
        assert again.id == queue.get(job.id).superseded_by
        assert {"title": "no"} == queue.get(job.id).problem
        assert again.id == queue.lease(["preprocess"], ME, LEASE_S).id

    @pytest.mark.parametrize("state", [S.PENDING, S.RUNNING, S.COMPLETED], ids=str)
    def test_retry_of_any_other_is_refused(self, queue, clock, state):
        """What runs need not, what is done must not be done again."""
        job = add(queue, clock)
        if state is not S.PENDING:
            run(queue, job)
        if state is S.COMPLETED:
            queue.finish(job.id, ME, S.COMPLETED)
        with pytest.raises(Busy, match=str(state)):
            queue.retry(job.id)

    def test_retry_when_the_same_is_under_way_already_is_that(self, queue, clock):
        """One active job per key, by request too."""
        job = add(queue, clock, workflow_key=KEY)
        fail(queue, job, F.INVALID_RECORD)
        other = add(queue, clock, workflow_key=KEY)

        assert other.id == queue.retry(job.id).id == queue.newest(job.id).id

    def test_job_when_asked_for_by_what_names_none_is_not_found(self, queue, clock):
        """A beginning of an id is enough while it is the only one."""
        job = add(queue, clock)
        assert job == queue.get(job.id[:11])
        for wrong in ("", "zz", "%", job.id + "0"):
            with pytest.raises(NotFound):
                queue.get(wrong)


class TestAfter:
    def test_job_comes_after_others_when_all_are_completed(self, queue, clock):
        """Not before; then it is as any other."""
        one, two = add(queue, clock, kind="a"), add(queue, clock, kind="a")
        last = add(queue, clock, after=[one.id, two.id, one.id])
        assert (2, sorted([one.id, two.id])) == (last.waits, queue.needs(last.id))
        with pytest.raises(Busy, match="2 others"):
            run(queue, last)
        for job, left in ((one, 1), (two, 0)):
            assert queue.lease(["preprocess"], ME, LEASE_S) is None
            run(queue, job)
            queue.finish(job.id, ME, S.COMPLETED)
            assert left == queue.get(last.id).waits

        assert last.id == queue.lease(["preprocess"], ME, LEASE_S).id

    def test_job_after_what_is_completed_already_may_begin(self, queue, clock):
        """There is nothing to wait for."""
        one = run(queue, add(queue, clock))
        queue.finish(one.id, ME, S.COMPLETED)

        assert 0 == add(queue, clock, after=[one.id]).waits

    def test_job_after_nothing_known_is_not_found(self, queue, clock):
        """And is not made."""
        with pytest.raises(NotFound, match="nope"):
            add(queue, clock, after=["nope"])
        assert [] == queue.all()

    @pytest.mark.parametrize("how", ["failed", "cancelled"])
    def test_job_after_what_did_not_complete_fails_with_what_comes_after_it(
        self, queue, clock, how
    ):
        """With the reason, down the whole chain; also when it is claimed too late."""
        one = add(queue, clock, "first")
        two = add(queue, clock, "second", after=[one.id])
        three = add(queue, clock, "third", after=[two.id])
        if how == "failed":
            fail(queue, one, F.INVALID_RECORD)
        else:
            queue.cancel(one.id)
        late = add(queue, clock, "late", after=[one.id])

        for job, needed in ((two, one), (three, two), (late, one)):
            found = queue.get(job.id)
            assert (S.FAILED, F.AFTER_FAILED) == (found.state, found.failure)
            assert needed.id in found.problem["title"]
        assert f"(first), which is {how}" in queue.get(two.id).problem["title"]

    def test_job_after_what_is_tried_again_waits_for_the_next_attempt(self, queue, clock):
        """A passing failure costs the dependants nothing."""
        one = add(queue, clock)
        two = add(queue, clock, after=[one.id])
        fail(queue, one, F.TIMEOUT)
        again = queue.newest(one.id)
        assert (S.PENDING, [again.id]) == (queue.get(two.id).state, queue.needs(two.id))
        run(queue, again)
        queue.finish(again.id, ME, S.COMPLETED)

        assert two.id == queue.lease(["preprocess"], ME, LEASE_S).id

    def test_retry_of_a_dependant_waits_for_the_retry_of_what_it_needs(self, queue, clock):
        """In that order; the other way round is refused with the mend."""
        one = add(queue, clock)
        two = add(queue, clock, after=[one.id])
        fail(queue, one, F.INVALID_RECORD)
        with pytest.raises(Busy, match=f"comes after {one.id}"):
            queue.retry(two.id)
        again = queue.retry(one.id)
        second = queue.retry(two.id)
        assert (1, [again.id]) == (second.waits, queue.needs(second.id))
        run(queue, again)
        queue.finish(again.id, ME, S.COMPLETED)

        assert 0 == queue.get(second.id).waits


class TestLists:
    def test_lists_and_counts_tell_of_every_state_and_kind(self, queue, clock):
        """Newest first; states with no job are there with 0."""
        jobs = [add(queue, clock, kind=kind) for kind in ("a", "b", "a")]
        run(queue, jobs[0])
        none = dict.fromkeys(map(str, S), 0)

        assert none | {"pending": 2, "running": 1} == queue.count()
        assert {
            "a": none | {"pending": 1, "running": 1},
            "b": none | {"pending": 1},
        } == queue.counts()
        assert [j.id for j in reversed(jobs)] == [j.id for j in queue.all()]
        assert [jobs[0].id] == [j.id for j in queue.all([S.RUNNING])]
        assert [jobs[2].id] == [j.id for j in queue.all(kinds=["a"], limit=1)]

    def test_ended_jobs_are_dropped_by_number_and_by_age_and_active_ones_never(self, queue, clock):
        """A bounded history, and who keeps more of a job is told which are gone."""
        kept, running = add(queue, clock), run(queue, add(queue, clock))
        ended = []
        for _ in range(5):
            job = run(queue, add(queue, clock))
            ended.append(queue.finish(job.id, ME, S.COMPLETED).id)
        assert set(ended[:3]) == set(queue.prune(keep=2))
        assert [] == queue.prune(keep=2)
        clock.advance(100)

        assert set(ended[3:]) == set(queue.prune(keep=2, keep_s=50))
        assert {kept.id, running.id} == {j.id for j in queue.all()}


@pytest.mark.req("S1-80")
@pytest.mark.parametrize(
    ("there", "new"), list(itertools.product(sorted(ACTIVE), repeat=2)), ids=str
)
def test_double_of_the_table_enforces_the_unique_index(clock, there, new):
    """What the database would refuse, the one in memory refuses too."""
    from dataclasses import replace

    queue = FakeQueue(clock)
    job = add(queue, clock, workflow_key=KEY)
    queue.store(replace(job, state=there))

    with pytest.raises(NotUniqueError):
        queue.store(replace(job, id="other", state=new))
    for state in ENDED:
        queue.store(replace(job, id="other", state=state))
