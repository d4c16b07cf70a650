"""Rows from CSV into a grid, and back: types, keys, and what a record set's file looks like.

Source: synapse-rest.md 7.7, 7.10; grid-protocol.md 7.5.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from synd.grid.crdt import UNDEFINED
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import RowNode
from synd.registry import handles, tables
from synd.registry.access import Caller
from synd.registry.grids import sessions
from synd.registry.grids.engine import PATCH_BYTES, LiveGrid, Patch, joined
from synd.registry.routes.columns import ColumnModel
from synd.registry.service import Registry
from synd.registry.web import Json, RefusedError, bad, missing

SAMPLE_ROWS = 5
SCANNED_ROWS = 1000
"""Rows that a preview looks at unless a full scan is asked for."""
MAX_COLUMNS = 256
CHUNK_ROWS = 1000
"""New rows that are written together."""
COMPACT_BYTES = 8 << 20
"""After so many bytes of patches a growing document is made a snapshot, which takes less memory."""
Values = dict[str, Any]
"""Column name → cell."""


class Table(NamedTuple):
    """A CSV file, read."""

    header: list[str]
    rows: list[list[str]]


def open_text(registry: Registry, handle: handles.HandleRow) -> io.TextIOWrapper:
    """The text of a file handle. Raises RefusedError 404."""
    try:
        return open(registry.blobs.path(handle.md5 or ""), encoding="utf-8-sig", newline="")
    except FileNotFoundError as error:
        raise missing(f"The bytes of file handle {handle.id} are gone.") from error


def own_handle(registry: Registry, caller: Caller, raw: object) -> handles.HandleRow:
    """A file handle that the caller made. Raises RefusedError 400, 403, 404."""
    if not str(raw).isdecimal():
        raise bad(f"{raw!r} is not a valid file handle id.")
    row = handles.get(registry.db, int(str(raw)))
    if row.created_by != caller.user:
        raise RefusedError(403, f"{caller.name} is not the creator of file handle {row.id}.")
    return row


def read(text: Iterable[str], descriptor: dict[str, Json], names: list[str] | None = None) -> Table:
    """A whole CSV. `names` are the columns where it has no header line. Raises RefusedError 400."""
    reader = csv.reader(text, **tables.csv_dialect(descriptor), strict=False)
    try:
        lines = [line for line in reader if line]
    except (csv.Error, UnicodeDecodeError) as error:
        raise bad(f"The CSV cannot be read: {error}") from error
    if descriptor.get("isFirstLineHeader", True) is not False:
        if not lines:
            raise bad("The CSV file is empty.")
        header, lines = [name.strip() for name in lines[0]], lines[1:]
    elif names is not None:
        header = names
    else:
        header = [f"col{n + 1}" for n in range(max(map(len, lines), default=0))]
    if doubled := sorted({name for name in header if header.count(name) > 1}):
        raise bad(f"Duplicate column name: {doubled[0]!r}.")
    for n, line in enumerate(lines):
        if len(line) != len(header):
            raise bad(f"Row {n + 1} has {len(line)} fields instead of {len(header)}.")
    return Table(header, lines)


# A number with leading zeros is a name.
_INTEGER = re.compile(r"[+-]?(?:0|[1-9]\d{0,18})")
_DOUBLE = re.compile(r"[+-]?(?:0|[1-9]\d*)?(?:\.\d*)?(?<=\d)(?:[eE][+-]?\d+)?")
_GUESSES = ("INTEGER", "DOUBLE", "BOOLEAN")


def guess(values: Iterable[str]) -> str:
    """The narrowest column type that takes all values that are not empty."""
    left = list(_GUESSES)
    some = False
    is_list = True
    for value in values:
        if not value:
            continue
        some = True
        left = [kind for kind in left if _fits(value, kind)]
        is_list = is_list and value.startswith("[") and _is_list(value)
        if not left and not is_list:
            return "STRING"
    if not some:
        return "STRING"
    return left[0] if left else "STRING_LIST"


def _is_list(value: str) -> bool:
    try:
        return isinstance(json.loads(value), list)
    except ValueError:
        return False


def _fits(value: str, kind: str) -> bool:
    if kind == "BOOLEAN":
        return value.lower() in ("true", "false")
    return (_INTEGER if kind == "INTEGER" else _DOUBLE).fullmatch(value) is not None


def suggested(table: Table) -> list[ColumnModel]:
    """A column model for each column."""
    models: list[ColumnModel] = []
    for n, name in enumerate(table.header):
        column = [line[n] for line in table.rows]
        kind = guess(column)
        model: ColumnModel = {"name": name, "columnType": kind}
        longest = max(map(len, column), default=0)
        if kind == "STRING" and longest > 1000:
            model["columnType"] = "LARGETEXT"
        elif kind in ("STRING", "STRING_LIST"):
            model["maximumSize"] = min(1000, max(50, longest))
        models.append(model)
    return models


_OF_SCHEMA = {"integer": "INTEGER", "number": "DOUBLE", "boolean": "BOOLEAN", "string": "STRING"}


def types_of(schema: dict[str, Json] | None, table: Table) -> dict[str, str]:
    """Column name → column type: as the schema says where it does, else as the cells look."""
    properties = (schema or {}).get("properties") or {}
    found = {}
    for n, name in enumerate(table.header):
        told = properties.get(name)
        kind = told.get("type") if isinstance(told, dict) else None
        if isinstance(kind, list):
            kind = next((one for one in kind if one != "null"), None)
        if kind == "array":
            item = (told.get("items") or {}).get("type") if isinstance(told, dict) else None
            found[name] = "INTEGER_LIST" if item == "integer" else "STRING_LIST"
        elif kind in _OF_SCHEMA:
            found[name] = _OF_SCHEMA[kind]
        elif isinstance(told, dict) and "enum" in told:
            found[name] = "STRING"
        else:
            found[name] = guess(line[n] for line in table.rows)
    return found


def typed(raw: Any, name: str, kind: str, *, lenient: bool) -> Any:
    """A cell by its column type, None where it is empty. What does not fit stays text if `lenient`.

    Raises RefusedError 400.
    """
    try:
        return tables.parse_cell(raw, {"name": name, "columnType": kind})
    except RefusedError:
        if lenient:
            return raw
        raise


def values_of(table: Table, types: dict[str, str], *, lenient: bool) -> Iterator[Values]:
    """The rows of a CSV, typed. Raises RefusedError 400."""
    kinds = [types[name] for name in table.header]
    for line in table.rows:
        yield {
            name: typed(raw, name, kind, lenient=lenient)
            for name, kind, raw in zip(table.header, kinds, line, strict=True)
        }


def spelled(value: Any) -> str:
    """A cell as CSV holds it."""
    if value is UNDEFINED or value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | dict):
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return str(value)


def _stored(value: Any, required: bool) -> Any:
    """An empty cell is a null where the schema requires the column, else undefined (`row_json`)."""
    return (None if required else UNDEFINED) if value is None else value


class Writer:
    """Changes rows of a live grid as the service. The caller holds the grid's lock, and calls `finish`."""

    def __init__(self, live: LiveGrid) -> None:
        self._live = live
        self._author = live.author()
        self._made: list[Patch] = []
        self._new: list[list[Any]] = []
        self._sources: list[list[Json] | None] = []
        checker = live.checker_of_schema()
        self._required = frozenset() if checker is None else checker.required
        self.index: dict[str, int] = {name: index for index, name in live.document.columns}

    def columns(self, names: Iterable[str]) -> None:
        """Has the grid have these columns. Raises RefusedError 400 for more than a grid can have."""
        names = list(names)
        used = len(self._live.document.names) + sum(name not in self.index for name in names)
        if used > MAX_COLUMNS:
            raise bad(f"A grid may have at most {MAX_COLUMNS} columns.")
        if not self._live.document.exists:
            self._made.extend(self._author.new_grid(names))
        else:
            for name in names:
                if name not in self.index:
                    self._made.extend(self._author.add_column(name))
        self.index = {name: index for index, name in self._live.document.columns}

    def insert(self, values: Values, synapse_row: list[Json] | None = None) -> None:
        """A new row at the end."""
        slots: list[Any] = [UNDEFINED] * (max(self.index.values(), default=-1) + 1)
        for name, index in self.index.items():
            slots[index] = _stored(values.get(name), name in self._required)
        self._new.append(slots)
        self._sources.append(synapse_row)
        if len(self._new) >= CHUNK_ROWS:
            self.finish()

    def update(self, row: RowNode, values: Values) -> bool:
        """Sets the cells that differ; whether there were any."""
        changed = False
        for name, value in values.items():
            old = row.cells[self.index[name]]
            if value is None and (old is None or old is UNDEFINED):
                continue
            if type(old) is type(value) and old == value:
                continue
            self._made.extend(self._author.set_cell(row.row_id, self.index[name], value))
            changed = True
        return changed

    def again(self, row: RowNode, name: str) -> None:
        """Writes a cell as it is, as the service."""
        index = self.index[name]
        self._made.extend(self._author.set_cell(row.row_id, index, row.cells[index]))

    def delete(self, rows: Iterable[RowNode]) -> None:
        self._made.extend(self._author.delete_rows([row.element_id for row in rows]))

    def set_source(self, row: RowNode, value: list[Json]) -> None:
        """Says which row of the source a row is."""
        self._made.extend(self._author.set_synapse_row(row.row_id, value))

    def _portions(self) -> Iterator[tuple[int, int, bool]]:
        """(first, behind last, is too big) of the new rows that make one patch: dividing a patch costs as much
        as making it.
        """
        start = size = 0
        for n, slots in enumerate(self._new):
            grows = (
                sum(len(str(value).encode(errors="surrogatepass")) for value in slots)
                + 32 * len(slots)
                + 160
            )
            if n > start and size + grows > PATCH_BYTES:
                yield start, n, size > PATCH_BYTES
                start, size = n, 0
            size += grows
        if start < len(self._new):
            yield start, len(self._new), size > PATCH_BYTES

    def finish(self) -> None:
        """Stores what was done so far."""
        author = Author(self._live.replica, sessions.WRITER, bound=None)
        for start, stop, big in self._portions():
            new, sources = self._new[start:stop], self._sources[start:stop]
            writer = self._live.author() if big else author
            self._made.extend(writer.insert_rows(new, synapse_rows=sources))
        self._live.store(joined(self._made))
        self._made, self._new, self._sources = [], [], []
        if self._live.unsaved_bytes >= COMPACT_BYTES:
            self._live.make_snapshot()
        self._author = self._live.author()


def key_of(values: Values, key: list[str]) -> tuple[str, ...]:
    """What names a row: the spelling of its key columns."""
    return tuple(spelled(values.get(name)) for name in key)


def rows_by_key(live: LiveGrid, key: list[str]) -> dict[tuple[str, ...], RowNode]:
    """The rows of a grid by their key; of equal ones the first."""
    found: dict[tuple[str, ...], RowNode] = {}
    document = live.document
    index = {name: i for i, name in document.columns}
    if not key or any(name not in index for name in key):
        return found
    for row in document.rows():
        found.setdefault(tuple(spelled(row.cells[index[name]]) for name in key), row)
    return found


def upsert(
    live: LiveGrid, names: list[str], rows: Iterable[Values], key: list[str]
) -> tuple[int, int]:
    """(created, updated) rows: a row whose key is known is that row, with no key every row is new."""
    created = updated = 0
    rows = list(rows)  # all of it is read, and good, before anything is written
    with live.lock:
        writer = Writer(live)
        writer.columns(names)
        known = rows_by_key(live, key)
        fresh: dict[tuple[str, ...], Values] = {}
        added: list[Values] = []
        for values in rows:
            name = key_of(values, key)
            if key and name in known:
                writer.update(known[name], values)
                updated += 1
            elif key and name in fresh:
                fresh[name].update(values)
                updated += 1
            else:
                fresh[name] = values
                added.append(values)
                created += 1
        for values in added:
            writer.insert(values)
        writer.finish()
    return created, updated


def write_csv(
    live: LiveGrid,
    descriptor: dict[str, Json],
    *,
    header: bool = True,
    row_ids: bool = False,
    etags: bool = False,
) -> bytes:
    """The grid's rows, in the order of its columns."""
    out = io.StringIO(newline="")
    writer = tables.csv_writer(out, descriptor)
    with live.lock:
        columns = live.document.columns
        lead = (["ROW_ID", "ROW_VERSION"] if row_ids else []) + (["ROW_ETAG"] if etags else [])
        if header:
            writer.writerow(lead + [name for _, name in columns])
        for row in live.document.rows():
            first: list[str] = []
            if lead:
                told = list(row.synapse_row or ()) + [None] * 3
                first = [spelled(one) for one in told[:3]]
                first = (first[:2] if row_ids else []) + (first[2:] if etags else [])
            writer.writerow(first + [spelled(row.cells[index]) for index, _ in columns])
    return out.getvalue().encode()


def write_results(live: LiveGrid) -> bytes:
    """The result of every row, as a record set's validation file has them."""
    out = io.StringIO(newline="")
    # Read by pandas with its own defaults: quotes are doubled, not escaped.
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["row_index", "is_valid", "validation_error_message", "all_validation_messages"]
    )
    with live.lock:
        for n, row in enumerate(live.document.rows()):
            told = row.validation if row.status != "pending" else None
            told = told if isinstance(told, dict) else {}
            every = told.get("allValidationMessages")
            writer.writerow(
                [
                    n,
                    spelled(told.get("isValid")),
                    told.get("validationErrorMessage") or "",
                    "" if not every else json.dumps(every, ensure_ascii=False),
                ]
            )
    return out.getvalue().encode()


def keep(registry: Registry, caller: Caller, data: bytes, name: str) -> int:
    """The id of a file handle of the caller with these bytes."""
    md5 = registry.blobs.put(data)
    with registry.db.write() as tx:
        return handles.mint(
            tx, caller.user, name=name, md5=md5, size=len(data), content_type="text/csv"
        )


def remember_types(registry: Registry, live: LiveGrid, types: dict[str, str]) -> None:
    """Keeps the types of columns that a grid got."""
    known = sessions.by_number(registry.db, live.grid).types
    sessions.change(registry.db, live.grid, columns=json.dumps(known | types))
