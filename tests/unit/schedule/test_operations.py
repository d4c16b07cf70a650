"""Jobs of the daemon: prefetch and verify, their progress, their end, and what a restart makes of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from synd.errors import Busy, NotFound, Offline
from synd.jobs.model import Job, JobState
from synd.jobs.queue import Queue
from synd.model import Access
from syndd.schedule.operations import Operations
from tests.support.mounts import eventually
from tests.support.parts import Parts, md5_of

S = JobState


@contextmanager
def running(parts: Parts) -> Iterator[None]:
    """The runner at work, as the daemon has it."""

    async def begin() -> asyncio.Task[None]:
        return asyncio.create_task(parts.operations.run())

    async def end(task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    task = parts.run(begin())
    try:
        yield
    finally:
        assert not task.done()
        parts.run(end(task))


def add(parts: Parts, kind: str, *entities: int) -> Job:
    return parts.call(
        lambda: parts.operations.add(kind, "x", {"entities": list(entities)}, "bytes")
    )


def ended(parts: Parts, job: Job, timeout_s: float = 20) -> Job:
    done = {S.COMPLETED, S.FAILED, S.CANCELLED}
    return eventually(
        lambda: found if (found := parts.queue.newest(job.id)).state in done else None,
        timeout_s=timeout_s,
    )


class CancellingQueue(Queue):
    """Where the user is quicker than the runner."""

    def lease(self, kinds: Iterable[str], owner: str, lease_s: float) -> Job | None:
        found = super().lease(kinds, owner, lease_s)
        return None if found is None else self.cancel(found.id)


class TestPrefetch:
    def test_prefetch_of_a_folder_brings_all_below_it(self, parts, ids):
        """Folders are listed on the way; sizes, progress and result tell what was done."""
        job = add(parts, "prefetch", ids["P"])
        with running(parts):
            found = ended(parts, job)

        assert S.COMPLETED is found.state
        assert {"fetched": 3, "already_here": 1, "failed": [], "failures": 0} == found.result
        assert (found.total, found.total) == (found.done, 2 + 3 + (3 << 20))
        for data in (b"aa", b"bbb"):
            assert parts.cache.has(md5_of(data))
        assert {ids["P/d/a"], ids["P/d/b"], ids["P/d/e/big"]} == {f.entity for f in parts.fetched}

    def test_prefetch_of_what_is_here_fetches_nothing(self, parts, ids, storage):
        """Asked again it costs nothing."""
        with running(parts):
            ended(parts, add(parts, "prefetch", ids["P"]))
            storage.requests.clear()
            found = ended(parts, add(parts, "prefetch", ids["P"], ids["P/d/a"]))

        assert (0, 5) == (found.result["fetched"], found.result["already_here"])
        assert [] == storage.requests

    def test_prefetch_that_meets_closed_files_brings_the_others(self, parts, remote, ids):
        """What failed is named, with the reason; the job is no failure."""
        remote.permit(ids["P/d/a"], Access(can_download=False))
        remote.permit(ids["P/d/e"], Access(can_view=False))
        with running(parts):
            parts.node("P/d/b")
            found = ended(parts, add(parts, "prefetch", ids["P/d"], ids["P/d/e"]))

        assert S.COMPLETED is found.state
        assert (1, 2) == (found.result["fetched"], found.result["failures"])
        assert {f"syn{ids['P/d/a']}", f"syn{ids['P/d/e']}"} == {
            f["entity"] for f in found.result["failed"]
        }

    def test_prefetch_of_which_nothing_came_fails_with_the_reason(self, parts, remote, ids):
        """As the first of its files tells it."""
        remote.permit(ids["P/d/a"], Access(can_download=False))
        with running(parts):
            found = ended(parts, add(parts, "prefetch", ids["P/d/a"]))

        assert S.FAILED is found.state
        assert "may not download" in found.problem["title"]

    def test_prefetch_while_offline_fails_in_our_words_and_can_be_retried(self, parts, remote, ids):
        """An outage is an error of the job, not a bug of ours."""
        remote.offline = True
        with running(parts):
            found = ended(parts, add(parts, "prefetch", ids["P"]))
            assert (S.FAILED, "Offline") == (found.state, found.problem["type"])
            remote.offline = False
            parts.run(parts.operations.retry(found.id))
            again = ended(parts, found)

        assert S.COMPLETED is again.state
        assert 3 == again.result["fetched"]

    def test_prefetch_when_cancelled_ends_and_fetches_no_more(self, parts, remote, ids):
        """Also what it had begun."""
        job = add(parts, "prefetch", ids["P"])
        with running(parts):
            remote.delay_s = 0.3
            eventually(lambda: parts.queue.get(job.id).state is S.RUNNING)
            cancelled = parts.run(parts.operations.cancel(job.id))
            assert S.CANCELLED is cancelled.state
            assert not parts.operations.dispatcher.running
            remote.delay_s = 0.0
            found = ended(parts, add(parts, "prefetch", ids["Q"]))

        assert S.COMPLETED is found.state
        assert S.CANCELLED is parts.queue.get(job.id).state
        assert not parts.streams.progress()
        assert [] == [f for f in parts.fetched if f.entity != ids["Q/c"]]

    def test_job_that_waits_can_be_cancelled_and_retried(self, parts, ids):
        """Before anybody has begun it; a job that is done stays done."""
        job = add(parts, "prefetch", ids["Q"])
        parts.run(parts.operations.cancel(job.id))
        with running(parts):
            parts.run(parts.operations.retry(job.id))
            assert S.COMPLETED is ended(parts, job).state
            with pytest.raises(Busy):
                parts.run(parts.operations.retry(job.id))
            assert S.COMPLETED is parts.run(parts.operations.cancel(job.id)).state
        with pytest.raises(NotFound):
            parts.run(parts.operations.cancel("nope"))

    def test_job_cancelled_while_it_is_claimed_is_not_run(self, parts, ids, storage):
        """Between the row and the task."""
        job = add(parts, "prefetch", ids["Q"])
        parts.operations = parts.call(
            lambda: Operations(
                CancellingQueue(parts.store), parts.tree, parts.sizes, parts.streams, parts.cache,
                on_job=parts.events.of_job, on_fetched=parts.fetched.append,
            )
        )  # fmt: skip
        with running(parts):
            eventually(lambda: parts.queue.get(job.id).state is S.CANCELLED)
            parts.run(asyncio.sleep(0))
        assert [] == storage.requests

    def test_job_that_a_stop_cut_short_is_run_again(self, build, ids, remote):
        """After the restart, from what is here; it costs no attempt."""
        parts = build()
        job = add(parts, "prefetch", ids["P"])
        remote.delay_s = 5
        with running(parts):
            eventually(lambda: parts.queue.get(job.id).state is S.RUNNING)
        assert S.CANCELLED is parts.queue.get(job.id).state
        assert (S.PENDING, 1) == (
            parts.queue.newest(job.id).state, parts.queue.newest(job.id).attempt,
        )  # fmt: skip
        parts.close()
        remote.delay_s = 0
        parts = build()
        with running(parts):
            assert S.COMPLETED is ended(parts, job).state

    def test_job_that_died_with_the_daemon_is_run_again(self, parts, ids):
        """Its row says that somebody runs it who is not there."""
        job = add(parts, "prefetch", ids["P"])
        parts.queue.mark_running(job.id, "host:boot:1:1", 0.0)
        with running(parts):
            assert S.COMPLETED is ended(parts, job).state

        assert "LEASE_LOST" == parts.queue.get(job.id).failure

    def test_bug_in_a_handler_ends_the_job_and_not_the_runner(self, parts, ids, caplog):
        """It is logged with its traceback; the next job runs."""
        caplog.set_level(logging.ERROR)
        bad = parts.call(
            lambda: parts.operations.add("prefetch", "x", {"entities": ["bug"]}, "bytes")
        )
        with running(parts):
            assert S.FAILED is ended(parts, bad).state
            assert S.COMPLETED is ended(parts, add(parts, "prefetch", ids["Q"])).state

        assert "job.failed" in caplog.text


class TestVerify:
    @pytest.fixture
    def filled(self, parts, ids) -> Parts:
        with running(parts):
            ended(parts, add(parts, "prefetch", ids["P"], ids["Q"]))
        return parts

    def spoil(self, parts: Parts, data: bytes) -> None:
        path = parts.cache.objects.path(md5_of(data))
        path.chmod(0o600)
        path.write_bytes(b"?" * len(data))

    def test_verify_of_a_sound_cache_finds_nothing(self, filled):
        """All of it, counted."""
        with running(filled):
            found = ended(filled, add(filled, "verify"))

        assert S.COMPLETED is found.state
        assert (4, 0) == (found.result["checked"], found.result["bad"])

    @pytest.mark.announces("cache.corrupt")
    def test_verify_removes_what_is_wrong(self, filled):
        """The next read fetches it anew."""
        self.spoil(filled, b"bbb")
        with running(filled):
            found = ended(filled, add(filled, "verify"))

        assert (4, 1, [md5_of(b"bbb")]) == (
            found.result["checked"], found.result["bad"], found.result["contents"],
        )  # fmt: skip
        assert not filled.cache.has(md5_of(b"bbb"))
        assert b"bbb" == filled.read("P/d/b")

    def test_verify_of_one_folder_leaves_the_others_alone(self, filled, ids):
        """Only what was asked for is hashed."""
        self.spoil(filled, b"bbb")
        with running(filled):
            found = ended(filled, add(filled, "verify", ids["Q"]))

        assert (1, 0) == (found.result["checked"], found.result["bad"])
        assert filled.cache.has(md5_of(b"bbb"))


def test_errors_of_a_job_are_those_of_our_table(parts, remote, ids):
    """So that the CLI gives the exit code that the call itself would have given."""
    remote.fail(Offline("gone"), call="children", times=5)
    with running(parts):
        found = ended(parts, add(parts, "prefetch", ids["P"]))

    assert Offline("gone").problem()["exit_code"] == found.problem["exit_code"]
