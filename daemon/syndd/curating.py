"""A saved CSV becomes a version of its record set: by a grid session of its own, which is gone afterwards.

create a session ─► delete the rows that the CSV has no more ─► import it ─► wait for the validation ─► export

Nothing is exported unless all rows are valid, or the setting `record_set_export` says otherwise. Known limits: a version
that somebody else makes between the last look at the entity and the export (one request) is not noticed; a column
that the CSV has no more stays, empty.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from synd.client.service import SynapseClient
from synd.client.wire_grids import Column, CsvFormat, RecordSet
from synd.clock import Deadline
from synd.errors import (
    DeadlineExceeded,
    NotFound,
    RemoteUnavailable,
    Stale,
    SyndError,
    UsageError,
    not_written,
)
from synd.grid import csvfile, operations, spelling
from synd.grid.crdt.author import Author
from synd.grid.operations import Validation
from synd.grid.schema import columns as columns_of
from synd.grid.snapshot import open_grid
from synd.grid.values import Verdict
from synd.ids import syn
from synd.log import fields
from synd.mirror.curating import ChangedMeanwhile, Committed, Refused, Wanted
from synd.mirror.streams import Streams
from synd.model import Entity
from synd.store.curation import Curation
from syndd import savedrows

log = logging.getLogger(__name__)

TOTAL_S: Final = 1800.0
"""For one attempt."""
END_S: Final = 15.0
"""For deleting a session."""
REPORTED: Final = 1000
"""Invalid rows that a report names; they are counted all."""

_STATES: Final = {
    Verdict.VALID: Curation.VALID,
    Verdict.INVALID: Curation.INVALID,
    Verdict.PENDING: Curation.PENDING,
    Verdict.NO_SCHEMA: Curation.NO_SCHEMA,
    Verdict.INCOMPLETE: Curation.INCOMPLETE,
}


class Curator:
    """`synd.mirror.curating.Curating` through the service's grids."""

    def __init__(
        self,
        client: SynapseClient,
        streams: Streams,
        *,
        work: Path,
        always: bool,
        validation_s: float,
    ) -> None:
        """`work`: for copies of rows; what a kill has left in it is removed. `always`: exports whatever the service says
        of the rows, once it has said it. `validation_s`: it has so long to say it.
        """
        shutil.rmtree(work, ignore_errors=True)
        self._work = work
        self._client = client
        self._streams = streams
        self._always = always
        self._validation_s = validation_s

    async def end(self, session: str) -> None:
        with suppress(NotFound):
            await self._client.delete_grid(
                session, deadline=Deadline.after(END_S, "deleting a grid session")
            )

    async def same_rows(self, told: Entity, path: Path) -> bool:
        file = told.file
        if file is None or not file.size:
            return False
        form = (await self._client.record_set(told.id)).csv
        await asyncio.wrap_future(self._streams.whole(file))
        fd = self._streams.objects.open(file.key, file.size)
        if fd is None:
            raise RemoteUnavailable(f"version {told.version} of {syn(told.id)} is not here")
        try:
            # By the descriptor: the object may be evicted meanwhile.
            there = Path(f"/proc/self/fd/{fd}")
            with self._aside() as folder:
                return await asyncio.to_thread(_same, there, path, form, folder)
        finally:
            os.close(fd)

    async def commit(self, wanted: Wanted) -> Committed | Refused:
        deadline = Deadline.after(TOTAL_S, f"making a version of {wanted.name}")
        record_set = await self._client.record_set(wanted.entity.id, deadline=deadline)
        if record_set.version != wanted.entity.version:
            raise Stale(f"{syn(record_set.id)} was changed meanwhile", entity=syn(record_set.id))
        with self._aside() as folder:
            # What is sent has an end, even if somebody writes on.
            path = await asyncio.to_thread(_taken, wanted.path, folder, record_set.csv)
            try:
                return await self._commit(wanted, path, record_set, deadline)
            except UsageError as error:
                return _unusable(wanted, path, error)

    @contextmanager
    def _aside(self) -> Iterator[Path]:
        """A folder for an attempt. Raises CacheFull."""
        try:
            self._work.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = tempfile.TemporaryDirectory(dir=self._work)
        except OSError as error:
            raise not_written(self._work, error) from error
        with folder as name:
            yield Path(name)

    async def _commit(
        self, wanted: Wanted, path: Path, record_set: RecordSet, deadline: Deadline
    ) -> Committed | Refused:
        facts, doubled = await asyncio.to_thread(savedrows.look, path, record_set)
        if doubled:
            raise UsageError(doubled, hint="a key names one row")
        session = (await self._client.create_grid(record_set=record_set.id, deadline=deadline)).id
        log.info("curation.begun", extra=fields(entity=syn(record_set.id), session=session))
        outcome: Committed | Refused
        try:
            await wanted.begun(session)
            outcome = await self._through(session, wanted, path, record_set, facts, deadline)
        except UsageError as error:
            outcome = _unusable(wanted, path, error)
        except Exception:
            # A daemon that stops does not wait for this: the session was noted.
            await self._let_go(session, wanted)
            raise
        await self._let_go(session, wanted)
        return outcome

    async def _let_go(self, session: str, wanted: Wanted) -> None:
        """Deletes the session. One that stays is deleted by the next attempt, as it was noted."""
        try:
            await self.end(session)
        except SyndError as error:
            log.info("curation.session_left", extra=fields(session=session, why=error.message))
            return
        await wanted.ended()

    async def _through(
        self,
        session: str,
        wanted: Wanted,
        path: Path,
        record_set: RecordSet,
        facts: csvfile.Facts,
        deadline: Deadline,
    ) -> Committed | Refused:
        bound = await operations.bound_schema(self._client, session, deadline=deadline)
        columns = columns_of(facts.names, bound, facts.longest)
        keys = await asyncio.to_thread(savedrows.keys, path, record_set, columns)
        await self._clear(session, record_set, facts, keys, deadline)
        await self._import(session, path, record_set, facts, columns, deadline)
        found = await self._validated(session, deadline)
        if found.outcome.complete and found.total_rows != facts.rows:
            # The service knows rows again by another rule than we do: without any of the old ones it cannot.
            await self._clear(session, record_set, facts, None, deadline)
            await self._import(session, path, record_set, facts, columns, deadline)
            found = await self._validated(session, deadline)
        state = _STATES[found.verdict]
        report = _report(record_set, found)
        if found.outcome.complete and found.total_rows != facts.rows:
            title = f"the service made {found.total_rows} rows of the {facts.rows} in the file"
            return Refused(
                Curation.REFUSED, report, _problem("NotSupported", title, "see its upsert key")
            )
        fine = state in (Curation.VALID, Curation.NO_SCHEMA)
        # What was not read may be anything: not even `always` means that.
        if not fine and not (self._always and found.outcome.complete):
            return self._refused(wanted, state, found, report)
        if not wanted.still():
            raise ChangedMeanwhile
        now = await self._client.record_set(record_set.id, deadline=deadline)
        if (now.version, now.etag) != (record_set.version, record_set.etag):
            raise Stale(f"{syn(record_set.id)} was changed meanwhile", entity=syn(record_set.id))
        await wanted.looked(state, report)
        made = await self._client.export_grid(session, deadline=deadline)
        log.info("curation.exported", extra=fields(entity=syn(record_set.id), version=made.version))
        return Committed(state, {**report, "version": made.version})

    async def _clear(
        self,
        session: str,
        record_set: RecordSet,
        facts: csvfile.Facts,
        keys: Sequence[savedrows.Key] | None,
        deadline: Deadline,
    ) -> None:
        """Deletes the rows that the CSV has not; all of them where an import could not make its rows of the others.

        `keys`: those of the CSV in order; None: all rows go.
        """
        async with open_grid(self._client, session, deadline=deadline) as grid:
            if not await grid.sync() or grid.document is None:
                grid.raise_refusal()
                outcome = grid.outcome
                if outcome is not None:
                    raise outcome.error(session)
                raise RemoteUnavailable(f"grid session {session} could not be read")
            author = Author(grid.document, grid.replica)
            if not author.document.exists:
                return
            doomed = await asyncio.to_thread(
                savedrows.doomed, author.document, record_set, facts.names, keys
            )
            if not doomed:
                return
            patches = await asyncio.to_thread(author.delete_rows, doomed)
            if not await grid.store(patches):
                outcome = grid.outcome
                raise (
                    outcome.error(session)
                    if outcome is not None
                    else RemoteUnavailable(f"grid session {session} took no changes")
                )

    async def _import(
        self,
        session: str,
        path: Path,
        record_set: RecordSet,
        facts: csvfile.Facts,
        columns: Sequence[Column],
        deadline: Deadline,
    ) -> None:
        if facts.rows:
            await operations.import_csv(
                self._client,
                session,
                path,
                schema=columns,
                form=record_set.csv,
                aside=path.parent,
                deadline=deadline,
            )

    async def _validated(self, session: str, deadline: Deadline) -> Validation:
        seconds = min(self._validation_s, deadline.left_s())
        return await operations.get_validation(
            self._client, session, deadline=Deadline.after(seconds, "validating the rows")
        )

    def _refused(
        self, wanted: Wanted, state: Curation, found: Validation, report: Mapping[str, object]
    ) -> Refused:
        if state is Curation.INVALID:
            some = "row is" if found.total_rows == 1 else "rows are"
            title = f"{found.invalid_rows} of {found.total_rows} {some} not valid"
            hint = (
                f"mend them and save again; `@info/{report_name(wanted.name)}` beside it says what is wrong"
                " with each"
            )
            return Refused(state, report, _problem("NotValid", title, hint))
        if state is Curation.PENDING:
            title = f"the service has not validated {found.pending_rows} of {found.total_rows} rows"
            again: SyndError = DeadlineExceeded(title, hint="it is tried again by itself")
        else:
            again = found.outcome.error(found.session)
        return Refused(state, report, again.problem(), again)


def report_name(file_name: str) -> str:
    """Name in ``@info`` of the report on a record set that the mount shows as `file_name`."""
    return f"{file_name[:-4] if file_name.lower().endswith('.csv') else file_name}.validation.json"


def _problem(kind: str, title: str, hint: str) -> Mapping[str, object]:
    return {"type": kind, "title": title, "hint": hint}


def _unusable(wanted: Wanted, path: Path, error: UsageError) -> Refused:
    """The CSV cannot be used, in the words of `error` but for `path`, which is nobody's."""
    title = error.message.replace(str(path), wanted.name)
    hint = error.hint or f"mend it and save again, or `synd discard {shlex.quote(wanted.name)}`"
    problem = _problem(type(error).__name__, title, hint)
    return Refused(
        Curation.REFUSED, {"verdict": "refused", "problem": title, "hint": hint}, problem
    )


def _report(record_set: RecordSet, found: Validation) -> dict[str, object]:
    """What `@info` shows."""
    return {
        "id": syn(record_set.id),
        "name": record_set.name,
        "based_on_version": record_set.version,
        "version": None,
        **{k: v for k, v in found.validation_summary.items() if k != "session"},
        "rows": [
            {
                "row": one.row,
                "key": {name: one.cells.get(name) for name in record_set.upsert_key},
                "messages": [{"column": m.column, "text": m.text} for m in one.messages],
            }
            for one in found.problems[:REPORTED]
        ],
    }


def _taken(source: Path, folder: Path, form: CsvFormat) -> Path:
    """A copy of a saved CSV in `folder`, in the common spelling: what was exported comes back in the service's,
    and editors leave the rows alone that nobody touched.
    """
    copy = folder / "saved.csv"
    try:
        with source.open("rb") as one, copy.open("wb") as two:
            while data := one.read(1 << 20):
                two.write(data)
    except FileNotFoundError as error:
        raise ChangedMeanwhile from error
    except OSError as error:
        raise not_written(copy, error) from error
    return spelling.either(copy, folder / "rows.csv", form)


def _same(one: Path, other: Path, form: CsvFormat, folder: Path) -> bool:
    """Whether two CSVs have the same rows, each in whichever spelling."""
    found = [
        spelling.either(path, folder / f"{n}.csv", form) for n, path in enumerate((one, other))
    ]
    return savedrows.same(found[0], found[1], form)
