"""Reading files that are in the cache already: against the same bytes read natively."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.harness import (
    MIB,
    Row,
    SkippedError,
    World,
    at_least,
    forget_pages,
    need,
    random_file,
    rate,
    read_whole,
    run,
    timed,
    turns,
)

TURNS = 15


def big(world: World) -> tuple[Path, str, int]:
    """A registry's folder with one large file in the project `Big`: (folder, project, size)."""

    def make() -> tuple[Path, str, int]:
        size = (256 if world.quick else 1024) * MIB
        source = world.folder("big")
        random_file(source / "big.bin", size)
        data = world.root / "big-registry"
        told = world.seed(data, source, "Big")
        return data, str(told["project_id"]), size

    made: tuple[Path, str, int] = world.once("big", make)
    return made


def _reading(path: Path) -> float:
    """Bytes per second from open to close."""
    size = path.stat().st_size
    return size / timed(lambda: read_whole(path))


def sequential(world: World) -> list[Row]:
    """First and repeated sequential reads after open."""
    data, project, _ = big(world)
    rows = []
    with world.registry(data) as registry:
        with world.mount(registry, project) as mount:
            path = mount.path / "Big" / "big.bin"
            mount.prefetch(path)
            why = mount.passthrough()
            native = mount.cached(path)
            read_whole(native)
            if why:
                rows.append(
                    Row("complete, sequential, passthrough", "–", "–", "–", "≥ 0.9", None, why)
                )
            else:
                before = mount.fuse_requests()
                pairs = turns(lambda: _reading(path), lambda: _reading(native), world.times(TURNS))
                asked = (mount.fuse_requests() - before) / len(pairs)
                rows.append(
                    at_least(
                        "complete, first sequential read after open, passthrough",
                        pairs,
                        0.9,
                        unit=rate,
                        peer="native",
                        note=f"{asked:.0f} FUSE requests per file",
                    )
                )
        with world.mount(registry, project, passthrough=0) as mount:
            path = mount.path / "Big" / "big.bin"
            mount.prefetch(path)
            native = mount.cached(path)
            read_whole(native)

            def first() -> float:
                forget_pages(path)
                return _reading(path)

            pairs = turns(first, lambda: _reading(native), world.times(TURNS))
            rows.append(
                at_least(
                    "complete, no passthrough, first touch",
                    pairs,
                    0.2,
                    unit=rate,
                    peer="native",
                )
            )
            read_whole(path)
            pairs = turns(lambda: _reading(path), lambda: _reading(native), world.times(TURNS))
            rows.append(
                at_least("complete, no passthrough, repeated", pairs, 0.8, unit=rate, peer="native")
            )
    return rows


def random_4k(world: World) -> list[Row]:
    """4 KiB random reads by fio, one and four readers."""
    need("fio")
    data, project, size = big(world)
    rows = []
    with world.registry(data) as registry, world.mount(registry, project) as mount:
        path = mount.path / "Big" / "big.bin"
        mount.prefetch(path)
        if why := mount.passthrough():
            raise SkippedError(f"no passthrough: {why}")
        native = mount.cached(path)
        read_whole(native)
        for jobs in (1, 4):
            pairs = turns(
                lambda jobs=jobs: _fio(path, jobs, size, world.quick),  # type: ignore[misc]
                lambda jobs=jobs: _fio(native, jobs, size, world.quick),  # type: ignore[misc]
                world.times(TURNS),
            )
            rows.append(
                at_least(
                    f"complete, 4 KiB random reads, {jobs} reader{'s' if jobs > 1 else ''}",
                    pairs,
                    0.85,
                    unit=lambda v: f"{v / 1000:,.0f} k/s",
                    peer="native",
                )
            )
    return rows


def _fio(path: Path, jobs: int, size: int, quick: bool) -> float:
    """Reads per second, all jobs together."""
    out = run(
        [
            "fio", "--name=r", f"--filename={path}", "--rw=randread", "--bs=4k", "--ioengine=psync",
            f"--numjobs={jobs}", f"--size={size}", "--time_based",
            f"--runtime={500 if quick else 1000}ms", "--invalidate=0", "--norandommap", "--thread",
            "--group_reporting", "--output-format=json", "--readonly", "--random_generator=tausworthe",
        ]
    )  # fmt: skip
    told = json.loads(out[out.index("{") :])
    return float(sum(job["read"]["iops"] for job in told["jobs"]))
