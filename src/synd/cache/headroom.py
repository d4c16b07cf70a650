"""Room for local edits on a disk that they share with the cache: cached content gives way to them.

A write through the daemon that finds no room is tried again after an eviction (`make`). Writers that the
kernel lets write to the disk by itself (passthrough) cannot be helped like that: they get that freedom only
while room is `ample`, and `tend` keeps it so while they write. On disks of its own the cache has nothing
to give to edits, and nothing here does anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from synd.cache.folder import Cache
from synd.clock import SYSTEM, Clock

AMPLE = 1 << 30
"""Free bytes from which on writers are left alone with the disk: `tend` looks five times a second, and
they would have to write faster than 5 GB/s to come to the end of it in between."""

LEAST = 4 << 20
"""Free bytes that a change of names should find: the database cannot do a transaction by halves."""

PAUSE_S = 30.0
"""After an eviction that freed nothing `tend` leaves the disk as it is for so long."""


class Headroom:
    """The room that a cache has for edits in a folder. Any thread."""

    def __init__(self, cache: Cache, folder: Path, *, clock: Clock = SYSTEM) -> None:
        """Both folders are there already."""
        self._cache = cache
        self._folder = str(folder)
        self._clock = clock
        self._shared = os.stat(folder).st_dev == os.stat(cache.root).st_dev
        self._not_before_s = 0.0

    def make(self, needed: int) -> bool:
        """Evicts cached content for an edit; whether trying to write again makes sense."""
        return self._shared and self._cache.make_room(needed)

    def keep(self) -> None:
        """Makes room for a change of names when there is next to none. Cost: a statvfs."""
        if self._shared and self._free() < LEAST and not self._cache.is_empty:
            self._cache.make_room(LEAST)

    def ample(self) -> bool:
        """Whether a writer needs nobody to make room. Cost: a statvfs."""
        return not self._shared or self._free() >= AMPLE or self._cache.is_empty

    def tend(self) -> int:
        """For a worker, a few times a second while somebody writes: evicts what the cache's limits ask for.

        Returns the bytes freed. Cost: a statvfs while there is room.
        """
        now_s = self._clock.monotonic()
        if not self._shared or now_s < self._not_before_s or not self._cache.is_short:
            return 0
        freed = self._cache.evict()
        if not freed:
            self._not_before_s = now_s + PAUSE_S
        return freed

    def _free(self) -> int:
        try:
            found = os.statvfs(self._folder)
        except OSError:
            return 0
        return found.f_bavail * found.f_frsize
