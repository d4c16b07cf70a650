"""Read pattern → what to fetch next. Pure: no file, no clock, no network."""

from __future__ import annotations

from collections.abc import Sequence

INITIAL_AHEAD = 512 << 10
"""Read-ahead of a reader that began at the start of a file, before it has shown that it goes on."""

GROWTH = 8
"""A sequential reader is believed to want 8 times what it has read so far."""

SLACK = 1 << 20
"""A sequential reader may skip or repeat so much: pages that the kernel still had, its read-ahead."""

CHUNK_MIN = 256 << 10
CHUNK_MAX = 8 << 20
"""One request carries at most this: 0.2 s of a 40 MB/s stream, so a request's latency costs little."""


class Pattern:
    """How one open file is being read."""

    __slots__ = ("expected", "run_bytes")

    def __init__(self) -> None:
        self.expected = 0
        self.run_bytes = 0

    def note(self, offset: int, size: int, *, most: int) -> int:
        """Takes in a read; returns how many bytes beyond its end are worth fetching, at most `most`.

        A jump gets none: random readers fetch what they ask for and nothing else.
        """
        end = offset + size
        gap = offset - self.expected
        if gap == 0 or (self.run_bytes and abs(gap) <= SLACK):
            self.run_bytes += max(0, end - max(offset, self.expected))
            self.expected = max(self.expected, end)
            return min(most, max(INITIAL_AHEAD, GROWTH * self.run_bytes))
        self.run_bytes = 0
        self.expected = end
        return 0


def chunk_size(ahead: int) -> int:
    """Bytes of one request when `ahead` bytes are to be fetched: about 8 requests at once, bounded."""
    size = max(CHUNK_MIN, min(CHUNK_MAX, ahead // 8))
    return size - size % CHUNK_MIN


class SiblingPattern:
    """Which small files of one folder have been opened, to guess that the others follow.

    A user who reads a few small files of a folder one after another nearly always reads them all
    (a glob, a loop, a data loader), and each costs a whole round trip. So after `ENOUGH` of them
    the rest is worth fetching, a bounded number ahead of the reader.
    """

    ENOUGH = 3
    AHEAD_FILES = 400
    AHEAD_BYTES = 32 << 20

    __slots__ = (
        "_ids",
        "_last",
        "_names",
        "_planned",
        "_rank_by_id",
        "_rank_by_name",
        "_seen",
        "_votes",
    )

    def __init__(self, ids: Sequence[int], names: Sequence[bytes]) -> None:
        """`ids` and `names` of the folder's files, in order of id."""
        self._ids = list(ids)
        self._names = [ids[i] for i in sorted(range(len(ids)), key=names.__getitem__)]
        self._rank_by_id = {e: rank for rank, e in enumerate(self._ids)}
        self._rank_by_name = {e: rank for rank, e in enumerate(self._names)}
        self._seen: set[int] = set()
        self._last: int | None = None
        self._votes = 0
        self._planned = {True: bytearray(len(ids)), False: bytearray(len(ids))}
        """By name, and by id: for each rank, whether it was handed out."""

    def note(self, entity: int) -> list[int]:
        """Takes in an open; returns the ids expected next, nearest first. Empty while unsure, and
        while what was returned before reaches far enough.
        """
        by_id = self._rank_by_id.get(entity)
        if by_id is None:
            return []
        by_name = self._rank_by_name[entity]
        last, self._last = self._last, entity
        self._seen.add(entity)
        if last is not None and last != entity:
            near_id = 0 < by_id - self._rank_by_id[last] <= 16
            near_name = 0 < by_name - self._rank_by_name[last] <= 16
            self._votes += int(near_name) - int(near_id)
        if len(self._seen) < self.ENOUGH:
            return []
        named = self._votes > 0
        order, at = (self._names, by_name) if named else (self._ids, by_id)
        planned = self._planned[named]
        start, end = at + 1, min(at + 1 + self.AHEAD_FILES, len(order))
        fresh = planned.count(0, start, end)
        enough = fresh < self.AHEAD_FILES // 2 and end < len(order)
        if fresh == 0 or (enough and planned[at]):
            # Far enough ahead still: most opens of a long run end here. One of several readers whose
            # own file was not foreseen lies before what another had planned: it is not.
            return []
        following = [
            order[rank]
            for rank in range(start, end)
            if not planned[rank] and order[rank] not in self._seen
        ]
        planned[start:end] = b"\1" * (end - start)
        return following
