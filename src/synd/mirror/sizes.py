"""Sizes, md5s and file handles in bulk: one view query for a project, else bundles ahead of the reader.

A folder's listing tells no sizes (synapse-rest.md 2.7). Names are answered at once; who stats a file
whose size is not known waits a bounded moment for it, and whoever lists a whole folder waits that
moment once, not once per file.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future

from synd.client.remote import background
from synd.clock import Deadline
from synd.errors import Forbidden, NotFound, SyndError
from synd.ids import EntityId, syn
from synd.mirror.tree import Tree
from synd.model import Kind
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


class Sizes:
    """Fetches details of files. `want` may be called from any thread."""

    def __init__(self, tree: Tree, *, views: str, wait_s: float) -> None:
        self._tree = tree
        self._views = views
        self._wait_s = wait_s
        self._spent: dict[int, tuple[float, float]] = {}
        self._view_lock = asyncio.Lock()
        self.pending: dict[int, int] = {}
        """Folder → files whose size is being asked for; for status."""

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
            self._start_soon(row)
            return None
        return self._tree.flights.board(
            ("size", row.id, object()),
            lambda: self._within(row, left),
            reason="asking for a size",
            what=syn(row.id),
            seconds=left + self._tree.wait_s,
        )

    def prefetch(self, folder: EntityId) -> None:
        """Asks for the sizes of a whole folder in the background. Any thread."""
        flights = self._tree.flights
        flights.soon(lambda: self._in_background(folder))

    def _start_soon(self, row: Row) -> None:
        self.prefetch(row.parent)

    def _in_background(self, folder: EntityId) -> None:
        with background():
            self._task(folder)

    def _task(self, folder: EntityId) -> asyncio.Task[None]:
        task: asyncio.Task[None] = self._tree.flights.task(
            ("sizes", folder), lambda: self._folder(folder)
        )
        return task

    async def _within(self, row: Row, seconds: float) -> Row | None:
        try:
            async with asyncio.timeout(seconds):
                return await self.one(row)
        except TimeoutError:
            return None

    async def one(self, row: Row) -> Row:
        """The row of one file with its size, the folder's others following in the background."""
        unknown = len(self._tree.entities.undetailed(row.parent))
        if unknown >= VIEW_FROM and await self._by_view(row.parent):
            found = self._tree.entities.find(row.id)
            if found is not None and found.detailed:
                return found
        if unknown > 1:
            with background():
                self._task(row.parent)
        detail = self._tree.flights.task(("detail", row.id), lambda: self._tree.detail(row.id))
        found = await asyncio.shield(detail)
        return found  # type: ignore[no-any-return]

    async def _folder(self, folder: EntityId) -> None:
        unknown = self._tree.entities.undetailed(folder)
        self.pending[folder] = len(unknown)
        try:
            if len(unknown) >= VIEW_FROM and await self._by_view(folder):
                unknown = self._tree.entities.undetailed(folder)
            await self._by_bundles(folder, unknown)
        finally:
            self.pending.pop(folder, None)

    async def _by_bundles(self, folder: EntityId, unknown: Sequence[EntityId]) -> None:
        ahead = iter(unknown)

        async def work() -> None:
            for entity in ahead:
                row = self._tree.entities.find(entity)
                if row is None or row.current:
                    continue
                task = self._tree.flights.task(
                    ("detail", entity), lambda e=entity: self._tree.detail(e)
                )
                with contextlib.suppress(NotFound, Forbidden):
                    await asyncio.shield(task)
                self.pending[folder] = self.pending.get(folder, 1) - 1

        workers = [asyncio.create_task(work()) for _ in range(min(BUNDLES_AT_ONCE, len(unknown)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()

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
                await tree.in_writer(lambda rows=rows: tree.entities.apply_view_rows(rows))
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
        remote = self._tree.remote
        found = await remote.find_view(project, VIEW_NAME)
        if found is not None or self._views != "create":
            return found
        return await remote.create_view(project, VIEW_NAME, [project])
