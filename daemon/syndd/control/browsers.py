"""What genome browsers are answered on the loopback address: reading prepared files, and nothing else.

Behind a guard, in this order: the Host that was meant (a page whose name was rebound to this machine names
another), the web page that asks, a preflight, the token. Leaves the answers to `control.data` and `control.jobs`.
Invariants: no route here changes anything that somebody made; no token is logged, or handed on to the routes.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from synd.errors import Forbidden, NotLoggedIn, SyndError
from synd.log import fields, redact
from syndd.control import data, jobs, problems
from syndd.control.loopback import Loopback
from syndd.control.sending import SendsFiles
from syndd.control.services import DaemonServices

log = logging.getLogger(__name__)

TOKEN = "token"  # noqa: S105 - the name of the query's field
METHODS = "GET, HEAD, OPTIONS"
ASKED_HEADERS = "Authorization, Range, If-Range, If-None-Match, Cache-Control, Content-Type"
TOLD_HEADERS = (
    "Accept-Ranges, Content-Disposition, Content-Length, Content-Range, ETag, Location, Retry-After"
)
MOST_CONNECTIONS = 128
PREFLIGHT_S = 600
"""A browser asks again, before a request with a Range, after so long."""

_SAFE = {
    # A file may hold a page with scripts: it must not run beside the token in its own address.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "private, no-cache",
}


def application(
    services: DaemonServices, loopback: Loopback, draining: Callable[[], bool]
) -> ASGIApp:
    """The guarded routes. Nothing is started."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    problems.install(app, draining)
    app.include_router(data.reading(services))
    app.include_router(jobs.looking(services))
    return Guard(app, loopback)


class BoundedProtocol(SendsFiles):
    """HTTP/1.1 for so many at once: other users of this machine must not use up the daemon's descriptors."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own spelling
        if len(self.connections) >= MOST_CONNECTIONS:
            transport.abort()
            transport.set_protocol(asyncio.Protocol())
            return
        super().connection_made(transport)


class Guard:
    """Lets through who knows the token and means us, and tells browsers what a page may read."""

    def __init__(self, app: ASGIApp, loopback: Loopback) -> None:
        self._app = app
        self._token = loopback.token.encode()
        names = {"127.0.0.1", "localhost", "[::1]", loopback.address.removeprefix("http://")}
        port = loopback.port
        self._hosts = {name if name.endswith(f":{port}") else f"{name}:{port}" for name in names}
        if port == 80:
            self._hosts |= {host.removesuffix(":80") for host in self._hosts}
        self._any_origin = "*" in loopback.origins
        self._origins = {one.lower() for one in loopback.origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = self._may_read(origin)

        async def told(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._tell(MutableHeaders(scope=message), allowed)
            await send(message)

        refusal = self._refusal(scope, headers, origin)
        if refusal is not None:
            # A wrong token is told to whoever sent it; another host or page is somebody else's doing.
            level = logging.DEBUG if isinstance(refusal, NotLoggedIn) else logging.INFO
            route = redact(repr(scope["path"][:200]))
            log.log(level, "browsers.refused", extra=fields(route=route, why=refusal))
            answer: ASGIApp = problems.problem(refusal)
            if isinstance(refusal, NotLoggedIn):
                answer.headers["WWW-Authenticate"] = "Bearer"  # type: ignore[attr-defined]  # a Response
            await answer(scope, receive, told)
        elif scope["method"] == "OPTIONS":
            await _preflight(headers)(scope, receive, told)
        else:
            await self._app(_without_token(scope), receive, told)

    def _refusal(self, scope: Scope, headers: Headers, origin: str | None) -> SyndError | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return Forbidden(
                "this is not the host that was asked for",
                hint="`synd url` tells the address; other names are refused, as a web page could rebind them",
            )
        if origin is not None and self._may_read(origin) is None:
            return Forbidden(
                f"pages of {origin[:100]} may not ask here",
                hint="the setting http_origins names who may",
            )
        # A preflight can carry no header of its own, and learns nothing but what every page may know.
        if scope["method"] != "OPTIONS" and not self._knows(scope, headers):
            return NotLoggedIn("the token is missing or wrong", hint="`synd url` tells it")
        return None

    def _knows(self, scope: Scope, headers: Headers) -> bool:
        authorization = headers.get("authorization")
        if authorization is not None:
            kind, _, given = authorization.partition(" ")
            told = [given.strip()] if kind.lower() == "bearer" else []
        else:
            told = [value for name, value in _query(scope) if name == TOKEN]
        return len(told) == 1 and hmac.compare_digest(told[0].encode(), self._token)

    def _may_read(self, origin: str | None) -> str | None:
        """What Access-Control-Allow-Origin says; None: nothing, as no page asks, or none that may."""
        if origin is None:
            return None
        if self._any_origin:
            return "*"
        return origin if origin.lower() in self._origins else None

    @staticmethod
    def _tell(headers: MutableHeaders, allowed: str | None) -> None:
        for name, value in _SAFE.items():
            headers[name] = value
        headers.add_vary_header("Origin")
        if allowed is not None:
            headers["Access-Control-Allow-Origin"] = allowed
            headers["Access-Control-Expose-Headers"] = TOLD_HEADERS


def _preflight(asked: Headers) -> Response:
    headers = {
        "Allow": METHODS,
        "Access-Control-Allow-Methods": METHODS,
        "Access-Control-Allow-Headers": ASKED_HEADERS,
        "Access-Control-Max-Age": str(PREFLIGHT_S),
    }
    if asked.get("access-control-request-private-network") == "true":
        # Asked by browsers before a public page may reach this machine.
        headers["Access-Control-Allow-Private-Network"] = "true"
    return Response(status_code=204, headers=headers)


def _query(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _without_token(scope: Scope) -> Scope:
    kept = [(name, value) for name, value in _query(scope) if name != TOKEN]
    return {**scope, "query_string": urlencode(kept).encode("latin-1")}
