"""As much of CRAM's containers as tells how many contigs the header names, and whether a container stands at a place.

Source: the CRAM specification, versions 2.1 and 3.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

DEFINITION_BYTES = 26
"""Magic, version and an id, in front of the first container."""
HEADER_BYTES = 64 << 10
"""Enough for a container's header."""

_RAW, _GZIP = 0, 1
_HEADER_MAX = 64 << 20


@dataclass(frozen=True, slots=True)
class CramContainer:
    """One container's header."""

    header_size: int
    size: int
    """Bytes behind its header."""
    landmarks: tuple[int, ...]
    """Where its slices begin, behind its header."""


class _Cursor:
    """ValueError where the data ends."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, n: int) -> bytes:
        if n < 0 or self.at + n > len(self.data):
            raise ValueError("a container of the CRAM is cut")
        self.at += n
        return self.data[self.at - n : self.at]

    def int32(self) -> int:
        (number,) = struct.unpack("<i", self.take(4))
        return int(number)

    def itf8(self) -> int:
        """A number of up to 32 bits: the ones that lead its first byte count the bytes that follow."""
        first = self.take(1)[0]
        more = min(4, _leading_ones(first))
        if more < 4:
            return int.from_bytes(bytes([first & 0xFF >> (more + 1)]) + self.take(more), "big")
        rest = self.take(4)
        return (first & 0x0F) << 28 | int.from_bytes(rest[:3], "big") << 4 | rest[3] & 0x0F

    def ltf8(self) -> int:
        """The same with up to 64 bits."""
        first = self.take(1)[0]
        more = _leading_ones(first)
        kept = first & 0xFF >> (more + 1) if more < 7 else 0
        return int.from_bytes(bytes([kept]) + self.take(more), "big")


def _leading_ones(byte: int) -> int:
    return 8 - (byte ^ 0xFF).bit_length()


def major_version(definition: bytes) -> int:
    """The version of a CRAM that can be looked into. Raises ValueError for others."""
    if len(definition) < DEFINITION_BYTES or not definition.startswith(b"CRAM"):
        raise ValueError("no CRAM: its magic is not there")
    major = definition[4]
    if major not in (2, 3):
        raise ValueError(f"CRAM of version {major} is not known")
    return major


def container_at(head: bytes, major: int) -> CramContainer:
    """The container whose header `head` begins with. Raises ValueError when none does."""
    cursor = _Cursor(head)
    size = cursor.int32()
    for _ in range(4):
        cursor.itf8()
    # Records before this one, and bases.
    if major >= 3:
        cursor.ltf8()
    else:
        cursor.itf8()
    cursor.ltf8()
    cursor.itf8()
    landmarks = tuple(cursor.itf8() for _ in range(min(cursor.itf8(), len(head))))
    if major >= 3:
        summed = zlib.crc32(head[: cursor.at])
        if summed != int.from_bytes(cursor.take(4), "little"):
            raise ValueError("no container of CRAM stands there")
    if size < 0 or any(mark > size for mark in landmarks):
        raise ValueError("no container of CRAM stands there")
    return CramContainer(cursor.at, size, landmarks)


SLACK_BYTES = 16
"""htslib writes the container of a header of version 2 so that its block ends a little behind it."""


def contigs_of(body: bytes) -> tuple[int, int]:
    """How many contigs the header names, and the bytes that its block takes without a checksum; `body` is what lies
    behind the first container's header.

    Raises ValueError when it cannot be read.
    """
    cursor = _Cursor(body)
    method = cursor.take(1)[0]
    cursor.take(1)
    cursor.itf8()
    packed, size = cursor.itf8(), cursor.itf8()
    data = cursor.take(packed)
    end = cursor.at
    if size > _HEADER_MAX or method not in (_RAW, _GZIP):
        raise ValueError("the header of the CRAM is packed in a way that is not known")
    if method == _GZIP:
        try:
            data = zlib.decompressobj(31).decompress(data, size)
        except zlib.error as error:
            raise ValueError(f"the header of the CRAM is damaged: {error}") from error
    return sum(line.startswith(b"@SQ\t") for line in data[4:].split(b"\n")), end
