"""`synd jobs`, `job`, `cancel`, `retry`: the queue; and how other commands wait for a job."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.connect import Control
    from synd.control.contract import Job

Id = Annotated[str, typer.Argument(metavar="ID", help="A job's id, as `synd jobs` shows it.")]
POLL_S = 0.2


def register(app: typer.Typer) -> None:
    for command in (jobs, job, cancel, retry):
        app.command(rich_help_panel="Jobs")(command)


def jobs(
    everything: Annotated[bool, typer.Option("--all", "-a", help="Finished ones too.")] = False,
    as_json: Json = False,
) -> None:
    """List pending and running jobs."""
    from synd.control import contract
    from synd.control.connect import Control

    found: contract.Jobs = Control.here().get(contract.JOBS, all=int(everything))

    def tell() -> None:
        if not found["jobs"]:
            output.say("no jobs" if everything else "no jobs are pending or running")
            return
        output.table(
            ("id", "kind", "state", "progress", "subject", "since"),
            [
                (
                    j["id"],
                    j["kind"],
                    j["state"],
                    progress(j),
                    j["subject"],
                    output.age_of(j["created_at"]),
                )
                for j in found["jobs"]
            ],
        )

    output.emit(found, as_json=as_json, human=tell)


def job(id: Id, as_json: Json = False) -> None:
    """Show one job."""
    _one(id, "", as_json=as_json)


def cancel(id: Id, as_json: Json = False) -> None:
    """Ask a job to stop."""
    _one(id, "cancel", as_json=as_json)


def retry(id: Id, as_json: Json = False) -> None:
    """Start a failed or cancelled job again."""
    _one(id, "retry", as_json=as_json)


def _one(id: str, action: str, *, as_json: bool) -> None:
    from synd.control.connect import Control

    found = Control.here().job(id, action)
    output.emit({"job": found}, as_json=as_json, human=lambda: _tell(found))


def progress(job: Job) -> str:
    """How far a job is, in a few letters."""
    p = job["progress"]
    if p["unit"] == "bytes":
        done, total = output.size(p["done"]), output.size(p["total"])
    else:
        done, total = str(p["done"]), "?" if p["total"] is None else str(p["total"])
    return f"{done} of {total}" + ("" if p["unit"] == "bytes" else f" {p['unit']}")


def _tell(j: Job) -> None:
    output.say(
        f"{j['id']}  {j['kind']}  {j['state']}  {progress(j)}  {j['progress']['note']}".rstrip()
    )
    output.say(f"  {j['subject']}")
    output.say(
        f"  created {j['created_at']}"
        + (f", finished {j['finished_at']}" if j["finished_at"] else "")
    )
    if j["problem"]:
        hint = f" — {j['problem']['hint']}" if j["problem"].get("hint") else ""
        output.say(f"  {j['problem']['title']}{hint}")
    if j["result"]:
        output.say("  " + ", ".join(f"{k} {v}" for k, v in j["result"].items()))


def follow(control: Control, started: Job, text: str) -> Job:
    """Waits for a job with a progress bar, and returns its end. Ctrl-C cancels the job.

    Raises the job's own error when it failed, Cancelled when somebody else cancelled it.
    """
    from synd.control.connect import problem_error
    from synd.errors import Cancelled, SyndError

    now = started
    try:
        with output.bar(text, unit=started["progress"]["unit"]) as update:
            while now["state"] in ("pending", "running"):
                p = now["progress"]
                update(p["done"], p["total"], p["note"])
                time.sleep(POLL_S)
                now = control.job(started["id"])
    except KeyboardInterrupt:
        control.job(started["id"], "cancel")
        raise
    if now["state"] == "cancelled":
        raise Cancelled(f"job {now['id']} was cancelled", hint=f"`synd retry {now['id']}`")
    if now["state"] == "failed":
        if now["problem"] is None:
            raise SyndError(
                f"job {now['id']} failed without saying why", hint="see the daemon's log"
            )
        raise problem_error(json.dumps(now["problem"]).encode())
    return now
