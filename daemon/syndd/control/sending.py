"""Bytes of a file as an answer, moved to the socket by the kernel.

`SendsFiles` gives each request the ASGI extension `http.response.zerocopysend`, which uvicorn does not have;
`FileRange` uses it where it is there. Leaves what is answered, and which range of it, to `control.data`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Mapping
from functools import partial
from typing import BinaryIO, cast

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from synd.ranges import ByteRange

ZERO_COPY = "http.response.zerocopysend"
"""Name of the ASGI extension, and the type of its message."""

_PIECE = 1 << 20
_SEND_BUFFER = 4 << 20
"""Asked for; the kernel gives what its limit allows. With its default of 208 KiB the two ends of a Unix socket
wait for each other at every few pages, which halves the rate."""


class SendsFiles(HttpToolsProtocol):
    """HTTP/1.1 whose answers may be ranges of open files."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own spelling
        line = cast("socket.socket | None", transport.get_extra_info("socket"))
        if line is not None and line.family == socket.AF_UNIX:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        super().connection_made(transport)

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        cycle: RequestResponseCycle | None = self.cycle
        # An upgrade that is refused makes none.
        if cycle is not None and cycle.scope is self.scope:
            self.scope.setdefault("extensions", {})[ZERO_COPY] = {}
            # The application is called later, and looks `send` up then.
            cycle.send = partial(_send, cycle, cast("Send", cycle.send))  # type: ignore[method-assign]


async def _send(cycle: RequestResponseCycle, plain: Send, message: Message) -> None:
    """Does what `message` says: ours here, all others by uvicorn."""
    if message["type"] != ZERO_COPY:
        await plain(message)
        return
    if cycle.flow.write_paused and not cycle.disconnected:
        await cycle.flow.drain()
    count: int = message["count"]
    if count and not cycle.disconnected:
        # What the client was promised is counted there; it never goes through `send`.
        if count > cycle.expected_content_length:
            raise RuntimeError("more bytes than Content-Length says")
        loop = asyncio.get_running_loop()
        try:
            sent = await loop.sendfile(cycle.transport, message["file"], message["offset"], count)
        except ConnectionError:
            # The client has gone, which the transport may not know yet.
            sent = 0
        except RuntimeError:
            if not cycle.transport.is_closing():
                raise
            sent = 0
        if sent != count:
            cycle.transport.abort()
            cycle.disconnected = True
        cycle.expected_content_length -= sent
    await plain(
        {"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)}
    )


class FileRange(Response):
    """A range of an open file. Closes the descriptor, sent or not."""

    def __init__(
        self, fd: int, span: ByteRange, *, status: int, headers: Mapping[str, str], media: str
    ) -> None:
        """`headers` say the length."""
        super().__init__(status_code=status, headers=headers, media_type=media)
        self._file: BinaryIO = open(fd, "rb", buffering=0)  # noqa: SIM115  closed by __call__
        self._span = span

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        start, size = self._span.start, self._span.size
        with self._file as file:
            # Read ahead while the headers go out: a page that is not here is waited for on the loop.
            with contextlib.suppress(OSError):
                os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_WILLNEED)
            await send(
                {
                    "type": "http.response.start",
                    "status": self.status_code,
                    "headers": self.raw_headers,
                }
            )
            if ZERO_COPY in scope.get("extensions", {}):
                await send({"type": ZERO_COPY, "file": file, "offset": start, "count": size})
                return
            at, end = start, start + size
            while at < end:
                piece = await asyncio.to_thread(os.pread, file.fileno(), min(_PIECE, end - at), at)
                if not piece:
                    return
                at += len(piece)
                await send({"type": "http.response.body", "body": piece, "more_body": at < end})
