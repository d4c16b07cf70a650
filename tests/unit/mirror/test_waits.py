"""Every wait has a reason, a start and an end."""

from __future__ import annotations

import sys
import threading
from concurrent.futures import Future

import pytest

from synd.errors import Busy, DeadlineExceeded, NotFound
from synd.mirror.waits import Waits, fail, settle, then
from synd.testing import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def waits(clock: FakeClock) -> Waits:
    return Waits(clock)


def test_wait_past_its_deadline_ends_and_is_counted(waits, clock):
    """Whatever the thing it waited for does."""
    early, late = waits.start("reading", "syn1", 5), waits.start("listing", "syn2", 50)
    clock.advance(5)

    assert 1 == waits.expire()
    with pytest.raises(DeadlineExceeded, match="reading took longer than 5 s"):
        early.result(0)
    assert not late.done()
    assert ["syn2"] == [w.what for w in waits.all()]
    assert 1 == waits.expired_total


def test_wait_that_was_settled_or_cancelled_is_no_wait(waits, clock):
    """The table shows what is waited for, and nothing else."""
    settled, cancelled = waits.start("r", "a", 5), waits.start("r", "b", 5)
    settle(settled, 1)
    cancelled.cancel()

    assert [] == waits.all()
    clock.advance(9)
    assert 0 == waits.expire()
    assert 0 == waits.expired_total


def test_wait_says_why_since_when_and_until_when(waits, clock):
    """For `synd status`."""
    began = clock.monotonic()
    waits.start("reading a file", "syn1", 7)

    (wait,) = waits.all()
    assert ("reading a file", "syn1", began, began + 7) == wait[:4]


def test_end_of_the_daemon_ends_every_wait(waits):
    """With the error that it is told."""
    futures = [waits.start("r", "a", 5) for _ in range(3)]
    waits.fail_all(Busy("stopping"))

    assert all(isinstance(f.exception(0), Busy) for f in futures)
    assert [] == waits.all()


def test_expire_while_others_settle_never_breaks():
    """The deadline loop of the daemon must survive whatever threads do meanwhile."""
    waits = Waits()
    stop = threading.Event()
    problems: list[BaseException] = []

    def churn() -> None:
        try:
            while not stop.is_set():
                for future in [waits.start("r", "a", 60) for _ in range(50)]:
                    settle(future, None)
        except BaseException as error:  # noqa: BLE001 - shown below
            problems.append(error)

    standing = [waits.start("r", "s", 60) for _ in range(2000)]
    threads = [threading.Thread(target=churn) for _ in range(2)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for _ in range(100):
            waits.expire()
            waits.all()
    finally:
        sys.setswitchinterval(before)
        stop.set()
    for thread in threads:
        thread.join(20)

    assert [] == problems
    assert len(standing) == len(waits.all())


def test_settle_and_fail_leave_the_first_answer():
    """Two threads may come at once; a cancelled Future takes none."""
    future: Future[int] = Future()
    assert settle(future, 1)
    assert not settle(future, 2)
    assert not fail(future, NotFound("x"))
    assert 1 == future.result(0)

    gone: Future[int] = Future()
    gone.cancel()
    assert not settle(gone, 1)
    assert not fail(gone, NotFound("x"))


class TestThen:
    def test_then_passes_values_errors_and_ends(self):
        """The target hears what became of the source."""
        for end, seen in (
            (lambda f: f.set_result(2), 4),
            (lambda f: f.set_exception(NotFound("x")), NotFound),
            (lambda f: f.cancel(), None),
        ):
            source: Future[int] = Future()
            target: Future[int] = Future()
            then(source, target, lambda value: value * 2)
            end(source)
            if seen is None:
                assert target.cancelled()
            elif isinstance(seen, int):
                assert seen == target.result(0)
            else:
                assert isinstance(target.exception(0), seen)

    def test_then_gives_the_waiter_what_the_step_raises(self):
        """It is the waiter's own."""
        source: Future[int] = Future()
        target: Future[int] = Future()
        then(source, target, lambda _: 1 // 0)
        source.set_result(1)

        assert isinstance(target.exception(0), ZeroDivisionError)

    def test_then_cancelled_leaves_the_source_alone(self):
        """Others may wait for it."""
        source: Future[int] = Future()
        target: Future[int] = Future()
        then(source, target, lambda value: value)
        target.cancel()

        assert not source.cancelled()
        source.set_result(1)
        assert target.cancelled()
