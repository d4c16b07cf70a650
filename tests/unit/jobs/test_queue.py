"""Jobs as rows: which state may follow which, and that nothing else happens."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.errors import Busy, InvalidTransition, NotFound
from synd.ids import JobId
from synd.jobs import queue as module
from synd.jobs.model import ACTIVE, TRANSITIONS, Job, JobState, check
from synd.jobs.queue import Queue
from synd.store.connect import Store
from synd.testing import FakeClock

S = JobState


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "state.db")
    yield found
    found.close()


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(store: Store, clock: FakeClock) -> Queue:
    return Queue(store, clock)


def add(queue: Queue, clock: FakeClock, subject: str = "x") -> Job:
    clock.advance(1)
    return queue.add("prefetch", subject, {"entities": [1, 2]}, "bytes")


ALLOWED = {
    (S.PENDING, S.RUNNING), (S.PENDING, S.CANCELLED),
    (S.RUNNING, S.PENDING), (S.RUNNING, S.COMPLETED), (S.RUNNING, S.FAILED), (S.RUNNING, S.CANCELLED),
    (S.FAILED, S.PENDING), (S.CANCELLED, S.PENDING),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), list(itertools.product(S, S)), ids=str)
def test_state_when_asked_to_change_follows_the_table(before, after):
    """What is not in the table is a bug of ours, named."""
    job = Job(JobId("j"), "k", "s", {}, before, 1)

    assert ((before, after) in ALLOWED) == (after in TRANSITIONS[before])
    if (before, after) in ALLOWED:
        check(job, after)
    else:
        with pytest.raises(InvalidTransition, match=f"{before} to {after}"):
            check(job, after)


def test_database_when_told_an_unknown_state_refuses(store, queue, clock):
    """The table in code and the CHECK in the schema name the same states."""
    job = add(queue, clock)
    for state in S:
        with store.write() as tx:
            tx.execute("UPDATE job SET state = ? WHERE id = ?", (str(state), job.id))
    with pytest.raises(Exception, match="CHECK"), store.write() as tx:
        tx.execute("UPDATE job SET state = 'asleep' WHERE id = ?", (job.id,))


def test_job_when_added_is_pending_with_all_it_was_given(queue, clock):
    """Arguments come back as they went."""
    job = add(queue, clock, "P/dir")

    assert (S.PENDING, "prefetch", "P/dir", {"entities": [1, 2]}, "bytes", clock.now_ns()) == (
        job.state, job.kind, job.subject, job.arguments, job.unit, job.created_ns,
    )  # fmt: skip
    assert job == queue.get(job.id) == queue.get(job.id[:6])


def test_job_when_asked_for_by_what_names_none_or_many_is_not_found(queue, clock):
    """A beginning of an id is enough while it is the only one."""
    add(queue, clock)
    add(queue, clock)
    for wrong in ("", "zz", "%"):
        with pytest.raises(NotFound):
            queue.get(wrong)


def test_claim_takes_the_oldest_and_each_job_once(queue, clock):
    """In the order in which they were added."""
    first, second = add(queue, clock), add(queue, clock)

    claimed = [queue.claim(), queue.claim(), queue.claim()]
    assert [first.id, second.id, None] == [job.id if job else None for job in claimed]
    assert S.RUNNING is queue.get(first.id).state
    assert clock.now_ns() == queue.get(first.id).started_ns


def test_claim_by_many_threads_gives_each_job_to_one(queue, clock):
    """One statement decides."""
    ids = {add(queue, clock).id for _ in range(30)}
    taken: list[str] = []

    def work() -> None:
        while (job := queue.claim()) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert ids == set(taken)
    assert 30 == len(taken)


def test_reclaim_makes_what_a_dead_daemon_ran_pending_again(queue, clock):
    """Ended jobs stay ended."""
    running, done = add(queue, clock), add(queue, clock)
    queue.claim()
    queue.claim()
    queue.finish(done.id, S.COMPLETED)

    assert 1 == queue.reclaim()
    assert S.PENDING is queue.get(running.id).state
    assert S.COMPLETED is queue.get(done.id).state
    assert running.id == queue.claim().id


def test_progress_is_kept_while_it_runs_only(queue, clock):
    """A late report of a cancelled job changes nothing."""
    job = add(queue, clock)
    queue.progress(job.id, 1, 2)
    assert 0 == queue.get(job.id).done
    queue.claim()
    queue.progress(job.id, 5, 10, "reading")
    found = queue.get(job.id)
    assert (5, 10, "reading") == (found.done, found.total, found.note)
    queue.finish(job.id, S.CANCELLED)
    queue.progress(job.id, 9, 10)

    assert 5 == queue.get(job.id).done


def test_finish_keeps_problem_and_result_and_the_first_end_holds(queue, clock):
    """Whoever comes second changes nothing."""
    job = add(queue, clock)
    queue.claim()
    clock.advance(5)
    ended = queue.finish(job.id, S.FAILED, problem={"title": "no"})
    again = queue.finish(job.id, S.COMPLETED, result={"n": 1})

    assert (S.FAILED, {"title": "no"}, None, clock.now_ns()) == (
        ended.state, ended.problem, ended.result, ended.finished_ns,
    )  # fmt: skip
    assert ended == again


def test_finish_of_a_pending_job_can_only_cancel_it(queue, clock):
    """Nobody worked on it."""
    job = add(queue, clock)
    with pytest.raises(InvalidTransition):
        queue.finish(job.id, S.COMPLETED)
    assert S.PENDING is queue.get(job.id).state

    assert S.CANCELLED is queue.finish(job.id, S.CANCELLED).state


@pytest.mark.parametrize("end", [S.FAILED, S.CANCELLED])
def test_retry_of_an_ended_job_makes_it_as_new(queue, clock, end):
    """Without its old problem and progress."""
    job = add(queue, clock)
    queue.claim()
    queue.progress(job.id, 5, 10)
    queue.finish(job.id, end, problem={"title": "no"})
    again = queue.retry(job.id[:8])

    assert (S.PENDING, None, None, None, 0) == (
        again.state, again.problem, again.started_ns, again.finished_ns, again.done,
    )  # fmt: skip
    assert job.id == queue.claim().id


@pytest.mark.parametrize("state", [S.PENDING, S.RUNNING, S.COMPLETED])
def test_retry_of_any_other_job_is_refused(queue, clock, state):
    """What runs need not, what is done must not be done again."""
    job = add(queue, clock)
    if state is not S.PENDING:
        queue.claim()
    if state is S.COMPLETED:
        queue.finish(job.id, S.COMPLETED)

    with pytest.raises(Busy, match=str(state)):
        queue.retry(job.id)


def test_count_and_lists_tell_of_every_state(queue, clock):
    """Newest first; states with no job are there with 0."""
    jobs = [add(queue, clock) for _ in range(3)]
    queue.claim()

    assert {
        "pending": 2,
        "running": 1,
        "completed": 0,
        "failed": 0,
        "cancelled": 0,
    } == queue.count()
    assert [j.id for j in reversed(jobs)] == [j.id for j in queue.all()]
    assert [jobs[0].id] == [j.id for j in queue.all([S.RUNNING])]
    assert 3 == len(queue.all(tuple(ACTIVE)))


def test_old_ended_jobs_are_dropped_and_active_ones_never(queue, clock, store):
    """A bounded history."""
    kept = add(queue, clock)
    with store.write() as tx:
        tx.executemany(
            """INSERT INTO job (id, kind, subject, arguments, state, created_ns, unit)
            VALUES (?, 'verify', 's', '{}', 'completed', ?, 'bytes')""",
            [(f"old{n}", n) for n in range(module.KEEP_FINISHED + 50)],
        )
    add(queue, clock)

    ended = [j.id for j in queue.all([S.COMPLETED])]
    assert module.KEEP_FINISHED == len(ended)
    assert f"old{module.KEEP_FINISHED + 49}" == ended[0]
    assert S.PENDING is queue.get(kept.id).state
