"""Opening the database: pragmas, one writer behind a lock, a read-only connection per thread.

SQLite's errors become ours here and nowhere else: a lack of room is `CacheFull`, whoever asks. No transaction is
held across an await, the network or a tool: `write` is a plain context manager around a few statements.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from synd.errors import CacheFull, ConfigError, StoreError
from synd.store.migrations import MIGRATIONS, SCHEMA_FILES, SCHEMA_VERSION, script

READER_CACHE_KIB = 8192
WRITER_CACHE_KIB = 16384

_CANNOT_GROW = frozenset({sqlite3.SQLITE_IOERR_SHMSIZE, sqlite3.SQLITE_IOERR_SHMOPEN})
"""The files beside the database could not grow."""


class Store:
    """One SQLite file.

    Lock order: the writer lock is a leaf; nothing else is taken while it is held.
    """

    def __init__(self, path: Path) -> None:
        """Opens or creates the file and brings its schema up to date.

        Raises ConfigError when the folder cannot be written, StoreError when the file is corrupt or
        was written by a newer synd.
        """
        self.path = path
        self._lock = threading.RLock()
        self._readers: dict[int, sqlite3.Connection] = {}
        """By the thread's ident. Not thread-local: libfuse calls from threads of its own, whose Python side is
        a new one at each call; and what a thread that ended has left is its successor's of the same ident.
        """
        # Of its own: a thread's first read must not wait for a transaction.
        self._readers_lock = threading.Lock()
        self._closed = False
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ConfigError(
                f"cannot create the state folder {path.parent}: {error.strerror}",
                hint="make it writable, or set SYND_HOME to a folder that is",
            ) from error
        with translated(path):
            self._writer = sqlite3.connect(
                path, timeout=10.0, isolation_level=None, check_same_thread=False
            )
            try:
                _pragmas(self._writer, WRITER_CACHE_KIB)
                self._writer.execute("PRAGMA journal_mode = WAL")
                self._writer.execute("PRAGMA synchronous = NORMAL")
                self._migrate()
            except BaseException:
                self._writer.close()
                raise
        os.chmod(path, 0o600)

    def _migrate(self) -> None:
        found: int = self._writer.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} was written by a newer synd (schema {found}, known {SCHEMA_VERSION})",
                hint="upgrade synd, or move the file away to start anew",
            )
        if found == SCHEMA_VERSION:
            return
        if found == 0:
            self._writer.executescript(
                f"BEGIN IMMEDIATE; {script(*SCHEMA_FILES)}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
            return
        for number, step in MIGRATIONS:
            if number > found:
                self._writer.executescript(
                    f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;"
                )

    @property
    def read(self) -> sqlite3.Connection:
        """This thread's read-only connection."""
        connection = self._readers.get(threading.get_ident())
        if connection is None:
            if self._closed:
                raise StoreError("the store is closed")
            with translated(self.path):
                connection = sqlite3.connect(
                    f"file:{_quoted(self.path)}?mode=ro",
                    uri=True,
                    timeout=10.0,
                    isolation_level=None,
                    check_same_thread=False,
                    cached_statements=64,
                )
                _pragmas(connection, READER_CACHE_KIB)
            with self._readers_lock:
                self._readers[threading.get_ident()] = connection
        return connection

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """The writer, inside one transaction: committed at the end, rolled back on any exception."""
        with self._lock, translated(self.path):
            if self._closed:
                raise StoreError("the store is closed")
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # A full disk may have ended it already; a commit that failed has not.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def sync(self) -> None:
        """Makes every committed transaction survive a power loss. Cost: one fdatasync."""
        try:
            with open(f"{self.path}-wal", "rb") as log:
                os.fdatasync(log.fileno())
        except FileNotFoundError:
            return
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise _full() from error
            raise StoreError(f"cannot sync {self.path}: {error.strerror}") from error

    def close(self) -> None:
        """Closes all connections. Threads must have stopped using theirs."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            with self._readers_lock:
                for connection in self._readers.values():
                    connection.close()
            self._writer.close()

    def check(self) -> str | None:
        """SQLite's own integrity check: None when sound, else what it found. Cost: reads the file."""
        with translated(self.path):
            found: str = self.read.execute("PRAGMA quick_check(1)").fetchone()[0]
        return None if found == "ok" else found


def _pragmas(connection: sqlite3.Connection, cache_kib: int) -> None:
    connection.execute(f"PRAGMA cache_size = -{cache_kib}")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA temp_store = MEMORY")


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turns SQLite's exceptions into ours."""
    try:
        yield
    except sqlite3.ProgrammingError:
        # A bug of ours: it keeps its own name and its traceback.
        raise
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_FULL or code in _CANNOT_GROW:
            raise _full() from error
        text = str(error)
        hint = "`synd doctor` checks the state folder"
        if "malformed" in text or "not a database" in text:
            hint = f"the file is damaged: stop synd, move {path} away, start again"
        elif "disk I/O" in text:
            hint = "free some disk space"
        elif "readonly" in text or "unable to open" in text:
            raise ConfigError(
                f"cannot write {path}: {text}",
                hint="make the state folder writable, or set SYND_HOME to a folder that is",
            ) from error
        raise StoreError(f"{path}: {text}", hint=hint) from error


def _full() -> CacheFull:
    return CacheFull(
        "cannot record the change: the disk of the state folder is full",
        hint="make room there; what was written before is not lost",
    )
