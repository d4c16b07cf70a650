"""A replica of a grid's document: read from a snapshot, kept current by patches.

Nodes of the snapshot stay bytes until they are asked for; those that a patch changes, and new ones, are kept
beside. Nothing is ever forgotten: constants may be shared, and later patches may name what was deleted.
A patch is checked whole, and the nodes it changes are decoded, before anything of it is applied: one that
is refused leaves the document and the clock as they were. Not safe for use by several threads at once.
Source: reference/grid-protocol.md, 8.3, 11 and 12.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

from synd.errors import ProtocolError
from synd.grid.crdt import encode, patches
from synd.grid.crdt.layout import Layout
from synd.grid.crdt.nodes import ARR, BIN, STR, Con, Node, NodeReader, Obj, Seq, Val, Vec
from synd.grid.crdt.patches import ROOT, Op
from synd.grid.crdt.rga import Key, Rga
from synd.grid.crdt.values import Timestamp, weight
from synd.grid.crdt.view import Viewer

_SEQUENCES = {
    patches.INS_STR: STR,
    patches.INS_BIN: BIN,
    patches.INS_ARR: ARR,
    patches.UPD_ARR: ARR,
}


class Replica:
    """A document that is empty at first."""

    def __init__(self) -> None:
        self.clock: dict[int, int] = {}
        """The highest time known of each session; what `synchronize-clock` is to be sent."""
        self._layout: Layout | None = None
        self._reader: NodeReader | None = None
        self._changed: dict[Key, Node] = {}
        self._root: Key | None = None
        self._weight = 0
        """How much patches have brought: what a view may cost is in proportion to it."""

    @classmethod
    def from_snapshot(cls, data: bytes) -> Replica:
        """The document of a snapshot, either form. Raises ProtocolError.

        Only the outer map is looked at; a broken node raises ProtocolError when it is read. The bytes are
        kept, not copied. Cost: about half a microsecond a node.
        """
        made = cls()
        made._layout = layout = Layout(data)
        made._reader = NodeReader(layout)
        made._root = layout.root
        made.clock = {sid: time for sid, time in layout.clock if sid}
        return made

    @property
    def root(self) -> Timestamp | None:
        """The id of the root's value; None when the document has none."""
        return None if self._root is None else Timestamp(self._root[1], self._root[0])

    @property
    def next_time(self) -> int:
        """The time that a new operation may have: above all that is known."""
        # Nodes that patches made are below the clock; a snapshot's may be above its own.
        times = []
        if self._layout is not None:
            for table in self._layout.tables:
                times += [len(table.dense) - 1, *([max(table.sparse)] if table.sparse else [])]
        return 1 + max([0, *times, *self.clock.values()])

    def __len__(self) -> int:
        """How many nodes there are."""
        layout = self._layout
        if layout is None:
            return len(self._changed)
        return len(layout) + sum(not layout.find(key) for key in self._changed)

    def view(self) -> Any:
        """The document as plain values: dict, list, str, bytes, numbers, None, UNDEFINED, Timestamp.

        UNDEFINED when there is no document. What is returned is the caller's. Raises ProtocolError.
        """
        return self.viewer().view(self._root)

    def viewer(self) -> Viewer:
        """Views of single nodes; good until the next patch."""
        return Viewer(self._layout, self._changed, self._weight)

    def node(self, key: Key) -> Node | None:
        """The node with the id (time, session), not to be changed. Raises ProtocolError."""
        found = self._changed.get(key)
        if found is None and self._layout is not None and self._reader is not None:
            at = self._layout.find(key)
            if at:
                return self._reader.read(key, at)
        return found

    def opened(self, key: Key) -> Node | None:
        """As `node`, and it stays decoded, for one that is asked for again and again."""
        found = self.node(key)
        if found is not None and not isinstance(found, Con):
            self._changed[key] = found
        return found

    def kind(self, key: Key) -> int | None:
        """The kind of a node, without decoding it; None when there is none."""
        layout = self._layout
        if layout is not None and (at := layout.find(key)):
            begin = layout.span(at)[0]
            if begin >= len(layout.data):
                raise ProtocolError("a node without bytes")
            return layout.data[begin] >> 5
        found = self._changed.get(key)
        return None if found is None else found.kind

    def newest(self, key: Key) -> tuple[bool, Key | None]:
        """The greatest id that the slots of the node `key` hold, learnt without decoding them.

        (False, None) when that cannot be. Raises ProtocolError.
        """
        layout, reader = self._layout, self._reader
        if layout is None or reader is None or key in self._changed:
            return False, None
        at = layout.find(key)
        return reader.newest(at) if at else (False, None)

    def has(self, key: Key) -> bool:
        """Whether there is a node with the id (time, session)."""
        if key in self._changed:
            return True
        return self._layout is not None and self._layout.find(key) != 0

    def ids(self) -> Iterator[Key]:
        """The ids of all nodes, by session and time as far as the snapshot goes."""
        layout = self._layout
        if layout is not None:
            for sid, table in zip(layout.sids, layout.tables, strict=True):
                for time in table.times():
                    yield time, sid
        for key in self._changed:
            if layout is None or not layout.find(key):
                yield key

    def to_snapshot(self, form: Literal["json-joy", "service"] = "service") -> bytes:
        """The document as the service stores it, or as json-joy writes it. Raises ProtocolError."""
        return encode.snapshot(self, self._layout, self._changed, self._root, form)

    def apply_patches(self, batch: Iterable[Any]) -> None:
        """Applies compact patches in order; a repeated one changes nothing.

        Raises ProtocolError at the first that cannot be read; those before it stay applied, it and those
        after it are not.
        """
        for patch in batch:
            ops = patches.parse(patch)
            for op in ops:
                self._open(op)
            for op in ops:
                self._apply(op)

    def _open(self, op: Op) -> None:
        """Decodes what an operation changes, so that applying it cannot fail any more."""
        key = op.node
        if op.code < patches.INS_VAL or key == ROOT or key in self._changed:
            return
        self.opened(key)

    def _apply(self, op: Op) -> None:
        code, key, span, name, what, after = op
        last = key[0] + span - 1
        if last > self.clock.get(key[1], 0):
            self.clock[key[1]] = last
        if code != patches.NOP:
            self._weight += span + (1 if what is None else weight(what))
        if code in patches.NEW:
            if not self.has(key):
                self._changed[key] = _new(code, key, what)
            return
        if code == patches.INS_VAL and name == ROOT:
            if self.has(what) and (self._root is None or what > self._root):
                self._root = what
            return
        node = self._changed.get(name)
        if code == patches.INS_VAL:
            if (
                isinstance(node, Val)
                and what > name
                and (node.target is None or what > node.target)
                and self.has(what)
            ):
                node.target = what
        elif code == patches.INS_OBJ:
            if isinstance(node, Obj):
                for text, target in what:
                    old = node.keys.get(text)
                    if target[0] > name[0] and (old is None or target > old) and self.has(target):
                        node.keys[text] = target
        elif code == patches.INS_VEC:
            if isinstance(node, Vec):
                self._fill(node, name, what)
        elif code == patches.DEL:
            if isinstance(node, Seq):
                for first, count in what:
                    node.rga.delete(first, count)
        elif code != patches.NOP and isinstance(node, Seq) and node.kind == _SEQUENCES[code]:
            if code == patches.UPD_ARR:
                if self.has(what):
                    node.rga.update(after, what)
                return
            if code == patches.INS_ARR:
                what = [one for one in what if one[0] > name[0] and self.has(one)]
            node.rga.insert(after, key, len(what), what)

    def _fill(self, node: Vec, name: Key, pairs: list[tuple[int, Key]]) -> None:
        slots = node.slots
        for place, target in pairs:
            if target[0] <= name[0] or not self.has(target):
                continue
            if place >= len(slots):
                self._weight += place + 1 - len(slots)
                slots.extend([None] * (place + 1 - len(slots)))
            old = slots[place]
            if old is None or target > old:
                slots[place] = target


def _new(code: int, key: Key, value: Any) -> Node:
    if code == 0:
        return Con(value)
    if code == 1:
        return Val()
    if code == 2:
        return Obj({})
    if code == 3:
        return Vec([])
    return Seq(code, Rga(key))
