"""Conflicts: what becomes of both sides, the rows that tell of it, and `synd conflicts resolve`.

Nothing is lost in any mode: the losing side is a conflict copy, an older version of the entity, in the
service's trash can or in the recovery area. Which conflict there is decides `plan`.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from synd.client.remote import Remote
from synd.clock import NS
from synd.errors import Busy, NameTooLong, NotFound, UsageError
from synd.ids import Version
from synd.mirror.bases import NO_BASE
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.plan import Mode, Note, Reason, place_of
from synd.mirror.tree import Tree
from synd.model import WITH_BYTES, Entity, FileVersion, Kind
from synd.paths import NAME_MAX, to_entity_name
from synd.store.conflicts import ConflictRow, get_conflict, list_conflicts, settle_conflict
from synd.store.entities import Change, version_of
from synd.store.local import Local, LocalKind, Sending, insert_conflict
from synd.store.outbox import Outbox

_MARK = re.compile(rb" \(conflict [^()]*\)$")


@dataclass(slots=True)
class News:
    """What a recorded step changed, to be told once it is committed."""

    changes: list[Change] = field(default_factory=list)
    """For who listens to the tree: what somebody else did."""
    names: list[tuple[int, bytes]] = field(default_factory=list)
    """(folder key, name) that lead elsewhere now."""
    conflicts: list[int] = field(default_factory=list)
    postponed: bool = False
    """Nothing was done: somebody has the bytes open."""

    def add(self, more: News) -> None:
        """Takes in what another step of the same change did."""
        self.changes += more.changes
        self.names += more.names
        self.conflicts += more.conflicts
        self.postponed |= more.postponed


class Sides:
    """What becomes of both sides. Every function belongs inside `overlay.change()`."""

    def __init__(self, overlay: Overlay, *, host: str) -> None:
        self._overlay = overlay
        self._locals = overlay.locals
        self._entities = overlay.entities
        self._outbox = Outbox(overlay.store)
        self._host = re.sub(r"[^A-Za-z0-9.-]+", "-", host.partition(".")[0])[:40] or "here"

    def note(
        self,
        tx: sqlite3.Connection,
        row: Local,
        reason: Reason,
        kept: str,
        *,
        theirs: Entity | None = None,
        copy: int | None = None,
        copy_name: bytes = b"",
        settled: bool = True,
    ) -> int:
        """Records a conflict; `settled`: there is nothing left to decide."""
        now = self._overlay.now_ns()
        return insert_conflict(
            tx,
            {
                "at_ns": now,
                "entity": theirs.id if theirs is not None else row.entity,
                "path": self._overlay.path_text(row.key),
                "reason": reason.value,
                "kept": kept,
                "copy": copy,
                "copy_name": copy_name.decode(errors="replace"),
                "base_version": row.base_version,
                "remote_version": 0 if theirs is None else version_of(theirs.kind, theirs.version),
                "resolved_ns": now if settled else 0,
            },
        )

    def note_all(
        self, tx: sqlite3.Connection, row: Local, theirs: Entity, notes: tuple[Note, ...]
    ) -> list[int]:
        """Records conflicts that were settled with the step that met them."""
        return [self.note(tx, row, n.reason, n.kept, theirs=theirs) for n in notes]

    def edited(self, tx: sqlite3.Connection, row: Local, theirs: Entity, mode: Mode) -> News:
        """Both changed the bytes. The entity becomes theirs; ours goes aside."""
        news = News()
        base: dict[str, object] = dict(base_fields(theirs))
        if mode is Mode.OVERWRITE_LOCAL or not row.size:
            # Of a file that lost its bytes here there is nothing to keep.
            if not self._recover(tx, row, "overwritten"):
                return News(postponed=True)
            news.conflicts.append(self.note(tx, row, Reason.EDITED, "remote", theirs=theirs))
            self._forget_saves(tx, row)
        else:
            copy = self._copy(tx, row)
            news.conflicts.append(
                self.note(
                    tx, row, Reason.EDITED, "both", theirs=theirs, copy=copy.id,
                    copy_name=copy.name, settled=False,
                )
            )  # fmt: skip
            news.names.append((copy.parent, copy.name))
        news.changes = self._entities.put(tx, theirs)
        self._locals.update(
            tx, row.id, staged=0, lazy=0, size=0, stamp="", sent=row.edit, hashed=0, md5=None,
            handle=None, mtime_ns=None, **base,
        )  # fmt: skip
        news.names.append((row.parent, row.name))
        return news

    def _copy(self, tx: sqlite3.Connection, row: Local) -> Local:
        """A conflict copy beside a row, with its bytes, queued as a new file."""
        name = self.copy_name(tx, row.parent, row.name)
        self._locals.update(tx, row.id, staged=0)
        now = self._overlay.now_ns()
        copy = self._locals.insert(
            tx, born=1, parent=row.parent, name=name, kind=row.kind, mode=row.mode, uid=row.uid,
            gid=row.gid, ctime_ns=now, staged=row.staged, lazy=row.lazy, size=row.size,
            stamp=row.stamp, edit=row.edit, hashed=row.hashed, md5=row.md5, handle=row.handle,
            comment=row.comment, since_ns=row.since_ns or now, not_before_ns=now,
            state=Sending.WAITING.value,
        )  # fmt: skip
        self._outbox.move_saves(tx, row.id, copy.id)
        self._locals.update(tx, row.id, comment="", label="")
        self._overlay.touched(row.parent)
        return copy

    def deleted_there(self, tx: sqlite3.Connection, row: Local, mode: Mode) -> News:
        """Their delete against our edit: ours becomes a new entity under the same name."""
        assert row.entity is not None
        news = News(names=[(row.parent, row.name)])
        if mode is Mode.OVERWRITE_LOCAL:
            if not self._recover(tx, row, "overwritten"):
                return News(postponed=True)
            news.conflicts.append(self.note(tx, row, Reason.DELETED_THERE, "remote"))
            self._forget_saves(tx, row)
            news.changes = self.let_go(tx, row)
            return news
        number = self.note(
            tx, row, Reason.DELETED_THERE, "both", copy=row.id, copy_name=row.name, settled=False
        )
        news.conflicts.append(number)
        news.changes = self._entities.drop(tx, row.entity)
        self._locals.update(tx, row.id, entity=None, born=1, sent=0, **NO_BASE)
        return news

    def name_taken(
        self,
        tx: sqlite3.Connection,
        row: Local,
        other: Entity,
        mode: Mode,
        told: Entity | None = None,
    ) -> News:
        """Somebody else's entity has the name that ours was to have. `told`: where ours is, if anywhere."""
        news = News(names=[(row.parent, row.name)])
        is_file = row.kind == LocalKind.FILE and row.entity is None
        claimed = self._locals.of_entity(other.id, tx)
        if is_file and mode is Mode.OVERWRITE_LOCAL and claimed is None:
            if not self._recover(tx, row, "overwritten"):
                return News(postponed=True)
            news.conflicts.append(self.note(tx, row, Reason.NAME_TAKEN, "remote", theirs=other))
            self._forget_saves(tx, row)
            self.let_go(tx, row)
            news.changes = self._entities.put(tx, other)
            return news
        if (
            is_file
            and mode is Mode.KEEP_LOCAL
            and claimed is None
            and other.kind is Kind.FILE
            and (other.file is None or other.file.external_url is None)
        ):
            news.conflicts.append(self.note(tx, row, Reason.NAME_TAKEN, "local", theirs=other))
            news.changes = self._entities.put(tx, other)
            self._locals.update(tx, row.id, entity=other.id, **base_fields(other))
            return news
        name = self.copy_name(tx, row.parent, row.name)
        number = self.note(
            tx, row, Reason.NAME_TAKEN, "both", theirs=other, copy=row.id, copy_name=name,
            settled=False,
        )  # fmt: skip
        news.conflicts.append(number)
        fields: dict[str, object] = {"name": name}
        if row.entity is None:
            fields.update(NO_BASE)
        elif told is not None:
            # What they did to its name is known and dealt with; from there it gets its own.
            fields.update(base_name=told.name, base_parent=place_of(told))
        self._locals.update(tx, row.id, **fields)
        self._overlay.touched(row.parent)
        news.names.append((row.parent, name))
        if claimed is None:
            news.changes = self._entities.put(tx, other)
        return news

    def let_go(self, tx: sqlite3.Connection, row: Local) -> list[Change]:
        """Ends a row whose thing is no more, here or there."""
        changes = self._entities.drop(tx, row.entity) if row.entity is not None else []
        self.leave_to_entity(tx, row)
        self._locals.update(
            tx, row.id, entity=None, gone=1, born=1, state="clean", since_ns=0, problem=None,
            annotations=None, **NO_BASE,
        )  # fmt: skip
        self._overlay.touched(row.parent)
        self._overlay.drop_if_over(tx, self._locals.get(row.id, tx))
        return changes

    def gather(self, tx: sqlite3.Connection, key: int, to: int) -> None:
        """A folder has another key now: what lies in it here comes along."""
        for child in self._outbox.all_children(tx, key):
            fields: dict[str, object] = {"parent": to}
            if not child.gone and self._locals.child(to, child.name, tx) is not None:
                fields["name"] = self.copy_name(tx, to, child.name)
                self._overlay.queue(tx, child)
            self._locals.update(tx, child.id, **fields)

    def leave_to_entity(self, tx: sqlite3.Connection, row: Local) -> None:
        """The row of a folder that was made here is about to end: what others have moved into it, and we have
        rows for, lies in the entity from now on. Were its key left behind, nobody could find the way there.
        """
        if row.entity is None or row.entity == row.key or not row.is_folder:
            return
        if self._locals.has_children(row.key):
            self.gather(tx, row.key, row.entity)

    def _recover(self, tx: sqlite3.Connection, row: Local, reason: str) -> bool:
        """Keeps unsent bytes in the recovery area; False while somebody has them open."""
        if row.staged and self._overlay.opened(row.staged):
            return False
        if row.unsent_bytes:
            self._overlay.overwritten(tx, row, reason)
        return True

    def _forget_saves(self, tx: sqlite3.Connection, row: Local) -> None:
        for staged in self._outbox.drop_saves(tx, row.id, row.edit):
            self._overlay.unused(staged)

    def copy_name(self, tx: sqlite3.Connection, parent: int, name: bytes) -> bytes:
        """A free name for a conflict copy: ``NAME (conflict HOST DATE).ext``."""
        stem, dot, extension = name.rpartition(b".")
        if not stem or len(extension) > 16:
            stem, dot, extension = name, b"", b""
        stem = _MARK.sub(b"", stem) or stem
        at = datetime.fromtimestamp(self._overlay.now_ns() / NS).astimezone()
        mark = f" (conflict {self._host} {at:%Y-%m-%d %H.%M}"
        for number in range(1, 10_000):
            tail = f"{mark}{f' {number}' if number > 1 else ''})".encode() + dot + extension
            cut = stem[: NAME_MAX - len(tail)]
            while cut and not _fits(cut + tail):
                cut = cut[:-1]
            found = cut + tail
            if (
                self._locals.child(parent, found, tx) is None
                and self._overlay.known_child(parent, found) is None
            ):
                return found
        raise Busy("there are too many conflict copies of one file")


class Conflicts:
    """The list of conflicts, and what the user decides later. On the daemon's loop."""

    def __init__(
        self,
        overlay: Overlay,
        tree: Tree,
        remote: Remote,
        *,
        on_conflict: Callable[[int], None] = lambda _number: None,
        on_names: Callable[[int, bytes], None] = lambda _folder, _name: None,
    ) -> None:
        """`on_names`: a name leads to another thing from now on."""
        self._overlay = overlay
        self._locals = overlay.locals
        self._entities = overlay.entities
        self._tree = tree
        self._remote = remote
        self._on_conflict = on_conflict
        self._on_names = on_names

    def get(self, number: int) -> ConflictRow:
        """Raises NotFound."""
        return get_conflict(self._overlay.store, number)

    async def resolve(self, number: int, keep: str) -> ConflictRow:
        """Ends a conflict: `local` makes ours the entity's next version, `remote` removes our copy,
        `both` leaves both. One that is over stays as it is. Raises NotFound, also when ours is to be kept and
        is gone, UsageError when it is over and something else was kept, and what the service raises.
        """
        if keep not in ("local", "remote", "both"):
            raise UsageError(f"{keep!r} is none of local, remote, both")
        conflict = self.get(number)
        if conflict.resolved_ns:
            if conflict.kept == keep:
                return conflict
            kept = {"local": "ours was kept", "remote": "theirs was kept"}
            raise UsageError(
                f"conflict {number} is settled already: {kept.get(conflict.kept, 'both were kept')}",
                hint=f"nothing was changed; `synd conflicts show {number}` tells where both sides are",
            )
        copy = None if conflict.copy is None else self._locals.find(conflict.copy)
        if copy is not None and copy.gone:
            copy = None
        names: list[tuple[int, bytes]] = []
        if keep == "local" and copy is None and conflict.copy is not None:
            raise NotFound(
                f"our side of conflict {number} is not there any more: its copy was removed",
                hint="`synd restore --list` may have it; or resolve with --keep remote",
            )
        if keep == "local" and copy is not None and conflict.reason != Reason.DELETED_THERE:
            names = await self._prefer(conflict, copy)
        elif keep == "remote" and copy is not None:
            seen = self._overlay.seen(copy.key)
            if seen is not None:
                await self._tree.in_writer(lambda: self._overlay.remove(seen))
                names = [(copy.parent, copy.name)]
        await self._tree.in_writer(lambda: self._settle(number, keep))
        for folder, name in names:
            self._on_names(folder, name)
        self._on_conflict(number)
        return self.get(number)

    async def _prefer(self, conflict: ConflictRow, copy: Local) -> list[tuple[int, bytes]]:
        """Our copy becomes the next version of the entity."""
        if conflict.entity is None:
            raise NotFound("the entity of the conflict is not known any more")
        theirs = await self._remote.entity(conflict.entity)
        if theirs.kind is Kind.RECORD_SET and copy.entity is not None:
            raise UsageError(
                f"{conflict.path} is a record set, and the copy is a file of its own by now",
                hint="copy it over the record set: `cp COPY NAME.csv`, then resolve with --keep both",
            )
        if theirs.kind not in WITH_BYTES or copy.kind != LocalKind.FILE:
            raise UsageError(
                f"{conflict.path} is a {theirs.kind}: a {copy.kind} cannot become its next version",
                hint="resolve it with --keep both or --keep remote",
            )
        await self._tree.in_writer(lambda: self._put(theirs))
        names = [(copy.parent, copy.name)]
        if copy.entity is None:
            # Not sent yet: it takes the entity's name, which makes it the next version.
            target = self._overlay.seen(self._overlay.key_of(theirs.id))
            source = self._overlay.seen(copy.key)
            if target is None or source is None:
                raise NotFound(f"{conflict.path} is not there any more")
            folder = target.local.parent if target.local else self._overlay.key_of(place_of(theirs))
            await self._tree.in_writer(lambda: self._overlay.rename(source, folder, target.name))
            return [*names, (folder, target.name)]
        sent = await self._remote.entity(copy.entity)
        if sent.file is None:
            raise NotFound("the bytes of the copy cannot be read")
        file = FileVersion(
            theirs.id, Version(1), sent.file.handle, sent.file.md5, sent.file.size,
            name=sent.file.name, content_type=sent.file.content_type,
        )  # fmt: skip
        made = await self._remote.update(theirs, file=file)
        await self._tree.in_writer(lambda: self._put(made))
        seen = Seen(copy, self._entities.find(copy.entity))
        await self._tree.in_writer(lambda: self._overlay.remove(seen))
        return names

    def _settle(self, number: int, keep: str) -> None:
        with self._overlay.change() as tx:
            settle_conflict(tx, number, keep, self._overlay.now_ns())

    def _put(self, entity: Entity) -> None:
        with self._overlay.change() as tx:
            changes = self._entities.put(tx, entity)
            row = self._locals.of_entity(entity.id, tx)
            if row is not None and not row.unsent_bytes and not row.gone:
                self._locals.update(tx, row.id, **base_fields(entity))
        self._tree.tell(changes)

    def list(self, *, all: bool = False) -> Sequence[ConflictRow]:
        """Open conflicts, newest first; with `all` those that are over, too."""
        return list_conflicts(self._overlay.store, resolved=all)


def _fits(name: bytes) -> bool:
    try:
        name.decode()
        to_entity_name(name)
    except (UnicodeDecodeError, NameTooLong):
        return False
    return True


def base_fields(entity: Entity) -> dict[str, object]:
    """The base fields for an entity as the service has it now."""
    file = entity.file
    return {
        "base_parent": place_of(entity),
        "base_name": entity.name,
        "base_version": version_of(entity.kind, entity.version),
        "base_etag": entity.etag,
        "base_handle": None if file is None else file.handle,
        "base_md5": None if file is None else file.md5,
        "base_size": None if file is None else file.size,
    }
