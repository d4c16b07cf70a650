"""How the parts of uploads get to storage: several at a time for the whole client, in threads or on the loop.

A thread a part moves large bodies well; small files go out in one piece from the event loop, where a
thread would cost more than they do (`synd.client.getter` has the numbers for the other direction).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import httpx

from synd.client.http1 import EndedError, Http1Transport, Origin
from synd.client.remote import Outgoing
from synd.client.sender import PartSender, refusal
from synd.client.transfer import Downloader, Interrupted
from synd.clock import Deadline
from synd.digest import md5_of_fd
from synd.errors import Cancelled, IntegrityError, Offline, RemoteUnavailable
from synd.ids import Md5

R = TypeVar("R")

PARTS_AT_ONCE: Final = 8

_SMALL_AT_ONCE: Final = 64


class NotPlainError(Exception):
    """Only a thread knows the way to that storage."""


class Source:
    """The open file of one upload, closed when the last of its users lets go."""

    def __init__(self, content: Outgoing) -> None:
        self.content = content
        self.size = content.size
        self._lock = threading.Lock()
        self._users = 1
        try:
            self.fd = os.open(content.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise IntegrityError(
                f"{content.path.name} cannot be read: {error.strerror}", path=str(content.path)
            ) from error
        self._stat = os.fstat(self.fd)
        if self._stat.st_size != self.size:
            self.close()
            raise self.changed()

    def hold(self) -> None:
        with self._lock:
            self._users += 1

    def close(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._users == 0
        if last:
            os.close(self.fd)

    @property
    def is_touched(self) -> bool:
        """Whether something was done to the file since it was opened; maybe not to its bytes."""
        now = os.fstat(self.fd)
        return (now.st_size, now.st_mtime_ns) != (self._stat.st_size, self._stat.st_mtime_ns)

    def changed(self) -> IntegrityError:
        path = self.content.path
        return IntegrityError(f"{path.name} changed before it was sent", path=str(path))


class Storage:
    """The way to storage of one client. Belongs to the client's event loop."""

    def __init__(
        self, downloader: Downloader, *, connect_timeout_s: float, read_timeout_s: float
    ) -> None:
        self._downloader = downloader
        self._sender = PartSender(downloader.connections, read_timeout_s=read_timeout_s)
        self._connect_s = connect_timeout_s
        self._read_s = read_timeout_s
        self._http = Http1Transport(idle_per_host=_SMALL_AT_ONCE)
        self._threads = ThreadPoolExecutor(PARTS_AT_ONCE, thread_name_prefix="synd-part")
        self._small_slots = asyncio.Semaphore(_SMALL_AT_ONCE)
        self._small: set[asyncio.Task[tuple[int, list[tuple[bytes, bytes]], bytes]]] = set()
        self._closing = threading.Event()
        self.slots = asyncio.Semaphore(PARTS_AT_ONCE)
        """To be held around `send_part`, so that a part's URL is asked for when its turn has come."""

    async def aclose(self) -> None:
        """Parts under way are given up."""
        self._closing.set()
        # Threads end by themselves, a fraction of a second later; one that connects may take longer.
        self._threads.shutdown(wait=False, cancel_futures=True)
        for exchange in list(self._small):
            exchange.cancel()
        await self._http.aclose()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    async def send_small(
        self, url: str, headers: Mapping[str, str], body: bytes, deadline: Deadline
    ) -> None:
        """Sends a whole part from the event loop. Raises as `PartSender.send`; NotPlainError: by a thread."""
        place = self._downloader.place(url)
        if place.origin.proxy:
            raise NotPlainError
        origin = Origin(place.origin.tls, place.origin.host, place.origin.port)
        lines = {"Host": place.netloc, "Content-Length": str(len(body))}
        lines.update(
            (name, value)
            for name, value in headers.items()
            if name.lower() not in ("host", "content-length")
        )
        head = f"PUT {place.target} HTTP/1.1\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in lines.items()
        )
        request = head.encode("latin-1") + b"\r\n" + body
        async with self._small_slots:
            exchange = asyncio.create_task(self._exchange(origin, request, deadline))
            self._small.add(exchange)
            exchange.add_done_callback(self._small.discard)
            status, answered, said = await self._unless_closed(exchange)
        if status not in (200, 201, 204):
            asked = {name.lower(): value for name, value in answered}.get(b"retry-after", b"")
            raise refusal(status, said, asked.decode("latin-1"), origin.host)

    async def _exchange(
        self, origin: Origin, request: bytes, deadline: Deadline
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        """The answer to a request with a small body. Raises Offline, Interrupted."""
        for last in (False, True):
            read_s = min(self._read_s, deadline.check())
            try:
                return await self._http.exchange(
                    origin, request, connect_s=min(self._connect_s, read_s), read_s=read_s
                )
            except EndedError as error:
                # Storage closed a connection that had been idle; it has not seen this request.
                if last:
                    raise Interrupted(f"{origin.host} closed the connection") from error
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise Offline(f"cannot reach {origin.host}: {error}") from error
            except httpx.TransportError as error:
                raise Interrupted(f"{origin.host} did not take the file: {error}") from error
        raise AssertionError("the second try returns or raises")

    async def send_part(
        self,
        source: Source,
        url: str,
        headers: Mapping[str, str],
        start: int,
        size: int,
        stop: threading.Event,
        deadline: Deadline,
    ) -> Md5:
        """Sends a part from a worker thread; its md5."""
        closing = self._closing
        return await self._in_thread(
            source,
            lambda: self._sender.send(
                url,
                headers,
                source.fd,
                start,
                size,
                deadline=deadline,
                cancelled=lambda: stop.is_set() or closing.is_set(),
            ),
        )

    async def verify(self, source: Source) -> None:
        """Raises IntegrityError when the file is not what was announced."""
        closing = self._closing
        digest = await self._in_thread(source, lambda: md5_of_fd(source.fd, stop=closing.is_set))
        if digest != source.content.md5 or os.fstat(source.fd).st_size != source.size:
            raise source.changed()

    async def _in_thread(self, source: Source, work: Callable[[], Md5]) -> Md5:
        source.hold()
        try:
            future = self._threads.submit(work)
        except RuntimeError as error:
            source.close()
            raise RemoteUnavailable("the client is closed") from error
        # The thread may outlive this call, and needs its file to its end.
        future.add_done_callback(lambda _: source.close())
        return await self._unless_closed(asyncio.wrap_future(future))

    async def _unless_closed(self, work: asyncio.Future[R]) -> R:
        """The result of `work`. That the client ends it must not look as if its caller had."""
        try:
            return await work
        except (asyncio.CancelledError, Cancelled) as error:
            task = asyncio.current_task()
            if self.closed and task is not None and not task.cancelling():
                raise RemoteUnavailable("the client is closed") from error
            raise
