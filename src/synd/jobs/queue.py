"""The queue: jobs as rows. Every change is one transaction; what runs a job is the caller's."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping

from synd.clock import SYSTEM, Clock
from synd.errors import Busy, NotFound
from synd.ids import JobId
from synd.jobs.model import ACTIVE, Job, JobState, check
from synd.store.connect import Store

_COLUMNS = """id, kind, subject, arguments, state, created_ns, started_ns, finished_ns, done, total,
 unit, note, problem, result"""

KEEP_FINISHED = 500
"""So many finished jobs are kept for `synd jobs --all`."""


class Queue:
    """Jobs in the store. Any thread."""

    def __init__(self, store: Store, clock: Clock = SYSTEM) -> None:
        self._store = store
        self._clock = clock

    def add(self, kind: str, subject: str, arguments: Mapping[str, object], unit: str) -> Job:
        """A new pending job."""
        job = JobId(secrets.token_hex(6))
        with self._store.write() as tx:
            tx.execute(
                """INSERT INTO job (id, kind, subject, arguments, state, created_ns, unit)
                VALUES (?, ?, ?, ?, 'pending', ?, ?)""",
                (job, kind, subject, json.dumps(arguments), self._clock.now_ns(), unit),
            )
            tx.execute(
                """DELETE FROM job WHERE state NOT IN ('pending', 'running') AND id NOT IN (
                SELECT id FROM job WHERE state NOT IN ('pending', 'running')
                ORDER BY created_ns DESC LIMIT ?)""",
                (KEEP_FINISHED,),
            )
        return self.get(job)

    def get(self, job: str) -> Job:
        """The job of that id, or of the one id that begins so. Raises NotFound."""
        statement = f"SELECT {_COLUMNS} FROM job WHERE substr(id, 1, ?) = ? LIMIT 2"
        rows = self._store.read.execute(statement, (len(job), job)).fetchall()
        if len(rows) != 1 or not job:
            raise NotFound(f"there is no job {job!r}", hint="`synd jobs --all` lists them")
        return _job(rows[0])

    def all(self, states: Collection[JobState] = tuple(JobState)) -> list[Job]:
        """Newest first."""
        marks = ", ".join("?" * len(states))
        statement = f"""SELECT {_COLUMNS} FROM job WHERE state IN ({marks})
            ORDER BY created_ns DESC, id"""
        return [_job(row) for row in self._store.read.execute(statement, tuple(states))]

    def count(self) -> dict[str, int]:
        """Jobs by state."""
        found: dict[str, int] = dict.fromkeys(map(str, JobState), 0)
        found.update(self._store.read.execute("SELECT state, count(*) FROM job GROUP BY state"))
        return found

    def claim(self) -> Job | None:
        """The oldest pending job, running from now on."""
        with self._store.write() as tx:
            row = tx.execute(
                f"""UPDATE job SET state = 'running', started_ns = ?, done = 0, problem = NULL
                WHERE id = (SELECT id FROM job WHERE state = 'pending' ORDER BY created_ns LIMIT 1)
                RETURNING {_COLUMNS}""",
                (self._clock.now_ns(),),
            ).fetchone()
        return _job(row) if row else None

    def reclaim(self) -> int:
        """At the daemon's start: what its predecessor was running is pending again."""
        with self._store.write() as tx:
            return tx.execute("UPDATE job SET state = 'pending' WHERE state = 'running'").rowcount

    def progress(self, job: JobId, done: int, total: int | None, note: str = "") -> None:
        with self._store.write() as tx:
            tx.execute(
                "UPDATE job SET done = ?, total = ?, note = ? WHERE id = ? AND state = 'running'",
                (done, total, note, job),
            )

    def finish(
        self,
        job: JobId,
        to: JobState,
        *,
        problem: Mapping[str, object] | None = None,
        result: Mapping[str, object] | None = None,
    ) -> Job:
        """Ends a running or pending job; one that was ended meanwhile stays as it is."""
        with self._store.write() as tx:
            row = tx.execute(f"SELECT {_COLUMNS} FROM job WHERE id = ?", (job,)).fetchone()
            if row is not None and _job(row).state in ACTIVE:
                check(_job(row), to)
                tx.execute(
                    """UPDATE job SET state = ?, finished_ns = ?, problem = ?, result = ?, note = ''
                    WHERE id = ?""",
                    (to.value, self._clock.now_ns(), _json(problem), _json(result), job),
                )
        return self.get(job)

    def retry(self, job: str) -> Job:
        """Makes an ended job pending again. Raises NotFound, or Busy when it has not ended."""
        found = self.get(job)
        if found.state in ACTIVE or found.state is JobState.COMPLETED:
            raise Busy(f"job {found.id} is {found.state}", hint="only failed or cancelled jobs")
        with self._store.write() as tx:
            tx.execute(
                """UPDATE job SET state = 'pending', started_ns = NULL, finished_ns = NULL,
                problem = NULL, done = 0 WHERE id = ? AND state IN ('failed', 'cancelled')""",
                (found.id,),
            )
        return self.get(found.id)


def _json(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else json.dumps(value)


def _job(row: tuple[object, ...]) -> Job:
    values = list(row)
    values[3] = json.loads(str(values[3]))
    values[4] = JobState(str(values[4]))
    for place in (12, 13):
        values[place] = None if values[place] is None else json.loads(str(values[place]))
    return Job(*values)  # type: ignore[arg-type]
