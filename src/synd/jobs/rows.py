"""Rows of the table `job` as values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from synd.ids import JobId
from synd.jobs.failures import parse
from synd.jobs.model import Job, JobState

COLUMNS: Final = """id, kind, subject, arguments, state, created_ns, started_ns, finished_ns, done, total,
 unit, note, problem, result, workflow_key, priority, attempt, retry_of, superseded_by, waits,
 not_before_ns, updated_ns, owner, lease_until_ns, cancel, stage, stages, failure"""
"""In the order of the fields of `Job`."""

SELECT: Final = f"SELECT {COLUMNS} FROM job "  # noqa: S608 - a constant

_STATES: Final = {str(state): state for state in JobState}


_decode = json.JSONDecoder().raw_decode


def job_of(row: Sequence[Any]) -> Job:
    """The job of a row of COLUMNS. Cost: some 5 µs, as lists hold thousands."""
    problem, result, stages, failure = row[12], row[13], row[26], row[27]
    return Job(
        row[0], row[1], row[2], _decode(row[3])[0], _STATES[row[4]], row[5], row[6], row[7], row[8], row[9],
        row[10], row[11],
        None if problem is None else json.loads(problem),
        None if result is None else json.loads(result),
        row[14], row[15], row[16],
        None if row[17] is None else JobId(row[17]),
        None if row[18] is None else JobId(row[18]),
        row[19], row[20], row[21], row[22], row[23],
        row[24] == 1,
        row[25],
        () if stages == "[]" else tuple(json.loads(stages)),
        None if failure is None else parse(failure),
    )  # fmt: skip


def as_json(value: Mapping[str, object] | None) -> str | None:
    return None if value is None else json.dumps(value)
