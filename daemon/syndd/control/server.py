"""The control API: FastAPI by uvicorn on the daemon's own loop and Unix socket.

Builds the application from the handlers of this folder, and starts and stops its servers: this one, and the
one of `browsers` where a loopback address is set. Imported only once the mount answers (`syndd.lifecycle`),
as the framework costs time and memory. Leaves what is done to `DaemonServices`, and the process's life to `Lifecycle`.
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
from fastapi import FastAPI
from starlette.types import ASGIApp

from synd.control import contract
from synd.errors import SyndError
from syndd.control import (
    admin,
    browsers,
    cache,
    changes,
    data,
    files,
    jobs,
    keeping,
    problems,
    watch,
)
from syndd.control.loopback import Loopback
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
    problems.install(app, lambda: is_draining(lifecycle))
    # Routes are tried in this order, and nothing is asked for as often as bytes.
    app.include_router(data.router(services))
    app.include_router(admin.router(services, lifecycle))
    app.include_router(files.router(services))
    app.include_router(changes.router(services))
    app.include_router(keeping.router(services))
    app.include_router(cache.router(services))
    app.include_router(jobs.router(services, app.state.ending))
    app.include_router(watch.router(services, app.state.ending))
    return app


def is_draining(lifecycle: Lifecycle) -> bool:
    """Whether the daemon is about to stop."""
    return lifecycle.process()["state"] == "draining"


class _Server(uvicorn.Server):
    """Without signal handlers of its own: signals belong to `syndd.lifecycle`."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]  # as uvicorn spells it  # noqa: ANN202  # as uvicorn spells it
        yield


class _Listening:
    """One application on a socket that listens already."""

    def __init__(
        self, name: str, app: ASGIApp, protocol: type[asyncio.Protocol], listener: socket.socket,
        fail: Callable[[SyndError], None],
    ) -> None:  # fmt: skip
        self._name = name
        self._fail = fail
        self._listener = listener
        self._server = _Server(
            uvicorn.Config(
                app,
                http=protocol,
                ws="none",
                loop="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                # What a client says about others is nothing to believe.
                proxy_headers=False,
                timeout_keep_alive=5,
            )
        )
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Returns when callers are answered."""
        self._serving = asyncio.create_task(
            self._server.serve(sockets=[self._listener]), name=self._name
        )
        self._serving.add_done_callback(self._ended)
        # uvicorn tells of its start by a flag only.
        while not self._server.started and not self._serving.done():  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def stop(self, within_s: float) -> None:
        """Answers what is asked already, closes. The second half by force."""
        if self._serving is None:
            return
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
        self._fail(SyndError(f"the {self._name} ended by itself: {cause!r}"))


class ControlServer:
    """The API on its Unix socket and, where that is wanted, its reading part on a loopback address."""

    def __init__(
        self,
        services: DaemonServices,
        lifecycle: Lifecycle,
        listener: socket.socket,
        fail: Callable[[SyndError], None],
        loopback: Loopback | None = None,
    ) -> None:
        # Its complaints belong into our log, with our format and redaction.
        logging.getLogger("uvicorn").parent = logging.getLogger("syndd")
        # Its lines hold whole addresses, tokens and all. `access_log` alone takes away its handlers only,
        # and somebody may give it others.
        logging.getLogger("uvicorn.access").disabled = True
        self.app = application(services, lifecycle)
        self._fail = fail
        self._parts = [_Listening("control API", self.app, OwnerOnlyProtocol, listener, fail)]
        if loopback is not None and loopback.listener is not None:
            reading = browsers.application(services, loopback, lambda: is_draining(lifecycle))
            self._parts.append(
                _Listening(
                    "loopback listener", reading, browsers.BoundedProtocol, loopback.listener, fail
                )
            )

    async def start(self) -> None:
        """Returns when callers are answered."""
        for part in self._parts:
            await part.start()

    async def listen(self, listener: socket.socket) -> None:
        """Serves the API on another socket as well."""
        part = _Listening("control API", self.app, OwnerOnlyProtocol, listener, self._fail)
        self._parts.append(part)
        await part.start()

    async def stop(self, within_s: float) -> None:
        """Answers what is asked already, ends event streams, closes. The second half by force."""
        self.app.state.ending.set()
        await asyncio.gather(*(part.stop(within_s) for part in self._parts))


@contextlib.asynccontextmanager
async def serving(
    services: DaemonServices,
    lifecycle: Lifecycle,
    listener: socket.socket,
    loopback: Loopback | None = None,
) -> AsyncIterator[ControlServer]:
    """A server for the time of a `with` block; for tests and tools."""
    server = ControlServer(
        services, lifecycle, listener, lambda error: log.error("%s", error), loopback
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop(2.0)
