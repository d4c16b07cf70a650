"""Rows of local changes ↔ values (docs/adr/0006). What they mean is `synd.mirror`'s matter.

Reading runs on the caller's own connection. Functions that change take the transaction they belong
to, since a change here is rarely one statement.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, NamedTuple

from synd.errors import NotFound
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.model import AnnotationValue
from synd.store.connect import Store

FIRST = 1 << 39
"""Local numbers begin here; entity numbers stay below."""


class LocalKind(StrEnum):
    """What a local row is. The values are what the database holds."""

    FILE = "file"
    FOLDER = "folder"
    SYMLINK = "symlink"
    SPECIAL = "special"
    """A named pipe, socket or device: never sent."""


class Sending(StrEnum):
    """Where a row is on its way to the service."""

    CLEAN = "clean"
    """Nothing to send."""
    WAITING = "waiting"
    """To be sent, not before a time; also while it is being sent."""
    BLOCKED = "blocked"
    """Cannot be sent as it is; `problem` says why. Tried again when the row changes or somebody asks."""
    HELD = "held"
    """A delete that waits for a yes (`synd approve`)."""


class Local(NamedTuple):
    """A row of `local`; local.sql explains the fields. Field order is that of the statements below."""

    id: int
    entity: EntityId | None
    born: int
    parent: int
    name: bytes
    kind: str
    gone: int
    local_only: int
    heir: int | None
    mode: int | None
    uid: int | None
    gid: int | None
    rdev: int
    mtime_ns: int | None
    mtime_for: int
    atime_ns: int | None
    ctime_ns: int
    xattrs: str | None
    target: bytes | None
    staged: int
    lazy: int
    size: int
    stamp: str
    edit: int
    sent: int
    hashed: int
    md5: Md5 | None
    handle: FileHandleId | None
    base_parent: int | None
    base_name: str | None
    base_version: Version
    base_etag: str
    base_handle: FileHandleId | None
    base_md5: Md5 | None
    base_size: int | None
    annotations: str | None
    comment: str
    label: str
    state: str
    since_ns: int
    not_before_ns: int
    tries: int
    problem: str | None

    @property
    def key(self) -> int:
        """Inode number, and `parent` of what a folder holds."""
        return self.id if self.born or self.entity is None else self.entity

    @property
    def is_folder(self) -> bool:
        return self.kind == LocalKind.FOLDER

    @property
    def unsent_bytes(self) -> bool:
        """Whether the staging file holds what the service has not."""
        return self.staged > 0 and self.edit > self.sent

    @property
    def wanted_annotations(self) -> Mapping[str, AnnotationValue | None]:
        """Changed annotations, None for removed ones; empty when nothing is to be sent."""
        if self.annotations is None:
            return {}
        found = json.loads(self.annotations)
        return {k: None if v is None else (v[0], tuple(v[1])) for k, v in found.items()}

    @property
    def own_xattrs(self) -> dict[bytes, bytes]:
        if self.xattrs is None:
            return {}
        return {k.encode(): bytes.fromhex(v) for k, v in json.loads(self.xattrs).items()}


FIELDS = Local._fields
_PLACE = frozenset({"entity", "parent", "gone"})
_COLUMNS = ", ".join(FIELDS)
_SELECT = f"SELECT {_COLUMNS} FROM local"
_BY_ID = f"{_SELECT} WHERE id = ?"
_BY_ENTITY = f"{_SELECT} WHERE entity = ?"
_BY_STAGED = f"{_SELECT} WHERE staged = ? AND staged > 0"
_CHILD = f"{_SELECT} WHERE parent = ? AND name = ? AND gone = 0"
_CHILDREN = f"{_SELECT} WHERE parent = ? AND gone = 0 AND id > ? ORDER BY id LIMIT ?"
_TAKEN_OVER = f"""{_SELECT} WHERE parent = ? AND gone = 0 AND born = 0
 AND entity IS NOT NULL ORDER BY entity"""
_READY = f"""{_SELECT} WHERE state = 'waiting' AND not_before_ns <= ?
 ORDER BY not_before_ns LIMIT ?"""
_UNSENT = f"{_SELECT} WHERE state <> 'clean' ORDER BY since_ns, id LIMIT ?"


class Locals:
    """The `local` table. Reading: any thread. Writing: inside a transaction of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # Kept in memory, since every look-up and listing asks: most folders have nothing local.
        # Changed after the commit; a look-up between the two sees the tree as it was before.
        self.claims: dict[int, int] = {}
        """Entity → local row that speaks for it."""
        self.busy: Counter[int] = Counter()
        """Folder key → rows that have a name in it."""
        self._touched: dict[int, tuple[int | None, int | None]] = {}
        # Before the store's writer; held until memory agrees with the commit.
        self._lock = threading.RLock()
        self.reload()

    def reload(self) -> None:
        """Reads anew what is kept in memory."""
        rows = self._store.read.execute("SELECT id, entity, parent, gone FROM local").fetchall()
        self.claims = {entity: number for number, entity, _, _ in rows if entity is not None}
        self.busy = Counter(parent for _, _, parent, gone in rows if not gone)

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction of the store; every writing of rows goes through here."""
        with self._lock:
            try:
                with self._store.write() as tx:
                    yield tx
                    touched, self._touched = self._touched, {}
                    after = {n: _claim_of(tx, n) for n in touched}
            except BaseException:
                self._touched = {}
                raise
            self._apply(touched, after)

    def _apply(
        self,
        before: dict[int, tuple[int | None, int | None]],
        after: dict[int, tuple[int | None, int | None]],
    ) -> None:
        for number, (entity, parent) in before.items():
            new_entity, new_parent = after[number]
            if entity != new_entity:
                if entity is not None and self.claims.get(entity) == number:
                    del self.claims[entity]
                if new_entity is not None:
                    self.claims[new_entity] = number
            if parent != new_parent:
                if parent is not None:
                    self.busy[parent] -= 1
                    if self.busy[parent] <= 0:
                        del self.busy[parent]
                if new_parent is not None:
                    self.busy[new_parent] += 1

    def _note(self, tx: sqlite3.Connection, number: int) -> None:
        if number not in self._touched:
            self._touched[number] = _claim_of(tx, number)

    # Reading. With `tx`, inside that transaction.

    def _one(self, statement: str, *values: object, tx: sqlite3.Connection | None) -> Local | None:
        connection = self._store.read if tx is None else tx
        found = connection.execute(statement, values).fetchone()
        return Local._make(found) if found else None

    def find(self, number: int, tx: sqlite3.Connection | None = None) -> Local | None:
        return self._one(_BY_ID, number, tx=tx)

    def get(self, number: int, tx: sqlite3.Connection | None = None) -> Local:
        """Raises NotFound."""
        found = self.find(number, tx)
        if found is None:
            raise NotFound(f"there is no local change {number}")
        return found

    def of_entity(self, entity: int, tx: sqlite3.Connection | None = None) -> Local | None:
        return self._one(_BY_ENTITY, entity, tx=tx)

    def of_staged(self, staged: int, tx: sqlite3.Connection | None = None) -> Local | None:
        return self._one(_BY_STAGED, staged, tx=tx)

    def of_key(self, key: int, tx: sqlite3.Connection | None = None) -> Local | None:
        """The row of a key; None for an entity that nothing local is known of."""
        return self.find(key, tx) if key >= FIRST else self.of_entity(key, tx)

    def child(self, parent: int, name: bytes, tx: sqlite3.Connection | None = None) -> Local | None:
        return self._one(_CHILD, parent, name, tx=tx)

    def children(self, parent: int, after: int = 0, limit: int = -1) -> list[Local]:
        """Rows that have a name in a folder, by local number, after that number."""
        rows = self._store.read.execute(_CHILDREN, (parent, after, limit)).fetchall()
        return [Local._make(row) for row in rows]

    def taken_over(self, parent: int) -> list[Local]:
        """Rows of entities that came from the service and have a name in a folder now."""
        rows = self._store.read.execute(_TAKEN_OVER, (parent,)).fetchall()
        return [Local._make(row) for row in rows]

    def has_children(self, parent: int) -> bool:
        return parent in self.busy

    def ready(self, now_ns: int, limit: int) -> list[Local]:
        """Rows whose turn to be sent has come, oldest first."""
        rows = self._store.read.execute(_READY, (now_ns, limit)).fetchall()
        return [Local._make(row) for row in rows]

    def next_at(self, now_ns: int) -> int | None:
        """UTC ns at which the next row's turn comes, after `now_ns`; None when none waits."""
        found = self._store.read.execute(
            "SELECT min(not_before_ns) FROM local WHERE state = 'waiting' AND not_before_ns > ?",
            (now_ns,),
        ).fetchone()
        result: int | None = found[0]
        return result

    def unsent(self, limit: int = -1) -> list[Local]:
        """Rows of which something is unsent, oldest first."""
        return [Local._make(r) for r in self._store.read.execute(_UNSENT, (limit,)).fetchall()]

    def count_unsent(self) -> tuple[int, int]:
        """(rows, bytes) that the service does not have."""
        found = self._store.read.execute(
            """SELECT count(*), coalesce(sum(CASE WHEN edit > sent AND gone = 0 THEN size ELSE 0 END), 0)
            FROM local WHERE state <> 'clean'"""
        ).fetchone()
        return found[0], found[1]

    def all(self) -> Iterator[Local]:
        """Every row, by local number, memory bounded."""
        after = 0
        while True:
            rows = self._store.read.execute(
                f"{_SELECT} WHERE id > ? ORDER BY id LIMIT 1000", (after,)
            ).fetchall()
            yield from map(Local._make, rows)
            if len(rows) < 1000:
                return
            after = rows[-1][0]

    # Writing.

    def insert(self, tx: sqlite3.Connection, **fields: Any) -> Local:
        """A new row; fields left out have their defaults. Returns it."""
        if "id" not in fields:
            # Never one that was used: its node may still be known to the kernel.
            fields["id"] = self.next_number(tx)
        self._note(tx, fields["id"])
        names = ", ".join(fields)
        marks = ", ".join("?" * len(fields))
        tx.execute(f"INSERT INTO local ({names}) VALUES ({marks})", tuple(fields.values()))
        return self.get(fields["id"], tx)

    def update(self, tx: sqlite3.Connection, number: int, **fields: Any) -> None:
        if fields:
            if not _PLACE.isdisjoint(fields):
                self._note(tx, number)
            names = ", ".join(f"{name} = ?" for name in fields)
            tx.execute(f"UPDATE local SET {names} WHERE id = ?", (*fields.values(), number))

    def delete(self, tx: sqlite3.Connection, number: int) -> None:
        self._note(tx, number)
        tx.execute("DELETE FROM local WHERE id = ?", (number,))

    def next_number(self, tx: sqlite3.Connection) -> int:
        """A number that was never given out before: for rows and staging files alike."""
        found: int = tx.execute(
            """INSERT INTO meta (name, value) VALUES ('local_number', ?)
            ON CONFLICT (name) DO UPDATE SET value = CAST(value AS INTEGER) + 1
            RETURNING CAST(value AS INTEGER)""",
            (str(FIRST + 1),),
        ).fetchone()[0]
        return found

    # Requests that may be sent again.

    def answered(self, request: int) -> int | None:
        """The row that an earlier daemon's answer to this request was about; None: it gave none."""
        found = self._store.read.execute(
            "SELECT local FROM answered WHERE request = ?", (request,)
        ).fetchone()
        return found[0] if found else None

    def answer(self, tx: sqlite3.Connection, request: int, number: int) -> None:
        if request:
            tx.execute(
                "INSERT OR REPLACE INTO answered (request, local) VALUES (?, ?)", (request, number)
            )

    def forget_answers(self, tx: sqlite3.Connection) -> None:
        """At a mount that no kernel remembers."""
        tx.execute("DELETE FROM answered")


def _claim_of(tx: sqlite3.Connection, number: int) -> tuple[int | None, int | None]:
    """(entity that a row claims, folder that it has a name in)."""
    found = tx.execute("SELECT entity, parent, gone FROM local WHERE id = ?", (number,)).fetchone()
    if found is None:
        return None, None
    return found[0], None if found[2] else found[1]


def annotations_json(values: Mapping[str, AnnotationValue | None]) -> str | None:
    """As `local.annotations` holds them; None for none."""
    if not values:
        return None
    return json.dumps({k: None if v is None else [v[0], list(v[1])] for k, v in values.items()})


def xattrs_json(values: Mapping[bytes, bytes]) -> str | None:
    return json.dumps({k.decode(): v.hex() for k, v in values.items()}) if values else None


def insert_conflict(
    tx: sqlite3.Connection, fields: Sequence[tuple[str, object]] | Mapping[str, object]
) -> int:
    """A new row of `conflict`; returns its number."""
    values = dict(fields)
    names, marks = ", ".join(values), ", ".join("?" * len(values))
    cursor = tx.execute(f"INSERT INTO conflict ({names}) VALUES ({marks})", tuple(values.values()))
    return cursor.lastrowid or 0
