"""Patches of one's own: what a replica of the web client or of the service would write.

Each call applies its patches to the replica and returns them, to be sent in order.
Source: reference/grid-protocol.md, 13.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from synd.errors import NotFound, ProtocolError, UsageError
from synd.grid.crdt.document import GridDocument
from synd.grid.crdt.nodes import Seq, Vec
from synd.grid.crdt.patches import MOST_SLOT, header, parse
from synd.grid.crdt.replica import Replica
from synd.grid.crdt.rga import Key
from synd.grid.crdt.values import UNDEFINED, Timestamp, check_value, fresh

Patch = list[Any]

BOUND: Final = 30_000 - 64
"""Bytes of a patch that fits one frame of the gateway, the message around it included."""
DOC_VERSION: Final = "0.1.0"
_SPANS = 400
"""Ranges of ids in one operation, so that it can be split off."""


def split(patch: Patch, bound: int) -> list[Patch]:
    """The same operations in patches of at most `bound` bytes of ASCII JSON each.

    One operation is never cut: one that is longer makes a longer patch. Raises ProtocolError.
    """
    sid, time = header(patch)
    found: list[Patch] = []
    size = bound + 1
    for op, known in zip(patch[1:], parse(patch), strict=True):
        length = len(json.dumps(op, separators=(",", ":"))) + 1
        if size + length > bound:
            found.append([[[sid, time]]])
            size = len(json.dumps(found[-1], separators=(",", ":")))
        found[-1].append(op)
        size += length
        time += known.span
    return found


class Author:
    """Writes to a replica's grid as the session `sid`.

    `bound`: bytes of a patch above which it is split; None for never. The replica should be in sync: a new
    operation's time is above all that the replica knows. Each method raises UsageError for a value that a
    patch cannot carry, and NotFound for a row or a part of the grid that is not there.
    """

    def __init__(self, replica: Replica, sid: int, *, bound: int | None = BOUND) -> None:
        self.replica = replica
        self.document = GridDocument(replica)
        self.sid = sid
        self.bound = bound
        self._next = replica.next_time

    def new_grid(self, columns: Sequence[str]) -> list[Patch]:
        """An empty grid of these columns, in this order."""
        if len(columns) > MOST_SLOT + 1:
            raise UsageError(f"a grid has at most {MOST_SLOT + 1} columns")
        ops = _Ops(self)
        root, version, names = ops.add([2]), ops.con(DOC_VERSION), ops.add([3])
        order, rows = ops.add([6]), ops.add([6])
        parts = {
            "doc_version": version, "columnNames": names, "columnOrder": order, "rows": rows,
        }  # fmt: skip
        ops.add([10, root, [[name, time] for name, time in parts.items()]])
        if columns:
            texts = [ops.con(name) for name in columns]
            ops.add([11, names, [[place, time] for place, time in enumerate(texts)]])
            places = [ops.con(place) for place in range(len(columns))]
            ops.add([14, order, order, places], len(places))
        ops.add([9, [0, 0], root])
        return self._done(ops)

    def insert_row(
        self, values: Sequence[Any], after: Timestamp | None = None, *, synapse_row: Any = None
    ) -> list[Patch]:
        """One row; see `insert_rows`. Its id is that of the first patch's header."""
        return self.insert_rows([values], after, synapse_rows=[synapse_row])

    def insert_rows(
        self,
        rows: Iterable[Sequence[Any]],
        after: Timestamp | None = None,
        *,
        synapse_rows: Iterable[Any] | None = None,
    ) -> list[Patch]:
        """Rows of values by data index, behind the element `after` (None: at the end; `first`: before all).

        What a row lacks is null; UNDEFINED is undefined. `synapse_rows`: [row, version, etag] of each.
        """
        width = len(self._vec("columnNames").slots)
        place = self.document.part_id("rows")
        rga = self._seq("rows").rga
        behind = rga.last_key() if after is None else after.key
        if behind != place and rga.find(behind) is None:
            raise NotFound(f"the grid has no place {after}")
        sources = iter(synapse_rows if synapse_rows is not None else ())
        ops = _Ops(self)
        for values in rows:
            if len(values) > width:
                raise UsageError(f"a row of {len(values)} values in a grid of {width} columns")
            element = self._row(ops, values, width, next(sources, None), place, behind)
            behind = (element, self.sid)
        return self._done(ops)

    def _row(
        self, ops: _Ops, values: Sequence[Any], width: int, source: Any, place: Key, behind: Key
    ) -> int:
        row, data = ops.add([2]), ops.add([3])
        cells = [ops.con(values[i] if i < len(values) else None) for i in range(width)]
        if cells:
            ops.add([11, data, [[i, time] for i, time in enumerate(cells)]])
        metadata = ops.add([2])
        if source is not None:
            ops.add([10, metadata, [["synapseRow", ops.con(source)]]])
        ops.add([10, row, [["data", data], ["metadata", metadata]]])
        return ops.add([14, self._ref(place), self._ref(behind), [row]])

    @property
    def first(self) -> Timestamp:
        """What to insert behind for the first place."""
        time, sid = self.document.part_id("rows")
        return Timestamp(sid, time)

    def set_cell(self, row_id: Timestamp, index: int, value: Any) -> list[Patch]:
        """Another value of a cell; None clears it."""
        if not 0 <= index <= MOST_SLOT:
            raise UsageError(f"no such column: {index}")
        vec = self.document.child_id(row_id, "data")
        if vec is None:
            raise NotFound(f"the row {row_id} has no cells")
        ops = _Ops(self)
        ops.add([11, self._ref(vec), [[index, ops.con(value)]]])
        return self._done(ops)

    def delete_rows(self, element_ids: Iterable[Timestamp]) -> list[Patch]:
        """Deletes rows by their places; unknown ones do nothing."""
        # json-joy does not follow a range from one insertion into the next, so each is named by itself.
        spans = [[sid, time, 1] for sid, time in sorted(set(element_ids))]
        rows = self._ref(self.document.part_id("rows"))
        ops = _Ops(self)
        for at in range(0, len(spans), _SPANS):
            ops.add([16, rows, spans[at : at + _SPANS]])
        return self._done(ops)

    def set_validation(self, row_id: Timestamp, result: Any) -> list[Patch]:
        """The service's verdict on a row; its id is newer than all cells."""
        return self._set_metadata(row_id, "rowValidation", result)

    def set_synapse_row(self, row_id: Timestamp, source: Any) -> list[Patch]:
        """Where a row comes from: [row, version, etag]."""
        return self._set_metadata(row_id, "synapseRow", source)

    def _set_metadata(self, row_id: Timestamp, name: str, value: Any) -> list[Patch]:
        metadata = self.document.child_id(row_id, "metadata")
        ops = _Ops(self)
        target: Any
        if metadata is None:
            target = ops.add([2])
            ops.add([10, list(row_id), [["metadata", target]]])
        else:
            target = self._ref(metadata)
        ops.add([10, target, [[name, ops.con(value)]]])
        return self._done(ops)

    def add_column(self, name: str) -> list[Patch]:
        """A column behind the others; rows have no cell in it."""
        index = len(self._vec("columnNames").slots)
        if index > MOST_SLOT:
            raise UsageError(f"a grid has at most {MOST_SLOT + 1} columns")
        names, order = self.document.part_id("columnNames"), self.document.part_id("columnOrder")
        last = self._seq("columnOrder").rga.last_key()
        ops = _Ops(self)
        ops.add([11, self._ref(names), [[index, ops.con(name)]]])
        ops.add([14, self._ref(order), self._ref(last), [ops.con(index)]])
        return self._done(ops)

    def rename_column(self, index: int, name: str) -> list[Patch]:
        """Another name of a column by data index; the cells stay."""
        vec = self._vec("columnNames")
        if not 0 <= index < len(vec.slots):
            raise NotFound(f"the grid has no column {index}")
        ops = _Ops(self)
        names = self._ref(self.document.part_id("columnNames"))
        ops.add([11, names, [[index, ops.con(name)]]])
        return self._done(ops)

    def _ref(self, key: Key) -> list[int]:
        return [key[1], key[0]]

    def _vec(self, name: str) -> Vec:
        node = self.replica.node(self.document.part_id(name))
        if not isinstance(node, Vec):
            raise ProtocolError(f"{name} of the grid is of a wrong kind")
        return node

    def _seq(self, name: str) -> Seq:
        # In the replica, so that the next call finds it decoded.
        node = self.replica.opened(self.document.part_id(name))
        if not isinstance(node, Seq):
            raise ProtocolError(f"{name} of the grid is of a wrong kind")
        return node

    def begin(self) -> int:
        """The time of the next operation."""
        return max(self._next, 1 + max(self.replica.clock.values(), default=0))

    def _done(self, ops: _Ops) -> list[Patch]:
        if not ops.list:
            return []
        patch = [[[self.sid, ops.first]], *ops.list]
        made = [patch] if self.bound is None else split(patch, self.bound)
        self.replica.apply_patches(made)
        self._next = ops.time
        return made


class _Ops:
    """Operations that are being put together. Ids are bare times, of the author's session."""

    def __init__(self, author: Author) -> None:
        self.first = self.time = author.begin()
        self.list: list[Any] = []

    def add(self, op: list[Any], span: int = 1) -> int:
        """The operation's time."""
        self.list.append(op)
        self.time += span
        return self.time - span

    def con(self, value: Any) -> int:
        if value is UNDEFINED:
            return self.add([0])
        try:
            check_value(value)
            json.dumps(value, allow_nan=False)
        except (ProtocolError, TypeError, ValueError) as error:
            raise UsageError(f"a grid cannot be sent this value: {error}") from error
        return self.add([0, fresh(value)])
