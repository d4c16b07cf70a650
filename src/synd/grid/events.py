"""What goes into a grid's conversation and what comes out of it (`synd.grid.session`).

Events tell what happened outside; actions tell what is to be done there. All are plain values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from synd.grid.outcome import Outcome


class Document(Protocol):
    """What the machine needs of a document: `synd.grid.crdt.Replica`."""

    @property
    def clock(self) -> Mapping[int, int]:
        """Highest time known of every session."""

    def apply_patches(self, patches: list[Any], /) -> object: ...


# --- events -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class UrlGot:
    """There is a URL for the socket; it is being opened."""


@dataclass(frozen=True, slots=True)
class UrlFailed:
    """There will be none."""

    message: str
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Opened:
    """The handshake is done."""


@dataclass(frozen=True, slots=True)
class NotOpened:
    """The handshake was refused (`status`), or nobody answers."""

    message: str
    status: int | None = None
    timed_out: bool = False


@dataclass(frozen=True, slots=True)
class Received:
    """One message; None for one that is not text."""

    text: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection ended. 1006: without a word."""

    code: int
    why: str = ""


@dataclass(frozen=True, slots=True)
class FetchProgress:
    """Bytes of the snapshot came."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The snapshot is here."""

    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class FetchFailed:
    """It is not: refused (`status`), broken off, or larger than may be (`too_large`)."""

    message: str
    status: int | None = None
    timed_out: bool = False
    too_large: bool = False


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed."""


Event = (
    UrlGot
    | UrlFailed
    | Opened
    | NotOpened
    | Received
    | Closed
    | FetchProgress
    | Fetched
    | FetchFailed
    | Tick
)

# --- actions ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Connect:
    """Let go of a connection and a fetch under way; after a pause get a fresh URL and open it."""

    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Send:
    """Say this."""

    text: str


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get this, without credentials. The URL is a secret."""

    url: str = field(repr=False)
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Synced:
    """The document is at a point the service called complete (following only)."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The service stored this patch."""

    patch: list[Any]


@dataclass(frozen=True, slots=True)
class Done:
    """The end: close the connection."""

    outcome: Outcome


Action = Connect | Send | Fetch | Synced | Acknowledged | Done
