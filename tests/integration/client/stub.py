"""A scripted HTTP/1.1 server on loopback that can misbehave in every way a network does.

with Stub(lambda request: json_answer({"id": "syn1"})) as stub:
    … stub.url …; stub.requests
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes
    connection: int
    """Number of the connection it came on, from 0."""
    at: float
    """Monotonic seconds."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Answer:
    """What to send back. Without `raw`, a well-formed answer made of the other fields."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after_s: float = 0.0
    """Silence before the answer."""
    cut: int | None = None
    """Only so many bytes of the body are sent, then the connection ends."""
    stall: int | None = None
    """Only so many bytes of the body are sent, then nothing more, and the connection stays."""
    reset: bool = False
    """With `cut`: ends the connection with a reset instead of an orderly end."""
    close: bool = False
    """Ends the connection after the answer, without a word in the headers."""
    raw: bytes | None = None
    """Exactly these bytes instead, then the connection ends."""
    pace: tuple[int, float] | None = None
    """(bytes, seconds): the body is sent in pieces with pauses."""


def json_answer(value: object, status: int = 200, **how: Any) -> Answer:
    headers = {"Content-Type": "application/json", **how.pop("headers", {})}
    return Answer(status, json.dumps(value).encode(), headers, **how)


def reason(status: int, text: str = "because", **more: Any) -> Answer:
    headers = more.pop("headers", {})
    return json_answer({"reason": text, **more}, status, headers=headers)


def ranged(content: bytes, request: Request, **how: Any) -> Answer:
    """The part of `content` that a request's Range asks for, as storage answers."""
    header = request.headers.get("range")
    if header is None:
        return Answer(200, content, {"ETag": '"e"'}, **how)
    first, _, last = header.removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last) + 1 if last else len(content), len(content))
    if start >= len(content):
        return Answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
    told = {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}", "ETag": '"e"'}
    return Answer(206, content[start:end], told, **how)


class Stub:
    """One thread per connection. `handler` runs in these threads."""

    def __init__(
        self,
        handler: Callable[[Request], Answer],
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self._handler = handler
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self.requests: list[Request] = []
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self.at_once = 0
        """Most requests under way at the same time so far."""
        self._running = 0

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop_connections()
        for thread in self._threads:
            thread.join(10)
        for connection in self._connections:
            connection.close()

    def drop_connections(self) -> None:
        """Ends all connections, as a restart of the server does."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    @property
    def connections(self) -> int:
        return len(self._connections)

    def _start(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                number = len(self._connections)
                self._connections.append(connection)
            self._start(self._serve, connection, number)

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError, EOFError):
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                with self._lock:
                    self._connections.append(connection)
            reader = connection.makefile("rb")
            with reader:
                while self._one(connection, reader, number):
                    pass
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()

    def _one(self, connection: socket.socket, reader: Any, number: int) -> bool:
        line = reader.readline()
        if not line:
            return False
        method, path, _ = line.decode().split(" ", 2)
        headers: dict[str, str] = {}
        while (line := reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode().partition(":")
            headers[name.strip().lower()] = value.strip()
        body = reader.read(int(headers.get("content-length", 0)))
        request = Request(method, path, headers, body, number, time.monotonic())
        with self._lock:
            self.requests.append(request)
            self._running += 1
            self.at_once = max(self.at_once, self._running)
        try:
            answer = self._handler(request)
            if answer.after_s:
                self._closing.wait(answer.after_s)
        finally:
            with self._lock:
                self._running -= 1
        return self._send(connection, answer)

    def _send(self, connection: socket.socket, answer: Answer) -> bool:
        if answer.raw is not None:
            connection.sendall(answer.raw)
            return False
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        head = f"HTTP/1.1 {answer.status} x\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers.items()
        )
        body = answer.body
        if answer.cut is not None:
            body = body[: answer.cut]
        if answer.stall is not None:
            body = body[: answer.stall]
        if answer.pace is None:
            connection.sendall(f"{head}\r\n".encode() + body)
        else:
            connection.sendall(f"{head}\r\n".encode())
            size, pause_s = answer.pace
            for start in range(0, len(body), size):
                connection.sendall(body[start : start + size])
                if self._closing.wait(pause_s):
                    return False
        if answer.stall is not None:
            self._closing.wait()
            return False
        if answer.cut is not None and answer.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            return False
        return answer.cut is None and not answer.close
