"""Jobs on the workers of a Dask cluster: one attempt is one Dask task, and the queue stays the one truth.

The task runs `synd.processors.remote`, which starts the same worker program there. The source is fetched by
that machine, from a URL asked for when it is ready; what it makes comes back by way of the shared store, is
checked here, and is recorded by the same transaction as if it had been made here. Dask may run a task again
by itself when a worker dies: that is a failed attempt here, and the next one has another id and folder, so
nobody who comes late can touch anything. Leaves the connection to `cluster`.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import logging
import re
import secrets
import socket
import time
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, Final

from synd.config import Config
from synd.errors import ConfigError, LeaseLost, StageFailed
from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.log import fields
from synd.processors import remote
from synd.processors.sharing import Left, SharedStore
from syndd.schedule.cluster import POLL_S, TELL_S, Cluster
from syndd.schedule.executor import Address, OnStage
from syndd.schedule.joblogs import JobLogs, LogWriter
from syndd.schedule.pool import failure_told, remove, to_its_end
from syndd.schedule.running import Run, Why

log = logging.getLogger(__name__)


_ID: Final = re.compile(r"[0-9a-z]{1,64}")
_LOST: Final = (Failure.LEASE_LOST, Failure.NO_WORKER, Failure.WORKER_DIED)


class DaskPool:
    """Runs workers for jobs on a cluster. On the daemon's loop. Meets `executor.Executor`."""

    fetches: Final = True

    def __init__(
        self,
        work: Path,
        logs: JobLogs,
        scheduler: str,
        store: SharedStore,
        home: str,
        *,
        lease_s: float = 60.0,
        wait_s: float = 60.0,
        poll_s: float = POLL_S,
    ) -> None:
        """`home`: the folder in the store that is this daemon's alone. `lease_s`: after so long without a word,
        each side takes the other for lost. `wait_s`: a task must have begun within.
        """
        self.work = work
        self.logs = logs
        self._store = store
        self._home = home
        self._lease_s = lease_s
        self._wait_s = wait_s
        self._attempts: dict[str, _Attempt] = {}
        self.tasks: list[asyncio.Task[None]] = []
        self._swept = False
        self._ended: dict[str, float] = {}
        """Attempts that ended lately, by nonce, and when."""
        self._ending: set[asyncio.Task[Any]] = set()
        # Of this life alone: what earlier ones left running has nobody to hear it.
        self.cluster = Cluster(
            scheduler, f"synd-{secrets.token_hex(8)}",
            on_event=self._hear, on_change=self._changed, poll_s=poll_s,
            tell_s=min(TELL_S, lease_s / 4),
        )  # fmt: skip

    def start(self) -> None:
        """Begins to look for the scheduler; the daemon does not wait for it."""
        self.tasks = [
            asyncio.create_task(self._sweep(), name="dask-sweep"),
            asyncio.create_task(self.cluster.run(), name="dask"),
            asyncio.create_task(self._beats(), name="dask-beat"),
        ]

    async def close(self) -> None:
        """After the last job has ended."""
        await asyncio.gather(*self._ending, return_exceptions=True)
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def folder(self, job: str) -> Path:
        return self.work / job

    def clear(self) -> None:
        """At the start, when nothing runs: removes what an earlier life left on this machine."""
        self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.work.iterdir():
            remove(left)

    async def _sweep(self) -> None:
        """Removes what an earlier life left in the store; the daemon's start does not wait for that."""
        try:
            await asyncio.to_thread(self._store.remove, self._home)
        except StageFailed as error:
            log.warning("dask.store_away", extra=fields(why=error.message))
        self._swept = True

    @property
    def away(self) -> str:
        if self.cluster.connected:
            return ""
        why = f": {self.cluster.away}" if self.cluster.away else ""
        return f"the Dask scheduler at {self.cluster.address} is not reached{why}"

    def ready(self, running: int) -> bool:
        """Whether a worker is free. Where none is at all, one job may ask for it, so that clusters that grow
        by need do.
        """
        if not self._swept:
            return False
        return self.cluster.connected and running < max(1, sum(self.cluster.workers.values()))

    def where(self, job: str) -> tuple[str, int] | None:
        """Address and process of the Dask worker that a job runs on, once one has begun it."""
        found = self._attempts.get(job)
        return None if found is None or not found.worker else (found.worker, found.pid)

    async def run(
        self,
        job: JobId,
        document: Mapping[str, object],
        run: Run,
        *,
        on_stage: OnStage | None = None,
        memory_bytes: int | None = None,
        address: Address | None = None,
    ) -> Mapping[str, Any]:
        """The `done` event of a worker on the cluster. Raises StageFailed, and what `on_stage` and `address`
        raise. Cancelled, the worker is told to end; it does so within a lease at the latest.
        """
        assert address is not None  # sources are not on this machine
        folder = self.folder(job)
        home = f"{self._home}/{job}"
        with self.logs.open(job) as said:
            attempt = _Attempt(job, run, said)
            self._attempts[job] = attempt
            try:
                await asyncio.to_thread(_make, folder)
                begin = {
                    "do": "begin",
                    "store": self._store.url,
                    "home": home,
                    "memory_bytes": memory_bytes,
                    "document": await asyncio.to_thread(self._travelling, document, home),
                }
                last = await self._attend(attempt, begin, on_stage, address)
                said.note("done")
            except asyncio.CancelledError:
                said.note(f"ended: {run.why or 'the daemon stopped'}")
                raise
            except Exception as error:
                said.note(f"failed: {error}")
                attempt.lost = isinstance(error, StageFailed) and error.failure in _LOST
                raise
            else:
                return last
            finally:
                del self._attempts[job]
                attempt.lost |= run.why is Why.REPLACED
                if not attempt.lost:
                    self._forget(attempt.nonce)
                await to_its_end(self._end(attempt, home, folder))

    def _travelling(self, document: Mapping[str, object], home: str) -> dict[str, object]:
        """The order as it goes to another machine: stored artifacts by what lies in the store."""
        found = dict(document)
        stored: dict[str, Any] = {}
        for kind, one in (found.get("stored") or {}).items():  # type: ignore[attr-defined]
            stored[kind] = {**one, "path": None}
            if one["path"]:
                left = self._store.put(Path(one["path"]), f"{home}/stored-{kind}")
                stored[kind]["left"] = left.document()
        return {**found, "stored": stored, "source_path": None}

    async def _attend(
        self,
        attempt: _Attempt,
        begin: Mapping[str, object],
        on_stage: OnStage | None,
        address: Address,
    ) -> Mapping[str, Any]:
        task = {
            "protocol": remote.PROTOCOL,
            "versions": remote.versions(),
            "job": attempt.job,
            "topic": self.cluster.topic,
            "lease_s": self._lease_s,
        }
        life = self.cluster.life
        key = f"synd-{attempt.job}"
        result = asyncio.create_task(self.cluster.result(task, key), name=key)
        waited = asyncio.get_running_loop().time() + self._wait_s
        attempt.said.note(f"waits for a worker of {self.cluster.address}")
        attempt.run.progress(0, None, "waits for a Dask worker", stage="fetch")
        try:
            while not result.done():
                event = await attempt.next(result, self._lease_s / 4)
                if event is not None:
                    await self._take(attempt, event, begin, on_stage, address)
                self._check(attempt, life, waited)
            told = json.loads(result.result())
        finally:
            result.cancel()
            await asyncio.gather(result, return_exceptions=True)
        if attempt.nonce and told["nonce"] != attempt.nonce:
            raise _died(attempt)
        # Events may be lost, or not be here yet.
        for event in told["stages"]:
            await self._stage(attempt, event, on_stage)
        last: Mapping[str, Any] = told["last"]
        if last["event"] == "error":
            raise failure_told(last)
        return last

    async def _take(
        self,
        attempt: _Attempt,
        event: Mapping[str, Any],
        begin: Mapping[str, object],
        on_stage: OnStage | None,
        address: Address,
    ) -> None:
        match event["event"]:
            case "ready" if attempt.nonce:
                raise _died(attempt)
            case "ready":
                attempt.nonce, attempt.worker = event["nonce"], event["address"]
                attempt.pid, attempt.polls = event["pid"], self.cluster.polls
                attempt.said.note(
                    f"started on {event['host']} ({attempt.worker}), process {attempt.pid}"
                )
                attempt.run.alive()
                # Asked for as late as this: it lives for seconds.
                url = await address()
                document = {**begin["document"], "url": url}  # type: ignore[dict-item]
                order = {**begin, "document": document}
                if not await self.cluster.tell(attempt.worker, attempt.nonce, order):
                    raise _died(attempt)
            case "progress":
                done, of = event.get("bytes"), event.get("of")
                attempt.run.progress(
                    done if isinstance(done, int) else 0,
                    of if isinstance(of, int) else None,
                    stage=str(event.get("stage", "")),
                )
            case "beat":
                if event.get("moved") != attempt.moved:
                    attempt.moved = event.get("moved")
                    attempt.run.alive()
            case "said":
                attempt.said.raw(str(event.get("text", "")).encode())
            case "stage_done":
                await self._stage(attempt, event, on_stage)

    async def _stage(
        self, attempt: _Attempt, event: Mapping[str, Any], on_stage: OnStage | None
    ) -> None:
        """Takes what a stage made out of the store, checked, and hands it on as if it had been made here."""
        stage = str(event["stage"])
        if stage in attempt.stages:
            return
        attempt.run.alive()
        await asyncio.to_thread(self._fetch, attempt.job, event)
        attempt.run.alive()
        if on_stage is not None:
            await on_stage(event)
        else:
            await attempt.run.stage_done(stage)
        attempt.stages.add(stage)
        attempt.said.note(f"{stage} done")

    def _fetch(self, job: str, event: Mapping[str, Any]) -> None:
        folder = self.folder(job)
        names = [name for name in (event.get("file"), *(event.get("extra") or {}).values()) if name]
        for name in names:
            try:
                left = Left.of(event["left"][name])
            except (KeyError, TypeError, ValueError) as error:
                raise StageFailed(
                    "a worker told of a file that it did not put into the shared store",
                    failure=Failure.VERIFY_FAILED,
                ) from error
            main = name == event.get("file")
            claimed = (event["digest"], event["size"])
            if (
                Path(name).name != name
                or left.key != f"{self._home}/{job}/{name}"
                or (main and claimed != (f"sha256:{left.sha256}", left.size))
            ):
                raise StageFailed(
                    "a worker told of one file, and put another into the shared store",
                    failure=Failure.VERIFY_FAILED,
                )
            self._store.take(left, folder / name)

    def _check(self, attempt: _Attempt, life: int, waited: float) -> None:
        """Raises StageFailed when nothing more can be hoped for."""
        if self.cluster.life != life or not self.cluster.connected:
            raise StageFailed(
                f"the Dask scheduler at {self.cluster.address} went away",
                failure=Failure.NO_WORKER,
            )
        if attempt.again:
            raise _died(attempt)
        if not attempt.nonce:
            if asyncio.get_running_loop().time() > waited:
                count = len(self.cluster.workers)
                raise StageFailed(
                    f"no Dask worker took it within {self._wait_s:g} s ({count} are there)",
                    failure=Failure.NO_WORKER,
                    hint="start workers, or raise `dask_wait` where they are started by need",
                )
            return
        # A worker that came just now may be missing in the answer that was under way.
        polls = self.cluster.polls - attempt.polls
        if attempt.worker not in self.cluster.workers and polls > 1:
            raise _died(attempt)
        if attempt.quiet_s > self._lease_s:
            raise StageFailed(
                f"its Dask worker {attempt.worker} was not heard for {self._lease_s:g} s",
                failure=Failure.LEASE_LOST,
            )

    async def _end(self, attempt: _Attempt, home: str, folder: Path) -> None:
        """Nothing of an attempt is left here, nor in the store once its worker has ended."""
        if attempt.nonce:
            await self.cluster.tell(attempt.worker, attempt.nonce, {"do": "end"})
        await asyncio.to_thread(remove, folder)
        with contextlib.suppress(StageFailed):
            await asyncio.to_thread(self._store.remove, home)

    # What the cluster tells, between two steps of the loop.

    def _hear(self, event: Mapping[str, Any]) -> None:
        attempt = self._attempts.get(str(event.get("job")))
        nonce = str(event.get("nonce"))
        if attempt is not None and attempt.nonce in ("", nonce):
            attempt.hear(event)
        elif attempt is not None and event.get("event") == "ready":
            # Dask begins it again by itself, as it lost the worker.
            attempt.again = True
            attempt.wake()
        elif nonce not in self._ended and event.get("event") in ("ready", "beat", "stage_done"):
            self._refuse(event, nonce)

    def _refuse(self, event: Mapping[str, Any], nonce: str) -> None:
        """A worker whose attempt is over: nothing that it tells counts, and it is told to end."""
        late = LeaseLost(f"job {event.get('job')} has another attempt, or none")
        log.warning(
            "job.late_report",
            extra=fields(job=event.get("job"), said=event.get("event"), why=late.message),
        )
        self._later(self._dismiss(event, nonce))

    async def _dismiss(self, event: Mapping[str, Any], nonce: str) -> None:
        for worker in [str(event["address"])] if "address" in event else list(self.cluster.workers):
            await self.cluster.tell(worker, nonce, {"do": "end"})
        job = str(event.get("job"))
        if _ID.fullmatch(job) and job not in self._attempts:
            # It may have written after its folder was removed.
            with contextlib.suppress(StageFailed):
                await asyncio.to_thread(self._store.remove, f"{self._home}/{job}")

    def _forget(self, nonce: str) -> None:
        """Of an attempt that ended as it should some words may still be under way: no news."""
        now = time.monotonic()
        self._ended = {n: s for n, s in self._ended.items() if now - s <= self._lease_s}
        self._ended[nonce] = now

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    def _changed(self) -> None:
        for attempt in self._attempts.values():
            attempt.wake()

    async def _beats(self) -> None:
        """Workers go on while they hear that they are wanted."""
        while True:
            await asyncio.sleep(self._lease_s / 4)
            await asyncio.gather(
                *(
                    self.cluster.tell(one.worker, one.nonce, {"do": "beat"})
                    for one in list(self._attempts.values())
                    if one.nonce
                )
            )


def executor(config: Config, work: Path, logs: JobLogs, state: Path) -> DaskPool:
    """The executor that the settings ask for. `state`: the daemon's own folder, which no other has.

    Raises ConfigError that names what is missing.
    """
    for name in ("dask_scheduler", "artifact_store"):
        if not getattr(config, name):
            raise ConfigError(
                f"engine = dask needs the setting {name}", hint="docs/configuration.md"
            )
    if importlib.util.find_spec("distributed") is None:
        raise ConfigError(
            "engine = dask needs Dask, which is not installed", hint="pip install 'synd[dask]'"
        )
    # The same after a restart, and another for every daemon that shares the store.
    name = hashlib.sha256(f"{socket.gethostname()}:{state}".encode()).hexdigest()[:16]
    return DaskPool(
        work, logs, config.dask_scheduler, SharedStore(config.artifact_store), name,
        lease_s=config.lease, wait_s=config.dask_wait,
    )  # fmt: skip


class _Attempt:
    """What is known of one attempt while it runs."""

    def __init__(self, job: JobId, run: Run, said: LogWriter) -> None:
        self.job = job
        self.run = run
        self.said = said
        self.nonce = ""
        """Of the task that has the order; empty: none has begun."""
        self.worker = ""
        self.pid = 0
        self.polls = 0
        """How often it had been looked who works there when it began."""
        self.lost = False
        """It may go on somewhere without us."""
        self.again = False
        """Another task says that it is this attempt."""
        self.stages: set[str] = set()
        self.moved: object = None
        self._events: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()
        self._heard_s = time.monotonic()

    @property
    def quiet_s(self) -> float:
        return time.monotonic() - self._heard_s

    def hear(self, event: Mapping[str, Any]) -> None:
        # At once: the task may be busy with what came before.
        self._heard_s = time.monotonic()
        self._events.put_nowait(event)

    def wake(self) -> None:
        self._events.put_nowait(None)

    async def next(self, until: asyncio.Task[Any], timeout_s: float) -> Mapping[str, Any] | None:
        """The next event; None after a while, when something else changed, or `until` is done."""
        coming = asyncio.ensure_future(self._events.get())
        try:
            await asyncio.wait(
                {coming, until}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            return coming.result() if coming.done() else None
        finally:
            coming.cancel()


def _died(attempt: _Attempt) -> StageFailed:
    return StageFailed(
        f"its Dask worker {attempt.worker} ended without a word", failure=Failure.WORKER_DIED
    )


def _make(folder: Path) -> None:
    remove(folder)
    folder.mkdir(parents=True, mode=0o700)
