"""Rows of folders and views ↔ values: when a listing was made, confirmed and looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from synd.ids import EntityId
from synd.store.connect import Store


class FolderRow(NamedTuple):
    """What is known of a folder's listing; times in UTC ns, 0 for never."""

    id: EntityId
    listed_ns: int
    checked_ns: int
    visited_ns: int
    total: int
    sum_bytes: int
    project: EntityId


_COLUMNS = "id, listed_ns, checked_ns, visited_ns, total, sum_bytes, project"


class Folders:
    """The folder and view tables."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def find(self, folder: int) -> FolderRow | None:
        statement = f"SELECT {_COLUMNS} FROM folder WHERE id = ?"
        found = self._store.read.execute(statement, (folder,)).fetchone()
        return FolderRow._make(found) if found else None

    def is_listed(self, folder: int) -> bool:
        statement = "SELECT listed_ns FROM folder WHERE id = ?"
        found = self._store.read.execute(statement, (folder,)).fetchone()
        return found is not None and found[0] > 0

    def set_listed(self, folder: int, at_ns: int, total: int, sum_bytes: int, project: int) -> None:
        """A whole listing, begun at `at_ns`, is in the entity table."""
        with self._store.write() as tx:
            tx.execute(
                """INSERT INTO folder (id, listed_ns, checked_ns, total, sum_bytes, project)
                VALUES (?, ?, ?, ?, ?, ?)
                ON CONFLICT (id) DO UPDATE SET listed_ns = excluded.listed_ns,
                 checked_ns = excluded.checked_ns, total = excluded.total,
                 sum_bytes = excluded.sum_bytes, project = excluded.project""",
                (folder, at_ns, at_ns, total, sum_bytes, project),
            )

    def set_checked(self, checks: Sequence[tuple[int, int]]) -> None:
        """(folder, UTC ns) pairs: the service confirmed the listing then."""
        with self._store.write() as tx:
            tx.executemany(
                "UPDATE folder SET checked_ns = ? WHERE id = ?", [(ns, f) for f, ns in checks]
            )

    def set_visited(self, visits: list[tuple[int, int]]) -> None:
        """(folder, UTC ns) pairs: somebody looked then, also where the listing is still under way."""
        with self._store.write() as tx:
            tx.executemany(
                """INSERT INTO folder (id, visited_ns) VALUES (?, ?)
                ON CONFLICT (id) DO UPDATE SET visited_ns = excluded.visited_ns""",
                visits,
            )

    def unlist(self, folder: int) -> None:
        """The listing is not to be trusted any more; the next look asks the service."""
        with self._store.write() as tx:
            tx.execute("UPDATE folder SET listed_ns = 0 WHERE id = ?", (folder,))

    def recently_visited(self, since_ns: int, limit: int) -> list[FolderRow]:
        """Folders looked at since then, newest look first."""
        statement = f"""SELECT {_COLUMNS} FROM folder WHERE visited_ns >= ? AND listed_ns > 0
            ORDER BY visited_ns DESC LIMIT ?"""
        rows = self._store.read.execute(statement, (since_ns, limit)).fetchall()
        return [FolderRow._make(row) for row in rows]

    def view_of(self, project: int) -> tuple[EntityId, int] | None:
        """(view, UTC ns it was read) of a project; view 0 when there is none; None: not looked yet."""
        statement = "SELECT view, read_ns FROM view WHERE project = ?"
        found = self._store.read.execute(statement, (project,)).fetchone()
        return (EntityId(found[0]), found[1]) if found else None

    def set_view(self, project: int, view: int, read_ns: int = 0) -> None:
        with self._store.write() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO view (project, view, read_ns) VALUES (?, ?, ?)",
                (project, view, read_ns),
            )
