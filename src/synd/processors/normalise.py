"""One streaming pass over the lines of a text format: header apart, lines mended and checked, order noted.

It works on bytes: names need not be UTF-8. It never sorts; `Report.ordered` tells whether that is needed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby
from operator import add, le

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.detect import BED_FAMILY, GFF_FAMILY, Format
from synd.processors.messages import shown

HEADER_BYTES = 16 << 20
"""More header than this is refused."""
LINE_BYTES = 64 << 20
"""A longer line is refused."""


class Family(StrEnum):
    """Formats with the same columns. The values are what `tabix -p` takes."""

    VCF = "vcf"
    BED = "bed"
    GFF = "gff"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a family's lines look like, to the sort and to the index."""

    family: Family
    preset: int
    """The format field of a TBI."""
    contig: int
    """Column, from 1, as are the next two."""
    begin: int
    end: int
    """0: the end follows from other columns."""
    sort_keys: tuple[str, ...]
    """Of GNU sort."""


VCF = Rules(Family.VCF, 2, 1, 2, 0, ("1,1", "2,2n"))
BED = Rules(Family.BED, 0x10000, 1, 2, 3, ("1,1", "2,2n", "3,3n"))
GFF = Rules(Family.GFF, 0, 1, 4, 5, ("1,1", "4,4n", "5,5nr"))
"""Longer first, so that a gene stays above its transcripts."""

_BOM = b"\xef\xbb\xbf"
_HASH = ord("#")
_SEQUENCE = ord(">")
_TRACK = re.compile(rb"(?:track|browser)(?:\s|$)")
_NUMBER = re.compile(rb"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
"""What is meant as a number, though perhaps not a legal one: no name of a column."""
_END = re.compile(rb";END=([0-9]{1,18})(?![^;\n])")
_LEAST_COLUMNS = {Family.VCF: 8, Family.BED: 3, Family.GFF: 8}
FARTHEST = 1 << 32
"""The last base that a CSI index of text holds, as tabix makes it."""
_BIN = 1 << 14
"""Bases of the smallest bin of an index."""
_FLAT_COLUMNS = 12
"""With more columns (samples) it is quicker to leave them unsplit."""
_PIECE_BYTES = 64 << 10
"""What is looked at together: more falls out of the processor's cache (1.7 times slower at 1 MiB)."""


def rules(format: Format) -> Rules:
    """The rules of a format. Raises ValueError when it is not a text of intervals."""
    if format is Format.VCF:
        return VCF
    if format in BED_FAMILY:
        return BED
    if format in GFF_FAMILY:
        return GFF
    raise ValueError(f"{format} is not a text of intervals")


@dataclass(frozen=True, slots=True)
class Point:
    """Where one record lies, 1-based and closed: a region that finds it."""

    contig: bytes
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Report:
    """What one pass saw."""

    header: bytes
    """Header lines as they belong on top, each with its newline."""
    header_lines: int
    records: int
    contigs: tuple[bytes, ...]
    """In order of appearance."""
    ordered: bool
    """Can be indexed as it stands: each contig in one block, starts not descending within it."""
    blocks_ok: bool
    """Each contig in one unbroken block."""
    largest_end: int
    """1-based; 0 without records. Past 2**29 only CSI can hold it."""
    clean: bool
    """Nothing had to be changed: the source itself may be indexed, when its packing allows."""
    points: tuple[Point, ...]
    """First and last record, in the order of the file, of up to three contigs (the first two and the last), but
    for those that no region finds.
    """
    body_bytes: int
    """Given to `write_body`."""


def normalise(
    chunks: Iterable[bytes], format: Format, write_body: Callable[[bytes], object]
) -> Report:
    """Reads decoded bytes to their end; records go to `write_body` in order, in pieces that end in a newline.

    Raises StageFailed: INVALID_HEADER, INVALID_RECORD, each with `bad_line`; ValueError as `rules` does; and what
    `chunks` raises. Cost: about a second of CPU per 100 MB.
    """
    run = _Pass(rules(format), write_body)
    for block in _whole_lines(chunks, run):
        run.take(block)
    return run.report()


def _whole_lines(chunks: Iterable[bytes], run: _Pass) -> Iterator[bytes]:
    """The same bytes in blocks that end in a newline, the last one too; without the byte-order mark."""
    begun: list[bytes] = []
    size = 0
    first = True
    for chunk in chunks:
        if run.ended:
            # Read on: what is wrong with the packing is seen at its end.
            continue
        cut = chunk.rfind(b"\n") + 1
        if cut:
            block = b"".join([*begun, chunk[:cut]])
            yield run.without_mark(block) if first else block
            first = False
            begun, size = [], 0
        if cut < len(chunk):
            begun.append(chunk[cut:])
            size += len(chunk) - cut
            if size > LINE_BYTES:
                # Its number is known only now that all before it is taken.
                run.refuse_long(b"".join(begun))
    if begun and not run.ended:
        run.clean = False
        block = b"".join(begun).removesuffix(b"\r") + b"\n"
        yield run.without_mark(block) if first else block


class _Pass:
    """The state of one pass. Lines are taken a piece at a time by `_flat` or `_rows`, which know the usual ones
    only; a piece that has anything else goes to `_slow`, which knows every rule and says what is wrong.
    """

    def __init__(self, rules: Rules, write_body: Callable[[bytes], object]) -> None:
        self.rules = rules
        self.write_body = write_body
        self.ended = False
        """By what ends the data of GFF."""
        self.clean = True
        self.line = 0
        """Lines of the source that are done."""
        self.header: list[bytes] = []
        self.header_bytes = 0
        self.names_seen = False
        """VCF: `#CHROM`; BED: a line with the names of the columns."""
        self.names_in_doubt: tuple[int, bytes] | None = None
        """BED: such a line without a tab, with its number: any words, unless records follow."""
        self.records = 0
        self.contigs: dict[bytes, None] = {}
        self.blocks_ok = True
        self.starts_ok = True
        self.last_contig: bytes | None = None
        self.last_begin = 0
        self.largest_end = 0
        self.body_bytes = 0
        self.marks: dict[bytes, list[bytes]] = {}
        """First and last line of the contigs that points are told of."""

    def report(self) -> Report:
        if self.rules is VCF and not self.names_seen:
            raise StageFailed("the VCF has no #CHROM line", failure=Failure.INVALID_HEADER)
        if self.names_in_doubt and not self.records:
            raise self._bad("no record, and no names of columns", *self.names_in_doubt)
        return Report(
            header=b"".join(line + b"\n" for line in self.header),
            header_lines=len(self.header),
            records=self.records,
            contigs=tuple(self.contigs),
            ordered=self.blocks_ok and self.starts_ok,
            blocks_ok=self.blocks_ok,
            largest_end=self.largest_end,
            clean=self.clean,
            points=tuple(
                point
                for contig, lines in self.marks.items()
                for line in dict.fromkeys(lines)
                if (point := self._point(contig, line)) is not None
            ),
            body_bytes=self.body_bytes,
        )

    def without_mark(self, block: bytes) -> bytes:
        if not block.startswith(_BOM):
            return block
        self.clean = False
        return block[len(_BOM) :]

    def refuse_long(self, line: bytes) -> None:
        raise self._bad(
            f"a line is longer than {LINE_BYTES >> 20} MiB",
            self.line + 1,
            line,
            Failure.INVALID_HEADER if line.startswith(b"#") else Failure.INVALID_RECORD,
        )

    def take(self, block: bytes) -> None:
        """Takes whole lines."""
        if b"\r" in block and b"\r\n" in block:
            self.clean = False
            block = block.replace(b"\r\n", b"\n")
        at = 0
        while at < len(block) and not self.ended:
            if block[at] == _HASH:
                end = block.index(b"\n", at) + 1
                self.line += 1
                self._comment(block[at : end - 1])
            else:
                end = (block.find(b"\n#", at) + 1) or len(block)
                if self.rules is GFF and (stop := _fasta(block, at, end)) is not None:
                    self.ended = True
                    self.clean = False
                    end = stop
                self._records(block, at, end)
            at = end

    def _comment(self, line: bytes) -> None:
        if self.rules is VCF:
            if self.names_seen:
                raise self._bad(
                    "a header line after #CHROM: two files were joined",
                    self.line,
                    line,
                    Failure.INVALID_HEADER,
                )
            self.names_seen = line.startswith(b"#CHROM")
        elif self.rules is GFF and line.rstrip() == b"###":
            self.clean = False
            return
        elif self.rules is GFF and line.rstrip() == b"##FASTA":
            self.ended = True
            self.clean = False
            return
        if self.records:
            self.clean = False
        self._to_header(line)

    def _to_header(self, line: bytes) -> None:
        self.header_bytes += len(line) + 1
        if self.header_bytes > HEADER_BYTES:
            raise self._bad(
                f"the header is larger than {HEADER_BYTES >> 20} MiB",
                self.line,
                line,
                Failure.INVALID_HEADER,
            )
        self.header.append(line)

    def _records(self, block: bytes, at: int, end: int) -> None:
        """Takes the lines from `at` to `end`, none of which is a comment."""
        if at < end and self.rules is VCF and not self.names_seen:
            return self._slow(block[at:end])
        while at < end:
            stop = end
            if end - at > _PIECE_BYTES:
                stop = block.rfind(b"\n", at, at + _PIECE_BYTES) + 1
                stop = stop or block.index(b"\n", at) + 1
            piece = block[at:stop]
            if len(piece) > LINE_BYTES or not (
                self._flat(piece) or self._rows(piece) or self._blank_separated(piece)
            ):
                self._slow(piece)
            at = stop

    def _flat(self, piece: bytes) -> bool:
        """Takes lines that all have the same few columns: one split for all, then every n-th."""
        width = piece.count(b"\t", 0, piece.index(b"\n")) + 1
        if not _LEAST_COLUMNS[self.rules.family] <= width <= _FLAT_COLUMNS:
            return False
        lines = piece.count(b"\n")
        # Each line's end as a column of its own proves that no line is shorter while another is longer.
        cells = piece.replace(b"\n", b"\t\n\t").split(b"\t")
        cells.pop()
        width += 1
        if len(cells) != lines * width or cells[width - 1 :: width].count(b"\n") != lines:
            return False

        def column(number: int) -> Sequence[bytes]:
            return cells[number - 1 :: width]

        return self._usual(piece, column)

    def _rows(self, piece: bytes) -> bool:
        """Takes lines with any number of columns."""
        least = _LEAST_COLUMNS[self.rules.family]
        rows = [line.split(b"\t", least) for line in piece.split(b"\n")]
        rows.pop()
        columns = list(zip(*rows, strict=False))
        return len(columns) >= least and self._usual(piece, lambda number: columns[number - 1])

    def _blank_separated(self, piece: bytes) -> bool:
        """Takes lines of BED without a single tab."""
        if self.rules is not BED or b"\t" in piece:
            return False
        lines = [b"\t".join(line.split()) for line in piece.split(b"\n")]
        if not self._rows(b"\n".join(lines)):
            return False
        self.clean = False
        return True

    def _usual(self, piece: bytes, column: Callable[[int], Sequence[bytes]]) -> bool:
        """Takes lines by their columns, unless anything in them is not as it should be."""
        rules = self.rules
        contigs, first = column(rules.contig), column(rules.begin)
        second = column(rules.end) if rules.end else ()
        if not b"".join(first).isdigit() or (second and not b"".join(second).isdigit()):
            return False
        try:
            begins = list(map(int, first))
            ends = list(map(int, second)) if second else _vcf_ends(begins, piece, column)
        except ValueError:
            # A cell without a digit, or with thousands.
            return False
        largest = max(ends)
        if largest > FARTHEST or max(begins) > FARTHEST:
            return False
        if second and not all(map(le, begins, ends)):
            return False
        if rules is GFF and min(begins) < 1:
            return False
        if not self._note(contigs, begins, largest, piece):
            return False
        self.line += len(begins)
        self._write(piece, len(begins))
        return True

    def _slow(self, piece: bytes) -> None:
        """Takes any lines, each by all the rules, and tells the first bad one."""
        kept: list[bytes] = []
        contigs: list[bytes] = []
        begins: list[int] = []
        largest = 0
        for line in piece.split(b"\n")[:-1]:
            self.line += 1
            if len(line) > LINE_BYTES:
                self.line -= 1
                self.refuse_long(line)
            if not line.strip():
                self.clean = False
                continue
            if self.rules is VCF and not self.names_seen:
                raise self._bad(
                    "a record before the #CHROM line", self.line, line, Failure.INVALID_HEADER
                )
            record = line
            if self.rules is BED:
                mended = self._bed(line, first=not (kept or self.records))
                if mended is None:
                    self.clean = False
                    continue
                record = mended
                self.clean = self.clean and record == line
            contig, begin, end = self._checked(record)
            kept.append(record)
            contigs.append(contig)
            begins.append(begin)
            largest = max(largest, end)
        if kept:
            whole = b"\n".join(kept) + b"\n"
            self._note(contigs, begins, largest, whole)
            self._write(whole, len(kept))

    def _bed(self, line: bytes, *, first: bool) -> bytes | None:
        """The record of a line; None: it went to the header."""
        cells = line.split(b"\t", 3)
        record = line
        if len(cells) < 3:
            cells = line.split()
            record = b"\t".join(cells)
        if len(cells) >= 3 and cells[1].isdigit() and cells[2].isdigit():
            return record
        names = first and not self.names_seen and len(cells) > 2 and not _NUMBER.fullmatch(cells[1])
        if _TRACK.match(line):
            self._to_header(b"#" + line)
        elif names and cells[1]:
            self.names_seen = True
            if b"\t" not in line:
                self.names_in_doubt = self.line, line
            self._to_header(b"#" + line)
        else:
            return record
        return None

    def _checked(self, record: bytes) -> tuple[bytes, int, int]:
        """Contig, begin as it is written, and the 1-based end of a record."""
        rules = self.rules
        least = _LEAST_COLUMNS[rules.family]
        cells = record.split(b"\t", least)
        if len(cells) < least:
            raise self._bad(f"fewer than {least} columns", self.line, record)
        contig = cells[rules.contig - 1]
        if not contig:
            raise self._bad("the name of the contig is empty", self.line, record)
        if b"\0" in contig:
            raise self._bad("the name of the contig holds a NUL", self.line, record)
        begin = self._number(cells, rules.begin, record)
        if rules.end:
            end = self._number(cells, rules.end, record)
        else:
            end = max(_vcf_ends([begin], record, lambda number: [cells[number - 1]]))
        if max(begin, end) > FARTHEST:
            raise self._bad(
                f"it lies past {FARTHEST}, the last place that an index holds", self.line, record
            )
        if not rules.end:
            return contig, begin, end
        if begin > end:
            raise self._bad("the start lies behind the end", self.line, record)
        if rules is GFF and begin < 1:
            raise self._bad("the start is 0, where positions count from 1", self.line, record)
        return contig, begin, end

    def _number(self, cells: list[bytes], column: int, record: bytes) -> int:
        cell = cells[column - 1]
        if not cell.isdigit() or len(cell.lstrip(b"0")) > 18:
            raise self._bad(f"column {column} is not a whole number", self.line, record)
        return int(cell)

    def _note(
        self, contigs: Sequence[bytes], begins: Sequence[int], largest: int, lines: bytes
    ) -> bool:
        """Notes order, contigs and ends of records; False, and nothing noted, when a contig has no proper name."""
        one = contigs[0]
        same = contigs.count(one) == len(contigs)
        names = (one,) if same else tuple(dict.fromkeys(contigs))
        if b"" in names or any(b"\0" in name for name in names):
            return False
        if self.starts_ok and self.blocks_ok:
            self.starts_ok = self._ascend(contigs, begins, same=same)
        if self.blocks_ok:
            self.blocks_ok = self._unbroken(names if same else (k for k, _ in groupby(contigs)))
        self._mark(names, contigs, lines)
        self.contigs.update(dict.fromkeys(names))
        self.last_contig, self.last_begin = contigs[-1], begins[-1]
        self.largest_end = max(self.largest_end, largest)
        return True

    def _ascend(self, contigs: Sequence[bytes], begins: Sequence[int], *, same: bool) -> bool:
        if same:
            onward = contigs[0] != self.last_contig or begins[0] >= self.last_begin
            return onward and begins == sorted(begins)
        contig, begin = self.last_contig, self.last_begin
        for other, start in zip(contigs, begins, strict=True):
            if other == contig and start < begin:
                return False
            contig, begin = other, start
        return True

    def _unbroken(self, runs: Iterable[bytes]) -> bool:
        """Whether no run of records goes back to a contig that was left."""
        left: set[bytes] = set()
        before = self.last_contig
        for contig in runs:
            if contig != before and (contig in self.contigs or contig in left):
                return False
            left.add(contig)
            before = contig
        return True

    def _mark(self, names: Sequence[bytes], contigs: Sequence[bytes], piece: bytes) -> None:
        """Keeps the first and the last line of the first two contigs and of the newest."""
        fresh = [name for name in names if name not in self.contigs]
        if fresh:
            known = list(self.marks)
            kept = [*known[:2], *fresh] if len(known) > 2 else [*known, *fresh]
            kept = kept if len(kept) <= 3 else [*kept[:2], kept[-1]]
            self.marks = {name: self.marks.get(name, []) for name in kept}
        wanted = [name for name in names if name in self.marks]
        if not wanted:
            return
        if len(names) == 1:
            lines = [piece[: piece.index(b"\n")], piece[piece.rfind(b"\n", 0, -1) + 1 : -1]]
            firsts, lasts = {names[0]: 0}, {names[0]: 1}
        else:
            lines = piece.split(b"\n")
            backwards = contigs[::-1]
            firsts = {name: contigs.index(name) for name in wanted}
            lasts = {name: len(contigs) - 1 - backwards.index(name) for name in wanted}
        for name in wanted:
            found = self.marks[name]
            if not found:
                found.append(lines[firsts[name]])
            found[1:] = [lines[lasts[name]]]

    def _point(self, contig: bytes, line: bytes) -> Point | None:
        """None: no region finds it. It has no base, and stands where htslib puts such a record into no bin; or a blank
        in the contig's name would split the region.
        """
        _, begin, end = self._checked(line)
        if contig.split() != [contig] or (self.rules is BED and begin == end and begin % _BIN == 0):
            return None
        begin = max(1, begin + 1 if self.rules is BED else begin)
        return Point(contig, begin, max(begin, end))

    def _write(self, piece: bytes, records: int) -> None:
        self.records += records
        self.body_bytes += len(piece)
        self.write_body(piece)

    def _bad(
        self, what: str, number: int, line: bytes, failure: Failure = Failure.INVALID_RECORD
    ) -> StageFailed:
        return StageFailed(
            f"line {number}: {what}: {shown(line)}", failure=failure, bad_line=number
        )


def _fasta(block: bytes, at: int, end: int) -> int | None:
    """Where sequences begin between `at` and `end`; None: nowhere."""
    if block[at] == _SEQUENCE:
        return at
    return (block.find(b"\n>", at, end) + 1) or None


def _vcf_ends(
    begins: list[int], lines: bytes, column: Callable[[int], Sequence[bytes]]
) -> list[int]:
    """Numbers whose largest is the largest end of records of VCF: by the length of REF, and by END of INFO."""
    ends = [n - 1 for n in map(add, begins, map(len, column(4)))]
    if b"END=" in lines:
        # The pattern begins with a fixed text, which is searched for at the speed of memory.
        ends += map(int, _END.findall(b";" + b"\n;".join(column(8))))
    return ends
