"""An https server that is none of the service's: files, DRS objects, and the trouble that a test asks for."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
DRS = "/ga4gh/drs/v1/objects/"


class Asked(NamedTuple):
    path: str
    start: int
    """First byte that was wanted."""
    status: int


class Elsewhere:
    """Serves `files` by path. Stands for any host of the internet, so only its certificate is special."""

    def __init__(self, folder: Path) -> None:
        self.certificate = folder / "cert.pem"
        key = folder / "key.pem"
        if shutil.which("openssl") is None:
            pytest.skip("openssl is not installed")
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(self.certificate)],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.unsized: set[str] = set()
        """Paths that are answered whole, in chunks, whatever range is asked for."""
        self.trouble: Callable[[str, int], int | str | None] = lambda _path, _start: None
        """(path, first byte) → a status to answer with, `cut` or `silent`; None: all is well."""
        self.asked: list[Asked] = []
        self.ended = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        outer = self

        class Handler(_Handler):
            place = outer

        self._server = _Server(("localhost", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self.netloc = f"localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def url(self, path: str) -> str:
        return f"https://{self.netloc}{path}"

    def put(self, path: str, data: bytes) -> str:
        """A file; its URL."""
        self.files[path] = data
        return self.url(path)

    def object(self, id: str, **told: Any) -> str:
        """A DRS object that tells this of itself; its name."""
        self.files[DRS + id] = json.dumps({"id": id, **told}).encode()
        return f"drs://{self.netloc}/{id}"

    def access(self, id: str, access_id: str, url: str, **more: Any) -> None:
        self.files[f"{DRS}{id}/access/{access_id}"] = json.dumps({"url": url, **more}).encode()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may leave whenever they like."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    place: Elsewhere

    def do_GET(self) -> None:
        place, path = self.place, self.path
        wanted = _RANGE.fullmatch(self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        told = place.trouble(path, start)
        data = place.files.get(path)
        if told == "silent":
            place.asked.append(Asked(path, start, 0))
            place.ended.wait(60)
            self.close_connection = True
            return
        if path in place.redirects:
            self._say(302, {"Location": place.redirects[path]})
        elif isinstance(told, int):
            self._say(told)
        elif data is None:
            self._say(404)
        elif path in place.unsized:
            self._say(
                200, {"Transfer-Encoding": "chunked"}, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)
            )
        elif wanted is None:
            self._say(200, {}, data, cut=told == "cut")
        else:
            stop = min(len(data), int(wanted[2]) + 1 if wanted[2] else len(data))
            if start >= stop:
                self._say(416, {"Content-Range": f"bytes */{len(data)}"})
                return
            what = f"bytes {start}-{stop - 1}/{len(data)}"
            self._say(206, {"Content-Range": what}, data[start:stop], cut=told == "cut")

    def _say(
        self,
        status: int,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        cut: bool = False,
    ) -> None:
        wanted = _RANGE.fullmatch(self.headers.get("Range") or "")
        self.place.asked.append(Asked(self.path, int(wanted[1]) if wanted else 0, status))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if "Transfer-Encoding" not in (headers or {}):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""
