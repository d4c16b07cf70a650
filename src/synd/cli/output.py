"""What commands print: a table for people or one JSON object, never mixed.

Results go to standard output; progress and remarks to standard error, and progress only to a terminal.
`NO_COLOR` and pipes get plain text. Rich is imported only where a table or a bar is drawn.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from synd.control import contract
from synd.errors import SyndError, not_written

if TYPE_CHECKING:
    from rich.console import Console

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
"""The option that every command has."""


def emit(data: Mapping[str, Any], *, as_json: bool, human: Callable[[], None]) -> None:
    """Prints a result: `data` with its schema number as JSON, or whatever `human` prints."""
    if as_json:
        print_json({"schema": contract.SCHEMA, **data})
    else:
        human()


def print_json(data: Mapping[str, Any]) -> None:
    """One object on one line, at once: a reader of a pipe sees it when it is true."""
    text = json.dumps(data, ensure_ascii=False)
    say(text if _can_be_said(text) else json.dumps(data))
    flush()


def say(text: str) -> None:
    """A line of the result. Signs that the terminal's encoding has not (or none has) come as escapes."""
    with _standard_output() as out:
        if not _can_be_said(text):
            encoding = out.encoding or "utf-8"
            text = text.encode(encoding, "backslashreplace").decode(encoding)
        out.write(text + "\n")


def _can_be_said(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


def flush() -> None:
    """Sends what was said so far: for output that grows while somebody reads it."""
    with _standard_output() as out:
        out.flush()


class UnsaidError(Exception):
    """Standard output takes nothing more; `error` says why."""

    def __init__(self, error: SyndError) -> None:
        super().__init__(error.message)
        self.error = error


@contextlib.contextmanager
def _standard_output() -> Iterator[TextIO]:
    """Raises UnsaidError; BrokenPipeError when it is only that the reader has gone."""
    try:
        yield sys.stdout
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UnsaidError(not_written("standard output", error)) from error


def end_output() -> None:
    """Nothing more goes to standard output, which the interpreter flushes once more at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def remark(text: str) -> None:
    """A line beside the result."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def fail(error: SyndError, *, as_json: bool) -> int:
    """Prints an error and returns its exit code."""
    if as_json:
        print_json({"schema": contract.SCHEMA, "error": error.problem()})
    else:
        remark(f"synd: {error}")
        if error.hint:
            remark(f"      {error.hint}")
    return error.exit_code


def console() -> Console:
    """Standard output for tables."""
    from rich.console import Console

    wide = not sys.stdout.isatty()
    # A pipe has no width: whole names are worth more there than straight columns.
    return Console(width=10_000 if wide else None, highlight=False, soft_wrap=wide)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Prints rows under a head; columns named in `right` are numbers. Off a terminal: tab-separated."""
    if not sys.stdout.isatty():
        say("\t".join(head))
        for row in rows:
            say("\t".join(cell.replace("\t", " ").replace("\n", " ") for cell in row))
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in head:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        # As Text: a file name in brackets is no markup.
        drawn.add_row(*(Text(cell) for cell in row))
    console().print(drawn)


def size(count: float | None) -> str:
    """Bytes for people: 1.5 GiB."""
    if count is None:
        return "?"
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def span(seconds: float | None) -> str:
    """A span for people: 3 min 20 s."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, s = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {s} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def quiet() -> bool:
    """Whether progress is to be left out: standard error is no terminal, or a dumb one."""
    return not sys.stderr.isatty() or os.environ.get("TERM") == "dumb"


@contextlib.contextmanager
def waiting(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with a text that the block may change; nothing at all off a terminal."""
    if quiet():
        yield lambda _text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


Update = Callable[[int, int | None, str], None]
"""Done, of how many (None: unknown), and what is being done."""


@contextlib.contextmanager
def bar(text: str, *, unit: str) -> Iterator[Update]:
    """A progress bar; nothing at all off a terminal."""
    if quiet():
        yield lambda _done, _total, _note: None
        return
    from rich import progress
    from rich.console import Console

    counts: list[progress.ProgressColumn] = (
        [progress.DownloadColumn(binary_units=True), progress.TransferSpeedColumn()]
        if unit == "bytes"
        else [progress.MofNCompleteColumn()]
    )
    with progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        *counts,
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as drawn:
        task = drawn.add_task(text, total=None)

        def update(done: int, total: int | None, note: str) -> None:
            drawn.update(task, completed=done, total=total, description=note or text)

        yield update


Bars = Callable[[str, Sequence[tuple[str, int, int | None]]], None]
"""A line of text, and for each transfer its name, bytes done, and bytes in all."""

MOST_BARS = 10


@contextlib.contextmanager
def bars(text: str) -> Iterator[Bars]:
    """A progress bar for each of several transfers, under one line of text; nothing off a terminal."""
    if quiet():
        yield lambda _text, _transfers: None
        return
    from rich import progress
    from rich.console import Console

    with progress.Progress(
        progress.SpinnerColumn(),
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as drawn:
        top = drawn.add_task(text, total=None)
        tasks: dict[str, progress.TaskID] = {}

        def update(line: str, transfers: Sequence[tuple[str, int, int | None]]) -> None:
            drawn.update(top, description=line)
            shown = {name: (done, total) for name, done, total in transfers[:MOST_BARS]}
            for name in [n for n in tasks if n not in shown]:
                drawn.remove_task(tasks.pop(name))
            for name, (done, total) in shown.items():
                if name not in tasks:
                    tasks[name] = drawn.add_task(name, total=total)
                drawn.update(tasks[name], completed=done, total=total)

        yield update


def count(number: int, what: str) -> str:
    """A number of things for people: 1 change, 2 changes."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def confirm(question: str, *, yes: bool) -> None:
    """Asks at a terminal, unless the answer was given before. Raises Cancelled for no, UsageError when
    there is nobody to ask.
    """
    from synd.errors import Cancelled, UsageError

    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{question} Nobody is there to answer", hint="--yes says yes")
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Cancelled("nothing was changed")


def age_of(stamp: str | None) -> str:
    """How long ago an ISO time was, for people."""
    if not stamp:
        return "never"
    from synd.clock import NS, parse_time_ns

    return span(max(0.0, time.time() - parse_time_ns(stamp) / NS))
