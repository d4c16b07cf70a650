"""Options that the commands of `synd grid` share, and what they mean."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from synd.cli.rows import Format
from synd.errors import UsageError, not_written

if TYPE_CHECKING:
    from synd.client.wire_grids import CsvFormat
    from synd.clock import Deadline

EX_DATAERR = 65

STANDARD: Final = "-"
"""In place of a path: standard input or output."""

Session = Annotated[str, typer.Argument(metavar="SESSION", help="The id of the grid session.")]
Timeout = Annotated[
    float,
    typer.Option(
        "--timeout", metavar="SECONDS", min=0.1, help="Seconds that all of it may take together."
    ),
]
Form = Annotated[
    Format, typer.Option("--format", metavar="table|csv|json|html", help="How the rows are shown.")
]
Separator = Annotated[
    str, typer.Option("--separator", metavar="SIGN", help="Between the cells; `\\t` is a tab.")
]
Limit = Annotated[
    int,
    typer.Option(
        "--limit", metavar="ROWS", min=1, help="Invalid rows that are shown; all are counted."
    ),
]
Via = Annotated[
    str,
    typer.Option(
        "--via", metavar="auto|rest|socket",
        help="By the service's query, by the grid itself, or the first that it has.",
        autocompletion=lambda: ["auto", "rest", "socket"],
    ),
]  # fmt: skip


def within(seconds: float, what: str) -> Deadline:
    """The deadline that `--timeout` asks for."""
    from synd.clock import Deadline

    return Deadline.after(seconds, what)


def csv_form(separator: str) -> CsvFormat:
    """The CSV that `--separator` asks for. Raises UsageError."""
    from synd.client.wire_grids import CsvFormat

    sign = "\t" if separator in ("\\t", "tab") else separator
    form = CsvFormat()
    if len(sign) != 1 or sign in (form.quote, form.escape, "\r", "\n", "\0"):
        raise UsageError(f"{separator!r} is no separator", hint="it is one character, or `\\t`")
    return CsvFormat(separator=sign)


@contextmanager
def given(file: Path) -> Iterator[Path]:
    """`file`, or a copy of standard input for ``-``, which errors call that. Raises UsageError, CacheFull."""
    if str(file) != STANDARD:
        yield file
        return
    from synd.grid import csvfile

    if sys.stdin is None:
        raise UsageError("standard input is closed", hint="name a file instead of -")
    with tempfile.TemporaryDirectory(prefix="synd-input-") as aside:
        copy = Path(aside) / "stdin.csv"
        try:
            with copy.open("wb") as out:
                shutil.copyfileobj(sys.stdin.buffer, out)
        except OSError as error:
            raise not_written(copy, error) from error
        with csvfile.named(copy, "standard input"):
            yield copy
