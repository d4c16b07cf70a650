"""The byte server over real sockets."""

import os
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.registry.conftest import Api
from tests.support.registry import running, wait_until

DATA = os.urandom(300_000)


@pytest.fixture
def url(api, project):
    return api.url(api.file(project, "data.bin", DATA))


def get(url, method="GET", **headers):
    with httpx.Client(trust_env=False) as client:
        return client.request(method, url, headers=headers)


class TestDownload:
    def test_whole_body_has_the_headers_of_object_storage(self, url):
        """200 with length, type, name and etag; no login needed, one is tolerated."""
        answer = get(url, Authorization="Bearer whatever")

        assert answer.content == DATA
        assert answer.headers["content-length"] == str(len(DATA))
        assert answer.headers["content-disposition"] == 'attachment; filename="data.bin"'
        assert answer.headers["accept-ranges"] == "bytes"

    @pytest.mark.parametrize(
        ("spec", "start", "end"),
        [("0-0", 0, 1), ("100-199", 100, 200), ("299000-", 299_000, 300_000), ("-10", 299_990, 300_000),
         ("299999-400000", 299_999, 300_000)],
    )  # fmt: skip
    def test_range_is_206_with_exactly_these_bytes(self, url, spec, start, end):
        """All spellings of one range."""
        answer = get(url, Range=f"bytes={spec}")

        assert answer.status_code == 206
        assert answer.content == DATA[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(DATA)}"

    def test_range_past_the_end_is_416(self, url):
        """The size is told, as RFC 9110 asks."""
        answer = get(url, Range="bytes=300000-")

        assert answer.status_code == 416
        assert answer.headers["content-range"] == "bytes */300000"

    def test_head_gives_headers_alone(self, url):
        """HEAD is allowed by a URL made for GET."""
        answer = get(url, "HEAD")

        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == str(len(DATA))

    def test_changed_url_is_403(self, url):
        """Nobody makes a URL but the registry."""
        assert get(url[:-1] + ("1" if url[-1] == "0" else "0")).status_code == 403

    def test_client_that_leaves_in_the_middle_harms_nobody(self, api, project):
        """The size probe of the official client reads the head and drops the connection."""
        url = api.url(api.file(project, "big.bin", os.urandom(20 << 20)))
        parts = urlsplit(url)
        for _ in range(5):
            with socket.create_connection((parts.hostname, parts.port)) as connection:
                connection.sendall(
                    f"GET {parts.path}?{parts.query} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
                )
                assert connection.recv(100).startswith(b"HTTP/1.1 200")

        assert get(url, Range="bytes=5-9").status_code == 206

    def test_connection_is_kept_for_the_next_request(self, api, project):
        """Many small requests go over one connection, errors among them."""
        url = api.url(api.file(project, "small.bin", b"x" * 100))
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            for bad in (False, True, False):
                target = f"{parts.path}?{parts.query}" + ("0" if bad else "")
                connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                answer = b""
                while b"x" * 100 not in answer and b"</Error>" not in answer:
                    answer += connection.recv(4096)
                assert (b"403" in answer[:20]) is bad

    def test_expired_url_is_403_and_a_new_one_works(self, tmp_path):
        """`--url-ttl-s` is the life of a URL; a running registry gives fresh ones."""
        with running(tmp_path / "data", "--url-ttl-s", "3") as registry:
            api = Api(registry)
            file = api.file(api.project(), "a", b"abc")
            url = api.url(file)

            assert get(url).content == b"abc"
            wait_until(lambda: get(url).status_code == 403, 10)
            assert get(api.url(file)).content == b"abc"
            api.http.close()

    def test_missing_bytes_are_404(self, api, project, shared):
        """A blob that is gone from disk is not found."""
        file = api.file(project, "gone", b"to be removed")
        md5 = api.batch([(file["dataFileHandleId"], file["id"])])[0]["fileHandle"]["contentMd5"]
        (shared.data / "blobs" / md5[:2] / md5).unlink()

        assert get(api.url(file)).status_code == 404


@pytest.mark.slow
class TestBandwidth:
    def test_connection_is_held_to_its_rate(self, tmp_path):
        """`--mbit 8` lets a megabyte pass in a second."""
        with running(tmp_path / "data", "--mbit", "8") as registry:
            api = Api(registry)
            url = api.url(api.file(api.project(), "a", os.urandom(1_000_000)))

            took = get(url).elapsed.total_seconds()

            api.http.close()
        assert 0.8 < took < 3

    def test_latency_is_added_to_every_request(self, tmp_path):
        """`--latency-ms` holds for REST and for bytes."""
        with running(tmp_path / "data", "--latency-ms", "60") as registry:
            api = Api(registry)
            url = api.url(api.file(api.project(), "a", b"abc"))

            rest = api.http.get("/repo/v1/version").elapsed.total_seconds()
            blob = get(url).elapsed.total_seconds()

            api.http.close()
        assert rest >= 0.06
        assert blob >= 0.06
