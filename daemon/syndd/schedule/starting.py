"""Starts worker processes, and has one wait for the next job.

A worker needs a tenth of a second until it can begin, most of it for its modules: as long as a small index
takes. So after a job one is started ahead, waits for a while for its document, and ends when none comes. It
has no folder before: the document names it, and the worker settles there (`processors.limits`).
Leaves what a worker is told, and how it is watched and ended, to `pool`. On the loop of the daemon's main
thread: workers end with that thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from synd.errors import StageFailed
from synd.log import fields
from synd.processors import limits
from syndd.schedule import launch

log = logging.getLogger(__name__)

START_AGAIN_S: Final = (0.1, 0.5, 2.0)
"""A machine that is short of processes is asked again."""
SPARE: Final = "spare"
"""In the place of a job's name."""
QUIET_S: Final = 0.25
"""A job that waited in the queue begins before that, and would share the processor with a spare's start."""
REAP_S: Final = 0.01


class Starter:
    """Worker processes, each in its folder."""

    def __init__(self, work: Path, program: Sequence[str], *, spare_s: float) -> None:
        """`spare_s`: how long one waits for a next job; 0: none does."""
        self._work = work
        self._program = tuple(program)
        self._spare_s = spare_s
        self._spare: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._wanted = asyncio.Event()
        self._launching = asyncio.Lock()
        """Held while a spare is being started, which a job had better wait for than start another."""

    async def start(self, folder: Path) -> asyncio.subprocess.Process:
        """A worker that waits for its document; `folder`, which is there, is where it works. Raises StageFailed."""
        self._wanted.set()
        async with self._launching:
            spare, self._spare = self._spare, None
        if spare is not None:
            if _lives(spare):
                return spare
            await _end(spare)
        return await self._launch(folder, folder)

    def keep_spare(self) -> None:
        """Has one wait from now on, unless one does."""
        # One whose spare is wanted is at its end.
        if self._spare_s > 0 and (
            self._keeping is None or self._keeping.done() or self._wanted.is_set()
        ):
            self._wanted = asyncio.Event()
            self._keeping = asyncio.create_task(self._keep(self._wanted), name="spare worker")

    async def close(self) -> None:
        """No process waits when this returns."""
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.gather(self._keeping, return_exceptions=True)
        spare, self._spare = self._spare, None
        if spare is not None:
            await _end(spare)

    async def _keep(self, wanted: asyncio.Event) -> None:
        """Until one is `wanted`."""
        if await _within(QUIET_S, wanted):
            return
        try:
            async with self._launching:
                if self._spare is None:
                    self._spare = await self._launch(self._work / SPARE, self._work)
                spare = self._spare
        except (OSError, StageFailed) as error:
            # The next job starts its own, or says why it cannot.
            log.info("job.no_spare", extra=fields(error=error))
            return
        # When it is wanted, `start` takes it: at once, or as soon as it gets the lock.
        if not await _within(self._spare_s, wanted) and self._spare is spare:
            self._spare = None
            await _end(spare)

    async def _launch(self, folder: Path, at: Path) -> asyncio.subprocess.Process:
        environ = limits.environment(os.environ, folder)
        launcher = (sys.executable, "-I", "-S", launch.__file__, str(os.getpid()))
        for pause_s in (*START_AGAIN_S, None):
            try:
                return await asyncio.create_subprocess_exec(
                    *launcher, *self._program,
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=asyncio.subprocess.PIPE,
                    start_new_session=True, cwd=at, env=environ,
                )  # fmt: skip
            except BlockingIOError as error:
                if pause_s is None:
                    raise StageFailed(
                        f"no process could be started: {error.strerror}", failure="WORKER_DIED"
                    ) from error
                await asyncio.sleep(pause_s)
        raise AssertionError  # the last turn returns or raises


def _lives(process: asyncio.subprocess.Process) -> bool:
    """Whether it has not ended, though the loop may not have heard of it yet."""
    if process.returncode is not None:
        return False
    try:
        return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it came about so soon."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


async def _end(spare: asyncio.subprocess.Process) -> None:
    """It has begun nothing that would have to be ended well."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(spare.pid, signal.SIGKILL)
    await ended(spare)


async def ended(process: asyncio.subprocess.Process) -> int:
    """The exit status of a process, when it has ended, whoever may still hold its pipes.

    Its own `wait` waits for the pipes too, in some versions of Python.
    """
    loop = asyncio.get_running_loop()
    with contextlib.suppress(OSError, AttributeError), contextlib.ExitStack() as stack:
        fd = os.pidfd_open(process.pid)
        stack.callback(os.close, fd)
        over = asyncio.Event()
        loop.add_reader(fd, over.set)
        stack.callback(loop.remove_reader, fd)
        if process.returncode is None:
            await over.wait()
    # Without such a descriptor all of the wait; else the moment until it is reaped.
    while process.returncode is None:  # noqa: ASYNC110 - nothing else tells
        await asyncio.sleep(REAP_S)
    return process.returncode
