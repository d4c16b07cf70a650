"""The queue in the `local` table: whose turn it is, who waits for whom, which deletes are held.

Rows that wait for another (a folder that is not on the service, the delete of the folder above) are
parked: their time is so far ahead that nothing else can have set it. Who they waited for wakes them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable
from typing import NamedTuple

from synd.clock import NS
from synd.ids import EntityId
from synd.store.connect import Store
from synd.store.local import FIELDS, Local

PARK_NS = 86_400 * NS
_PARKED_NS = PARK_NS // 2
"""Back-off and debounce end long before; the clock may be set by a few hours."""

_COLUMNS = ", ".join(FIELDS)

# An approved delete is its own heir: nothing else of a row that has an entity says so, and rows come to
# have heirs only when they lose theirs.
_READY = f"""SELECT {_COLUMNS} FROM local
 WHERE state = 'waiting' AND not_before_ns <= ? AND (? OR size < ? OR edit = sent OR gone = 1)
  AND id NOT IN (SELECT value FROM json_each(?))
  AND (? IS NULL OR id IN (SELECT value FROM json_each(?)))
 ORDER BY not_before_ns, id LIMIT ?"""
_LOSERS = f"SELECT {_COLUMNS} FROM local WHERE heir = ? AND id <> heir"
_LEFT_OVER = f"""SELECT {_COLUMNS} FROM local WHERE gone = 1 AND entity IS NULL AND NOT EXISTS
 (SELECT 1 FROM local AS h WHERE h.id = local.heir AND h.state <> 'clean')"""
_AT_REST = f"""SELECT {_COLUMNS} FROM local WHERE kind = 'symlink' AND entity IS NULL AND gone = 0
 AND local_only = 0 AND state = 'clean'"""
# Each half has an index of its own.
_BELOW = """SELECT id FROM local WHERE parent = ?1 AND gone = 0
 UNION ALL SELECT id FROM local WHERE parent = ?1 AND gone = 1"""
_ALL_CHILDREN = f"SELECT {_COLUMNS} FROM local WHERE id IN ({_BELOW})"
_PENDING = """SELECT base_parent, count(*) FROM local
 WHERE gone = 1 AND entity IS NOT NULL AND state = 'waiting' AND (heir IS NULL OR heir <> id)
 GROUP BY base_parent"""
_HOLD = """UPDATE local SET state = 'held' WHERE gone = 1 AND entity IS NOT NULL
 AND state = 'waiting' AND (heir IS NULL OR heir <> id) AND base_parent = ?"""
_KNOWN = """WITH RECURSIVE below (id) AS (VALUES (?) UNION ALL
 SELECT e.id FROM entity AS e JOIN below ON e.parent = below.id WHERE e.listed = 1)
 SELECT count(*) - 1 FROM below"""


class Save(NamedTuple):
    """A row of `save`."""

    local: int
    edit: int
    staged: int


class Outbox:
    """Reading: any thread. Writing: inside a transaction of `Locals`; none changes who claims what."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ready(
        self,
        tx: sqlite3.Connection,
        now_ns: int,
        limit: int,
        *,
        without: Collection[int] = (),
        among: Collection[int] | None = None,
        below_bytes: int | None = None,
    ) -> list[Local]:
        """Rows whose turn has come, oldest first; with `below_bytes` without those that have more to
        send, with `among` only of those.
        """
        some = None if among is None else json.dumps(list(among))
        small = (below_bytes is None, below_bytes or 0)
        found = tx.execute(
            _READY, (now_ns, *small, json.dumps(list(without)), some, some, limit)
        ).fetchall()
        return [Local._make(row) for row in found]

    def losers(self, heir: int) -> list[Local]:
        """Rows whose name and entity `heir` took over while they were being sent. Cost: all rows."""
        return [Local._make(r) for r in self._store.read.execute(_LOSERS, (heir,)).fetchall()]

    def heirs(self, tx: sqlite3.Connection, numbers: Iterable[int]) -> set[int]:
        """Heirs of these rows, and theirs."""
        found: set[int] = set()
        waiting = list(numbers)
        while waiting:
            row = tx.execute("SELECT heir FROM local WHERE id = ?", (waiting.pop(),)).fetchone()
            if row is not None and row[0] is not None and row[0] not in found:
                found.add(row[0])
                waiting.append(row[0])
        return found

    def next_at(self, now_ns: int) -> int | None:
        """UTC ns at which the next row's turn comes; None when none but parked ones waits."""
        found = self._store.read.execute(
            "SELECT min(not_before_ns) FROM local WHERE state = 'waiting' AND not_before_ns > ?",
            (now_ns,),
        ).fetchone()[0]
        return None if found is None or found > now_ns + _PARKED_NS else int(found)

    def waiting(self) -> list[int]:
        """Numbers of all rows that wait."""
        rows = self._store.read.execute("SELECT id FROM local WHERE state = 'waiting'").fetchall()
        return [row[0] for row in rows]

    def any_waits(self) -> bool:
        found = self._store.read.execute("SELECT 1 FROM local WHERE state = 'waiting' LIMIT 1")
        return found.fetchone() is not None

    # Waiting for others.

    def park(self, tx: sqlite3.Connection, number: int, now_ns: int) -> None:
        tx.execute(
            "UPDATE local SET not_before_ns = ? WHERE id = ? AND state = 'waiting'",
            (now_ns + PARK_NS, number),
        )

    def wake_children(self, tx: sqlite3.Connection, parent: int, now_ns: int) -> None:
        """What was parked for a folder may go on."""
        tx.execute(
            f"""UPDATE local SET not_before_ns = ?2 WHERE id IN ({_BELOW}) AND state = 'waiting'
            AND not_before_ns > ?3""",
            (parent, now_ns, now_ns + _PARKED_NS),
        )

    def wake_parked(self, tx: sqlite3.Connection, now_ns: int) -> int:
        """Wakes what is parked for nothing; how many. Cost: the parked rows."""
        return tx.execute(
            """UPDATE local SET not_before_ns = ? WHERE state = 'waiting' AND not_before_ns > ?
            AND NOT EXISTS (SELECT 1 FROM local AS p WHERE p.id = local.parent
             AND (p.entity IS NULL OR p.gone = 1))
            AND NOT EXISTS (SELECT 1 FROM local AS p WHERE p.entity = local.parent AND p.gone = 1)""",
            (now_ns, now_ns + _PARKED_NS),
        ).rowcount

    def wake_all(self, tx: sqlite3.Connection, now_ns: int, *, over_ns: int = 0) -> None:
        """Ends the waiting of all rows, or of those that would wait longer than that."""
        tx.execute(
            "UPDATE local SET not_before_ns = ? WHERE state = 'waiting' AND not_before_ns > ?",
            (now_ns, now_ns + over_ns),
        )

    def hurry(self, tx: sqlite3.Connection, number: int, now_ns: int) -> None:
        """Ends the waiting of one row."""
        tx.execute(
            """UPDATE local SET not_before_ns = ? WHERE id = ? AND state = 'waiting'
            AND not_before_ns > ?""",
            (now_ns, number, now_ns),
        )

    def unblock(self, tx: sqlite3.Connection, number: int | None, now_ns: int) -> None:
        """Blocked rows are tried again: one, or all. Empty files stay as they are."""
        tx.execute(
            """UPDATE local SET state = 'waiting', not_before_ns = ?, tries = 0
            WHERE state = 'blocked' AND (? IS NULL OR id = ?)
            AND NOT (gone = 0 AND staged > 0 AND size = 0 AND problem LIKE '%"Empty"%')""",
            (now_ns, number, number),
        )

    def all_children(self, tx: sqlite3.Connection, parent: int) -> list[Local]:
        """Rows of a folder, those without a name too. Cost: all rows."""
        return [Local._make(row) for row in tx.execute(_ALL_CHILDREN, (parent,)).fetchall()]

    # Deletes that wait for a yes.

    def pending_deletes(self, tx: sqlite3.Connection) -> list[tuple[int, int]]:
        """(folder, deletes in it that nobody approved yet)."""
        return [(r[0] or 0, r[1]) for r in tx.execute(_PENDING).fetchall()]

    def known_below(self, tx: sqlite3.Connection, project: EntityId) -> int:
        """Entities known below a project. Cost: a row each."""
        found: int = tx.execute(_KNOWN, (project,)).fetchone()[0]
        return found

    def hold_deletes(self, tx: sqlite3.Connection, folder: int) -> int:
        """Holds the deletes in a folder; how many."""
        return tx.execute(_HOLD, (folder,)).rowcount

    def approve(self, tx: sqlite3.Connection, number: int | None, now_ns: int) -> int:
        """Lets held deletes go: one, or all; how many."""
        return tx.execute(
            """UPDATE local SET state = 'waiting', heir = id, not_before_ns = ?
            WHERE state = 'held' AND gone = 1 AND (? IS NULL OR id = ?)""",
            (now_ns, number, number),
        ).rowcount

    # The start.

    def left_over(self, tx: sqlite3.Connection) -> list[Local]:
        """Rows that are nobody's any more, but for what an attempt to create them may have made."""
        rows = tx.execute(_LEFT_OVER).fetchall()
        return [Local._make(row) for row in rows]

    def links_at_rest(self, tx: sqlite3.Connection) -> list[Local]:
        """Symlinks that are to be sent once what they lead to is. Cost: all rows."""
        return [Local._make(row) for row in tx.execute(_AT_REST).fetchall()]

    # Saves that become versions of their own.

    def next_save(self, local: int, after_edit: int) -> Save | None:
        found = self._store.read.execute(
            "SELECT local, edit, staged FROM save WHERE local = ? AND edit > ? ORDER BY edit LIMIT 1",
            (local, after_edit),
        ).fetchone()
        return None if found is None else Save._make(found)

    def drop_saves(self, tx: sqlite3.Connection, local: int, up_to: int) -> list[int]:
        """Forgets saves; returns the numbers of their staging files."""
        rows = tx.execute(
            "DELETE FROM save WHERE local = ? AND edit <= ? RETURNING staged", (local, up_to)
        ).fetchall()
        return [row[0] for row in rows]

    def move_saves(self, tx: sqlite3.Connection, local: int, to: int) -> None:
        tx.execute("UPDATE save SET local = ? WHERE local = ?", (to, local))
