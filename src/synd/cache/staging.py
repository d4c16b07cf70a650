"""Files of local edits, ``staged/ab/<number>``, and those taken away, ``recovered/<number>-<name>``.

Both folders belong to the state, not to the cache: nothing here is ever evicted. How a file under its number
is made and made durable says `staged`; this is its end: taken away, brought back, or sent. Leaves to others:
who has a file open, what a row says of it (`synd.mirror`), large files of which bytes still lack (`lazy`).

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
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from synd.cache.disk import GONE, OnFull, never
from synd.cache.objects import OBJECT_MODE, ObjectStore
from synd.cache.staged import MAP, StagedFiles, Usage, make_folder, usage_of
from synd.cache.statedisk import disk_errors, next_data
from synd.errors import IntegrityError, UsageError
from synd.ids import ContentKey, Md5

_LABEL_MAX = 200
"""Bytes of the name in a recovered file's name, of the 255 that it may have."""

_RECOVERED = re.compile(r"([0-9a-f]{1,16})-.+", re.DOTALL)
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f/]")
_NO_LINK = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS})


class Staging(StagedFiles):
    """The files of local edits and the recovery folder. All methods may be called from any thread, and
    killed anywhere.

    Each raises CacheFull, ReadOnly or StoreError when the disk refuses, and has then changed nothing.
    """

    def __init__(self, root: Path, recovered: Path, *, on_full: OnFull = never) -> None:
        """Makes both folders, which lie on one disk. `on_full` may evict cached content for an edit."""
        super().__init__(root, on_full=on_full)
        self.recovered = recovered
        self._recovered = str(recovered)
        make_folder(recovered)

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
        self.number_of(name)
        return Path(f"{self._recovered}/{name}")

    def number_of(self, name: str) -> int:
        """The number that a recovered file had. Raises UsageError: that is no name of one."""
        match = _RECOVERED.fullmatch(name)
        if match is None or "/" in name or "\0" in name:
            raise UsageError(f"{name!r} is not the name of a recovered file")
        return int(match[1], 16)

    def _kept_map(self, number: int) -> str:
        return f"{self._recovered}/.{number:x}{MAP}"

    def has_map(self, number: int) -> bool:
        """Whether a file of this number, staged or recovered, still lacks bytes of its base."""
        return self.is_lazy(number) or os.path.exists(self._kept_map(number))

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
            if self.number_of(name) == number and not self.exists(number):
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
        before = self.number_of(name)
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

    def undo_restore(self, name: str, number: int) -> None:
        """Takes back a `restore_recovered` before any row names `number`. Doing it again is fine."""
        kept = f"{self._recovered}/{name}"
        with disk_errors("put a file back into the recovery folder"):
            if not os.path.exists(kept):
                # A disk without hard links: it was moved.
                with suppress(*GONE):
                    os.rename(self.map_path(number), self._kept_map(self.number_of(name)))
                with suppress(*GONE):
                    os.rename(self._path(number), kept)
        self.remove(number)

    def drop_recovered(self, name: str) -> None:
        """Removes a recovered file for good; it may be gone already."""
        number = self.number_of(name)
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

    def recovered_bytes(self, name: str) -> int:
        """What a recovered file takes on disk, with its map; 0 when it is gone."""
        map_path = self._kept_map(self.number_of(name))
        return usage_of((f"{self._recovered}/{name}", map_path)).bytes

    def recovered_usage(self) -> Usage:
        """What the recovered files take. Cost: a stat for each."""
        return usage_of(f"{self._recovered}/{name}" for name in self.recovered_names())

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
