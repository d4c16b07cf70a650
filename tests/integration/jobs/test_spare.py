"""The worker that waits for the next job: taken once, ended when it is not, and never missed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from syndd.schedule.joblogs import JobLogs
from syndd.schedule.pool import Pool
from tests.integration.jobs.test_pool import ID, PATIENCE_S, STUB, FakeRun, come, processes

pytestmark = pytest.mark.timeout(60)

LONG_S = 600.0


@asynccontextmanager
async def open_pool(tmp_path: Path, spare_s: float) -> AsyncIterator[Pool]:
    """A pool that keeps a spare; afterwards nothing of it is left."""
    pool = Pool(
        tmp_path / "work", JobLogs(tmp_path / "jobs"), STUB,
        term_s=0.5, sample_s=0.05, spare_s=spare_s,
    )  # fmt: skip
    pool.clear()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield pool
    finally:
        await pool.close()
    assert [] == processes(tmp_path)
    assert [] == list((tmp_path / "work").iterdir())


async def facts_of_job(pool: Pool, tmp_path: Path) -> dict[str, Any]:
    """Runs a stub; what it saw."""
    await pool.run(ID, {"steps": [["tell", str(tmp_path / "facts")]]}, FakeRun())
    found: dict[str, Any] = json.loads((tmp_path / "facts").read_text())
    return found


async def spare_of(tmp_path: Path) -> int:
    """Waits for a spare; its process."""
    found: list[int] = []

    def look() -> bool:
        found[:] = processes(tmp_path)
        return bool(found)

    await come(look)
    return found[0]


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(work())


def test_next_job_is_given_to_the_one_that_waits(tmp_path):
    """And then another one waits."""

    async def work() -> None:
        async with open_pool(tmp_path, LONG_S) as pool:
            first = (await facts_of_job(pool, tmp_path))["pid"]
            waiting = await spare_of(tmp_path)
            facts = await facts_of_job(pool, tmp_path)

            assert first != waiting == facts["pid"]
            assert str(pool.folder(ID)) == facts["document"]["work_dir"]
            assert waiting != await spare_of(tmp_path)

    run(work)


def test_none_waits_before_there_was_a_job(tmp_path):
    """Who never prepares anything pays for nothing."""

    async def work() -> None:
        async with open_pool(tmp_path, LONG_S):
            await asyncio.sleep(0)
            assert [] == processes(tmp_path)

    run(work)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_that_died_meanwhile_costs_no_job(tmp_path, number):
    """The job starts its own."""

    async def work() -> None:
        async with open_pool(tmp_path, LONG_S) as pool:
            await facts_of_job(pool, tmp_path)
            waiting = await spare_of(tmp_path)
            os.kill(waiting, number)
            await come(lambda: waiting not in processes(tmp_path))
            assert waiting != (await facts_of_job(pool, tmp_path))["pid"]

    run(work)


def test_one_that_nobody_needs_ends(tmp_path):
    """After its time."""

    async def work() -> None:
        async with open_pool(tmp_path, 0.2) as pool:
            await facts_of_job(pool, tmp_path)
            await spare_of(tmp_path)
            await come(lambda: processes(tmp_path) == [])

    run(work)


def test_two_jobs_at_once_take_one_and_start_one(tmp_path):
    """Neither gets the other's."""

    async def work() -> None:
        async with open_pool(tmp_path, LONG_S) as pool:
            await facts_of_job(pool, tmp_path)
            await spare_of(tmp_path)

            def job(name: str) -> Awaitable[object]:
                steps = [["tell", str(tmp_path / name)]]
                return pool.run(f"{name:0>12}", {"steps": steps}, FakeRun())  # type: ignore[arg-type]

            await asyncio.gather(job("a"), job("b"))
            seen = [json.loads((tmp_path / name).read_text()) for name in "ab"]
            assert 2 == len({one["pid"] for one in seen})
            assert ["00000000000a", "00000000000b"] == [
                Path(one["document"]["work_dir"]).name for one in seen
            ]

    run(work)
