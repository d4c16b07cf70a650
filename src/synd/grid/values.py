"""What was read from a grid: columns, rows with their validation, and how far it is to be trusted.

A snapshot looks at the decoded document; rows are made as they are asked for. Beside the document, which is
about as large as its snapshot, iterating and writing hold the list of the rows (some 300 bytes each, 30 MB for
100,000) and the cells of one row.
"""

from __future__ import annotations

import importlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from synd.errors import Stale, ToolMissing, not_written
from synd.grid.crdt import UNDEFINED, Replica
from synd.grid.crdt.document import GridDocument, RowNode
from synd.grid.outcome import Outcome


class Status(StrEnum):
    """What the service last said of a row, if that is not older than the row's cells."""

    VALID = "valid"
    INVALID = "invalid"
    PENDING = "pending"


class Verdict(StrEnum):
    """What may be said of the grid as a whole."""

    VALID = "valid"
    """Complete, a schema is bound, and every row (there may be none) is valid."""
    INVALID = "invalid"
    PENDING = "pending"
    """No row is invalid as yet; some have no result."""
    NO_SCHEMA = "no-schema"
    """Complete, but no schema is bound to the session: nothing will ever be validated."""
    INCOMPLETE = "incomplete"
    """The read did not come to its end; nothing may be concluded from it."""


@dataclass(frozen=True, slots=True)
class Message:
    """One reason why a row is invalid. `column` None: it is about the whole row."""

    column: str | None
    text: str


@dataclass(frozen=True, slots=True)
class GridRow:
    """One row. `cells` by column name, None where empty; `in_order` as the columns are."""

    row_id: str
    """`session.time`; stays through reordering and new snapshots."""
    element_id: str
    in_order: tuple[Any, ...]
    columns: tuple[str, ...]
    synapse_row: tuple[Any, Any, Any] | None
    """Row id, version and etag of the row in its source, when it has one."""
    status: Status
    messages: tuple[Message, ...]
    validation: Mapping[str, Any] | None
    """The service's result as it is, also when it is out of date."""

    @property
    def cells(self) -> dict[str, Any]:
        """Names may occur twice: the first column of a name is taken."""
        found: dict[str, Any] = {}
        for name, value in zip(self.columns, self.in_order, strict=True):
            found.setdefault(name, value)
        return found


class GridSnapshot:
    """A grid as it was read, and how the read ended (`outcome`).

    Where the read failed there are no columns, rows or counts: asking for them raises the error of the outcome,
    so that a failure is never taken for an empty grid.
    """

    def __init__(
        self,
        document: Replica | None,
        outcome: Outcome,
        *,
        session: str,
        schema: str | None = None,
        replica: int | None = None,
    ) -> None:
        """`document`: a `Replica`, or None. Raises ProtocolError for one that is not a grid."""
        self.outcome = outcome
        self.session = session
        self.schema = schema
        """Id of the schema that is bound to the session; None: nothing validates the rows."""
        self.replica = replica
        """Number of the replica that read it."""
        self._grid = None if document is None else GridDocument(document)
        self._clock = {} if document is None else dict(document.clock)
        self.doc_version: str | None = None
        self._columns: tuple[tuple[int, str], ...] = ()
        self._counts: dict[Status, int] | None = None
        if self._grid is None:
            return
        self.doc_version = self._grid.doc_version
        self._columns = tuple(self._grid.columns)

    def __repr__(self) -> str:
        counts = "" if self._counts is None else f", {sum(self._counts.values())} rows"
        return f"<GridSnapshot of {self.session}: {self.outcome.kind}{counts}>"

    # --- how far it is to be trusted ------------------------------------------------------------

    def require_complete(self) -> GridSnapshot:
        """Itself. Raises the error of the outcome (DeadlineExceeded, Forbidden, ProtocolError, IntegrityError,
        RemoteUnavailable) if the read is not complete.
        """
        if not self.outcome.complete:
            raise self.outcome.error(self.session)
        return self

    @property
    def verdict(self) -> Verdict:
        if not self.outcome.complete:
            return Verdict.INCOMPLETE
        if self.schema is None:
            return Verdict.NO_SCHEMA
        if self.invalid_rows:
            return Verdict.INVALID
        return Verdict.PENDING if self.pending_rows else Verdict.VALID

    @property
    def is_valid(self) -> bool:
        return self.verdict is Verdict.VALID

    @property
    def decoded(self) -> bool:
        """Whether there is anything to look at."""
        return self._grid is not None

    @property
    def document(self) -> Replica:
        """The `Replica`. Raises as `columns`."""
        return self._known().replica

    # --- counts ---------------------------------------------------------------------------------

    def recount(self) -> None:
        """Counts now, so that nobody waits for it later. Raises ProtocolError, IntegrityError."""
        if self.decoded:
            self.count()

    def count(self) -> Mapping[Status, int]:
        """Rows by status. The first call goes through all rows; later ones have it. Raises as `rows`."""
        if self._counts is None:
            counts = dict.fromkeys(Status, 0)
            for row in self._known().rows():
                counts[Status(row.status)] += 1
            self._counts = counts
        return self._counts

    @property
    def total_rows(self) -> int:
        return sum(self.count().values())

    @property
    def valid_rows(self) -> int:
        return self.count()[Status.VALID]

    @property
    def invalid_rows(self) -> int:
        return self.count()[Status.INVALID]

    @property
    def pending_rows(self) -> int:
        return self.count()[Status.PENDING]

    @property
    def validation_summary(self) -> dict[str, Any]:
        """Counts, schema, verdict and outcome as plain values; counts are None where the read failed."""
        known = self.decoded
        return {
            "session": self.session,
            "outcome": self.outcome.kind.value,
            "reason": self.outcome.reason.value if self.outcome.reason else None,
            "schema": self.schema,
            "verdict": self.verdict.value,
            "total_rows": self.total_rows if known else None,
            "valid_rows": self.valid_rows if known else None,
            "invalid_rows": self.invalid_rows if known else None,
            "pending_rows": self.pending_rows if known else None,
        }

    # --- content --------------------------------------------------------------------------------

    @property
    def columns(self) -> tuple[str, ...]:
        """Names in the order they are shown in."""
        self._known(moved=True)
        return tuple(name for _, name in self._columns)

    def rows(self, *statuses: Status | str) -> Iterator[GridRow]:
        """The rows in order, or those of these statuses. Made one by one.

        Raises Stale when the document was brought further since the snapshot was taken.
        """
        grid = self._known()
        wanted = {Status(one) for one in statuses} or set(Status)
        names = self.columns
        for row in grid.rows():
            status = Status(row.status)
            if status in wanted:
                yield self._row(row, status, names)

    def invalid(self) -> Iterator[tuple[str, Message]]:
        """(row id, message) for every message of every invalid row."""
        for row in self.rows(Status.INVALID):
            for message in row.messages:
                yield row.row_id, message

    def _row(self, row: RowNode, status: Status, names: tuple[str, ...]) -> GridRow:
        validation = row.validation
        cells = row.cells
        return GridRow(
            row_id=id_text(row.row_id),
            element_id=id_text(row.element_id),
            in_order=tuple(_plain(cells[index]) for index, _ in self._columns),
            columns=names,
            synapse_row=_synapse_row(row.synapse_row),
            status=status,
            messages=messages_of(validation, names) if status is Status.INVALID else (),
            validation=validation,
        )

    def _known(self, *, moved: bool = False) -> GridDocument:
        """The grid, if there is one and it has not moved on (`moved`: or if it has)."""
        if self._grid is None:
            raise self.outcome.error(self.session)
        if not moved and dict(self._grid.replica.clock) != self._clock:
            raise Stale(
                f"grid session {self.session} moved on since this snapshot was taken",
                hint="take a new one",
            )
        return self._grid

    # --- other forms ----------------------------------------------------------------------------

    def csv_lines(self, *, header: bool = True) -> Iterator[str]:
        r"""Lines of CSV (RFC 4180, ended by \n) as an import takes them: lists and objects as JSON text,
        nothing between the commas where a cell is empty, and `""` for a text without characters.
        """
        names = self.columns
        if header:
            yield ",".join(map(_csv_field, names)) + "\n"
        for row in self.rows():
            yield ",".join(map(_csv_field, row.in_order)) + "\n"

    def json_lines(self) -> Iterator[str]:
        """A JSON object a line and row: row_id, status, messages, synapse_row, cells."""
        for row in self.rows():
            value = {
                "row_id": row.row_id,
                "status": row.status.value,
                "messages": [{"column": m.column, "text": m.text} for m in row.messages],
                "synapse_row": list(row.synapse_row) if row.synapse_row else None,
                "cells": row.cells,
            }
            yield json.dumps(value, ensure_ascii=False, default=str) + "\n"

    def write_csv(self, path: Path | str) -> int:
        """Writes `csv_lines` to a file, whole or not at all; rows written. Raises CacheFull, Forbidden, NotFound."""
        return _write(path, self.csv_lines()) - 1

    def write_json_lines(self, path: Path | str) -> int:
        """Writes `json_lines` to a file in the same way; rows written."""
        return _write(path, self.json_lines())

    def to_dataframe(self) -> Any:
        """A pandas DataFrame: index row_id, the columns of the grid, then validation_status and
        validation_messages. Holds the whole grid at once. Raises ToolMissing where pandas is not installed.
        """
        try:
            pd = importlib.import_module("pandas")
        except ImportError as error:
            raise ToolMissing(
                "a data frame needs pandas, which is not installed", hint="pip install pandas"
            ) from error
        ids, lines = [], []
        for row in self.rows():
            ids.append(row.row_id)
            texts = [m.text if m.column is None else f"{m.column}: {m.text}" for m in row.messages]
            lines.append([*row.in_order, row.status.value, texts])
        names = [*self.columns, "validation_status", "validation_messages"]
        index = pd.Index(ids, name="row_id", dtype="object")
        return pd.DataFrame(lines, columns=pd.Index(names), index=index)


def id_text(stamp: tuple[int, int]) -> str:
    """`session.time`, as ids are written."""
    return f"{stamp[0]}.{stamp[1]}"


_POINTER: Final = "#/"


def messages_of(
    validation: Mapping[str, Any] | None, columns: Iterable[str]
) -> tuple[Message, ...]:
    """What a result says against a row, each message with its column; every field of a result is optional."""
    if validation is None:
        return ()
    listed = validation.get("allValidationMessages")
    texts = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    line = validation.get("validationErrorMessage")
    if not texts and isinstance(line, str) and line:
        texts = [line]
    return tuple(_message(text, columns) for text in dict.fromkeys(texts))


def _message(text: str, columns: Iterable[str]) -> Message:
    if text.startswith("#:"):
        return Message(None, text[2:].strip())
    if not text.startswith(_POINTER):
        return Message(None, text)
    rest = text[len(_POINTER) :]
    best: str | None = None
    after = ""
    for name in columns:
        # Names may hold the colon that ends a pointer, so known names come first, the longest of them.
        for spelled in {name, name.replace("~", "~0").replace("/", "~1")}:
            tail = rest[len(spelled) :]
            if rest.startswith(spelled) and tail[:1] in (":", "/") and len(name) > len(best or ""):
                best, after = name, tail
    if best is None:
        pointer, colon, after = rest.partition(":")
        if not colon:
            return Message(None, text)
        best = pointer.split("/")[0].replace("~1", "/").replace("~0", "~")
        return Message(best or None, after.strip())
    return Message(best, after.partition(":")[2].strip() or after.strip())


def _plain(value: Any) -> Any:
    """None for what is null or undefined: both are empty cells."""
    return None if value is UNDEFINED else value


def _synapse_row(value: Any) -> tuple[Any, Any, Any] | None:
    if isinstance(value, Mapping):
        parts = [value.get(name) for name in ("rowId", "versionNumber", "etag")]
    elif isinstance(value, list | tuple):
        parts = [*value, None, None, None][:3]
    else:
        return None
    return parts[0], parts[1], parts[2]


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    if text == "" or text != text.strip() or any(sign in text for sign in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _write(path: Path | str, lines: Iterator[str]) -> int:
    """Whole or not at all; a pipe or device takes the lines as they come."""
    target = Path(path)
    stream = target.exists() and not target.is_file()
    real = target if stream else target.resolve()
    aside = real if stream else real.with_name(f".synd-{secrets.token_hex(6)}")
    count = 0
    try:
        # Halves of surrogate pairs, which UTF-8 cannot hold, become the escapes JSON has for them.
        with aside.open("w", encoding="utf-8", errors="backslashreplace", newline="") as out:
            for line in lines:
                out.write(line)
                count += 1
        if not stream:
            aside.replace(real)
    except BaseException as error:
        if not stream:
            with suppress(OSError):
                aside.unlink()
        if isinstance(error, OSError):
            raise not_written(target, error) from error
        raise
    return count
