"""Pins: entities whose bytes stay in the cache, with all below them."""

from __future__ import annotations

import threading
import time

from synd.ids import ContentKey, EntityId
from synd.store import meta
from synd.store.connect import Store
from synd.store.entities import Entities, Row

FRESH_S = 30.0
"""The keys below a pinned folder are gathered again after so long: files come and go."""


class Pins:
    """Answers "is this pinned?" for eviction. Any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entities = Entities(store)
        self._lock = threading.Lock()
        self._keys: frozenset[ContentKey] = frozenset()
        self._gathered_at = float("-inf")

    def holds(self, key: ContentKey) -> bool:
        with self._lock:
            if time.monotonic() - self._gathered_at > FRESH_S:
                self._keys = self._gather()
                self._gathered_at = time.monotonic()
            return key in self._keys

    def pin(self, entity: EntityId) -> None:
        meta.pin(self._store, entity, time.time_ns())
        self.forget()

    def unpin(self, entity: EntityId) -> bool:
        found = meta.unpin(self._store, entity)
        self.forget()
        return found

    def forget(self) -> None:
        self._gathered_at = float("-inf")

    def covers(self, row: Row) -> bool:
        """Whether an entity is pinned, by itself or through a folder above it."""
        pinned = set(meta.pins(self._store))
        at: Row | None = row
        for _ in range(64):
            if at is None or not pinned:
                return False
            if at.id in pinned:
                return True
            at = self._entities.find(at.parent)
        return False

    def all_keys(self) -> frozenset[ContentKey]:
        self.holds(ContentKey(""))
        return self._keys

    def _gather(self) -> frozenset[ContentKey]:
        keys: set[ContentKey] = set()
        for entity in meta.pins(self._store):
            for row in self._entities.descendants(entity):
                if row.key is not None:
                    keys.add(row.key)
        return frozenset(keys)
