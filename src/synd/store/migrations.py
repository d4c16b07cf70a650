"""Numbered steps from older schemas to the present one; never edited after a release.

A step is SQL text run in one transaction. schema.sql makes the newest schema at once; a test proves
that every path ends in the same tables.
"""

from __future__ import annotations

import importlib.resources

from synd.store.states import ACTIVE_SQL

SCHEMA_VERSION = 4

SCHEMA_FILES = ("schema.sql", "jobs.sql", "local.sql", "tracked.sql", "curation.sql")
"""Together the present schema."""


def script(*names: str) -> str:
    """The statements of these files of this folder."""
    folder = importlib.resources.files("synd.store")
    text = "\n".join(folder.joinpath(name).read_text() for name in names)
    return text.replace("{active}", ACTIVE_SQL)


_JOBS = f"""
DROP INDEX job_by_state;
ALTER TABLE job RENAME TO job_before;
{script("jobs.sql")}
INSERT INTO job (id, kind, subject, arguments, state, created_ns, started_ns, updated_ns, finished_ns,
 done, total, unit, note, problem, result)
SELECT id, kind, subject, arguments, state, created_ns, started_ns,
 coalesce(finished_ns, started_ns, created_ns), finished_ns, done, total, unit, note, problem, result
FROM job_before;
DROP TABLE job_before;
CREATE INDEX IF NOT EXISTS local_gone ON local (parent, name) WHERE gone = 1;
CREATE INDEX IF NOT EXISTS local_by_heir ON local (heir) WHERE heir IS NOT NULL;
"""
"""What ran has no owner and no lease then: the start makes it a new attempt."""

MIGRATIONS: tuple[tuple[int, str], ...] = (
    (2, script("local.sql", "tracked.sql")),
    (3, _JOBS),
    (4, script("curation.sql")),
)
