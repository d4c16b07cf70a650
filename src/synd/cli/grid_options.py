"""Options that the commands of `synd grid` share, and what they mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli.rows import Format
from synd.errors import UsageError

if TYPE_CHECKING:
    from synd.client.wire_grids import CsvFormat
    from synd.clock import Deadline

EX_DATAERR = 65

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
