"""Presigned URLs: fetched in batches at the last moment, kept while they live.

A URL lives 30 seconds there (synapse-rest.md 3.4). Its age is measured on the monotonic clock from
the moment it was asked for, so that a jump of the wall clock neither kills nor resurrects one.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout

from synd.client.remote import Remote
from synd.clock import NS, SYSTEM, Clock, Deadline
from synd.errors import Busy, DeadlineExceeded, Forbidden, NotFound, Offline, SyndError
from synd.ids import syn
from synd.mirror.waits import fail, settle
from synd.model import FileRef, Presigned

BATCH = 100
"""The service's bound."""

AT_ONCE = 2
"""Requests under way; what comes meanwhile gathers for the next batch."""

GATHER_S = 0.02
"""URLs that nobody waits for yet gather so long for a fuller request."""

MARGIN_S = 5.0

GRACE_S = 5.0
"""A reader waits out an absence of the service this short. Of one that is away for longer, or was not
there from the start, reads fail at once."""

RETRY_AWAY_S = 0.25


class Urls:
    """The URLs at hand. `get` blocks and is for transfer threads; the loop must not call it."""

    def __init__(
        self,
        remote: Remote,
        loop: asyncio.AbstractEventLoop,
        clock: Clock = SYSTEM,
        *,
        away_s: Callable[[], float] = lambda: float("inf"),
    ) -> None:
        self._remote = remote
        self._loop = loop
        self._clock = clock
        self._away_s = away_s
        self._lock = threading.Lock()
        self._urls: dict[FileRef, tuple[str, float]] = {}
        self._asked: dict[FileRef, Future[str]] = {}
        self._queue: list[FileRef] = []
        self._ahead: list[FileRef] = []
        self._timer: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Task[None]] = set()
        self._gathered = False
        self._closed = False

    def get(self, ref: FileRef, deadline: Deadline) -> str:
        """A URL that lives a few seconds more. Raises what the service said, or DeadlineExceeded."""
        future = self.want([ref])[0]
        try:
            return future.result(deadline.left_s())
        except FutureTimeout as error:
            raise DeadlineExceeded(
                f"no download URL for {syn(ref.entity)} in time", entity=syn(ref.entity)
            ) from error
        except CancelledError as error:
            raise DeadlineExceeded("the daemon is stopping", entity=syn(ref.entity)) from error

    def want(self, refs: Sequence[FileRef], *, ahead: bool = False) -> list[Future[str]]:
        """Futures of URLs, asked for together. Any thread.

        `ahead`: nobody waits for them yet; they fill the requests of others, or gather for a moment.
        """
        now = self._clock.monotonic()
        answers: list[Future[str]] = []
        fresh = False
        with self._lock:
            for ref in refs:
                have = self._urls.get(ref)
                if have is not None and have[1] > now:
                    ready: Future[str] = Future()
                    ready.set_result(have[0])
                    answers.append(ready)
                    continue
                future = self._asked.get(ref)
                if self._closed:
                    future = Future()
                    future.set_exception(_stopping())
                elif future is None:
                    future = self._asked[ref] = Future()
                    (self._ahead if ahead else self._queue).append(ref)
                    fresh = True
                answers.append(future)
        if fresh:
            self._loop.call_soon_threadsafe(self._kick)
        return answers

    def drop(self, ref: FileRef, url: str) -> None:
        """The storage refused that URL: the next `get` asks anew."""
        with self._lock:
            have = self._urls.get(ref)
            if have is not None and have[0] == url:
                del self._urls[ref]

    def _kick(self) -> None:
        while not self._closed and len(self._running) < AT_ONCE:
            with self._lock:
                batch, self._queue = self._queue[:BATCH], self._queue[BATCH:]
                room = BATCH - len(batch)
                if batch or len(self._ahead) >= BATCH or (self._ahead and self._gathered):
                    batch.extend(self._ahead[:room])
                    del self._ahead[:room]
                waiting = bool(self._ahead)
                self._gathered = False
            if waiting and self._timer is None:
                self._timer = self._loop.call_later(GATHER_S, self._gather)
            if not batch:
                return
            task = self._loop.create_task(self._presign(batch))
            self._running.add(task)
            task.add_done_callback(self._ended)

    def _gather(self) -> None:
        self._timer = None
        self._gathered = True
        self._kick()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._kick()

    async def _presign(self, batch: list[FileRef]) -> None:
        asked_at, asked_ns = self._clock.monotonic(), self._clock.now_ns()
        error: BaseException | None = None
        answers: Sequence[Presigned] = ()
        try:
            answers = await self._asked_for(batch)
        except SyndError as exception:
            error = exception
        except asyncio.CancelledError:
            error = _stopping()
        by_ref = {a.ref: a for a in answers}
        with self._lock:
            if len(self._urls) > 20_000:
                self._urls = {r: u for r, u in self._urls.items() if u[1] > asked_at}
            settled = [(ref, self._asked.pop(ref, None), by_ref.get(ref)) for ref in batch]
            for ref, _, answer in settled:
                if answer is not None and answer.url is not None:
                    self._urls[ref] = (answer.url, _usable_until(answer, asked_at, asked_ns))
        for ref, future, answer in settled:
            if future is None:
                continue
            if answer is not None and answer.url is not None:
                settle(future, answer.url)
            else:
                fail(future, error or _refused(ref, answer))

    async def _asked_for(self, batch: list[FileRef]) -> Sequence[Presigned]:
        while True:
            try:
                return await self._remote.presign(batch)
            except Offline:
                if self._away_s() > GRACE_S:
                    raise
                await asyncio.sleep(RETRY_AWAY_S)

    async def close(self) -> None:
        """Ends what is under way; whoever waits for a URL, or asks for one later, hears why."""
        with self._lock:
            self._closed = True
            queue, self._queue, self._ahead = [*self._queue, *self._ahead], [], []
            left = [self._asked.pop(ref) for ref in queue]
        for future in left:
            fail(future, _stopping())
        for task in list(self._running):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def _stopping() -> SyndError:
    return Busy("the daemon is stopping")


def _usable_until(answer: Presigned, asked_at: float, asked_ns: int) -> float:
    """Monotonic seconds until which a transfer may begin: the URL's life less a margin."""
    if answer.expires_at_ns == 0:
        return asked_at + 3600.0
    life_s = max(0.0, (answer.expires_at_ns - asked_ns) / NS)
    # The service's clock may be off; a life beyond an hour or none at all says that it is.
    life_s = min(life_s, 3600.0) or MARGIN_S
    return asked_at + life_s - min(MARGIN_S, life_s / 4)


def _refused(ref: FileRef, answer: Presigned | None) -> SyndError:
    if answer is not None and answer.failure == "UNAUTHORIZED":
        return Forbidden(
            f"downloading {syn(ref.entity)} is not permitted",
            hint=f"see the entity's page for its conditions (Synapse:{syn(ref.entity)})",
            entity=syn(ref.entity),
        )
    return NotFound(f"the bytes of {syn(ref.entity)} are not there", entity=syn(ref.entity))
