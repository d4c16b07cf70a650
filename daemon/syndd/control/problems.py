"""How errors leave the control API: every one as a problem body that the contract knows, with its headers."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from synd.control import contract
from synd.errors import Busy, Draining, NotFound, NotSupported, Retry, SyndError, UsageError
from synd.log import fields

log = logging.getLogger(__name__)

RETRY_AFTER_S = 5
"""Told with errors that pass by themselves, as nobody knows when."""

_PASSING = frozenset({429, 503})


def install(app: FastAPI, draining: Callable[[], bool]) -> None:
    """Has an application answer all its errors so. While `draining`, what is busy is so because of that."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, SyndError)  # registered for nothing else
        if type(error) is Busy and draining():
            error = Draining(error.message, hint=error.hint, entity=error.entity, path=error.path)
        log.log(
            error.level if error.level < logging.ERROR else logging.INFO,
            "control.error",
            extra=fields(route=request.url.path, error=error),
        )
        return problem(error)

    app.add_exception_handler(SyndError, known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


def problem(error: SyndError) -> JSONResponse:
    """An error as an answer."""
    passes = error.status in _PASSING and error.retry is not Retry.NO
    headers = {"Retry-After": str(RETRY_AFTER_S)} if passes else None
    return JSONResponse(
        error.problem(),
        status_code=error.status,
        headers=headers,
        media_type=contract.PROBLEM,
    )


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # registered for nothing else
    parts = [
        f"{'.'.join(str(step) for step in one['loc'][1:]) or one['loc'][0]}: {one['msg']}"
        for one in error.errors()
    ]
    return problem(UsageError("; ".join(parts), hint=f"{contract.OPENAPI} tells the shapes"))


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)  # registered for nothing else
    if error.status_code == 404:
        return problem(NotFound(f"there is no route {request.url.path}"))
    if error.status_code == 405:
        refused = NotSupported(f"{request.url.path} does not take {request.method}")
        return JSONResponse(
            {**refused.problem(), "status": 405},
            status_code=405,
            headers=error.headers,
            media_type=contract.PROBLEM,
        )
    return problem(SyndError(str(error.detail)))


async def _bug(request: Request, error: Exception) -> JSONResponse:
    log.error("control.bug", exc_info=error, extra=fields(route=request.url.path))
    return problem(SyndError(f"the daemon failed at {request.url.path}: {error!r}"))
