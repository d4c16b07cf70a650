"""`synd track`, `untrack`, `tracked`: ordinary folders whose changes are sent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.changes import Tracked, TrackedList

SHOWN = 20
"""So many things that are not sent are listed of each folder."""

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An ordinary folder of this machine.")]


def register(app: typer.Typer) -> None:
    for command in (track, untrack, tracked):
        app.command(rich_help_panel="Tracked folders")(command)


def track(
    folder: Folder,
    target: Annotated[
        str,
        typer.Argument(metavar="ID|PATH", help="A folder or project, or its path in the mount."),
    ],
    as_json: Json = False,
) -> None:
    """Send what changes in DIR to a folder of the service, from now on; what is in it goes first.

    Example: `synd track ~/results syn123`.
    """
    from synd.cli.targets import resolve_target
    from synd.control import changes
    from synd.control.connect import Control
    from synd.errors import NotFound

    if not folder.is_dir():
        raise NotFound(f"{folder} is no folder", path=str(folder))
    asked: changes.TrackRequest = {
        "folder": os.path.realpath(folder),
        "target": resolve_target(target),
    }
    done: Tracked = Control.here().post(changes.TRACK, asked, timeout_s=120.0)
    output.emit(
        done,
        as_json=as_json,
        human=lambda: output.say(f"{done['folder']} is sent to {done['path'] or done['entity']}"),
    )


def untrack(folder: Folder, as_json: Json = False) -> None:
    """Track DIR no more; nothing is deleted, here or on the service.

    Example: `synd untrack ~/results`.
    """
    from synd.control import changes
    from synd.control.connect import Control

    asked: changes.UntrackRequest = {"folder": os.path.realpath(folder)}
    done: Tracked = Control.here().post(changes.UNTRACK, asked, timeout_s=120.0)
    output.emit(
        done,
        as_json=as_json,
        human=lambda: output.say(f"{done['folder']} is an ordinary folder again"),
    )


def tracked(as_json: Json = False) -> None:
    """List the tracked folders, how each is watched, and what in them is not sent and why.

    Example: `synd tracked`.
    """
    from synd.control import changes
    from synd.control.connect import Control

    found: TrackedList = Control.here().get(changes.TRACKED)

    def tell() -> None:
        if not found["tracked"]:
            output.say("no folder is tracked")
            return
        output.table(
            ("folder", "goes to", "state", "files", "unsent", "scanned"),
            [
                (
                    t["folder"],
                    t["path"] or t["entity"],
                    t["state"],
                    "?" if t["files"] is None else str(t["files"]),
                    str(t["unsent"]),
                    output.age_of(t["scanned_at"]),
                )
                for t in found["tracked"]
            ],
            right=("files", "unsent"),
        )
        for t in found["tracked"]:
            if t["reason"]:
                output.say(f"{t['folder']}: {t['reason']}")
            if t["mend"]:
                output.say(f"  {t['mend']}")
            for one in t["skipped"][:SHOWN]:
                output.say(f"not sent: {one['path']}: {one['reason']}")
                if one["mend"]:
                    output.say(f"  {one['mend']}")
            if t["problems"] > SHOWN:
                output.say(f"not sent: {t['problems'] - SHOWN} more in {t['folder']} (--json)")

    output.emit(found, as_json=as_json, human=tell)
