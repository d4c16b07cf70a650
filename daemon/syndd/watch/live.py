"""Raw events of one root → events about its paths. Keeps which watch means which folder, as folders move.

A folder is watched first and listed then, so nothing in it is missed; what both tell is told twice, which is no
harm. A move has two halves that the kernel tells apart; the first is a deletion until the second comes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from synd.mirror.coalesce import Created, Deleted, Moved
from synd.store.tracked import RelPath, Root
from syndd.watch.burst import Burst
from syndd.watch.ignore import NAME, Ignore
from syndd.watch.own import OwnChanges
from syndd.watch.source import LIMITS, Kind, Raw, Refusal, Source

MOVE_S = 0.5
"""The halves of a move come together unless the queue was cut between them."""


class Watches:
    """Which watch is which folder of one root. A watch has one place, or none while its folder is moving."""

    def __init__(self, root: Root, source: Source) -> None:
        self._root = root
        self._source = source
        self._inode: dict[int, int] = {}
        """Of the folder when it was watched, for every watch that goes on."""
        self._path: dict[int, RelPath] = {}
        self._watch: dict[RelPath, int] = {}

    def __len__(self) -> int:
        return len(self._inode)

    def add(self, folder: RelPath) -> Refusal | None:
        """Watches a folder, also one that is watched already, perhaps under another path."""
        watch = self._source.watch(self._root.path(folder))
        if isinstance(watch, Refusal):
            return watch
        other = self._watch.get(folder)
        if other is not None and other != watch:
            # It was the folder that was here before.
            self._end(other)
        self._inode[watch] = self._inode_at(folder)
        self._place(watch, folder)
        return None

    def path(self, watch: int) -> RelPath | None:
        return self._path.get(watch)

    def take_off(self, folder: RelPath) -> dict[int, RelPath]:
        """The watches of a folder that is on its way somewhere, and of all below it: number → path in it. They
        go on, but have no place until `put_back`.
        """
        taken = {watch: path[len(folder) :] for path, watch in self._below(folder)}
        for watch in taken:
            self._displace(watch)
        return taken

    def put_back(self, folder: RelPath, taken: Mapping[int, RelPath]) -> bool:
        """The folder has come to its place. False when it is not sure to be the one that was watched: events
        are behind what they tell, so its path may have led to another folder then, or it was found at its new
        place before it was told to move.
        """
        sure = () in taken.values() and folder not in self._watch
        for watch, inside in taken.items():
            if watch in self._inode:
                sure = sure and watch not in self._path
                self._place(watch, (*folder, *inside))
        moved = self._watch.get(folder)
        return sure and moved is not None and self._inode[moved] == self._inode_at(folder)

    def end(self, watches: Iterable[int]) -> None:
        """Ends watches that were taken off."""
        for watch in watches:
            if watch in self._inode and watch not in self._path:
                self._end(watch)

    def ended(self, watch: int) -> None:
        """The kernel has ended it."""
        self._displace(watch)
        self._inode.pop(watch, None)

    def keep(self, folders: set[RelPath]) -> None:
        """Ends the watches of all folders but these."""
        for watch in list(self._inode):
            if self._path.get(watch) not in folders:
                self._end(watch)

    def _end(self, watch: int) -> None:
        self.ended(watch)
        self._source.unwatch(watch)

    def _place(self, watch: int, folder: RelPath) -> None:
        self._displace(watch)
        if (other := self._watch.get(folder)) is not None:
            self._displace(other)
        self._path[watch] = folder
        self._watch[folder] = watch

    def _displace(self, watch: int) -> None:
        if (before := self._path.pop(watch, None)) is not None:
            del self._watch[before]

    def _inode_at(self, folder: RelPath) -> int:
        """0 when nothing is there any more."""
        try:
            return os.lstat(self._root.path(folder)).st_ino
        except OSError:
            return 0

    def _below(self, folder: RelPath) -> list[tuple[RelPath, int]]:
        depth = len(folder)
        return [(path, watch) for path, watch in self._watch.items() if path[:depth] == folder]


@dataclass(slots=True)
class _Half:
    """The first half of a move."""

    number: int
    path: RelPath
    folder: bool
    at: float
    sent: bool
    """It was no file that stays local, so it stands among the events as a deletion."""
    watches: dict[int, RelPath] = field(default_factory=dict)
    """Of the folder and what is below it."""
    held: list[Raw] = field(default_factory=list)
    """What these watches told since."""


class Live:
    """Takes the raw events of one root's watches, in order."""

    def __init__(
        self,
        root: Root,
        watches: Watches,
        burst: Burst,
        ignore: Ignore,
        own: OwnChanges,
        skip: Callable[[RelPath, str | None], None],
    ) -> None:
        self.rescan = False
        """Something happened that only a scan can sort out."""
        self.gone = False
        """The root itself was touched: look whether it is still there."""
        self.seen_going: set[RelPath] = set()
        """Folders that moved in a way that only a scan can sort out."""
        self.refused: Refusal | None = None
        """A limit was met: events are no longer complete."""
        # `skip(path, why)`: it is not sent; `skip(path, None)`: it is not there any more.
        self._root = root
        self._watches = watches
        self._burst = burst
        self._ignore = ignore
        self._own = own
        self._skip = skip
        self._halves: dict[int, _Half] = {}

    def take(self, raw: Raw, now: float, *, late: bool = False) -> None:
        """Turns one event into what it means for the burst. `late`: a scan may have seen its effect."""
        if raw.kind is Kind.ENDED:
            self._watches.ended(raw.watch)
            return
        folder = self._watches.path(raw.watch)
        if folder is None:
            for half in self._halves.values():
                if raw.watch in half.watches:
                    half.held.append(raw)
            return
        if raw.kind is Kind.GONE:
            # Of other folders the folder above tells it too.
            self.gone = self.gone or not folder
            return
        if raw.folder and raw.kind in (Kind.MODIFIED, Kind.CLOSED):
            # Only its time was set, as tar does last of all (utimensat(2) of mtime alone).
            return
        path = (*folder, raw.name)
        if raw.name == NAME:
            self._ignore.forget()
            self.rescan = True
            return
        if self._own.covers(self._root.path(path)):
            self._take_own(raw, path, now)
            return
        moved = raw.kind in (Kind.MOVED_FROM, Kind.MOVED_TO)
        if late and moved and raw.folder:
            # The books of watches are newer than this event: following it would spoil them.
            self.rescan = True
            self.seen_going.add(path)
            return
        if raw.kind in (Kind.DELETED, Kind.MOVED_FROM):
            self._skip(path, None)
        local = self._ignore.says(path, folder=raw.folder) is not None
        match raw.kind:
            case Kind.MOVED_FROM:
                number = -1
                if not local:
                    left = Deleted(path, raw.folder, whole=raw.folder)
                    number = self._burst.add(left, now, sure=False)
                self._leaves(raw, _Half(number, path, raw.folder, now, not local))
            case Kind.MOVED_TO:
                self._moved_to(raw, path, now, local=local)
            case _ if local:
                pass
            case Kind.CREATED:
                self.appeared(path, now, closed=False, folder=raw.folder)
            case Kind.MODIFIED:
                self._burst.touch(path, now, closed=False)
            case Kind.CLOSED:
                self._burst.touch(path, now, closed=True)
            case Kind.DELETED:
                self._burst.add(Deleted(path, raw.folder), now)

    def settle(self, now: float) -> float | None:
        """Gives up waiting for second halves that never come: those things left the tree. Returns when to
        call again (monotonic s), None when no half is waiting. Until then the burst must not be taken.
        """
        for cookie, half in list(self._halves.items()):
            if half.at + MOVE_S <= now:
                del self._halves[cookie]
                self._burst.gone(half.path)
                self._gone(half)
        return min((half.at + MOVE_S for half in self._halves.values()), default=None)

    def forget(self) -> None:
        """A scan begins: halves that wait belong to a past that it will see the end of."""
        for half in self._halves.values():
            # The scan puts them where they are.
            self._watches.put_back(half.path, half.watches)
        self._halves.clear()
        self.seen_going.clear()
        self.rescan = self.gone = False

    def appeared(self, path: RelPath, now: float, *, closed: bool, folder: bool) -> None:
        """Something is at `path` that was not there: a folder is watched and looked into."""
        new = [(path, folder)]
        while new:
            at, is_folder = new.pop()
            if is_folder:
                new.extend(self._folder_appeared(at, now))
            else:
                # Whoever still writes a file that was found in its folder is told of by events from now on.
                self._file_appeared(at, now, closed=closed or at != path)

    def _file_appeared(self, path: RelPath, now: float, *, closed: bool) -> None:
        try:
            found = os.lstat(self._root.path(path))
        except OSError:
            # Gone again, or not ours to see: what comes of it is told later.
            found = None
        if found is not None:
            if (why := why_skipped(found, self._root)) is not None:
                self._skip(path, why)
                return
            # A hard link has no writer that could close it.
            closed = closed or found.st_nlink > 1
        self._burst.touch(path, now, closed=closed, created=True)

    def _folder_appeared(self, path: RelPath, now: float) -> list[tuple[RelPath, bool]]:
        """What is in it already, and whether that is a folder."""
        at = self._root.path(path)
        try:
            if (why := why_skipped(os.lstat(at), self._root)) is not None:
                self._skip(path, why)
                return []
        except OSError:
            pass
        self._burst.add(Created(path, folder=True), now)
        refusal = self._watches.add(path)
        if refusal in LIMITS:
            self.refused = refusal
            return []
        if refusal is Refusal.GONE:
            # It moved on, or is deleted again. What becomes of it is told, but not what happened in it.
            self.rescan = True
            return []
        try:
            with os.scandir(at) as entries:
                inside = [((*path, e.name), e.is_dir(follow_symlinks=False)) for e in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            self._skip(path, f"cannot be listed: {error.strerror}")
            return []
        return [
            (child, is_folder)
            for child, is_folder in inside
            if self._ignore.says(child, folder=is_folder) is None
        ]

    def _leaves(self, raw: Raw, half: _Half) -> None:
        if half.folder:
            half.watches = self._watches.take_off(half.path)
        self._halves[raw.cookie] = half

    def _moved_to(self, raw: Raw, path: RelPath, now: float, *, local: bool) -> None:
        half = self._halves.pop(raw.cookie, None)
        if half is None or not half.sent:
            # Out of nowhere, or out of what stays local.
            if half is not None:
                self._gone(half)
            if not local:
                self.appeared(path, now, closed=True, folder=raw.folder)
            return
        if local:
            self._gone(half)
            return
        moved = Moved(half.path, path, half.folder)
        if self._burst.comes_back(half.number, moved) and self._is_there(half.path):
            self._burst.exchange(half.number, moved, now)
        else:
            self._burst.replace(half.number, moved, now)
        if half.folder:
            self._arrives(half, path, now)

    def _is_there(self, path: RelPath) -> bool:
        return os.path.lexists(self._root.path(path))

    def _arrives(self, half: _Half, path: RelPath, now: float) -> None:
        """A folder has moved within the tree, with all that is watched in it."""
        if not self._watches.put_back(path, half.watches):
            # It moved before it could be watched, or something else was watched in its place.
            self.rescan = True
        for raw in half.held:
            self.take(raw, now)

    def _gone(self, half: _Half) -> None:
        """It left the tree."""
        self._watches.end(half.watches)

    def _take_own(self, raw: Raw, path: RelPath, now: float) -> None:
        """The deed is the daemon's; but which watch is where has still to be right."""
        if not raw.folder:
            return
        match raw.kind:
            case Kind.CREATED:
                self._watches.add(path)
            case Kind.MOVED_FROM:
                self._leaves(raw, _Half(-1, path, folder=True, at=now, sent=False))
            case Kind.MOVED_TO:
                half = self._halves.pop(raw.cookie, None)
                if half is None or not self._watches.put_back(path, half.watches):
                    self.rescan = True
            case _:
                pass


def why_skipped(found: os.stat_result, root: Root) -> str | None:
    """Why such a thing is not sent; None for files and folders."""
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        return "a symbolic link: links are never followed, and Synapse has none to such files"
    if stat.S_ISDIR(mode):
        if found.st_dev != root.device:
            return "another file system is mounted here: track it by itself"
        return None
    if not stat.S_ISREG(mode):
        return "not a file: a device, a socket or a pipe"
    return None
