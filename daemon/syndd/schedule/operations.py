"""What the daemon does when asked, as jobs: prefetch files, verify the cache.

One runner takes the oldest pending job; a job killed with the daemon is taken again after the restart.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from synd.cache.folder import Cache
from synd.errors import Forbidden, NotFound, StoreError, SyndError
from synd.ids import ContentKey, EntityId, JobId, syn
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.model import FileVersion, Kind
from synd.store.entities import Row

log = logging.getLogger(__name__)

FILES_AT_ONCE = 32
REPORT_S = 0.25
CLAIM_AGAIN_S = 5.0
"""After the store failed."""

OnJob = Callable[[Job], None]


class Operations:
    """Runs the jobs of this daemon, on its loop."""

    def __init__(
        self,
        queue: Queue,
        tree: Tree,
        sizes: Sizes,
        streams: Streams,
        cache: Cache,
        *,
        on_job: OnJob,
        on_fetched: Callable[[FileVersion], None],
    ) -> None:
        self._queue = queue
        self._tree = tree
        self._sizes = sizes
        self._streams = streams
        self._cache = cache
        self._on_job = on_job
        self._on_fetched = on_fetched
        self._wake = asyncio.Event()
        self._running: dict[JobId, asyncio.Task[Any]] = {}

    def add(self, kind: str, subject: str, arguments: dict[str, object], unit: str) -> Job:
        job = self._queue.add(kind, subject, arguments, unit)
        self._on_job(job)
        self._wake.set()
        return job

    def cancel(self, job: str) -> Job:
        """Ends a job that waits or runs; one that has ended stays as it is. Raises NotFound."""
        found = self._queue.get(job)
        task = self._running.get(found.id)
        if task is not None:
            task.cancel()
        ended = self._queue.finish(found.id, JobState.CANCELLED)
        self._on_job(ended)
        return ended

    def retry(self, job: str) -> Job:
        again = self._queue.retry(job)
        self._on_job(again)
        self._wake.set()
        return again

    async def run(self) -> None:
        """Takes jobs for ever."""
        self._queue.reclaim()
        while True:
            self._wake.clear()
            try:
                job = await self._tree.in_writer(self._queue.claim)
            except StoreError as error:
                # A full disk, say: the mount goes on, and the jobs once there is room.
                log.error(  # noqa: TRY400 - expected: the reason is all there is to say
                    "job.not_claimed", extra={"fields": {"why": error.message}}
                )
                await asyncio.sleep(CLAIM_AGAIN_S)
                continue
            if job is None:
                await self._wake.wait()
                continue
            if self._queue.get(job.id).state is not JobState.RUNNING:
                continue  # Cancelled while it was being claimed.
            task = asyncio.create_task(self._one(job))
            self._running[job.id] = task
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError:
                task.cancel()
                await asyncio.wait({task})
                raise
            finally:
                self._running.pop(job.id, None)

    async def _one(self, job: Job) -> None:
        handlers = {"prefetch": self._prefetch, "verify": self._verify}
        try:
            result = await handlers[job.kind](job)
        except asyncio.CancelledError:
            # By the user: the row says so already. By the daemon's end: it is taken again.
            return
        except SyndError as error:
            ended = self._queue.finish(job.id, JobState.FAILED, problem=error.problem())
        except Exception as error:
            log.exception("job.failed")
            bug = SyndError(f"{job.kind} failed: {error!r}")
            ended = self._queue.finish(job.id, JobState.FAILED, problem=bug.problem())
        else:
            ended = self._queue.finish(job.id, JobState.COMPLETED, result=result)
        self._on_job(ended)

    # Prefetch.

    async def _prefetch(self, job: Job) -> dict[str, object]:
        entities = _entities(job)
        report = _Report(self, job)
        fetched = there = 0
        failures: list[dict[str, object]] = []
        slots = asyncio.Semaphore(FILES_AT_ONCE)

        async def one(row: Row) -> None:
            nonlocal fetched, there
            try:
                file = row.file()
                size = file.size or 0
                if not size or self._cache.has(file.key, size):
                    there += 1
                else:
                    await asyncio.wrap_future(self._streams.whole(file))
                    self._on_fetched(file)
                    fetched += 1
                report.advance(size)
            except (Forbidden, NotFound, SyndError) as error:
                failures.append(error.problem() | {"entity": syn(row.id)})
            finally:
                slots.release()

        tasks: set[asyncio.Task[None]] = set()
        async with (
            report.written(),
            contextlib.aclosing(self._files(entities, report, failures)) as rows,
        ):
            try:
                async for row in rows:
                    await slots.acquire()
                    task = asyncio.create_task(one(row))
                    tasks.add(task)
                    task.add_done_callback(
                        lambda ended: None if _is_bug(ended) else tasks.discard(ended)
                    )
                await asyncio.gather(*tasks)
            finally:
                await _end(tasks)
        if failures and not fetched and not there:
            first = failures[0]
            raise SyndError(str(first["title"]), hint=str(first.get("hint", "")))
        return {
            "fetched": fetched,
            "already_here": there,
            "failed": failures[:100],
            "failures": len(failures),
        }

    async def _files(
        self, entities: list[EntityId], report: _Report, failures: list[dict[str, object]]
    ) -> AsyncGenerator[Row, None]:
        """The files at and below these entities, with their sizes; folders listed as needed."""
        waiting = list(reversed(entities))
        while waiting:
            entity = waiting.pop()
            try:
                row = await self._tree.resolve(entity)
                if Kind(row.kind).is_container:
                    if not self._tree.folders.is_listed(entity):
                        await self._tree.list_folder(entity)
                    children = self._tree.entities.children(entity)
                    waiting.extend(r.id for r in reversed(children) if Kind(r.kind).is_container)
                    files = [r for r in children if r.kind in (Kind.FILE, Kind.RECORD_SET)]
                else:
                    files = [row] if row.kind in (Kind.FILE, Kind.RECORD_SET) else []
                if any(not r.current for r in files):
                    files = [await self._sizes.one(r) if not r.current else r for r in files]
            except (Forbidden, NotFound) as error:
                failures.append(error.problem() | {"entity": syn(entity)})
                continue
            report.expect(sum(r.size or 0 for r in files))
            for found in files:
                if found.key is None or found.unmet_terms:
                    denied = Forbidden(f"you may not download {found.name!r}")
                    failures.append(denied.problem() | {"entity": syn(found.id)})
                    continue
                yield found

    # Verify.

    async def _verify(self, job: Job) -> dict[str, object]:
        stop = threading.Event()
        report = _Report(self, job)
        only = self._keys_below(job)
        checked = 0

        def progress(done: int, total: int) -> None:
            nonlocal checked
            checked += 1
            report.done, report.total = done, total

        async with report.written():
            try:
                found = await asyncio.to_thread(
                    self._cache.verify_all, progress, stop.is_set, only=only
                )
            finally:
                stop.set()
        bad = [str(key) for key in found]
        self._streams.forgive_all()
        return {
            "checked": checked,
            "bad": len(bad),
            "repaired": len(bad),
            "contents": bad,
        }

    def _keys_below(self, job: Job) -> frozenset[ContentKey] | None:
        """The contents at and below the job's entities; None when it names none."""
        entities = _entities(job)
        if not entities:
            return None
        rows = (r for e in entities for r in self._tree.entities.descendants(e))
        return frozenset(r.key for r in rows if r.key is not None)


def _entities(job: Job) -> list[EntityId]:
    found = job.arguments["entities"]
    return [EntityId(int(str(e))) for e in found]  # type: ignore[attr-defined]


class _Report:
    """A job's progress, written a few times a second and not per byte."""

    def __init__(self, operations: Operations, job: Job) -> None:
        self._operations = operations
        self._job = job
        self._written = (-1, -1)
        self.done = 0
        self.total = 0
        self.began = time.monotonic()

    def expect(self, amount: int) -> None:
        self.total += amount

    def advance(self, amount: int) -> None:
        self.done += amount

    def write(self) -> None:
        if self._written == (self.done, self.total):
            return
        self._written = (self.done, self.total)
        queue = self._operations._queue  # noqa: SLF001
        queue.progress(self._job.id, self.done, self.total)
        with contextlib.suppress(NotFound):
            self._operations._on_job(queue.get(self._job.id))  # noqa: SLF001

    @contextlib.asynccontextmanager
    async def written(self) -> AsyncIterator[None]:
        """Writes the progress while the block runs, and at its end."""
        ticker = asyncio.create_task(self._tick())
        try:
            yield
        finally:
            await _end({ticker})
        self.write()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self.write()


def _is_bug(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels what is left of these, and waits for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
