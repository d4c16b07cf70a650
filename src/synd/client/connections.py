"""Kept connections to storage, for worker threads: who is reached how, and for how long one waits.

Used by downloads (`synd.client.transfer`) and uploads (`synd.client.sender`). A connection is in one
thread's hands at a time; nothing here sends a login of the service.
"""

from __future__ import annotations

import base64
import http.client
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from synd.client.sockets import notice_dead_peer
from synd.clock import Deadline
from synd.errors import (
    Cancelled,
    ConfigError,
    NotSupported,
    Offline,
    ProtocolError,
    SyndError,
    UsageError,
)

_IDLE_S: Final = 20.0
"""Storage services drop a silent connection after 5 s to 60 s; a dead one costs a round trip."""

SLICE_S: Final = 0.25
"""How often a silent wait looks at the deadline and at `cancelled`."""

_LOCAL = re.compile(r"(?:127\.[0-9.]+|localhost|\[?::1\]?)(?::[0-9]+)?$", re.IGNORECASE)
"""No proxy reaches the machine that asks it."""

_NOT_IN_URLS = re.compile(r"[^\x21-\x7e]")


class Origin(NamedTuple):
    """Where a connection leads: connections are kept under it."""

    tls: bool
    host: str
    port: int
    proxy: str
    """Proxy URL, empty for none."""


class Place(NamedTuple):
    """A URL taken apart."""

    origin: Origin
    netloc: str
    target: str
    """Path with query."""


class Connection:
    """One `http.client` connection and when it was last used."""

    __slots__ = ("http", "idle_since", "used")

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.http = connection
        self.idle_since = 0.0
        self.used = False

    def is_dead(self, now: float) -> bool:
        """Whether the peer has closed it, or it has been silent too long to trust."""
        sock = self.http.sock
        if sock is None or now - self.idle_since > _IDLE_S:
            return True
        try:
            poller = select.poll()
            poller.register(sock, select.POLLIN | select.POLLHUP)
            # Between requests there is nothing to read but an end of file or a TLS alert.
            return bool(poller.poll(0))
        except (OSError, ValueError):
            return True

    def close(self) -> None:
        self.http.close()


class Watch:
    """The limits of one call: its deadline, the silence it bears, and whether it is still wanted."""

    __slots__ = ("cancelled", "deadline", "last", "stall_s", "who")

    def __init__(
        self, deadline: Deadline, stall_s: float, cancelled: Callable[[], bool] | None, who: str
    ) -> None:
        self.deadline = deadline
        self.stall_s = stall_s
        self.cancelled = cancelled
        self.who = who
        self.last = time.monotonic()

    def heard(self) -> None:
        self.last = time.monotonic()

    def check(self) -> None:
        """Raises Cancelled, DeadlineExceeded, or SilentError when no byte came for too long."""
        if self.cancelled is not None and self.cancelled():
            raise Cancelled("the transfer was cancelled")
        self.deadline.check()
        if time.monotonic() - self.last > self.stall_s:
            raise SilentError(f"{self.who} sent nothing for {self.stall_s:g} s")

    def budget_s(self) -> float:
        """Seconds that one blocking call may take at most."""
        return max(0.001, min(self.stall_s, self.deadline.left_s()))

    def await_bytes(self, sock: socket.socket) -> None:
        """Returns once `sock` has something to read (or has ended)."""
        if isinstance(sock, ssl.SSLSocket) and sock.pending():
            return
        poller = select.poll()
        poller.register(sock, select.POLLIN | select.POLLHUP | select.POLLERR)
        while True:
            slice_s = min(SLICE_S, self.budget_s())
            if poller.poll(max(1, int(slice_s * 1000))):
                return
            self.check()


class SilentError(Exception):
    """Internal: told as `Interrupted` once the count of bytes is known."""


class Connections:
    """Connections per host, kept while idle. Safe to use from any number of threads at once."""

    def __init__(
        self,
        *,
        connect_timeout_s: float = 10.0,
        idle_per_host: int = 32,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._connect_timeout_s = connect_timeout_s
        self._idle_per_host = idle_per_host
        self._tls = tls
        self._lock = threading.Lock()
        """Guards all below; a leaf, held for a few statements, never over I/O."""
        self._idle: dict[Origin, list[Connection]] = {}
        self._proxies: dict[tuple[bool, str, int], str] = {}
        self._closed = False
        self.opened = 0
        """Connections made so far."""

    def close(self) -> None:
        """Closes idle connections; those in use are closed when they are given back."""
        with self._lock:
            self._closed = True
            idle = [c for kept in self._idle.values() for c in kept]
            self._idle.clear()
        for connection in idle:
            connection.close()

    def place(self, url: str) -> Place:
        """Where `url` leads. The environment's proxies are asked once per origin."""
        scheme, netloc, host, port, target = _split(url)
        tls = scheme == "https"
        with self._lock:
            proxy = self._proxies.get((tls, host, port))
        if proxy is None:
            proxy = _proxy(scheme, host, port)
            with self._lock:
                self._proxies[tls, host, port] = proxy
        return Place(Origin(tls, host, port, proxy), netloc, target)

    def take(self, origin: Origin, watch: Watch) -> Connection:
        """A kept connection to `origin`, else a new one."""
        now = time.monotonic()
        while True:
            with self._lock:
                kept = self._idle.get(origin)
                connection = kept.pop() if kept else None
            if connection is None:
                break
            if not connection.is_dead(now):
                connection.used = True
                return connection
            connection.close()
        timeout_s = max(0.001, min(self._connect_timeout_s, watch.deadline.left_s()))
        new = Connection(self._open(origin, timeout_s))
        try:
            new.http.connect()
        except (http.client.HTTPException, OSError) as error:
            new.close()
            watch.deadline.check()
            raise _unreachable(watch.who, error) from error
        notice_dead_peer(new.http.sock)
        with self._lock:
            self.opened += 1
        watch.heard()
        return new

    def _open(self, origin: Origin, timeout_s: float) -> http.client.HTTPConnection:
        """An unconnected connection, through the proxy if there is one."""
        if not origin.proxy:
            if origin.tls:
                return http.client.HTTPSConnection(
                    origin.host, origin.port, timeout=timeout_s, context=self._context()
                )
            return http.client.HTTPConnection(origin.host, origin.port, timeout=timeout_s)
        proxy = urlsplit(origin.proxy)
        host, port = proxy.hostname or "", proxy.port or 80
        if not origin.tls:
            return http.client.HTTPConnection(host, port, timeout=timeout_s)
        tunnel = http.client.HTTPSConnection(host, port, timeout=timeout_s, context=self._context())
        tunnel.set_tunnel(origin.host, origin.port, headers=proxy_login(origin.proxy))
        return tunnel

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls

    def keep(self, origin: Origin, connection: Connection) -> None:
        connection.idle_since = time.monotonic()
        with self._lock:
            kept = self._idle.setdefault(origin, [])
            if not self._closed and len(kept) < self._idle_per_host:
                kept.append(connection)
                return
        connection.close()


def _split(url: str) -> tuple[str, str, str, int, str]:
    """(scheme, netloc without login, host, port, path with query)."""
    if _NOT_IN_URLS.search(url):
        raise UsageError("the download URL holds signs that no URL may hold")
    # Taken apart once per host, not per file: thousands of presigned URLs differ in the rest only.
    base, slash, rest = url.partition("//")
    host_part, cut, path = rest.partition("/")
    if slash and "?" not in host_part and "#" not in host_part:
        scheme, netloc, host, port = _split_host(f"{base}//{host_part}")
        return scheme, netloc, host, port, (cut + path.partition("#")[0]) or "/"
    scheme, netloc, host, port = _split_host(url)
    parts = urlsplit(url)
    return (
        scheme,
        netloc,
        host,
        port,
        (parts.path or "/") + (f"?{parts.query}" if parts.query else ""),
    )


@lru_cache(maxsize=256)
def _split_host(url: str) -> tuple[str, str, str, int]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise NotSupported(
            f"cannot read from {parts.scheme or 'a URL without a scheme'}: only http and https"
        )
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise UsageError("the download URL names no valid port") from error
    return parts.scheme, parts.netloc.rpartition("@")[2], parts.hostname, port


def _proxy(scheme: str, host: str, port: int) -> str:
    """The proxy's URL for a host, by the usual variables; empty for none."""
    proxy = proxy_of(scheme, f"{host}:{port}")
    if proxy and urlsplit(proxy).scheme != "http":
        raise NotSupported(
            "only http:// proxies can be used for downloads",
            hint="see the variables http_proxy, https_proxy and no_proxy",
        )
    return proxy


def proxy_of(scheme: str, place: str) -> str:
    """The URL of the proxy that the environment names for a host and port; empty for none, and for this machine."""
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all") or ""
    if not proxy or _LOCAL.match(place) or proxy_bypass(place):
        return ""
    return proxy if "://" in proxy else f"http://{proxy}"


def proxy_refused(proxy: str) -> ConfigError:
    """The error of a proxy that the libraries here cannot speak with. Its login is not told."""
    return ConfigError(
        f"the environment names a {urlsplit(proxy).scheme}:// proxy, which cannot be used",
        hint="name an http:// proxy in http_proxy and https_proxy, or the service in no_proxy",
    )


def proxy_login(proxy: str) -> dict[str, str]:
    parts = urlsplit(proxy)
    if parts.username is None:
        return {}
    login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(login.encode()).decode()}


def _unreachable(who: str, error: BaseException) -> SyndError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProtocolError(
            f"the certificate of {who} is not valid: {error.verify_message}",
            hint="a proxy of your network may sit between; SSL_CERT_FILE names further authorities",
        )
    return Offline(f"cannot reach {who}: {why(error)}")


def why(error: BaseException) -> str:
    """A short reason without any URL."""
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__
