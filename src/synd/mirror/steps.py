"""What the steps of sending share: the parts they work with, and how one of them ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from sqlite3 import Connection
from typing import NamedTuple, Protocol

from synd.cache.staging import Staging
from synd.client.remote import Remote
from synd.errors import NotFound
from synd.ids import EntityId
from synd.mirror.conflicts import News, Sides
from synd.mirror.overlay import Overlay
from synd.mirror.recording import Records
from synd.mirror.tree import Tree
from synd.store.local import Local
from synd.store.outbox import Outbox

LONG_WAIT_S = 30.0
"""A row that waits for another is woken by it; this is for when that fails."""


class Files(Protocol):
    """The open files of staged bytes, as far as sending must know of them (`synd.mirror.contents`)."""

    def writers(self, number: int) -> int:
        """Open handles that may write to a row's bytes."""
        ...

    def quiet_s(self, number: int) -> float:
        """Seconds since a row's bytes last changed."""
        ...

    def settle(self, number: int) -> bool:
        """Makes bytes that the service has a cache object, if nobody has them open."""
        ...


class Later(Exception):
    """The row has to wait, for a time or for another row."""

    def __init__(self, seconds: float, wait_for: int = 0, *, while_open: bool = False) -> None:
        """`while_open`: not a moment longer than somebody may write to it."""
        super().__init__(seconds)
        self.seconds = seconds
        self.wait_for = wait_for
        self.while_open = while_open


class Done(NamedTuple):
    """What came of one row."""

    action: str
    """What was done on the service; empty: nothing."""
    row: Local | None = None
    entity: EntityId | None = None
    content: bool = False
    """Bytes of ours are on the service now."""


class Tools(NamedTuple):
    """The parts that steps work with."""

    overlay: Overlay
    staging: Staging
    tree: Tree
    remote: Remote
    records: Records
    sides: Sides
    outbox: Outbox
    record: Callable[[Callable[[Connection], News | None]], Awaitable[News]]
    """Runs a function in a transaction, with others, and tells what it changed."""

    async def hurry(self, number: int) -> None:
        """Ends the waiting of a row."""
        await self.record(lambda tx: self.outbox.hurry(tx, number, self.overlay.now_ns()))

    async def check_folder(self, folder: EntityId) -> None:
        """A folder that is gone on the service, though we have something for it, is made anew."""
        try:
            await self.remote.entity(folder)
        except NotFound:
            await self.record(lambda tx: self.records.revive(tx, folder))
