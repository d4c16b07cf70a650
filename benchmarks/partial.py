"""Reading parts of files that are not in the cache: how much is fetched, and how soon it is there."""

from __future__ import annotations

import os
import random
import statistics
import time
from pathlib import Path

from benchmarks.cold import LATENCY_MS
from benchmarks.complete import big
from benchmarks.harness import MIB, Row, Spread, World, random_file, seconds

READS = 1000
SPOT = 64 << 10
TRIPS = 3
"""Two round trips and the presigned URL's own."""
SLACK_S = 0.005
"""For the processes themselves; the service's latency does not hold it."""
FILES = 12


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

    Two round trips and the presigned URL's are 60 ms; the rest is processor time of the registry, the
    daemon and the reader. Sizes known: the folder was listed with sizes before. Not known: its names were
    just listed, and stat has to wait for the size. The peer is the latency alone.
    """
    source = world.folder("first")
    files = world.times(FILES)
    if not any(source.iterdir()):
        for kind in ("known", "new"):
            for which in ("first", "last"):
                for i in range(files):
                    # A folder each, so that nobody's request brings another one's size.
                    random_file(source / f"{kind}-{which}-{i}" / "cold.bin", 4 * MIB + 12345)
    data = world.root / "first-registry"
    project = str(world.seed(data, source, "First")["project_id"])
    rows = []
    with (
        world.registry(data, "--latency-ms", str(LATENCY_MS)) as registry,
        world.mount(registry, project) as mount,
    ):
        top = mount.path / "First"
        for folder in sorted(os.listdir(top)):
            os.listdir(top / folder)
        for i in range(files):
            for which in ("first", "last"):
                (top / f"known-{which}-{i}" / "cold.bin").stat()
        time.sleep(1.0)  # whatever these looks have set going is over
        for kind, shown in (("known", "size known"), ("new", "size not known")):
            for which, text in (("first", "first byte"), ("last", "last 64 KiB")):
                took = [
                    _first(top / f"{kind}-{which}-{i}" / "cold.bin", last=which == "last")
                    for i in range(files)
                ]
                bound = TRIPS * LATENCY_MS / 1000
                spread = Spread.of([t / bound for t in took])
                rows.append(
                    Row(
                        f"cold file, {text}, {shown}",
                        seconds(statistics.median(took)),
                        f"{TRIPS} × {LATENCY_MS} ms",
                        spread.text(),
                        f"≤ 1 (+ {SLACK_S * 1000:.0f} ms)",
                        statistics.median(took) <= bound + SLACK_S,
                    )
                )
    return rows


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
