"""A plain file server for rclone: one folder, a fixed wait per request, connections kept.

Serves index pages (rclone's `http` remote) and PROPFIND (its `webdav` remote), so that rclone can be
measured where it does best. ``python -m benchmarks.remote FOLDER --latency-ms 20`` prints its URL.
"""

from __future__ import annotations

import argparse
import email.utils
import html
import os
import sys
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from synd.errors import RangeNotSatisfiable, UsageError
from synd.ranges import parse_range

_PROPS = (
    "<D:response><D:href>{href}</D:href><D:propstat><D:prop>"
    "<D:resourcetype>{kind}</D:resourcetype><D:getcontentlength>{size}</D:getcontentlength>"
    "<D:getlastmodified>{modified}</D:getlastmodified><D:displayname>{name}</D:displayname>"
    "</D:prop><D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>"
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True
    root: Path
    latency_s: float

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""

    def _place(self) -> Path | None:
        time.sleep(self.latency_s)
        name = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/")
        place = (self.root / name).resolve()
        if not place.is_relative_to(self.root) or not place.exists():
            self._answer(404, b"", "text/plain")
            return None
        return place

    def _answer(self, status: int, body: bytes, kind: str, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        place = self._place()
        if place is None:
            return
        if place.is_dir():
            lines = [
                f'<a href="{urllib.parse.quote(e.name)}{"/" if e.is_dir() else ""}">'
                f"{html.escape(e.name)}</a><br>"
                for e in sorted(os.scandir(place), key=lambda e: e.name)
            ]
            self._answer(200, "\n".join(lines).encode(), "text/html; charset=utf-8")
            return
        found = place.stat()
        headers = {
            "Last_Modified": email.utils.formatdate(found.st_mtime, usegmt=True),
            "Accept_Ranges": "bytes",
        }
        data = place.read_bytes()
        try:
            part = parse_range(self.headers.get("Range"), len(data))
        except (RangeNotSatisfiable, UsageError):
            part = None
        if part is None:
            self._answer(200, data, "application/octet-stream", **headers)
            return
        headers["Content_Range"] = f"bytes {part.start}-{part.end - 1}/{len(data)}"
        self._answer(206, data[part.start : part.end], "application/octet-stream", **headers)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_PROPFIND(self) -> None:
        place = self._place()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if place is None:
            return
        shown = [place]
        if place.is_dir() and self.headers.get("Depth", "1") != "0":
            shown += sorted(place.iterdir())
        parts = []
        for one in shown:
            found = one.stat()
            inside = "" if one == self.root else str(one.relative_to(self.root))
            href = "/" + urllib.parse.quote(inside)
            folder = one.is_dir()
            parts.append(
                _PROPS.format(
                    href=html.escape(href.rstrip("/") + "/" if folder else href),
                    kind="<D:collection/>" if folder else "",
                    size=0 if folder else found.st_size,
                    modified=email.utils.formatdate(found.st_mtime, usegmt=True),
                    name=html.escape(one.name),
                )
            )
        body = (
            '<?xml version="1.0" encoding="utf-8"?><D:multistatus xmlns:D="DAV:">'
            + "".join(parts)
            + "</D:multistatus>"
        )
        self._answer(207, body.encode(), "application/xml; charset=utf-8")

    def do_OPTIONS(self) -> None:
        self._place()
        self._answer(200, b"", "text/plain", DAV="1", Allow="GET, HEAD, OPTIONS, PROPFIND")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    asked = parser.parse_args()
    _Handler.root = asked.folder.resolve()
    _Handler.latency_s = asked.latency_ms / 1000
    server = _Server(("127.0.0.1", 0), _Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever(poll_interval=0.2)
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
