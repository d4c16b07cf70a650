"""Ranged downloads over real sockets: what arrives, what breaks, and how it is told."""

from __future__ import annotations

import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.client.transfer import Downloader, Interrupted, StorageBusy, TransferCounts, UrlExpired
from synd.clock import Deadline
from synd.errors import (
    Cancelled,
    DeadlineExceeded,
    IntegrityError,
    NotFound,
    NotSupported,
    Offline,
    ProtocolError,
    RangeNotSatisfiable,
    RemoteUnavailable,
    UsageError,
)
from synd.retry import RetryPolicy
from tests.integration.client.stub import Answer, Request, Stub, ranged

CONTENT = bytes(range(256)) * 16384  # 4 MiB


class Collected:
    """A sink that checks that pieces come in order and without gaps."""

    def __init__(self, start: int) -> None:
        self.start = start
        self.data = bytearray()
        self.largest = 0

    def __call__(self, offset: int, piece: memoryview) -> None:
        assert offset == self.start + len(self.data)
        assert len(piece) > 0
        self.largest = max(self.largest, len(piece))
        self.data += piece


@pytest.fixture
def downloader() -> Iterator[Downloader]:
    with Downloader(connect_timeout_s=5, read_timeout_s=5) as one:
        yield one


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def soon(seconds: float = 20) -> Deadline:
    return Deadline.after(seconds, "the test's download")


class TestRanges:
    """The bytes asked for, and no others, reach the sink."""

    @pytest.mark.parametrize(
        ("start", "end"),
        [
            (0, 1),
            (0, 4096),
            (5, 4101),
            (0, len(CONTENT)),
            (1 << 20, 3 << 20),
            (len(CONTENT) - 1, len(CONTENT)),
        ],
        ids=["first byte", "a page", "odd", "whole", "middle", "last byte"],
    )
    def test_range_when_served_arrives_exactly(
        self, downloader: Downloader, start: int, end: int
    ) -> None:
        """A range arrives whole and exact, in pieces of at most 1 MiB."""
        sink = Collected(start)
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            got = downloader.fetch_range(f"{stub.url}/x?sig=1", start, end, sink, deadline=soon())

        assert CONTENT[start:end] == sink.data
        assert (end - start, '"e"') == (got.received, got.etag)
        assert sink.largest <= 1 << 20
        if end - start < len(CONTENT):
            assert got.total == len(CONTENT)

    def test_open_end_when_served_reads_to_the_end(self, downloader: Downloader) -> None:
        """Without an end, the file is read to its end."""
        sink = Collected(100)
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            got = downloader.fetch_range(f"{stub.url}/x", 100, None, sink, deadline=soon())

        assert CONTENT[100:] == sink.data
        assert len(CONTENT) == got.total

    def test_empty_range_when_asked_costs_no_request(self, downloader: Downloader) -> None:
        """An empty range is nothing to ask for."""
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            got = downloader.fetch_range(f"{stub.url}/x", 7, 7, Collected(7), deadline=soon())

        assert got.received == 0
        assert stub.requests == []

    @pytest.mark.parametrize(("start", "end"), [(0, 1000), (3000, 70000)])
    def test_range_when_server_ignores_it_is_cut_out(
        self, downloader: Downloader, start: int, end: int
    ) -> None:
        """A server that knows no ranges answers 200; only the wanted bytes are handed on."""
        sink = Collected(start)
        with Stub(lambda _: Answer(200, CONTENT)) as stub:
            got = downloader.fetch_range(f"{stub.url}/x", start, end, sink, deadline=soon())

        assert CONTENT[start:end] == sink.data
        assert len(CONTENT) == got.total

    def test_range_when_body_is_chunked_arrives_exactly(self, downloader: Downloader) -> None:
        """A body in chunks is put together."""
        body = (
            b"".join(b"%x\r\n%s\r\n" % (len(c), c) for c in (b"hello ", b"wor", b"ld"))
            + b"0\r\n\r\n"
        )
        head = (
            b"HTTP/1.1 206 x\r\nTransfer-Encoding: chunked\r\nContent-Range: bytes 0-10/11\r\n\r\n"
        )
        sink = Collected(0)
        with Stub(lambda _: Answer(raw=head + body)) as stub:
            downloader.fetch_range(f"{stub.url}/x", 0, 11, sink, deadline=soon())

        assert sink.data == b"hello world"

    def test_body_when_its_end_is_the_connections_end_arrives(self, downloader: Downloader) -> None:
        """An old server tells no length; the end of the connection is the end of the file."""
        raw = b"HTTP/1.0 200 OK\r\n\r\n" + CONTENT
        sink = Collected(0)
        with Stub(lambda _: Answer(raw=raw)) as stub:
            got = downloader.fetch_range(f"{stub.url}/x", 0, None, sink, deadline=soon())

        assert sink.data == CONTENT
        assert got.total is None

    def test_buffer_when_given_bounds_the_pieces(self, downloader: Downloader) -> None:
        """The caller's own buffer is what pieces arrive in."""
        sink = Collected(0)
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            downloader.fetch_range(
                f"{stub.url}/x", 0, 100_000, sink, deadline=soon(), buffer=bytearray(4096)
            )

        assert CONTENT[:100_000] == sink.data
        assert sink.largest <= 4096

    def test_stored_packed_when_served_stays_packed(self, downloader: Downloader) -> None:
        """Stored bytes are wanted as they are, whatever encoding they are labelled with."""
        sink = Collected(0)
        with Stub(
            lambda _: Answer(
                206, b"\x1f\x8bpacked", {"Content-Encoding": "gzip", "Content-Range": "bytes 0-7/8"}
            )
        ) as stub:
            downloader.fetch_range(f"{stub.url}/x", 0, 8, sink, deadline=soon())

        assert sink.data == b"\x1f\x8bpacked"
        assert stub.requests[0].headers["accept-encoding"] == "identity"


class TestConnections:
    """Connections are kept, replaced when dead, and never carry a login."""

    def test_connection_when_answer_was_read_is_used_again(self, downloader: Downloader) -> None:
        """Many ranges in a row need one connection."""
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            for start in range(0, 100 * 4096, 4096):
                downloader.fetch_range(
                    f"{stub.url}/x", start, start + 4096, Collected(start), deadline=soon()
                )

        assert stub.connections == 1
        assert downloader.counts() == TransferCounts(100, 409600, 1)

    def test_connection_when_refused_politely_is_used_again(self, downloader: Downloader) -> None:
        """An error with a small body costs no connection."""
        with Stub(lambda _: Answer(404, b"<Code>NoSuchKey</Code>")) as stub:
            for _ in range(3):
                with pytest.raises(NotFound, match="NoSuchKey"):
                    downloader.fetch_range(f"{stub.url}/x", 0, 5, Collected(0), deadline=soon())

        assert stub.connections == 1

    def test_connection_when_dead_is_replaced_unseen(self, downloader: Downloader) -> None:
        """A kept connection that the server has ended is no error."""
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            downloader.fetch_range(f"{stub.url}/x", 0, 5, Collected(0), deadline=soon())
            stub.drop_connections()
            downloader.fetch_range(f"{stub.url}/x", 0, 5, Collected(0), deadline=soon())

        assert stub.connections == 2

    def test_connection_when_ended_on_reuse_is_replaced_unseen(
        self, downloader: Downloader
    ) -> None:
        """So is one that ends in the very moment it is used again."""
        with Stub(
            lambda r: (
                Answer(raw=b"")
                if r.connection == 0 and len(stub.requests) > 1
                else ranged(CONTENT, r)
            )
        ) as stub:
            downloader.fetch_range(f"{stub.url}/x", 0, 5, Collected(0), deadline=soon())
            downloader.fetch_range(f"{stub.url}/x", 0, 5, Collected(0), deadline=soon())

        assert [r.connection for r in stub.requests] == [0, 0, 1]

    def test_threads_when_many_share_one_downloader_safely(self, downloader: Downloader) -> None:
        """Threads get their own bytes."""
        failures: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for start in range(number * 100, 4_000_000, 400_000):
                    sink = Collected(start)
                    downloader.fetch_range(
                        f"{stub.url}/x", start, start + 70_000, sink, deadline=soon()
                    )
                    assert CONTENT[start : start + 70_000] == sink.data
            except BaseException as error:  # noqa: BLE001  # told by the test's own thread
                failures.append(error)

        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert failures == []
        assert stub.connections <= 6

    def test_request_when_sent_carries_no_login(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Storage never sees the service's token."""
        monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "secret-token")
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            downloader.fetch_range(f"{stub.url}/x", 0, 5, Collected(0), deadline=soon())

        assert "authorization" not in stub.requests[0].headers
        assert "secret-token" not in str(stub.requests)


class TestRedirects:
    """A bounded number of redirects is followed."""

    def test_redirect_when_met_is_followed_with_its_range(self, downloader: Downloader) -> None:
        """The last answer counts, also on another host, and a relative address is understood."""
        sink = Collected(10)
        with (
            Stub(lambda request: ranged(CONTENT, request)) as other,
            Stub(
                lambda r: (
                    Answer(307, b"gone", {"Location": "/b"})
                    if r.path == "/a"
                    else Answer(302, b"", {"Location": f"{other.url}/c?d=e"})
                )
            ) as first,
        ):
            downloader.fetch_range(f"{first.url}/a", 10, 20, sink, deadline=soon())

        assert CONTENT[10:20] == sink.data
        assert other.requests[0].path == "/c?d=e"
        assert other.requests[0].headers["host"] == f"127.0.0.1:{other.port}"

    def test_redirect_when_it_never_ends_is_refused(self, downloader: Downloader) -> None:
        """Six redirects in a row are too many."""
        with (
            Stub(lambda _: Answer(302, b"", {"Location": "/again"})) as stub,
            pytest.raises(ProtocolError, match="redirects"),
        ):
            downloader.fetch_range(f"{stub.url}/a", 0, 9, Collected(0), deadline=soon())

        assert len(stub.requests) == 6


class TestRefusals:
    """Each refusal of storage is its own error."""

    @pytest.mark.parametrize(
        ("status", "body", "error"),
        [
            (403, b"<Code>AccessDenied</Code><Message>Request has expired</Message>", UrlExpired),
            (400, b"<Code>ExpiredToken</Code>", UrlExpired),
            (404, b"", NotFound),
            (410, b"", NotFound),
            (429, b"", StorageBusy),
            (503, b"<Code>SlowDown</Code>", StorageBusy),
            (500, b"", RemoteUnavailable),
            (400, b"", ProtocolError),
            (204, b"", ProtocolError),
        ],
    )
    def test_status_when_answered_becomes_its_error(
        self, downloader: Downloader, status: int, body: bytes, error: type[Exception]
    ) -> None:
        """The status decides; nothing of the URL is told."""
        with (
            Stub(lambda _: Answer(status, body, {"Retry-After": "7"})) as stub,
            pytest.raises(error) as caught,
        ):
            downloader.fetch_range(
                f"{stub.url}/x?X-Amz-Signature=abc", 0, 9, Collected(0), deadline=soon()
            )

        assert type(caught.value) is error
        assert "abc" not in str(caught.value)
        if isinstance(caught.value, StorageBusy):
            assert caught.value.retry_after_s == 7

    def test_range_when_past_the_end_is_told(self, downloader: Downloader) -> None:
        """416 names the size that storage told."""
        with (
            Stub(lambda request: ranged(b"12345", request)) as stub,
            pytest.raises(RangeNotSatisfiable, match="5 bytes"),
        ):
            downloader.fetch_range(f"{stub.url}/x", 5, 9, Collected(5), deadline=soon())

    def test_file_when_shorter_than_promised_is_an_integrity_error(
        self, downloader: Downloader
    ) -> None:
        """Fewer bytes in storage than the service promised: no try will mend it."""
        sink = Collected(2)
        with (
            Stub(lambda request: ranged(b"12345", request)) as stub,
            pytest.raises(IntegrityError, match="ends at byte 5"),
        ):
            downloader.fetch_range(f"{stub.url}/x", 2, 9, sink, deadline=soon())

        assert sink.data == b"345"

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"Content-Range": "bytes 1-4/5"},
            {"Content-Range": "nonsense"},
            {"Content-Range": "bytes 0-8/9"},
        ],
        ids=["none", "other start", "nonsense", "other length"],
    )
    def test_content_range_when_wrong_is_refused(
        self, downloader: Downloader, headers: dict[str, str]
    ) -> None:
        """Bytes whose place is not certain are not handed on."""
        sink = Collected(0)
        with (
            Stub(lambda _: Answer(206, b"1234", headers)) as stub,
            pytest.raises(ProtocolError),
        ):
            downloader.fetch_range(f"{stub.url}/x", 0, 5, sink, deadline=soon())

        assert sink.data == b""

    @pytest.mark.parametrize(
        ("url", "error"),
        [
            ("ftp://example.org/x", NotSupported),
            ("sftp://example.org/x", NotSupported),
            ("/no/host", NotSupported),
            ("http://127.0.0.1:99999/x", UsageError),
            ("http://127.0.0.1/a b", UsageError),
            ("http://127.0.0.1/a\r\nX: y", UsageError),
        ],
    )
    def test_url_when_not_http_is_refused(
        self, downloader: Downloader, url: str, error: type[Exception]
    ) -> None:
        """Only http and https, and no address that could smuggle a header."""
        with pytest.raises(error):
            downloader.fetch_range(url, 0, 5, Collected(0), deadline=soon())


class TestBreaks:
    """A broken connection tells how far it came; silence ends."""

    @pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
    def test_body_when_cut_tells_what_arrived(self, downloader: Downloader, reset: bool) -> None:
        """`received` is what the sink was given."""
        sink = Collected(50)
        with (
            Stub(lambda r: ranged(CONTENT, r, cut=300_000, reset=reset)) as stub,
            pytest.raises(Interrupted) as caught,
        ):
            downloader.fetch_range(f"{stub.url}/x", 50, 2_000_000, sink, deadline=soon())

        assert len(sink.data) == caught.value.received
        assert CONTENT[50 : 50 + len(sink.data)] == sink.data
        if not reset:
            assert len(sink.data) == 300_000

    def test_server_when_gone_is_offline(self, downloader: Downloader) -> None:
        """A refused connection is Offline, at once."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

        with pytest.raises(Offline):
            downloader.fetch_range(
                f"http://127.0.0.1:{port}/x", 0, 5, Collected(0), deadline=soon()
            )

    @pytest.mark.parametrize("where", ["head", "body"])
    def test_server_when_silent_is_given_up(self, where: str) -> None:
        """No byte for `read_timeout_s` is an error, long before the deadline."""
        answer = (
            Answer(200, CONTENT, after_s=30)
            if where == "head"
            else Answer(
                206,
                CONTENT,
                {"Content-Range": f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"},
                stall=1000,
            )
        )
        began = time.monotonic()
        with (
            Stub(lambda _: answer) as stub,
            Downloader(read_timeout_s=0.4) as downloader,
            pytest.raises(Interrupted, match="sent nothing") as caught,
        ):
            downloader.fetch_range(
                f"{stub.url}/x", 0, len(CONTENT), Collected(0), deadline=soon(25)
            )

        assert caught.value.received == (0 if where == "head" else 1000)
        assert time.monotonic() - began < 5

    def test_server_when_slow_but_steady_is_borne(self) -> None:
        """Silence is measured from the last byte, not from the start."""
        sink = Collected(0)
        with (
            Stub(lambda _: Answer(200, b"x" * 40, pace=(2, 0.05))) as stub,
            Downloader(read_timeout_s=0.5) as downloader,
        ):
            downloader.fetch_range(f"{stub.url}/x", 0, 40, sink, deadline=soon())

        assert len(sink.data) == 40

    def test_deadline_when_passed_ends_a_slow_body(self, downloader: Downloader) -> None:
        """The caller's budget bounds the whole, however steadily bytes come."""
        began = time.monotonic()
        with (
            Stub(lambda _: Answer(200, b"x" * 4000, pace=(2, 0.05))) as stub,
            pytest.raises(DeadlineExceeded),
        ):
            downloader.fetch_range(f"{stub.url}/x", 0, 4000, Collected(0), deadline=soon(0.5))

        assert time.monotonic() - began < 3

    @pytest.mark.parametrize("where", ["head", "body"])
    def test_cancel_when_asked_ends_a_wait(self, downloader: Downloader, where: str) -> None:
        """Nobody waits for what is no longer wanted."""
        stop = threading.Event()
        threading.Timer(0.2, stop.set).start()
        answer = (
            Answer(200, b"x", after_s=30) if where == "head" else Answer(200, b"x" * 9, stall=3)
        )
        began = time.monotonic()
        with Stub(lambda _: answer) as stub, pytest.raises(Cancelled):
            downloader.fetch_range(
                f"{stub.url}/x", 0, 9, Collected(0), deadline=soon(), cancelled=stop.is_set
            )

        assert time.monotonic() - began < 3

    def test_sink_when_it_fails_passes_its_error_through(self, downloader: Downloader) -> None:
        """A full disk is not mistaken for a broken connection, and the connection is given up."""

        def full(_offset: int, _piece: memoryview) -> None:
            raise OSError(28, "No space left on device")

        with Stub(lambda r: ranged(CONTENT, r)) as stub:
            with pytest.raises(OSError, match="No space"):
                downloader.fetch_range(f"{stub.url}/x", 0, 3_000_000, full, deadline=soon())
            sink = Collected(0)
            downloader.fetch_range(f"{stub.url}/x", 0, 10, sink, deadline=soon())

        assert CONTENT[:10] == sink.data


class TestResume:
    """`resume` goes on until all has arrived."""

    POLICY = RetryPolicy(tries=3, base_s=0.01, cap_s=0.02)

    def test_resume_when_cut_again_and_again_goes_on_from_there(
        self, downloader: Downloader
    ) -> None:
        """Tries that brought bytes do not count."""
        sink = Collected(0)
        with Stub(lambda r: ranged(CONTENT, r, cut=500_000)) as stub:
            got = downloader.resume(
                lambda _fresh: f"{stub.url}/x",
                0,
                len(CONTENT),
                sink,
                deadline=soon(),
                policy=self.POLICY,
            )

        assert sink.data == CONTENT
        assert got.received == len(CONTENT)
        starts = [
            int(r.headers["range"].removeprefix("bytes=").split("-")[0]) for r in stub.requests
        ]
        assert starts == sorted(set(starts))
        assert len(starts) == 9

    def test_resume_when_url_expired_asks_for_a_fresh_one(self, downloader: Downloader) -> None:
        """403 means a new URL, not a new try with the old one."""
        asked: list[bool] = []

        def url(fresh: bool) -> str:
            asked.append(fresh)
            return f"{stub.url}/{'new' if fresh else 'old'}"

        sink = Collected(0)
        with Stub(lambda r: ranged(CONTENT, r) if r.path == "/new" else Answer(403)) as stub:
            downloader.resume(url, 0, 1000, sink, deadline=soon(), policy=self.POLICY)

        assert asked == [False, True]
        assert CONTENT[:1000] == sink.data

    def test_resume_when_nothing_helps_gives_up(self, downloader: Downloader) -> None:
        """The policy bounds tries that bring nothing."""
        with Stub(lambda _: Answer(503)) as stub, pytest.raises(StorageBusy):
            downloader.resume(
                lambda _f: f"{stub.url}/x",
                0,
                9,
                Collected(0),
                deadline=soon(),
                policy=self.POLICY,
            )

        assert len(stub.requests) == 3


class TestProxies:
    """The environment's proxies are used, and left where NO_PROXY says so."""

    def test_http_when_proxied_goes_through_the_proxy(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The proxy is sent the whole address and its own login."""
        sink = Collected(0)
        with Stub(lambda request: ranged(CONTENT, request)) as proxy:
            monkeypatch.setenv("http_proxy", f"http://user:p%40ss@127.0.0.1:{proxy.port}")
            downloader.fetch_range("http://storage.invalid/key?a=b", 0, 9, sink, deadline=soon())

        assert CONTENT[:9] == sink.data
        assert proxy.requests[0].path == "http://storage.invalid/key?a=b"
        assert proxy.requests[0].headers["host"] == "storage.invalid"
        assert proxy.requests[0].headers["proxy-authorization"] == "Basic dXNlcjpwQHNz"

    def test_https_when_proxied_asks_for_a_tunnel(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refused tunnel means that storage is out of reach."""
        with Stub(lambda _: Answer(403, b"no")) as proxy:
            monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{proxy.port}")
            with pytest.raises(Offline):
                downloader.fetch_range(
                    "https://storage.invalid/key", 0, 9, Collected(0), deadline=soon()
                )

        assert (
            proxy.requests[0].method,
            proxy.requests[0].path,
        ) == ("CONNECT", "storage.invalid:443")

    def test_no_proxy_when_it_names_the_host_is_heeded(
        self, downloader: Downloader, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """NO_PROXY wins."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
        with Stub(lambda request: ranged(CONTENT, request)) as stub:
            downloader.fetch_range(f"{stub.url}/x", 0, 9, Collected(0), deadline=soon())

        assert len(stub.requests) == 1


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


class TestTls:
    """Bytes over TLS, from hosts whose certificate is valid."""

    def server(self, folder: Path) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        return context

    def test_tls_when_trusted_brings_the_bytes(self, certificate: Path) -> None:
        """The connection is kept, and large bodies arrive whole."""
        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        with (
            Stub(lambda r: ranged(CONTENT, r), tls=self.server(certificate)) as stub,
            Downloader(tls=trusting) as downloader,
        ):
            for _ in range(2):
                sink = Collected(0)
                downloader.fetch_range(f"{stub.url}/x", 0, len(CONTENT), sink, deadline=soon())
                assert sink.data == CONTENT

        assert downloader.counts().connections == 1

    def test_tls_when_not_trusted_says_so(self, certificate: Path) -> None:
        """A certificate that nobody vouches for is not a network failure to be tried again."""
        with (
            Stub(lambda r: ranged(CONTENT, r), tls=self.server(certificate)) as stub,
            Downloader() as downloader,
            pytest.raises(ProtocolError, match="certificate"),
        ):
            downloader.fetch_range(f"{stub.url}/x", 0, 9, Collected(0), deadline=soon())

    def test_redirect_when_it_leaves_tls_is_refused(self, certificate: Path) -> None:
        """What was asked for in private is not fetched in the open."""
        trusting = ssl.create_default_context(cafile=str(certificate / "cert.pem"))

        def answer(_: Request) -> Answer:
            return Answer(302, b"", {"Location": "http://127.0.0.1:1/x"})

        with (
            Stub(answer, tls=self.server(certificate)) as stub,
            Downloader(tls=trusting) as downloader,
            pytest.raises(ProtocolError, match="https"),
        ):
            downloader.fetch_range(f"{stub.url}/x", 0, 9, Collected(0), deadline=soon())
