"""Reads BAI, CSI, TBI, CRAI, FAI and GZI as far as checks need it."""

from __future__ import annotations

import io
import struct
import sys
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from synd.errors import StageFailed
from synd.processors.containers import Container, container_of, decoded

INDEX_BYTES_MAX = 1 << 30
"""An index that decodes to more is refused."""
SUFFIXES = (".bai", ".csi", ".tbi", ".crai", ".fai", ".gzi")


@dataclass(frozen=True, slots=True)
class Columns:
    """How an index of text took its lines apart (TBI, and CSI of text)."""

    preset: int
    """0 generic, 1 SAM, 2 VCF; 0x10000 is added where positions count from 0."""
    contig: int
    begin: int
    end: int
    meta: int
    """Lines that start with this character are comments."""
    skip: int


@dataclass(frozen=True, slots=True)
class Sequence:
    """One line of a FAI."""

    name: bytes
    length: int
    offset: int
    """Of its first base, in the decoded file."""
    line_bases: int
    line_bytes: int


@dataclass(frozen=True, slots=True)
class Index:
    """What an index says about its file."""

    suffix: str
    contigs: int
    """How many it has room for; of a CRAI: the largest number that occurs, plus one."""
    names: tuple[bytes, ...] | None = None
    """None: it has no names (BAI, CRAI, GZI, CSI of BAM and BCF)."""
    columns: Columns | None = None
    first: int | None = None
    """Smallest virtual offset that records begin at (CRAI, GZI: offset in the file). None: no records."""
    last: int | None = None
    """Largest virtual offset (CRAI, GZI: as above)."""
    records: int | None = None
    """As its metadata counts them, unplaced ones too; None: it does not."""
    sequences: tuple[Sequence, ...] = ()
    """Of a FAI."""
    blocks: tuple[tuple[int, int], ...] = ()
    """Of a GZI: (offset in the file, offset in the decoded data), without the first block's zeros."""
    slices: tuple[tuple[int, int, int], ...] = ()
    """Of a CRAI, the first and the last: (offset of the container, of the slice behind its header, slice's size)."""


def read_index(data: bytes, suffix: str) -> Index:
    """What an index file holds. Raises ValueError that says what is wrong with it."""
    if (reader := _READERS.get(suffix)) is None:
        raise ValueError(f"{suffix!r} is no suffix of an index")
    try:
        return reader(data)
    except struct.error:
        raise ValueError(f"the {suffix} file is cut") from None


class _Cursor:
    """Reads numbers one behind the other; struct.error where the data ends."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, form: str) -> tuple[int, ...]:
        found: tuple[int, ...] = struct.unpack_from("<" + form, self.data, self.at)
        self.at += struct.calcsize("<" + form)
        return found

    def bytes(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self.data):
            raise struct.error
        self.at += n
        return self.data[self.at - n : self.at]

    def offsets(self, n: int) -> tuple[int, ...]:
        """`n` numbers of 64 bits."""
        return struct.unpack(f"<{n}Q", self.bytes(n * 8))

    @property
    def left(self) -> int:
        return len(self.data) - self.at


class _Spans:
    """Smallest begin and largest end of chunks, and how many records metadata counts."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.last: int | None = None
        self.records = 0
        self.counted = False
        self.unplaced_counted = False

    def bins(self, cursor: _Cursor, meta_bin: int, *, with_offset: bool) -> None:
        """The bins of one contig."""
        (n_bins,) = cursor.take("i")
        head = _CSI_BIN if with_offset else _BIN
        data, at, unpack, size = cursor.data, cursor.at, head.unpack_from, head.size
        begins: list[int] = []
        ends: list[int] = []
        left = n_bins
        while left > 0:
            # A large index has some 100 000 bins, nearly all with one chunk: those are taken many at a time.
            taken = 0 if with_offset else _single_chunks(data, at, left, meta_bin, begins, ends)
            at += taken * _SINGLE_BYTES
            left -= taken
            if not left:
                break
            number, *_, n_chunks = unpack(data, at)
            cursor.at = at + size
            offsets = cursor.offsets(n_chunks * 2)
            at = cursor.at
            left -= 1
            if number == meta_bin:
                # Not chunks: where the contig begins and ends, and how many records have a place and have none.
                if n_chunks == 2:
                    self.counted = True
                    self.records += offsets[2] + offsets[3]
                continue
            begins.extend(offsets[::2])
            ends.extend(offsets[1::2])
        cursor.at = at
        if begins:
            first, last = min(begins), max(ends)
            self.first = first if self.first is None else min(self.first, first)
            self.last = last if self.last is None else max(self.last, last)

    def unplaced(self, cursor: _Cursor) -> None:
        """The count at the end, which older tools left out."""
        if cursor.left >= 8:
            self.records += cursor.take("Q")[0]
            self.unplaced_counted = True

    def total(self) -> int | None:
        known = self.counted or (self.first is None and self.unplaced_counted)
        return self.records if known else None


_BIN = struct.Struct("<Ii")
_CSI_BIN = struct.Struct("<IQi")
_SINGLE_BYTES = 24
"""Of a bin with one chunk: number, how many chunks, begin, end."""
_SINGLES = 256
"""As many bins are looked at together."""
_BAI_META_BIN = 37450


def _single_chunks(
    data: bytes, at: int, most: int, meta_bin: int, begins: list[int], ends: list[int]
) -> int:
    """How many bins from `at` on, `most` at most, have one chunk each; these chunks are noted."""
    taken = 0
    while taken < most:
        n = min(_SINGLES, most - taken)
        piece = data[at : at + n * _SINGLE_BYTES]
        if len(piece) < n * _SINGLE_BYTES:
            break
        words = array("I", piece)
        longs = array("Q", piece)
        if sys.byteorder == "big":
            words.byteswap()
            longs.byteswap()
        counts = words[1::6]
        if counts.count(1) != n or meta_bin in words[::6]:
            # Up to the first that is otherwise.
            n = next((i for i, count in enumerate(counts) if count != 1), n)
            if meta_bin in words[: n * 6 : 6]:
                n = words[: n * 6 : 6].index(meta_bin)
            begins.extend(longs[1 : n * 3 : 3])
            ends.extend(longs[2 : n * 3 : 3])
            return taken + n
        begins.extend(longs[1::3])
        ends.extend(longs[2::3])
        taken += n
        at += n * _SINGLE_BYTES
    return taken


def _bai(data: bytes) -> Index:
    if not data.startswith(b"BAI\x01"):
        raise ValueError("no BAI: its magic is not there")
    cursor = _Cursor(data)
    (_, contigs) = cursor.take("Ii")
    spans = _with_linear(cursor, _contigs(contigs))
    return Index(".bai", contigs, first=spans.first, last=spans.last, records=spans.total())


def _tbi(data: bytes) -> Index:
    data = _unpacked(data, "TBI")
    if not data.startswith(b"TBI\x01"):
        raise ValueError("no TBI: its magic is not there")
    cursor = _Cursor(data)
    (_, contigs) = cursor.take("Ii")
    columns, names = _text(cursor)
    if len(names) != _contigs(contigs):
        raise ValueError(f"the TBI names {len(names)} contigs and says that it has {contigs}")
    spans = _with_linear(cursor, contigs)
    return Index(".tbi", contigs, names, columns, spans.first, spans.last, spans.total())


def _csi(data: bytes) -> Index:
    data = _unpacked(data, "CSI")
    if not data.startswith(b"CSI\x01"):
        raise ValueError("no CSI: its magic is not there")
    cursor = _Cursor(data)
    (_, _, depth, more) = cursor.take("Iiii")
    if not 0 <= depth <= 20:
        raise ValueError(f"no CSI has {depth} levels")
    columns, names = None, None
    # Of BAM there is nothing, of BCF less than an index of text has.
    aux = _Cursor(cursor.bytes(more))
    if more >= _TEXT_BYTES:
        columns, names = _text(aux)
    (contigs,) = cursor.take("i")
    if names is not None and len(names) != _contigs(contigs):
        raise ValueError(f"the CSI names {len(names)} contigs and says that it has {contigs}")
    spans = _Spans()
    meta_bin = ((1 << (depth + 1) * 3) - 1) // 7 + 1
    for _ in range(_contigs(contigs)):
        spans.bins(cursor, meta_bin, with_offset=True)
    spans.unplaced(cursor)
    return Index(".csi", contigs, names, columns, spans.first, spans.last, spans.total())


_TEXT_BYTES = 28


def _text(cursor: _Cursor) -> tuple[Columns, tuple[bytes, ...]]:
    """What TBI, and CSI of text, say about columns and names."""
    (preset, contig, begin, end, meta, skip, size) = cursor.take("7i")
    names = cursor.bytes(size).split(b"\0")
    if names.pop():
        raise ValueError("the last name of the index does not end")
    return Columns(preset, contig, begin, end, meta, skip), tuple(names)


def _contigs(number: int) -> int:
    if number < 0:
        raise ValueError(f"an index of {number} contigs")
    return number


def _with_linear(cursor: _Cursor, contigs: int) -> _Spans:
    """Bins and linear index of BAI and TBI."""
    spans = _Spans()
    for _ in range(contigs):
        spans.bins(cursor, _BAI_META_BIN, with_offset=False)
        (windows,) = cursor.take("i")
        cursor.bytes(windows * 8)
    spans.unplaced(cursor)
    return spans


def _unpacked(data: bytes, what: str) -> bytes:
    if container_of(data) is not Container.BGZF:
        raise ValueError(f"no {what}: it is not BGZF")
    return _decoded(data, Container.BGZF)


def _decoded(data: bytes, container: Container) -> bytes:
    found = bytearray()
    try:
        for chunk in decoded(io.BytesIO(data), container):
            found += chunk
            if len(found) > INDEX_BYTES_MAX:
                raise ValueError("the index is too large")
    except StageFailed as error:
        raise ValueError(error.message) from error
    return bytes(found)


def _crai(data: bytes) -> Index:
    container = container_of(data)
    if container in (Container.GZIP, Container.BGZF):
        data = _decoded(data, container)
    slices: dict[int, tuple[int, int, int]] = {}
    contigs = 0
    for line in data.splitlines():
        fields = line.split(b"\t")
        if len(fields) != 6 or not all(_whole(field) for field in fields):
            raise ValueError("no CRAI: a line is not six numbers")
        contig, _, _, place, within, size = map(int, fields)
        if min(place, within, size) < 0:
            raise ValueError("no CRAI: an offset is negative")
        contigs = max(contigs, contig + 1)
        slices[place] = place, within, size
    if not slices:
        return Index(".crai", contigs)
    first, last = min(slices), max(slices)
    return Index(
        ".crai",
        contigs,
        first=first,
        last=last,
        slices=(slices[first], slices[last]),
    )


def _whole(field: bytes) -> bool:
    return field.removeprefix(b"-").isdigit() and len(field) < 20


def _fai(data: bytes) -> Index:
    sequences = []
    for line in data.splitlines():
        fields = line.split(b"\t")
        if len(fields) != 5 or not all(f.isdigit() and len(f) < 20 for f in fields[1:]):
            raise ValueError("no FAI of FASTA: a line is not a name and four numbers")
        length, offset, bases, width = map(int, fields[1:])
        if bases > width or (length and not bases):
            raise ValueError("no FAI: lines with more bases than bytes")
        sequences.append(Sequence(fields[0], length, offset, bases, width))
    return Index(
        ".fai",
        len(sequences),
        names=tuple(sequence.name for sequence in sequences),
        sequences=tuple(sequences),
    )


def _gzi(data: bytes) -> Index:
    cursor = _Cursor(data)
    (count,) = cursor.take("Q")
    if cursor.left != count * 16:
        raise ValueError("no GZI: its length is not what it says")
    numbers = cursor.offsets(count * 2)
    blocks = tuple(zip(numbers[::2], numbers[1::2], strict=True))
    if list(blocks) != sorted(blocks):
        raise ValueError("no GZI: its offsets do not ascend")
    places = [place for place, _ in blocks]
    return Index(
        ".gzi",
        0,
        first=min(places, default=None),
        last=max(places, default=None),
        blocks=blocks,
    )


_READERS: Mapping[str, Callable[[bytes], Index]] = {
    ".bai": _bai,
    ".csi": _csi,
    ".tbi": _tbi,
    ".crai": _crai,
    ".fai": _fai,
    ".gzi": _gzi,
}
