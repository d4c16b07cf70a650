"""A genome browser as a web page is one: it asks by HTTP ranges, and finds records through the index by itself.

Reads BAI and TBI, BGZF, BAM and VCF from their specifications (SAMv1, tabix.pdf), with nothing of synd's, so
that what it finds proves what is served.
"""

from __future__ import annotations

import http.client
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from urllib.parse import urlsplit

PAGE = "https://browser.example.org"
_STEP = 64 << 10


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Message
    body: bytes


@dataclass
class Page:
    """A web page that reads from `address` with `token`, and what it was sent so far."""

    address: str
    token: str
    received: int = 0
    etags: dict[str, str] = field(default_factory=dict)

    def ask(self, path: str, method: str = "GET", **headers: str) -> Answer:
        """One request, as a browser sends it for a page of another origin. `headers`: `_` stands for `-`."""
        parts = urlsplit(self.address)
        line = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
        target = f"{path}{'&' if '?' in path else '?'}token={self.token}" if self.token else path
        try:
            sent = {"Origin": PAGE} | {k.replace("_", "-"): v for k, v in headers.items()}
            line.request(method, target, headers=sent)
            answer = line.getresponse()
            found = Answer(answer.status, answer.headers, answer.read())
        finally:
            line.close()
        self.received += len(found.body)
        return found

    def whole(self, path: str) -> bytes:
        """All of a file."""
        found = self.ask(path)
        assert found.status == 200, found
        assert found.headers["Access-Control-Allow-Origin"] == "*"
        return found.body

    def range(self, path: str, start: int, end: int) -> bytes:
        """Bytes from `start` up to, not including, `end`; fewer at the file's end. Of one and the same content."""
        more = {"If_Range": self.etags[path]} if path in self.etags else {}
        found = self.ask(path, Range=f"bytes={start}-{end - 1}", **more)
        if found.status == 416:
            return b""
        assert found.status == 206, found
        told, _, total = found.headers["Content-Range"].removeprefix("bytes ").partition("/")
        assert told == f"{start}-{min(end, int(total)) - 1}"
        exposed = found.headers["Access-Control-Expose-Headers"]
        assert {"Content-Range", "ETag"} <= {one.strip() for one in exposed.split(",")}
        self.etags[path] = found.headers["ETag"]
        return found.body

    def decoded(self, path: str, start: int, last: int | None = None) -> bytes:
        """The blocks from virtual offset `start` on, up to and with the one at `last`, or up to 64 KiB of them."""
        at, skip = start >> 16, start & 0xFFFF
        end = at + 1 if last is None else (last >> 16) + 1
        # The last block's length is not known: a block has 64 KiB at most.
        raw = self.range(path, at, end + _STEP)
        data = b"".join(block for offset, block in blocks(raw) if offset < end - at or last is None)
        return data[skip:]


def blocks(raw: bytes) -> Iterator[tuple[int, bytes]]:
    """Offset and content of each whole BGZF block."""
    at = 0
    while at + 18 <= len(raw):
        assert raw[at : at + 4] == b"\x1f\x8b\x08\x04", "no BGZF block begins here"
        size = struct.unpack_from("<H", raw, at + 16)[0] + 1
        if at + size > len(raw):
            return
        yield at, zlib.decompress(raw[at : at + size], 31)
        at += size


@dataclass(frozen=True)
class Contig:
    """One contig's part of an index."""

    bins: dict[int, list[tuple[int, int]]]
    linear: list[int]

    def span(self, begin: int, end: int) -> tuple[int, int] | None:
        """First and last virtual offset of what may overlap [begin, end), 0-based; None: nothing does."""
        least = self.linear[min(begin >> 14, len(self.linear) - 1)] if self.linear else 0
        found = [
            chunk
            for one in _bins(begin, end)
            for chunk in self.bins.get(one, ())
            if chunk[1] > least
        ]
        if not found:
            return None
        return max(least, min(c[0] for c in found)), max(c[1] for c in found)


def _bins(begin: int, end: int) -> Iterator[int]:
    yield 0
    for shift, first in ((26, 1), (23, 9), (20, 73), (17, 585), (14, 4681)):
        yield from range(first + (begin >> shift), first + ((end - 1) >> shift) + 1)


def bai(data: bytes) -> list[Contig]:
    """The contigs of a BAI, in the order of the BAM's header."""
    assert data[:4] == b"BAI\1"
    return _contigs(data, 8, struct.unpack_from("<i", data, 4)[0])


def tbi(data: bytes) -> dict[str, Contig]:
    """The contigs of a TBI by name."""
    data = b"".join(block for _, block in blocks(data))
    assert data[:4] == b"TBI\1"
    count, *_, length = struct.unpack_from("<8i", data, 4)
    names = data[36 : 36 + length].split(b"\0")[:count]
    return dict(zip((n.decode() for n in names), _contigs(data, 36 + length, count), strict=True))


def _contigs(data: bytes, at: int, count: int) -> list[Contig]:
    found = []
    for _ in range(count):
        bins: dict[int, list[tuple[int, int]]] = {}
        (number,) = struct.unpack_from("<i", data, at)
        at += 4
        for _ in range(number):
            one, chunks = struct.unpack_from("<Ii", data, at)
            at += 8
            if one != 37450:  # which holds counts, no places
                bins[one] = [struct.unpack_from("<QQ", data, at + 16 * i) for i in range(chunks)]
            at += 16 * chunks
        (windows,) = struct.unpack_from("<i", data, at)
        linear = list(struct.unpack_from(f"<{windows}Q", data, at + 4))
        at += 4 + 8 * windows
        found.append(Contig(bins, linear))
    return found


def bam_contigs(page: Page, path: str) -> list[str]:
    """Names in a BAM's header, of which only the first blocks are asked for."""
    data, at = b"", 0
    while True:
        raw = page.range(path, at, at + _STEP)
        done = 0
        for offset, block in blocks(raw):
            data += block
            done = offset + struct.unpack_from("<H", raw, offset + 16)[0] + 1
        try:
            return _bam_names(data)
        except struct.error:
            assert done, "the header is cut"
            at += done


def _bam_names(data: bytes) -> list[str]:
    assert data[:4] == b"BAM\1"
    at = 8 + struct.unpack_from("<i", data, 4)[0]
    (count,) = struct.unpack_from("<i", data, at)
    at += 4
    names = []
    for _ in range(count):
        (length,) = struct.unpack_from("<i", data, at)
        struct.unpack_from("<i", data, at + 4 + length)
        names.append(data[at + 4 : at + 3 + length].decode())
        at += 8 + length
    return names


def bam_region(
    page: Page, data: str, index: list[Contig], contig: int, begin: int, end: int
) -> list[str]:
    """Names of the reads that overlap [begin, end), 0-based, in file order."""
    span = index[contig].span(begin, end)
    if span is None:
        return []
    raw = page.decoded(data, *span)
    found, at = [], 0
    while at + 36 <= len(raw):
        size, number, start, name, _, _, cigar, _ = struct.unpack_from("<iiiBBHHH", raw, at)
        if number != contig or start >= end:
            break
        text = raw[at + 36 : at + 36 + name - 1].decode()
        operations = struct.unpack_from(f"<{cigar}I", raw, at + 36 + name)
        # M, D, N, = and X take bases of the reference.
        length = sum(one >> 4 for one in operations if one & 15 in (0, 2, 3, 7, 8)) or 1
        if start + length > begin:
            found.append(text)
        at += 4 + size
    return found


def vcf_region(
    page: Page, data: str, index: dict[str, Contig], contig: str, begin: int, end: int
) -> list[str]:
    """The lines that begin in [begin, end) or, by the length of REF, reach into it; 0-based, in file order."""
    span = index[contig].span(begin, end) if contig in index else None
    if span is None:
        return []
    found = []
    for line in page.decoded(data, *span).decode().split("\n"):
        columns = line.split("\t")
        if len(columns) < 8 or columns[0] != contig:
            break
        start = int(columns[1]) - 1
        if start >= end:
            break
        if start + len(columns[3]) > begin:
            found.append(line)
    return found
