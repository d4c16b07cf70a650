r"""A CSV in the service's spelling, and in the common one (RFC 4180).

The service puts a backslash before a quote or a backslash in a cell, and takes one in what it reads for such an
escape. Everywhere else a quote is doubled, and a backslash is a letter: ``C:\new`` must not come back as ``C:new``.
Source: grid-protocol.md 2; the CsvTableDescriptor of synapse-rest.md 7.10.
"""

from __future__ import annotations

import csv
import errno
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from synd.client.wire_grids import CsvFormat
from synd.errors import NotFound, not_written
from synd.grid import csvfile

_BLOCK: Final = 1 << 20


def has_escapes(path: Path, form: CsvFormat) -> bool:
    """Whether the escape sign occurs anywhere in a file. Without it both spellings are one."""
    if not form.escape:
        return False
    sign = form.escape.encode()
    with path.open("rb") as file:
        return any(sign in block for block in iter(lambda: file.read(_BLOCK), b""))


def to_common(source: Path, target: Path, form: CsvFormat) -> None:
    """Writes what the service spelled as RFC 4180. Holds one row at a time; bytes that are no UTF-8 stay."""
    csvfile.allow_long_cells()
    with (
        source.open(encoding="utf-8", errors="surrogateescape", newline="") as text,
        target.open("w", encoding="utf-8", errors="surrogateescape", newline="") as out,
    ):
        reader = csv.reader(
            text, delimiter=form.separator, quotechar=form.quote, escapechar=form.escape or None
        )
        # Not by the csv module: it leaves a carriage return without quotes.
        common = replace(form, escape="")
        out.writelines(spelled_line(cells, common) for cells in reader if cells)


def either(source: Path, aside: Path, form: CsvFormat, *, exported: bool = True) -> Path:
    r"""`source`, or a copy at `aside` as RFC 4180 when it is in the service's spelling.

    For a file that came from the service and was then edited by anything. Only ``\"`` and ``\\`` are taken for
    escapes, and only if the whole file can be read so: a lone backslash that somebody wrote stays a letter. A cell
    that somebody began with two (``\\server``) cannot be told from one that the service began with one. Not
    `exported`: it may be anybody's, and is the service's only where the common spelling does not hold. Raises
    NotFound, CacheFull.
    """
    try:
        if not form.escape or form.escape == form.quote or not _has_pairs(source, form):
            return source
        if not exported and _is_common(source, form):
            return source
        return aside if _respelled(source, aside, form) else source
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise not_written(aside, error) from error
        raise NotFound(f"{source} cannot be read: {error.strerror}", path=str(source)) from error


def _has_pairs(path: Path, form: CsvFormat) -> bool:
    pairs = [(form.escape + sign).encode() for sign in (form.quote, form.escape)]
    last = b""
    with path.open("rb") as file:
        for block in iter(lambda: file.read(_BLOCK), b""):
            data = last + block
            if any(pair in data for pair in pairs):
                return True
            last = data[-8:]
    return False


def _is_common(path: Path, form: CsvFormat) -> bool:
    """Whether a file is a table as RFC 4180 has it, without an escaped quote in any cell."""
    csvfile.allow_long_cells()
    escaped = form.escape + form.quote
    width = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as text:
            for row in csv.reader(
                text, delimiter=form.separator, quotechar=form.quote, strict=True
            ):
                width = width or len(row)
                if row and (len(row) != width or any(escaped in cell for cell in row)):
                    return False
    except (csv.Error, UnicodeDecodeError):
        return False
    return True


# Two code points that are no characters, and so in no text: they stand for escaped signs while quotes are read.
_QUOTE: Final = "\ufdd0"
_ESCAPE: Final = "\ufdd1"


def _respelled(source: Path, target: Path, form: CsvFormat) -> bool:
    """Writes the cells as RFC 4180; False if they are no table when read in the service's spelling."""
    csvfile.allow_long_cells()
    escape, quote = re.escape(form.escape), re.escape(form.quote)
    pair = re.compile(f"{escape}({escape}|{quote})")
    common = replace(form, escape="")

    def held(found: re.Match[str]) -> str:
        return _QUOTE if found[1] == form.quote else _ESCAPE

    try:
        with (
            source.open(encoding="utf-8-sig", newline="") as text,
            target.open("w", encoding="utf-8", newline="") as out,
        ):
            reader = csv.reader(
                (pair.sub(held, line) for line in text),
                delimiter=form.separator,
                quotechar=form.quote,
                strict=True,
            )
            width = 0
            for row in reader:
                if not row:
                    continue
                width = width or len(row)
                if len(row) != width:
                    return False
                cells = [
                    cell.replace(_QUOTE, form.quote).replace(_ESCAPE, form.escape) for cell in row
                ]
                out.write(spelled_line(cells, common))
    except (csv.Error, UnicodeDecodeError):
        # What is wrong with it is told by who reads it as it is.
        return False
    return True


def to_service(source: Path, target: Path, form: CsvFormat, names: Sequence[str] = ()) -> None:
    """Writes a user's CSV so that the service reads the same cells: no byte order mark, no empty lines.

    Raises as `csvfile.rows`; CacheFull when there is no room for `target`.
    """
    found, lines = csvfile.opened(source, form, names)
    try:
        with target.open("w", encoding="utf-8", newline="") as out:
            if form.header:
                out.write(spelled_line(found, form))
            for line in lines:
                out.write(spelled_line(line.cells, form))
    except OSError as error:
        raise not_written(target, error) from error


def spelled_line(cells: Sequence[str], form: CsvFormat) -> str:
    """A row as the service reads it, which knows an escape only between quotes; without `form.escape` RFC 4180."""
    if len(cells) == 1 and not cells[0]:
        return form.quote * 2 + form.line_end
    return form.separator.join(_spelled(cells, form)) + form.line_end


def _spelled(cells: Iterable[str], form: CsvFormat) -> Iterable[str]:
    special = [form.separator, form.quote, "\r", "\n", *([form.escape] if form.escape else [])]
    for cell in cells:
        if cell != cell.strip() or any(sign in cell for sign in special):
            text = cell.replace(form.escape, form.escape * 2) if form.escape else cell
            if form.quote != form.escape:
                text = text.replace(form.quote, form.quote * 2)
            yield form.quote + text + form.quote
        else:
            yield cell
