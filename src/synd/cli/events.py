"""`synd events`: what happens in the daemon, as it happens."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import Event

RECENT_S = 300.0
"""Without --since: what happened lately comes first."""

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(s|m|h|d)")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Look")(events)


def events(
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Begin so long ago (30s, 10m, 2h, 1d), or at an ISO time; else 5 minutes ago.",
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow/--no-follow", help="Go on with what happens from now on.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Show what happens: recent events first, then live, until Ctrl-C.

    With `--json` each event is one line with one object. Example: `synd events --since 10m`.
    """
    from synd.control import contract
    from synd.control.connect import Control
    from synd.errors import DaemonNotRunning

    for event in Control.here().events(since=start(since, time.time()), follow=follow):
        if as_json:
            output.print_json({"schema": contract.SCHEMA, **event})
        else:
            output.say(line(event))
            output.flush()
    if follow:
        raise DaemonNotRunning("the daemon has ended", hint="`synd status` says whether it is back")


def start(text: str | None, now: float) -> str:
    """The ISO time that a `--since` means. Raises UsageError."""
    from synd.clock import NS, format_time, parse_time_ns
    from synd.errors import UsageError

    if text is None:
        return format_time(int((now - RECENT_S) * NS))
    found = _SPAN.fullmatch(text.strip())
    if found is not None:
        return format_time(int((now - float(found[1]) * _UNITS[found[2]]) * NS))
    try:
        return format_time(parse_time_ns(text))
    except ValueError as error:
        raise UsageError(
            f"{text!r} is neither a span nor a time", hint="10m, 2h, or 2025-01-31T12:00:00Z"
        ) from error


def line(event: Event) -> str:
    """An event for people."""
    data = event["data"]
    if event["kind"] == "edit":
        intents = data.get("intents")
        what = "+".join(map(str, intents)) if isinstance(intents, list) else ""
        parts = [str(data.get("state", "")), what, str(data.get("path", ""))]
        reason = str(data.get("reason", ""))
        text = " ".join(p for p in parts if p) + (f": {reason}" if reason else "")
    else:
        text = " ".join(f"{k}={v}" for k, v in data.items() if v not in (None, ""))
    return f"{event['at']}  {event['kind']:<8} {text}"
