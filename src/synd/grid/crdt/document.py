"""A grid in a replica's document: columns, rows, and what is known of each row.

Reads node by node: to learn the status of all rows no cell is decoded.
Source: reference/grid-protocol.md, 7.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Literal, overload

from synd.errors import NotFound, ProtocolError
from synd.grid.crdt.nodes import CON, Con, Obj, Seq, Val, Vec
from synd.grid.crdt.replica import Replica
from synd.grid.crdt.rga import Key
from synd.grid.crdt.values import UNDEFINED, Timestamp
from synd.grid.crdt.view import MOST_DEEP, Viewer

Status = Literal["valid", "invalid", "pending"]
MAJOR: Final = "0"
"""The part before the first dot of the document's version; another one is refused."""


class Cells(Sequence[Any]):
    """The cells of a row by data index; UNDEFINED where there is none, however far.

    Decoded when first asked for, so a patch that comes before that may show.
    """

    __slots__ = ("_key", "_known", "_values", "_viewer")

    def __init__(self, replica: Replica, key: Key | None, viewer: Viewer) -> None:
        self._known: Replica | list[Key | None] = replica
        self._key = key
        self._viewer = viewer
        self._values: dict[int, Any] | None = None

    @property
    def slots(self) -> list[Key | None]:
        """The ids of the cells."""
        if isinstance(self._known, Replica):
            node = None if self._key is None else self._known.node(self._key)
            self._known = node.slots if isinstance(node, Vec) else []
        return self._known

    def __len__(self) -> int:
        return len(self.slots)

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Raises ProtocolError when the bytes of the cell are broken, IndexError only below 0."""
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self.slots)))]
        if index < 0:
            raise IndexError(index)
        slots = self.slots
        if index >= len(slots):
            return UNDEFINED
        if self._values is None:
            self._values = {}
        if index not in self._values:
            self._values[index] = self._viewer.view(slots[index])
        return self._values[index]

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self.slots)):
            yield self[index]


class RowNode:
    """A live row."""

    __slots__ = (
        "cells", "element_id", "newest_cell", "row_id", "synapse_row", "validation", "validation_id",
    )  # fmt: skip

    def __init__(
        self,
        row_id: Timestamp,
        element_id: Timestamp,
        cells: Cells,
        newest_cell: Timestamp | None,
        synapse_row: Any,
        validation: dict[str, Any] | None,
        validation_id: Timestamp | None,
    ) -> None:
        self.row_id = row_id
        """Of the row itself: stays when rows are inserted and deleted before it."""
        self.element_id = element_id
        """Of its place: what to insert behind, what to delete."""
        self.cells = cells
        self.newest_cell = newest_cell
        """None when the row has no cell."""
        self.synapse_row = synapse_row
        """[row, version, etag] of the source; None when there is none."""
        self.validation = validation
        """The service's ValidationResults; None while there are none."""
        self.validation_id = validation_id

    @property
    def status(self) -> Status:
        """`pending` when there is no result, or a cell is newer than it."""
        if self.validation is None or self.validation_id is None:
            return "pending"
        if self.newest_cell is not None and self.newest_cell.key > self.validation_id.key:
            return "pending"
        return "valid" if self.validation.get("isValid") is True else "invalid"


class GridDocument:
    """Columns and rows of a replica. Reads it anew at each call, so patches show at once.

    Each call raises ProtocolError for a document that is not a grid, or of a version that is not known.
    """

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    @property
    def exists(self) -> bool:
        """Whether there is any document; False in a session that nobody has filled."""
        return self.replica.root is not None

    @property
    def doc_version(self) -> str | None:
        """None while the document has none."""
        version = self.replica.viewer().view(self.root.get("doc_version"))
        if version is UNDEFINED or version is None:
            return None
        if type(version) is not str or version.partition(".")[0] != MAJOR:
            raise ProtocolError(
                f"the grid is of version {version!r:.40}, which this synd cannot read",
                hint="update synd",
            )
        return version

    @property
    def root(self) -> dict[str, Key]:
        """The document's parts by name."""
        root = self.replica.root
        if root is None:
            return {}
        node = self._resolved(root.key)[1]
        if not isinstance(node, Obj):
            raise ProtocolError("the document is not a grid")
        return node.keys

    @property
    def names(self) -> list[str | None]:
        """Names by data index; None where a column has none."""
        vec = self._part("columnNames", Vec)
        viewer = self.replica.viewer()
        found = [viewer.view(slot) for slot in vec.slots] if vec is not None else []
        return [name if type(name) is str else None for name in found]

    @property
    def columns(self) -> list[tuple[int, str]]:
        """(data index, name) of what is shown, in that order."""
        names = self.names
        order = self._part("columnOrder", Seq)
        viewer = self.replica.viewer()
        found: dict[int, str] = {}
        for chunk in order.rga if order is not None else ():
            for key in chunk.data or ():
                index = viewer.view(key)
                if type(index) is float and index.is_integer():
                    index = int(index)
                if type(index) is int and 0 <= index < len(names) and index not in found:
                    name = names[index]
                    if name:
                        found[index] = name
        return list(found.items())

    def rows(self, skip: int = 0) -> Iterator[RowNode]:
        """Live rows in order, without the first `skip`. Cost: about thirty microseconds each, cells not counted;
        those that are skipped cost nothing to speak of.
        """
        rows = self._part("rows", Seq)
        if rows is None:
            return
        # One for all rows, so that a hostile document has one bound for all of them.
        viewer = self.replica.viewer()
        for chunk in rows.rga:
            data = chunk.data or ()
            if skip >= len(data):
                skip -= len(data)
                continue
            first, skip = skip, 0
            for place, key in enumerate(data[first:], start=first):
                row = self._row(Timestamp(chunk.sid, chunk.time + place), key, viewer)
                if row is not None:
                    yield row

    def _row(self, element: Timestamp, key: Key, viewer: Viewer) -> RowNode | None:
        key, node = self._resolved(key)
        if node is None:
            return None
        if not isinstance(node, Obj):
            raise ProtocolError("a row of the grid is not an object")
        data = node.keys.get("data")
        known = False
        if data is not None:
            known, newest = self.replica.newest(data)
            if not known:
                data = self._resolved(data)[0]
        cells = Cells(self.replica, data, viewer)
        if not known:
            newest = max((self._leaf(key) for key in cells.slots if key is not None), default=None)
        metadata = self._resolved(node.keys["metadata"])[1] if "metadata" in node.keys else None
        synapse_row = validation = validation_key = None
        if isinstance(metadata, Obj):
            if "synapseRow" in metadata.keys:
                synapse_row = viewer.view(metadata.keys["synapseRow"])
            if "rowValidation" in metadata.keys:
                validation_key = self._leaf(metadata.keys["rowValidation"])
                validation = viewer.view(validation_key)
        if validation is None or validation is UNDEFINED:
            validation, validation_key = None, None
        elif type(validation) is not dict:
            raise ProtocolError("the validation of a row of the grid is not an object")
        return RowNode(
            Timestamp(key[1], key[0]),
            element,
            cells,
            None if newest is None else Timestamp(newest[1], newest[0]),
            None if synapse_row is UNDEFINED else synapse_row,
            validation,
            None if validation_key is None else Timestamp(validation_key[1], validation_key[0]),
        )

    def part_id(self, name: str) -> Key:
        """The id of a part of the document. Raises NotFound."""
        key = self.root.get(name)
        if key is None:
            raise NotFound(f"the grid has no {name}")
        return self._resolved(key)[0]

    def child_id(self, row: Timestamp, name: str) -> Key | None:
        """The id of a row's `data` or `metadata`; None when it has none. Raises NotFound for no such row."""
        node = self._resolved(row.key)[1]
        if not isinstance(node, Obj):
            raise NotFound(f"the grid has no row {row}")
        key = node.keys.get(name)
        return None if key is None else self._resolved(key)[0]

    def _part(self, name: str, kind: type) -> Any:
        """A part of the document; None while it is missing."""
        key = self.root.get(name)
        node = None if key is None else self._resolved(key)[1]
        if node is None or (isinstance(node, Con) and node.value is UNDEFINED):
            return None
        if not isinstance(node, kind):
            raise ProtocolError(f"{name} of the grid is of a wrong kind")
        return node

    def _resolved(self, key: Key) -> tuple[Key, Any]:
        """The node that an id leads to, registers followed, and its own id."""
        for _ in range(MOST_DEEP):
            node = self.replica.node(key)
            if not isinstance(node, Val):
                return key, node
            if node.target is None:
                return key, None
            key = node.target
        raise ProtocolError(f"the nodes of the grid are nested more than {MOST_DEEP} deep")

    def _leaf(self, key: Key) -> Key:
        """The id of the constant that a slot leads to; nothing is decoded when it is one itself."""
        if self.replica.kind(key) in (CON, None):
            return key
        return self._resolved(key)[0]
