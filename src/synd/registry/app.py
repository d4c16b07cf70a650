"""The ASGI application: who asks, which route, what comes back; with faults and throttling on the way.

A bare ASGI callable with a table of routes (`web.Router`) instead of a framework's: a listing of 50 children
costs some 0.3 ms, which a framework's validation would triple. Every refusal carries a reason, and
whatever a handler fails on becomes 400, because the official client repeats a 5xx for twenty minutes
(synapse-rest.md 1.6).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from synd.registry.access import Caller
from synd.registry.faults import Action, Fault
from synd.registry.grids.socket import grid_socket
from synd.registry.routes import all_routes
from synd.registry.service import ANONYMOUS, Registry
from synd.registry.web import RefusedError, Reply, Request, Router, to_json

log = logging.getLogger("synd.registry.app")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

UNKNOWN = "unknown"
"""What the request log says in place of a route that does not exist."""

MAX_BODY = 64 << 20
"""Bytes of a JSON request."""

ABORT = "synd.abort"
"""ASGI extension by which the server lets the application cut the connection (`serve.py`)."""


class _DropError(Exception):
    """A fault wants the connection cut."""


class App:
    """The application of one registry."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.router = Router()
        for add in all_routes():
            add(self.router)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._http(scope, receive, send)
        else:
            await grid_socket(self.registry, scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        registry = self.registry
        method: str = scope["method"]
        path = scope["raw_path"].decode("latin-1")
        query = scope["query_string"].decode("latin-1")
        target = f"{path}?{query}" if query else path
        template = UNKNOWN
        faults: list[Fault] = []
        throttled: int | None = None
        reply: Reply | None = None
        try:
            if registry.faults.armed and not path.startswith("/admin/"):
                faults = registry.faults.hit(method, target)
            host, authorization = _identify(scope)
            found = self.router.find(method, path)
            caller = self._caller(authorization, found is not None and found[0].scope == "open")
            if found is None:
                raise RefusedError(404, f"There is no {method} {path} in this registry.")
            route, arguments = found
            template = route.template
            if registry.throttle is not None and route.scope not in ("open", "admin"):
                refusal = registry.throttle.enter(caller.user, time.monotonic())
                if refusal is None:
                    throttled = caller.user
                else:
                    reply = Reply(429, to_json({"reason": refusal}))
            # Waiting counts as running: that is what makes slow requests meet the limit.
            if registry.settings.latency_ms:
                await asyncio.sleep(registry.settings.latency_ms / 1000)
            if reply is None and faults:
                reply = await _before(faults)
            if reply is None:
                _check_scope(caller, route.scope)
                body = await _body(receive) if method != "GET" else b""
                request = Request(
                    registry, method, path, query, body, caller, f"http://{host}", arguments
                )
                if template.endswith("/async/get/{token}"):
                    await registry.jobs.linger(arguments["token"])
                if route.slow:
                    loop = asyncio.get_running_loop()
                    reply = await loop.run_in_executor(registry.pool, route.handler, request)
                else:
                    reply = route.handler(request)
            if any(fault.action is Action.DROP_AFTER for fault in faults):
                raise _DropError
        except RefusedError as error:
            reply = Reply(error.status, to_json(error.body()))
        except _DropError:
            registry.requests.add("rest", method, template, target, 0)
            await _abort(scope, receive)
            return
        except Exception as error:
            log.exception("request.failed")
            refused = RefusedError(400, f"{method} {path} failed: {type(error).__name__}: {error}")
            reply = Reply(400, to_json(refused.body()))
        finally:
            if throttled is not None and registry.throttle is not None:
                registry.throttle.leave(throttled)
        registry.requests.add("rest", method, template, target, reply.status)
        await _send(reply, faults, scope, receive, send, method)

    def _caller(self, header: str, open_route: bool) -> Caller:
        """Raises RefusedError 401. Open routes do not care who asks."""
        if open_route:
            return ANONYMOUS
        kind, _, token = header.partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise RefusedError(401, "The access token is missing, unknown or expired.")
        return self.registry.tokens.caller(token.strip())


def _identify(scope: Scope) -> tuple[str, str]:
    """(Host, Authorization) of a request."""
    host = authorization = ""
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"host":
            host = value.decode("latin-1")
    return host, authorization


def _check_scope(caller: Caller, scope: str) -> None:
    if scope in ("", "open") or scope in caller.scopes:
        return
    if scope == "admin":
        if caller.is_admin and "modify" in caller.scopes:
            return
        raise RefusedError(403, "Only the registry's owner may do this.")
    raise RefusedError(
        # In the service's own words: clients look for them.
        403,
        f"Request lacks scope(s) required by this service: {scope}",
    )


async def _before(faults: list[Fault]) -> Reply | None:
    """Carries out what comes before handling. Raises _DropError."""
    for fault in faults:
        if fault.action in (Action.DELAY, Action.HOLD):
            await fault.wait_async()
        elif fault.action is Action.DROP_BEFORE:
            raise _DropError
        elif fault.action is Action.STATUS:
            told = {"reason": fault.reason} | ({"errorCode": fault.code} if fault.code else {})
            return Reply(fault.status, to_json(told))
        elif fault.action is Action.EXPIRE:
            return Reply(403, to_json({"reason": "Request has expired"}))
        elif fault.action is Action.ADD_FAILED:
            return Reply(
                200,
                to_json(
                    {"uploadId": "", "partNumber": 0, "addPartState": "ADD_FAILED",
                     "errorMessage": "The part was not accepted, because it was asked for."}
                ),
            )  # fmt: skip
    return None


async def _body(receive: Receive) -> bytes:
    """The whole request body. Raises RefusedError 413."""
    message = await receive()
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts = [body]
    size = len(body)
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _DropError
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY:
            raise RefusedError(413, f"The request body is larger than {MAX_BODY} bytes.")
    return b"".join(parts)


async def _send(
    reply: Reply, faults: list[Fault], scope: Scope, receive: Receive, send: Send, method: str
) -> None:
    body = reply.body
    headers = [(b"content-length", b"%d" % len(body)), *reply.headers]
    if reply.content_type:
        headers.append((b"content-type", reply.content_type.encode()))
    cut: int | None = None
    for fault in faults:
        if fault.action is Action.TRUNCATE:
            cut = fault.bytes
        elif fault.action is Action.CORRUPT and fault.bytes < len(body):
            body = body[: fault.bytes] + bytes([body[fault.bytes] ^ 0xFF]) + body[fault.bytes + 1 :]
    if reply.status == 204:
        headers = [pair for pair in headers if pair[0] != b"content-length"]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if cut is not None and cut < len(body):
        await send({"type": "http.response.body", "body": body[:cut], "more_body": True})
        await asyncio.sleep(0.01)  # lets what was sent leave before the connection is cut
        await _abort(scope, receive)
        return
    await send({"type": "http.response.body", "body": b"" if method == "HEAD" else body})


async def _abort(scope: Scope, receive: Receive) -> None:
    """Cuts the connection and waits until the server has seen it, so that it does not answer 500."""
    abort = scope.get("extensions", {}).get(ABORT)
    if abort is None:
        raise RuntimeError("this server cannot cut connections")
    abort()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        else:
            await send({"type": "lifespan.shutdown.complete"})
            return
