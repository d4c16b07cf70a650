"""One tracked root: watched where the kernel can, scanned where it cannot, left alone while it is not there."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from synd.clock import NS, Clock
from synd.errors import InvalidTransition
from synd.log import fields
from synd.mirror.coalesce import Created, Modified
from synd.store.tracked import RelPath, Root, Tracked
from syndd.watch.burst import Burst, Touch
from syndd.watch.ignore import Ignore
from syndd.watch.intent import Intent, Outcome, Problem, shown
from syndd.watch.live import Live, Watches
from syndd.watch.own import OwnChanges
from syndd.watch.scan import Found, scan
from syndd.watch.sink import Sink
from syndd.watch.source import Kind, Raw, Refusal, Source, limit, remedy

log = logging.getLogger(__name__)

CHECK_S = 2.0
"""So often it is looked whether the root is there: one lstat."""

SYNC_S = 2.0

WATCH_AGAIN = 10
"""After so many scans it is tried again to watch, in case others gave watches back."""

SHOWN = 200
"""Problems that a status lists; the others are counted."""


class State(StrEnum):
    """What is done about a root."""

    STARTING = "starting"
    """Found; it has still to be scanned."""
    WATCHING = "watching"
    SCANNING = "scanning"
    """The kernel cannot tell all events: it is scanned every so often."""
    MISSING = "missing"
    """Not there, or something else is in its place: nothing is told until it is back."""


TRANSITIONS: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.STARTING: frozenset({State.WATCHING, State.SCANNING, State.MISSING}),
        State.WATCHING: frozenset({State.SCANNING, State.MISSING, State.STARTING}),
        State.SCANNING: frozenset({State.WATCHING, State.MISSING, State.STARTING}),
        State.MISSING: frozenset({State.STARTING}),
    }
)


@dataclass(frozen=True, slots=True)
class Held:
    """A scan found so much missing that it waits for a yes (`Tracker.confirm`)."""

    missing_files: int
    known_files: int


@dataclass(frozen=True, slots=True)
class Status:
    """What a root is up to."""

    root: Root
    state: State
    why: str
    """Why it is not watched; empty when it is."""
    remedy: str
    """A line for a shell that mends it; empty when there is nothing to mend or no such line."""
    files: int
    folders: int
    """Known ones, without the root."""
    unsent: int
    """Files whose present state was not told yet, because the sink refused it."""
    waiting: int
    """Changes seen that wait for quiet; at least 1 while only a scan can tell what there is to be sent."""
    settled: bool
    """Nothing waits, nothing has to be told again, and no scan is due at once."""
    scanned_ns: int
    """When the last whole scan ended, UTC ns; 0 for not yet."""
    held: Held | None
    problems: tuple[Problem, ...]
    """What is not sent and why, the first `SHOWN` of them."""
    problem_count: int


class Engine:
    """All about one root. The tracker's thread only, but for `status`, which any thread may ask."""

    def __init__(
        self,
        root: Root,
        books: Tracked,
        sink: Sink,
        source: Source,
        own: OwnChanges,
        clock: Clock,
        stop: Callable[[], bool],
        posted: Callable[[], int],
    ) -> None:
        """`posted`: how many raw events have come so far, of all roots."""
        self.root = root
        self.state = State.STARTING
        self._books = books
        self._sink = sink
        self._source = source
        self._own = own
        self._clock = clock
        self._stop = stop
        self._posted = posted
        self._why = ""
        self._refused: Refusal | None = None
        self._refused_at = (0, 0)
        """The kernel's limit when a watch was refused, and scans since."""
        self._held: Held | None = None
        self._confirmed = False
        self._scanned_ns = 0
        self._scan_at = 0.0
        self._left = False
        """The sink could not take something just now: the next scan finds it again."""
        self._doubt = True
        """What was seen did not fit, or nothing was seen yet: only the scan that comes next tells what changed."""
        self._check_at = 0.0
        self._seen: set[RelPath] = set()
        """What was seen to be deleted and was not told before a scan became due."""
        self._blind = False
        """Which watch is which folder is not sure: no event is taken."""
        self._turn = threading.Lock()
        """A leaf: what waits and what is being told are counted together."""
        self._carrying = 0
        """How many changes are being told just now."""
        self._late_until = 0
        """Events up to this number came before the last scan ended."""
        self._ignore = Ignore(root.folder, root.options.ignore)
        self._skipped: dict[RelPath, str] = {}
        self._begin()

    def _begin(self) -> None:
        """New books of all that depends on the root's identity."""
        self._burst = Burst(self.root.options)
        self._watches = Watches(self.root, self._source)
        self._live = Live(
            self.root, self._watches, self._burst, self._ignore, self._own, self._skip
        )
        self._intent = Intent(
            self.root, self._books, self._sink, self._burst, self._clock, self.here, self._stop
        )

    # What the tracker calls.

    def take(self, raw: Raw, number: int) -> None:
        """Takes in an event of any root's watch; `number` counts all events."""
        if self.state is State.MISSING or (self._blind and raw.kind is not Kind.ENDED):
            return
        self._live.take(raw, self._clock.monotonic(), late=number <= self._late_until)

    def overflow(self, after_s: float = 0.0) -> None:
        """Events were lost: none is believed until a scan has been made, once it is quieter."""
        self._blind = self._doubt = True
        self._seen |= self._burst.seen_going() | self._live.seen_going
        self._burst.clear_events()
        self._scan_at = self._clock.monotonic() + max(after_s, self.root.options.quiet_s)

    def rescan(self, *, after_s: float = 0.0, confirmed: bool = False) -> None:
        """What waits is forgotten and all is compared with the books, soon."""
        self._doubt = self._doubt or after_s <= max(CHECK_S, self.root.options.quiet_s)
        self._confirmed = self._confirmed or confirmed
        self._scan_at = min(self._scan_at, self._clock.monotonic() + after_s)

    def unwatched(self) -> None:
        """The source has lost all watches."""
        self._watches = Watches(self.root, self._source)
        self._live = Live(
            self.root, self._watches, self._burst, self._ignore, self._own, self._skip
        )
        self.rescan()

    def look(self, path: RelPath) -> None:
        """Events about `path` were the daemon's own until now: is it as the books say?"""
        if self.state is State.MISSING:
            return
        try:
            found = os.lstat(self.root.path(path))
        except OSError:
            found = None
        if found is not None and stat.S_ISREG(found.st_mode):
            self._burst.touch(path, self._clock.monotonic(), closed=True)
        elif found is not None or self._books.find(self.root.id, path) is not None:
            self.rescan()

    def tick(self) -> float:
        """Does what is due; returns when to call again (monotonic s)."""
        now = self._clock.monotonic()
        if now >= self._check_at or self._live.gone:
            self._check(now)
        if self.state is State.MISSING:
            return self._check_at
        if self._live.refused is not None:
            self._refuse(self._live.refused)
        if self._live.rescan:
            # Quiet first: what asks for a scan often comes in flocks.
            self._live.rescan = False
            self.rescan(after_s=self.root.options.quiet_s)
        if self.state is State.WATCHING and not len(self._watches):
            # Unmounted and mounted again between two looks.
            self.rescan(after_s=CHECK_S)
        halves = self._live.settle(now)
        if now >= self._scan_at:
            self._scan(now)
            halves = None
        elif halves is None and self._burst.due() <= now:
            self._carry_out(now)
        return min(
            self._check_at, self._scan_at, halves if halves is not None else self._burst.due()
        )

    def close(self) -> None:
        """Ends all watches."""
        self._watches.keep(set())

    def status(self) -> Status:
        files, folders = self._books.count(self.root.id)
        problems = self._problems()
        now = self._clock.monotonic()
        with self._turn:
            waiting = self._carrying or len(self._burst)
            if self._doubt and self.state is not State.MISSING:
                waiting = max(waiting, 1)
        remedy_line = "" if self._refused is None else remedy(self._refused, folders + 1)
        return Status(
            self.root,
            self.state,
            self._why,
            remedy_line,
            files,
            folders,
            self._books.unsent(self.root.id),
            waiting,
            not waiting
            and not self._left
            and not self._doubt
            and self.state is not State.STARTING
            and self._scan_at > now
            and not self._live.rescan,
            self._scanned_ns,
            # Once somebody said yes they are on their way: `waiting` counts until the scan is made.
            None if self._confirmed else self._held,
            tuple(problems[:SHOWN]),
            len(problems),
        )

    # Whether it is there.

    def here(self) -> bool:
        """Whether the root is the folder that was tracked."""
        return self._absence() is None

    def _absence(self) -> str | None:
        """Why the root is not what was tracked; None when it is."""
        root = self.root
        try:
            found = os.lstat(root.folder)
        except OSError as error:
            return f"{root.folder} is not there ({error.strerror})"
        if not stat.S_ISDIR(found.st_mode):
            return f"{root.folder} is not a folder any more"
        try:
            with os.scandir(root.folder) as entries:
                empty = next(entries, None) is None
        except OSError as error:
            return f"{root.folder} cannot be listed ({error.strerror})"
        if (found.st_dev, found.st_ino) == (root.device, root.inode):
            if empty and os.path.ismount(root.folder) and any(self._books.count(root.id)):
                return f"{root.folder} is an empty mount point: is its disk there?"
            return None
        if empty:
            return (
                f"{root.folder} is another folder than was tracked, and empty: is its disk mounted?"
            )
        if found.st_ino == root.inode and self._recognized():
            return None
        return f"another folder than was tracked is at {root.folder}"

    def _recognized(self) -> bool:
        """Whether half of what is known at the top is there, with the inodes it had."""
        known = self._books.children(self.root.id, ())
        found = 0
        for name, seen in known.items():
            try:
                found += os.lstat(self.root.folder / name).st_ino == seen.inode
            except OSError:
                continue
        return bool(known) and 2 * found >= len(known)

    def _adopt(self) -> None:
        """Device numbers of some file systems change with each mount."""
        root = self.root
        device = os.lstat(root.folder).st_dev
        if device == root.device:
            return
        self._books.set_device(root.id, device)
        self.root = Root(
            root.id, root.folder, root.entity, device, root.inode, root.since_ns, root.options
        )
        self._watches.keep(set())
        self._begin()
        self.rescan()

    def _check(self, now: float) -> None:
        self._check_at = now + CHECK_S
        self._live.gone = False
        why = self._absence()
        if why is not None:
            self._why = why
            if self.state is not State.MISSING:
                log.warning("track.missing", extra=fields(root=self.root.folder, why=why))
                self._advance(State.MISSING)
                self._watches.keep(set())
                self._burst.clear()
                self._live.forget()
            return
        self._adopt()
        if self.state is State.MISSING:
            log.info("track.back", extra=fields(root=self.root.folder))
            self._why = ""
            self._advance(State.STARTING)
            self._doubt = True
            self._scan_at = now

    # What a scan and a burst come to.

    def _scan(self, now: float) -> None:
        self._blind = False
        self._ignore.forget()
        seen = self._burst.seen_going() | self._live.seen_going | self._seen
        self._live.forget()
        self._burst.clear_events()
        watching = self._may_watch()
        found = scan(
            self.root,
            self._books,
            self._ignore,
            self._watches.add if watching else lambda _: None,
            self._stop,
        )
        if found.stopped:
            self._blind, self._seen = True, seen
            return
        self._seen = set()
        found.count_unseen(seen)
        if watching:
            self._watches.keep(found.folders)
        # Events that wait in the kernel count too.
        self._source.sync(SYNC_S)
        self._late_until = self._posted()
        self._scanned_ns = self._clock.now_ns()
        self._skipped = found.skipped | found.unread | self._ignore.problems
        self._intent.problems.clear()
        for path in found.ignored:
            self._books.forget(self.root.id, path)
        options = self.root.options
        if found.refused is not None:
            self._refuse(found.refused)
        elif watching:
            if self.state is not State.WATCHING:
                self._advance(State.WATCHING)
            self._refused, self._why = None, ""
        every_s = options.rescan_every_s if watching else options.scan_every_s
        if self._hold(found):
            every_s = min(every_s, options.scan_every_s)
        self._queue(found, now)
        # Last, as until then the root is not settled.
        self._left = self._doubt = False
        self._scan_at = now + every_s if self._refused is None else now + options.scan_every_s
        log.debug(
            "track.scanned",
            extra=fields(
                root=self.root.folder, folders=len(found.folders), waiting=len(self._burst)
            ),
        )

    def _queue(self, found: Found, now: float) -> None:
        """Puts what a scan saw where events go; a file that was changed just now waits for quiet too."""
        now_ns = self._clock.now_ns()
        for event in found.events(deletions=self._held is None):
            self._burst.add(event, now)
            if isinstance(event, Modified) or (isinstance(event, Created) and not event.folder):
                if event.path in self._burst.files:
                    continue
                try:
                    changed_ns = os.lstat(self.root.path(event.path)).st_mtime_ns
                except OSError:
                    continue
                age_s = max(0.0, (now_ns - changed_ns) / NS)
                if age_s < self.root.options.quiet_s:
                    self._burst.files[event.path] = Touch(now - age_s, closed=True)

    def _hold(self, found: Found) -> bool:
        """Whether the scan's deletions wait for a yes."""
        confirmed, self._confirmed = self._confirmed, False
        if not found.too_many_missing or confirmed:
            self._held = None
            return False
        held = Held(found.missing_files, found.known_files)
        if held != self._held:
            log.warning(
                "track.held",
                extra=fields(
                    root=self.root.folder, missing=held.missing_files, known=held.known_files
                ),
            )
        self._held = held
        return True

    def _carry_out(self, now: float) -> None:
        with self._turn:
            self._carrying = len(self._burst)
        try:
            outcome: Outcome = self._intent.carry_out(self._burst.take(now))
            if outcome.missing:
                self._check_at = now
            # Before `_carrying` says that nothing is being told any more.
            self._left = self._left or outcome.later
            if outcome.rescan_after_s is not None:
                self.rescan(after_s=max(outcome.rescan_after_s, self.root.options.quiet_s))
        finally:
            with self._turn:
                self._carrying = 0

    # Limits of the kernel.

    def _refuse(self, refusal: Refusal) -> None:
        """Events would not be complete, so none are used: the watches go to those who can do with them."""
        self._watches.keep(set())
        self._live.refused = None
        known = self._books.count(self.root.id)[1]
        if self._refused is not refusal:
            log.warning(
                "track.limit",
                extra=fields(
                    root=self.root.folder, limit=refusal, remedy=remedy(refusal, known + 1)
                ),
            )
        self._refused = refusal
        self._refused_at = (_limit(refusal), 0)
        self._why = (
            f"the kernel's limit of inotify {refusal} is reached: "
            f"scanned every {self.root.options.scan_every_s:g} s instead"
        )
        if self.state is not State.SCANNING:
            self._advance(State.SCANNING)
        self.rescan(after_s=self.root.options.scan_every_s)

    def _may_watch(self) -> bool:
        if self._refused is None:
            return True
        before, scans = self._refused_at
        self._refused_at = (before, scans + 1)
        return _limit(self._refused) != before or scans + 1 >= WATCH_AGAIN

    # Small things.

    def _advance(self, to: State) -> None:
        if to not in TRANSITIONS[self.state]:
            raise InvalidTransition(f"tracked folder: {self.state} → {to}")
        self.state = to

    def _skip(self, path: RelPath, why: str | None) -> None:
        if why is None:
            self._skipped.pop(path, None)
        else:
            self._skipped[path] = why

    def _problems(self) -> list[Problem]:
        # Other threads read while the tracker's writes: copies first.
        found = {path: Problem(shown(path), why) for path, why in list(self._skipped.items())}
        found.update(list(self._intent.problems.items()))
        return [found[path] for path in sorted(found)]


def _limit(refusal: Refusal) -> int:
    return limit("max_user_watches" if refusal is Refusal.WATCHES else "max_user_instances")
