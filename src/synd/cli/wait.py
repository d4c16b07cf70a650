"""`synd wait`: returns when everything, or one path, is sent."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output, unsent
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.clock import Deadline
    from synd.control.connect import Control
    from synd.control.contract import WaitReply

TURN_S = 10.0
"""One question to the daemon waits so long; it answers at once when there is something to say."""
BAR_TURN_S = 0.5
"""The same where bars are drawn."""
AWAY_S = 0.2
"""Between two looks for a daemon that is being started again."""

Timeout = Annotated[
    float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after so long.")
]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Changes")(wait)


def wait(
    path: Annotated[Path | None, typer.Argument(help="Wait for this only.")] = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Wait until everything, or PATH and what is below it, is uploaded.

    Exit 75 when the time is up; 65 at once when a change is blocked or held, as then waiting does not
    send it. Example: `synd wait --timeout 600 results/`.
    """
    from synd.cli.mounts import resolve
    from synd.control.connect import Control

    control = Control.here()
    finish(until_sent(control, None if path is None else resolve(path), timeout), as_json=as_json)


def until_sent(control: Control, where: str | None, timeout_s: float | None) -> WaitReply:
    """Waits, with a bar for each transfer on a terminal."""
    from synd.clock import Deadline

    deadline = Deadline.after(float("inf") if timeout_s is None else timeout_s, "waiting")
    with output.bars("waiting for uploads") as update:
        while True:
            reply = _turn(control, where, deadline)
            if reply["settled"] or reply["stuck"] or deadline.passed:
                return reply
            offline = reply["pending"]["offline_since_at"]
            update(
                f"waiting for {unsent.sum_of(reply['pending'])}"
                + (f", offline since {offline}" if offline else ""),
                [(t["path"], t["bytes"], t["total_bytes"]) for t in reply["transfers"]],
            )


def _turn(control: Control, where: str | None, deadline: Deadline) -> WaitReply:
    from synd.control import contract
    from synd.control.hold import Holder
    from synd.errors import DaemonNotRunning

    while True:
        turn_s = min(TURN_S if output.quiet() else BAR_TURN_S, deadline.left_s())
        asked: contract.WaitRequest = {"path": where, "timeout_s": turn_s}
        try:
            reply: WaitReply = control.post(contract.WAIT, asked, timeout_s=turn_s + 30.0)
        except DaemonNotRunning:
            # As long as its holder lives, a daemon that has died is back in a moment.
            if deadline.passed or Holder(control.path.parent).alive() is None:
                raise
            time.sleep(AWAY_S)
        else:
            return reply


def finish(reply: WaitReply, *, as_json: bool) -> None:
    """Tells what waiting came to, and exits with its code."""

    def tell() -> None:
        if reply["settled"]:
            output.say("everything is sent")
            return
        output.say(f"{unsent.sum_of(reply['pending'])} not sent yet")
        for text in unsent.lines(reply["pending"]):
            output.say(text)
        if reply["stuck"]:
            output.say(f"waiting does not help: {reply['reason']}")
            if reply["mend"]:
                output.say(f"  {reply['mend']}")

    output.emit(reply, as_json=as_json, human=tell)
    if not reply["settled"]:
        raise typer.Exit(unsent.STUCK if reply["stuck"] else unsent.LEFT)
