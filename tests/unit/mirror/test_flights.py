"""One coroutine per question, any number of waiters."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from synd.errors import Busy, NotFound, StoreError
from synd.mirror.flights import Flights
from synd.mirror.waits import Waits
from tests.support.mounts import eventually
from tests.support.parts import LoopThread


class Airport:
    """Flights that land when told to."""

    def __init__(self, loop: LoopThread) -> None:
        self.thread = loop
        self.waits = Waits()
        self.flights = Flights(loop.loop, self.waits)
        self.started = 0
        self.gates: list[asyncio.Event] = []
        self.error: BaseException | None = None

    async def fly(self) -> int:
        self.started += 1
        number = self.started
        gate = asyncio.Event()
        self.gates.append(gate)
        await gate.wait()
        if self.error is not None:
            raise self.error
        return number

    def board(self, key: str = "k", seconds: float = 20):
        return self.flights.board(key, self.fly, reason="r", what=key, seconds=seconds)

    def land(self, number: int = 1) -> None:
        eventually(lambda: len(self.gates) >= number)
        self.thread.loop.call_soon_threadsafe(self.gates[number - 1].set)

    def close(self) -> None:
        self.thread.run(self.flights.close())


@pytest.fixture
def airport() -> Iterator[Airport]:
    with LoopThread() as loop:
        made = Airport(loop)
        yield made
        made.close()


def test_flight_with_many_passengers_is_one(airport):
    """A question is asked once however many wait; afterwards it can be asked again."""
    futures = [airport.board() for _ in range(20)]
    airport.land()
    assert [1] * 20 == [f.result(20) for f in futures]

    again = airport.board()
    airport.land(2)
    assert 2 == again.result(20)


def test_flights_with_other_keys_are_others(airport):
    """Nobody waits for a stranger's question."""
    one, two = airport.board("a"), airport.board("b")
    airport.land(2)

    assert 2 == two.result(20)
    assert not one.done()


def test_passenger_who_gives_up_does_not_end_the_flight(airport):
    """Nor does one whose time is over."""
    leaves, late, stays = airport.board(), airport.board(seconds=0.0), airport.board()
    eventually(lambda: airport.gates)
    leaves.cancel()
    airport.waits.expire()
    airport.land()

    assert 1 == stays.result(20)
    assert late.exception(0) is not None
    assert leaves.cancelled()
    assert [] == airport.waits.all()


def test_error_reaches_every_passenger_and_is_not_kept(airport):
    """The next one flies anew."""
    airport.error = NotFound("x")
    futures = [airport.board() for _ in range(3)]
    airport.land()
    assert all(isinstance(f.exception(20), NotFound) for f in futures)

    airport.error = None
    again = airport.board()
    airport.land(2)
    assert 2 == again.result(20)


@pytest.mark.parametrize(
    ("error", "told"), [(NotFound("x"), False), (StoreError("x"), True), (KeyError("x"), True)]
)
def test_error_that_wants_attention_is_logged(airport, caplog, error, told):
    """A flight may have no passenger left to tell of a bug; a missing name is nobody's trouble."""
    caplog.set_level(logging.ERROR)
    airport.error = error
    future = airport.board()
    airport.land()
    future.exception(20)
    airport.close()

    assert told == ("flight.failed" in caplog.text)


def test_close_ends_flights_and_refuses_more(airport):
    """Whoever waits hears that the daemon stops."""
    flying = airport.board()
    eventually(lambda: airport.gates)
    airport.close()
    late = airport.board()

    assert isinstance(flying.exception(20), Busy)
    assert isinstance(late.exception(20), Busy)
    assert 1 == airport.started
