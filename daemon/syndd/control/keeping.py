"""Handlers about what needs a decision or can come back: conflicts, the recovery area, tracked folders."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from synd.control import changes
from syndd.control.reply import answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices

Name = Annotated[str, Body(embed=True, min_length=1)]


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = empty("keeping")

    @routes.get(changes.CONFLICTS, **shape(changes.Conflicts))
    async def conflicts(all: bool = False) -> JSONResponse:
        """Open conflicts, newest first; with `all`, resolved ones too."""
        return answer(services.edits.conflicts(all=all))

    @routes.get(changes.CONFLICTS + "/{id}", **shape(changes.Conflict))
    async def conflict(id: str) -> JSONResponse:
        """One conflict."""
        return answer(services.edits.conflict(id))

    @routes.post(changes.CONFLICTS + "/{id}/resolve", **shape(changes.Conflict))
    async def resolve(id: str, keep: Annotated[changes.Keep, Body(embed=True)]) -> JSONResponse:
        """Ends a conflict: our side stays, theirs, or both."""
        return answer(await services.edits.resolve(id, keep))

    @routes.get(changes.RECOVERED, **shape(changes.RecoveredList))
    async def recovered() -> JSONResponse:
        """What local actions took away and can come back, newest first."""
        return answer(services.edits.recovered())

    @routes.post(changes.RESTORE, **shape(changes.Restored))
    async def restore(target: Name) -> JSONResponse:
        """Brings one of them back."""
        return answer(await services.edits.restore(target))

    @routes.get(changes.TRACKED, **shape(changes.TrackedList))
    async def tracked() -> JSONResponse:
        """Folders outside the mount whose changes are sent."""
        return answer(services.edits.tracked())

    @routes.post(changes.TRACK, **shape(changes.Tracked))
    async def track(
        folder: Annotated[str, Body(min_length=1)], target: Annotated[str, Body(min_length=1)]
    ) -> JSONResponse:
        """Sends what changes in an ordinary folder from now on."""
        return answer(await services.edits.track(folder, target))

    @routes.post(changes.UNTRACK, **shape(changes.Tracked))
    async def untrack(folder: Name) -> JSONResponse:
        """Ends that; nothing is deleted."""
        return answer(await services.edits.untrack(folder))

    return routes
