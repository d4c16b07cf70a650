"""The asynchronous job frame: start gives a token, get gives 202 or the result (synapse-rest.md 5).

A resource registers a function per path (`Jobs.register`); it runs on a thread, returns the response object,
or raises RefusedError, which `get` answers with its own status. A finished job is a row, so it outlives a restart.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from synd.clock import format_time
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.web import Json, RefusedError, missing

if TYPE_CHECKING:
    from synd.registry.access import Caller

log = logging.getLogger("synd.registry.jobs")

LINGER_S = 0.25
"""How long `get` waits for a running job before it says 202: most jobs are done by then, and the official
client would sleep a whole second."""

Work = Callable[[], Json]


class Jobs:
    """All jobs of a registry."""

    def __init__(self, db: Database, pool: ThreadPoolExecutor) -> None:
        self._db = db
        self._pool = pool
        self._running: dict[int, Future[None]] = {}
        self._guard = threading.Lock()
        with db.write() as tx:
            tx.execute(
                "UPDATE job SET state = 'FAILED', status = 400, changed_ns = ?,"
                " reason = 'The registry was stopped while the job ran.'"
                " WHERE state = 'PROCESSING'",
                (now_ns(),),
            )

    def start(self, caller: Caller, request: dict[str, Json], work: Work) -> str:
        """The token of a job that now runs `work` on a thread."""
        now = now_ns()
        with self._db.write() as tx:
            cursor = tx.execute(
                "INSERT INTO job (user_id, state, request, started_ns, changed_ns)"
                " VALUES (?, 'PROCESSING', ?, ?, ?)",
                (caller.user, json.dumps(request), now, now),
            )
        job = int(cursor.lastrowid or 0)
        with self._guard:
            self._running[job] = self._pool.submit(self._run, job, work)
        return str(job)

    def _run(self, job: int, work: Work) -> None:
        try:
            response = json.dumps(work())
            outcome: tuple[Any, ...] = ("COMPLETE", response, None, None)
        except RefusedError as error:
            outcome = ("FAILED", None, error.status, error.body()["reason"])
        except Exception as error:
            log.exception("job.failed")
            outcome = ("FAILED", None, 400, f"The job failed: {type(error).__name__}: {error}")
        with self._db.write() as tx:
            tx.execute(
                "UPDATE job SET state = ?, response = ?, status = ?, reason = ?, changed_ns = ?"
                " WHERE id = ?",
                (*outcome, now_ns(), job),
            )
        with self._guard:
            self._running.pop(job, None)

    async def linger(self, token: str) -> None:
        """Waits a moment for a running job. Holds the event loop's thread for nothing."""
        with self._guard:
            future = self._running.get(int(token)) if token.isdecimal() else None
        if future is not None:
            await asyncio.wait([asyncio.wrap_future(future)], timeout=LINGER_S)

    def status(self, caller: Caller, token: str) -> dict[str, Json]:
        """The AsynchronousJobStatus of a job of the caller. Raises RefusedError 404, 403."""
        row = (
            self._db.one(
                "SELECT id, user_id, state, request, response, status, reason, started_ns, changed_ns"
                " FROM job WHERE id = ?",
                (int(token),),
            )
            if token.isdecimal()
            else None
        )
        if row is None:
            raise missing(f"The job {token} does not exist.")
        if row[1] != caller.user:
            raise RefusedError(403, "Only the user who started a job may see it.")
        return {
            "jobState": row[2],
            "jobCanceling": False,
            "jobId": token,
            "requestBody": json.loads(row[3]),
            "responseBody": json.loads(row[4]) if row[4] else None,
            "etag": new_etag(),
            "startedByUserId": row[1],
            "startedOn": format_time(row[7]),
            "changedOn": format_time(row[8]),
            "errorMessage": row[6] if row[2] == "FAILED" else None,
            "errorDetails": "" if row[2] == "FAILED" else None,
            "exception": "RefusedError" if row[2] == "FAILED" else None,
            "runtimeMS": (row[8] - row[7]) // 1_000_000,
            "progressMessage": "",
            "progressCurrent": 0,
            "progressTotal": 1,
            "failureStatus": row[5],
        }
