"""Bytes of files that are edited here: staging files, who has them open, when a change is durable.

A staging file is written through the mount by the kernel itself where it can; this side learns of it
when a descriptor is closed, and looks whether the file differs from what it was. `closed` answers
once the bytes and the row are on the disk.

Lock order: `overlay.lock` → `_lock`. Nothing waits for the network under either.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

from synd.cache.folder import Cache
from synd.cache.staging import Staging
from synd.cache.statedisk import allocate, disk_errors
from synd.clock import NS
from synd.errors import (
    Forbidden,
    NotFound,
    ReadOnly,
    Stale,
    SyndError,
)
from synd.ids import syn
from synd.log import fields
from synd.mirror.lazily import LazyFiles
from synd.mirror.overlay import FORMER, Overlay, Seen, base_of
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.mirror.waits import fail, settle
from synd.model import Kind
from synd.ranges import FileSlice
from synd.store.entities import Row
from synd.store.local import Local

log = logging.getLogger(__name__)

INLINE = 256 << 10
"""A copy of so many bytes costs no more than handing it to a thread."""

_WRITERS = 4

SETTLE_S = 2.0
"""So long nobody has used a file when it becomes a cache object: who saves again at once finds it as it was."""

REMEMBERED = 100_000
"""Former staging files of which it is known what they were."""


class Open(NamedTuple):
    """One open file handle of a staging file."""

    handle: int
    writes: bool


class Contents:
    """The staging files of one overlay. Any thread."""

    def __init__(
        self,
        overlay: Overlay,
        staging: Staging,
        cache: Cache,
        streams: Streams,
        tree: Tree,
        *,
        upload_delay_s: float = 2.0,
        lazy_from_bytes: int = 64 << 20,
        on_settled: Callable[[int, bytes], None] = lambda _parent, _name: None,
    ) -> None:
        """`on_settled`: the name leads to another node from now on."""
        self._overlay = overlay
        self._locals = overlay.locals
        self._staging = staging
        self._cache = cache
        self._streams = streams
        self._tree = tree
        self._upload_delay_s = upload_delay_s
        self._lazy_from_bytes = lazy_from_bytes
        self._lazily = LazyFiles(overlay, staging, cache, streams, on_whole=self._whole)
        self.on_settled = on_settled
        self._lock = threading.Lock()
        self._ending = threading.Event()
        self._open: dict[int, list[Open]] = {}
        self._fds: dict[int, int] = {}
        self._changing: queue.SimpleQueue[tuple[int, Future[None]] | None] = queue.SimpleQueue()
        self._workers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="stage")
        self._used: dict[int, float] = {}
        """Staging file → monotonic time of its last use, while it may be about to settle."""
        self._settling: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._former: OrderedDict[int, int] = OrderedDict()
        """Former staging file → its row: the kernel may still know it by that node."""
        for name, value in overlay.store.read.execute(
            "SELECT name, value FROM meta WHERE name LIKE ? ORDER BY name", (f"{FORMER}%",)
        ):
            self._former[int(name.removeprefix(FORMER))] = int(value)
        self._settler = threading.Thread(target=self._settle_loop, name="settle-edits", daemon=True)
        self._settler.start()
        self._syncer = threading.Thread(target=self._sync_loop, name="sync-edits", daemon=True)
        overlay.opened = self.is_open
        overlay.overwritten = self._keep_overwritten
        overlay.unused = self._drop
        self._syncer.start()

    def close(self) -> None:
        """Ends the threads; what was answered is durable already."""
        self._ending.set()
        self._changing.put(None)
        self._settling.put(None)
        self._syncer.join(timeout=10.0)
        self._settler.join(timeout=10.0)
        self._lazily.close()
        self._workers.shutdown(wait=True)
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    # Who has it open.

    def opened(self, staged: int, handle: int, *, writes: bool) -> None:
        with self._lock:
            self._open.setdefault(staged, []).append(Open(handle, writes))

    def released(self, staged: int, handle: int) -> None:
        """Ends one handle; with the last one a removed file goes, and a sent one becomes an object."""
        with self._lock:
            left = [o for o in self._open.get(staged, ()) if o.handle != handle]
            if left:
                self._open[staged] = left
                return
            self._open.pop(staged, None)
            fd = self._fds.pop(staged, None)
        if fd is not None:
            os.close(fd)
        local = self._locals.of_staged(staged)
        if local is None:
            return
        if local.gone:
            with self._overlay.change() as tx:
                again = self._locals.find(local.id, tx)
                if again is not None:
                    self._overlay.drop_if_over(tx, again)
        elif local.edit == local.sent and local.entity is not None:
            self.settle(local.id)

    def former(self, staged: int) -> Local | None:
        """The row whose staging file this was, if that is remembered."""
        number = self._former.get(staged)
        return None if number is None else self._locals.find(number)

    def is_open(self, staged: int) -> bool:
        return staged in self._open

    def writers(self, number: int) -> int:
        """Open handles that may write to a row's bytes."""
        local = self._locals.find(number)
        if local is None or not local.staged:
            return 0
        return sum(o.writes for o in self._open.get(local.staged, ()))

    def writing(self) -> list[int]:
        """Staging files that somebody may be writing to."""
        with self._lock:
            return [
                staged for staged, handles in self._open.items() if any(o.writes for o in handles)
            ]

    def quiet_s(self, number: int) -> float:
        """Seconds since the bytes last changed; infinite when there are none."""
        local = self._locals.find(number)
        if local is None or not local.staged:
            return float("inf")
        try:
            return max(0.0, (time.time_ns() - self._staging.stamp(local.staged).mtime_ns) / NS)
        except SyndError:
            return float("inf")

    # Reading and writing.

    def descriptor(self, staged: int) -> int | None:
        """A new descriptor for passthrough, open for reading and writing; None while bytes lack.

        Raises Stale.
        """
        if self._lazily.get(staged) is not None:
            return None
        try:
            return self._staging.open(staged)
        except NotFound as error:
            raise Stale("the file has become another one") from error

    def _fd(self, staged: int) -> int:
        fd = self._fds.get(staged)
        if fd is None:
            try:
                fd = self._staging.open(staged)
            except NotFound as error:
                raise Stale("the file has become another one") from error
            with self._lock:
                kept = self._fds.setdefault(staged, fd)
            if kept != fd:
                os.close(fd)
                fd = kept
        return fd

    @contextlib.contextmanager
    def _lent(self, staged: int) -> Iterator[int]:
        """A descriptor for one step by somebody who need not have the file open: kept, it would be closed
        by nobody, or by another's last release while this step still uses its number.
        """
        try:
            fd = self._staging.open(staged)
        except NotFound as error:
            raise Stale("the file has become another one") from error
        try:
            yield fd
        finally:
            os.close(fd)

    def read(self, staged: int, offset: int, size: int) -> FileSlice | bytes | Future[bytes]:
        lazy = self._lazily.get(staged)
        if lazy is not None:
            return lazy.read(offset, size)
        return FileSlice(self._fd(staged), offset, size)

    def write(self, staged: int, offset: int, data: memoryview) -> int | Future[int]:
        lazy = self._lazily.get(staged)
        if lazy is not None:
            return lazy.write(offset, bytes(data))
        fd, done = self._fd(staged), 0
        with disk_errors("write to the file"):
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)
        return done

    def truncate(self, staged: int, size: int) -> None:
        lazy = self._lazily.get(staged)
        if lazy is not None:
            lazy.truncate(size)
            return
        with self._lent(staged) as fd, disk_errors("set the size of the file"):
            os.ftruncate(fd, size)

    def fallocate(self, staged: int, mode: int, offset: int, length: int) -> Future[int] | None:
        lazy = self._lazily.get(staged)
        if lazy is not None:
            done = lazy.fallocate(mode, offset, length)
            return done if isinstance(done, Future) else None
        with disk_errors("allocate room for the file"):
            allocate(self._fd(staged), mode, offset, length)
        return None

    def stat(self, staged: int) -> os.stat_result:
        """Of the staging file: it is its size and its times that the mount shows. Raises Stale."""
        try:
            with self._lock:
                # Nobody closes it meanwhile, or its number would soon be another file's.
                if (fd := self._fds.get(staged)) is not None:
                    return os.fstat(fd)
            return os.stat(self._staging.path(staged))
        except OSError as error:
            raise Stale("the file has become another one") from error

    def set_times(self, staged: int, atime_ns: int | None, mtime_ns: int | None) -> None:
        """Times are no content: setting them queues nothing."""
        path = self._staging.path(staged)
        now = self.stat(staged)
        local = self._locals.of_staged(staged)
        clean = local is not None and self._staging.stamp(staged).text() == local.stamp
        times = (
            now.st_atime_ns if atime_ns is None else atime_ns,
            now.st_mtime_ns if mtime_ns is None else mtime_ns,
        )
        with disk_errors("set the times of the file"):
            os.utime(path, ns=times)
        if clean and local is not None:
            with self._overlay.change() as tx:
                self._locals.update(tx, local.id, stamp=self._staging.stamp(staged).text())

    # A change of content.

    def created(self, staged: int) -> int:
        """Makes the staging file of a new row; returns a descriptor."""
        with disk_errors("make a staging file"):
            return self._staging.create(staged)

    def closed(self, staged: int, *, force: bool = False) -> Future[None] | None:
        """A descriptor was closed: queues the content if it changed. Settled once that is durable;
        None when there was nothing to do.
        """
        local = self._locals.of_staged(staged)
        if local is None:
            return None
        if not force and self._staging.stamp(staged).text() == local.stamp:
            return None
        done: Future[None] = Future()
        self._changing.put((staged, done))
        return done

    def sync(self, staged: int) -> Future[None]:
        """fsync: what was written so far is durable. Nothing is queued by it."""
        return self._workers.submit(self._sync, staged)

    def sync_rows(self) -> Future[None]:
        """What was made, moved and removed so far is durable."""
        return self._workers.submit(self._overlay.store.sync)

    def _sync(self, staged: int) -> None:
        self._sync_bytes(staged)
        self._overlay.store.sync()

    def _sync_bytes(self, staged: int) -> None:
        lazy = self._lazily.get(staged)
        if lazy is None:
            self._staging.sync(staged)
        else:
            lazy.sync()

    def _whole(self, staged: int) -> None:
        """A lazy file lacks nothing any more."""
        with self._overlay.change() as tx:
            local = self._locals.of_staged(staged, tx)
            if local is not None and local.edit > local.sent and not local.local_only:
                self._overlay.queue(tx, local, delay_s=0.0)

    def _sync_loop(self) -> None:
        """One thread makes changes durable, all that wait at once: one sync of the database for many."""
        while True:
            first = self._changing.get()
            if first is None:
                return
            batch = [first]
            ending = False
            while len(batch) < 256:
                try:
                    more = self._changing.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    ending = True
                    break
                batch.append(more)
            self._record(batch)
            if ending:
                return

    def _record(self, batch: list[tuple[int, Future[None]]]) -> None:
        lazies = [staged for staged, _ in batch if self._lazily.get(staged) is not None]
        failed = self._staging.sync_many([staged for staged, _ in batch if staged not in lazies])
        for staged in lazies:
            try:
                self._sync_bytes(staged)
            except SyndError as why:
                failed[staged] = why
        kept: list[tuple[int, Future[None]]] = []
        for staged, done in batch:
            error = failed.get(staged)
            if error is None:
                kept.append((staged, done))
            elif isinstance(error, NotFound):
                settle(done, None)
            else:
                fail(done, error)
        try:
            with self._overlay.change() as tx:
                for staged, _ in kept:
                    self._note_change(tx, staged)
            self._overlay.store.sync()
        except BaseException as error:  # noqa: BLE001 - it belongs to the waiters
            for _, done in kept:
                fail(done, error)
            return
        for staged, done in kept:
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

    def replace(self, staged: int, source: int, size: int) -> None:
        """Gives a staging file the bytes of an open file. Whoever has it open sees them too."""
        with self._lent(staged) as fd, disk_errors("copy into the file"):
            os.ftruncate(fd, 0)
            at = 0
            while at < size:
                # From another disk, so copy_file_range would not do.
                done = os.pwrite(fd, os.pread(source, min(size - at, 1 << 20), at), at)
                if done == 0:
                    break
                at += done

    # An edit of what is on the service.

    def stage(self, seen: Seen, *, empty: bool = False) -> Local | Future[Local]:
        """The row of a file with its bytes in a staging file, those of its base, or none with `empty`.

        Raises ReadOnly (not a file of ours to write), Forbidden, and what fetching raises.
        """
        if seen.local is not None and seen.local.staged:
            return seen.local
        row = seen.row
        if row is None:
            raise NotFound("the file is gone")
        _check_writable(row)
        if not row.current and not empty:
            answer: Future[Local] = Future()
            _then(self._tree.detailed(row.id), answer, lambda r: self._stage(r, empty=empty))
            return answer
        return self._stage(row, empty=empty)

    def _stage(self, row: Row, *, empty: bool) -> Local | Future[Local]:
        if empty or row.size == 0:
            return self._staged(row, None)
        if row.unmet_terms or row.key is None:
            raise Forbidden(
                f"you may see {row.name!r} but not download it, so it cannot be changed",
                hint="ask for access, or replace it as a whole",
                entity=syn(row.id),
            )
        if (row.size or 0) > self._lazy_from_bytes:
            return self._workers.submit(self._staged, row, None, lazy=True)
        fd = self._cache.open(row.key, row.size)
        if fd is None:
            answer: Future[Local] = Future()
            _then(
                self._streams.whole(row.file()),
                answer,
                lambda _: self._workers.submit(self._from_cache, row),
            )
            return answer
        if (row.size or 0) <= INLINE:
            return self._staged(row, fd)
        return self._workers.submit(self._staged, row, fd)

    def _from_cache(self, row: Row) -> Local:
        assert row.key is not None
        fd = self._cache.open(row.key, row.size)
        if fd is None:
            raise Stale(f"{row.name!r} left the cache at once", entity=syn(row.id))
        return self._staged(row, fd)

    def _staged(self, row: Row, source: int | None, *, lazy: bool = False) -> Local:
        """Copies, then records: the file is whole before a row names it."""
        with self._overlay.change() as tx:
            staged = self._locals.next_number(tx)
        try:
            with disk_errors("copy the file aside"):
                if lazy:
                    self._lazily.begin(row, staged)
                elif source is None:
                    os.close(self._staging.create(staged))
                else:
                    self._staging.copy_in(staged, source, row.size or 0)
        finally:
            if source is not None:
                os.close(source)
        has_base = lazy or source is not None
        stamp = self._staging.stamp(staged).text() if has_base else ""
        with self._overlay.change() as tx:
            local = self._overlay.claim(tx, Seen(None, row))
            if local.gone:
                self._drop(staged)
                raise Stale("the file was removed meanwhile")
            if local.staged:
                self._drop(staged)
                return local
            times = self.times_of(local, row)
            self._used[staged] = time.monotonic()
            self._locals.update(
                tx,
                local.id,
                staged=staged,
                stamp=stamp,
                size=row.size or 0 if has_base else 0,
                lazy=int(lazy),
                ctime_ns=self._overlay.now_ns(),
                **base_of(row),
            )
            if has_base:
                os.utime(self._staging.path(staged), ns=times)
                self._locals.update(tx, local.id, stamp=self._staging.stamp(staged).text())
            local = self._locals.get(local.id, tx)
        # Should nobody open it after all, it goes again.
        self.settle(local.id)
        return local

    def times_of(self, local: Local | None, row: Row) -> tuple[int, int]:
        """(accessed, modified) as stat shows them of bytes that are not staged."""
        mtime = row.modified_ns
        if local is not None and local.mtime_ns is not None and local.mtime_for == row.version:
            mtime = local.mtime_ns
        atime = local.atime_ns if local is not None and local.atime_ns is not None else mtime
        return atime, mtime

    # The end of an edit.

    def settle(self, number: int) -> bool:
        """Lets bytes that the service has become a cache object once nobody has used them for a moment;
        true when they may.
        """
        local = self._locals.find(number)
        if local is None or not local.staged:
            return False
        self._used[local.staged] = time.monotonic()
        self._settling.put(number)
        return True

    def _settle_loop(self) -> None:
        """One thread, rows in the order in which they were last used."""
        while True:
            number = self._settling.get()
            if number is None:
                return
            local = self._locals.find(number)
            if local is None or not local.staged:
                continue
            used = self._used.get(local.staged, 0.0)
            while (left := used + SETTLE_S - time.monotonic()) > 0 and not self._ending.wait(left):
                pass
            if self._ending.is_set():
                return
            if self._used.get(local.staged, 0.0) > used:
                continue  # it is in the queue again
            self._used.pop(local.staged, None)
            try:
                self.settle_now(number)
            except SyndError as error:
                log.info("edit.not_settled", extra=fields(local=number, why=error.message))

    def settle_now(self, number: int) -> bool:
        """Makes bytes that the service has a cache object, if nobody has them open; whether it did."""
        with self._overlay.lock:
            local = self._locals.find(number)
            if local is None or not local.staged or local.gone:
                return False
            if local.edit != local.sent or local.entity is None or local.base_md5 is None:
                return False
            staged = local.staged
            if self.is_open(staged) or number in self._overlay.sending:
                return False
            if self._is_mapped(staged):
                self.settle(number)
                return False
            stamp = self._staging.stamp(staged)
            if local.edit and stamp.text() != local.stamp:
                # Written to since: the start-up scan's case.
                self._changing.put((staged, Future()))
                return False
            row = self._overlay.entities.find(local.entity)
            if row is None or row.version != local.base_version:
                return False
            with self._overlay.change() as tx:
                self._locals.update(
                    tx,
                    number,
                    staged=0,
                    lazy=0,
                    stamp="",
                    mtime_ns=stamp.mtime_ns,
                    mtime_for=local.base_version,
                )
                # The kernel may know it by that node for longer than this daemon lives.
                tx.execute(
                    "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
                    (f"{FORMER}{staged}", str(number)),
                )
                while len(self._former) >= REMEMBERED:
                    oldest, _ = self._former.popitem(last=False)
                    tx.execute("DELETE FROM meta WHERE name = ?", (f"{FORMER}{oldest}",))
            self._former[staged] = number
            unchanged = local.md5 is None or local.edit == 0
            if unchanged or stamp.size != local.base_size:
                self._drop(staged)
            else:
                self._lazily.drop(staged)
                self._staging.as_object(
                    staged, self._cache.objects, local.base_md5, local.base_size
                )
        self.on_settled(local.parent, local.name)
        return True

    def _is_mapped(self, staged: int) -> bool:
        """Whether somebody can still write to it: a shared mapping outlives the handle it was made from."""
        fd = self._staging.open(staged, os.O_RDONLY)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a disk without leases
        finally:
            os.close(fd)
        return False

    # Bytes that are taken away.

    def _keep_overwritten(self, tx: sqlite3.Connection, local: Local, reason: str) -> None:
        """Moves unsent bytes into the recovery area, before their row goes. Empty ones are nothing."""
        if not local.staged or local.size == 0 or self.is_open(local.staged):
            return
        path = self._overlay.path_text(local.key)
        name = local.name.decode(errors="replace")
        self._lazily.drop(local.staged)
        file = self._staging.recover(local.staged, name)
        self._locals.update(tx, local.id, staged=0, lazy=0)
        tx.execute(
            """INSERT INTO recovered (at_ns, path, reason, entity, file, size)
            VALUES (?, ?, ?, ?, ?, ?)""",
            (self._overlay.now_ns(), path, reason, local.entity, file, local.size),
        )

    def _drop(self, staged: int) -> None:
        self._lazily.drop(staged)
        self._staging.remove(staged)

    # The start.

    def start(self) -> int:
        """After a kill: finds what was written but not closed, and files that belong to no row.

        Returns how many edits were found. Cost: a stat for each staging file.
        """
        known: set[int] = set()
        found = 0
        self._staging.sweep()
        for local in self._locals.all():
            if not local.staged:
                continue
            known.add(local.staged)
            if local.gone and local.entity is None:
                with self._overlay.change() as tx:
                    self._overlay.drop_if_over(tx, local)
                continue
            try:
                stamp = self._staging.stamp(local.staged)
            except NotFound:
                if not self._staging.put_back(local.staged) and self._is_lost(local):
                    continue
                stamp = self._staging.stamp(local.staged)
            if local.lazy:
                self._lazily.resume(local)
            if stamp.text() != local.stamp and (stamp.size or local.edit):
                found += 1
                self._changing.put((local.staged, Future()))
            elif local.edit == local.sent and local.entity is not None:
                self.settle(local.id)
        for staged in self._staging.numbers():
            if staged not in known and not self._is_save(staged):
                log.info("edit.orphan", extra=fields(staged=staged))
                self._staging.rescue(staged)
        self._staging.drop_restored()
        return found

    def _is_lost(self, local: Local) -> bool:
        """For a row without its staging file: an empty one is made where nothing was acknowledged yet."""
        if local.edit == 0 and local.entity is None:
            # Killed between the row and the file.
            os.close(self._staging.create(local.staged, resume=True))
            return False
        with self._overlay.change() as tx:
            if local.edit == local.sent:
                self._locals.update(tx, local.id, staged=0, lazy=0, stamp="")
            else:
                # Somebody took it out of the state folder. An empty file must not be sent in its place.
                log.error(
                    "edit.lost",
                    extra=fields(local=local.id, path=self._overlay.path_text(local.key)),
                )
                problem = NotFound(
                    "the bytes of this edit are missing from the state folder",
                    hint="put them back, or `synd discard` the edit",
                ).problem()
                self._locals.update(tx, local.id, state="blocked", problem=json.dumps(problem))
        return True

    def _is_save(self, staged: int) -> bool:
        statement = "SELECT 1 FROM save WHERE staged = ?"
        return self._overlay.store.read.execute(statement, (staged,)).fetchone() is not None

    def statvfs(self) -> os.statvfs_result:
        return self._staging.statvfs()


def _check_writable(row: Row) -> None:
    if row.kind != Kind.FILE:
        raise ReadOnly(
            f"{row.name!r} is a {row.kind}, made from the service's own data",
            hint="change it on the web or through a grid session",
            entity=syn(row.id),
        )
    if row.url is not None:
        raise ReadOnly(
            f"{row.name!r} is a link to {row.url}: its bytes are not the service's",
            entity=syn(row.id),
        )


def _then(source: Future, target: Future, step: Callable) -> None:  # type: ignore[type-arg]
    """Hands the outcome of `step` of `source` to `target`."""

    def done(finished: Future) -> None:  # type: ignore[type-arg]
        try:
            result = step(finished.result())
        except BaseException as error:  # noqa: BLE001 - it belongs to the waiter
            fail(target, error)
            return
        if isinstance(result, Future):
            _then(result, target, lambda value: value)
        else:
            settle(target, result)

    source.add_done_callback(done)
