"""`synd comment` and `synd annotate`: what goes to the service beside the bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output, unsent
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.changes import Unsent


def register(app: typer.Typer) -> None:
    for command in (comment, annotate):
        app.command(rich_help_panel="Changes")(command)


def comment(
    path: Annotated[Path, typer.Argument(help="A file in the mount.")],
    text: Annotated[str, typer.Argument(metavar="TEXT", help="Comment of its next version.")] = "",
    label: Annotated[
        str, typer.Option("--label", metavar="L", help="Label of its next version.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Set comment and label of the next version of PATH; without TEXT and label, clear them.

    Example: `synd comment reads.bam "realigned to GRCh38" --label v2.1`.
    """
    from synd.cli.mounts import resolve
    from synd.control import changes
    from synd.control.connect import Control

    asked: changes.Comment = {"path": resolve(path), "comment": text, "label": label}
    done: Unsent = Control.here().post(changes.COMMENT, asked, timeout_s=60.0)
    output.emit(
        done,
        as_json=as_json,
        human=lambda: output.say(
            f"goes with the next version of {done['path']}"
            if text or label
            else f"the next version of {done['path']} has neither comment nor label"
        ),
    )


def annotate(
    path: Annotated[Path, typer.Argument(help="A file or folder in the mount.")],
    values: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="A key named twice gets both values."),
    ] = None,
    remove: Annotated[
        list[str] | None, typer.Option("--remove", metavar="KEY", help="Remove this annotation.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set or remove annotations of PATH; they are sent like any other change.

    Example: `synd annotate reads.bam tissue=liver --remove draft`.
    """
    from synd.cli.mounts import resolve
    from synd.control import changes
    from synd.control.connect import Control
    from synd.errors import UsageError

    wanted: dict[str, list[str]] = {}
    for one in values or []:
        key, sign, value = one.partition("=")
        if not sign or not key:
            raise UsageError(f"{one!r} is not KEY=VALUE")
        wanted.setdefault(key, []).append(value)
    if not wanted and not remove:
        raise UsageError("name an annotation", hint="KEY=VALUE, or --remove KEY")
    asked: changes.Annotate = {"path": resolve(path), "set": wanted, "remove": remove or []}
    done: Unsent = Control.here().post(changes.ANNOTATE, asked, timeout_s=60.0)
    output.emit(done, as_json=as_json, human=lambda: output.say(unsent.line(done)))
