"""The rows of a saved CSV beside those of a grid: which are the same, and which of the grid's must go.

Pure but for reading the CSV; one row is held at a time where that is enough.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from synd.client.wire_grids import Column, CsvFormat, RecordSet
from synd.errors import NotFound, UsageError
from synd.grid import csvfile
from synd.grid.crdt.document import GridDocument
from synd.grid.crdt.values import UNDEFINED, Timestamp

Key = tuple[object, ...]


def look(path: Path, record_set: RecordSet) -> tuple[csvfile.Facts, str]:
    """What an import must know, and why it would lose a row; empty: it does not. Raises UsageError."""
    found = csvfile.facts(path, record_set.csv)
    for name in record_set.upsert_key:
        if name not in found.names:
            return found, f"the column {name!r} is missing: rows are known again by it"
    places = [found.names.index(name) for name in record_set.upsert_key]
    seen: dict[tuple[str, ...], int] = {}
    for line in csvfile.rows(path, record_set.csv) if places else ():
        key = tuple(line.cells[place] for place in places)
        if key in seen:
            shown = ", ".join(key)
            return found, f"lines {seen[key]} and {line.line} have the same key: {shown}"
        seen[key] = line.line
    return found, ""


def keys(path: Path, record_set: RecordSet, columns: Sequence[Column]) -> list[Key] | None:
    """The keys of a CSV's rows as a grid holds them; None where rows have none."""
    if not record_set.upsert_key:
        return None
    names = [column.name for column in columns]
    places = [
        (names.index(name), columns[names.index(name)].type) for name in record_set.upsert_key
    ]
    return [
        tuple(_cell(csvfile.typed(line.cells[place], kind)) for place, kind in places)
        for line in csvfile.rows(path, record_set.csv)
    ]


def doomed(
    document: GridDocument,
    record_set: RecordSet,
    names: Sequence[str],
    wanted: Sequence[Key] | None,
) -> list[Timestamp]:
    """Places of the rows that go before a CSV of these columns and keys (None: rows have none) is imported.

    Those that it has not; all, where an import would leave something that is not in it, or another order.
    """
    index: dict[str, int] = {}
    for place, name in document.columns:
        index.setdefault(name, place)
    rows = list(document.rows())
    everything = [row.element_id for row in rows]
    if wanted is None or any(name not in index for name in record_set.upsert_key):
        return everything
    if any(name not in names for name in index):
        # An import leaves alone what it has no column for.
        return everything
    there = [tuple(_cell(row.cells[index[name]]) for name in record_set.upsert_key) for row in rows]
    known = set(wanted)
    stay = [key for key in there if key in known]
    if stay != list(wanted[: len(stay)]):
        # They are in another order by now, and an import moves none.
        return everything
    return [row.element_id for row, key in zip(rows, there, strict=True) if key not in known]


def _cell(value: Any) -> object:
    """A cell for comparing: empty ones are equal, and so are 1 and 1.0."""
    if value is None or value is UNDEFINED:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(float(value)) if abs(value) < 2**53 else repr(value)
    return value if isinstance(value, str) else repr(value)


def _loose(text: str) -> object:
    """A cell of a CSV whose column's type is not known, as spellings of one value are equal."""
    if text.lower() in ("true", "false"):
        return text.lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return text if math.isnan(number) else number


def same(one: Path, other: Path, form: CsvFormat) -> bool:
    """Whether two CSVs have the same cells by row and column; a column without any is as good as none."""
    try:
        found = [_table(path, form) for path in (one, other)]
    except (UsageError, NotFound):
        return False
    return found[0] == found[1]


def _table(path: Path, form: CsvFormat) -> list[dict[str, object]]:
    names = csvfile.header(path, form)
    return [
        {name: _loose(cell) for name, cell in zip(names, line.cells, strict=True) if cell}
        for line in csvfile.rows(path, form)
    ]
