"""Jobs as the control API shows and changes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import cast

from synd.clock import format_time
from synd.control import contract
from synd.jobs.lookup import Lookup
from synd.jobs.model import ACTIVE, ENDED, Job, JobState
from synd.jobs.queue import Queue
from synd.store.entities import Row
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.reasons import jobs_of, why_job

LOG_POLL_S = 0.25
BOUND = 10_000
"""Changes that a slow listener may lag behind; beyond, it is ended and comes again."""


class JobShowing:
    """Answers about jobs. On the loop."""

    def __init__(
        self,
        queue: Queue,
        dispatcher: Dispatcher,
        logs: JobLogs | None = None,
        *,
        away: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        """`away`: kinds of which none can be begun just now, and why."""
        self._away = away
        self._queue = queue
        self._lookup: Lookup = queue
        self._dispatcher = dispatcher
        self._logs = logs
        self._listeners: set[Callable[[Job], None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        queue.listen(self._changed)

    def list(
        self, *, all: bool, kinds: Sequence[str] = (), limit: int | None = None
    ) -> Sequence[contract.Job]:
        """Newest first; only active ones unless `all`. Raises NotFound for a kind that is not there. Any thread."""
        self._dispatcher.check(kinds)
        states = tuple(JobState) if all else tuple(ACTIVE)
        found = self._lookup.all(states, kinds=kinds or None, limit=limit)
        return [as_contract(job) for job in found]

    def get(self, id: str) -> contract.Job:
        """Raises NotFound."""
        return as_contract(self._lookup.get(id))

    def why(self, row: Row) -> Sequence[contract.WhyJob]:
        """The jobs of a file that are not done, and why. Any thread. Cost: a look at all jobs."""
        paused = self._queue.paused()
        away = self._away()
        return [why_job(job, self._lookup, paused, away=away) for job in jobs_of(self._lookup, row)]

    def state(self) -> contract.QueueState:
        return {"paused": sorted(self._queue.paused()), "counts": self._lookup.count()}

    async def cancel(self, id: str) -> contract.Job:
        return as_contract(await self._dispatcher.cancel(id))

    async def cancel_all(self, kinds: Sequence[str]) -> Sequence[contract.Job]:
        ended = await self._dispatcher.cancel_all(kinds)
        return await asyncio.to_thread(lambda: [as_contract(job) for job in ended])

    async def retry(self, id: str) -> contract.Job:
        return as_contract(await self._dispatcher.retry(id))

    async def pause(self, kinds: Sequence[str], *, paused: bool) -> contract.QueueState:
        await self._dispatcher.pause(kinds, paused=paused)
        return self.state()

    async def clean(self) -> contract.QueueState:
        """Forgets ended jobs, with their logs."""
        await self._dispatcher.prune(keep=0)
        return self.state()

    def log(self, id: str, offset: int = 0) -> contract.JobLog:
        """A part of what a job's programs said; nothing for one that has no programs. Raises NotFound."""
        job = self._lookup.get(id)
        text, on = self._logs.read(job.id, offset) if self._logs is not None else ("", offset)
        return {"id": job.id, "text": text, "offset": on, "ended": job.state in ENDED}

    async def follow_log(self, id: str) -> AsyncIterator[contract.Event]:
        """All of a log, as it grows, until the job has ended. Raises NotFound."""
        offset = 0
        while True:
            part = self.log(id, offset)
            if part["text"]:
                offset = part["offset"]
                yield {
                    "kind": "log",
                    "at": format_time(time.time_ns()),
                    "data": cast("dict[str, object]", part),
                }
            elif part["ended"]:
                return
            else:
                await asyncio.sleep(LOG_POLL_S)

    async def follow(self) -> AsyncIterator[contract.Event]:
        """Active jobs, then every job that changes, until the listener goes."""
        self._loop = asyncio.get_running_loop()
        changes: asyncio.Queue[Job] = asyncio.Queue(BOUND)

        def hear(job: Job) -> None:
            if not changes.full():
                changes.put_nowait(job)

        self._listeners.add(hear)
        try:
            for job in reversed(self._lookup.all(tuple(ACTIVE))):
                yield _event(job)
            while not changes.full():
                yield _event(await changes.get())
        finally:
            self._listeners.discard(hear)

    def _changed(self, job: Job) -> None:
        """On any thread."""
        if self._listeners and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, job)

    def _tell(self, job: Job) -> None:
        for hear in list(self._listeners):
            hear(job)


def _event(job: Job) -> contract.Event:
    return {
        "kind": "job",
        "at": format_time(job.updated_ns or job.created_ns),
        "data": cast("dict[str, object]", as_contract(job)),
    }


def as_contract(job: Job) -> contract.Job:
    """A job as the control API shows it."""
    created = format_time(job.created_ns)
    return {
        "id": job.id,
        "kind": job.kind,
        "state": job.state.value,
        "subject": job.subject,
        "created_at": created,
        "started_at": _at(job.started_ns),
        "finished_at": _at(job.finished_ns),
        "progress": {
            "done": job.done, "total": job.total,
            "unit": cast("contract.Unit", job.unit), "note": job.note,
        },
        "problem": cast("contract.Problem", dict(job.problem)) if job.problem is not None else None,
        "result": dict(job.result) if job.result is not None else None,
        "attempt": job.attempt,
        "retry_of": job.retry_of,
        "superseded_by": job.superseded_by,
        "priority": job.priority,
        "after": job.waits,
        "not_before_at": _at(job.not_before_ns or None) if job.state is JobState.PENDING else None,
        "cancelling": job.cancel and job.state is JobState.RUNNING,
        "stage": job.stage,
        "stages_done": [str(stage["stage"]) for stage in job.stages],
        "artifacts": [key for stage in job.stages for key in cast("list[str]", stage["artifacts"])],
        "failure": job.failure,
    }  # fmt: skip


def _at(ns: int | None) -> str | None:
    return format_time(ns) if ns is not None else None
