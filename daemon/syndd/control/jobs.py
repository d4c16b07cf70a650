"""Handlers about jobs: list, get, cancel, retry."""

from __future__ import annotations

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from synd.control import contract
from syndd.control.reply import answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = empty("jobs")

    @routes.get(contract.JOBS, **shape(contract.Jobs))
    async def jobs(all: bool = False) -> JSONResponse:
        """Pending and running jobs, newest first; with `all`, finished ones too."""
        return answer({"jobs": list(await services.jobs(all=all))})

    @routes.get(contract.JOBS + "/{id}", **shape(contract.Job))
    async def job(id: str) -> JSONResponse:
        """One job."""
        return answer(await services.job(id))

    @routes.post(contract.JOBS + "/{id}/cancel", **shape(contract.Job))
    async def cancel(id: str) -> JSONResponse:
        """Asks a job to stop."""
        return answer(await services.cancel(id))

    @routes.post(contract.JOBS + "/{id}/retry", **shape(contract.Job))
    async def retry(id: str) -> JSONResponse:
        """Starts a failed or cancelled job again."""
        return answer(await services.retry(id))

    return routes
