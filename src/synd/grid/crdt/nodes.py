"""The seven kinds of nodes, and how a snapshot's bytes become one.

Ids are keys (time, session) here; the bytes name a session by its place in the clock table.
Each reader consumes its bytes exactly, and refuses a count that the bytes cannot hold before it works on it.
Source: reference/grid-protocol.md, 9.2.
"""

from __future__ import annotations

from typing import Any, Final

from synd.errors import ProtocolError
from synd.grid.crdt.layout import Layout
from synd.grid.crdt.rga import Chunk, Key, Rga
from synd.grid.crdt.values import Timestamp, read_head, read_value, units
from synd.grid.crdt.varint import MOST, read_b1vu56, read_id

CON: Final = 0
VAL: Final = 1
OBJ: Final = 2
VEC: Final = 3
STR: Final = 4
BIN: Final = 5
ARR: Final = 6


class Con:
    """A constant: a value, or a `Timestamp`."""

    __slots__ = ("value",)
    kind = CON

    def __init__(self, value: Any) -> None:
        self.value = value


class Val:
    """A register that points to a node, or to none."""

    __slots__ = ("target",)
    kind = VAL

    def __init__(self, target: Key | None = None) -> None:
        self.target = target


class Obj:
    """Keys that point to nodes."""

    __slots__ = ("keys",)
    kind = OBJ

    def __init__(self, keys: dict[str, Key]) -> None:
        self.keys = keys


class Vec:
    """Slots that point to nodes, or are empty."""

    __slots__ = ("slots",)
    kind = VEC

    def __init__(self, slots: list[Key | None]) -> None:
        self.slots = slots


class Seq:
    """Text, bytes or a list of nodes, told apart by `kind`."""

    __slots__ = ("kind", "rga")

    def __init__(self, kind: int, rga: Rga) -> None:
        self.kind = kind
        self.rga = rga


Node = Con | Val | Obj | Vec | Seq


def read_node_head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Kind, length argument, position after it. Raises ProtocolError."""
    if at >= end:
        raise ProtocolError("a node without bytes")
    # Lengths of eight bytes, or of none, are CBOR's and not the nodes'.
    wide = data[at] & 31 > 26
    kind, size, at = read_head(data, at, end)
    if kind > ARR or wide:
        raise ProtocolError("a node of an unknown kind")
    # Each part takes a byte at least.
    if kind > VAL and size > end - at:
        raise ProtocolError("a node announces more than there is")
    return kind, size, at


def check_end(at: int, end: int) -> None:
    """Raises ProtocolError unless a node's bytes are used up exactly."""
    if at != end:
        raise ProtocolError("a node of the snapshot has a wrong length")


class NodeReader:
    """Makes nodes of a snapshot's bytes."""

    __slots__ = ("_data", "_layout", "_sids")

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._data = layout.data
        self._sids = layout.sids

    def read(self, key: Key, at: int) -> Node:
        """The node `key`, whose byte string lies at `at`. Raises ProtocolError."""
        begin, end = self._layout.span(at)
        try:
            kind, size, begin = read_node_head(self._data, begin, end)
            if kind == CON:
                return self._con(begin, end, size)
            if kind == VAL:
                target, begin = self._key(begin)
                check_end(begin, end)
                return Val(target if target[1] else None)
            if kind == OBJ:
                return self._obj(begin, end, size)
            if kind == VEC:
                return self._vec(begin, end, size)
            return Seq(kind, Rga.of(key, self._chunks(kind, begin, end, size)))
        except IndexError as error:
            raise ProtocolError("a node of the snapshot ends too early") from error

    def _key(self, at: int) -> tuple[Key, int]:
        index, time, at = read_id(self._data, at)
        if index >= len(self._sids) or time > MOST:
            raise ProtocolError("an id of a session that the snapshot's clock does not name")
        return (time, self._sids[index]), at

    def _con(self, at: int, end: int, size: int) -> Con:
        if size == 1:
            key, at = self._key(at)
            check_end(at, end)
            return Con(Timestamp(key[1], key[0]))
        if size:
            raise ProtocolError("a constant of an unknown kind")
        value, at = read_value(self._data, at, end)
        check_end(at, end)
        return Con(value)

    def _obj(self, at: int, end: int, size: int) -> Obj:
        keys: dict[str, Key] = {}
        for _ in range(size):
            name, at = read_value(self._data, at, end)
            if type(name) is not str:
                raise ProtocolError("a key of an object that is not text")
            keys[name], at = self._key(at)
        check_end(at, end)
        return Obj(keys)

    def _vec(self, at: int, end: int, size: int) -> Vec:
        slots: list[Key | None] = []
        for _ in range(size):
            there = self._data[at]
            at += 1
            if there > 1:
                raise ProtocolError("a slot that is neither empty nor full")
            key = None
            if there:
                key, at = self._key(at)
            slots.append(key)
        check_end(at, end)
        return Vec(slots)

    def newest(self, at: int) -> tuple[bool, Key | None]:
        """Whether the node at `at` is slots that hold constants of the snapshot only, and their greatest id.

        Decodes neither slots nor constants: this is what the status of a row takes. Raises ProtocolError.
        """
        data, tables, sids = self._data, self._layout.tables, self._sids
        at, end = self._layout.span(at)
        best: Key | None = None
        latest = session = -1
        dense = tables[0].dense if tables else ()
        try:
            kind, size, at = read_node_head(data, at, end)
            if kind != VEC:
                return False, None
            for _ in range(size):
                there = data[at]
                at += 1
                if there > 1:
                    raise ProtocolError("a slot that is neither empty nor full")
                if not there:
                    continue
                index, time, at = read_id(data, at)
                if index != session:
                    session = index
                    dense = tables[index].dense
                spot = dense[time] if time < len(dense) else 0
                head = data[spot]
                # The kind is in the top bits of the first byte; a long node's head is looked at elsewhere.
                if not spot or head > 0x58 or data[spot + 1 + (head == 0x58)] >> 5 != CON:
                    return False, None
                if time >= latest:
                    key = (time, sids[index])
                    if best is None or key > best:
                        best, latest = key, time
        except IndexError as error:
            raise ProtocolError("a node of the snapshot ends too early") from error
        check_end(at, end)
        return True, best

    def _chunks(self, kind: int, at: int, end: int, size: int) -> list[Chunk]:
        found = []
        for _ in range(size):
            (time, sid), at = self._key(at)
            data: Any
            if kind == STR:
                data, at = read_value(self._data, at, end)
                if type(data) is str:
                    data = units(data)
                    span = len(data)
                elif type(data) is int and data >= 0:
                    span, data = data, None
                else:
                    raise ProtocolError("a part of a text that is neither text nor a length")
            else:
                deleted, span, at = read_b1vu56(self._data, at)
                data = None
                if not deleted:
                    if span > end - at:
                        raise ProtocolError("a sequence announces more than there is")
                    if kind == BIN:
                        data = self._data[at : at + span]
                        at += span
                    else:
                        data = []
                        for _ in range(span):
                            key, at = self._key(at)
                            data.append(key)
            if time + span > MOST:
                raise ProtocolError("an element's time is too great")
            # An empty run has no id of its own and says nothing.
            if span:
                found.append(Chunk(time, sid, span, data))
        check_end(at, end)
        return found
