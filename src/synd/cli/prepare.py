"""`synd prepare` and `synd formats`: files that can be read by region."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import Job
    from synd.control.ready import Formats, Prepared


def register(app: typer.Typer) -> None:
    for command in (prepare, formats):
        app.command(rich_help_panel="Jobs")(command)


def prepare(
    targets: Annotated[
        list[str],
        typer.Argument(metavar="PATH|ID...", help="Files or folders in the mount, or entity ids."),
    ],
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Wait until all are ready. Ctrl-C cancels.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Sort, compress and index genomics files, so that they are read by region.

    A folder stands for all files below it whose names are of a format that can be prepared. What was made already, or needs nothing, starts no work. Exit 75 when too many jobs wait, or the daemon stops:
    ask again later. Example: `synd prepare --wait sample.bam`.
    """
    from synd.cli.jobs import follow
    from synd.cli.targets import resolve_all
    from synd.control import ready
    from synd.control.connect import Control
    from synd.errors import StageFailed, by_name

    control = Control.here()
    asked: ready.PrepareRequest = {"targets": resolve_all(targets)}
    found: Prepared = control.post(ready.PREPARE, asked, timeout_s=300.0)
    if wait:
        found["jobs"] = [follow(control, job, job["subject"]) for job in found["jobs"]]
    output.emit(found, as_json=as_json, human=lambda: _tell(found))
    if found["failed"]:
        first = found["failed"][0]
        raise StageFailed(
            f"{first['path']}: {first['reason']}", failure=first["failure"],
            hint="`synd formats` tells what is handled here",
        )  # fmt: skip
    if found["refused"]:
        late = found["refused"][0]
        left = output.count(len(found["refused"]), "file")
        raise by_name(late["type"])(
            f"no job for {left}: {late['reason']}", hint="`synd jobs` shows them; ask again later",
            path=late["path"],
        )  # fmt: skip


def _tell(found: Prepared) -> None:
    if not any(
        (
            *found["ready"],
            *found["as_they_are"],
            *found["jobs"],
            *found["refused"],
            *found["failed"],
        )
    ):
        output.say("nothing there is of a format that can be prepared (`synd formats`)")
    for path in found["ready"]:
        output.say(f"{path}: ready")
    for one in found["as_they_are"]:
        output.say(f"{one['path']}: {one['reason']}")
    for job in found["jobs"]:
        output.say(f"{job['subject']}: {_state(job)}")
    for late in found["refused"]:
        output.say(f"{late['path']}: not taken, {late['reason']}")


def _state(job: Job) -> str:
    return "ready" if job["state"] == "completed" else f"job {job['id']}, {job['state']}"


def formats(as_json: Json = False) -> None:
    """List the formats that can be prepared, what each becomes, by which tool here, and what is missing.

    Example: `synd formats`.
    """
    from synd.control import ready
    from synd.control.connect import Control

    found: Formats = Control.here().get(ready.FORMATS)
    output.emit(
        found,
        as_json=as_json,
        human=lambda: output.table(
            ("format", "data", "index", "tools here", "missing"),
            [
                (f["format"], f["data"], " ".join(f["indexes"]), " ".join(f["tools"]), f["missing"])
                for f in found["formats"]
            ],
        ),
    )
