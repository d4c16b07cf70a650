"""A daemon that prepares one file whose bytes lie in its cache, by the real worker; to be killed at a point.

``python -m tests.support.prepare_daemon FOLDER NAME [WHO POINT]``. WHO: ``worker`` and ``daemon`` die where the
worker passes POINT (`crashing_worker`); ``queue``: the daemon dies at a POINT of `job_daemon.CrashingQueue`. It
ends when the queue is empty, and writes what can be read of the file then to ``FOLDER/pair.json``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

from synd.cache.folder import Cache
from synd.digest import md5_of_bytes
from synd.ids import EntityId, FileHandleId, Version
from synd.jobs import owner
from synd.jobs.model import ACTIVE
from synd.mirror.streams import Streams
from synd.model import FileVersion
from synd.processors.base import Caps
from synd.store.connect import Store
from syndd.schedule.dispatch import Dispatcher, Times
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.known import Pair, Settings
from syndd.schedule.pool import Pool
from syndd.schedule.preparing import Preparer
from syndd.schedule.sources import Sources
from tests.support import crashing_worker
from tests.support.job_daemon import CrashingQueue

WORKER = (sys.executable, "-P", "-B", crashing_worker.__file__)
LEASE_S = 2.0


def source(data: bytes, name: str) -> FileVersion:
    """The file, as the service would tell of it."""
    return FileVersion(
        EntityId(1), Version(1), FileHandleId(1), md5_of_bytes(data), len(data), name
    )


async def live(root: Path, name: str, point: str) -> None:
    data = (root / name).read_bytes()
    file = source(data, name)
    store, cache = Store(root / "state.db"), Cache(root / "cache")
    cache.start()
    if not cache.has(file.key):
        cache.objects.put_bytes(file.key, data)
    queue = CrashingQueue(store, me=owner.here(), uniform=lambda _low, _high: 0.0)
    queue.point = point
    writer = ThreadPoolExecutor(1)

    async def write(work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(writer, work)

    pool = Pool(root / "cache/work", JobLogs(root / "jobs"), WORKER, term_s=0.5, sample_s=0.1)
    pool.clear()
    dispatcher = Dispatcher(queue, write, times=Times(LEASE_S))
    # Nothing is fetched: the bytes are here.
    sources = Sources(cast("Streams", None), cache)
    preparer = Preparer(store, cache, sources, dispatcher, pool, write, Settings(Caps()))
    task = asyncio.create_task(dispatcher.run())
    try:
        if not queue.all():
            await preparer.want(file, name)
        while queue.all(tuple(ACTIVE)) and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # nothing tells of what others write
        (root / "pair.json").write_text(json.dumps(_told(preparer.look(file, name))))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.shutdown()
        cache.stop()
        store.close()


def _told(pair: Pair) -> list[str | None]:
    return [one.digest if one else None for one in (pair.data, pair.index)]


if __name__ == "__main__":
    folder, subject, *kill = sys.argv[1:]
    who, at = kill or ("", "")
    os.environ |= {"KILL_WHO": who, "KILL_AT": at, "KILL_ONCE": f"{folder}/killed"}
    asyncio.run(live(Path(folder), subject, at if who == "queue" else ""))
