"""The lane of small files: a thread with an event loop that fetches many of them at once.

Takes work by urgency, runs up to `most` at a time; what each does is a coroutine of the caller's.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from synd.mirror.fetch import Urgency

log = logging.getLogger(__name__)


class Errand:
    """Work for the lane, begun once."""

    __slots__ = ("begun", "run", "urgency")

    def __init__(self, run: Callable[[], Coroutine[Any, Any, None]], urgency: Urgency) -> None:
        self.run = run
        self.urgency = urgency
        self.begun = False


class Lane:
    """One thread. `submit` and `hurry` may be called from any other."""

    def __init__(self, most: int) -> None:
        self._most = max(1, most)
        self._lock = threading.Lock()
        self._queue: list[tuple[int, int, Errand]] = []
        self._numbers = itertools.count()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = False
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False
        self._thread: threading.Thread | None = None

    def submit(self, errand: Errand) -> None:
        with self._lock:
            if self._closed:
                return
            heapq.heappush(self._queue, (errand.urgency, next(self._numbers), errand))
            if self._thread is None:
                started = threading.Event()
                self._thread = threading.Thread(
                    target=self._live, args=(started,), name="transfer-small", daemon=True
                )
                self._thread.start()
                started.wait()
            if self._told:
                return
            # One wake-up for however many come before the lane looks.
            self._told = True
            assert self._loop is not None
            self._loop.call_soon_threadsafe(self._look)

    def hurry(self, errand: Errand, urgency: Urgency) -> None:
        """Moves waiting work forward: somebody reads it now."""
        if not errand.begun and errand.urgency > urgency:
            errand.urgency = urgency
            self.submit(errand)

    def busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._running)

    def _live(self, started: threading.Event) -> None:
        loop = asyncio.new_event_loop()
        self._loop = loop
        started.set()
        try:
            loop.run_forever()
        finally:
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.close()

    def _look(self) -> None:
        with self._lock:
            self._told = False
        self._fill()

    def _fill(self) -> None:
        assert self._loop is not None
        while len(self._running) < self._most:
            with self._lock:
                if not self._queue or self._closed:
                    return
                errand = heapq.heappop(self._queue)[2]
                if errand.begun:
                    continue
                errand.begun = True
            task = self._loop.create_task(errand.run())
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("errand.failed", exc_info=error)
        self._fill()

    def close(self, ending: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Cancels what is under way, runs `ending` on the loop, and waits for the thread's end."""
        with self._lock:
            self._closed = True
            self._queue.clear()
            thread, loop = self._thread, self._loop
        if thread is None or loop is None:
            return

        async def end() -> None:
            for task in list(self._running):
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)
            await ending()
            loop.stop()

        asyncio.run_coroutine_threadsafe(end(), loop)
        thread.join(5.0)
