"""Handlers about the daemon itself: status, settings, log level, shutdown."""

from __future__ import annotations

import dataclasses
import logging
import time
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Body, Query
from fastapi.responses import JSONResponse

from synd import config as settings
from synd.control import contract
from synd.errors import UsageError
from syndd.control.reply import answer, shape
from syndd.control.reply import router as empty
from syndd.control.services import DaemonServices

if TYPE_CHECKING:
    from syndd.control.server import Lifecycle

DRAIN_MAX_S = 86400.0
"""Longest drain that a shutdown may ask for."""


def router(services: DaemonServices, lifecycle: Lifecycle) -> APIRouter:
    """The routes."""
    routes = empty("admin")

    @routes.get(contract.STATUS, **shape(contract.Status | contract.PathStatus))
    async def status(path: Annotated[str | None, Query(min_length=1)] = None) -> JSONResponse:
        """The daemon's state; with `path`, one thing's."""
        if path is not None:
            return answer(await services.status_of(path))
        process, found = lifecycle.process(), await services.status()
        why = process["browsers"]["problem"] if "browsers" in process else ""
        if why:
            hint = "free the address, or set http_listen to another; then `synd down` and `synd up`"
            told: contract.Problem = {"type": "ConfigError", "title": why, "hint": hint}
            found["problems"] = [*found["problems"], told]
        return answer({**process, **found})

    @routes.get(contract.CONFIG, **shape(dict[str, object]))
    async def config() -> JSONResponse:
        """The settings in force."""
        return answer(dataclasses.asdict(services.config))

    @routes.put(contract.LOG_LEVEL, **shape(contract.LogLevel))
    async def log_level(level: Annotated[str, Body(embed=True)]) -> JSONResponse:
        """Sets how much is logged, until the daemon ends."""
        name = level.upper()
        if name not in settings.CHOICES["log_level"]:
            raise UsageError(
                f"{level!r} is not a log level",
                hint=f"one of {', '.join(settings.CHOICES['log_level'])}",
            )
        for logger in ("synd", "syndd"):
            logging.getLogger(logger).setLevel(name)
        return answer({"level": name})

    @routes.post(contract.SHUTDOWN, **shape(contract.ShutdownReply))
    async def shutdown(
        timeout_s: Annotated[float, Body(ge=0, le=DRAIN_MAX_S)] = 30.0,
        lazy: Annotated[bool, Body()] = False,
        keep_mount: Annotated[bool, Body()] = False,
    ) -> JSONResponse:
        """Drains, unmounts, and stops the daemon. Busy (409) when files are open and not `lazy`."""
        return answer(
            await stop(services, lifecycle, timeout_s=timeout_s, lazy=lazy, keep_mount=keep_mount)
        )

    return routes


async def stop(
    services: DaemonServices,
    lifecycle: Lifecycle,
    *,
    timeout_s: float,
    lazy: bool,
    keep_mount: bool,
) -> contract.ShutdownReply:
    """Sends what is unsent, takes the mount away, sends what was closed meanwhile, asks for the stop.

    The mount goes only after the first drain, so that a refusal (Busy) leaves everything as it was.
    """
    end = time.monotonic() + timeout_s
    if not keep_mount:
        await services.drain(timeout_s)
        await services.unmount(lazy=lazy)
        await services.drain(max(0.0, end - time.monotonic()))
    pending = await services.pending()
    process = lifecycle.process()
    lifecycle.ask_stop("shutdown request", budget_s=5.0, keep_mount=keep_mount)
    return {"drained": pending["verdict"] == "sent", "pending": pending, "pid": process["pid"]}
