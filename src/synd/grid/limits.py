"""How long each step of reading a grid may take, and how much of anything is too much."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GridTimeouts:
    """Seconds. Each wait lasts its own time or what is left of the budget, whichever is less."""

    rest_s: float = 30.0
    """Each REST call: the session, the replica, the URL."""
    open_s: float = 15.0
    """TCP, TLS and the WebSocket's handshake."""
    connected_s: float = 20.0
    """From the handshake to the service's word that it knows the connection; it passes through a queue."""
    read_s: float = 30.0
    """From a request to its answer; nothing that comes between extends it."""
    fetch_connect_s: float = 10.0
    """To reach the storage that holds the snapshot."""
    fetch_s: float = 20.0
    """Without a byte of the snapshot."""
    close_s: float = 1.0
    """The closing handshake."""
    ping_s: float = 240.0
    """Between signs of life while nothing else is said; the gateway ends silent connections after 10 min."""


@dataclass(frozen=True, slots=True)
class GridLimits:
    """Bounds on what comes from the network, and on trying again."""

    reconnects: int = 3
    """In a row, without any progress between."""
    reconnect_pauses_s: tuple[float, ...] = (1.0, 2.0, 4.0)
    fetch_retries: int = 3
    """After a break or a server's error, by the same URL."""
    fetch_pauses_s: tuple[float, ...] = (0.1, 0.5, 1.0)
    fresh_urls: int = 3
    """Asked for after a refused snapshot: its URL lives about 30 s."""
    stalled_answers: int = 3
    """Answers in a row that bring nothing new."""
    patches: int = 10_000
    """Without a completion between."""
    rounds: int = 3
    """In which a single read asks again since a patch was announced meanwhile."""
    snapshot_bytes: int = 1 << 30
    message_bytes: int = 1 << 20
    """Of one incoming message; the service keeps below 128 KB."""
