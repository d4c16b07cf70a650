"""What happens, told to whoever listens: a bounded queue per listener, none may slow the daemon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

from synd.cache.folder import CacheEvent
from synd.clock import format_time
from synd.control import contract
from synd.ids import syn
from synd.jobs.model import Job

BOUND = 1000
"""Events that a slow listener may lag behind; beyond, it is told to look at the status instead."""


class Events:
    """The subscriptions. `of_…` may be called from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queues: set[asyncio.Queue[contract.Event]] = set()

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

    def _tell(self, kind: str, data: dict[str, object]) -> None:
        if self._loop is None or not self._queues:
            return
        event: contract.Event = {"kind": kind, "at": format_time(time.time_ns()), "data": data}
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

    async def subscribe(self) -> AsyncIterator[contract.Event]:
        """Events from now on, until the listener goes."""
        queue: asyncio.Queue[contract.Event] = asyncio.Queue()
        self._queues.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._queues.discard(queue)
