"""A grid's service on loopback: the socket, the snapshots' storage and the REST calls, by transcript or script.

It plays the steps of a transcript (tests/fixtures/grid/README.md) and can fall silent at any place.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import AsyncExitStack, suppress
from typing import Any, Self

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from synd.clock import Deadline
from tests.support.grid_transcripts import body_of, check_request

STORAGE = "https://snapshots.test"
_SILENT = logging.getLogger("tests.grid_service")
# It would write requests, and so the secrets that a test looks for, into the log.
_SILENT.disabled = True

SECRET = "X-Amz-Signature=not-to-be-seen"


class GridService:
    """Speaks `steps`. It is also the `GridCalls` that lead to it.

    `hang` names a place where it falls silent for ever: `session`, `replica`, `url`, `handshake`, `headers`, `body`,
    `close`. `pace` scales what the steps wait.
    """

    def __init__(
        self,
        steps: list[dict[str, Any]],
        *,
        hang: str = "",
        pace: float = 0.1,
        schema: str | None = "org-a-1.0.0",
        replica: int = 66_536,
    ) -> None:
        self.steps = [step for step in steps if "http" not in step]
        self.answers = [step["http"] for step in steps if "http" in step]
        self.hang = hang
        self.pace = pace
        self.schema = schema
        self.replica = replica
        self.at = 0
        self.urls = 0
        self.replicas = 0
        self.wrong: list[str] = []
        """What a client did that it must not."""
        self.requests: list[list[Any]] = []
        self.connections = 0
        self._refusal = next((s["handshake"] for s in steps if "handshake" in s), None)
        self._stack = AsyncExitStack()
        self._silent = asyncio.Event()

    @property
    def exhausted(self) -> bool:
        """Whether the last step was reached."""
        return self.at >= len(self.steps)

    async def all_closed(self) -> None:
        """Waits until no client is connected."""
        await asyncio.gather(*(one.wait_closed() for one in self._server.connections))

    async def __aenter__(self) -> Self:
        storage = await asyncio.start_server(self._store, "127.0.0.1", 0)
        self._stack.callback(storage.close)
        self.storage_port = storage.sockets[0].getsockname()[1]
        server: Server = await serve(
            self._talk,
            "127.0.0.1",
            0,
            process_request=self._upgrade,
            open_timeout=None,
            ping_interval=None,
            close_timeout=0.2,
            compression=None,
            logger=_SILENT,
        )
        self.port = next(iter(server.sockets)).getsockname()[1]
        self._server = server
        return self

    async def __aexit__(self, *about: object) -> None:
        self._silent.set()
        self._server.close()
        for connection in list(self._server.connections):
            connection.transport.abort()
        await self._server.wait_closed()
        await self._stack.aclose()

    # --- the REST calls -------------------------------------------------------------------------

    async def grid_session(self, session: str, *, deadline: Deadline) -> dict[str, Any]:
        await self._perhaps_silent("session")
        facts: dict[str, Any] = {"sessionId": session}
        if self.schema:
            facts["gridJsonSchema$Id"] = self.schema
        return facts

    async def create_grid_replica(self, session: str, *, deadline: Deadline) -> int:
        await self._perhaps_silent("replica")
        self.replicas += 1
        return self.replica

    async def grid_socket_url(self, session: str, replica: int, *, deadline: Deadline) -> str:
        await self._perhaps_silent("url")
        self.urls += 1
        return f"ws://127.0.0.1:{self.port}/grid?n={self.urls}&{SECRET}"

    async def _perhaps_silent(self, place: str) -> None:
        if self.hang == place:
            await self._silent.wait()

    # --- the socket -----------------------------------------------------------------------------

    async def _upgrade(self, connection: ServerConnection, request: Request) -> Response | None:
        await self._perhaps_silent("handshake")
        if "Authorization" in request.headers:
            self.wrong.append("the socket was given credentials")
        if self._refusal:
            body = self._refusal.get("body", "").encode()
            return Response(self._refusal["status"], "Refused", Headers(), body)
        return None

    async def _talk(self, socket: ServerConnection) -> None:
        self.connections += 1
        with suppress(ConnectionClosed):
            while not self.exhausted and socket.close_code is None:
                step = self.steps[self.at]
                # Counted before it is done: a client may see its effect first.
                self.at += 1
                if "new_connection" in step:
                    if self.connections < 2:
                        self.wrong.append("a second connection was expected")
                    continue
                if await self._step(socket, step):
                    return
            await socket.wait_closed()

    async def _step(self, socket: ServerConnection, step: dict[str, Any]) -> bool:
        """Whether this connection is over."""
        if "server" in step:
            await socket.send(self._here(step["server"]))
        elif "client" in step:
            await self._expect(socket, step["client"])
        elif "server_reply" in step:
            await self._reply(socket, step["server_reply"])
        elif "delay_s" in step:
            await asyncio.sleep(step["delay_s"] * self.pace)
        elif "close" in step:
            if step["close"].get("abrupt"):
                socket.transport.abort()
            else:
                await socket.close(step["close"]["code"], step["close"].get("reason", ""))
            return True
        elif "repeat" in step:
            while True:
                await socket.send(step["repeat"]["message"])
                await asyncio.sleep(step["repeat"]["every_s"] * self.pace)
        elif "loop_until_client_stops" in step:
            for _ in range(step["loop_until_client_stops"]["max"]):
                self.id = json.loads(await socket.recv())[1]
                await self._reply(socket, step["loop_until_client_stops"]["reply"])
            self.wrong.append("the client goes on for ever")
        elif "deaf" in step:
            # Takes no bytes any more: a close is never answered.
            socket.transport.pause_reading()
            await self._silent.wait()
        elif "silence" in step:
            await socket.wait_closed()
        return False

    async def _expect(self, socket: ServerConnection, wanted: dict[str, Any]) -> None:
        text = await socket.recv()
        if not isinstance(text, str):
            self.wrong.append("a message is not text")
            return
        self.requests.append(json.loads(text))
        try:
            self.id = check_request(wanted, text)
        except AssertionError as error:
            self.wrong.append(f"{text[:200]} instead of {wanted}: {error}")

    async def _reply(self, socket: ServerConnection, reply: list[Any]) -> None:
        whole = [self.id if one == "$id" else one for one in reply]
        await socket.send(self._here(json.dumps(whole)))

    def _here(self, text: str) -> str:
        return text.replace(STORAGE, f"http://127.0.0.1:{self.storage_port}")

    # --- the storage ----------------------------------------------------------------------------

    async def _store(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            await self._answer(head, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.transport.abort() if self.hang else writer.close()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        if "authorization:" in head.lower() or "cookie:" in head.lower():
            self.wrong.append("the storage was given credentials")
        if not self.answers:
            self.wrong.append(f"unexpected: {head.splitlines()[0]}")
            return
        answer = self.answers.pop(0)
        wanted = answer["url"].removeprefix(STORAGE)
        if head.splitlines()[0] != f"GET {wanted} HTTP/1.1":
            self.wrong.append(f"{head.splitlines()[0]} instead of GET {wanted}")
        if answer.get("hang") or self.hang == "headers":
            await self._silent.wait()
            return
        body = body_of(answer)
        length = answer.get("content_length", len(body))
        lines = [f"HTTP/1.1 {answer['status']} Said", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in answer.get("headers", {}).items()]
        writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        if self.hang == "body":
            writer.write(body[:100])
            await writer.drain()
            await self._silent.wait()
            return
        writer.write(body[: answer.get("truncate_after", len(body))])
