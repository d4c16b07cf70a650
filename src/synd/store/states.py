"""The states of a job that count as active: one constant for the queue and for its unique index."""

from __future__ import annotations

from typing import Final

ACTIVE: Final = ("pending", "running")
"""A workflow key has at most one job in these states (`job_active` in jobs.sql)."""

ACTIVE_SQL: Final = "state IN ({})".format(", ".join(f"'{state}'" for state in ACTIVE))
"""The condition as the index has it: a statement that spells it so may use the index."""
