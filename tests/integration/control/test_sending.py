"""Ranges of files over one connection: as long as they are, one after another, and to clients that leave."""

from __future__ import annotations

import http.client
import logging
import random
import socket

import pytest

from synd.control import ready
from tests.support.daemons import control_api

BYTES = random.Random(7).randbytes(6 << 20)
"""More than a socket holds, so that sending waits for the reader."""


@pytest.fixture(scope="module")
def api(tmp_path_factory):
    with control_api(tmp_path_factory.mktemp("d") / "s.sock") as served:
        served.services.ready.contents["syn5", "data"] = BYTES
        yield served


@pytest.fixture
def line(api):
    connection = http.client.HTTPConnection("localhost", timeout=20)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(20)
    connection.sock.connect(str(api.path))
    yield connection
    connection.close()


def request(start: int = 0, end: int | None = None, *, more: str = "") -> bytes:
    """A GET of a range as it goes over the line."""
    last = "" if end is None else end - 1
    return (
        f"GET {ready.DATA}/syn5 HTTP/1.1\r\nHost: synd\r\nRange: bytes={start}-{last}\r\n{more}\r\n"
    ).encode()


@pytest.mark.req("S1-27")
def test_ranges_on_one_connection_are_each_whole(line):
    """Small ones and large ones, between other answers."""
    numbers = random.Random(3)
    for turn in range(60):
        start = numbers.randrange(len(BYTES))
        end = min(len(BYTES), start + numbers.choice([1, 70, 65536, 3 << 20]))
        line.request("GET", f"{ready.DATA}/syn5", headers={"Range": f"bytes={start}-{end - 1}"})
        answer = line.getresponse()
        assert (206, f"bytes {start}-{end - 1}/{len(BYTES)}") == (
            answer.status, answer.headers["Content-Range"]
        )  # fmt: skip
        assert BYTES[start:end] == answer.read()
        if turn % 7 == 0:
            line.request("HEAD", f"{ready.DATA}/syn5")
            head = line.getresponse()
            assert (200, str(len(BYTES)), b"") == (
                head.status, head.headers["Content-Length"], head.read()
            )  # fmt: skip


def test_requests_that_do_not_wait_for_answers_are_answered_in_order(line):
    """HTTP/1.1 allows pipelining: each answer stands alone."""
    spans = [(0, 5 << 20), (17, 18), (1 << 20, 6 << 20), (5, 5 + (1 << 20))]
    line.sock.sendall(b"".join(request(*span) for span in spans))
    with line.sock.makefile("rb") as replies:
        for start, end in spans:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += replies.readline()
            assert head.startswith(b"HTTP/1.1 206 ")
            assert BYTES[start:end] == replies.read(end - start)


def test_client_that_leaves_in_the_middle_disturbs_nobody(api, line, caplog):
    """Its answer ends without a word in the log; others are served on."""
    for _ in range(5):
        with socket.socket(socket.AF_UNIX) as leaving:
            leaving.settimeout(20)
            leaving.connect(str(api.path))
            leaving.sendall(request())
            assert leaving.recv(1000).startswith(b"HTTP/1.1 206 ")
    line.request("GET", f"{ready.DATA}/syn5")

    assert BYTES == line.getresponse().read()
    assert [] == [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_client_that_asks_for_the_end_of_the_connection_gets_all_before(api):
    """`Connection: close` cuts nothing off."""
    with socket.socket(socket.AF_UNIX) as closing:
        closing.settimeout(20)
        closing.connect(str(api.path))
        closing.sendall(request(more="Connection: close\r\n"))
        with closing.makefile("rb") as replies:
            body = replies.read().partition(b"\r\n\r\n")[2]

    assert BYTES == body


@pytest.mark.parametrize("span", [(0, 1), (len(BYTES) - 1, len(BYTES)), (0, len(BYTES))])
def test_range_over_an_old_http_version_is_whole(api, span):
    """HTTP/1.0 knows no kept connection."""
    with socket.socket(socket.AF_UNIX) as old:
        old.settimeout(20)
        old.connect(str(api.path))
        old.sendall(request(*span).replace(b"HTTP/1.1", b"HTTP/1.0"))
        with old.makefile("rb") as replies:
            body = replies.read().partition(b"\r\n\r\n")[2]

    assert BYTES[slice(*span)] == body
