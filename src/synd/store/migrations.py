"""Numbered steps from older schemas to the present one; never edited after a release.

A step is SQL text run in one transaction. schema.sql makes the newest schema at once; a test proves
that every path ends in the same tables.
"""

from __future__ import annotations

import importlib.resources

SCHEMA_VERSION = 2

SCHEMA_FILES = ("schema.sql", "local.sql", "tracked.sql")
"""Together the present schema."""


def script(*names: str) -> str:
    """The statements of these files of this folder."""
    folder = importlib.resources.files("synd.store")
    return "\n".join(folder.joinpath(name).read_text() for name in names)


MIGRATIONS: tuple[tuple[int, str], ...] = ((2, script("local.sql", "tracked.sql")),)
