"""Rows of `record_set` ↔ values: what came of saving a record set's CSV."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

from synd.ids import EntityId, Version
from synd.store.connect import Store

_GET = """SELECT entity, local, edit, at_ns, state, version, session, report FROM record_set
 WHERE entity = ?"""
_REPORTED = """SELECT e.id FROM record_set AS r JOIN entity AS e ON e.id = r.entity
 WHERE e.parent = ? AND e.listed = 1 AND r.report IS NOT NULL AND e.id > ? ORDER BY e.id"""
_BEGIN = """INSERT INTO record_set (entity, local, edit, at_ns, state, session)
 VALUES (?, ?, ?, ?, 'pending', ?)
 ON CONFLICT (entity) DO UPDATE SET local = excluded.local, edit = excluded.edit,
  at_ns = excluded.at_ns, state = excluded.state, version = 0, session = excluded.session"""

_SAY = """INSERT INTO record_set (entity, local, edit, at_ns, state, version, report)
 VALUES (?, ?, ?, ?, ?, ?, ?)
 ON CONFLICT (entity) DO UPDATE SET local = excluded.local, edit = excluded.edit,
  at_ns = excluded.at_ns, state = excluded.state, version = excluded.version, report = excluded.report"""


class Curation(StrEnum):
    """What may be said of the rows. The values are what the database and the attribute hold."""

    VALID = "valid"
    INVALID = "invalid"
    PENDING = "pending"
    """The service has not said of every row what it thinks."""
    NO_SCHEMA = "no-schema"
    """No JSON schema is bound: there is nothing to violate."""
    INCOMPLETE = "incomplete"
    """What the service said could not be read to its end."""
    REFUSED = "refused"
    """It was not looked at: the CSV cannot be used as it is."""


class Saved(NamedTuple):
    """A row of `record_set`; curation.sql explains the fields. Field order is that of the statement."""

    entity: EntityId
    local: int
    edit: int
    at_ns: int
    state: str
    version: Version
    session: str
    report: str | None


class Curations:
    """The last save of each record set. Reading: any thread. Writing: inside a transaction."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, entity: int) -> Saved | None:
        found = self._store.read.execute(_GET, (entity,)).fetchone()
        return Saved._make(found) if found else None

    def reported_in(self, folder: int, after: int) -> list[EntityId]:
        """Record sets listed in a folder (an entity) of which there is a report, in order of id, after that id."""
        return [row[0] for row in self._store.read.execute(_REPORTED, (folder, after)).fetchall()]

    def begin(
        self,
        tx: sqlite3.Connection,
        entity: EntityId,
        local: int,
        edit: int,
        now_ns: int,
        session: str,
    ) -> None:
        """A grid session was made for an edit. The report of the edit before stays until there is another."""
        tx.execute(_BEGIN, (entity, local, edit, now_ns, session))

    def say(
        self,
        tx: sqlite3.Connection,
        entity: EntityId,
        local: int,
        edit: int,
        now_ns: int,
        state: Curation,
        report: Mapping[str, object],
        *,
        version: Version | None = None,
    ) -> None:
        """What was found out about an edit; with the `version` that it has become."""
        text = json.dumps(dict(report))
        tx.execute(_SAY, (entity, local, edit, now_ns, state.value, version or 0, text))

    def became(
        self, tx: sqlite3.Connection, entity: EntityId, local: int, edit: int, version: Version
    ) -> None:
        """What was about to be exported is this version, if it was this edit."""
        tx.execute(
            "UPDATE record_set SET version = ? WHERE entity = ? AND local = ? AND edit = ?",
            (version, entity, local, edit),
        )

    def ended(self, tx: sqlite3.Connection, entity: EntityId) -> None:
        """The grid session is no more."""
        tx.execute("UPDATE record_set SET session = '' WHERE entity = ?", (entity,))
