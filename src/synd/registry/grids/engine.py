"""The live document of one session: patches kept and handed out, snapshots, and a batch of validation.

A patch is a row as soon as it is applied, so killing the registry loses nothing: the document is read again
from the newest snapshot and the patches after it. Source: grid-protocol.md 3.3, 7.6, 13.1.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from bisect import insort
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from synd.errors import UsageError
from synd.grid.crdt import UNDEFINED, Replica
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import GridDocument, RowNode
from synd.registry import schemas
from synd.registry.db import now_ns
from synd.registry.grids import sessions
from synd.registry.grids.validate import BATCH_ROWS
from synd.registry.web import Json, RefusedError, missing
from synd.validation import Checker

if TYPE_CHECKING:
    from synd.registry.service import Registry

log = logging.getLogger("synd.registry.grids")

ANSWER_BYTES = 127_000
"""Patches that go into one answer."""
PATCH_BYTES = 100_000
"""What the service writes at once is split to patches of about this size."""
MAX_PATCH_BYTES = 128_000
SNAPSHOT_PATCHES = 50
SNAPSHOT_BYTES = 64_000
"""A snapshot is remade when this much came after it."""
SNAPSHOT_AGE_NS = 3600 * 10**9
"""… or anything at all, this long ago."""

_ALLOWED = frozenset((0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 14, 16, 17))
# Strict: what is no JSON would end every reader of the session.
_PLAIN = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode

Patch = list[Any]


def span(op: Sequence[Any]) -> int:
    """How many ids an operation takes. Source: grid-protocol.md 10.2."""
    if op[0] == 14:
        return len(op[3])
    if op[0] == 17:
        return int(op[1]) if len(op) > 1 else 1
    return 1


def joined(patches: Iterable[Patch], limit: int = PATCH_BYTES) -> list[Patch]:
    """The same operations in fewer patches, each below about `limit` bytes.

    Patches of one session are put together as they follow each other; a gap between them becomes a nop.
    """
    out: list[Patch] = []
    size = ends = 0
    for patch in patches:
        sid, time = patch[0][0]
        grows = len(_PLAIN(patch).encode(errors="surrogatepass"))
        if out and out[-1][0][0][0] == sid and ends <= time and size + grows <= limit:
            if time > ends:
                out[-1].append([17, time - ends])
            out[-1].extend(patch[1:])
            size += grows
        else:
            out.append(list(patch))
            size = grows
        ends = time + sum(map(span, patch[1:]))
    return out


class PatchError(Exception):
    """A client's patch is refused: (errno, text) of the error notification."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno = errno


class LiveGrid:
    """One session's document. Every method may be called from any thread; `lock` holds them apart."""

    def __init__(self, registry: Registry, grid: int) -> None:
        self._registry = registry
        self.grid = grid
        self.lock = threading.RLock()
        self.listeners: dict[object, Callable[[str], None]] = {}
        """Who is told of notifications: connection → a call that may come from any thread."""
        self.checker: Checker | None = None
        self.ended = False
        self._loaded = False
        self._index: list[tuple[int, int, int, int]] = []
        """(time, sid, row id, bytes) of all patches, in the order in which they are handed out."""
        self._since = [0, 0]
        """Patches and bytes after the newest snapshot."""
        self._snapshot: tuple[str, int] | None = None
        """(md5, made ns) of the newest snapshot."""
        self._older: str | None = None
        self._last_row = 0
        self._pending: deque[RowNode] = deque()
        self._changed = True
        self._force = False

    def load(self) -> None:
        """Reads the document from the database, the first time."""
        with self.lock:
            if self._loaded:
                return
            db = self._registry.db
            kept = db.one(
                "SELECT md5, last_patch, created_ns FROM grid_snapshot WHERE grid_id = ?",
                (self.grid,),
            )
            replica, after = Replica(), 0
            if kept is not None:
                with open(self._registry.blobs.path(kept[0]), "rb") as file:
                    replica = Replica.from_snapshot(file.read())
                after = kept[1]
                self._snapshot = (kept[0], kept[2])
            self._index = db.all(
                "SELECT time, sid, id, length(CAST(body AS BLOB)) FROM grid_patch WHERE grid_id = ?"
                " ORDER BY time, sid",
                (self.grid,),
            )
            rows = db.all(
                "SELECT body FROM grid_patch WHERE grid_id = ? AND id > ? ORDER BY id",
                (self.grid, after),
            )
            replica.apply_patches([json.loads(body) for (body,) in rows])
            # The snapshot's own clock may be behind what was applied: operations can leave no node.
            for time, sid, _, _ in self._index:
                if replica.clock.get(sid, 0) < time:
                    replica.clock[sid] = time
            self._since = [len(rows), sum(len(body) for (body,) in rows)]
            self._last_row = max((one[2] for one in self._index), default=0)
            self.replica = replica
            self._loaded = True

    @property
    def document(self) -> GridDocument:
        return GridDocument(self.replica)

    @property
    def unsaved_bytes(self) -> int:
        """Bytes of patches after the newest snapshot."""
        return self._since[1]

    def author(self) -> Author:
        """Writes rows as the service. Hold `lock` until what it made is given to `store`; a snapshot ends it."""
        return Author(self.replica, sessions.WRITER, bound=PATCH_BYTES)

    def store(self, patches: Iterable[Patch], by: object = None) -> None:
        """Keeps patches that are applied already, tells all connections but `by`, has the rows validated."""
        with self.lock:
            rows: list[tuple[int, int, str]] = []
            for patch in patches:
                sid, time = patch[0][0]
                rows.append((time, sid, _PLAIN(patch)))
            if not rows:
                return
            if self.ended:
                raise missing("The grid session was deleted.")
            self._insert(rows, unvalidated=True)
            # What was found pending may have other cells now.
            self._pending.clear()
            self._changed = True
        self.tell("new-patch", by)
        self._registry.grids.worker.add(self.grid)

    def _insert(self, rows: list[tuple[int, int, str]], *, unvalidated: bool) -> None:
        try:
            self._insert_rows(rows, unvalidated)
        except BaseException:
            # The document has what the database has not: it is read again.
            self._loaded = False
            self._pending.clear()
            raise

    def _insert_rows(self, rows: list[tuple[int, int, str]], unvalidated: bool) -> None:
        with self._registry.db.write() as tx:
            for time, sid, body in rows:
                cursor = tx.execute(
                    "INSERT INTO grid_patch (grid_id, time, sid, body) VALUES (?, ?, ?, ?)",
                    (self.grid, time, sid, body),
                )
                self._last_row = int(cursor.lastrowid or 0)
                size = len(body.encode())
                insort(self._index, (time, sid, self._last_row, size))
                self._since[0] += 1
                self._since[1] += size
            if unvalidated:
                tx.execute("UPDATE grid_session SET unvalidated = 1 WHERE id = ?", (self.grid,))

    def tell(self, notice: str, by: object = None) -> None:
        """Sends a notification to every connection but one."""
        for connection, call in list(self.listeners.items()):
            if connection is not by:
                call(notice)

    def end(self) -> None:
        """The session is deleted: its connections close."""
        with self.lock:
            self.ended = True
        self.tell("")

    def take(self, replica_id: int, patch: Json, by: object) -> None:
        """Stores a client's patch. Raises PatchError. A patch that is known already changes nothing."""
        sid, time = _header(patch)
        if sid != replica_id:
            raise PatchError(
                500, f"Patch replicaId does not match the replicaId of the connection: {replica_id}"
            )
        if len(_PLAIN(patch).encode()) > MAX_PATCH_BYTES:
            raise PatchError(400, f"A patch may have at most {MAX_PATCH_BYTES} bytes.")
        for op in patch[1:]:
            if not isinstance(op, list) or not op or op[0] not in _ALLOWED:
                raise PatchError(400, f"Unknown operation: {_PLAIN(op)[:80]}")
        with self.lock:
            if self._registry.db.one(
                "SELECT 1 FROM grid_patch WHERE grid_id = ? AND time = ? AND sid = ?",
                (self.grid, time, sid),
            ):
                return
            try:
                self.replica.apply_patches([patch])
            except Exception as error:
                raise PatchError(500, f"The patch cannot be applied: {error}") from error
            self.store([patch], by)

    def answer(self, clock: dict[int, int]) -> tuple[str, list[str]] | None:
        """What a client with that clock lacks: ("snapshot", [URL]), ("patches", texts), or None."""
        with self.lock:
            self.load()
            if not clock:
                self.refresh_snapshot()
                if self._snapshot is not None:
                    return "snapshot", [self._url(self._snapshot[0])]
            chosen: list[int] = []
            size = 0
            for time, sid, row, length in self._index:
                if time <= clock.get(sid, -1):
                    continue
                if chosen and size + length > ANSWER_BYTES:
                    break
                chosen.append(row)
                size += length
                if self._registry.grids.shape != "patches":
                    break
            if not chosen:
                return None
            found: dict[int, str] = dict(
                self._registry.db.all(
                    "SELECT id, body FROM grid_patch WHERE id IN (SELECT value FROM json_each(?))",
                    (json.dumps(chosen),),
                )
            )
            return "patches", [found[row] for row in chosen]

    def _url(self, md5: str) -> str:
        name = f"grid-{self.grid}.cbor"
        now = now_ns() // 1_000_000_000
        return self._registry.presigner.get(md5, name, "application/octet-stream", now)

    def refresh_snapshot(self) -> None:
        """Remakes the snapshot if enough came after the last one, or if that is long ago."""
        with self.lock:
            count, size = self._since
            if not count:
                return
            old = self._snapshot
            if old is None and size < SNAPSHOT_BYTES // 16 and count < 2:
                return  # an empty grid with its columns: patches alone do
            if (
                old is None
                or count >= SNAPSHOT_PATCHES
                or size >= SNAPSHOT_BYTES
                or now_ns() - old[1] >= SNAPSHOT_AGE_NS
            ):
                self.make_snapshot()

    def make_snapshot(self) -> None:
        """Writes the document as it is now."""
        with self.lock:
            data = self.replica.to_snapshot(form="service")
            md5 = self._registry.blobs.put(data)
            now = now_ns()
            with self._registry.db.write() as tx:
                tx.execute(
                    "INSERT INTO grid_snapshot VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " md5 = excluded.md5, last_patch = excluded.last_patch,"
                    " created_ns = excluded.created_ns",
                    (self.grid, md5, self._last_row, now),
                )
            # The last but one: the URL of the last may just have been handed out.
            if self._older is not None and self._older != md5:
                drop_blob(self._registry, self._older)
            self._older = None if self._snapshot is None else self._snapshot[0]
            self._snapshot = (md5, now)
            self._since = [0, 0]
            # Nodes that are bytes take a tenth of the memory.
            clock = self.replica.clock
            self.replica = Replica.from_snapshot(data)
            for sid, time in clock.items():
                self.replica.clock[sid] = max(time, self.replica.clock.get(sid, 0))

    def revalidate(self) -> None:
        """Has every row validated again: another schema rules them."""
        with self.lock:
            self.checker = None
            self._force = self._changed = True
            with self._registry.db.write() as tx:
                tx.execute("UPDATE grid_session SET unvalidated = 1 WHERE id = ?", (self.grid,))
        self._registry.grids.worker.add(self.grid)

    def checker_of_schema(self) -> Checker | None:
        """The schema bound to the session, compiled; None without one, or when it is gone or no schema."""
        with self.lock:
            if self.checker is None:
                db = self._registry.db
                uri = sessions.by_number(db, self.grid).schema
                if uri is None:
                    return None
                try:
                    self.checker = Checker(schemas.validation_schema(db, uri))
                except RefusedError as error:
                    log.info("grid.schema_gone", extra={"fields": {"reason": error.reason}})
                    return None
                except UsageError as error:
                    log.info("grid.schema_unusable", extra={"fields": {"reason": error.message}})
                    return None
            return self.checker

    def validate_batch(self) -> bool:
        """Validates the next rows; whether more are to be done. At the end the snapshot is made current."""
        stored = False
        with self.lock:
            if self.ended:
                return False
            self.load()
            checker = self.checker_of_schema()
            if checker is not None:
                self._find_pending()
                try:
                    stored = self._validate_some(checker)
                except UsageError as error:
                    # It refers to what is not there: no row can have a result, and all stay pending.
                    log.info("grid.schema_unusable", extra={"fields": {"reason": error.message}})
                    self._pending.clear()
            more = checker is not None and (bool(self._pending) or self._changed)
            if not more:
                self._changed = self._force = False
                self.refresh_snapshot()
                with self._registry.db.write() as tx:
                    tx.execute("UPDATE grid_session SET unvalidated = 0 WHERE id = ?", (self.grid,))
        if stored:
            self.tell("new-patch")
        return more

    def _find_pending(self) -> None:
        """Looks through all rows, once per change: not per batch."""
        if self._pending or not self._changed:
            return
        self._pending.extend(
            row for row in self.document.rows() if self._force or row.status == "pending"
        )
        self._changed = False

    def _validate_some(self, checker: Checker) -> bool:
        names = self.document.columns
        some = [self._pending.popleft() for _ in range(min(BATCH_ROWS, len(self._pending)))]
        # All results before the first is written: a schema that fails halfway leaves nothing half told.
        results = [checker.check(row_json(row, names, checker.required)) for row in some]
        author = Author(self.replica, sessions.VALIDATOR, bound=None)
        made: list[Patch] = []
        for row, result in zip(some, results, strict=True):
            made.extend(author.set_validation(row.row_id, result))
        rows = []
        for patch in joined(made):
            sid, time = patch[0][0]
            rows.append((time, sid, _PLAIN(patch)))
        if rows:
            self._insert(rows, unvalidated=False)
        return bool(rows)


def drop_blob(registry: Registry, md5: str) -> None:
    """Removes the bytes of a snapshot that is not one any more, unless they are somebody's file too."""
    for sql in (
        "SELECT 1 FROM file_handle WHERE md5 = ? LIMIT 1",
        "SELECT 1 FROM grid_snapshot WHERE md5 = ? LIMIT 1",
    ):
        if registry.db.one(sql, (md5,)):
            return
    with suppress(FileNotFoundError):
        os.unlink(registry.blobs.path(md5))


def row_json(
    row: RowNode, names: Sequence[tuple[int, str]], required: frozenset[str] = frozenset()
) -> dict[str, Json]:
    """A row as the object that a schema is held against.

    An empty cell is no key; but a null in a column that the schema requires is a null. The service's own rule
    is not known in detail (grid-protocol.md 7.5); this one gives both of its messages.
    """
    found = {}
    for index, name in names:
        value = row.cells[index]
        if value is UNDEFINED or (value is None and name not in required):
            continue
        found[name] = value
    return found


def _header(patch: Json) -> tuple[int, int]:
    """(sid, time) of a patch. Raises PatchError."""
    try:
        sid, time = patch[0][0]
        if isinstance(sid, int) and isinstance(time, int) and len(patch) > 1:
            return sid, time
    except (TypeError, ValueError, IndexError, KeyError):
        pass
    raise PatchError(400, "This is not a patch.")
