"""Large files that are edited before their bytes are here: which they are, and where the rest comes from.

A row with `lazy` has a staging file of which blocks lack; `synd.cache.lazy` knows which. What it is based on
is kept beside the row (in `meta`), since the row's own base moves on; and as long as the file lacks bytes,
taken away or not, so that it can come back. When the file was changed and closed the rest is brought, and
the row is like any other.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future

from synd.cache.folder import Cache
from synd.cache.lazy import Lazy
from synd.cache.lazyfetch import pread
from synd.cache.staging import Staging
from synd.errors import Forbidden, IntegrityError, NotFound, StoreError, SyndError
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.log import fields
from synd.mirror.overlay import Overlay
from synd.mirror.streams import Got, Streams
from synd.mirror.turns import Turns
from synd.mirror.waits import then
from synd.model import FileVersion
from synd.ranges import FileSlice
from synd.store.entities import Row
from synd.store.local import Local, Sending

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""How long after a failure the rest of a changed file is asked for again; after more of them up to four times."""

_SELDOM = 12
"""So many times `RETRY_S` passes before a try that will hardly do better."""

TURN_BYTES = 64 << 20
"""So much of one file is brought before it is the next one's turn."""

_HOPELESS = (NotFound, Forbidden, IntegrityError, StoreError)
"""Bytes that will not be had in a minute either: the service says so, or the map here is damaged."""

FILLERS = 3
"""Files that are filled at once: one whose bytes do not come may take `read_timeout_s` to find out."""


class LazyFiles:
    """The lazy files of one overlay. Any thread."""

    def __init__(
        self,
        overlay: Overlay,
        staging: Staging,
        cache: Cache,
        streams: Streams,
        *,
        on_whole: Callable[[int], None],
        retry_s: float = RETRY_S,
    ) -> None:
        """`on_whole`: a staging file lacks nothing any more, and its row says so."""
        self._overlay = overlay
        self._staging = staging
        self._cache = cache
        self._streams = streams
        self._on_whole = on_whole
        self._lock = threading.Lock()
        self._files: dict[int, Lazy | None] = {
            row.staged: None for row in overlay.locals.all() if row.lazy
        }
        """By number; None: not opened by this process yet."""
        with overlay.change() as tx:
            names = tx.execute("SELECT name FROM meta WHERE name LIKE 'lazy:%'").fetchall()
            old = [(name,) for (name,) in names if not self._is_needed(name)]
            tx.executemany("DELETE FROM meta WHERE name = ?", old)
        self._retry_s = retry_s
        self._failures: dict[int, int] = {}
        """Staging file → failures in a row. Only its own filler uses an entry."""
        self._ending = threading.Event()
        self._fillers = Turns(self._fill, threads=FILLERS, name="fill")

    def _is_needed(self, name: str) -> bool:
        staged = int(name.removeprefix(_PREFIX))
        return staged in self._files or self._staging.has_map(staged)

    def close(self) -> None:
        """What lacks is brought the next time."""
        self._ending.set()
        self._fillers.close()
        with self._lock:
            for lazy in self._files.values():
                if lazy is not None:
                    lazy.close()
            self._files.clear()

    def begin(self, row: Row, staged: int) -> None:
        """Makes the staging file of an edit of this file, with nothing in it yet."""
        file = row.file()
        base = {
            "entity": file.entity,
            "version": file.version,
            "handle": file.handle,
            "md5": file.md5,
            "size": file.size,
        }
        with self._overlay.change() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
                (_name(staged), json.dumps(base)),
            )
        lazy = Lazy.create(self._staging, staged, file.size or 0, self._fetch(file, staged))
        with self._lock:
            self._files[staged] = lazy

    def get(self, staged: int) -> Lazy | None:
        """The file if it lacks bytes. Raises SyndError when it cannot be opened."""
        if staged not in self._files:
            return None
        with self._lock:
            lazy = self._files.get(staged)
            if lazy is None and staged in self._files:
                file = self._base(staged)
                lazy = Lazy.open(self._staging, staged, file.size or 0, self._fetch(file, staged))
                self._files[staged] = lazy
            return lazy

    def _base(self, staged: int) -> FileVersion:
        found = self._overlay.store.read.execute(
            "SELECT value FROM meta WHERE name = ?", (_name(staged),)
        ).fetchone()
        if found is None:
            raise NotFound("it is not known what the file was based on")
        told = json.loads(found[0])
        return FileVersion(
            entity=EntityId(told["entity"]),
            version=Version(told["version"]),
            handle=None if told["handle"] is None else FileHandleId(told["handle"]),
            md5=None if told["md5"] is None else Md5(told["md5"]),
            size=told["size"],
        )

    def _fetch(self, file: FileVersion, staged: int) -> Callable[[int, int], bytes | Future[bytes]]:
        def fetch(offset: int, size: int) -> bytes | Future[bytes]:
            fd = self._cache.open(file.key, file.size)
            if fd is not None:
                try:
                    return pread(fd, size, offset)
                finally:
                    os.close(fd)
            # A handle of its own: no other is negative.
            got = self._streams.reader(file).read(-staged, offset, size)
            if not isinstance(got, Future):
                return _bytes(got)
            answer: Future[bytes] = Future()
            then(got, answer, _bytes)
            return answer

        return fetch

    def drop(self, staged: int) -> None:
        """The edit is no more. May be called inside a change."""
        if staged not in self._files:
            return
        with self._lock:
            lazy = self._files.pop(staged, None)
        if lazy is not None:
            lazy.close()

    def forget(self, tx: sqlite3.Connection, staged: int) -> None:
        """What a file was based on is needed no more."""
        tx.execute("DELETE FROM meta WHERE name = ?", (_name(staged),))

    def bring_back(self, before: int, staged: int) -> bool:
        """Gives a file that was taken away as `before`, and has the number `staged` again, its base; false
        when it lacks nothing. What was written to it outlives power loss afterwards.

        Raises NotFound when it is not known what it was based on, StoreError when its map is damaged.
        """
        if not self._staging.is_lazy(staged):
            return False
        with self._overlay.change() as tx:
            tx.execute(
                "INSERT OR REPLACE INTO meta (name, value) SELECT ?, value FROM meta WHERE name = ?",
                (_name(staged), _name(before)),
            )
        self._base(staged)
        with self._lock:
            self._files[staged] = None
        try:
            lazy = self.get(staged)
            if lazy is not None:
                lazy.sync()
        except SyndError:
            self.drop(staged)
            raise
        return True

    def fill(self, staged: int) -> None:
        """Has all brought that lacks, in the background; tried until it is here."""
        if staged in self._files:
            self._fillers.add(staged)

    def _fill(self, staged: int) -> float | None:
        """A filler's turn: seconds until the next one, None when there is nothing left to bring."""
        try:
            lazy = self.get(staged)
            if lazy is None:
                return None  # The edit is no more.
            if not lazy.fill(self._ending.is_set, most=TURN_BYTES):
                self._failures.pop(staged, None)
                return 0.0
            # What was written until the stamp will not be noticed at its close, so it must be durable by then.
            stamp = self._staging.stamp(staged)
            lazy.sync()
        except SyndError as error:
            if staged not in self._files:
                return None
            return self._failed(staged, error)
        self._failures.pop(staged, None)
        with self._overlay.change() as tx:
            local = self._overlay.locals.of_staged(staged, tx)
            if local is not None:
                self._overlay.locals.update(
                    tx, local.id, lazy=0, stamp=stamp.text(), size=stamp.size
                )
            # Whoever has it open reads and writes through it still; it needs no base any more.
            self.forget(tx, staged)
        self._on_whole(staged)
        return None

    def _failed(self, staged: int, error: SyndError) -> float:
        """What lacks did not come: people are told where nothing helps. Seconds until the next try."""
        hopeless = isinstance(error, _HOPELESS)
        failures = self._failures[staged] = self._failures.get(staged, 0) + 1
        log.info("edit.not_filled", extra=fields(staged=staged, tries=failures, why=error.message))
        if hopeless:
            with self._overlay.change() as tx:
                local = self._overlay.locals.of_staged(staged, tx)
                if local is not None and local.state == Sending.WAITING:
                    problem = NotFound(
                        f"bytes of the version it was made from cannot be had: {error.message}",
                        hint="it is tried again by itself; `synd discard` keeps what was written",
                    ).problem()
                    self._overlay.locals.update(
                        tx, local.id, state=Sending.BLOCKED.value, problem=json.dumps(problem)
                    )
        return self._retry_s * (_SELDOM if hopeless else 2 ** min(failures - 1, 2))

    def resume(self, local: Local) -> None:
        """At the start: an edit that was closed goes on being filled."""
        if local.edit > local.sent and not local.gone:
            self.fill(local.staged)


_PREFIX = "lazy:"
"""Names in `meta`, each with a staging file's number; the value is its base as JSON."""


def _name(staged: int) -> str:
    return f"{_PREFIX}{staged}"


def _bytes(got: Got | memoryview) -> bytes:
    return pread(got.fd, got.size, got.offset) if isinstance(got, FileSlice) else bytes(got)
