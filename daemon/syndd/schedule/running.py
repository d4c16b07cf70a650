"""One job that runs: what its handler may do with it, and how it is told to end."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeAlias, TypeVar

from synd.clock import Clock
from synd.errors import LeaseLost
from synd.jobs.model import Job
from synd.jobs.queue import Queue

T = TypeVar("T")


class InWriter(Protocol):
    """Runs a store write off the loop, in order with the others."""

    def __call__(self, work: Callable[[], T], /) -> Awaitable[T]: ...


class Why(StrEnum):
    """Why a handler is told to end before its work is done."""

    CANCELLED = "cancelled"
    """Somebody asked."""
    SHUTDOWN = "shutdown"
    """The daemon stops; the next start goes on."""
    TIMEOUT = "timeout"
    STALLED = "stalled"
    """No sign of life for too long."""
    REPLACED = "replaced"
    """Another attempt has its place: nothing of this one counts any more."""


class Run:
    """A running job, for its handler. On the loop."""

    def __init__(
        self, job: Job, owner: str, queue: Queue, write: InWriter, clock: Clock,
        on_dirty: Callable[[], None],
    ) -> None:  # fmt: skip
        self.job = job
        self.owner = owner
        self.why: Why | None = None
        self.task: asyncio.Task[None] | None = None
        self.begun = False
        """Cancelled before its first step a task would run nothing at all, its end neither."""
        self.over = False
        """Its end is being recorded: nothing else is written any more."""
        self._queue = queue
        self._write = write
        self._clock = clock
        self._on_dirty = on_dirty
        self._seen_s = clock.monotonic()
        self._progress: tuple[int, int | None, str, str] | None = None

    # For the handler.

    def alive(self) -> None:
        """A sign of life, without any progress to tell."""
        self._seen_s = self._clock.monotonic()

    def progress(self, done: int, total: int | None, note: str = "", *, stage: str = "") -> None:
        """Notes how far it is; written a few times a second, so it may be called for every byte."""
        self.alive()
        self._progress = (done, total, note, stage)
        self._on_dirty()

    async def stage_done(
        self,
        stage: str,
        artifacts: Sequence[str] = (),
        record: Callable[[sqlite3.Connection], None] | None = None,
    ) -> None:
        """Records a stage, with the rows that `record` writes in the same transaction.

        Raises LeaseLost when the job was replaced: what was made must be dropped.
        """
        self.alive()

        def write() -> bool:
            with self._queue.transaction() as tx:
                held = self._queue.stage_done(self.job.id, self.owner, stage, artifacts, tx)
                if held and record is not None:
                    record(tx)
                return held

        if not await self._write(write):
            self.end(Why.REPLACED)
            raise LeaseLost(f"job {self.job.id} was replaced by another attempt")

    # For the dispatcher.

    @property
    def quiet_s(self) -> float:
        """Seconds since the last sign of life."""
        return self._clock.monotonic() - self._seen_s

    def end(self, why: Why) -> None:
        """Tells the handler to end. The first reason holds."""
        if self.why is None and not self.over:
            self.why = why
            if self.begun and self.task is not None:
                self.task.cancel()

    def take_progress(self) -> Callable[[], bool] | None:
        """What writes the progress that was noted since the last call; None: there is nothing new."""
        told, self._progress = self._progress, None
        if told is None or self.over:
            return None
        done, total, note, stage = told
        return lambda: self._queue.progress(self.job.id, self.owner, done, total, note, stage=stage)


Handler: TypeAlias = Callable[[Job, Run], Awaitable[Mapping[str, object] | None]]
"""Does the work of one kind, and returns the result. Cancelled, it stops all that it started and then ends."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How jobs of one kind are run."""

    handler: Handler
    limit: int = 1
    """At once."""
    timeout_s: float | None = None
    """Longest time of one attempt."""
    stall_s: float | None = None
    """Longest time without a sign of life."""
    retries: bool = True
    """Whether a failure has a successor by itself, if its class says so."""
    drained: bool = True
    """Whether a drain waits for it. Otherwise it is cut short at once, as it loses nothing."""
    most: int | None = None
    """So many may wait; beyond, a claim is refused."""
    ready: Callable[[], bool] = lambda: True
    """Whether one could be begun now; asked again soon."""
