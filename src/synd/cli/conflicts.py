"""`synd conflicts`: what both sides changed, and how it was or is to be settled."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.changes import Conflict, Conflicts

app = typer.Typer(help="See and settle what both sides changed.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Its id, as `synd conflicts` shows it.")]
All = Annotated[bool, typer.Option("--all", "-a", help="Resolved ones too.")]


class Keep(StrEnum):
    """Which side stays."""

    LOCAL = "local"
    REMOTE = "remote"
    BOTH = "both"


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="conflicts", rich_help_panel="Changes")


@app.callback(invoke_without_command=True)
def _alone(context: typer.Context, everything: All = False, as_json: Json = False) -> None:
    """See and settle what both sides changed; by itself as `list`."""
    if context.invoked_subcommand is None:
        list_all(everything=everything, as_json=as_json)


@app.command("list")
def list_all(everything: All = False, as_json: Json = False) -> None:
    """List conflicts; nothing of either side was lost. Example: `synd conflicts list`."""
    from synd.control import changes
    from synd.control.connect import Control

    found: Conflicts = Control.here().get(changes.CONFLICTS, all=int(everything))

    def tell() -> None:
        if not found["conflicts"]:
            output.say("no conflicts")
            return
        output.table(
            ("id", "when", "reason", "kept", "state", "path"),
            [
                (
                    c["id"],
                    c["at"],
                    c["reason"],
                    c["kept"],
                    "resolved" if c["resolved_at"] else "open",
                    c["path"],
                )
                for c in found["conflicts"]
            ],
        )

    output.emit(found, as_json=as_json, human=tell)


@app.command()
def show(id: Id, as_json: Json = False) -> None:
    """Show one conflict, where both sides are, and how to settle it. Example: `synd conflicts show 3`."""
    from synd.control import changes
    from synd.control.connect import Control

    found: Conflict = Control.here().get(f"{changes.CONFLICTS}/{quote(id, safe='')}")
    output.emit({"conflict": found}, as_json=as_json, human=lambda: _tell(found))


@app.command()
def resolve(
    id: Id,
    keep: Annotated[
        Keep,
        typer.Option(
            "--keep",
            help="local: ours becomes the newest version; remote: theirs stays; both: two files.",
        ),
    ],
    as_json: Json = False,
) -> None:
    """Settle a conflict; the other side goes to the recovery area or stays an older version.

    What is settled already stays so (64). Example: `synd conflicts resolve 3 --keep local`.
    """
    from synd.control import changes
    from synd.control.connect import Control

    asked: changes.Resolve = {"keep": keep.value}
    route = f"{changes.CONFLICTS}/{quote(id, safe='')}/resolve"
    done: Conflict = Control.here().post(route, asked, timeout_s=120.0)
    output.emit({"conflict": done}, as_json=as_json, human=lambda: _tell(done))


def _tell(c: Conflict) -> None:
    state = f"resolved {c['resolved_at']}" if c["resolved_at"] else "open"
    output.say(f"conflict {c['id']}  {c['path']}  {state}")
    output.say(f"  {c['reason']}, found {c['at']}; kept: {c['kept']}")
    versions = (c["base_version"], c["remote_version"])
    if all(versions):
        output.say(f"  edited here from version {versions[0]}; the service has {versions[1]}")
    if c["copy_path"]:
        output.say(f"  the other side is {c['copy_path']}")
    if not c["resolved_at"]:
        output.say(f"  settle it: synd conflicts resolve {c['id']} --keep local|remote|both")
