"""Bytes that are on this machine already: what a power loss made doubtful, and the official client's cache."""

from __future__ import annotations

import time

from synd.cache.folder import Cache
from synd.cache.synapse_cache import SynapseCache
from synd.model import FileVersion

LOOK_AGAIN_S = 30.0
"""Whether there is an official cache at all is asked so often."""


class Adoption:
    """Meets `streams.Adopt`. Any thread."""

    def __init__(self, cache: Cache, official: SynapseCache | None) -> None:
        self._cache = cache
        self._official = official
        self._there = False
        self._looked_at = float("-inf")

    def likely(self, file: FileVersion) -> bool:
        return self._cache.doubts(file.key) or self._in_official(file)

    def _in_official(self, file: FileVersion) -> bool:
        if self._official is None or file.handle is None or file.md5 is None:
            return False
        now = time.monotonic()
        if now - self._looked_at > LOOK_AGAIN_S:
            self._there = self._official.root.is_dir()
            self._looked_at = now
        return self._there and self._official.folder(file.handle).is_dir()

    def take(self, file: FileVersion) -> bool:
        if self._cache.doubts(file.key) and self._cache.recall(file.key):
            return True
        if self._official is None or file.handle is None or file.md5 is None:
            return False
        return self._official.adopt(file.handle, file.md5, self._cache.objects)
