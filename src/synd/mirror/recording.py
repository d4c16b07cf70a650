"""What a step of sending did, as rows: local row and entity row in one transaction.

Leaves deciding to `plan` and conflicts to `conflicts`. Every function belongs inside
`overlay.change()` and looks at the row as it is now: it may have changed while it was being sent.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import replace

from synd.errors import Forbidden, SyndError
from synd.ids import EntityId, FileHandleId, Md5, syn
from synd.mirror.bases import NO_BASE
from synd.mirror.conflicts import News, Sides, base_fields
from synd.mirror.following import is_lost
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.plan import (
    EMPTY,
    Blocked,
    Folder,
    Mode,
    Note,
    Nothing,
    Reason,
    Rules,
    Settled,
    goes_with,
    passing_name,
    place_of,
    plan,
    wanted_name,
)
from synd.model import Entity, Kind
from synd.paths import marked_entity
from synd.store.entities import TOP
from synd.store.local import FIRST, Local, LocalKind, Sending, annotations_json
from synd.store.outbox import Outbox

_KINDS = {LocalKind.FOLDER: Kind.FOLDER, LocalKind.SYMLINK: Kind.LINK}


REMEMBERED_DELETES = 10_000
"""So many sent deletes can be taken back by path; older ones are in the service's trash can all the same."""


class Records:
    """The rows of what is being sent."""

    def __init__(self, overlay: Overlay, sides: Sides, outbox: Outbox, mode: Mode) -> None:
        self._overlay = overlay
        self._locals = overlay.locals
        self._entities = overlay.entities
        self._sides = sides
        self._outbox = outbox
        self._mode = mode

    # What a plan depends on.

    def folder_of(self, row: Local, tx: sqlite3.Connection | None = None) -> Folder:
        """The folder of a row; without entity also when it vanished."""
        if row.parent == TOP:
            return Folder(0, TOP)
        local = self._locals.of_key(row.parent, tx)
        if local is None:
            return Folder(row.parent, EntityId(row.parent) if row.parent < FIRST else None)
        return Folder(row.parent, local.entity, bool(local.gone), bool(local.local_only))

    def rules_of(self, row: Local) -> Rules:
        kind = _KINDS.get(LocalKind(row.kind), Kind.FILE)
        version = row.base_version
        if row.entity is not None and (known := self._entities.find(row.entity)) is not None:
            kind, version = Kind(known.kind), known.version
        bare = row.unsent_bytes and not row.size
        lost = (row.is_folder or bare) and row.entity is not None and not row.gone
        return Rules(
            self._mode, kind, lost=lost and is_lost(self._overlay, row.key), version=version
        )

    # The journal of a step.

    def noticed(self, tx: sqlite3.Connection, number: int, size: int, stamp: str) -> None:
        """The bytes changed without a close: one more edit."""
        now = self._locals.find(number, tx)
        if now is not None and now.stamp != stamp:
            self._locals.update(tx, number, size=size, stamp=stamp, edit=now.edit + 1)

    def hashed(self, tx: sqlite3.Connection, row: Local, md5: Md5) -> None:
        """The md5 of the bytes of an edit. A handle of older bytes is forgotten."""
        if self._locals.find(row.id, tx) is not None:
            self._locals.update(tx, row.id, hashed=row.edit, md5=md5, handle=None)

    def uploaded(
        self,
        tx: sqlite3.Connection,
        row: Local,
        handle: FileHandleId,
        attempt: tuple[EntityId, str] | None,
    ) -> None:
        """The handle, and where it is tried to be attached next."""
        now = self._locals.find(row.id, tx)
        if now is None or (now.hashed, now.md5) != (row.edit, row.md5):
            return
        fields: dict[str, object] = {"handle": handle}
        if attempt is not None and _is_to_be_made(now):
            fields.update(base_parent=attempt[0], base_name=attempt[1])
        self._locals.update(tx, row.id, **fields)

    def trying(
        self, tx: sqlite3.Connection, number: int, attempt: tuple[EntityId, str] | None
    ) -> None:
        """Where a row is about to be created; None: nothing came of it."""
        now = self._locals.find(number, tx)
        if now is not None and now.entity is None and (attempt is None or _is_to_be_made(now)):
            parent, name = attempt or (None, None)
            self._locals.update(tx, number, base_parent=parent, base_name=name)

    # Results.

    def succeeded(
        self,
        tx: sqlite3.Connection,
        started: Local,
        entity: Entity,
        *,
        sent: int | None = None,
        annotations: bool = False,
        fresh: bool = False,
        notes: tuple[Note, ...] = (),
    ) -> News:
        """The service has the entity so. `sent`: the edit that its bytes are; `annotations`: it has
        those of `started`; `fresh`: we have just made it.
        """
        entity = _with_file(entity, started, sent)
        news = News()
        changes = self._entities.put(tx, entity, fresh=fresh)
        if not fresh:
            # What somebody else did beside it. Of what is ours the mount knows by the row.
            news.changes = [c for c in changes if c.id != entity.id]
        holder = self._holder(tx, started, entity)
        if holder is None:
            return news
        fields: dict[str, object] = dict(base_fields(entity))
        if holder.id == started.id:
            news.conflicts = self._sides.note_all(tx, started, entity, notes)
            if sent is not None:
                fields["sent"] = max(holder.sent, sent)
                for text in ("comment", "label"):
                    if getattr(holder, text) == getattr(started, text):
                        fields[text] = ""
            if annotations:
                fields["annotations"] = _left(holder, started)
        self._locals.update(tx, holder.id, **fields)
        if holder.id == started.id and not holder.gone:
            yields = any(note == Note(Reason.RENAMED, "remote") for note in notes)
            news.names += self._follow(tx, started, entity, yields=yields)
        self.settle_state(tx, holder.id, entity)
        if holder.local_only and not holder.gone:
            now = self._locals.get(holder.id, tx)
            self._overlay.made_meanwhile(tx, now, started.parent, started.name)
        if fresh and holder.is_folder:
            self._outbox.wake_children(tx, holder.key, self._overlay.now_ns())
        return news

    def _holder(self, tx: sqlite3.Connection, started: Local, entity: Entity) -> Local | None:
        """The row that speaks for the entity: the one that was sent, or who took over from it."""
        holder = self._locals.of_entity(entity.id, tx)
        if holder is not None:
            return holder
        row = self._locals.find(started.id, tx)
        if row is None or (started.entity is not None and row.entity is None and not row.gone):
            return None
        heir = row
        while heir.gone and heir.heir not in (None, heir.id):
            following = self._locals.find(heir.heir or 0, tx)
            if following is None:
                break
            heir = following
        if heir.gone or heir.entity is not None:
            heir = row
        self._locals.update(tx, heir.id, entity=entity.id)
        if heir.is_folder and heir.born:
            self._sides.gather(tx, entity.id, heir.id)
        if heir.gone:
            # Also what was to stay here by then: it is to go there.
            self._locals.update(tx, heir.id, local_only=0)
            self._overlay.queue(tx, heir, delay_s=0.0)
        return self._locals.get(heir.id, tx)

    def _follow(
        self, tx: sqlite3.Connection, started: Local, entity: Entity, *, yields: bool
    ) -> list[tuple[int, bytes]]:
        """The row takes the place that the service has, where nobody here wants another, or `yields`."""
        now = self._locals.get(started.id, tx)
        here = (now.parent, now.name) == (started.parent, started.name)
        if started.entity is None or not here or entity.name == passing_name(now.id):
            return []
        fields: dict[str, object] = {}
        place, folder = place_of(entity), self.folder_of(now, tx).entity
        stayed = yields or folder == started.base_parent
        if stayed and folder != place and now.parent != TOP:
            fields["parent"] = self._overlay.key_of(place)
        known = self._entities.find_in(tx, entity.id)
        same = yields or wanted_name(started, entity.kind) == started.base_name
        if same and known is not None and wanted_name(now, entity.kind) != entity.name:
            fields["name"] = known.file_name
        if not fields:
            return []
        there = (int(str(fields.get("parent", now.parent))), fields.get("name", now.name))
        assert isinstance(there[1], bytes)
        if self._locals.child(there[0], there[1], tx) is not None:
            return []
        self._locals.update(tx, now.id, **fields)
        self._overlay.touched(now.parent)
        self._overlay.touched(there[0])
        return [(now.parent, now.name), (there[0], there[1])]

    def settle_state(self, tx: sqlite3.Connection, number: int, entity: Entity) -> None:
        """Clean when the service has everything; else it goes on waiting, or for bytes."""
        now = self._locals.get(number, tx)
        if now.gone:
            return
        rules = Rules(self._mode, entity.kind)
        step = plan(now, self.folder_of(now, tx), entity, rules)
        if isinstance(step, Nothing | Settled) and not now.unsent_bytes:
            self._locals.update(
                tx, number, state="clean", since_ns=0, tries=0, problem=None, annotations=None
            )
        elif isinstance(step, Blocked) and step.problem == EMPTY:
            self.block(tx, now, EMPTY)
        else:
            self._locals.update(tx, number, state="waiting", tries=0, problem=None)

    def same_bytes(self, tx: sqlite3.Connection, row: Local) -> None:
        """An edit left the bytes as the service has them."""
        now = self._locals.find(row.id, tx)
        if now is None:
            return
        self._locals.update(tx, row.id, sent=max(now.sent, row.edit))
        if now.edit == row.edit and same_wish(now, row):
            self._locals.update(tx, row.id, state="clean", since_ns=0, tries=0, problem=None)

    def nothing(self, tx: sqlite3.Connection, row: Local) -> None:
        """There is nothing to be sent."""
        now = self._locals.find(row.id, tx)
        if now is not None and same_wish(now, row):
            self._locals.update(tx, row.id, state="clean", since_ns=0, tries=0, problem=None)

    def stays(self, tx: sqlite3.Connection, row: Local) -> None:
        """It never leaves this machine."""
        now = self._locals.find(row.id, tx)
        if now is not None and same_wish(now, row):
            self._locals.update(tx, row.id, local_only=1, state="clean", since_ns=0, problem=None)

    def ended(self, tx: sqlite3.Connection, row: Local) -> News:
        """The entity is no more: the row goes, if nothing else was done with it meanwhile."""
        now = self._locals.find(row.id, tx)
        if now is None or now.entity != row.entity:
            news = News()
            if row.entity is not None:
                # Somebody else took it over and finds out by itself.
                news.changes = self._entities.drop(tx, row.entity)
            return news
        return News(changes=self._sides.let_go(tx, now))

    def deleted(self, tx: sqlite3.Connection, row: Local) -> News:
        """The entity went to the service's trash can by a delete of ours: `synd restore` can bring it back."""
        now = self._locals.find(row.id, tx)
        if now is not None and now.entity == row.entity:
            tx.execute(
                "INSERT INTO recovered (at_ns, path, reason, entity) VALUES (?, ?, 'deleted', ?)",
                (self._overlay.now_ns(), self._overlay.path_text(row.key), row.entity),
            )
            tx.execute(_FORGET_OLD, (REMEMBERED_DELETES,))
        return self.ended(tx, row)

    def came_back(self, tx: sqlite3.Connection, row: Local, told: Entity | None) -> News:
        """A delete that is not done: the row goes, and the entity shows again."""
        now = self._locals.find(row.id, tx)
        if now is None or not now.gone or now.entity != row.entity:
            return News()
        news = News(names=[(now.parent, now.name)])
        news.conflicts.append(self._sides.note(tx, now, Reason.DELETED_HERE, "remote", theirs=told))
        self._sides.leave_to_entity(tx, now)
        self._locals.update(
            tx, now.id, entity=None, born=1, state="clean", since_ns=0, problem=None, **NO_BASE
        )
        self._overlay.drop_if_over(tx, self._locals.get(now.id, tx))
        self._outbox.wake_children(tx, row.key, self._overlay.now_ns())
        if told is not None:
            news.changes = self._entities.put(tx, told)
        self._overlay.touched(row.parent)
        known = None if row.entity is None else self._entities.find_in(tx, row.entity)
        if known is not None:
            # Others may have moved it meanwhile: there it was hidden until now.
            place = self._overlay.key_of(known.parent) if known.parent else TOP
            self._overlay.touched(place)
            news.names.append((place, known.file_name))
        return news

    def revive(self, tx: sqlite3.Connection, folder: EntityId) -> News:
        """A folder that the service has no more, but that we have something for, is made anew."""
        row = self._locals.of_entity(folder, tx)
        if row is None and not self._outbox.all_children(tx, folder):
            return News()  # What lay in it here has been seen to by somebody else meanwhile.
        if row is None:
            known = self._entities.find_in(tx, folder)
            if known is None or known.kind == Kind.PROJECT:
                raise Forbidden(
                    f"{syn(folder)} is not on the service any more",
                    hint="move the file to another folder",
                    entity=syn(folder),
                )
            taken = self._locals.child(self._overlay.key_of(known.parent), known.file_name, tx)
            if taken is not None:
                name = self._sides.copy_name(tx, taken.parent, known.file_name)
                known = known._replace(file_name=name)
            row = self._overlay.claim(tx, Seen(None, known))
        if row.gone:
            return News()
        known = self._entities.find_in(tx, folder)
        if known is not None and marked_entity(row.name.decode(errors="replace")) == folder:
            # Its plain name was taken by then.
            name = self._sides.copy_name(tx, row.parent, known.name.encode())
            self._locals.update(tx, row.id, name=name)
        key = row.key
        news = News(names=[(row.parent, row.name)])
        news.conflicts.append(self._sides.note(tx, row, Reason.DELETED_THERE, "local"))
        news.changes = self._entities.drop(tx, folder)
        self._locals.update(tx, row.id, entity=None, born=1, **NO_BASE)
        if key != row.id:
            self._sides.gather(tx, key, row.id)
        for child in self._outbox.all_children(tx, row.id):
            if child.state == Sending.CLEAN and not child.gone and child.base_parent == folder:
                self._went_along(tx, child, news)
        self._overlay.queue(tx, self._locals.get(row.id, tx), delay_s=0.0)
        return news

    def abandoned(self, tx: sqlite3.Connection, row: Local) -> News:
        """A folder that the service has no more: made anew if it holds something to send; else it goes, and
        the bytes that were kept here in it go to the recovery area.
        """
        assert row.entity is not None
        news = News()
        for child in self._outbox.all_children(tx, row.key):
            if child.is_folder and not child.gone and child.entity is not None:
                more = self.abandoned(tx, child) if child.state == Sending.CLEAN else News()
                news.add(more)
        children = [c for c in self._outbox.all_children(tx, row.key) if not c.gone]
        if news.postponed or any(self._overlay.opened(c.staged) for c in children):
            news.postponed = True
            return news
        if any(_is_to_be_sent(c) for c in children):
            news.add(self.revive(tx, row.entity))
            return news
        for child in children:
            self._let_go_all(tx, child, news)
        news.changes += self.ended(tx, row).changes
        return news

    def _let_go_all(self, tx: sqlite3.Connection, row: Local, news: News) -> None:
        """Ends what was kept here, with all below it; its bytes are recovered."""
        for child in self._outbox.all_children(tx, row.key):
            self._let_go_all(tx, child, news)
        if row.staged and not row.gone:
            self._overlay.overwritten(tx, row, "deleted")
        news.names.append((row.parent, row.name))
        news.changes += self._sides.let_go(tx, self._locals.get(row.id, tx))

    def _went_along(self, tx: sqlite3.Connection, child: Local, news: News) -> None:
        """What lay in a folder went with it, but for folders that hold something of ours."""
        if child.entity is None:
            return
        if child.is_folder and self._outbox.all_children(tx, child.key):
            more = self.revive(tx, child.entity)
            news.changes += more.changes
            news.names += more.names
            news.conflicts += more.conflicts
            return
        news.names.append((child.parent, child.name))
        news.changes += self._sides.let_go(tx, child)

    def moved_back(
        self, tx: sqlite3.Connection, row: Local, told: Entity, way: Sequence[Entity]
    ) -> News:
        """A move that cannot be, as its destination lies in the folder there: the place that the service has is
        kept, and its name. `way`: what leads from the folder to its destination there, from the top.
        """
        news = News(conflicts=[self._sides.note(tx, row, Reason.RENAMED, "remote", theirs=told)])
        for entity in (told, *way):
            news.changes += self._entities.put(tx, entity)
        known = self._entities.find_in(tx, told.id)
        assert known is not None
        parent, name = self._overlay.key_of(place_of(told)), known.file_name
        other = self._locals.child(parent, name, tx)
        if other is not None and other.id != row.id:
            name = self._sides.copy_name(tx, parent, name)
        self._locals.update(tx, row.id, parent=parent, name=name, **base_fields(told))
        for folder in (row.parent, parent):
            self._overlay.touched(folder)
        news.names += [(row.parent, row.name), (parent, name)]
        self.settle_state(tx, row.id, told)
        return news

    # No result yet.

    def later(
        self,
        tx: sqlite3.Connection,
        number: int,
        delay_ns: int,
        error: SyndError | None = None,
    ) -> None:
        """Tried again after a while; with the failure, if it was one."""
        now = self._locals.find(number, tx)
        if now is None or now.state != Sending.WAITING:
            return
        fields: dict[str, object] = {"not_before_ns": self._overlay.now_ns() + delay_ns}
        if error is not None:
            fields.update(tries=now.tries + 1, problem=json.dumps(error.problem()))
        self._locals.update(tx, number, **fields)

    def park(self, tx: sqlite3.Connection, row: Local) -> None:
        """Until its folder is made, or deleted; unless that happened just now."""
        folder = self.folder_of(row, tx)
        if goes_with(row, folder) if row.gone else folder.entity is None:
            self._outbox.park(tx, row.id, self._overlay.now_ns())

    def block(self, tx: sqlite3.Connection, row: Local, problem: Mapping[str, object]) -> bool:
        """Not tried again before it changes or somebody asks; whether it was as `row` says still."""
        now = self._locals.find(row.id, tx)
        if now is None or not same_wish(now, row) or now.state not in ("waiting", "clean"):
            return False
        self._locals.update(
            tx, row.id, state=Sending.BLOCKED.value, problem=json.dumps(dict(problem))
        )
        return True


_FORGET_OLD = """DELETE FROM recovered WHERE file = '' AND id <=
 (SELECT id FROM recovered WHERE file = '' ORDER BY id DESC LIMIT 1 OFFSET ?)"""


def _is_to_be_sent(row: Local) -> bool:
    """Whether the service is to have something of a row that it has not."""
    if row.local_only or row.state == Sending.CLEAN:
        return False
    return row.kind != LocalKind.FILE or row.size > 0 or not row.unsent_bytes


def _is_to_be_made(now: Local) -> bool:
    """Whether the service is still to have a row that it did not have as it was taken up."""
    return now.entity is None and not (now.gone or now.local_only)


def same_wish(now: Local, then: Local) -> bool:
    """Whether a row is to become what it was to become then."""
    return (now.edit, now.parent, now.name, now.gone, now.annotations, now.entity) == (
        then.edit, then.parent, then.name, then.gone, then.annotations, then.entity,
    )  # fmt: skip


def _left(now: Local, started: Local) -> str | None:
    """Annotations that were changed after those of `started` were sent."""
    done = started.wanted_annotations
    return annotations_json(
        {k: v for k, v in now.wanted_annotations.items() if k not in done or done[k] != v}
    )


def _with_file(entity: Entity, row: Local, sent: int | None) -> Entity:
    """With what we know of the bytes, where the answer does not tell."""
    file = entity.file
    if sent is None or file is None or (file.md5 is not None and file.size is not None):
        return entity
    if row.handle != file.handle:
        return entity
    return replace(entity, file=replace(file, md5=row.md5, size=row.size))
