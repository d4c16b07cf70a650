"""Patches in compact JSON: what they say, checked whole before anything is changed.

Source: reference/grid-protocol.md, 10.
"""

from __future__ import annotations

import base64
import binascii
from typing import Any, Final, NamedTuple

from synd.errors import ProtocolError
from synd.grid.crdt.nodes import ARR, BIN, CON, OBJ, STR, VAL, VEC
from synd.grid.crdt.rga import Key
from synd.grid.crdt.values import UNDEFINED, Timestamp, check_value, units
from synd.grid.crdt.varint import MOST

NEW: Final = {0: CON, 1: VAL, 2: OBJ, 3: VEC, 4: STR, 5: BIN, 6: ARR}
"""Kind of node by code; codes and kinds are the same numbers."""
INS_VAL: Final = 9
INS_OBJ: Final = 10
INS_VEC: Final = 11
INS_STR: Final = 12
INS_BIN: Final = 13
INS_ARR: Final = 14
UPD_ARR: Final = 15
DEL: Final = 16
NOP: Final = 17
MOST_SLOT: Final = 255
ROOT: Final[Key] = (0, 0)
"""The document's root register."""

_LENGTH = {0: 1, 1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 9: 3, 10: 3, 11: 3, 12: 4, 13: 4, 14: 4, 15: 4,
           16: 3, 17: 1}  # fmt: skip


class Op(NamedTuple):
    """One operation. `node` is what it changes (of a new one: its id), `what` depends on the code."""

    code: int
    key: Key
    span: int
    node: Key
    what: Any = None
    after: Key = ROOT


def parse(patch: Any) -> list[Op]:
    """The operations of a patch. Raises ProtocolError."""
    sid, time = header(patch)
    ops = []
    for position in range(1, len(patch)):
        op = _operation(patch[position], sid, time)
        time += op.span
        if time > MOST:
            raise _bad("its times are too great")
        ops.append(op)
    return ops


def header(patch: Any) -> tuple[int, int]:
    """Session and time of a patch's first operation. Raises ProtocolError."""
    if type(patch) is not list or not patch:
        raise _bad("it is not a list")
    head = patch[0]
    if type(head) is not list or not 1 <= len(head) <= 2:
        raise _bad("it has no header")
    # A bare time is one of the session of a server's clock.
    key = _key(head[0], 1)
    if not key[1] or not key[0]:
        raise _bad("its id is reserved")
    return key[1], key[0]


def _operation(op: Any, sid: int, time: int) -> Op:
    if type(op) is not list or not op or type(op[0]) is not int:
        raise _bad("an operation is not a list that begins with a code")
    code = op[0]
    length = _LENGTH.get(code)
    if length is None:
        raise _bad(f"an operation has the unknown code {code}")
    if len(op) < length:
        raise _bad(f"an operation of code {code} is too short")
    key = (time, sid)
    if code == 0:
        return Op(code, key, 1, key, _constant(op, sid))
    if code in NEW:
        return Op(code, key, 1, key)
    if code == NOP:
        span = _number(op[1]) if len(op) > 1 else 1
        return Op(code, key, span or 1, ROOT)
    node = _key(op[1], sid)
    if code == INS_VAL:
        return Op(code, key, 1, node, _key(op[2], sid))
    if code == INS_OBJ:
        return Op(code, key, 1, node, _pairs(op[2], sid, str))
    if code == INS_VEC:
        return Op(code, key, 1, node, _pairs(op[2], sid, int))
    if code == DEL:
        return Op(code, key, 1, node, [_span(one, sid) for one in _list(op[2])])
    after = _key(op[2], sid)
    if code == UPD_ARR:
        return Op(code, key, 1, node, _key(op[3], sid), after)
    if code == INS_ARR:
        targets = [_key(one, sid) for one in _list(op[3])]
        return Op(code, key, len(targets), node, targets, after)
    if type(op[3]) is not str:
        raise _bad("what is to be inserted is not text")
    data = units(op[3]) if code == INS_STR else _bytes(op[3])
    return Op(code, key, len(data), node, data, after)


def _constant(op: list[Any], sid: int) -> Any:
    if len(op) == 1:
        return UNDEFINED
    if len(op) > 2 and type(op[2]) is not bool:
        raise _bad("a constant that is neither a value nor an id")
    if len(op) > 2 and op[2]:
        key = _key(op[1], sid)
        return Timestamp(key[1], key[0])
    check_value(op[1])
    return op[1]


def _number(value: Any) -> int:
    # True is an int to Python.
    if type(value) is not int or not 0 <= value <= MOST:
        raise _bad(f"a number is out of range: {value!r:.40}")
    return value


def _list(value: Any) -> list[Any]:
    if type(value) is not list:
        raise _bad("a list is missing")
    return value


def _key(ref: Any, sid: int) -> Key:
    if type(ref) is list:
        if len(ref) != 2:
            raise _bad("an id is not a session and a time")
        return _number(ref[1]), _number(ref[0])
    return _number(ref), sid


def _span(span: Any, sid: int) -> tuple[Key, int]:
    if len(_list(span)) == 3:
        return (_number(span[1]), _number(span[0])), _number(span[2])
    if len(span) != 2:
        raise _bad("a range of ids is not two or three numbers")
    return (_number(span[0]), sid), _number(span[1])


def _pairs(pairs: Any, sid: int, kind: type) -> list[tuple[Any, Key]]:
    found: list[tuple[Any, Key]] = []
    for pair in _list(pairs):
        if type(pair) is not list or len(pair) != 2 or not isinstance(pair[0], kind):
            raise _bad("an insertion is not pairs of a key and an id")
        if kind is int and _number(pair[0]) > MOST_SLOT:
            raise _bad(f"a slot is out of range: {pair[0]}")
        found.append((pair[0], _key(pair[1], sid)))
    return found


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("bytes that are not base64") from error


def _bad(why: str) -> ProtocolError:
    return ProtocolError(f"a patch of the grid cannot be read: {why}")
