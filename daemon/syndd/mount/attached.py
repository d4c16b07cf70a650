"""Waits for something on the daemon's loop that can be given up without giving up what they wait for."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from synd.errors import SyndError
from synd.mirror.waits import fail, settle

log = logging.getLogger(__name__)

T = TypeVar("T")


class Attached:
    """The waits under way. Any thread. Lock order: its lock is a leaf."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._waiting: set[Future[Any]] = set()
        self._over: SyndError | None = None

    def begin(self, work: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Settled when `work` has ended, and cancels it when it is settled otherwise.

        When the loop ends before, it is never answered: whoever takes the mount over is asked again.
        """
        answer: Future[T] = Future()
        tasks: list[asyncio.Task[T]] = []

        def start() -> None:
            if not answer.done():
                task = self._loop.create_task(work(), name="attached")
                tasks.append(task)
                task.add_done_callback(landed)

        def landed(task: asyncio.Task[T]) -> None:
            if task.cancelled():
                return
            error = task.exception()
            if error is None:
                settle(answer, task.result())
                return
            if not isinstance(error, SyndError):
                log.error("ready.failed", exc_info=error)
            fail(answer, error)

        def end() -> None:
            for task in tasks:
                task.cancel()

        def over(_: Future[T]) -> None:
            with self._lock:
                self._waiting.discard(answer)
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(end)

        with self._lock:
            self._waiting.add(answer)
            given_up = self._over
        answer.add_done_callback(over)
        if given_up is not None:
            fail(answer, given_up)
        else:
            self._loop.call_soon_threadsafe(start)
        return answer

    def give_up(self, error: SyndError) -> None:
        """Ends every wait, and every one to come."""
        with self._lock:
            self._over = error
            waiting = list(self._waiting)
        for one in waiting:
            fail(one, error)
