"""Whole numbers and ids in few bytes, as json-joy writes them.

Readers take the buffer and a position and return what they read and the position after it. They do not look
for the end of a node: that is the caller's, who compares the last position. IndexError past the buffer.
Source: reference/grid-protocol.md, 8.2.
"""

from __future__ import annotations

MOST = (1 << 53) - 1
"""The greatest time and session."""


def read_vu57(data: bytes, at: int) -> tuple[int, int]:
    """A number of 1 to 8 bytes, 57 bits."""
    byte = data[at]
    value = byte & 127
    shift = 7
    while byte > 127 and shift < 49:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        shift += 7
    if byte > 127:
        at += 1
        value |= data[at] << 49
    return value, at + 1


def read_b1vu56(data: bytes, at: int) -> tuple[int, int, int]:
    """A flag and a number of 1 to 8 bytes, 56 bits."""
    byte = data[at]
    flag = byte >> 7
    value = byte & 63
    more = byte & 64
    shift = 6
    while more and shift < 48:
        at += 1
        byte = data[at]
        value |= (byte & 127) << shift
        more = byte & 128
        shift += 7
    if more:
        at += 1
        value |= data[at] << 48
    return flag, value, at + 1


def read_id(data: bytes, at: int) -> tuple[int, int, int]:
    """Index in the clock table, and time."""
    byte = data[at]
    if byte < 128:
        return byte >> 4, byte & 15, at + 1
    if not byte & 64:
        # One byte of session and up to three of time, which is nearly all: without a further call.
        a = data[at + 1]
        if a < 128:
            return byte & 63, a, at + 2
        b = data[at + 2]
        if b < 128:
            return byte & 63, a & 127 | b << 7, at + 3
        c = data[at + 3]
        if c < 128:
            return byte & 63, a & 127 | (b & 127) << 7 | c << 14, at + 4
    _, index, at = read_b1vu56(data, at)
    time, at = read_vu57(data, at)
    return index, time, at


def write_vu57(out: bytearray, value: int) -> None:
    for _ in range(7):
        if value < 128:
            out.append(value)
            return
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def write_b1vu56(out: bytearray, flag: int, value: int) -> None:
    head = flag << 7
    if value < 64:
        out.append(head | value)
        return
    out.append(head | 64 | value & 63)
    value >>= 6
    for _ in range(6):
        if value < 128:
            out.append(value)
            return
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def write_id(out: bytearray, index: int, time: int) -> None:
    if index <= 7 and time <= 15:
        out.append(index << 4 | time)
        return
    write_b1vu56(out, 1, index)
    write_vu57(out, time)
