"""Grid sessions and record sets: the REST calls (synapse-rest.md 7.7, 7.9, 7.10; grid-protocol.md 2).

The conversation over the WebSocket is `synd.grid`'s.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from synd.client import once, wire_grids
from synd.client.asyncjobs import JobProgress, run_job
from synd.client.entities import EntityCalls
from synd.client.pages import all_of
from synd.client.remote import Outgoing
from synd.client.saving import save
from synd.client.transfer import Downloader
from synd.client.transport import Transport
from synd.client.upload import Uploader
from synd.client.wire import Json
from synd.client.wire_grids import (
    Column,
    CsvFormat,
    GridExport,
    GridImport,
    GridSession,
    QueriedRow,
    RecordSet,
)
from synd.clock import Deadline
from synd.digest import md5_of_fd, md5_of_file
from synd.errors import (
    Exists,
    IntegrityError,
    NotFound,
    NotSupported,
    Offline,
    ProtocolError,
    RemoteUnavailable,
    UsageError,
)
from synd.ids import EntityId, FileHandleId, Version, syn
from synd.model import Entity
from synd.paths import ENTITY_NAME, check_entity_name

_JOB_S: Final = 600.0
_LOOK_S: Final = 3.0
_LOOK_EVERY_S: Final = 0.2
"""How long, and how often, a version is looked for that an export without an answer may have made."""
_SESSION: Final = re.compile(r"[A-Za-z0-9_=-]+")

Progress = Callable[[JobProgress], object]


class GridCalls(EntityCalls):
    """The service's grids and record sets."""

    _transport: Transport
    _downloader: Downloader
    _uploader: Uploader

    async def create_grid(
        self,
        *,
        record_set: EntityId | None = None,
        sql: str | None = None,
        owner: str | None = None,
        deadline: Deadline | None = None,
    ) -> GridSession:
        """A new session: of a record set, of a view's query, or empty.

        An answer lost may leave one more behind: nothing tells it from one that was asked for. Raises UsageError for both; NotFound, Forbidden.
        """
        if record_set is not None and sql is not None:
            raise UsageError("a grid is made from a record set or from a query, not from both")
        answer = await self._grid_job(
            "/grid/session",
            wire_grids.create_request(record_set, sql, owner),
            deadline or Deadline.after(_JOB_S, "creating a grid session"),
        )
        return wire_grids.created_session(answer)

    async def grid_session(self, session: str, *, deadline: Deadline | None = None) -> GridSession:
        """One session. Raises NotFound, Forbidden."""
        return wire_grids.grid_session(
            await self._transport.json("GET", f"/grid/session/{_id(session)}", deadline=deadline)
        )

    async def grid_sessions(
        self, source: EntityId | None = None, *, deadline: Deadline | None = None
    ) -> list[GridSession]:
        """The caller's own sessions, all or those of one source. Cost: a request a page."""

        async def page(token: str | None) -> tuple[list[GridSession], str | None]:
            body = {"sourceId": None if source is None else syn(source), "nextPageToken": token}
            return wire_grids.session_page(
                await self._transport.json("POST", "/grid/session/list", body, deadline=deadline)
            )

        return await all_of("grid sessions", page)

    async def delete_grid(self, session: str, *, deadline: Deadline | None = None) -> None:
        """Ends a session: what was not exported from it is gone. Raises NotFound."""
        await once.delete(self._transport, f"/grid/session/{_id(session)}", deadline=deadline)

    async def create_grid_replica(self, session: str, *, deadline: Deadline | None = None) -> int:
        """The number of a new replica. An answer lost leaves one more behind, which hurts nobody."""
        path = f"/grid/session/{_id(session)}/replica"
        body = {"gridSessionId": session}
        return wire_grids.replica_number(
            await self._transport.json("POST", path, body, deadline=deadline)
        )

    async def grid_socket_url(
        self, session: str, replica: int, *, deadline: Deadline | None = None
    ) -> str:
        """A signed URL of the WebSocket, good for a quarter of an hour. A secret: its query is the key."""
        path = f"/grid/session/{_id(session)}/presigned/url"
        body = {"gridSessionId": session, "replicaId": replica}
        return wire_grids.socket_url(
            await self._transport.json("POST", path, body, deadline=deadline)
        )

    async def import_grid_csv(
        self,
        session: str,
        handle: FileHandleId,
        columns: Sequence[Column],
        csv: CsvFormat | None = None,
        *,
        progress: Progress | None = None,
        deadline: Deadline | None = None,
    ) -> GridImport:
        """Puts the rows of an uploaded CSV on the grid; rows of a known upsert key are updated.

        Their validation follows after this, by and by. Raises UsageError with what the service refuses.
        """
        answer = await self._grid_job(
            "/grid/import/csv",
            wire_grids.import_request(session, handle, columns, csv or CsvFormat()),
            deadline or Deadline.after(_JOB_S, "importing a CSV into the grid"),
            progress,
        )
        return wire_grids.import_result(answer)

    async def download_grid_csv(
        self,
        session: str,
        csv: CsvFormat | None = None,
        *,
        row_id: bool = False,
        etag: bool = False,
        name: str | None = None,
        progress: Progress | None = None,
        deadline: Deadline | None = None,
    ) -> FileHandleId:
        """A new file handle of the caller's: the grid's rows as CSV. `save_own` fetches it."""
        answer = await self._grid_job(
            "/grid/download/csv",
            wire_grids.download_request(
                session, csv or CsvFormat(), row_id=row_id, etag=etag, name=name
            ),
            deadline or Deadline.after(_JOB_S, "making a CSV of the grid"),
            progress,
        )
        return wire_grids.download_result(answer)

    async def synchronize_grid(
        self,
        session: str,
        *,
        pull_only: bool = False,
        progress: Progress | None = None,
        deadline: Deadline | None = None,
    ) -> list[str]:
        """Brings grid and source together; what went wrong, a text each. `pull_only`: the source stays."""
        answer = await self._grid_job(
            "/grid/synchronize",
            wire_grids.synchronize_request(session, pull_only=pull_only),
            deadline or Deadline.after(_JOB_S, "synchronizing the grid"),
            progress,
        )
        return wire_grids.synchronize_result(answer)

    async def export_grid(
        self,
        session: str,
        *,
        progress: Progress | None = None,
        deadline: Deadline | None = None,
    ) -> GridExport:
        """Makes the grid a new version of its record set. Valid or not: who asks has looked before.

        It is begun once: two would be two versions. If an answer is lost, the record set tells whether it was made
        (then without counts). Raises UsageError for a grid of something else; RemoteUnavailable also when nobody
        can tell.
        """
        deadline = deadline or Deadline.after(_JOB_S, "exporting the grid")
        source = (await self.grid_session(session, deadline=deadline)).source
        before = None if source is None else await self.entity(source, deadline=deadline)
        try:
            answer = await run_job(
                self._transport,
                "/grid/export/recordset",
                wire_grids.export_request(session),
                deadline=deadline,
                progress=progress,
                replay=False,
            )
        except Offline:
            raise
        except RemoteUnavailable as error:
            made = None if before is None else await self._version_after(before, deadline)
            if made is None:
                where = f"the versions of {syn(source)}" if source else "its source"
                error.hint = f"it may have been exported all the same: look at {where} first"
                raise
            return made
        return wire_grids.export_result(answer)

    async def _version_after(self, before: Entity, deadline: Deadline) -> GridExport | None:
        """The export that made a version after `before`; None when none comes in a while."""
        until = deadline.clock.monotonic() + min(_LOOK_S, deadline.left_s())
        while True:
            now = await self.entity(before.id, deadline=deadline)
            if now.version != before.version:
                return GridExport(before.id, now.version, None, None, None, None, None)
            if deadline.clock.monotonic() >= until:
                return None
            await asyncio.sleep(_LOOK_EVERY_S)

    async def query_grid(
        self,
        session: str,
        replica: int,
        *,
        limit: int,
        offset: int = 0,
        deadline: Deadline | None = None,
    ) -> tuple[list[str], list[QueriedRow]]:
        """Columns and some rows with their validation, by the service's own query.

        Raises NotSupported where the service has no such query.
        """
        await self.grid_session(session, deadline=deadline)
        try:
            answer = await self._grid_job(
                "/grid/session/query",
                wire_grids.query_request(session, replica, limit, offset),
                deadline or Deadline.after(_JOB_S, "querying the grid"),
            )
        except NotFound as error:
            # The session is there, so it is the query that is not.
            raise NotSupported(
                "this service has no grid queries", hint="`--via socket` reads the grid itself"
            ) from error
        return wire_grids.query_rows(answer)

    async def preview_csv(
        self,
        handle: FileHandleId,
        csv: CsvFormat | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> list[Column]:
        """The columns of an uploaded CSV as the service would type them by what is in them."""
        answer = await self._grid_job(
            "/table/upload/csv/preview",
            wire_grids.preview_request(handle, csv or CsvFormat()),
            deadline or Deadline.after(_JOB_S, "looking at the CSV"),
        )
        return wire_grids.preview_columns(answer)

    async def upload_own(
        self,
        path: Path,
        *,
        name: str | None = None,
        content_type: str = "text/csv",
        progress: Callable[[int], object] | None = None,
        deadline: Deadline | None = None,
    ) -> FileHandleId:
        """A file on disk as a file handle in the service's own storage. Reads it twice. Signs of its name that the
        service takes in none become `_`.

        Raises UsageError for an empty one, and NotFound.
        """
        content = await asyncio.to_thread(_outgoing, path, name or path.name, content_type)
        return await self._uploader.upload(content, None, progress, deadline)

    async def save_own(
        self, handle: FileHandleId, to: Path, *, deadline: Deadline | None = None
    ) -> int:
        """Fetches the bytes of a file handle of the caller's to a path, whole or not at all; their number.

        The md5 that the service tells is checked. Raises IntegrityError, NotFound, Forbidden.
        """
        deadline = deadline or Deadline.after(_JOB_S, f"fetching file handle {handle}")
        told = await self._transport.json(
            "GET", f"/fileHandle/{handle}", service="file", deadline=deadline
        )
        size, md5 = wire_grids.size_and_md5(told)

        async def url() -> str:
            return wire_grids.own_url(
                await self._transport.json(
                    "GET",
                    f"/fileHandle/{handle}/url",
                    service="file",
                    query={"redirect": "false"},
                    deadline=deadline,
                )
            )

        # Beside the target, so that taking its place is one rename.
        aside = to.with_name(f".synd-{secrets.token_hex(6)}")
        fd = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            try:
                await save(self._downloader, url, fd, deadline, size=size)
                got = os.fstat(fd).st_size
                if md5 is not None and await asyncio.to_thread(md5_of_fd, fd) != md5:
                    raise IntegrityError(f"file handle {handle} came with other bytes than its md5")
            finally:
                os.close(fd)
            os.replace(aside, to)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(aside)
            raise
        return got

    async def create_record_set(
        self,
        parent: EntityId,
        name: str,
        handle: FileHandleId,
        upsert_key: Sequence[str],
        csv: CsvFormat | None = None,
        *,
        deadline: Deadline | None = None,
    ) -> RecordSet:
        """A new record set of an uploaded CSV. `upsert_key`: columns by which a row is known again.

        One of that name with the same bytes and key is that record set. Raises Exists, NotFound, Forbidden.
        """
        body = wire_grids.new_record_set(
            parent, check_entity_name(name), handle, upsert_key, csv or CsvFormat()
        )
        try:
            answer = await self._transport.json(
                "POST", "/entity", body, deadline=deadline, entity=syn(parent)
            )
        except Exists:
            # By the try whose answer was lost, or by us before a later step failed.
            made = await self._named_record_set(parent, name, deadline)
            if made is None or (made.handle, made.upsert_key) != (handle, tuple(upsert_key)):
                raise
            return made
        return wire_grids.record_set(answer)

    async def _named_record_set(
        self, parent: EntityId, name: str, deadline: Deadline | None
    ) -> RecordSet | None:
        """The record set of that name; None when something else has it."""
        found = await self.find_child(parent, name, deadline=deadline)
        try:
            return None if found is None else await self.record_set(found, deadline=deadline)
        except ProtocolError:
            return None

    async def record_set(
        self, entity: EntityId, version: Version | None = None, *, deadline: Deadline | None = None
    ) -> RecordSet:
        """A record set. Raises NotFound, Forbidden, and ProtocolError when it is something else."""
        numbered = "" if version is None else f"/version/{version}"
        return wire_grids.record_set(
            await self._transport.json(
                "GET", f"/entity/{syn(entity)}{numbered}", deadline=deadline, entity=syn(entity)
            )
        )

    async def _grid_job(
        self, path: str, body: object, deadline: Deadline, progress: Progress | None = None
    ) -> Json:
        return await run_job(self._transport, path, body, deadline=deadline, progress=progress)


def _id(session: str) -> str:
    """A session's id, which stands in a path. Raises UsageError."""
    if not _SESSION.fullmatch(session):
        raise UsageError(
            f"{session!r} is no grid session", hint="`synd grid list` shows the sessions"
        )
    return session


def _outgoing(path: Path, name: str, content_type: str) -> Outgoing:
    """Raises NotFound, UsageError."""
    try:
        size = path.stat().st_size
        md5 = md5_of_file(path)
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}", path=str(path)) from error
    # Of the bytes, not of an entity: the name decides nothing, and must not stop them.
    allowed = "".join(sign if ENTITY_NAME.fullmatch(sign) else "_" for sign in name.strip())
    return Outgoing(path, size, md5, allowed[:256] or "_", content_type)
