"""The registry's SQLite file: opening, the one way to write, tokens and users.

A connection belongs to one thread. Writing is a short ``BEGIN IMMEDIATE`` transaction, so that a server
and a `seed` in another process take turns. Losing power may lose the last moments (synchronous=NORMAL);
killing the process loses nothing.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from synd.errors import StoreError
from synd.registry import kinds

SCHEMA_VERSION = "3"
_ADDED = {"1": ("curation.sql", "2"), "2": ("evaluations.sql", "3")}
"""Schema → what the next one adds to it, and its number."""
DEFAULT_USER = "synd"
ALL_SCOPES = "view,download,modify,authorize"

Row = tuple[Any, ...]


def new_etag() -> str:
    return str(uuid.uuid4())


def now_ns() -> int:
    """Wall time. A seam of one line: tests that need another time hand it to the functions below it."""
    return time.time_ns()


class Database:
    """One data folder's database. Threads share the object, each with a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Opens or makes the file. Raises StoreError if it is newer than this program or no database."""
        self.path = path
        self._local = threading.local()
        self._open: list[sqlite3.Connection] = []
        self._guard = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._prepare()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open {path}: {error}", path=str(path)) from error

    def _prepare(self) -> None:
        connection = self.connection
        connection.execute("PRAGMA journal_mode = WAL")
        with self.write() as tx:
            known = tx.execute(
                "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'meta'"
            ).fetchone()[0]
            if not known:
                _create(tx)
            version = self.meta("schema")
            while version in _ADDED:
                script, version = _ADDED[version]
                _run(tx, script)
                tx.execute("UPDATE meta SET value = ? WHERE key = 'schema'", (version,))
            tx.execute("INSERT OR IGNORE INTO meta VALUES ('registry_id', ?)", (new_etag(),))
            if version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has schema {version}, this program knows {SCHEMA_VERSION}",
                    hint="use the synd that made it, or another --data folder",
                )

    @property
    def connection(self) -> sqlite3.Connection:
        """This thread's connection."""
        found: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if found is None:
            found = sqlite3.connect(
                self.path,
                timeout=60,
                isolation_level=None,
                cached_statements=512,
                check_same_thread=False,
            )
            found.execute("PRAGMA synchronous = NORMAL")
            found.execute("PRAGMA foreign_keys = ON")
            found.execute("PRAGMA cache_size = -65536")
            found.execute("PRAGMA mmap_size = 1073741824")
            found.execute("PRAGMA temp_store = MEMORY")
            self._local.connection = found
            with self._guard:
                self._open.append(found)
        return found

    def one(self, sql: str, args: tuple[Any, ...] = ()) -> Row | None:
        """The first row. A number of more than 64 bits is in none."""
        try:
            row: Row | None = self.connection.execute(sql, args).fetchone()
        except OverflowError:
            return None
        return row

    def all(self, sql: str, args: tuple[Any, ...] = ()) -> list[Row]:
        return self.connection.execute(sql, args).fetchall()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that commits at the end and is undone by an exception. May nest; the outer rules."""
        connection = self.connection
        if connection.in_transaction:
            yield connection
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            yield connection
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")

    def meta(self, key: str) -> str | None:
        row = self.one("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else str(row[0])

    def close(self) -> None:
        """Closes every thread's connection; call it when no thread works any more."""
        with self._guard:
            for connection in self._open:
                connection.close()
            self._open.clear()
        self._local = threading.local()


def _create(tx: sqlite3.Connection) -> None:
    _run(tx, "schema.sql")
    for script, _ in _ADDED.values():
        _run(tx, script)
    now = now_ns()
    tx.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [("schema", SCHEMA_VERSION), ("url_secret", secrets.token_hex(32))],
    )
    tx.execute(
        "INSERT INTO user VALUES (?, ?, 1, ?, ?)", (kinds.FIRST_USER, DEFAULT_USER, new_etag(), now)
    )
    for entity, name in ((kinds.ROOT, "root"), (kinds.TRASH, "trash")):
        tx.execute(
            "INSERT INTO entity (id, name, kind, etag, created_ns, created_by, modified_ns,"
            " modified_by, current_version, max_version, has_acl)"
            " VALUES (?, ?, 'folder', ?, ?, ?, ?, ?, 1, 1, 1)",
            (entity, name, new_etag(), now, kinds.FIRST_USER, now, kinds.FIRST_USER),
        )
        tx.execute(
            "INSERT INTO entity_version (entity_id, number, label, modified_ns, modified_by)"
            " VALUES (?, 1, '1', ?, ?)",
            (entity, now, kinds.FIRST_USER),
        )
        tx.execute("INSERT INTO acl VALUES (?, ?, ?)", (entity, new_etag(), now))
    tx.executemany(
        "INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)",
        [("file_handle", kinds.FIRST_HANDLE - 1), ("storage_location", 1000)],
    )
    tx.execute(
        "UPDATE sqlite_sequence SET seq = ? WHERE name = 'entity'", (kinds.FIRST_ENTITY - 1,)
    )


def _run(tx: sqlite3.Connection, name: str) -> None:
    for statement in _statements(files("synd.registry").joinpath(name).read_text()):
        tx.execute(statement)


def _statements(script: str) -> Iterator[str]:
    """The statements of a script; executescript would commit the transaction around them."""
    held = ""
    for line in script.splitlines(keepends=True):
        held += line
        if sqlite3.complete_statement(held):
            yield held
            held = ""


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def add_token(db: Database, user: int, name: str, scopes: str) -> tuple[int, str]:
    """(id, token text) of a new token; the text is known only now. Raises sqlite3.IntegrityError
    when the user has one of that name.
    """
    text = "synd_" + secrets.token_urlsafe(32)
    with db.write() as tx:
        cursor = tx.execute(
            "INSERT INTO token (sha256, user_id, name, scopes, created_ns) VALUES (?, ?, ?, ?, ?)",
            (token_hash(text), user, name, scopes, now_ns()),
        )
    return int(cursor.lastrowid or 0), text


def add_user(db: Database, name: str) -> int:
    """The id of a new user. Raises sqlite3.IntegrityError when the name is taken."""
    with db.write() as tx:
        row = tx.execute(
            "INSERT INTO user (id, name, etag, created_ns)"
            " SELECT max(id) + 1, ?, ?, ? FROM user RETURNING id",
            (name, new_etag(), now_ns()),
        ).fetchone()
    return int(row[0])


def default_token(db: Database, data: Path) -> str:
    """The token in DATA/token (0600), made on the first call. Source: the CLI contract of `serve`."""
    path = data / "token"
    try:
        kept = path.read_text().strip()
    except FileNotFoundError:
        kept = ""
    if kept and db.one("SELECT 1 FROM token WHERE sha256 = ?", (token_hash(kept),)):
        return kept
    with db.write() as tx:
        tx.execute("DELETE FROM token WHERE user_id = ? AND name = 'default'", (kinds.FIRST_USER,))
        _, text = add_token(db, kinds.FIRST_USER, "default", ALL_SCOPES)
    aside = data / f".token.{os.getpid()}"
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(text + "\n")
    aside.replace(path)
    return text
