"""`synd diff`: what differs between this machine and the service."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output, unsent
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.changes import Content, Difference

COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m"}


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Changes")(diff)


def diff(
    path: Annotated[Path, typer.Argument(help="A file or folder in the mount.")],
    as_json: Json = False,
) -> None:
    """Show what differs at PATH from the version of the service that it was made from.

    Text is shown as a unified diff, other files by size and md5, folders as the changes below them.
    Example: `synd diff notes.txt`.
    """
    from synd.cli.mounts import resolve
    from synd.control import changes
    from synd.control.connect import Control

    found: Difference = Control.here().get(changes.DIFF, path=resolve(path), timeout_s=120.0)
    output.emit(found, as_json=as_json, human=lambda: _tell(found))


def _tell(d: Difference) -> None:
    if d["kind"] == "same":
        output.say(f"{d['path']}: nothing differs")
        return
    output.say(f"{d['path']}: {', '.join(d['intents']) or 'changes below'}")
    if d["moved_from"]:
        output.say(f"  was {d['moved_from']}")
    if d["kind"] == "folder":
        for change in d["changes"]:
            output.say(f"  {unsent.line(change)}")
    elif d["base"] != d["local"]:
        output.say(f"  service  {_content(d['base'])}")
        output.say(f"  here     {_content(d['local'])}")
    for key, values in sorted(d["annotations"].items()):
        output.say(f"  note {key} = {'(removed)' if values is None else ', '.join(values)}")
    if d["note"]:
        output.say(f"  {d['note']}")
    colours = COLOURS if _coloured() else {}
    for text in d["text"].splitlines():
        colour = colours.get(text[:1])
        output.say(f"{colour}{text}\x1b[0m" if colour else text)
    if d["truncated"]:
        output.say("… more than is shown here")


def _content(content: Content | None) -> str:
    if content is None:
        return "nothing"
    version = f"version {content['version']}, " if content["version"] else ""
    return f"{version}{output.size(content['size'])}, md5 {content['md5'] or '?'}"


def _coloured() -> bool:
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ
