"""Files of local edits under their numbers, ``staged/ab/<number>``: made, copied, and made durable.

Nothing here is ever evicted: edits belong to the state, not to the cache. What becomes of a file when its
edit is taken away or sent is `staging`'s matter, files of which bytes still lack are `lazy`'s.

Invariant: a file under its number is whole, after a power loss too. What is copied is written aside,
synced and renamed: a torn copy would pass for an edit at the next start.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from synd.cache.disk import GONE, NO_SPACE, PAGE, OnFull, clone, never, sync_filesystem
from synd.cache.statedisk import copy_sparse, disk_errors, flush_folder
from synd.clock import NS
from synd.errors import Exists, IntegrityError, SyndError, UsageError

T = TypeVar("T")

MAP = ".map"
"""Ending of the map of a file that still lacks bytes; `lazy` explains it."""

SYNC_ALL_FROM = 64
"""So many files are written out with one sync of the file system before each is asked for its errors."""

TICK_NS = NS // 50
"""A file's times may lag by so much: kernels before 6.13 stamp with the timer's last tick (4 to 10 ms)."""

_SYNCERS = 8
"""Journals commit for all who wait at once; more waiters than that bring little."""

_STAMP = re.compile(r"(\d+):(-?\d+):(-?\d+):(\d+)")
_NAME = re.compile(r"[0-9a-f]{1,16}")


class Stamp(NamedTuple):
    """What tells that a file was written to: its size, its times and which file it is."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int

    def text(self) -> str:
        """As `local.stamp` holds it. The ctime is in it: programs set the mtime back (cp -p, tar)."""
        return f"{self.size}:{self.mtime_ns}:{self.ctime_ns}:{self.inode}"

    @classmethod
    def parse(cls, text: str) -> Stamp | None:
        """The stamp of that text; None when it is none, as the empty one of a row without a look."""
        match = _STAMP.fullmatch(text)
        return None if match is None else cls(*map(int, match.groups()))

    @classmethod
    def of(cls, stat: os.stat_result) -> Stamp:
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)

    def hides(self, now_ns: int) -> bool:
        """Whether a write after a look at `now_ns` might leave this very stamp: too short after another."""
        return now_ns - self.ctime_ns < TICK_NS


class Usage(NamedTuple):
    """How many files there are, and what they take on disk."""

    files: int
    bytes: int


class StagedFiles:
    """The files of local edits. All methods may be called from any thread, and killed anywhere.

    Each raises CacheFull, ReadOnly or StoreError when the disk refuses, and has then changed nothing.
    """

    def __init__(self, root: Path, *, on_full: OnFull = never) -> None:
        """Makes the folder. `on_full` may evict cached content for an edit."""
        self.root = root
        self.on_full = on_full
        self._root = str(root)
        self._aside_prefix = f".{os.urandom(6).hex()}-"
        # Guards the sets; a leaf, never held over a system call.
        self._lock = threading.Lock()
        self._asides = 0
        self._entered: set[int] = set()
        """Numbers whose directory entry is known to be durable."""
        self._shards: set[str] = set()
        """The same of folders."""
        self._claimed: set[int] = set()
        make_folder(root)

    # Names.

    def path(self, number: int) -> Path:
        """Where the file is, or would be."""
        return Path(self._path(number))

    def _path(self, number: int) -> str:
        return f"{self._root}/{number & 0xFF:02x}/{number:x}"

    def map_path(self, number: int) -> str:
        """Where the map of a file is that still lacks bytes."""
        return self._path(number) + MAP

    def aside(self, number: int) -> str:
        """A name beside the file's, for what is renamed when it is whole; `sweep` knows it."""
        with self._lock:
            self._asides += 1
            asides = self._asides
        return f"{os.path.dirname(self._path(number))}/{self._aside_prefix}{asides}"

    def exists(self, number: int) -> bool:
        return os.path.exists(self._path(number))

    def is_lazy(self, number: int) -> bool:
        """Whether the file still lacks bytes of its base."""
        return os.path.exists(self.map_path(number))

    def numbers(self) -> Iterator[int]:
        """The numbers of all files, in no order. Cost: a directory read for each of 256 folders."""
        for shard in self._shard_names():
            with suppress(*GONE):
                for name in os.listdir(f"{self._root}/{shard}"):
                    if _NAME.fullmatch(name):
                        number = int(name, 16)
                        if self._path(number) == f"{self._root}/{shard}/{name}":
                            yield number

    def _shard_names(self) -> list[str]:
        with disk_errors("list the local edits"):
            return [name for name in os.listdir(self._root) if len(name) == 2]

    def sweep(self) -> int:
        """Removes what a killed daemon left aside, and maps without a file; how many. At start only."""
        swept = 0
        for shard in self._shard_names():
            folder = f"{self._root}/{shard}"
            with suppress(OSError):
                names = set(os.listdir(folder))
                for name in names:
                    aside = name.startswith(".") and not name.startswith(self._aside_prefix)
                    widow = name.endswith(MAP) and name.removesuffix(MAP) not in names
                    if aside or widow:
                        os.unlink(f"{folder}/{name}")
                        swept += 1
        return swept

    # Making and opening.

    def create(self, number: int, *, resume: bool = False) -> int:
        """A descriptor of the new, empty file, which the caller closes. With `resume` it may be there.

        Raises Exists.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        if not resume:
            flags |= os.O_EXCL
        path = self._path(number)
        return self.with_room(PAGE, "make a staging file", lambda: self.open_new(path, flags))

    def open_new(self, path: str, flags: int) -> int:
        """Opens a file in its folder, which is made when it is not there. Raises OSError."""
        try:
            return os.open(path, flags, 0o600)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            return os.open(path, flags, 0o600)

    def open(self, number: int, flags: int = os.O_RDWR) -> int:
        """A descriptor of the file, which the caller closes. Raises NotFound."""
        with disk_errors("open a staging file"):
            return os.open(
                self._path(number),
                (flags & ~(os.O_CREAT | os.O_EXCL)) | os.O_NOFOLLOW | os.O_CLOEXEC,
            )

    def stamp(self, number: int) -> Stamp:
        """What to compare with a later look. Raises NotFound."""
        with disk_errors("look at a staging file"):
            return Stamp.of(os.stat(self._path(number)))

    def remove(self, number: int) -> None:
        """Removes the file and its map; descriptors stay valid. It may be gone already."""
        with disk_errors("remove a staging file"):
            # The map last: a file without a map counts as whole.
            for path in (self._path(number), self.map_path(number)):
                with suppress(*GONE):
                    os.unlink(path)
        with self._lock:
            self._entered.discard(number)

    def claim(self, number: int) -> bool:
        """For `Lazy`, of which a file has one only: false when there is one already."""
        with self._lock:
            if number in self._claimed:
                return False
            self._claimed.add(number)
            return True

    def unclaim(self, number: int) -> None:
        with self._lock:
            self._claimed.discard(number)

    def copy_in(self, number: int, source_fd: int, size: int) -> None:
        """Makes the file a copy of an open one: shared extents, else copied, holes kept as holes; synced.

        Moves the file offset of `source_fd`. Raises Exists; IntegrityError when it has not `size` bytes.
        """

        def fill(fd: int) -> None:
            if os.fstat(source_fd).st_size == size:
                if not clone(source_fd, fd):
                    copy_sparse(source_fd, fd, size)
                if os.fstat(fd).st_size == size == os.fstat(source_fd).st_size:
                    return
            raise IntegrityError(f"{size} bytes were to be copied, and the file has others by now")

        self._store(number, size, fill)

    def snapshot(self, number: int, to_number: int) -> None:
        """Makes another file with the same bytes. Raises NotFound, IntegrityError (it was written to).

        Extents are shared where possible; else a writer meanwhile may tear it, which is the caller's duty.
        """
        if self.is_lazy(number):
            raise UsageError("a file that still lacks bytes of its base cannot be copied")
        fd = self.open(number, os.O_RDONLY)
        try:
            self.copy_in(to_number, fd, os.fstat(fd).st_size)
        finally:
            os.close(fd)

    def _store(self, number: int, size: int, fill: Callable[[int], None]) -> None:
        def attempt() -> None:
            if self.exists(number):
                raise Exists(f"staging file {number:x} is there already")
            aside = self.aside(number)
            fd = self.open_new(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC)
            try:
                try:
                    fill(fd)
                    self.flush(fd)
                finally:
                    os.close(fd)
                os.rename(aside, self._path(number))
            except BaseException:
                with suppress(OSError):
                    os.unlink(aside)
                raise

        self.with_room(size, "copy into a staging file", attempt)

    def with_room(self, needed: int, doing: str, attempt: Callable[[], T]) -> T:
        """What `attempt` returns; tried once more if the disk was full and `on_full` made room."""
        with disk_errors(doing):
            try:
                return attempt()
            except OSError as error:
                if error.errno not in NO_SPACE or not self.on_full(needed):
                    raise
            return attempt()

    # Durability.

    def sync(self, number: int, fd: int | None = None) -> None:
        """Returns once the bytes written so far, and the first time the name too, outlive power loss.

        With a descriptor, write errors since that was opened are told too. Raises NotFound.
        """
        own = self.open(number) if fd is None else -1
        try:
            self.flush(own if fd is None else fd)
        finally:
            if own >= 0:
                os.close(own)
        self._enter([number])

    def flush(self, fd: int) -> None:
        """Returns once the bytes of an open file outlive power loss."""
        with disk_errors("write an edit to the disk"):
            os.fdatasync(fd)

    def sync_many(self, numbers: Iterable[int]) -> dict[int, SyndError]:
        """As `sync`, for many at once. Returns those that failed, and why; the others are durable."""
        wanted = list(dict.fromkeys(numbers))

        def one(number: int) -> SyndError | None:
            try:
                fd = self.open(number)
                try:
                    self.flush(fd)
                finally:
                    os.close(fd)
            except SyndError as error:
                return error
            return None

        if len(wanted) == 1:
            errors = [one(wanted[0])]
        elif len(wanted) < SYNC_ALL_FROM:
            with ThreadPoolExecutor(min(_SYNCERS, len(wanted) or 1)) as syncers:
                errors = list(syncers.map(one, wanted))
        else:
            # What fails here fails again below, where it is known whose bytes they are.
            with suppress(OSError):
                sync_filesystem(self._root)
            errors = [one(number) for number in wanted]
        failed = {
            number: error for number, error in zip(wanted, errors, strict=True) if error is not None
        }
        self._enter([number for number in wanted if number not in failed])
        return failed

    def _enter(self, numbers: list[int]) -> None:
        with self._lock:
            fresh = [number for number in numbers if number not in self._entered]
            shards = {os.path.dirname(self._path(number)) for number in fresh}
            new_shards = shards - self._shards
        if not fresh:
            return
        with disk_errors("write an edit to the disk"):
            for shard in shards:
                flush_folder(shard)
            if new_shards:
                flush_folder(self._root)
        with self._lock:
            self._entered.update(fresh)
            self._shards |= new_shards

    # Room.

    def usage(self) -> Usage:
        """What the staging files take. Cost: a stat for each."""
        return usage_of(self._path(number) for number in self.numbers())

    def statvfs(self) -> os.statvfs_result:
        """Of the disk that edits are written to."""
        with disk_errors("look at the disk of the local edits"):
            return os.statvfs(self._root)


def make_folder(folder: Path) -> None:
    """Makes a folder of the state, durably. Raises what the disk refuses."""
    with disk_errors("make the folder of local edits"):
        if not folder.is_dir():
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            flush_folder(str(folder.parent))


def usage_of(paths: Iterable[str]) -> Usage:
    """What these files take on disk; those that are gone are none."""
    files = used = 0
    for path in paths:
        with suppress(OSError):
            used += os.stat(path).st_blocks * 512
            files += 1
    return Usage(files, used)
