"""One local change on its way to the service: step after step, each recorded before the next.

What the next step is decides `plan`; how many changes are under way at once decides `push`. A kill at
any point is mended by doing the step again: each first finds out what an earlier attempt has done.
"""

from __future__ import annotations

import asyncio
import mimetypes
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import NamedTuple, Protocol, TypeVar

from synd.cache.staging import TICK_NS, Staging, Stamp
from synd.client.remote import Outgoing, Remote
from synd.clock import Deadline
from synd.digest import md5_of_file
from synd.errors import Exists, IntegrityError, NotFound, Stale
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.mirror.checkpoints import checkpoint
from synd.mirror.conflicts import News, Sides
from synd.mirror.deleting import look_below
from synd.mirror.overlay import Overlay
from synd.mirror.plan import (
    GONE,
    Ask,
    Blocked,
    Conflict,
    CreateFile,
    CreateFolder,
    CreateLink,
    Delete,
    DeleteFolder,
    Dropped,
    Folder,
    Hash,
    Look,
    Note,
    Nothing,
    Reason,
    Rules,
    Settled,
    Step,
    Told,
    Update,
    Upload,
    WaitFor,
    attempted,
    is_ours,
    is_same_thing,
    moved_on,
    passing_name,
    place_of,
    plan,
    wanted_name,
)
from synd.mirror.recording import Records
from synd.mirror.tree import Tree
from synd.model import Entity, FileVersion, Kind, LinkTarget
from synd.store.entities import file_name_of
from synd.store.local import Local, LocalKind, Sending
from synd.store.outbox import Outbox

T = TypeVar("T")

STALE_TRIES = 3
"""So often an entity that changes under us is read again before it waits."""

_STEPS = 40
"""A row that takes more has met a moving target: it waits a moment."""

LONG_WAIT_S = 30.0
UPLOAD_LEAST_BYTES_PER_S = 50_000
_LET_GO_AT_ONCE = 200


class Files(Protocol):
    """The open files of staged bytes, as far as sending must know of them (`synd.mirror.contents`)."""

    def writers(self, number: int) -> int:
        """Open handles that may write to a row's bytes."""
        ...

    def quiet_s(self, number: int) -> float:
        """Seconds since a row's bytes last changed."""
        ...

    def settle(self, number: int) -> bool:
        """Makes bytes that the service has a cache object, if nobody has them open."""
        ...


class Later(Exception):
    """The row has to wait, for a time or for another row."""

    def __init__(self, seconds: float, wait_for: int = 0) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.wait_for = wait_for


class Done(NamedTuple):
    """What came of one row."""

    action: str
    """What was done on the service; empty: nothing."""
    row: Local | None = None
    entity: EntityId | None = None
    content: bool = False
    """Bytes of ours are on the service now."""


class Sender:
    """Sends one row at a time each; any number of `send` may run at once. On the daemon's loop."""

    def __init__(
        self,
        *,
        overlay: Overlay,
        files: Files,
        staging: Staging,
        tree: Tree,
        remote: Remote,
        records: Records,
        sides: Sides,
        outbox: Outbox,
        record: Callable[[Callable[[Connection], News | None]], Awaitable[News]],
        hashers: Executor,
        every_save: bool,
        quiet_s: float,
        upload_delay_s: float,
        progress: Callable[[int, int, int], None] = lambda _number, _done, _total: None,
        deleted: Callable[[Local], None] = lambda _row: None,
    ) -> None:
        """`record` runs a function in a transaction, with others; `deleted` hears of each delete sent."""
        self._overlay = overlay
        self._locals = overlay.locals
        self._entities = overlay.entities
        self._files = files
        self._staging = staging
        self._tree = tree
        self._remote = remote
        self._records = records
        self._sides = sides
        self._outbox = outbox
        self._record = record
        self._hashers = hashers
        self._every_save = every_save
        self._quiet_s = quiet_s
        self._upload_delay_s = upload_delay_s
        self._progress = progress
        self._deleted = deleted

    async def send(self, number: int) -> Done:
        """Sends a row as far as it goes. Raises Later, and what the service raises."""
        told: Told = None
        rules: Rules | None = None
        stale = 0
        for _ in range(_STEPS):
            row = self._load(number)
            if row is None or row.state != Sending.WAITING:
                return Done("")
            folder = self._records.folder_of(row)
            rules = self._rules(row)
            step = plan(row, folder, told, rules)
            try:
                outcome = await self._carry_out(row, folder, step, told, rules)
            except Stale:
                stale += 1
                if stale >= STALE_TRIES:
                    raise
                told = None
                continue
            if isinstance(outcome, Done):
                return outcome
            told = outcome
        raise Later(1.0)

    def _load(self, number: int) -> Local | None:
        """The row, with the bytes that are to be sent next; without those that are still written to."""
        row = self._locals.find(number)
        if row is None or row.gone or not row.unsent_bytes:
            return row
        if self._every_save:
            save = self._outbox.next_save(row.id, row.sent)
            if save is not None and save.edit < row.edit and self._staging.exists(save.staged):
                size = self._staging.stamp(save.staged).size
                if size:
                    return row._replace(edit=save.edit, staged=save.staged, size=size, stamp="")
        if self._files.writers(row.id) and self._quiet_left(row) > 0:
            if row.entity is None:
                raise Later(self._quiet_left(row))
            row = row._replace(sent=row.edit)
        return row

    def _quiet_left(self, row: Local) -> float:
        return max(0.0, self._quiet_s - self._files.quiet_s(row.id))

    def _rules(self, row: Local) -> Rules:
        rules = self._records.rules_of(row)
        if row.kind == LocalKind.SYMLINK and row.entity is None and row.target is not None:
            seen = self._overlay.leads_to(row.parent, row.target)
            if seen is not None and seen.entity is not None:
                return rules._replace(target=LinkTarget(seen.entity))
            if seen is not None and seen.local is not None and not seen.local.local_only:
                return rules._replace(target_waits=seen.local.id)
        return rules

    async def _carry_out(
        self, row: Local, folder: Folder, step: Step, told: Told, rules: Rules
    ) -> Done | Told:
        """One step: what the service says about the entity now, or the end."""
        match step:
            case Nothing():
                return await self._nothing(row)
            case WaitFor():
                return await self._wait(row, folder, step)
            case Ask():
                return await self._ask(row)
            case Look():
                return await self._look(row, step, rules)
            case Hash():
                await self._hash(row)
                return told
            case Upload():
                await self._upload(row, step)
                return told
            case CreateFolder() | CreateLink() | CreateFile():
                return await self._create(row, step, rules)
            case Blocked():
                if row.staged and row.size == 0 and self._files.writers(row.id):
                    raise Later(max(1.0, self._quiet_left(row)))
                await self._record(lambda tx: _none(self._records.block(tx, row, step.problem)))
                return Done("blocked", row)
            case Update():
                assert isinstance(told, Entity)
                return await self._update(row, told, step, rules)
            case Delete():
                return await self._delete(row)
            case DeleteFolder():
                assert isinstance(told, Entity)
                return await self._delete_folder(row, told)
            case Conflict():
                return await self._conflict(row, told, step.reason, rules)
            case Settled():
                return await self._settled(row, told, step)
            case Dropped():
                return await self._dropped(row)

    # Without the service.

    async def _nothing(self, row: Local) -> Done:
        now = self._locals.find(row.id)
        if now is not None and now.unsent_bytes and not row.unsent_bytes and not row.gone:
            raise Later(max(0.1, self._quiet_left(now)))
        if row.kind == LocalKind.SYMLINK and row.entity is None and not row.gone:
            await self._record(lambda tx: self._records.stays(tx, row))
        else:
            await self._record(lambda tx: self._records.nothing(tx, row))
            await self._catch_up(row)
        return Done("")

    async def _catch_up(self, row: Local) -> None:
        """A row follows its entity only while it has nothing to send: what it missed comes now."""
        entity = row.entity
        if entity is not None and not row.gone:
            listed = self._entities.is_listed(entity)
            await self._tree.in_writer(lambda: self._overlay.follow(entity, gone=not listed))

    async def _wait(self, row: Local, folder: Folder, step: WaitFor) -> Done:
        if step.folder != folder.key:
            raise Later(LONG_WAIT_S, step.folder)
        if folder.entity is None and self._locals.of_key(folder.key) is None:
            problem = NotFound("its folder is not there any more").problem()
            await self._record(lambda tx: _none(self._records.block(tx, row, problem)))
            return Done("blocked", row)
        await self._record(lambda tx: self._records.park(tx, row))
        return Done("")

    async def _hash(self, row: Local) -> None:
        if row.lazy:
            raise Later(5.0)
        stamp = self._stamp(row)
        while stamp.hides(time.time_ns()):
            await asyncio.sleep(TICK_NS / 1e9)
            stamp = self._stamp(row)
        if await self._has_changed(row, stamp):
            return
        checkpoint("push.before-hash")
        path = self._staging.path(row.staged)
        loop = asyncio.get_running_loop()
        md5 = await loop.run_in_executor(self._hashers, _digest, path)
        if self._stamp(row) != stamp:
            raise Later(self._upload_delay_s)
        await self._record(lambda tx: self._records.hashed(tx, row, md5))
        checkpoint("push.after-hash")

    async def _has_changed(self, row: Local, stamp: Stamp) -> bool:
        """Whether a file was written to without a close that we heard of: that is one more edit."""
        if not row.stamp or stamp.text() == row.stamp:
            return False
        await self._record(lambda tx: self._records.noticed(tx, row.id, stamp.size, stamp.text()))
        return True

    def _stamp(self, row: Local) -> Stamp:
        try:
            return self._staging.stamp(row.staged)
        except NotFound as error:
            if self._is_same(row):
                raise IntegrityError(
                    "the bytes of this change are not on the disk any more",
                    hint="`synd discard` it",
                ) from error
            raise Later(0.0) from error

    def _is_same(self, row: Local) -> bool:
        now = self._locals.find(row.id)
        return now is not None and (now.staged, now.edit) == (row.staged, row.edit)

    # Asking.

    async def _ask(self, row: Local) -> Told:
        assert row.entity is not None
        checkpoint("push.before-read")
        try:
            return await self._remote.entity(row.entity)
        except NotFound:
            return GONE

    async def _find(self, parent: EntityId, name: str) -> Entity | None:
        """What has a name in a folder of the service."""
        try:
            found = await self._remote.find_child(parent, name)
            return None if found is None else await self._remote.entity(found)
        except NotFound:
            return None

    async def _look(self, row: Local, step: Look, rules: Rules) -> Done | Told:
        """What came of an attempt to create the row whose answer was lost."""
        other = await self._find(step.parent, step.name)
        if (
            other is not None
            and self._locals.of_entity(other.id) is None
            and is_same_thing(row, other, rules)
        ):
            await self._adopt(row, other)
            return None
        await self._record(lambda tx: self._tried_in_vain(tx, row))
        return None

    def _tried_in_vain(self, tx: Connection, row: Local) -> None:
        self._records.trying(tx, row.id, None)
        now = self._locals.find(row.id, tx)
        if now is not None and now.hashed != now.edit:
            self._locals.update(tx, row.id, handle=None, hashed=0, md5=None)

    async def _adopt(self, row: Local, other: Entity) -> None:
        """An entity that an earlier attempt of ours has made, or a folder that is one with ours."""
        same = row.kind == LocalKind.FILE and row.hashed > row.sent
        sent = row.hashed if same else None
        checkpoint("push.before-record")
        await self._record(lambda tx: self._records.succeeded(tx, row, other, sent=sent))
        await self._record(lambda tx: self._wake_children(tx, row))
        checkpoint("push.after-record")

    def _wake_children(self, tx: Connection, row: Local) -> None:
        self._outbox.wake_children(tx, row.key, self._overlay.now_ns())

    # Bytes.

    async def _upload(self, row: Local, step: Upload) -> None:
        assert row.md5 is not None
        if await self._has_changed(row, self._stamp(row)):
            return
        content = Outgoing(
            self._staging.path(row.staged), row.size, row.md5, step.name,
            mimetypes.guess_type(step.name)[0] or "application/octet-stream",
        )  # fmt: skip
        self._progress(row.id, 0, row.size)
        checkpoint("push.before-upload")
        try:
            handle = await self._remote.upload(
                content,
                step.parent,
                progress=lambda done: self._progress(row.id, done, row.size),
                deadline=Deadline.after(
                    600.0 + row.size / UPLOAD_LEAST_BYTES_PER_S, f"sending {step.name}"
                ),
            )
        except NotFound:
            await self._check_folder(step.parent)
            raise Stale(f"the folder of {step.name} changed meanwhile") from None
        except IntegrityError as error:
            if self._unchanged(row):
                raise
            raise Later(self._upload_delay_s) from error
        checkpoint("push.after-upload")
        if not self._unchanged(row):
            # The handle is thrown away: nobody can say what it holds.
            raise Later(self._upload_delay_s)
        attempt = (step.parent, step.name) if row.entity is None else None
        await self._record(lambda tx: self._records.uploaded(tx, row, handle, attempt))
        checkpoint("push.after-journal")

    def _unchanged(self, row: Local) -> bool:
        """Whether the staging file is what was hashed."""
        try:
            stamp = self._staging.stamp(row.staged)
        except NotFound:
            return False
        return stamp.size == row.size if not row.stamp else stamp.text() == row.stamp

    # New things.

    async def _create(
        self, row: Local, step: CreateFolder | CreateLink | CreateFile, rules: Rules
    ) -> Done | Told:
        place = (step.parent, step.name)
        if attempted(row) != place:
            await self._record(lambda tx: self._records.trying(tx, row.id, place))
            checkpoint("push.after-journal")
        kind, file = Kind.FOLDER, None
        if isinstance(step, CreateFile):
            kind, file = Kind.FILE, _file(row, step.name)
        elif isinstance(step, CreateLink):
            kind = Kind.LINK
        annotations = {k: v for k, v in row.wanted_annotations.items() if v is not None}
        checkpoint("push.before-create")
        try:
            made = await self._remote.create(
                kind,
                step.parent,
                step.name,
                file=file,
                link=step.target if isinstance(step, CreateLink) else None,
                annotations=annotations or None,
                version_comment=row.comment if file else "",
            )
        except Exists:
            return await self._name_taken(row, step.parent, step.name, rules)
        except NotFound:
            await self._check_folder(step.parent)
            raise Stale(f"the folder of {step.name} changed meanwhile") from None
        checkpoint("push.after-create")
        await self._succeeded(row, made, row.edit if file else None, fresh=True)
        return Done("created", row, made.id, content=file is not None)

    async def _succeeded(
        self,
        row: Local,
        entity: Entity,
        sent: int | None,
        *,
        fresh: bool = False,
        notes: tuple[Note, ...] = (),
    ) -> None:
        """Records what the service has; `sent`: the edit that its bytes are now."""
        saves: list[int] = []

        def work(tx: Connection) -> News:
            if sent is not None:
                saves.extend(self._outbox.drop_saves(tx, row.id, sent))
            return self._records.succeeded(
                tx, row, entity, sent=sent, annotations=True, fresh=fresh, notes=notes
            )

        checkpoint("push.before-record")
        await self._record(work)
        checkpoint("push.after-record")
        for staged in saves:
            self._staging.remove(staged)

    async def _check_folder(self, folder: EntityId) -> None:
        """A folder that is gone on the service, though we have something for it, is made anew."""
        try:
            await self._remote.entity(folder)
        except NotFound:
            await self._record(lambda tx: self._records.revive(tx, folder))

    async def _name_taken(
        self,
        row: Local,
        parent: EntityId,
        name: str,
        rules: Rules,
        told: Entity | None = None,
    ) -> Done | Told:
        """The service has something under the name that ours is to have."""
        other = await self._find(parent, name)
        if other is None or other.id == row.entity:
            raise Stale(f"somebody changed {name} meanwhile")
        occupant = self._locals.of_entity(other.id)
        if occupant is not None and occupant.id != row.id:
            await self._make_way(row, occupant)
        elif row.entity is None:
            losers = self._outbox.losers(row.id)
            before = rules._replace(
                handles=frozenset(o.handle for o in losers if o.handle is not None),
                digests=frozenset(o.md5 for o in losers if o.md5 is not None),
            )
            if is_same_thing(row, other, rules):
                await self._adopt(row, other)
                return Done("created", row, other.id, content=row.kind == LocalKind.FILE)
            if losers and is_ours(row, other, before):
                # What ours has replaced here meanwhile: ours is its next version.
                await self._record(lambda tx: self._records.succeeded(tx, row, other))
                return None
        await self._side(
            row, lambda tx, now: self._sides.name_taken(tx, now, other, rules.mode, told)
        )
        return None

    async def _make_way(self, row: Local, occupant: Local) -> None:
        """What has the name there is ours, and to be deleted or to go elsewhere: that comes first."""
        if occupant.gone:
            await self._record(lambda tx: self._hurry(tx, occupant.id))
            raise Later(LONG_WAIT_S, occupant.id)
        kind = self._records.rules_of(occupant).kind
        wish = (self._records.folder_of(occupant).entity, wanted_name(occupant, kind))
        if wish == (occupant.base_parent, occupant.base_name):
            return
        if self._leads_back(row, occupant):
            passing = row if row.entity is not None else occupant
            assert passing.entity is not None
            told = await self._remote.entity(passing.entity)
            checkpoint("push.before-passing")
            made = await self._remote.update(told, name=passing_name(passing.id))
            checkpoint("push.after-passing")
            await self._record(lambda tx: self._records.succeeded(tx, passing, made))
            if passing is occupant:
                raise Stale("the name is free now")
        await self._record(lambda tx: self._hurry(tx, occupant.id))
        raise Later(LONG_WAIT_S, occupant.id)

    def _hurry(self, tx: Connection, number: int) -> None:
        self._outbox.hurry(tx, number, self._overlay.now_ns())

    def _leads_back(self, row: Local, occupant: Local) -> bool:
        """Whether those who wait for each other's names form a ring with `row` in it."""
        at = occupant
        for _ in range(64):
            kind = self._records.rules_of(at).kind
            parent, name = self._records.folder_of(at).entity, wanted_name(at, kind)
            if parent is None:
                return self._is_above(row, at)
            if row.entity is not None and (parent, name) == (row.base_parent, row.base_name):
                return True
            spelled = file_name_of(name, kind, EntityId(0))
            there = self._entities.child(parent, spelled)
            following = None if there is None else self._locals.of_entity(there.id)
            if following is None or following.id == at.id:
                return False
            at = following
        return False

    def _is_above(self, row: Local, inside: Local) -> bool:
        """Whether `inside` waits for the folder `row` to be made."""
        folder = self._locals.of_key(inside.parent)
        for _ in range(64):
            if folder is None or folder.entity is not None:
                return False
            if folder.id == row.id:
                return True
            folder = self._locals.of_key(folder.parent)
        return False

    # Changes of what is there.

    async def _update(self, row: Local, told: Entity, step: Update, rules: Rules) -> Done | Told:
        file = _file(row, step.name or told.name, told.id) if step.file else None
        checkpoint("push.before-update")
        try:
            made = await self._remote.update(
                told,
                name=step.name,
                parent=step.parent,
                file=file,
                annotations=step.annotations,
                version_comment=row.comment if step.file else "",
                version_label=row.label if step.file else "",
            )
        except Exists:
            if step.name is None and step.parent is None:
                if not row.label:
                    raise
                # Labels are unique among an entity's versions.
                await self._record(lambda tx: self._locals.update(tx, row.id, label=""))
                return None
            parent, name = step.parent or place_of(told), step.name or told.name
            return await self._name_taken(row, parent, name, rules, told)
        except NotFound:
            if step.parent is not None:
                await self._check_folder(step.parent)
            return None
        checkpoint("push.after-update")
        if made.file is None and not step.file and told.file is not None:
            made = replace(made, file=told.file)
        same = row.unsent_bytes and not step.file and row.hashed == row.edit
        await self._succeeded(row, made, row.edit if step.file or same else None, notes=step.notes)
        action = "updated" if step.file else "moved" if step.name or step.parent else "annotated"
        return Done(action, row, made.id, content=step.file)

    async def _settled(self, row: Local, told: Told, step: Settled) -> Done | Told:
        if row.gone or told is GONE:
            await self._record(lambda tx: self._records.ended(tx, row))
            await self._record(lambda tx: self._wake_children(tx, row))
            return Done("deleted", row, row.entity)
        if told is None:
            await self._record(lambda tx: self._records.same_bytes(tx, row))
            await self._catch_up(row)
            return Done("", row, content=True)
        assert isinstance(told, Entity)
        content = row.unsent_bytes and row.size > 0 and row.hashed > row.sent
        sent = row.hashed if content else None
        await self._succeeded(row, told, sent, notes=step.notes)
        if content and row.hashed != row.edit:
            return told
        return Done("updated" if content else "", row, told.id, content=content)

    async def _dropped(self, row: Local) -> Done:
        """Gone there, and nothing of ours is lost; but a folder may hold new things of ours."""
        if row.is_folder and self._locals.has_children(row.key) and row.entity is not None:
            folder = row.entity
            await self._record(lambda tx: self._records.revive(tx, folder))
            return Done("")
        await self._record(lambda tx: self._records.ended(tx, row))
        return Done("dropped", row, row.entity)

    # Conflicts.

    async def _conflict(self, row: Local, told: Told, reason: Reason, rules: Rules) -> Done | Told:
        if reason is Reason.DELETED_HERE:
            assert isinstance(told, Entity)
            await self._record(lambda tx: self._records.came_back(tx, row, told))
            return Done("kept", row, row.entity)
        if reason is Reason.DELETED_THERE:
            await self._side(row, lambda tx, now: self._sides.deleted_there(tx, now, rules.mode))
            return None
        assert isinstance(told, Entity)
        losers = self._outbox.losers(row.id)
        before = rules._replace(
            handles=frozenset(o.handle for o in losers if o.handle is not None),
            digests=frozenset(o.md5 for o in losers if o.md5 is not None),
        )
        if losers and not moved_on(row, told, before):
            await self._record(lambda tx: self._records.succeeded(tx, row, told))
            return told
        await self._side(row, lambda tx, now: self._edited(tx, now, told, rules))
        return None

    def _edited(self, tx: Connection, now: Local, theirs: Entity, rules: Rules) -> News:
        news = self._sides.edited(tx, now, theirs, rules.mode)
        if not news.postponed:
            self._records.settle_state(tx, now.id, theirs)
        return news

    async def _side(self, row: Local, act: Callable[[Connection, Local], News]) -> None:
        """Lets both sides go their ways, if the row is still as it was."""

        def work(tx: Connection) -> News:
            now = self._locals.find(row.id, tx)
            if now is None or (now.edit, now.parent, now.name, now.gone, now.entity) != (
                row.edit, row.parent, row.name, row.gone, row.entity,
            ):  # fmt: skip
                return News()
            return act(tx, now)

        checkpoint("push.before-conflict")
        news = await self._record(work)
        checkpoint("push.after-conflict")
        if news.postponed:
            raise Later(max(1.0, self._upload_delay_s))

    # Deletes.

    async def _delete(self, row: Local) -> Done:
        assert row.entity is not None
        if not self._still_deleted(row):
            raise Later(0.0)
        checkpoint("push.before-delete")
        await self._remote.delete(row.entity)
        checkpoint("push.after-delete")
        self._deleted(row)
        await self._record(lambda tx: self._records.deleted(tx, row))
        checkpoint("push.after-record")
        return Done("deleted", row, row.entity)

    def _still_deleted(self, row: Local) -> bool:
        now = self._locals.find(row.id)
        return now is not None and bool(now.gone) and now.entity == row.entity

    async def _delete_folder(self, row: Local, told: Entity) -> Done:
        below = await look_below(self._remote, self._locals, row)
        if below.waits_for:
            await self._record(lambda tx: self._hurry(tx, below.waits_for))
            raise Later(LONG_WAIT_S, below.waits_for)
        if not self._still_deleted(row):
            raise Later(0.0)
        if not below.foreign:
            await self._gone(told.id)
            await self._let_go(below.ours)
            return await self._delete_last(row)
        for entity in below.deletable:
            await self._gone(entity)
        await self._let_go(below.ours)
        for number in [*below.kept, row.id]:
            await self._record(partial(self._came_back, number=number))
        for folder in {folder for folder, _ in below.foreign}:
            self._tree.refresh_soon(folder)
        return Done("kept", row, row.entity)

    async def _gone(self, entity: EntityId) -> EntityId:
        checkpoint("push.before-delete")
        await self._remote.delete(entity)
        checkpoint("push.after-delete")
        local = self._locals.of_entity(entity)
        if local is not None:
            self._deleted(local)
        return entity

    async def _delete_last(self, row: Local) -> Done:
        await self._record(lambda tx: self._records.ended(tx, row))
        await self._record(lambda tx: _none(self._outbox.wake_parked(tx, self._overlay.now_ns())))
        checkpoint("push.after-record")
        return Done("deleted", row, row.entity)

    async def _let_go(self, numbers: list[int]) -> None:
        for start in range(0, len(numbers), _LET_GO_AT_ONCE):
            batch = numbers[start : start + _LET_GO_AT_ONCE]
            await self._record(partial(self._end_all, numbers=batch))

    def _end_all(self, tx: Connection, *, numbers: list[int]) -> News:
        news = News()
        for number in numbers:
            now = self._locals.find(number, tx)
            if now is not None and now.gone and now.entity is not None:
                news.changes += self._records.ended(tx, now).changes
        return news

    def _came_back(self, tx: Connection, *, number: int) -> News:
        now = self._locals.find(number, tx)
        return News() if now is None else self._records.came_back(tx, now, None)


def _digest(path: Path) -> Md5:
    try:
        return md5_of_file(path)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is gone") from error


def _file(row: Local, name: str, entity: EntityId | None = None) -> FileVersion:
    """The bytes of a row as the service is told of them."""
    return FileVersion(
        entity or EntityId(0), Version(1), FileHandleId(row.handle or 0), row.md5, row.size,
        name=name, content_type=mimetypes.guess_type(name)[0] or "application/octet-stream",
    )  # fmt: skip


def _none(_: object) -> None:
    """Nothing to tell."""
