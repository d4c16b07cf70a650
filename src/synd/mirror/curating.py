"""Record sets: their bytes are not sent as those of files are, but become a version through a grid of the service.

How that is done is not known here; who does it is handed in (`Curating`). What came of it is recorded here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple, Protocol

from synd.errors import SyndError
from synd.ids import EntityId, Version
from synd.mirror.checkpoints import checkpoint
from synd.mirror.conflicts import News
from synd.mirror.outgoing import Bytes
from synd.mirror.plan import Note, moved_on
from synd.mirror.steps import Done, Later, Tools
from synd.model import Entity
from synd.store.curation import Curation, Curations
from synd.store.local import Local

NOT_BUILT: Mapping[str, object] = {
    "type": "NotSupported",
    "title": "record sets cannot be changed here",
    "hint": "change it on the web or through `synd grid`",
}
"""Problem body where nobody was handed in."""


class Wanted(NamedTuple):
    """A CSV that is to be the next version of a record set."""

    entity: Entity
    """As it was read last; if it is another by the time of the export, Stale is to be raised."""
    path: Path
    """The bytes. They may change: `still` says whether they have."""
    name: str
    """What messages call the file."""
    still: Callable[[], bool]
    begun: Callable[[str], Awaitable[object]]
    """Told of the grid session before anything is done with it, so that one that a kill left is ended."""
    ended: Callable[[], Awaitable[object]]
    """Told once the session is deleted."""
    looked: Callable[[Curation, Mapping[str, object]], Awaitable[object]]
    """Told of the verdict and the report just before the export."""


class Committed(NamedTuple):
    """It is a version now."""

    state: Curation
    report: Mapping[str, object]


class Refused(NamedTuple):
    """Nothing was exported."""

    state: Curation
    report: Mapping[str, object]
    problem: Mapping[str, object]
    again: SyndError | None = None
    """Why it is tried again by itself; None: not before the file changes or somebody asks."""


class ChangedMeanwhile(Exception):
    """The CSV was written to while it was being read: nothing was exported."""


class Curating(Protocol):
    """Makes versions of record sets. On the daemon's loop."""

    async def commit(self, wanted: Wanted) -> Committed | Refused:
        """One attempt. Raises ChangedMeanwhile, Stale (the entity changed), and what the service raises."""
        ...

    async def same_rows(self, told: Entity, path: Path) -> bool:
        """Whether a record set's present version holds the rows of a CSV. Cost: its bytes."""
        ...

    async def end(self, session: str) -> None:
        """Deletes a grid session. One that is gone is no error."""
        ...


class Recorder:
    """Takes the step of a record set's bytes, and writes down what came of it."""

    def __init__(
        self, tools: Tools, content: Bytes, curating: Curating | None, *, delay_s: float
    ) -> None:
        """`delay_s`: what is being written to waits so long."""
        self._tools = tools
        self._locals = tools.overlay.locals
        self._content = content
        self._curating = curating
        self._curations = Curations(tools.overlay.store)
        self._delay_s = delay_s

    async def commit(self, row: Local, told: Entity) -> Done | Entity | None:
        """Makes a row's bytes the next version of its record set, or blocks it; None: it is to be looked at again."""
        assert row.entity is not None
        if self._curating is None:
            await self._block(row, NOT_BUILT)
            return Done("blocked", row)
        if await self._content.has_changed(row):
            return told
        await self._end_left_over(row.entity)
        if moved_on(row, told, self._tools.records.rules_of(row)) and (
            same := await self.recognised(row, told)
        ):
            return same
        wanted = Wanted(
            told,
            self._tools.staging.path(row.staged),
            row.name.decode(errors="replace"),
            still=lambda: self._content.unchanged(row),
            begun=lambda session: self._begun(row, session),
            ended=lambda: self._ended(told.id),
            looked=lambda state, report: self._looked(row, state, report),
        )
        try:
            outcome = await self._curating.commit(wanted)
        except ChangedMeanwhile as error:
            raise Later(self._delay_s) from error
        except SyndError as error:
            # Its session was deleted, or is left over and deleted by the next attempt.
            await self._failed(row, error)
            raise
        checkpoint("push.after-export")
        if isinstance(outcome, Refused):
            return await self._refused(row, outcome)
        now = await self._tools.remote.entity(row.entity)
        await self._succeeded(row, now, outcome)
        return Done("updated", row, now.id, content=True)

    async def recognised(self, row: Local, told: Entity) -> Done | None:
        """Records a version that somebody made of the very rows of this edit: mostly we, whose answer was lost."""
        assert row.entity is not None
        if self._curating is None or not row.size or row.hashed != row.edit:
            return None
        path = self._tools.staging.path(row.staged)
        if not await self._curating.same_rows(told, path) or not self._content.unchanged(row):
            return None
        return await self.settled(row, told)

    async def settled(self, row: Local, told: Entity, notes: tuple[Note, ...] = ()) -> Done:
        """Records that the present version holds this edit already."""
        await self._end_left_over(told.id)
        await self._succeeded(row, told, None, notes)
        return Done("updated", row, told.id, content=True)

    async def _end_left_over(self, entity: EntityId) -> None:
        """Deletes the grid session that an earlier attempt has left."""
        known = self._curations.find(entity)
        if known is None or not known.session or self._curating is None:
            return
        await self._curating.end(known.session)
        await self._ended(entity)

    async def _ended(self, entity: EntityId) -> None:
        await self._tools.record(lambda tx: self._curations.ended(tx, entity))

    async def _begun(self, row: Local, session: str) -> None:
        entity = row.entity
        assert entity is not None
        now = self._tools.overlay.now_ns()
        await self._tools.record(
            lambda tx: self._curations.begin(tx, entity, row.id, row.edit, now, session)
        )
        checkpoint("push.after-session")

    async def _looked(self, row: Local, state: Curation, report: Mapping[str, object]) -> None:
        await self._tools.record(lambda tx: self._say(tx, row, state, report))
        checkpoint("push.before-export")

    async def _refused(self, row: Local, outcome: Refused) -> Done:
        def work(tx: Connection) -> None:
            self._say(tx, row, outcome.state, outcome.report)
            if outcome.again is None:
                self._tools.records.block(tx, row, outcome.problem)

        await self._tools.record(work)
        if outcome.again is not None:
            raise outcome.again
        return Done("blocked", row)

    async def _failed(self, row: Local, error: SyndError) -> None:
        """What can be said of an attempt that ended in an error."""
        entity = row.entity
        assert entity is not None
        known = self._curations.find(entity)
        if known is None or (known.local, known.edit) != (row.id, row.edit):
            return
        report = {"verdict": Curation.INCOMPLETE.value, "problem": error.message}
        await self._tools.record(lambda tx: self._say(tx, row, Curation.INCOMPLETE, report))

    def _say(
        self,
        tx: Connection,
        row: Local,
        state: Curation,
        report: Mapping[str, object],
        version: Version | None = None,
    ) -> None:
        assert row.entity is not None
        now = self._tools.overlay.now_ns()
        self._curations.say(tx, row.entity, row.id, row.edit, now, state, report, version=version)

    async def _block(self, row: Local, problem: Mapping[str, object]) -> None:
        await self._tools.record(lambda tx: self._blocked(tx, row, problem))

    def _blocked(self, tx: Connection, row: Local, problem: Mapping[str, object]) -> None:
        self._tools.records.block(tx, row, problem)

    async def _succeeded(
        self, row: Local, now: Entity, outcome: Committed | None, notes: tuple[Note, ...] = ()
    ) -> None:
        """One transaction: base, edit and report. `outcome` None: it stays as it was said before the export."""
        saves: list[int] = []

        def work(tx: Connection) -> News:
            version = now.version
            if outcome is not None:
                self._say(tx, row, outcome.state, outcome.report, version)
            elif version is not None:
                self._curations.became(tx, now.id, row.id, row.edit, version)
            saves.extend(self._tools.outbox.drop_saves(tx, row.id, row.edit))
            return self._tools.records.succeeded(tx, row, now, sent=row.edit, notes=notes)

        checkpoint("push.before-record")
        await self._tools.record(work)
        checkpoint("push.after-record")
        for staged in saves:
            self._tools.staging.remove(staged)
