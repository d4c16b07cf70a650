"""Handlers about single files and folders: why, wait, info, list, prefetch."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse

from synd.control import contract
from syndd.control.reply import accepted, answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices

WAIT_MAX_S = 86400.0
"""No request waits longer; a client asks again."""


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = empty("files")

    @routes.get(contract.WHY, **shape(contract.Why))
    async def why(path: Annotated[str, Query(min_length=1)]) -> JSONResponse:
        """The state of one thing, the reason, and the mend."""
        return answer(await services.why(path))

    @routes.post(contract.WAIT, **shape(contract.WaitReply))
    async def wait(
        path: Annotated[str | None, Body()] = None,
        timeout_s: Annotated[float, Body(ge=0, le=WAIT_MAX_S)] = 60.0,
    ) -> JSONResponse:
        """Waits until everything, or one path, is sent."""
        return answer(await services.wait(path, timeout_s))

    @routes.get(contract.INFO, **shape(contract.Info))
    async def info(target: Annotated[str, Query(min_length=1)]) -> JSONResponse:
        """One entity, as the service tells it and as it lies here."""
        return answer(await services.info(target))

    @routes.get(contract.LIST, **shape(contract.Listing))
    async def list_folder(
        target: Annotated[str, Query(min_length=1)], long: bool = False
    ) -> JSONResponse:
        """A folder's entries."""
        return answer(await services.ls(target, long=long))

    @routes.post(contract.PREFETCH, **shape(contract.Job, 202))
    async def prefetch(
        targets: Annotated[list[str], Body(min_length=1)],
        pin: Annotated[bool, Body()] = False,
    ) -> JSONResponse:
        """Starts fetching files, or folders with all that is below."""
        return accepted(await services.prefetch(targets, pin=pin))

    return routes
