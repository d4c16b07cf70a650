"""Sizes, md5s and file handles in bulk: one view query for a project, else bundles ahead of the reader.

A folder's listing tells no sizes (synapse-rest.md 2.7). Names are answered at once; who stats a file
whose size is not known waits a bounded moment for it, and whoever lists a whole folder waits that
moment once, not once per file. Meanwhile the folder's other sizes come in, those asked for first.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial

from synd.client.remote import background, foreground
from synd.clock import Deadline
from synd.errors import Forbidden, NotFound, SyndError
from synd.ids import EntityId, syn
from synd.mirror.tree import Tree
from synd.mirror.waits import fail, settle
from synd.model import Entity, Kind
from synd.store.entities import Row

log = logging.getLogger(__name__)

VIEW_FROM = 20
"""So many unknown sizes in a folder are worth a view query: it takes three requests or more."""

VIEW_AGE_S = 30.0
"""A view is not read again so soon: it lags behind by seconds to minutes anyway."""

VIEW_LOOK_AGAIN_S = 600.0
"""Where no view was found, one is looked for again after this."""

BUNDLES_AT_ONCE = 8

BUDGET_RENEWED_S = 10.0
"""A folder that nobody has statted for so long gets its full waiting time again."""

VIEW_NAME = "synd sizes"


class _Folder:
    """The sizes of one folder being asked for."""

    def __init__(self) -> None:
        self.first: deque[EntityId] = deque()
        """Somebody waits for these."""
        self.rest: deque[EntityId] = deque()
        self.done: set[EntityId] = set()
        self.error: SyndError | None = None
        """Why the service cannot be asked any further."""

    def next(self) -> tuple[EntityId, bool] | None:
        while self.first:
            entity = self.first.popleft()
            if entity not in self.done:
                self.done.add(entity)
                return entity, True
        while self.rest:
            entity = self.rest.popleft()
            if entity not in self.done:
                self.done.add(entity)
                return entity, False
        return None


class Sizes:
    """Fetches details of files. `want` and `prefetch` may be called from any thread."""

    def __init__(self, tree: Tree, *, views: str, wait_s: float) -> None:
        self._tree = tree
        self._views = views
        self._wait_s = wait_s
        self._spent: dict[int, tuple[float, float]] = {}
        self._lock = threading.Lock()
        self._waiting: dict[EntityId, list[tuple[float, Future[Row | None]]]] = {}
        # What follows belongs to the loop.
        self._folders: dict[EntityId, _Folder] = {}
        self._busy: set[EntityId] = set()
        """Asked for, and not answered and recorded yet."""
        self._numbers = itertools.count()
        self._fetched: list[Entity] = []
        self._recording: asyncio.Task[None] | None = None
        self._view_lock = asyncio.Lock()

    # From threads.

    def want(self, row: Row) -> Future[Row | None] | None:
        """A Future of the row with its size, or of None when that takes longer than programs should wait.

        None at once when this folder's listing has used up its waiting time: the answer then is
        "not known yet", and the size is asked for all the same.
        """
        now = time.monotonic()
        began, last = self._spent.get(row.parent, (now, now))
        if now - last > BUDGET_RENEWED_S:
            began = now
        self._spent[row.parent] = (began, now)
        if len(self._spent) > 4096:
            self._spent.clear()
        left = self._wait_s - (now - began)
        if left <= 0:
            self._tree.flights.soon(lambda: self._ask(row.parent, row.id))
            return None
        future: Future[Row | None] = self._tree.waits.start(
            "asking for a size", syn(row.id), left + self._tree.wait_s
        )
        with self._lock:
            self._waiting.setdefault(row.id, []).append((now + left, future))
        self._tree.flights.soon(lambda: self._ask(row.parent, row.id))
        return future

    def prefetch(self, folder: EntityId) -> None:
        """Asks for the sizes of a whole folder in the background."""
        self._tree.flights.soon(lambda: self._ask(folder, None))

    def tick(self) -> None:
        """To be called a few times a second: ends the waits whose time is over with "not known"."""
        if not self._waiting:
            return
        now = time.monotonic()
        late: list[Future[Row | None]] = []
        with self._lock:
            for entity in list(self._waiting):
                pairs = self._waiting[entity]
                late.extend(f for until, f in pairs if until <= now)
                left = [p for p in pairs if p[0] > now and not p[1].done()]
                if left:
                    self._waiting[entity] = left
                else:
                    del self._waiting[entity]
        for future in late:
            settle(future, None)

    def pending(self) -> int:
        """Files whose size is still to be asked for, in folders that somebody looks at."""
        return sum(len(f.first) + len(f.rest) for f in self._folders.values())

    # On the loop.

    async def one(self, row: Row) -> Row:
        """The row of one file, known entirely; the folder's others are asked for as well."""
        future: asyncio.Future[Row | None] = asyncio.wrap_future(self._whole_wait(row))
        self._ask(row.parent, row.id)
        found = await future
        return found if found is not None else await self._tree.detail(row.id)

    def _whole_wait(self, row: Row) -> Future[Row | None]:
        future: Future[Row | None] = self._tree.waits.start(
            "asking for a size", syn(row.id), self._tree.wait_s
        )
        with self._lock:
            self._waiting.setdefault(row.id, []).append((float("inf"), future))
        return future

    def _ask(self, folder: EntityId, entity: EntityId | None) -> None:
        """Puts a file first in its folder's queue; starts the folder if it is not being asked for."""
        if entity is not None:
            row = self._tree.entities.find(entity)
            if row is not None and row.current:
                self._settle([row])
                return
        job = self._folders.get(folder)
        if job is None:
            job = self._folders[folder] = _Folder()
            # A key of its own: the folder's last task may not have landed yet.
            key = ("sizes", folder, next(self._numbers))
            with background():
                self._tree.flights.task(key, lambda: self._folder(folder, job))
        if entity is not None and entity not in self._busy:
            # Asked for a moment ago without success, it gets another chance.
            job.done.discard(entity)
            job.first.append(entity)

    async def _folder(self, folder: EntityId, job: _Folder) -> None:
        error: SyndError | None = None
        try:
            unknown = self._tree.entities.undetailed(folder)
            if len(unknown) >= VIEW_FROM and await self._by_view(folder):
                self._settle(
                    r for r in map(self._tree.entities.find, unknown) if r is not None and r.current
                )
                unknown = self._tree.entities.undetailed(folder)
            if len(unknown) > 1:
                job.rest.extend(unknown)
            await self._by_bundles(job)
        except SyndError as exception:
            error = exception
        finally:
            self._folders.pop(folder, None)
            left = [*job.first, *job.rest]
            if error is None and job.first:
                # Came in after the last worker had looked.
                for entity in job.first:
                    self._ask(folder, entity)
            elif error is not None:
                for entity in left:
                    self._fail(entity, error)

    async def _by_bundles(self, job: _Folder) -> None:
        async def work() -> None:
            while job.error is None and (following := job.next()) is not None:
                entity, urgent = following
                row = self._tree.entities.find(entity)
                if row is not None and row.current:
                    self._settle([row])
                    continue
                self._busy.add(entity)
                try:
                    with foreground() if urgent else background():
                        found = await self._tree.fetch_detail(entity)
                except (NotFound, Forbidden) as error:
                    self._fail(entity, error)
                    continue
                except SyndError as error:
                    # The others end what they are at: somebody may wait for that as well.
                    job.error = error
                    self._fail(entity, error)
                    return
                self._record_soon(found)

        workers = [asyncio.create_task(work()) for _ in range(BUNDLES_AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        if self._recording is not None:
            await asyncio.shield(self._recording)
        if job.error is not None:
            raise job.error

    def _record_soon(self, found: Entity) -> None:
        """Rows are written together: while one write is under way, the next batch gathers."""
        self._fetched.append(found)
        if self._recording is None or self._recording.done():
            self._recording = asyncio.create_task(self._record())

    async def _record(self) -> None:
        while self._fetched:
            batch, self._fetched = self._fetched, []
            try:
                self._settle(await self._tree.record_all(batch))
            except SyndError as error:
                for one in batch:
                    self._fail(one.id, error)

    def _settle(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self._busy.discard(row.id)
            with self._lock:
                pairs = self._waiting.pop(row.id, ())
            for _, future in pairs:
                settle(future, row)

    def _fail(self, entity: EntityId, error: SyndError) -> None:
        self._busy.discard(entity)
        with self._lock:
            pairs = self._waiting.pop(entity, ())
        for _, future in pairs:
            fail(future, error)

    # Views.

    async def _by_view(self, folder: EntityId) -> bool:
        """Reads the project's view if that can help; True when details may have come in."""
        if self._views == "off":
            return False
        project = self._tree.entities.project_of(folder)
        if project is None:
            return False
        async with self._view_lock:
            try:
                with foreground():
                    return await self._read_view(project)
            except SyndError as error:
                # Sizes come by bundles then: slower, never wrong.
                log.info(
                    "view.failed", extra={"fields": {"project": syn(project), "why": error.message}}
                )
                return False

    async def _read_view(self, project: EntityId) -> bool:
        tree = self._tree
        now_ns = time.time_ns()
        known = tree.folders.view_of(project)
        if known is not None and 0 <= now_ns - known[1] < VIEW_AGE_S * 1e9:
            return known[0] != 0
        view = known[0] if known else EntityId(0)
        if view == 0:
            if known is not None and 0 <= now_ns - known[1] < VIEW_LOOK_AGAIN_S * 1e9:
                return False
            view = await self._find_or_create(project) or EntityId(0)
        if view == 0:
            await tree.in_writer(lambda: tree.folders.set_view(project, 0, now_ns))
            return False
        deadline = Deadline.after(tree.wait_s, f"reading the view {syn(view)}")
        try:
            async for batch in tree.remote.view_rows(view, deadline=deadline):
                rows = [
                    (
                        r.id,
                        r.version or 0,
                        r.modified_on_ns,
                        r.etag,
                        r.handle,
                        r.md5,
                        r.size,
                        r.file_name,
                    )
                    for r in batch
                ]
                await tree.in_writer(partial(tree.entities.apply_view_rows, rows))
        except (NotFound, Forbidden):
            await tree.in_writer(lambda: tree.folders.set_view(project, 0, now_ns))
            raise
        folders = [
            project,
            *(r.id for r in tree.entities.descendants(project) if Kind(r.kind).is_container),
        ]

        def record() -> None:
            tree.entities.use_view_rows(folders)
            tree.folders.set_view(project, view, now_ns)

        await tree.in_writer(record)
        return True

    async def _find_or_create(self, project: EntityId) -> EntityId | None:
        """A view of the project that anybody made, else our own, else a new one if that is allowed."""
        remote = self._tree.remote
        for row in self._tree.entities.children(project):
            if row.kind == Kind.ENTITY_VIEW:
                with contextlib.suppress(NotFound, Forbidden):
                    if await remote.covers(row.id, project):
                        return row.id
        if self._views != "create":
            return None
        found = await remote.find_view(project, VIEW_NAME)
        if found is not None:
            return found
        try:
            return await remote.create_view(project, VIEW_NAME, [project])
        except Forbidden:
            # A view may look at what its owner may read, wherever it lies itself.
            who = await remote.whoami()
            own = await remote.own_project(f"{VIEW_NAME} of {who.name}")
            name = f"{VIEW_NAME} {syn(project)}"
            found = await remote.find_view(own, name)
            return found or await remote.create_view(own, name, [project])
