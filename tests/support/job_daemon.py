"""A daemon that only runs jobs: queue, dispatcher and pool over a stub worker, to be killed at a point.

``python -m tests.support.job_daemon FOLDER [POINT]``. The handler makes two stages, each a file that it links
into ``FOLDER/made`` and records; what is recorded is not made again. It ends when the queue is empty.
POINT: ``leased``, ``data.before``, ``data.after``, ``index.before``, ``index.after``, ``finish.before``,
``finish.after``: there it is killed with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from synd.jobs import owner
from synd.jobs.model import ACTIVE, Job
from synd.jobs.queue import Queue
from synd.store.connect import Store
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.pool import Pool
from syndd.schedule.running import Kind, Run
from tests.support import stub_worker

STUB = (sys.executable, "-P", "-B", stub_worker.__file__)
STAGES = ("data", "index")


class CrashingQueue(Queue):
    """Dies where it is told to."""

    point = ""

    def _pass(self, name: str) -> None:
        if name == self.point:
            os.kill(os.getpid(), signal.SIGKILL)

    def lease(self, kinds: Iterable[str], owner: str, lease_s: float) -> Job | None:
        found = super().lease(kinds, owner, lease_s)
        if found is not None:
            self._pass("leased")
        return found

    def stage_done(
        self, job: str, owner: str, stage: str, artifacts: Sequence[str] = (), tx: Any = None
    ) -> bool:
        self._pass(f"{stage}.before")
        return super().stage_done(job, owner, stage, artifacts, tx)

    def finish(self, *args: Any, **more: Any) -> Job | None:
        self._pass("finish.before")
        found = super().finish(*args, **more)
        self._pass("finish.after")
        return found


class Work:
    """The handler: asks what is there already, has a worker make the rest."""

    def __init__(self, root: Path, queue: CrashingQueue) -> None:
        self.made = root / "made"
        self.made.mkdir(exist_ok=True)
        self.queue = queue
        self.pool = Pool(root / "work", JobLogs(root / "jobs"), STUB, term_s=0.5, sample_s=0.1)
        self.pool.clear()
        self.gate = root / "gate"

    async def __call__(self, job: Job, run: Run) -> Mapping[str, object]:
        steps: list[list[object]] = []
        for stage in STAGES:
            if (self.made / f"{job.subject}.{stage}").exists():
                continue
            steps += [["write", stage, stage], ["say", "stage_done", {"stage": stage}]]
            if job.arguments.get("slow"):
                # Killed from outside here: after one stage, before the next.
                steps += [["tell", f"{self.gate}.{stage}"], ["wait", str(self.gate)]]

        async def on_stage(event: Mapping[str, Any]) -> None:
            stage = event["stage"]
            target = self.made / f"{job.subject}.{stage}"
            with (self.made / "tries").open("a") as tries:
                tries.write(f"{job.subject}.{stage}\n")
            if not target.exists():
                os.link(self.pool.folder(job.id) / stage, target)
            await run.stage_done(stage, [f"{job.subject}/{stage}"])
            self.queue._pass(f"{stage}.after")

        return await self.pool.run(job.id, {"steps": steps}, run, on_stage=on_stage)


async def live(root: Path, point: str) -> None:
    store = Store(root / "state.db")
    queue = CrashingQueue(store, me=owner.here(), uniform=lambda _low, _high: 0.0)
    queue.point = point
    writer = ThreadPoolExecutor(1)

    async def write(work: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(writer, work)

    dispatcher = Dispatcher(queue, write)
    dispatcher.register("preprocess", Kind(Work(root, queue), limit=2))
    task = asyncio.create_task(dispatcher.run())
    try:
        while queue.all(tuple(ACTIVE)) and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing tells of what others write
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.shutdown()
        store.close()


if __name__ == "__main__":
    asyncio.run(live(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
