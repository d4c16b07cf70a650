"""`synd prefetch`: brings files, or folders with all below, into the cache."""

from __future__ import annotations

from typing import Annotated

import typer

from synd.cli import output
from synd.cli.output import Json


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Cache")(prefetch)


def prefetch(
    targets: Annotated[
        list[str], typer.Argument(metavar="PATH|ID...", help="Paths in the mount, or entity ids.")
    ],
    pin: Annotated[bool, typer.Option("--pin", help="Keep them from eviction too.")] = False,
    background: Annotated[
        bool,
        typer.Option("--background", "-b", help="Return at once; `synd job ID` shows the job."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Fetch files ahead of use. Ctrl-C cancels."""
    from synd.cli.jobs import follow, progress
    from synd.cli.targets import resolve_all
    from synd.control import contract
    from synd.control.connect import Control

    control = Control.here()
    asked: contract.PrefetchRequest = {"targets": resolve_all(targets), "pin": pin}
    job: contract.Job = control.post(contract.PREFETCH, asked)
    if not background:
        job = follow(control, job, "fetching")

    def tell() -> None:
        output.say(f"job {job['id']}" if background else f"fetched {progress(job)}")

    output.emit({"job": job}, as_json=as_json, human=tell)
