"""`synd discard` and `synd restore`: forgets local changes, brings back what was taken away."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.changes import Discarded, RecoveredList, Restored

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def register(app: typer.Typer) -> None:
    for command in (discard, restore):
        app.command(rich_help_panel="Changes")(command)


def discard(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH|ID...", help="Paths with all below, entity ids, or numbers of changes."
        ),
    ],
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Forget local changes: what is there is then what the service has.

    Bytes that only lie here go to the recovery area (`synd restore --list`). Of a held delete it is the
    no: the thing comes back. Example: `synd discard notes.txt`.
    """
    from synd.cli.targets import resolve_change
    from synd.control import changes
    from synd.control.connect import Control

    control = Control.here()
    named = [resolve_change(one) for one in targets]
    output.confirm(f"Forget the local changes of {', '.join(named)}?", yes=yes)
    done: Discarded = control.post(changes.DISCARD, {"targets": named}, timeout_s=300.0)

    def tell() -> None:
        for path in done["paths"]:
            output.say(f"discarded {path}")
        if done["recovered"]:
            kept = output.count(done["recovered"], "file")
            output.say(f"{kept} in the recovery area: `synd restore --list`")

    output.emit(done, as_json=as_json, human=tell)


def restore(
    target: Annotated[
        str | None, typer.Argument(metavar="[PATH|ID]", help="Where it was, or its id in the list.")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--list", "-l", help="List what can come back, newest first.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Bring back what was deleted, overwritten or discarded from here.

    From the recovery area of this machine, or from the trash can of the service. Without PATH the list is
    shown. Example: `synd restore /mnt/synapse/Project/notes.txt`.
    """
    from synd.cli.targets import resolve_change
    from synd.control import changes
    from synd.control.connect import Control

    control = Control.here()
    if target is None or everything:
        listed: RecoveredList = control.get(changes.RECOVERED)
        output.emit(listed, as_json=as_json, human=lambda: _tell(listed))
        return
    asked: changes.RestoreRequest = {"target": resolve_change(target)}
    done: Restored = control.post(changes.RESTORE, asked, timeout_s=120.0)
    output.emit(done, as_json=as_json, human=lambda: output.say(f"restored {done['path']}"))


def _tell(found: RecoveredList) -> None:
    if not found["recovered"]:
        output.say("nothing was taken away")
        return
    output.table(
        ("id", "when", "why", "where", "size", "path"),
        [
            (r["id"], r["at"], r["reason"], r["where"], output.size(r["size"]), r["path"])
            for r in found["recovered"]
        ],
        right=("size",),
    )
