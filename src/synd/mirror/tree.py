"""The known tree: folders listed, entities detailed, versions told, each asked for at most once at a time.

Answers come from the store whenever it has them; the service is asked for what it has not, in
flights that any number of programs may wait for. Who wants to hear of changes gives `on_changes`.
Leaves sizes in bulk to `sizes`, polling to `poll`, bytes to `streams`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from synd.client.remote import Remote
from synd.clock import SYSTEM, Clock, Deadline
from synd.errors import Forbidden, NotFound, SyndError
from synd.ids import EntityId, syn
from synd.mirror.flights import Flights
from synd.mirror.waits import Waits
from synd.model import ChildrenPage, Entity, FileVersion, Header, VersionInfo
from synd.store.connect import Store
from synd.store.entities import TOP, Change, Entities, Row
from synd.store.folders import Folders

T = TypeVar("T")
log = logging.getLogger(__name__)

OnChanges = Callable[[Sequence[Change]], None]


class Probing(Protocol):
    """Finds the size of what the service only links to."""

    async def look(self, file: FileVersion) -> FileVersion: ...


VERSIONS_PAGE = 50
PAGES_AT_ONCE = 8
"""Pages of one listing under way; the client's own limits come on top."""

RELISTS = 3
"""Offset pages can skip entries while others change the folder; so often a listing is begun anew."""


class Tree:
    """Folders and entities. Methods that return a Future may be called from any thread."""

    def __init__(
        self,
        store: Store,
        remote: Remote,
        loop: asyncio.AbstractEventLoop,
        waits: Waits,
        *,
        projects: Sequence[EntityId] = (),
        wait_s: float = 60.0,
        probe: Probing | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self.entities = Entities(store)
        self.folders = Folders(store)
        self.store = store
        self.remote = remote
        self.projects = tuple(projects)
        self.waits = waits
        self.flights = Flights(loop, waits)
        self.wait_s = wait_s
        self._probe = probe
        self._clock = clock
        self._loop = loop
        # One thread for all writing: the loop never waits for the disk, and writes keep their order.
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._listeners: list[OnChanges] = []
        self._visits: dict[int, int] = {}
        self._first_pages: dict[int, asyncio.Future[ChildrenPage]] = {}
        self.listing_now: dict[int, tuple[int, int | None]] = {}
        """Folder → (entries so far, entries in all): progress for status."""
        self.missing: dict[EntityId, SyndError] = {}
        """Projects that the user named and that could not be shown when the top was last listed, and why."""

    def on_changes(self, listener: OnChanges) -> None:
        """`listener` hears of every change, on the loop's or the writer's thread; it must not block."""
        self._listeners.append(listener)

    def tell(self, changes: Sequence[Change]) -> None:
        if changes:
            for listener in self._listeners:
                listener(changes)

    async def in_writer(self, work: Callable[[], T]) -> T:
        """Runs a store write off the loop, in order with the others."""
        return await self._loop.run_in_executor(self._writer, work)

    async def close(self) -> None:
        await self.flights.close()
        await self._loop.run_in_executor(None, self._writer.shutdown)

    # Visits: the poller asks for the folders that somebody looks at.

    def visit(self, folder: int) -> None:
        """Somebody looks at a folder. Any thread; costs a dictionary entry."""
        self._visits[folder] = self._clock.now_ns()

    def take_visits(self) -> list[tuple[int, int]]:
        """(folder, UTC ns) since the last call."""
        taken, self._visits = self._visits, {}
        return list(taken.items())

    # Asked for by threads.

    def listed(self, folder: EntityId) -> Future[None]:
        """Settled once the folder's listing is in the store."""
        return self.flights.board(
            ("list", folder),
            lambda: self._list_once(folder),
            reason="listing a folder",
            what=_what(folder),
            seconds=self.wait_s,
        )

    def child(self, folder: EntityId, file_name: bytes) -> Future[Row]:
        """A name in a folder that is not listed yet, without waiting for the whole listing."""
        return self.flights.board(
            ("child", folder, file_name),
            lambda: self.find_child(folder, file_name),
            reason="looking up a name",
            what=f"{_what(folder)}/{file_name.decode(errors='replace')}",
            seconds=self.wait_s,
        )

    def detailed(self, entity: EntityId, *, seconds: float | None = None) -> Future[Row]:
        """An entity with its size, md5 and file handle, asked for anew."""
        return self.flights.board(
            ("detail", entity),
            lambda: self.detail(entity),
            reason="asking for an entity",
            what=_what(entity),
            seconds=self.wait_s if seconds is None else seconds,
        )

    def versions(self, entity: EntityId) -> Future[list[VersionInfo]]:
        """All versions of an entity, newest first."""
        return self.flights.board(
            ("versions", entity),
            lambda: self.list_versions(entity),
            reason="listing versions",
            what=_what(entity),
            seconds=self.wait_s,
        )

    def ask(self, key: Any, what: str, reason: str, start: Callable[[], Any]) -> Future[Any]:
        """Any other question to the service as a flight."""
        return self.flights.board(key, start, reason=reason, what=what, seconds=self.wait_s)

    def refresh_soon(self, folder: EntityId) -> None:
        """Lists a folder again in the background. Any thread."""
        self._loop.call_soon_threadsafe(
            lambda: self.flights.task(("list", folder), lambda: self.list_folder(folder))
        )

    # On the loop.

    async def _list_once(self, folder: EntityId) -> None:
        # Whoever asked may have looked just before another's listing landed.
        if not self.folders.is_listed(folder):
            await self.list_folder(folder)

    async def list_folder(self, folder: EntityId) -> None:
        """Asks for the whole listing of a folder and records it."""
        began_ns, mark = self._clock.now_ns(), self.entities.mark()
        if folder == TOP and self.projects:
            await self._list_configured(began_ns)
            return
        try:
            headers, total, sum_bytes = await self._all_children(folder)
        except NotFound:
            await self.gone(folder)
            raise
        finally:
            self.listing_now.pop(folder, None)
            first = self._first_pages.pop(folder, None)
            if first is not None and not first.done():
                first.cancel()

        def record() -> list[Change]:
            known = self.folders.is_listed(folder)
            changes = self.entities.apply_listing(folder, headers, mark)
            if not known:
                # Nobody can have seen a name in a folder that was never listed.
                changes = [c for c in changes if c.gone or c.moved_on]
            project = self.entities.project_of(folder) or EntityId(0)
            self.folders.set_listed(folder, began_ns, total, sum_bytes, project)
            return changes

        changes = await self.in_writer(record)
        log.debug("folder.listed", extra={"fields": {"folder": folder, "entries": len(headers)}})
        self.tell(changes)

    async def _all_children(self, folder: EntityId) -> tuple[list[Header], int, int]:
        """(headers, how many the service counted, the sum of their sizes); -1 where it told none."""
        headers: dict[EntityId, Header] = {}
        total, sum_bytes = -1, -1

        def take(page: ChildrenPage) -> None:
            headers.update((header.id, header) for header in page.headers)
            self.listing_now[folder] = (len(headers), total if total >= 0 else None)

        for attempt in range(RELISTS):
            headers.clear()
            page = await self._page(folder, None)
            total = page.total if page.total is not None else -1
            sum_bytes = page.sum_bytes if page.sum_bytes is not None else -1
            take(page)
            waiting = self._first_pages.get(folder)
            if waiting is not None and not waiting.done():
                waiting.set_result(page)
            if attempt == 0 and await self._rest_at_once(folder, page, take):
                continue_at = None
            else:
                continue_at = page.next_token
            while continue_at is not None:
                page = await self._page(folder, continue_at)
                take(page)
                continue_at = page.next_token
            if total < 0 or len(headers) == total:
                break
        return list(headers.values()), total, sum_bytes

    async def _page(self, folder: EntityId, token: str | None) -> ChildrenPage:
        # Each page has the whole budget: a long listing that makes progress is no hang.
        return await self.remote.children(
            None if folder == TOP else folder,
            token=token,
            counts=token is None and folder != TOP,
            deadline=Deadline.after(self.wait_s, f"listing {_what(folder)}"),
        )

    async def _rest_at_once(
        self, folder: EntityId, first: ChildrenPage, take: Callable[[ChildrenPage], None]
    ) -> bool:
        """All pages after the first, several at a time; False when that cannot be done.

        A page's token is told by the page before it, so a listing costs a round trip per page. But
        the tokens are ``<limit>a<offset>`` (synapse-rest.md 0.5), and the first page tells how many
        entries there are: so they are known beforehand. Should a page not name the token that follows
        it, they are opaque after all, and the listing goes on one by one.
        """
        size, total = len(first.headers), first.total
        if not total or size == 0 or first.next_token != f"{size}a{size}":
            return False
        tokens = [f"{size}a{at}" for at in range(size, total, size)]
        if len(tokens) < 2:
            return False
        slots = asyncio.Semaphore(PAGES_AT_ONCE)
        alike = True

        async def one(token: str, following: str | None) -> None:
            nonlocal alike
            async with slots:
                if not alike:
                    return
                page = await self._page(folder, token)
            if page.next_token != following:
                alike = False
                return
            take(page)

        pages = [
            asyncio.create_task(one(token, following))
            for token, following in zip(tokens, [*tokens[1:], None], strict=True)
        ]
        try:
            await asyncio.gather(*pages)
        finally:
            for task in pages:
                task.cancel()
        return alike

    async def _list_configured(self, began_ns: int) -> None:
        """The top, when the user named the projects: missing ones are left out, and told."""
        found: list[Entity] = []
        missing: dict[EntityId, SyndError] = {}
        for project in self.projects:
            try:
                found.append(await self.remote.entity(project))
            except (NotFound, Forbidden) as error:
                missing[project] = error
                if project in self.missing:
                    continue  # told when it went; each poll asks again
                log.warning(
                    "project.missing",
                    extra={"fields": {"project": syn(project), "why": error.message}},
                )
        self.missing = missing
        headers = [
            Header(
                e.id, e.name, e.kind, e.version, e.created_on_ns, e.modified_on_ns, e.modified_by
            )
            for e in found
        ]

        def record() -> list[Change]:
            changes = self.entities.apply_listing(TOP, headers)
            self.folders.set_listed(TOP, began_ns, -1, -1, 0)
            return changes

        self.tell(await self.in_writer(record))

    async def find_child(self, folder: EntityId, file_name: bytes) -> Row:
        """The row of a name. Raises NotFound.

        In a folder that is not listed yet the first page often has it; else the name is asked for
        by itself, so that a path into a folder of 10 000 entries costs three requests, not 200.
        """
        if not self.folders.is_listed(folder):
            listing = self.flights.task(("list", folder), lambda: self.list_folder(folder))
            first = self._first_pages.get(folder)
            if first is None and folder not in self.listing_now:
                first = self._first_pages[folder] = self._loop.create_future()
            waiting: set[asyncio.Future[Any]] = {listing}
            if first is not None:
                waiting.add(first)
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            # Cancelled: the listing has failed, and says why in a moment.
            big = not listing.done() and not (first is not None and first.cancelled())
            name = file_name.decode(errors="surrogateescape")
            if big and "%" not in name and folder != TOP:
                page = first.result() if first is not None and first.done() else None
                seen = page.headers if page is not None else ()
                header = next((h for h in seen if h.name == name), None)
                if page is not None and page.next_token is None:
                    # That was all: the listing lands in a moment. A file's bundle is wanted anyway.
                    entity = header.id if header and not header.kind.is_container else None
                elif header is not None:
                    entity = header.id
                else:
                    entity = await self.remote.find_child(folder, name)
                if entity is not None:
                    return await self.detail(entity)
            await asyncio.shield(listing)
        row = self.entities.child(folder, file_name)
        if row is None:
            raise NotFound(f"no {file_name.decode(errors='replace')!r} in {_what(folder)}")
        return row

    async def detail(self, entity: EntityId) -> Row:
        """Asks for an entity's bundle, records it, and returns its row. Raises NotFound, Forbidden."""
        return await self.record(await self.fetch_detail(entity))

    async def fetch_detail(self, entity: EntityId) -> Entity:
        """An entity's bundle, not recorded yet; one that is gone leaves its folder."""
        try:
            found = await self.remote.entity(
                entity, deadline=Deadline.after(self.wait_s, f"asking for {syn(entity)}")
            )
        except NotFound:
            await self.gone(entity)
            raise
        if self._probe is not None and found.file is not None and found.file.external_url:
            with contextlib.suppress(SyndError):
                found = replace(found, file=await self._probe.look(found.file))
        return found

    async def gone(self, entity: EntityId) -> None:
        """The service shows an entity no more: it leaves its folder."""
        if not self.entities.is_listed(entity):
            return
        change = await self.in_writer(lambda: self.entities.forget(entity))
        if change:
            self.tell([change])

    async def record(self, found: Entity) -> Row:
        """Records a bundle that somebody fetched."""
        return (await self.record_all([found]))[0]

    async def record_all(self, found: Sequence[Entity]) -> Sequence[Row]:
        """Records bundles in one transaction, and tells what the kernel may know otherwise."""

        def write() -> tuple[list[Row | None], list[Change], list[Row]]:
            before = [self.entities.find(e.id) for e in found]
            changes = self.entities.apply_entities(found)
            return before, changes, [self.entities.get(e.id) for e in found]

        before, changes, rows = await self.in_writer(write)
        news: list[Change] = []
        for old, change, row in zip(before, changes, rows, strict=True):
            if old is None:
                continue
            if old.file_name != row.file_name or old.parent != row.parent:
                news.append(Change(row.id, old.parent, old.file_name, gone=True, moved_on=False))
                news.append(change._replace(appeared=True))
            elif old.version != row.version or (old.detailed and old[5:] != row[5:]):
                # What had no size yet was never told to the kernel as true.
                same = old.version == row.version
                rewritten = same and old.detailed and old.key != row.key
                news.append(change._replace(rewritten=rewritten))
        self.tell(news)
        return rows

    async def list_versions(self, entity: EntityId) -> Sequence[VersionInfo]:
        """All versions, newest first; asked for again when the entity was modified since."""
        row = self.entities.find(entity) or await self.detail(entity)
        if self.entities.versions_listed(row):
            return self.entities.versions(entity)
        found: dict[int, VersionInfo] = {}
        while True:
            page = await self.remote.versions(entity, offset=len(found), limit=VERSIONS_PAGE)
            fresh = [v for v in page if v.number not in found]
            found.update((v.number, v) for v in fresh)
            if not fresh:
                break
        await self.in_writer(lambda: self.entities.apply_versions(row, found.values()))
        return self.entities.versions(entity)

    async def place(self, entity: EntityId) -> Row:
        """An entity by id, with the way from its project down to it known. Raises NotFound."""
        if not self.folders.is_listed(TOP):
            # Whether its project is at the top decides where it is; a place must not change later.
            top = self.flights.task(("list", TOP), lambda: self._list_once(TOP))
            with contextlib.suppress(SyndError):
                await asyncio.shield(top)
        row = await self.resolve(entity)
        if self.entities.path_of(entity) is not None:
            return row
        for ancestor, _ in await self.remote.path(entity):
            if self.entities.find(ancestor) is None:
                await self.detail(ancestor)
        return row

    async def resolve(self, entity: EntityId) -> Row:
        """An entity by id, whether or not its folder was ever listed."""
        row = self.entities.find(entity)
        return row if row is not None else await self.detail(entity)


def _what(entity: int) -> str:
    return "the top of the mount" if entity == TOP else syn(entity)
