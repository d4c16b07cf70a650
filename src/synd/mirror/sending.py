"""One local change on its way to the service: step after step, each recorded before the next.

What the next step is decides `plan`; how many changes are under way at once decides `push`. A kill at
any point is mended by doing the step again: each first finds out what an earlier attempt has done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from sqlite3 import Connection

from synd.errors import Exists, NotFound, Stale, UsageError
from synd.ids import EntityId
from synd.mirror.checkpoints import checkpoint
from synd.mirror.conflicts import News
from synd.mirror.curating import Recorder
from synd.mirror.deleting import Deletes
from synd.mirror.following import give_way
from synd.mirror.names import Names
from synd.mirror.outgoing import Bytes, file_of
from synd.mirror.plan import (
    GONE,
    Ask,
    Blocked,
    Commit,
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
    place_of,
    plan,
)
from synd.mirror.steps import LONG_WAIT_S, Done, Files, Later, Tools
from synd.model import Entity, Kind, LinkTarget
from synd.store.local import Local, LocalKind, Sending
from synd.store.unsent import is_kept_here

STALE_TRIES = 3
"""So often an entity that changes under us is read again before it waits."""

BUSY_S = 10.0
"""So long waits what somebody has open who must be done with it first."""

_STEPS = 40
"""A row that takes more has met a moving target: it waits a moment."""


class Sender:
    """Sends one row at a time each; any number of `send` may run at once. On the daemon's loop."""

    def __init__(
        self,
        tools: Tools,
        files: Files,
        content: Bytes,
        deletes: Deletes,
        record_sets: Recorder,
        *,
        every_save: bool,
        quiet_s: float,
    ) -> None:
        """`every_save`: each is a version. `quiet_s`: what is open for writing is sent after such a rest."""
        self._tools = tools
        self._overlay = tools.overlay
        self._locals = tools.overlay.locals
        self._entities = tools.overlay.entities
        self._staging = tools.staging
        self._tree = tools.tree
        self._remote = tools.remote
        self._records = tools.records
        self._sides = tools.sides
        self._outbox = tools.outbox
        self._record = tools.record
        self._files = files
        self._content = content
        self._deletes = deletes
        self._record_sets = record_sets
        self._names = Names(tools)
        self._every_save = every_save
        self._quiet_s = quiet_s
        self._resting: dict[tuple[int, bytes], set[int]] = {}
        """Place of an empty file → symlinks that lead to it: they are sent once it is. In the writer's thread."""

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
        if self._every_save and self._records.rules_of(row).kind is not Kind.RECORD_SET:
            save = self._outbox.next_save(row.id, row.sent)
            if save is not None and save.edit < row.edit and self._staging.exists(save.staged):
                size = self._staging.stamp(save.staged).size
                if size:
                    return row._replace(edit=save.edit, staged=save.staged, size=size, stamp="")
        if self._files.writers(row.id) and self._quiet_left(row) > 0:
            if row.entity is None:
                raise Later(self._quiet_left(row), while_open=True)
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
            if seen is not None and seen.local is not None and _will_be_sent(seen.local):
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
                await self._content.digest(row)
                return told
            case Upload():
                await self._content.upload(row, step)
                return told
            case CreateFolder() | CreateLink() | CreateFile():
                return await self._create(row, step, rules)
            case Blocked():
                if row.staged and row.size == 0 and self._files.writers(row.id):
                    raise Later(max(1.0, self._quiet_left(row)), while_open=True)
                await self._record(lambda tx: self._block(tx, row, step.problem))
                await self._catch_up(row)
                return Done("blocked", row)
            case Update():
                assert isinstance(told, Entity)
                return await self._update(row, told, step, rules)
            case Commit():
                assert isinstance(told, Entity)
                return await self._record_sets.commit(row, told)
            case Delete():
                return await self._deletes.delete(row)
            case DeleteFolder():
                return await self._deletes.delete_folder(row)
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
            raise Later(max(0.1, self._quiet_left(now)), while_open=True)
        if row.kind == LocalKind.SYMLINK and row.entity is None and not row.gone:
            await self._record(lambda tx: self._stays(tx, row))
        else:
            await self._record(lambda tx: self._records.nothing(tx, row))
            await self._catch_up(row)
        return Done("")

    def _stays(self, tx: Connection, row: Local) -> None:
        """A symlink that leads nowhere is this machine's matter; one to an empty file is so until that is sent."""
        seen = None if row.target is None else self._overlay.leads_to(row.parent, row.target)
        if seen is None or seen.local is None or seen.local.local_only:
            self._records.stays(tx, row)
        elif seen.entity is None and not _will_be_sent(seen.local):
            self._resting.setdefault((seen.local.parent, seen.local.name), set()).add(row.id)
            self._records.nothing(tx, row)

    def _wake_links(self, tx: Connection, row: Local) -> None:
        for number in self._resting.pop((row.parent, row.name), ()):
            link = self._locals.find(number, tx)
            if link is not None and link.entity is None and not link.gone:
                self._overlay.queue(tx, link)

    async def _catch_up(self, row: Local) -> None:
        """A row follows its entity only while it has nothing to send: what it missed comes now."""
        entity = row.entity
        if entity is not None and not row.gone:
            listed = self._entities.is_listed(entity)
            names = await self._tree.in_writer(
                lambda: self._overlay.follow(entity, gone=not listed)
            )
            if names:
                await self._record(lambda _: News(names=names))

    async def _wait(self, row: Local, folder: Folder, step: WaitFor) -> Done:
        if step.folder != folder.key:
            raise Later(LONG_WAIT_S, step.folder)
        if folder.entity is None and self._locals.of_key(folder.key) is None:
            problem = NotFound("its folder is not there any more").problem()
            await self._record(lambda tx: _none(self._records.block(tx, row, problem)))
            return Done("blocked", row)
        await self._record(lambda tx: self._records.park(tx, row))
        return Done("")

    def _block(self, tx: Connection, row: Local, problem: Mapping[str, object]) -> News:
        self._records.block(tx, row, problem)
        now = self._locals.find(row.id, tx)
        return News(names=[] if now is None else give_way(self._overlay, tx, now))

    # Asking.

    async def _ask(self, row: Local) -> Told:
        assert row.entity is not None
        checkpoint("push.before-read")
        try:
            return await self._remote.entity(row.entity)
        except NotFound:
            return GONE

    async def _find(self, parent: EntityId, name: str) -> Entity | None:
        """What has a name in a folder of the service. None also for what left it between the two requests."""
        try:
            found = await self._remote.find_child(parent, name)
            other = None if found is None else await self._remote.entity(found)
        except NotFound:
            return None
        return other if other is not None and (other.parent, other.name) == (parent, name) else None

    async def _look(self, row: Local, step: Look, rules: Rules) -> Done | Told:
        """What came of an attempt to create the row whose answer was lost."""
        other = await self._find(step.parent, step.name)
        if other is not None and self._locals.of_entity(other.id) is None:
            if is_same_thing(row, other, rules):
                await self._adopt(row, other)
                return None
            if row.kind == LocalKind.FILE and is_ours(row, other, self._with_losers(row, rules)):
                # What ours has replaced here meanwhile: ours is its next version.
                await self._record(lambda tx: self._records.succeeded(tx, row, other))
                return None
        await self._record(lambda tx: self._tried_in_vain(tx, row))
        return None

    def _with_losers(self, row: Local, rules: Rules) -> Rules:
        """The rules, knowing what the service may have of those that a row has replaced here."""
        losers = self._outbox.losers(row.id)
        return rules._replace(
            handles=frozenset(o.handle for o in losers if o.handle is not None),
            digests=frozenset(o.md5 for o in losers if o.md5 is not None),
        )

    def _tried_in_vain(self, tx: Connection, row: Local) -> News:
        self._records.trying(tx, row.id, None)
        now = self._locals.find(row.id, tx)
        if now is not None and now.hashed != now.edit:
            self._locals.update(tx, row.id, handle=None, hashed=0, md5=None)
        # What has the name of something removed was hidden until now.
        return News(names=[(row.parent, row.name)] if row.gone else [])

    async def _adopt(self, row: Local, other: Entity) -> None:
        """An entity that an earlier attempt of ours has made, or a folder that is one with ours."""
        same = row.kind == LocalKind.FILE and row.hashed > row.sent
        sent = row.hashed if same else None
        checkpoint("push.before-record")
        await self._record(lambda tx: self._records.succeeded(tx, row, other, sent=sent))
        await self._record(lambda tx: self._wake_children(tx, row))
        checkpoint("push.after-record")
        if row.is_folder:
            # What is in it already is looked at now, as the service may be out of reach later.
            self._tree.refresh_soon(other.id)

    def _wake_children(self, tx: Connection, row: Local) -> None:
        self._outbox.wake_children(tx, row.key, self._overlay.now_ns())

    # New things.

    async def _create(
        self, row: Local, step: CreateFolder | CreateLink | CreateFile, rules: Rules
    ) -> Done | Told:
        place = (step.parent, step.name)
        if attempted(row) != place:
            await self._record(lambda tx: self._records.trying(tx, row.id, place))
            checkpoint("push.after-journal")
        now = self._locals.find(row.id)
        if now is None or attempted(now) != place:
            # Removed meanwhile, or renamed to stay here: nothing is to be made of it.
            return None
        kind, file = Kind.FOLDER, None
        if isinstance(step, CreateFile):
            kind, file = Kind.FILE, file_of(row, step.name)
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
                version_label=row.label if file else "",
            )
        except Exists:
            return await self._name_taken(row, step.parent, step.name, rules)
        except NotFound:
            await self._tools.check_folder(step.parent)
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
            self._wake_links(tx, row)
            return self._records.succeeded(
                tx, row, entity, sent=sent, annotations=True, fresh=fresh, notes=notes
            )

        checkpoint("push.before-record")
        await self._record(work)
        checkpoint("push.after-record")
        for staged in saves:
            self._staging.remove(staged)

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
        occupant = None if other is None else self._locals.of_entity(other.id)
        if other is None or other.id == row.entity or (occupant and occupant.id == row.id):
            raise Stale(f"somebody changed {name} meanwhile")
        if occupant is not None:
            await self._names.make_way(row, occupant)
        # One of ours that was on its way elsewhere as it was found has arrived since: then nobody has the name.
        again = await self._find(parent, name)
        if again is None or (again.id, again.etag) != (other.id, other.etag):
            raise Stale(f"{name} was on its way elsewhere")
        if occupant is None and row.entity is None:
            before = self._with_losers(row, rules)
            if is_same_thing(row, other, rules):
                await self._adopt(row, other)
                return Done("created", row, other.id, content=row.kind == LocalKind.FILE)
            if is_ours(row, other, before):
                # What ours has replaced here meanwhile: ours is its next version.
                await self._record(lambda tx: self._records.succeeded(tx, row, other))
                return None
        await self._side(
            row, lambda tx, now: self._sides.name_taken(tx, now, other, rules.mode, told)
        )
        return None

    # Changes of what is there.

    async def _update(self, row: Local, told: Entity, step: Update, rules: Rules) -> Done | Told:
        file = file_of(row, step.name or told.name, told.id) if step.file else None
        if row.is_folder and step.parent is not None:
            await self._names.leave_first(row, step.parent)
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
                await self._tools.check_folder(step.parent)
            return None
        except UsageError:
            if not row.is_folder or step.parent is None:
                raise
            way = await self._names.way_up(row, step.parent)
            if way is None:
                raise
            # Somebody moved our destination into what is to go there.
            await self._side(row, lambda tx, now: self._records.moved_back(tx, now, told, way))
            return None
        checkpoint("push.after-update")
        if made.file is None and not step.file and told.file is not None:
            made = replace(made, file=told.file)
        same = row.unsent_bytes and not (step.file or step.more) and row.hashed == row.edit
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
        if content and row.hashed == row.edit and told.kind is Kind.RECORD_SET:
            return await self._record_sets.settled(row, told, step.notes)
        sent = row.hashed if content else None
        await self._succeeded(row, told, sent, notes=step.notes)
        if content and row.hashed != row.edit:
            return told
        return Done("updated" if content else "", row, told.id, content=content)

    async def _dropped(self, row: Local) -> Done:
        """Gone there, and nothing of ours is lost; but a folder may hold new things of ours."""
        if row.is_folder and self._locals.has_children(row.key) and row.entity is not None:
            news = await self._record(lambda tx: self._abandoned(tx, row))
            if news.postponed:
                raise Later(BUSY_S)
            return Done("")
        await self._record(lambda tx: self._records.ended(tx, row))
        return Done("dropped", row, row.entity)

    def _abandoned(self, tx: Connection, row: Local) -> News:
        now = self._locals.find(row.id, tx)
        if now is None or now.gone or now.entity != row.entity:
            return News()
        return self._records.abandoned(tx, now)

    # Conflicts.

    async def _conflict(self, row: Local, told: Told, reason: Reason, rules: Rules) -> Done | Told:
        if reason is Reason.DELETED_THERE:
            await self._side(row, lambda tx, now: self._sides.deleted_there(tx, now, rules.mode))
            return None
        assert isinstance(told, Entity)
        if not moved_on(row, told, self._with_losers(row, rules)):
            await self._record(lambda tx: self._records.succeeded(tx, row, told))
            return told
        if (
            rules.kind is Kind.RECORD_SET
            and reason is Reason.EDITED
            and (same := await self._record_sets.recognised(row, told))
        ):
            return same
        if reason is Reason.DELETED_HERE:
            await self._record(lambda tx: self._records.came_back(tx, row, told))
            return Done("kept", row, row.entity)
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
            raise Later(2.0)


def _will_be_sent(target: Local) -> bool:
    """Whether what a symlink leads to comes to be on the service by itself: an empty file does not."""
    return not is_kept_here(target) or target.state == Sending.WAITING


def _none(_: object) -> None:
    """Nothing to tell."""
