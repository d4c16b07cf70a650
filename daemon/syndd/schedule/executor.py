"""Where jobs of worker programs run: what the handler of preprocessing asks of it, and no more.

`pool.Pool` runs them as processes of this machine, `dask.DaskPool` on the workers of a Dask cluster. The
queue, its leases and its fences are the same for both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol, TypeAlias

from synd.ids import JobId
from syndd.schedule.running import Run

OnStage: TypeAlias = Callable[[Mapping[str, Any]], Awaitable[None]]
"""Takes a `stage_done` event, whose files lie in the work folder of this machine."""

Address: TypeAlias = Callable[[], Awaitable[str]]
"""Asks for a URL of the source, which lives for seconds only."""

MOST: Final = 1024
"""Jobs at once where a cluster decides how many."""


class Executor(Protocol):
    """Runs one worker program for one attempt at a job."""

    @property
    def fetches(self) -> bool:
        """It fetches sources itself, by `address`; else they must lie on this machine before."""

    @property
    def away(self) -> str:
        """Why nothing can be begun for now; empty when it can."""

    def folder(self, job: str) -> Path:
        """The work folder of a job on this machine."""

    def ready(self, running: int) -> bool:
        """Whether one more job could be begun beside so many. On the loop; asked often."""

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
        """The `done` event. Raises StageFailed, and what `on_stage` and `address` raise. Cancelled, it ends
        all that it started, wherever that runs.
        """

    async def close(self) -> None:
        """After the last job has ended: nothing is left running."""
