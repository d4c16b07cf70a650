"""Changes of a lazy file that wait for blocks of its base, in the order in which they were asked for.

Changes that overlap are made in that order; one that waits holds up those behind it. Nothing here locks,
fetches or writes: `lazy` holds its lock around every call, and does what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from synd.cache.disk import NO_SPACE
from synd.cache.lazymap import SHIFT, blocks
from synd.cache.statedisk import disk_error
from synd.errors import SyndError
from synd.ranges import ByteRange

DOING = "write to an edited file"


class Change:
    """A write (`data`), or zeros (None), that waits or is being made."""

    __slots__ = ("begun", "data", "end", "future", "grows", "start")

    def __init__(
        self, start: int, end: int, data: memoryview | bytes | None, *, grows: bool = True
    ) -> None:
        self.start = start
        self.end = end
        self.data = data
        self.grows = grows
        self.begun = False
        self.future: Future[int] = Future()

    def begin(self) -> bool:
        """False when whoever asked has given it up."""
        if not self.begun:
            self.begun = self.future.set_running_or_notify_cancel()
        return self.begun

    def fail(self, error: BaseException) -> None:
        if self.begin():
            self.future.set_exception(error)

    def overlaps(self, others: Sequence[Change]) -> bool:
        return any(other.start < self.end and self.start < other.end for other in others)


Made = list[tuple[Change, int | SyndError]]
"""Changes that were made, or could not be, each with what to tell whoever asked."""

Needed = Callable[[Change], list[ByteRange]]
"""The blocks that must come before a change can be made."""


class Waiting:
    """The changes of one file that cannot be made yet."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        """That need blocks, or wait for others that do; in the order of their calls."""
        self._coming: set[int] = set()
        """Blocks that were asked for on behalf of changes."""

    def holds_up(self, change: Change) -> bool:
        return change.overlaps(self._changes)

    def add(self, change: Change, needed: Sequence[ByteRange]) -> list[ByteRange]:
        """Lets a change wait. What is to be fetched for it: blocks nobody asked for yet; neighbours as one."""
        if change.data is not None:
            change.data = bytes(change.data)
        self._changes.append(change)
        asking: list[ByteRange] = []
        for block in needed:
            if block.start >> SHIFT in self._coming:
                continue
            self._coming.add(block.start >> SHIFT)
            if asking and asking[-1].end == block.start:
                asking[-1] = ByteRange(asking[-1].start, block.end)
            else:
                asking.append(block)
        return asking

    def came(self, wanted: ByteRange) -> None:
        """Blocks that were asked for are here, or will not come."""
        self._coming -= set(range(wanted.start >> SHIFT, blocks(wanted.end)))

    def without(self, wanted: ByteRange, needed: Needed) -> list[Change]:
        """Takes out, and returns, the changes that need blocks which will not come."""
        failed = [
            change
            for change in self._changes
            if any(wanted.start <= block.start < wanted.end for block in needed(change))
        ]
        self._changes = [change for change in self._changes if change not in failed]
        return failed

    def make(
        self, needed: Needed, make: Callable[[Change], int], *, patient: bool
    ) -> tuple[Made, int]:
        """Makes the changes that need wait no longer, by `make`, which raises OSError or SyndError.

        When `patient`, one for which the disk has no room waits on with all behind it; returned is how many
        bytes it needs, else 0.
        """
        made: Made = []
        left: list[Change] = []
        full = 0
        for change in self._changes:
            if full or needed(change) or change.overlaps(left):
                left.append(change)
                continue
            if not change.begin():
                continue
            try:
                made.append((change, make(change)))
            except SyndError as error:
                made.append((change, error))
            except OSError as error:
                if patient and error.errno in NO_SPACE:
                    full = change.end - change.start
                    left.append(change)
                else:
                    made.append((change, disk_error(error, DOING)))
        self._changes = left
        return made, full

    def give_up(self) -> list[Change]:
        """All that wait, which wait no longer."""
        changes, self._changes = self._changes, []
        return changes
