"""Grid sessions and replicas as rows, who may use them, and the documents that are in memory.

Ids of replicas: the service's count down from 66535, clients' count up from 66536 (grid-protocol.md 1).
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, kinds
from synd.registry.access import Caller
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.grids.validate import Worker
from synd.registry.web import Json, RefusedError, bad, forbidden, missing

if TYPE_CHECKING:
    from synd.registry.grids.engine import LiveGrid
    from synd.registry.service import Registry

WRITER = 66_535
"""The service replica that writes rows: creation, import, synchronization."""
VALIDATOR = 66_534
"""The service replica that writes results of validation."""
FIRST_CLIENT = 66_536
KEPT_OPEN = 4
"""Documents that stay in memory though nobody uses them."""
SHAPES = ("patches", "patch", "bare")
"""How an answer spells patches: today's service, an earlier one, the oldest."""

_COLUMNS = (
    "SELECT id, session_id, etag, started_ns, started_by, modified_ns, owner, source_id,"
    " source_version, schema, mode, columns, last_client, last_service FROM grid_session"
)


class SessionRow(NamedTuple):
    """A row of `grid_session`."""

    id: int
    session_id: str
    etag: str
    started_ns: int
    started_by: int
    modified_ns: int
    owner: int
    source: int | None
    source_version: int | None
    schema: str | None
    mode: str | None
    columns: str
    last_client: int
    last_service: int

    @property
    def types(self) -> dict[str, str]:
        """Column name → columnType, for the columns that the service made."""
        found: dict[str, str] = json.loads(self.columns)
        return found


def to_json(row: SessionRow) -> dict[str, Json]:
    """A GridSession."""
    body: dict[str, Json] = {
        "sessionId": row.session_id,
        "etag": row.etag,
        "startedOn": format_time(row.started_ns),
        "startedBy": str(row.started_by),
        "modifiedOn": format_time(row.modified_ns),
        "ownerPrincipalId": str(row.owner),
        "lastReplicaIdClient": row.last_client,
        "lastReplicaIdService": row.last_service,
    }
    if row.schema is not None:
        body["gridJsonSchema$Id"] = row.schema
    if row.source is not None:
        body["sourceEntityId"] = syn(row.source)
    if row.mode is not None:
        body["authorizationMode"] = row.mode
    return body


def by_number(db: Database, grid: int) -> SessionRow:
    """Raises RefusedError 404."""
    row = db.one(_COLUMNS + " WHERE id = ?", (grid,))
    if row is None:
        raise missing(f"The grid session {grid} does not exist.")
    return SessionRow._make(row)


def need(db: Database, session_id: object, caller: Caller) -> SessionRow:
    """A session that the caller may use. Raises RefusedError 404, 403."""
    row = db.one(_COLUMNS + " WHERE session_id = ?", (str(session_id),))
    if row is None:
        raise missing(f"The grid session {session_id} does not exist.")
    found = SessionRow._make(row)
    if not may_use(db, found, caller):
        raise forbidden(f"{caller.name} has no access to the grid session {session_id}.")
    return found


def may_use(db: Database, row: SessionRow, caller: Caller) -> bool:
    if row.owner in caller.principals or row.started_by == caller.user:
        return True
    if row.mode == "SOURCE_BENEFACTOR" and row.source is not None:
        return access.may(db, row.source, caller, access.UPDATE)
    return False


def listed(db: Database, caller: Caller, source: int | None) -> list[SessionRow]:
    """The caller's own sessions, oldest first."""
    rows = db.all(
        _COLUMNS + " WHERE (started_by = ?1 OR owner = ?1) AND (?2 IS NULL OR source_id = ?2)"
        " ORDER BY id",
        (caller.user, source),
    )
    return [SessionRow._make(row) for row in rows]


def create(
    db: Database,
    caller: Caller,
    *,
    source: int | None,
    version: int | None,
    schema: str | None,
    owner: int,
    mode: str | None,
) -> int:
    """The number of a new session, without rows."""
    now = now_ns()
    with db.write() as tx:
        cursor = tx.execute(
            "INSERT INTO grid_session (session_id, etag, started_ns, started_by, modified_ns, owner,"
            " source_id, source_version, schema, mode, columns, last_client, last_service)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, '{}', ?, ?)",
            (_session_id(), new_etag(), now, caller.user, now, owner, source, version,
             schema, mode, FIRST_CLIENT - 1, VALIDATOR),
        )  # fmt: skip
    return int(cursor.lastrowid or 0)


def _session_id() -> str:
    """It stands in command lines, so it does not begin like an option."""
    while (found := secrets.token_urlsafe(9)).startswith("-"):
        pass
    return found


def change(db: Database, grid: int, **values: Any) -> None:
    """Sets columns of a session, with a new etag."""
    values |= {"etag": new_etag(), "modified_ns": now_ns()}
    names = ", ".join(f"{name} = ?" for name in values)
    with db.write() as tx:
        tx.execute(f"UPDATE grid_session SET {names} WHERE id = ?", (*values.values(), grid))  # noqa: S608


def create_replica(db: Database, row: SessionRow, caller: Caller) -> dict[str, Json]:
    """A GridReplica of the caller."""
    now = now_ns()
    with db.write() as tx:
        (number,) = tx.execute(
            "UPDATE grid_session SET last_client = last_client + 1, etag = ?, modified_ns = ?"
            " WHERE id = ? RETURNING last_client",
            (new_etag(), now, row.id),
        ).fetchone()
        tx.execute(
            "INSERT INTO grid_replica VALUES (?, ?, ?, ?)", (row.id, number, now, caller.user)
        )
    return replica(db, row, number)


def replica(db: Database, row: SessionRow, number: int) -> dict[str, Json]:
    """A GridReplica. Raises RefusedError 404."""
    found = db.one(
        "SELECT created_ns, created_by FROM grid_replica WHERE grid_id = ? AND replica_id = ?",
        (row.id, number),
    )
    if found is None:
        raise missing(f"The session {row.session_id} has no replica {number}.")
    return {
        "gridSessionId": row.session_id,
        "replicaId": number,
        "createdBy": str(found[1]),
        "createdOn": format_time(found[0]),
        "isAgentReplica": False,
    }


class Grids:
    """The grids of a registry: documents in memory, the thread that validates, and what tests may set."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._guard = threading.Lock()
        self._live: dict[int, LiveGrid] = {}
        self._users: dict[int, int] = {}
        self.worker = Worker(self._validate)
        self.shape = SHAPES[0]
        self.url_ttl_s = registry.settings.grid_url_ttl_s
        self.worker.control(halted=registry.settings.grid_halted, pause_s=None)
        for (grid,) in registry.db.all("SELECT id FROM grid_session WHERE unvalidated = 1"):
            self.worker.add(grid)

    @contextmanager
    def use(self, grid: int) -> Iterator[LiveGrid]:
        """The document of a session; it stays in memory meanwhile. Raises RefusedError 404."""
        live = self.acquire(grid)
        try:
            yield live
        finally:
            self.release(grid)

    def acquire(self, grid: int) -> LiveGrid:
        """As `use`; `release` must follow."""
        from synd.registry.grids.engine import LiveGrid

        with self._guard:
            live = self._live.pop(grid, None)
            if live is None:
                by_number(self._registry.db, grid)
                live = LiveGrid(self._registry, grid)
            self._live[grid] = live  # the newest last
            self._users[grid] = self._users.get(grid, 0) + 1
        try:
            live.load()
        except BaseException:
            self.release(grid)
            raise
        return live

    def release(self, grid: int) -> None:
        with self._guard:
            left = self._users[grid] - 1
            self._users[grid] = left
            if not left:
                del self._users[grid]
            idle = [one for one in self._live if one not in self._users]
            for one in idle[: max(0, len(idle) - KEPT_OPEN)]:
                del self._live[one]

    def delete(self, row: SessionRow) -> None:
        """Ends a session: its connections are closed and its rows are gone."""
        from synd.registry.grids.engine import drop_blob

        self.worker.forget(row.id)
        with self._guard:
            live = self._live.pop(row.id, None)
        if live is not None:
            live.end()
        db = self._registry.db
        kept = db.one("SELECT md5 FROM grid_snapshot WHERE grid_id = ?", (row.id,))
        with db.write() as tx:
            tx.execute("DELETE FROM grid_session WHERE id = ?", (row.id,))
        if kept is not None:
            drop_blob(self._registry, kept[0])

    def schemas_changed(self) -> None:
        """A schema was registered: a name without a number may now mean another one."""
        with self._guard:
            live = list(self._live.values())
        for one in live:
            one.checker = None

    def _validate(self, grid: int) -> bool:
        try:
            with self.use(grid) as live:
                return live.validate_batch()
        except RefusedError:
            return False  # the session was deleted meanwhile

    def control(self, body: dict[str, Json]) -> dict[str, Json]:
        """What POST /admin/grids sets; the state after it. Raises RefusedError 400."""
        known = {"halted", "pauseSeconds", "shape", "urlSeconds"}
        if unknown := sorted(set(body) - known):
            raise bad(
                f"Unknown fields: {', '.join(unknown)}; known are {', '.join(sorted(known))}."
            )
        if body.get("shape", self.shape) not in SHAPES:
            raise bad(f"shape must be one of {', '.join(SHAPES)}.")
        pause = body.get("pauseSeconds")
        halted = body.get("halted")
        self.worker.control(
            halted=None if halted is None else bool(halted),
            pause_s=None if pause is None else float(pause),
        )
        self.shape = str(body.get("shape", self.shape))
        self.url_ttl_s = int(body.get("urlSeconds", self.url_ttl_s))
        return self.worker.state() | {"shape": self.shape, "urlSeconds": self.url_ttl_s}

    def close(self) -> None:
        self.worker.close()


def check_owner(caller: Caller, raw: object) -> int:
    """The principal that a request makes the owner. Raises RefusedError 400, 403."""
    if raw is None:
        return caller.user
    if not str(raw).isdecimal():
        raise bad(f"{raw!r} is not a principal id.")
    if int(str(raw)) == kinds.PUBLIC:
        raise forbidden("A grid session cannot belong to everyone.")
    return int(str(raw))
