"""Jobs as rows: what the database itself refuses, what may follow what, who is told, many at once.

What the queue promises to callers is in tests/contract/test_queue.py.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.errors import Busy, InvalidTransition, StoreError
from synd.ids import JobId
from synd.jobs.model import ACTIVE, ENDED, TRANSITIONS, Job, JobState, check
from synd.jobs.queue import Queue
from synd.store import states
from synd.store.connect import Store
from synd.testing import FakeClock

S = JobState
ME = "host:boot:1:1"


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


def add(queue: Queue, clock: FakeClock, key: str | None = None) -> Job:
    clock.advance(1)
    return queue.claim("preprocess", "x", {}, workflow_key=key).job


ALLOWED = {
    (S.PENDING, S.RUNNING), (S.PENDING, S.FAILED), (S.PENDING, S.CANCELLED),
    (S.RUNNING, S.COMPLETED), (S.RUNNING, S.FAILED), (S.RUNNING, S.CANCELLED),
}  # fmt: skip


@pytest.mark.parametrize(("before", "after"), list(itertools.product(S, S)), ids=str)
def test_state_when_asked_to_change_follows_the_table(before, after):
    """What is not in the table is a bug of ours, named; a row never runs twice."""
    job = Job(JobId("j"), "k", "s", {}, before, 1)

    assert ((before, after) in ALLOWED) == (after in TRANSITIONS[before])
    if (before, after) in ALLOWED:
        check(job, after)
    else:
        with pytest.raises(InvalidTransition, match=f"{before} to {after}"):
            check(job, after)


@pytest.mark.req("S1-09")
def test_active_states_are_one_constant_for_code_and_index(store):
    """Only pending and running are active, and the unique index says so in the same words."""
    text = store.read.execute("SELECT sql FROM sqlite_master WHERE name = 'job_active'").fetchone()

    assert {S.PENDING, S.RUNNING} == ACTIVE == set(map(S, states.ACTIVE))
    assert set(S) == ACTIVE | ENDED
    assert states.ACTIVE_SQL in text[0]
    assert all(not TRANSITIONS[state] for state in ENDED)


def test_database_when_told_an_unknown_state_refuses(store, queue, clock):
    """The table in code and the CHECK in the schema name the same states."""
    job = add(queue, clock)
    for state in S:
        with store.write() as tx:
            tx.execute("UPDATE job SET state = ? WHERE id = ?", (str(state), job.id))
    with pytest.raises(StoreError, match="CHECK"), store.write() as tx:
        tx.execute("UPDATE job SET state = 'asleep' WHERE id = ?", (job.id,))


@pytest.mark.req("S1-42")
@pytest.mark.parametrize("there", list(S), ids=str)
def test_database_when_told_a_second_active_job_of_a_key_refuses(store, queue, clock, there):
    """Whatever the code above it does; ended ones may be as many as there are."""
    job = add(queue, clock, "k")
    other = add(queue, clock)
    with store.write() as tx:
        tx.execute("UPDATE job SET state = ? WHERE id = ?", (there, job.id))

    def twice() -> None:
        with store.write() as tx:
            tx.execute("UPDATE job SET workflow_key = 'k' WHERE id = ?", (other.id,))

    if there in ACTIVE:
        with pytest.raises(StoreError, match="UNIQUE"):
            twice()
    else:
        twice()


@pytest.mark.req("S1-43")
def test_database_when_told_an_id_again_refuses(store, queue, clock):
    """The id is the fence: it names one attempt."""
    job = add(queue, clock)
    with pytest.raises(StoreError, match="UNIQUE"), store.write() as tx:
        tx.execute(
            """INSERT INTO job (id, kind, subject, arguments, state, created_ns, updated_ns)
            VALUES (?, 'k', 's', '{}', 'failed', 1, 1)""",
            (job.id,),
        )


@pytest.mark.req("S1-30")
@pytest.mark.parametrize("number", [2, 10])
def test_claims_of_one_key_by_many_threads_give_one_fresh_job(store, queue, number):
    """The others attach to it."""
    start = threading.Barrier(number)
    claims = []

    def work() -> None:
        start.wait(20)
        claims.extend(queue.claim("preprocess", "x", {}, workflow_key=f"k{n}") for n in range(20))

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert 20 * number == len(claims)
    assert 20 == sum(claim.fresh for claim in claims)
    assert 20 == len({claim.job.id for claim in claims}) == len(queue.all())


def test_lease_by_many_threads_gives_each_job_to_one(queue, clock):
    """One statement decides."""
    ids = {add(queue, clock).id for _ in range(30)}
    taken: list[str] = []

    def work() -> None:
        while (job := queue.lease(["preprocess"], ME, 60.0)) is not None:
            taken.append(job.id)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)

    assert ids == set(taken)
    assert 30 == len(taken)


def test_listeners_are_told_of_every_job_once_it_is_committed(store, queue, clock):
    """Also of dependants and successors; never of what was rolled back."""
    told: list[tuple[str, S]] = []
    queue.listen(lambda job: told.append((job.id, job.state)))
    first = add(queue, clock)
    after = queue.claim("preprocess", "y", {}, after=[first.id]).job
    assert [(first.id, S.PENDING), (after.id, S.PENDING)] == told
    told.clear()
    queue.cancel(first.id)
    assert {(first.id, S.CANCELLED), (after.id, S.FAILED)} == set(told)
    told.clear()
    with pytest.raises(Busy):
        queue.claim("preprocess", "z", {}, most=0)

    assert [] == told


def test_own_running_jobs_are_not_stale_to_a_claim(store, clock):
    """After a sleep of the machine all leases look over; who runs them here knows better."""
    queue = Queue(store, clock, me=ME)
    job = queue.claim("preprocess", "x", {}, workflow_key="k").job
    queue.mark_running(job.id, ME, 60.0)
    clock.advance(3600)

    assert not queue.claim("preprocess", "x", {}, workflow_key="k").fresh
    assert Queue(store, clock).claim("preprocess", "x", {}, workflow_key="k").fresh


@pytest.mark.req("S1-32")
def test_stage_that_is_recorded_in_a_transaction_goes_with_it(store, queue, clock):
    """Rows of artifacts and the stage are there together, or not at all."""
    job = add(queue, clock)
    queue.mark_running(job.id, ME, 60.0)

    def cut_short() -> None:
        with queue.transaction() as tx:
            assert queue.stage_done(job.id, ME, "data", ["k"], tx)
            tx.execute("INSERT INTO artifact (cache_key) VALUES ('not all that it needs')")

    with pytest.raises(StoreError):
        cut_short()
    assert () == queue.get(job.id).stages
    with queue.transaction() as tx:
        assert queue.stage_done(job.id, ME, "data", ["k"], tx)

    assert ({"stage": "data", "artifacts": ["k"]},) == queue.get(job.id).stages


def test_pause_is_kept_over_a_restart(store, queue):
    """By kind."""
    assert {"a", "b"} == queue.pause(["a", "b"])
    assert {"b"} == queue.pause(["a"], paused=False)

    assert {"b"} == Queue(store).paused()
