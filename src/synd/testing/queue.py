"""The queue of jobs in a dictionary: for tests of what stands on it, and the model of the real one.

It meets the same contract tests as `synd.jobs.queue.Queue` (tests/contract/test_queue.py), the unique index
over active jobs too. One thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from synd.clock import NS, Clock
from synd.errors import Busy, NotFound, QueueFull
from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.jobs.model import ACTIVE, Claim, Job, JobState, Priority, check
from synd.jobs.retries import arguments_after, goes_on, wait_s
from synd.testing.clock import FakeClock

log = logging.getLogger(__name__)


class NotUniqueError(Exception):
    """A second active job of one key was about to be stored: what the database refuses."""


class FakeQueue:
    """Jobs in memory."""

    def __init__(
        self,
        clock: Clock | None = None,
        *,
        me: str = "",
        attempts: int = 3,
        uniform: Callable[[float, float], float] = lambda low, high: (low + high) / 2,
    ) -> None:
        self._clock = clock or FakeClock()
        self._me = me
        self._attempts = attempts
        self._listeners: list[Callable[[Job], None]] = []
        self._paused: frozenset[str] = frozenset()
        self._uniform = uniform
        self._count = 0
        self.jobs: dict[str, Job] = {}
        self.after: dict[str, set[str]] = {}
        """job → what it comes after, completed ones taken out."""

    def store(self, job: Job) -> Job:
        """Puts a row, as the database would: one active job per key. Raises NotUniqueError."""
        if job.workflow_key is not None and job.state in ACTIVE:
            other = self.active(job.workflow_key)
            if other is not None and other.id != job.id:
                raise NotUniqueError(job.workflow_key)
        self.jobs[job.id] = job
        for tell in self._listeners:
            tell(job)
        return job

    def listen(self, tell: Callable[[Job], None]) -> None:
        self._listeners.append(tell)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        yield

    def paused(self) -> frozenset[str]:
        return self._paused

    def pause(self, kinds: Collection[str], *, paused: bool = True) -> frozenset[str]:
        self._paused = self._paused | set(kinds) if paused else self._paused - set(kinds)
        return self._paused

    def _set(self, job: str, **changes: object) -> Job:
        now = self._clock.now_ns()
        return self.store(replace(self.jobs[job], **{"updated_ns": now, **changes}))  # type: ignore[arg-type]

    # Asking.

    def get(self, job: str) -> Job:
        found = [j for id, j in self.jobs.items() if job and id.startswith(job)]
        if job not in self.jobs and len(found) != 1:
            raise NotFound(f"there is no job {job!r}")
        return self.jobs.get(job) or found[0]

    def newest(self, job: str) -> Job:
        found = self.get(job)
        return found if found.superseded_by is None else self.newest(found.superseded_by)

    def active(self, workflow_key: str) -> Job | None:
        return next(
            (j for j in self.jobs.values() if j.workflow_key == workflow_key and j.state in ACTIVE),
            None,
        )

    def all(
        self,
        states: Collection[JobState] = tuple(JobState),
        *,
        kinds: Collection[str] | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        found = [
            j
            for j in self.jobs.values()
            if j.state in states and (kinds is None or j.kind in kinds)
        ]
        return sorted(found, key=lambda j: (j.created_ns, j.id), reverse=True)[:limit]

    def needs(self, job: str) -> list[JobId]:
        return sorted(JobId(one) for one in self.after.get(job, ()))

    def count(self) -> dict[str, int]:
        return {str(s): sum(j.state is s for j in self.jobs.values()) for s in JobState}

    def counts(self) -> dict[str, dict[str, int]]:
        kinds = sorted({j.kind for j in self.jobs.values()})
        return {
            kind: {
                str(s): sum(j.state is s and j.kind == kind for j in self.jobs.values())
                for s in JobState
            }
            for kind in kinds
        }

    def next_due_ns(self, kinds: Iterable[str]) -> int | None:
        wanted = set(kinds)
        return min(
            (j.not_before_ns for j in self.jobs.values() if self._waits_for_time(j, wanted)),
            default=None,
        )

    @staticmethod
    def _waits_for_time(job: Job, kinds: Collection[str]) -> bool:
        return job.state is JobState.PENDING and not job.waits and job.kind in kinds

    def cancelling(self, owner: str) -> list[JobId]:
        return [
            j.id
            for j in self.jobs.values()
            if j.state is JobState.RUNNING and j.owner == owner and j.cancel
        ]

    # Claiming.

    def claim(
        self,
        kind: str,
        subject: str,
        arguments: Mapping[str, object],
        *,
        workflow_key: str | None = None,
        priority: int = Priority.ASKED,
        after: Collection[str] = (),
        unit: str = "bytes",
        most: int | None = None,
    ) -> Claim:
        there = None if workflow_key is None else self.active(workflow_key)
        now = self._clock.now_ns()
        if there is not None:
            lost = there.state is JobState.RUNNING and there.lease_until_ns <= now
            if not lost or (self._me and there.owner == self._me):
                return Claim(self._urge(there, priority), fresh=False)
            self._lose(there, JobState.FAILED, Failure.LEASE_LOST)
            made = self._succeed(self.jobs[there.id], there.attempt + 1, 0)
            return Claim(self._urge(made, priority), fresh=True)
        if (
            most is not None
            and sum(self._waits_for_time(j, {kind}) for j in self.jobs.values()) >= most
        ):
            raise QueueFull(f"already {most} {kind} jobs wait")
        for one in after:
            if one not in self.jobs:
                raise NotFound(f"there is no job {one!r} to come after")
        made = self._insert(kind, subject, arguments, workflow_key, priority, unit)
        return Claim(self._order(made, after), fresh=True)

    def add(self, kind: str, subject: str, arguments: Mapping[str, object], unit: str) -> Job:
        return self.claim(kind, subject, arguments, unit=unit).job

    def _insert(
        self,
        kind: str,
        subject: str,
        arguments: Mapping[str, object],
        key: str | None,
        priority: int,
        unit: str,
        **more: object,
    ) -> Job:
        self._count += 1
        now = self._clock.now_ns()
        created_ns = max([now, *(j.created_ns + 1 for j in self.jobs.values())])
        job = Job(
            JobId(f"{self._count:012x}"), kind, subject, dict(arguments), JobState.PENDING, created_ns,
            unit=unit, workflow_key=key, priority=int(priority), updated_ns=now, **more,  # type: ignore[arg-type]
        )  # fmt: skip
        return self.store(job)

    def _urge(self, job: Job, priority: int) -> Job:
        return self._set(job.id, priority=int(priority)) if priority < job.priority else job

    def _order(self, job: Job, after: Collection[str]) -> Job:
        newest = {self.newest(one).id for one in after}
        wanted = {one for one in newest if self.jobs[one].state is not JobState.COMPLETED}
        self.after[job.id] = set(wanted)
        broken = [self.jobs[one] for one in wanted if self.jobs[one].state not in ACTIVE]
        if broken:
            return self._fail_unrun(job, broken[0])
        return self._set(job.id, waits=len(wanted)) if wanted else job

    # Running.

    def lease(self, kinds: Iterable[str], owner: str, lease_s: float) -> Job | None:
        wanted, now = set(kinds), self._clock.now_ns()
        due = [
            j
            for j in self.jobs.values()
            if self._waits_for_time(j, wanted) and j.not_before_ns <= now
        ]
        if not due:
            return None
        first = min(due, key=lambda j: (j.priority, j.created_ns, j.id))
        return self.mark_running(first.id, owner, lease_s)

    def mark_running(self, job: str, owner: str, lease_s: float) -> Job:
        if job not in self.jobs:
            raise NotFound(f"there is no job {job!r}")
        check(self.jobs[job], JobState.RUNNING)
        if self.jobs[job].waits:
            raise Busy(f"job {job} waits for {self.jobs[job].waits} others")
        now = self._clock.now_ns()
        return self._set(
            job, state=JobState.RUNNING, owner=owner, started_ns=now,
            lease_until_ns=now + int(lease_s * NS),
        )  # fmt: skip

    def _held(self, job: str, owner: str) -> bool:
        found = self.jobs.get(job)
        held = found is not None and found.state is JobState.RUNNING and found.owner == owner
        if not held:
            log.warning("job.late", extra={"fields": {"job": job, "why": "it was replaced"}})
        return held

    def renew(self, job: str, owner: str, lease_s: float) -> bool:
        if not self._held(job, owner):
            return False
        self._set(job, lease_until_ns=self._clock.now_ns() + int(lease_s * NS))
        return True

    def progress(
        self,
        job: str,
        owner: str,
        done: int,
        total: int | None,
        note: str = "",
        *,
        stage: str = "",
    ) -> bool:
        if not self._held(job, owner):
            return False
        self._set(job, done=done, total=total, note=note, stage=stage)
        return True

    def stage_done(
        self, job: str, owner: str, stage: str, artifacts: Sequence[str] = (), tx: object = None
    ) -> bool:
        assert tx is None  # there is no database here
        if not self._held(job, owner):
            return False
        entry = {"stage": stage, "artifacts": list(artifacts)}
        self._set(job, stages=(*self.jobs[job].stages, entry))
        return True

    # Ending.

    def finish(
        self,
        job: str,
        owner: str,
        to: JobState,
        *,
        failure: Failure | None = None,
        problem: Mapping[str, object] | None = None,
        result: Mapping[str, object] | None = None,
        again: bool | None = None,
        least_wait_s: float = 0.0,
    ) -> Job | None:
        if to in ACTIVE:
            raise ValueError(f"a job cannot end as {to}")
        if not self._held(job, owner):
            return None
        if failure is None and to is not JobState.COMPLETED:
            failure = Failure.CANCELLED if to is JobState.CANCELLED else Failure.INTERNAL
        self._end(job, to, failure=failure, problem=problem, result=result)
        self._follow(job, again=again, least_wait_s=least_wait_s)
        return self.jobs[job]

    def _end(self, job: str, to: JobState, **more: object) -> Job:
        now = self._clock.now_ns()
        return self._set(job, state=to, finished_ns=now, note="", stage="", **more)

    def cancel(self, job: str) -> Job:
        found = self.newest(job)
        if found.state is JobState.PENDING:
            self._end(found.id, JobState.CANCELLED, failure=Failure.CANCELLED, waits=0)
            self._follow(found.id, again=False)
        elif found.state is JobState.RUNNING:
            self._set(found.id, cancel=True)
        return self.jobs[found.id]

    def retry(self, job: str) -> Job:
        found = self.newest(job)
        if found.state in ACTIVE or found.state is JobState.COMPLETED:
            raise Busy(f"job {found.id} is {found.state}")
        for one in self.needs(found.id):
            if self.jobs[one].state not in ACTIVE:
                raise Busy(f"job {found.id} comes after {one}, which is {self.jobs[one].state}")
        return self._succeed(found, found.attempt + 1, 0)

    def retryable(self, failures: Collection[Failure] | None = None) -> list[Job]:
        found = [
            j
            for j in self.jobs.values()
            if j.state is JobState.FAILED
            and j.superseded_by is None
            and (failures is None or j.failure in failures)
        ]
        return sorted(found, key=lambda j: (j.created_ns, j.id))

    def reclaim(self, alive: Callable[[str], bool], *, held: Collection[str] = ()) -> list[Job]:
        now = self._clock.now_ns()
        lost = [
            j
            for j in self.jobs.values()
            if j.state is JobState.RUNNING
            and j.id not in held
            and (j.lease_until_ns <= now or not alive(j.owner))
        ]
        for job in sorted(lost, key=lambda j: (j.updated_ns, j.id)):
            if job.cancel:
                self._lose(job, JobState.CANCELLED, Failure.CANCELLED)
            else:
                self._lose(job, JobState.FAILED, Failure.LEASE_LOST)
            self._follow(job.id, waits=False)
        return [self.jobs[j.id] for j in lost]

    def _lose(self, job: Job, to: JobState, failure: Failure) -> None:
        problem = {"type": "LeaseLost", "title": failure.meaning.text, "failure": failure.value}
        self._end(job.id, to, failure=failure, problem=problem)

    def _follow(
        self, job: str, *, again: bool | None = None, least_wait_s: float = 0.0, waits: bool = True
    ) -> None:
        ended = self.jobs[job]
        if ended.state is JobState.COMPLETED:
            for other, needed in self.after.items():
                if job in needed:
                    needed.discard(job)
                    if self.jobs[other].state is JobState.PENDING:
                        self._set(other, waits=self.jobs[other].waits - 1)
            return
        failure = ended.failure or Failure.INTERNAL
        if again and not ended.cancel:
            self._succeed(ended, ended.attempt, 0)
        elif (
            again is None
            and ended.state is JobState.FAILED
            and not ended.cancel
            and goes_on(failure, ended.attempt, self._attempts, self._earlier(ended))
        ):
            pause = max(least_wait_s, wait_s(ended.attempt, self._uniform)) if waits else 0.0
            at = self._clock.now_ns() + int(pause * NS) if pause else 0
            self._succeed(ended, ended.attempt + 1, at)
        else:
            for other, needed in self.after.items():
                if job in needed and self.jobs[other].state is JobState.PENDING:
                    self._fail_unrun(self.jobs[other], ended)

    def _earlier(self, job: Job) -> set[Failure]:
        found: set[Failure] = set()
        while job.retry_of is not None and job.retry_of in self.jobs:
            job = self.jobs[job.retry_of]
            found |= {job.failure} if job.failure is not None else set()
        return found

    def _succeed(self, ended: Job, attempt: int, not_before_ns: int) -> Job:
        there = None if ended.workflow_key is None else self.active(ended.workflow_key)
        if there is None:
            made = self._insert(
                ended.kind, ended.subject,
                arguments_after(ended.failure or Failure.INTERNAL, ended.arguments),
                ended.workflow_key, ended.priority, ended.unit,
                attempt=attempt, retry_of=ended.id, not_before_ns=not_before_ns,
            )  # fmt: skip
            made = self._order(made, self.needs(ended.id))
        else:
            made = there
        now = replace(self.jobs[ended.id], superseded_by=made.id)
        self.store(now)
        for needed in self.after.values():
            if ended.id in needed:
                needed.discard(ended.id)
                needed.add(made.id)
        return self.jobs[made.id]

    def _fail_unrun(self, job: Job, needed: Job) -> Job:
        problem = {
            "type": "StageFailed",
            "title": f"it comes after job {needed.id} ({needed.subject}), which is {needed.state}",
            "failure": Failure.AFTER_FAILED.value,
        }
        self._end(job.id, JobState.FAILED, failure=Failure.AFTER_FAILED, problem=problem, waits=0)
        self._follow(job.id)
        return self.jobs[job.id]

    # Retention.

    def prune(self, keep: int = 500, keep_s: float = 30 * 86400.0) -> list[JobId]:
        ended = sorted(
            (j for j in self.jobs.values() if j.finished_ns is not None),
            key=lambda j: (j.finished_ns or 0, j.id),
            reverse=True,
        )
        oldest = self._clock.now_ns() - int(keep_s * NS)
        gone = [j for n, j in enumerate(ended) if n >= keep or (j.finished_ns or 0) < oldest]
        for job in gone:
            del self.jobs[job.id]
            self.after.pop(job.id, None)
            for needed in self.after.values():
                needed.discard(job.id)
        return [j.id for j in gone]
