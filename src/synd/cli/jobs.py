"""`synd jobs`, `job`, `cancel`, `retry`, `logs`: the queue; and how other commands wait for a job."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.connect import Control
    from synd.control.contract import Job, JobLog, Jobs, QueueState
    from synd.errors import SyndError

app = typer.Typer(help="See and steer the queue of jobs.")

KINDS = ("prefetch", "verify", "preprocess")


def _known(kinds: list[str] | None) -> list[str] | None:
    """Refuses a kind that there is not: it would look as if there were no jobs of it."""
    for kind in kinds or ():
        if kind not in KINDS:
            raise typer.BadParameter(f"{kind!r} is not one of {', '.join(KINDS)}")
    return kinds


Id = Annotated[str, typer.Argument(metavar="ID", help="A job's id, as `synd jobs` shows it.")]
Ids = Annotated[
    list[str] | None,
    typer.Argument(metavar="[ID]...", help="Ids of jobs, as `synd jobs` shows them."),
]
All = Annotated[bool, typer.Option("--all", "-a", help="Ended ones too.")]
Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind", "-k", callback=_known, help=f"Only these: {', '.join(KINDS)}. May be repeated."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", "-n", min=1, help="At most so many, the newest; a terminal shows 100."),
]
Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C, as jobs change.")]
Paused = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KIND]...", help=f"Only these: {', '.join(KINDS)}."),
]

POLL_S = 0.2
CANCEL_S = 120.0
"""Longest wait for the end of all jobs."""
SHOWN = 100


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="jobs", rich_help_panel="Jobs")
    for command in (job, cancel, retry, logs):
        top.command(rich_help_panel="Jobs")(command)


@app.callback(invoke_without_command=True)
def _alone(
    context: typer.Context,
    everything: All = False,
    kind: Kinds = None,
    limit: Limit = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """See and steer the queue of jobs; by itself as `list`."""
    if context.invoked_subcommand is None:
        list_all(everything=everything, kind=kind, limit=limit, follow=follow, as_json=as_json)


@app.command("list")
def list_all(
    everything: All = False,
    kind: Kinds = None,
    limit: Limit = None,
    follow: Follow = False,
    as_json: Json = False,
) -> None:
    """List pending and running jobs, newest first. Example: `synd jobs --follow`.

    With `--follow --json` each change is one line with one object.
    """
    from synd.control.connect import Control

    control = Control.here()
    if follow:
        _watch(control, kind, as_json=as_json)
        return
    most = limit or (SHOWN if sys.stdout.isatty() and not as_json else None)
    found = _listed(control, kind, everything=everything, most=most)

    def tell() -> None:
        _tell_paused(found.get("paused", []))
        if not found["jobs"]:
            output.say("no jobs" if everything else "no jobs are pending or running")
            return
        output.table(
            ("id", "kind", "state", "progress", "subject", "since"),
            [
                (j["id"], j["kind"], state(j), progress(j), j["subject"], output.age_of(j["created_at"]))
                for j in found["jobs"]
            ],
        )  # fmt: skip
        counts = found.get("counts", {})
        known = sum(n for s, n in counts.items() if everything or s in ("pending", "running"))
        if not kind and known > len(found["jobs"]):
            output.say(f"… and {known - len(found['jobs'])} more: --limit N shows them")

    output.emit(found, as_json=as_json, human=tell)


@app.command()
def pause(kinds: Paused = None, as_json: Json = False) -> None:
    """Begin no more jobs until `synd jobs resume`; what runs goes on. It holds over restarts.

    Uploads are no jobs: `synd pause` is for them. Example: `synd jobs pause preprocess`.
    """
    _switch(kinds, "pause", as_json=as_json)


@app.command()
def resume(kinds: Paused = None, as_json: Json = False) -> None:
    """Begin jobs again after `synd jobs pause`. Example: `synd jobs resume`."""
    _switch(kinds, "resume", as_json=as_json)


@app.command()
def clean(as_json: Json = False) -> None:
    """Forget ended jobs and what their programs said. Example: `synd jobs clean`."""
    from synd.control import contract
    from synd.control.connect import Control

    done: QueueState = Control.here().post(contract.JOBS_CLEAN)
    output.emit(done, as_json=as_json, human=lambda: output.say("ended jobs are forgotten"))


def _switch(kinds: Sequence[str] | None, what: str, *, as_json: bool) -> None:
    from synd.control import contract
    from synd.control.connect import Control

    route = contract.JOBS_PAUSE if what == "pause" else contract.JOBS_RESUME
    done: QueueState = Control.here().post(route, {"kinds": list(kinds or ())})

    def tell() -> None:
        _tell_paused(done["paused"])
        if not done["paused"]:
            output.say("no jobs are paused")

    output.emit(done, as_json=as_json, human=tell)


def _tell_paused(kinds: Sequence[str]) -> None:
    if kinds:
        output.say(f"paused: {', '.join(kinds)} — `synd jobs resume`")


def job(id: Id, as_json: Json = False) -> None:
    """Show one job."""
    from synd.control.connect import Control

    found = Control.here().job(id)
    output.emit({"job": found}, as_json=as_json, human=lambda: _tell(found))


def cancel(
    ids: Ids = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that are pending or running.")
    ] = False,
    kind: Kinds = None,
    as_json: Json = False,
) -> None:
    """End jobs. Example: `synd cancel 3f2a`, or `synd cancel --all --kind prefetch`."""
    _each("cancel", ids, everything=everything, kind=kind, as_json=as_json)


def retry(
    ids: Ids = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All that failed and are not tried again.")
    ] = False,
    kind: Kinds = None,
    as_json: Json = False,
) -> None:
    """Try failed or cancelled jobs again. Example: `synd retry 3f2a`, or `synd retry --failed`."""
    _each("retry", ids, everything=failed, kind=kind, as_json=as_json)


def _each(
    action: str,
    ids: Sequence[str] | None,
    *,
    everything: bool,
    kind: Sequence[str] | None,
    as_json: bool,
) -> None:
    """Does one thing to several jobs. What fails of many does not keep the others from it."""
    from synd.control.connect import Control
    from synd.errors import SyndError, UsageError

    if everything == bool(ids):
        raise UsageError(
            f"name the jobs to {action}, or say {'--all' if action == 'cancel' else '--failed'}",
            hint="`synd jobs` shows them",
        )
    control = Control.here()
    done: list[Job] = []
    errors: list[SyndError] = []
    if everything and action == "cancel":
        done = _cancelled(control, kind)
    else:
        for id in ids or _failed(control, kind):
            try:
                done.append(control.job(id, action))
            except SyndError as error:
                errors.append(error)
    for other in errors[1:]:
        output.remark(f"synd: {other}")
    if errors:
        raise errors[0]

    def tell() -> None:
        for one in done[:SHOWN]:
            _tell(one)
        if len(done) > SHOWN:
            output.say(f"… and {len(done) - SHOWN} more: `synd jobs --all` lists them")
        if not done:
            output.say(f"there is nothing to {action}")

    one = {"job": done[0]} if len(done) == 1 else {}
    output.emit({**one, "jobs": done}, as_json=as_json, human=tell)


def _cancelled(control: Control, kinds: Sequence[str] | None) -> list[Job]:
    """All of these kinds, ended in one request: one by one, others would begin meanwhile."""
    from synd.control import contract

    found: Jobs = control.post(
        contract.JOBS_CANCEL, {"kinds": list(kinds or ())}, timeout_s=CANCEL_S
    )
    return found["jobs"]


def _failed(control: Control, kinds: Sequence[str] | None) -> list[str]:
    found = _listed(control, kinds, everything=True)
    return [j["id"] for j in found["jobs"] if j["state"] == "failed" and not j.get("superseded_by")]


def _listed(
    control: Control, kinds: Sequence[str] | None, *, everything: bool, most: int | None = None
) -> Jobs:
    """Jobs of these kinds, or of all. Raises NotFound for a kind that is not there."""
    from synd.control import contract

    query = "&".join(
        [f"all={int(everything)}"]
        + [f"kind={quote(one, safe='')}" for one in kinds or ()]
        + ([f"limit={most}"] if most else [])
    )
    found: Jobs = control.get(f"{contract.JOBS}?{query}")
    return found


def logs(
    id: Id,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show what a job's programs said. Example: `synd logs -f 3f2a`."""
    from synd.control import contract
    from synd.control.connect import Control
    from synd.errors import DaemonNotRunning

    control = Control.here()
    route = f"{contract.JOBS}/{quote(id, safe='')}/log"
    if follow:
        for event in control.stream(route, follow=1):
            if as_json:
                output.print_json({"schema": contract.SCHEMA, **event["data"]})
            else:
                sys.stdout.write(str(event["data"]["text"]))
                output.flush()
        if control.job(id)["state"] in ("pending", "running"):
            raise DaemonNotRunning(
                "the daemon ended before the job did", hint=f"`synd logs -f {id}` goes on"
            )
        return
    part: JobLog = control.get(route)
    text = part["text"]
    while part["text"]:
        part = control.get(route, offset=part["offset"])
        text += part["text"]
    whole = {**part, "text": text}
    output.emit(
        whole, as_json=as_json, human=lambda: output.say(text.rstrip("\n") or "it said nothing")
    )


def state(job: Job) -> str:
    """The state of a job in a few letters: what it does, or why it waits."""
    if job.get("cancelling"):
        return "ending"
    if job["state"] == "running":
        return job.get("stage") or "running"
    if job["state"] == "pending" and job.get("after"):
        return f"after {output.count(job['after'], 'other')}"
    if job["state"] == "pending" and job.get("attempt", 1) > 1:
        return f"pending (attempt {job['attempt']})"
    if job["state"] == "failed" and job.get("superseded_by"):
        return "failed, tried again"
    return job["state"]


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
        f"{j['id']}  {j['kind']}  {state(j)}  {progress(j)}  {j['progress']['note']}".rstrip()
    )
    output.say(f"  {j['subject']}")
    output.say(
        f"  created {j['created_at']}"
        + (f", finished {j['finished_at']}" if j["finished_at"] else "")
    )
    if j.get("stages_done"):
        output.say(f"  done: {', '.join(j['stages_done'])}")
    if j["problem"]:
        kind = f"{j['failure']}: " if j.get("failure") else ""
        hint = f" — {j['problem']['hint']}" if j["problem"].get("hint") else ""
        output.say(f"  {kind}{j['problem']['title']}{hint}")
    if j.get("not_before_at"):
        output.say(f"  begins at {j['not_before_at']}")
    if j.get("retry_of"):
        output.say(f"  attempt {j['attempt']}, after {j['retry_of']}")
    if j.get("superseded_by"):
        output.say(f"  tried again as {j['superseded_by']}")
    if j["result"]:
        output.say("  " + ", ".join(f"{k} {v}" for k, v in j["result"].items()))


def _watch(control: Control, kinds: Sequence[str] | None, *, as_json: bool) -> None:
    """Shows jobs as they change, until Ctrl-C; a bar for each that runs. Raises DaemonNotRunning at the daemon's end."""
    from typing import cast

    from synd.control import contract
    from synd.errors import DaemonNotRunning

    if kinds:
        _listed(control, kinds, everything=False, most=1)
    active: dict[str, Job] = {}
    shown: dict[str, tuple[str, str]] = {}
    with output.bars("jobs") as draw:
        for event in control.stream(contract.JOBS_FOLLOW):
            found = cast("Job", event["data"])
            if kinds and found["kind"] not in kinds:
                continue
            if as_json:
                output.print_json({"schema": contract.SCHEMA, "job": found})
                continue
            if found["state"] in ("pending", "running"):
                active[found["id"]] = found
            else:
                active.pop(found["id"], None)
            # Lines for what changes but bytes: those are what bars are for.
            now = (found["state"], state(found))
            if shown.get(found["id"]) != now:
                shown[found["id"]] = now
                output.say(f"{found['id']}  {found['kind']}  {now[1]}  {found['subject']}")
                output.flush()
            running = [j for j in active.values() if j["state"] == "running"]
            draw(
                f"{len(running)} running, {len(active) - len(running)} waiting",
                [
                    (f"{j['id'][:6]} {j['subject']}", j["progress"]["done"], j["progress"]["total"])
                    for j in running
                ],
            )
    raise DaemonNotRunning("the daemon has ended", hint="`synd status` says whether it is back")


def follow(control: Control, started: Job, text: str) -> Job:
    """Waits for a job with a progress bar, and returns its end; that of the last attempt at it. Ctrl-C
    cancels the job.

    Raises the job's own error when it failed, Cancelled when somebody else cancelled it.
    """
    now = ended(control, started, text)
    error = error_of(now)
    if error is not None:
        raise error
    return now


def ended(control: Control, started: Job, text: str) -> Job:
    """The same, whatever its end is."""
    now = started
    try:
        with output.bar(text, unit=started["progress"]["unit"]) as update:
            while now["state"] in ("pending", "running") or now.get("superseded_by"):
                p = now["progress"]
                update(p["done"], p["total"], p["note"])
                if now.get("superseded_by"):
                    now = control.job(str(now["superseded_by"]))
                    continue
                time.sleep(POLL_S)
                now = control.job(now["id"])
    except KeyboardInterrupt:
        control.job(now["id"], "cancel")
        raise
    return now


def error_of(job: Job) -> SyndError | None:
    """Why an ended job did not do its work; None: it did."""
    from synd.control.connect import problem_error
    from synd.errors import Cancelled, SyndError

    if job["state"] == "cancelled":
        return Cancelled(f"job {job['id']} was cancelled", hint=f"`synd retry {job['id']}`")
    if job["state"] != "failed":
        return None
    if job["problem"] is None:
        return SyndError(f"job {job['id']} failed without saying why", hint="see the daemon's log")
    return problem_error(json.dumps(job["problem"]).encode())
