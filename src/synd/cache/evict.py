"""Which cached content to let go of: values in, victims out. Reads no disk and no clock.

Dirty content is never a row here: edits live in the state folder, not in the cache.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from synd.clock import NS
from synd.ids import ContentKey


class Row(NamedTuple):
    """Content that takes room: an object, or a partial."""

    key: ContentKey
    size: int
    """Bytes on disk."""
    last_used_ns: int
    pinned: bool = False
    open: bool = False
    partial: bool = False


@dataclass(frozen=True, slots=True)
class Limits:
    """What the cache may take. 0 means no bound."""

    max_bytes: int = 0
    max_age_s: int = 0
    keep_free_bytes: int = 0


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True)
class Room:
    """What there is, and what is wanted."""

    used_bytes: int
    free_bytes: int
    needed_bytes: int = 0
    """To be written soon, on top of what is used."""
    spare_bytes: int = 0
    """Freed on top once anything must be freed, so that the next write need not ask again."""

    def excess(self, limits: Limits) -> int:
        """Bytes that must go; at most 0 when nothing must."""
        by_free = limits.keep_free_bytes + self.needed_bytes - self.free_bytes
        if not limits.max_bytes:
            return by_free
        return max(by_free, self.used_bytes + self.needed_bytes - limits.max_bytes)


def victims(rows: Iterable[Row], limits: Limits, room: Room, now_ns: int) -> list[Row]:
    """What to evict: all that is too old, then the least recently used until there is room.

    Pinned and open content is never among it, so there may be less room than wanted.
    """
    excess = room.excess(limits)
    if excess <= 0 and not limits.max_age_s:
        return []
    oldest_ns = now_ns - limits.max_age_s * NS
    out: list[Row] = []
    heap: list[tuple[int, ContentKey, Row]] = []
    for row in rows:
        if row.pinned or row.open:
            continue
        if limits.max_age_s and row.last_used_ns < oldest_ns:
            out.append(row)
            excess -= row.size
        else:
            heap.append((row.last_used_ns, row.key, row))
    if excess <= 0:
        return out
    excess += room.spare_bytes
    # A heap, not a sort: few of many rows go.
    heapq.heapify(heap)
    while heap and excess > 0:
        row = heapq.heappop(heap)[2]
        out.append(row)
        excess -= row.size
    return out
