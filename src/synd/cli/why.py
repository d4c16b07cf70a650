"""`synd why`: the state of one thing, the reason, and the mend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import Why


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Look")(why)


def why(
    target: Annotated[
        str,
        typer.Argument(metavar="PATH|ID", help="A file or folder in the mount, or an entity id."),
    ],
    as_json: Json = False,
) -> None:
    """Say why a file is in the state it is, why its jobs are, and what would change that.

    Example: `synd why results/reads.bam`.
    """
    from synd.cli.targets import resolve_target
    from synd.control import contract
    from synd.control.connect import Control

    found: Why = Control.here().get(contract.WHY, path=resolve_target(target))

    def tell() -> None:
        output.say(f"{found['path']}: {found['state']}")
        output.say(f"  why   {found['reason']}")
        if found["mend"]:
            output.say(f"  mend  {found['mend']}")
        for job in found.get("jobs", []):
            which = f"{job['kind']} job {job['id']}" if job["id"] else job["kind"]
            output.say(f"  {which}: {job['state']}")
            for label, text in (("why", job["reason"]), ("mend", job["mend"]), ("log", job["log"])):
                if text:
                    output.say(f"    {label:<5} {text}")
        for name, value in found["facts"].items():
            if value is not None:
                output.say(f"  {name} = {value}")

    output.emit(found, as_json=as_json, human=tell)
