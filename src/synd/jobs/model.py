"""Job, its states, and the one table of what may follow what."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType

from synd.errors import InvalidTransition
from synd.ids import JobId


class JobState(StrEnum):
    """Where a job is in its life. The values are what the database and JSON hold."""

    PENDING = "pending"
    """Waits for its turn."""
    RUNNING = "running"
    """Somebody works on it. After a restart such a job is pending again."""
    COMPLETED = "completed"
    FAILED = "failed"
    """`problem` says why."""
    CANCELLED = "cancelled"
    """Somebody asked for its end."""


ACTIVE = frozenset({JobState.PENDING, JobState.RUNNING})

TRANSITIONS: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        JobState.PENDING: frozenset({JobState.RUNNING, JobState.CANCELLED}),
        JobState.RUNNING: frozenset(
            {JobState.PENDING, JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED}
        ),
        JobState.COMPLETED: frozenset(),
        JobState.FAILED: frozenset({JobState.PENDING}),
        JobState.CANCELLED: frozenset({JobState.PENDING}),
    }
)


@dataclass(frozen=True, slots=True)
class Job:
    """One durable piece of work. Times are UTC ns since 1970."""

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


def check(job: Job, to: JobState) -> None:
    """Raises InvalidTransition when `to` may not follow the job's state."""
    if to not in TRANSITIONS[job.state]:
        raise InvalidTransition(f"job {job.id} cannot go from {job.state} to {to}")
