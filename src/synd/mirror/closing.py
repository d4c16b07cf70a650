"""The close of a changed file: its bytes and its row are durable before the close is answered."""

from __future__ import annotations

import contextlib
import queue
import sqlite3
import threading
from concurrent.futures import Future

from synd.cache.staging import Staging
from synd.errors import CacheFull, NotFound, SyndError
from synd.mirror.lazily import LazyFiles
from synd.mirror.overlay import Overlay
from synd.mirror.waits import fail, settle

RETRY_S = 2.0
"""So often a close that the full disk refused is tried to be recorded again, as there may be room by now."""

BATCH = 256
"""Closes that are made durable at once; those behind wait for the next round."""


class Closing:
    """One thread that makes closed files durable, all that wait at once: one sync of the database for many."""

    def __init__(
        self, overlay: Overlay, staging: Staging, lazily: LazyFiles, *, upload_delay_s: float
    ) -> None:
        self._overlay = overlay
        self._locals = overlay.locals
        self._staging = staging
        self._lazily = lazily
        self._upload_delay_s = upload_delay_s
        self._waiting: queue.SimpleQueue[tuple[int, Future[None]] | None] = queue.SimpleQueue()
        self._refused: set[int] = set()
        """Files whose close found no room. The bytes lie on the disk, and no row says that they are new."""
        self._syncer = threading.Thread(target=self._loop, name="sync-edits", daemon=True)
        self._syncer.start()

    def close(self) -> None:
        """Ends the thread once it has done what waits."""
        self._waiting.put(None)
        self._syncer.join(timeout=10.0)

    def closed(self, staged: int) -> Future[None]:
        """Queues the content of a file if it changed; settled once that is durable."""
        done: Future[None] = Future()
        self._waiting.put((staged, done))
        return done

    def refused(self) -> list[int]:
        """Files whose close could not be recorded, as the disk is full; tried again by itself."""
        return list(self._refused.copy())

    def sync(self, staged: int) -> None:
        """What was written so far is durable, as fsync has it. Nothing is queued by it."""
        lazy = self._lazily.get(staged)
        if lazy is None:
            self._staging.sync(staged)
        else:
            lazy.sync()
        self._overlay.store.sync()

    def _loop(self) -> None:
        while True:
            try:
                first = self._waiting.get(timeout=RETRY_S if self._refused else None)
            except queue.Empty:
                self._again()
                continue
            if first is None:
                return
            batch = [first]
            ending = False
            while len(batch) < BATCH:
                try:
                    more = self._waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                    break
                batch.append(more)
            try:
                self._record(batch)
            except BaseException as error:  # noqa: BLE001 - it belongs to the waiters
                for staged, done in batch:
                    if isinstance(error, CacheFull):
                        self._refused.add(staged)
                    fail(done, error)
            if ending:
                return

    def _again(self) -> None:
        """What found no room before; who closed it has been told so, and asks no more."""
        batch: list[tuple[int, Future[None]]] = [(staged, Future()) for staged in self._refused]
        with contextlib.suppress(SyndError):
            self._record(batch)

    def _record(self, batch: list[tuple[int, Future[None]]]) -> None:
        failed: dict[int, SyndError] = {}
        lazies: set[int] = set()
        for staged, _ in batch:
            try:
                lazy = self._lazily.get(staged)
                if lazy is not None:
                    lazies.add(staged)
                    lazy.sync()
            except SyndError as why:
                failed[staged] = why
        plain = [staged for staged, _ in batch if staged not in lazies and staged not in failed]
        failed |= self._staging.sync_many(plain)
        kept: list[tuple[int, Future[None]]] = []
        for staged, done in batch:
            error = failed.get(staged)
            if error is None:
                kept.append((staged, done))
            elif isinstance(error, NotFound):
                self._refused.discard(staged)
                settle(done, None)
            else:
                if isinstance(error, CacheFull):
                    self._refused.add(staged)
                fail(done, error)
        with self._overlay.change() as tx:
            for staged, _ in kept:
                self._note_change(tx, staged)
        self._overlay.store.sync()
        for staged, done in kept:
            self._refused.discard(staged)
            settle(done, None)
            if staged in lazies:
                self._lazily.fill(staged)

    def _note_change(self, tx: sqlite3.Connection, staged: int) -> None:
        local = self._locals.of_staged(staged, tx)
        if local is None:
            return
        try:
            stamp = self._staging.stamp(staged)
        except NotFound:
            return
        if stamp.text() == local.stamp:
            return
        self._locals.update(tx, local.id, size=stamp.size, stamp=stamp.text(), edit=local.edit + 1)
        if not local.local_only and not local.gone:
            self._overlay.queue(tx, self._locals.get(local.id, tx), delay_s=self._upload_delay_s)
