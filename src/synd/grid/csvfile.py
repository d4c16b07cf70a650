"""A CSV on disk, read for an import or a check: header, rows with their line numbers, and what is wrong with it.

UTF-8 with or without a byte order mark, quotes doubled (RFC 4180). One row is held at a time.
"""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from synd.client.wire_grids import CsvFormat
from synd.errors import NotFound, UsageError

_FIELD: Final = 1 << 20
"""Characters of a cell; a quote that is never closed would swallow the rest of the file."""

_BLOCK: Final = 1 << 20

TEXTS: Final = frozenset(("STRING", "MEDIUMTEXT", "LARGETEXT", "LINK", "ENTITYID"))
"""Column types that take any text."""

TYPES: Final = TEXTS | {
    *("DOUBLE", "INTEGER", "BOOLEAN", "DATE", "JSON"),
    *("FILEHANDLEID", "SUBMISSIONID", "EVALUATIONID", "USERID"),
    *("STRING_LIST", "INTEGER_LIST", "BOOLEAN_LIST", "DATE_LIST", "ENTITYID_LIST", "USERID_LIST"),
}
"""All column types of the service (synapse-rest.md 6.1)."""

_INTEGERS: Final = frozenset(("INTEGER", "FILEHANDLEID", "SUBMISSIONID", "EVALUATIONID", "USERID"))

_BOOLEANS: Final = {"true": True, "false": False}

# Python would also take 1_000, and digits of other scripts.
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_DOUBLE: Final = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_INTEGER_MAX: Final = 2**63 - 1
_NO_NUMBER: Final = re.compile(r"(?i)nan|[+-]?inf(?:inity)?")
"""What the service takes in a column of numbers, and JSON has not."""


@dataclass(frozen=True, slots=True)
class Line:
    """A row: its number (the first below the header is 1), the line it ends on, and its cells."""

    number: int
    line: int
    cells: list[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What an import wants to know of a CSV before it is sent."""

    names: tuple[str, ...]
    rows: int
    longest: dict[str, int]
    """Characters of the longest cell by column."""
    plain: bool
    """The service reads these bytes as they were read here."""


def allow_long_cells() -> None:
    """The csv module's bound is one for the whole process, so it is only ever raised."""
    if csv.field_size_limit() < _FIELD:
        csv.field_size_limit(_FIELD)


@contextmanager
def whole(path: Path, aside: Path) -> Iterator[Path]:
    """`path`, or a copy in the folder `aside` of what can be read but once, such as a pipe; errors name `path`.

    Raises NotFound.
    """
    if path.is_file() or path.is_dir() or not path.exists():
        yield path
        return
    copy = aside / "piped.csv"
    try:
        with path.open("rb") as source, copy.open("wb") as out:
            shutil.copyfileobj(source, out)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    with named(copy, str(path)):
        yield copy


@contextmanager
def named(copy: Path, name: str) -> Iterator[None]:
    """Errors about `copy`, which is nobody's, speak of `name` instead."""
    try:
        yield
    except UsageError as error:
        error.message = error.message.replace(str(copy), name)
        error.path = name if error.path == str(copy) else error.path
        raise


def header(path: Path, form: CsvFormat | None = None) -> list[str]:
    """The column names of a CSV. Raises as `rows`."""
    names, lines = opened(path, form or CsvFormat())
    lines.close()
    return names


def rows(
    path: Path, form: CsvFormat | None = None, names: Sequence[str] = ()
) -> Generator[Line, None, None]:
    """The rows below the header; empty lines are none. `names`: of a file without a header.

    Raises NotFound when it cannot be read; UsageError for a missing or doubled column name, a row of another
    length, and what is no UTF-8 or CSV, each with its line.
    """
    _, lines = opened(path, form or CsvFormat(), names)
    return lines


def facts(path: Path, form: CsvFormat | None = None, names: Sequence[str] = ()) -> Facts:
    """Reads all of a CSV once. Raises as `rows`."""
    form = form or CsvFormat()
    found, lines = opened(path, form, names)
    longest = [0] * len(found)
    count = 0
    for line in lines:
        count += 1
        longest = [max(most, len(cell)) for most, cell in zip(longest, line.cells, strict=True)]
    plain = _is_plain(path, form.escape) and not (form.header and _is_padded(path, form))
    return Facts(tuple(found), count, dict(zip(found, longest, strict=True)), plain)


def typed(text: str, kind: str) -> Any:
    """A cell that is not empty as a value of its column type; the text itself where it does not fit."""
    if kind in _INTEGERS:
        whole = int(text) if _INTEGER.fullmatch(text) else None
        return text if whole is None or not -_INTEGER_MAX - 1 <= whole <= _INTEGER_MAX else whole
    if kind == "DOUBLE":
        if not _DOUBLE.fullmatch(text):
            return text
        number = float(text)
        # A whole number stays one, as JSON makes no difference and a schema may want an integer.
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    if kind.endswith("_LIST"):
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            return text
        return found if isinstance(found, list) else text
    return _BOOLEANS.get(text.lower(), text) if kind == "BOOLEAN" else text


def fits(text: str, kind: str) -> bool:
    """Whether a cell that is not empty is a value of its column type. DATEs are the service's to judge."""
    if kind in TEXTS or kind == "DATE":
        return True
    if kind == "DOUBLE" and _NO_NUMBER.fullmatch(text):
        return True
    if kind == "JSON":
        try:
            json.loads(text)
        except (ValueError, RecursionError):
            return False
        return True
    return not isinstance(typed(text, kind), str)


def opened(
    path: Path, form: CsvFormat, names: Sequence[str] = ()
) -> tuple[list[str], Generator[Line, None, None]]:
    """The column names, and the rows yet to be read. Raises as `rows`."""
    if not form.header:
        if not names:
            raise UsageError(
                f"{path} is said to have no header line, and nobody names its columns",
                hint="give the schema: a column for each",
                path=str(path),
            )
        return list(names), _checked(path, list(names), _lines(path, form, 1))
    lines = _lines(path, form, 0)
    first = next(lines, None)
    if first is None:
        raise UsageError(
            f"{path} is empty", hint="its first line must name the columns", path=str(path)
        )
    found = [name.strip() for name in first.cells]
    if any("\0" in name for name in found):
        raise UsageError(
            f"{path} is no CSV: there is a NUL in its first line",
            hint="save it as CSV in UTF-8; UTF-16 and spreadsheets are something else",
            path=str(path),
        )
    if "" in found:
        raise UsageError(
            f"{path}: column {found.index('') + 1} has no name", hint="see its first line",
            path=str(path),
        )  # fmt: skip
    for name in found:
        if found.count(name) > 1:
            raise UsageError(f"{path}: two columns are named {name!r}", path=str(path))
    return found, _checked(path, found, lines)


def _checked(
    path: Path, names: list[str], lines: Generator[Line, None, None]
) -> Generator[Line, None, None]:
    try:
        for line in lines:
            if len(line.cells) != len(names):
                raise UsageError(
                    f"{path}, line {line.line}: {len(line.cells)} cells where the header has"
                    f" {len(names)}",
                    hint="a cell with a separator or a quote in it must be quoted",
                    path=str(path),
                )
            yield line
    finally:
        lines.close()


def _lines(path: Path, form: CsvFormat, number: int) -> Generator[Line, None, None]:
    """All lines but empty ones, counted from `number`."""
    allow_long_cells()
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            # RFC 4180 doubles a quote; the service's own escape is a backslash, which is a letter elsewhere.
            reader = csv.reader(text, delimiter=form.separator, quotechar=form.quote, strict=True)
            for cells in reader:
                if cells:
                    yield Line(number, reader.line_num, cells)
                    number += 1
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is no UTF-8 text: byte {error.object[error.start]:#x}",
            hint="save it as CSV in UTF-8",
            path=str(path),
        ) from error
    except csv.Error as error:
        raise UsageError(
            f"{path}, line {reader.line_num}: {error}",
            hint="a quote is open, or stands where none may: a quote within a cell is doubled",
            path=str(path),
        ) from error
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", path=str(path)) from error


def _is_plain(path: Path, escape: str) -> bool:
    """Whether there is no escape sign, byte order mark or empty line, all of which the service reads otherwise.

    Two line ends within a cell look like an empty line: such a file is respelled in vain, and unharmed.
    """
    signs = [b"\n\n", b"\n\r\n", b"\r\r", *([escape.encode()] if escape else [])]
    last = b""
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            if not last and block.startswith((b"\xef\xbb\xbf", b"\r", b"\n")):
                return False
            data = last + block
            if any(sign in data for sign in signs):
                return False
            last = data[-2:]
    return True


def _is_padded(path: Path, form: CsvFormat) -> bool:
    """Whether names in the header have spaces around them, which the service takes for parts of them."""
    lines = _lines(path, form, 0)
    first = next(lines, None)
    lines.close()
    return first is not None and any(name != name.strip() for name in first.cells)
