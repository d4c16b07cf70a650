"""Jobs that failed for want of something, taken up again by themselves when that has changed.

A login, a program, room on the disk, another version of the file: what there was when the daemon last looked is
kept in the store, so a change while it was down counts too. A job is taken up once per change, and only while
nobody has asked for the same again meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from synd.config import Config
from synd.errors import Busy, NotFound, SyndError
from synd.ids import EntityId, JobId, syn
from synd.jobs.failures import Again, Failure
from synd.jobs.model import Job
from synd.jobs.queue import Queue
from synd.log import fields
from synd.processors.base import Tools
from synd.processors.tools import Step, Toolchain
from synd.store import meta
from synd.store.connect import Store
from synd.store.entities import Change
from syndd.schedule.dispatch import Dispatcher

log = logging.getLogger(__name__)

LOOK_S: Final = 10.0
"""What nobody tells of is looked at so often, while a job waits for it; else never."""

ROOM_BYTES_LEAST: Final = 64 << 20
ROOM_FACTOR: Final = 3
"""So many times a file's size must have become free since its job failed for want of room."""

_SEEN: Final = "jobs.seen"
"""The row of `meta` that holds what there was of each class, as JSON."""

_STALE: Final = frozenset({Failure.SOURCE_CHANGED, Failure.SOURCE_GONE})
"""What is known of the file may be old."""

_OF_FILE: Final = frozenset(
    failure
    for failure in Failure
    if failure.meaning.of_content
    or failure in (Failure.SOURCE_CHANGED, Failure.SOURCE_GONE, Failure.SOURCE_FORBIDDEN)
)
"""What another version of the file may mend."""


class Revival:
    """Takes jobs up again. On the daemon's loop."""

    def __init__(
        self,
        queue: Queue,
        dispatcher: Dispatcher,
        store: Store,
        *,
        marks: Mapping[Failure, Callable[[], str]],
        free_bytes: Callable[[], int],
        make_room: Callable[[int], bool],
        prepare: Callable[[EntityId], Awaitable[object]],
        refresh: Callable[[EntityId], Awaitable[object]],
        look_s: float = LOOK_S,
    ) -> None:
        """`marks`: what tells the present state of things by the class of failure that a lack of them makes; a mark
        that differs from the last is a change. They are called in threads. `prepare` claims a job for what a
        file is now; `refresh` asks the service what that is, and has `changed` told.
        """
        self._queue = queue
        self._dispatcher = dispatcher
        self._store = store
        self._marks = marks
        self._free_bytes = free_bytes
        self._make_room = make_room
        self._prepare = prepare
        self._refresh = refresh
        self._look_s = look_s
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._looked = self._some_wait = False
        self._files: set[EntityId] = set()
        """Whose content is another one than before, as far as not looked at."""
        self._doubtful: set[EntityId] = set()
        """Files that are not what was known of them."""
        self._fresh: set[Failure] = set()
        """Classes of which a job failed just now: things are as it found them, however they were before."""
        self._free: dict[JobId, int] = {}
        """Free bytes when a job that lacked room was first seen."""
        queue.listen(self._heard)

    def changed(self, changes: Sequence[Change]) -> None:
        """Hears of what the service changed. Any thread."""
        files = {one.id for one in changes if one.moved_on or one.rewritten}
        if files:
            self._soon(lambda: self._files.update(files))

    def _heard(self, job: Job) -> None:
        """A job changed. Any thread."""
        failure = job.failure
        if failure is not None and failure.meaning.again is Again.AFTER_CHANGE:
            self._soon(lambda: self._fresh.add(failure))
        elif failure in _STALE and isinstance(entity := job.arguments.get("entity"), int):
            self._soon(lambda: self._doubtful.add(EntityId(entity)))

    def _soon(self, first: Callable[[], object] | None = None) -> None:
        def on_loop() -> None:
            if first is not None:
                first()
            self._wake.set()

        with contextlib.suppress(RuntimeError):  # the loop ended just now
            self._loop.call_soon_threadsafe(on_loop)

    async def run(self) -> None:
        """Looks for ever: at once, when something is heard of, and now and then while a job waits."""
        while True:
            self._wake.clear()
            try:
                await self.look()
            except SyndError as error:
                # The store, or the daemon stops: another time.
                log.info("revival.failed", extra=fields(why=error.message))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._look_s if self._some_wait else None):
                    await self._wake.wait()

    async def look(self) -> list[JobId]:
        """Takes up what may succeed now; the failed jobs that have a successor for it."""
        waiting = await asyncio.to_thread(self._waiting)
        changed: set[Failure] = set()
        if waiting or not self._looked:
            fresh, self._fresh = self._fresh, set()
            changed = await asyncio.to_thread(self._compare) - fresh
        self._looked, self._some_wait = True, bool(waiting)
        self._free = {job.id: self._free[job.id] for job in waiting if job.id in self._free}
        taken: list[JobId] = []
        for job in waiting:
            assert job.failure is not None  # a failed one
            if job.failure in changed or (
                job.failure is Failure.NO_SPACE and await asyncio.to_thread(self._has_room_now, job)
            ):
                with contextlib.suppress(Busy, NotFound):  # somebody else was first
                    again = await self._dispatcher.retry(job.id)
                    taken.append(job.id)
                    log.info(
                        "job.revived", extra=fields(job=job.id, again=again.id, after=job.failure)
                    )
        await self._of_files()
        return taken

    def _compare(self) -> set[Failure]:
        """Classes whose circumstances are others than last time."""
        before: dict[str, str] = json.loads(meta.get(self._store, _SEEN) or "{}")
        now = {str(failure): tell() for failure, tell in self._marks.items()}
        if now != before:
            meta.put(self._store, _SEEN, json.dumps(now))
        return {f for f in self._marks if before.get(str(f)) != now[str(f)]}

    def _waiting(self) -> list[Job]:
        """Failed jobs that wait for a change, oldest first, one for each work."""
        wanted = [f for f in Failure if f.meaning.again is Again.AFTER_CHANGE]
        found = [job for job in self._queue.retryable(wanted) if job.workflow_key]
        if not found:
            return []
        newest = self._newest()
        return [job for job in found if newest.get(job.workflow_key or "") == job.id]

    def _newest(self) -> dict[str, JobId]:
        """Work → the last job that was made for it, whatever became of it."""
        return {job.workflow_key: job.id for job in reversed(self._queue.all()) if job.workflow_key}

    def _has_room_now(self, job: Job) -> bool:
        free = self._free_bytes()
        needed = max(ROOM_BYTES_LEAST, ROOM_FACTOR * _size(job))
        first = self._free.setdefault(job.id, free)
        if free - first >= needed:
            return True
        # Cached content gives way, but once: what did not help then does not help again.
        seen_now = first == free and not self._failed_so_before(job)
        return seen_now and self._make_room(needed)

    def _failed_so_before(self, job: Job) -> bool:
        if job.retry_of is None:
            return False
        try:
            return self._queue.get(job.retry_of).failure is job.failure
        except NotFound:
            return False

    async def _of_files(self) -> None:
        """Prepares what became of files whose jobs failed for what they were."""
        doubtful, self._doubtful = self._doubtful, set()
        for entity in doubtful:
            with contextlib.suppress(SyndError):  # it may be gone indeed, or the service away
                await self._refresh(entity)
        files, self._files = self._files, set()
        if not files:
            return
        newest = await asyncio.to_thread(self._newest)
        failed = await asyncio.to_thread(self._queue.retryable, _OF_FILE)
        wanted = {
            job.arguments.get("entity")
            for job in failed
            if job.workflow_key and newest.get(job.workflow_key) == job.id
        }
        for entity in files & wanted:
            try:
                await self._prepare(entity)
            except SyndError as error:
                log.info(
                    "revival.not_prepared", extra=fields(entity=syn(entity), why=error.message)
                )


def marks(config: Config, login: str, cache: Path) -> Mapping[Failure, Callable[[], str]]:
    """Those of the daemon: who is logged in, which tools and references there are, and which room they may have.

    Nothing of `login` can be read from its mark.
    """

    def tools() -> str:
        found = Toolchain(Tools(config.tools))
        programs = [f"{tool.name}:{tool.path}" for step in Step if (tool := found.find(step))]
        # Where the references of CRAM files are.
        return " ".join(
            [*programs, *(os.environ.get(name, "") for name in ("REF_PATH", "REF_CACHE"))]
        )

    who = hashlib.sha256(login.encode()).hexdigest()
    room = f"{cache} {config.cache_keep_free_bytes} {config.cache_max_bytes}"
    return {
        Failure.SOURCE_FORBIDDEN: lambda: who,
        Failure.TOOL_MISSING: tools,
        Failure.NO_SPACE: lambda: room,
    }


def _size(job: Job) -> int:
    found = job.arguments.get("size")
    return found if isinstance(found, int) else 0
