"""What the daemon itself is about to change in tracked folders, and until when: events about it are its own.

Ignoring them loses nothing: when the time is over the path is looked at once, and compared with what is known.
So somebody else's change at the same moment is found, and our own, recorded by then, is no change.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from synd.clock import SYSTEM, Clock

LINGER_S = 1.0
"""The kernel's events about a change that is done may still be on their way for so long."""

WITHIN_S = 60.0
"""A change that takes longer, or was forgotten, is nobody's any more."""


class OwnChanges:
    """Paths that the daemon changes. Any thread. Lock order: a leaf."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._until: dict[Path, tuple[int, float]] = {}
        """How many changes of a path are under way, and when the last is over (monotonic s)."""

    @contextlib.contextmanager
    def changing(self, *paths: Path, within_s: float = WITHIN_S) -> Iterator[None]:
        """Events about these paths, and what lies below them, are the daemon's own while this lasts."""
        self.begin(*paths, within_s=within_s)
        try:
            yield
        finally:
            self.end(*paths)

    def begin(self, *paths: Path, within_s: float = WITHIN_S) -> None:
        """Opens what `end` closes; without it, it ends by itself after `within_s`."""
        until = self._clock.monotonic() + within_s
        with self._lock:
            for path in paths:
                count, before = self._until.get(path, (0, until))
                self._until[path] = (count + 1, max(before, until))

    def end(self, *paths: Path) -> None:
        """The change is done: what it was is in the books, or it was given up."""
        now = self._clock.monotonic()
        with self._lock:
            for path in paths:
                if (found := self._until.get(path)) is None:
                    continue
                count, until = found
                self._until[path] = (count - 1, until if count > 1 else now + LINGER_S)

    def covers(self, path: Path) -> bool:
        """Whether an event about `path` is the daemon's own just now."""
        with self._lock:
            if not self._until:
                return False
            now = self._clock.monotonic()
            return any(
                (found := self._until.get(at)) is not None and found[1] > now
                for at in (path, *path.parents)
            )

    def over(self) -> list[Path]:
        """Paths whose time is over since this was last asked: look at each once."""
        with self._lock:
            now = self._clock.monotonic()
            passed = [path for path, (_, until) in self._until.items() if until <= now]
            for path in passed:
                del self._until[path]
            return passed

    def next_s(self) -> float | None:
        """Seconds until `over` has something to tell; None when nothing is under way."""
        with self._lock:
            if not self._until:
                return None
            soonest = min(until for _, until in self._until.values())
        return max(0.0, soonest - self._clock.monotonic())
