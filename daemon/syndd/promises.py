"""Keeps what the mount's ``@ready`` promises: claims the job of a file, or attaches to it, and waits for its end.

Leaves what there is and how it is made to `schedule.preparing`, and the mount to `syndd.mount.ready`, which meets
this by `readystate.Making`. Given up, a wait leaves the job alone.
"""

from __future__ import annotations

from synd.errors import StageFailed
from synd.jobs.model import Job, JobState, Priority
from synd.model import FileVersion
from syndd.mount.readystate import failure_of
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.known import NothingToMake, Pair
from syndd.schedule.preparing import Preparer


class Promises:
    """`make` on the daemon's loop, the others on any thread."""

    def __init__(self, preparer: Preparer, dispatcher: Dispatcher) -> None:
        self._preparer = preparer
        self._dispatcher = dispatcher

    def look(self, file: FileVersion, name: str) -> Pair:
        """What of a file's artifacts can be read now."""
        return self._preparer.look(file, name)

    def refused(self, file: FileVersion, name: str) -> StageFailed | None:
        """Why a file's bytes cannot be processed, when that was found lately."""
        return self._preparer.refused(file, name)

    async def make(self, file: FileVersion, name: str) -> str:
        """Ends when data and index can be read; otherwise says why there is nothing to make.

        Raises what the job failed of (`failure_of`), and what `Preparer.want` raises.
        """
        wanted = await self._preparer.want(file, name, priority=Priority.READER)
        if isinstance(wanted, NothingToMake):
            return wanted.why
        if isinstance(wanted, Job):
            job = await self._dispatcher.ended(wanted.id)
            if job.state is not JobState.COMPLETED:
                raise failure_of(job)
        return ""
