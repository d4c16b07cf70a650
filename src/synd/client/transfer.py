"""Bytes from storage: ranged downloads of presigned URLs, blocking, for worker threads.

A `Downloader` uses kept connections of the standard library's ``http.client`` (`connections`) and reads
bodies straight from the socket into one buffer (docs/adr/0002-bulk-bytes-by-http-client.md has the numbers).
It never sends the service's token: a presigned URL carries its own right. It never logs a URL.
Trying again is left to the caller, except where a kept connection turns out to be dead; `resume` is
the ready-made loop. Which ranges to fetch, and where bytes go, is left to the caller.

Whatever the error, the sink was given every byte that arrived before it, in order and without gaps.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Self
from urllib.parse import urljoin

from synd.client.connections import (
    SLICE_S,
    Connection,
    Connections,
    Place,
    SilentError,
    Watch,
    proxy_login,
    why,
)
from synd.clock import Deadline
from synd.errors import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    IntegrityError,
    NotFound,
    NotSupported,
    Offline,
    ProtocolError,
    RangeNotSatisfiable,
    RateLimited,
    RemoteUnavailable,
    Retry,
    SyndError,
    UsageError,
)
from synd.retry import RetryPolicy

PIECE: Final = 1 << 20
"""Bytes of the receive buffer: the largest piece that a sink is given."""

MAX_REDIRECTS: Final = 5

_SKIP_MAX: Final = 64 << 20
"""A server that ignores Range is read past at most so many unwanted bytes."""

_BODY_MAX: Final = 16 << 10
"""Bytes read of an error's or a redirect's own body; beyond, its connection is not kept."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes\s+(?:(\d+)-(\d+)|\*)/(\d+|\*)", re.IGNORECASE)
_EXPIRED = re.compile(rb"expired|ExpiredToken|InvalidToken|TokenRefreshRequired", re.IGNORECASE)
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")

Sink = Callable[[int, memoryview], object]
"""Takes (offset in the file, bytes). The view is valid only during the call."""


class UrlExpired(Forbidden):
    """Storage refuses the URL: its time is over (or its right was taken). Ask for a new one."""

    retry = Retry.ONCE


class Interrupted(RemoteUnavailable):
    """The connection broke, fell silent or ended early. Go on at `start` + `received`."""

    def __init__(self, message: str, *, received: int = 0, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.received = received
        """Bytes of the wanted range that the sink was given."""


class StorageBusy(RateLimited):
    """Storage asks for patience."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Seconds that storage asked for; None when it named none."""


class Fetched(NamedTuple):
    """What one `fetch_range` brought."""

    received: int
    """Bytes given to the sink."""
    total: int | None
    """Size of the whole file, when the server tells it."""
    etag: str
    content_type: str


@dataclass(frozen=True, slots=True)
class TransferCounts:
    """What a `Downloader` did since it was made."""

    requests: int
    received_bytes: int
    connections: int


class Downloader:
    """Fetches byte ranges over kept connections. Safe to use from any number of threads at once.

    `connect_timeout_s` bounds connecting, TLS included; `read_timeout_s` is the longest silence that
    is borne in the middle of an answer.
    """

    def __init__(
        self,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        idle_per_host: int = 32,
        user_agent: str = "synd",
        tls: ssl.SSLContext | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`headers`: sent along to the place that is asked, and to no other that it redirects to."""
        self._headers = dict(headers or {})
        self._read_timeout_s = read_timeout_s
        self._idle_per_host = idle_per_host
        self._user_agent = user_agent
        self.connections = Connections(
            connect_timeout_s=connect_timeout_s, idle_per_host=idle_per_host, tls=tls
        )
        """Kept connections, which uploads use as well."""
        self._lock = threading.Lock()
        """Guards all below; a leaf, held for a few statements, never over I/O."""
        self._buffers: list[bytearray] = []
        self._closed = False
        self._requests = 0
        self._received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes idle connections; those in use are closed when their call ends."""
        with self._lock:
            self._closed = True
            self._buffers.clear()
        self.connections.close()

    def counts(self) -> TransferCounts:
        with self._lock:
            return TransferCounts(self._requests, self._received, self.connections.opened)

    def fetch_range(
        self,
        url: str,
        start: int,
        end: int | None,
        sink: Sink,
        *,
        deadline: Deadline,
        cancelled: Callable[[], bool] | None = None,
        buffer: bytearray | memoryview | None = None,
    ) -> Fetched:
        """Gives the bytes from `start` up to `end` (None: the file's end) to `sink`, as they arrive.

        `buffer`, when given, receives the pieces, and its size bounds them; it must not be empty.

        Raises  UrlExpired (ask for a new URL) · NotFound · Forbidden · RangeNotSatisfiable ·
                Interrupted (`received` tells how far it came; so do all of its kind) ·
                RateLimited, RemoteUnavailable (storage asks for patience) · Offline · IntegrityError
                (the file is shorter than `end`) · DeadlineExceeded · Cancelled · ProtocolError ·
                NotSupported (neither http nor https). Errors of `sink` pass through.
        """
        if start < 0 or (end is not None and end < start):
            raise UsageError(f"range {start}-{end} makes no sense")
        if end == start:
            return Fetched(0, None, "", "")
        own = None
        if buffer is None:
            own = self._take_buffer(PIECE if end is None else min(PIECE, end - start))
            buffer = own
        try:
            with memoryview(buffer) as view:
                return self._follow(url, start, end, sink, view, deadline, cancelled)
        finally:
            if own is not None:
                self._give_buffer(own)

    def resume(
        self,
        url: Callable[[bool], str],
        start: int,
        end: int | None,
        sink: Sink,
        *,
        deadline: Deadline,
        cancelled: Callable[[], bool] | None = None,
        policy: RetryPolicy | None = None,
    ) -> Fetched:
        """`fetch_range` until all has arrived: goes on after a break, with a fresh URL on expiry.

        `url(fresh)` gives the URL; `fresh` is true after storage refused the last one, or could not
        be reached. Tries that brought bytes are not counted against `policy`, and what `url` raises
        passes through: whoever gives URLs has tried enough.
        """
        policy = policy or RetryPolicy()
        at = start
        attempt = refused = 0
        moved = False

        def forward(offset: int, piece: memoryview) -> None:
            nonlocal at, attempt, refused
            sink(offset, piece)
            at = offset + len(piece)
            attempt = refused = 0

        while True:
            where = url(refused > 0 or moved)
            try:
                got = self.fetch_range(
                    where, at, end, forward, deadline=deadline, cancelled=cancelled
                )
                return got._replace(received=at - start)
            except UrlExpired:
                refused += 1
                if refused > 2:
                    raise
            except (RemoteUnavailable, RateLimited) as error:
                attempt += 1
                # The service may name another place than one that cannot be reached.
                moved = isinstance(error, Offline)
                asked_s = error.retry_after_s if isinstance(error, StorageBusy) else None
                wait = policy.wait_s(error, attempt, deadline, asked_s=asked_s)
                if wait is None:
                    raise
                _sleep(wait, deadline, cancelled)

    def _take_buffer(self, size: int) -> bytearray:
        if size < PIECE:
            return bytearray(size)
        with self._lock:
            if self._buffers:
                return self._buffers.pop()
        return bytearray(PIECE)

    def _give_buffer(self, buffer: bytearray) -> None:
        if len(buffer) != PIECE:
            return
        with self._lock:
            if len(self._buffers) < self._idle_per_host and not self._closed:
                self._buffers.append(buffer)

    def _follow(
        self,
        url: str,
        start: int,
        end: int | None,
        sink: Sink,
        view: memoryview,
        deadline: Deadline,
        cancelled: Callable[[], bool] | None,
    ) -> Fetched:
        """`fetch_range` along its redirects."""
        asked = self.place(url).origin
        for _ in range(MAX_REDIRECTS + 1):
            place = self.place(url)
            who = place.origin.host
            watch = Watch(deadline, self._read_timeout_s, cancelled, who)
            watch.check()
            own = self._headers if place.origin == asked else {}
            connection, response = self._request(place, start, end, watch, own)
            keep = False
            try:
                if response.status in (200, 206):
                    got, keep = self._body(connection, response, start, end, sink, view, watch)
                    return got
                rest, keep = _small_body(response, who)
                if response.status not in _REDIRECTS:
                    raise _refusal(response, rest, who)
                target = response.getheader("Location")
                if not target:
                    raise ProtocolError(f"{who} redirects to nowhere")
                following = urljoin(url, target)
                if place.origin.tls and not self.place(following).origin.tls:
                    raise ProtocolError(f"{who} redirects from https to an open connection")
                url = following
            finally:
                if keep:
                    self.connections.keep(place.origin, connection)
                else:
                    response.close()
                    connection.close()
        raise ProtocolError(f"more than {MAX_REDIRECTS} redirects in a row")

    def place(self, url: str) -> Place:
        """Where `url` leads. The environment's proxies are asked once per origin."""
        return self.connections.place(url)

    def _request(
        self, place: Place, start: int, end: int | None, watch: Watch, own: Mapping[str, str]
    ) -> tuple[Connection, http.client.HTTPResponse]:
        """The answer's head. A kept connection that turns out to be dead is replaced once, unseen."""
        origin, netloc, target = place
        headers = {
            "Host": netloc,
            "User-Agent": self._user_agent,
            "Accept": "*/*",
            # Stored bytes are wanted as they are. Google storage unpacks what was stored packed
            # unless it is told that the caller can do so; its answer is then the stored bytes.
            "Accept-Encoding": "gzip"
            if origin.host.endswith("storage.googleapis.com")
            else "identity",
            **own,
        }
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        if origin.proxy and not origin.tls:
            target = f"http://{netloc}{target}"
            headers.update(proxy_login(origin.proxy))
        while True:
            connection = self.connections.take(origin, watch)
            with self._lock:
                self._requests += 1
            try:
                sock = connection.http.sock
                sock.settimeout(watch.budget_s())
                connection.http.request("GET", target, headers=headers)
                watch.await_bytes(sock)
                sock.settimeout(watch.budget_s())
                response = connection.http.getresponse()
                watch.heard()
                return connection, response
            except (http.client.HTTPException, OSError) as error:
                connection.close()
                if connection.used and not isinstance(error, TimeoutError):
                    continue
                watch.deadline.check()
                if isinstance(error, TimeoutError):
                    raise Interrupted(f"{watch.who} does not answer") from error
                raise Interrupted(f"{watch.who} gave no answer: {why(error)}") from error
            except SilentError as error:
                connection.close()
                raise Interrupted(str(error)) from error
            except BaseException:
                connection.close()
                raise

    def _body(
        self,
        connection: Connection,
        response: http.client.HTTPResponse,
        start: int,
        end: int | None,
        sink: Sink,
        view: memoryview,
        watch: Watch,
    ) -> tuple[Fetched, bool]:
        """Gives the body to `sink`; also whether the connection may be kept."""
        skip, stop, total = _extent(response, start, end, watch.who)
        pieces = _Pieces(connection, response, view, watch)
        at = start - skip
        given = 0
        try:
            while stop is None or at < stop:
                room = view.nbytes if stop is None else min(view.nbytes, stop - at)
                n = pieces.next(room)
                if n == 0:
                    break
                fresh = max(0, min(n, start - at))
                if n > fresh:
                    sink(at + fresh, view[fresh:n])
                    given += n - fresh
                at += n
        except SilentError as error:
            raise Interrupted(str(error), received=given) from error
        except _BrokenError as error:
            text = f"the connection to {watch.who} broke: {why(error.__cause__ or error)}"
            raise Interrupted(text, received=given) from error.__cause__
        finally:
            with self._lock:
                self._received += given
        whole = end if end is not None else (total if total is not None else stop)
        if whole is not None and start + given < whole:
            if total is not None and stop is not None and at == stop and stop >= total:
                raise IntegrityError(
                    f"the file in storage ends at byte {total}, but {whole} bytes were promised"
                )
            raise Interrupted(f"{watch.who} sent {given} of {whole - start} bytes", received=given)
        got = Fetched(
            given,
            total,
            response.getheader("ETag") or "",
            response.getheader("Content-Type") or "application/octet-stream",
        )
        return got, pieces.finish()


class _BrokenError(Exception):
    """Internal: the socket failed (the cause), in contrast to an error of the sink's own I/O."""


class _Pieces:
    """The body of one answer, piece by piece, from the socket straight into the buffer.

    http.client's own `readinto` would fill the whole buffer before it returns: no deadline could be
    kept and no byte told before the megabyte is full. So only its parsed head and what it has read
    beyond are used; the rest comes from `recv_into`.
    """

    __slots__ = ("_ahead", "_http", "_left", "_response", "_sock", "_view", "_watch")

    def __init__(
        self,
        connection: Connection,
        response: http.client.HTTPResponse,
        view: memoryview,
        watch: Watch,
    ) -> None:
        self._http = connection.http
        self._response = response
        self._view = view
        self._watch = watch
        self._left: int | None = response.length
        """Bytes of the body still to be handed out; None when only its end will tell."""
        self._ahead = 0
        """Of these, what came along with the head and lies in http.client's buffer."""
        reader: Any = response.fp
        if reader is None:
            self._left = 0
            return
        # The connection lets go of its socket when the answer is its last; the answer still has it.
        self._sock: socket.socket = (
            connection.http.sock or reader.raw._sock  # no public way to it  # noqa: SLF001  # no public way to it
        )
        if not response.chunked:
            # peek() reads the socket when the buffer is empty, so the socket must not block just now.
            self._sock.settimeout(0)
            with suppress(BlockingIOError, ssl.SSLWantReadError):
                self._ahead = len(reader.peek(1))
            self._sock.settimeout(SLICE_S)

    def next(self, room: int) -> int:
        """Puts up to `room` bytes at the buffer's start; their number, 0 at the body's end.

        Raises SilentError and _BrokenError, besides what `Watch.check` raises.
        """
        if self._left is not None:
            room = min(room, self._left)
        if room == 0:
            return 0
        if self._response.chunked:
            n = self._next_chunked(room)
        elif self._ahead:
            reader: Any = self._response.fp
            n = reader.readinto1(self._view[: min(room, self._ahead)])
            self._ahead -= n
        else:
            n = self._receive(room)
        if self._left is not None:
            self._left -= n
        self._watch.heard()
        return n

    def _receive(self, room: int) -> int:
        target = self._view[:room]
        watch = self._watch
        while True:
            if watch.cancelled is not None or watch.deadline.passed:
                watch.check()
            try:
                return self._sock.recv_into(target)
            except TimeoutError:
                watch.check()
            except OSError as error:
                raise _BrokenError from error

    def _next_chunked(self, room: int) -> int:
        self._sock.settimeout(self._watch.budget_s())
        self._watch.check()
        try:
            data = self._response.read1(room)
        except TimeoutError as error:
            self._watch.deadline.check()
            raise SilentError(f"{self._watch.who} fell silent") from error
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise _BrokenError from error
        self._view[: len(data)] = data
        return len(data)

    def finish(self) -> bool:
        """Lets go of the answer; whether its connection can carry another request."""
        whole = self._response.isclosed() if self._response.chunked else self._left == 0
        if not whole or self._response.will_close:
            return False
        # http.client refuses the next request until this answer counts as read.
        self._response.close()
        return self._http.sock is not None


def _extent(
    response: http.client.HTTPResponse, start: int, end: int | None, who: str
) -> tuple[int, int | None, int | None]:
    """(bytes to skip, offset where the wanted bytes of this answer end, size of the whole file)."""
    if response.status == 206:
        match = _CONTENT_RANGE.fullmatch((response.getheader("Content-Range") or "").strip())
        if match is None or match[1] is None:
            raise ProtocolError(f"{who} answered a range without a valid Content-Range")
        first, stop = int(match[1]), int(match[2]) + 1
        total = None if match[3] == "*" else int(match[3])
        if first != start or stop <= first or (end is not None and stop > end):
            raise ProtocolError(f"{who} sent bytes {first}-{stop - 1} instead of {start}-{end}")
        if response.length is not None and response.length != stop - first:
            raise ProtocolError(f"{who} contradicts itself about the length of its answer")
        return 0, stop, total
    size: int | None = response.length
    if start > _SKIP_MAX:
        raise NotSupported(
            f"{who} cannot send parts of a file, and byte {start} lies too far in to read up to it"
        )
    if size is not None and start >= size:
        raise RangeNotSatisfiable(f"byte {start} lies past the end ({size} bytes)")
    if size is not None:
        return start, size if end is None else min(size, end), size
    return start, end, None


def _small_body(response: http.client.HTTPResponse, who: str) -> tuple[bytes, bool]:
    """The first bytes of a body that is not the file; and whether the connection can be kept."""
    try:
        text = response.read(_BODY_MAX)
    except (http.client.HTTPException, OSError) as error:
        raise Interrupted(f"the answer of {who} broke off: {why(error)}") from error
    return text, response.isclosed() and not response.will_close


def _refusal(response: http.client.HTTPResponse, body: bytes, who: str) -> SyndError:
    """The error for an answer that is not the bytes."""
    status = response.status
    code = _CODE.search(body)
    said = f"{status} {code[1].decode()}" if code else str(status)
    if status == 403 or (status in (400, 401) and _EXPIRED.search(body)):
        return UrlExpired(f"{who} refuses the download URL ({said})")
    if status in (401, 407):
        return Forbidden(f"{who} asks for a login ({said})")
    if status in (404, 410):
        return NotFound(f"{who} has no such file ({said})")
    if status == 416:
        match = _CONTENT_RANGE.fullmatch((response.getheader("Content-Range") or "").strip())
        size = f" ({match[3]} bytes)" if match and match[3] != "*" else ""
        return RangeNotSatisfiable(f"the range lies past the end of the file in storage{size}")
    if status in (429, 503):
        asked = response.getheader("Retry-After") or ""
        return StorageBusy(
            f"{who} cannot send the file now ({said})",
            retry_after_s=float(asked) if asked.isdecimal() else None,
        )
    if status == 408 or status >= 500:
        return RemoteUnavailable(f"{who} cannot send the file now ({said})")
    return ProtocolError(f"{who} answered a download with {said}")


def _sleep(seconds: float, deadline: Deadline, cancelled: Callable[[], bool] | None) -> None:
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        if cancelled is not None and cancelled():
            raise Cancelled("the download was cancelled")
        if deadline.passed:
            raise DeadlineExceeded(f"{deadline.what} took longer than {deadline.total_s:g} s")
        time.sleep(min(left, SLICE_S))
