"""Files made readable by region: the daemon's jobs against the same programs run by hand, and reads of what
they made.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import random
import shlex
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

from benchmarks import genomics
from benchmarks.harness import (
    MIB,
    Mount,
    Row,
    World,
    at_least,
    at_most,
    forget_pages,
    need,
    rate,
    run,
    seconds,
    timed,
    turns,
)
from synd.config import folders
from synd.control import contract, ready
from synd.digest import md5_of_file
from synd.processors.base import Caps, Source
from synd.processors.stages import Order, Stages
from synd.processors.tools import Toolchain
from syndd.schedule.proctree import below

THREADS = 2
MEMORY = 128 * MIB
"""Of a sort, and of each thread of samtools: the defaults."""
OVERHEAD = 1.10
TEXT_BYTES = round(MEMORY * 1.2) + 40 * MIB
ALIGNMENT_BYTES = round(MEMORY * THREADS * 1.2) + 40 * MIB
"""What a job may use at its peak (reference/preprocessing.md, 9.6), all its processes together."""
JOB_S = 300.0
LOOK_S = 0.02
TURNS = 7

_SORT = f"LC_ALL=C sort -t '\t' -s -S {MEMORY >> 20}M -T . --parallel={THREADS}"
_PACK = f"bgzip -@{THREADS} -l1 -c"

Make = Callable[[Path, int], Path]


class Kind:
    """A file to prepare, and how one would do it by hand: `SRC` to `out`, and the index beside it."""

    def __init__(self, name: str, make: Make, full: int, by_hand: str, peak_bytes: int) -> None:
        self.name = name
        self.make = make
        self.full = full
        self.by_hand = by_hand
        self.peak_bytes = peak_bytes


def _packed(path: Path, records: int) -> Path:
    """A VCF in order, in BGZF."""
    text = genomics.vcf(path.with_suffix(""), records, in_order=True)
    run(["bgzip", "-f", text])
    return path


def _ordered_bam(path: Path, records: int) -> Path:
    """A BAM in order."""
    raw = genomics.bam(path.with_suffix(".raw.bam"), records)
    run(["samtools", "sort", "--no-PG", "-o", path, raw])
    raw.unlink()
    return path


KINDS = (
    Kind(
        "unsorted.vcf", genomics.vcf, genomics.VCF_RECORDS,
        f"(grep '^#' SRC; grep -v '^#' SRC | {_SORT} -k1,1 -k2,2n) | {_PACK} > out.gz"
        " && tabix -f -p vcf out.gz",
        TEXT_BYTES,
    ),
    Kind(
        "unsorted.bed", genomics.bed, genomics.BED_RECORDS,
        f"{_SORT} -k1,1 -k2,2n -k3,3n SRC | {_PACK} > out.gz && tabix -f -p bed out.gz",
        TEXT_BYTES,
    ),
    Kind(
        "unsorted.bam", genomics.bam, genomics.READS,
        f"samtools sort --no-PG -@{THREADS} -m {MEMORY >> 20}M -l1 -o out.bam SRC"
        f" && samtools index -@{THREADS} out.bam",
        ALIGNMENT_BYTES,
    ),
    Kind("ordered.vcf.gz", _packed, genomics.VCF_RECORDS, "ln -sf SRC in.vcf.gz && tabix -f -p vcf in.vcf.gz", TEXT_BYTES),
    Kind("ordered.bam", _ordered_bam, genomics.READS, f"samtools index -@{THREADS} -o out.bai SRC", ALIGNMENT_BYTES),
)  # fmt: skip


def _made(world: World) -> tuple[Path, str, Path]:
    """(registry's folder, project, folder of the sources)."""

    def make() -> tuple[Path, str, Path]:
        source = world.folder("genomics")
        for kind in KINDS:
            kind.make(source / kind.name, kind.full // 10 if world.quick else kind.full)
        data = world.root / "genomics-registry"
        return data, str(world.seed(data, source, "Genomics")["project_id"]), source

    made: tuple[Path, str, Path] = world.once("genomics", make)
    return made


@contextlib.contextmanager
def _daemon(world: World) -> Iterator[tuple[Mount, Path]]:
    need("samtools", "bgzip", "tabix")
    data, project, source = _made(world)
    with (
        world.registry(data) as registry,
        world.mount(registry, project, tool_threads=THREADS) as mount,
    ):
        yield mount, source


def pipelines(world: World) -> list[Row]:
    """A job through the daemon, from asking until the artifacts can be read, the source being in the cache;
    against its own stages called straight, and by hand the same programs with the same threads, memory and level, but
    nothing mended and nothing checked. As after any job of the last minute a worker waits for it; the first one of all
    takes 0.1 s more.
    """
    rows = []
    with _daemon(world) as (mount, source):
        for kind in KINDS:
            size = (source / kind.name).stat().st_size
            path = mount.path / "Genomics" / kind.name
            pairs, staged = [], []
            # None is always the first of a turn.
            for turn in range(world.times(TURNS)):
                first = _by_hand(world, kind, source / kind.name) if turn % 2 else 0.0
                mount.clear()
                mount.prefetch(path)
                took = _prepared(mount, path)
                hand = first or _by_hand(world, kind, source / kind.name)
                pairs.append((took, hand))
                staged.append((took, _by_stages(world, source / kind.name)))
            peaks = []
            # In turns of their own: whoever looks at memory so often takes a good part of a processor.
            for _ in range(2):
                mount.clear()
                mount.prefetch(path)
                with _watched(mount.pid) as watched:
                    _prepared(mount, path)
                peaks.append(watched["peak"])
            what = f"{kind.name}, {size / 1e6:.0f} MB"
            rows.append(
                _overhead(
                    f"prepared: {what}", staged, "the stages alone, normaliser and checks too"
                )
            )
            rows.append(_overhead(f"prepared: {what}", pairs, "by hand: nothing is checked"))
            rows.append(
                at_most(
                    f"peak memory of the job: {what}", peaks, kind.peak_bytes,
                    unit=lambda value: f"{value / MIB:.0f} MiB",
                )
            )  # fmt: skip
    return rows


def _overhead(measure: str, pairs: list[tuple[float, float]], note: str) -> Row:
    ratios = sorted(ours / hand for ours, hand in pairs)
    median = statistics.median(ratios)
    return Row(
        measure,
        seconds(statistics.median(ours for ours, _ in pairs)),
        seconds(statistics.median(hand for _, hand in pairs)),
        f"{median:.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f})",
        f"≤ {OVERHEAD}",
        median <= OVERHEAD,
        note,
    )


def _by_hand(world: World, kind: Kind, source: Path) -> float:
    folder = world.folder("by-hand")
    script = kind.by_hand.replace("SRC", shlex.quote(str(source)))
    return timed(lambda: run(["bash", "-ec", f"cd {shlex.quote(str(folder))}; {script}"]))


def _by_stages(world: World, source: Path) -> float:
    """Seconds of what a job does, in this process: no queue, no daemon, no other process of Python."""
    folder = world.folder("by-stages")
    order = Order(
        job="by-hand",
        source=Source(
            "synapse", "syn1", str(md5_of_file(source)), source.name, source.stat().st_size
        ),
        folder=folder,
        path=source,
        caps=Caps(tool_threads=THREADS),
    )
    stages = Stages(order, Toolchain(order.caps.tools), lambda *_: None, lambda *_: None)
    return timed(stages.run)


def _prepared(mount: Mount, path: Path) -> float:
    """Seconds until the artifacts of a path can be read."""
    control = mount.control
    events = control.stream(contract.JOBS_FOLLOW, idle_s=JOB_S)
    began = time.perf_counter()
    asked = control.post(ready.PREPARE, {"targets": [str(path)]})
    if asked["failed"] or not asked["jobs"]:
        raise RuntimeError(f"nothing to prepare: {asked}")
    (job,) = asked["jobs"]
    # Told, not asked for again and again, which would take time from the job.
    for event in events:
        told = event["data"]
        if told.get("id") == job["id"] and told["state"] not in ("pending", "running"):
            break
    took = time.perf_counter() - began
    job = control.get(f"{contract.JOBS}/{job['id']}")
    if job["state"] != "completed":
        raise RuntimeError(f"it failed: {job['problem']}")
    return took


@contextlib.contextmanager
def _watched(daemon: int) -> Iterator[dict[str, float]]:
    """The most resident memory (bytes) of all that descends from the daemon, as far as looks now and then see."""
    found = {"peak": 0.0}
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            now = sum(_own_bytes(pid) for pid in below(daemon) if pid != daemon)
            found["peak"] = max(found["peak"], now)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _own_bytes(pid: int) -> int:
    """Memory of its own: resident, but not of a file that others map, too."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def regions(world: World) -> list[Row]:
    """An artifact over the daemon's socket against its file, read into the same buffer: whole from the disk,
    and by ranges when all of it is in memory. A request costs the daemon about half a millisecond.
    """
    rows = []
    with _daemon(world) as (mount, _):
        path = mount.path / "Genomics" / "unsorted.vcf"
        mount.prefetch(path)
        _prepared(mount, path)
        url = f"{ready.DATA}/{os.getxattr(path, 'user.synapse.id').decode()}"
        connection = _Socket(folders(mount.env).socket)
        with contextlib.closing(connection):
            connection.request("GET", url)
            data = connection.getresponse().read()
            artifact = mount.object(hashlib.md5(data, usedforsecurity=False).hexdigest())
            size = len(data)
            into = bytearray(size)

            def rates(spots: list[int], length: int, *, cold: bool) -> list[tuple[float, float]]:
                def rate_of(work: Callable[[], None]) -> float:
                    if cold:
                        forget_pages(artifact)
                    return len(spots) * length / timed(work)

                return turns(
                    lambda: rate_of(lambda: _ranges(connection, url, spots, length, into)),
                    lambda: rate_of(lambda: _native(artifact, spots, length, into)),
                    world.times(TURNS),
                )

            def row(measure: str, pairs: list[tuple[float, float]]) -> Row:
                return at_least(measure, pairs, 0.5, unit=rate, peer="its file")

            rows.append(
                row("artifact over the socket, whole, from the disk", rates([0], size, cold=True))
            )
            rows.append(row("artifact over the socket, whole", rates([0], size, cold=False)))
            numbers = random.Random(1)
            for length, count in ((MIB, 60), (64 << 10, 400)):
                spots = [numbers.randrange(0, size - length + 1) for _ in range(count)]
                measure = f"artifact over the socket, ranges of {length >> 10} KiB"
                rows.append(row(measure, rates(spots, length, cold=False)))
    return rows


class _Socket(http.client.HTTPConnection):
    """A connection over the daemon's socket that is kept."""

    def __init__(self, path: Path) -> None:
        super().__init__("synd", timeout=60.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _ranges(connection: _Socket, url: str, spots: list[int], length: int, into: bytearray) -> None:
    """Reads each range whole, as `_native` does."""
    for at in spots:
        connection.request("GET", url, headers={"Range": f"bytes={at}-{at + length - 1}"})
        reply = connection.getresponse()
        if reply.status != HTTPStatus.PARTIAL_CONTENT:
            raise RuntimeError(f"{reply.status}: {reply.read()[:200]!r}")
        view = memoryview(into)[:length]
        while view and (got := reply.readinto(view)):
            view = view[got:]
        if view:
            raise RuntimeError("short")
        reply.close()


def _native(path: Path, spots: list[int], length: int, into: bytearray) -> None:
    with path.open("rb", buffering=0) as file:
        for at in spots:
            file.seek(at)
            if file.readinto(memoryview(into)[:length]) != length:
                raise RuntimeError("short")
