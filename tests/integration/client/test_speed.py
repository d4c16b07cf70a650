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
from tests.support.registry import Registry, running

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


UPLOAD = """
import asyncio, resource, sys, time
from pathlib import Path
from synd.client.credentials import Token, from_base
from synd.client.remote import Outgoing
from synd.client.service import SynapseClient
from synd.client.throttle import Limits
from synd.digest import md5_of_file
url, token, folder, at_once = sys.argv[1:]
files = [
    Outgoing(path, path.stat().st_size, md5_of_file(path), path.name)
    for path in sorted(Path(folder).iterdir())
]
async def main():
    async with SynapseClient(from_base(url), Token(token), limits=Limits(64, 0)) as client:
        project = await client.own_project("speed")
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        left = iter(files)
        async def work():
            for what in left:
                await client.upload(what, project)
        await asyncio.gather(*(work() for _ in range(int(at_once))))
        took = time.perf_counter() - began
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(took, after - before)
asyncio.run(main())
"""


def _upload(registry: Registry, folder: Path, at_once: int) -> tuple[float, int]:
    """(seconds, KiB of further memory) of uploading a folder's files in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, registry.url, registry.token, str(folder), str(at_once)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    took, more = done.stdout.split()
    return float(took), int(more)


@pytest.mark.slow
def test_large_upload_when_sent_holds_little_of_it_in_memory(tmp_path: Path) -> None:
    """A few buffers, whatever the size of the file."""
    folder = tmp_path / "files"
    folder.mkdir()
    with open(folder / "large", "wb") as file:
        file.writelines(os.urandom(1 << 20) for _ in range(SIZE >> 20))
    with running(tmp_path / "data") as registry:
        took, more_kib = _upload(registry, folder, 1)

    assert more_kib < 48 << 10
    assert SIZE / took > 50e6


@pytest.mark.slow
def test_small_uploads_when_many_are_bound_by_the_latency(tmp_path: Path) -> None:
    """Five steps of 20 ms each, 32 files at once: 3.2 s for a thousand where nothing else took time."""
    folder = tmp_path / "files"
    folder.mkdir()
    for n in range(1000):
        (folder / f"{n}.txt").write_bytes(os.urandom(500))
    with running(tmp_path / "data", "--latency-ms", "20") as registry:
        took, _ = _upload(registry, folder, 32)

    assert took < 15
