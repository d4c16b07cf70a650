"""Runs benchmarks and shows what they found: ``python -m benchmarks.run [NAME…]``.

Nothing of the user's is touched, and nothing is left running or mounted.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import (
    cold,
    complete,
    grids,
    listing,
    many,
    partial,
    preprocess,
    queueing,
    sending,
    small,
    validation,
    writing,
)
from benchmarks.harness import Benchmark, Row, SkippedError, load, machine, world

BENCHMARKS: dict[str, Benchmark] = {
    "sequential": complete.sequential,
    "random": complete.random_4k,
    "cold": cold.unbounded,
    "cold-far": cold.far,
    "spots": partial.spots,
    "first-byte": partial.first_byte,
    "tree": listing.tree,
    "requests": listing.requests,
    "throttle": listing.throttled,
    "small": small.small,
    "million": many.million,
    "close": writing.closing,
    "write": writing.sequential,
    "create": writing.creating,
    "upload": sending.large,
    "upload-small": sending.many_small,
    "pending": sending.pending,
    "jobs": queueing.queued,
    "preprocess": preprocess.pipelines,
    "regions": preprocess.regions,
    "grid-decode": grids.decode,
    "grid-patches": grids.patches,
    "grid-validate": validation.unchanged,
}
HEADS = ("measure", "synd", "peer", "ratio (min–max)", "target", "met")
DOCS = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="smaller fixtures, fewer turns")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures there as well")
    parser.add_argument("--dir", metavar="DIR", type=Path, help="make the temporary folder there")
    parser.add_argument(
        "--write-docs", action="store_true", help="write docs/benchmarks.md; the rest of it stays"
    )
    parser.add_argument(
        "--merge", metavar="FILE", type=Path, action="append", default=[],
        help="take what is not measured now from an earlier --json FILE; may be repeated",
    )  # fmt: skip
    asked = parser.parse_args(argv)
    unknown = [n for n in asked.names if n not in BENCHMARKS]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    # So that a TERM, too, ends what runs and unmounts what is mounted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    earlier: dict[str, Any] = {}
    for path in asked.merge:
        earlier |= json.loads(path.read_text())["benchmarks"]
    names = asked.names or [n for n in BENCHMARKS if n not in earlier]
    report = measure(names, quick=asked.quick, base=asked.dir)
    found = earlier | report["benchmarks"]
    report["benchmarks"] = {n: found[n] for n in BENCHMARKS if n in found}
    if asked.json is not None:
        asked.json.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    if asked.write_docs:
        DOCS.write_text(page(report, DOCS.read_text() if DOCS.exists() else ""))
    failed = [n for n, found in report["benchmarks"].items() if "error" in found]
    return 1 if failed else 0


def measure(names: list[str], *, quick: bool, base: Path | None) -> dict[str, Any]:
    """All figures, as `--json` writes them."""
    report: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine(),
        "benchmarks": {},
    }
    with world(quick=quick, base=base, say=_say) as place:
        for name in names:
            began, load_before = time.monotonic(), load()
            found: dict[str, Any] = {}
            rows: list[Row] = []
            try:
                rows = BENCHMARKS[name](place)
            except SkippedError as skipped:
                found["skipped"] = str(skipped)
            except Exception as error:  # noqa: BLE001 - one that fails must not cost the others
                found["error"] = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            found |= {
                "date": datetime.now(UTC).isoformat(timespec="minutes"),
                "rows": [row.describe() for row in rows],
                "load": [round(load_before, 2), round(load(), 2)],
                "took_s": round(time.monotonic() - began, 1),
                "quick": quick,
            }
            report["benchmarks"][name] = found
            _show(name, found)
    return report


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _cells(row: dict[str, Any]) -> list[str]:
    met = {True: "yes", False: "NO", None: ""}[row["met"]]
    return [row["measure"], row["synd"], row["peer"], row["ratio"], row["target"], met]


def _show(name: str, found: dict[str, Any]) -> None:
    print(f"\n{name}  ({found['took_s']} s, load {found['load'][0]} → {found['load'][1]})")
    for word in ("skipped", "error"):
        if word in found:
            print(f"  {word}: {found[word]}")
    table = [list(HEADS), *(_cells(row) for row in found["rows"])]
    widths = [max(len(line[i]) for line in table) for i in range(len(HEADS))]
    for line, row in zip(table, [None, *found["rows"]], strict=True):
        print("  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip())
        if row is not None and row["note"]:
            print(f"      {row['note']}")
    sys.stdout.flush()


def page(report: dict[str, Any], before: str = "") -> str:
    """docs/benchmarks.md. What was not measured now stays as it stands in the page `before`."""
    facts = ", ".join(f"{k} {v}" for k, v in report["machine"].items())
    found = report["benchmarks"]
    kept = {name: text for name, text in sections(before).items() if name not in found}
    lines = [
        "# Benchmarks",
        "",
        "`make bench` measures all of this and prints it; `python -m benchmarks NAME… --quick` a part of",
        "it in less time; `--write-docs` writes this page. Each figure is a median; synd and its peer take",
        "turns in one run on one machine, and a ratio is taken within one turn. In brackets: the least and",
        "the most that was seen, which is the noise.",
        "",
        f"Written {report['date'][:10]}: {facts}.",
        "The service is the local registry on the same machine, which shares its processors with the",
        "daemon and the readers; the load average at each measurement's begin and end stands with it:",
        "more than the number of processors at the begin means that others were at work too, which costs",
        "whoever needs the processor more, mostly synd. Parts may have been measured at different times.",
        "",
    ]
    # Its words stand in the table of what is kept, or it is measured anew.
    missed = [
        line
        for line in before.splitlines()
        if (measure := _missed(line)) and any(f"| {measure} |" in text for text in kept.values())
    ]
    missed += [
        f"- {row['measure']}: {row['synd']}, {row['peer']}, ratio {row['ratio']}, wanted {row['target']}"
        for one in found.values()
        for row in one["rows"]
        if row["met"] is False
    ]
    if missed:
        lines += ["Targets missed:", "", *missed, ""]
    for name in BENCHMARKS:
        if name in kept:
            lines += [kept[name], ""]
        elif name in found:
            lines += [*_section(name, found[name], quick=report["quick"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def sections(text: str) -> dict[str, str]:
    """The parts of a page, by benchmark."""
    parts = text.split("\n## ")[1:]
    return {part.partition("\n")[0]: f"## {part.rstrip()}" for part in parts}


def _missed(line: str) -> str:
    """The measure of a line of "Targets missed"; empty for others."""
    measure, colon, rest = line.partition(": ")
    return measure.removeprefix("- ") if colon and ", wanted " in rest else ""


def _section(name: str, found: dict[str, Any], *, quick: bool) -> list[str]:
    """The part of one benchmark."""
    doc = (BENCHMARKS[name].__doc__ or "").strip().splitlines()
    lines = [f"## {name}", "", *(line.strip() for line in doc), ""]
    for word in ("skipped", "error"):
        if word in found:
            lines += [f"{word}: {found[word]}", ""]
    if found["rows"]:
        lines += [
            "| " + " | ".join(HEADS) + " |",
            "|" + "---|" * len(HEADS),
            *("| " + " | ".join(_cells(row)) + " |" for row in found["rows"]),
            "",
        ]
        notes = [f"- {r['measure']}: {r['note']}" for r in found["rows"] if r["note"]]
        lines += [*notes, ""] if notes else []
    short = ", quick run" if found.get("quick", quick) else ""
    when = f"{found['date']}, load {found['load'][0]} → {found['load'][1]}"
    return [*lines, f"{when}, took {found['took_s']} s{short}."]


if __name__ == "__main__":
    sys.exit(main())
