"""Claims and leases by several processes over one file: SQLite is the mutex, not a lock in memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from synd.jobs.model import JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store
from tests.support.source import ROOT

KEYS = 25

CLAIM = """
import json, sys
from pathlib import Path
from synd.jobs.queue import Queue
from synd.store.connect import Store

queue = Queue(Store(Path(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
claims = [queue.claim("preprocess", "x", {}, workflow_key=f"k{n}") for n in range(int(sys.argv[2]))]
taken = []
while (job := queue.lease(["preprocess"], sys.argv[3], 60.0)) is not None:
    taken.append(job.id)
print(json.dumps({"fresh": [c.fresh for c in claims], "ids": [c.job.id for c in claims], "taken": taken}))
"""


@pytest.mark.req("S1-03", "S1-29", "S1-30")
@pytest.mark.parametrize("number", [2, 10])
def test_claims_by_many_processes_give_one_job_per_key_and_each_runs_once(
    tmp_path: Path, number: int
):
    """One is fresh, the others attach; a lease is one process's."""
    path = tmp_path / "state.db"
    store = Store(path)
    started = [
        subprocess.Popen(
            [sys.executable, "-B", "-c", CLAIM, str(path), str(KEYS), f"h:b:{n}:1"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )
        for n in range(number)
    ]  # fmt: skip
    try:
        for process in started:
            assert "ready\n" == process.stdout.readline()
        for process in started:
            process.stdin.write("\n")
            process.stdin.flush()
        told = [json.loads(process.communicate(timeout=60)[0]) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait(10)
    queue = Queue(store)
    jobs = queue.all()
    store.close()

    taken = [id for one in told for id in one["taken"]]
    assert [1] * KEYS == [sum(one["fresh"][n] for one in told) for n in range(KEYS)]
    assert [1] * KEYS == [len({one["ids"][n] for one in told}) for n in range(KEYS)]
    assert {job.id for job in jobs} == set(taken)
    assert KEYS == len(jobs) == len(taken)
    assert {JobState.RUNNING} == {job.state for job in jobs}
