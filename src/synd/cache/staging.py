"""Files of local edits, ``staged/ab/<number>``, and those taken away, ``recovered/<number>-<name>``.

Both folders belong to the state, not to the cache: nothing here is ever evicted. Leaves to others: who
has a file open, what a row says of it (`synd.mirror`), large files of which bytes still lack (`lazy`).

Invariant: a file under its number is whole, after a power loss too. What is copied is written aside,
synced and renamed: a torn copy would pass for an edit at the next start.

What a row says and what the disk holds agree after a crash at any point if callers keep this order:

1. The file exists before a row names it (`create`, `copy_in`). Only a new, empty file may come later: a
   row without a file and without an edit means that its creation was never answered.
2. `sync` comes before the transaction that says "the file holds unsent bytes"; that is durable (the
   store's `sync`) before `close` or `fsync` is answered.
3. `recover` comes before the transaction that takes the file from its row; `remove`, `drop_recovered` and
   `as_object` come after that transaction is durable.

So a start finds, and mends: a row with an edit whose file is missing (`put_back`); a file that no row
names (`rescue`, never a plain delete); a file that is in both folders (`drop_restored`, after that).
A row whose edits are all sent may lack its file: the bytes are on the service, or in the cache. Never make
an empty file in the place of one that a row with an edit lacks: it would be sent.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

from synd.cache.disk import GONE, NO_SPACE, PAGE, OnFull, clone, never, sync_filesystem
from synd.cache.objects import OBJECT_MODE, ObjectStore
from synd.cache.statedisk import copy_sparse, disk_errors, flush_folder, next_data
from synd.clock import NS
from synd.errors import Exists, IntegrityError, SyndError, UsageError
from synd.ids import ContentKey, Md5

T = TypeVar("T")

MAP = ".map"
"""Ending of the map of a file that still lacks bytes; `lazy` explains it."""

SYNC_ALL_FROM = 64
"""So many files are written out with one sync of the file system before each is asked for its errors."""

TICK_NS = NS // 50
"""A file's times may lag by so much: kernels before 6.13 stamp with the timer's last tick (4 to 10 ms)."""

_SYNCERS = 8
"""Journals commit for all who wait at once; more waiters than that bring little."""
_LABEL_MAX = 200
"""Bytes of the name in a recovered file's name, of the 255 that it may have."""

_STAMP = re.compile(r"(\d+):(-?\d+):(-?\d+):(\d+)")
_NAME = re.compile(r"[0-9a-f]{1,16}")
_RECOVERED = re.compile(r"([0-9a-f]{1,16})-.+", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f/]")
_NO_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


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


class Staging:
    """The files of local edits. All methods may be called from any thread, and killed anywhere.

    Each raises CacheFull, ReadOnly or StoreError when the disk refuses, and has then changed nothing.
    """

    def __init__(self, root: Path, recovered: Path, *, on_full: OnFull = never) -> None:
        """Makes both folders, which lie on one disk. `on_full` may evict cached content for an edit."""
        self.root = root
        self.recovered = recovered
        self.on_full = on_full
        self._root = str(root)
        self._recovered = str(recovered)
        self._aside_prefix = f".{os.urandom(6).hex()}-"
        # Guards the sets; a leaf, never held over a system call.
        self._lock = threading.Lock()
        self._asides = 0
        self._entered: set[int] = set()
        """Numbers whose directory entry is known to be durable."""
        self._shards: set[str] = set()
        """The same of folders."""
        self._claimed: set[int] = set()
        with disk_errors("make the folder of local edits"):
            for folder in (root, recovered):
                if not folder.is_dir():
                    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    flush_folder(str(folder.parent))

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

    # What was taken away.

    def recovered_name(self, number: int, name: str | bytes) -> str:
        """The name that `recover` gives: unique, as numbers are, and telling what it was. Of that, the same."""
        raw = name if isinstance(name, bytes) else name.encode(errors="surrogateescape")
        text = _UNPRINTABLE.sub("_", raw.decode(errors="backslashreplace"))
        text = text.removeprefix(f"{number:x}-") or "unnamed"
        stem, dot, extension = text.rpartition(".")
        ending = dot + extension
        if not stem or len(ending.encode()) > 32:
            stem, ending = text, ""
        room = _LABEL_MAX - len(ending.encode())
        stem = stem.encode()[:room].decode(errors="ignore")
        return f"{number:x}-{stem}{ending}"

    def recovered_path(self, name: str) -> Path:
        """Where a recovered file is. Raises UsageError: that is no name of one."""
        self._number_of(name)
        return Path(f"{self._recovered}/{name}")

    def _number_of(self, name: str) -> int:
        match = _RECOVERED.fullmatch(name)
        if match is None or "/" in name or "\0" in name:
            raise UsageError(f"{name!r} is not the name of a recovered file")
        return int(match[1], 16)

    def _kept_map(self, number: int) -> str:
        return f"{self._recovered}/.{number:x}{MAP}"

    def recover(self, number: int, name: str | bytes) -> str:
        """Moves the file into the recovery folder; returns its name there, see `recovered_name`.

        Doing it again is fine. The map of a file that lacks bytes goes with it. Raises NotFound.
        """
        kept = self.recovered_name(number, name)
        with disk_errors("move an edit into the recovery folder"):
            # The map first: a kill in between leaves a file for `rescue`, which finds the map there.
            with suppress(*GONE):
                os.rename(self.map_path(number), self._kept_map(number))
            try:
                os.rename(self._path(number), f"{self._recovered}/{kept}")
            except GONE:
                if not os.path.exists(f"{self._recovered}/{kept}"):
                    raise
        with self._lock:
            self._entered.discard(number)
        return kept

    def put_back(self, number: int) -> bool:
        """Undoes a `recover` whose transaction was lost: whether the file is under its number again."""
        for name in self.recovered_names():
            if self._number_of(name) == number and not self.exists(number):
                with disk_errors("take an edit back from the recovery folder"):
                    with suppress(*GONE):
                        os.rename(self._kept_map(number), self.map_path(number))
                    os.rename(f"{self._recovered}/{name}", self._path(number))
        return self.exists(number)

    def rescue(self, number: int, name: str | bytes = "unnamed") -> str | None:
        """For a file that no row names: keeps its bytes in the recovery folder and returns the name there.

        None: it was removed, being without bytes of its own, or in the recovery folder already.
        """
        fd = self.open(number, os.O_RDONLY)
        try:
            with disk_errors("look at a staging file"):
                stat = os.fstat(fd)
                bare = stat.st_size == 0 or next_data(fd, 0, stat.st_size) is None
        finally:
            os.close(fd)
        if bare or (stat.st_nlink > 1 and (stat.st_dev, stat.st_ino) in self._kept_files()):
            self.remove(number)
            return None
        return self.recover(number, name)

    def _kept_files(self) -> set[tuple[int, int]]:
        return _identities(f"{self._recovered}/{name}" for name in self.recovered_names())

    def restore_recovered(self, name: str, number: int) -> None:
        """Gives a recovered file a number again; it stays in the recovery folder until `drop_recovered`.

        Both are one file: drop it once the row that names `number` is durable, and before anybody writes;
        a stamp from before the drop is void. With `is_lazy` it still lacks bytes of its base.
        Raises NotFound, Exists.
        """
        before = self._number_of(name)
        with disk_errors("restore a recovered file"):
            os.makedirs(os.path.dirname(self._path(number)), mode=0o700, exist_ok=True)
            with suppress(*GONE):
                _link(self._kept_map(before), self.map_path(number))
            try:
                _link(f"{self._recovered}/{name}", self._path(number))
            except OSError as error:
                if not isinstance(error, FileExistsError):
                    with suppress(OSError):
                        os.unlink(self.map_path(number))
                raise

    def drop_recovered(self, name: str) -> None:
        """Removes a recovered file for good; it may be gone already."""
        number = self._number_of(name)
        with disk_errors("remove a recovered file"):
            for path in (f"{self._recovered}/{name}", self._kept_map(number)):
                with suppress(*GONE):
                    os.unlink(path)

    def drop_restored(self) -> int:
        """Ends what a kill left of `restore_recovered`; how many. At start, after each `rescue`."""
        linked: list[tuple[str, tuple[int, int]]] = []
        for name in self.recovered_names():
            with suppress(*GONE):
                stat = os.stat(f"{self._recovered}/{name}")
                if stat.st_nlink > 1:
                    linked.append((name, (stat.st_dev, stat.st_ino)))
        if not linked:
            return 0
        staged = _identities(self._path(number) for number in self.numbers())
        restored = [name for name, identity in linked if identity in staged]
        for name in restored:
            self.drop_recovered(name)
        return len(restored)

    def recovered_names(self) -> list[str]:
        """The names of all recovered files, in order of their numbers' names."""
        with disk_errors("list the recovery folder"):
            return sorted(n for n in os.listdir(self._recovered) if _RECOVERED.fullmatch(n))

    # The end of an edit.

    def as_object(
        self, number: int, objects: ObjectStore, md5: Md5, size: int | None = None
    ) -> None:
        """Makes the file the complete cache object of that md5: renamed on one disk, else copied.

        The caller has hashed it, and knows that nobody can write to it any more. `size`: of the bytes that
        were hashed. Raises IntegrityError (it has another size), NotFound, UsageError (it lacks bytes).
        """
        if self.is_lazy(number):
            raise UsageError("a file that still lacks bytes of its base is no object")
        path, key = self._path(number), ContentKey(md5)
        fd = self.open(number, os.O_RDONLY)
        try:
            with disk_errors("make an edit a cached object"):
                found = os.fstat(fd).st_size
                if size is not None and found != size:
                    raise IntegrityError(f"{size} bytes were sent, and the file has {found}")
                if not objects.has(key, found):
                    # What was stored since the last sync is distrusted after a power loss, by its mtime.
                    os.utime(fd)
                    os.fchmod(fd, OBJECT_MODE)
                    try:
                        objects.take(key, path, found)
                    except OSError as error:
                        if error.errno != errno.EXDEV:
                            raise
                        objects.adopt_fd(key, fd)
        finally:
            os.close(fd)
        self.remove(number)

    # Room.

    def usage(self) -> Usage:
        """What the staging files take. Cost: a stat for each."""
        return _usage(self._path(number) for number in self.numbers())

    def recovered_usage(self) -> Usage:
        """What the recovered files take. Cost: a stat for each."""
        return _usage(f"{self._recovered}/{name}" for name in self.recovered_names())

    def statvfs(self) -> os.statvfs_result:
        """Of the disk that edits are written to."""
        with disk_errors("look at the disk of the local edits"):
            return os.statvfs(self._root)


def _usage(paths: Iterable[str]) -> Usage:
    files = used = 0
    for path in paths:
        with suppress(OSError):
            used += os.stat(path).st_blocks * 512
            files += 1
    return Usage(files, used)


def _identities(paths: Iterable[str]) -> set[tuple[int, int]]:
    found = set()
    for path in paths:
        with suppress(*GONE):
            stat = os.stat(path)
            found.add((stat.st_dev, stat.st_ino))
    return found


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINK:
            raise
        if os.path.exists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(source, target)
