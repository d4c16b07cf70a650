"""What the daemon does when asked, as jobs on its own loop: prefetch files, verify the cache.

Leaves when a job begins and what its end means to `syndd.schedule.dispatch`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable

from synd.cache.folder import Cache
from synd.errors import Forbidden, NotFound, SyndError
from synd.ids import ContentKey, EntityId, syn
from synd.jobs.model import Job
from synd.jobs.queue import Queue
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.model import FileVersion, Kind
from synd.store.entities import Row
from syndd.schedule import running
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.running import Run

FILES_AT_ONCE = 32

OnJob = Callable[[Job], None]


class Operations:
    """The jobs of this daemon that are its own work. On its loop."""

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
        dispatcher: Dispatcher | None = None,
    ) -> None:
        """`on_job` is told of every job that changes, on any thread."""
        self.dispatcher = dispatcher or Dispatcher(queue, tree.in_writer)
        self._tree = tree
        self._sizes = sizes
        self._streams = streams
        self._cache = cache
        self._on_fetched = on_fetched
        queue.listen(on_job)
        # What they did stays done, so an end costs nothing; and who asked for them sees why they failed.
        for name, handler in (("prefetch", self._prefetch), ("verify", self._verify)):
            self.dispatcher.register(name, running.Kind(handler, retries=False, drained=False))

    def add(self, kind: str, subject: str, arguments: dict[str, object], unit: str) -> Job:
        """A new job. Raises Busy while the daemon stops."""
        return self.dispatcher.claim(kind, subject, arguments, unit=unit).job

    async def cancel(self, job: str) -> Job:
        """Ends a job that waits or runs; one that has ended stays as it is. Raises NotFound."""
        return await self.dispatcher.cancel(job)

    async def retry(self, job: str) -> Job:
        """A new attempt. Raises NotFound, Busy."""
        return await self.dispatcher.retry(job)

    async def run(self) -> None:
        """Takes jobs for ever."""
        await self.dispatcher.run()

    # Prefetch.

    async def _prefetch(self, job: Job, run: Run) -> dict[str, object]:
        entities = _entities(job)
        report = _Report(run)
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
        async with contextlib.aclosing(self._files(entities, report, failures)) as rows:
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

    async def _verify(self, job: Job, run: Run) -> dict[str, object]:
        stop = threading.Event()
        only = self._keys_below(job)
        checked = 0

        def progress(done: int, total: int) -> None:
            nonlocal checked
            checked += 1
            loop.call_soon_threadsafe(run.progress, done, total)

        loop = asyncio.get_running_loop()
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
    """How far a prefetch is."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._done = 0
        self._total = 0

    def expect(self, amount: int) -> None:
        self._total += amount
        self._run.progress(self._done, self._total)

    def advance(self, amount: int) -> None:
        self._done += amount
        self._run.progress(self._done, self._total)


def _is_bug(task: asyncio.Task[None]) -> bool:
    return not task.cancelled() and task.exception() is not None


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    """Cancels what is left of these, and waits for it."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
