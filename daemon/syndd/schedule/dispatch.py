"""Takes jobs in their turn and hands them to the handlers of their kinds, on the daemon's loop.

Leases per kind up to its limit, renews while handlers live, ends what is cancelled, takes too long, stalls
or was replaced, and records every end. Leaves what a job does to its handler, and rows to `synd.jobs.queue`.
Invariant: whatever happens here, the row of a job ends, or its lease runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from synd.clock import SYSTEM, Clock
from synd.errors import ConfigError, Draining, NotFound, StoreError, SyndError
from synd.ids import JobId
from synd.jobs import owner as owners
from synd.jobs.failures import Failure, failure_of
from synd.jobs.model import ENDED, Claim, Job, JobState, Priority
from synd.jobs.queue import KEEP_FINISHED, Queue
from synd.log import fields
from syndd.schedule.running import InWriter, Kind, Run, Why

log = logging.getLogger(__name__)

T = TypeVar("T")

REPORT_S = 0.25
"""Progress is written so often at most."""
AGAIN_S = 5.0
"""After the store failed."""
READY_AGAIN_S = 1.0
"""A kind that is not ready is asked again so soon."""
CANCEL_S = 15.0
"""`cancel` waits so long for the end; it comes in any case."""
PRUNE_S = 600.0


@dataclass(frozen=True, slots=True)
class Times:
    """The dispatcher's clocks, seconds."""

    lease_s: float = 60.0
    beats: int = 4
    """Heartbeats within a lease."""

    @property
    def beat_s(self) -> float:
        return self.lease_s / self.beats

    def __post_init__(self) -> None:
        if not 0 < 2 * self.beat_s < self.lease_s:
            raise ConfigError("a lease must be longer than two heartbeats")


@dataclass(frozen=True, slots=True)
class _End:
    to: JobState
    failure: Failure | None = None
    problem: Mapping[str, object] | None = None
    result: Mapping[str, object] | None = None
    again: bool | None = None
    wait_s: float = 0.0


class Dispatcher:
    """The jobs that this process runs. All methods on its loop."""

    def __init__(
        self,
        queue: Queue,
        write: InWriter,
        *,
        owner: str | None = None,
        times: Times | None = None,
        clock: Clock = SYSTEM,
        on_pruned: Callable[[Collection[str]], None] | None = None,
    ) -> None:
        """`write` runs a store write off the loop. `on_pruned` is told whose rows are gone."""
        self._queue = queue
        self._write = write
        self._owner = owner or owners.here()
        self._times = times or Times()
        self._clock = clock
        self._on_pruned = on_pruned
        self._kinds: dict[str, Kind] = {}
        self._runs: dict[JobId, Run] = {}
        self._unwritten: list[Callable[[], object]] = []
        self._wake = asyncio.Event()
        self._dirty = asyncio.Event()
        self._draining = False
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pruned_s = float("-inf")
        queue.listen(self._changed)

    def register(self, name: str, kind: Kind) -> None:
        """Jobs of that name are run so."""
        self._kinds[name] = kind
        self._wake.set()

    # Asking.

    @property
    def running(self) -> Collection[JobId]:
        """What runs here now."""
        return self._runs.keys()

    def count(self, kind: str) -> int:
        """How many jobs of a kind run here now."""
        return sum(run.job.kind == kind for run in self._runs.values())

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def kinds(self) -> Collection[str]:
        return self._kinds.keys()

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
    ) -> Claim:
        """A new job, or the active one of that key. Raises Draining, and QueueFull."""
        if self._draining:
            raise Draining("the daemon is stopping", hint="ask again once it runs")
        made = self._queue.claim(
            kind, subject, arguments, workflow_key=workflow_key, priority=priority, after=after,
            unit=unit, most=self._kinds[kind].most if kind in self._kinds else None,
        )  # fmt: skip
        self._wake.set()
        return made

    async def cancel(self, job: str) -> Job:
        """Ends a job that waits or runs, and says how it ended. Raises NotFound."""
        found = await self._write(lambda: self._queue.cancel(job))
        run = self._runs.get(found.id)
        if run is None or run.task is None:
            return found
        run.end(Why.CANCELLED)
        await asyncio.wait({run.task}, timeout=CANCEL_S)
        return self._queue.get(found.id)

    async def cancel_all(self, kinds: Collection[str] = ()) -> list[Job]:
        """Ends all that waits and runs, of these kinds or of any, and says how. What is asked for meanwhile
        stays. Raises NotFound for a kind that is not there.
        """
        self.check(kinds)
        until_ns = self._clock.now_ns()
        ended: list[Job] = []
        # What waits first: it would begin in the place of what ends.
        while some := await self._write(
            lambda: self._queue.cancel_waiting(kinds, until_ns=until_ns)
        ):
            ended += some
        running = self._queue.all((JobState.RUNNING,), kinds=kinds or None)
        ended += await asyncio.gather(*(self.cancel(job.id) for job in running))
        return ended

    async def retry(self, job: str) -> Job:
        """A new attempt at what failed or was cancelled. Raises NotFound, Busy, Draining."""
        if self._draining:
            raise Draining("the daemon is stopping", hint="ask again once it runs")
        again = await self._write(lambda: self._queue.retry(job))
        self._wake.set()
        return again

    async def ended(self, job: str) -> Job:
        """The last attempt at a job, once it has ended. Raises NotFound."""
        while True:
            coming: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            found = self._queue.newest(job)
            self._waiting.setdefault(found.id, set()).add(coming)
            try:
                # Asked again now that nobody can end it unheard.
                if self._queue.get(found.id).state in ENDED:
                    found = self._queue.newest(job)
                    if found.state in ENDED:
                        return found
                    continue
                await coming
            finally:
                left = self._waiting.get(found.id, set())
                left.discard(coming)
                if not left:
                    self._waiting.pop(found.id, None)

    def paused(self) -> frozenset[str]:
        """Kinds of which nothing is begun."""
        return self._queue.paused()

    def check(self, kinds: Collection[str]) -> None:
        """Raises NotFound for a kind that is not there."""
        unknown = [kind for kind in kinds if kind not in self._kinds]
        if unknown:
            raise NotFound(
                f"there are no {unknown[0]!r} jobs", hint=f"kinds: {', '.join(sorted(self._kinds))}"
            )

    async def pause(self, kinds: Collection[str] = (), *, paused: bool = True) -> frozenset[str]:
        """Begins nothing more of these kinds (none: of all), or does again; what runs goes on. It holds
        over a restart. Returns all paused kinds. Raises NotFound for a kind that is not there.
        """
        self.check(kinds)
        meant = kinds or (self._kinds.keys() if paused else self._queue.paused())
        now = await self._write(lambda: self._queue.pause(meant, paused=paused))
        self._wake.set()
        return now

    # Running.

    async def run(self) -> None:
        """Takes jobs for ever. Cancelled, it ends what runs, which the next start takes up again."""
        self._loop = asyncio.get_running_loop()
        try:
            await self._boot()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._beats(), name="jobs-beat")
                group.create_task(self._flushes(), name="jobs-progress")
                while True:
                    self._wake.clear()
                    again_s = await self._fill()
                    # Not `wait_for`: before Python 3.12 it loses a cancellation that comes with the event.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(again_s):
                            await self._wake.wait()
        finally:
            await self._end_all(Why.SHUTDOWN)

    async def drain(self, timeout_s: float) -> int:
        """Takes nothing more, waits for what runs, then ends it; the next start goes on with that.

        Returns how many ran when it began.
        """
        self._draining = True
        self._wake.set()
        running = list(self._runs.values())
        for run in running:
            if not self._kinds[run.job.kind].drained:
                run.end(Why.SHUTDOWN)
        tasks = {run.task for run in running if run.task is not None}
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        await self._end_all(Why.SHUTDOWN)
        return len(running)

    async def _end_all(self, why: Why) -> None:
        for run in list(self._runs.values()):
            run.end(why)
        tasks = {run.task for run in self._runs.values() if run.task is not None}
        if tasks:
            await asyncio.wait(tasks)

    async def _boot(self) -> None:
        """What ran when its daemon died has successors."""

        def reclaim() -> list[Job]:
            # Nothing runs yet, so what is ours by name is of an earlier life.
            return self._queue.reclaim(lambda o: o != self._owner and not owners.is_gone(o))

        lost: list[Job] = await self._storing(reclaim, [])
        for job in lost:
            log.info("job.reclaimed", extra=fields(job=job.id, kind=job.kind, owner=job.owner))

    async def _storing(self, work: Callable[[], T], otherwise: T) -> T:
        """The result of a store write; when the store fails, that is logged and told as `otherwise`."""
        try:
            return await self._write(work)
        except StoreError as error:
            # A full disk, say: the mount goes on, and the jobs once there is room.
            log.error(  # noqa: TRY400 - expected: the reason is all there is to say
                "job.store_failed", extra=fields(why=error.message)
            )
            return otherwise

    async def _fill(self) -> float:
        """Begins what may be begun; seconds after which to look again."""
        while not self._draining:
            paused = self._queue.paused()
            open_kinds = [n for n, k in self._kinds.items() if n not in paused and self._free(n, k)]
            ready = [n for n in open_kinds if self._kinds[n].ready()]
            if ready:
                try:
                    job = await self._lease(ready)
                except StoreError as error:
                    log.error(  # noqa: TRY400 - expected: the reason is all there is to say
                        "job.not_claimed", extra=fields(why=error.message)
                    )
                    return AGAIN_S
                if job is not None:
                    self._start(job)
                    continue
            again_s = self._times.beat_s if len(ready) == len(open_kinds) else READY_AGAIN_S
            due_ns = self._queue.next_due_ns(ready) if ready else None
            if due_ns is None:
                return again_s
            return max(0.01, min(again_s, (due_ns - self._clock.now_ns()) / 1e9))
        return self._times.beat_s

    def _free(self, name: str, kind: Kind) -> bool:
        return self.count(name) < kind.limit

    async def _lease(self, kinds: list[str]) -> Job | None:
        lease = asyncio.ensure_future(
            self._write(lambda: self._queue.lease(kinds, self._owner, self._times.lease_s))
        )
        try:
            job = await asyncio.shield(lease)
            if job is not None and self._draining:
                await self._put_back(job)
                return None
            return job
        except asyncio.CancelledError:
            # The row may say that we run it: nobody would.
            await asyncio.wait({lease})
            if not lease.cancelled() and lease.exception() is None and (late := lease.result()):
                await self._put_back(late)
            raise

    async def _put_back(self, job: Job) -> None:
        """Of what was leased too late: the next start has it."""
        await self._record(job, _End(JobState.CANCELLED, Failure.CANCELLED, again=True))

    def _start(self, job: Job) -> None:
        run = Run(job, self._owner, self._queue, self._write, self._clock, self._dirty.set)
        self._runs[job.id] = run
        run.task = asyncio.create_task(self._one(run), name=f"job-{job.id}")
        if job.cancel:
            run.end(Why.CANCELLED)

    async def _one(self, run: Run) -> None:
        """One attempt, from its lease to its end in the table."""
        job, kind = run.job, self._kinds[run.job.kind]
        timer = None
        if kind.timeout_s is not None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(kind.timeout_s, run.end, Why.TIMEOUT)
        propagate = False
        try:
            run.begun = True
            if run.why is not None:
                raise asyncio.CancelledError
            end = _End(JobState.COMPLETED, result=await kind.handler(job, run))
        except asyncio.CancelledError:
            # Cancelled by somebody else than us: recorded as the daemon's end, and passed on.
            propagate = run.why is None
            end = self._cut_short(run.why or Why.SHUTDOWN, kind)
        except Exception as error:  # noqa: BLE001 - the job's edge
            # What a handler says when it was told to end is not why it ended.
            end = (
                self._failed(job, error, kind)
                if run.why is None
                else self._cut_short(run.why, kind)
            )
        finally:
            if timer is not None:
                timer.cancel()
        last, run.over = run.take_progress(), True
        try:
            if run.why is not Why.REPLACED:
                await self._record(job, end, last)
        finally:
            self._runs.pop(job.id, None)
            self._wake.set()
        if propagate:
            raise asyncio.CancelledError

    def _cut_short(self, why: Why, kind: Kind) -> _End:
        match why:
            case Why.SHUTDOWN:
                problem = {
                    "type": "Cancelled",
                    "title": "the daemon stopped; its next start goes on",
                }
                return _End(JobState.CANCELLED, Failure.CANCELLED, problem, again=True)
            case Why.CANCELLED | Why.REPLACED:
                problem = {"type": "Cancelled", "title": Failure.CANCELLED.meaning.text}
                return _End(JobState.CANCELLED, Failure.CANCELLED, problem, again=False)
            case Why.TIMEOUT:
                failure, title = Failure.TIMEOUT, f"it took longer than {kind.timeout_s:g} s"
            case Why.STALLED:
                failure, title = Failure.LEASE_LOST, f"no sign of life for {kind.stall_s:g} s"
        problem = {"type": "StageFailed", "title": title, "failure": failure.value}
        return _End(JobState.FAILED, failure, problem, again=None if kind.retries else False)

    @staticmethod
    def _failed(job: Job, error: Exception, kind: Kind) -> _End:
        failure = failure_of(error)
        if isinstance(error, SyndError):
            told = error
            log.info(
                "job.failed", extra=fields(job=job.id, kind=job.kind, failure=failure, why=error)
            )
        else:
            told = SyndError(f"{job.kind} failed: {error!r}")
            log.error("job.failed", exc_info=error, extra=fields(job=job.id, kind=job.kind))
        to = JobState.CANCELLED if failure is Failure.CANCELLED else JobState.FAILED
        wait_s = getattr(error, "retry_after_s", None)
        return _End(
            to, failure, {**told.problem(), "failure": failure.value},
            again=None if kind.retries else False,
            wait_s=float(wait_s) if isinstance(wait_s, int | float) else 0.0,
        )  # fmt: skip

    async def _record(self, job: Job, end: _End, last: Callable[[], object] | None = None) -> None:
        """Writes an end, after its `last` progress. When the store fails it is written later, or the lease
        runs out.
        """

        def write() -> Job | None:
            if last is not None:
                last()
            return self._queue.finish(
                job.id, self._owner, end.to, failure=end.failure, problem=end.problem,
                result=end.result, again=end.again, least_wait_s=end.wait_s,
            )  # fmt: skip

        recording = asyncio.ensure_future(self._write(write))
        while not recording.done():
            # Whoever is in a hurry must not leave a row behind that nobody runs.
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait({recording})
        error = recording.exception()
        if isinstance(error, StoreError):
            log.error("job.not_recorded", extra=fields(job=job.id, why=error.message))
            self._unwritten.append(write)
        elif error is not None:
            log.error("job.not_recorded", exc_info=error, extra=fields(job=job.id))

    # Heartbeat and progress.

    async def _beats(self) -> None:
        while True:
            await asyncio.sleep(self._times.beat_s)
            await self.beat()

    async def beat(self) -> None:
        """Renews leases, ends what has no right to go on, takes up what others left, drops old rows."""
        runs = list(self._runs.values())
        for run in runs:
            stall_s = self._kinds[run.job.kind].stall_s
            if stall_s is not None and run.quiet_s >= stall_s:
                run.end(Why.STALLED)
        held = [run for run in runs if not run.over and run.why is not Why.REPLACED]

        def write() -> tuple[list[bool], list[JobId], list[Job]]:
            # Our own leases first: after a sleep of the machine all of them look over.
            renewed = [
                self._queue.renew(run.job.id, self._owner, self._times.lease_s) for run in held
            ]
            cancelled = self._queue.cancelling(self._owner)
            lost = self._queue.reclaim(
                lambda o: o == self._owner or not owners.is_gone(o), held=[r.job.id for r in runs]
            )
            return renewed, cancelled, lost

        nothing: tuple[list[bool], list[JobId], list[Job]] = ([], [], [])
        renewed, cancelled, lost = await self._storing(write, nothing)
        for run, still in zip(held, renewed, strict=False):
            if not still and run.job.id in self._runs:
                run.end(Why.REPLACED)
        for job in cancelled:
            if (found := self._runs.get(job)) is not None:
                found.end(Why.CANCELLED)
        for one in lost:
            log.warning("job.lost", extra=fields(job=one.id, kind=one.kind, owner=one.owner))
        await self._write_late()
        if self._clock.monotonic() - self._pruned_s >= PRUNE_S:
            self._pruned_s = self._clock.monotonic()
            await self.prune()

    async def prune(self, keep: int = KEEP_FINISHED) -> None:
        """Forgets ended jobs beyond the newest `keep`, and old ones."""
        gone: list[JobId] = await self._storing(lambda: self._queue.prune(keep), [])
        if gone and self._on_pruned is not None:
            self._on_pruned(gone)

    async def _write_late(self) -> None:
        while self._unwritten:
            try:
                await self._write(self._unwritten[0])
            except StoreError:
                return
            self._unwritten.pop(0)
            self._wake.set()

    async def _flushes(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            for run in list(self._runs.values()):
                write = run.take_progress()
                if write is not None and not await self._storing(write, True):
                    run.end(Why.REPLACED)
            await asyncio.sleep(REPORT_S)

    # What changed, told by the queue on any thread.

    def _changed(self, job: Job) -> None:
        if self._loop is None or self._loop.is_closed():
            return
        if job.state is not JobState.RUNNING:
            with contextlib.suppress(RuntimeError):  # the loop ended just now
                self._loop.call_soon_threadsafe(self._settle, job)

    def _settle(self, job: Job) -> None:
        if job.state is JobState.PENDING:
            self._wake.set()
            return
        for coming in self._waiting.get(job.id, ()):
            if not coming.done():
                coming.set_result(None)
