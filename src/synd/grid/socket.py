"""Carries out a grid's conversation (`synd.grid.session`): the WebSocket, the snapshot's fetch, the time.

One task reads the socket and one fetches; what they see goes into one queue, which `advance` empties into the
machine. Nothing waits past the deadline: whatever hangs is cancelled or aborted. Decoding runs in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeVar
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from synd.client.connections import proxy_of
from synd.clock import Deadline
from synd.errors import DeadlineExceeded, SyndError
from synd.grid import jsonrx
from synd.grid.events import (
    Action,
    Closed,
    Connect,
    Document,
    Done,
    Event,
    Fetch,
    Fetched,
    FetchProgress,
    NotOpened,
    Opened,
    Received,
    Send,
    Tick,
    UrlFailed,
    UrlGot,
)
from synd.grid.fetch import NotFetchedError, fetch
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import Kind, Outcome, Reason
from synd.grid.session import Conversation

D = TypeVar("D", bound=Document)

_IN_LINE: Final = 4096
"""Characters of a message up to which it is applied at once: a thread would take longer."""

_GRACE_S: Final = 0.25
"""A thread that is about to end when the time is over is given this."""

_WAITING: Final = 64
"""Messages read ahead; then the socket waits."""

# The library writes the request line, whose query is a secret, into its debug log.
_SILENT: Final = logging.getLogger("synd.grid.wire")
_SILENT.disabled = True


class GridSocket(Generic[D]):
    """One conversation over a real socket. Belongs to one event loop and one user at a time."""

    def __init__(
        self,
        conversation: Conversation[D],
        fresh_url: Callable[[Deadline], Awaitable[str]],
        *,
        deadline: Deadline,
        timeouts: GridTimeouts | None = None,
        limits: GridLimits | None = None,
    ) -> None:
        """`fresh_url` gives a signed URL for the socket; every connection needs its own."""
        self._conversation = conversation
        self._fresh_url = fresh_url
        self._deadline = deadline
        self._timeouts = timeouts or GridTimeouts()
        self._limits = limits or GridLimits()
        self._events: asyncio.Queue[tuple[object, Event]] = asyncio.Queue(_WAITING)
        self._socket: ClientConnection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._fetching: asyncio.Task[None] | None = None
        self._line: object = None
        """Token of the present connection; what an earlier one says is dropped."""
        self._load: object = None
        """The same of the present fetch."""
        self._started = False
        self._abandoned: Outcome | None = None
        self.rest_error: SyndError | None = None
        """Why there was no URL."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it has not."""
        return self._abandoned or self._conversation.outcome

    @property
    def document(self) -> D | None:
        """None before anything was decoded, and when a thread still works on it."""
        return None if self._abandoned else self._conversation.document

    async def advance(self, until: Callable[[], bool]) -> bool:
        """Goes on until `until()` holds (True) or the conversation has ended (False; see `outcome`)."""
        if not self._started:
            self._started = True
            await self._act(self._conversation.start())
        while True:
            # First, so that what comes with the end is seen.
            if until():
                return True
            if self.outcome is not None:
                return False
            await self._step()

    async def store(self, patches: list[list[Any]]) -> bool:
        """Whether the service has acknowledged all these patches of this replica."""
        await self._act(self._conversation.store(patches))
        stored = self._conversation
        # On to the next complete state: a lost connection may have put a round between.
        await self.advance(lambda: stored.unstored == 0 and stored.synced)
        return self._abandoned is None and stored.unstored == 0

    async def ask_again(self) -> bool:
        """Whether another round came to its end."""
        await self._act(self._conversation.ask_again())
        return await self.advance(lambda: self._conversation.synced)

    async def finish(self) -> None:
        """No more following: the outcome is set by what is known."""
        await self._act(self._conversation.finish())

    async def close(self) -> None:
        """Ends the connection, within the time for it and the deadline. Any number of times."""
        await self._stop(self._fetching)
        self._fetching = None
        await self._stop(self._connecting)
        self._connecting = None
        socket, self._socket = self._socket, None
        if socket is None:
            return
        left = min(self._timeouts.close_s, self._deadline.left_s())
        if left > 0:
            with suppress(TimeoutError, OSError, ConnectionClosed):
                async with asyncio.timeout(left):
                    await socket.close()
        socket.transport.abort()

    # --- one step -------------------------------------------------------------------------------

    async def _step(self) -> None:
        left = self._conversation.wake_at() - self._deadline.clock.monotonic()
        token: object = None
        event: Event = Tick()
        # What is due comes before what has come, or a stream of notifications would put it off.
        if left > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    token, event = await self._events.get()
        if token is not None and token not in (self._line, self._load):
            return
        await self._act(await self._handled(event))

    async def _handled(self, event: Event) -> list[Action]:
        heavy = isinstance(event, Fetched) or (
            isinstance(event, Received) and len(event.text or "") > _IN_LINE
        )
        if not heavy:
            return self._conversation.handle(event)
        phase = self._conversation.phase
        work = asyncio.ensure_future(asyncio.to_thread(self._conversation.handle, event))
        try:
            async with asyncio.timeout(self._deadline.left_s() + _GRACE_S):
                return await asyncio.shield(work)
        except TimeoutError:
            # The thread ends by itself; what it works on is nobody's any more.
            work.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            self._abandoned = Outcome(
                Kind.FAILED, Reason.TIMEOUT, phase, "the time given is over while decoding"
            )
            return []

    async def _act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Connect(after_s):
                    await self._connect(after_s)
                case Send(text):
                    await self._send(text)
                case Fetch(url, after_s):
                    await self._stop(self._fetching)
                    self._load = token = object()
                    self._fetching = asyncio.create_task(self._fetch(token, url, after_s))
                case Done():
                    self._line = self._load = None
                case _:
                    pass

    async def _send(self, text: str) -> None:
        socket = self._socket
        if socket is None:
            return
        pieces = jsonrx.frames(text)
        left = max(0.0, self._conversation.wake_at() - self._deadline.clock.monotonic())
        # A lost connection is told by the reader; a service that takes nothing, by the machine's own time.
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(left):
                await socket.send(pieces[0] if len(pieces) == 1 else pieces)

    # --- the socket -----------------------------------------------------------------------------

    async def _connect(self, after_s: float) -> None:
        await self._stop(self._fetching)
        self._fetching = None
        await self._stop(self._connecting)
        if self._socket is not None:
            self._socket.transport.abort()
            self._socket = None
        self._load = None
        self._line = token = object()
        self._connecting = asyncio.create_task(self._talk(token, after_s))

    async def _talk(self, token: object, after_s: float) -> None:
        async def tell(event: Event) -> None:
            await self._events.put((token, event))

        await asyncio.sleep(after_s)
        url = await self._url(tell)
        if url is None:
            return
        await tell(UrlGot())
        try:
            socket = await connect(
                url,
                open_timeout=None,
                close_timeout=self._timeouts.close_s,
                # The machine has its own signs of life, and its own bounds for waits.
                ping_interval=None,
                # As the calls before it: the library has rules of its own for ws.
                proxy=_proxy(url),
                max_size=self._limits.message_bytes,
                logger=_SILENT,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            await tell(NotOpened(f"the handshake is refused with status {status}", status))
            return
        except (OSError, WebSocketException, ImportError, ValueError, EOFError) as error:
            # Not the error's own words: they may hold the URL.
            why = error.strerror if isinstance(error, OSError) else None
            await tell(NotOpened(f"no connection ({why or type(error).__name__})"))
            return
        self._socket = socket
        await tell(Opened())
        try:
            while True:
                message = await socket.recv()
                await tell(Received(message if isinstance(message, str) else None))
        except ConnectionClosed as error:
            sent, got = error.sent, error.rcvd
            if sent is not None and sent.code == 1009:
                await tell(Closed(1009))
            elif got is not None:
                await tell(Closed(got.code, got.reason))
            else:
                await tell(Closed(1006))

    async def _url(self, tell: Callable[[Event], Awaitable[None]]) -> str | None:
        clock = self._deadline.clock
        seconds = min(self._timeouts.rest_s, self._deadline.left_s())
        step = Deadline.after(seconds, "getting the URL of a grid's socket", clock)
        try:
            return await self._fresh_url(step)
        except DeadlineExceeded as error:
            await tell(UrlFailed(error.message, timed_out=True))
        except SyndError as error:
            self.rest_error = error
            await tell(UrlFailed(error.message))
        return None

    # --- the snapshot ---------------------------------------------------------------------------

    async def _fetch(self, token: object, url: str, after_s: float) -> None:
        loop = asyncio.get_running_loop()
        every = min(1.0, self._timeouts.fetch_s / 4)
        told = loop.time()

        def progress() -> None:
            nonlocal told
            if loop.time() - told >= every and not self._events.full():
                told = loop.time()
                self._events.put_nowait((token, FetchProgress()))

        await asyncio.sleep(after_s)
        event: Event
        try:
            body = await fetch(
                url,
                most=self._limits.snapshot_bytes,
                connect_s=self._timeouts.fetch_connect_s,
                progress=progress,
            )
            event = Fetched(body)
        except NotFetchedError as error:
            event = error.failed
        await self._events.put((token, event))

    async def _stop(self, task: asyncio.Task[None] | None) -> None:
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task], timeout=_GRACE_S)


def _proxy(url: str) -> str | None:
    parts = urlsplit(url)
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    return proxy_of(scheme, parts.netloc.rpartition("@")[2]) or None
