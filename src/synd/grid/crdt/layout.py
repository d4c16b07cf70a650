"""Where the nodes of a snapshot lie: one pass over its outer map, nothing decoded.

A grid has millions of nodes, most of them cells that nobody asks for. A dict of them would take several
hundred megabytes; here each takes four bytes: an array per session, indexed by time, of positions in the one
buffer. Times that are too sparse for that go to a dict, so memory stays in proportion to the bytes read.
Source: reference/grid-protocol.md, 8.3 and 9.1.
"""

from __future__ import annotations

import re
from array import array
from typing import Final

from synd.errors import ProtocolError
from synd.grid.crdt.values import read_head
from synd.grid.crdt.varint import MOST, read_id, read_vu57

_KEY = re.compile(rb"([0-9a-z]{1,11})_([0-9a-z]{1,11})")
MOST_BYTES: Final = (1 << 32) - 1
_SLOTS_PER_NODE = 16
_SLOTS_FREE = 1 << 16


class Table:
    """Positions of one session's nodes: of the head of the byte string, never 0."""

    __slots__ = ("count", "dense", "sparse")

    def __init__(self) -> None:
        self.dense = array("I")
        self.sparse: dict[int, int] = {}
        self.count = 0
        """Not exact while a scan runs."""

    def find(self, time: int) -> int:
        """0 when there is none."""
        if time < len(self.dense):
            return self.dense[time]
        return self.sparse.get(time, 0)

    def put(self, time: int, at: int, room: int) -> int:
        """Stores it; the array may grow by `room` slots. Returns how many it grew by."""
        size = len(self.dense)
        if time < size:
            self.dense[time] = at
            return 0
        more = time + 1 - size
        if more > room:
            self.sparse[time] = at
            return 0
        more = min(room, more + (size >> 3) + 64)
        self.dense.frombytes(bytes(more * self.dense.itemsize))
        self.dense[time] = at
        return more

    def settle(self) -> None:
        """After the scan: one place for each, and no free room."""
        dense = self.dense
        while dense and not dense[-1]:
            dense.pop()
        for time in [t for t in self.sparse if t < len(dense)]:
            at = self.sparse.pop(time)
            # Of a key given twice the later counts, as in any map.
            dense[time] = max(dense[time], at)
        self.count = len(dense) - dense.count(0) + len(self.sparse)

    def times(self) -> list[int]:
        """In order."""
        found = [time for time, at in enumerate(self.dense) if at]
        return found + sorted(self.sparse)


class Layout:
    """A snapshot as it lies: nodes are found by index in the clock table, and time."""

    __slots__ = ("clock", "data", "index", "root", "service", "sids", "tables")

    def __init__(self, data: bytes) -> None:
        if type(data) is not bytes:
            raise ProtocolError(f"a snapshot is bytes, not {type(data).__name__}")
        if len(data) > MOST_BYTES:
            raise ProtocolError("the snapshot is larger than 4 GiB")
        self.data = data
        self.service = data[:1] == b"\xbf"
        by_index: dict[int, Table] = {}
        short: dict[bytes, int] = {}
        try:
            _scan(data, by_index, short)
            self.clock = self._clock(short)
            self.sids = [sid for sid, _ in self.clock]
            self.root = self._root(short)
        except IndexError as error:
            raise ProtocolError("the snapshot ends too early") from error
        self.index = {sid: index for index, sid in enumerate(self.sids)}
        if len(self.index) != len(self.sids):
            raise ProtocolError("the snapshot's clock names a session twice")
        if any(index >= len(self.sids) for index in by_index):
            raise ProtocolError("a node of a session that the snapshot's clock does not name")
        for table in by_index.values():
            table.settle()
        self.tables = [by_index.get(index) or Table() for index in range(len(self.sids))]

    def _clock(self, short: dict[bytes, int]) -> list[tuple[int, int]]:
        if b"c" not in short:
            raise ProtocolError("the snapshot has no clock")
        at, end = self.span(short[b"c"])
        count, at = read_vu57(self.data, at)
        if count > end - at:
            raise ProtocolError("the snapshot's clock ends too early")
        found = []
        for _ in range(count):
            sid, at = read_vu57(self.data, at)
            time, at = read_vu57(self.data, at)
            if sid > MOST or time > MOST:
                raise ProtocolError("the snapshot's clock holds a number that is too great")
            found.append((sid, time))
        if at != end:
            raise ProtocolError("the snapshot's clock has a wrong length")
        return found

    def _root(self, short: dict[bytes, int]) -> tuple[int, int] | None:
        """(time, session) of the root's value."""
        if b"r" not in short:
            return None
        at, end = self.span(short[b"r"])
        if at == end:
            return None
        index, time, at = read_id(self.data, at)
        if at != end or index >= len(self.sids):
            raise ProtocolError("the snapshot's root is not an id")
        return (time, self.sids[index]) if self.sids[index] else None

    def span(self, at: int) -> tuple[int, int]:
        """Begin and end of the bytes whose head lies at `at`."""
        head = self.data[at]
        if head < 0x58:
            return at + 1, at + head - 0x3F
        _, size, begin = read_head(self.data, at, len(self.data))
        return begin, begin + size

    def find(self, key: tuple[int, int]) -> int:
        """Position of the node (time, session); 0 when there is none."""
        index = self.index.get(key[1])
        return 0 if index is None else self.tables[index].find(key[0])

    def __len__(self) -> int:
        return sum(table.count for table in self.tables)


def _scan(data: bytes, tables: dict[int, Table], short: dict[bytes, int]) -> None:
    """Fills `tables` by index, and `short` with what is no node."""
    end = len(data)
    if not end:
        raise ProtocolError("the snapshot is empty")
    major, left, at = read_head(data, 0, end)
    if major != 5:
        raise ProtocolError("the snapshot is not a map")
    session = -1
    table = Table()
    dense = table.dense
    # All arrays together stay in proportion to what was read.
    read = slots = 0
    while left:
        head = data[at]
        if head == 0xFF and left < 0:
            at += 1
            break
        left -= 1
        # Nearly always: a short key of a session below 10, a node that has its place.
        if 0x62 < head < 0x78 and data[at + 2] == 0x5F:
            value = at + head - 0x5F
            digits = data[at + 3 : value]
            if data[at + 1] != session:
                index = _index(data[at + 1 : at + 2])
                session = data[at + 1]
                table = tables.setdefault(index, Table())
                dense = table.dense
            if not digits.isalnum():
                raise ProtocolError(f"not a node's name in the snapshot: {digits!r}")
            time = int(digits, 36)
            try:
                dense[time] = value
            except (IndexError, OverflowError):
                if time > MOST:
                    raise ProtocolError("a node's time is too great") from None
                slots += table.put(time, value, _SLOTS_PER_NODE * read + _SLOTS_FREE - slots)
            read += 1
            size = data[value]
            if 0x40 <= size < 0x58:
                at = value + size - 0x3F
                continue
            if size == 0x58:
                at = value + 2 + data[value + 1]
                continue
        else:
            major, size, at = read_head(data, at, end)
            if major != 3 or not 0 <= size <= end - at:
                raise ProtocolError("a key of the snapshot is not text")
            value = at + size
            key = data[at:value]
            if size < 3:
                short[key] = value
            else:
                index, time = _name(key)
                room = _SLOTS_PER_NODE * read + _SLOTS_FREE - slots
                slots += tables.setdefault(index, Table()).put(time, value, room)
                read += 1
        major, size, at = read_head(data, value, end)
        if major != 2 or size < 0:
            raise ProtocolError("a value of the snapshot is not a byte string")
        at += size
    if at > end:
        raise ProtocolError("the snapshot ends too early")
    if at < end:
        raise ProtocolError("there is more behind the snapshot's end")


def _index(digits: bytes) -> int:
    if not digits.isalnum():
        raise ProtocolError(f"not a node's name in the snapshot: {digits!r}")
    return int(digits, 36)


def _name(key: bytes) -> tuple[int, int]:
    found = _KEY.fullmatch(key)
    if found is None:
        raise ProtocolError(f"not a node's name in the snapshot: {key[:40]!r}")
    time = int(found[2], 36)
    if time > MOST:
        raise ProtocolError("a node's time is too great")
    return int(found[1], 36), time
