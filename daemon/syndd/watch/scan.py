"""What changed in a root while nobody told: the tree on the disk against the books, as events.

Nothing is decided here that cannot be taken back: a thing that is missing is told as deleted only when its folder
could be listed, and whoever carries that out looks at the root first. What is missing at one place and there at
another, the same inode with the same size and time, was moved.
"""

from __future__ import annotations

import os
import stat
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from synd.mirror.coalesce import Created, Deleted, Event, Modified, Moved, Rearranged
from synd.store.tracked import RelPath, Root, Seen, Tracked
from syndd.watch.ignore import Ignore
from syndd.watch.live import why_skipped
from syndd.watch.source import LIMITS, Refusal

Watch = Callable[[RelPath], Refusal | None]
Stop = Callable[[], bool]

MASS = 10
"""So many files must be missing, and more than half of all, before a scan holds its deletions for a yes."""


@dataclass(slots=True)
class Found:
    """What a scan saw."""

    folders: set[RelPath] = field(default_factory=set)
    skipped: dict[RelPath, str] = field(default_factory=dict)
    """Why a path is not looked at or not sent."""
    unread: dict[RelPath, str] = field(default_factory=dict)
    """Folders that could not be listed: nothing is concluded about what they hold."""
    ignored: list[RelPath] = field(default_factory=list)
    """Known paths that stay local from now on."""
    moves: list[Moved] = field(default_factory=list)
    deleted: list[Deleted] = field(default_factory=list)
    """By their paths before anything moved, as in `moves`."""
    created: list[tuple[RelPath, bool]] = field(default_factory=list)
    """New paths and whether they are folders, folders first."""
    modified: list[RelPath] = field(default_factory=list)
    """Files whose content may be another, under their present paths."""
    missing: list[RelPath] = field(default_factory=list)
    """Known files that are nowhere."""
    missing_files: int = 0
    """How many of these nobody was seen to delete."""
    known_files: int = 0
    refused: Refusal | None = None
    """A limit was met: folders found after that are not watched."""
    stopped: bool = False

    @property
    def too_many_missing(self) -> bool:
        """Whether this looks more like an accident than like somebody's wish."""
        return self.missing_files >= MASS and 2 * self.missing_files > self.known_files

    def count_unseen(self, seen: set[RelPath]) -> None:
        """Leaves out of the missing those that somebody was seen to delete, by the path of what was deleted."""
        self.missing_files = sum(
            not any(path[:depth] in seen for depth in range(1, len(path) + 1))
            for path in self.missing
        )

    def events(self, *, deletions: bool) -> list[Event]:
        """The same as events, in an order in which they can be carried out."""
        deleted = tuple(self.deleted) if deletions else ()
        events: list[Event] = (
            [Rearranged(tuple(self.moves), deleted)] if self.moves or deleted else []
        )
        events += (Created(path, folder) for path, folder in self.created)
        events += map(Modified, self.modified)
        return events


def never() -> bool:
    return False


def scan(root: Root, books: Tracked, ignore: Ignore, watch: Watch, stop: Stop = never) -> Found:
    """Walks the whole root; `watch` is called for each folder before it is listed.

    Cost: one lstat per file, one row per file; memory for what differs, not for what is as it was.
    """
    found = Found(known_files=books.count(root.id)[0])
    walk = _Walk(root, books, ignore, watch, found)
    waiting: list[RelPath] = [()]
    while waiting:
        if stop():
            found.stopped = True
            break
        waiting.extend(walk.folder(waiting.pop()))
    if not found.stopped:
        walk.conclude()
    return found


class _Walk:
    def __init__(
        self, root: Root, books: Tracked, ignore: Ignore, watch: Watch, found: Found
    ) -> None:
        self._root = root
        self._books = books
        self._ignore = ignore
        self._watch = watch
        self._found = found
        self._missing: dict[RelPath, Seen] = {}
        """Known things that are not where they were, or are another thing there."""
        self._new: dict[RelPath, os.stat_result] = {}
        """Things that were not known where they are. A path may be in both."""

    def folder(self, path: RelPath) -> list[RelPath]:
        """Compares one folder with the books; returns the folders in it."""
        found = self._found
        if found.refused is None:
            refusal = self._watch(path)
            if refusal in LIMITS:
                found.refused = refusal
        try:
            with os.scandir(self._root.path(path)) as entries:
                names = sorted(entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            # Gone since its own folder was listed: the next look at that one will tell.
            return []
        except OSError as error:
            found.unread[path] = f"cannot be listed: {error.strerror}"
            return []
        found.folders.add(path)
        known = self._books.children(self._root.id, path)
        below: list[RelPath] = []
        for name in names:
            child = (*path, name)
            before = known.pop(name, None)
            try:
                now = os.lstat(self._root.path(child))
            except FileNotFoundError:
                if before is not None:
                    known[name] = before
                continue
            except OSError as error:
                found.skipped[child] = f"cannot be looked at: {error.strerror}"
                continue
            if self._thing(child, before, now):
                below.append(child)
        for name, before in known.items():
            self._lost((*path, name), before)
        return below

    def _thing(self, path: RelPath, before: Seen | None, now: os.stat_result) -> bool:
        """Takes in what is at `path`; returns whether to look into it."""
        folder = stat.S_ISDIR(now.st_mode)
        why = self._ignore.says(path, folder=folder)
        if why is not None:
            if before is not None:
                self._found.ignored.append(path)
            return False
        why = why_skipped(now, self._root)
        if why is not None:
            # What was known here has given way to it; what was sent stays as it is.
            self._found.skipped[path] = why
            return False
        if before is None:
            self._new[path] = now
        elif before.folder is not folder:
            self._lost(path, before)
            self._new[path] = now
        elif before.inode != now.st_ino or path[:-1] in self._missing:
            # Another thing under the same name; or the same in another folder, which came to its folder's place.
            self._missing[path] = before
            self._new[path] = now
        elif not folder and (not before.same(now) or before.racy or not before.sent):
            self._found.modified.append(path)
        return folder

    def _lost(self, path: RelPath, before: Seen) -> None:
        self._missing[path] = before
        if before.folder:
            self._missing.update(self._books.below(self._root.id, path))

    def conclude(self) -> None:
        """Finds what moved among what is missing and what is new; the rest is deleted and created."""
        found, new = self._found, self._new
        found.moves = self._moves()
        arrived = {move.new: self._missing[move.old] for move in found.moves}
        left = {move.old for move in found.moves}
        replaced: set[RelPath] = set()
        for path in sorted(self._missing.keys() & new.keys() - left - arrived.keys(), key=len):
            # Another inode under the same name is the same thing, unless its folder is another one.
            same_folder = path[:-1] not in self._missing or path[:-1] in replaced
            if same_folder and stat.S_ISDIR(new[path].st_mode) is self._missing[path].folder:
                replaced.add(path)
        gone = self._missing.keys() - left - replaced
        found.missing = sorted(path for path in gone if not self._missing[path].folder)
        found.missing_files = len(found.missing)
        for path in sorted(gone):
            if path[:-1] not in gone:
                folder = self._missing[path].folder
                found.deleted.append(Deleted(path, folder, whole=folder))
        for path, now in sorted(new.items(), key=lambda item: (len(item[0]), item[0])):
            folder = stat.S_ISDIR(now.st_mode)
            if (before := arrived.get(path)) is not None:
                # A rename alone gives another ctime: then the content is compared.
                if not folder and (not before.same(now) or before.racy or not before.sent):
                    found.modified.append(path)
            elif path in replaced and not folder:
                found.modified.append(path)
            else:
                found.created.append((path, folder))
        found.created.sort(key=lambda item: not item[1])

    def _moves(self) -> list[Moved]:
        by_inode: dict[tuple[int, bool], list[RelPath]] = defaultdict(list)
        for path, now in self._new.items():
            by_inode[now.st_ino, stat.S_ISDIR(now.st_mode)].append(path)
        moves = []
        for old, before in self._missing.items():
            places = by_inode.get((before.inode, before.folder), [])
            # A hard link has more than one.
            places.sort(key=lambda p: p != old)
            place = next((p for p in places if self._moved(old, before, p)), None)
            if place is not None:
                places.remove(place)
                moves.append(Moved(old, place, before.folder))
        return sorted(moves, key=lambda move: (len(move.new), move.new))

    def _moved(self, old: RelPath, before: Seen, path: RelPath) -> bool:
        """Whether what is at `path` is the thing that was at `old`: inode numbers are used again."""
        now = self._new[path]
        if not before.folder:
            return (before.size, before.mtime_ns) == (now.st_size, now.st_mtime_ns)
        if before.mtime_ns == now.st_mtime_ns:
            return True
        held = self._books.children(self._root.id, old)
        return any(
            (there := self._new.get((*path, name))) is not None and there.st_ino == seen.inode
            for name, seen in held.items()
        )
