"""Listings ahead of a program that walks a tree: `find`, `du`, `cp -r`, a file manager's search.

A walk opens one folder after another and waits a round trip for each. Who has opened a few folders that
were not listed yet, each near the last, will open more: those that follow in a walk's order are listed in
the background, a few ahead.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial

from synd.client.remote import background
from synd.ids import EntityId
from synd.mirror.tree import Tree
from synd.model import Kind
from synd.store.entities import TOP

ENOUGH = 3
"""Folders opened for the first time, within `WITHIN_S`, that make a walk."""

WITHIN_S = 5.0
AHEAD = 6
"""Listings under way ahead of the walk; the client's own limits bound what they cost."""


class Walk:
    """Watches folders being opened. `opened` may be called from any thread."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._times: deque[float] = deque(maxlen=ENOUGH)
        self._ahead: set[EntityId] = set()

    def opened(self, folder: EntityId, *, fresh: bool) -> None:
        """A folder was opened; `fresh`: it was not listed before, unless by us."""
        if not fresh and folder not in self._ahead:
            return
        self._ahead.discard(folder)
        now = time.monotonic()
        self._times.append(now)
        if len(self._times) == ENOUGH and now - self._times[0] < WITHIN_S:
            self._tree.flights.soon(lambda: self._plan(folder))

    def _plan(self, folder: EntityId) -> None:
        """On the loop: begins the listings that come next."""
        wanted = [f for f in self._following(folder) if f not in self._ahead]
        if len(self._ahead) > 1000:
            self._ahead.clear()
        with background():
            for one in wanted[:AHEAD]:
                self._ahead.add(one)
                self._tree.flights.task(("list", one), partial(self._list, one))

    async def _list(self, folder: EntityId) -> None:
        await self._tree.list_folder(folder)
        # One step further while the walker has not come here yet.
        if folder in self._ahead and len(self._ahead) < AHEAD:
            self._plan(folder)

    def _following(self, folder: EntityId) -> list[EntityId]:
        """Folders that a walk opens after this one and that are not listed: children, then siblings."""
        found = self._unlisted(folder, 0)
        row = self._tree.entities.find(folder)
        while row is not None and row.parent != TOP and len(found) < AHEAD:
            found.extend(self._unlisted(row.parent, row.id))
            row = self._tree.entities.find(row.parent)
        return found[:AHEAD]

    def _unlisted(self, parent: EntityId, after: int) -> list[EntityId]:
        """Folders in a folder that come after that id and are not listed yet."""
        if not self._tree.folders.is_listed(parent):
            return []
        return [
            r.id
            for r in self._tree.entities.children(parent, after, 200)
            if Kind(r.kind).is_container and not self._tree.folders.is_listed(r.id)
        ][:AHEAD]
