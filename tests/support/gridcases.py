"""The cases of tests/fixtures/grid, and how their values are spelled."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

from synd.grid.crdt import UNDEFINED, Timestamp

FOLDER = Path(__file__).parent.parent / "fixtures" / "grid"
CASES = sorted(path.name for path in FOLDER.iterdir() if (path / "meta.json").is_file())


def load(case: str, name: str) -> Any:
    """A JSON file of a case."""
    return json.loads((FOLDER / case / name).read_text())


def has(case: str, name: str) -> bool:
    return (FOLDER / case / name).is_file()


def snapshot(case: str) -> bytes | None:
    """The bytes of a case; None when its session has no snapshot."""
    path = FOLDER / case / "snapshot.bin"
    return path.read_bytes() if path.is_file() else None


def patches(case: str) -> list[Any]:
    path = FOLDER / case / "patches.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def spelled(value: Any) -> Any:
    """A view as the fixtures spell it: what JSON has no form for becomes an object with one `$` key."""
    if value is UNDEFINED:
        return {"$undefined": True}
    if isinstance(value, Timestamp):
        return {"$ts": list(value)}
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [spelled(one) for one in value]
    if isinstance(value, dict):
        return {key: spelled(one) for key, one in value.items()}
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 1 << 53:
        return {"$bigint": str(value)}
    return value


def _number(value: float) -> Any:
    if math.isnan(value):
        return {"$float": "nan"}
    if math.isinf(value):
        return {"$float": "inf" if value > 0 else "-inf"}
    if value == 0 and math.copysign(1, value) < 0:
        return {"$float": "-0"}
    return value
