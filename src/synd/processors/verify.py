"""What must hold before anything is stored. A mismatch is a bug, of ours or of a tool: VERIFY_FAILED.

Bytes are looked at on their way to the disk where they pass through here anyway, so that looking costs
no time of its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import sidecar
from synd.processors.containers import Container, decoded
from synd.processors.detect import Detected
from synd.processors.indexes import Index
from synd.processors.normalise import Point, Report

_PIECE: Final = 1 << 20


def wrong(text: str) -> StageFailed:
    """The error for what is not as it must be."""
    return StageFailed(text, failure=Failure.VERIFY_FAILED)


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that was written, and what was seen of it."""

    path: Path
    digest: str
    """`sha256:…`"""
    size: int
    lines: int = 0
    header_lines: int = 0
    """Lines on top that begin with `#`."""
    header: str = ""
    """The md5 of these."""


def keep(file: BinaryIO, path: Path) -> Kept:
    """Writes what comes from `file` to `path`, with its digest."""
    hasher = hashlib.sha256()
    size = 0
    with path.open("xb", buffering=0) as out:
        while data := file.read(_PIECE):
            hasher.update(data)
            _write(out, data)
            size += len(data)
    return Kept(path, f"sha256:{hasher.hexdigest()}", size)


def keep_text(file: BinaryIO, path: Path) -> Kept:
    """The same for BGZF of lines, which is decoded: every block and the end are checked, lines counted."""
    hasher = hashlib.sha256()
    size = 0
    lines = _Lines()
    with path.open("xb", buffering=0) as out:

        def pass_on(data: bytes) -> None:
            nonlocal size
            hasher.update(data)
            _write(out, data)
            size += len(data)

        decoder = decoded(file, Container.BGZF, on_raw=pass_on)
        try:
            for data in decoder:
                lines.add(data)
        except StageFailed as error:
            raise wrong(f"the data that was written is not whole: {error.message}") from error
        if decoder.container is not Container.BGZF:
            raise wrong("the data that was written is not BGZF to its end")
    header_lines, header = lines.header()
    return Kept(path, f"sha256:{hasher.hexdigest()}", size, lines.count, header_lines, header)


class _Lines:
    """Counts lines, and sets those apart that stand on top and begin with `#`."""

    def __init__(self) -> None:
        self.count = 0
        self._header_lines = 0
        self._hasher = hashlib.md5(usedforsecurity=False)
        self._rest: bytes | None = b""
        """The start of a line that may belong to the header; None: the header is over."""

    def add(self, data: bytes) -> None:
        self.count += data.count(b"\n")
        if self._rest is None:
            return
        data = self._rest + data
        start = 0
        while data.startswith(b"#", start):
            end = data.find(b"\n", start)
            if end < 0:
                break
            start = end + 1
            self._header_lines += 1
        self._hasher.update(data[:start])
        # Nothing, or the start of another header line, may still go on.
        self._rest = data[start:] if data[start : start + 1] in (b"", b"#") else None

    def header(self) -> tuple[int, str]:
        return self._header_lines, self._hasher.hexdigest()


def text(kept: Kept, report: Report) -> None:
    """That the data holds the header on top and every record: raises VERIFY_FAILED."""
    if kept.lines != report.header_lines + report.records:
        raise wrong(
            f"{report.header_lines} header lines and {report.records} records were written,"
            f" and {kept.lines} lines came out"
        )
    if kept.header_lines != report.header_lines or (
        kept.header != hashlib.md5(report.header, usedforsecurity=False).hexdigest()
    ):
        raise wrong("the header is not on top, or not as it was")


def digest(path: Path) -> str:
    """`sha256:…` of a file."""
    hasher = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_PIECE):
            hasher.update(data)
    return f"sha256:{hasher.hexdigest()}"


def index(
    path: Path, suffix: str, data: Path, detected: Detected, gzi: Path | None = None
) -> Index:
    """That an index is whole and belongs to the data: raises VERIFY_FAILED. What it says is returned."""
    content = path.read_bytes()
    size = data.stat().st_size
    try:
        with data.open("rb") as file:

            def read(offset: int, n: int) -> bytes:
                file.seek(offset)
                return file.read(n)

            return sidecar.check(
                content, suffix, read, size, detected, gzi=gzi.read_bytes() if gzi else None
            )
    except ValueError as error:
        raise wrong(f"the index is not right: {error}") from error


def contigs(found: Index, expected: Sequence[bytes]) -> None:
    """That an index of text names the contigs that have records, and no others."""
    if found.names is not None and sorted(found.names) != sorted(set(expected)):
        raise wrong(f"the index names {len(found.names)} contigs, and the data has {len(expected)}")


def points_file(points: Sequence[Point], path: Path) -> None:
    """Writes regions around records for `tabix -R`: contig, begin and end, 1-based and closed."""
    path.write_bytes(
        # A base more on both sides: a record of length 0 lies between two.
        b"".join(b"%s\t%d\t%d\n" % (p.contig, max(1, p.begin - 1), p.begin + 1) for p in points)
    )


class Finder:
    """Looks for the first columns of records among lines that come out of a query by region."""

    def __init__(self, points: Sequence[Point], contig: int, begin: int, shift: int) -> None:
        """`contig`, `begin`: columns, from 1; `shift` is added to the text's position to count from 1."""
        self.left = {(p.contig, p.begin) for p in points}
        self._contig = contig - 1
        self._begin = begin - 1
        self._shift = shift
        self._rest = b""

    def add(self, data: bytes) -> bool:
        """Takes more lines; whether all have been found."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        for line in whole:
            columns = line.split(b"\t", max(self._contig, self._begin) + 1)
            # Position 0 of VCF, the telomere, is found where 1 is asked for.
            at = max(1, int(columns[self._begin]) + self._shift)
            self.left.discard((columns[self._contig], at))
        return not self.left


def _write(out: Any, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[out.write(view) :]
