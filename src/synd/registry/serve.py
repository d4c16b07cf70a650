"""Runs a registry: REST by uvicorn, bytes by the byte server, both on loopback, until a signal.

Start: data folder, byte listener, REST listener, then `ready`. Stop is that order unwound; the second signal
does not wait for requests at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from synd.errors import AlreadyRunning, StoreError
from synd.registry.app import ABORT, App
from synd.registry.blobserver import BlobServer
from synd.registry.db import default_token
from synd.registry.service import Registry, Settings, open_registry

log = logging.getLogger("synd.registry.serve")

STOP_GRACE_S = 3


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, which also lets the application cut the connection."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {ABORT: {}}
        self.scope["extensions"][ABORT] = self.transport.abort  # type: ignore[assignment]


class _Server(uvicorn.Server):
    """A server that leaves signals to us and tells when it listens."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started:
            self._ready()


@contextlib.contextmanager
def _only_server(data: Path) -> Iterator[None]:
    """One server per data folder. Raises AlreadyRunning."""
    data.mkdir(parents=True, exist_ok=True)
    fd = os.open(data / "serve.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise AlreadyRunning(
                f"another registry serves {data}", hint="stop it, or use another --data folder"
            ) from error
        yield
    finally:
        os.close(fd)


def _listen(host: str, port: int) -> socket.socket:
    """Raises StoreError when the port is not free."""
    # asyncio sets TCP_NODELAY only where the socket names its protocol; without, answers of two
    # writes wait 40 ms for the client's delayed acknowledgement.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise StoreError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def run(settings: Settings, ready: Callable[[str, str], None]) -> None:
    """Serves until SIGTERM or SIGINT. `ready(url, token)` is called once both listeners answer.

    Raises AlreadyRunning, StoreError. Source: the CLI contract of `synd registry serve`.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_server(settings.data))
        registry = open_registry(settings)
        stack.callback(registry.close)
        token = default_token(registry.db, settings.data)
        listener = _listen(settings.host, settings.port)
        stack.callback(listener.close)
        blob_server = BlobServer(
            registry.blobs,
            registry.faults,
            registry.requests,
            registry.presigner,
            host=settings.host,
            latency_s=settings.latency_ms / 1000,
            bytes_per_s=settings.mbit * 125_000,
        )
        registry.presigner.base = blob_server.base
        blob_server.start()
        stack.callback(blob_server.stop)
        # A byte thread that wakes up must not wait 5 ms for a REST handler to let go of the interpreter.
        sys.setswitchinterval(0.0005)
        url = f"http://{settings.host}:{listener.getsockname()[1]}"
        _serve_rest(registry, listener, lambda: ready(url, token))


def _serve_rest(registry: Registry, listener: socket.socket, ready: Callable[[], None]) -> None:
    config = uvicorn.Config(
        App(registry),
        http=_Protocol,
        loop="asyncio",
        ws="websockets-sansio",
        # The service's gateway answers protocol pings and sends none of its own.
        ws_ping_interval=None,
        ws_max_size=1 << 20,
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=120,
        timeout_graceful_shutdown=STOP_GRACE_S,
        backlog=512,
    )
    # Its INFO lines hold the whole query of a socket's URL, which is a secret.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    server = _Server(config, ready)

    def stop(number: int, _frame: Any) -> None:
        log.info("registry.stopping", extra={"fields": {"signal": number}})
        if server.should_exit:
            server.force_exit = True
        server.should_exit = True

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        asyncio.run(server.serve(sockets=[listener]))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
