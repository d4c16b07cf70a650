"""The plain value that a document stands for.

A node of a snapshot that no patch has touched is read straight from the bytes, cells above all; others come
from the replica's changed nodes. A snapshot may be hostile: nodes may hold each other or one node a thousand
times, so depth and work are bounded, the latter in proportion to the snapshot's size.
Source: reference/grid-protocol.md, 12.
"""

from __future__ import annotations

import gc
import struct
from typing import Any, Final

from synd.errors import ProtocolError
from synd.grid.crdt.layout import Layout
from synd.grid.crdt.nodes import (
    ARR,
    BIN,
    CON,
    OBJ,
    STR,
    VAL,
    VEC,
    Con,
    Node,
    Obj,
    Seq,
    Val,
    Vec,
    check_end,
    read_node_head,
)
from synd.grid.crdt.rga import Key
from synd.grid.crdt.values import (
    UNDEFINED,
    Timestamp,
    decode_text,
    fresh,
    joined,
    read_head,
    read_value,
    weight,
)
from synd.grid.crdt.varint import read_b1vu56, read_id

MOST_DEEP: Final = 200
"""Nodes within each other."""
_WORK_FREE = 1 << 20
_WORK_PER_BYTE = 4
_WORK_PER_NODE = 32
"""What a list or dict costs beside its content; a node takes a dozen bytes at least in a snapshot."""
_KEPT = 1 << 15
"""Constants that are remembered, since cells repeat."""
_LONG = 64
"""Bytes of a constant above which it matters how often it is shared."""
_LONG_KEPT = 1 << 16
"""Bytes of these that are remembered."""
_SHORT = 0x58
"""Heads below stand for byte strings of at most 23 bytes."""

_double = struct.Struct(">d").unpack_from


class _Nothing:
    """No node has this id."""


MISSING: Final = _Nothing()
_UNKNOWN: Final = _Nothing()


class Viewer:
    """Makes views of one replica; good until the next patch.

    `weight`: what patches have brought, as `Replica` counts it.
    """

    def __init__(self, layout: Layout | None, changed: dict[Key, Node], weight: int) -> None:
        self._layout = layout
        self._changed = changed
        self._data = b"" if layout is None else layout.data
        self._sids = [] if layout is None else layout.sids
        self._tables = [] if layout is None else layout.tables
        self._kept: dict[bytes, Any] = {}
        self._long: dict[int, Any] = {}
        self._long_bytes = 0
        self._names: dict[bytes, str] = {}
        self._work = _WORK_FREE + _WORK_PER_BYTE * (len(self._data) + weight)

    def view(self, key: Key | None) -> Any:
        """The view of a node; UNDEFINED when there is none. Raises ProtocolError."""
        if key is None:
            return UNDEFINED
        # All that is made here stays, so looking for garbage meanwhile would find nothing.
        collecting = gc.isenabled()
        gc.disable()
        try:
            found = self._by_key(key, 0)
        except IndexError as error:
            raise ProtocolError("a node of the snapshot ends too early") from error
        finally:
            if collecting:
                gc.enable()
        return UNDEFINED if found is MISSING else found

    def _spend(self, work: int) -> None:
        self._work -= work
        if self._work < 0:
            raise ProtocolError("the nodes of the grid hold each other too often")

    def _by_key(self, key: Key, depth: int) -> Any:
        node = self._changed.get(key)
        if node is not None:
            return self._of_node(node, depth)
        if self._layout is not None and (at := self._layout.find(key)):
            return self._of_bytes(at, depth)
        return MISSING

    def _by_index(self, index: int, time: int, depth: int) -> Any:
        try:
            at = self._tables[index].find(time)
            if self._changed:
                node = self._changed.get((time, self._sids[index]))
                if node is not None:
                    return self._of_node(node, depth)
        except IndexError:
            raise ProtocolError(
                "an id of a session that the snapshot's clock does not name"
            ) from None
        return self._of_bytes(at, depth) if at else MISSING

    # Nodes that patches have touched.

    def _of_node(self, node: Node, depth: int) -> Any:
        if depth > MOST_DEEP:
            raise ProtocolError(f"the nodes of the grid are nested more than {MOST_DEEP} deep")
        if isinstance(node, Con):
            if type(node.value) is list or type(node.value) is dict:
                self._spend(weight(node.value))
            return fresh(node.value)
        depth += 1
        if isinstance(node, Val):
            self._spend(1)
            found = MISSING if node.target is None else self._by_key(node.target, depth)
            return UNDEFINED if found is MISSING else found
        if isinstance(node, Obj):
            self._spend(len(node.keys) + 1)
            out = {}
            for name, key in node.keys.items():
                found = self._by_key(key, depth)
                if found is not MISSING and found is not UNDEFINED:
                    out[name] = found
            return out
        if isinstance(node, Vec):
            self._spend(len(node.slots) + 1)
            slots = []
            for slot in node.slots:
                found = UNDEFINED if slot is None else self._by_key(slot, depth)
                slots.append(UNDEFINED if found is MISSING else found)
            return slots
        return self._of_sequence(node, depth)

    def _of_sequence(self, node: Seq, depth: int) -> Any:
        live = [chunk.data for chunk in node.rga if chunk.data is not None]
        self._spend(node.rga.live + len(live) + 1)
        if node.kind == STR:
            return joined("".join(live))
        if node.kind == BIN:
            return b"".join(live)
        views = [self._by_key(key, depth) for run in live for key in run]
        return [view for view in views if view is not MISSING]

    # Nodes as they lie in the snapshot.

    def _of_bytes(self, at: int, depth: int) -> Any:
        data = self._data
        head = data[at]
        begin = at + 1
        end = at + head - 0x3F
        if head >= _SHORT:
            if self._layout is None:
                return MISSING
            begin, end = self._layout.span(at)
        kind, size, begin = read_node_head(data, begin, end)
        if kind == CON:
            return self._constant(begin, end, size)
        if depth > MOST_DEEP:
            raise ProtocolError(f"the nodes of the grid are nested more than {MOST_DEEP} deep")
        self._spend(end - begin + _WORK_PER_NODE)
        depth += 1
        if kind == VEC:
            return self._vec(begin, end, size, depth)
        if kind == OBJ:
            return self._obj(begin, end, size, depth)
        if kind == ARR:
            return self._arr(begin, end, size, depth)
        if kind == VAL:
            index, time, begin = read_id(data, begin)
            check_end(begin, end)
            if index < len(self._sids) and not self._sids[index]:
                return UNDEFINED
            found = self._by_index(index, time, depth)
            return UNDEFINED if found is MISSING else found
        return self._run(kind, begin, end, size)

    def _constant(self, at: int, end: int, size: int) -> Any:
        if size == 0:
            if end - at > _LONG:
                return self._long_constant(at, end)
            value, at = read_value(self._data, at, end)
        elif size == 1:
            index, time, at = read_id(self._data, at)
            if index >= len(self._sids):
                raise ProtocolError("an id of a session that the snapshot's clock does not name")
            value = Timestamp(self._sids[index], time)
        else:
            raise ProtocolError("a constant of an unknown kind")
        check_end(at, end)
        return value

    def _long_constant(self, at: int, end: int) -> Any:
        """One that many cells may share: what was made lately and cannot be changed is made once.

        Not all are kept, for one who goes through the rows without keeping their cells.
        """
        value = self._long.get(at, _UNKNOWN)
        if value is _UNKNOWN:
            value, after = read_value(self._data, at, end)
            check_end(after, end)
            self._spend(end - at)
            if type(value) is not list and type(value) is not dict:
                if self._long_bytes + end - at > _LONG_KEPT:
                    self._long.clear()
                    self._long_bytes = 0
                self._long[at] = value
                self._long_bytes += end - at
        return value

    def _vec(self, at: int, end: int, size: int, depth: int) -> list[Any]:
        """The hot path: nearly all nodes of a grid are constants in the slots of its rows."""
        data, tables, kept = self._data, self._tables, self._kept
        out: list[Any] = []
        session = -1
        dense: Any = ()
        for _ in range(size):
            there = data[at]
            if there != 1:
                if there:
                    raise ProtocolError("a slot that is neither empty nor full")
                at += 1
                out.append(UNDEFINED)
                continue
            # An id, by hand as far as three bytes of time and one of session go.
            head = data[at + 1]
            if head < 128:
                index, time, at = head >> 4, head & 15, at + 2
            else:
                a = data[at + 2]
                b = data[at + 3] if a > 127 else 0
                c = data[at + 4] if b > 127 else 0
                if head & 64 or c > 127:
                    index, time, at = read_id(data, at + 1)
                elif a < 128:
                    index, time, at = head & 63, a, at + 3
                elif b < 128:
                    index, time, at = head & 63, a & 127 | b << 7, at + 4
                else:
                    index, time, at = head & 63, a & 127 | (b & 127) << 7 | c << 14, at + 5
            if index != session:
                session = index
                dense = tables[index].dense
            spot = dense[time] if time < len(dense) else 0
            head = data[spot]
            if spot and head < _SHORT and not data[spot + 1] and head > 0x41:
                raw = data[spot + 2 : spot + head - 0x3F]
                value = kept.get(raw, _UNKNOWN)
                if value is _UNKNOWN:
                    value = self._short(raw)
            else:
                value = self._by_index(index, time, depth)
                if value is MISSING:
                    value = UNDEFINED
            out.append(value)
        check_end(at, end)
        return out

    def _short(self, raw: bytes) -> Any:
        """The value of a short constant; it is remembered when nobody can change it."""
        head = raw[0]
        value: Any
        if 0x60 <= head < 0x78 and len(raw) == head - 0x5F:
            try:
                value = decode_text(raw[1:])
            except UnicodeDecodeError as error:
                raise ProtocolError("a text of the grid is not UTF-8") from error
        elif head == 0xFB and len(raw) == 9:
            value = _double(raw, 1)[0]
        else:
            value, after = read_value(raw, 0, len(raw))
            check_end(after, len(raw))
            if type(value) is list or type(value) is dict:
                return value
        if len(self._kept) < _KEPT:
            self._kept[raw] = value
        return value

    def _obj(self, at: int, end: int, size: int, depth: int) -> dict[str, Any]:
        data, names = self._data, self._names
        out: dict[str, Any] = {}
        for _ in range(size):
            head = data[at]
            if 0x60 <= head < 0x78:
                after = at + head - 0x5F
                raw = data[at:after]
                name = names.get(raw)
                if name is None:
                    name = self._name(raw)
                at = after
            else:
                name, at = read_value(data, at, end)
                if type(name) is not str:
                    raise ProtocolError("a key of an object that is not text")
            index, time, at = read_id(data, at)
            value = self._by_index(index, time, depth)
            if value is not MISSING and value is not UNDEFINED:
                out[name] = value
        check_end(at, end)
        return out

    def _name(self, raw: bytes) -> str:
        name: str
        name, after = read_value(raw, 0, len(raw))
        check_end(after, len(raw))
        if len(self._names) < _KEPT:
            self._names[raw] = name
        return name

    def _arr(self, at: int, end: int, size: int, depth: int) -> list[Any]:
        data = self._data
        out = []
        for _ in range(size):
            _, _, at = read_id(data, at)
            deleted, span, at = read_b1vu56(data, at)
            if deleted:
                continue
            if span > end - at:
                raise ProtocolError("a sequence announces more than there is")
            for _ in range(span):
                index, time, at = read_id(data, at)
                value = self._by_index(index, time, depth)
                if value is not MISSING:
                    out.append(value)
        check_end(at, end)
        return out

    def _run(self, kind: int, at: int, end: int, size: int) -> Any:
        data = self._data
        parts: list[Any] = []
        for _ in range(size):
            _, _, at = read_id(data, at)
            if kind == BIN:
                deleted, span, at = read_b1vu56(data, at)
                if not deleted:
                    if span > end - at:
                        raise ProtocolError("a sequence announces more than there is")
                    parts.append(data[at : at + span])
                    at += span
                continue
            major, _, _ = read_head(data, at, end)
            part, at = read_value(data, at, end)
            if major == 3:
                parts.append(part)
            elif major:
                raise ProtocolError("a part of a text that is neither text nor a length")
        check_end(at, end)
        return b"".join(parts) if kind == BIN else joined("".join(parts))
