"""Writing to the mount: against the file system that the daemon keeps its own state in.

Both sides run the same system calls, fsync included: what `close` promises in the mount, the native
side has to ask for. Uploads are off, where it does not say otherwise, as they are `sending`'s matter.
"""

from __future__ import annotations

import os
import shutil
import statistics
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from benchmarks.cold import LATENCY_MS
from benchmarks.harness import (
    MIB,
    Mount,
    Registry,
    Row,
    Spread,
    World,
    at_least,
    at_most,
    milliseconds,
    need,
    p99,
    per_s,
    random_file,
    rate,
    run,
    timed,
    touch_memory,
    turns,
)

PASSTHROUGH = 0.8
CLOSE_S = 0.005
SMALL = 4096
THREADS = 8


@contextmanager
def _mounted(world: World, *options: str, **settings: int) -> Iterator[tuple[Registry, Mount]]:
    """An empty project `Writing` in a mount, from a registry of its own."""
    data = world.root / f"writing-{len(list(world.root.iterdir()))}"
    with world.registry(data, *options) as registry:
        project = registry.make("Project", "Writing")
        with world.mount(registry, project, home=None, **settings) as mount:
            os.listdir(mount.path / "Writing")
            yield registry, mount


def _settled(path: Path) -> None:
    """Nothing of an earlier turn is still being written to the disk."""
    path.unlink(missing_ok=True)
    os.sync()


# close().


def _closing(path: Path, data: bytes, *, fsync: bool) -> float:
    """Seconds from all bytes written to `close` returned."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
        began = perf_counter()
        if fsync:
            os.fsync(fd)
    finally:
        os.close(fd)
    return perf_counter() - began


def closing(world: World) -> list[Row]:
    """How long `close` of a new file of 1 MiB takes, from its last `write` on.

    The bytes are on the disk when `close` returns, so the native side calls `fsync` before it.
    Uploads go on meanwhile, with the default settings; then the registry is stopped.
    """
    times = 60 if world.quick else 300
    with _mounted(world, "--latency-ms", str(LATENCY_MS)) as (registry, mount):
        top, native = mount.path / "Writing", world.folder("native-close")
        rows = [_closes(top, native, times, f"service {LATENCY_MS} ms away")]
        registry.stop()
        rows.append(_closes(top, native, times, "service stopped"))
        shutil.rmtree(native)
    return rows


def _closes(top: Path, native: Path, times: int, what: str) -> Row:
    """So many files in both places, in turns."""
    data = os.urandom(MIB)
    names = iter(f"{what.replace(' ', '-')}-{n}" for n in range(2 * times))

    def in_mount() -> float:
        # Bytes that the service has not got.
        return _closing(top / next(names), os.urandom(16) + data[16:], fsync=False)

    os.sync()
    pairs = turns(in_mount, lambda: _closing(native / next(names), data, fsync=True), times)
    ours, theirs = [s for s, _ in pairs], [p for _, p in pairs]
    return at_most(
        f"close of 1 MiB, {what}",
        ours,
        CLOSE_S,
        unit=milliseconds,
        peer=f"native fsync, close {milliseconds(statistics.median(theirs))}",
        ratio=Spread.of([s / p for s, p in pairs]).text(),
        note=f"{times} files; p99 {milliseconds(p99(ours))}, native {milliseconds(p99(theirs))}",
    )


# Large files.


class Written(NamedTuple):
    """Bytes per second of one file."""

    to_memory: float
    """Up to the last `write`."""
    to_disk: float
    """Up to `fsync` and `close`."""


def _write(path: Path, size: int, piece: bytes, beside: Path) -> Written:
    _settled(path)
    touch_memory(beside, size)
    began = perf_counter()
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        for _ in range(size // len(piece)):
            os.write(fd, piece)
        memory = perf_counter()
        os.fsync(fd)
    finally:
        os.close(fd)
    end = perf_counter()
    return Written(size / (memory - began), size / (end - began))


def sequential(world: World) -> list[Row]:
    """A new file written in steps of 1 MiB, then `fsync`, then `close`; natively the same.

    To memory: up to the last `write`. To disk: up to the end of `close`. What the disk does meanwhile
    is most of the noise; before each turn everything older is written out. In a virtual
    machine, memory that nobody has touched lately comes from the host, and slowly: so as much as the file
    takes is touched before each turn.
    """
    piece = os.urandom(MIB)
    rows = []
    for passthrough in (True, False):
        with _mounted(world, uploads=0, passthrough=int(passthrough)) as (_, mount):
            why = mount.passthrough() if passthrough else ""
            ours = mount.path / "Writing" / "large.bin"
            native = world.folder("native-write") / "large.bin"
            kind = "passthrough" if passthrough else "no passthrough"
            for size in (64 * MIB, (256 if world.quick else 1024) * MIB):
                what = f"{size >> 30} GiB" if size >= 1 << 30 else f"{size >> 20} MiB"
                if why:
                    rows.append(Row(f"{what} written, {kind}", "–", "–", "–", "≥ 0.8", None, why))
                    continue
                before = mount.fuse_requests()
                pairs = _paired(ours, native, size, piece, world.times(15))
                asked = (mount.fuse_requests() - before) / len(pairs)
                note = f"{asked:,.0f} FUSE requests per file"
                for where in ("memory", "disk"):
                    values = [
                        (getattr(s, f"to_{where}"), getattr(p, f"to_{where}")) for s, p in pairs
                    ]
                    row = at_least(
                        f"{what} written, {kind}, to {where}",
                        values,
                        PASSTHROUGH,
                        unit=rate,
                        peer="native",
                        note=note,
                    )
                    rows.append(row if passthrough else _shown(row))
                    note = ""
            native.unlink(missing_ok=True)
            ours.unlink(missing_ok=True)
    return rows


def _paired(
    ours: Path, native: Path, size: int, piece: bytes, times: int
) -> list[tuple[Written, Written]]:
    """As `harness.turns`, of pairs of figures. The first turn is not counted: it finds nothing warm."""
    found: list[tuple[Written, Written]] = []
    for turn in range(times + 1):
        if turn % 2 == 0:
            a = _write(ours, size, piece, native.parent)
            b = _write(native, size, piece, native.parent)
        else:
            b = _write(native, size, piece, native.parent)
            a = _write(ours, size, piece, native.parent)
        found.append((a, b))
    return found[1:]


def _shown(row: Row) -> Row:
    return Row(row.measure, row.synd, row.peer, row.ratio, "shown", None, row.note)


# Many files.


def _create(folder: Path, count: int, threads: int, *, fsync: bool) -> float:
    """Files made, written and closed per second."""
    if folder.exists():
        shutil.rmtree(folder)
    os.sync()
    folder.mkdir(parents=True)
    data = os.urandom(SMALL)

    def some(first: int) -> None:
        for i in range(first, count, threads):
            fd = os.open(folder / f"f{i}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            try:
                os.write(fd, data)
                if fsync:
                    os.fsync(fd)
            finally:
                os.close(fd)

    def all_files() -> None:
        workers = [threading.Thread(target=some, args=(n,)) for n in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    return count / timed(all_files)


def creating(world: World) -> list[Row]:
    """Small files made in the mount, one after the other and by several threads, and `tar x` of many.

    Each is on the disk when its `close` returns, which the native side gets by `fsync`; without it
    the native side keeps them in memory and promises nothing.
    """
    need("tar")
    rows = []
    with _mounted(world, uploads=0) as (_, mount):
        top, native = mount.path / "Writing", world.folder("native-create")
        count = 300 if world.quick else 1000
        for threads in (1, THREADS):
            rows += _against(
                f"{count:,} files of 4 KiB, {threads} thread{'s' if threads > 1 else ''}",
                _makes(top / "made", count, threads, fsync=False),
                {
                    "native with fsync": _makes(native / "made", count, threads, fsync=True),
                    "native, no fsync": _makes(native / "made", count, threads, fsync=False),
                },
                world.times(6),
            )
        rows += _tar(world, top, native)
    return rows


def _against(
    what: str,
    ours: Callable[[], float],
    peers: dict[str, Callable[[], float]],
    times: int,
) -> list[Row]:
    """All take turns, another one beginning each time; rows without a target."""
    found: dict[str, list[float]] = {"": [], **{name: [] for name in peers}}
    for turn in range(times):
        work = [("", ours), *peers.items()]
        shift = turn % len(work)
        for name, one in work[shift:] + work[:shift]:
            found[name].append(one())
    return [
        _shown(
            at_least(
                what,
                list(zip(found[""], found[name], strict=True)),
                0,
                unit=per_s("files"),
                peer=name,
            )
        )
        for name in peers
    ]


def _makes(folder: Path, count: int, threads: int, *, fsync: bool) -> Callable[[], float]:
    return lambda: _create(folder, count, threads, fsync=fsync)


def _tar(world: World, top: Path, native: Path) -> list[Row]:
    """`tar x` of files of 1 to 8 KiB in folders of 100."""
    count = 1000 if world.quick else 5000
    source = world.folder("tar-source")
    for i in range(count):
        random_file(source / f"d{i // 100:02d}" / f"f{i}", 1024 + i * 7919 % 7168)
    archive = world.root / "many.tar"
    run(["tar", "cf", archive, "-C", source, "."])

    def unpack(folder: Path, *, sync: bool) -> float:
        if folder.exists():
            shutil.rmtree(folder)
        os.sync()
        folder.mkdir(parents=True)

        def work() -> None:
            run(["tar", "xf", archive, "-C", folder])
            if sync:
                run(["sync", "-f", folder])

        return count / timed(work)

    return _against(
        f"tar x, {count:,} files",
        lambda: unpack(top / "tar", sync=False),
        {
            "native, one sync at the end": lambda: unpack(native / "tar", sync=True),
            "native, no sync": lambda: unpack(native / "tar", sync=False),
        },
        world.times(3),
    )
