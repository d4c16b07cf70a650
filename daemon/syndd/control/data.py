"""Handlers for files made readable by region: data and index with ranges, their state, and making them."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncGenerator
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Body, Depends, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from synd.clock import NS, parse_time_ns
from synd.control import contract, ready
from synd.errors import NotFound, RangeNotSatisfiable, StageFailed, UsageError
from synd.processors.base import ArtifactKind
from synd.processors.indexes import SUFFIXES
from synd.ranges import ByteRange, parse_range
from syndd.control.reply import Handler, Route, answer, shape
from syndd.control.reply import router as empty
from syndd.control.sending import FileRange
from syndd.control.services import DaemonServices
from syndd.schedule.known import Content

_TRUE = frozenset({"true", "1", "yes", "on", "t", "y"})
_FALSE = frozenset({"false", "0", "no", "off", "f", "n"})
"""As FastAPI reads them."""
_UNQUOTED = re.compile(r'[^\x20-\x7e]|["\\]')


class _Asked:
    """What a request for bytes says about them."""

    def __init__(
        self,
        raw: Annotated[bool, Query()] = False,
        range: Annotated[str | None, Header()] = None,
        if_range: Annotated[str | None, Header()] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> None:
        self.raw = raw
        self.range = range
        self.if_range = if_range
        self.if_none_match = if_none_match

    @classmethod
    def by(cls, request: Request) -> _Asked:
        """Raises UsageError."""
        raw = request.query_params.get("raw", "false").lower()
        if raw not in _TRUE | _FALSE:
            raise UsageError(f"raw: {raw!r} is neither true nor false")
        said = request.headers.get
        return cls(raw in _TRUE, said("range"), said("if-range"), said("if-none-match"))


class _BytesRoute(Route):
    """A route of bytes, whose handler gets what was asked without FastAPI's help: for a genome browser's many
    small ranges that took a third of each answer. Its signature is for the OpenAPI page.
    """

    def get_route_handler(self) -> Handler:
        handler = self.endpoint

        async def plain(request: Request) -> Response:
            answer: Response = await handler(
                request, asked=_Asked.by(request), **request.path_params
            )
            return answer

        return self.guard(plain)


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = reading(services)

    @routes.post(ready.PREPARE, **shape(ready.Prepared, 202))
    async def prepare(
        targets: Annotated[list[str], Body(embed=True, min_length=1)],
    ) -> JSONResponse:
        """Makes files readable by region; what needs no work is told so."""
        return answer(await services.ready.prepare(targets), 202)

    return routes


def reading(services: DaemonServices) -> APIRouter:
    """The routes that only read; GET of what is not made yet has it made."""
    routes = empty("data")

    for route, kind in ((ready.DATA, ArtifactKind.DATA), (ready.INDEX, ArtifactKind.INDEX)):
        _add(routes, services, route, kind)

    @routes.get(ready.FORMATS, **shape(ready.Formats))
    async def formats() -> JSONResponse:
        """What becomes of each format here, by which tool, and what is missing."""
        return answer(await services.ready.formats())

    return routes


def _add(routes: APIRouter, services: DaemonServices, route: str, kind: ArtifactKind) -> None:
    @routes.get(route + "/{id}/status", **shape(ready.Readiness), name=f"{kind} status")
    async def status(id: str) -> JSONResponse:
        """Whether it can be read now. Never starts a job."""
        return answer(await services.ready.readiness(id, kind))

    async def read(request: Request, id: str, asked: Annotated[_Asked, Depends()]) -> Response:
        """The bytes, or 202 with the job that makes them. HEAD never starts one."""
        head = request.method == "HEAD"
        try:
            found = await services.ready.find(id, kind, raw=asked.raw, start=not head)
        except StageFailed as error:
            return _refused(error, id)
        return await _bytes(services, found, asked, head=head)

    async def read_named(
        request: Request, id: str, name: str, asked: Annotated[_Asked, Depends()]
    ) -> Response:
        """The same for programs that go by names: one that ends like an index is that index."""
        head = request.method == "HEAD"
        suffix = next((one for one in SUFFIXES if name.endswith(one)), "")
        try:
            if suffix or kind is ArtifactKind.INDEX:
                found = await _index(services, id, name, suffix, asked, start=not head)
            else:
                found = await services.ready.find(id, kind, raw=asked.raw, start=not head)
        except StageFailed as error:
            return _refused(error, id)
        return await _bytes(services, found, asked, head=head)

    for path, handler, name in (
        (route + "/{id}", read, f"{kind} bytes"),
        (route + "/{id}/{name}", read_named, f"{kind} bytes by name"),
    ):
        for method in ("GET", "HEAD"):
            routes.add_api_route(
                path, handler, methods=[method], name=name, response_model=None,
                include_in_schema=method == "GET", route_class_override=_BytesRoute,
            )  # fmt: skip


def _refused(error: StageFailed, id: str) -> Response:
    told: ready.Refused = {
        "error_class": error.failure,
        "error": error.message,
        "raw": f"{ready.DATA}/{quote(id, safe='')}?raw=true",
    }
    return JSONResponse(
        {**error.problem(), **told}, status_code=error.status, media_type=contract.PROBLEM
    )


async def _index(
    services: DaemonServices, id: str, name: str, suffix: str, asked: _Asked, *, start: bool
) -> Content | contract.Job:
    """The index of that kind, or the file itself when it is the index file that is named."""
    try:
        found = await services.ready.find(
            id, ArtifactKind.INDEX, raw=asked.raw, start=start, suffix=suffix
        )
    except NotFound:
        own = await services.ready.find(id, ArtifactKind.DATA, raw=True, start=False)
        if isinstance(own, Content) and own.name == name:
            return own
        raise
    if isinstance(found, Content) and not found.name.endswith(suffix):
        # Programs try one kind after the other.
        raise NotFound(f"its index is {found.name!r}, and no {suffix}")
    return found


async def _bytes(
    services: DaemonServices, found: Content | contract.Job, asked: _Asked, *, head: bool
) -> Response:
    if not isinstance(found, Content):
        return JSONResponse(
            {"job_id": found["id"], "status": found["state"]},
            status_code=202,
            headers={
                "Location": f"{contract.JOBS}/{found['id']}",
                "Retry-After": str(_retry_after(found)),
            },
        )
    if asked.if_none_match is not None and _names(asked.if_none_match, found.etag):
        return Response(status_code=304, headers={"ETag": found.etag})
    range = asked.range
    if asked.if_range is not None and asked.if_range.strip() != found.etag:
        range = None
    return await _answer(services, found, range, head=head)


async def _answer(
    services: DaemonServices, found: Content, header: str | None, *, head: bool
) -> Response:
    headers = {
        "ETag": found.etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(found.name),
    }
    try:
        span = parse_range(header, found.size)
    except RangeNotSatisfiable as error:
        return JSONResponse(
            error.problem(),
            status_code=416,
            media_type=contract.PROBLEM,
            headers={"Content-Range": f"bytes */{found.size}", "Accept-Ranges": "bytes"},
        )
    status = 200
    if span is not None:
        status = 206
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{found.size}"
    span = span or ByteRange(0, found.size)
    headers["Content-Length"] = str(span.size)
    if head:
        return Response(status_code=status, headers=headers, media_type=found.media)
    fd = services.ready.opened(found)
    if fd is not None:
        return FileRange(fd, span, status=status, headers=headers, media=found.media)
    pieces = services.ready.read(found, span)
    # Before the status goes out: what the service refuses is told by it.
    first = await anext(pieces, b"")
    return StreamingResponse(
        _joined(first, pieces),
        status_code=status,
        headers=headers,
        media_type=found.media,
    )


async def _joined(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(rest):
        yield first
        async for piece in rest:
            yield piece


def _disposition(name: str) -> str:
    """The name for whoever saves the bytes; of one that a header cannot hold, the encoded form too (RFC 6266)."""
    plain = _UNQUOTED.sub("_", name)
    encoded = (
        "" if plain == name else f"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
    )
    return f'inline; filename="{plain}"{encoded}'


def _names(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names the etag; weak comparison, RFC 9110 13.1.2."""
    return header.strip() == "*" or any(
        one.strip().removeprefix("W/") == etag for one in header.split(",")
    )


def _retry_after(job: contract.Job) -> int:
    """Seconds, 1 to 30, by how fast the job has been so far; 5 when that is not known."""
    done, total = job["progress"]["done"], job["progress"]["total"]
    if not done or not total or job["started_at"] is None:
        return 5
    took_s = time.time() - parse_time_ns(job["started_at"]) / NS
    return max(1, min(30, round(took_s * (total - done) / done)))
