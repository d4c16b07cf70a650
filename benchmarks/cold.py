"""Reading a large file for the first time: against programs that only download."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks.complete import big
from benchmarks.harness import (
    Mount,
    Registry,
    Row,
    Spread,
    World,
    forget_pages,
    need,
    rate,
    read_whole,
    run,
    timed,
)

LATENCY_MS = 20
MBIT = 320
"""40 MB/s per connection: what one connection to object storage gives over some distance."""
PARALLEL = 16


class _Reads:
    """Cold reads of one file through a mount, each after emptying the cache."""

    def __init__(self, registry: Registry, mount: Mount, path: Path, size: int) -> None:
        self.registry = registry
        self.mount = mount
        self.path = path
        self.size = size
        path.stat()

    def once(self) -> float:
        """Bytes per second from open to close."""
        self.mount.clear()
        self.registry.requests(reset=True)
        forget_pages(self.path)
        got = 0

        def work() -> None:
            nonlocal got
            got = read_whole(self.path)

        took_s = timed(work)
        if got != self.size:
            raise RuntimeError(f"read {got} of {self.size} bytes")
        sent = self.registry.requests(reset=True)["blob_bytes"]
        if sent < self.size:
            raise RuntimeError(f"not cold: the registry sent {sent} of {self.size} bytes")
        return self.size / took_s


def _curl(registry: Registry, entity: str, size: int, out: Path) -> float:
    url = registry.file_url(entity)
    out.unlink(missing_ok=True) if out.name != "null" else None
    return size / timed(lambda: run(["curl", "-sf", "-o", out, url]))


def _curls(registry: Registry, entity: str, size: int, folder: Path | None) -> float:
    """Parallel ranges, each by a curl of its own."""
    url = registry.file_url(entity)
    step = -(-size // PARALLEL)

    def one(part: int) -> None:
        start = part * step
        end = min(size, start + step) - 1
        out = "/dev/null" if folder is None else str(folder / f"part{part}")
        run(["curl", "-sf", "-r", f"{start}-{end}", "-o", out, url])

    def all_parts() -> None:
        threads = [threading.Thread(target=one, args=(part,)) for part in range(PARALLEL)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    if folder is not None:
        for part in range(PARALLEL):
            (folder / f"part{part}").unlink(missing_ok=True)
    return size / timed(all_parts)


def _aria2(registry: Registry, entity: str, size: int, folder: Path) -> float:
    url = registry.file_url(entity)
    for name in ("aria", "aria.aria2"):
        (folder / name).unlink(missing_ok=True)
    command: list[str | Path] = [
        "aria2c", "-q", f"-x{PARALLEL}", f"-s{PARALLEL}", "-k1M", "--file-allocation=none",
        "--no-conf", "--allow-overwrite=true", "-d", folder, "-o", "aria", url,
    ]  # fmt: skip
    return size / timed(lambda: run(command))


def _compare(
    reads: _Reads,
    peers: dict[str, Callable[[], float]],
    times: int,
) -> tuple[list[float], dict[str, list[float]]]:
    """Everybody takes a turn, beginning with another one each time."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in peers}
    for turn in range(times):
        work: list[tuple[str, Callable[[], float]]] = [("", reads.once), *peers.items()]
        shift = turn % len(work)
        for name, one in work[shift:] + work[:shift]:
            value = one()
            (theirs[name] if name else ours).append(value)
    return ours, theirs


def _rows(
    what: str,
    ours: list[float],
    theirs: dict[str, list[float]],
    judged: dict[str, float],
    note: str,
) -> list[Row]:
    rows = []
    for name, values in theirs.items():
        ratio = Spread.of([s / p for s, p in zip(ours, values, strict=True)])
        target = judged.get(name)
        rows.append(
            Row(
                what,
                rate(statistics.median(ours)),
                f"{name} {rate(statistics.median(values))}",
                ratio.text(),
                f"≥ {target:g}" if target else "shown",
                ratio.median >= target if target else None,
                note,
            )
        )
        note = ""
    return rows


def unbounded(world: World) -> list[Row]:
    """A cold file from a registry without latency, from open to close, against `curl` of its URL.

    The registry sends with sendfile, so this shows what synd itself costs: bytes are received, written
    into the cache, hashed there and answered from there, while curl to /dev/null only receives.
    """
    need("curl")
    data, project, size = big(world)
    with world.registry(data) as registry, world.mount(registry, project) as mount:
        entity = registry.child(project, "big.bin")
        reads = _Reads(registry, mount, mount.path / "Big" / "big.bin", size)
        out = world.folder("downloads")
        peers: dict[str, Callable[[], float]] = {
            "curl -o /dev/null": lambda: _curl(registry, entity, size, Path("/dev/null")),
            "curl -o FILE": lambda: _curl(registry, entity, size, out / "curl"),
        }
        reads.once()
        ours, theirs = _compare(reads, peers, world.times(7))
        (out / "curl").unlink(missing_ok=True)
    return _rows("cold, sequential, no latency", ours, theirs, {"curl -o /dev/null": 0.5}, "")


def far(world: World) -> list[Row]:
    """The same at 20 ms and 40 MB/s per connection, against the best of the parallel downloaders."""
    need("curl", "aria2c")
    data, project, size = big(world)
    with (
        world.registry(data, "--latency-ms", str(LATENCY_MS), "--mbit", str(MBIT)) as registry,
        world.mount(registry, project) as mount,
    ):
        entity = registry.child(project, "big.bin")
        reads = _Reads(registry, mount, mount.path / "Big" / "big.bin", size)
        out = world.folder("downloads")
        peers: dict[str, Callable[[], float]] = {
            f"{PARALLEL} × curl -o /dev/null": lambda: _curls(registry, entity, size, None),
            f"{PARALLEL} × curl -o FILE": lambda: _curls(registry, entity, size, out),
            "aria2c -x16 -s16 FILE": lambda: _aria2(registry, entity, size, out),
        }
        ours, theirs = _compare(reads, peers, world.times(7))
        for path in out.iterdir():
            path.unlink()
    best = [max(values) for values in zip(*theirs.values(), strict=True)]
    ratio = Spread.of([s / b for s, b in zip(ours, best, strict=True)])
    what = f"cold, sequential, {LATENCY_MS} ms, {MBIT} Mbit/s per connection"
    return [
        Row(
            what,
            rate(statistics.median(ours)),
            f"best of each turn {rate(statistics.median(best))}",
            ratio.text(),
            "≥ 0.9",
            ratio.median >= 0.9,
        ),
        *_rows(what, ours, theirs, {}, ""),
    ]
