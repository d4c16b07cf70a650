"""What happens, told to whoever listens: a bounded queue per listener, none may slow the daemon."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import AsyncIterator

from synd.cache.folder import CacheEvent
from synd.clock import format_time
from synd.control import changes, contract
from synd.ids import syn
from synd.jobs.model import Job

BOUND = 1000
"""Events that a slow listener may lag behind; beyond, it is told to look at the status instead."""

KEPT = 1000
"""Events that are remembered for listeners that ask what happened lately."""


class Events:
    """The subscriptions. `of_…` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[contract.Event]] = set()
        self._recent: deque[contract.Event] = deque(maxlen=KEPT)
        self._count = 0
        self._last_edit: dict[str, object] = {}
        # Of the count and the recent ones; a leaf.
        self._lock = threading.Lock()

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def of_cache(self, event: CacheEvent) -> None:
        self._tell("content", {"what": str(event.what), "key": event.key, "bytes": event.bytes})

    def of_content(self, entity: int, state: str) -> None:
        self._tell("content", {"entity": syn(entity), "state": state})

    def of_name(self, folder: int, name: bytes, entity: int, *, gone: bool) -> None:
        self._tell(
            "name",
            {
                "folder": syn(folder) if folder else "",
                "name": name.decode(errors="replace"),
                "entity": syn(entity),
                "gone": gone,
            },
        )

    def of_job(self, job: Job) -> None:
        self._tell(
            "job",
            {
                "id": job.id,
                "kind": job.kind,
                "state": str(job.state),
                "done": job.done,
                "total": job.total,
            },
        )

    def of_problem(self, title: str, entity: int) -> None:
        self._tell("problem", {"title": title, "entity": syn(entity)})

    def of_edit(self, change: changes.Unsent, *, sent: bool = False) -> None:
        """A local change was queued, sent, or refused."""
        data: dict[str, object] = {**change, "state": "sent"} if sent else {**change}
        if data != self._last_edit:
            # Who sends may tell of one step twice.
            self._last_edit = data
            self._tell("edit", data)

    def of_discarded(self, path: str) -> None:
        self._tell("edit", {"path": path, "state": "discarded"})

    def of_conflict(self, conflict: changes.Conflict) -> None:
        self._tell("conflict", {**conflict})

    def _tell(self, kind: str, data: dict[str, object]) -> None:
        at = format_time(time.time_ns())
        with self._lock:
            self._count += 1
            event: contract.Event = {"id": self._count, "kind": kind, "at": at, "data": data}
            self._recent.append(event)
        if self._loop is not None and self._queues:
            self._loop.call_soon_threadsafe(self._put, event)

    def _put(self, event: contract.Event) -> None:
        missed: contract.Event = {"kind": "status", "at": event["at"], "data": {"missed": True}}
        for queue in self._queues:
            if queue.qsize() < BOUND:
                queue.put_nowait(event)
                continue
            while not queue.empty():
                queue.get_nowait()
            queue.put_nowait(missed)

    async def subscribe(
        self, since_at: str | None = None, *, follow: bool = True
    ) -> AsyncIterator[contract.Event]:
        """Events from now on, until the listener goes. With `since_at` (ISO time) the remembered ones from
        then on come first; without `follow` nothing comes after them.
        """
        queue: asyncio.Queue[contract.Event] = asyncio.Queue()
        if follow:
            self._queues.add(queue)
        try:
            last = 0
            for event in self._since(since_at) if since_at is not None else ():
                last = event["id"]
                yield event
            while follow:
                event = await queue.get()
                # One that happened just between may be both remembered and queued.
                if event.get("id", last + 1) > last:
                    yield event
        finally:
            self._queues.discard(queue)

    def _since(self, at: str) -> list[contract.Event]:
        with self._lock:
            return [e for e in self._recent if e["at"] >= at]
