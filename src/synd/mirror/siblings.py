"""Small files of a folder fetched ahead of a program that reads them one after another."""

from __future__ import annotations

import threading
import time

from synd.cache.objects import ObjectStore
from synd.ids import EntityId
from synd.mirror.fetch import Urgency
from synd.mirror.prefetch import SiblingPattern
from synd.mirror.streams import SMALL, Streams
from synd.mirror.urls import Urls
from synd.model import FileRef, FileVersion, Kind
from synd.store.entities import Entities

FOLDERS = 32
"""Folders watched at once: those opened from last."""

MOST_FILES = 20_000
"""Larger folders are not watched: ranking their names would cost more than it saves."""


AGAIN_S = 2.0
"""A folder of which not all sizes were known is learnt anew after so long."""

_Known = tuple[SiblingPattern, dict[int, FileVersion], float]
"""What is expected of a folder, its files not planned yet, and until when that holds."""


class Siblings:
    """Learns from opens of small files, and fetches those that will follow. Any thread."""

    def __init__(
        self, entities: Entities, objects: ObjectStore, streams: Streams, urls: Urls
    ) -> None:
        self._entities = entities
        self._objects = objects
        self._streams = streams
        self._urls = urls
        self._lock = threading.Lock()
        self._folders: dict[EntityId, _Known] = {}

    def opened(self, folder: EntityId, entity: EntityId) -> None:
        """A small file of that folder was opened. Cost: microseconds, or a query for a new folder."""
        with self._lock:
            known = self._folders.get(folder)
            if known is None or time.monotonic() > known[2]:
                known = self._learn(folder)
            pattern, files, _ = known
            expected = pattern.note(entity)
            wanted: list[FileVersion] = []
            room = SiblingPattern.AHEAD_BYTES
            for one in expected:
                file = files.pop(one, None)
                if file is None:
                    continue
                room -= file.size or 0
                if room < 0:
                    files[one] = file
                    break
                wanted.append(file)
        wanted = [
            f
            for f in wanted
            if not self._streams.under_way(f.key)
            and not self._streams.in_memory(f.key)
            and not self._objects.has(f.key, f.size)
        ]
        if not wanted:
            return
        refs = [FileRef(f.handle, f.entity) for f in wanted if f.handle is not None]
        self._urls.want(refs, ahead=True)
        for file in wanted:
            self._streams.small(file, Urgency.BACKGROUND)

    def forget(self, folder: EntityId) -> None:
        """The folder changed."""
        self._folders.pop(folder, None)

    def _learn(self, folder: EntityId) -> _Known:
        children = self._entities.children(folder, 0, MOST_FILES)
        rows = [
            r
            for r in children
            if r.current and r.size and r.size <= SMALL and r.handle is not None and not r.url
        ]
        if len(rows) == MOST_FILES:
            rows = []
        pattern = SiblingPattern([r.id for r in rows], [r.file_name for r in rows])
        # Sizes may still be on their way; then the folder is looked at again.
        partly = any(not r.current and r.kind == Kind.FILE for r in children)
        until = time.monotonic() + AGAIN_S if partly else float("inf")
        known = (pattern, {int(r.id): r.file() for r in rows}, until)
        if len(self._folders) >= FOLDERS:
            self._folders.pop(next(iter(self._folders)))
        self._folders[folder] = known
        return known
