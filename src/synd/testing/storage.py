"""Storage behind the fake service's presigned URLs, on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import parse_qs, urlsplit

from synd.clock import NS, format_time
from synd.errors import SyndError
from synd.ids import FileHandleId
from synd.ranges import parse_range
from synd.testing.state import FakeState


class FakeStorage:
    """Serves the bytes behind a `FakeRemote`'s presigned URLs on loopback, with ranges.

    with FakeStorage(remote) as storage:
        storage.drop_after = 1000     # the next answer breaks off after 1000 bytes
    """

    def __init__(self, remote: FakeState) -> None:
        self._remote = remote
        self.requests: list[tuple[int, str | None]] = []
        """(file handle id, Range header) of each request, in order of arrival."""
        self.drop_after: int | None = None
        """The next answer breaks off after so many bytes of its body; then normal again."""
        self.refuse_next: list[int] = []
        """Statuses that the next requests are answered with instead."""
        self.ignore_ranges = False
        self.saw_authorization = False
        """Whether any request carried a login, which must never come here."""
        storage = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                storage._answer(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="fake-storage", daemon=True
        )

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._remote.url_base = self.url
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        number = FileHandleId(int(parts.path.strip("/")))
        header = request.headers.get("Range")
        self.requests.append((number, header))
        self.saw_authorization |= "Authorization" in request.headers
        if self.refuse_next:
            self._send(request, self.refuse_next.pop(0), b"refused")
            return
        content = self._remote.content(number)
        if content is None:
            self._send(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if self._is_over(parts.query):
            self._send(request, 403, b"<Error><Code>AccessDenied</Code>expired</Error>")
            return
        try:
            wanted = None if self.ignore_ranges else parse_range(header, len(content))
        except SyndError as error:
            self._send(request, error.status, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        if wanted is None:
            self._send(request, 200, content)
            return
        told = f"bytes {wanted.start}-{wanted.end - 1}/{len(content)}"
        self._send(request, 206, content[wanted.start : wanted.end], {"Content-Range": told})

    def _is_over(self, query: str) -> bool:
        found = parse_qs(query)
        stamp, life = found["X-Amz-Date"][0], int(found["X-Amz-Expires"][0])
        now = format_time(self._remote.clock.now_ns() - life * NS)[:19]
        return now.replace("-", "").replace(":", "") + "Z" >= stamp

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.drop_after is not None and status in (200, 206):
            body, self.drop_after = body[: self.drop_after], None
            request.close_connection = True
        request.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Ends the connections that clients keep, so that its threads end with it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go at any time."""

    def process_request(self, request: object, client_address: object) -> None:
        if isinstance(request, socket.socket):
            self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: object) -> None:
        if isinstance(request, socket.socket):
            self._open.discard(request)
        super().shutdown_request(request)  # type: ignore[arg-type]

    def close_connections(self) -> None:
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
