"""The transfer threads: ranges wanted by somebody, most urgent first, one connection each.

Leaves to others: which ranges (`streams`), connections and their failures (`client.transfer`).
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from enum import IntEnum

log = logging.getLogger(__name__)

IDLE_THREAD_S = 20.0
"""A thread with nothing to do ends after so long: an idle daemon has none."""


class Urgency(IntEnum):
    """Who waits."""

    DEMAND = 0
    """A program's read."""
    AHEAD = 1
    """Nobody yet, but a sequential reader will come."""
    BACKGROUND = 2
    """A prefetch that may be dropped."""


class Task:
    """Work for one thread: done once, by whoever takes it first."""

    __slots__ = ("run", "taken", "urgency")

    def __init__(self, run: Callable[[], None], urgency: Urgency) -> None:
        self.run = run
        self.urgency = urgency
        self.taken = False


class Pool:
    """Up to `most` threads, started as work comes in. Any thread may hand in."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._changed = threading.Condition()
        self._queue: list[tuple[int, int, Task]] = []
        self._numbers = itertools.count()
        self._threads = 0
        self._idle = 0
        self._closed = False

    def submit(self, task: Task) -> None:
        with self._changed:
            if self._closed:
                return
            heapq.heappush(self._queue, (task.urgency, next(self._numbers), task))
            if self._idle:
                self._changed.notify()
            # A thread that was told but has not woken yet still counts as idle; it takes one task only.
            if len(self._queue) > self._idle and self._threads < self._most:
                self._threads += 1
                threading.Thread(target=self._work, name="transfer", daemon=True).start()

    def hurry(self, task: Task, urgency: Urgency) -> None:
        """Moves waiting work forward: somebody reads it now."""
        if task.taken or task.urgency <= urgency:
            return
        task.urgency = urgency
        self.submit(task)

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                task.run()
            except Exception:
                log.exception("transfer.failed")

    def _next(self) -> Task | None:
        with self._changed:
            while True:
                while self._queue:
                    task = heapq.heappop(self._queue)[2]
                    if not task.taken:
                        task.taken = True
                        return task
                if self._closed:
                    self._threads -= 1
                    return None
                self._idle += 1
                told = self._changed.wait(IDLE_THREAD_S)
                self._idle -= 1
                if not told and not self._queue:
                    self._threads -= 1
                    return None

    def waiting(self) -> int:
        """Work not begun; an upper bound."""
        return len(self._queue)

    def close(self) -> None:
        """Takes no more work; threads end after what they are at."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
