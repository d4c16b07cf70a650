"""A grid's WebSocket: the handshake, one answer to one request, and notifications (grid-protocol.md 3, 6).

Whatever touches the document runs on a thread; the connection itself lives on the event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, NoReturn

from synd.registry.blobs import SOCKET_PATH, BadUrlError
from synd.registry.faults import Action
from synd.registry.grids.engine import LiveGrid, PatchError
from synd.registry.web import Json, RefusedError, to_json

if TYPE_CHECKING:
    from synd.registry.service import Registry

log = logging.getLogger("synd.registry.grids")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUEST, ANSWER, DONE, NOTICE = 1, 4, 5, 8
_CODES = {400: "Bad Request"}


class _ClosedError(Exception):
    """The connection is over."""


class _BadMessageError(Exception):
    """What the client sent is refused with 400."""


async def grid_socket(registry: Registry, scope: Scope, receive: Receive, send: Send) -> None:
    """Serves one connection until its end. Anything but a grid's presigned URL is refused with 403."""
    await receive()
    path = scope["raw_path"].decode("latin-1")
    target = f"{path}?{scope['query_string'].decode('latin-1')}"
    shown = f"{path}?…"  # the query is a secret
    refusal = 0
    for fault in registry.faults.hit("GET", target) if registry.faults.armed else ():
        if fault.action in (Action.DELAY, Action.HOLD):
            await fault.wait_async()
        elif fault.action in (Action.STATUS, Action.DROP_BEFORE):
            refusal = fault.status
        elif fault.action is Action.EXPIRE:
            refusal = 403
    try:
        if refusal:
            raise BadUrlError(refusal, "", "This failure was asked for.")
        if path != SOCKET_PATH:
            raise BadUrlError(403, "Forbidden", "There is no socket here.")
        values = registry.presigner.check_socket(target, time.time())
        grid, replica = int(values["gridSessionId"]), int(values["replicaId"])
        loop = asyncio.get_running_loop()
        live = await loop.run_in_executor(registry.pool, registry.grids.acquire, grid)
    except (BadUrlError, RefusedError) as error:
        status = 403 if isinstance(error, RefusedError) else error.status
        registry.requests.add("socket", "GET", SOCKET_PATH, shown, status)
        await _refuse(send, status, str(error))
        return
    registry.requests.add("socket", "GET", SOCKET_PATH, shown, 101)
    try:
        await _Connection(registry, live, replica, receive, send).run()
    finally:
        registry.grids.release(grid)


def _parsed(text: str | bytes) -> Json:
    """A message. Raises ValueError, also for NaN and the like, which no reader of the grid would take."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("A message is nested too deeply.") from error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON.")


async def _refuse(send: Send, status: int, message: str) -> None:
    body = to_json({"message": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class _Connection:
    """One open socket. What is sent comes from one task, in the order of the queue."""

    def __init__(
        self, registry: Registry, live: LiveGrid, replica: int, receive: Receive, send: Send
    ) -> None:
        self._registry = registry
        self._live = live
        self._replica = replica
        self._receive = receive
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._notices: asyncio.Queue[str] = asyncio.Queue()
        self._silent = False
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        await self._send({"type": "websocket.accept"})
        self._live.listeners[self] = self._tell
        try:
            await self._notice("connected")
            await self._elsewhere(self._live.tell, "replica-connected", self)
            reader = asyncio.create_task(self._read())
            teller = asyncio.create_task(self._pass_notices())
            done, waiting = await asyncio.wait(
                (reader, teller), return_when=asyncio.FIRST_COMPLETED
            )
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            for task in done:
                if not isinstance(task.exception(), _ClosedError | None):
                    log.error("grid.socket_failed", exc_info=task.exception())
        except _ClosedError:
            pass
        finally:
            del self._live.listeners[self]
            self._live.tell("replica-disconnected", self)

    def _tell(self, notice: str) -> None:
        """A notification from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._notices.put_nowait, notice)
        except RuntimeError:
            pass  # the loop has ended, and the connection with it

    async def _pass_notices(self) -> None:
        while True:
            notice = await self._notices.get()
            if not notice:  # the session is deleted
                await self._close(1000)
            # Several at once say no more than one.
            waiting = {notice}
            while not self._notices.empty():
                waiting.add(self._notices.get_nowait())
            if "" in waiting:
                await self._close(1000)
            for one in sorted(waiting):
                await self._notice(one)

    async def _notice(self, name: str, body: Json = None) -> None:
        if await self._faults(name) == "stop":
            return
        await self._text([NOTICE, name] if body is None else [NOTICE, name, body])

    async def _error(self, errno: int, message: str) -> None:
        code = _CODES.get(errno, "Internal Server Error")
        await self._text([NOTICE, "error", {"message": message, "code": code, "errno": errno}])

    async def _text(self, message: Json | str) -> None:
        if self._silent:
            return
        text = message if isinstance(message, str) else to_json(message).decode()
        async with self._turn:
            try:
                await self._send({"type": "websocket.send", "text": text})
            except OSError as error:
                # ASGI's word for a client that has gone meanwhile.
                raise _ClosedError from error

    async def _close(self, code: int) -> None:
        await self._send({"type": "websocket.close", "code": code})
        raise _ClosedError

    async def _elsewhere(self, call: Callable[..., Any], *args: Any) -> Any:
        return await self._loop.run_in_executor(self._registry.pool, call, *args)

    async def _faults(self, name: str) -> str:
        """Carries out the faults of one message: "go", "stop" (it is not to be handled) or "drop" (the
        connection ends after it). Raises _ClosedError.
        """
        fate = "go"
        if not self._registry.faults.armed:
            return fate
        for fault in self._registry.faults.hit("WS", f"{SOCKET_PATH}/{name}"):
            if fault.action in (Action.DELAY, Action.HOLD):
                await fault.wait_async()
            elif fault.action is Action.SILENT:
                self._silent = True
            elif fault.action is Action.DROP_BEFORE:
                await self._close(1001)
            elif fault.action is Action.DROP_AFTER:
                fate = "drop"
            elif fault.action is Action.STATUS:
                await self._error(fault.status, fault.reason)
                fate = "stop"
        return fate

    async def _read(self) -> None:
        while True:
            event = await self._receive()
            if event["type"] == "websocket.disconnect":
                raise _ClosedError
            text = event.get("text")
            try:
                await self._handle(_parsed(text if text is not None else event["bytes"]))
            except (ValueError, _BadMessageError) as error:
                await self._error(400, str(error))
            except PatchError as error:
                await self._error(error.errno, str(error))
            except RefusedError as error:
                await self._error(500, error.reason)

    async def _handle(self, message: Json) -> None:
        """One message, or an array of them."""
        if not isinstance(message, list) or not message:
            raise _BadMessageError("A message must be a JSON array.")
        if isinstance(message[0], list):
            for one in message:
                await self._handle(one)
            return
        if message[0] == NOTICE:
            if message[1:2] != ["ping"]:
                raise _BadMessageError(f"Unknown notification: {message[1:2]}")
            if await self._faults("ping") != "stop":
                await self._text([NOTICE, "pong"])
            return
        if message[0] != REQUEST or len(message) < 3 or not isinstance(message[1], int):
            raise _BadMessageError(f"Unknown message type: {str(message[0])[:40]}")
        number, method = message[1], message[2]
        body = message[3] if len(message) > 3 else None
        self._registry.requests.add("socket", "WS", f"{SOCKET_PATH}/{method}", SOCKET_PATH, 200)
        fate = await self._faults(str(method))
        if fate == "stop":
            return
        if method == "synchronize-clock":
            answer = await self._synchronize(number, body)
        elif method == "patch":
            if not isinstance(body, list):
                raise _BadMessageError("The body of 'patch' must be an array.")
            await self._elsewhere(self._live.take, self._replica, body, self)
            answer = [DONE, number]
        else:
            raise _BadMessageError(f"Unknown method: {str(method)[:40]}")
        if fate == "drop":
            await self._close(1001)
        await self._text(answer)

    async def _synchronize(self, number: int, body: Json) -> Json | str:
        if not isinstance(body, list):
            raise _BadMessageError("The body of 'synchronize-clock' must be an array.")
        clock: dict[int, int] = {}
        for pair in body:
            if isinstance(pair, list) and len(pair) == 2 and all(type(n) is int for n in pair):
                clock[pair[0]] = max(pair[1], clock.get(pair[0], 0))
        found = await self._elsewhere(self._live.answer, clock)
        if found is None:
            return [DONE, number]
        kind, parts = found
        if kind == "snapshot":
            return [ANSWER, number, {"type": "snapshot", "body": parts[0]}]
        # Patches go out as they are stored: decoding a hundred kilobytes for that would be waste.
        shape = self._registry.grids.shape
        if shape == "patches":
            return f'[{ANSWER},{number},{{"type":"patches","body":[{",".join(parts)}]}}]'
        if shape == "patch":
            return f'[{ANSWER},{number},{{"type":"patch","body":{parts[0]}}}]'
        return f"[{ANSWER},{number},{parts[0]}]"
