"""What both kinds of connections, to the service and to storage, ask of the kernel."""

from __future__ import annotations

import socket
from contextlib import suppress


def notice_dead_peer(sock: socket.socket) -> None:
    """Lets the kernel end a connection whose other side has gone without a word, in some 15 s.

    A network that is switched off tells nobody; without this a request waits for its whole deadline.
    """
    options = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 2, "TCP_USER_TIMEOUT": 15_000}
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in options.items():
            # Not every system knows all of them.
            if (number := getattr(socket, name, None)) is not None:
                sock.setsockopt(socket.IPPROTO_TCP, number, value)
