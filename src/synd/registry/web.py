"""The registry's own small HTTP vocabulary: request, reply, refusal, and the table of routes.

Look-up costs one dictionary step per path segment, which keeps the hot paths (children, bundles,
batches) free of regular expressions and of response models. Handlers are plain functions that
touch only SQLite and small files; those that may take long are marked `slow` and run on a thread.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from synd.registry.access import Caller
    from synd.registry.service import Registry

Json = Any
"""A decoded JSON value. The wire's own spellings stay inside the registry."""

_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode
_decode = json.loads

ERROR = "org.sagebionetworks.repo.model.ErrorResponse"

RETRY_WORDS = (
    "proxy error",
    "slow down",
    "slowdown",
    "timeout",
    "timed out",
    "connection reset by peer",
    "unknown ssl protocol error",
    "couldn't connect to host",
    "try again",
)
"""A reason that holds one of these makes the official client ask again for half an hour."""


def to_json(value: Json) -> bytes:
    """Compact UTF-8 JSON."""
    return _encode(value).encode()


class RefusedError(Exception):
    """The service says no: an HTTP status and a reason for the reader."""

    def __init__(self, status: int, reason: str, code: str | None = None) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.code = code

    def body(self) -> dict[str, Json]:
        """The error body of synapse-rest.md 0.6, its reason free of the words that mean "again"."""
        reason = self.reason or "The request was refused."
        lowered = reason.lower()
        for word in RETRY_WORDS:
            while (at := lowered.find(word)) >= 0:
                reason = reason[:at] + "…" + reason[at + len(word) :]
                lowered = reason.lower()
        return {"concreteType": ERROR, "reason": reason, "errorCode": self.code}


def bad(reason: str) -> RefusedError:
    return RefusedError(400, reason)


def forbidden(reason: str) -> RefusedError:
    return RefusedError(403, reason)


def missing(reason: str) -> RefusedError:
    return RefusedError(404, reason)


def taken(reason: str) -> RefusedError:
    return RefusedError(409, reason)


def stale(what: str) -> RefusedError:
    return RefusedError(
        412,
        f"{what} was updated since you last fetched it. Fetch it again and reapply the update.",
    )


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back: status, body, and its content type ("" for none)."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()


NO_CONTENT = Reply(204, b"", "")
EMPTY = Reply(200, b"", "")


def ok(value: Json, status: int = 200) -> Reply:
    return Reply(status, _encode(value).encode())


def created(value: Json) -> Reply:
    return Reply(201, _encode(value).encode())


def text(value: str) -> Reply:
    return Reply(200, value.encode(), "text/plain;charset=UTF-8")


def redirect(url: str) -> Reply:
    return Reply(307, b"", "", ((b"location", url.encode("latin-1")),))


@dataclass(slots=True)
class Request:
    """One request, with its caller known."""

    registry: Registry
    method: str
    path: str
    query_string: str
    raw_body: bytes
    caller: Caller
    base_url: str
    """Scheme, host and port by which the caller reached this server."""
    args: dict[str, str] = field(default_factory=dict)
    _query: dict[str, str] | None = None

    @property
    def query(self) -> Mapping[str, str]:
        if self._query is None:
            self._query = (
                dict(parse_qsl(self.query_string, keep_blank_values=True))
                if self.query_string
                else {}
            )
        return self._query

    def json(self) -> dict[str, Json]:
        """The body as a JSON object. Raises RefusedError 400."""
        if not self.raw_body:
            return {}
        try:
            value = _decode(self.raw_body)
        except ValueError as error:
            raise bad(f"The request body is not valid JSON: {error}") from error
        if not isinstance(value, dict):
            raise bad("The request body must be a JSON object.")
        return value

    def integer(self, name: str, default: int, *, most: int = 1_000_000_000) -> int:
        """A query parameter that counts. Raises RefusedError 400."""
        raw = self.query.get(name)
        if raw is None or raw == "":
            return default
        try:
            value = int(raw)
        except ValueError as error:
            raise bad(f"{name} must be a whole number, not {raw!r}.") from error
        if not 0 <= value <= most:
            raise bad(f"{name} must lie between 0 and {most}, not {value}.")
        return value

    def flag(self, name: str, default: bool) -> bool:
        raw = self.query.get(name)
        return default if raw is None else raw.lower() != "false"

    def page(self, default_limit: int = 10) -> tuple[int, int]:
        """(limit, offset) of an offset-paged listing."""
        return self.integer("limit", default_limit, most=10_000), self.integer("offset", 0)


Handler = Callable[[Request], Reply]


@dataclass(frozen=True, slots=True)
class Route:
    """One method on one path shape."""

    method: str
    template: str
    handler: Handler
    scope: str
    """What a token must allow: view, download, modify, or "" for no check beyond being known."""
    slow: bool
    names: tuple[str, ...]


class _Node:
    __slots__ = ("literal", "methods", "parameter", "rest")

    def __init__(self) -> None:
        self.literal: dict[str, _Node] = {}
        self.parameter: _Node | None = None
        self.methods: dict[str, Route] = {}
        self.rest: dict[str, Route] = {}
        """Routes whose last parameter takes all that is left of the path."""


class Router:
    """Routes by path. A literal segment is preferred to a parameter at the same place."""

    def __init__(self) -> None:
        self._root = _Node()
        self.routes: list[Route] = []

    def add(
        self, method: str, template: str, handler: Handler, *, scope: str, slow: bool = False
    ) -> None:
        """`template` has parameters as whole segments: ``/entity/{id}``; ``{name*}`` takes the rest."""
        node = self._root
        names: list[str] = []
        takes_rest = False
        for segment in template.strip("/").split("/"):
            if segment.endswith("*}"):
                names.append(segment[1:-2])
                takes_rest = True
            elif segment.startswith("{"):
                names.append(segment[1:-1])
                if node.parameter is None:
                    node.parameter = _Node()
                node = node.parameter
            else:
                node = node.literal.setdefault(segment, _Node())
        route = Route(method, template, handler, scope, slow, tuple(names))
        into = node.rest if takes_rest else node.methods
        if method in into:
            raise ValueError(f"{method} {template} is routed twice")
        into[method] = route
        self.routes.append(route)

    def find(self, method: str, path: str) -> tuple[Route, dict[str, str]] | None:
        """The route and its arguments, None when nothing answers that method and path."""
        segments = [unquote(s) if "%" in s else s for s in path.strip("/").split("/")]
        stack: list[tuple[_Node, int, tuple[str, ...]]] = [(self._root, 0, ())]
        while stack:
            node, at, values = stack.pop()
            if at == len(segments):
                if (route := node.methods.get(method)) is not None:
                    return route, dict(zip(route.names, values, strict=True))
                continue
            if (route := node.rest.get(method)) is not None:
                rest = (*values, "/".join(segments[at:]))
                return route, dict(zip(route.names, rest, strict=True))
            if node.parameter is not None:
                stack.append((node.parameter, at + 1, (*values, segments[at])))
            if (child := node.literal.get(segments[at])) is not None:
                stack.append((child, at + 1, values))
        return None
