"""Bytes of files that are edited here: staging files, from the beginning of an edit to its end.

A staging file is written through the mount by the kernel itself where it can; this side learns of it
when a descriptor is closed, and looks whether the file differs from what it was. `closed` answers
once the bytes and the row are on the disk (`closing`). How an edit begins says `aside`, how it ends
`settling`, where what large files lack comes from `lazily`, who has what open `openfiles`.

Lock order: `overlay.lock` → the parts' own, which are leaves. Nothing waits for the network under either.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from synd.cache.folder import Cache
from synd.cache.staging import Staging
from synd.cache.statedisk import allocate, disk_errors
from synd.clock import NS
from synd.errors import CacheFull, NotFound, SyndError
from synd.log import fields
from synd.mirror.aside import Aside
from synd.mirror.closing import Closing
from synd.mirror.lazily import LazyFiles
from synd.mirror.openfiles import OpenFiles
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.recovery import note_taken
from synd.mirror.settling import Settling
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.ranges import FileSlice
from synd.store.local import Local, Sending
from synd.store.unsent import Unsents

log = logging.getLogger(__name__)

_WRITERS = 4


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
        passes: Callable[[], bool] = lambda: True,
        on_settled: Callable[[int, bytes], None] = lambda _parent, _name: None,
        on_recovered: Callable[[], None] = lambda: None,
    ) -> None:
        """`passes`: whether the kernel may write to the disk by itself. `on_settled`: the name leads to
        another node from now on. `on_recovered`: bytes were taken into the recovery area.
        """
        self._overlay = overlay
        self._locals = overlay.locals
        self._staging = staging
        self.passes = passes
        self.on_settled = on_settled
        self.on_recovered = on_recovered
        self._workers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="stage")
        self._files = OpenFiles(staging)
        self._served_from = 0
        """The first number of this daemon's own; `prepare` says it."""
        self._found: list[int] = []
        """Staging files that an earlier daemon left, until `start` has looked at them."""
        self.lazily = LazyFiles(overlay, staging, cache, streams, on_whole=self._whole)
        """Those that lack bytes; `undoing` brings back such files too."""
        self._closing = Closing(overlay, staging, self.lazily, upload_delay_s=upload_delay_s)
        self._settling = Settling(
            overlay,
            staging,
            cache.objects,
            is_open=self._files.is_open,
            let_go=self.lazily.drop,
            changed=self._closing.closed,
            on_settled=self._settled,
        )
        self._aside = Aside(
            overlay,
            staging,
            cache,
            streams,
            tree,
            self.lazily,
            self._settling,
            self._workers,
            lazy_from_bytes=lazy_from_bytes,
            drop=self._drop,
        )
        overlay.opened = self.is_open
        overlay.overwritten = self._keep_overwritten
        overlay.unused = self._drop

    def close(self) -> None:
        """Ends the threads; what was answered is durable already."""
        self._settling.end()
        self._closing.close()
        self._settling.close()
        self.lazily.close()
        self._workers.shutdown(wait=True)
        self._files.close()

    # Who has it open.

    def opened(self, staged: int, handle: int, *, writes: bool) -> None:
        self._files.opened(staged, handle, writes=writes)

    def released(self, staged: int, handle: int) -> None:
        """Ends one handle; with the last one a removed file goes, and a sent one becomes an object."""
        if not self._files.released(staged, handle):
            return
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
        elif local.edit != local.sent:
            self._hurry(local.id)

    def _hurry(self, number: int) -> None:
        """What waited for its end to be written, as it was open, has waited enough."""
        # The lock: who is just putting it off for being open either sees that it is not, or is seen.
        with self._overlay.lock:
            local = self._locals.find(number)
            if local is None or local.state != Sending.WAITING or local.tries:
                return
            soon_ns = self._overlay.now_ns() + round(self._overlay.delays.upload_s * NS)
            if local.not_before_ns > soon_ns:
                with self._overlay.change() as tx:
                    self._overlay.queue(tx, local)

    def former(self, staged: int) -> Local | None:
        """The row whose staging file this was, if that is remembered."""
        return self._settling.former(staged)

    def is_open(self, staged: int) -> bool:
        return self._files.is_open(staged)

    def writers(self, number: int) -> int:
        """Open handles that may write to a row's bytes."""
        local = self._locals.find(number)
        return 0 if local is None or not local.staged else self._files.writers(local.staged)

    def writing(self) -> list[int]:
        """Staging files that somebody may be writing to."""
        return self._files.writing()

    def refused(self) -> list[int]:
        """Staging files whose close the full disk refused to record; that is tried again by itself."""
        return self._closing.refused()

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
        """A new descriptor for passthrough, open for reading and writing; None while bytes lack, or while
        there is so little room that writes must come here to find more. Raises Stale.
        """
        if self.lazily.get(staged) is not None or not self.passes():
            # It must be there all the same.
            self._files.stat(staged)
            return None
        return self._files.new_fd(staged)

    def read(self, staged: int, offset: int, size: int) -> FileSlice | bytes | Future[bytes]:
        lazy = self.lazily.get(staged)
        if lazy is not None:
            return lazy.read(offset, size)
        return FileSlice(self._files.fd(staged), offset, size)

    def write(self, staged: int, offset: int, data: memoryview) -> int | Future[int]:
        """How many bytes were written: fewer only when the disk filled up meanwhile. Raises CacheFull."""
        lazy = self.lazily.get(staged)
        if lazy is not None:
            return lazy.write(offset, bytes(data))
        fd, done = self._files.fd(staged), 0

        def attempt() -> None:
            nonlocal done
            while done < len(data):
                done += os.pwrite(fd, data[done:], offset + done)

        try:
            self._staging.with_room(len(data), "write to the file", attempt)
        except CacheFull:
            if not done:
                raise
        return done

    def truncate(self, staged: int, size: int) -> None:
        lazy = self.lazily.get(staged)
        if lazy is not None:
            lazy.truncate(size)
            return
        with self._files.lent(staged) as fd:
            self._staging.with_room(0, "set the size of the file", lambda: os.ftruncate(fd, size))

    def fallocate(self, staged: int, mode: int, offset: int, length: int) -> Future[int] | None:
        lazy = self.lazily.get(staged)
        if lazy is not None:
            done = lazy.fallocate(mode, offset, length)
            return done if isinstance(done, Future) else None
        fd = self._files.fd(staged)
        self._staging.with_room(
            length, "allocate room for the file", lambda: allocate(fd, mode, offset, length)
        )
        return None

    def stat(self, staged: int) -> os.stat_result:
        """Of the staging file: it is its size and its times that the mount shows. Raises Stale."""
        return self._files.stat(staged)

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
        return self._staging.create(staged)

    def passed(self, fd: int) -> int | None:
        """The descriptor of a new file for passthrough; closed, and None, when writes must come here."""
        if self.passes():
            return fd
        os.close(fd)
        return None

    def closed(self, staged: int, *, force: bool = False) -> Future[None] | None:
        """A descriptor was closed: queues the content if it changed. Settled once that is durable;
        None when there was nothing to do.
        """
        local = self._locals.of_staged(staged)
        if local is None:
            return None
        if not force and self._staging.stamp(staged).text() == local.stamp:
            return None
        return self._closing.closed(staged)

    def sync(self, staged: int) -> Future[None]:
        """fsync: what was written so far is durable. Nothing is queued by it."""
        return self._workers.submit(self._closing.sync, staged)

    def sync_rows(self) -> Future[None]:
        """What was made, moved and removed so far is durable."""
        return self._workers.submit(self._overlay.store.sync)

    def _settled(self, parent: int, name: bytes) -> None:
        self.on_settled(parent, name)

    def _whole(self, staged: int) -> None:
        """A lazy file lacks nothing any more."""
        with self._overlay.change() as tx:
            local = self._locals.of_staged(staged, tx)
            if local is None or local.gone or local.local_only:
                return
            if local.edit > local.sent:
                self._overlay.queue(tx, local, delay_s=0.0)

    def replace(self, staged: int, source: int, size: int) -> None:
        """Gives a staging file the bytes of an open file. Whoever has it open sees them too."""

        def attempt() -> None:
            os.ftruncate(fd, 0)
            at = 0
            while at < size:
                # From another disk, so copy_file_range would not do.
                done = os.pwrite(fd, os.pread(source, min(size - at, 1 << 20), at), at)
                if done == 0:
                    break
                at += done

        with self._files.lent(staged) as fd:
            self._staging.with_room(size, "copy into the file", attempt)

    # The beginning and the end of an edit.

    def stage(self, seen: Seen, *, empty: bool = False) -> Local | Future[Local]:
        """The row of a file with its bytes in a staging file, those of its base, or none with `empty`.

        Raises ReadOnly (not a file of ours to write), Forbidden, and what fetching raises.
        """
        return self._aside.stage(seen, empty=empty)

    def settle(self, number: int) -> bool:
        """Lets bytes that the service has become a cache object once nobody has used them for a moment;
        true when they may.
        """
        return self._settling.settle(number)

    # Bytes that are taken away.

    def _keep_overwritten(self, tx: sqlite3.Connection, local: Local, reason: str) -> None:
        """Moves unsent bytes into the recovery area, before their row goes. Empty ones are nothing."""
        if not local.staged or local.size == 0 or self.is_open(local.staged):
            return
        path = self._overlay.path_text(local.key)
        self.lazily.drop(local.staged)
        file = self._staging.recover(local.staged, local.name)
        self._locals.update(tx, local.id, staged=0, lazy=0)
        note_taken(
            tx,
            at_ns=self._overlay.now_ns(),
            path=path,
            reason=reason,
            entity=local.entity,
            file=file,
            size=local.size,
        )
        self.on_recovered()

    def _drop(self, staged: int) -> None:
        self.lazily.drop(staged)
        self._staging.remove(staged)

    # The start.

    def prepare(self) -> None:
        """Before anybody is served: ends what a killed daemon left half made, and notes what it left."""
        self._staging.sweep()
        self._found = list(self._staging.numbers())
        with self._overlay.change() as tx:
            self._served_from = self._locals.next_number(tx)

    def start(self) -> int:
        """After a kill: finds what was written but not closed, and files that belong to no row.

        The mount is served meanwhile: what is newer than `prepare` is somebody's present work and is left
        alone, and an older row is read again before it is changed. Returns how many edits were found.
        Cost: a stat for each staging file.
        """
        found = 0
        for number in [local.id for local in self._locals.all() if local.staged]:
            # Later than the list, so it is no older than the disk.
            local = self._locals.find(number)
            if local is None or not 0 < local.staged < self._served_from:
                continue
            if local.gone and local.entity is None:
                self._end_gone(number)
                continue
            try:
                stamp = self._staging.stamp(local.staged)
            except NotFound:
                if not self._staging.put_back(local.staged) and self._is_lost(local):
                    continue
                stamp = self._staging.stamp(local.staged)
            if local.lazy:
                self.lazily.resume(local)
            if stamp.text() != local.stamp and (stamp.size or local.stamp):
                found += 1
                self._closing.closed(local.staged)
            elif local.edit == local.sent and local.entity is not None:
                self.settle(local.id)
        # After a power loss a row may have been told of a `recover` that the disk did not keep.
        taken = {
            self._staging.number_of(row.file): row.file
            for row in Unsents(self._overlay.store).recovered()
            if row.file
        }
        leftover, self._found = self._found, []
        for staged in leftover:
            # The lock: what leaves its row this moment has left its place too, once that is ours.
            with self._overlay.lock:
                if not self._is_known(staged) and self._staging.exists(staged):
                    log.info("edit.orphan", extra=fields(staged=staged))
                    self._staging.rescue(staged, taken.get(staged, "unnamed"))
        self._staging.drop_restored()
        return found

    def _end_gone(self, number: int) -> None:
        """Ends a removed row that nobody has open any more."""
        with self._overlay.change() as tx:
            local = self._locals.find(number, tx)
            if local is not None and local.gone and local.entity is None:
                self._overlay.drop_if_over(tx, local)

    def make_sure(self, local: Local) -> None:
        """For a row that a killed daemon recorded and answered nobody of: its empty file is there."""
        if local.edit == 0 and local.entity is None and local.staged:
            os.close(self._staging.create(local.staged, resume=True))

    def _is_lost(self, local: Local) -> bool:
        """For a row without its staging file: an empty one is made where nothing was acknowledged yet."""
        if local.edit == 0 and local.entity is None:
            self.make_sure(local)
            return False
        with self._overlay.change() as tx:
            now = self._locals.find(local.id, tx)
            if now is None or now.staged != local.staged or self._staging.exists(local.staged):
                return True  # It ended, or became an object, this moment.
            if now.edit == now.sent:
                self._locals.update(tx, now.id, staged=0, lazy=0, stamp="")
            else:
                # Somebody took it out of the state folder. An empty file must not be sent in its place.
                log.error(
                    "edit.lost",
                    extra=fields(local=now.id, path=self._overlay.path_text(now.key)),
                )
                problem = NotFound(
                    "the bytes of this edit are missing from the state folder",
                    hint="put them back, or `synd discard` the edit",
                ).problem()
                self._locals.update(tx, now.id, state="blocked", problem=json.dumps(problem))
        return True

    def _is_known(self, staged: int) -> bool:
        """Whether a row, or a save under way, names the staging file."""
        return self._locals.of_staged(staged) is not None or self._is_save(staged)

    def _is_save(self, staged: int) -> bool:
        statement = "SELECT 1 FROM save WHERE staged = ?"
        return self._overlay.store.read.execute(statement, (staged,)).fetchone() is not None

    def statvfs(self) -> os.statvfs_result:
        return self._staging.statvfs()
