"""A million entities known: how soon the mount answers, and what the daemon costs at rest."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.harness import (
    Row,
    Spread,
    World,
    cpu_s,
    drop_caches,
    may_drop_caches,
    rss_bytes,
    run,
    seconds,
    timed,
)
from synd.registry.db import Database, default_token
from synd.registry.seed import synthetic

MIB = 1 << 20
IDLE_S = 30.0


def _mib(value: float) -> str:
    return f"{value / MIB:.0f} MiB"


def million(world: World) -> list[Row]:
    """One project of 1 000 000 entities in folders of 100, all names known after one `find`.

    Start: from `synd up` (of a daemon that was stopped) to its end, which is when the mount answers; the
    interpreter's own start is in it. To know the tree soon, the daemon asks without a limit per minute, eight
    at a time; sizes are not asked for. Polling is at its default. Memory and processor time are the daemon's alone.
    """
    n = 100_000 if world.quick else 1_000_000
    data = world.root / "million-registry"
    data.mkdir()
    db = Database(data / "registry.db")
    try:
        default_token(db, data)
        project = f"syn{synthetic(db, n, name='Million', per_folder=100)}"
    finally:
        db.close()
    home = world.root / "million-home"
    settings: dict[str, object] = {
        "views": "off",
        "requests_per_minute": 0,
        "request_concurrency": 8,
    }
    rows = []
    with world.registry(data) as registry:
        with world.mount(registry, project, home=home, **settings) as mount:
            top = mount.path / "Million"
            learn_s = _learn(top, n)
            rss_first = rss_bytes(mount.pid)
        starts = []
        for _ in range(world.times(5)):
            with world.mount(registry, project, home=home, **settings) as mount:
                starts.append(mount.up_s)
        spread = Spread.of(starts)
        rows.append(
            Row(
                f"start to answering mount, {n:,} entities",
                seconds(spread.median),
                "–",
                spread.text("{:.2f} s"),
                "≤ 2 s",
                spread.median <= 2.0,
                f"first `find`, through the service: {learn_s:.0f} s, then {_mib(rss_first)} resident",
            )
        )
        with world.mount(registry, project, home=home, **settings) as mount:
            top = mount.path / "Million"
            fresh = rss_bytes(mount.pid)
            rows.append(_idle(mount.pid, f"idle after start, {n:,} entities"))
            if may_drop_caches():
                drop_caches(2)
            took_s = timed(lambda: run(["find", top], timeout_s=280))
            full = rss_bytes(mount.pid)
            rows.append(
                Row(
                    "resident after a full `find`",
                    _mib(full),
                    "–",
                    "–",
                    "≤ 200 MiB",
                    full <= 200 * MIB,
                    f"{n / took_s:,.0f} entries/s; {_mib(fresh)} before",
                )
            )
            rows.append(_idle(mount.pid, "idle after the full `find`"))
    return rows


def _learn(top: Path, n: int) -> float:
    """Walks until everything is listed; seconds. Pieces keep below the longest command."""
    began = time.perf_counter()
    seen = 0
    for group in sorted(top.iterdir()):
        seen += run(["find", group], timeout_s=280).count("\n")
    if seen < n:
        raise RuntimeError(f"found {seen} of {n} entities")
    return time.perf_counter() - began


def _idle(pid: int, what: str) -> Row:
    time.sleep(5.0)
    before, began = cpu_s(pid), time.monotonic()
    time.sleep(IDLE_S)
    share = (cpu_s(pid) - before) / (time.monotonic() - began)
    resident = rss_bytes(pid)
    return Row(
        what,
        f"{share:.2%} of a core, {_mib(resident)}",
        "–",
        "–",
        "≤ 1 %, ≤ 100 MiB",
        share <= 0.01 and resident <= 100 * MIB,
    )
