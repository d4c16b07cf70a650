"""How the rows of a grid stand: by the service's query, or by the grid itself over the socket.

Both ways give one `Validation`; an answer that is not whole is never one that says "valid".
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from synd.client.wire_grids import QueriedRow
from synd.clock import Deadline
from synd.errors import DeadlineExceeded, NotSupported, ProtocolError, UsageError
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import COMPLETE, Kind, Outcome, Phase, Reason
from synd.grid.snapshot import Ended, follow_grid, read_grid, schema_of
from synd.grid.values import GridSnapshot, Message, Status, Verdict, messages_of

if TYPE_CHECKING:
    from synd.client.service import SynapseClient

_PAGE: Final = 1000
"""Rows of a REST query at once; the service may give fewer."""
_BUDGET_S: Final = 120.0
_FIRST_PAUSE_S: Final = 0.2
_LONGEST_PAUSE_S: Final = 2.0


class Via(StrEnum):
    """How the validation is read."""

    AUTO = "auto"
    """By REST where the service has the query, else by the socket."""
    REST = "rest"
    SOCKET = "socket"


@dataclass(frozen=True, slots=True)
class RowProblem:
    """A row that is not valid."""

    row_id: str
    """`session.time`; stays through reordering."""
    row: int
    """Its place, from 1. It changes with every insert: the id does not."""
    status: Status
    messages: tuple[Message, ...]
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Validation:
    """How the rows of a grid stand, and how far that may be trusted (`outcome`).

    The counts are None where nothing could be read: a failure is no empty grid.
    """

    session: str
    schema: str | None
    """`$id` of the bound schema; None: nothing ever validates the rows."""
    outcome: Outcome
    settled: bool
    """Every row had a result when it was read, or will never have one."""
    via: Via
    total_rows: int | None = None
    valid_rows: int | None = None
    invalid_rows: int | None = None
    pending_rows: int | None = None
    columns: tuple[str, ...] = ()
    problems: tuple[RowProblem, ...] = ()
    """The invalid rows in their order."""

    @property
    def verdict(self) -> Verdict:
        if not self.outcome.complete or self.total_rows is None:
            return Verdict.INCOMPLETE
        if self.schema is None:
            return Verdict.NO_SCHEMA
        if self.invalid_rows:
            return Verdict.INVALID
        return Verdict.PENDING if self.pending_rows else Verdict.VALID

    @property
    def is_valid(self) -> bool:
        """The service said of every row that it is valid, and that there are no more."""
        return self.verdict is Verdict.VALID

    @property
    def validation_summary(self) -> dict[str, Any]:
        """Counts, verdict and outcome as plain values."""
        return {
            "session": self.session,
            "schema": self.schema,
            "outcome": self.outcome.kind.value,
            "reason": self.outcome.reason.value if self.outcome.reason else None,
            "verdict": self.verdict.value,
            "via": self.via.value,
            "total_rows": self.total_rows,
            "valid_rows": self.valid_rows,
            "invalid_rows": self.invalid_rows,
            "pending_rows": self.pending_rows,
        }


async def get_snapshot(
    client: SynapseClient,
    session: str,
    *,
    deadline: Deadline | None = None,
    timeouts: GridTimeouts | None = None,
    limits: GridLimits | None = None,
) -> GridSnapshot:
    """The grid as it is now, with the validation of every row, over the socket: one call, one deadline (120 s).

    How it ended is in its `outcome`; raised is what the REST calls refuse: NotFound, Forbidden, NotLoggedIn.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "reading the grid")
    return await read_grid(client, session, deadline=deadline, timeouts=timeouts, limits=limits)


async def get_validation(
    client: SynapseClient,
    session: str,
    *,
    via: Via | str = Via.AUTO,
    wait: bool = True,
    deadline: Deadline | None = None,
    timeouts: GridTimeouts | None = None,
    limits: GridLimits | None = None,
    seen: Callable[[int, int], object] | None = None,
) -> Validation:
    """How the rows stand. `wait`: until every row has its result, or the deadline (120 s) comes.

    `seen` is told of (rows with a result, rows) on the way. How it ended is in the answer (`outcome`, `settled`);
    raised is only what the REST calls refuse: NotFound, Forbidden, NotLoggedIn, RemoteUnavailable; and UsageError for
    a `via` that is none.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "validating the grid")
    if via not in tuple(Via):
        raise UsageError(f"{via!r} is no way to validate", hint="auto, rest or socket")
    via = Via(via)
    if via is not Via.SOCKET:
        try:
            return await _by_rest(client, session, deadline, wait=wait, seen=seen)
        except (NotSupported, ProtocolError, UsageError):
            # The query is newer than the grids: what the service says against it is no word about them.
            if via is Via.REST:
                raise
    if not wait:
        snapshot = await read_grid(
            client, session, deadline=deadline, timeouts=timeouts, limits=limits
        )
        return _of_snapshot(snapshot)

    def told(snapshot: GridSnapshot) -> None:
        if seen is not None:
            seen(snapshot.total_rows - snapshot.pending_rows, snapshot.total_rows)

    followed = await follow_grid(
        client, session, deadline=deadline, timeouts=timeouts, limits=limits, seen=told
    )
    found = _of_snapshot(followed.snapshot)
    return replace(found, settled=followed.ended in (Ended.SETTLED, Ended.NO_SCHEMA))


def _of_snapshot(snapshot: GridSnapshot) -> Validation:
    if not snapshot.decoded:
        return Validation(
            snapshot.session, snapshot.schema, snapshot.outcome, settled=False, via=Via.SOCKET
        )
    problems = tuple(
        RowProblem(row.row_id, place, row.status, row.messages, row.cells)
        for place, row in enumerate(snapshot.rows(), start=1)
        if row.status is Status.INVALID
    )
    return Validation(
        snapshot.session,
        snapshot.schema,
        snapshot.outcome,
        settled=snapshot.outcome.complete
        and (not snapshot.pending_rows or snapshot.schema is None),
        via=Via.SOCKET,
        total_rows=snapshot.total_rows,
        valid_rows=snapshot.valid_rows,
        invalid_rows=snapshot.invalid_rows,
        pending_rows=snapshot.pending_rows,
        columns=snapshot.columns,
        problems=problems,
    )


async def _by_rest(
    client: SynapseClient,
    session: str,
    deadline: Deadline,
    *,
    wait: bool,
    seen: Callable[[int, int], object] | None,
) -> Validation:
    """By pages of the service's query. Asks again while rows are pending and there is time."""
    found: Validation | None = None
    schema: str | None = None
    pause_s = _FIRST_PAUSE_S
    try:
        schema = schema_of(await client.grid_session(session, deadline=deadline))
        replica = await client.create_grid_replica(session, deadline=deadline)
        while True:
            columns, rows = await _all_rows(client, session, replica, deadline)
            found = of_rows(session, schema, columns, rows)
            if seen is not None:
                seen((found.total_rows or 0) - (found.pending_rows or 0), found.total_rows or 0)
            if found.settled or not wait or deadline.left_s() < pause_s:
                return found
            await asyncio.sleep(pause_s)
            pause_s = min(_LONGEST_PAUSE_S, pause_s * 1.5)
    except DeadlineExceeded as error:
        if found is not None:
            # The last whole answer stands: it has rows that are pending, and so is not valid.
            return found
        late = Outcome(Kind.FAILED, Reason.TIMEOUT, Phase.REPLICA, error.message)
        return Validation(session, schema, late, settled=False, via=Via.REST)


async def _all_rows(
    client: SynapseClient, session: str, replica: int, deadline: Deadline
) -> tuple[list[str], list[QueriedRow]]:
    """All pages. Only an empty one is the end: a short one may be as long as the service gives."""
    found: dict[str, QueriedRow] = {}
    offset = 0
    while True:
        columns, page = await client.query_grid(
            session, replica, limit=_PAGE, offset=offset, deadline=deadline
        )
        if not page:
            return columns, list(found.values())
        offset += len(page)
        before = len(found)
        found.update((row.id, row) for row in page)
        if len(found) == before:
            raise ProtocolError(f"the query of grid session {session} gives the same rows for ever")


def of_rows(
    session: str, schema: str | None, columns: list[str], rows: list[QueriedRow]
) -> Validation:
    """What queried rows say together. A row without a word of its validity is pending, whatever else it says."""
    problems: list[RowProblem] = []
    valid = 0
    for place, row in enumerate(rows, start=1):
        said = None if row.validation is None else row.validation.get("isValid")
        if said is True:
            valid += 1
        elif said is False:
            messages = messages_of(row.validation, columns)
            problems.append(RowProblem(row.id, place, Status.INVALID, messages, row.cells))
    pending = len(rows) - valid - len(problems)
    return Validation(
        session,
        schema,
        COMPLETE,
        settled=not pending or schema is None,
        via=Via.REST,
        total_rows=len(rows),
        valid_rows=valid,
        invalid_rows=len(problems),
        pending_rows=pending,
        columns=tuple(columns),
        problems=tuple(problems),
    )
