"""Events of one root that wait for quiet, and when each file is quiet. Values and times in, decisions out.

What changes the shape of the tree waits until that has been quiet, so that an editor's save is seen whole; what
changes a file's content waits for that file alone, so one that is written all day holds up no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from synd.mirror.coalesce import Created, Deleted, Event, Modified, Moved, Rearranged
from synd.store.tracked import Options, RelPath

MOST_QUIETS = 10
"""A tree that never is quiet is looked at after so many quiet times all the same."""


@dataclass(slots=True)
class Touch:
    """What is known of a file whose content has still to be sent. Times are monotonic seconds."""

    last: float
    closed: bool
    """Nobody was seen to go on writing it after its last close."""
    not_before: float = 0.0
    """The sink refused it for the time being."""


class Burst:
    """The events since the last `take`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._events: list[Event] = []
        self._told: set[RelPath] = set()
        """Files whose change is among the events since the last one that changed the tree's shape."""
        self._first = inf
        self._last = inf
        """When the shape changed first and last; inf when it did not."""
        self.files: dict[RelPath, Touch] = {}
        self._look_at = inf
        """No file is ready before."""

    def __len__(self) -> int:
        return len(self._events)

    def add(self, event: Event, now: float, *, sure: bool = True) -> int:
        """Takes in an event; returns its number, by which `replace` knows it until `take`. One that is not
        `sure` may be replaced: what it says of waiting files is left open.
        """
        self._events.append(event)
        if not isinstance(event, Modified) and not (
            isinstance(event, Created) and not event.folder
        ):
            self._told.clear()
            if sure:
                self._follow(event)
        self._first = min(self._first, now)
        self._last = now
        return len(self._events) - 1

    def replace(self, number: int, event: Event, now: float) -> None:
        """The event turned out to be another: half of a move found its other half."""
        self._events[number] = event
        self._told.clear()
        self._follow(event)
        self._last = now

    def comes_back(self, number: int, event: Moved) -> bool:
        """Whether the event before was the same move the other way."""
        before = self._events[number - 1] if number else None
        return isinstance(before, Moved) and (before.old, before.new) == (event.new, event.old)

    def exchange(self, number: int, event: Moved, now: float) -> None:
        """Two things changed places in one call (RENAME_EXCHANGE), which is told as two moves: the one before, and
        `event`. Neither replaced anything.
        """
        before = self._events[number - 1]
        assert isinstance(before, Moved)
        # Numbers of the events behind stay what they are.
        self._events[number - 1] = Rearranged(())
        self._events[number] = Rearranged((before, event))
        self._told.clear()
        self._last = now

    def touch(self, path: RelPath, now: float, *, closed: bool, created: bool = False) -> None:
        """The file's content is changing (`closed`: was changed, and its writer is done)."""
        found = self.files.get(path)
        if found is None:
            found = self.files[path] = Touch(now, closed)
        found.last, found.closed = now, closed
        self._look_at = min(self._look_at, self._ready_at(found))
        if created:
            self.add(Created(path), now)
        elif path not in self._told:
            self._events.append(Modified(path))
        self._told.add(path)

    def defer(self, step: Created | Modified, touch: Touch) -> None:
        """A content whose time has not come goes back to the front of what comes next."""
        self._events.append(step)
        self._told.add(step.path)
        self.files[step.path] = touch
        self._look_at = min(self._look_at, self._ready_at(touch))

    def seen_going(self) -> set[RelPath]:
        """Paths that events told to be deleted or moved away."""
        return {
            e.path if isinstance(e, Deleted) else e.old
            for e in self._events
            if isinstance(e, Deleted | Moved)
        }

    def due(self) -> float:
        """When to `take` (monotonic s); inf when there is nothing to wait for."""
        if self._last < inf:
            quiet = self._options.quiet_s
            return min(self._last + quiet, self._first + MOST_QUIETS * quiet)
        return self._look_at

    def take(self, now: float) -> list[Event]:
        """All events so far, in order, if the time has come; the burst is empty then. Else nothing."""
        if self.due() > now:
            return []
        if self._last == inf and not any(self._ready_at(t) <= now for t in self.files.values()):
            # Every file was touched again since; look when the first of them can be ready.
            soonest = min(map(self._ready_at, self.files.values()), default=inf)
            self._look_at = max(soonest, now + self._options.quiet_s / 8)
            return []
        events = list(self._events)
        self.clear_events()
        return events

    def clear_events(self) -> None:
        self._events.clear()
        self._told.clear()
        self._first = self._last = self._look_at = inf

    def clear(self) -> None:
        """Forgets all: a scan will find it again."""
        self.clear_events()
        self.files.clear()

    def ready(self, path: RelPath, now: float) -> Touch | None:
        """None when the file's content may be sent now, else why not yet. A ready one is forgotten."""
        touch = self.files.get(path)
        if touch is not None and self._ready_at(touch) > now:
            return touch
        self.files.pop(path, None)
        return None

    def gone(self, path: RelPath) -> None:
        """Nothing at or below `path` is waited for any more."""
        for file in [p for p in self.files if p[: len(path)] == path]:
            del self.files[file]

    def prune(self) -> None:
        """Forgets files of which no event is left: their changes came to nothing."""
        self.files = {path: touch for path, touch in self.files.items() if path in self._told}

    def _ready_at(self, touch: Touch) -> float:
        quiet = self._options.quiet_s if touch.closed else self._options.open_quiet_s
        return max(touch.last + quiet, touch.not_before)

    def _follow(self, event: Event) -> None:
        """Files that moved are waited for under their new names; those that are gone are not."""
        match event:
            case Moved(old, new):
                moved = [(p, t) for p, t in self.files.items() if p[: len(old)] == old]
                self.gone(old)
                self.gone(new)
                for path, touch in moved:
                    self.files[(*new, *path[len(old) :])] = touch
            case Deleted(path):
                self.gone(path)
            case Rearranged() | Created() | Modified():
                pass
