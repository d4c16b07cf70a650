"""`synd prepare` and `synd formats`: files that can be read by region."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.connect import Control
    from synd.control.contract import Job
    from synd.control.ready import Formats, Prepared
    from synd.errors import SyndError


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

    A folder stands for all files below it whose names are of a format that can be prepared. What was made already, or needs nothing, starts no work. What cannot be prepared does not keep the others from it. Exit 75 when too many jobs wait, or the daemon stops:
    ask again later. Example: `synd prepare --wait sample.bam`.
    """
    from synd.cli.targets import resolve_all
    from synd.control import ready
    from synd.control.connect import Control

    control = Control.here()
    asked: ready.PrepareRequest = {"targets": resolve_all(targets)}
    found: Prepared = control.post(ready.PREPARE, asked, timeout_s=300.0)
    if wait:
        found["jobs"] = _ended(control, found["jobs"])
    error = _error(found)
    told = {} if error is None else {"error": error.problem()}
    output.emit({**found, **told}, as_json=as_json, human=lambda: _tell(found))
    if error is not None:
        if not as_json:
            output.fail(error, as_json=False)
        raise typer.Exit(error.exit_code)


def _ended(control: Control, jobs: Sequence[Job]) -> list[Job]:
    """The ends of these jobs. Ctrl-C cancels those that have not ended."""
    from synd.cli.jobs import ended
    from synd.errors import SyndError

    done: list[Job] = []
    left = deque(jobs)
    try:
        while left:
            done.append(ended(control, left[0], left[0]["subject"]))
            left.popleft()
    except KeyboardInterrupt:
        # The one that was waited for is cancelled already.
        for job in islice(left, 1, None):
            with contextlib.suppress(SyndError):
                control.job(job["id"], "cancel")
        raise
    return done


def _error(found: Prepared) -> SyndError | None:
    """Why not all that was asked for is made, or will be; the first reason, and for how many more there is one."""
    from synd.cli.jobs import error_of
    from synd.errors import StageFailed, by_name

    ended = [(job["subject"], error) for job in found["jobs"] if (error := error_of(job))]
    failed: list[SyndError] = [
        StageFailed(
            f"{one['path']}: {one['reason']}", failure=one["failure"],
            hint="`synd formats` tells what is handled here",
        )
        for one in found["failed"]
    ]  # fmt: skip
    for subject, error in ended:
        error.message = f"{subject}: {error.message}"
        failed.append(error)
    if failed:
        if len(failed) > 1:
            failed[0].message += f" (and {len(failed) - 1} more)"
        return failed[0]
    if found["refused"]:
        late = found["refused"][0]
        left = output.count(len(found["refused"]), "file")
        return by_name(late["type"])(
            f"no job for {left}: {late['reason']}", hint="`synd jobs` shows them; ask again later",
            path=late["path"],
        )  # fmt: skip
    return None


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
    for bad in found["failed"]:
        output.say(f"{bad['path']}: cannot be prepared, {bad['reason']}")
    for late in found["refused"]:
        output.say(f"{late['path']}: not taken, {late['reason']}")


def _state(job: Job) -> str:
    from synd.cli.jobs import error_of

    error = error_of(job)
    if error is not None:
        return f"job {job['id']}, {job['state']}: {error.message}"
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
