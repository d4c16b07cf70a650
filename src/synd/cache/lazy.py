"""A large file that is edited before it is here: bytes come from its base as they are needed.

The staging file has the full length from the start and holes where blocks lack; `lazymap` says which
are here. A write of a whole block needs nothing of the base, one into a block's middle has it fetched
first. `fill` brings the rest, after which the map is gone and the file is like any other.

Leaves to others: where bytes of the base come from and how long that may take (`fetch`), in which order changes
wait for them (`lazychange`), who has the file open, what its row says (`lazy` becomes 0 once `fill` is through).

Invariants:
- Bytes are in the file before the map says so, and synced before it says that they outlive power loss.
- A block that is here stays here, and `limit` only sinks; so what may be read from the file once may be
  read from it for ever, without the lock.
- A map exists before its file does, and goes after the file is whole and synced: a file without one is
  whole.
- Changes that overlap are made in the order of their calls; one that waits holds up those behind it.
- Neither `fetch` nor whoever waits for a Future is called under the lock.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress

from synd.cache.disk import GONE, PAGE, boot_id, write_at
from synd.cache.lazychange import DOING, Change, Waiting
from synd.cache.lazyfetch import Fetch, Got, fetched, pread, settle_when_all, waited
from synd.cache.lazymap import LazyMap, blocks
from synd.cache.lazynew import make_lazy
from synd.cache.staged import Stamp
from synd.cache.staging import Staging
from synd.cache.statedisk import (
    KEEP_SIZE,
    PUNCH_HOLE,
    ZERO_RANGE,
    allocate,
    disk_errors,
)
from synd.errors import Busy, Cancelled, NotSupported, SyndError
from synd.ranges import ByteRange

FILL = 1 << 20
"""Bytes that `fill` asks for at once."""


class Lazy:
    """One such file, for all who have it open. All methods may be called from any thread.

    One lock per file, a leaf but for the system calls made under it.
    """

    def __init__(
        self, staging: Staging, number: int, fd: int, marks: LazyMap | None, fetch: Fetch
    ) -> None:
        """For `create` and `open`. Takes over the descriptors."""
        self.number = number
        self.fd = fd
        """Of the staging file, while this is open. Whole once `complete`."""
        self._staging = staging
        self._map = marks
        """None once the file is whole."""
        self._map_fd = -1 if marks is None else marks.fd
        self._fetch = fetch
        self._size = os.fstat(fd).st_size
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._users = 1
        self._closed = False

    # Life.

    @classmethod
    def create(
        cls, staging: Staging, number: int, base_size: int, fetch: Fetch, *, boot: str | None = None
    ) -> Lazy:
        """A new file with the content of a base, of which nothing is here yet. Cost: three syncs.

        The file is on disk for good but for its name, which the first `sync` enters. Raises Exists.
        """
        boot = boot_id() if boot is None else boot
        staging.with_room(
            PAGE + blocks(base_size),
            "make a staging file",
            lambda: make_lazy(staging, number, base_size, boot),
        )
        try:
            return cls.open(staging, number, base_size, fetch, boot=boot)
        except BaseException:
            staging.remove(number)
            raise

    @classmethod
    def open(
        cls, staging: Staging, number: int, base_size: int, fetch: Fetch, *, boot: str | None = None
    ) -> Lazy:
        """The file as an earlier daemon left it; without a map it is whole.

        Under another boot id than before, what was written after the last `sync` is not there any more.
        Raises NotFound; Busy when it is open already; StoreError when the map is damaged.
        """
        if not staging.claim(number):
            raise Busy("the file is open already, or about to be closed")
        fd = map_fd = -1
        try:
            fd = staging.open(number)
            with disk_errors("open an edited file"):
                try:
                    map_fd = os.open(staging.map_path(number), os.O_RDWR | os.O_CLOEXEC)
                except FileNotFoundError:
                    return cls(staging, number, fd, None, fetch)
                marks = LazyMap(
                    map_fd,
                    base_size,
                    os.fstat(fd).st_size,
                    boot_id() if boot is None else boot,
                    staging.flush,
                )
                return cls(staging, number, fd, marks, fetch)
        except BaseException:
            for opened in (fd, map_fd):
                if opened >= 0:
                    os.close(opened)
            staging.unclaim(number)
            raise

    def close(self) -> None:
        """Lets go of the file; changes that still wait end in Cancelled. Syncs nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            waiting = self._waiting.give_up()
        for change in waiting:
            change.fail(Cancelled("the file was closed"))
        self._leave()

    def _enter_locked(self) -> None:
        if self._closed:
            raise Cancelled("the file is closed")
        self._users += 1

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            if self._users:
                return
            for fd in (self.fd, self._map_fd):
                if fd >= 0:
                    os.close(fd)
        self._staging.unclaim(self.number)

    # Looking.

    @property
    def size(self) -> int:
        return self._size

    @property
    def complete(self) -> bool:
        """Whether the file is whole and has no map any more."""
        return self._map is None

    @property
    def missing_bytes(self) -> int:
        """Bytes that `fill` has to bring."""
        with self._lock:
            return 0 if self._map is None else self._map.missing_bytes

    def stamp(self) -> Stamp:
        with disk_errors("look at an edited file"):
            return Stamp.of(os.fstat(self.fd))

    def has(self, offset: int, size: int) -> bool:
        """Whether these bytes, as far as the file goes, may be read from `fd`."""
        with self._lock:
            return not self._missing_locked(offset, offset + size)

    def _missing_locked(self, start: int, end: int) -> list[ByteRange]:
        return [] if self._map is None else self._map.missing(start, min(end, self._size))

    # Reading.

    def read(self, offset: int, size: int) -> Got:
        """The bytes, fewer only at the end of the file; a Future when the base has to be waited for.

        What comes of the base is not kept: the base is cached by whoever fetches it. Cancelling the Future
        cancels those that `fetch` gave. Raises what `fetch` raises.
        """
        with self._lock:
            self._enter_locked()
            end = min(offset + size, self._size)
            gaps = self._missing_locked(offset, end)
        answer: Future[bytes] | None = None
        got: list[Got] = []
        try:
            if not gaps:
                with disk_errors("read an edited file"):
                    return pread(self.fd, end - offset, offset)
            got.extend(self._fetch(gap.start, gap.size) for gap in gaps)
            if not any(isinstance(one, Future) for one in got):
                return self._joined(offset, end, gaps, got)
            answer = Future()
        finally:
            if answer is None:
                for one in got:
                    if isinstance(one, Future):
                        one.cancel()
                self._leave()

        def joined() -> bytes:
            try:
                return self._joined(offset, end, gaps, got)
            finally:
                self._leave()

        settle_when_all(answer, [one for one in got if isinstance(one, Future)], joined)
        return answer

    def _joined(
        self,
        offset: int,
        end: int,
        gaps: list[ByteRange],
        got: list[Got],
    ) -> bytes:
        """What the file holds now; of the base only what still lacks, as much may have been written since."""
        parts = [fetched(one, gap.size) for one, gap in zip(got, gaps, strict=True)]
        with self._lock, disk_errors("read an edited file"):
            end = min(end, self._size)
            data = bytearray(pread(self.fd, end - offset, offset))
            # Blocks only ever come, so what lacks now lies within one gap of then.
            for lack in self._missing_locked(offset, end):
                for gap, part in zip(gaps, parts, strict=True):
                    if gap.start <= lack.start < gap.end:
                        data[lack.start - offset : lack.end - offset] = part[
                            lack.start - gap.start : lack.end - gap.start
                        ]
        return bytes(data)

    # Changing.

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int | Future[int]:
        """How many bytes were written: fewer only when the disk filled up meanwhile.

        A Future while blocks that are written in part have to come; cancelled, nothing of it is written.
        Raises CacheFull, and what `fetch` raises: then no other byte has changed.
        """
        view = memoryview(data).cast("B")
        return self._change(Change(offset, offset + len(view), view)) if len(view) else 0

    def zero(self, offset: int, size: int, *, keep_size: bool = False) -> int | Future[int]:
        """Makes a range read as zeros, giving its room back; it grows the file unless `keep_size`."""
        return self._change(Change(offset, offset + size, None, grows=not keep_size)) if size else 0

    def fallocate(self, mode: int, offset: int, size: int) -> int | Future[int]:
        """Room, holes or zeros, by the modes of the system call. Raises NotSupported, CacheFull."""
        if mode in (0, KEEP_SIZE):

            def attempt() -> int:
                with self._lock:
                    self._check_open_locked()
                    if mode == 0:
                        self._grow_locked(offset + size)
                    allocate(self.fd, mode, offset, size)
                    self._size = os.fstat(self.fd).st_size
                return size

            return self._staging.with_room(size, "reserve room for an edited file", attempt)
        if mode == PUNCH_HOLE | KEEP_SIZE:
            return self.zero(offset, size, keep_size=True)
        if mode & ~KEEP_SIZE == ZERO_RANGE:
            return self.zero(offset, size, keep_size=bool(mode & KEEP_SIZE))
        raise NotSupported("no such way to allocate")

    def truncate(self, size: int) -> None:
        """Cuts the file, or lengthens it with zeros: what was cut off of the base never shows again."""

        def attempt() -> None:
            with self._lock:
                self._check_open_locked()
                self._grow_locked(size)
                os.ftruncate(self.fd, size)
                self._size = size
                if self._map is not None:
                    self._map.limit = min(self._map.limit, size)

        self._staging.with_room(0, "change the size of an edited file", attempt)
        # What a write waited for may be cut off.
        self._make_ready()

    def _check_open_locked(self) -> None:
        if self._closed:
            raise Cancelled("the file is closed")

    def _change(self, change: Change) -> int | Future[int]:
        asking: list[ByteRange] = []

        def attempt() -> int | None:
            with self._lock:
                self._check_open_locked()
                needed = self._needed_locked(change)
                if not needed and not self._waiting.holds_up(change):
                    return self._make_locked(change)
                asking.extend(self._waiting.add(change, needed))
                return None

        done = self._staging.with_room(change.end - change.start, DOING, attempt)
        if done is not None:
            return done
        for one in asking:
            self._bring(one)
        return change.future.result() if change.future.done() else change.future

    def _needed_locked(self, change: Change) -> list[ByteRange]:
        return [] if self._map is None else self._map.needed(change.start, change.end)

    def _bring(self, wanted: ByteRange) -> None:
        try:
            got = self._fetch(wanted.start, wanted.size)
        except Exception as error:  # noqa: BLE001 - it belongs to the writers
            self._arrived(wanted, error)
            return
        if isinstance(got, Future):
            got.add_done_callback(lambda finished: self._arrived(wanted, finished))
        else:
            self._arrived(wanted, got)

    def _arrived(self, wanted: ByteRange, got: Got | Exception) -> None:
        """Blocks that changes wait for are here, or will not come."""
        problem: Exception | None = None
        try:
            if isinstance(got, Exception):
                raise got
            self._store(wanted, fetched(got, wanted.size))
        except Exception as error:  # noqa: BLE001 - it belongs to the writers
            problem = error
        failed: list[Change] = []
        with self._lock:
            self._waiting.came(wanted)
            if problem is not None:
                failed = self._waiting.without(wanted, self._needed_locked)
        for change in failed:
            assert problem is not None
            change.fail(problem)
        self._make_ready()

    def _store(self, at: ByteRange, data: bytes) -> None:
        """Puts bytes of the base where the file still lacks them."""

        def attempt() -> None:
            with self._lock:
                if self._closed or self._map is None:
                    return
                for lack in self._map.missing(at.start, at.end):
                    write_at(
                        self.fd,
                        memoryview(data)[lack.start - at.start : lack.end - at.start],
                        lack.start,
                    )
                    self._map.mark(lack.start, lack.end)

        self._staging.with_room(len(data), "keep fetched bytes of an edited file", attempt)

    def _make_ready(self) -> None:
        """Makes the changes that need wait no longer."""
        full = self._make_some(patient=True)
        if full:
            self._staging.on_full(full)
            self._make_some(patient=False)

    def _make_some(self, *, patient: bool) -> int:
        """Bytes for which there was no room, when `patient`: that change still waits. Else 0."""
        with self._lock:
            made, full = self._waiting.make(self._needed_locked, self._make_locked, patient=patient)
        for change, result in made:
            if isinstance(result, SyndError):
                change.future.set_exception(result)
            else:
                change.future.set_result(result)
        return full

    def _make_locked(self, change: Change) -> int:
        """Makes a change that needs nothing. Raises OSError, SyndError."""
        if change.data is None:
            end = change.end if change.grows else min(change.end, self._size)
            return self._zero_locked(change.start, end) if end > change.start else 0
        self._grow_locked(change.end)
        view, done = memoryview(change.data), 0
        problem: OSError | None = None
        while done < len(view) and problem is None:
            try:
                done += os.pwrite(self.fd, view[done:], change.start + done)
            except OSError as error:
                problem = error
        end = change.start + done
        self._size = max(self._size, end) if done else self._size
        if self._map is not None:
            # A disk that filled up in the middle of a missing block: that one stays as it was.
            end = max(change.start, self._map.whole_until(end)) if problem is not None else end
            self._map.mark(change.start, end)
        if problem is not None and end == change.start:
            raise problem
        return end - change.start

    def _zero_locked(self, start: int, end: int) -> int:
        self._grow_locked(end)
        inside = min(end, self._size)
        if start < inside:
            try:
                allocate(self.fd, PUNCH_HOLE | KEEP_SIZE, start, inside - start)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS):
                    raise
                for at in range(start, inside, FILL):
                    write_at(self.fd, bytes(min(FILL, inside - at)), at)
        if end > self._size:
            os.ftruncate(self.fd, end)
            self._size = end
        if self._map is not None:
            self._map.mark(start, end)
        return end - start

    def _grow_locked(self, end: int) -> None:
        """Before the file grows to `end`: that it was cut must be on disk, else the base shows again."""
        if end > self._size and self._map is not None and self._map.limit_unsaved:
            self._staging.flush(self.fd)
            self._map.save_limit()
            self._staging.flush(self._map_fd)

    # Durability.

    def sync(self) -> None:
        """Returns once every write that was answered before outlives power loss."""
        with self._lock:
            self._enter_locked()
            whole = self._map is None
            marks = None if self._map is None else self._map.unsafe()
        try:
            self._staging.sync(self.number, self.fd)
            if whole:
                return
            if marks is not None:
                with self._lock, disk_errors("write an edit to the disk"):
                    if self._map is not None:
                        self._map.promote(marks)
            # In any case: another `sync` may have promoted, and not have come so far.
            self._staging.flush(self._map_fd)
        finally:
            self._leave()

    def fill(self, stop: Callable[[], bool] = lambda: False, *, most: int | None = None) -> bool:
        """Brings all that lacks, from the start on; whether the file is whole now, and has no map.

        Waits for the network: for a worker. Reading and writing go on meanwhile. It gives up soon after
        `stop` says so, or once it has brought `most` bytes, and what has come stays. Raises what `fetch`
        raises, CacheFull, StoreError.
        """
        brought = 0
        with self._lock:
            self._enter_locked()
        try:
            while (lack := self._first_missing()) is not None:
                if stop() or (most is not None and brought >= most):
                    return False
                data = waited(self._fetch(lack.start, lack.size), lack.size, stop)
                if data is None:
                    return False
                self._store(lack, data)
                self._make_ready()
                brought += lack.size
            self._finish()
            return True
        finally:
            self._leave()

    def _first_missing(self) -> ByteRange | None:
        with self._lock:
            self._check_open_locked()
            return None if self._map is None else self._map.first_missing(FILL)

    def _finish(self) -> None:
        with self._lock:
            marks = None if self._map is None else self._map.unsafe()
        self._staging.sync(self.number, self.fd)
        with self._lock, disk_errors("write an edit to the disk"):
            if self._map is None:
                return
            if marks is not None:
                self._map.promote(marks)
            # Should a power loss bring the map back, it says that all is here.
            self._staging.flush(self._map_fd)
            with suppress(*GONE):
                os.unlink(self._staging.map_path(self.number))
            self._map = None
