"""What constants of a grid hold, and their CBOR, both ways.

The bytes of a node hold CBOR items back to back with other things, and come from a network: so the reader
accounts for each byte, takes what JSON, undefined and byte strings need, and refuses the rest (tags, other
simple values, keys that are not text) and what is nested too deeply.
Source: RFC 8949; reference/grid-protocol.md, 9.3.
"""

from __future__ import annotations

import math
import struct
from typing import Any, Final, NamedTuple, final

from synd.errors import ProtocolError

MOST_DEEP: Final = 100
"""Lists and maps within each other inside one constant."""
CHUNK_UNITS: Final = 3996
"""UTF-16 units of a definite text in the service's form."""

_HALF = struct.Struct(">e")
_SINGLE = struct.Struct(">f")
_DOUBLE = struct.Struct(">d")
_BREAK = 0xFF


@final
class Undefined:
    """JavaScript's undefined: a value of its own, not None. There is one, `UNDEFINED`."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "undefined"

    def __bool__(self) -> bool:
        return False

    def __copy__(self) -> Undefined:
        return self

    def __deepcopy__(self, memo: object) -> Undefined:
        return self

    def __reduce__(self) -> str:
        return "UNDEFINED"


UNDEFINED: Final = Undefined()


class Timestamp(NamedTuple):
    """An id: session and time. Ids are ordered by time first: compare `key`."""

    sid: int
    time: int

    @property
    def key(self) -> tuple[int, int]:
        """(time, session), whose order is the order of ids."""
        return self.time, self.sid

    def __str__(self) -> str:
        return f"{self.sid}.{self.time}"

    @classmethod
    def parse(cls, text: str) -> Timestamp:
        """Of "session.time". Raises ProtocolError."""
        sid, dot, time = text.partition(".")
        if not (dot and sid.isdecimal() and time.isdecimal() and len(text) < 40):
            raise ProtocolError(f"not an id of a grid: {text[:40]!r}")
        return cls(int(sid), int(time))


def joined(text: str) -> str:
    """Halves of surrogate pairs that stand side by side become one character; lone ones stay."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")


def units(text: str) -> str:
    """One character per UTF-16 unit, so that slices are slices of units. `joined` undoes it."""
    if not text or text.isascii() or max(text) <= "\uffff":
        return text
    raw = text.encode("utf-16-le", "surrogatepass")
    return "".join(map(chr, memoryview(raw).cast("H")))


def decode_text(raw: bytes) -> str:
    """UTF-8, in which halves of surrogate pairs may stand, too. Raises UnicodeDecodeError."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return joined(raw.decode("utf-8", "surrogatepass"))


def read_head(data: bytes, at: int, end: int) -> tuple[int, int, int]:
    """Major type, argument (-1: indefinite), position after it."""
    if at >= end:
        raise ProtocolError("a value of the grid ends too early")
    head = data[at]
    low = head & 31
    at += 1
    if low < 24:
        return head >> 5, low, at
    if low < 28:
        after = at + (1 << (low - 24))
        if after > end:
            raise ProtocolError("a value of the grid ends too early")
        return head >> 5, int.from_bytes(data[at:after], "big"), after
    if low != 31:
        raise ProtocolError(f"not CBOR: byte {head:#x}")
    return head >> 5, -1, at


def read_value(data: bytes, at: int, end: int, depth: int = 0) -> tuple[Any, int]:
    """One CBOR item that ends at `end` at the latest, and the position after it. Raises ProtocolError."""
    major, size, after = read_head(data, at, end)
    if major == 7:
        return _simple(data, at, after, size)
    if major in (2, 3):
        return _string(data, after, end, major, size)
    if size < 0 and major < 4:
        raise ProtocolError("not CBOR: a number without a value")
    if major == 0:
        return size, after
    if major == 1:
        return -1 - size, after
    if major == 6:
        raise ProtocolError("a tagged value in a grid")
    if depth >= MOST_DEEP:
        raise ProtocolError(f"a value of the grid is nested more than {MOST_DEEP} deep")
    # Each element takes a byte at least.
    if size > end - after:
        raise ProtocolError("a value of the grid announces more than there is")
    if major == 4:
        return _array(data, after, end, size, depth + 1)
    return _map(data, after, end, size, depth + 1)


def _simple(data: bytes, at: int, after: int, size: int) -> tuple[Any, int]:
    head = data[at]
    if head == 0xF4:
        return False, after
    if head == 0xF5:
        return True, after
    if head == 0xF6:
        return None, after
    if head == 0xF7:
        return UNDEFINED, after
    if head == 0xFB:
        return _DOUBLE.unpack_from(data, at + 1)[0], after
    if head == 0xFA:
        return _SINGLE.unpack_from(data, at + 1)[0], after
    if head == 0xF9:
        return _HALF.unpack_from(data, at + 1)[0], after
    raise ProtocolError(f"a value of an unknown kind in a grid: {head:#x} {size}")


def _string(data: bytes, at: int, end: int, major: int, size: int) -> tuple[Any, int]:
    try:
        if size >= 0:
            if size > end - at:
                raise ProtocolError("a text of the grid ends too early")
            raw = data[at : at + size]
            return (decode_text(raw) if major == 3 else raw), at + size
        parts = []
        while True:
            if at < end and data[at] == _BREAK:
                break
            part_major, size, at = read_head(data, at, end)
            if part_major != major or size < 0 or size > end - at:
                raise ProtocolError("a text of the grid ends too early")
            parts.append(data[at : at + size])
            at += size
        if major == 2:
            return b"".join(parts), at + 1
        return joined("".join(p.decode("utf-8", "surrogatepass") for p in parts)), at + 1
    except UnicodeDecodeError as error:
        raise ProtocolError("a text of the grid is not UTF-8") from error


def _array(data: bytes, at: int, end: int, size: int, depth: int) -> tuple[Any, int]:
    out: list[Any] = []
    while size:
        if size < 0 and at < end and data[at] == _BREAK:
            return out, at + 1
        value, at = read_value(data, at, end, depth)
        out.append(value)
        size -= 1
    return out, at


def _map(data: bytes, at: int, end: int, size: int, depth: int) -> tuple[Any, int]:
    out: dict[str, Any] = {}
    while size:
        if size < 0 and at < end and data[at] == _BREAK:
            return out, at + 1
        key, at = read_value(data, at, end, depth)
        if type(key) is not str:
            raise ProtocolError("a key that is not text in a value of the grid")
        out[key], at = read_value(data, at, end, depth)
        size -= 1
    return out, at


def write_head(out: bytearray, major: int, size: int) -> None:
    """The shortest form."""
    major <<= 5
    if size < 24:
        out.append(major | size)
    elif size < 1 << 8:
        out += bytes((major | 24, size))
    elif size < 1 << 16:
        out.append(major | 25)
        out += size.to_bytes(2, "big")
    elif size < 1 << 32:
        out.append(major | 26)
        out += size.to_bytes(4, "big")
    else:
        out.append(major | 27)
        out += size.to_bytes(8, "big")


def write_text(out: bytearray, text: str) -> None:
    """In one piece."""
    raw = text.encode("utf-8", "surrogatepass")
    write_head(out, 3, len(raw))
    out += raw


def write_value(out: bytearray, value: Any, *, service: bool) -> None:
    """A value that `check_value` has passed, in the service's form or json-joy's."""
    if value is None:
        out.append(0xF6)
    elif value is UNDEFINED:
        out.append(0xF7)
    elif type(value) is bool:
        out.append(0xF5 if value else 0xF4)
    elif type(value) is int:
        _write_int(out, value, service=service)
    elif type(value) is float:
        _write_float(out, value, service=service)
    elif type(value) is str:
        _write_long(out, value, service=service)
    elif type(value) is bytes:
        write_head(out, 2, len(value))
        out += value
    elif type(value) is list:
        write_head(out, 4, len(value))
        for one in value:
            write_value(out, one, service=service)
    else:
        if service:
            out.append(0xBF)
        else:
            write_head(out, 5, len(value))
        for key, one in value.items():
            write_text(out, key)
            write_value(out, one, service=service)
        if service:
            out.append(_BREAK)


def _write_int(out: bytearray, value: int, *, service: bool) -> None:
    if 0 <= value < 1 << 64:
        write_head(out, 0, value)
    elif -(1 << 64) <= value < 0:
        write_head(out, 1, -1 - value)
    else:
        # As JavaScript reads such a number.
        try:
            number = float(value)
        except OverflowError:
            number = math.inf if value > 0 else -math.inf
        _write_float(out, number, service=service)


def _write_float(out: bytearray, value: float, *, service: bool) -> None:
    if not service:
        try:
            single = _SINGLE.pack(value)
        except OverflowError:
            single = b""
        if single and _SINGLE.unpack(single)[0] == value:
            out.append(0xFA)
            out += single
            return
    out.append(0xFB)
    out += _DOUBLE.pack(value)


def _write_long(out: bytearray, text: str, *, service: bool) -> None:
    if not service or len(text) <= CHUNK_UNITS // 2:
        write_text(out, text)
        return
    long = units(text)
    if len(long) <= CHUNK_UNITS:
        write_text(out, text)
        return
    out.append(0x7F)
    at = 0
    while at < len(long):
        after = min(at + CHUNK_UNITS, len(long))
        if after < len(long) and "\ud800" <= long[after - 1] <= "\udbff":
            # Half a character is not UTF-8.
            after -= 1
        write_text(out, joined(long[at:after]))
        at = after
    out.append(_BREAK)


def check_value(value: Any, depth: int = 0) -> None:
    """Raises ProtocolError for what a constant cannot hold."""
    kind = type(value)
    if kind is list or kind is dict:
        if depth >= MOST_DEEP:
            raise ProtocolError(f"a value is nested more than {MOST_DEEP} deep")
        if kind is dict:
            for key in value:
                if type(key) is not str:
                    raise ProtocolError(f"a key of a value must be text, not {type(key).__name__}")
            value = value.values()
        for one in value:
            check_value(one, depth + 1)
    elif not (
        value is None
        or value is UNDEFINED
        or kind is str
        or kind is int
        or kind is float
        or kind is bool
        or kind is bytes
    ):
        raise ProtocolError(f"a grid cannot hold a {kind.__name__}")


def weight(value: Any) -> int:
    """How many values there are in a value, itself included."""
    if type(value) is list:
        return 1 + sum(map(weight, value))
    if type(value) is dict:
        return 1 + sum(map(weight, value.values()))
    return 1


def fresh(value: Any) -> Any:
    """A copy of lists and maps, so that who is given it may change it."""
    if type(value) is list:
        return [fresh(one) for one in value]
    if type(value) is dict:
        return {key: fresh(one) for key, one in value.items()}
    return value
