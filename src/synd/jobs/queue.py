"""The queue: jobs as rows. Every change is one transaction; what runs a job is the caller's.

Invariants: a workflow key has one active job at most; a row runs once; whoever writes for a running job
names its id and its owner, and learns when it was replaced. Leases are wall time, written by who renews.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import secrets
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from synd.clock import NS, SYSTEM, Clock
from synd.errors import Busy, NotFound, QueueFull
from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.jobs.lookup import Lookup
from synd.jobs.model import ACTIVE, ENDED, Claim, Job, JobState, Priority, check
from synd.jobs.retries import arguments_after, goes_on, wait_s
from synd.jobs.rows import COLUMNS, as_json, job_of
from synd.store import meta
from synd.store.connect import Store
from synd.store.states import ACTIVE_SQL

log = logging.getLogger(__name__)

ATTEMPTS = 3
KEEP_FINISHED = 500
"""So many ended jobs are kept for `synd jobs --all` …"""
KEEP_FINISHED_S = 30 * 86400.0
"""… and no longer than this."""

PAUSED = "jobs.paused"
"""The row of `meta` that holds the paused kinds as JSON."""

_HELD = "id = ? AND state = 'running' AND owner = ?"
"""The fence."""

_WARNED_MOST = 1000

CANCELLED_AT_ONCE = 500
"""In one transaction: a tenth of a second, in which nobody else writes."""


@dataclass(slots=True)
class _Change:
    """One transaction, and the jobs it changed."""

    tx: sqlite3.Connection
    now_ns: int
    changed: dict[JobId, Job] = field(default_factory=dict)
    made: int = 0

    def one(self, statement: str, *values: object) -> Job | None:
        """The first row that a statement with RETURNING changed."""
        row = self.tx.execute(statement, values).fetchone()
        return None if row is None else self.note(row)

    def many(self, statement: str, *values: object) -> list[Job]:
        return [self.note(row) for row in self.tx.execute(statement, values).fetchall()]

    def note(self, row: Sequence[object]) -> Job:
        job = job_of(row)
        self.changed[job.id] = job
        return job


class Queue(Lookup):
    """Jobs in the store. Any thread, any process.

    In its statements ``+state`` keeps SQLite from walking all that wait where it knows ids already.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock = SYSTEM,
        *,
        me: str = "",
        attempts: int = ATTEMPTS,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """`me`: the owner whose jobs never are stale to a claim, as who runs them here sees to that."""
        super().__init__(store)
        self._clock = clock
        self._me = me
        self._attempts = attempts
        self._listeners: list[Callable[[Job], None]] = []
        self._uniform = uniform
        self._warned: set[str] = set()

    @contextlib.contextmanager
    def _write(self) -> Iterator[_Change]:
        with self._store.write() as tx:
            change = _Change(tx, self._clock.now_ns())
            yield change
        for job in change.changed.values():
            for tell in self._listeners:
                tell(job)

    def listen(self, tell: Callable[[Job], None]) -> None:
        """`tell` is told of every job after its change is committed, on the thread that made it."""
        self._listeners.append(tell)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction of the store, for `stage_done` and the rows that belong to the stage."""
        with self._store.write() as tx:
            yield tx

    # Pausing.

    def paused(self) -> frozenset[str]:
        """Kinds of which nothing is begun."""
        return frozenset(json.loads(meta.get(self._store, PAUSED) or "[]"))

    def pause(self, kinds: Collection[str], *, paused: bool = True) -> frozenset[str]:
        """Begins nothing more of these kinds, or does again; holds over a restart. All paused ones."""
        now = self.paused() | set(kinds) if paused else self.paused() - set(kinds)
        meta.put(self._store, PAUSED, json.dumps(sorted(now)))
        return now

    # Claiming.

    def claim(
        self,
        kind: str,
        subject: str,
        arguments: Mapping[str, object],
        *,
        workflow_key: str | None = None,
        priority: int = Priority.ASKED,
        after: Collection[str] = (),
        unit: str = "bytes",
        most: int | None = None,
    ) -> Claim:
        """A new pending job, or the active one of that key, which then is at least as urgent.

        A running one whose lease is over is failed, and its successor is the answer. One `after` which
        did not complete and is not tried again makes it fail at once. Raises NotFound for an `after` that
        is not there, and QueueFull when already `most` jobs of this kind wait.
        """
        with self._write() as change:
            made = self._insert(
                change, kind, subject, arguments,
                workflow_key=workflow_key, priority=priority, unit=unit,
            )  # fmt: skip
            if made is not None:
                if most is not None and self._waiting(change, kind) > most:
                    raise QueueFull(
                        f"already {most} {kind} jobs wait", hint="`synd jobs` shows them; try later"
                    )
                return Claim(self._order(change, made, after), fresh=True)
            assert workflow_key is not None  # nothing else is unique but the id
            found = self._active(change, workflow_key)
            if self._is_stale(found, change.now_ns):
                again = self._replace(change, found, forced=True)
                assert again is not None  # forced
                return Claim(self._urge(change, again, priority), fresh=True)
            return Claim(self._urge(change, found, priority), fresh=False)

    def add(self, kind: str, subject: str, arguments: Mapping[str, object], unit: str) -> Job:
        """A new pending job that is shared with nobody."""
        return self.claim(kind, subject, arguments, unit=unit).job

    def _insert(
        self,
        change: _Change,
        kind: str,
        subject: str,
        arguments: Mapping[str, object],
        *,
        workflow_key: str | None,
        priority: int,
        unit: str,
        attempt: int = 1,
        retry_of: JobId | None = None,
        not_before_ns: int = 0,
    ) -> Job | None:
        """The new row; None when the key has an active job."""
        # What one transaction makes has an order of age too.
        created_ns = change.now_ns + change.made
        made = change.one(
            f"""INSERT INTO job (id, kind, subject, arguments, workflow_key, state, priority, attempt,
            retry_of, created_ns, updated_ns, not_before_ns, unit)
            VALUES (?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?)
            ON CONFLICT DO NOTHING RETURNING {COLUMNS}""",
            secrets.token_hex(6), kind, subject, json.dumps(arguments), workflow_key, int(priority),
            attempt, retry_of, created_ns, change.now_ns, not_before_ns, unit,
        )  # fmt: skip
        change.made += made is not None
        return made

    @staticmethod
    def _waiting(change: _Change, kind: str) -> int:
        row = change.tx.execute(
            """SELECT count(*) FROM job INDEXED BY job_due
            WHERE state = 'pending' AND waits = 0 AND kind = ?""",
            (kind,),
        ).fetchone()
        found: int = row[0]
        return found

    @staticmethod
    def _row(change: _Change, job: str) -> Job | None:
        row = change.tx.execute(f"SELECT {COLUMNS} FROM job WHERE id = ?", (job,)).fetchone()
        return None if row is None else job_of(row)

    @staticmethod
    def _active(change: _Change, workflow_key: str) -> Job:
        row = change.tx.execute(
            f"SELECT {COLUMNS} FROM job WHERE workflow_key = ? AND {ACTIVE_SQL}", (workflow_key,)
        ).fetchone()
        return job_of(row)

    def _is_stale(self, job: Job, now_ns: int) -> bool:
        return (
            job.state is JobState.RUNNING
            and job.lease_until_ns <= now_ns
            and not (self._me and job.owner == self._me)
        )

    @staticmethod
    def _urge(change: _Change, job: Job, priority: int) -> Job:
        if job.priority <= priority:
            return job
        found = change.one(
            f"UPDATE job SET priority = ?, updated_ns = ? WHERE id = ? RETURNING {COLUMNS}",
            int(priority), change.now_ns, job.id,
        )  # fmt: skip
        return found or job

    def _order(self, change: _Change, job: Job, after: Collection[str]) -> Job:
        """Makes a new job wait for others."""
        waits, broken = 0, None
        for one in dict.fromkeys(after):
            needed = self._row(change, one)
            while needed is not None and needed.superseded_by is not None:
                needed = self._row(change, needed.superseded_by)
            if needed is None:
                raise NotFound(f"there is no job {one!r} to come after")
            if needed.state is JobState.COMPLETED:
                continue
            waits += needed.state in ACTIVE
            broken = broken or (None if needed.state in ACTIVE else needed)
            change.tx.execute(
                "INSERT OR IGNORE INTO job_after (job, needs) VALUES (?, ?)", (job.id, needed.id)
            )
        if broken is not None:
            return self._fail_unrun(change, [job.id], broken)[0]
        if not waits:
            return job
        found = change.one(
            f"""UPDATE job SET waits = (SELECT count(*) FROM job_after WHERE job = ?1)
            WHERE id = ?1 RETURNING {COLUMNS}""",
            job.id,
        )
        return found or job

    # Running.

    def lease(self, kinds: Iterable[str], owner: str, lease_s: float) -> Job | None:
        """The due job of these kinds whose turn it is, running from now on; None when there is none."""
        with self._write() as change:
            return change.one(
                f"""UPDATE job SET state = 'running', owner = ?1, started_ns = ?2, updated_ns = ?2,
                lease_until_ns = ?3
                WHERE id = (
                 SELECT due.id FROM json_each(?4) AS wanted JOIN job AS due ON due.id = (
                  SELECT id FROM job WHERE state = 'pending' AND waits = 0 AND kind = wanted.value
                  AND not_before_ns <= ?2 ORDER BY priority, created_ns, id LIMIT 1)
                 ORDER BY due.priority, due.created_ns, due.id LIMIT 1)
                AND state = 'pending' RETURNING {COLUMNS}""",
                owner, change.now_ns, change.now_ns + _ns(lease_s), json.dumps(list(kinds)),
            )  # fmt: skip

    def mark_running(self, job: str, owner: str, lease_s: float) -> Job:
        """This job, running from now on, whoever's turn it is. Raises NotFound, and InvalidTransition
        when it is not pending or waits for others.
        """
        with self._write() as change:
            found = change.one(
                f"""UPDATE job SET state = 'running', owner = ?1, started_ns = ?2, updated_ns = ?2,
                lease_until_ns = ?3 WHERE id = ?4 AND state = 'pending' AND waits = 0
                RETURNING {COLUMNS}""",
                owner, change.now_ns, change.now_ns + _ns(lease_s), job,
            )  # fmt: skip
            if found is not None:
                return found
            there = self._row(change, job)
        if there is None:
            raise NotFound(f"there is no job {job!r}")
        check(there, JobState.RUNNING)
        raise Busy(f"job {job} waits for {there.waits} others")

    def renew(self, job: str, owner: str, lease_s: float) -> bool:
        """Prolongs a lease. False: it was replaced, and whoever runs it must stop."""
        with self._write() as change:
            held = change.tx.execute(
                f"UPDATE job SET lease_until_ns = ?, updated_ns = ? WHERE {_HELD}",
                (change.now_ns + _ns(lease_s), change.now_ns, job, owner),
            ).rowcount
        return self._told(held, job, "renew")

    def progress(
        self,
        job: str,
        owner: str,
        done: int,
        total: int | None,
        note: str = "",
        *,
        stage: str = "",
    ) -> bool:
        """Records how far it is. False: it was replaced."""
        with self._write() as change:
            held = change.one(
                f"""UPDATE job SET done = ?, total = ?, note = ?, stage = ?, updated_ns = ?
                WHERE {_HELD} RETURNING {COLUMNS}""",
                done, total, note, stage, change.now_ns, job, owner,
            )  # fmt: skip
        return self._told(held is not None, job, "progress")

    def stage_done(
        self,
        job: str,
        owner: str,
        stage: str,
        artifacts: Sequence[str] = (),
        tx: sqlite3.Connection | None = None,
    ) -> bool:
        """Records a stage and the cache keys of what it made. False: it was replaced, and what was made
        must be dropped. With `tx` it is a part of that transaction, which then also holds the artifacts.
        """
        entry = json.dumps({"stage": stage, "artifacts": list(artifacts)})
        statement = f"""UPDATE job SET stages = json_insert(stages, '$[#]', json(?)), updated_ns = ?
            WHERE {_HELD} RETURNING {COLUMNS}"""
        if tx is not None:
            values = (entry, self._clock.now_ns(), job, owner)
            held = tx.execute(statement, values).fetchone() is not None
        else:
            with self._write() as change:
                held = change.one(statement, entry, change.now_ns, job, owner) is not None
        return self._told(held, job, f"stage {stage}")

    def _told(self, held: object, job: str, what: str) -> bool:
        if not held and job not in self._warned:
            if len(self._warned) >= _WARNED_MOST:
                self._warned.clear()
            self._warned.add(job)
            log.warning(
                "job.late", extra={"fields": {"job": job, "what": what, "why": "it was replaced"}}
            )
        return bool(held)

    # Ending.

    def finish(
        self,
        job: str,
        owner: str,
        to: JobState,
        *,
        failure: Failure | None = None,
        problem: Mapping[str, object] | None = None,
        result: Mapping[str, object] | None = None,
        again: bool | None = None,
        least_wait_s: float = 0.0,
    ) -> Job | None:
        """Ends a running job, and makes its successor. None: it was replaced, and nothing was changed.

        `again`: None as the failure's meaning says; False never; True at once, as the same attempt (it was
        cut short by no fault of its own). `least_wait_s`: what the service asked for.
        Raises ValueError when `to` is an active state.
        """
        if to in ACTIVE:
            raise ValueError(f"a job cannot end as {to}")
        if failure is None and to is not JobState.COMPLETED:
            failure = Failure.CANCELLED if to is JobState.CANCELLED else Failure.INTERNAL
        with self._write() as change:
            ended = change.one(
                f"""UPDATE job SET state = ?, failure = ?, problem = ?, result = ?, finished_ns = ?,
                updated_ns = ?, note = '', stage = '' WHERE {_HELD} RETURNING {COLUMNS}""",
                to.value, failure, as_json(problem), as_json(result), change.now_ns, change.now_ns,
                job, owner,
            )  # fmt: skip
            if ended is not None:
                ended = self._after(change, ended, again=again, least_wait_s=least_wait_s)
        self._told(ended, job, "end")
        return ended

    def cancel(self, job: str) -> Job:
        """Ends what waits; asks for the end of what runs, which `cancel` then says. The newest attempt of
        a job is meant; one that has ended stays as it is. Raises NotFound.
        """
        found = self.newest(job)
        with self._write() as change:
            ended = change.one(
                f"""UPDATE job SET state = 'cancelled', failure = 'CANCELLED', finished_ns = ?1,
                updated_ns = ?1, waits = 0 WHERE id = ?2 AND state = 'pending' RETURNING {COLUMNS}""",
                change.now_ns, found.id,
            )  # fmt: skip
            if ended is not None:
                return self._after(change, ended, again=False)
            change.one(
                f"""UPDATE job SET cancel = 1, updated_ns = ? WHERE id = ? AND state = 'running'
                RETURNING {COLUMNS}""",
                change.now_ns, found.id,
            )  # fmt: skip
        return self.get(found.id)

    def cancel_waiting(
        self, kinds: Collection[str] = (), *, until_ns: int, most: int = CANCELLED_AT_ONCE
    ) -> list[Job]:
        """Ends up to `most` jobs that wait, of these kinds or of any, made until then; newest first."""
        with self._write() as change:
            ended = change.many(
                f"""UPDATE job SET state = 'cancelled', failure = 'CANCELLED', finished_ns = ?1,
                updated_ns = ?1, waits = 0 WHERE id IN (SELECT id FROM job
                    WHERE state = 'pending' AND created_ns <= ?2
                    AND (?3 = '[]' OR kind IN (SELECT value FROM json_each(?3)))
                    ORDER BY created_ns DESC, id DESC LIMIT ?4) RETURNING {COLUMNS}""",
                change.now_ns, until_ns, json.dumps(list(kinds)), most,
            )  # fmt: skip
            return [self._after(change, job, again=False) for job in ended]

    def retry(self, job: str) -> Job:
        """A successor of what failed or was cancelled, by request. When the same is under way already,
        that is it. Raises NotFound, and Busy when it has not ended, is done, or comes after what failed.
        """
        found = self.newest(job)
        if found.state in ACTIVE or found.state is JobState.COMPLETED:
            raise Busy(f"job {found.id} is {found.state}", hint="only failed or cancelled jobs")
        with self._write() as change:
            now = self._row(change, found.id)
            if now is None or now.superseded_by is not None:
                raise Busy(f"job {found.id} is tried again already")
            for needed in self._needs(change, now.id):
                if needed.state in ENDED - {JobState.COMPLETED}:
                    raise Busy(
                        f"job {now.id} comes after {needed.id}, which is {needed.state}",
                        hint=f"`synd retry {needed.id}` first",
                    )
            return self._succeed(change, now, attempt=now.attempt + 1, not_before_ns=0)

    def reclaim(self, alive: Callable[[str], bool], *, held: Collection[str] = ()) -> list[Job]:
        """Ends running jobs whose owner is not `alive`, or whose lease is over, and makes successors at
        once. `held`: jobs that the caller runs itself. Returns the ended ones.
        """
        with self._write() as change:
            rows = change.tx.execute(
                f"SELECT {COLUMNS} FROM job WHERE state = 'running' ORDER BY updated_ns, id"
            ).fetchall()
            lost = [
                job
                for job in map(job_of, rows)
                if job.id not in held
                and (job.lease_until_ns <= change.now_ns or not alive(job.owner))
            ]
            for job in lost:
                self._replace(change, job)
            return [change.changed[job.id] for job in lost]

    def _replace(self, change: _Change, job: Job, *, forced: bool = False) -> Job | None:
        """Fails a job whose holder is not heard of, and makes its successor, if it may have one.

        `forced`: somebody asks for it now, so it has one however often it was tried.
        """
        to, failure = JobState.FAILED, Failure.LEASE_LOST
        if job.cancel and not forced:
            to, failure = JobState.CANCELLED, Failure.CANCELLED
        problem = {"type": "LeaseLost", "title": failure.meaning.text, "failure": failure.value}
        ended = change.one(
            f"""UPDATE job SET state = ?, failure = ?, problem = ?, finished_ns = ?, updated_ns = ?,
            note = '', stage = '' WHERE id = ? AND state = 'running' RETURNING {COLUMNS}""",
            to.value, failure.value, as_json(problem), change.now_ns, change.now_ns, job.id,
        )  # fmt: skip
        assert ended is not None  # nobody else writes in this transaction
        if forced:
            return self._succeed(change, ended, attempt=ended.attempt + 1, not_before_ns=0)
        ended = self._after(change, ended, waits=False)
        return None if ended.superseded_by is None else self._row(change, ended.superseded_by)

    def _after(
        self,
        change: _Change,
        ended: Job,
        *,
        again: bool | None = None,
        least_wait_s: float = 0.0,
        waits: bool = True,
    ) -> Job:
        """What follows an end: dependants go, a successor is made, or dependants fail."""
        if ended.state is JobState.COMPLETED:
            self._release(change, ended)
            return ended
        failure = ended.failure or Failure.INTERNAL
        if again and not ended.cancel:
            self._succeed(change, ended, attempt=ended.attempt, not_before_ns=0)
        elif (
            again is None
            and ended.state is JobState.FAILED
            and not ended.cancel
            and goes_on(failure, ended.attempt, self._attempts, self._earlier(change, ended))
        ):
            pause = max(least_wait_s, wait_s(ended.attempt, self._uniform)) if waits else 0.0
            self._succeed(
                change, ended,
                attempt=ended.attempt + 1, not_before_ns=change.now_ns + _ns(pause) if pause else 0,
            )  # fmt: skip
        else:
            self._fail_dependants(change, ended)
        return change.changed[ended.id]

    def _earlier(self, change: _Change, job: Job) -> set[Failure]:
        """What the attempts before this one failed of, as far as their rows are kept."""
        found: set[Failure] = set()
        while job.retry_of is not None:
            before = self._row(change, job.retry_of)
            if before is None:
                break
            if before.failure is not None:
                found.add(before.failure)
            job = before
        return found

    def _succeed(self, change: _Change, ended: Job, *, attempt: int, not_before_ns: int) -> Job:
        """The next attempt, which takes the place of the last one with those that come after it."""
        failure = ended.failure or Failure.INTERNAL
        made = self._insert(
            change, ended.kind, ended.subject, arguments_after(failure, ended.arguments),
            workflow_key=ended.workflow_key, priority=ended.priority, unit=ended.unit,
            attempt=attempt, retry_of=ended.id, not_before_ns=not_before_ns,
        )  # fmt: skip
        if made is None:
            # By request only: meanwhile somebody else asked for the same.
            assert ended.workflow_key is not None
            made = self._active(change, ended.workflow_key)
        else:
            made = self._order(
                change, made, [needed.id for needed in self._needs(change, ended.id)]
            )
        change.one(
            f"UPDATE job SET superseded_by = ? WHERE id = ? RETURNING {COLUMNS}", made.id, ended.id
        )
        change.tx.execute(
            "UPDATE OR REPLACE job_after SET needs = ? WHERE needs = ?", (made.id, ended.id)
        )
        return made

    def _needs(self, change: _Change, job: str) -> list[Job]:
        rows = change.tx.execute("SELECT needs FROM job_after WHERE job = ?", (job,)).fetchall()
        return [found for row in rows if (found := self._row(change, row[0])) is not None]

    @staticmethod
    def _release(change: _Change, done: Job) -> None:
        change.many(
            f"""UPDATE job SET waits = waits - 1, updated_ns = ? WHERE +state = 'pending'
            AND id IN (SELECT job FROM job_after WHERE needs = ?) RETURNING {COLUMNS}""",
            change.now_ns, done.id,
        )  # fmt: skip
        change.tx.execute("DELETE FROM job_after WHERE needs = ?", (done.id,))

    def _fail_dependants(self, change: _Change, ended: Job) -> None:
        todo = [ended]
        while todo:
            needed = todo.pop()
            rows = change.tx.execute(
                """SELECT job FROM job_after JOIN job ON job.id = job_after.job
                WHERE needs = ? AND +state = 'pending'""",
                (needed.id,),
            ).fetchall()
            todo += self._fail_unrun(change, [JobId(row[0]) for row in rows], needed)

    @staticmethod
    def _fail_unrun(change: _Change, jobs: Sequence[JobId], needed: Job) -> list[Job]:
        """Fails pending jobs that come after one that did not complete."""
        if not jobs:
            return []
        why = str((needed.problem or {}).get("title", "")) or (needed.failure or needed.state).value
        problem = {
            "type": "StageFailed",
            "title": f"it comes after job {needed.id} ({needed.subject}), which is {needed.state}: {why}",
            "hint": f"`synd retry {needed.id}`, then this one",
            "failure": Failure.AFTER_FAILED.value,
        }
        return change.many(
            f"""UPDATE job SET state = 'failed', failure = 'AFTER_FAILED', problem = ?1, finished_ns = ?2,
            updated_ns = ?2, waits = 0 WHERE +state = 'pending'
            AND id IN (SELECT value FROM json_each(?3)) RETURNING {COLUMNS}""",
            as_json(problem), change.now_ns, json.dumps(list(jobs)),
        )  # fmt: skip

    # Retention.

    def prune(self, keep: int = KEEP_FINISHED, keep_s: float = KEEP_FINISHED_S) -> list[JobId]:
        """Drops ended jobs beyond the newest `keep`, and those older than `keep_s`; their ids."""
        with self._write() as change:
            rows = change.tx.execute(
                """DELETE FROM job WHERE id IN (SELECT id FROM job WHERE finished_ns IS NOT NULL
                 ORDER BY finished_ns DESC, id DESC LIMIT -1 OFFSET ?)
                OR (finished_ns IS NOT NULL AND finished_ns < ?) RETURNING id""",
                (keep, change.now_ns - _ns(keep_s)),
            ).fetchall()
        return [JobId(row[0]) for row in rows]


def _ns(seconds: float) -> int:
    return int(seconds * NS)
