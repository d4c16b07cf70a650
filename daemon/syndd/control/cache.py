"""Handlers about the cache: usage, clear, pin, unpin, verify."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from fastapi.responses import JSONResponse

from synd.control import contract
from syndd.control.reply import accepted, answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices

Targets = Annotated[list[str], Body(embed=True)]
SomeTargets = Annotated[list[str], Body(embed=True, min_length=1)]


def router(services: DaemonServices) -> APIRouter:
    """The routes."""
    routes = empty("cache")

    @routes.get(contract.CACHE, **shape(contract.CacheUsage))
    async def usage() -> JSONResponse:
        """How much lies in the cache, and its bounds."""
        return answer(await services.cache_usage())

    @routes.post(contract.CACHE_CLEAR, **shape(contract.CacheReply))
    async def clear(targets: Targets) -> JSONResponse:
        """Drops what is neither pinned, open nor unsent. An empty list means the whole cache."""
        return answer(await services.cache_clear(targets))

    @routes.post(contract.CACHE_PIN, **shape(contract.CacheReply))
    async def pin(targets: SomeTargets) -> JSONResponse:
        """Keeps files, or folders with all below, from eviction."""
        return answer(await services.cache_pin(targets, pinned=True))

    @routes.post(contract.CACHE_UNPIN, **shape(contract.CacheReply))
    async def unpin(targets: SomeTargets) -> JSONResponse:
        """Lets pinned files go again."""
        return answer(await services.cache_pin(targets, pinned=False))

    @routes.post(contract.CACHE_VERIFY, **shape(contract.Job, 202))
    async def verify(targets: Targets) -> JSONResponse:
        """Starts hashing objects again. An empty list means the whole cache."""
        return accepted(await services.cache_verify(targets))

    return routes
