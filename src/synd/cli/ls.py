"""`synd ls`: a folder's entries with ids, versions and what is here, by path or entity id."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import ListEntry, Listing


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Look")(ls)


def ls(
    target: Annotated[
        str, typer.Argument(metavar="[PATH|ID]", help="A folder in the mount, or its id.")
    ] = ".",
    long: Annotated[
        bool, typer.Option("--long", "-l", help="Ids, versions, sizes, times and states too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List a folder as the daemon knows it."""
    from synd.cli.targets import resolve_target
    from synd.control import contract
    from synd.control.connect import Control

    found: Listing = Control.here().get(
        contract.LIST, target=resolve_target(target), long=int(long), timeout_s=120.0
    )
    output.emit(found, as_json=as_json, human=lambda: _tell(found, long=long))


def _tell(found: Listing, *, long: bool) -> None:
    if not long:
        for entry in found["entries"]:
            output.say(entry["name"] + ("/" if entry["kind"] in ("project", "folder") else ""))
        return
    output.table(
        ("id", "kind", "version", "size", "modified", "state", "name"),
        [_row(entry) for entry in found["entries"]],
        right=("version", "size"),
    )


def _row(entry: ListEntry) -> tuple[str, ...]:
    return (
        entry["entity"],
        entry["kind"],
        "" if entry["version"] is None else str(entry["version"]),
        "" if entry["size"] is None else output.size(entry["size"]),
        (entry["modified_at"] or "")[:19].replace("T", " "),
        entry["state"],
        entry["name"],
    )
