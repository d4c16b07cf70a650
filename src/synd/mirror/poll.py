"""Freshness: folders that somebody looks at are compared with the service's listing, again and again.

The service has no change feed (synapse-rest.md 8). One request per folder tells whether anything in
it changed: the children modified last, their count and the sum of their sizes. Folders seen lately
are asked about every `freshness_s`; others rarely; all within a budget of requests per minute. The
bound that results is told in status, not hoped for.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from synd.clock import NS, SYSTEM, Clock, Deadline
from synd.errors import Forbidden, NotFound, RemoteUnavailable, SyndError
from synd.ids import EntityId, syn
from synd.mirror.tree import Tree
from synd.model import Header
from synd.store.entities import TOP, Row, version_of
from synd.store.folders import FolderRow

log = logging.getLogger(__name__)

ACTIVE_S = 900.0
"""A folder counts as looked at for so long. Longer than the kernel believes a name (see mount.fs), so
whoever still uses it is heard of again before its polling slows down."""

IDLE_FOR_S = 86400.0
"""After so long without a look a folder is not polled at all; the next look asks at once."""

STEP_S = 1.0
AT_ONCE = 2

LOOK_ROWS_PER_S = 200
"""Looking through 10 000 watched folders costs 30 ms: 3 % of a core if done each second, for the one
or two that the budget lets us ask about. So the more there are, the more rarely it is done."""

LOOK_AT_VISITS = 100
"""Up to so many folders just visited are looked at by themselves, and come first."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old the answers of the mount may be."""

    setting_s: float
    watched: int
    """Folders polled."""
    oldest_s: float
    """Age of the oldest answer about a folder that somebody looked at lately."""
    oldest_folder: int
    """Which folder that is; 0 for the top."""
    bound_s: float
    """What the budget allows: no such folder is asked about more rarely."""


def interval_s(row: FolderRow, now_ns: int, *, fresh_s: float, idle_s: float) -> float:
    """How often a folder is to be asked about; infinite when nobody looks any more."""
    unseen_s = (now_ns - row.visited_ns) / NS
    if unseen_s <= ACTIVE_S:
        return fresh_s
    return idle_s if unseen_s <= IDLE_FOR_S else float("inf")


def due(
    rows: Sequence[FolderRow], now_ns: int, *, fresh_s: float, idle_s: float
) -> list[FolderRow]:
    """Folders to ask about now: the most overdue first, in intervals."""
    late: list[tuple[float, FolderRow]] = []
    for row in rows:
        every = interval_s(row, now_ns, fresh_s=fresh_s, idle_s=idle_s)
        # A check in the future means that the clock was set back: ask again.
        age = (now_ns - row.checked_ns) / NS if row.checked_ns <= now_ns else float("inf")
        if age >= every:
            late.append((age / every if every else age, row))
    late.sort(key=lambda pair: -pair[0])
    return [row for _, row in late]


class Poller:
    """Runs on the daemon's loop until cancelled."""

    def __init__(
        self,
        tree: Tree,
        *,
        freshness_s: float,
        idle_s: float,
        per_minute: int,
        clock: Clock = SYSTEM,
    ) -> None:
        self._tree = tree
        self._fresh_s = freshness_s
        self._idle_s = idle_s
        self._per_minute = per_minute
        self._clock = clock
        self._tokens = float(AT_ONCE)
        self._filled_at = clock.monotonic()
        self._late: dict[EntityId, FolderRow] = {}
        """Due at the last look, and not asked about since; in the order of asking."""
        self._look_at = clock.monotonic()
        self.last_error: SyndError | None = None

    async def run(self) -> None:
        """Polls for ever."""
        while True:
            try:
                await self.step()
            except RemoteUnavailable as error:
                # Offline is a state, told by the client; polling goes on once it is over.
                self.last_error = error
            except SyndError as error:
                self.last_error = error
                log.warning("poll.failed", extra={"fields": {"why": error.message}})
            await asyncio.sleep(STEP_S)

    async def step(self) -> int:
        """One round: what is due and within the budget; how many folders were asked about."""
        tree = self._tree
        visits = tree.take_visits()
        if visits:
            await tree.in_writer(lambda: tree.folders.set_visited(visits))
        now_ns = self._clock.now_ns()
        if self._clock.monotonic() >= self._look_at:
            rows = tree.folders.recently_visited(now_ns - int(IDLE_FOR_S * NS), 10_000)
            self._late = self._due(rows, now_ns)
            self._look_at = self._clock.monotonic() + len(rows) // LOOK_ROWS_PER_S
        elif visits and len(visits) <= LOOK_AT_VISITS:
            seen = [tree.folders.find(folder) for folder, _ in visits]
            rows = [row for row in seen if row is not None and row.listed_ns > 0]
            self._late = self._due(rows, now_ns) | self._late
        asked = 0
        problem: SyndError | None = None
        while self._late and self._take():
            folder = next(iter(self._late))
            row = self._late[folder]
            asked += 1
            try:
                await self.check(row)
            except RemoteUnavailable:
                raise
            except SyndError as error:
                # One folder's trouble is not the others': it waits for its next turn like them.
                at = [(row.id, now_ns)]
                await tree.in_writer(partial(tree.folders.set_checked, at))
                if not isinstance(error, NotFound | Forbidden):
                    problem = error
                    log.warning("poll.failed", extra={"fields": {"why": error.message}})
            self._late.pop(folder, None)
        self.last_error = problem
        return asked

    def _due(self, rows: Sequence[FolderRow], now_ns: int) -> dict[EntityId, FolderRow]:
        late = due(rows, now_ns, fresh_s=self._fresh_s, idle_s=self._idle_s)
        return {row.id: row for row in late}

    def _take(self) -> bool:
        now = self._clock.monotonic()
        rate = self._per_minute / 60
        burst = max(1.0, rate * STEP_S * 2)
        self._tokens = min(burst, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def check(self, row: FolderRow) -> bool:
        """Asks about one folder, and brings its listing up to date; whether anything had changed."""
        tree = self._tree
        if row.id == TOP:
            await asyncio.shield(
                tree.flights.task(("list", row.id), lambda: tree.list_folder(row.id))
            )
            return True
        began_ns = self._clock.now_ns()
        try:
            page = await tree.remote.children(
                row.id,
                sort="MODIFIED_ON",
                descending=True,
                counts=True,
                deadline=Deadline.after(tree.wait_s, f"asking about {syn(row.id)}"),
            )
        except NotFound:
            await tree.gone(row.id)
            raise
        rows = {r.id: r for r in (tree.entities.find(h.id) for h in page.headers) if r is not None}
        fresh = [h for h in page.headers if not same(h, rows.get(h.id), row.id)]
        known = tree.entities.count_children(row.id)
        unchanged = (
            not fresh and page.total in (None, known) and page.sum_bytes in (None, row.sum_bytes)
        )
        if unchanged:
            await tree.in_writer(lambda: tree.folders.set_checked([(row.id, began_ns)]))
            return False
        log.debug("folder.changed", extra={"fields": {"folder": syn(row.id)}})
        await asyncio.shield(tree.flights.task(("list", row.id), lambda: tree.list_folder(row.id)))
        return True

    def freshness(self) -> Freshness:
        """For status. Cost: a row per watched folder."""
        now_ns = self._clock.now_ns()
        rows = self._tree.folders.recently_visited(now_ns - int(ACTIVE_S * NS), 10_000)
        age, folder = max(
            ((max(0, now_ns - r.checked_ns) / NS, r.id) for r in rows), default=(0.0, 0)
        )
        bound = max(self._fresh_s, len(rows) / (self._per_minute / 60))
        return Freshness(self._fresh_s, len(rows), age, folder, bound)


def same(header: Header, row: Row | None, folder: int) -> bool:
    """Whether the store's row says what the listing says."""
    return (
        row is not None
        and row.parent == folder
        and row.name == header.name
        and row.version == version_of(header.kind, header.version)
        and row.modified_ns == header.modified_on_ns
        and row.kind == header.kind
    )
