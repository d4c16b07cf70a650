"""Handlers about local changes: what is unsent, what differs, undo, sending now or not at all."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse

from synd.control import changes
from syndd.control.reply import answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices

LISTED_MAX = 100_000
"""Changes that one answer lists at most."""

Path = Annotated[str, Query(min_length=1)]
Targets = Annotated[list[str], Body(embed=True)]


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = empty("changes")

    @routes.get(changes.PENDING, **shape(changes.Pending))
    async def pending(
        path: Annotated[str | None, Query(min_length=1)] = None,
        limit: Annotated[int, Query(ge=0, le=LISTED_MAX)] = 1000,
    ) -> JSONResponse:
        """What is unsent, of everything or of one path and what is below it."""
        return answer(await services.edits.pending(path, limit))

    @routes.get(changes.DIFF, **shape(changes.Difference))
    async def difference(path: Path) -> JSONResponse:
        """What differs from the service's version."""
        return answer(await services.edits.difference(path))

    @routes.post(changes.DISCARD, **shape(changes.Discarded))
    async def discard(
        targets: Annotated[list[str], Body(embed=True, min_length=1)],
    ) -> JSONResponse:
        """Forgets local changes; bytes that only lie here go to the recovery area."""
        return answer(await services.edits.discard(targets))

    @routes.post(changes.UPLOAD_NOW, **shape(changes.Pending))
    async def upload_now(
        path: Annotated[str | None, Body(embed=True)] = None,
    ) -> JSONResponse:
        """Sends without the usual delays, and tries again what is blocked."""
        return answer(await services.edits.upload_now(path))

    @routes.post(changes.PAUSE, **shape(changes.Pending))
    async def pause() -> JSONResponse:
        """Sends nothing until resumed."""
        return answer(await services.edits.pause())

    @routes.post(changes.RESUME, **shape(changes.Pending))
    async def resume() -> JSONResponse:
        """Sends again."""
        return answer(await services.edits.resume())

    @routes.post(changes.APPROVE, **shape(changes.Approved))
    async def approve(targets: Targets) -> JSONResponse:
        """Lets held deletes go. An empty list means all of them."""
        return answer(await services.edits.approve(targets))

    @routes.post(changes.COMMENT, **shape(changes.Unsent))
    async def comment(
        path: Annotated[str, Body(min_length=1)],
        comment: Annotated[str, Body(max_length=256)] = "",
        label: Annotated[str, Body(max_length=256)] = "",
    ) -> JSONResponse:
        """Sets comment and label of the next version."""
        return answer(await services.edits.comment(path, comment, label))

    @routes.post(changes.ANNOTATE, **shape(changes.Unsent))
    async def annotate(
        path: Annotated[str, Body(min_length=1)],
        set: Annotated[dict[str, list[str]] | None, Body()] = None,
        remove: Annotated[list[str] | None, Body()] = None,
    ) -> JSONResponse:
        """Queues annotations of one thing."""
        return answer(await services.edits.annotate(path, set or {}, remove or []))

    return routes
