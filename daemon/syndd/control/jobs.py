"""Handlers about jobs: list, get, cancel, retry, pause, logs; live ones as server-sent events."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse, Response, StreamingResponse

from synd.control import contract
from syndd.control.reply import answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices
from syndd.control.watch import live

Kinds = Annotated[list[str] | None, Body(embed=True)]
NUMBER_MAX = (1 << 63) - 1
"""The largest that SQLite and files take."""


def router(services: DaemonServices, ending: asyncio.Event) -> APIRouter:
    """The routes. Streams end when `ending` is set."""
    routes = empty("jobs")

    @routes.get(contract.JOBS, **shape(contract.Jobs))
    async def jobs(
        all: bool = False,
        kind: Annotated[list[str] | None, Query()] = None,
        limit: Annotated[int | None, Query(ge=1, le=NUMBER_MAX)] = None,
    ) -> JSONResponse:
        """Pending and running jobs, newest first; with `all`, ended ones too."""

        def told() -> JSONResponse:
            found = services.work.list(all=all, kinds=kind or (), limit=limit)
            return answer({"jobs": list(found), **services.work.state()})

        # Ten thousand jobs are 200 ms of work: the mount's answers do not wait for it.
        return await asyncio.to_thread(told)

    @routes.get(contract.JOBS_FOLLOW, **shape(contract.Event))
    async def follow() -> StreamingResponse:
        """Active jobs, then every job that changes, as server-sent events."""
        return live(services.work.follow(), ending)

    @routes.post(contract.JOBS_PAUSE, **shape(contract.QueueState))
    async def pause(kinds: Kinds = None) -> JSONResponse:
        """Begins nothing more of these kinds; of all, when none is named."""
        return answer(await services.work.pause(kinds or (), paused=True))

    @routes.post(contract.JOBS_RESUME, **shape(contract.QueueState))
    async def resume(kinds: Kinds = None) -> JSONResponse:
        """Begins them again."""
        return answer(await services.work.pause(kinds or (), paused=False))

    @routes.post(contract.JOBS_CANCEL, **shape(contract.Jobs))
    async def cancel_all(kinds: Kinds = None) -> JSONResponse:
        """Ends all that waits or runs, of these kinds or of any; the answer says how they ended."""
        ended = list(await services.work.cancel_all(kinds or ()))
        return await asyncio.to_thread(answer, {"jobs": ended, **services.work.state()})

    @routes.post(contract.JOBS_CLEAN, **shape(contract.QueueState))
    async def clean() -> JSONResponse:
        """Forgets ended jobs and their logs."""
        return answer(await services.work.clean())

    # After the fixed names: it would take them for ids.
    _add_one(routes, services)

    @routes.get(contract.JOBS + "/{id}/log", **shape(contract.JobLog))
    async def log(
        id: str, offset: Annotated[int, Query(ge=0, le=NUMBER_MAX)] = 0, follow: bool = False
    ) -> Response:
        """What a job's programs said; with `follow` as server-sent events until the job has ended."""
        part = services.work.log(id, offset)
        return live(services.work.follow_log(id), ending) if follow else answer(part)

    @routes.post(contract.JOBS + "/{id}/cancel", **shape(contract.Job))
    async def cancel(id: str) -> JSONResponse:
        """Ends a job; the answer says how it ended."""
        return answer(await services.work.cancel(id))

    @routes.post(contract.JOBS + "/{id}/retry", **shape(contract.Job))
    async def retry(id: str) -> JSONResponse:
        """A new attempt at what failed or was cancelled."""
        return answer(await services.work.retry(id))

    return routes


def looking(services: DaemonServices) -> APIRouter:
    """The route of one job, for those who wait for it."""
    routes = empty("jobs")
    _add_one(routes, services)
    return routes


def _add_one(routes: APIRouter, services: DaemonServices) -> None:
    @routes.get(contract.JOBS + "/{id}", **shape(contract.OneJob))
    async def job(id: str) -> JSONResponse:
        """One job."""
        found = services.work.get(id)
        problem = found["problem"]
        told: contract.OneJob = {
            **found,
            "status": found["state"],
            "error_class": found.get("failure"),
            "error": None if problem is None else str(problem["title"]),
        }
        return answer(told)
