"""A small blocking client of the control API: HTTP/1.1 over the Unix socket, by the standard library.

Leaves shapes and routes to `synd.control.contract`. Invariant: whatever goes wrong arrives as one of
`synd.errors`, with the daemon's own class when the daemon answered, and no call waits without bound.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlencode

from synd.control import contract
from synd.errors import (
    DaemonNotRunning,
    DeadlineExceeded,
    NotFound,
    ProtocolError,
    StageFailed,
    SyndError,
    by_name,
)

SUN_PATH = 108
"""Bytes of a socket address's path on Linux, the closing NUL included."""


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """`path` as a socket address. One too long for the kernel is spelled through its folder's descriptor."""
    if len(os.fsencode(path)) < SUN_PATH:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("synd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        with socket_address(self._path) as address:
            self.sock.connect(address)


class Control:
    """The daemon behind one socket. Connections are opened per call and kept by nobody."""

    def __init__(self, path: Path, *, timeout_s: float = 30.0) -> None:
        self.path = path
        self.timeout_s = timeout_s

    def get(self, route: str, *, timeout_s: float | None = None, **query: object) -> Any:
        """The JSON answer. Raises the daemon's error, DaemonNotRunning, DeadlineExceeded, ProtocolError."""
        asked = {k: v for k, v in query.items() if v is not None}
        return self._call("GET", f"{route}?{urlencode(asked)}" if asked else route, None, timeout_s)

    def post(self, route: str, body: object = None, *, timeout_s: float | None = None) -> Any:
        return self._call("POST", route, {} if body is None else body, timeout_s)

    def put(self, route: str, body: object, *, timeout_s: float | None = None) -> Any:
        return self._call("PUT", route, body, timeout_s)

    def job(self, id: str, action: str = "") -> contract.Job:
        """One job; with `action` (cancel, retry) after asking for that. Raises NotFound, also for no id at all."""
        if not id:
            raise NotFound("the id of the job is empty", hint="`synd jobs` shows ids")
        route = f"{contract.JOBS}/{quote(id, safe='')}"
        found: contract.Job = self.post(f"{route}/{action}") if action else self.get(route)
        return found

    def text(self, route: str) -> str:
        """The answer of a route that is not JSON, such as /metrics."""
        with self._open("GET", route, None, self.timeout_s) as reply:
            return _whole(reply, self.timeout_s).decode()

    def events(
        self, *, since: str | None = None, follow: bool = True, idle_s: float = 60.0
    ) -> Iterator[contract.Event]:
        """Changes as they come, until the daemon ends; with `since` (ISO time) recent ones first, and
        without `follow` nothing after them. The daemon sends a sign of life every 15 s; after `idle_s`
        without one, raises DeadlineExceeded.
        """
        return self.stream(contract.EVENTS, idle_s=idle_s, follow=int(follow), since=since)

    def stream(
        self, route: str, *, idle_s: float = 60.0, **query: object
    ) -> Iterator[contract.Event]:
        """The events of a route that goes on, as `events`."""
        asked = {k: v for k, v in query.items() if v is not None}
        target = f"{route}?{urlencode(asked)}" if asked else route
        with self._open("GET", target, None, idle_s) as reply:
            data: list[str] = []
            while True:
                try:
                    raw = reply.readline()
                except TimeoutError as error:
                    raise DeadlineExceeded(f"the daemon was silent for {idle_s:g} s") from error
                except (OSError, http.client.HTTPException):
                    return
                if not raw:
                    return
                line = raw.decode().rstrip("\r\n")
                if line.startswith("data:"):
                    data.append(line[5:].lstrip())
                elif not line and data:
                    event: contract.Event = json.loads("\n".join(data))
                    data.clear()
                    yield event

    def alive(self, *, timeout_s: float = 5.0) -> contract.Status | None:
        """The daemon's status, or None when no daemon is there. Raises what else goes wrong."""
        try:
            status: contract.Status = self.get(contract.STATUS, timeout_s=timeout_s)
        except DaemonNotRunning:
            return None
        return status

    def _call(self, method: str, target: str, body: object, timeout_s: float | None) -> Any:
        budget = self.timeout_s if timeout_s is None else timeout_s
        with self._open(method, target, body, budget) as reply:
            raw = _whole(reply, budget)
        try:
            return json.loads(raw)
        except ValueError as error:
            raise ProtocolError(f"the daemon's answer to {target} is not JSON") from error

    @contextlib.contextmanager
    def _open(
        self, method: str, target: str, body: object, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        """A reply with a good status, its body unread."""
        line = _UnixConnection(self.path, timeout_s)
        headers = {"Accept": f"application/json, {contract.PROBLEM}"}
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        try:
            try:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    # Refused before it was read: the answer, which lies there already, says why.
                    line.request(method, target, payload, headers)
                reply = line.getresponse()
            except TimeoutError as error:
                raise DeadlineExceeded(
                    f"the daemon did not answer within {timeout_s:g} s",
                    hint="its log tells more: `synd doctor` says where",
                ) from error
            except (OSError, http.client.RemoteDisconnected) as error:
                raise self._not_running(error) from error
            except http.client.HTTPException as error:
                raise ProtocolError(f"the daemon's answer is not HTTP: {error}") from error
            if reply.status >= 400:
                raise problem_error(_whole(reply, timeout_s), reply.status)
            yield reply
        finally:
            line.close()

    def _not_running(self, error: Exception) -> SyndError:
        if isinstance(error, PermissionError):
            return DaemonNotRunning(
                f"the daemon behind {self.path} belongs to another user",
                hint="start your own with `synd up`",
                path=str(self.path),
            )
        return DaemonNotRunning(
            "no daemon is running",
            hint="start one with `synd up`",
            path=str(self.path),
        )

    @classmethod
    def here(cls) -> Self:
        """The daemon of this environment's folders."""
        from synd.config import folders

        return cls(folders().socket)


def problem_error(raw: bytes, status: int = 0) -> SyndError:
    """The error that a problem body describes, as its own class."""
    try:
        body = json.loads(raw)
        kind, title = str(body["type"]), str(body["title"])
    except (ValueError, KeyError, TypeError):
        return ProtocolError(f"the daemon answered {status} without saying why")
    found = by_name(kind)
    more: dict[str, Any] = {
        "hint": str(body.get("hint", "")),
        "entity": body.get("entity"),
        "path": body.get("path"),
    }
    if found is StageFailed:
        more |= {"failure": str(body.get("failure", "INTERNAL")), "bad_line": body.get("bad_line")}
    return found(title, **more)


def _whole(reply: http.client.HTTPResponse, timeout_s: float) -> bytes:
    try:
        return reply.read()
    except TimeoutError as error:
        raise DeadlineExceeded(f"the daemon did not answer within {timeout_s:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise DaemonNotRunning("the daemon ended while it answered", hint="see its log") from error
