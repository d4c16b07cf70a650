"""`SynapseClient`: the real service, as one object that meets `Remote`.

    async with SynapseClient.open() as client:
        page = await client.children(entity_id("syn123"))

It belongs to the event loop that first uses it. Other threads hand their calls over with
`SynapseClient.from_thread`, or with `asyncio.run_coroutine_threadsafe`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, Self, TypeVar

from synd.client.activities import ActivityCalls
from synd.client.asyncjobs import run_job
from synd.client.changes import ChangeCalls
from synd.client.credentials import Endpoints, Token, endpoints, find_token
from synd.client.curation import CurationCalls
from synd.client.files import FileCalls
from synd.client.grids import GridCalls
from synd.client.schemas import SchemaCalls
from synd.client.tables import TableCalls
from synd.client.throttle import Limits
from synd.client.transfer import Downloader
from synd.client.transport import Status, Transport
from synd.client.upload import UploadCalls, Uploader
from synd.clock import SYSTEM, Clock, Deadline
from synd.config import Config, load
from synd.errors import DeadlineExceeded, NotLoggedIn, UsageError
from synd.retry import RetryPolicy

R = TypeVar("R")

_JOB_S = 600.0


class SynapseClient(
    ChangeCalls,
    UploadCalls,
    TableCalls,
    FileCalls,
    ActivityCalls,
    GridCalls,
    SchemaCalls,
    CurationCalls,
):
    """A Synapse-compatible service over HTTP. Without a token it asks as nobody: public data only."""

    def __init__(
        self,
        service: Endpoints,
        token: Token | None,
        *,
        config: Config | None = None,
        clock: Clock = SYSTEM,
        policy: RetryPolicy | None = None,
        limits: Limits | None = None,
        downloader: Downloader | None = None,
    ) -> None:
        config = config or Config()
        self._transport = Transport(
            service, token, config=config, clock=clock, policy=policy, limits=limits
        )
        self._own_downloader = downloader is None
        self._downloader = downloader or Downloader(
            connect_timeout_s=config.connect_timeout_s, read_timeout_s=config.read_timeout_s
        )
        self._uploader = Uploader(
            self._transport,
            self._downloader,
            connect_timeout_s=config.connect_timeout_s,
            read_timeout_s=config.read_timeout_s,
            clock=clock,
            policy=policy,
        )

    @classmethod
    def open(
        cls,
        config: Config | None = None,
        environ: Mapping[str, str] | None = None,
        *,
        anonymous: bool = False,
    ) -> Self:
        """The service and the token that settings and environment name. Opens no connection yet.

        Raises NotLoggedIn (unless `anonymous` will do), ConfigError.
        """
        config = config or load(environ)
        service = endpoints(config, environ)
        try:
            token = find_token(service, environ)
        except NotLoggedIn:
            if not anonymous:
                raise
            token = None
        return cls(service, token, config=config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes all connections; calls under way fail."""
        await self._uploader.aclose()
        await self._transport.aclose()
        if self._own_downloader:
            self._downloader.close()

    async def version(self, *, deadline: Deadline | None = None) -> Mapping[str, Any]:
        """What the service says of itself; a local registry its id and limits too."""
        said = await self._transport.json("GET", "/version", deadline=deadline)
        return said if isinstance(said, dict) else {}

    @property
    def endpoints(self) -> Endpoints:
        return self._transport.endpoints

    @property
    def downloader(self) -> Downloader:
        """The transfers' connections, for worker threads."""
        return self._downloader

    @property
    def status(self) -> Status:
        """Counters, limits and whether the service can be reached. Any thread."""
        return self._transport.status

    async def rest(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        service: str = "repo",
        query: Mapping[str, object] | None = None,
        deadline: Deadline | None = None,
    ) -> Any:
        """The JSON of any call: ``rest("GET", "/entity/syn123")``. None for an empty answer.

        `path` may start with the service's prefix (``/repo/v1``, ``/file/v1``, ``/auth/v1``), which
        then overrides `service`. A POST is not sent again when its answer was lost.
        """
        for name in ("repo", "file", "auth"):
            if path == f"/{name}/v1" or path.startswith(f"/{name}/v1/"):
                service, path = name, path.removeprefix(f"/{name}/v1") or "/"
        method = method.upper()
        if method not in ("GET", "POST", "PUT", "DELETE", "HEAD", "PATCH"):
            raise UsageError(f"{method!r} is not a method of the service")
        return await self._transport.json(
            method,
            path if path.startswith("/") else f"/{path}",
            body,
            service=service,
            query=query,
            deadline=deadline,
            replay=method in ("GET", "HEAD", "PUT", "DELETE"),
        )

    async def job(
        self,
        path: str,
        body: object,
        *,
        service: str = "repo",
        deadline: Deadline | None = None,
    ) -> Any:
        """The result of the asynchronous job that ``POST {path}/async/start`` begins, as JSON."""
        deadline = deadline or Deadline.after(_JOB_S, path)
        return await run_job(self._transport, path, body, service=service, deadline=deadline)

    def from_thread(
        self, call: Coroutine[Any, Any, R], loop: asyncio.AbstractEventLoop, deadline: Deadline
    ) -> R:
        """The result of `call`, run on the client's `loop`, for a thread that may block.

        Raises what the call raises; DeadlineExceeded when the loop itself does not get to it.
        """
        future = asyncio.run_coroutine_threadsafe(call, loop)
        try:
            # The call keeps its own deadline; the second is for a loop that is held up.
            return future.result(deadline.left_s() + 1.0)
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded(
                f"{deadline.what} took longer than {deadline.total_s:g} s"
            ) from error
