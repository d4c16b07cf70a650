"""Many small files from far away: against `rclone mount` of the same files at the same distance."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.cold import LATENCY_MS
from benchmarks.harness import READY_S, Mount, Row, Spread, World, need, random_file, run, seconds

FILES = 2000
SIZE = 4096
READERS = 8
TARGET = 5.0


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds of one cold run."""

    listing: float
    reading: float

    @property
    def both(self) -> float:
        return self.listing + self.reading


def _run(folder: Path, files: int) -> Taken:
    """Lists with sizes, then reads all with 8 readers. Raises RuntimeError for wrong bytes."""
    began = time.perf_counter()
    end = time.monotonic() + 120
    while True:
        listed = run(["ls", "-l", folder]).splitlines()[1:]
        if len(listed) == files and all(int(line.split()[4]) == SIZE for line in listed):
            break
        if time.monotonic() > end:
            raise RuntimeError(f"{folder}: the listing never had all sizes")
        time.sleep(0.01)
    listing = time.perf_counter() - began
    began = time.perf_counter()
    script = f"ls -U | xargs -P {READERS} -n {files // 80} cat | wc -c"
    out = subprocess.run(
        ["sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=240, check=True
    )
    reading = time.perf_counter() - began
    if int(out.stdout) != files * SIZE:
        raise RuntimeError(f"{folder}: {out.stdout.strip()} bytes instead of {files * SIZE}")
    return Taken(listing, reading)


@contextlib.contextmanager
def _server(source: Path) -> Iterator[str]:
    process = subprocess.Popen(
        [
            sys.executable, "-m", "benchmarks.remote", str(source),
            "--latency-ms", str(LATENCY_MS),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        process.stdout.close()


@contextlib.contextmanager
def _rclone(world: World, remote: str, mode: str) -> Iterator[Path]:
    """A fresh `rclone mount` with an empty cache."""
    home = world.folder("rclone")
    point = world.folder("rclone/mnt")
    cache = world.folder(f"rclone/cache-{time.monotonic_ns()}")
    log = home / "rclone.log"
    with open(log, "wb") as told:
        process = subprocess.Popen(
        [
            "rclone", "mount", remote, str(point), "--read-only", f"--vfs-cache-mode={mode}",
            f"--cache-dir={cache}", "--config=/dev/null", "--dir-cache-time=1h", "--attr-timeout=1h",
            "--transfers=32", "--checkers=32", "--no-checksum",
        ],
        env={k: v for k, v in os.environ.items() if not k.startswith("RCLONE_")} | {"HOME": str(home)},
        stdout=told,
        stderr=told,
    )  # fmt: skip
    try:
        end = time.monotonic() + READY_S
        while not os.path.ismount(point):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"rclone did not mount: {log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield point
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if os.path.ismount(point):
            subprocess.run(["umount", "-l", str(point)], timeout=20, check=False)


def small(world: World) -> list[Row]:
    """2 000 files of 4 KiB in one folder, 20 ms per request, never seen before; `ls -l`, then
    `xargs -P 8 cat`.

    rclone is given whichever remote it does best with: `http` (index pages, a HEAD per file for its size)
    or `webdav` (sizes in the listing), both from one threaded server that keeps connections and has the
    same latency and no other limit. (rclone's `webdav` sends at most 100 requests a second of its own
    accord.) synd has its default settings but a view allowed, that is at most 3
    requests to the service at once and 600 a minute, which rclone's server does not ask for.
    """
    need("rclone")
    files = 400 if world.quick else FILES
    source = world.folder("small")
    for i in range(files):
        random_file(source / "data" / f"f{i:04d}.bin", SIZE)
    data = world.root / "small-registry"
    project = str(world.seed(data, source, "Small")["project_id"])
    times = world.times(5)
    found: dict[str, list[Taken]] = {}
    note = ""
    with _server(source) as url:
        variants = {
            "rclone webdav, cache off": (f":webdav,url='{url}':data", "off"),
            "rclone webdav, cache full": (f":webdav,url='{url}':data", "full"),
            "rclone http, cache off": (f":http,url='{url}/data/':", "off"),
            "rclone http, cache full": (f":http,url='{url}/data/':", "full"),
        }
        with world.registry(data, "--latency-ms", str(LATENCY_MS)) as registry:
            for turn in range(times):
                with world.mount(registry, project, views="create") as mount:
                    os.listdir(mount.path / "Small")
                    registry.requests(reset=True)
                    found.setdefault("synd", []).append(_run(mount.path / "Small" / "data", files))
                    note = _note(mount, registry.rest_requests())
                for name, (remote, mode) in variants.items():
                    if turn >= 2 and name.startswith("rclone webdav"):
                        continue  # twice is enough to see that it is the slower one
                    with _rclone(world, remote, mode) as point:
                        found.setdefault(name, []).append(_run(point, files))
    return _rows(found, files, note)


def _note(mount: Mount, requests: int) -> str:
    told = mount.metrics()
    return (
        f"synd: {requests} REST requests, {told['downloads_total']:.0f} downloads,"
        f" {told['fuse_requests_total']:,.0f} FUSE requests in one run"
    )


def _rows(found: dict[str, list[Taken]], files: int, note: str) -> list[Row]:
    ours = found.pop("synd")
    rows = []
    for what, of in (("listing included", "both"), ("listing excluded", "reading")):
        best = min(found, key=lambda n: statistics.median(getattr(t, of) for t in found[n]))
        for name, theirs in sorted(found.items(), key=lambda p: p[0] != best):
            pairs = [(getattr(s, of), getattr(p, of)) for s, p in zip(ours, theirs, strict=False)]
            ratio = Spread.of([p / s for s, p in pairs])
            judged = name == best
            rows.append(
                Row(
                    f"{files:,} files of 4 KiB, cold, {what}",
                    seconds(statistics.median(s for s, _ in pairs)),
                    f"{name} {seconds(statistics.median(p for _, p in pairs))}",
                    ratio.text(),
                    f"≥ {TARGET:g}" if judged else "shown",
                    ratio.median >= TARGET if judged else None,
                    note,
                )
            )
            note = ""
    return rows
