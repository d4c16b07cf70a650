"""The transfer threads and the lane of small files: most urgent first, as many at once as allowed."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from synd.mirror.fetch import Pool, Task, Urgency
from synd.mirror.lane import Errand, Lane
from tests.support.mounts import eventually


class Work:
    """Tasks that note when they run, and wait for their gate."""

    def __init__(self) -> None:
        self.order: list[str] = []
        self.gate = threading.Event()

    def task(self, name: str, urgency: Urgency, *, gated: bool = False) -> Task:
        def run() -> None:
            self.order.append(name)
            if gated:
                assert self.gate.wait(20)

        return Task(run, urgency)


@pytest.fixture
def work() -> Work:
    return Work()


class TestPool:
    @pytest.fixture
    def pool(self):
        pool = Pool(1)
        yield pool
        pool.close()

    def busy(self, pool: Pool, work: Work) -> None:
        pool.submit(work.task("first", Urgency.DEMAND, gated=True))
        eventually(lambda: work.order == ["first"])

    def test_most_urgent_work_goes_first_and_equals_in_order(self, pool, work):
        """A read overtakes a prefetch."""
        self.busy(pool, work)
        for name, urgency in (
            ("b1", Urgency.BACKGROUND), ("a1", Urgency.AHEAD), ("d1", Urgency.DEMAND),
            ("b2", Urgency.BACKGROUND), ("d2", Urgency.DEMAND), ("a2", Urgency.AHEAD),
        ):  # fmt: skip
            pool.submit(work.task(name, urgency))
        work.gate.set()
        eventually(lambda: len(work.order) == 7)

        assert ["first", "d1", "d2", "a1", "a2", "b1", "b2"] == work.order

    def test_hurried_work_moves_forward_and_runs_once(self, pool, work):
        """Somebody reads now what was to come later; never the other way round."""
        self.busy(pool, work)
        tasks = {n: work.task(n, Urgency.BACKGROUND) for n in ("x", "y", "z")}
        for task in tasks.values():
            pool.submit(task)
        pool.hurry(tasks["z"], Urgency.DEMAND)
        pool.hurry(tasks["z"], Urgency.BACKGROUND)
        pool.hurry(tasks["y"], Urgency.AHEAD)
        work.gate.set()
        eventually(lambda: len(work.order) == 4)
        pool.hurry(tasks["x"], Urgency.DEMAND)
        pool.submit(work.task("last", Urgency.BACKGROUND))
        eventually(lambda: work.order[-1] == "last")

        assert ["first", "z", "y", "x", "last"] == work.order

    def test_tasks_run_at_once_up_to_the_bound(self):
        """Ranges of one window go in parallel, also where a thread was idle before."""
        pool = Pool(4)
        warm = threading.Event()
        pool.submit(Task(warm.set, Urgency.DEMAND))
        assert warm.wait(20)
        eventually(lambda: pool._idle == 1)
        meeting = threading.Barrier(4)
        met: list[int] = []

        def run() -> None:
            met.append(meeting.wait(20))

        for _ in range(4):
            pool.submit(Task(run, Urgency.DEMAND))
        eventually(lambda: len(met) == 4)

        assert pool._threads <= 4
        pool.close()

    @pytest.mark.announces("transfer.failed")
    def test_task_that_breaks_takes_no_thread_with_it(self, pool, work):
        """It is logged; the next one runs."""

        def broken() -> None:
            raise KeyError("a bug")

        pool.submit(Task(broken, Urgency.DEMAND))
        pool.submit(work.task("next", Urgency.DEMAND))

        eventually(lambda: work.order == ["next"])

    def test_closed_pool_takes_nothing_and_ends_its_threads(self, work):
        """What is at work ends by itself, what waits is dropped."""
        pool = Pool(1)
        self.busy(pool, work)
        pool.submit(work.task("waits", Urgency.DEMAND))
        pool.close()
        pool.submit(work.task("late", Urgency.DEMAND))
        work.gate.set()
        eventually(lambda: pool._threads == 0)

        assert ["first"] == work.order
        assert 0 == pool.waiting()


class TestLane:
    @pytest.fixture
    def lane(self):
        lane = Lane(1)
        yield lane
        lane.close(self.ending)

    async def ending(self) -> None:
        return None

    @staticmethod
    def errand(
        order: list[str], name: str, urgency: Urgency, until: Callable[[], bool] = lambda: True
    ) -> Errand:
        async def run() -> None:
            order.append(name)
            while not until():  # noqa: ASYNC110 - set by a thread
                await asyncio.sleep(0.001)

        return Errand(run, urgency)

    def test_most_urgent_errand_goes_first_and_hurry_moves_one_forward(self, lane, work):
        """As for large files."""
        order: list[str] = []
        lane.submit(self.errand(order, "first", Urgency.DEMAND, work.gate.is_set))
        eventually(lambda: order)
        later = [self.errand(order, n, Urgency.BACKGROUND) for n in ("x", "y")]
        for errand in later:
            lane.submit(errand)
        lane.submit(self.errand(order, "ahead", Urgency.AHEAD))
        lane.hurry(later[1], Urgency.DEMAND)
        work.gate.set()
        eventually(lambda: len(order) == 4)
        lane.hurry(later[1], Urgency.DEMAND)
        lane.submit(self.errand(order, "last", Urgency.BACKGROUND))
        eventually(lambda: order[-1] == "last")

        assert ["first", "y", "ahead", "x", "last"] == order

    def test_errands_run_at_once_up_to_the_bound(self):
        """And never more."""
        lane = Lane(3)
        now = most = done = 0
        submitted = threading.Event()

        async def run() -> None:
            nonlocal now, most, done
            now += 1
            most = max(most, now)
            # The first ones hold their places until all others want one.
            await asyncio.to_thread(submitted.wait, 20)
            for _ in range(5):
                await asyncio.sleep(0)
            now -= 1
            done += 1

        for _ in range(12):
            lane.submit(Errand(run, Urgency.BACKGROUND))
        eventually(lambda: now == 3)
        submitted.set()
        eventually(lambda: done == 12)

        assert 3 == most
        lane.close(self.ending)

    @pytest.mark.announces("errand.failed")
    def test_errand_that_breaks_is_logged_and_the_next_runs(self, lane):
        """A bug in one is not the others' end."""
        order: list[str] = []

        async def broken() -> None:
            raise KeyError("a bug")

        lane.submit(Errand(broken, Urgency.DEMAND))
        lane.submit(self.errand(order, "next", Urgency.DEMAND))

        eventually(lambda: order == ["next"])

    def test_close_cancels_what_runs_and_waits_for_the_thread(self):
        """The ending runs on the lane's own loop, after all else."""
        lane = Lane(2)
        seen: list[str] = []

        async def endless() -> None:
            seen.append("began")
            try:
                await asyncio.Event().wait()
            finally:
                seen.append("cancelled")

        async def ending() -> None:
            seen.append("ending")

        lane.submit(Errand(endless, Urgency.DEMAND))
        eventually(lambda: seen)
        lane.close(ending)
        lane.submit(Errand(endless, Urgency.DEMAND))

        assert ["began", "cancelled", "ending"] == seen
        assert lane._thread is not None
        assert not lane._thread.is_alive()
