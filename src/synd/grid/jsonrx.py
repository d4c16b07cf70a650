"""The messages of a grid's socket: text of a frame to values and back.

Lenient in what is unknown (a notification or a type that is not known yet is a value like others), strict in
what is malformed: that raises MalformedError, and nothing is guessed. Every message is a JSON array whose first
element is its type; the gateway in front of the service speaks JSON objects when it fails.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

SYNCHRONIZE: Final = "synchronize-clock"
PATCH: Final = "patch"

FRAME_BYTES: Final = 30_000
"""A message above this goes out in several frames: the gateway takes frames of 32 KB."""

MESSAGE_BYTES: Final = 128_000
"""The service takes no message above this."""


class MalformedError(Exception):
    """A frame that is not what the protocol allows; the message says in which way."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Payload: where the whole document lies, for about 30 s."""

    url: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Patches:
    """Payload: compact patches, in order; all three forms of the service's history arrive as this."""

    patches: list[list[Any]]


@dataclass(frozen=True, slots=True)
class Data:
    """`[4, id, payload]`: what the asking side lacked."""

    id: int
    payload: Snapshot | Patches


@dataclass(frozen=True, slots=True)
class Complete:
    """`[5, id]`: nothing is lacking, or a patch is stored."""

    id: int


@dataclass(frozen=True, slots=True)
class Refused:
    """`[6, id, body]`: the request failed."""

    id: int
    message: str
    errno: int | None


@dataclass(frozen=True, slots=True)
class Notification:
    """`[8, name]` or `[8, name, body]`."""

    name: str
    body: Any = None


@dataclass(frozen=True, slots=True)
class GatewayError:
    """What is no array: the gateway itself reports a failure."""

    message: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """An array of a type that has no meaning here (yet)."""

    type: int


Message = Data | Complete | Refused | Notification | GatewayError | Unknown


def parse(text: str) -> Message:
    """The message in the text of one frame. Raises MalformedError."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedError("a frame is not JSON") from error
    if not isinstance(value, list):
        return GatewayError(error_text(value))
    if not value or not _is_int(value[0]):
        raise MalformedError("a message does not begin with its type")
    kind = value[0]
    if kind == 8:
        if len(value) < 2 or not isinstance(value[1], str):
            raise MalformedError("a notification has no name")
        return Notification(value[1], value[2] if len(value) > 2 else None)
    if kind not in (4, 5, 6):
        return Unknown(kind)
    if len(value) < 2 or not _is_int(value[1]):
        raise MalformedError("an answer has no request id")
    id = value[1]
    if kind == 5:
        return Complete(id)
    if kind == 6:
        body = value[2] if len(value) > 2 else None
        return Refused(id, error_text(body), error_number(body))
    if len(value) < 3:
        raise MalformedError("an answer has no payload")
    return Data(id, _payload(value[2]))


def _payload(value: Any) -> Snapshot | Patches:
    if isinstance(value, list):
        # The oldest service: one bare patch.
        return Patches([_patch(value)])
    if not isinstance(value, dict):
        raise MalformedError("a payload is neither an object nor a patch")
    kind, body = value.get("type"), value.get("body")
    if kind == "snapshot":
        if not isinstance(body, str) or not body:
            raise MalformedError("a snapshot has no URL")
        return Snapshot(body)
    if kind == "patches":
        if not isinstance(body, list):
            raise MalformedError("patches are no list")
        return Patches([_patch(one) for one in body])
    if kind == "patch":
        return Patches([_patch(body)])
    raise MalformedError(f"a payload of type {_short(kind)} is not understood")


def _patch(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value or not isinstance(value[0], list) or not value[0]:
        raise MalformedError("a patch has no header")
    return value


def error_text(body: Any) -> str:
    """What an error's body says: its `message`, or the whole of it, shortened."""
    if isinstance(body, dict) and isinstance(body.get("message"), str) and body["message"]:
        return _short(body["message"], 2000)
    return _short("no reason given" if body is None else json.dumps(body, ensure_ascii=False), 2000)


def error_number(body: Any) -> int | None:
    """The `errno` of an error's body, where there is one."""
    number = body.get("errno") if isinstance(body, dict) else None
    return number if _is_int(number) else None


def synchronize(id: int, clock: Iterable[tuple[int, int]]) -> str:
    """The request for what lies beyond `clock` (pairs of session and highest time known; none: a snapshot)."""
    return _text([1, id, SYNCHRONIZE, [[sid, time] for sid, time in sorted(clock)]])


def patch(id: int, compact: list[Any]) -> str:
    """The request that stores one compact patch."""
    return _text([1, id, PATCH, compact])


def ping() -> str:
    """A notification that the service answers with `pong`."""
    return '[8,"ping"]'


def frames(text: str) -> list[str]:
    """`text` in pieces of at most FRAME_BYTES bytes of UTF-8, for as many frames of one message."""
    step = FRAME_BYTES if text.isascii() else FRAME_BYTES // 4
    return [text[at : at + step] for at in range(0, len(text), step)]


def _text(value: Any) -> str:
    # Escaped: cells may hold halves of surrogate pairs, which no UTF-8 text can.
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: Any, most: int = 80) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else text[:most] + "…"


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
