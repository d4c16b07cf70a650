"""The byte server: presigned GET, HEAD and PUT on a listener of its own, one thread per connection.

Bytes stay out of the event loop and, by sendfile, out of Python. It knows URLs, files and ranges, and nothing
of entities: all it must know stands in the URL (`blobs.Presigner`). A client that goes away in the middle
of a body ends its thread, nothing else; uploads are streamed to disk with their md5 on the way.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import secrets
import socket
import struct
import threading
import time

from synd.errors import RangeNotSatisfiable, UsageError
from synd.ranges import ByteRange, parse_range
from synd.registry.blobs import BadUrlError, BlobStore, BlobUrl, PartUrl, Presigner
from synd.registry.faults import Action, Fault, FaultBook, RequestLog

log = logging.getLogger("synd.registry.blobserver")

INLINE_BYTES = 64 << 10
"""Bodies up to this size go out with their head in one call; larger ones by sendfile."""
SENDFILE_BYTES = 8 << 20
HEAD_LIMIT = 64 << 10
IDLE_S = 120
"""A connection that asks nothing for so long is closed."""
_RECV = 256 << 10
_MSG_MORE = socket.MSG_MORE

_REASONS = {200: "OK", 206: "Partial Content", 400: "Bad Request", 403: "Forbidden", 404: "Not Found",
            405: "Method Not Allowed", 411: "Length Required", 416: "Range Not Satisfiable",
            429: "Too Many Requests", 500: "Internal Server Error",
            503: "Service Unavailable"}  # fmt: skip


class _DroppedError(Exception):
    """The connection ends here, without an answer."""


class BlobServer:
    """A listener and its connections. `start`, then `stop`; threads are daemons of the process."""

    def __init__(
        self,
        store: BlobStore,
        faults: FaultBook,
        requests: RequestLog,
        presigner: Presigner,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        latency_s: float = 0.0,
        bytes_per_s: float = 0.0,
    ) -> None:
        """`bytes_per_s` bounds each connection; 0 is no bound."""
        self.store = store
        self.faults = faults
        self.requests = requests
        self.latency_s = latency_s
        self.bytes_per_s = bytes_per_s
        self.presigner = presigner
        self._listener = socket.create_server((host, port), backlog=512, reuse_port=False)
        self.host, self.port = self._listener.getsockname()[:2]
        self._guard = threading.Lock()
        self._live: set[socket.socket] = set()
        self._stopping = False
        self._thread = threading.Thread(target=self._accept, name="blob-accept", daemon=True)

    @property
    def base(self) -> str:
        return f"http://{self.host}:{self.port}"

    def start(self) -> None:
        """Begins to answer. The presigner's base must be `base` by now."""
        self._thread.start()

    def stop(self, grace_s: float = 1.0) -> None:
        """Accepts no more; connections get `grace_s` to end their answer, then they are cut."""
        self._stopping = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        end = time.monotonic() + grace_s
        with self._guard:
            live = list(self._live)
        for connection in live:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        while time.monotonic() < end:
            with self._guard:
                if not self._live:
                    return
            time.sleep(0.01)
        with self._guard:
            live = list(self._live)
        for connection in live:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._stopping:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                time.sleep(0.05)  # out of descriptors, or stopping: the loop's head tells
                continue
            with self._guard:
                self._live.add(connection)
            threading.Thread(
                target=self._serve, args=(connection,), name="blob", daemon=True
            ).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _set_kernel_timeouts(connection, IDLE_S)
            _Connection(self, connection).run()
        except (OSError, _DroppedError):
            pass  # the client is gone, or a fault wanted it so
        except Exception:
            log.exception("blob.failed")
        finally:
            with self._guard:
                self._live.discard(connection)
            with contextlib.suppress(OSError):
                connection.close()

    @property
    def stopping(self) -> bool:
        return self._stopping


class _Connection:
    """One keep-alive connection: requests in turn."""

    def __init__(self, server: BlobServer, connection: socket.socket) -> None:
        self.server = server
        self.socket = connection
        self.held = b""
        """Bytes received beyond the request at hand."""
        self.sent_bytes = 0
        """Bytes of the body sent for the request at hand."""
        self.reply = b""
        """An answer that goes out once the request is in the log: who has it finds it counted."""

    def run(self) -> None:
        while not self.server.stopping:
            head = self._read_head()
            if head is None or not self._answer(head):
                return

    def _read_head(self) -> bytes | None:
        data = self.held
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > HEAD_LIMIT:
                return None
            more = self.socket.recv(65536)
            if not more:
                return None
            data = data + more if data else more
        self.held = data[end + 4 :]
        return data[:end]

    def _answer(self, head: bytes) -> bool:
        """Whether the connection may go on."""
        request, _, rest = head.decode("latin-1").partition("\r\n")
        try:
            method, target, protocol = request.split(" ")
        except ValueError:
            self._send_error(400, "BadRequest", "malformed request line", close=True)
            return False
        if target.startswith("http://"):
            target = "/" + target[7:].partition("/")[2]
        headers: dict[str, str] = {}
        for line in rest.split("\r\n"):
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        keep = headers.get("connection", "").lower() != "close" and protocol == "HTTP/1.1"
        if self.server.latency_s:
            time.sleep(self.server.latency_s)
        faults = self.server.faults.hit(method, target) if self.server.faults.armed else []
        self.sent_bytes = 0
        status = 0
        try:
            status, keep = self._with_faults(method, target, headers, keep, faults)
        finally:
            # Also what a client broke off: its bytes were sent.
            self.server.requests.add(
                "blob", method, "/blob" if target.startswith("/blob/") else "/part",
                target.partition("?")[0], status, self.sent_bytes,
            )  # fmt: skip
        if status == 0:
            raise _DroppedError
        if self.reply:
            self.socket.sendall(self.reply)
            self.reply = b""
        return keep

    def _with_faults(
        self, method: str, target: str, headers: dict[str, str], keep: bool, faults: list[Fault]
    ) -> tuple[int, bool]:
        late: Fault | None = None
        for fault in faults:
            match fault.action:
                case Action.DELAY | Action.HOLD:
                    fault.wait()
                case Action.DROP_BEFORE:
                    return 0, False
                case Action.STATUS:
                    self._drain(headers)
                    return self._send_error(fault.status, "Fault", fault.reason), keep
                case Action.EXPIRE:
                    self._drain(headers)
                    return self._send_error(403, "AccessDenied", "Request has expired"), keep
                case _:
                    late = fault
        try:
            url = self.server.presigner.check(method, target, time.time())
        except BadUrlError as error:
            self._drain(headers)
            return self._send_error(error.status, error.code, error.message), keep
        if isinstance(url, BlobUrl) and method in ("GET", "HEAD"):
            return self._get(method, url, headers, keep, late)
        if isinstance(url, PartUrl) and method == "PUT":
            return self._put(url, headers, keep, late)
        self._drain(headers)
        return self._send_error(405, "MethodNotAllowed", f"{method} is not allowed here"), keep

    def _get(
        self, method: str, url: BlobUrl, headers: dict[str, str], keep: bool, fault: Fault | None
    ) -> tuple[int, bool]:
        if fault is not None and fault.action is Action.DROP_AFTER:
            return 0, False
        try:
            fd = os.open(self.server.store.path(url.md5), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return self._send_error(404, "NoSuchKey", "The specified key does not exist."), keep
        try:
            size = os.fstat(fd).st_size
            try:
                wanted = parse_range(headers.get("range"), size)
            except RangeNotSatisfiable as error:
                extra = f"Content-Range: bytes */{size}\r\n"
                return self._send_error(416, "InvalidRange", error.message, extra=extra), keep
            except UsageError:
                wanted = None  # as RFC 9110 14.2: a malformed Range is ignored
            status = 200 if wanted is None else 206
            part = wanted or ByteRange(0, size)
            head = (
                f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Length: {part.size}\r\n"
                f"Content-Type: {url.content_type or 'application/octet-stream'}\r\n"
                f'ETag: "{url.md5}"\r\nAccept-Ranges: bytes\r\n'
            )
            if wanted is not None:
                head += f"Content-Range: bytes {part.start}-{part.end - 1}/{size}\r\n"
            if url.disposition:
                head += f"Content-Disposition: {url.disposition}\r\n"
            head += "\r\n" if keep else "Connection: close\r\n\r\n"
            raw = head.encode("latin-1", "replace")
            if method == "HEAD":
                self.socket.sendall(raw)
                return status, keep
            if fault is not None and fault.action in (Action.TRUNCATE, Action.CORRUPT):
                return self._send_spoilt(raw, fd, part, fault, status, keep)
            self._send_file(raw, fd, part)
            return status, keep
        finally:
            os.close(fd)

    def _send_file(self, head: bytes, fd: int, part: ByteRange) -> None:
        rate = self.server.bytes_per_s
        if part.size <= INLINE_BYTES and not rate:
            self.socket.sendall(head + os.pread(fd, part.size, part.start))
            self.sent_bytes += part.size
            return
        self.socket.sendall(head, _MSG_MORE if part.size else 0)
        at = part.start
        began = time.monotonic()
        step = SENDFILE_BYTES if not rate else max(4096, min(SENDFILE_BYTES, int(rate / 50)))
        while at < part.end:
            sent = os.sendfile(self.socket.fileno(), fd, at, min(step, part.end - at))
            if sent == 0:
                raise _DroppedError  # the file shrank: nothing else can be told now
            at += sent
            self.sent_bytes += sent
            if rate:
                wait = began + (at - part.start) / rate - time.monotonic()
                if wait > 0:
                    time.sleep(wait)

    def _send_spoilt(
        self, head: bytes, fd: int, part: ByteRange, fault: Fault, status: int, keep: bool
    ) -> tuple[int, bool]:
        if fault.action is Action.TRUNCATE:
            end = min(part.end, part.start + fault.bytes)
            self._send_file(head, fd, ByteRange(part.start, end))
            return 0, False
        wrong = part.start + fault.bytes
        if wrong >= part.end:
            self._send_file(head, fd, part)
            return status, keep
        self._send_file(head, fd, ByteRange(part.start, wrong))
        self.socket.sendall(bytes([os.pread(fd, 1, wrong)[0] ^ 0xFF]))
        self._send_file(b"", fd, ByteRange(wrong + 1, part.end))
        return status, keep

    def _put(
        self, url: PartUrl, headers: dict[str, str], keep: bool, fault: Fault | None
    ) -> tuple[int, bool]:
        length = headers.get("content-length", "")
        if not length.isdecimal():
            status = self._send_error(
                411, "MissingContentLength", "send a Content-Length", close=True
            )
            return status, False
        if headers.get("expect", "").lower() == "100-continue":
            self.socket.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        folder = self.server.store.upload_folder(url.upload)
        if not folder.is_dir():
            self._drain(headers)
            return self._send_error(404, "NoSuchUpload", "The upload does not exist."), keep
        aside = folder / f".{url.number}.{secrets.token_hex(6)}"
        stop_at = fault.bytes if fault is not None and fault.action is Action.TRUNCATE else None
        try:
            spoil = fault.bytes if fault is not None and fault.action is Action.CORRUPT else None
            md5 = self._receive(int(length), aside, stop_at, spoil)
            os.replace(aside, self.server.store.part(url.upload, url.number, md5))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
        if fault is not None and fault.action is Action.DROP_AFTER:
            return 0, False
        tail = "" if keep else "Connection: close\r\n"
        self.reply = f'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nETag: "{md5}"\r\n{tail}\r\n'.encode()
        return 200, keep

    def _receive(
        self, length: int, aside: os.PathLike[str], stop_at: int | None, spoil: int | None
    ) -> str:
        """Streams a body to disk; its md5. `stop_at` drops the connection after so many bytes, `spoil`
        inverts that byte.
        """
        hasher = hashlib.md5(usedforsecurity=False)
        rate = self.server.bytes_per_s
        began = time.monotonic()
        got = 0
        buffer = bytearray(_RECV)
        view = memoryview(buffer)
        with open(aside, "wb", buffering=0) as file:
            while got < length:
                if self.held:
                    chunk = memoryview(self.held[: length - got])
                    self.held = self.held[len(chunk) :]
                else:
                    n = self.socket.recv_into(buffer, min(_RECV, length - got))
                    if n == 0:
                        raise _DroppedError
                    chunk = view[:n]
                if spoil is not None and got <= spoil < got + len(chunk):
                    wrong = bytearray(chunk)
                    wrong[spoil - got] ^= 0xFF
                    chunk = memoryview(wrong)
                hasher.update(chunk)
                file.write(chunk)
                got += len(chunk)
                if stop_at is not None and got >= stop_at:
                    raise _DroppedError
                if rate:
                    wait = began + got / rate - time.monotonic()
                    if wait > 0:
                        time.sleep(wait)
        return hasher.hexdigest()

    def _drain(self, headers: dict[str, str]) -> None:
        """Reads a body that nobody wants, so that the next request on the connection is found."""
        length = headers.get("content-length", "0")
        left = int(length) if length.isdecimal() else 0
        if headers.get("expect", "").lower() == "100-continue":
            return
        took = min(left, len(self.held))
        self.held = self.held[took:]
        left -= took
        while left > 0:
            data = self.socket.recv(min(_RECV, left))
            if not data:
                raise _DroppedError
            left -= len(data)

    def _send_error(
        self, status: int, code: str, message: str, *, extra: str = "", close: bool = False
    ) -> int:
        body = (
            '<?xml version="1.0" encoding="UTF-8"?>\n'
            f"<Error><Code>{code}</Code><Message>{message}</Message></Error>"
        ).encode()
        tail = "Connection: close\r\n" if close else ""
        self.socket.sendall(
            f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: application/xml\r\n"
            f"Content-Length: {len(body)}\r\n{extra}{tail}\r\n".encode()
            + body
        )
        return status


def _set_kernel_timeouts(connection: socket.socket, seconds: int) -> None:
    """Lets the kernel end a wait for the client. A Python time-out would make the socket non-blocking:
    one more system call for each read, and no waiting inside sendfile.
    """
    spelled = struct.pack("ll", seconds, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, spelled)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, spelled)
