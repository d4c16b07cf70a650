"""A replica's document as snapshot bytes, in the service's form or json-joy's.

Source: reference/grid-protocol.md, 9.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from synd.errors import ProtocolError, UsageError
from synd.grid.crdt.layout import Layout
from synd.grid.crdt.nodes import ARR, BIN, STR, Con, Node, Obj, Seq, Val, Vec
from synd.grid.crdt.rga import Chunk, Key
from synd.grid.crdt.values import Timestamp, joined, write_head, write_text, write_value
from synd.grid.crdt.varint import write_b1vu56, write_id, write_vu57

if TYPE_CHECKING:
    from synd.grid.crdt.replica import Replica

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_SINGLES = 1 << 16
"""A longer run of deleted elements is not taken to pieces."""


def snapshot(
    replica: Replica,
    layout: Layout | None,
    changed: Mapping[Key, Node],
    root: Key | None,
    form: str,
) -> bytes:
    """The bytes of a whole document. Nodes that no patch touched are copied when the form is the same."""
    if form not in ("service", "json-joy"):
        raise UsageError(f"no form of a snapshot: {form!r} (there are service, json-joy)")
    service = form == "service"
    table = _table(replica, layout, changed, root)
    writer = _Writer({sid: index for index, (sid, _) in enumerate(table)}, service=service)
    head = bytearray()
    clock = bytearray()
    write_vu57(clock, len(table))
    for sid, time in table:
        write_vu57(clock, sid)
        write_vu57(clock, time)
    _entry(head, "c", clock)
    count = 1
    if root is not None:
        _entry(head, "r", writer.id(root))
        count += 1
    nodes = bytearray()
    copy = layout if layout is not None and layout.service == service else None
    for key in replica.ids():
        count += 1
        write_text(nodes, f"{_base36(writer.index[key[1]])}_{_base36(key[0])}")
        at = 0 if copy is None or key in changed else copy.find(key)
        if at and copy is not None:
            nodes += copy.data[at : copy.span(at)[1]]
            continue
        node = replica.node(key)
        if node is None:
            raise ProtocolError("a node of the snapshot is gone")
        raw = writer.node(node)
        write_head(nodes, 2, len(raw))
        nodes += raw
    out = bytearray()
    if service:
        out.append(0xBF)
        out += nodes
        out += head
        out.append(0xFF)
    else:
        write_head(out, 5, count)
        out += head
        out += nodes
    return bytes(out)


def _entry(out: bytearray, name: str, raw: bytearray) -> None:
    write_text(out, name)
    write_head(out, 2, len(raw))
    out += raw


def _table(
    replica: Replica, layout: Layout | None, changed: Mapping[Key, Node], root: Key | None
) -> list[tuple[int, int]]:
    """The clock, the sessions of the snapshot first and in their order, since ids name them by place."""
    if layout is not None:
        first = list(layout.sids)
    elif root is not None:
        first = [root[1]]
    else:
        first = []
    used = {key[1] for key in changed}
    used |= replica.clock.keys()
    for node in changed.values():
        # json-joy has no way to say that a register points nowhere but an id of the session 0.
        if isinstance(node, Val) and node.target is None:
            used.add(0)
        elif isinstance(node, Con) and isinstance(node.value, Timestamp):
            used.add(node.value.sid)
    order = first + sorted(used.difference(first), key=lambda sid: (sid == 0, sid))
    # json-joy reads its own session from the first entry, so there must be one.
    return [(sid, replica.clock.get(sid, 0)) for sid in order or [0]]


class _Writer:
    def __init__(self, index: dict[int, int], *, service: bool) -> None:
        self.index = index
        self.service = service

    def id(self, key: Key) -> bytearray:
        out = bytearray()
        write_id(out, self.index[key[1]], key[0])
        return out

    def node(self, node: Node) -> bytearray:
        out = bytearray()
        if isinstance(node, Con):
            if isinstance(node.value, Timestamp):
                out.append(1)
                write_id(out, self.index[node.value.sid], node.value.time)
            else:
                out.append(0)
                write_value(out, node.value, service=self.service)
        elif isinstance(node, Val):
            write_head(out, node.kind, 0)
            target = node.target or (0, 0)
            write_id(out, self.index[target[1]], target[0])
        elif isinstance(node, Obj):
            write_head(out, node.kind, len(node.keys))
            for name, target in node.keys.items():
                write_text(out, name)
                write_id(out, self.index[target[1]], target[0])
        elif isinstance(node, Vec):
            write_head(out, node.kind, len(node.slots))
            for slot in node.slots:
                out.append(0 if slot is None else 1)
                if slot is not None:
                    write_id(out, self.index[slot[1]], slot[0])
        else:
            self._sequence(out, node)
        return out

    def _sequence(self, out: bytearray, node: Seq) -> None:
        runs = self._runs(node)
        write_head(out, node.kind, len(runs))
        for time, sid, span, parts in runs:
            write_id(out, self.index[sid], time)
            if node.kind == STR:
                if parts is None:
                    write_head(out, 0, span)
                else:
                    write_text(out, joined("".join(parts)))
                continue
            write_b1vu56(out, int(parts is None), span)
            for part in parts or ():
                if node.kind == BIN:
                    out += part
                else:
                    for key in part:
                        write_id(out, self.index[key[1]], key[0])

    def _runs(self, node: Seq) -> list[tuple[int, int, int, list[Any] | None]]:
        """Neighbours whose ids follow each other, as one; deleted elements of lists each for itself in the
        service's form.
        """
        found: list[tuple[int, int, int, list[Any] | None]] = []
        singly = self.service and node.kind == ARR
        for chunk in node.rga:
            if chunk.data is None and singly and chunk.span <= _SINGLES:
                found += [(chunk.time + n, chunk.sid, 1, None) for n in range(chunk.span)]
            elif found and _follows(found[-1], chunk) and not (singly and chunk.data is None):
                time, sid, span, parts = found[-1]
                if parts is not None:
                    parts.append(chunk.data)
                found[-1] = (time, sid, span + chunk.span, parts)
            else:
                parts = None if chunk.data is None else [chunk.data]
                found.append((chunk.time, chunk.sid, chunk.span, parts))
        return found


def _follows(run: tuple[int, int, int, list[Any] | None], chunk: Chunk) -> bool:
    time, sid, span, parts = run
    return (
        sid == chunk.sid and time + span == chunk.time and (parts is None) == (chunk.data is None)
    )


def _base36(number: int) -> str:
    out = ""
    while True:
        number, digit = divmod(number, 36)
        out = _DIGITS[digit] + out
        if not number:
            return out
