r"""The CLI's line to the mount holder: the small process that keeps the mount while the daemon is away.

Speaks the protocol of ``run/hold.sock``: one request per connection, `OP NAME CONNECTION LENGTH\n` and
LENGTH bytes; the answer is `ok|error LENGTH\n` and LENGTH bytes. Descriptors are the daemon's business.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from synd.control.connect import socket_address
from synd.errors import DaemonNotRunning, ProtocolError, SyndError

SOCKET = "hold.sock"
"""In the runtime folder."""


class Holder:
    """The holder behind one socket."""

    def __init__(self, runtime: Path, *, timeout_s: float = 10.0) -> None:
        self.path = runtime / SOCKET
        self.timeout_s = timeout_s

    def alive(self) -> dict[str, Any] | None:
        """The holder's own state, or None when no holder is there."""
        try:
            found: dict[str, Any] = json.loads(self._ask("status"))
        except DaemonNotRunning:
            return None
        except ValueError as error:
            raise ProtocolError("the mount holder's status is not JSON") from error
        return found

    def start(self, flags: list[str] | None = None) -> None:
        """Starts the daemon now if it does not run; `flags` replace the ones of its first start."""
        self._ask("start", b"" if flags is None else "\0".join(flags).encode() + b"\0")

    def stop(self) -> None:
        """Ends the holder; a mount that only it keeps ends with it."""
        self._ask("stop")

    def _ask(self, op: str, blob: bytes = b"") -> bytes:
        try:
            with (
                socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as line,
                socket_address(self.path) as address,
            ):
                line.settimeout(self.timeout_s)
                line.connect(address)
                line.sendall(f"{op} - 0 {len(blob)}\n".encode() + blob)
                answer = b""
                while chunk := line.recv(65536):
                    answer += chunk
        except OSError as error:
            raise DaemonNotRunning(
                "no mount holder is running", hint="start one with `synd up`", path=str(self.path)
            ) from error
        head, _, body = answer.partition(b"\n")
        verdict, _, length = head.partition(b" ")
        if not length.isdigit() or int(length) != len(body):
            raise ProtocolError(f"the mount holder's answer to {op} was cut short")
        if verdict != b"ok":
            raise SyndError(f"the mount holder refused: {body.decode(errors='replace')}")
        return body
