"""`synd why`: the state of one thing, the reason, and the mend."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import Why


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Look")(why)


def why(
    path: Annotated[Path, typer.Argument(help="A file or folder in the mount.")],
    as_json: Json = False,
) -> None:
    """Say why PATH is in the state it is, and what would change that.

    Example: `synd why results/reads.bam`.
    """
    from synd.cli.mounts import resolve
    from synd.control import contract
    from synd.control.connect import Control

    found: Why = Control.here().get(contract.WHY, path=resolve(path))

    def tell() -> None:
        output.say(f"{found['path']}: {found['state']}")
        output.say(f"  why   {found['reason']}")
        if found["mend"]:
            output.say(f"  mend  {found['mend']}")
        for name, value in found["facts"].items():
            if value is not None:
                output.say(f"  {name} = {value}")

    output.emit(found, as_json=as_json, human=tell)
