"""Incomplete objects: a sparse file ``partial/<key>`` and its block map ``partial/<key>.map``.

A block is 16 KiB, so that a random read of 64 KiB fetches at most 80 KiB. The map holds one byte
per block (5 GiB: 320 KiB of map), which makes it the same in memory and on disk: a fetcher writes
just its own bytes of it, and looking for a gap is one `find` in C.

Invariants:
- A block's mark is set after its bytes were written, in memory and then on disk. So after a kill
  every marked block holds its bytes (the page cache keeps the order of the writes). After a power
  loss it may not: `folder` throws away partials that were written since the last sync.
- A marked block is never written again until `reset`, and its file never shrinks. So whoever saw
  the mark may read without a lock, and the digest computed on the way stays true.
- There is one `Partial` per key, shared by all who open it.

Leaves to others: what to fetch and when (the mirror), hashing (`hashing`), eviction (`folder`).
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from synd.cache.disk import GONE, OnFull, never, with_room, write_at
from synd.cache.objects import OBJECT_MODE, ObjectStore, check_digest, digest_of_key
from synd.digest import md5_of_fd
from synd.errors import Cancelled, IntegrityError, StoreError, UsageError
from synd.ids import ContentKey, Md5, check_content_key
from synd.ranges import ByteRange

BLOCK = 16 << 10
_SHIFT = BLOCK.bit_length() - 1
_HEADER = struct.Struct("<8sQI12x")
_MAGIC = b"syndmap1"
_MAP = ".map"
_ABSENT = 0
_PRESENT = 1


class Idle(NamedTuple):
    """A partial on disk that nobody has open."""

    key: ContentKey
    disk_bytes: int
    used_ns: int


class PartialStore:
    """The folder of incomplete objects. All methods may be called from any thread.

    No lock is held while `on_full` runs, and this store's lock never together with a partial's.
    """

    def __init__(
        self,
        root: Path,
        objects: ObjectStore,
        *,
        on_full: OnFull = never,
        on_grow: Callable[[int], None] | None = None,
    ) -> None:
        self.folder = root / "partial"
        self._folder = str(self.folder)
        self.objects = objects
        self.on_full = on_full
        self.on_grow = on_grow
        self._lock = threading.Lock()
        self._open: dict[ContentKey, Partial] = {}

    def open(self, key: ContentKey, size: int) -> Partial:
        """The partial of that content, made or resumed; close it when done.

        An object that is complete by now is given as a sealed partial, so nobody fetches it again.
        Raises IntegrityError if the content is open with another size, CacheFull, StoreError.
        """
        return with_room(BLOCK, self.on_full, lambda: self._open_once(key, size))

    def _open_once(self, key: ContentKey, size: int) -> Partial:
        check_content_key(key)
        with self._lock:
            partial = self._open.get(key)
            if partial is None:
                fd = self.objects.open(key, size)
                if fd is None:
                    try:
                        partial = self._load(key, size)
                    except FileNotFoundError:
                        os.makedirs(self._folder, mode=0o700, exist_ok=True)
                        partial = self._load(key, size)
                else:
                    partial = Partial(self, key, size, fd, -1, bytearray(b"\1" * _blocks(size)))
                    partial.sealed = True
                self._open[key] = partial
            elif partial.size != size:
                raise IntegrityError(f"content {key} has {partial.size} bytes, not {size}")
            partial.users += 1
            return partial

    def _load(self, key: ContentKey, size: int) -> Partial:
        data, marks = self._paths(key)
        blocks = _blocks(size)
        # The map is made whole before the data file exists, and a data file of the wrong size means
        # that a kill came in between: then both start anew.
        map_fd = os.open(marks, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fd = -1
        try:
            fd = os.open(data, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            present = _read_map(map_fd, size)
            if present is None or os.fstat(fd).st_size != size:
                present = bytearray(blocks)
                # Real zeros, not a hole: marking a block later needs no room on the disk.
                os.ftruncate(map_fd, 0)
                write_at(map_fd, _HEADER.pack(_MAGIC, size, BLOCK) + present, 0)
                os.ftruncate(fd, 0)
                os.ftruncate(fd, size)
            return Partial(self, key, size, fd, map_fd, present)
        except BaseException:
            os.close(map_fd)
            if fd >= 0:
                os.close(fd)
            raise

    def _paths(self, key: ContentKey) -> tuple[str, str]:
        data = f"{self._folder}/{key}"
        return data, data + _MAP

    def close(self, partial: Partial) -> None:
        """One user of the partial less; the last one closes its descriptors."""
        with self._lock:
            partial.users -= 1
            if partial.users:
                return
            if self._open.get(partial.key) is partial:
                del self._open[partial.key]
            partial.close_descriptors()

    def remove_files(self, partial: Partial, *, abandon: bool = False) -> None:
        """Removes an open partial's files; with `abandon` its users are alone with it from now on."""
        with self._lock:
            if self._open.get(partial.key) is partial:
                self.unlink(partial.key)
                if abandon:
                    del self._open[partial.key]

    def retain(self, partial: Partial) -> None:
        """One user of the partial more."""
        with self._lock:
            partial.users += 1

    def unlink(self, key: ContentKey, *, data: bool = True) -> None:
        """Removes the files of a partial; open descriptors stay valid."""
        for path in self._paths(key)[0 if data else 1 :]:
            with suppress(*GONE):
                os.unlink(path)

    def discard(self, key: ContentKey) -> int:
        """Removes the partial unless somebody has it open. Returns the bytes freed."""
        check_content_key(key)
        with self._lock:
            if key in self._open:
                return 0
            try:
                freed = os.stat(self._paths(key)[0]).st_blocks * 512
                self.unlink(key)
            except GONE:
                return 0
            except OSError as error:
                raise StoreError(f"cannot delete partial {key}: {error.strerror}") from error
            return freed

    def idle(self) -> Iterator[Idle]:
        """Partials on disk that nobody has open; sweeps maps without data. Cost: one stat each."""
        try:
            names = set(os.listdir(self._folder))
        except OSError:
            return
        for name in names:
            key = ContentKey(name.removesuffix(_MAP))
            if key in self._open:
                continue
            if name.endswith(_MAP):
                if key not in names:
                    self.discard_map(key)
                continue
            try:
                stat = os.stat(f"{self._folder}/{check_content_key(name)}")
            except (UsageError, OSError):
                continue
            yield Idle(key, stat.st_blocks * 512, max(stat.st_mtime_ns, stat.st_atime_ns))

    def discard_map(self, key: ContentKey) -> None:
        """Removes a map that has no data file, e.g. after a kill while sealing."""
        with self._lock, suppress(OSError):
            if key not in self._open and not os.path.exists(self._paths(key)[0]):
                self.unlink(key, data=False)

    def open_partials(self) -> list[Partial]:
        """Those that somebody has open."""
        with self._lock:
            return list(self._open.values())


def _blocks(size: int) -> int:
    return (size + BLOCK - 1) >> _SHIFT


def _read_map(fd: int, size: int) -> bytearray | None:
    """The marks; None when the map is torn, foreign, or of another size."""
    blocks = _blocks(size)
    if os.fstat(fd).st_size != _HEADER.size + blocks:
        return None
    if os.pread(fd, _HEADER.size, 0) != _HEADER.pack(_MAGIC, size, BLOCK):
        return None
    marks = bytearray(os.pread(fd, blocks, _HEADER.size))
    return marks if marks.count(_ABSENT) + marks.count(_PRESENT) == blocks else None


class Partial:
    """Content of which some blocks are here. All methods may be called from any thread.

    `has`, `missing`, `read`, `complete` and `contiguous_prefix` take no lock.
    """

    def __init__(
        self,
        store: PartialStore,
        key: ContentKey,
        size: int,
        fd: int,
        map_fd: int,
        marks: bytearray,
    ) -> None:
        self.key = key
        self.size = size
        self.fd = fd
        """For reading, while the partial is open."""
        self.sealed = False
        """The bytes are verified, and are an object."""
        self.generation = 0
        """How often the blocks were thrown away. What was learnt under another number is void."""
        self.users = 0
        """Kept by the store, under its lock."""
        self.on_progress: Callable[[], None] | None = None
        """Called after new blocks arrived, from the thread that wrote them."""
        self._store = store
        self._map_fd = map_fd
        self._marks = marks
        self._have = marks.count(_PRESENT)
        self._prefix = (0, 0)
        """(generation, blocks from the start without a gap): one value, so readers need no lock."""
        # Held while blocks are written and marked: the kernel lets one writer into a file anyway.
        self._lock = threading.Lock()

    def has(self, start: int, end: int) -> bool:
        """Whether all bytes of the range, as far as the file goes, are here. Cost: under 1 µs."""
        return self._marks.find(_ABSENT, start >> _SHIFT, (end + BLOCK - 1) >> _SHIFT) < 0

    def missing(self, start: int, end: int) -> list[ByteRange]:
        """The blocks of the range that are not here: in order, merged, cut at the file's end."""
        marks = self._marks
        last = min((end + BLOCK - 1) >> _SHIFT, len(marks))
        gaps: list[ByteRange] = []
        at = marks.find(_ABSENT, start >> _SHIFT, last)
        while at >= 0:
            stop = marks.find(_PRESENT, at, last)
            if stop < 0:
                stop = last
            gaps.append(ByteRange(at << _SHIFT, min(stop << _SHIFT, self.size)))
            at = marks.find(_ABSENT, stop, last)
        return gaps

    def read(self, offset: int, size: int) -> bytes:
        """Bytes that `has` said are here, fewer only at the file's end; others mean nothing."""
        return os.pread(self.fd, size, offset)

    @property
    def complete(self) -> bool:
        """All blocks are here; whether they are right is known once `sealed`."""
        return self._have == len(self._marks)

    @property
    def have_bytes(self) -> int:
        have = self._have << _SHIFT
        if self._marks and self._marks[-1] == _PRESENT:
            have -= (len(self._marks) << _SHIFT) - self.size
        return max(0, have)

    def contiguous_prefix(self) -> int:
        """Bytes from the start without a gap."""
        # Generation first: `reset` clears the marks and then counts up, so a prefix that was
        # computed from old marks is stored under the old number, and never believed.
        generation = self.generation
        known, at = self._prefix
        found = self._marks.find(_ABSENT, at if known == generation else 0)
        at = len(self._marks) if found < 0 else found
        self._prefix = (generation, at)
        return min(at << _SHIFT, self.size)

    def piece(self, start: int) -> Piece:
        """A place to write what one fetcher receives, from `start` (on a block) onwards."""
        if start & (BLOCK - 1):
            raise UsageError(f"a piece starts on a block of {BLOCK} bytes, not at {start}")
        return Piece(self, start)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> int:
        """Writes whole blocks from `offset` (on a block) at once; see `Piece.write`."""
        return self.piece(offset).write(data)

    def receive(
        self, start: int, offset: int, data: bytes | bytearray | memoryview, generation: int
    ) -> int:
        """What `Piece.write` does: the bytes of [start, offset) were written by the same piece."""
        end = offset + len(data)
        if end > self.size:
            raise IntegrityError(f"content {self.key} has {self.size} bytes; {end} arrived")
        last = len(self._marks) if end == self.size else end >> _SHIFT

        def attempt() -> int:
            with self._lock:
                if self.generation != generation:
                    raise Cancelled(f"the blocks of content {self.key} were thrown away")
                self._write_locked(offset, end, data)
                return self._mark_locked(start >> _SHIFT, last)

        fresh = with_room(len(data), self._store.on_full, attempt)
        if fresh:
            if (progress := self.on_progress) is not None:
                progress()
            if (grow := self._store.on_grow) is not None:
                grow(fresh << _SHIFT)
        return min(last << _SHIFT, self.size)

    def _write_locked(self, offset: int, end: int, data: bytes | bytearray | memoryview) -> None:
        first, last = offset >> _SHIFT, (end + BLOCK - 1) >> _SHIFT
        if self._marks.find(_PRESENT, first, last) < 0:
            write_at(self.fd, data, offset)
            return
        view = memoryview(data)
        for gap in self.missing(offset, end):
            start, stop = max(gap.start, offset), min(gap.end, end)
            write_at(self.fd, view[start - offset : stop - offset], start)

    def _mark_locked(self, first: int, last: int) -> int:
        """Marks blocks as present. Returns how many were not."""
        fresh = self._marks.count(_ABSENT, first, last) if first < last else 0
        if fresh:
            present = b"\1" * (last - first)
            self._marks[first:last] = present
            self._have += fresh
            # Unmarked on disk means only that a restart fetches the blocks again.
            with suppress(OSError):
                os.pwrite(self._map_fd, present, _HEADER.size + first)
        return fresh

    def md5(self) -> Md5:
        """The digest of all bytes. Cost: one whole read; for small files, else use the hasher."""
        return md5_of_fd(self.fd)

    def seal(self, digest: Md5 | None) -> None:
        """Makes complete content an object, given the digest of its bytes (None: key is a handle).

        Same inode: descriptors stay valid. Nothing is written to it any more.
        Raises IntegrityError (then `reset` and fetch once more), CacheFull, StoreError.
        """
        if digest is not None:
            check_digest(self.key, digest)
        elif digest_of_key(self.key) is not None:
            raise UsageError(f"content {self.key} is sealed by its md5")
        with self._lock:
            if self.sealed:
                return
            if not self.complete:
                raise UsageError(f"content {self.key} is not complete")
            self.sealed = True
        try:
            os.fchmod(self.fd, OBJECT_MODE)
            try:
                self._move()
            except GONE:
                # Somebody removed the cache folder; the bytes live on in our descriptor.
                self._store.objects.adopt_fd(self.key, self.fd)
        except OSError as error:
            self.sealed = False
            raise StoreError(f"cannot store object {self.key}: {error.strerror}") from error
        except BaseException:
            self.sealed = False
            raise

    def _move(self) -> None:
        path = f"{self._store.folder}/{self.key}"
        if not os.path.samestat(os.stat(path), os.fstat(self.fd)):
            raise FileNotFoundError(path)
        self._store.objects.take(self.key, path, self.size)
        self._store.unlink(self.key, data=False)

    def reset(self) -> None:
        """Throws all blocks away, e.g. after a mismatch. Pieces under way end with Cancelled.

        The bytes stay until they are fetched anew: a reader in between sees old ones, never a hole.
        """
        with self._lock:
            if self.sealed:
                raise UsageError(f"content {self.key} is an object; it does not change")
            empty = bytes(len(self._marks))
            self._marks[:] = empty
            self.generation += 1
            self._have = 0
            try:
                write_at(self._map_fd, empty, _HEADER.size)
            except OSError:
                self._store.unlink(self.key, data=False)

    def take_object(self) -> bool:
        """Goes on as the object of its key, if that came to be by other means (adopted, put)."""
        fd = self._store.objects.open(self.key, self.size)
        if fd is None:
            return False
        with self._lock:
            try:
                if not self.sealed:
                    # In place: readers that took our descriptor's number go on with the object.
                    os.dup2(fd, self.fd, inheritable=False)
                    self._marks[:] = b"\1" * len(self._marks)
                    self._have = len(self._marks)
                    self.sealed = True
            finally:
                os.close(fd)
        self._store.remove_files(self)
        if (progress := self.on_progress) is not None:
            progress()
        return True

    def discard(self) -> None:
        """Throws it away for good: the next `open` starts from nothing, other users go on alone."""
        if not self.sealed:
            self._store.remove_files(self, abandon=True)

    def retain(self) -> None:
        """One user more; each closes."""
        self._store.retain(self)

    def close(self) -> None:
        """Ends one user's part. What is here stays on disk for the next `open`."""
        self._store.close(self)

    def close_descriptors(self) -> None:
        for fd in (self.fd, self._map_fd):
            if fd >= 0:
                os.close(fd)
        self.fd = self._map_fd = -1


class Piece:
    """What one fetcher receives, in order, from a block's start: one thread, one run of bytes.

    Writes may end anywhere; a block counts as soon as the piece has filled it (the file's last one
    when the file ends). A part of a block that the piece leaves behind does not count: the next
    fetcher starts at that block.
    """

    __slots__ = ("_committed", "_generation", "_partial", "at")

    def __init__(self, partial: Partial, start: int) -> None:
        self._partial = partial
        self._generation = partial.generation
        self._committed = start
        self.at = start
        """Where the next write goes."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Writes at `at`. Returns the end of the bytes that are readable by now, from the start on.

        Bytes of blocks that are here already are dropped.
        Raises Cancelled after `reset`, IntegrityError past the file's end, CacheFull, StoreError.
        """
        self._committed = self._partial.receive(self._committed, self.at, data, self._generation)
        self.at += len(data)
        return self._committed
