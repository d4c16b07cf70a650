"""Parts of files over real sockets: what arrives, what breaks, and how it is told."""

from __future__ import annotations

import hashlib
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.client.connections import Connections
from synd.client.sender import PIECE, PartSender
from synd.client.transfer import Interrupted, StorageBusy, UrlExpired
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
    RemoteUnavailable,
    SyndError,
)
from tests.integration.client.stub import Answer, Request, Stub

CONTENT = bytes(range(256)) * 16384  # 4 MiB
OK = Answer(200, b"", {"ETag": '"e"'})


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def connections() -> Iterator[Connections]:
    one = Connections(connect_timeout_s=5)
    yield one
    one.close()


@pytest.fixture
def sender(connections: Connections) -> PartSender:
    return PartSender(connections, read_timeout_s=5)


def soon(seconds: float = 10) -> Deadline:
    return Deadline.after(seconds, "the test")


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class TestSend:
    """A part of a file goes out."""

    @pytest.mark.parametrize(
        ("start", "size"),
        [(0, 1), (0, len(CONTENT)), (PIECE - 3, 2 * PIECE + 7), (len(CONTENT) - 1, 1)],
    )
    def test_part_when_sent_arrives_as_it_is(
        self, sender: PartSender, file: int, start: int, size: int
    ) -> None:
        """Just these bytes, just the headers that the URL wants, and no login."""
        part = CONTENT[start : start + size]
        with Stub(lambda _: OK) as stub:
            got = sender.send(
                f"{stub.url}/p?X=1", {"x-amz-acl": "y"}, file, start, size, deadline=soon()
            )

        (request,) = stub.requests
        assert md5(part) == got
        assert part == request.body
        assert (request.method, request.path) == ("PUT", "/p?X=1")
        assert {"host", "content-length", "x-amz-acl"} == set(request.headers)

    def test_connection_when_done_is_kept(
        self, sender: PartSender, connections: Connections, file: int
    ) -> None:
        """One connection for many parts; a dead one is replaced without a word."""
        with Stub(lambda _: OK) as stub:
            for _ in range(3):
                sender.send(f"{stub.url}/p", {}, file, 0, 1000, deadline=soon())
            assert connections.opened == 1
            stub.drop_connections()
            sender.send(f"{stub.url}/p", {}, file, 0, 1000, deadline=soon())

        assert connections.opened == 2

    def test_parts_when_sent_at_once_do_not_mix(self, sender: PartSender, file: int) -> None:
        """Any number of threads."""
        wrong: list[int] = []

        def send(n: int) -> None:
            start = n * 300_000
            got = sender.send(f"{stub.url}/{n}", {}, file, start, 300_000, deadline=soon())
            if got != md5(CONTENT[start : start + 300_000]):
                wrong.append(n)

        with Stub(lambda _: OK) as stub:
            threads = [threading.Thread(target=send, args=(n,)) for n in range(12)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)

        assert not wrong
        assert {int(r.path[1:]): md5(r.body) for r in stub.requests} == {
            n: md5(CONTENT[n * 300_000 : (n + 1) * 300_000]) for n in range(12)
        }

    def test_proxy_when_set_is_used(
        self, sender: PartSender, file: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With its own login, for hosts that need it."""
        with Stub(lambda _: OK) as proxy:
            monkeypatch.setenv("http_proxy", f"http://me:pw@127.0.0.1:{proxy.port}")
            sender.send("http://storage.invalid/p", {}, file, 0, 9, deadline=soon())

        (request,) = proxy.requests
        assert request.path == "http://storage.invalid/p"
        assert request.headers["proxy-authorization"].startswith("Basic ")
        assert CONTENT[:9] == request.body


class TestRefused:
    """What storage says instead of thanks."""

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (Answer(403, b"<Code>AccessDenied</Code>"), UrlExpired),
            (Answer(400, b"<Code>ExpiredToken</Code>"), UrlExpired),
            (Answer(400, b"<Code>RequestTimeout</Code>"), RemoteUnavailable),
            (Answer(400, b"<Code>EntityTooLarge</Code>"), ProtocolError),
            (Answer(404, b"<Code>NoSuchUpload</Code>"), NotFound),
            (Answer(407), Forbidden),
            (Answer(429), StorageBusy),
            (Answer(500), RemoteUnavailable),
            (Answer(307, b"", {"Location": "/x"}), ProtocolError),
            (Answer(raw=b"nonsense\r\n\r\n"), Interrupted),
            (Answer(raw=b""), Interrupted),
        ],
    )
    def test_answer_when_no_success_is_told(
        self, sender: PartSender, file: int, answer: Answer, error: type[SyndError]
    ) -> None:
        """By what can be done about it."""
        with Stub(lambda _: answer) as stub, pytest.raises(error) as caught:
            sender.send(f"{stub.url}/p?secret", {}, file, 0, 1000, deadline=soon())

        assert type(caught.value) is error
        assert "secret" not in str(caught.value)

    def test_wait_when_asked_for_is_passed_on(self, sender: PartSender, file: int) -> None:
        """Retry-After of a storage that has enough."""
        with (
            Stub(lambda _: Answer(503, b"", {"Retry-After": "7"})) as stub,
            pytest.raises(StorageBusy) as caught,
        ):
            sender.send(f"{stub.url}/p", {}, file, 0, 9, deadline=soon())

        assert caught.value.retry_after_s == 7.0

    def test_refusal_when_early_is_read(self, sender: PartSender, file: int) -> None:
        """Storage may say no before it has read the body, and then read no more."""
        with _Blunt() as port, pytest.raises(UrlExpired):
            sender.send(f"http://127.0.0.1:{port}/p", {}, file, 0, len(CONTENT), deadline=soon())

    def test_storage_when_absent_is_offline(self, sender: PartSender, file: int) -> None:
        """And a scheme that nobody speaks is not supported."""
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        with pytest.raises(Offline):
            sender.send(f"http://127.0.0.1:{port}/p", {}, file, 0, 9, deadline=soon())
        with pytest.raises(NotSupported):
            sender.send("ftp://host/p", {}, file, 0, 9, deadline=soon())


class TestHeldUp:
    """Peers that take nothing, callers that want no more."""

    def test_peer_when_it_takes_nothing_meets_the_deadline(
        self, sender: PartSender, file: int
    ) -> None:
        """Whatever the socket's buffers hold."""
        with _Deaf() as port, pytest.raises(DeadlineExceeded):
            sender.send(f"http://127.0.0.1:{port}/p", {}, file, 0, len(CONTENT), deadline=soon(0.4))

    def test_peer_when_silent_is_interrupted(self, connections: Connections, file: int) -> None:
        """After the longest silence that is borne, also where it took all."""
        sender = PartSender(connections, read_timeout_s=0.3)
        with _Deaf() as port, pytest.raises(Interrupted):
            sender.send(f"http://127.0.0.1:{port}/p", {}, file, 0, 100, deadline=soon())

    def test_transfer_when_cancelled_ends_soon(self, sender: PartSender, file: int) -> None:
        """A fraction of a second later at the most."""
        asked = threading.Event()
        threading.Timer(0.2, asked.set).start()
        began = time.monotonic()
        with _Deaf() as port, pytest.raises(Cancelled):
            sender.send(
                f"http://127.0.0.1:{port}/p",
                {},
                file,
                0,
                len(CONTENT),
                deadline=soon(30),
                cancelled=asked.is_set,
            )

        assert time.monotonic() - began < 5

    def test_file_when_shorter_is_told(self, sender: PartSender, file: int) -> None:
        """Before a byte is sent."""
        with Stub(lambda _: OK) as stub, pytest.raises(IntegrityError):
            sender.send(f"{stub.url}/p", {}, file, 100, len(CONTENT), deadline=soon())

        assert stub.requests == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key.pem", "-out", folder / "cert.pem"],
        capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    if made.returncode:
        pytest.skip("openssl cannot make a certificate here")
    return folder


def test_part_when_sent_through_tls_arrives_as_it_is(certificate: Path, file: int) -> None:
    """In pieces, over a kept connection; and refusals are read there too."""
    answers = [OK, OK, Answer(403)]
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
    connections = Connections(tls=trusting)
    sender = PartSender(connections)

    def answer(_: Request) -> Answer:
        return answers.pop(0)

    with Stub(answer, tls=server) as stub:
        for start in (0, 5):
            size = len(CONTENT) - 5
            got = sender.send(f"{stub.url}/p", {}, file, start, size, deadline=soon())
            assert md5(CONTENT[start : start + size]) == got
        with pytest.raises(UrlExpired):
            sender.send(f"{stub.url}/p", {}, file, 0, PIECE, deadline=soon())
        connections.close()

    assert [CONTENT[:-5], CONTENT[5:], CONTENT[:PIECE]] == [r.body for r in stub.requests]
    assert connections.opened == 1


class _Peer:
    """A server that does one thing to each connection, wherever its client is."""

    def __enter__(self) -> int:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        port: int = self._listener.getsockname()[1]
        return port

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self._thread.join(10)
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.treat(connection)

    def treat(self, connection: socket.socket) -> None:
        raise NotImplementedError


class _Deaf(_Peer):
    """Reads nothing."""

    def treat(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._done.wait()


class _Blunt(_Peer):
    """Reads the head of a request, refuses it, and reads no more."""

    def treat(self, connection: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(100)
        connection.sendall(b"HTTP/1.1 403 x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        self._done.wait()
