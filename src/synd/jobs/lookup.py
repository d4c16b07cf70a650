"""What can be asked of the queue. Nothing here changes a row."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable

from synd.errors import NotFound
from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.jobs.rows import SELECT, job_of
from synd.store.connect import Store
from synd.store.states import ACTIVE_SQL


class Lookup:
    """Jobs in the store, by reading. Any thread, any process."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def get(self, job: str) -> Job:
        """The job of that id, or of the one id that begins so. Raises NotFound."""
        statement = SELECT + "WHERE id >= ? AND id < ? ORDER BY id LIMIT 2"
        rows = self._store.read.execute(statement, (job, f"{job}\U0010ffff")).fetchall()
        if rows and job and (rows[0][0] == job or len(rows) == 1):
            return job_of(rows[0])
        raise NotFound(f"there is no job {job!r}", hint="`synd jobs --all` lists them")

    def newest(self, job: str) -> Job:
        """The last attempt at what a job tried. Raises NotFound."""
        found = self.get(job)
        while found.superseded_by is not None:
            found = self.get(found.superseded_by)
        return found

    def active(self, workflow_key: str) -> Job | None:
        """The job that is making this now or will."""
        row = self._store.read.execute(
            f"{SELECT} WHERE workflow_key = ? AND {ACTIVE_SQL}", (workflow_key,)
        ).fetchone()
        return None if row is None else job_of(row)

    def latest(self, workflow_key: str) -> Job | None:
        """The job that is making this, or the last one that was to. Cost: a look at all jobs."""
        row = self._store.read.execute(
            f"{SELECT} WHERE workflow_key = ? ORDER BY created_ns DESC, attempt DESC LIMIT 1",
            (workflow_key,),
        ).fetchone()
        return None if row is None else job_of(row)

    def all(
        self,
        states: Collection[JobState] = tuple(JobState),
        *,
        kinds: Collection[str] | None = None,
        limit: int | None = None,
    ) -> list[Job]:
        """Newest first, at most `limit`."""
        rows = self._store.read.execute(
            SELECT  # noqa: S608 - constants
            + """WHERE +state IN (SELECT value FROM json_each(?))
            AND (?2 IS NULL OR kind IN (SELECT value FROM json_each(?2)))
            ORDER BY created_ns DESC, id DESC LIMIT ?3""",
            (
                json.dumps(list(states)),
                None if kinds is None else json.dumps(list(kinds)),
                -1 if limit is None else limit,
            ),
        )
        return [job_of(row) for row in rows]

    def needs(self, job: str) -> list[JobId]:
        """What a job comes after and waits for."""
        rows = self._store.read.execute(
            "SELECT needs FROM job_after WHERE job = ? ORDER BY needs", (job,)
        )
        return [JobId(row[0]) for row in rows]

    def count(self) -> dict[str, int]:
        """Jobs by state."""
        found: dict[str, int] = dict.fromkeys(map(str, JobState), 0)
        found.update(self._store.read.execute("SELECT state, count(*) FROM job GROUP BY state"))
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        """Jobs by kind, then by state. Kinds without a job are not there."""
        found: dict[str, dict[str, int]] = {}
        rows = self._store.read.execute(
            "SELECT kind, state, count(*) FROM job GROUP BY kind, state ORDER BY kind"
        )
        for kind, state, number in rows:
            found.setdefault(kind, dict.fromkeys(map(str, JobState), 0))[state] = number
        return found

    def next_due_ns(self, kinds: Iterable[str]) -> int | None:
        """When the next job of these kinds may begin, if time alone keeps it; None: there is none."""
        row = self._store.read.execute(
            """SELECT min(not_before_ns) FROM job INDEXED BY job_due WHERE state = 'pending' AND waits = 0
            AND kind IN (SELECT value FROM json_each(?))""",
            (json.dumps(list(kinds)),),
        ).fetchone()
        found: int | None = row[0]
        return found

    def cancelling(self, owner: str) -> list[JobId]:
        """The running jobs of an owner whose end was asked for."""
        rows = self._store.read.execute(
            "SELECT id FROM job WHERE state = 'running' AND owner = ? AND cancel = 1", (owner,)
        )
        return [JobId(row[0]) for row in rows]

    def retryable(self, failures: Collection[Failure] | None = None) -> list[Job]:
        """Failed jobs that nobody tries again, oldest first; with `failures`, those of these classes."""
        rows = self._store.read.execute(
            SELECT  # noqa: S608 - constants
            + """WHERE state = 'failed' AND superseded_by IS NULL
            AND (?1 IS NULL OR failure IN (SELECT value FROM json_each(?1)))
            ORDER BY created_ns, id""",
            (None if failures is None else json.dumps(list(failures)),),
        )
        return [job_of(row) for row in rows]
