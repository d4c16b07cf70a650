"""Job, its states, and the one table of what may follow what.

A job is one attempt and never runs twice: its id is the fence. A retry is a new job that the old one
names as its successor. What a failure means for that is in `failures`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from types import MappingProxyType
from typing import Final

from synd.errors import InvalidTransition
from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.store import states


class JobState(StrEnum):
    """Where a job is in its life. The values are what the database and JSON hold."""

    PENDING = "pending"
    """Waits: for its turn, for its time, or for jobs that it comes after."""
    RUNNING = "running"
    """Somebody works on it, and holds a lease."""
    COMPLETED = "completed"
    FAILED = "failed"
    """`failure` and `problem` say why, `superseded_by` whether it is tried again."""
    CANCELLED = "cancelled"
    """Somebody asked for its end, or the daemon stopped: then it has a successor."""


ACTIVE: Final = frozenset(JobState(state) for state in states.ACTIVE)
"""A workflow key has one job in these states at most; the database has a unique index of it."""

ENDED: Final = frozenset(JobState) - ACTIVE

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        # Failed without having run: a job that it comes after did not complete.
        JobState.PENDING: frozenset({JobState.RUNNING, JobState.FAILED, JobState.CANCELLED}),
        JobState.RUNNING: frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}),
        JobState.COMPLETED: frozenset(),
        JobState.FAILED: frozenset(),
        JobState.CANCELLED: frozenset(),
    }
)


class Priority(IntEnum):
    """Who waits for a job. The smaller is the sooner."""

    READER = 0
    """A program that reads the file."""
    ASKED = 10
    """A person who asked for it."""
    AHEAD = 20
    """Nobody yet."""


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt at a durable piece of work. Times are UTC ns since 1970."""

    id: JobId
    kind: str
    subject: str
    """What it works on, for people."""
    arguments: Mapping[str, object]
    state: JobState
    created_ns: int
    started_ns: int | None = None
    finished_ns: int | None = None
    done: int = 0
    total: int | None = None
    unit: str = "bytes"
    """bytes, files or requests"""
    note: str = ""
    problem: Mapping[str, object] | None = None
    result: Mapping[str, object] | None = field(default=None)
    workflow_key: str | None = None
    """What it makes: one active job per key. None: shared with nobody."""
    priority: int = Priority.ASKED
    attempt: int = 1
    retry_of: JobId | None = None
    superseded_by: JobId | None = None
    waits: int = 0
    """Jobs that it comes after and that are not completed."""
    not_before_ns: int = 0
    updated_ns: int = 0
    owner: str = ""
    """Who runs or ran it: host:boot_id:pid:start_time."""
    lease_until_ns: int = 0
    cancel: bool = False
    """Its end was asked for; who runs it ends it."""
    stage: str = ""
    stages: tuple[Mapping[str, object], ...] = ()
    """Stages done, in order: ``{"stage": …, "artifacts": [keys]}``."""
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """The active job of a key."""

    job: Job
    fresh: bool
    """Whether this claim made it; otherwise somebody had asked before."""


def check(job: Job, to: JobState) -> None:
    """Raises InvalidTransition when `to` may not follow the job's state."""
    if to not in TRANSITIONS[job.state]:
        raise InvalidTransition(f"job {job.id} cannot go from {job.state} to {to}")
