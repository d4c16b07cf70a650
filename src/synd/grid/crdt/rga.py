"""Sequences that several replicas edit: text, bytes, lists of nodes.

A replicated growable array is kept as runs (chunks) in a linked list, in document order; deleted runs keep
their ids, since later inserts may refer to them. A run is found by the id of any of its elements through
one list of begins per session.
Invariant: no two runs share an id; a run's ids are consecutive times of one session.
Source: reference/grid-protocol.md, 11.4 and 11.5.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from typing import Any

from synd.errors import ProtocolError

Key = tuple[int, int]
"""An id as (time, session): the order of tuples is the order of ids."""


class Chunk:
    """Elements with the ids (time … time + span - 1, sid); `data` is None when they are deleted.

    Live data is text of one character per UTF-16 unit, bytes, or a list of keys.
    """

    __slots__ = ("data", "next", "sid", "span", "time")

    def __init__(self, time: int, sid: int, span: int, data: Any) -> None:
        self.time = time
        self.sid = sid
        self.span = span
        self.data = data
        self.next: Chunk | None = None


class Rga:
    """The runs of one node, which has the id `key`."""

    __slots__ = ("_begins", "_chunks", "first", "key", "last", "live")

    def __init__(self, key: Key) -> None:
        self.key = key
        self.first: Chunk | None = None
        self.last: Chunk | None = None
        self.live = 0
        """Elements that are not deleted."""
        self._begins: dict[int, list[int]] = {}
        self._chunks: dict[int, list[Chunk]] = {}

    @classmethod
    def of(cls, key: Key, chunks: list[Chunk]) -> Rga:
        """Of runs in document order, as a snapshot holds them. Raises ProtocolError when ids overlap."""
        made = cls(key)
        by_session: dict[int, list[Chunk]] = {}
        before = None
        for chunk in chunks:
            if before is None:
                made.first = chunk
            else:
                before.next = chunk
            before = chunk
            if chunk.data is not None:
                made.live += chunk.span
            by_session.setdefault(chunk.sid, []).append(chunk)
        made.last = before
        for sid, own in by_session.items():
            own.sort(key=_time)
            end = -1
            for chunk in own:
                if chunk.time < end:
                    raise ProtocolError("two elements of a sequence have one id")
                end = chunk.time + chunk.span
            made._chunks[sid] = own
            made._begins[sid] = [chunk.time for chunk in own]
        return made

    def __iter__(self) -> Iterator[Chunk]:
        chunk = self.first
        while chunk is not None:
            yield chunk
            chunk = chunk.next

    def find(self, key: Key) -> Chunk | None:
        """The run that holds this id, live or not."""
        time, sid = key
        begins = self._begins.get(sid)
        if begins is None:
            return None
        at = bisect_right(begins, time) - 1
        if at < 0:
            return None
        chunk = self._chunks[sid][at]
        return chunk if time < chunk.time + chunk.span else None

    def insert(self, after: Key, key: Key, span: int, data: Any) -> None:
        """Puts a run behind an element, or first when `after` is the node's own id.

        Nothing happens when it is known already or the element is not.
        """
        if span < 1 or self._taken(key, span):
            return
        if after == self.key:
            left, right = None, self.first
        else:
            left = self.find(after)
            if left is None:
                return
            if after[0] + 1 < left.time + left.span:
                self._split(left, after[0] + 1 - left.time)
            right = left.next
        while right is not None and (right.time, right.sid) > key:
            left, right = right, right.next
        chunk = Chunk(key[0], key[1], span, data)
        chunk.next = right
        if left is None:
            self.first = chunk
        else:
            left.next = chunk
        if right is None:
            self.last = chunk
        self.live += span
        self._index(chunk)

    def delete(self, key: Key, span: int) -> None:
        """Deletes what there is of these ids."""
        time, sid = key
        begins = self._begins.get(sid)
        if begins is None or not self.live:
            return
        chunks = self._chunks[sid]
        end = time + span
        at = max(bisect_right(begins, time) - 1, 0)
        while at < len(chunks) and begins[at] < end:
            chunk = chunks[at]
            if chunk.data is not None and chunk.time + chunk.span > time:
                if chunk.time < time:
                    # The next turn meets the right part.
                    self._split(chunk, time - chunk.time)
                else:
                    if chunk.time + chunk.span > end:
                        self._split(chunk, end - chunk.time)
                    chunk.data = None
                    self.live -= chunk.span
            at += 1

    def update(self, element: Key, target: Key) -> None:
        """Gives a live element of a list another content, when that is newer."""
        chunk = self.find(element)
        if chunk is not None and chunk.data is not None:
            place = element[0] - chunk.time
            chunk.data[place] = max(chunk.data[place], target)

    def last_key(self) -> Key:
        """The id of the last element, deleted ones included; the node's own when it is empty."""
        last = self.last
        return self.key if last is None else (last.time + last.span - 1, last.sid)

    def _taken(self, key: Key, span: int) -> bool:
        """Whether one of these ids is there."""
        begins = self._begins.get(key[1])
        if begins is None:
            return False
        at = bisect_right(begins, key[0] + span - 1) - 1
        if at < 0:
            return False
        chunk = self._chunks[key[1]][at]
        return chunk.time + chunk.span > key[0]

    def _split(self, chunk: Chunk, at: int) -> None:
        data = None if chunk.data is None else chunk.data[at:]
        right = Chunk(chunk.time + at, chunk.sid, chunk.span - at, data)
        right.next = chunk.next
        chunk.next = right
        chunk.span = at
        if data is not None:
            chunk.data = chunk.data[:at]
        if self.last is chunk:
            self.last = right
        self._index(right)

    def _index(self, chunk: Chunk) -> None:
        begins = self._begins.setdefault(chunk.sid, [])
        chunks = self._chunks.setdefault(chunk.sid, [])
        if not begins or begins[-1] < chunk.time:
            begins.append(chunk.time)
            chunks.append(chunk)
            return
        at = bisect_right(begins, chunk.time)
        begins.insert(at, chunk.time)
        chunks.insert(at, chunk)


def _time(chunk: Chunk) -> int:
    return chunk.time
