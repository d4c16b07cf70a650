"""Rows of `conflict` ↔ values."""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from synd.errors import NotFound
from synd.ids import EntityId, Version
from synd.store.connect import Store

_FIELDS = """id, at_ns, entity, path, reason, kept, copy, copy_name, base_version, remote_version,
 resolved_ns"""
_LIST = f"SELECT {_FIELDS} FROM conflict WHERE ? OR resolved_ns = 0 ORDER BY id DESC"
_GET = f"SELECT {_FIELDS} FROM conflict WHERE id = ?"


class ConflictRow(NamedTuple):
    """A row of `conflict`; local.sql explains the fields. Field order is that of the statements."""

    id: int
    at_ns: int
    entity: EntityId | None
    path: str
    reason: str
    kept: str
    copy: int | None
    copy_name: str
    base_version: Version
    remote_version: Version
    resolved_ns: int


def list_conflicts(store: Store, *, resolved: bool) -> list[ConflictRow]:
    """Newest first; those that are over only when asked for."""
    return [ConflictRow._make(row) for row in store.read.execute(_LIST, (resolved,)).fetchall()]


def get_conflict(store: Store, number: int) -> ConflictRow:
    """Raises NotFound."""
    row = store.read.execute(_GET, (number,)).fetchone()
    if row is None:
        raise NotFound(f"there is no conflict {number}", hint="`synd conflicts` lists them")
    return ConflictRow._make(row)


def settle_conflict(tx: sqlite3.Connection, number: int, kept: str, now_ns: int) -> None:
    """Nothing is left to decide."""
    tx.execute("UPDATE conflict SET kept = ?, resolved_ns = ? WHERE id = ?", (kept, now_ns, number))
