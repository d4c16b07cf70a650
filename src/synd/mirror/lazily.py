"""Large files that are edited before their bytes are here: which they are, and where the rest comes from.

A row with `lazy` has a staging file of which blocks lack; `synd.cache.lazy` knows which. What it is based on
is kept beside the row (in `meta`), since the row's own base moves on. When the file was changed and closed the
rest is brought, and the row is like any other.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from synd.cache.folder import Cache
from synd.cache.lazy import Lazy
from synd.cache.lazyfetch import pread
from synd.cache.staging import Staging
from synd.errors import NotFound, SyndError
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.log import fields
from synd.mirror.overlay import Overlay
from synd.mirror.streams import Got, Streams
from synd.mirror.waits import then
from synd.model import FileVersion
from synd.ranges import FileSlice
from synd.store.entities import Row
from synd.store.local import Local

log = logging.getLogger(__name__)

RETRY_S = 5.0
"""How long after a failure the rest of a changed file is asked for again."""


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
            known = {_name(staged) for staged in self._files}
            names = tx.execute("SELECT name FROM meta WHERE name LIKE 'lazy:%'").fetchall()
            old = [(name,) for (name,) in names if name not in known]
            tx.executemany("DELETE FROM meta WHERE name = ?", old)
        self._filling: set[int] = set()
        self._ending = threading.Event()
        self._filler = ThreadPoolExecutor(1, thread_name_prefix="fill")

    def close(self) -> None:
        """What lacks is brought the next time."""
        self._ending.set()
        self._filler.shutdown(wait=True, cancel_futures=True)
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

    def _forget(self, staged: int) -> None:
        with self._overlay.change() as tx:
            tx.execute("DELETE FROM meta WHERE name = ?", (_name(staged),))

    def fill(self, staged: int) -> None:
        """Has all brought that lacks, in the background; tried until it is here."""
        with self._lock:
            if staged in self._filling or staged not in self._files or self._ending.is_set():
                return
            self._filling.add(staged)
        self._filler.submit(self._fill, staged)

    def _fill(self, staged: int) -> None:
        whole = False
        try:
            lazy = self.get(staged)
            whole = lazy is None or lazy.fill(self._ending.is_set)
        except SyndError as error:
            log.info("edit.not_filled", extra=fields(staged=staged, why=error.message))
        finally:
            with self._lock:
                self._filling.discard(staged)
        if not whole:
            if not self._ending.wait(RETRY_S):
                self.fill(staged)
            return
        with self._overlay.change() as tx:
            local = self._overlay.locals.of_staged(staged, tx)
            if local is not None:
                stamp = self._staging.stamp(staged)
                self._overlay.locals.update(
                    tx, local.id, lazy=0, stamp=stamp.text(), size=stamp.size
                )
        # Whoever has it open reads and writes through it still; it needs no base any more.
        self._forget(staged)
        self._on_whole(staged)

    def resume(self, local: Local) -> None:
        """At the start: an edit that was closed goes on being filled."""
        if local.edit > local.sent and not local.gone:
            self.fill(local.staged)


def _name(staged: int) -> str:
    return f"lazy:{staged}"


def _bytes(got: Got | memoryview) -> bytes:
    return pread(got.fd, got.size, got.offset) if isinstance(got, FileSlice) else bytes(got)
