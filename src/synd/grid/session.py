"""The conversation that brings a grid's document up to date, as a state machine without a socket.

Events go in (`handle`), actions come out; who carries them out (`synd.grid.socket`, or a test with a clock
of its own) decides nothing. `wake_at` says when to come back with Tick if nothing else happened.

    URL ─► OPENING ─► GREETING ─► ASKING ◄─► FETCHING
                         ▲           │
                         └─ PAUSED ◄─┼─► SYNCED ─► DONE

The rules are those of the protocol: wait for `connected`; one request in flight; a new clock after every answer
until the service says that nothing is lacking; an empty clock only for a snapshot. No wait is extended by
what is not its answer. Decoding and applying happen inside `handle`: a large event is for a thread.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Final, Generic, TypeVar
from urllib.parse import urlsplit

from synd.clock import SYSTEM, Clock
from synd.errors import SyndError
from synd.grid import jsonrx
from synd.grid.events import (
    Acknowledged,
    Action,
    Closed,
    Connect,
    Document,
    Done,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    FetchProgress,
    NotOpened,
    Opened,
    Received,
    Send,
    Synced,
    Tick,
    UrlFailed,
    UrlGot,
)
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import COMPLETE, Kind, Outcome, Phase, Reason, without_queries
from synd.log import fields

log = logging.getLogger("synd.grid")

_NOT_ASKED: Final = frozenset({"ping", "replica-connected", "replica-disconnected", "pong"})

_UNDECODABLE: Final = (
    SyndError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    RecursionError,
)


D = TypeVar("D", bound=Document)


class _State(Enum):
    URL = auto()
    PAUSED = auto()
    OPENING = auto()
    GREETING = auto()
    ASKING = auto()
    FETCHING = auto()
    SYNCED = auto()
    DONE = auto()


_PHASES: Final = {
    _State.URL: Phase.URL,
    _State.PAUSED: Phase.OPEN,
    _State.OPENING: Phase.OPEN,
    _State.GREETING: Phase.CONNECTED,
    _State.ASKING: Phase.SYNC,
    _State.FETCHING: Phase.FETCH,
    _State.SYNCED: Phase.SYNC,
    _State.DONE: Phase.SYNC,
}


class Conversation(Generic[D]):
    """One read, or one long look, at a grid. `handle` is called by one at a time."""

    def __init__(
        self,
        *,
        new: Callable[[], D],
        decode: Callable[[bytes], D],
        budget_at: float,
        timeouts: GridTimeouts | None = None,
        limits: GridLimits | None = None,
        follow: bool = False,
        plain_storage: bool = False,
        label: str = "",
        clock: Clock = SYSTEM,
    ) -> None:
        """`budget_at`: the end of everything, in seconds of `clock`'s monotonic time. Without `follow` it ends when the
        service says complete. `plain_storage`: snapshots may come by http. `label` names it in the log.
        """
        self._new = new
        self._decode = decode
        self._clock = clock
        self._budget_at = budget_at
        self._timeouts = timeouts or GridTimeouts()
        self._limits = limits or GridLimits()
        self._follow = follow
        self.plain_storage = plain_storage
        """Whether the snapshot may come by http; the driver knows what the socket came by."""
        self._label = label
        self._state = _State.URL
        self._until = budget_at
        """When the present wait ends."""
        self._document: D | None = None
        self._ids = 0
        self._in_flight: int | None = None
        self._unstored: deque[list[Any]] = deque()
        """Patches to store, oldest first; the first may be in flight."""
        self._storing = False
        self._asked = False
        """Whether the last request for what is lacking was answered: nothing is."""
        self._stale = False
        """A patch was announced since the last request."""
        self._from_scratch = False
        """The next request asks for a snapshot although there is a document."""
        self._cause: Outcome | None = None
        """Why the connection before was lost; kept for when there is no further one."""
        self._attempts = 0
        self._forbidden = 0
        self._url = ""
        self._fetch_tries = 0
        self._fresh_urls = 0
        self._restarts = 0
        self._snapshots_again = 0
        self._stalled = 0
        self._patches = 0
        self._rounds = 0
        self._ponged = True
        self._unknown: set[str] = set()
        self.outcome: Outcome | None = None

    # --- what one can see -----------------------------------------------------------------------

    @property
    def document(self) -> D | None:
        """What is known; None before anything was decoded."""
        return self._document

    @property
    def phase(self) -> Phase:
        return _PHASES[self._state]

    @property
    def synced(self) -> bool:
        """Whether the document is, as far as is known, all there is."""
        return self._state is _State.SYNCED

    @property
    def unstored(self) -> int:
        """Patches that the service has not acknowledged."""
        return len(self._unstored)

    def wake_at(self) -> float:
        """When Tick is due."""
        return min(self._until, self._budget_at)

    # --- what one can ask -----------------------------------------------------------------------

    def start(self) -> list[Action]:
        self._wait(_State.URL, self._timeouts.rest_s)
        return [Connect()]

    def store(self, patches: list[list[Any]]) -> list[Action]:
        """Patches of this replica, already applied to the document. Kept until acknowledged."""
        self._unstored.extend(patches)
        if self._state is _State.SYNCED and self._in_flight is None:
            return self._next()
        return []

    def ask_again(self) -> list[Action]:
        """One more round, though no patch was announced."""
        self._stale = True
        if self._state is _State.SYNCED and self._in_flight is None:
            return self._next()
        return []

    def finish(self) -> list[Action]:
        """No more following."""
        if self._state is _State.DONE:
            return []
        if self._state is _State.SYNCED and not self._unstored:
            return self._done(COMPLETE)
        return self._fail(Reason.TIMEOUT, "ended by the reader")

    # --- events ---------------------------------------------------------------------------------

    def handle(self, event: Event) -> list[Action]:
        """What is to be done about it."""
        if self._state is _State.DONE:
            return []
        if self._clock.monotonic() >= self._budget_at:
            return self._budget_ended()
        match event:
            case Tick():
                return self._time_passed()
            case UrlGot():
                self._wait(_State.OPENING, self._timeouts.open_s)
                return []
            case UrlFailed(message, timed_out):
                return self._fail(Reason.TIMEOUT if timed_out else Reason.REST, message)
            case Opened():
                self._wait(_State.GREETING, self._timeouts.connected_s)
                return []
            case NotOpened():
                return self._not_opened(event)
            case Closed(code, why):
                return self._closed(code, why)
            case Received(text):
                return self._received(text)
            case FetchProgress():
                if self._state is _State.FETCHING:
                    self._wait(_State.FETCHING, self._timeouts.fetch_s)
                return []
            case Fetched(body):
                return self._fetched(body) if self._state is _State.FETCHING else []
            case FetchFailed():
                return self._fetch_failed(event) if self._state is _State.FETCHING else []

    def _wait(self, state: _State, seconds: float) -> None:
        self._state = state
        self._until = self._clock.monotonic() + seconds

    def _time_passed(self) -> list[Action]:
        if self._clock.monotonic() < self._until:
            return []
        if self._state is _State.PAUSED:
            # The driver is about to ask for the URL; its own deadline begins now.
            self._wait(_State.URL, self._timeouts.rest_s)
            return []
        if self._state is _State.SYNCED:
            if not self._ponged:
                return self._lost(Reason.CLOSED, "no sign of life", code=1006)
            self._ponged = False
            self._until = self._clock.monotonic() + self._timeouts.read_s
            return [Send(jsonrx.ping())]
        if self._state in (_State.OPENING, _State.GREETING) and self._cause is not None:
            return self._lost(Reason.TIMEOUT, "it did not open in time")
        return self._fail(Reason.TIMEOUT, "no answer in time")

    def _budget_ended(self) -> list[Action]:
        if self._state is _State.SYNCED and not self._unstored:
            return self._done(COMPLETE)
        return self._fail(Reason.TIMEOUT, "the time given is over")

    # --- connections ----------------------------------------------------------------------------

    def _not_opened(self, event: NotOpened) -> list[Action]:
        if event.timed_out and self._cause is None:
            return self._fail(Reason.TIMEOUT, event.message)
        status = event.status
        if status in (401, 403):
            # The URL may have been too old; a fresh one that is refused too means no access.
            self._forbidden += 1
            if self._forbidden > 1:
                return self._fail(
                    Reason.HANDSHAKE, "access to the session is lost", status=status, final=True
                )
        reason = Reason.TIMEOUT if event.timed_out else Reason.HANDSHAKE
        return self._lost(reason, event.message, status=status)

    def _closed(self, code: int, why: str) -> list[Action]:
        message = f"closed with code {code}" + (f" ({without_queries(why)})" if why else "")
        if code == 1009:
            return self._fail(Reason.PROTOCOL, "a message larger than may be", code=code)
        if self._state in (_State.OPENING, _State.GREETING) and self._cause is None:
            return self._fail(Reason.CLOSED, message, code=code)
        return self._lost(Reason.CLOSED, message, code=code)

    def _lost(
        self,
        reason: Reason,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
    ) -> list[Action]:
        """Another connection, if that may be; the document and its clock go on."""
        end = Outcome(self._kind(), reason, self.phase, message, status=status, code=code)
        if self._attempts >= self._limits.reconnects:
            return self._fail(reason, message, status=status, code=code)
        if self._cause is None:
            self._cause = end
        pauses = self._limits.reconnect_pauses_s or (0.0,)
        pause = pauses[min(self._attempts, len(pauses) - 1)]
        self._attempts += 1
        if self._clock.monotonic() + pause >= self._budget_at:
            return self._fail(reason, message, status=status, code=code)
        log.info(
            "grid.reconnect",
            extra=fields(session=self._label, why=message, attempt=self._attempts, wait_s=pause),
        )
        self._in_flight = None
        self._storing = False
        self._asked = False
        self._url = ""
        self._ponged = True
        self._wait(_State.PAUSED, pause)
        return [Connect(pause)]

    # --- messages -------------------------------------------------------------------------------

    def _received(self, text: str | None) -> list[Action]:
        if self._state in (_State.URL, _State.PAUSED, _State.OPENING):
            return []
        if text is None:
            return self._fail(Reason.PROTOCOL, "a message that is not text")
        try:
            message = jsonrx.parse(text)
        except jsonrx.MalformedError as error:
            return self._fail(Reason.PROTOCOL, str(error))
        match message:
            case jsonrx.Notification(name, body):
                return self._notified(name, body)
            case jsonrx.GatewayError(said):
                return self._fail(Reason.GATEWAY, said)
            case jsonrx.Refused(id, said, errno):
                if id != self._in_flight:
                    return []
                return self._fail(Reason.SERVER, said, errno=errno)
            case jsonrx.Complete(id):
                return self._completed() if id == self._in_flight else []
            case jsonrx.Data(id, payload):
                if id != self._in_flight or self._storing:
                    return []
                self._in_flight = None
                if isinstance(payload, jsonrx.Snapshot):
                    return self._offered(payload.url)
                return self._patched(payload.patches)
            case jsonrx.Unknown(type):
                self._note_unknown(f"type {type}")
                return []

    def _notified(self, name: str, body: Any) -> list[Action]:
        self._ponged = True
        if self._state is _State.SYNCED:
            self._until = self._clock.monotonic() + self._timeouts.ping_s
        if name == "error":
            return self._fail(
                Reason.SERVER, jsonrx.error_text(body), errno=jsonrx.error_number(body)
            )
        if name == "connected":
            if self._state is _State.GREETING:
                return self._next()
        elif name == "new-patch":
            self._stale = True
            if self._state is _State.SYNCED:
                return self._next()
        elif name not in _NOT_ASKED:
            self._note_unknown(name)
        return []

    def _note_unknown(self, name: str) -> None:
        if name not in self._unknown and len(self._unknown) < 20:
            self._unknown.add(name)
            log.info("grid.unknown_message", extra=fields(session=self._label, name=name[:80]))

    def _next(self) -> list[Action]:
        """The next request on an open connection, or the end of the round."""
        if self._unstored:
            return [self._request(jsonrx.patch, self._unstored[0], storing=True)]
        if self._asked and not self._stale:
            if not self._follow:
                return self._done(COMPLETE)
            self._ponged = True
            self._wait(_State.SYNCED, self._timeouts.ping_s)
            return [Synced()]
        self._stale = False
        self._asked = False
        clock: list[tuple[int, int]] = []
        if self._document is not None and not self._from_scratch:
            clock = list(self._document.clock.items())
        return [self._request(jsonrx.synchronize, clock, storing=False)]

    def _request(self, form: Callable[[int, Any], str], body: Any, *, storing: bool) -> Send:
        self._ids += 1
        self._in_flight = self._ids
        self._storing = storing
        self._wait(_State.ASKING, self._timeouts.read_s)
        return Send(form(self._ids, body))

    def _completed(self) -> list[Action]:
        self._in_flight = None
        self._recovered()
        if self._storing:
            self._storing = False
            stored = self._unstored.popleft()
            return [Acknowledged(stored), *self._next()]
        if self._document is None:
            # No snapshot and no patch exist: the service says so, it is not an accident.
            self._document = self._new()
        self._asked = True
        self._stalled = self._patches = self._snapshots_again = self._restarts = 0
        if not self._follow and self._stale:
            self._rounds += 1
            self._stale = self._rounds <= self._limits.rounds
        return self._next()

    def _recovered(self) -> None:
        self._attempts = self._forbidden = 0
        self._cause = None

    # --- patches --------------------------------------------------------------------------------

    def _patched(self, patches: list[list[Any]]) -> list[Action]:
        self._patches += len(patches)
        if self._document is None:
            self._document = self._new()
        before = dict(self._document.clock)
        try:
            self._document.apply_patches(patches)
        except _UNDECODABLE as error:
            return self._unapplied(error)
        self._from_scratch = False
        if dict(self._document.clock) != before:
            self._stalled = 0
            self._recovered()
        else:
            self._stalled += 1
            if self._stalled >= self._limits.stalled_answers:
                return self._fail(
                    Reason.NO_PROGRESS, f"{self._stalled} answers in a row brought nothing new"
                )
        if self._patches > self._limits.patches:
            log.warning(
                "grid.too_many_patches", extra=fields(session=self._label, patches=self._patches)
            )
            return self._fail(Reason.LIMIT, f"{self._patches} patches and no completion")
        return self._next()

    def _unapplied(self, error: Exception) -> list[Action]:
        """The document is half changed and gone; once it is asked for anew."""
        self._document = None
        self._restarts += 1
        if self._restarts > 1:
            return self._fail(Reason.PROTOCOL, f"a patch is not understood: {error}")
        log.info("grid.restart", extra=fields(session=self._label, why=type(error).__name__))
        self._asked = False
        return self._next()

    # --- the snapshot ---------------------------------------------------------------------------

    def _offered(self, url: str) -> list[Action]:
        scheme = urlsplit(url).scheme.lower() if url.isprintable() else ""
        if scheme != "https" and not (scheme == "http" and self.plain_storage):
            return self._fail(Reason.PROTOCOL, "the snapshot's address is no https URL")
        if self._document is not None and not self._from_scratch:
            self._snapshots_again += 1
            if self._snapshots_again >= self._limits.stalled_answers:
                return self._fail(
                    Reason.NO_PROGRESS, "the service sends its snapshot again and again"
                )
        self._url = url
        self._fetch_tries = 0
        self._wait(_State.FETCHING, self._timeouts.fetch_s)
        return [Fetch(url)]

    def _fetched(self, body: bytes) -> list[Action]:
        try:
            document = self._decode(body)
            if self._unstored:
                document.apply_patches(list(self._unstored))
        except _UNDECODABLE as error:
            return self._fail(Reason.DECODE, f"what was fetched is no snapshot: {error}")
        self._document = document
        self._from_scratch = False
        self._fresh_urls = 0
        self._url = ""
        self._recovered()
        return self._next()

    def _fetch_failed(self, event: FetchFailed) -> list[Action]:
        status = event.status
        if event.timed_out:
            return self._fail(Reason.TIMEOUT, event.message)
        if event.too_large:
            return self._fail(Reason.LIMIT, event.message)
        if status is not None and 400 <= status < 500 and status not in (408, 429):
            # The URL is too old; an empty clock brings a fresh one.
            self._fresh_urls += 1
            if self._fresh_urls > self._limits.fresh_urls:
                return self._fail(Reason.FETCH, event.message, status=status)
            self._from_scratch = True
            self._asked = False
            return self._next()
        if self._fetch_tries >= self._limits.fetch_retries:
            return self._fail(Reason.FETCH, event.message, status=status)
        pauses = self._limits.fetch_pauses_s or (0.0,)
        pause = pauses[min(self._fetch_tries, len(pauses) - 1)]
        self._fetch_tries += 1
        self._wait(_State.FETCHING, pause + self._timeouts.fetch_s)
        return [Fetch(self._url, pause)]

    # --- ends -----------------------------------------------------------------------------------

    def _kind(self) -> Kind:
        return Kind.FAILED if self._document is None else Kind.PARTIAL

    def _fail(
        self,
        reason: Reason,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        errno: int | None = None,
        final: bool = False,
    ) -> list[Action]:
        """`final`: an earlier loss of the connection is not what it was about."""
        message = without_queries(message)
        end = Outcome(self._kind(), reason, self.phase, message, status, code, errno)
        cause = self._cause
        connecting = self._state in (
            _State.URL,
            _State.PAUSED,
            _State.OPENING,
            _State.GREETING,
        )
        if cause is not None and connecting and not final and reason is not Reason.SERVER:
            text = f"{cause.message}; connecting again ({self._attempts} times): {message}"
            end = Outcome(
                self._kind(), cause.reason, cause.phase, text, cause.status, cause.code, errno
            )
        return self._done(end)

    def _done(self, outcome: Outcome) -> list[Action]:
        self._state = _State.DONE
        self.outcome = outcome
        if outcome.reason is not None:
            log.info(
                "grid.ended",
                extra=fields(
                    session=self._label,
                    outcome=outcome.kind,
                    reason=outcome.reason,
                    phase=outcome.phase,
                    why=outcome.message,
                ),
            )
        return [Done(outcome)]
