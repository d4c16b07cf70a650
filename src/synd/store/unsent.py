"""What is unsent, what is kept here, what can come back: local changes counted and listed for people.

Reading only, but for `forget_recovered`. The rows themselves are `synd.store.local`'s.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import NamedTuple

from synd.errors import NotFound
from synd.store.connect import Store
from synd.store.local import FIELDS, Local

# The service keeps no empty files: their bytes wait for nothing.
_EMPTY = """kind = 'file' AND gone = 0 AND staged > 0 AND size = 0
 AND (entity IS NULL OR (edit > sent AND state IN ('clean', 'blocked')))"""
_KEPT_HERE = f"gone = 0 AND (local_only = 1 OR ({_EMPTY}))"
_UNSENT = f"state <> 'clean' AND local_only = 0 AND NOT ({_EMPTY})"
_COLUMNS = ", ".join(FIELDS)

_COUNTS = f"""SELECT state, count(*),
 coalesce(sum(CASE WHEN gone = 0 AND staged > 0 AND edit > sent THEN size ELSE 0 END), 0), min(since_ns)
 FROM local WHERE {_UNSENT} GROUP BY state"""
_STUCK = f"""SELECT {_COLUMNS} FROM local WHERE {_UNSENT} AND state <> 'waiting'
 ORDER BY since_ns, id LIMIT ?"""
_WAITING = f"""SELECT {_COLUMNS} FROM local WHERE {_UNSENT} AND state = 'waiting'
 ORDER BY since_ns, id LIMIT ?"""
_KEPT = f"SELECT {_COLUMNS} FROM local WHERE {_KEPT_HERE} ORDER BY parent, name LIMIT ?"
_COUNT_KEPT = f"SELECT count(*) FROM local WHERE {_KEPT_HERE}"

_RECOVERED = "SELECT id, at_ns, path, reason, entity, file, size FROM recovered"


class Counts(NamedTuple):
    """Unsent changes by state. What is kept here is none of them."""

    waiting: int = 0
    blocked: int = 0
    held: int = 0
    bytes: int = 0
    since_ns: int = 0
    """When the oldest was made, UTC ns; 0: there is none."""

    @property
    def all(self) -> int:
        return self.waiting + self.blocked + self.held


class RecoveredRow(NamedTuple):
    """A row of `recovered`; local.sql explains the fields."""

    id: int
    at_ns: int
    path: str
    reason: str
    entity: int | None
    file: str
    size: int


class Unsents:
    """Views of the `local` and `recovered` tables. Any thread."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def counts(self) -> Counts:
        """Cost: the unsent rows, counted by SQLite."""
        return _counted(self._store.read)

    def unsent(self, limit: int = -1) -> list[Local]:
        """What is unsent: blocked and held rows first, then the others, each the oldest first."""
        read = self._store.read
        found = read.execute(_STUCK, (limit,)).fetchall()
        left = limit - len(found) if limit >= 0 else limit
        found += read.execute(_WAITING, (left,)).fetchall()
        return [Local._make(row) for row in found]

    def kept_here(self, limit: int = -1) -> list[Local]:
        """What is never sent: marked so, or empty."""
        return [Local._make(r) for r in self._store.read.execute(_KEPT, (limit,)).fetchall()]

    def count_kept_here(self) -> int:
        """Cost: a walk over all rows of local changes."""
        found: int = self._store.read.execute(_COUNT_KEPT).fetchone()[0]
        return found

    def recovered(self, limit: int = -1) -> list[RecoveredRow]:
        """Newest first."""
        rows = self._store.read.execute(
            f"{_RECOVERED} ORDER BY at_ns DESC, id DESC LIMIT ?", (limit,)
        ).fetchall()
        return [RecoveredRow._make(row) for row in rows]

    def recovered_one(self, number: int) -> RecoveredRow:
        """Raises NotFound."""
        row = self._store.read.execute(f"{_RECOVERED} WHERE id = ?", (number,)).fetchone()
        if row is None:
            raise NotFound(
                f"nothing was recovered under {number}", hint="`synd restore --list` shows all"
            )
        return RecoveredRow._make(row)


def counts_in(database: Path) -> Counts | None:
    """The counts in a state.db that no daemon has open; None when that cannot be told."""
    try:
        line = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)
        with contextlib.closing(line):
            return _counted(line)
    except (sqlite3.Error, OSError):
        return None


def _counted(connection: sqlite3.Connection) -> Counts:
    by_state: dict[str, int] = {}
    size, since = 0, 0
    for state, number, more, oldest in connection.execute(_COUNTS).fetchall():
        by_state[state] = number
        size += more
        since = min(since or oldest, oldest)
    return Counts(bytes=size, since_ns=since, **by_state)


def forget_recovered(tx: sqlite3.Connection, number: int) -> bool:
    """It came back, or is kept no longer; false when it had gone before."""
    return tx.execute("DELETE FROM recovered WHERE id = ?", (number,)).rowcount > 0


def is_kept_here(local: Local) -> bool:
    """Whether a row is never sent, as the statements above say it."""
    if local.gone:
        return False
    empty = (
        local.kind == "file"
        and local.staged > 0
        and local.size == 0
        and (
            local.entity is None
            or (local.edit > local.sent and local.state in ("clean", "blocked"))
        )
    )
    return bool(local.local_only) or empty
