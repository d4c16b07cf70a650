"""Why jobs of a file failed, were cancelled or wait, as `synd why` tells it."""

from __future__ import annotations

import pytest

from synd.errors import StageFailed
from synd.ids import EntityId, Md5
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState, Priority
from synd.jobs.queue import Queue
from synd.processors.base import PIPELINE_VERSION, SYNAPSE
from synd.processors.keys import workflow_key
from synd.store.connect import Store
from synd.store.entities import Row
from synd.testing import FakeClock
from syndd.schedule.reasons import jobs_of, why_job

ME = "h:b:1:1"
MD5 = Md5("0" * 32)
NUMBER = 7


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def queue(tmp_path, clock):
    store = Store(tmp_path / "state.db")
    yield Queue(store, clock, uniform=lambda _low, high: high)
    store.close()


def row_of(number: int = NUMBER, md5: Md5 | None = MD5) -> Row:
    values = dict.fromkeys(Row._fields) | {"id": EntityId(number), "md5": md5}
    return Row(**values)


def claim(queue: Queue, clock: FakeClock, number: int = NUMBER, **more) -> Job:
    clock.advance(1)
    key = workflow_key(SYNAPSE, f"syn{number}", MD5, PIPELINE_VERSION)
    more = {"priority": Priority.ASKED} | more
    return queue.claim("preprocess", "x.bam", {"entity": number}, workflow_key=key, **more).job


def fail(queue: Queue, job: Job, failure: Failure, title: str, **more: object) -> None:
    assert queue.lease([job.kind], ME, 60) is not None
    error = StageFailed(title, failure=failure)
    problem = {**error.problem(), **more}
    queue.finish(job.id, ME, JobState.FAILED, failure=failure, problem=problem)


def told(queue: Queue, clock: FakeClock, row: Row | None = None, paused=()):
    """What is said of the only job."""
    [job] = jobs_of(queue, row or row_of())
    return why_job(job, queue, paused, clock.now_ns())


class TestFailed:
    def test_failure_of_content_tells_class_reason_and_log(self, queue, clock):
        """No retry is offered: the bytes would be the same."""
        job = claim(queue, clock)
        fail(queue, job, Failure.INVALID_RECORD, "line 3: column 2 is no number")
        found = told(queue, clock)

        assert (job.id, "failed", "INVALID_RECORD") == (
            found["id"],
            found["state"],
            found["failure"],
        )
        assert "line 3: column 2 is no number (a record is not valid)" == found["reason"]
        assert "can be read as it is" in found["mend"]
        assert "retry" not in found["mend"]
        assert f"synd logs {job.id}" == found["log"]

    def test_failure_that_something_stands_behind_names_it_before_the_retry(self, queue, clock):
        """First the hint, then the command."""
        job = claim(queue, clock)
        fail(queue, job, Failure.TOOL_MISSING, "samtools is missing", hint="install samtools")

        assert (
            f"install samtools; then `synd retry {job.id}` tries again"
            == told(queue, clock)["mend"]
        )

    def test_failure_that_is_tried_again_is_told_of_the_coming_attempt(self, queue, clock):
        """With when, and why the one before failed."""
        job = claim(queue, clock)
        fail(queue, job, Failure.WORKER_DIED, "it ended by signal 9")
        found = told(queue, clock)

        assert ("pending", 2) == (found["state"], found["attempt"])
        assert "it is tried again at " in found["reason"]
        assert "as attempt 1 failed: it ended by signal 9" in found["reason"]
        assert found["id"] in found["mend"]
        assert "" == found["log"]


class TestWaiting:
    def test_job_in_the_queue_tells_how_many_come_first(self, queue, clock):
        """The urgent before the old; what waits for others does not count."""
        first = claim(queue, clock, 1)
        claim(queue, clock, 2)
        queue.claim("preprocess", "late", {}, after=[first.id], priority=Priority.READER)
        job = claim(queue, clock)
        assert job.id == told(queue, clock)["id"]
        assert "2 before it, 0 under way" in told(queue, clock)["reason"]
        queue.lease(["preprocess"], ME, 60)

        assert "1 before it, 1 under way" in told(queue, clock)["reason"]

    def test_job_of_a_paused_kind_names_the_command(self, queue, clock):
        """Nothing else would help."""
        claim(queue, clock)
        found = told(queue, clock, paused=["preprocess"])

        assert ("preprocess jobs are paused", "`synd jobs resume preprocess`") == (
            found["reason"], found["mend"],
        )  # fmt: skip

    def test_job_when_its_executor_is_away_says_what_is_not_reached(self, queue, clock):
        """Before the count of those ahead, which would say nothing."""
        claim(queue, clock, 1)
        job = claim(queue, clock)
        found = why_job(
            job, queue, (), clock.now_ns(), {"preprocess": "the scheduler is not reached"}
        )
        other = why_job(job, queue, (), clock.now_ns(), {"upload": "the scheduler is not reached"})

        assert "the scheduler is not reached" == found["reason"]
        assert "as soon as" in found["mend"]
        assert "1 before it" in other["reason"]

    def test_job_after_another_names_it(self, queue, clock):
        """To look at."""
        first = claim(queue, clock, 1)
        claim(queue, clock, after=[first.id])

        assert first.id in told(queue, clock)["reason"]
        assert f"`synd job {first.id}`" == told(queue, clock)["mend"]

    def test_running_job_tells_stage_and_part(self, queue, clock):
        """No mend: nothing is amiss."""
        job = claim(queue, clock)
        queue.lease(["preprocess"], ME, 60)
        queue.progress(job.id, ME, 25, 100, stage="data")
        found = told(queue, clock)

        assert ("it is under way, stage data, 25 %", "") == (found["reason"], found["mend"])


class TestWhich:
    def test_cancelled_job_says_how_to_do_it_again(self, queue, clock):
        """Nobody does by itself."""
        job = claim(queue, clock)
        queue.cancel(job.id)
        found = told(queue, clock)

        assert "cancelled" == found["state"]
        assert f"`synd retry {job.id}` does it again" == found["mend"]

    def test_done_job_and_jobs_of_other_content_are_not_told(self, queue, clock):
        """A file with new bytes is not what failed."""
        job = claim(queue, clock)
        fail(queue, job, Failure.SOURCE_CORRUPT, "bad CRC")
        assert [] == jobs_of(queue, row_of(md5=Md5("1" * 32)))
        assert [] == jobs_of(queue, row_of(number=8))
        again = claim(queue, clock)
        queue.lease(["preprocess"], ME, 60)
        queue.finish(again.id, ME, JobState.COMPLETED)

        assert [] == jobs_of(queue, row_of())

    def test_prefetch_that_names_the_file_is_told_too(self, queue, clock):
        """The newest only."""
        for _ in range(2):
            clock.advance(1)
            job = queue.claim("prefetch", "x", {"entities": [NUMBER, 8]}).job
        queue.claim("prefetch", "y", {"entities": [9]})
        queue.cancel(job.id)

        assert [job.id] == [one.id for one in jobs_of(queue, row_of(md5=None))]
