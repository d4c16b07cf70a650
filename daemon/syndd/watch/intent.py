"""Steps → calls of the sink, and the books kept in accord with what the sink was told.

The disk has the last word: each step is looked at again when its turn comes. Order: the sink first, then the books;
after a crash between the two the same is told once more, never forgotten.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from synd.clock import Clock, backoff_s
from synd.digest import md5_of_fd
from synd.errors import Busy, Cancelled, Exists, NotFound, Retry, SyndError
from synd.ids import Md5
from synd.log import fields
from synd.mirror.coalesce import Created, Deleted, Event, Modified, Moved, Step, coalesce
from synd.store.tracked import RelPath, Root, Seen, Tracked, seen_of
from syndd.watch.burst import Burst, Touch
from syndd.watch.live import why_skipped
from syndd.watch.sink import Sink

log = logging.getLogger(__name__)

HASHED_BYTES = 4 << 30
"""Larger files are not read through for an md5 of their own unless nothing else tells a change."""

TRIES = 3
"""A file that changes while it is taken is taken again so often at once; after that it waits for quiet."""

RETRY_CAP_S = 600.0

BUSY_S = 1.0
"""A folder that the sink was busy with is left alone for so long."""


class Problem(NamedTuple):
    """Why a path is not sent as it is."""

    path: str
    """Relative to the root."""
    why: str
    hint: str = ""


@dataclass(slots=True)
class Outcome:
    """What carrying out a burst came to, beside the calls."""

    told: int = 0
    """Calls that the sink took."""
    rescan_after_s: float | None = None
    """Something did not fit: the tree has to be scanned, after so long."""
    missing: bool = False
    """The root is not what it was: nothing was removed, and the rest was left."""
    later: bool = False
    """The sink cannot take the tree's shape just now: the rest was left for a scan."""


class Intent:
    """Carries out bursts of one root. Lock: none; the tracker's thread only."""

    def __init__(
        self,
        root: Root,
        books: Tracked,
        sink: Sink,
        burst: Burst,
        clock: Clock,
        here: Callable[[], bool],
        stop: Callable[[], bool],
    ) -> None:
        """`here`: whether the root is still what was tracked; asked before anything is removed."""
        self.problems: dict[RelPath, Problem] = {}
        self._shaped: dict[RelPath, None] = {}
        """What was made or moved in this burst, by its path at this point."""
        self._refusals = 0
        """Steps in a row that the sink refused."""
        self._busy: dict[RelPath, float] = {}
        """Folders of files that the sink cannot take before this time (monotonic s)."""
        self._attempts: dict[RelPath, int] = {}
        """How often the sink has refused a file for the time being."""
        self._root = root
        self._books = books
        self._sink = sink
        self._burst = burst
        self._clock = clock
        self._here = here
        self._stop = stop

    def carry_out(self, events: Iterable[Event]) -> Outcome:
        """Tells the sink what `events` come to; contents that are not quiet yet go back to the burst."""
        outcome = Outcome()
        steps = coalesce(events, self._known)
        contents = len(steps)
        for number, step in enumerate(steps):
            if self._stop():
                # What is not told now is found by the scan at the next start.
                break
            if isinstance(step, Deleted | Moved) and not self._here():
                outcome.missing = True
                break
            if isinstance(step, Modified) or (isinstance(step, Created) and not step.folder):
                contents = number
                break
            self._shape(step, outcome)
            if outcome.later:
                # What comes next builds on it.
                break
        self._look_again(outcome)
        for step in steps[contents:]:
            if self._stop() or outcome.later or outcome.missing:
                break
            if isinstance(step, Created | Modified):
                now = self._clock.monotonic()
                touch = self._burst.ready(step.path, now)
                busy = self._busy.get(step.path[:-1], 0.0)
                if touch is not None:
                    self._burst.defer(step, touch)
                elif busy > now:
                    self._burst.defer(step, Touch(now, closed=True, not_before=busy))
                else:
                    self._put(step, outcome)
        self._burst.prune()
        if outcome.told:
            self._refusals = 0
        now = self._clock.monotonic()
        self._busy = {path: until for path, until in self._busy.items() if until > now}
        return outcome

    def report(self, path: RelPath, why: str, hint: str = "") -> None:
        """Notes why a path is not sent; said in the log once."""
        problem = Problem(shown(path), why, hint)
        if self.problems.get(path) != problem:
            log.info("track.skipped", extra=fields(path=self._root.path(path), why=why))
        self.problems[path] = problem

    def clear(self, path: RelPath) -> None:
        """The path is as it should be."""
        self.problems.pop(path, None)
        self._attempts.pop(path, None)

    def _known(self, path: RelPath) -> bool | None:
        seen = self._books.find(self._root.id, path)
        return None if seen is None else seen.folder

    # Steps that change the tree's shape.

    def _shape(self, step: Step, outcome: Outcome) -> None:
        path = step.new if isinstance(step, Moved) else step.path
        try:
            match step:
                case Created():
                    self._mkdir(path, outcome)
                case Moved(old, new):
                    self._move(old, new, outcome)
                case Deleted(_, folder):
                    self._remove(path, outcome, folder=folder)
                case Modified():
                    pass
        except OSError as error:
            self.report(path, f"cannot be looked at: {error.strerror}")
            outcome.rescan_after_s = 60.0
        except SyndError as error:
            self.report(path, error.message, error.hint)
            log.log(
                error.level,
                "track.refused",
                extra=fields(path=self._root.path(path), step=type(step).__name__, error=error),
            )
            # The books do not have it, so a scan finds it again.
            outcome.later = error.retry is Retry.LATER
            self._refusals += 1
            wait_s = backoff_s(self._refusals, base_s=1.0, cap_s=RETRY_CAP_S)
            outcome.rescan_after_s = wait_s if outcome.later else 60.0

    def _mkdir(self, path: RelPath, outcome: Outcome) -> None:
        before = self._books.find(self._root.id, path)
        if before is None or not before.folder or not before.sent:
            self._parents(path, outcome)
            try:
                self._sink.mkdir(self._root, path)
            except Exists:
                pass
            outcome.told += 1
        # It may have gone on already: that is told by events to come, which build on this one.
        self._note(path, Seen(folder=True, size=0, mtime_ns=0, ctime_ns=0, inode=0, noted_ns=0))
        self._shaped[path] = None
        self.clear(path)

    def _move(self, old: RelPath, new: RelPath, outcome: Outcome) -> None:
        self._parents(new, outcome)
        before = self._books.find(self._root.id, old)
        if before is None:
            return
        try:
            self._sink.move(self._root, old, new)
        except NotFound:
            # It never got there, or somebody else took it away: what is here is told anew.
            self._books.forget(self._root.id, old)
            outcome.rescan_after_s = 0.0
            return
        outcome.told += 1
        self._books.move(self._root.id, old, new)
        for path in [p for p in self.problems if p[: len(old)] == old]:
            problem = self.problems.pop(path)
            now = (*new, *path[len(old) :])
            self.problems[now] = problem._replace(path=shown(now))
        if before.folder:
            depth = len(old)
            self._shaped = {
                ((*new, *p[depth:]) if p[:depth] == old else p): None for p in self._shaped
            }
        else:
            self._shaped.pop(old, None)
        self._shaped[new] = None

    def _look_again(self, outcome: Outcome) -> None:
        """Now that everything is at its last path, the disk tells whether it is what the steps say."""
        shaped, self._shaped = self._shaped, {}
        for path in shaped:
            before = self._books.find(self._root.id, path)
            try:
                found = self._stat(path)
            except OSError:
                continue
            if before is None or found is None:
                continue
            if before.inode == 0 and before.folder and stat.S_ISDIR(found.st_mode):
                self._note(path, seen_of(found, folder=True, noted_ns=self._clock.now_ns()))
            elif found.st_ino != before.inode:
                # Not what we thought had moved, as when two things change places in one call.
                outcome.rescan_after_s = 0.0
            elif (
                not before.folder
                and not before.racy
                and path not in self._burst.files
                and (before.size, before.mtime_ns) == (found.st_size, found.st_mtime_ns)
            ):
                # The rename gave it a new ctime; size and time say that its content is the same.
                self._note(path, before._replace(ctime_ns=found.st_ctime_ns))

    def _remove(self, path: RelPath, outcome: Outcome, *, folder: bool) -> None:
        before = self._books.find(self._root.id, path)
        if before is None:
            return
        found = self._stat(path)
        if found is not None:
            why = why_skipped(found, self._root)
            if why is not None:
                self.report(path, f"{why}; what was sent from here is kept")
                return
            same_kind = stat.S_ISDIR(found.st_mode) is folder
            if same_kind and (not folder or found.st_ino == before.inode):
                # The very same is there, whatever was told; or another file, which is its next version.
                outcome.rescan_after_s = 0.0
                return
        try:
            self._sink.remove(self._root, path)
        except NotFound:
            pass
        outcome.told += 1
        self._books.forget(self._root.id, path)
        for gone in [p for p in self.problems if p[: len(path)] == path]:
            del self.problems[gone]

    # Contents.

    def _put(self, step: Created | Modified, outcome: Outcome) -> None:
        path = step.path
        try:
            self._parents(path, outcome)
            for _ in range(TRIES):
                if self._take(path, outcome):
                    return
        except Cancelled:
            return
        except SyndError as error:
            self._refused(step, error)
        except OSError as error:
            self.report(path, f"cannot be read: {error.strerror}")
        else:
            # It changes faster than it can be taken.
            now = self._clock.monotonic()
            self._burst.defer(step, Touch(now, closed=True))

    def _take(self, path: RelPath, outcome: Outcome) -> bool:
        """Tells the file's content once, if it is not what was told; false when it changed meanwhile."""
        found = self._stat(path)
        if found is None:
            # Gone already; if that was not told yet, it will be.
            return True
        if not stat.S_ISREG(found.st_mode):
            if (why := why_skipped(found, self._root)) is not None:
                self.report(path, why)
            else:
                # A folder, of which nobody told.
                outcome.rescan_after_s = 0.0
            return True
        before = self._books.find(self._root.id, path)
        if before is not None and before.same(found) and before.sent and not before.racy:
            self.clear(path)
            return True
        noted_ns = self._clock.now_ns()
        told = before is not None and before.sent
        same_size = before is not None and before.md5 is not None and before.size == found.st_size
        md5 = None
        seen = seen_of(found, folder=False, noted_ns=noted_ns)
        if found.st_size <= HASHED_BYTES or (told and same_size) or seen.racy:
            md5 = self._md5(path, found)
            if md5 is None:
                return False
        seen = seen._replace(md5=md5)
        if not (told and same_size and before is not None and before.md5 == md5):
            try:
                self._sink.put(self._root, path, self._root.path(path))
            except SyndError:
                if self._stat(path) is None:
                    return True
                self._note(path, seen._replace(sent=False))
                raise
            outcome.told += 1
            if before is not None and found.st_nlink > 1:
                # It changed under its other names too, of which nobody tells.
                outcome.rescan_after_s = 0.0
        after = self._stat(path)
        if after is None or not seen.same(after):
            self._note(path, seen._replace(sent=False))
            return after is None
        self._note(path, seen)
        self.clear(path)
        return True

    def _md5(self, path: RelPath, expected: os.stat_result) -> Md5 | None:
        """The content's md5; None when the file is not what was looked at any more."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            fd = os.open(self._root.path(path), flags)
        except FileNotFoundError:
            return None
        try:
            if (found := os.fstat(fd)).st_ino != expected.st_ino or found.st_dev != expected.st_dev:
                return None
            md5 = md5_of_fd(fd, stop=self._stop)
        finally:
            os.close(fd)
        if self._stop():
            raise Cancelled("the tracker stops")
        return md5

    def _parents(self, path: RelPath, outcome: Outcome) -> None:
        """A folder is told before what it holds, whatever the events forgot."""
        for depth in range(1, len(path)):
            seen = self._books.find(self._root.id, path[:depth])
            if seen is None or not seen.folder or not seen.sent:
                self._mkdir(path[:depth], outcome)

    def _refused(self, step: Created | Modified, error: SyndError) -> None:
        self.report(step.path, error.message, error.hint)
        log.log(
            error.level,
            "track.refused",
            extra=fields(path=self._root.path(step.path), step="put", error=error),
        )
        if error.retry is Retry.NO:
            # The next change of the file, or the next scan, tries again.
            return
        now = self._clock.monotonic()
        before = self._attempts.get(step.path, 0) + 1
        self._attempts[step.path] = before
        wait_s = backoff_s(before, base_s=2.0, cap_s=RETRY_CAP_S)
        if isinstance(error, Busy):
            # Others of the folder would fare alike. They wait less than this one, so it starves none.
            self._busy[step.path[:-1]] = now + BUSY_S
        self._burst.defer(step, Touch(now, closed=True, not_before=now + wait_s))

    def _note(self, path: RelPath, seen: Seen) -> None:
        self._books.note(self._root.id, [(path, seen)])

    def _stat(self, path: RelPath) -> os.stat_result | None:
        """None when nothing is there. Raises OSError when that cannot be known."""
        try:
            return os.lstat(self._root.path(path))
        except (FileNotFoundError, NotADirectoryError):
            return None


def shown(path: RelPath) -> str:
    """A relative path for people: names that are not UTF-8 with their odd bytes spelled out."""
    return "/".join(path).encode(errors="surrogateescape").decode(errors="backslashreplace")
