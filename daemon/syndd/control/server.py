"""The control API: FastAPI by uvicorn on the daemon's own loop and Unix socket.

Builds the application from the handlers of this folder, turns every error into a problem body, and
starts and stops the server. Imported only once the mount answers (`syndd.lifecycle`), as the framework
costs time and memory. Leaves what is done to `DaemonServices`, and the process's life to `Lifecycle`.
Invariant: no answer is given without a body that the contract knows.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import logging
import socket
from collections.abc import AsyncIterator, Callable
from typing import Protocol

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from synd.control import contract
from synd.errors import NotFound, NotSupported, SyndError, UsageError
from synd.log import fields
from syndd.control import admin, cache, changes, data, files, jobs, keeping, watch
from syndd.control.peer import OwnerOnlyProtocol
from syndd.control.services import DaemonServices

log = logging.getLogger(__name__)


class Lifecycle(Protocol):
    """What the API may ask of the daemon's life."""

    def process(self) -> contract.Process: ...

    def ask_stop(self, why: str, *, budget_s: float = ..., keep_mount: bool = ...) -> None: ...


def application(services: DaemonServices, lifecycle: Lifecycle) -> FastAPI:
    """The ASGI application. Nothing is started."""
    app = FastAPI(
        title="synd control API",
        version=importlib.metadata.version("synd"),
        openapi_url=contract.OPENAPI,
        docs_url=None,
        redoc_url=None,
    )
    app.state.ending = asyncio.Event()
    app.add_exception_handler(SyndError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)
    app.include_router(admin.router(services, lifecycle))
    app.include_router(files.router(services))
    app.include_router(changes.router(services))
    app.include_router(keeping.router(services))
    app.include_router(cache.router(services))
    app.include_router(data.router(services))
    app.include_router(jobs.router(services, app.state.ending))
    app.include_router(watch.router(services, app.state.ending))
    return app


def problem(error: SyndError) -> JSONResponse:
    """An error as an answer."""
    return JSONResponse(error.problem(), status_code=error.status, media_type=contract.PROBLEM)


async def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, SyndError)  # registered for nothing else
    log.log(
        error.level if error.level < logging.ERROR else logging.INFO,
        "control.error",
        extra=fields(route=request.url.path, error=error),
    )
    return problem(error)


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


class _Server(uvicorn.Server):
    """Without signal handlers of its own: signals belong to `syndd.lifecycle`."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as uvicorn spells it  # noqa: ANN202  # as uvicorn spells it
        yield


class ControlServer:
    """The API on a socket that listens already."""

    def __init__(
        self,
        services: DaemonServices,
        lifecycle: Lifecycle,
        listener: socket.socket,
        fail: Callable[[SyndError], None],
    ) -> None:
        # Its complaints belong into our log, with our format and redaction.
        logging.getLogger("uvicorn").parent = logging.getLogger("syndd")
        self._fail = fail
        self._listener = listener
        self.app = application(services, lifecycle)
        self._server = _Server(
            uvicorn.Config(
                self.app,
                http=OwnerOnlyProtocol,
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=5,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when callers are answered."""
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[self._listener]), name="control"
        )
        self._serving.add_done_callback(self._ended)
        # uvicorn tells of its start by a flag only.
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def stop(self, within_s: float) -> None:
        """Answers what is asked already, ends event streams, closes. The second half by force."""
        if self._serving is None:
            return
        self.app.state.ending.set()
        self._server.should_exit = True
        await asyncio.wait({self._serving}, timeout=within_s / 2)
        self._server.force_exit = True
        await asyncio.wait({self._serving}, timeout=within_s / 2)
        if not self._serving.done():
            self._serving.cancel()
            await asyncio.wait({self._serving}, timeout=1.0)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._server.should_exit:
            return
        cause = task.exception()
        self._fail(SyndError(f"the control API ended by itself: {cause!r}"))


@contextlib.asynccontextmanager
async def serving(
    services: DaemonServices, lifecycle: Lifecycle, listener: socket.socket
) -> AsyncIterator[ControlServer]:
    """A server for the time of a `with` block; for tests and tools."""
    server = ControlServer(services, lifecycle, listener, lambda error: log.error("%s", error))
    await server.start()
    try:
        yield server
    finally:
        await server.stop(2.0)
