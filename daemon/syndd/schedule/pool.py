"""Worker processes: one per job, started, fed, listened to, watched and ended.

Each has a session, a work folder and a log of its own. Whatever way a job goes out, its processes are gone
and its folder is removed before `run` returns or raises. Leaves when a job runs to the dispatcher, and what
is made of its stages to who calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

from synd.errors import StageFailed
from synd.ids import JobId
from synd.jobs.failures import parse
from synd.log import fields
from synd.processors import messages
from synd.processors.ending import failure_of_exit
from synd.processors.limits import MARK, MemoryGroup
from syndd.schedule import proctree
from syndd.schedule.executor import Address, OnStage
from syndd.schedule.joblogs import JobLogs, LogWriter
from syndd.schedule.running import Run
from syndd.schedule.starting import REAP_S, Starter, ended

log = logging.getLogger(__name__)

T = TypeVar("T")

WORKER: Final = (sys.executable, "-P", "-m", "synd.processors.worker")

TERM_S: Final = 5.0
"""Between SIGTERM and SIGKILL."""
SAMPLE_S: Final = 1.0
LAST_WORD_S: Final = 10.0
"""After its last word a worker has so long to end."""
READ_S: Final = 5.0
"""What its dead processes left in the pipes is read for so long at most."""
GONE_S: Final = 1.0
"""Helpers that were killed are waited for so long at most."""
LINE_MOST: Final = 1 << 20
TAIL_BYTES: Final = 8 << 10
SPARE_S: Final = 60.0
"""How long a daemon has a worker wait for a next job."""


class Pool:
    """Starts workers for jobs. On the loop of the daemon's main thread: they end with that thread.

    Meets `executor.Executor`.
    """

    fetches: Final = False

    def __init__(
        self,
        work: Path,
        logs: JobLogs,
        program: Sequence[str] = WORKER,
        *,
        term_s: float = TERM_S,
        sample_s: float = SAMPLE_S,
        spare_s: float = 0.0,
        group: Callable[[str, int], MemoryGroup | None] | None = None,
    ) -> None:
        """`work`: holds the work folders, on the file system of what is made. `group` makes control groups
        that bound memory; None: none are made. `spare_s`: how long a worker waits for a next job.
        """
        self.work = work
        self.logs = logs
        self._starter = Starter(work, program, spare_s=spare_s)
        self._running = 0
        self._term_s = term_s
        self._sample_s = sample_s
        self._group = group

    def folder(self, job: str) -> Path:
        """The work folder of a job."""
        return self.work / job

    def clear(self) -> None:
        """At the start, when nothing runs: ends processes and removes folders of an earlier life."""
        strays = proctree.end_marked(f"{MARK}={self.work}/".encode())
        if strays:
            log.info("job.strays", extra=fields(pids=strays))
        self.work.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in self.work.iterdir():
            remove(left)

    @property
    def away(self) -> str:
        """This machine is always here."""
        return ""

    def ready(self, running: int) -> bool:
        """This machine is always here; how many it runs is a limit of the kind."""
        del running
        return True

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
        """The `done` event of a worker that was given `document`. Raises StageFailed with the class of failure,
        and what `on_stage` raises. Cancelled, it ends all that it started.

        The document is given `job`, `work_dir` and `memory_group` besides. `memory_bytes`: what all of it may
        use, enforced where control groups can be made. `address` is for those who fetch sources themselves.
        """
        del address
        self._running += 1
        try:
            return await self._run(job, document, run, on_stage, memory_bytes)
        finally:
            self._running -= 1
            if not self._running:
                self._starter.keep_spare()

    async def close(self) -> None:
        """No worker waits when this returns; nothing may run any more."""
        await self._starter.close()

    async def _run(
        self,
        job: JobId,
        document: Mapping[str, object],
        run: Run,
        on_stage: OnStage | None,
        memory_bytes: int | None,
    ) -> Mapping[str, Any]:
        folder = self.folder(job)
        group = self._group(job, memory_bytes) if self._group and memory_bytes else None
        with self.logs.open(job) as said:
            try:
                await asyncio.to_thread(_make, folder)
                told = {
                    **document,
                    "job": job,
                    "work_dir": str(folder),
                    "memory_group": str(group.path) if group else None,
                }
                process = await self._starter.start(folder)
                said.note(f"started, process {process.pid}")
                worker = _Worker(process, run, said, on_stage)
                try:
                    return await worker.attend(
                        told, self._sample_s, group=group, cap_bytes=memory_bytes
                    )
                finally:
                    await to_its_end(worker.end(self._term_s))
            except asyncio.CancelledError:
                said.note(f"ended: {run.why or 'the daemon stopped'}")
                raise
            except Exception as error:
                said.note(f"failed: {error}")
                raise
            finally:
                await to_its_end(asyncio.to_thread(remove, folder))
                if group is not None:
                    group.remove()


class _Worker:
    """One process while it lives."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        run: Run,
        said: LogWriter,
        on_stage: OnStage | None,
    ) -> None:
        self._process = process
        self._run = run
        self._said = said
        self._on_stage = on_stage
        self._last: Mapping[str, Any] | None = None
        self._tail: deque[bytes] = deque()
        self._peak = 0

    async def attend(
        self,
        document: Mapping[str, object],
        sample_s: float,
        *,
        group: MemoryGroup | None,
        cap_bytes: int | None,
    ) -> Mapping[str, Any]:
        process = self._process
        feed = asyncio.create_task(self._feed(json.dumps(document).encode()))
        sample = asyncio.create_task(self._sample(sample_s))
        listen = asyncio.create_task(self._listen())
        hear = asyncio.create_task(self._hear())
        exited = asyncio.create_task(ended(process))
        lingered = False
        try:
            await asyncio.wait({exited, listen}, return_when=asyncio.FIRST_COMPLETED)
            if listen.done():
                listen.result()
                # Nobody can hear it any more; and after its last word it has nothing to do.
                await asyncio.wait({exited}, timeout=LAST_WORD_S)
                lingered = not exited.done()
            self._signal(signal.SIGKILL)
            status = await exited
            # Its helpers are gone too, so the pipes end.
            await asyncio.wait({listen, hear}, timeout=READ_S)
            if listen.done():
                listen.result()
        finally:
            for task in (feed, sample, listen, hear, exited):
                task.cancel()
            await asyncio.gather(feed, sample, listen, hear, exited, return_exceptions=True)
        return self._ending(
            status, lingered=lingered, oom_kills=group.oom_kills() if group else 0, cap=cap_bytes
        )

    def _ending(
        self, status: int, *, lingered: bool, oom_kills: int, cap: int | None
    ) -> Mapping[str, Any]:
        """The last word of a worker that ended well. Raises StageFailed."""
        last = self._last
        if last is not None and last["event"] == "error":
            raise failure_told(last)
        if last is not None and (status == 0 or lingered):
            self._said.note("done")
            return last
        failure = failure_of_exit(status, oom_kills=oom_kills, peak_bytes=self._peak, cap_bytes=cap)
        how = f"exit status {status}" if status >= 0 else _signal_name(-status)
        tail = b"".join(self._tail)[-TAIL_BYTES:].decode("utf-8", "replace").strip()
        what = messages.fit(tail.rpartition("\n")[2])
        raise StageFailed(
            f"{failure.meaning.text} ({how})" + (f": {what}" if what else ""), failure=failure
        )

    async def end(self, term_s: float) -> None:
        """No process of it is left when this returns."""
        if self._process.returncode is None:
            self._signal(signal.SIGTERM)
            exited = asyncio.ensure_future(ended(self._process))
            await asyncio.wait({exited}, timeout=term_s)
            self._signal(signal.SIGKILL)
            await exited
        # Helpers that it left behind: told to end, they need a moment.
        for _ in range(int(GONE_S / REAP_S)):
            if not self._signal(signal.SIGKILL) or not proctree.group_lives(self._process.pid):
                return
            await asyncio.sleep(REAP_S)

    def _signal(self, number: signal.Signals) -> bool:
        """Whether anybody is left to hear it."""
        # Of the session's first group: its number is the worker's, and stays taken while one is in it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
            return True
        return False

    async def _feed(self, data: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None  # a pipe
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.write(data)
            await stdin.drain()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            stdin.close()
            await stdin.wait_closed()

    async def _listen(self) -> None:
        """Hears events until the last one, or until nobody can say any more."""
        assert self._process.stdout is not None  # a pipe
        async for line in lines(self._process.stdout):
            event = _event(line)
            if event is None:
                self._said.raw(b"said: " + line + b"\n")
                continue
            match event["event"]:
                case "progress":
                    self._run.progress(
                        _number(event.get("bytes")) or 0,
                        _number(event.get("of")),
                        stage=str(event.get("stage", "")),
                    )
                case "stage_done":
                    self._run.alive()
                    stage = str(event.get("stage", ""))
                    self._said.note(f"{stage} done")
                    if self._on_stage is not None:
                        await self._on_stage(event)
                    else:
                        await self._run.stage_done(stage)
                case "done" | "error":
                    self._last = event
                    return
                case _:
                    self._run.alive()

    async def _hear(self) -> None:
        """Keeps what it says on standard error."""
        stderr = self._process.stderr
        assert stderr is not None  # a pipe
        kept = 0
        while data := await stderr.read(1 << 16):
            self._said.raw(data)
            self._tail.append(data)
            kept += len(data)
            while self._tail and kept - len(self._tail[0]) >= TAIL_BYTES:
                kept -= len(self._tail.popleft())

    async def _sample(self, every_s: float) -> None:
        """Notes the peak of its memory; bytes that move are a sign of life."""
        moved = -1
        while True:
            now = proctree.usage(self._process.pid)
            self._peak = max(self._peak, now.resident_bytes, now.peak_bytes)
            if now.moved_bytes != moved:
                moved = now.moved_bytes
                self._run.alive()
            await asyncio.sleep(every_s)


async def lines(stream: asyncio.StreamReader, most: int = LINE_MOST) -> AsyncIterator[bytes]:
    """Lines without their ends; of one that is longer than `most`, its beginning."""
    left = b""
    skipping = False
    while data := await stream.read(1 << 16):
        *whole, left = (left + data).split(b"\n")
        for line in whole:
            if not skipping:
                yield line[:most]
            skipping = False
        if len(left) > most:
            if not skipping:
                yield left[:most]
            left, skipping = b"", True
    if left and not skipping:
        yield left


def failure_told(last: Mapping[str, Any]) -> StageFailed:
    """The failure that a worker's `error` event tells of."""
    bad_line = last.get("bad_line")
    return StageFailed(
        messages.fit(str(last.get("message", ""))) or "the worker failed without saying why",
        failure=parse(str(last.get("failure"))),
        bad_line=bad_line if isinstance(bad_line, int) else None,
        hint=messages.fit(str(last.get("hint") or "")),
    )


def _event(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _make(folder: Path) -> None:
    remove(folder)
    folder.mkdir(parents=True, mode=0o700)


def remove(path: Path) -> None:
    """Takes a file or a folder with all in it away, whatever their modes. What stays is logged."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            # A program took the right to change folders away, from itself as from us.
            for folder, _, _ in os.walk(path):
                with contextlib.suppress(OSError):
                    os.chmod(folder, 0o700)
            shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
    if path.exists():
        log.warning("job.folder_left", extra=fields(folder=path.name))


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """The result of what must not be cut short; a cancellation meanwhile is passed on after it."""
    task = asyncio.ensure_future(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
    return task.result()
