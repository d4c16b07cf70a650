"""Work on many things in turns, on a few threads: what fails or takes long holds up no other."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

from synd.log import fields

log = logging.getLogger(__name__)

AFTER_A_FAULT_S = 60.0
"""When the work itself is at fault its thing is tried again so much later."""


class Turns:
    """Things by number, each worked on by one thread at a time, those whose turn came first before others.

    Any thread. The threads are made when there is work, and end with `close`.
    """

    def __init__(self, work: Callable[[int], float | None], *, threads: int, name: str) -> None:
        """`work` does a bounded part of what is to be done for a number. It answers None when nothing is
        left to do, else after how many seconds its next turn comes; 0 is behind those that wait now.
        """
        self._work = work
        self._most = threads
        self._name = name
        self._changed = threading.Condition()
        self._queue: list[tuple[float, int, int]] = []
        """(monotonic time of its turn, order, number); a heap."""
        self._known: set[int] = set()
        """What waits or is being worked on."""
        self._orders = itertools.count()
        self._threads: list[threading.Thread] = []
        self._idle = 0
        self._closed = False

    def add(self, number: int) -> None:
        """Gives a number its turn, unless it has one."""
        with self._changed:
            if self._closed or number in self._known:
                return
            self._known.add(number)
            self._wait_locked(number, 0.0)
            if not self._idle and len(self._threads) < self._most:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._threads.append(thread)
                thread.start()

    def close(self) -> None:
        """Ends the threads when the work under way has ended; what waits is forgotten."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._known.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _wait_locked(self, number: int, seconds: float) -> None:
        heapq.heappush(self._queue, (time.monotonic() + seconds, next(self._orders), number))
        self._changed.notify()

    def _run(self) -> None:
        while (number := self._next()) is not None:
            again_s: float | None = AFTER_A_FAULT_S
            try:
                again_s = self._work(number)
            except Exception:
                log.exception("turn.failed", extra=fields(of=self._name, number=number))
            with self._changed:
                if again_s is None or self._closed:
                    self._known.discard(number)
                else:
                    self._wait_locked(number, again_s)

    def _next(self) -> int | None:
        """The number whose turn it is, waited for; None: there is no more work."""
        with self._changed:
            while not self._closed:
                left_s = self._queue[0][0] - time.monotonic() if self._queue else None
                if left_s is not None and left_s <= 0:
                    return heapq.heappop(self._queue)[2]
                self._idle += 1
                self._changed.wait(left_s)
                self._idle -= 1
            return None
