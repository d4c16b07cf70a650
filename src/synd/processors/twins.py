"""What pip installs, as programs: `python -m synd.processors.twins samtools sort …`.

pysam holds the interpreter for as long as it runs, speaks on standard error past Python, and takes its
process with it when C aborts. As a program of a pipe it is like the native one: its exit, its words and
its end by a signal are looked at in the one place for all.
"""

from __future__ import annotations

import importlib
import os
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

WINDOW: Final = 5_000_000
"""Bases of a bigBed that are looked at together."""

_START: Final = ["-P", "-m", "synd.processors.twins"]
_BIGBED_MAGIC: Final = 0x8789F2EB


def command(name: str, *arguments: str) -> list[str]:
    """The argument vector of a twin: `samtools`, `bcftools`, `tabix` or `bigBedToBed`."""
    # -P: what lies in the work folder is never imported.
    return [sys.executable, *_START, name, *arguments]


def name_of(argv: Sequence[str]) -> str:
    """What people call the program of an argument vector, a twin too."""
    if list(argv[1:4]) == _START:
        return argv[4]
    return os.path.basename(argv[0])


def main(argv: Sequence[str]) -> int:
    """Runs one command; the exit status."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    name, *rest = argv
    match name:
        case "samtools" | "bcftools":
            return _dispatch(name, rest)
        case "tabix":
            return _tabix(rest)
        case "tabix-regions":
            return _regions(rest)
        case "bigBedToBed":
            return _bigbed(rest[0])
    print(f"no such command: {name}", file=sys.stderr)
    return 2


def _dispatch(collection: str, rest: Sequence[str]) -> int:
    module: Any = importlib.import_module("pysam" if collection == "samtools" else "pysam.bcftools")
    command, *arguments = rest
    try:
        getattr(module, command)(*arguments, catch_stdout=False)
    except importlib.import_module("pysam").SamtoolsError as error:
        print(str(error).strip("'").replace("\\n", "\n"), file=sys.stderr)
        return 1
    return 0


def _tabix(rest: Sequence[str]) -> int:
    """`tabix -f [-C] -p PRESET FILE`."""
    pysam: Any = importlib.import_module("pysam")
    preset = rest[rest.index("-p") + 1]
    try:
        pysam.tabix_index(rest[-1], preset=preset, force=True, keep_original=True, csi="-C" in rest)
    except OSError as error:
        print(f"tabix: {error}", file=sys.stderr)
        return 1
    return 0


def _regions(rest: Sequence[str]) -> int:
    """`tabix -R FILE DATA`, with the index named: the lines that lie in the regions of a file."""
    pysam: Any = importlib.import_module("pysam")
    with (
        open(rest[0], encoding="latin-1", newline="\n") as regions,
        pysam.TabixFile(rest[1], index=rest[2], encoding="latin-1") as data,
    ):
        for line in regions:
            contig, begin, end = line.rstrip("\n").split("\t")
            for record in data.fetch(contig, int(begin) - 1, int(end)):
                _write(record.encode("latin-1") + b"\n")
    return 0


def _bigbed(path: str) -> int:
    """`bigBedToBed FILE stdout`: contigs in byte order, each entry in the window where it starts."""
    try:
        package: Any = importlib.import_module("pyBigWig")
        with package.open(path) as file:
            if not file.isBigBed():
                print(f"{path} is no bigBed", file=sys.stderr)
                return 1
            for lines in _entries(file):
                _write(lines)
    except RuntimeError as error:
        print(f"{path} cannot be read: {error}", file=sys.stderr)
        return 1
    return 0


def _entries(file: Any) -> Iterator[bytes]:
    contigs = sorted(
        (name.encode("utf-8", "surrogateescape"), n) for name, n in file.chroms().items()
    )
    for contig, length in contigs:
        name = contig.decode("utf-8", "surrogateescape")
        for start in range(0, length, WINDOW):
            end = min(start + WINDOW, length)
            # One base more, as an entry that ends where it starts and lies on the edge is not found else.
            found = file.entries(name, max(0, start - 1), end) or ()
            lines = [
                b"%s\t%d\t%d%s\n"
                % (
                    contig,
                    first,
                    last,
                    b"\t" + rest.encode("utf-8", "surrogateescape") if rest else b"",
                )
                for first, last, rest in found
                if first >= start
            ]
            if lines:
                yield b"".join(lines)


def bigbed_is_cut(head: bytes, size: int) -> bool:
    """Whether the places that a bigBed's first 64 bytes name lie past its end."""
    if len(head) < 64:
        return True
    order = "<" if struct.unpack("<I", head[:4])[0] == _BIGBED_MAGIC else ">"
    places = struct.unpack(order + "QQQ", head[8:32])
    return any(place >= size for place in places)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
