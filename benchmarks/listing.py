"""Listing: how quickly a known tree is walked, and how many requests it takes to know one."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import (
    COMMAND_S,
    Mount,
    Row,
    SkippedError,
    Spread,
    World,
    drop_caches,
    may_drop_caches,
    per_s,
    random_file,
    run,
    timed,
    turns,
)

PER_FOLDER = 100
WALKS = {"find": ["find"], "ls -lR": ["ls", "-lR"]}


def _walk(command: list[str], top: Path) -> float:
    """Seconds."""

    def work() -> None:
        subprocess.run(
            [*command, str(top)], stdout=subprocess.DEVNULL, timeout=COMMAND_S, check=True
        )

    return timed(work)


def _make_tree(top: Path, files: int) -> int:
    """Sparse files of 4 KiB in folders of 100; entries made, folders included."""
    entries = 0
    for folder in range(files // PER_FOLDER):
        if folder % PER_FOLDER == 0:
            group = top / f"g{folder // PER_FOLDER:03d}"
            group.mkdir()
            entries += 1
        place = group / f"d{folder:05d}"
        place.mkdir()
        entries += 1
        for i in range(PER_FOLDER):
            fd = os.open(place / f"f{i:03d}.bin", os.O_WRONLY | os.O_CREAT)
            os.ftruncate(fd, 4096)
            os.close(fd)
        entries += PER_FOLDER
    return entries


def know(top: Path, entities: int) -> float:
    """Walks until every size is known; seconds."""
    began = time.perf_counter()
    run(["find", top])
    end = time.monotonic() + COMMAND_S
    # One stat per folder sets its sizes going; a view brings the whole project's at once.
    while time.monotonic() < end:
        run(["ls", "-lR", top])
        if not _unknown(top):
            return time.perf_counter() - began
        time.sleep(1.0)
    raise RuntimeError(f"not all of {entities} sizes became known")


def _unknown(top: Path) -> bool:
    out = run(["find", top, "-type", "f", "-size", "0", "-print", "-quit"])
    return bool(out.strip())


def tree(world: World) -> list[Row]:
    """A known tree of 100 000 files in folders of 100, walked through a warm daemon.

    Cold: the kernel has forgotten names and attributes (`echo 2 > /proc/sys/vm/drop_caches`), or folder
    contents too (3); the requests that then reach the daemon stand below the figure. Warm: the walk is
    repeated at once; the peer is the same tree in the native file system, likewise warm. To know the tree
    soon, the daemon may make a view and ask the registry without a limit per minute, eight at a time.
    """
    files = 10_000 if world.quick else 100_000
    source = world.folder("tree")
    entries = _make_tree(source, files)
    data = world.root / "tree-registry"
    project = str(world.seed(data, source, "Tree")["project_id"])
    rows = []
    with (
        world.registry(data) as registry,
        world.mount(
            registry, project, views="create", requests_per_minute=0, request_concurrency=8
        ) as mount,
    ):
        top = mount.path / "Tree"
        took_s = know(top, entries)
        known = f"names and sizes of {entries:,} entries became known in {took_s:.0f} s"
        if may_drop_caches():
            for what in (2, 3):
                for name, command in WALKS.items():
                    rows.append(_cold_walk(world, mount, top, entries, what, name, command))
        for name, command in WALKS.items():
            _walk(command, top)
            _walk(command, source)
            pairs = turns(
                lambda command=command: entries / _walk(command, top),  # type: ignore[misc]
                lambda command=command: entries / _walk(command, source),  # type: ignore[misc]
                world.times(9),
            )
            ratio = Spread.of([s / p for s, p in pairs])
            rows.append(
                Row(
                    f"{name}, {files:,} files, warm kernel",
                    per_s("entries")(statistics.median(s for s, _ in pairs)),
                    "native " + per_s("entries")(statistics.median(p for _, p in pairs)),
                    ratio.text(),
                    "≥ 0.5",
                    ratio.median >= 0.5,
                    known,
                )
            )
            known = ""
    shutil.rmtree(source)
    return rows


def _cold_walk(
    world: World, mount: Mount, top: Path, entries: int, what: int, name: str, command: list[str]
) -> Row:
    found = []
    asked = 0
    for _ in range(world.times(5)):
        drop_caches(what)
        _walk(["ls"], mount.path)  # the daemon's own pages, which 3 dropped as well
        before = mount.metrics()
        found.append(entries / _walk(command, top))
        after = mount.metrics()
        asked = int(after["fuse_requests_total"] - before["fuse_requests_total"])
        kinds = {
            k.partition('"')[2].partition('"')[0]: int(v - before.get(k, 0))
            for k, v in after.items()
            if k.startswith("fuse_requests_by") and v > before.get(k, 0)
        }
    spread = Spread.of(found)
    parts = ", ".join(f"{n:,} {k}" for k, n in sorted(kinds.items(), key=lambda p: -p[1])[:4])
    if asked < entries / 500:
        raise RuntimeError(f"only {asked} requests reached the daemon: the cache was not cold")
    return Row(
        f"{name}, {entries:,} entries, cold kernel ({what})",
        per_s("entries")(spread.median),
        "–",
        spread.text("{:,.0f}"),
        "≥ 25,000 entries/s",
        spread.median >= 25_000,
        f"{asked:,} FUSE requests" + (f": {parts}" if parts else ""),
    )


def requests(world: World) -> list[Row]:
    """Requests to the service for `ls` and `ls -l` of one folder that was never looked into.

    The service lists 50 names to a page and tells no sizes: those come by one query of a view, or by one
    request per file.
    """
    files = 1000
    source = world.folder("many")
    place = source / "folder"
    place.mkdir()
    for i in range(files):
        (place / f"f{i:04d}.txt").write_text(f"file {i}\n")
    data = world.root / "many-registry"
    project = str(world.seed(data, source, "Many")["project_id"])
    rows = []
    pages = files // 50

    def count(views: str, command: list[str], settled: Callable[[Path], bool]) -> int:
        with (
            world.registry(data) as registry,
            world.mount(registry, project, views=views, requests_per_minute=0) as mount,
        ):
            top = mount.path / "Many"
            os.listdir(top)
            registry.requests(reset=True)
            folder = top / "folder"
            run([*command, folder])
            end = time.monotonic() + 60
            while not settled(folder) and time.monotonic() < end:
                time.sleep(0.2)
            return registry.rest_requests()

    def known(folder: Path) -> bool:
        return all(entry.stat().st_size for entry in os.scandir(folder))

    names = count("off", ["ls", "-U"], lambda _: True)
    rows.append(
        Row(
            f"names of {files:,} files",
            f"{names} requests", f"{pages} pages", f"{names / pages:.2f}", f"≤ {pages} + 5",
            names <= pages + 5,
        )
    )  # fmt: skip
    first = count("create", ["ls", "-l"], known)
    rows.append(
        Row(
            f"names and sizes of {files:,} files, view made for it",
            f"{first} requests", f"{pages} pages + 1 query", f"{first / (pages + 1):.2f}",
            f"≤ {pages} + 20", first <= pages + 20,
            "looking for a view, making one, one query and its polling",
        )
    )  # fmt: skip
    again = count("off", ["ls", "-l"], known)
    rows.append(
        Row(
            f"names and sizes of {files:,} files, bundles (no view allowed)",
            f"{again} requests", f"{pages} pages + {files} bundles",
            f"{again / (pages + files):.2f}", f"≤ {pages} + {files} + 10",
            again <= pages + files + 10,
        )
    )  # fmt: skip
    return rows


def throttled(world: World) -> list[Row]:
    """2 000 small files listed with sizes and read whole under the service's own throttle, with
    everything at its default but a view allowed.
    """
    files = 2000
    source = world.folder("throttled")
    for i in range(files):
        random_file(source / "data" / f"f{i:04d}.bin", 4096)
    data = world.root / "throttled-registry"
    project = str(world.seed(data, source, "Throttled")["project_id"])
    with (
        world.registry(data, "--throttle") as registry,
        world.mount(registry, project, views="create") as mount,
    ):
        top = mount.path / "Throttled"
        registry.requests(reset=True)
        began = time.perf_counter()
        run(["ls", "-l", top / "data"])
        listed_s = time.perf_counter() - began
        end = time.monotonic() + COMMAND_S
        while any(e.stat().st_size == 0 for e in os.scandir(top / "data")):
            if time.monotonic() > end:
                raise RuntimeError("the sizes did not become known")
            time.sleep(0.2)
        got = sum(len(path.read_bytes()) for path in sorted((top / "data").iterdir()))
        took_s = time.perf_counter() - began
        found = registry.requests()
        refused = sum(c["count"] for c in found["counters"] if c["status"] == 429)
        asked = registry.rest_requests()
        calls = ", ".join(
            f"{c['count']} {c['method']} {c['route']}"
            for c in sorted(found["counters"], key=lambda c: -c["count"])
            if c["side"] == "rest" and not c["route"].startswith("/admin")
        )
    if got != files * 4096:
        raise SkippedError(f"read {got} bytes of {files * 4096}")
    return [
        Row(
            f"{files:,} files of 4 KiB listed and read, throttled service",
            f"{asked} REST requests, {refused} refused",
            "–",
            "–",
            "≤ 150, none refused",
            asked <= 150 and refused == 0,
            f"listed in {listed_s:.1f} s, all in {took_s:.1f} s; {calls}",
        )
    ]
