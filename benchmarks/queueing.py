"""The queue of jobs with many of them in it: what a lease, a list and the waiting itself cost."""

from __future__ import annotations

import gc
import os
import time

from benchmarks.harness import MIB, Row, World, at_most, milliseconds, per_s, rss_bytes, timed
from synd.jobs.model import ACTIVE, JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store

JOBS = 10_000
LEASE_S = 0.005
LIST_S = 0.1
GROWTH_BYTES = 32 * MIB
OWNER = "bench:boot:1:1"


def queued(world: World) -> list[Row]:
    """10,000 jobs wait, each for a source of its own. A lease takes the one whose turn it is; an end records
    that it is done; a list is all of them as values, newest first. Memory: of the process that does it, from
    before the first job to after the last.
    """
    count = JOBS // 10 if world.quick else JOBS
    gc.collect()
    before = rss_bytes(os.getpid())
    store = Store(world.root / "queued" / "state.db")
    queue = Queue(store)
    try:
        began = time.perf_counter()
        for n in range(count):
            queue.claim(
                "preprocess", f"Project/reads-{n}.bam", {"entity": n, "caps": {"tool_threads": 1}},
                workflow_key=f"synapse/syn{n}/{n:032x}/v1", priority=n % 3,
            )  # fmt: skip
        claims = count / (time.perf_counter() - began)
        again = [
            timed(lambda n=n: queue.claim("preprocess", "x", {}, workflow_key=f"synapse/syn{n}/{n:032x}/v1"))
            for n in range(0, count, max(1, count // 300))
        ]  # fmt: skip
        lists = [timed(lambda: queue.all(tuple(ACTIVE))) for _ in range(world.times(9))]
        counts = [timed(queue.counts) for _ in range(world.times(9))]
        leases, ends, beats = [], [], []
        for _ in range(count // 4):
            start = time.perf_counter()
            job = queue.lease(["preprocess"], OWNER, 60.0)
            leases.append(time.perf_counter() - start)
            assert job is not None  # enough of them wait
            start = time.perf_counter()
            queue.renew(job.id, OWNER, 60.0)
            beats.append(time.perf_counter() - start)
            start = time.perf_counter()
            queue.finish(job.id, OWNER, JobState.COMPLETED, result={})
            ends.append(time.perf_counter() - start)
        gc.collect()
        growth = max(0, rss_bytes(os.getpid()) - before)
    finally:
        store.close()
    what = f"{count:,} jobs wait"
    return [
        at_most(f"lease, {what}", leases, LEASE_S, unit=milliseconds),
        at_most(f"attaching to one, {what}", again, LEASE_S, unit=milliseconds),
        at_most(f"heartbeat, {what}", beats, LEASE_S, unit=milliseconds),
        at_most(f"recording an end, {what}", ends, LEASE_S, unit=milliseconds),
        at_most(f"list of all, {what}", lists, LIST_S, unit=milliseconds),
        at_most(f"counts by kind and state, {what}", counts, LIST_S, unit=milliseconds),
        at_most(
            f"memory left behind by {count:,} jobs, a quarter of which ran", [growth], GROWTH_BYTES,
            unit=lambda value: f"{value / MIB:.0f} MiB",
        ),
        Row("claims", per_s("claims")(claims), "–", "–", "shown"),
    ]  # fmt: skip
