"""Taking local changes back, and bringing back what local actions took away.

Nothing is lost by either: bytes that only lie here go to the recovery area first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from synd.clock import format_time
from synd.control import changes
from synd.errors import Busy, NotFound, UsageError
from synd.ids import EntityId, syn
from synd.store.connect import Store
from synd.store.local import Local, LocalKind
from synd.store.unsent import RecoveredRow, forget_recovered
from syndd.needs import Overlaid
from syndd.schedule.events import Events
from syndd.showing import Showing


class Undo:
    """`synd discard` and `synd restore`. On the daemon's loop."""

    def __init__(
        self,
        *,
        store: Store,
        overlay: Overlaid,
        showing: Showing,
        events: Events,
        recovery: Path,
        restore_entity: Callable[[EntityId], Awaitable[object]],
    ) -> None:
        self._store = store
        self._overlay = overlay
        self._showing = showing
        self._events = events
        self._recovery = recovery
        self._restore_entity = restore_entity

    async def discard(self, targets: Sequence[str]) -> changes.Discarded:
        """Forgets local changes at and below the targets. Raises NotFound when there are none, Busy when
        one of the files is open for writing or just being sent; then nothing was changed.
        """
        if not targets:
            raise UsageError("nothing was named to be discarded")
        found = await asyncio.to_thread(self._discardable, targets)
        if not found:
            raise NotFound(
                f"nothing at {', '.join(targets)} differs from the service",
                hint="`synd status PATH` shows its state",
            )
        sending = self._showing.view().sending
        for path, row in found:
            if row.staged and self._showing.writers(row.id):
                raise Busy(f"{path} is open for writing", hint="close it first", path=path)
            if row.id in sending:
                raise Busy(f"{path} is being sent", hint="try again in a moment", path=path)
        done, recovered = await asyncio.to_thread(self._discard, found)
        return {"paths": done, "recovered": recovered}

    def _discard(self, found: Sequence[tuple[str, Local]]) -> tuple[list[str], int]:
        newest = max((r.id for r in self._showing.unsents.recovered()), default=0)
        done = []
        for path, row in found:
            # A row may have gone with the folder that held it.
            if self._overlay.locals.find(row.id) is not None:
                self._overlay.discard(row.id)
            done.append(path)
            self._events.of_discarded(path)
        return done, sum(r.id > newest for r in self._showing.unsents.recovered())

    def _discardable(self, targets: Sequence[str]) -> list[tuple[str, Local]]:
        """Rows to forget, in an order in which that works: what was removed comes back from the top
        down, all else goes from the bottom up.
        """
        view = self._showing.view()
        named = [self._showing.named(t, view) for t in targets]
        rows = {r.id: r for found in named for r in found}
        # What is kept here goes with a folder that was made here, or when it is named itself.
        made = [
            self._showing.path(r, view) for r in rows.values()
            if r.kind == LocalKind.FOLDER and r.entity is None and not r.gone
        ]  # fmt: skip
        exact = {self._showing.parts_of(t) for t in targets}
        for row in self._showing.unsents.kept_here():
            path = self._showing.path(row, view)
            if path in exact or any(path[: len(m)] == m for m in made):
                rows[row.id] = row
        paths = {r.id: self._showing.path(r, view) for r in rows.values()}
        ordered = sorted(
            rows.values(),
            key=lambda r: (not r.gone, len(paths[r.id]) if r.gone else -len(paths[r.id])),
        )
        return [(self._showing.shown(paths[r.id]), r) for r in ordered]

    # What can come back.

    def recovered(self) -> changes.RecoveredList:
        return {
            "recovered": [self._recovered(r) for r in self._showing.unsents.recovered()],
            "folder": str(self._recovery),
        }

    async def restore(self, target: str) -> changes.Restored:
        """Brings back what a local action took away. Raises NotFound, and what the service raises."""
        if target.isdecimal():
            row = self._showing.unsents.recovered_one(int(target))
        else:
            undone = await asyncio.to_thread(self._showing.gone_at, target)
            if undone is not None:
                return await self._undelete(undone, target)
            found = await asyncio.to_thread(self._newest_of, target)
            if found is None:
                raise NotFound(
                    f"nothing was taken away at {target}",
                    hint="`synd restore --list` shows what can come back",
                    path=target,
                )
            row = found
        told = self._recovered(row)
        if row.file:
            key = await asyncio.to_thread(self._overlay.restore, row.id)
        else:
            assert row.entity is not None  # a row without bytes is of an entity
            await self._restore_entity(EntityId(row.entity))
            await asyncio.to_thread(self._forget, row.id)
            key = self._overlay.key_of(row.entity)
        parts_now = self._overlay.path_of(key)
        path = told["path"] if parts_now is None else self._showing.shown(parts_now)
        return {"path": path, "recovered": told}

    def _newest_of(self, target: str) -> RecoveredRow | None:
        """The newest of an entity, or at a path. Its project may have been known by its id only when it
        was taken away, or may be by now.
        """
        entity = self._showing.entity_of(target)
        if entity is not None:
            found = [r for r in self._showing.unsents.recovered() if r.entity == entity]
            return found[0] if found else None
        wanted = self._showing.spellings(target)
        for row in self._showing.unsents.recovered():
            if wanted & self._showing.spellings(str(self._showing.mount / row.path)):
                return row
        return None

    async def _undelete(self, row: Local, target: str) -> changes.Restored:
        """The delete was not sent yet: it is taken back, of a folder with all that was removed in it."""
        path = self._showing.shown(self._showing.path(row, self._showing.view()))

        def take_back() -> None:
            self._overlay.discard(row.id)
            if row.is_folder:
                inside = [one for _, one in self._discardable([target]) if one.gone]
                self._discard([(path, one) for one in inside])

        await asyncio.to_thread(take_back)
        return {
            "path": path,
            "recovered": {
                "id": "",
                "at": format_time(row.since_ns or row.ctime_ns),
                "path": path,
                "reason": "deleted",
                "entity": "" if row.entity is None else syn(row.entity),
                "where": "here",
                "size": row.base_size or 0,
            },
        }

    def _forget(self, number: int) -> None:
        with self._store.write() as tx:
            forget_recovered(tx, number)

    def _recovered(self, row: RecoveredRow) -> changes.Recovered:
        return {
            "id": str(row.id),
            "at": format_time(row.at_ns),
            "path": str(self._showing.mount / row.path),
            "reason": row.reason,
            "entity": "" if row.entity is None else syn(EntityId(row.entity)),
            "where": "here" if row.file else "trash",
            "size": row.size,
        }
