"""Whose turn it is: the service's limits kept on our side, with those who wait in two queues.

The service counts a request from when it arrives there until it has answered, and we cannot see either
moment. So a slot is held from before sending until the answer is read, and a request counts against the
window from its slot's grant until one window after its *end*: whatever the delays are, the service
then never sees more than the limit. A few percent are left for clocks that run unevenly.

Everything here belongs to one event loop. Between two awaits nothing else runs; there are no locks.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from synd.client.remote import Priority
from synd.clock import SYSTEM, Clock, Deadline
from synd.errors import DeadlineExceeded, RateLimited

MARGIN: Final = 0.97
"""Share of the service's own window that is used."""

_RESERVE_FROM: Final = 3
"""With so many slots or more, one is kept free of background work."""

_BACKGROUND_SHARE: Final = 0.85
"""Share of the window that background work may fill: a user's stat never finds it used up by polling."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the service bears from one user on one machine."""

    concurrent: int
    per_window: int
    """Requests per window; 0: no bound."""
    window_s: float = 60.0


class Throttle:
    """Grants slots: foreground before background, each in order of arrival."""

    def __init__(self, limits: Limits, clock: Clock = SYSTEM) -> None:
        self._limits = limits
        self._clock = clock
        self._waiting: dict[Priority, deque[asyncio.Future[None]]] = {p: deque() for p in Priority}
        self._running = 0
        self._running_background = 0
        self._ended: deque[float] = deque()
        """When the requests of the last window ended, oldest first."""
        self._paused_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limits(self) -> Limits:
        return self._limits

    @limits.setter
    def limits(self, limits: Limits) -> None:
        self._limits = limits
        self._grant()

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        # Asked from any thread, so without a walk over what may change meanwhile.
        return sum(map(len, self._waiting.values()))

    def pause(self, seconds: float) -> None:
        """Grants nothing for so long: the service said that it has enough."""
        self._paused_until = max(self._paused_until, self._clock.monotonic() + seconds)

    async def enter(self, priority: Priority, deadline: Deadline) -> None:
        """Returns with a slot, to be given back by `leave` with the same priority.

        Raises RateLimited or DeadlineExceeded when the deadline passes first, by what held it up.
        """
        queue = self._waiting[priority]
        if not any(self._waiting.values()) and self._delay_s(priority) == 0:
            self._take(priority)
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._grant()
        try:
            async with asyncio.timeout(deadline.left_s()):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                # The slot was granted in the same moment as the wait was given up.
                self._give(priority, counted=False)
            else:
                with suppress(ValueError):
                    queue.remove(turn)
                self._grant()
            if isinstance(error, TimeoutError):
                raise self._late(deadline) from error
            raise

    def leave(self, priority: Priority, *, counted: bool = True) -> None:
        """Gives a slot back. Not `counted`: the request was never sent."""
        self._give(priority, counted=counted)

    def _give(self, priority: Priority, *, counted: bool) -> None:
        self._running -= 1
        if priority is Priority.BACKGROUND:
            self._running_background -= 1
        if counted and self._limits.per_window:
            self._ended.append(self._clock.monotonic())
        self._grant()

    def _take(self, priority: Priority) -> None:
        self._running += 1
        if priority is Priority.BACKGROUND:
            self._running_background += 1

    def _late(self, deadline: Deadline) -> RateLimited | DeadlineExceeded:
        if self._delay_s(Priority.FOREGROUND) not in (0.0, math.inf):
            return RateLimited(
                f"{deadline.what}: the service's limit of requests is used up",
                hint="see `synd status`; another program may be using the same account",
            )
        return DeadlineExceeded(
            f"{deadline.what} waited {deadline.total_s:g} s for its turn",
            hint="see `synd status` for what is going on",
        )

    def _delay_s(self, priority: Priority) -> float:
        """Seconds until a slot can be had; infinity when one must be given back first."""
        limits = self._limits
        if self._running >= limits.concurrent:
            return math.inf
        if (
            priority is Priority.BACKGROUND
            and limits.concurrent >= _RESERVE_FROM
            and self._running_background >= limits.concurrent - 1
        ):
            return math.inf
        now = self._clock.monotonic()
        delay = max(0.0, self._paused_until - now)
        if limits.per_window:
            ended = self._ended
            while ended and ended[0] <= now - limits.window_s:
                ended.popleft()
            share = MARGIN * (_BACKGROUND_SHARE if priority is Priority.BACKGROUND else 1)
            allowed = max(1, math.floor(limits.per_window * share))
            over = len(ended) + self._running + 1 - allowed
            if over > len(ended):
                return math.inf
            if over > 0:
                delay = max(delay, ended[over - 1] + limits.window_s - now, 1e-4)
        return delay

    def _grant(self) -> None:
        """Hands out what can be handed out, and looks again when time alone will allow more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        soonest = math.inf
        for priority, queue in self._waiting.items():
            while queue:
                if queue[0].done():
                    # Given up; whoever waited takes itself out, but need not have run yet.
                    queue.popleft()
                    continue
                delay = self._delay_s(priority)
                if delay > 0:
                    soonest = min(soonest, delay)
                    break
                self._take(priority)
                queue.popleft().set_result(None)
        if soonest < math.inf:
            self._timer = asyncio.get_running_loop().call_later(soonest, self._grant)
