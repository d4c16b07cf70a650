"""Whose turn it is: order, limits, and that no slot is ever lost."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from synd.client.remote import PRIORITY, Priority, background, foreground
from synd.client.throttle import Limits, Throttle
from synd.clock import Deadline
from synd.errors import DeadlineExceeded, RateLimited

FRONT, BACK = Priority.FOREGROUND, Priority.BACKGROUND


def soon(seconds: float = 10) -> Deadline:
    return Deadline.after(seconds, "the test")


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_slots_when_all_taken_are_waited_for_in_order() -> None:
    """First come, first served; foreground before background."""

    async def work() -> None:
        throttle = Throttle(Limits(1, 0))
        await throttle.enter(FRONT, soon())
        order: list[str] = []

        async def call(name: str, priority: Priority) -> None:
            await throttle.enter(priority, soon())
            order.append(name)
            throttle.leave(priority)

        calls = []
        for name, priority in (("b1", BACK), ("b2", BACK), ("f1", FRONT), ("f2", FRONT)):
            calls.append(asyncio.create_task(call(name, priority)))
            await settle()
        assert throttle.waiting == 4
        throttle.leave(FRONT)
        await asyncio.gather(*calls)

        assert order == ["f1", "f2", "b1", "b2"]
        assert (throttle.running, throttle.waiting) == (0, 0)

    run(work())


def test_background_when_alone_leaves_one_slot_free() -> None:
    """Of three slots background work takes two, so that a stat finds one."""

    async def work() -> None:
        throttle = Throttle(Limits(3, 0))
        await throttle.enter(BACK, soon())
        await throttle.enter(BACK, soon())
        with pytest.raises(DeadlineExceeded):
            await throttle.enter(BACK, soon(0.02))
        await throttle.enter(FRONT, soon(0.02))

        assert throttle.running == 3

    run(work())


def test_window_when_full_opens_one_window_after_the_oldest_ended() -> None:
    """A request counts until one window after its end."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttle(Limits(10, 4, 0.2))
        began = loop.time()
        # 97 % of 4, rounded down.
        for _ in range(3):
            await throttle.enter(FRONT, soon())
        for _ in range(3):
            loop.call_later(0.1, throttle.leave, FRONT)
        await throttle.enter(FRONT, soon())

        assert loop.time() - began >= 0.3

    run(work())


def test_window_when_full_past_the_deadline_is_rate_limited() -> None:
    """The limit is named as what held the call up."""

    async def work() -> None:
        throttle = Throttle(Limits(10, 2, 60.0))
        await throttle.enter(FRONT, soon())
        throttle.leave(FRONT)
        with pytest.raises(RateLimited):
            await throttle.enter(FRONT, soon(0.02))

    run(work())


def test_request_when_never_sent_does_not_count() -> None:
    """A refused connection used up nothing."""

    async def work() -> None:
        throttle = Throttle(Limits(1, 2, 60.0))
        for _ in range(5):
            await throttle.enter(FRONT, soon(0.02))
            throttle.leave(FRONT, counted=False)

    run(work())


def test_pause_when_asked_for_holds_everybody() -> None:
    """Nobody is let through before it is over."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        throttle = Throttle(Limits(5, 0))
        began = loop.time()
        throttle.pause(0.1)
        await asyncio.gather(*(throttle.enter(p, soon()) for p in (FRONT, BACK)))

        assert loop.time() - began >= 0.1

    run(work())


@pytest.mark.parametrize("moment", ["waiting", "granted"])
def test_wait_when_given_up_loses_no_slot(moment: str) -> None:
    """Cancelled while waiting, or in the very moment of its turn: the slot goes to the next."""

    async def work() -> None:
        throttle = Throttle(Limits(1, 0))
        await throttle.enter(FRONT, soon())
        first = asyncio.create_task(throttle.enter(FRONT, soon()))
        second = asyncio.create_task(throttle.enter(FRONT, soon()))
        await settle()
        if moment == "waiting":
            first.cancel()
            await settle()
            throttle.leave(FRONT)
        else:
            throttle.leave(FRONT)
            first.cancel()
        await second
        await asyncio.gather(first, return_exceptions=True)

        assert first.cancelled()
        assert (throttle.running, throttle.waiting) == (1, 0)

    run(work())


def test_limits_when_raised_let_those_waiting_through() -> None:
    """A service that turns out to bear more is used at once."""

    async def work() -> None:
        throttle = Throttle(Limits(1, 0))
        await throttle.enter(FRONT, soon())
        waiting = asyncio.create_task(throttle.enter(FRONT, soon()))
        await settle()
        throttle.limits = Limits(2, 0)
        await waiting

        assert throttle.running == 2

    run(work())


def test_priority_when_set_reaches_tasks_started_inside() -> None:
    """Background work stays background in the tasks it starts, and can be called to the front."""

    async def seen() -> Priority:
        return PRIORITY.get()

    async def work() -> None:
        with background():
            task = asyncio.create_task(seen())
            with foreground():
                assert PRIORITY.get() is FRONT
        assert PRIORITY.get() is FRONT
        assert await task is BACK

    run(work())
