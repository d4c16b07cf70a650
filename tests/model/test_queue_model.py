"""The queue against a plain dictionary: whatever is asked of both in whatever order, they say the same."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from synd.errors import SyndError
from synd.jobs.failures import Failure
from synd.jobs.model import ACTIVE, ENDED, TRANSITIONS, Job, JobState
from synd.jobs.queue import Queue
from synd.store.connect import Store
from synd.testing import FakeClock, FakeQueue

KINDS = ("preprocess", "prefetch")
OWNERS = ("h:b:1:1", "h:b:2:2")
KEYS = st.sampled_from([None, "k1", "k2", "k3"])
NUMBERS = st.integers(0, 40)
LEASE_S = 60.0


class QueueMachine(RuleBasedStateMachine):
    """SQLite and a dictionary, asked the same."""

    def __init__(self) -> None:
        super().__init__()
        # Late writes are a part of the game.
        logging.getLogger("synd").addFilter(_unheard)
        for name in ("synd.jobs.queue", "synd.testing.queue"):
            logging.getLogger(name).disabled = True
        self.root = Path(tempfile.mkdtemp(prefix="synd-model-"))
        self.clock = FakeClock()
        self.store = Store(self.root / "state.db")
        self.real = Queue(self.store, self.clock, uniform=lambda low, high: (low + high) / 2)
        self.model = FakeQueue(self.clock)
        self.ids: dict[str, str] = {}
        """Of the model → of the real one, in the order in which they were made."""
        self.seen: dict[str, JobState] = {}

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.root)
        for name in ("synd.jobs.queue", "synd.testing.queue"):
            logging.getLogger(name).disabled = False
        logging.getLogger("synd").removeFilter(_unheard)

    # Translation.

    def job(self, number: int) -> tuple[str, str]:
        """Some job, as (real, model) id; one that nobody has when there are none."""
        if not self.ids:
            return "none", "none"
        model = list(self.ids)[number % len(self.ids)]
        return self.ids[model], model

    def same(self, real: Callable[[], Any], model: Callable[[], Any]) -> Any:
        """Asks both; they answer alike, or fail alike. The model's answer."""
        # Ties of age are broken by id, and ids differ.
        self.clock.advance(0.001)
        answers: list[Any] = []
        for ask in (real, model):
            try:
                answers.append(ask())
            except (SyndError, ValueError) as error:
                answers.append(type(error))
        self.meet()
        assert self.told(answers[0]) == self.plain(answers[1])
        return answers[1]

    def meet(self) -> None:
        """Finds out which of the real ones are the model's new ones: one row makes one row at a time."""
        new = [id for id in self.model.jobs if id not in self.ids]
        known = set(self.ids.values())
        rows = [job for job in reversed(self.real.all()) if job.id not in known]
        assert len(rows) == len(new)
        for id in new:
            wanted = self.model.jobs[id]
            before = None if wanted.retry_of is None else self.ids[wanted.retry_of]
            row = next(r for r in rows if (r.retry_of, r.subject) == (before, wanted.subject))
            rows.remove(row)
            self.ids[id] = row.id

    def plain(self, answer: Any) -> Any:
        """The model's answer with the real ids."""
        match answer:
            case Job():
                return self.told(
                    replace(
                        answer,
                        id=self.ids[answer.id],
                        retry_of=self.ids.get(answer.retry_of or ""),
                        superseded_by=self.ids.get(answer.superseded_by or ""),
                    )
                )
            case list():
                return sorted(map(str, (self.plain(one) for one in answer)))
            case str() if answer in self.ids:
                return self.ids[answer]
            case _ if hasattr(answer, "fresh"):
                return (self.plain(answer.job), answer.fresh)
        return answer

    def told(self, answer: Any) -> Any:
        """An answer without what may differ: the wording of reasons."""
        match answer:
            case Job():
                why = (answer.problem or {}).get("failure")
                return replace(answer, problem=None if why is None else {"failure": why})
            case list():
                return sorted(map(str, (self.told(one) for one in answer)))
            case _ if hasattr(answer, "fresh"):
                return (self.told(answer.job), answer.fresh)
        return answer

    # What may happen.

    @rule(
        kind=st.sampled_from(KINDS), key=KEYS, priority=st.sampled_from([0, 10, 20]),
        after=st.lists(NUMBERS, max_size=2), most=st.sampled_from([None, None, 3]),
    )  # fmt: skip
    def claim(
        self, kind: str, key: str | None, priority: int, after: list[int], most: int | None
    ) -> None:
        pairs = [self.job(n) for n in after] if self.ids else []
        subject = f"s{len(self.ids)}"
        self.same(
            lambda: self.real.claim(
                kind, subject, {}, workflow_key=key, priority=priority, most=most,
                after=[real for real, _ in pairs],
            ),
            lambda: self.model.claim(
                kind, subject, {}, workflow_key=key, priority=priority, most=most,
                after=[model for _, model in pairs],
            ),
        )  # fmt: skip

    @rule(kinds=st.lists(st.sampled_from(KINDS), unique=True), owner=st.sampled_from(OWNERS))
    def lease(self, kinds: list[str], owner: str) -> None:
        self.same(
            lambda: self.real.lease(kinds, owner, LEASE_S),
            lambda: self.model.lease(kinds, owner, LEASE_S),
        )

    @rule(number=NUMBERS, owner=st.sampled_from(OWNERS))
    def mark_running(self, number: int, owner: str) -> None:
        real, model = self.job(number)
        self.same(
            lambda: self.real.mark_running(real, owner, LEASE_S),
            lambda: self.model.mark_running(model, owner, LEASE_S),
        )

    @rule(
        number=NUMBERS, owner=st.sampled_from(OWNERS), done=NUMBERS,
        what=st.sampled_from(["renew", "progress", "stage"]),
    )  # fmt: skip
    def work(self, number: int, owner: str, done: int, what: str) -> None:
        real, model = self.job(number)

        def ask(queue: Any, job: str) -> Callable[[], Any]:
            match what:
                case "renew":
                    return lambda: queue.renew(job, owner, LEASE_S)
                case "progress":
                    return lambda: queue.progress(job, owner, done, 99, "n", stage="data")
                case _:
                    return lambda: queue.stage_done(job, owner, "data", [str(done)])

        self.same(ask(self.real, real), ask(self.model, model))

    @rule(
        number=NUMBERS, owner=st.sampled_from(OWNERS), to=st.sampled_from(list(JobState)),
        failure=st.sampled_from([None, *Failure]), again=st.sampled_from([None, None, True, False]),
        least=st.sampled_from([0.0, 200.0]),
    )  # fmt: skip
    def finish(
        self, number: int, owner: str, to: JobState, failure: Failure | None, again: bool | None,
        least: float,
    ) -> None:  # fmt: skip
        real, model = self.job(number)
        failure = None if to is JobState.COMPLETED else failure
        how: dict[str, Any] = {"failure": failure, "again": again, "least_wait_s": least}
        self.same(
            lambda: self.real.finish(real, owner, to, **how),
            lambda: self.model.finish(model, owner, to, **how),
        )

    @rule(number=NUMBERS)
    def cancel(self, number: int) -> None:
        real, model = self.job(number)
        self.same(lambda: self.real.cancel(real), lambda: self.model.cancel(model))

    @rule(number=NUMBERS)
    def retry(self, number: int) -> None:
        real, model = self.job(number)
        self.same(lambda: self.real.retry(real), lambda: self.model.retry(model))

    @rule(living=st.sets(st.sampled_from(OWNERS)), held=st.lists(NUMBERS, max_size=2))
    def reclaim(self, living: set[str], held: list[int]) -> None:
        pairs = [self.job(n) for n in held]
        self.same(
            lambda: self.real.reclaim(living.__contains__, held=[r for r, _ in pairs]),
            lambda: self.model.reclaim(living.__contains__, held=[m for _, m in pairs]),
        )

    @rule(seconds=st.sampled_from([1.0, 5.0, 59.0, 60.0, 300.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    # What always holds.

    @invariant()
    def they_agree(self) -> None:
        real = {job.id: self.told(job) for job in self.real.all()}
        assert real == {self.ids[id]: self.plain(job) for id, job in self.model.jobs.items()}
        assert self.real.count() == self.model.count()
        assert self.real.counts() == self.model.counts()
        assert self.real.next_due_ns(KINDS) == self.model.next_due_ns(KINDS)
        for id, real_id in self.ids.items():
            assert sorted(self.ids[one] for one in self.model.needs(id)) == self.real.needs(real_id)

    @invariant()
    def a_key_has_one_active_job(self) -> None:
        keys = [j.workflow_key for j in self.real.all(tuple(ACTIVE)) if j.workflow_key]
        assert len(keys) == len(set(keys))

    @invariant()
    def states_follow_the_table(self) -> None:
        for job in self.real.all():
            before = self.seen.get(job.id, JobState.PENDING)
            # Between two looks a job may have run and ended.
            steps = TRANSITIONS[before] | {
                later for step in TRANSITIONS[before] for later in TRANSITIONS[step]
            }
            assert job.state is before or job.state in steps
            assert (job.finished_ns is not None) == (job.state in ENDED)
            assert job.state is JobState.PENDING or not job.waits
            self.seen[job.id] = job.state


def _unheard(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith("job.late")


CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)

TestQueue = QueueMachine.TestCase
TestQueue.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, suppress_health_check=CHECKS
)
TestQueue.runTest.__doc__ = "The queue and a dictionary agree after every step."


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_queue_when_used_long_agrees_with_a_dictionary():
    """The same over many more steps."""
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        QueueMachine,
        settings=settings(
            max_examples=400,
            stateful_step_count=80,
            deadline=None,
            suppress_health_check=CHECKS,
            print_blob=True,
        ),
    )
