"""Byte ranges: parse the HTTP spelling, clip, merge, subtract. All ranges are half open, in bytes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from synd.errors import RangeNotSatisfiable, UsageError


class ByteRange(NamedTuple):
    """The bytes from `start` up to, not including, `end`."""

    start: int
    end: int

    @property
    def size(self) -> int:
        return self.end - self.start


class FileSlice(NamedTuple):
    """Bytes that lie in an open local file: whoever wants them moves them without Python's help.

    The descriptor stays its owner's, who keeps it open while it is in use. Bytes past the end of the
    file are simply not there.
    """

    fd: int
    offset: int
    size: int


_SPEC = re.compile(r"([0-9]*)-([0-9]*)")


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The one range that an HTTP Range header asks for; None when it asks for the whole.

    Raises UsageError if malformed, RangeNotSatisfiable if it lies past the end. Several ranges
    in one header are answered by the whole, as RFC 9110 14.2 allows.
    """
    if header is None:
        return None
    unit, _, listed = header.strip().partition("=")
    wanted = [part for part in map(str.strip, listed.split(",")) if part]
    matches = [match for match in map(_SPEC.fullmatch, wanted) if match and (match[1] or match[2])]
    if unit.lower() != "bytes" or not matches or len(matches) < len(wanted):
        raise UsageError(f"malformed Range header {header[:100]!r}", hint="write bytes=FIRST-LAST")
    if len(matches) > 1:
        return None
    match = matches[0]
    if not match[1]:
        last_n = _number(match[2])
        if last_n == 0 or size == 0:
            raise RangeNotSatisfiable(f"range {header[:100]!r} is empty")
        return ByteRange(max(0, size - last_n), size)
    start = _number(match[1])
    end = _number(match[2]) + 1 if match[2] else size
    if match[2] and end <= start:
        raise UsageError(
            f"malformed Range header {header[:100]!r}", hint="the last byte precedes the first"
        )
    if start >= size:
        raise RangeNotSatisfiable(f"range {header[:100]!r} starts past the end ({size} bytes)")
    return ByteRange(start, min(end, size))


def _number(digits: str) -> int:
    """What digits say; one that no file reaches when there are more than Python takes."""
    return int(digits.lstrip("0")[:20] or "0")


def clip(wanted: ByteRange, size: int) -> ByteRange:
    """`wanted` cut to a file of `size` bytes; empty ranges have equal ends."""
    start = min(max(0, wanted.start), size)
    return ByteRange(start, max(start, min(wanted.end, size)))


def merge(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """The same bytes as sorted ranges that neither touch nor overlap."""
    out: list[ByteRange] = []
    for one in sorted(r for r in ranges if r.end > r.start):
        if out and one.start <= out[-1].end:
            if one.end > out[-1].end:
                out[-1] = ByteRange(out[-1].start, one.end)
        else:
            out.append(one)
    return out


def subtract(wanted: ByteRange, have: Iterable[ByteRange]) -> list[ByteRange]:
    """The parts of `wanted` that `have` does not hold, in order."""
    left: list[ByteRange] = []
    at = wanted.start
    for one in merge(have):
        if one.end <= at:
            continue
        if one.start >= wanted.end:
            break
        if one.start > at:
            left.append(ByteRange(at, one.start))
        at = max(at, one.end)
    if at < wanted.end:
        left.append(ByteRange(at, wanted.end))
    return left
