"""`synd wait`: returns when everything, or one path, is sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import WaitReply


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Mount")(wait)


def wait(
    path: Annotated[Path | None, typer.Argument(help="Wait for this only.")] = None,
    timeout: Annotated[
        float | None, typer.Option("--timeout", metavar="S", min=0, help="Give up after so long.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Wait until everything, or PATH, is uploaded. Exit 75 when the time is up."""
    from synd.cli.mounts import resolve
    from synd.clock import Deadline
    from synd.control import contract
    from synd.control.connect import Control

    control = Control.here()
    deadline = Deadline.after(float("inf") if timeout is None else timeout, "waiting")
    where = None if path is None else resolve(path)
    with output.waiting("waiting for uploads") as tick:
        while True:
            # In turns, so that the spinner can say how much is left.
            turn_s = min(10.0, deadline.left_s())
            asked: contract.WaitRequest = {"path": where, "timeout_s": turn_s}
            reply: WaitReply = control.post(contract.WAIT, asked, timeout_s=turn_s + 30.0)
            if reply["settled"] or deadline.passed:
                break
            tick(f"waiting for {reply['pending']['uploads']} uploads")

    def tell() -> None:
        left = reply["pending"]
        output.say(
            "everything is sent"
            if reply["settled"]
            else f"{left['uploads']} edits ({output.size(left['bytes'])}) are not sent yet"
        )

    output.emit(reply, as_json=as_json, human=tell)
    if not reply["settled"]:
        raise typer.Exit(75)
