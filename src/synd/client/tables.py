"""Views: finding one, making one, and reading all its rows through a CSV download (synapse-rest.md 6)."""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final

from synd.client import wire
from synd.client.asyncjobs import run_job
from synd.client.entities import EntityCalls
from synd.client.files import file_batch
from synd.client.remote import ViewRow
from synd.client.saving import save
from synd.client.transfer import Downloader
from synd.client.transport import Transport
from synd.clock import Deadline
from synd.errors import Exists, Forbidden, NotFound, NotSupported, ProtocolError
from synd.ids import EntityId, syn
from synd.model import FileRef, Kind, Presigned

_JOB_S: Final = 600.0
"""Default budget of a job: a view that is being built may take minutes."""

_BATCH: Final = 1000
"""Rows handed over at once."""


class TableCalls(EntityCalls):
    """The part of `Remote` that is about views."""

    _transport: Transport
    _downloader: Downloader

    async def find_view(
        self, project: EntityId, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        found = await self.find_child(project, name, deadline=deadline)
        if found is None:
            return None
        try:
            entity = await self.entity(found, annotations=False, deadline=deadline)
            if entity.kind is not Kind.ENTITY_VIEW:
                return None
            columns = await self._columns(found, deadline)
        except (NotFound, Forbidden):
            return None
        return found if columns >= wire.VIEW_NEEDS else None

    async def own_project(self, name: str, *, deadline: Deadline | None = None) -> EntityId:
        found = await self.find_child(None, name, deadline=deadline)
        if found is not None:
            return found
        answer = await self._transport.json(
            "POST", "/entity", wire.project_request(name), deadline=deadline
        )
        return wire.made_entity(answer)

    async def covers(
        self, view: EntityId, container: EntityId, *, deadline: Deadline | None = None
    ) -> bool:
        """Whether a view shows the files below `container`, with the columns that `view_rows` reads."""
        answer = await self._transport.json("GET", f"/entity/{syn(view)}", deadline=deadline)
        if not wire.view_covers(answer, container):
            return False
        return await self._columns(view, deadline) >= wire.VIEW_NEEDS

    async def create_view(
        self,
        parent: EntityId,
        name: str,
        scope: Sequence[EntityId],
        *,
        deadline: Deadline | None = None,
    ) -> EntityId:
        deadline = deadline or Deadline.after(_JOB_S, f"making the view {name!r}")
        try:
            answer = await self._transport.json(
                "POST",
                "/entity/bundle2/create",
                wire.view_request(parent, name, scope),
                deadline=deadline,
                entity=syn(parent),
            )
            view = wire.created_entity(answer)
        except Exists:
            # Made before: by another machine, by us before a crash, or by the try whose answer
            # was lost. The latter two may have left it without columns.
            found = await self.find_child(parent, name, deadline=deadline)
            if found is None:
                raise
            entity = await self.entity(found, annotations=False, deadline=deadline)
            if entity.kind is not Kind.ENTITY_VIEW:
                raise
            if await self._columns(found, deadline):
                return found
            view = found
        columns = wire.column_ids(
            await self._transport.json(
                "POST", "/column/batch", wire.columns_request(), deadline=deadline
            )
        )
        await run_job(
            self._transport,
            f"/entity/{syn(view)}/table/transaction",
            wire.schema_request(view, columns),
            deadline=deadline,
            entity=syn(view),
        )
        return view

    async def view_rows(
        self, view: EntityId, *, where: str = "", deadline: Deadline | None = None
    ) -> AsyncIterator[Sequence[ViewRow]]:
        """As `Remote.view_rows`. Cost: 4 requests and more while the job runs; memory: one batch."""
        deadline = deadline or Deadline.after(_JOB_S, f"reading the view {syn(view)}")
        have = await self._columns(view, deadline)
        if missing := wire.VIEW_NEEDS - have:
            raise NotSupported(
                f"the view {syn(view)} lacks the columns {', '.join(sorted(missing))}",
                entity=syn(view),
            )
        chosen = ", ".join(name for name in wire.VIEW_COLUMNS if name in have)
        # The service's own language, run by the service with the caller's rights.
        sql = f"SELECT {chosen} FROM {syn(view)}"  # noqa: S608
        if where:
            sql += f" WHERE {where}"
        answer = await run_job(
            self._transport,
            f"/entity/{syn(view)}/table/download/csv",
            wire.csv_request(view, sql),
            deadline=deadline,
            entity=syn(view),
        )
        ref = FileRef(wire.csv_result(answer), view)
        with tempfile.TemporaryFile(prefix="synd-view-") as file:
            await self._download(ref, file.fileno(), deadline)
            with io.TextIOWrapper(file, encoding="utf-8", newline="") as text:
                batches = wire.view_batches(text, _BATCH)
                while True:
                    batch = await asyncio.to_thread(_next, batches)
                    if batch is None:
                        return
                    yield batch

    async def _columns(self, table: EntityId, deadline: Deadline | None) -> frozenset[str]:
        return wire.column_names(
            await self._transport.json(
                "GET", f"/entity/{syn(table)}/column", deadline=deadline, entity=syn(table)
            )
        )

    async def _download(self, ref: FileRef, fd: int, deadline: Deadline) -> None:
        """Puts the bytes of a table's file into an open file."""
        found = await self._presign_table(ref, deadline)
        size = found.file.size if found.file is not None else None
        first = [found]

        async def url() -> str:
            return _url_of(first.pop() if first else await self._presign_table(ref, deadline))

        await save(self._downloader, url, fd, deadline, size=size)

    async def _presign_table(self, ref: FileRef, deadline: Deadline) -> Presigned:
        found = await file_batch(self._transport, [ref], kind="TableEntity", deadline=deadline)
        return found[0]


def _url_of(found: Presigned) -> str:
    what = f"the CSV of {syn(found.ref.entity)}"
    if found.failure == "UNAUTHORIZED":
        raise Forbidden(f"{what} may not be downloaded", entity=syn(found.ref.entity))
    if found.failure is not None or found.url is None:
        raise ProtocolError(f"the service gives no URL for {what}: {found.failure or 'no reason'}")
    return found.url


def _next(batches: Iterator[list[ViewRow]]) -> list[ViewRow] | None:
    return next(batches, None)
