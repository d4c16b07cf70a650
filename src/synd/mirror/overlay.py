"""What was made or changed here, laid over what the service told: the tree as a user sees it.

Every change of the tree is one method here and one transaction (docs/adr/0006). Nothing asks the
service: what a caller must know first (is the name taken, is the folder empty) it has had listed.
Bytes are `contents`' matter, sending is `push`'s.

Lock order: `lock`, then the store's writer. Reading takes neither.
"""

from __future__ import annotations

import sqlite3
import stat
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from synd.clock import SYSTEM, Clock
from synd.errors import (
    Exists,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    ReadOnly,
    Stale,
    UsageError,
)
from synd.ids import EntityId, syn
from synd.mirror import following
from synd.mirror.annotations import check_annotation
from synd.mirror.bases import BASE, NO_BASE, base_of
from synd.model import CONTAINERS, AnnotationValue, Kind, LinkTarget
from synd.paths import from_entity_name, is_dropping, to_entity_name
from synd.store.connect import Store
from synd.store.entities import TOP, Entities, Row
from synd.store.local import (
    FIRST,
    Local,
    LocalKind,
    Locals,
    Sending,
    annotations_json,
    xattrs_json,
)

_CONTAINERS = frozenset(str(k) for k in CONTAINERS)
_FILES = frozenset({str(Kind.FILE)})

_IN_LIMBO = """SELECT id FROM local WHERE gone = 1 AND entity IS NULL AND heir IS NULL
 AND base_parent IS NOT NULL AND base_name IS NOT NULL"""

NEW = "new"
"""Stamp of a staging file that was not looked at yet and is a change as it is: killed before its close, a
new file stays, whatever it replaces.
"""

FORMER = "former:"
"""Names in `meta` of staging files that were, each with the row it belonged to."""

NOREPLACE = 1
EXCHANGE = 2


class Seen(NamedTuple):
    """One thing of the tree: its local row, its entity's row, or both."""

    local: Local | None
    row: Row | None

    @property
    def key(self) -> int:
        if self.local is not None:
            return self.local.key
        assert self.row is not None
        return self.row.id

    @property
    def is_folder(self) -> bool:
        if self.local is not None:
            return self.local.is_folder
        assert self.row is not None
        return self.row.kind in _CONTAINERS

    @property
    def entity(self) -> EntityId | None:
        if self.local is not None:
            return self.local.entity
        assert self.row is not None
        return self.row.id

    @property
    def name(self) -> bytes:
        if self.local is not None:
            return self.local.name
        assert self.row is not None
        return self.row.file_name


class Delays(NamedTuple):
    """How long a change waits before it is sent, in seconds, as more of it may follow."""

    upload_s: float = 2.0
    delete_s: float = 5.0


DELAYS = Delays()


class Overlay:
    """The changes of this machine. Any thread."""

    def __init__(
        self,
        store: Store,
        entities: Entities,
        *,
        delays: Delays = DELAYS,
        keeps_local: Callable[[str], bool] = is_dropping,
        clock: Clock = SYSTEM,
    ) -> None:
        """`keeps_local` says of a file name whether it never leaves this machine."""
        self.store = store
        self.entities = entities
        self.locals = Locals(store)
        self.lock = threading.RLock()
        self.delays = delays
        self._keeps_local = keeps_local
        self._clock = clock
        self.sending: set[int] = set()
        """Rows that are just being sent: they stay until that has ended. Under `lock`."""
        self.opened: Callable[[int], bool] = lambda _staged: False
        """Whether somebody has this staging file open; `contents` puts itself here."""
        self.overwritten: Callable[[sqlite3.Connection, Local, str], None] = lambda *_: None
        """Keeps unsent bytes that a local action takes away; `contents` puts itself here."""
        self.unused: Callable[[int], None] = lambda _staged: None
        """A staging file belongs to no row any more; `contents` puts itself here."""
        self.on_queued: Callable[[], None] = lambda: None
        """Something was queued. Must not block."""
        self.make_room: Callable[[], None] = lambda: None
        """Asked before each change to see to it that the disk has room for one."""
        self.discard: Callable[[int], object] = lambda _number: None
        self.restore: Callable[[int], int] = lambda number: number
        """`undoing` puts itself into these two."""
        self.mountpoint = b""
        """Where the tree is seen, for symlinks with absolute targets; empty: nowhere."""
        self.changed_at: dict[int, int] = {}
        """Folder key → UTC ns of the last change of its names. Lasts as long as the daemon."""
        self.limbo: dict[tuple[int, bytes], int] = {}
        """(folder, file name) on the service of what was removed here while nobody knows whether it was made
        there → its row. What is known to be over is left in it until somebody looks.
        """
        for (number,) in store.read.execute(_IN_LIMBO).fetchall():
            self._to_limbo(self.locals.get(number))

    # The view.

    def entity_of(self, key: int) -> EntityId | None:
        """The entity of a key; None for what is not on the service."""
        if key < FIRST:
            return EntityId(key)
        found = self.locals.find(key)
        return None if found is None else found.entity

    def key_of(self, entity: int) -> int:
        """The key of an entity: what was born here keeps its own."""
        if entity not in self.locals.claims:
            return entity
        found = self.locals.of_entity(entity)
        return entity if found is None else found.key

    def seen(self, key: int) -> Seen | None:
        """What a key stands for."""
        local = self.locals.of_key(key) if key >= FIRST or key in self.locals.claims else None
        entity = local.entity if local is not None else EntityId(key)
        row = self.entities.find(entity) if entity is not None and key else None
        return Seen(local, row) if local is not None or row is not None else None

    def child(self, folder: int, name: bytes) -> Seen | None:
        """What was made or changed here under a name; None: what the service told holds."""
        if folder not in self.locals.busy:
            return None
        local = self.locals.child(folder, name)
        if local is None:
            return None
        return Seen(local, self.entities.find(local.entity) if local.entity else None)

    def hides(self, row: Row) -> bool:
        """Whether an entity's own place does not show it: a local row speaks for it."""
        return row.id in self.locals.claims or self.in_limbo(row.parent, row.file_name)

    def in_limbo(self, folder: int, name: bytes) -> bool:
        """Whether a name on the service may be what was removed here; sending looks."""
        number = self.limbo.get((folder, name)) if self.limbo else None
        if number is None:
            return False
        local = self.locals.find(number)
        if local is not None and local.gone and local.heir is None and _may_be_made(local):
            return True
        self.limbo.pop((folder, name), None)
        return False

    def _to_limbo(self, local: Local) -> None:
        if local.base_parent is not None and local.base_name is not None:
            name = from_entity_name(local.base_name) or local.base_name.encode()
            self.limbo[local.base_parent, name] = local.id

    def known_child(self, folder: int, name: bytes) -> Seen | None:
        """A name as far as it is known without asking the service."""
        found = self.child(folder, name)
        if found is not None:
            return found
        entity = self.entity_of(folder)
        row = None if entity is None else self.entities.child(entity, name)
        return None if row is None or self.hides(row) else Seen(None, row)

    def is_empty(self, folder: int) -> bool:
        """Whether a folder, listed before, holds nothing; what never leaves this machine counts."""
        if self.locals.has_children(folder):
            return False
        entity = self.entity_of(folder)
        if entity is None:
            return True
        return all(self.hides(row) for row in self.entities.children(entity))

    def inside(self, folder: int) -> list[Seen]:
        """All that a folder, listed before, holds."""
        found = [
            Seen(local, self.entities.find(local.entity) if local.entity else None)
            for local in self.locals.children(folder)
        ]
        entity = self.entity_of(folder)
        if entity is not None:
            taken = {seen.name for seen in found}
            found += [
                Seen(None, row)
                for row in self.entities.children(entity)
                if not self.hides(row) and row.file_name not in taken
            ]
        return found

    def path_of(self, key: int) -> list[bytes] | None:
        """The one path of a thing below the mount; None when a part of the way is not known."""
        parts: list[bytes] = []
        at = key
        while at != TOP:
            seen = self.seen(at)
            if seen is None or len(parts) > 64:
                return None
            if seen.local is not None:
                parts.append(seen.local.name)
                at = seen.local.parent
                continue
            row = seen.row
            assert row is not None
            if row.parent == TOP and not self.entities.is_listed(row.id):
                return [b"@id", syn(row.id).encode(), *parts[::-1]]
            if row.parent < 0:
                return None
            parts.append(row.file_name)
            at = self.key_of(row.parent) if row.parent else TOP
        return parts[::-1]

    def path_text(self, key: int) -> str:
        """The path for people; the last known name when the way is not known."""
        path = self.path_of(key)
        if path is not None:
            return b"/".join(path).decode(errors="replace")
        seen = self.seen(key)
        return seen.name.decode(errors="replace") if seen else str(key)

    def find_path(self, parts: Sequence[bytes]) -> Seen | None:
        """What a path leads to, as far as that is known without asking; None when it is not."""
        at: Seen | None = None
        key = int(TOP)
        for index, part in enumerate(parts):
            if index == 1 and parts[0] == b"@id":
                text = part.decode(errors="replace")
                key = int(text[3:]) if text.startswith("syn") and text[3:].isdigit() else -1
                at = self.seen(key) if key > 0 else None
            elif index == 0 and part == b"@id":
                continue
            else:
                at = self.known_child(key, part)
            if at is None:
                return None
            key = at.key
        return at

    def below(self, folder: int) -> Iterator[Local]:
        """Rows of local changes in a folder and in all below it, as far as known; gone ones too."""
        inside: dict[int, bool] = {folder: True}

        def is_inside(key: int) -> bool:
            if key in inside:
                return inside[key]
            inside[key] = False
            seen = self.seen(key) if key else None
            if seen is not None:
                parent = seen.local.parent if seen.local else self.key_of(seen.row.parent)  # type: ignore[union-attr]
                inside[key] = parent > 0 and is_inside(parent)
            return inside[key]

        for local in self.locals.all():
            if is_inside(local.parent) or local.key == folder:
                yield local

    def target_parts(self, folder: int, target: bytes) -> list[bytes] | None:
        """The path below the mount that a symlink in a folder leads to; None when it leads outside."""
        if target.startswith(b"/"):
            top = self.mountpoint
            if not top or not (target + b"/").startswith(top + b"/"):
                return None
            return [p for p in target[len(top) :].split(b"/") if p] or None
        at = self.path_of(folder)
        if at is None:
            return None
        parts = list(at)
        for part in target.split(b"/"):
            if part == b"..":
                if not parts:
                    return None
                parts.pop()
            elif part not in (b"", b"."):
                parts.append(part)
        return parts or None

    def leads_to(self, folder: int, target: bytes) -> Seen | None:
        """What a symlink in a folder leads to, if that lies in the tree and is known."""
        parts = self.target_parts(folder, target)
        return None if parts is None else self.find_path(parts)

    def link_target(self, local: Local) -> LinkTarget | None:
        """Where a symlink row leads, as a link; None while that is not on the service."""
        if local.target is None:
            return None
        seen = self.leads_to(local.parent, local.target)
        return None if seen is None or seen.entity is None else LinkTarget(seen.entity)

    def parts(self, seen: Seen, new_name: bytes) -> bool:
        """Whether a new name parts a file's bytes from its entity, and the bytes are not here yet."""
        return (
            seen.entity is not None
            and not seen.is_folder
            and not (
                seen.local is not None and (seen.local.staged or seen.local.target is not None)
            )
            and self._keeps_local(new_name.decode(errors="surrogateescape"))
        )

    # Changes.

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """One change: the lock, and a transaction of its own. Raises CacheFull, having changed nothing,
        when the disk of the state folder is full.
        """
        self.make_room()
        with self.lock, self.locals.write() as tx:
            yield tx

    def now_ns(self) -> int:
        return self._clock.now_ns()

    def claim(self, tx: sqlite3.Connection, seen: Seen) -> Local:
        """The local row of a thing, made now if it has none. Raises Stale: its name is another's."""
        if seen.local is not None:
            return self.locals.get(seen.local.id, tx)
        row = seen.row
        assert row is not None
        found = self.locals.of_entity(row.id, tx)
        if found is not None:
            return found
        kind = (
            LocalKind.FOLDER
            if row.kind in _CONTAINERS
            else LocalKind.SYMLINK
            if row.kind == Kind.LINK
            else LocalKind.FILE
        )
        parent = self.key_of(row.parent) if row.parent else 0
        if self.locals.child(parent, row.file_name, tx) is not None:
            # Something made here has its name by now, and hides it: who knew it looks again.
            raise Stale(f"{row.name!r} is another file by now", entity=syn(row.id))
        return self.locals.insert(
            tx,
            entity=row.id,
            born=0,
            parent=parent,
            name=row.file_name,
            kind=kind.value,
            ctime_ns=row.modified_ns,
            **base_of(row),
        )

    def create_file(
        self, parent: int, name: bytes, *, mode: int, uid: int, gid: int, request: int = 0
    ) -> tuple[Local, int]:
        """A new, empty file: its row and the number of its staging file, which the caller makes.

        Where a file's delete is still unsent, the new one takes over its entity. Raises Exists.
        """
        with self.change() as tx:
            self._check_place(tx, parent, name)
            staged = self.locals.next_number(tx)
            local = self.locals.insert(
                tx,
                born=1,
                parent=parent,
                name=name,
                kind=LocalKind.FILE.value,
                mode=mode,
                uid=uid,
                gid=gid,
                ctime_ns=self.now_ns(),
                staged=staged,
                stamp=NEW,
                local_only=int(self._stays(tx, parent, name)),
            )
            self._take_over_vacancy(tx, local)
            self.locals.answer(tx, request, local.id)
            self._touch(parent)
            return self.locals.get(local.id, tx), staged

    def make_folder(
        self, parent: int, name: bytes, *, mode: int, uid: int, gid: int, request: int = 0
    ) -> Local:
        """A new folder, queued. Raises Exists."""
        return self._make(
            parent, name, LocalKind.FOLDER, request, mode=mode, uid=uid, gid=gid, queued=True
        )

    def make_symlink(
        self,
        parent: int,
        name: bytes,
        target: bytes,
        *,
        uid: int,
        gid: int,
        leads_inside: bool,
        request: int = 0,
    ) -> Local:
        """A new symlink; one that leads to an entity is queued as a link, others stay here."""
        return self._make(
            parent, name, LocalKind.SYMLINK, request, mode=0o777, uid=uid, gid=gid,
            target=target, queued=leads_inside,
        )  # fmt: skip

    def make_special(
        self,
        parent: int,
        name: bytes,
        *,
        mode: int,
        rdev: int,
        uid: int,
        gid: int,
        request: int = 0,
    ) -> Local:
        """A named pipe, socket or device: stays on this machine. `mode` with its type."""
        return self._make(
            parent, name, LocalKind.SPECIAL, request, mode=mode, uid=uid, gid=gid, rdev=rdev,
            queued=False,
        )  # fmt: skip

    def _make(
        self,
        parent: int,
        name: bytes,
        kind: LocalKind,
        request: int,
        *,
        queued: bool,
        **fields: Any,
    ) -> Local:
        with self.change() as tx:
            self._check_place(tx, parent, name)
            stays = not queued or self._stays(tx, parent, name)
            local = self.locals.insert(
                tx,
                born=1,
                parent=parent,
                name=name,
                kind=kind.value,
                ctime_ns=self.now_ns(),
                local_only=int(stays),
                **fields,
            )
            if not stays:
                self.queue(tx, local)
            self.locals.answer(tx, request, local.id)
            self._touch(parent)
            return self.locals.get(local.id, tx)

    def _stays(self, tx: sqlite3.Connection, parent: int, name: bytes) -> bool:
        """Whether what is made under this name never leaves this machine."""
        if self._keeps_local(name.decode(errors="surrogateescape")):
            return True
        folder = self.locals.find(parent, tx) if parent >= FIRST else None
        return bool(folder and folder.local_only)

    def _check_place(self, tx: sqlite3.Connection, parent: int, name: bytes) -> None:
        if parent == TOP:
            raise ReadOnly(
                "nothing but projects lies at the top of the mount",
                hint="make it in a project; projects are made on the web",
                path=name.decode(errors="replace"),
            )
        if parent >= FIRST:
            folder = self.locals.find(parent, tx)
            if folder is None or folder.gone:
                raise NotFound("the folder was removed")
        elif (claimed := self.locals.of_entity(parent, tx)) is not None and claimed.gone:
            raise NotFound("the folder was removed")
        to_entity_name(name)  # refuses what is too long
        if self.known_child(parent, name) is not None:
            raise Exists(f"{name.decode(errors='replace')!r} is there already")

    def _take_over_vacancy(self, tx: sqlite3.Connection, local: Local) -> None:
        """A file that replaces one whose delete is not sent yet is its next version."""
        if local.local_only or local.kind != LocalKind.FILE or local.entity is not None:
            return
        found = tx.execute(
            """SELECT id FROM local WHERE parent = ? AND name = ? AND gone = 1 AND kind = 'file'
            AND (entity IS NOT NULL OR (base_name IS NOT NULL AND heir IS NULL))
            ORDER BY id DESC LIMIT 1""",
            (local.parent, local.name),
        ).fetchone()
        if found is not None and found[0] not in self.sending:
            self._inherit(tx, self.locals.get(found[0], tx), local)

    def _inherit(self, tx: sqlite3.Connection, loser: Local, heir: Local) -> None:
        """`heir` becomes the entity that `loser` was; `loser`, gone, is nobody's any more."""
        fields = {name: getattr(loser, name) for name in BASE}
        entity = loser.entity
        self.locals.update(
            tx, loser.id, entity=None, gone=1, heir=heir.id, state="clean", since_ns=0, born=1
        )
        self._bequeath(tx, loser.id, heir.id)
        self.locals.update(tx, heir.id, entity=entity, annotations=loser.annotations, **fields)
        if loser.id not in self.sending:
            self.drop_if_over(tx, self.locals.get(loser.id, tx))

    def _bequeath(self, tx: sqlite3.Connection, number: int, to: int) -> None:
        """Those whose entity a row took over: what they sent, it may be on the service, is another's now."""
        tx.execute("UPDATE local SET heir = ? WHERE heir = ? AND id <> heir", (to, number))

    def remove(self, seen: Seen, request: int = 0) -> Local | None:
        """Takes a thing out of the tree; what the service has is queued to go to its trash can.

        A folder must be empty (the caller has had it listed): raises NotEmpty. Returns the row while
        there is one.
        """
        with self.change() as tx:
            if seen.is_folder and not self.is_empty(seen.key):
                raise NotEmpty(f"{seen.name.decode(errors='replace')!r} is not empty")
            local = self.claim(tx, seen)
            if local.gone:
                raise NotFound(f"{local.name.decode(errors='replace')!r} is gone already")
            self._touch(local.parent)
            self.remove_row(tx, local, "deleted")
            self.locals.answer(tx, request, local.id)
            return self.locals.find(local.id, tx)

    def remove_row(self, tx: sqlite3.Connection, local: Local, reason: str) -> None:
        """Takes a row's thing out of the tree; unsent bytes go to the recovery area for that reason."""
        now = self.now_ns()
        if local.unsent_bytes and not local.local_only:
            self.overwritten(tx, local, reason)
        self.locals.update(tx, local.id, gone=1, ctime_ns=now)
        local = self.locals.get(local.id, tx)
        if local.entity is not None or _may_be_made(local):
            if local.entity is None:
                self._to_limbo(local)
            self.queue(tx, local, delay_s=self.delays.delete_s)
        else:
            self.locals.update(tx, local.id, state="clean", since_ns=0, problem=None)
            self.drop_if_over(tx, local)

    def drop_if_over(self, tx: sqlite3.Connection, local: Local) -> None:
        """Deletes a gone row that nobody needs any more: not open, not being sent, not on the service."""
        if not local.gone or local.entity is not None or local.id in self.sending:
            return
        if local.staged and self.opened(local.staged):
            return
        if local.heir is None and _may_be_made(local):
            return
        if local.handle is not None and local.hashed > local.sent and local.heir is not None:
            heir = self.locals.find(local.heir, tx)
            if heir is not None and not (heir.state == Sending.CLEAN and heir.sent):
                # What it had sent may be on the service: its heir must know that it is ours.
                return
        self.locals.delete(tx, local.id)
        if local.staged:
            self.unused(local.staged)

    def rename(
        self, source: Seen, parent: int, name: bytes, *, flags: int = 0, request: int = 0
    ) -> None:
        """Moves a thing to a place, over what is there. Names and folders were looked up before.

        A file over a file: the bytes become the next version of the target's entity, unless the
        source is an entity of its own. Raises Exists (NOREPLACE), NotFound (EXCHANGE with nothing),
        IsDirectory, NotDirectory, NotEmpty, UsageError (a folder into itself), ReadOnly.
        """
        with self.change() as tx:
            target = self.known_child(parent, name)
            if (
                target is not None
                and target.key == source.key
                and target.is_folder == source.is_folder
            ):
                return
            if flags & NOREPLACE and target is not None:
                raise Exists(f"{name.decode(errors='replace')!r} is there already")
            if flags & EXCHANGE and target is None:
                raise NotFound(f"no {name.decode(errors='replace')!r}")
            if source.row is not None and source.row.kind == Kind.PROJECT:
                raise ReadOnly(
                    "projects are renamed on the web", path=source.name.decode(errors="replace")
                )
            if (target is None or flags & EXCHANGE) and parent == TOP:
                raise ReadOnly("nothing but projects lies at the top of the mount")
            self._check_loop(source, parent)
            if target is not None and flags & EXCHANGE:
                self._check_loop(target, self._parent_of(source))
            to_entity_name(name)
            local = self.claim(tx, source)
            if local.gone:
                raise NotFound("the source is gone")
            old_parent, old_name = local.parent, local.name
            if target is not None and flags & EXCHANGE:
                other = self.claim(tx, target)
                # Out of the way for a moment; nobody else sees it.
                self.locals.update(tx, other.id, gone=1, parent=-1)
                self._place(tx, local, parent, name)
                self.locals.update(tx, other.id, gone=0, parent=old_parent, name=old_name)
                self.queue(tx, self.locals.get(other.id, tx))
            else:
                if target is not None:
                    self._replace(tx, local, target)
                    local = self.locals.get(local.id, tx)
                self._place(tx, local, parent, name)
            self.locals.answer(tx, request, local.id)
            self._touch(old_parent)
            self._touch(parent)

    def _replace(self, tx: sqlite3.Connection, local: Local, target: Seen) -> None:
        """Makes room for `local` at the target's place."""
        if target.is_folder:
            if not local.is_folder:
                raise IsDirectory(f"{target.name.decode(errors='replace')!r} is a folder")
            if not self.is_empty(target.key):
                raise NotEmpty(f"{target.name.decode(errors='replace')!r} is not empty")
        elif local.is_folder:
            raise NotDirectory(f"{target.name.decode(errors='replace')!r} is not a folder")
        loser = self.claim(tx, target)
        if (
            loser.kind == local.kind == LocalKind.FILE
            and local.entity is None
            and not loser.local_only
        ):
            if loser.unsent_bytes:
                self.overwritten(tx, loser, "overwritten")
            self.locals.update(tx, loser.id, gone=1, ctime_ns=self.now_ns())
            if local.mode is None:
                self.locals.update(tx, local.id, mode=loser.mode)
            self._inherit(tx, self.locals.get(loser.id, tx), local)
        else:
            self.remove_row(tx, loser, "overwritten")

    def _place(self, tx: sqlite3.Connection, local: Local, parent: int, name: bytes) -> None:
        stays = self._stays(tx, parent, name) or local.kind == LocalKind.SPECIAL
        fields: dict[str, object] = {"parent": parent, "name": name, "ctime_ns": self.now_ns()}
        if local.kind == LocalKind.SYMLINK and local.entity is None and local.local_only:
            stays = True
        if stays and (local.entity is not None or _may_be_made(local)):
            if local.kind == LocalKind.FILE and local.staged and not local.lazy:
                # An editor puts its backup aside: the entity stays behind for what is saved next.
                local = self._split(tx, local, local.parent, local.name)
            else:
                stays = False
        fields["local_only"] = int(stays)
        self.locals.update(tx, local.id, **fields)
        local = self.locals.get(local.id, tx)
        self._take_over_vacancy(tx, local)
        local = self.locals.get(local.id, tx)
        if not local.local_only:
            self.queue(tx, local)
        else:
            self.locals.update(tx, local.id, state="clean", since_ns=0)

    def made_meanwhile(
        self, tx: sqlite3.Connection, local: Local, parent: int, name: bytes
    ) -> None:
        """What was renamed to stay here while it was being sent is on the service now, for a place: there it
        goes again, unless it is nothing that can be parted.
        """
        if local.kind == LocalKind.FILE and local.staged and not local.lazy:
            self._split(tx, local, parent, name)
        else:
            self.locals.update(tx, local.id, local_only=0)
            self.queue(tx, self.locals.get(local.id, tx))

    def _split(self, tx: sqlite3.Connection, local: Local, parent: int, name: bytes) -> Local:
        """Parts the bytes here from the entity they were: the entity's row, gone, stays at a place with its
        delete queued; the other goes on with the bytes. Both keep what is theirs.
        """
        if not local.staged:
            raise UsageError("its bytes are not here yet")  # the caller stages them first
        fields = {name: getattr(local, name) for name in BASE}
        entity = local.entity
        # By another name it may be sent one day: the service has none of these bytes then.
        edit = max(1, local.edit)
        self.locals.update(
            tx, local.id, entity=None, born=1, edit=edit, sent=0, handle=None, **NO_BASE
        )
        left = self.locals.insert(
            tx, entity=entity, born=int(entity is None), parent=parent, name=name, kind=local.kind,
            ctime_ns=self.now_ns(), gone=1, annotations=local.annotations, hashed=local.hashed,
            md5=local.md5, handle=local.handle, **fields,
        )  # fmt: skip
        self._bequeath(tx, local.id, left.id)
        self.locals.update(tx, local.id, annotations=None)
        if entity is None:
            self._to_limbo(left)
        self.queue(tx, left, delay_s=self.delays.delete_s)
        return self.locals.get(local.id, tx)

    def _parent_of(self, seen: Seen) -> int:
        if seen.local is not None:
            return seen.local.parent
        assert seen.row is not None
        return self.key_of(seen.row.parent)

    def _check_loop(self, source: Seen, parent: int) -> None:
        if not source.is_folder:
            return
        at = parent
        # Folders may lie in each other for a while: moved so by others, before our own move is sent.
        passed: set[int] = set()
        while at > 0 and at not in passed:
            if at == source.key:
                raise UsageError("a folder cannot be moved into itself")
            passed.add(at)
            seen = self.seen(at)
            if seen is None:
                return
            at = self._parent_of(seen)

    # Attributes.

    def set_attributes(self, seen: Seen, **fields: object) -> Local:
        """mode, uid, gid, mtime_ns, atime_ns: kept on this machine only."""
        with self.change() as tx:
            local = self.claim(tx, seen)
            if local.is_folder and "mtime_ns" in fields:
                self.changed_at.pop(local.key, None)
            if "mtime_ns" in fields and seen.row is not None and not local.staged:
                fields["mtime_for"] = seen.row.version
            self.locals.update(tx, local.id, ctime_ns=self.now_ns(), **fields)
            return self.locals.get(local.id, tx)

    def set_xattr(self, seen: Seen, name: bytes, value: bytes | None) -> None:
        """An attribute that stays here; None removes it."""
        with self.change() as tx:
            local = self.claim(tx, seen)
            values = local.own_xattrs
            if value is None:
                values.pop(name, None)
            else:
                values[name] = value
            self.locals.update(tx, local.id, xattrs=xattrs_json(values), ctime_ns=self.now_ns())

    def annotate(self, seen: Seen, key: str, value: AnnotationValue | None) -> None:
        """Queues one annotation; None removes it. Raises UsageError for one that the service would refuse."""
        if value is not None:
            check_annotation(key, value)
        with self.change() as tx:
            local = self.claim(tx, seen)
            wanted = {**local.wanted_annotations, key: value}
            if value is None and local.entity is None:
                # Nobody has it but us: there is nothing to be removed.
                del wanted[key]
            self.locals.update(tx, local.id, annotations=annotations_json(wanted))
            if not local.local_only:
                self.queue(tx, self.locals.get(local.id, tx))

    def set_comment(self, number: int, comment: str, label: str = "") -> None:
        """Comment and label of the next version."""
        with self.change() as tx:
            self.locals.update(tx, number, comment=comment, label=label)

    # The queue.

    def queue(self, tx: sqlite3.Connection, local: Local, *, delay_s: float | None = None) -> None:
        """Lets a row wait for being sent."""
        now = self.now_ns()
        wait_s = self.delays.upload_s if delay_s is None else delay_s
        if local.kind != LocalKind.FILE and delay_s is None:
            wait_s = 0.0
        self.locals.update(
            tx,
            local.id,
            state=Sending.WAITING.value,
            since_ns=local.since_ns or now,
            not_before_ns=now + round(wait_s * 1e9),
            tries=0,
            problem=None,
        )
        self.on_queued()

    def _touch(self, folder: int) -> None:
        self.changed_at[folder] = self.now_ns()

    def touched(self, folder: int) -> None:
        """Names of a folder changed from elsewhere."""
        self._touch(folder)

    # What the service told.

    def follow(self, entity: EntityId, *, gone: bool) -> list[tuple[int, bytes]]:
        """An entity moved, was renamed, changed or vanished on the service: rows with nothing to send follow.
        Returns the names, each with its folder's key, that lead elsewhere now.
        """
        return following.follow(self, entity, gone=gone)

    def start_anew(self) -> None:
        """At a mount that no kernel remembers: what the service has takes its entity number as key,
        and answers to requests of old are forgotten.
        """
        with self.change() as tx:
            self.locals.forget_answers(tx)
            tx.execute("DELETE FROM meta WHERE name LIKE ?", (f"{FORMER}%",))
            rows = tx.execute(
                "SELECT id, entity, kind FROM local WHERE born = 1 AND entity IS NOT NULL"
            ).fetchall()
            tx.executemany(
                "UPDATE local SET parent = ? WHERE parent = ?",
                [(entity, number) for number, entity, kind in rows if kind == LocalKind.FOLDER],
            )
            tx.executemany("UPDATE local SET born = 0 WHERE id = ?", [(r[0],) for r in rows])
        self.locals.reload()


def _may_be_made(local: Local) -> bool:
    """Whether an attempt to create a row's entity, of which nothing was heard, may have succeeded."""
    return local.entity is None and local.base_parent is not None and local.base_name is not None


def is_special(mode: int) -> bool:
    return stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK)
