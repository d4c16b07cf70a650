"""Every wait of a user's program: its reason, its start, its deadline.

Nothing hangs: a wait past its deadline ends in DeadlineExceeded, whatever the thing it waited for does.
`synd status` shows what is in here.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, NamedTuple, TypeVar

from synd.clock import SYSTEM, Clock
from synd.errors import DeadlineExceeded, SyndError

T = TypeVar("T")


class Wait(NamedTuple):
    """One program's wait. Times are monotonic seconds."""

    reason: str
    what: str
    since: float
    until: float
    future: Future[Any]


class Waits:
    """The waits under way. Any thread."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._waits: dict[int, Wait] = {}
        self._numbers = itertools.count(1)
        self.expired_total = 0

    def start(self, reason: str, what: str, seconds: float) -> Future[Any]:
        """A Future that somebody will settle; after `seconds` the table does, with DeadlineExceeded."""
        future: Future[Any] = Future()
        number = next(self._numbers)
        now = self._clock.monotonic()
        with self._lock:
            self._waits[number] = Wait(reason, what, now, now + seconds, future)
        future.add_done_callback(lambda _: self._waits.pop(number, None))
        return future

    def expire(self) -> int:
        """Ends the waits whose deadline has passed; how many."""
        now = self._clock.monotonic()
        # A copy: waits leave the table on whatever thread settles them, without the lock.
        late = [w for w in self.all() if w.until <= now]
        for wait in late:
            error = DeadlineExceeded(
                f"{wait.reason} took longer than {wait.until - wait.since:g} s",
                hint="the service or the network is slow; `synd status` shows what is under way",
                path=wait.what,
            )
            if fail(wait.future, error):
                self.expired_total += 1
        return len(late)

    def all(self) -> list[Wait]:
        with self._lock:
            return list(self._waits.values())

    def fail_all(self, error: SyndError) -> None:
        """Ends every wait: the daemon stops."""
        for wait in self.all():
            fail(wait.future, error)


def settle(future: Future[T], value: T) -> bool:
    """Gives a Future its value unless somebody was quicker."""
    if future.done():
        return False
    try:
        future.set_result(value)
    except InvalidStateError:
        return False
    return True


def fail(future: Future[Any], error: BaseException) -> bool:
    """Gives a Future its error unless somebody was quicker."""
    if future.done():
        return False
    try:
        future.set_exception(error)
    except InvalidStateError:
        return False
    return True


def then(source: Future[T], target: Future[Any], step: Callable[[T], Any]) -> Future[Any]:
    """Settles `target` with what `step` makes of `source`'s value; errors pass through.

    Cancelling `target` leaves `source` alone: others may wait for it.
    """

    def done(finished: Future[T]) -> None:
        if finished.cancelled():
            target.cancel()
            return
        error = finished.exception()
        if error is not None:
            fail(target, error)
            return
        try:
            settle(target, step(finished.result()))
        except BaseException as exception:  # noqa: BLE001 - it belongs to the waiter
            fail(target, exception)

    source.add_done_callback(done)
    return target
