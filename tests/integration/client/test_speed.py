"""How fast bytes and requests go on loopback: the numbers that docs/adr/0002 rests on, as lower bounds."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.client.transfer import Downloader
from synd.clock import Deadline

SIZE = 256 << 20

SERVER = """
import os, re, socket, sys, threading
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
def serve(sock):
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    held = b""
    while True:
        while b"\\r\\n\\r\\n" not in held:
            more = sock.recv(65536)
            if not more:
                return
            held += more
        head, held = held.split(b"\\r\\n\\r\\n", 1)
        match = re.search(rb"(?i)range: bytes=(\\d+)-(\\d+)", head)
        first, last = int(match[1]), int(match[2])
        n = last - first + 1
        told = b"HTTP/1.1 206 x\\r\\nContent-Length: %d\\r\\nContent-Range: bytes %d-%d/%d\\r\\n\\r\\n"
        told %= (n, first, last, size)
        if n <= 65536:
            sock.sendall(told + os.pread(fd, n, first))
            continue
        sock.sendall(told)
        while n:
            sent = os.sendfile(sock.fileno(), fd, first, n)
            first, n = first + sent, n - sent
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    source = tmp_path / "source"
    with open(source, "wb") as file:
        file.writelines(os.urandom(1 << 10) * 1024 for _ in range(SIZE >> 20))
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(source)], stdout=subprocess.PIPE, text=True
    )
    assert server.stdout is not None
    yield f"http://127.0.0.1:{server.stdout.readline().strip()}/x"
    server.kill()
    server.wait()
    server.stdout.close()


@pytest.mark.slow
def test_one_connection_when_reading_far_brings_1_5_gb_a_second(url: str, tmp_path: Path) -> None:
    """Python is not what limits a sequential reader. Best of several, into a file whose pages exist."""
    fd = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    best = 0.0
    with Downloader() as downloader:
        for _ in range(6):
            began = time.perf_counter()
            downloader.fetch_range(
                url,
                0,
                SIZE,
                lambda at, piece: os.pwrite(fd, piece, at),
                deadline=Deadline.after(60, "x"),
            )
            best = max(best, SIZE / (time.perf_counter() - began))
    os.close(fd)

    assert best >= 1.5e9


@pytest.mark.slow
def test_threads_when_reading_pages_make_2500_requests_a_second(url: str) -> None:
    """Random reads of 4 KiB over kept connections, from four threads. Best of several."""
    best = 0.0
    with Downloader() as downloader:

        def work(number: int) -> None:
            for page in range(number, 2000, 4):
                downloader.fetch_range(
                    url,
                    page * 4096,
                    page * 4096 + 4096,
                    lambda *_: None,
                    deadline=Deadline.after(60, "x"),
                )

        for _ in range(4):
            threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            best = max(best, 2000 / (time.perf_counter() - began))
        assert downloader.counts().connections <= 4

    assert best >= 2500
