"""Complete objects: immutable bytes at ``objects/ab/<key>``, mode 0444, written aside and renamed.

Leaves to others: bytes still missing (`partial`), what to evict (`evict`), pins (`folder`).

Invariant: a file under its key's name holds exactly that content. Names are md5 digests, checked
before the rename; ``h<handle>`` names content whose md5 the service does not know, taken as it is.
Writes are not synced: after a kill the page cache still holds them, and what a power loss may have
torn is found by `folder`, which checks what was stored since the last sync before it is used again.
Cheaper still, `open` refuses an object whose size is not the one that the caller expects.

Times: mtime says when the object was stored, atime when it was last used (see `touch`).
The folder may vanish at any time: that is a miss, and the next write makes it anew.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from synd.cache.disk import GONE, OnFull, clone, copy, never, on_disk, with_room, write_at
from synd.clock import NS
from synd.digest import md5_of_bytes, md5_of_fd
from synd.errors import IntegrityError, StoreError, UsageError
from synd.ids import ContentKey, Md5, check_content_key
from synd.log import fields

log = logging.getLogger(__name__)

OBJECT_MODE = 0o444

TOUCH_EVERY_NS = 60 * NS
"""Use times are kept to the minute: finer would cost a write per close."""


class How(StrEnum):
    """How a file's bytes become an object."""

    REFLINK = "reflink"
    """Share the extents where the file system can, else copy."""
    HARDLINK = "hardlink"
    """The same inode where possible, else as REFLINK. Only for files that nobody edits in place."""
    COPY = "copy"


class Stored(NamedTuple):
    """An object on disk."""

    key: ContentKey
    size: int
    used_ns: int
    stored_ns: int

    @property
    def disk_bytes(self) -> int:
        return on_disk(self.size)


def digest_of_key(key: ContentKey) -> Md5 | None:
    """The md5 that the content must have; None where the key is a file handle."""
    return None if key.startswith("h") else Md5(key)


def check_digest(key: ContentKey, digest: Md5) -> None:
    """Raises IntegrityError when bytes with that digest are not the content of `key`."""
    wanted = digest_of_key(key)
    if wanted is not None and wanted != digest:
        raise IntegrityError(f"content {key} arrived with md5 {digest}")


class ObjectStore:
    """The folder of complete objects. All methods may be called from any thread.

    `open`, `has` and `size` take no lock: they cost one or two system calls.
    """

    def __init__(
        self,
        root: Path,
        *,
        on_full: OnFull = never,
        on_grow: Callable[[int], None] | None = None,
    ) -> None:
        self.folder = root / "objects"
        self._folder = str(self.folder)
        self._on_full = on_full
        self._on_grow = on_grow
        # Names of files written aside; the random part tells ours from those a killed daemon left.
        self._aside_prefix = f".{os.urandom(6).hex()}-"
        self._numbers = itertools.count()
        # Guards the totals, and makes "was it there before?" and rename one step. A leaf lock.
        self._lock = threading.Lock()
        self._count_lock = threading.Lock()
        self._total = 0
        self._count = 0
        self._counted: set[str] = set()
        self._all_counted = False

    def path(self, key: ContentKey) -> Path:
        """Where the object is, or would be. Raises UsageError: the key could leave the folder."""
        return Path(self._path(key))

    def _path(self, key: ContentKey) -> str:
        check_content_key(key)
        return f"{self._folder}/{key[:2]}/{key}"

    def open(self, key: ContentKey, size: int | None = None) -> int | None:
        """A read-only descriptor of the object, which the caller closes; None: it is not here.

        With `size`, an object of another size counts as not here (power loss tears files).
        """
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except GONE:
            return None
        except OSError as error:
            raise StoreError(f"cannot open object {key}: {error.strerror}") from error
        if size is not None and (found := os.fstat(fd).st_size) != size:
            os.close(fd)
            log.warning("object.torn", extra=fields(key=key, size=found, expected=size))
            return None
        return fd

    def size(self, key: ContentKey) -> int | None:
        """Its bytes; None: it is not here."""
        try:
            return os.stat(self._path(key)).st_size
        except OSError:
            return None

    def has(self, key: ContentKey, size: int | None = None) -> bool:
        found = self.size(key)
        return found is not None and (size is None or found == size)

    def put_bytes(self, key: ContentKey, data: bytes | bytearray | memoryview) -> None:
        """Stores a small object. Raises IntegrityError if `data` is not that content, CacheFull."""
        if digest_of_key(check_content_key(key)) is not None:
            check_digest(key, md5_of_bytes(data))
        if self.has(key, len(data)):
            return
        self._store(key, len(data), lambda fd: write_at(fd, data, 0))

    def adopt_file(
        self, key: ContentKey, path: str | os.PathLike[str], how: How = How.REFLINK
    ) -> bool:
        """Makes a foreign file's bytes an object; the file stays. False: gone, or other bytes.

        The object's own bytes are hashed, not the file's, so a writer in between does no harm. Only
        a hard link stays exposed to edits in place, and keeps the mode and mtime of the file.
        Cost: one whole read, and one whole write unless extents are shared. Raises CacheFull.
        """
        if digest_of_key(key) is None:
            raise UsageError(f"content {key} has no md5, so no foreign file can prove to be it")
        try:
            source = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            size = os.fstat(source).st_size
            if self.has(key, size):
                return True

            def fill(fd: int) -> None:
                if how is How.COPY or not clone(source, fd):
                    copy(source, fd)
                check_digest(key, md5_of_fd(fd))

            if how is How.HARDLINK and self._adopt_link(key, path, source, size):
                return True
            self._store(key, size, fill)
        except IntegrityError:
            return False
        finally:
            os.close(source)
        return True

    def _adopt_link(
        self, key: ContentKey, path: str | os.PathLike[str], source: int, size: int
    ) -> bool:
        """Whether a hard link of the file is the object now; False asks for another way."""
        check_digest(key, md5_of_fd(source))
        aside = self._aside(key)
        try:
            os.makedirs(os.path.dirname(aside), exist_ok=True)
            os.link(path, aside)
            same = os.path.samestat(os.fstat(source), os.stat(aside))
            if same:
                self._enter(key, aside, size)
            else:
                os.unlink(aside)
        except OSError:
            return False
        return same

    def adopt_fd(self, key: ContentKey, fd: int) -> None:
        """Stores a copy of an open, verified file. Raises CacheFull."""

        def fill(target: int) -> None:
            if not clone(fd, target):
                copy(fd, target)

        self._store(key, os.fstat(fd).st_size, fill)

    def take(self, key: ContentKey, path: str, size: int) -> None:
        """Renames a verified file of this cache into its place: descriptors of it stay valid.

        Raises FileNotFoundError if it is gone.
        """
        try:
            self._enter(key, path, size)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._path(key)), exist_ok=True)
            self._enter(key, path, size)

    def _aside(self, key: ContentKey) -> str:
        folder = os.path.dirname(self._path(key))
        return f"{folder}/{self._aside_prefix}{next(self._numbers)}"

    def _store(self, key: ContentKey, size: int, fill: Callable[[int], None]) -> None:
        """Writes aside what `fill` writes into a descriptor, and gives it its name."""

        def attempt() -> None:
            try:
                self._write(key, size, fill)
            except FileNotFoundError:
                # The folder is new, or somebody removed it: once more, with a folder.
                os.makedirs(os.path.dirname(self._path(key)), exist_ok=True)
                self._write(key, size, fill)

        with_room(size, self._on_full, attempt)
        if self._on_grow is not None:
            self._on_grow(on_disk(size))

    def _write(self, key: ContentKey, size: int, fill: Callable[[int], None]) -> None:
        aside = self._aside(key)
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, OBJECT_MODE)
        try:
            try:
                fill(fd)
                os.fchmod(fd, OBJECT_MODE)
            finally:
                os.close(fd)
            self._enter(key, aside, size)
        except BaseException:
            with suppress(OSError):
                os.unlink(aside)
            raise

    def _enter(self, key: ContentKey, path: str, size: int) -> None:
        target = self._path(key)
        with self._lock:
            before = self.size(key)
            os.rename(path, target)
            if before is None:
                self._note(key, on_disk(size), 1)
            else:
                self._note(key, on_disk(size) - on_disk(before), 0)

    def _note(self, key: ContentKey, more_bytes: int, more_objects: int) -> None:
        # A shard that is not counted yet will be found with this object in it, or without.
        if self._all_counted or key[:2] in self._counted:
            self._total += more_bytes
            self._count += more_objects

    def discard(self, key: ContentKey) -> int:
        """Removes the object; descriptors stay valid. Returns the bytes freed; 0: was not here."""
        path = self._path(key)
        with self._lock:
            size = self.size(key)
            if size is None:
                return 0
            try:
                os.unlink(path)
            except GONE:
                return 0
            except OSError as error:
                raise StoreError(f"cannot delete object {key}: {error.strerror}") from error
            self._note(key, -on_disk(size), -1)
        return on_disk(size)

    def verify(self, key: ContentKey, *, stop: Callable[[], bool] | None = None) -> bool:
        """Whether the object is here and its bytes are that content. Cost: one whole read.

        `stop` is asked on the way; when it says so the answer is true, and means nothing.
        """
        fd = self.open(key)
        if fd is None:
            return False
        wanted = digest_of_key(key)
        try:
            if wanted is None:
                return True
            found = md5_of_fd(fd, stop=stop)
            return found == wanted or (stop is not None and stop())
        finally:
            os.close(fd)

    def touch(self, key: ContentKey, at_ns: int) -> None:
        """Remembers when the object was last used, to the minute, as its atime: it outlives us."""
        path = self._path(key)
        # A lost use time makes an eviction less well chosen; not worth an error.
        with suppress(OSError):
            stat = os.stat(path)
            if abs(at_ns - stat.st_atime_ns) >= TOUCH_EVERY_NS:
                os.utime(path, ns=(at_ns, stat.st_mtime_ns))

    def entries(self) -> Iterator[Stored]:
        """All objects, in no order. Cost: one stat each."""
        for shard in self._shards():
            yield from self._shard(shard)

    def _shards(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self._folder) if len(name) == 2)
        except OSError:
            return []

    def _shard(self, shard: str) -> Iterator[Stored]:
        try:
            with os.scandir(f"{self._folder}/{shard}") as found:
                for entry in found:
                    try:
                        key = check_content_key(entry.name)
                        stat = entry.stat(follow_symlinks=False)
                    except (UsageError, OSError):
                        continue
                    yield Stored(key, stat.st_size, stat.st_atime_ns, stat.st_mtime_ns)
        except OSError:
            return

    def count(self) -> int:
        """Counts what is here, and sweeps what a killed daemon wrote aside. Returns `total_bytes`.

        Before the first count the total is a lower bound, so that start-up need not wait for it.
        Shard by shard under the lock (12 ms for 4000 objects); later changes are added up.
        """
        with self._count_lock:
            with self._lock:
                self._total, self._count = 0, 0
                self._counted, self._all_counted = set(), False
            for shard in self._shards():
                with self._lock:
                    self._count_locked(shard)
            with self._lock:
                for shard in self._shards():
                    self._count_locked(shard)
                self._all_counted = True
                return self._total

    def _count_locked(self, shard: str) -> None:
        if shard not in self._counted:
            for one in self._shard(shard):
                self._total += one.disk_bytes
                self._count += 1
            self._counted.add(shard)
            self._sweep(shard)

    def _sweep(self, shard: str) -> None:
        with suppress(OSError):
            for name in os.listdir(f"{self._folder}/{shard}"):
                if name.startswith(".") and not name.startswith(self._aside_prefix):
                    os.unlink(f"{self._folder}/{shard}/{name}")

    @property
    def total_bytes(self) -> int:
        """Bytes on disk of all objects, in whole pages."""
        return self._total

    @property
    def total_count(self) -> int:
        """How many objects there are."""
        return self._count
