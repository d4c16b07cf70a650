"""The recovery area: bytes that local actions took away, kept for `synd restore` within bounds.

A file there and its row of `recovered` belong together. One goes in this order: the row, durably, then the
file (see `synd.cache.staging`). So a kill in between leaves a file without a row, as does the rescue of a
file that nobody knew; the next start lists it again (`adopt`), under the time at which it was put there.

Entities in the service's trash can have rows too, without a file: they take no room here, and are left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sqlite3

from synd.cache.staging import Staging
from synd.clock import NS, format_time
from synd.log import fields
from synd.mirror.lazily import LazyFiles
from synd.mirror.overlay import Overlay
from synd.store.unsent import RecoveredRow, Unsents, forget_recovered

log = logging.getLogger(__name__)

PERIOD_S = 60.0
"""How often the age is looked at."""

PAUSE_S = 1.0
"""After something was taken away more may follow; it is looked at together. A look costs a stat a file."""


class Recovery:
    """Keeps the recovery area within its bounds. Any thread, but for `run`."""

    def __init__(
        self,
        overlay: Overlay,
        staging: Staging,
        lazily: LazyFiles,
        *,
        max_bytes: int = 0,
        max_age_s: int = 0,
    ) -> None:
        """Bounds of what the files take on disk, and of the time since each was taken away; 0: none."""
        self._overlay = overlay
        self._staging = staging
        self._lazily = lazily
        self._unsents = Unsents(overlay.store)
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._more = asyncio.Event()

    async def run(self) -> None:
        """Keeps the bounds for as long as the daemon lives. Begin it when the edits have been looked through:
        what a kill took away only halfway is put back by then.
        """
        self._loop = asyncio.get_running_loop()
        await asyncio.to_thread(self.adopt)
        while True:
            await asyncio.to_thread(self.keep)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._more.wait(), PERIOD_S)
                await asyncio.sleep(PAUSE_S)
            self._more.clear()

    def taken(self) -> None:
        """Something was taken away: the bounds are looked at soon. Never blocks."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the daemon is stopping
                self._loop.call_soon_threadsafe(self._more.set)

    def adopt(self) -> int:
        """Lists the files that no row names; how many. At start only. Cost: a stat for each of them."""
        known = {row.file for row in self._unsents.recovered()}
        found = 0
        for name in self._staging.recovered_names():
            if name in known:
                continue
            with contextlib.suppress(FileNotFoundError):
                stat = os.stat(self._staging.recovered_path(name))
                if stat.st_nlink > 1:
                    continue  # It is just being brought back.
                log.info("recovery.found", extra=fields(file=name, bytes=stat.st_size))
                with self._overlay.change() as tx:
                    note_taken(
                        tx,
                        at_ns=stat.st_ctime_ns,
                        path=name.partition("-")[2],
                        reason="found",
                        entity=None,
                        file=name,
                        size=stat.st_size,
                    )
                found += 1
        return found

    def keep(self) -> list[RecoveredRow]:
        """Drops what the bounds ask for, the oldest first, and returns it.

        Whatever is older than the one bound goes. For the other bound everything may go but the newest: it
        may be what somebody is about to miss. Cost: a stat for each recovered file.
        """
        if not self._max_bytes and not self._max_age_s:
            return []
        rows = [row for row in self._unsents.recovered() if row.file]
        now_ns = self._overlay.now_ns()
        dropped: list[tuple[RecoveredRow, str]] = []
        used = 0
        # From the newest on, what fits stays.
        for index, row in enumerate(rows):
            if self._max_age_s and row.at_ns + self._max_age_s * NS <= now_ns:
                dropped.append((row, "age"))
                continue
            used += self._staging.recovered_bytes(row.file)
            if self._max_bytes and used > self._max_bytes and index:
                dropped.append((row, "bytes"))
        if not dropped:
            return []
        dropped.reverse()
        with self._overlay.change() as tx:
            for row, _ in dropped:
                forget_recovered(tx, row.id)
                self._lazily.forget(tx, self._staging.number_of(row.file))
        self._overlay.store.sync()
        for row, why in dropped:
            self._staging.drop_recovered(row.file)
            log.info(
                "recovery.dropped",
                extra=fields(
                    path=row.path, bytes=row.size, taken_at=format_time(row.at_ns), over=why
                ),
            )
        return [row for row, _ in dropped]


def note_taken(
    tx: sqlite3.Connection,
    *,
    at_ns: int,
    path: str,
    reason: str,
    entity: int | None,
    file: str,
    size: int,
) -> None:
    """Lists a file of the recovery folder; local.sql explains the fields."""
    tx.execute(
        """INSERT INTO recovered (at_ns, path, reason, entity, file, size)
        VALUES (?, ?, ?, ?, ?, ?)""",
        (at_ns, path, reason, entity, file, size),
    )
