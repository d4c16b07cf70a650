"""Guard against mass deletes: too many of one project's at once wait for a yes.

What counts is what would be deleted within one window: the deletes that wait, and those that were sent
within the window before. Approved ones do not count.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, deque

from synd.clock import Clock
from synd.ids import EntityId
from synd.store.entities import Entities
from synd.store.outbox import Outbox

AT_LEAST = 10
"""Fewer deletes are never held for their part of a project."""

RECOUNT_S = 60.0


def too_many(deletes: int, known: int, *, count: int, percent: int) -> bool:
    """Whether so many deletes of `known` entities are held. A bound of 0, or of 100 %, is none."""
    if count and deletes > count:
        return True
    return percent < 100 and deletes >= AT_LEAST and deletes * 100 > known * percent


class Holds:
    """Counts deletes per project. Belongs to the thread that writes the store."""

    def __init__(
        self,
        entities: Entities,
        outbox: Outbox,
        clock: Clock,
        *,
        count: int,
        percent: int,
        window_s: float,
    ) -> None:
        self._entities = entities
        self._outbox = outbox
        self._clock = clock
        self._count = count
        self._percent = percent
        self._window_s = window_s
        self._sent: deque[tuple[float, EntityId]] = deque()
        self._known: dict[EntityId, tuple[float, int]] = {}

    def sent(self, folder: int | None) -> None:
        """A delete in a folder was sent without having been approved."""
        self._sent.append((self._clock.monotonic(), self._project(folder or 0)))

    def check(self, tx: sqlite3.Connection) -> int:
        """Holds the deletes that are too many; how many. Cost: the deletes that wait, counted by SQLite."""
        if not self._count and self._percent >= 100:
            return 0
        now = self._clock.monotonic()
        while self._sent and self._sent[0][0] <= now - self._window_s:
            self._sent.popleft()
        waiting = self._outbox.pending_deletes(tx)
        by_project: Counter[EntityId] = Counter()
        folders: dict[EntityId, list[int]] = {}
        for folder, number in waiting:
            project = self._project(folder)
            by_project[project] += number
            folders.setdefault(project, []).append(folder)
        sent = Counter(project for _, project in self._sent)
        held = 0
        for project, number in by_project.items():
            deletes = number + sent[project]
            if deletes < AT_LEAST and not (self._count and deletes > self._count):
                continue
            known = self._known_of(tx, project, now) + sent[project]
            if too_many(deletes, known, count=self._count, percent=self._percent):
                held += sum(self._outbox.hold_deletes(tx, folder) for folder in folders[project])
        return held

    def _project(self, folder: int) -> EntityId:
        return self._entities.project_of(folder) or EntityId(0)

    def _known_of(self, tx: sqlite3.Connection, project: EntityId, now: float) -> int:
        found = self._known.get(project)
        if found is None or not 0 <= now - found[0] < RECOUNT_S:
            found = self._known[project] = (now, self._outbox.known_below(tx, project))
        return found[1]
