"""Deleting a folder on the service: only once all that it holds there is known to be ours to delete.

The service deletes a folder with all below it. So everything below is listed first; what somebody
else has put or changed there stays, with the folders that lead to it, and the rest goes one by one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial
from sqlite3 import Connection
from typing import NamedTuple

from synd.client.remote import Remote
from synd.ids import EntityId
from synd.mirror.checkpoints import checkpoint
from synd.mirror.conflicts import News
from synd.mirror.steps import LONG_WAIT_S, Done, Later, Tools
from synd.model import Header
from synd.store.entities import version_of
from synd.store.local import Local, Locals, Sending

LET_GO_AT_ONCE = 200
"""Rows that end in one transaction."""


class Below(NamedTuple):
    """What lies below a folder on the service."""

    deletable: list[EntityId]
    """Whole trees of ours, each by its top; empty when the folder itself may go."""
    ours: list[int]
    """Rows whose entities go, what a folder holds before it."""
    kept: list[int]
    """Rows of folders that stay, as somebody else's things lie in them."""
    foreign: list[tuple[EntityId, EntityId]]
    """(folder, entity) that are not ours to delete."""
    waits_for: int = 0
    """A row that must be sent first: it moves something out. 0: none."""


async def look_below(remote: Remote, locals_: Locals, top: Local) -> Below:
    """Lists all below a folder. Raises what listing raises. Cost: a request per 50 entities."""
    assert top.entity is not None
    inside: dict[EntityId, list[tuple[Header, Local | None]]] = {}
    order: list[EntityId] = []
    waiting: list[EntityId] = [top.entity]
    while waiting:
        folder = waiting.pop()
        order.append(folder)
        found = inside[folder] = []
        async for header in _children(remote, folder):
            local = locals_.of_entity(header.id)
            if local is not None and _waits(local, folder):
                return Below([], [], [], [], local.id)
            if not is_deletable(header, local):
                local = None
            elif header.kind.is_container:
                waiting.append(header.id)
            found.append((header, local))
    return _sorted_out(top, order, inside)


async def _children(remote: Remote, folder: EntityId) -> AsyncIterator[Header]:
    token: str | None = None
    while True:
        page = await remote.children(folder, token=token)
        for header in page.headers:
            yield header
        token = page.next_token
        if token is None:
            return


def is_deletable(header: Header, local: Local | None) -> bool:
    """Whether an entity of a listing was deleted here as it is there."""
    return (
        local is not None
        and bool(local.gone)
        and local.state == Sending.WAITING
        and version_of(header.kind, header.version) == local.base_version
    )


def _waits(local: Local, folder: EntityId) -> bool:
    """Whether a row has something to do first with what lies in the folder there."""
    if local.gone:
        return local.state == Sending.HELD
    return local.state == Sending.WAITING and local.base_parent == folder and local.parent != folder


def _sorted_out(
    top: Local,
    order: list[EntityId],
    inside: dict[EntityId, list[tuple[Header, Local | None]]],
) -> Below:
    whole: dict[EntityId, bool] = {}
    for folder in reversed(order):
        whole[folder] = all(
            local is not None and whole.get(header.id, True) for header, local in inside[folder]
        )
    assert top.entity is not None
    below = Below([], [], [], [])
    for folder in reversed(order):
        for header, local in inside[folder]:
            if local is None:
                below.foreign.append((folder, header.id))
            elif whole.get(header.id, True):
                below.ours.append(local.id)
                if not whole[folder]:
                    below.deletable.append(header.id)
            else:
                below.kept.append(local.id)
    return below


class Deletes:
    """Sends deletes."""

    def __init__(self, tools: Tools, deleted: Callable[[Local], None]) -> None:
        """`deleted` hears of each delete that was sent."""
        self._tools = tools
        self._deleted = deleted

    async def delete(self, row: Local) -> Done:
        """Deletes what holds nothing."""
        assert row.entity is not None
        if not self._still_deleted(row):
            raise Later(0.0)
        checkpoint("push.before-delete")
        await self._tools.remote.delete(row.entity)
        checkpoint("push.after-delete")
        self._deleted(row)
        await self._tools.record(lambda tx: self._tools.records.deleted(tx, row))
        checkpoint("push.after-record")
        return Done("deleted", row, row.entity)

    def _still_deleted(self, row: Local) -> bool:
        now = self._tools.overlay.locals.find(row.id)
        return now is not None and bool(now.gone) and now.entity == row.entity

    async def delete_folder(self, row: Local) -> Done:
        """Deletes a folder, or of what it holds only what is ours to delete."""
        assert row.entity is not None
        below = await look_below(self._tools.remote, self._tools.overlay.locals, row)
        if below.waits_for:
            await self._tools.hurry(below.waits_for)
            raise Later(LONG_WAIT_S, below.waits_for)
        if not self._still_deleted(row):
            raise Later(0.0)
        if not below.foreign:
            await self._gone(row.entity)
            await self._let_go(below)
            return await self._delete_last(row)
        for entity in below.deletable:
            await self._gone(entity)
        await self._let_go(below)
        for number in [*below.kept, row.id]:
            await self._tools.record(partial(self._came_back, number=number))
        for folder in {folder for folder, _ in below.foreign}:
            self._tools.tree.refresh_soon(folder)
        return Done("kept", row, row.entity)

    async def _gone(self, entity: EntityId) -> EntityId:
        checkpoint("push.before-delete")
        await self._tools.remote.delete(entity)
        checkpoint("push.after-delete")
        local = self._tools.overlay.locals.of_entity(entity)
        if local is not None:
            self._deleted(local)
        return entity

    async def _delete_last(self, row: Local) -> Done:
        await self._tools.record(lambda tx: self._tools.records.deleted(tx, row))
        await self._tools.record(self._wake_parked)
        checkpoint("push.after-record")
        return Done("deleted", row, row.entity)

    def _wake_parked(self, tx: Connection) -> None:
        self._tools.outbox.wake_parked(tx, self._tools.overlay.now_ns())

    async def _let_go(self, below: Below) -> None:
        """Ends the rows of what is deleted. The top of each tree can be restored, and all in it with it."""
        tops = frozenset(below.deletable)
        for start in range(0, len(below.ours), LET_GO_AT_ONCE):
            batch = below.ours[start : start + LET_GO_AT_ONCE]
            await self._tools.record(partial(self._end_all, numbers=batch, tops=tops))

    def _end_all(self, tx: Connection, *, numbers: list[int], tops: frozenset[EntityId]) -> News:
        news = News()
        records = self._tools.records
        for number in numbers:
            now = self._tools.overlay.locals.find(number, tx)
            if now is not None and now.gone and now.entity is not None:
                end = records.deleted if now.entity in tops else records.ended
                news.changes += end(tx, now).changes
        return news

    def _came_back(self, tx: Connection, *, number: int) -> News:
        now = self._tools.overlay.locals.find(number, tx)
        return News() if now is None else self._tools.records.came_back(tx, now, None)
