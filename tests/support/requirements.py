"""The requirements of docs/requirements.md, and which of them tests prove."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_SEED = re.compile(r"## (S\d+) · (.+)")
_ROW = re.compile(r"(S\d+-\d+) \| ([^|]+) \| ([^|]+) \| (.+)")

TO_BE_PROVED = frozenset(
    [
        "goal",
        "behaviour",
        "command",
        "option",
        "cli",
        "endpoint",
        "format",
        "index",
        "config",
        "workflow",
        "test",
        "case",
        "defect",
        "fixture",
    ]
)
"""Kinds that count. The others are decisions, open questions, or describe another code base."""


@dataclass(frozen=True, slots=True)
class Requirement:
    """One row."""

    id: str
    seed: str
    group: str
    kind: str
    text: str


def load(path: Path) -> dict[str, Requirement]:
    """All rows by id, in the file's order."""
    found: dict[str, Requirement] = {}
    seed = ""
    for line in path.read_text().splitlines():
        if head := _SEED.fullmatch(line):
            seed = f"{head[1]} {head[2]}"
        elif row := _ROW.fullmatch(line):
            found[row[1]] = Requirement(row[1], seed, row[2].strip(), row[3].strip(), row[4])
    return found


def report(known: Mapping[str, Requirement], proved: Mapping[str, Sequence[str]]) -> str:
    """Done and missing, by seed."""
    lines: list[str] = []
    for seed in dict.fromkeys(r.seed for r in known.values()):
        rows = [r for r in known.values() if r.seed == seed]
        counted = [r for r in rows if r.kind in TO_BE_PROVED or r.id in proved]
        done = [r for r in counted if r.id in proved]
        lines += ["", f"{seed}: {len(done)} of {len(counted)} done"]
        lines += [f"  done     {r.id}  {r.text}" for r in done]
        lines += [f"  missing  {r.id}  {r.text}" for r in counted if r.id not in proved]
        others = [r for r in rows if r not in counted]
        if others:
            lines.append(f"  not counted (decisions, structure): {', '.join(r.id for r in others)}")
    whole = [r for r in known.values() if r.kind in TO_BE_PROVED or r.id in proved]
    lines += ["", f"in all: {sum(r.id in proved for r in whole)} of {len(whole)} done"]
    return "\n".join(lines)
