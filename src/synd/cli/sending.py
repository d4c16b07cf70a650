"""`synd upload-now`, `pause`, `resume`, `approve`: when local changes are sent."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output, unsent
from synd.cli.output import Json
from synd.cli.wait import Timeout, finish, until_sent

if TYPE_CHECKING:
    from synd.control.changes import Approved, Pending


def register(app: typer.Typer) -> None:
    app.command("upload-now", rich_help_panel="Changes")(upload_now)
    for command in (pause, resume, approve):
        app.command(rich_help_panel="Changes")(command)


def upload_now(
    path: Annotated[Path | None, typer.Argument(help="This and what is below it only.")] = None,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Return once it is sent.")] = False,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Send local changes now, without the usual delay; what is blocked is tried again.

    Example: `synd upload-now --wait results/`.
    """
    from synd.cli.mounts import resolve
    from synd.control import changes
    from synd.control.connect import Control

    control = Control.here()
    where = None if path is None else resolve(path)
    pending: Pending = control.post(changes.UPLOAD_NOW, {"path": where})
    if wait:
        finish(until_sent(control, where, timeout), as_json=as_json)
        return

    def tell() -> None:
        if not pending["uploads"] + pending["tracked"]:
            output.say("everything is sent")
            return
        output.say(f"{unsent.sum_of(pending)} on the way:")
        for text in unsent.lines(pending):
            output.say(text)

    output.emit(pending, as_json=as_json, human=tell)


def pause(as_json: Json = False) -> None:
    """Send nothing until `synd resume`, over restarts too; edits are kept on this disk.

    `synd down` leaves them unsent. Jobs such as preprocessing go on: `synd jobs pause` is for them. Example: `synd pause` before a meeting on a slow line.
    """
    from synd.control import changes

    _switch(changes.PAUSE, "paused", as_json=as_json)


def resume(as_json: Json = False) -> None:
    """Send local changes again after `synd pause`.

    Example: `synd resume`.
    """
    from synd.control import changes

    _switch(changes.RESUME, "resumed", as_json=as_json)


def _switch(route: str, word: str, *, as_json: bool) -> None:
    from synd.control.connect import Control

    pending: Pending = Control.here().post(route)
    output.emit(
        pending,
        as_json=as_json,
        human=lambda: output.say(f"{word}; {unsent.sum_of(pending)} unsent"),
    )


def approve(
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[PATH|ID]...",
            help="Paths with all below, entity ids, numbers of changes, or tracked folders.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that is held.")] = False,
    as_json: Json = False,
) -> None:
    """Let deletes go that were held because they were many at once.

    `synd status` shows them; `synd discard PATH` is the no. They go to the trash can of the service.
    Example: `synd approve /mnt/synapse/Project/old`.
    """
    from synd.cli.targets import resolve_change
    from synd.control import changes
    from synd.control.connect import Control
    from synd.errors import UsageError

    named = [resolve_change(one) for one in targets or []]
    if everything == bool(named):
        raise UsageError(
            "name what is to be deleted, or say --all, not both", hint="`synd status` shows it"
        )
    done: Approved = Control.here().post(changes.APPROVE, {"targets": named}, timeout_s=120.0)

    def tell() -> None:
        for path in done["paths"]:
            output.say(f"goes now: {path}")
        if not done["paths"]:
            output.say("nothing was held")

    output.emit(done, as_json=as_json, human=tell)
