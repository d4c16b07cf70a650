"""Numbered steps from older schemas to the present one; never edited after a release.

A step is SQL text run in one transaction. schema.sql makes the newest schema at once; a test proves
that every path ends in the same tables.
"""

from __future__ import annotations

SCHEMA_VERSION = 1

MIGRATIONS: tuple[tuple[int, str], ...] = ()
