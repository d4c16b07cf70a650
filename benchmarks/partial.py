"""Reading parts of files that are not in the cache: how much is fetched, and how soon it is there."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import statistics
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.cold import LATENCY_MS
from benchmarks.complete import big
from benchmarks.harness import MIB, Registry, Row, Spread, World, random_file, seconds

READS = 1000
SPOT = 64 << 10
BOUND_MS = 3 * LATENCY_MS
"""Two round trips and the presigned URL's, and not a moment for the processor."""
FILES = 12
KINDS = {"known": "size known", "new": "size not known"}
WHICH = {"first": "first byte", "last": "last 64 KiB"}


def spots(world: World) -> list[Row]:
    """Bytes fetched for 1 000 random reads of 64 KiB in a cold 1 GiB file, by the daemon's own count
    and by the registry's.
    """
    data, project, size = big(world)
    rows = []
    for aligned in (True, False):
        with world.registry(data) as registry, world.mount(registry, project) as mount:
            path = mount.path / "Big" / "big.bin"
            path.stat()
            registry.requests(reset=True)
            before = mount.metrics()["downloaded_bytes_total"]
            places = random.Random(7)
            asked = 0
            began = time.perf_counter()
            fd = os.open(path, os.O_RDONLY)
            try:
                for _ in range(READS):
                    at = places.randrange(size - SPOT)
                    if aligned:
                        at -= at % SPOT
                    asked += len(os.pread(fd, SPOT, at))
            finally:
                os.close(fd)
            took_s = time.perf_counter() - began
            fetched = mount.metrics()["downloaded_bytes_total"] - before
            sent = registry.requests().get("blob_bytes")
            ratio = fetched / asked
            told = f"{sent / 1e6:.1f} MB" if sent is not None else "not counted"
            rows.append(
                Row(
                    f"{READS} reads of 64 KiB, {'aligned' if aligned else 'anywhere'}",
                    f"{fetched / 1e6:.1f} MB fetched",
                    f"{asked / 1e6:.1f} MB asked for",
                    f"{ratio:.2f}",
                    "≤ 2.5",
                    ratio <= 2.5 and (sent is None or sent <= 2.5 * asked),
                    f"the registry sent {told}; {READS / took_s:,.0f} reads/s",
                )
            )
    return rows


def first_byte(world: World) -> list[Row]:
    """stat + open + first read of a cold file, at 20 ms per request; each file read once.

    The target is the latency of two round trips and the presigned URL's, with nothing for the work itself:
    where all three are needed not even the bare requests meet it, and the ratio tells what synd adds. Sizes known: the folder was listed with sizes before. Not known: its names were
    just listed, and stat has to wait for the size. The peer is a program that knows what to ask for and
    does nothing else: the same requests (bundle when the size is not known, presigned URL, range) on
    connections that stand already.
    """
    source = world.folder("first")
    files = world.times(FILES)
    if not any(source.iterdir()):
        for kind in KINDS:
            for which in WHICH:
                for i in range(files):
                    # A folder each, so that nobody's request brings another one's size.
                    random_file(source / f"{kind}-{which}-{i}" / "cold.bin", 4 * MIB + 12345)
    data = world.root / "first-registry"
    project = str(world.seed(data, source, "First")["project_id"])
    rows = []
    with (
        world.registry(data, "--latency-ms", str(LATENCY_MS)) as registry,
        world.mount(registry, project) as mount,
        contextlib.closing(_Bare(registry)) as bare,
    ):
        top = mount.path / "First"
        ids: dict[str, str] = {}
        for folder in sorted(os.listdir(top)):
            os.listdir(top / folder)
            ids[folder] = registry.child(registry.child(project, folder), "cold.bin")
        for i in range(files):
            for which in WHICH:
                (top / f"known-{which}-{i}" / "cold.bin").stat()
        time.sleep(1.0)  # whatever these looks have set going is over
        bare.warm(ids["known-first-0"])
        for kind, shown in KINDS.items():
            trips = 2 if kind == "known" else 3
            for which, text in WHICH.items():
                pairs = [
                    (
                        _first(top / name / "cold.bin", last=which == "last"),
                        bare.first(ids[name], known=kind == "known", last=which == "last"),
                    )
                    for name in (f"{kind}-{which}-{i}" for i in range(files))
                ]
                took_s = statistics.median(s for s, _ in pairs)
                rows.append(
                    Row(
                        f"cold file, {text}, {shown}",
                        seconds(took_s),
                        f"the bare requests {seconds(statistics.median(p for _, p in pairs))}",
                        Spread.of([s / p for s, p in pairs]).text(),
                        f"≤ {BOUND_MS} ms",
                        took_s <= BOUND_MS / 1000,
                        f"{trips} requests one after the other: {trips * LATENCY_MS} ms of latency",
                    )
                )
    return rows


class _Bare:
    """The requests of a first read, one after the other, by the standard library."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._service = http.client.HTTPConnection(urlsplit(registry.url).netloc, timeout=30)
        self._storage: http.client.HTTPConnection | None = None
        self._handles: dict[str, tuple[str, int]] = {}

    def close(self) -> None:
        self._service.close()
        if self._storage is not None:
            self._storage.close()

    def _call(self, path: str, body: object) -> Any:
        headers = {
            "Authorization": f"Bearer {self._registry.token}",
            "Content-Type": "application/json",
        }
        self._service.request("POST", path, json.dumps(body), headers)
        with self._service.getresponse() as answer:
            return json.loads(answer.read())

    def _bundle(self, entity: str) -> tuple[str, int]:
        asked = {"includeEntity": True, "includeFileHandles": True}
        found = self._call(f"/repo/v1/entity/{entity}/bundle2", asked)["fileHandles"][0]
        return str(found["id"]), int(found["contentSize"])

    def warm(self, entity: str) -> None:
        self.first(entity, known=False, last=False)

    def first(self, entity: str, *, known: bool, last: bool) -> float:
        """Seconds; what is known is looked up before the clock starts."""
        handle, size = self._bundle(entity) if known else ("", 0)
        began = time.perf_counter()
        if not known:
            handle, size = self._bundle(entity)
        one = {
            "fileHandleId": handle,
            "associateObjectId": entity,
            "associateObjectType": "FileEntity",
        }
        asked = {
            "requestedFiles": [one],
            "includePreSignedURLs": True,
            "includeFileHandles": False,
            "includePreviewPreSignedURLs": False,
        }
        url = self._call("/file/v1/fileHandle/batch", asked)["requestedFiles"][0]["preSignedURL"]
        parts = urlsplit(url)
        if self._storage is None:
            self._storage = http.client.HTTPConnection(parts.netloc, timeout=30)
        start = size - SPOT if last else 0
        headers = {"Range": f"bytes={start}-{start + SPOT - 1}"}
        self._storage.request("GET", f"{parts.path}?{parts.query}", headers=headers)
        with self._storage.getresponse() as answer:
            got = len(answer.read())
        took_s = time.perf_counter() - began
        if got != SPOT:
            raise RuntimeError(f"{got} bytes instead of {SPOT}")
        return took_s


def _first(path: Path, *, last: bool) -> float:
    """Seconds of stat + open + read."""
    began = time.perf_counter()
    size = path.stat().st_size
    fd = os.open(path, os.O_RDONLY)
    try:
        wanted = SPOT if last else 1
        got = os.pread(fd, wanted, size - SPOT if last else 0)
        took_s = time.perf_counter() - began
    finally:
        os.close(fd)
    if len(got) != wanted:
        raise RuntimeError(f"{path}: {len(got)} bytes instead of {wanted}")
    return took_s
