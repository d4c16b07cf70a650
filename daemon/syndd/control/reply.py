"""How handlers answer: JSON as the services gave it, and its shape for the OpenAPI page only.

Shapes are not enforced here: a status that lacks one field is worth more than an error in its place.
`tests/unit/control` holds the shapes against the fake, and the daemon's own tests against the real one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from synd.control import contract
from synd.errors import SyndError
from synd.log import fields

log = logging.getLogger(__name__)

Handler: TypeAlias = Callable[[Request], Coroutine[Any, Any, Response]]


class Route(APIRoute):
    """A route at whose edge a fault of ours becomes a problem body, logged once."""

    def get_route_handler(self) -> Handler:
        return self.guard(super().get_route_handler())

    @staticmethod
    def guard(inner: Handler) -> Handler:
        """`inner`, at its edge."""

        async def guarded(request: Request) -> Response:
            try:
                return await inner(request)
            except (SyndError, RequestValidationError, HTTPException):
                raise
            except Exception as error:
                log.exception("control.bug", extra=fields(route=request.url.path))
                raise SyndError(f"the daemon failed at {request.url.path}: {error!r}") from error

        return guarded


def router(tag: str) -> APIRouter:
    """An empty set of routes."""
    return APIRouter(tags=[tag], route_class=Route)


def shape(model: Any, status: int = 200) -> dict[str, Any]:
    """Keywords of a route decorator that tell OpenAPI what it answers."""
    return {
        "response_model": None,
        "status_code": status,
        "responses": {
            status: {"model": model},
            "default": {"model": contract.Problem, "description": "Any error, as a problem body"},
        },
    }


def answer(value: object, status: int = 200) -> JSONResponse:
    return JSONResponse(value, status_code=status)


def accepted(job: contract.Job) -> JSONResponse:
    """202: the work has started, and where to ask for it."""
    return JSONResponse(job, status_code=202, headers={"Location": f"{contract.JOBS}/{job['id']}"})
