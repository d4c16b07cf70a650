"""Work in turns: what fails, takes long or is at fault holds up no other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from synd.mirror.turns import Turns
from tests.support.mounts import eventually

Make = Callable[..., Turns]


@pytest.fixture
def turns() -> Iterator[Make]:
    made: list[Turns] = []

    def make(work: Callable[[int], float | None], threads: int = 1) -> Turns:
        made.append(Turns(work, threads=threads, name="turns"))
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_turn_of_what_fails_comes_again_after_those_of_others(turns: Make) -> None:
    """One thread: the first asks to be tried again in a while, and all others are done meanwhile."""
    done: list[int] = []
    tries: list[int] = []
    others = threading.Event()

    def work(number: int) -> float | None:
        if number:
            done.append(number)
            if len(done) == 5:
                others.set()
            return None
        tries.append(len(done))
        return None if others.is_set() else 0.02

    these = turns(work)
    for number in range(6):
        these.add(number)

    assert others.wait(10)
    eventually(lambda: tries and tries[-1] == 5)
    assert done == [1, 2, 3, 4, 5]


def test_turn_of_what_is_large_ends_behind_those_who_wait(turns: Make) -> None:
    """Who has more to do goes to the end of the queue, in the order of asking."""
    left = {1: 3, 2: 2, 3: 1}
    seen: list[int] = []
    go = threading.Event()

    def work(number: int) -> float | None:
        go.wait(10)
        seen.append(number)
        left[number] -= 1
        return 0.0 if left[number] else None

    these = turns(work)
    for number in left:
        these.add(number)
    go.set()

    eventually(lambda: len(seen) == 6)
    assert seen == [1, 2, 3, 1, 2, 1]


def test_turn_that_hangs_leaves_the_other_threads(turns: Make) -> None:
    """The rest is done by those that are free."""
    hangs, done = threading.Event(), []

    def work(number: int) -> float | None:
        if number == 0:
            hangs.wait(10)
        done.append(number)
        return None

    these = turns(work, 2)
    for number in range(4):
        these.add(number)
    eventually(lambda: len(done) == 3)

    assert sorted(done) == [1, 2, 3]
    hangs.set()


def test_turn_of_what_has_one_is_not_given_twice(turns: Make) -> None:
    """Never two threads at one thing."""
    inside, most = 0, 0
    lock, done = threading.Lock(), threading.Event()
    rounds = iter(range(30))

    def work(_number: int) -> float | None:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        these.add(7)
        last = next(rounds, None) is None
        with lock:
            inside -= 1
        if last:
            done.set()
            return None
        return 0.0

    these = turns(work, 3)
    these.add(7)

    assert done.wait(10)
    assert most == 1


@pytest.mark.announces("turn.failed")
def test_turn_when_the_work_is_at_fault_others_go_on(turns: Make) -> None:
    """The fault is told, and the thread lives."""
    done = threading.Event()

    def work(number: int) -> float | None:
        if number == 1:
            raise ZeroDivisionError
        done.set()
        return None

    these = turns(work)
    these.add(1)
    these.add(2)

    assert done.wait(10)


def test_close_ends_what_waits(turns: Make) -> None:
    """Nothing begins afterwards, and the threads are gone."""
    begun: list[int] = []

    def work(number: int) -> float | None:
        begun.append(number)
        return 3600.0

    these = turns(work)
    these.add(1)
    eventually(lambda: begun)
    these.close()
    these.add(2)

    assert begun == [1]
    assert not any(thread.is_alive() for thread in these._threads)
