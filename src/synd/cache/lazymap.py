"""The map of a lazy staging file, ``<number>.map``: which blocks of the base are in the file already.

One byte for each block of the base, behind a header. A mark is SAFE once the block is known to outlive a
power loss, until then HERE: right as long as this boot lasts, since the page cache keeps the order of
writes over a kill, and void under another boot id, since the disk does not. So a write is acknowledged
after two plain writes, and a power loss takes back what was not synced, but never mixes in zeros.

The map is written, not memory-mapped: a page that finds no room on the disk is an error of the writer
then, and not a signal that ends the process.

The file is believed where the map says so and from `limit` on, the least size that it ever had: past
that the base must not show again. Nothing here locks: `lazy` holds its own lock around every call.
"""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable

from synd.cache.disk import write_at
from synd.errors import StoreError
from synd.ranges import ByteRange

BLOCK = 64 << 10
"""Bytes of the base that come together. A write into the middle of a missing block waits for one request
to the service, whose latency (tens of milliseconds) is that of several hundred KiB: 16 KiB would not come
sooner, and 1 MiB would cost random writers sixteen times the disk and the traffic. Writes of the kernel
are up to 1 MiB and start on pages, so most cover whole blocks. A map takes 16 KiB for each GiB."""

SHIFT = BLOCK.bit_length() - 1

_HEADER = struct.Struct("<8sQQI36s")
"""magic; size of the base; limit; block; boot id under which HERE holds"""
_MAGIC = b"syndlzy1"

ABSENT = 0
HERE = 1
SAFE = 2
_TO_HERE = bytes.maketrans(b"\0", b"\1")
_DEMOTED = bytes.maketrans(b"\1", b"\0")
_ABSENT_RUN = re.compile(rb"\x00+")
_HERE_RUN = re.compile(rb"\x01+")


def blocks(size: int) -> int:
    return (size + BLOCK - 1) >> SHIFT


def write_new(fd: int, base_size: int, boot: str) -> None:
    """Writes the map of a file of which nothing is here yet. Raises OSError."""
    write_at(fd, _header(base_size, base_size, boot) + bytes(blocks(base_size)), 0)


def _header(base_size: int, limit: int, boot: str) -> bytes:
    return _HEADER.pack(_MAGIC, base_size, limit, BLOCK, boot.encode()[:36])


class LazyMap:
    """The marks of one file, the same in memory and on disk."""

    def __init__(
        self, fd: int, base_size: int, file_size: int, boot: str, flush: Callable[[int], None]
    ) -> None:
        """Takes over `fd`. Raises StoreError when this is no map of that base, OSError."""
        count = blocks(base_size)
        raw = os.pread(fd, _HEADER.size + count + 1, 0)
        marks = bytearray(raw[_HEADER.size :])
        if len(marks) != count or sum(map(marks.count, (ABSENT, HERE, SAFE))) != count:
            raise StoreError("the map of a partly fetched edit is damaged")
        magic: bytes
        made: bytes
        limit: int
        magic, size, limit, block, made = _HEADER.unpack_from(raw)
        if (magic, size, block) != (_MAGIC, base_size, BLOCK):
            raise StoreError("the map of a partly fetched edit belongs to other content")
        self.fd = fd
        self.limit = min(limit, file_size)
        """Bytes of the base from here on are no part of the file any more."""
        self._saved_limit = limit
        self._base_size = base_size
        self._boot = boot
        self._marks = marks
        self._unsafe = marks.find(HERE) >= 0
        if not boot or made.rstrip(b"\0").decode(errors="replace") != boot:
            if self._unsafe:
                self._marks = marks.translate(_DEMOTED)
                write_at(fd, self._marks, _HEADER.size)
                self._unsafe = False
            # Only now may HERE be believed again.
            flush(fd)
            write_at(fd, _header(base_size, limit, boot), 0)

    def missing(self, start: int, end: int) -> list[ByteRange]:
        """What the file lacks of a range, cut to it: in order, merged."""
        end = min(end, self.limit)
        found = []
        at, last = start >> SHIFT, blocks(end)
        while start < end and (run := _ABSENT_RUN.search(self._marks, at, last)) is not None:
            found.append(ByteRange(max(start, run.start() << SHIFT), min(end, run.end() << SHIFT)))
            at = run.end()
        return found

    def first_missing(self, most: int) -> ByteRange | None:
        """The first blocks that the file lacks, up to `most` bytes of them; None: it lacks nothing."""
        run = _ABSENT_RUN.search(self._marks, 0, blocks(self.limit))
        if run is None:
            return None
        start = run.start() << SHIFT
        return ByteRange(start, min(run.end() << SHIFT, start + most, self.limit))

    def needed(self, start: int, end: int) -> list[ByteRange]:
        """The blocks that must come before [start, end) may be written: those written only in part."""
        found: list[ByteRange] = []
        for number in {start >> SHIFT, (end - 1) >> SHIFT}:
            first, last = number << SHIFT, min((number + 1) << SHIFT, self.limit)
            if first >= last or self._marks[number] != ABSENT:
                continue
            apart = end <= first or last <= start
            whole = start <= first and last <= end
            if not apart and not whole:
                found.append(ByteRange(first, last))
        return sorted(found)

    def whole_until(self, end: int) -> int:
        """`end`, or the start of the missing block that it lies in the middle of."""
        first = end & ~(BLOCK - 1)
        if first < end < self.limit and self._marks[first >> SHIFT] == ABSENT:
            return first
        return end

    def mark(self, start: int, end: int) -> None:
        """The blocks that lie in [start, end) whole are in the file. Raises OSError: then they are not."""
        first = blocks(start)
        last = blocks(self.limit) if end >= self.limit else end >> SHIFT
        if first >= last or self._marks.find(ABSENT, first, last) < 0:
            return
        marks = self._marks[first:last].translate(_TO_HERE)
        write_at(self.fd, marks, _HEADER.size + first)
        self._marks[first:last] = marks
        self._unsafe = True

    def unsafe(self) -> bytes | None:
        """The marks, for `promote` once the file was synced; None when none is to be promoted."""
        return bytes(self._marks) if self._unsafe else None

    def promote(self, before: bytes) -> None:
        """What was HERE in `before` is SAFE: the file was synced since. Sync the map then."""
        for run in _HERE_RUN.finditer(before):
            safe = bytes([SAFE]) * (run.end() - run.start())
            write_at(self.fd, safe, _HEADER.size + run.start())
            self._marks[run.start() : run.end()] = safe
        self._unsafe = self._marks.find(HERE) >= 0

    @property
    def limit_unsaved(self) -> bool:
        """Whether the file was cut below what the map on disk says."""
        return self.limit < self._saved_limit

    def save_limit(self) -> None:
        """To be called between a sync of the file and one of the map, before the file grows again."""
        limit = self.limit
        write_at(self.fd, _header(self._base_size, limit, self._boot), 0)
        self._saved_limit = limit

    @property
    def missing_bytes(self) -> int:
        """Bytes of the base that the file lacks."""
        last = blocks(self.limit)
        count = self._marks.count(ABSENT, 0, last) << SHIFT
        if last and self._marks[last - 1] == ABSENT:
            count -= (last << SHIFT) - self.limit
        return count
