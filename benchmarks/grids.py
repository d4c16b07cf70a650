"""Grids' documents against the real json-joy: snapshots decoded and seen whole, patches applied."""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks import jsonjoy
from benchmarks.harness import (
    MIB,
    Row,
    SkippedError,
    Spread,
    World,
    at_least,
    at_most,
    per_s,
    seconds,
)
from synd.grid.crdt import Replica
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import GridDocument
from synd.grid.crdt.values import write_head, write_text, write_value
from synd.grid.crdt.varint import write_id, write_vu57

SID = 65535
LARGE = (100_000, 20)
SMALL = (5_000, 10)
PEAK_BYTES = 600 * MIB
PATCHES = 10_000
OPERATIONS_PER_S = 20_000
TURNS = 3
OURS_S = 240.0

_DECODE = """
import json, resource, sys, time
from synd.grid.crdt import Replica
data = open(sys.argv[1], "rb").read()
began = time.perf_counter()
view = Replica.from_snapshot(data).view()
took = time.perf_counter() - began
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps({"s": took, "peak": peak, "rows": len(view["rows"])}))
"""
_PATCH = """
import json, sys, time
from synd.grid.crdt import Replica
replica = Replica.from_snapshot(open(sys.argv[1], "rb").read())
patches = json.load(open(sys.argv[2]))
began = time.perf_counter()
replica.apply_patches(patches)
print(json.dumps({"s": time.perf_counter() - began}))
"""


def write_snapshot(path: Path, rows: int, columns: int) -> None:
    """A grid as the service writes it when it makes a session: texts, numbers and empty cells, all validated."""
    numbers = random.Random(rows)
    out = bytearray(b"\xbf")
    time = 0

    def put(at: int, node: bytearray) -> None:
        write_text(out, f"0_{_base36(at)}")
        write_head(out, 2, len(node))
        out.extend(node)

    def con(value: Any) -> int:
        nonlocal time
        time += 1
        node = bytearray(1)
        write_value(node, value, service=True)
        put(time, node)
        return time

    def slots(at: int, targets: list[int]) -> None:
        node = bytearray()
        write_head(node, 3, len(targets))
        for target in targets:
            node.append(1)
            write_id(node, 0, target)
        put(at, node)

    def obj(at: int, keys: dict[str, int]) -> None:
        node = bytearray()
        write_head(node, 2, len(keys))
        for key, target in keys.items():
            write_text(node, key)
            write_id(node, 0, target)
        put(at, node)

    def arr(at: int, runs: list[tuple[int, list[int]]]) -> None:
        node = bytearray()
        write_head(node, 6, len(runs))
        for first, targets in runs:
            write_id(node, 0, first)
            node.append(len(targets))
            for target in targets:
                write_id(node, 0, target)
        put(at, node)

    root, names, order, all_rows = 1, 2, 3, 4
    time = 4
    version = con("0.1.0")
    parts = {"doc_version": version, "columnNames": names, "columnOrder": order, "rows": all_rows}
    obj(root, parts)
    slots(names, [con(f"column {place}") for place in range(columns)])
    places = [con(place) for place in range(columns)]
    arr(order, [(time + 1, places)])
    time += columns
    runs = []
    for number in range(rows):
        row, data = time + 1, time + 2
        time += 2
        cells = [con(_cell(numbers, number, place)) for place in range(columns)]
        slots(data, cells)
        metadata = time = time + 1
        result: dict[str, Any] = {"isValid": True}
        if number % 10 == 0:
            result = {"isValid": False, "allValidationMessages": [f"#/column 3: {number} is not"]}
        obj(metadata, {"rowValidation": con(result)})
        obj(row, {"data": data, "metadata": metadata})
        time += 1
        runs.append((time, [row]))
    arr(all_rows, runs)
    clock = bytearray(b"\x01")
    write_vu57(clock, SID)
    write_vu57(clock, time)
    for key, raw in (("c", clock), ("r", bytearray(b"\x01"))):
        write_text(out, key)
        write_head(out, 2, len(raw))
        out += raw
    out.append(0xFF)
    path.write_bytes(out)


def _cell(numbers: random.Random, row: int, place: int) -> Any:
    kind = place % 5
    if kind == 0:
        return f"IND-{row:06}-{place}"
    if kind == 1:
        return numbers.choice(("Mus musculus", "Homo sapiens", "Rattus norvegicus", "小鼠", ""))
    if kind == 2:
        return numbers.randrange(100_000)
    if kind == 3:
        return numbers.random() * 100
    return numbers.choice((None, True, f"note {numbers.randrange(1000)}"))


def _base36(number: int) -> str:
    out = ""
    while True:
        number, digit = divmod(number, 36)
        out = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + out
        if not number:
            return out


def decode(world: World) -> list[Row]:
    """A snapshot to plain values in a process of its own, from the bytes in memory on; json-joy's time and ours
    in turns.
    """
    _need()
    rows = []
    for count, columns in (SMALL, LARGE):
        if world.quick and count == LARGE[0]:
            count //= 10  # noqa: PLW2901 - the row's own size
        path = world.folder("grids") / f"{count}.bin"
        write_snapshot(path, count, columns)
        pairs, peaks, theirs = [], [], []
        for turn in range(world.times(TURNS)):
            first = _joy(path) if turn % 2 else None
            took, peak = _ours(path, count)
            peer, peer_peak = first or _joy(path)
            pairs.append((1 / took, 1 / peer))
            peaks.append(peak)
            theirs.append(peer_peak)
        what = f"{count:,} rows × {columns}, {path.stat().st_size / 1e6:.0f} MB"
        rows.append(
            at_least(
                f"decoded and seen whole: {what}", pairs, 1.0 if count == SMALL[0] else 2.0,
                unit=lambda value: seconds(1 / value), peer="json-joy",
            )
        )  # fmt: skip
        rows.append(
            at_most(
                f"peak memory of the process: {what}", peaks, PEAK_BYTES,
                unit=lambda value: f"{value / MIB:.0f} MiB",
                peer=f"json-joy {max(theirs) / MIB:.0f} MiB",
            )
        )  # fmt: skip
        path.unlink()
    return rows


def patches(world: World) -> list[Row]:
    """Cells changed and rows inserted in a grid of 5,000 rows, a patch each: what `apply_patches` takes."""
    _need()
    folder = world.folder("grids")
    path, batch = folder / "patched.bin", folder / "patches.json"
    write_snapshot(path, *SMALL)
    author = Author(Replica.from_snapshot(path.read_bytes()), 66536)
    known = [row.row_id for row in GridDocument(author.replica).rows()]
    numbers = random.Random(7)
    count = PATCHES // 10 if world.quick else PATCHES
    made: list[Any] = []
    for number in range(count):
        if number % 10 == 0:
            made += author.insert_row([f"new {number}"])
        else:
            made += author.set_cell(numbers.choice(known), number % SMALL[1], f"changed {number}")
    batch.write_text(json.dumps(made))
    operations = sum(len(patch) - 1 for patch in made)
    pairs = []
    for _ in range(world.times(TURNS)):
        ours = _python(_PATCH, path, batch)["s"]
        job = {"snapshot": str(path), "patches": made, "quiet": True}
        theirs = jsonjoy.ask([job]).jobs[0]["patch_ms"] / 1000
        pairs.append((operations / ours, operations / theirs))
    ours, theirs = zip(*pairs, strict=True)
    unit = per_s("operations")
    return [
        Row(
            f"{len(made):,} patches, {operations:,} operations",
            unit(statistics.median(ours)),
            f"json-joy {unit(statistics.median(theirs))}",
            Spread.of([mine / peer for mine, peer in pairs]).text(),
            f"≥ {unit(OPERATIONS_PER_S)}",
            statistics.median(ours) >= OPERATIONS_PER_S,
        )
    ]


def _need() -> None:
    try:
        jsonjoy.folder()
    except jsonjoy.UnavailableError as error:
        raise SkippedError(str(error)) from error


def _joy(path: Path) -> tuple[float, int]:
    found = jsonjoy.ask([{"snapshot": str(path), "quiet": True}])
    return found.jobs[0]["ms"] / 1000, found.peak_bytes


def _ours(path: Path, rows: int) -> tuple[float, int]:
    found = _python(_DECODE, path)
    if found["rows"] != rows:
        raise RuntimeError(f"rows are missing: {found}")
    return found["s"], found["peak"]


def _python(code: str, *arguments: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
        timeout=OURS_S,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found
