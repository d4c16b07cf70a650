"""Coroutines of the daemon's loop, shared by threads: one flight per key, any number of passengers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Hashable
from concurrent.futures import Future
from typing import Any

from synd.errors import Busy, SyndError
from synd.mirror.waits import Waits, fail, settle

log = logging.getLogger(__name__)


class Flights:
    """Starts a coroutine unless one with the same key is under way, and lets threads wait for it.

    A passenger who gives up (cancels, or comes to the deadline) does not end the flight.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, waits: Waits) -> None:
        self._loop = loop
        self._waits = waits
        self._tasks: dict[Hashable, asyncio.Task[Any]] = {}
        self._closed = False

    def board(
        self,
        key: Hashable,
        start: Callable[[], Coroutine[Any, Any, Any]],
        *,
        reason: str,
        what: str,
        seconds: float,
    ) -> Future[Any]:
        """From any thread: a Future of the flight's result, bounded by `seconds`."""
        future = self._waits.start(reason, what, seconds)
        self._loop.call_soon_threadsafe(self._attach, key, start, future)
        return future

    def soon(self, call: Callable[[], object]) -> None:
        """Runs `call` on the loop. Any thread."""
        self._loop.call_soon_threadsafe(call)

    def _attach(
        self, key: Hashable, start: Callable[[], Coroutine[Any, Any, Any]], future: Future[Any]
    ) -> None:
        if self._closed:
            fail(future, Busy("the daemon is stopping"))
            return
        task = self.task(key, start)

        def done(finished: asyncio.Task[Any]) -> None:
            if finished.cancelled():
                fail(future, Busy("the daemon is stopping"))
            elif (error := finished.exception()) is not None:
                fail(future, error)
            else:
                settle(future, finished.result())

        task.add_done_callback(done)

    def task(
        self, key: Hashable, start: Callable[[], Coroutine[Any, Any, Any]]
    ) -> asyncio.Task[Any]:
        """On the loop: the flight's task. Await it through asyncio.shield."""
        task = self._tasks.get(key)
        if task is None:
            task = self._loop.create_task(start())
            self._tasks[key] = task
            task.add_done_callback(lambda finished: self._landed(key, finished))
        return task

    def _landed(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(key, None)
        if task.cancelled():
            return
        error = task.exception()  # marks it as seen: a flight may have no passenger left
        if error is None:
            return
        if not isinstance(error, SyndError):
            log.error("flight.failed", exc_info=error)
        elif error.level >= logging.ERROR:
            log.error("flight.failed", extra={"fields": {"what": key, "why": error.message}})

    async def close(self) -> None:
        """Cancels what is under way and waits for its end."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
