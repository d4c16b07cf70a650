"""Bytes to storage: one part of a file at a time to its presigned URL, blocking, for worker threads.

A part is hashed while it lies in the page cache and goes out from there by sendfile; through TLS it is
read and sent in pieces. Either way no more than one piece is held in memory. As for downloads, no
login of the service is ever sent, no URL is logged, and trying again is left to the caller, except where
a kept connection turns out to be dead before it took a byte.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import select
import socket
import ssl
from collections.abc import Callable, Mapping
from typing import Final

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
from synd.client.transfer import Interrupted, StorageBusy, UrlExpired
from synd.clock import Deadline
from synd.errors import (
    Forbidden,
    IntegrityError,
    NotFound,
    ProtocolError,
    RemoteUnavailable,
    SyndError,
)
from synd.ids import Md5

PIECE: Final = 1 << 20
"""Bytes read at once: large enough that hashing and sending run without the interpreter's lock."""

_BODY_MAX: Final = 16 << 10
_CODE = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")
_OVER = re.compile(rb"expired|ExpiredToken|InvalidToken|TokenRefreshRequired", re.IGNORECASE)
_TRY_AGAIN = frozenset(
    {"RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch"}
)


class PartSender:
    """Sends parts over kept connections. Safe to use from any number of threads at once."""

    def __init__(self, connections: Connections, *, read_timeout_s: float = 60.0) -> None:
        self._connections = connections
        self._read_timeout_s = read_timeout_s

    def send(
        self,
        url: str,
        headers: Mapping[str, str],
        fd: int,
        start: int,
        size: int,
        *,
        deadline: Deadline,
        cancelled: Callable[[], bool] | None = None,
    ) -> Md5:
        """The md5 of the `size` bytes from `start`, which storage has when this returns.

        `headers` are those that the URL's signature covers; nothing else is told of the content.

        Raises  UrlExpired · NotFound (storage has forgotten the upload) · Interrupted ·
                StorageBusy, RemoteUnavailable (storage asks for patience) · Offline · Forbidden ·
                IntegrityError (the file is shorter) · ProtocolError · DeadlineExceeded · Cancelled ·
                NotSupported (neither http nor https)
        """
        place = self._connections.place(url)
        watch = Watch(deadline, self._read_timeout_s, cancelled, place.origin.host)
        buffer = memoryview(bytearray(min(PIECE, size)))
        # Hashed first: were the two one pass, TLS would gain nothing and sendfile be impossible.
        md5 = _hash(fd, start, size, buffer, watch)
        while True:
            watch.check()
            connection = self._connections.take(place.origin, watch)
            response: http.client.HTTPResponse | None = None
            keep = False
            try:
                _send_head(connection, place, headers, size, watch)
                whole = _send_body(connection.http.sock, fd, start, size, buffer, watch)
                watch.await_bytes(connection.http.sock)
                connection.http.sock.settimeout(watch.budget_s())
                response = connection.http.getresponse()
                body = response.read(_BODY_MAX)
                keep = whole and response.isclosed() and not response.will_close
            except SilentError as error:
                raise Interrupted(str(error)) from error
            except (http.client.HTTPException, OSError) as error:
                if connection.used and not isinstance(error, TimeoutError):
                    # Each kept connection can end so once; the part may be sent any number of times.
                    continue
                watch.deadline.check()
                raise Interrupted(f"the connection to {watch.who} broke: {why(error)}") from error
            finally:
                if keep:
                    self._connections.keep(place.origin, connection)
                else:
                    if response is not None:
                        response.close()
                    connection.close()
            if response.status not in (200, 201, 204):
                raise refusal(response.status, body, response.getheader("Retry-After"), watch.who)
            return md5


def _hash(fd: int, start: int, size: int, buffer: memoryview, watch: Watch) -> Md5:
    hasher = hashlib.md5(usedforsecurity=False)
    at, end = start, start + size
    while at < end:
        n = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
        if n == 0:
            raise _shorter(at)
        hasher.update(buffer[:n])
        at += n
        watch.heard()
        watch.check()
    return Md5(hasher.hexdigest())


def _send_head(
    connection: Connection, place: Place, headers: Mapping[str, str], size: int, watch: Watch
) -> None:
    """The request's head; a proxy's own login with it."""
    target = place.target
    extra: dict[str, str] = {}
    if place.origin.proxy and not place.origin.tls:
        target = f"http://{place.netloc}{target}"
        extra = proxy_login(place.origin.proxy)
    connection.http.sock.settimeout(watch.budget_s())
    connection.http.putrequest("PUT", target, skip_host=True, skip_accept_encoding=True)
    connection.http.putheader("Host", place.netloc)
    for name, value in {**headers, **extra}.items():
        if name.lower() not in ("host", "content-length"):
            connection.http.putheader(name, value)
    connection.http.putheader("Content-Length", str(size))
    connection.http.endheaders()
    watch.heard()


def _send_body(
    sock: socket.socket, fd: int, start: int, size: int, buffer: memoryview, watch: Watch
) -> bool:
    """Whether the whole body was sent: storage may answer before it has read all, if it refuses.

    Raises SilentError, OSError, IntegrityError, and what `Watch.check` raises.
    """
    tls = isinstance(sock, ssl.SSLSocket)
    poller = select.poll()
    # Through TLS there is always something to read: its own messages, which nobody took.
    poller.register(sock, select.POLLOUT if tls else select.POLLIN | select.POLLOUT)
    # Not blocking: a peer that takes nothing must not hold up the deadline, nor the answer it sends.
    sock.settimeout(0)
    at, end = start, start + size
    held = memoryview(b"")
    while at < end:
        try:
            if not tls:
                n = os.sendfile(sock.fileno(), fd, at, end - at)
            else:
                if not held:
                    got = os.preadv(fd, [buffer[: min(len(buffer), end - at)]], at)
                    held = buffer[:got]
                n = sock.send(held) if held else 0
                held = held[n:]
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            if _answered(poller, watch):
                return False
            continue
        except (BrokenPipeError, ConnectionResetError):
            # A refusal may lie in front of the end.
            return False
        if n == 0:
            raise _shorter(at)
        at += n
        watch.heard()
        if watch.cancelled is not None or watch.deadline.passed:
            watch.check()
    return True


def _answered(poller: select.poll, watch: Watch) -> bool:
    """Waits until more can be sent; true when an answer, or the end, is there instead."""
    while True:
        for _, events in poller.poll(max(1, int(min(SLICE_S, watch.budget_s()) * 1000))):
            return not events & select.POLLOUT
        watch.check()


def _shorter(at: int) -> IntegrityError:
    return IntegrityError(f"the file ends at byte {at}: it was cut off while it was sent")


def refusal(status: int, body: bytes, retry_after: str | None, who: str) -> SyndError:
    """The error for a part that storage did not take."""
    match = _CODE.search(body)
    code = match[1].decode() if match else ""
    said = f"{status} {code}".strip()
    if status == 403 or (status in (400, 401) and _OVER.search(body)):
        return UrlExpired(f"{who} refuses the upload URL ({said})")
    if status in (401, 407):
        return Forbidden(f"{who} asks for a login ({said})")
    if status in (404, 410):
        return NotFound(f"{who} does not know the upload ({said})")
    if status in (429, 503):
        asked = (retry_after or "").strip()
        return StorageBusy(
            f"{who} cannot take the file now ({said})",
            retry_after_s=float(asked) if asked.isdecimal() else None,
        )
    if status == 408 or status >= 500 or code in _TRY_AGAIN:
        return RemoteUnavailable(f"{who} cannot take the file now ({said})")
    return ProtocolError(f"{who} answered an upload with {said}")
