"""What the service manager is told: READY, STOPPING, STATUS, WATCHDOG.

The protocol of sd_notify(3) by hand: one datagram per message to the socket in ``NOTIFY_SOCKET``.
Without that variable everything here does nothing. Leaves descriptors to keep to `mount.fdstore`.
Invariant: no message ever makes the daemon fail.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)


class Notifier:
    """One process's line to its service manager."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        env = os.environ if environ is None else environ
        address = env.get("NOTIFY_SOCKET", "")
        # An abstract address is spelled with @ in the environment and with NUL in the kernel.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        usec = env.get("WATCHDOG_USEC", "")
        for_us = env.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(usec) / 1e6 if usec.isdecimal() and for_us and self._address else None
        """How often the manager wants to hear of us, at the least; None: it does not."""

    @property
    def active(self) -> bool:
        return bool(self._address)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_line(status)}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={_line(text)}")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={_line(status)}")

    def failed(self, status: str, errno: int) -> None:
        self._send(f"STATUS={_line(status)}\nERRNO={errno}")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def more_time(self, seconds: float) -> None:
        """Asks for `seconds` more before a start or a stop counts as hung."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as line:
                line.settimeout(2.0)
                line.connect(self._address)
                line.send(message.encode())
        except OSError as error:
            log.warning(
                "notify.failed message=%s error=%s", message.split("=", maxsplit=1)[0], error
            )


def _line(text: str) -> str:
    """One field of a message: newlines would start another."""
    return text.replace("\n", " ")
