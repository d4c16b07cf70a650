"""Handlers for files made readable by region: data and index with ranges, their state, and making them."""

from __future__ import annotations

import re
import time
from typing import Annotated

from fastapi import APIRouter, Body, Header, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from synd.clock import NS, parse_time_ns
from synd.control import contract, ready
from synd.errors import RangeNotSatisfiable
from synd.processors.base import ArtifactKind
from synd.ranges import ByteRange, parse_range
from syndd.control.reply import answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices
from syndd.schedule.preparing import Content

_QUOTES = re.compile(r'[\x00-\x1f"\\]')


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = empty("data")

    for route, kind in ((ready.DATA, ArtifactKind.DATA), (ready.INDEX, ArtifactKind.INDEX)):
        _add(routes, services, route, kind)

    @routes.post(ready.PREPARE, **shape(ready.Prepared, 202))
    async def prepare(
        targets: Annotated[list[str], Body(embed=True, min_length=1)],
    ) -> JSONResponse:
        """Makes files readable by region; what needs no work is told so."""
        return answer(await services.ready.prepare(targets), 202)

    @routes.get(ready.FORMATS, **shape(ready.Formats))
    async def formats() -> JSONResponse:
        """What becomes of each format here, by which tool, and what is missing."""
        return answer(await services.ready.formats())

    return routes


def _add(routes: APIRouter, services: DaemonServices, route: str, kind: ArtifactKind) -> None:
    @routes.get(route + "/{id}/status", **shape(ready.Readiness), name=f"{kind} status")
    async def status(id: str) -> JSONResponse:
        """Whether it can be read now. Never starts a job."""
        return answer({"ready": await services.ready.is_ready(id, kind)})

    @routes.head(route + "/{id}", response_model=None, include_in_schema=False)
    @routes.get(route + "/{id}", response_model=None, name=f"{kind} bytes")
    async def read(
        request: Request,
        id: str,
        raw: Annotated[bool, Query()] = False,
        range: Annotated[str | None, Header()] = None,
        if_range: Annotated[str | None, Header()] = None,
        if_none_match: Annotated[str | None, Header()] = None,
    ) -> Response:
        """The bytes, or 202 with the job that makes them. HEAD never starts one."""
        head = request.method == "HEAD"
        found = await services.ready.find(id, kind, raw=raw, start=not head)
        if not isinstance(found, Content):
            return JSONResponse(
                {"job_id": found["id"], "status": found["state"]},
                status_code=202,
                headers={
                    "Location": f"{contract.JOBS}/{found['id']}",
                    "Retry-After": str(_retry_after(found)),
                },
            )
        if if_none_match is not None and _names(if_none_match, found.etag):
            return Response(status_code=304, headers={"ETag": found.etag})
        if if_range is not None and if_range.strip() != found.etag:
            range = None
        return _answer(services, found, range, head=head)


def _answer(
    services: DaemonServices, found: Content, header: str | None, *, head: bool
) -> Response:
    headers = {
        "ETag": found.etag,
        "Accept-Ranges": "bytes",
        "Content-Disposition": f'inline; filename="{_QUOTES.sub("_", found.name)}"',
    }
    try:
        span = parse_range(header, found.size)
    except RangeNotSatisfiable as error:
        return JSONResponse(
            error.problem(),
            status_code=416,
            media_type=contract.PROBLEM,
            headers={"Content-Range": f"bytes */{found.size}"},
        )
    status = 200
    if span is not None:
        status = 206
        headers["Content-Range"] = f"bytes {span.start}-{span.end - 1}/{found.size}"
    span = span or ByteRange(0, found.size)
    headers["Content-Length"] = str(span.size)
    if head:
        return Response(status_code=status, headers=headers, media_type=found.media)
    return StreamingResponse(
        services.ready.read(found, span),
        status_code=status,
        headers=headers,
        media_type=found.media,
    )


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
