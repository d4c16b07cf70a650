"""Who is calling: connections from other users are refused before a byte of theirs is read.

The socket's mode says so too; this holds where a mode does not (an inherited folder, a careless chmod).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import struct
from typing import cast

from synd.control import contract
from synd.errors import Forbidden
from synd.log import fields
from syndd.control.sending import SendsFiles

log = logging.getLogger(__name__)

_UCRED = struct.Struct("3i")
"""struct ucred of unix(7): pid, uid, gid."""


def peer_uid(line: socket.socket) -> int:
    """The uid of the process at the other end of a Unix socket, when it connected."""
    raw = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(raw)
    return int(uid)


def may_call(uid: int) -> bool:
    """The owner of the daemon, and root, who could take the place of either."""
    return uid in (os.geteuid(), 0)


class OwnerOnlyProtocol(SendsFiles):
    """HTTP/1.1 for the owner; everybody else gets 403 and the end of the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn's own spelling
        line = cast("socket.socket | None", transport.get_extra_info("socket"))
        if line is not None and line.family == socket.AF_UNIX:
            uid = peer_uid(line)
            if not may_call(uid):
                log.warning("control.refused", extra=fields(uid=uid))
                self._refuse(transport)
                return
        super().connection_made(transport)

    @staticmethod
    def _refuse(transport: asyncio.Transport) -> None:
        problem = Forbidden("this daemon belongs to another user", hint="start your own: `synd up`")
        body = json.dumps(problem.problem()).encode()
        transport.write(
            b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n"
            + f"Content-Type: {contract.PROBLEM}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        transport.close()
        # What the stranger sends before it notices has nowhere to go.
        transport.set_protocol(asyncio.Protocol())
