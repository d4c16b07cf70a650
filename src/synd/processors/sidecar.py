"""Whether an index that lies beside a file belongs to it.

Looks at the whole index and at a few ranges of the data. What is refused is ignored and built anew, never mended.
Two tools write different bytes for the same records: an index must be of these bytes, not of these records.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

from synd.errors import StageFailed
from synd.processors import bgzf, cram
from synd.processors.containers import Container
from synd.processors.detect import BED_FAMILY, INTERVALS, Detected, Format
from synd.processors.indexes import SUFFIXES, Index, Sequence, read_index
from synd.processors.normalise import VCF, rules

HEADER_BYTES_MAX = 64 << 20
"""A header that takes more to read is not looked through: the index is refused."""

_NEAR_BYTES = 16 << 10
_NAME_BYTES = 4 << 10
"""What a name with its description mostly takes."""
_SEQUENCES = 16
_JOINED = 1 << 10
"""Empty blocks in a row that are looked through."""
_CONTIG = re.compile(rb"##contig=<(?:.*,)?ID=([^,>]+)")
_IDLE_LINE = re.compile(rb"#|\s*$")
"""No record."""
_IDLE_BED = re.compile(rb"#|\s*$|(?:track|browser)\s(?![0-9]+\t[0-9]+(?:\t|$))")
"""A contig may be called `track` too."""


def candidates(name: str) -> list[str]:
    """Names that an index of this file may have in the same folder, likeliest first."""
    found = [name + suffix for suffix in SUFFIXES]
    stem, dot, ending = name.rpartition(".")
    for suffix, index in ((".bam", ".bai"), (".cram", ".crai")):
        if stem and (dot + ending).lower() == suffix:
            found.append(stem + index)
    return found


def suffixes(format: Format) -> tuple[str, ...]:
    """The kinds of index that can stand alone for a file of that format, likeliest first."""
    return tuple(
        suffix for suffix in SUFFIXES if suffix != ".gzi" and format in _KINDS.get(suffix, ())
    )


def check(
    index: bytes,
    suffix: str,
    read: Callable[[int, int], bytes],
    size: int,
    detected: Detected,
    *,
    gzi: bytes | None = None,
) -> Index:
    """What the index says, when it may be served with the data; raises ValueError that says why not.

    `read(offset, n)` gives a range of the data, which has `size` bytes. `gzi`: the GZI that lies beside a FAI; a FAI
    of a BGZF file is refused without one.
    """
    if detected.format not in _KINDS.get(suffix, frozenset()):
        raise ValueError(f"{detected.format} has no index of the kind {suffix}")
    found = read_index(index, suffix)
    data = _Ranges(read, size)
    try:
        if suffix == ".crai":
            _check_cram(found, data)
        elif suffix == ".fai":
            _check_fasta(found, data, detected.container, gzi)
        else:
            _check_bgzf(found, data, detected)
    except StageFailed as error:
        # What stands where the index points to is no block.
        raise ValueError(error.message) from error
    return found


_KINDS = {
    ".bai": frozenset([Format.BAM]),
    ".tbi": INTERVALS,
    ".csi": INTERVALS | {Format.BAM, Format.BCF},
    ".crai": frozenset([Format.CRAM]),
    ".fai": frozenset([Format.FASTA]),
    ".gzi": frozenset([Format.FASTA]),
}


class _Ranges(io.RawIOBase):
    """The data as a file, of which only what is looked at is read."""

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read = read
        self.size = size
        self._at = 0
        self._window = (0, b"")

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        if whence != io.SEEK_SET:
            raise io.UnsupportedOperation("seek from elsewhere than the start")
        self._at = offset
        return offset

    def read(self, n: int = -1, /) -> bytes:
        found = self.range(self._at, self.size if n < 0 else n)
        self._at += len(found)
        return found

    def range(self, offset: int, n: int) -> bytes:
        """Up to `n` bytes; fewer at the end."""
        n = min(n, self.size - offset)
        if n <= 0 or offset < 0:
            return b""
        start, window = self._window
        if not start <= offset <= offset + n <= start + len(window):
            start, window = self._window = (offset, self._read(offset, n))
        return window[offset - start : offset - start + n]

    @property
    def file(self) -> BinaryIO:
        return cast("BinaryIO", self)


class _Beginning:
    """The decoded beginning of a BGZF file, as far as it is asked for."""

    def __init__(self, data: _Ranges) -> None:
        self._file = data.file
        self._next = 0
        self._starts: dict[int, int] = {}
        """Where each block's data begins, by the block's offset in the file."""
        self.data = bytearray()

    def need(self, n: int) -> bool:
        """Whether there are `n` bytes."""
        while len(self.data) < n and self.more():
            pass
        return len(self.data) >= n

    def more(self) -> bool:
        """Decodes one block more; False at the end of the file."""
        if len(self.data) > HEADER_BYTES_MAX:
            raise ValueError("the header is too large to look through")
        block = bgzf.read_block(self._file, self._next)
        if not block:
            return False
        self._starts[self._next] = len(self.data)
        self.data += bgzf.inflate_block(block)
        self._next += len(block)
        return True

    def number(self, at: int, size: int = 4) -> int:
        """The signed number at a place. Raises ValueError past the end."""
        if not self.need(at + size):
            raise ValueError("the header is cut")
        return int.from_bytes(self.data[at : at + size], "little", signed=True)

    def place(self, virtual_offset: int) -> int | None:
        """Where in the decoded data that is; None: not in what was decoded."""
        start = self._starts.get(virtual_offset >> 16)
        if virtual_offset >> 16 == self._next:
            start = len(self.data)
        return None if start is None else start + (virtual_offset & 0xFFFF)

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Each line with its place."""
        at = 0
        while True:
            while (end := self.data.find(b"\n", at)) < 0 and self.more():
                pass
            if end < 0:
                if at < len(self.data):
                    yield at, bytes(self.data[at:])
                return
            yield at, bytes(self.data[at:end])
            at = end + 1


def _check_bgzf(found: Index, data: _Ranges, detected: Detected) -> None:
    if detected.container is not Container.BGZF:
        raise ValueError("the data is not BGZF, so nothing in it can be found by an index")
    tail = data.range(data.size - len(bgzf.EOF_BLOCK), len(bgzf.EOF_BLOCK))
    if tail != bgzf.EOF_BLOCK:
        raise ValueError("the data lacks the empty block that BGZF ends in")
    if found.columns is not None and detected.format not in INTERVALS:
        raise ValueError("the index is one of text")
    if found.suffix == ".gzi":
        _check_gzi(found, data)
    elif detected.format is Format.BAM:
        _check_bam(found, data)
    elif detected.format is Format.BCF:
        _check_bcf(found, data)
    else:
        _check_text(found, data, detected.format)


def _check_bam(found: Index, data: _Ranges) -> None:
    beginning = _Beginning(data)
    at = 8 + beginning.number(4)
    contigs = beginning.number(at)
    if contigs != found.contigs:
        raise ValueError(f"the data has {contigs} contigs, the index {found.contigs}")
    at += 4
    for _ in range(contigs):
        at += 8 + beginning.number(at)
    _check_first(found, beginning, at)
    if found.first is None:
        placed = beginning.need(at + 8) and beginning.number(at + 4) >= 0
    else:
        behind = _behind(found, data, 8)
        placed = len(behind) == 8 and int.from_bytes(behind[4:], "little", signed=True) >= 0
    if placed:
        raise ValueError("the data has more records than the index knows")


def _check_bcf(found: Index, data: _Ranges) -> None:
    beginning = _Beginning(data)
    at = 9 + beginning.number(5)
    if not beginning.need(at):
        raise ValueError("the header is cut")
    contigs = sum(line.startswith(b"##contig=") for line in beginning.data[9:at].split(b"\n"))
    if contigs < found.contigs:
        raise ValueError(f"the data has {contigs} contigs, the index {found.contigs}")
    _check_first(found, beginning, at)
    if beginning.need(at + 1) if found.first is None else _behind(found, data, 1):
        raise ValueError("the data has more records than the index knows")


def _check_first(found: Index, beginning: _Beginning, at: int) -> None:
    """The first record that the index knows is the one behind the header."""
    if found.first is None:
        return
    beginning.need(at + 1)
    if beginning.place(found.first) != at:
        raise ValueError("the index begins where no first record stands")


def _check_text(found: Index, data: _Ranges, format: Format) -> None:
    _check_columns(found, format)
    names = found.names or ()
    beginning = _Beginning(data)
    declared: set[bytes] = set()
    first: tuple[int, bytes] | None = None
    idle = _IDLE_BED if format in BED_FAMILY else _IDLE_LINE
    for at, line in beginning.lines():
        if not idle.match(line):
            first = at, line.split(b"\t", 1)[0]
            break
        if declaration := _CONTIG.match(line):
            declared.add(declaration[1])
    if declared and not declared.issuperset(names):
        raise ValueError("the index has contigs that the header has not")
    if first is None or found.first is None:
        if first is not None or names:
            raise ValueError("the index and the data do not have the same contigs")
        return
    at, contig = first
    if contig != names[0]:
        raise ValueError("the first contig of the data is not that of the index")
    place = beginning.place(found.first)
    if place is None or place > at or (place and beginning.data[place - 1 : place] != b"\n"):
        raise ValueError("the index begins where no first record stands")
    behind = _behind(found, data, _NEAR_BYTES)
    if len(behind) == _NEAR_BYTES or not all(map(idle.match, behind.split(b"\n"))):
        raise ValueError("the data has more records than the index knows")


def _check_columns(found: Index, format: Format) -> None:
    columns, wanted = found.columns, rules(format)
    if columns is None:
        raise ValueError("the index is not one of text")
    fit = (columns.preset, columns.contig, columns.begin) == (
        wanted.preset,
        wanted.contig,
        wanted.begin,
    ) and (wanted is VCF or columns.end == wanted.end)
    if not fit:
        raise ValueError(f"the index was made for other columns than those of {format}")


def _behind(found: Index, data: _Ranges, n: int) -> bytes:
    """Up to `n` bytes behind the last record that the index knows. Raises ValueError when it is not in the data."""
    last = found.last or 0
    offset, within = last >> 16, last & 0xFFFF
    block = bgzf.read_block(data.file, offset)
    if not block or len(bgzf.inflate_block(block)) < within:
        raise ValueError("the index points behind the data")
    return bgzf.read_at(data.file, last, n)


def _check_gzi(found: Index, data: _Ranges) -> None:
    at = start = 0
    # The first two blocks, and the last that it knows.
    for place, begin in found.blocks[:2]:
        block = bgzf.read_block(data.file, at)
        at, start = _behind_empty(data, at + len(block)), start + len(bgzf.inflate_block(block))
        if not block or (place, begin) != (at, start):
            raise ValueError("the GZI has other blocks than the data")
    last = found.last or 0
    block = bgzf.read_block(data.file, last)
    if not block or (found.blocks and bgzf.block_size(block) is None):
        raise ValueError("the GZI points behind the data")
    if _behind_empty(data, last + len(block)) < data.size:
        raise ValueError("the data has more blocks than the GZI knows")


def _behind_empty(data: _Ranges, at: int) -> int:
    """Where the first block stands from `at` on that holds anything: where files were joined, their ends are left."""
    for _ in range(_JOINED):
        if data.range(at, len(bgzf.EOF_BLOCK)) != bgzf.EOF_BLOCK:
            break
        at += len(bgzf.EOF_BLOCK)
    return at


def _check_fasta(found: Index, data: _Ranges, container: Container, gzi: bytes | None) -> None:
    text: Callable[[int, int], bytes] = data.range
    if container is Container.BGZF:
        if gzi is None:
            raise ValueError("the data is BGZF, and there is no GZI")
        blocks = read_index(gzi, ".gzi")
        _check_gzi(blocks, data)
        text = _seekable(data, blocks)
    elif container is not Container.NONE:
        raise ValueError(f"the data is {container}, so nothing in it can be found by an index")
    if not found.sequences:
        raise ValueError("the FAI has no sequences")
    # Each costs a few reads, and a genome may have a million: the first, the last, and some between.
    end = len(found.sequences) - 1
    looked_at = {end * n // (_SEQUENCES - 1) for n in range(_SEQUENCES)}
    for number in sorted(looked_at):
        _check_sequence(found.sequences[number], text, last=number == end)


def _seekable(data: _Ranges, blocks: Index) -> Callable[[int, int], bytes]:
    """Ranges of the decoded data."""
    places = [(0, 0), *blocks.blocks]
    starts = [start for _, start in places]

    def text(offset: int, n: int) -> bytes:
        place, start = places[bisect_right(starts, offset) - 1]
        if offset - start > 0xFFFF:
            raise ValueError("the index points behind the data")
        return bgzf.read_at(data.file, place << 16 | offset - start, n)

    return text


def _check_sequence(sequence: Sequence, text: Callable[[int, int], bytes], *, last: bool) -> None:
    begin, bases = sequence.offset, sequence.line_bases
    near = min(begin, _NAME_BYTES)
    while True:
        before = text(begin - near, near)
        _, above, line = before.rstrip(b"\r\n").rpartition(b"\n")
        # Descriptions that were merged may be long.
        if above or near == begin or near > HEADER_BYTES_MAX:
            break
        near = min(begin, near * 16)
    if not before.endswith(b"\n") or line[:1] != b">" or line[1:].split()[:1] != [sequence.name]:
        raise ValueError("a sequence of the index does not begin where it says")
    lines, rest = divmod(max(0, sequence.length - 1), bases or 1)
    if lines:
        # The ends of the first line and of the last but one: of the same length are many files.
        ends = sequence.line_bytes - bases
        for at in (begin, begin + (lines - 1) * sequence.line_bytes):
            seam = text(at + bases - 1, ends + 2)
            if [not byte.strip() for byte in (seam[:1], seam[1 : 1 + ends], seam[1 + ends :])] != [
                False,
                True,
                False,
            ]:
                raise ValueError("the lines of a sequence are not as long as the index says")
    end = begin
    if sequence.length:
        end = begin + lines * sequence.line_bytes + rest + 1
        if not text(end - 1, 1).strip():
            raise ValueError("a sequence of the index does not end where it says")
    behind = text(end, _NAME_BYTES)
    following = behind.lstrip(b"\r\n")
    ended = not following if last else following[:1] in (b">", b"")
    if not ended or (following and behind == following and sequence.length):
        raise ValueError("a sequence of the index does not end where it says")


def _check_cram(found: Index, data: _Ranges) -> None:
    major = cram.major_version(data.range(0, cram.DEFINITION_BYTES))

    def container(at: int) -> cram.CramContainer:
        return cram.container_at(data.range(at, cram.HEADER_BYTES), major)

    at = cram.DEFINITION_BYTES
    header = container(at)
    if header.size > HEADER_BYTES_MAX:
        raise ValueError("the header is too large to look through")
    at += header.header_size
    contigs, taken = cram.contigs_of(data.range(at, header.size + cram.SLACK_BYTES))
    if contigs < found.contigs:
        raise ValueError(f"the data has {contigs} contigs, the index {found.contigs}")
    at += max(header.size, taken)
    for place, within, size in found.slices:
        here = container(place)
        if within not in here.landmarks or within + size > here.size:
            raise ValueError("the index points to where no slice stands")
    if found.first is not None and found.first != at:
        raise ValueError("the index begins where no first record stands")
    if found.last is not None:
        at = found.last + (last := container(found.last)).header_size + last.size
    # What is left is the container that marks the end, which has no slices.
    if at > data.size or (at < data.size and container(at).landmarks):
        raise ValueError("the data has more records than the index knows")
