"""How reading a grid ended: complete, partial or failed; in which phase, and by whose fault."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from synd.errors import (
    DeadlineExceeded,
    Forbidden,
    IntegrityError,
    ProtocolError,
    RemoteUnavailable,
    SyndError,
)


class Kind(StrEnum):
    """What there is to look at."""

    COMPLETE = "complete"
    """The service said that nothing is lacking."""
    PARTIAL = "partial"
    """A document was decoded, but the service has not said that it is whole."""
    FAILED = "failed"
    """No document: nothing at all is known of the grid."""


class Reason(StrEnum):
    """Why it is not complete."""

    TIMEOUT = "timeout"
    """A wait, or the whole budget, ended; `phase` says in what."""
    SERVER = "server"
    """The service reported an error."""
    GATEWAY = "gateway"
    """The gateway in front of the service did."""
    CLOSED = "closed"
    """The connection ended, and no further one came to be."""
    HANDSHAKE = "handshake"
    """No connection: refused, or not reached."""
    FETCH = "fetch"
    """The snapshot could not be fetched, not even by fresh URLs."""
    DECODE = "decode"
    """What was fetched is no snapshot."""
    PROTOCOL = "protocol"
    """A message or patch that cannot be understood."""
    NO_PROGRESS = "no-progress"
    """The service repeats itself."""
    LIMIT = "limit"
    """More patches than may be, with no end."""
    REST = "rest"
    """A call before the socket failed."""


class Phase(StrEnum):
    """Where in the conversation."""

    REPLICA = "replica"
    URL = "url"
    OPEN = "open"
    CONNECTED = "connected"
    SYNC = "sync"
    FETCH = "fetch"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a conversation. `message` is for people and holds no signature of a URL."""

    kind: Kind
    reason: Reason | None = None
    phase: Phase | None = None
    message: str = ""
    status: int | None = None
    """HTTP status, of a refused handshake or snapshot."""
    code: int | None = None
    """Close code of the WebSocket."""
    errno: int | None = None
    """The service's number of its error."""

    @property
    def complete(self) -> bool:
        return self.kind is Kind.COMPLETE

    def __str__(self) -> str:
        if self.reason is None:
            return self.kind.value
        return f"{self.kind} {self._why}"

    @property
    def _why(self) -> str:
        where = f" in phase {self.phase}" if self.phase else ""
        said = f": {self.message}" if self.message else ""
        return f"({self.reason}{where}){said}"

    def error(self, session: str) -> SyndError:
        """The error to raise where only a complete grid will do."""
        how = "could not be read" if self.kind is Kind.FAILED else "was read in part only"
        text = f"grid session {session} {how} {self._why}"
        if self.reason is Reason.TIMEOUT:
            return DeadlineExceeded(text, hint="give it more time, or try later", entity=None)
        if self.reason is Reason.HANDSHAKE and self.status in (401, 403):
            return Forbidden(text, hint="ask the owner of the session for access")
        if self.reason in (Reason.PROTOCOL, Reason.NO_PROGRESS, Reason.LIMIT):
            return ProtocolError(text)
        if self.reason is Reason.DECODE:
            return IntegrityError(text)
        return RemoteUnavailable(text, hint="try again")


COMPLETE: Final = Outcome(Kind.COMPLETE)

_QUERY = re.compile(r"(?i)\b((?:https?|wss?)://[^\s?#'\"<>]*)[?#][^\s'\"<>]*")


def without_queries(text: str) -> str:
    """`text` with the query cut off every URL in it: queries hold signatures."""
    return _QUERY.sub(r"\1", text)
