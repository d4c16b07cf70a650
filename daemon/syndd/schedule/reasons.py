"""Why the jobs of a file are as they are: what failed, was cancelled or waits, the reason, and the mend.

For `synd why`. Leaves the rows to `synd.jobs`, and what the file itself is to `syndd.states`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Final

from synd.clock import format_time
from synd.control import contract
from synd.ids import syn
from synd.jobs.failures import Again, Failure
from synd.jobs.lookup import Lookup
from synd.jobs.model import Job, JobState
from synd.processors.base import PIPELINE_VERSION, SYNAPSE
from synd.processors.keys import workflow_key
from synd.store.entities import Row

_LOOKED_AT: Final = 200
"""So many of the newest jobs that are not about one content are searched for the file."""

_NAMING: Final = ("prefetch", "verify")
"""Kinds whose arguments name entities."""


def jobs_of(lookup: Lookup, row: Row) -> list[Job]:
    """The newest attempt of each kind at a file as it is now, unless it is done. Cost: a look at all jobs."""
    found: list[Job] = []
    if row.md5 is not None:
        key = workflow_key(SYNAPSE, syn(row.id), row.md5, PIPELINE_VERSION)
        latest = lookup.latest(key)
        if latest is not None:
            found.append(latest)
    for kind in _NAMING:
        named = (
            job for job in lookup.all(kinds=[kind], limit=_LOOKED_AT)
            if row.id in _entities(job) and job.superseded_by is None
        )  # fmt: skip
        newest = next(named, None)
        if newest is not None:
            found.append(newest)
    return [job for job in found if job.state is not JobState.COMPLETED]


def _entities(job: Job) -> Collection[object]:
    named = job.arguments.get("entities")
    return named if isinstance(named, list) else ()


def why_job(
    job: Job,
    lookup: Lookup,
    paused: Collection[str],
    now_ns: int | None = None,
    away: Mapping[str, str] = MappingProxyType({}),
) -> contract.WhyJob:
    """One job's state, its reason, and what to do. `away`: kinds of which none can be begun, and why."""
    now = time.time_ns() if now_ns is None else now_ns
    match job.state:
        case JobState.PENDING:
            reason, mend = _waits(job, lookup, paused, now, away.get(job.kind, ""))
        case JobState.RUNNING:
            reason, mend = _runs(job), ""
        case JobState.FAILED:
            reason, mend = _failed(job)
        case JobState.CANCELLED:
            title = _title(job) or Failure.CANCELLED.meaning.text
            reason, mend = f"it was cancelled: {title}", f"`synd retry {job.id}` does it again"
        case JobState.COMPLETED:
            reason, mend = "it is done", ""
    return {
        "id": job.id, "kind": job.kind, "state": job.state.value, "reason": reason, "mend": mend,
        "failure": job.failure, "attempt": job.attempt,
        "log": f"synd logs {job.id}" if job.started_ns is not None else "",
    }  # fmt: skip


def _waits(
    job: Job, lookup: Lookup, paused: Collection[str], now_ns: int, away: str
) -> tuple[str, str]:
    if job.kind in paused:
        return f"{job.kind} jobs are paused", f"`synd jobs resume {job.kind}`"
    if job.waits:
        needs = ", ".join(lookup.needs(job.id))
        return f"it comes after what is not done yet: {needs}", f"`synd job {needs.split(', ')[0]}`"
    if job.not_before_ns > now_ns:
        at = format_time(job.not_before_ns)
        before = _before(job, lookup)
        return f"it is tried again at {at}{before}", f"`synd cancel {job.id}` gives it up"
    if away:
        return away, "it is begun as soon as that has ended"
    mine = (job.priority, job.created_ns, job.id)
    ahead = sum(
        (one.priority, one.created_ns, one.id) < mine and one.waits == 0
        for one in lookup.all((JobState.PENDING,), kinds=[job.kind])
    )
    running = len(lookup.all((JobState.RUNNING,), kinds=[job.kind]))
    return f"it waits for its turn: {ahead} before it, {running} under way", ""


def _before(job: Job, lookup: Lookup) -> str:
    """Why the attempt before failed, as far as its row is still there."""
    if job.retry_of is None:
        return ""
    earlier = next((one for one in lookup.all() if one.id == job.retry_of), None)
    title = "" if earlier is None else _title(earlier)
    return f", as attempt {job.attempt - 1} failed: {title}" if title else ""


def _runs(job: Job) -> str:
    if job.cancel:
        return "its end was asked for"
    stage = f", stage {job.stage}" if job.stage else ""
    part = f", {100 * job.done // job.total} %" if job.total else ""
    return f"it is under way{stage}{part}"


def _failed(job: Job) -> tuple[str, str]:
    failure = job.failure or Failure.INTERNAL
    reason = _title(job) or failure.meaning.text
    if reason != failure.meaning.text:
        reason = f"{reason} ({failure.meaning.text})"
    hint = str((job.problem or {}).get("hint") or "")
    again = f"`synd retry {job.id}` tries again"
    if failure.meaning.of_content:
        return reason, "the file itself can be read as it is; mend it and send a new version"
    if failure.meaning.again is Again.AFTER_CHANGE:
        return reason, f"{hint or 'remove the cause'}; then {again}"
    return reason, f"{hint}; {again}" if hint else again


def _title(job: Job) -> str:
    return str((job.problem or {}).get("title") or "")
