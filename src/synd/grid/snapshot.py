"""A grid read in one call: replica, URL, socket, fetch, decode and close, all under one deadline.

`read_grid` for what there is now, `follow_grid` until every row has its result, `watch_grid` for every change,
and `open_grid` for a connection that also writes. How it ended is part of the answer (`GridSnapshot.outcome`);
only what the REST calls refuse is raised.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Any, Final, Protocol, Self, TypeVar

from synd.clock import Deadline
from synd.errors import DeadlineExceeded, IntegrityError, ProtocolError
from synd.grid.crdt import Replica
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import COMPLETE, Kind, Outcome, Phase, Reason
from synd.grid.session import Conversation
from synd.grid.socket import GridSocket
from synd.grid.values import GridSnapshot
from synd.log import fields

log = logging.getLogger("synd.grid")

T = TypeVar("T")

_GRACE_S: Final = 0.1
"""For counting the rows of what came just before the deadline."""


class GridCalls(Protocol):
    """The REST calls around the socket: `synd.client.SynapseClient`."""

    async def grid_session(self, session: str, *, deadline: Deadline) -> Any:
        """The session: its JSON, or a value whose `schema_id` names the bound schema (None: none)."""

    async def create_grid_replica(self, session: str, *, deadline: Deadline) -> int:
        """The number of a new replica of ours."""

    async def grid_socket_url(self, session: str, replica: int, *, deadline: Deadline) -> str:
        """A fresh signed URL for the socket of that replica."""


class Ended(StrEnum):
    """Why following ended."""

    SETTLED = "settled"
    """What was waited for is so: no row is pending."""
    BUDGET = "budget"
    """The time given is over."""
    NO_SCHEMA = "no-schema"
    """No schema is bound: no row will ever have a result."""
    STOPPED = "stopped"
    """The conversation ended otherwise; the snapshot's outcome says how."""


@dataclass(frozen=True, slots=True)
class Followed:
    """The last state seen, and which end came."""

    snapshot: GridSnapshot
    ended: Ended


class _EarlyError(Exception):
    """A step before the socket did not come to its end."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


class GridConnection:
    """An open grid. `open_grid` makes it."""

    def __init__(
        self,
        socket: GridSocket[Replica],
        conversation: Conversation[Replica],
        *,
        session: str,
        schema: str | None,
        replica: int,
        deadline: Deadline,
    ) -> None:
        self._deadline = deadline
        self._socket = socket
        self._conversation = conversation
        self.session = session
        self.schema = schema
        self.replica = replica
        """The number under which patches are written."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._socket.close()

    def raise_refusal(self) -> None:
        """Raises what the REST call for a URL raised, if that ended it before anything was read."""
        outcome, error = self.outcome, self._socket.rest_error
        if outcome is None or outcome.reason is not Reason.REST or error is None:
            return
        if self.document is None:
            raise error

    @property
    def outcome(self) -> Outcome | None:
        """None while the conversation goes on."""
        return self._socket.outcome

    @property
    def document(self) -> Replica | None:
        """To be read, or written to by an `Author`, only between calls; after a call it may be another one."""
        return self._socket.document

    async def sync(self) -> bool:
        """Goes on until the service says that nothing is lacking; False when it ended before (`outcome`)."""
        return await self._socket.advance(lambda: self._conversation.synced)

    async def changed(self) -> bool:
        """Waits until the document is at another complete state; False when it ended before."""
        before = self._clock()
        return await self._socket.advance(
            lambda: self._conversation.synced and self._clock() != before
        )

    async def ask_again(self) -> bool:
        """One more round, though no patch was announced."""
        return await self._socket.ask_again()

    async def store(self, patches: list[list[Any]]) -> bool:
        """Sends patches, already applied here, and waits until all are stored; False when it ended before.

        After a lost connection they are sent again, unchanged. Results of validation follow later, as patches.
        """
        return await self._socket.store(patches)

    async def finish(self) -> Outcome:
        """Ends the conversation; complete if the last word was that nothing is lacking."""
        await self._socket.finish()
        return self._socket.outcome or COMPLETE

    async def snapshot(self) -> GridSnapshot:
        """What is known now; rows can be read from it until the document goes on."""
        outcome = self.outcome
        if outcome is None:
            synced = self._conversation.synced
            outcome = COMPLETE if synced else Outcome(Kind.FAILED, phase=self._conversation.phase)
            if not synced and self.document is not None:
                outcome = Outcome(Kind.PARTIAL, phase=self._conversation.phase)
        try:
            taken = self._taken(self.document, outcome)
            # Counting goes through all rows; when the time ends first, who asks for the counts waits for them.
            with suppress(TimeoutError):
                async with asyncio.timeout(self._deadline.left_s() + _GRACE_S):
                    await asyncio.to_thread(taken.recount)
            return taken
        except (ProtocolError, IntegrityError) as error:
            # What was called complete is no grid that can be read.
            broken = Outcome(Kind.FAILED, Reason.DECODE, Phase.SYNC, error.message)
            return self._taken(None, broken)

    def _taken(self, document: Replica | None, outcome: Outcome) -> GridSnapshot:
        return GridSnapshot(
            document, outcome, session=self.session, schema=self.schema, replica=self.replica
        )

    def _clock(self) -> dict[int, int]:
        document = self._socket.document
        return {} if document is None else dict(document.clock)


@asynccontextmanager
async def open_grid(
    calls: GridCalls,
    session: str,
    *,
    deadline: Deadline,
    timeouts: GridTimeouts | None = None,
    limits: GridLimits | None = None,
    replica: int | None = None,
    follow: bool = True,
) -> AsyncIterator[GridConnection]:
    """A connection to the grid of `session`, by a replica of its own or the one given. Closed at the end of the
    block, within the deadline.

    Raises what the REST calls raise; DeadlineExceeded when the deadline ends within them.
    """
    try:
        connection = await _connection(
            calls, session, deadline, timeouts, limits, replica, follow=follow
        )
    except _EarlyError as early:
        raise early.outcome.error(session) from early
    async with connection:
        yield connection


async def read_grid(
    calls: GridCalls,
    session: str,
    *,
    deadline: Deadline,
    timeouts: GridTimeouts | None = None,
    limits: GridLimits | None = None,
    replica: int | None = None,
) -> GridSnapshot:
    """The grid as it is now, by the deadline at the latest; `outcome` says whether it is whole.

    Raises what the REST calls raise (NotFound, Forbidden, NotLoggedIn, …), save that a call that takes too long
    is an outcome like any other wait.
    """
    try:
        connection = await _connection(
            calls, session, deadline, timeouts, limits, replica, follow=False
        )
    except _EarlyError as early:
        return GridSnapshot(None, early.outcome, session=session)
    async with connection:
        await connection.sync()
    connection.raise_refusal()
    return await connection.snapshot()


async def follow_grid(
    calls: GridCalls,
    session: str,
    *,
    deadline: Deadline,
    until: Callable[[GridSnapshot], bool] | None = None,
    seen: Callable[[GridSnapshot], None] | None = None,
    timeouts: GridTimeouts | None = None,
    limits: GridLimits | None = None,
    replica: int | None = None,
) -> Followed:
    """The grid once no row is pending (or `until` holds), or as it is when the deadline comes; and which it was.

    `seen` is told of every complete state on the way. Without a bound schema, and without `until`, the first
    complete state is the end. Raises as `read_grid`.
    """
    settled = until or (lambda snapshot: snapshot.pending_rows == 0)
    try:
        connection = await _connection(
            calls, session, deadline, timeouts, limits, replica, follow=True
        )
    except _EarlyError as early:
        ended = Ended.BUDGET if deadline.passed else Ended.STOPPED
        return Followed(GridSnapshot(None, early.outcome, session=session), ended)
    ended = Ended.STOPPED
    async with connection:
        going = await connection.sync()
        while going:
            snapshot = await connection.snapshot()
            if not snapshot.decoded:
                return Followed(snapshot, Ended.STOPPED)
            if seen is not None:
                seen(snapshot)
            if settled(snapshot):
                ended = Ended.SETTLED
                break
            if connection.schema is None and until is None:
                ended = Ended.NO_SCHEMA
                break
            going = await connection.changed()
        await connection.finish()
    connection.raise_refusal()
    if ended is Ended.STOPPED and deadline.passed:
        ended = Ended.BUDGET
    return Followed(await connection.snapshot(), ended)


async def watch_grid(
    calls: GridCalls,
    session: str,
    *,
    deadline: Deadline,
    timeouts: GridTimeouts | None = None,
    limits: GridLimits | None = None,
    replica: int | None = None,
) -> AsyncIterator[GridSnapshot]:
    """Every complete state of the grid until the deadline: the first, and one after each change.

    The rows of a snapshot can be read until the next is asked for. If the conversation ends before the
    deadline, the last snapshot has an outcome that is not complete. Raises as `read_grid`.
    """
    try:
        connection = await _connection(
            calls, session, deadline, timeouts, limits, replica, follow=True
        )
    except _EarlyError as early:
        yield GridSnapshot(None, early.outcome, session=session)
        return
    async with connection:
        going = await connection.sync()
        while going:
            snapshot = await connection.snapshot()
            yield snapshot
            if not snapshot.decoded:
                return
            going = await connection.changed()
        connection.raise_refusal()
        outcome = connection.outcome
        if outcome is not None and not outcome.complete:
            yield await connection.snapshot()


async def _connection(
    calls: GridCalls,
    session: str,
    deadline: Deadline,
    timeouts: GridTimeouts | None,
    limits: GridLimits | None,
    replica: int | None,
    *,
    follow: bool,
) -> GridConnection:
    timeouts = timeouts or GridTimeouts()
    limits = limits or GridLimits()
    started = deadline.clock.monotonic()

    async def call(phase: Phase, within: Deadline, one: Callable[[Deadline], Awaitable[T]]) -> T:
        return await _bounded(phase, within, timeouts.rest_s, one)

    facts = await call(
        Phase.REPLICA, deadline, lambda step: calls.grid_session(session, deadline=step)
    )
    if replica is None:
        number = await call(
            Phase.REPLICA, deadline, lambda step: calls.create_grid_replica(session, deadline=step)
        )
    else:
        number = replica

    async def fresh_url(step: Deadline) -> str:
        url = await calls.grid_socket_url(session, number, deadline=step)
        # Where the socket itself is in the clear, as on loopback, its snapshots may be too.
        conversation.plain_storage = url.lower().startswith("ws:")
        return url

    conversation = Conversation(
        new=Replica,
        decode=Replica.from_snapshot,
        budget_at=deadline.at,
        timeouts=timeouts,
        limits=limits,
        follow=follow,
        label=session,
        clock=deadline.clock,
    )
    socket = GridSocket(
        conversation, fresh_url, deadline=deadline, timeouts=timeouts, limits=limits
    )
    log.debug(
        "grid.prepared",
        extra=fields(
            session=session,
            replica=number,
            took_s=round(deadline.clock.monotonic() - started, 3),
        ),
    )
    return GridConnection(
        socket,
        conversation,
        session=session,
        schema=schema_of(facts),
        replica=number,
        deadline=deadline,
    )


async def _bounded(
    phase: Phase, deadline: Deadline, own_s: float, one: Callable[[Deadline], Awaitable[T]]
) -> T:
    """One REST call within its own time and the deadline, whether or not it minds them itself."""
    seconds = min(own_s, deadline.left_s())
    step = Deadline.after(seconds, f"grid, phase {phase}", deadline.clock)
    try:
        async with asyncio.timeout(seconds):
            return await one(step)
    except (TimeoutError, DeadlineExceeded) as error:
        late = Outcome(Kind.FAILED, Reason.TIMEOUT, phase, "no answer in time")
        raise _EarlyError(late) from error


def schema_of(facts: Any) -> str | None:
    """Id of the schema that a session's JSON (or value with `schema_id`) names; None: none is bound."""
    if isinstance(facts, Mapping):
        found = facts.get("gridJsonSchema$Id")
    else:
        found = getattr(facts, "schema_id", None)
    return found if isinstance(found, str) and found else None
