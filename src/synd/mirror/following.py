"""What others did on the service, for the rows of what is here: those with nothing to send follow.

A row with something to send is `plan`'s matter: that asks the service itself. Each function is one
change of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from synd.ids import EntityId
from synd.mirror.bases import NO_BASE, base_of
from synd.model import CONTAINERS
from synd.paths import to_file_name
from synd.store.entities import TOP, Row
from synd.store.local import Local, LocalKind, Sending

if TYPE_CHECKING:
    import sqlite3

    from synd.mirror.overlay import Overlay, Seen

AGAIN_S = 30.0
"""How long until a row that cannot follow yet is looked at again."""

_CONTAINERS = frozenset(str(kind) for kind in CONTAINERS)


class Moving(NamedTuple):
    """Rows that take the places of their entities together, each to where the next has been."""

    rows: list[tuple[Local, Row]]
    later: bool = False
    """Nobody moves now: a name is taken for a while."""


def follow(overlay: Overlay, entity: EntityId, *, gone: bool) -> list[tuple[int, bytes]]:
    """An entity moved, was renamed, changed or vanished on the service. Returns the names that lead elsewhere
    now.
    """
    locals_ = overlay.locals
    if entity not in locals_.claims:
        return []
    with overlay.change() as tx:
        local = locals_.of_entity(entity, tx)
        if local is None or local.gone or not (local.state == Sending.CLEAN or is_bare(local)):
            return []
        row = overlay.entities.find(entity)
        if row is None or not overlay.entities.is_listed(entity):
            # What is open may be about to be saved; else the end of the edit comes here again.
            busy = local.staged or (local.is_folder and locals_.has_children(local.key))
            if gone and local.state == Sending.CLEAN and not busy:
                locals_.update(tx, local.id, entity=None, gone=1, born=1, **NO_BASE)
                overlay.drop_if_over(tx, locals_.get(local.id, tx))
                return [(local.parent, local.name)]
            return []
        if local.staged and local.state == Sending.CLEAN:
            return []
        moving = _moving(overlay, tx, local)
        if moving.later:
            overlay.queue(tx, local, delay_s=AGAIN_S)
        if moving.rows:
            # Out of the way for a moment, as the last may go to where it was; nobody else sees it.
            locals_.update(tx, local.id, gone=1, parent=-1)
        names: list[tuple[int, bytes]] = []
        for one, to in reversed(moving.rows):
            parent, name = _place(overlay, to)
            base = base_of(to)
            if one.staged:
                base = {"base_parent": to.parent, "base_name": to.name}
            locals_.update(tx, one.id, gone=0, parent=parent, name=name, **base)
            if (one.parent, one.name) != (parent, name):
                names += [(one.parent, one.name), (parent, name)]
        return names


def catch_up(overlay: Overlay) -> int:
    """At the start: a kill may have come between what the service told and who is to follow; how many were
    looked at. Cost: two rows read for each local one.
    """
    late: list[EntityId] = []
    for local in overlay.locals.all():
        row = None if local.entity is None else overlay.entities.find(local.entity)
        if row is None or local.gone or not overlay.entities.is_listed(row.id):
            continue
        if _place(overlay, row) != (local.parent, local.name):
            late.append(row.id)
    for entity in late:
        follow(overlay, entity, gone=False)
    return len(late)


def is_bare(local: Local) -> bool:
    """Whether a row is a file that was emptied, or made without bytes: the service keeps no such file, so it
    is not sent.
    """
    return (
        local.state == Sending.BLOCKED
        and local.kind == LocalKind.FILE
        and local.unsent_bytes
        and not (local.size or local.local_only or local.gone)
    )


def _moving(overlay: Overlay, tx: sqlite3.Connection, local: Local) -> Moving:
    """Who must move for a row to be where its entity is: itself, who has that name, and so on."""
    found: list[tuple[Local, Row]] = []
    at = local
    while True:
        row = overlay.entities.find(at.entity) if at.entity is not None else None
        if row is None or not overlay.entities.is_listed(row.id):
            return Moving([])
        found.append((at, row))
        other = overlay.locals.child(*_place(overlay, row), tx)
        if other is None or any(other.id == one.id for one, _ in found):
            return Moving(found)
        if other.state != Sending.CLEAN or other.staged:
            return Moving([], later=not other.local_only)
        at = other


def _place(overlay: Overlay, row: Row) -> tuple[int, bytes]:
    return overlay.key_of(row.parent) if row.parent else TOP, row.file_name


def give_way(overlay: Overlay, tx: sqlite3.Connection, local: Local) -> list[tuple[int, bytes]]:
    """Lets a new file without bytes go when something on the service has its name: it would never be sent,
    and hide the other for ever. Returns the names that lead elsewhere now.
    """
    if not is_bare(local) or local.entity is not None:
        return []
    folder = overlay.entity_of(local.parent)
    row = None if folder is None else overlay.entities.child(folder, local.name)
    if row is None:
        return []
    claimed = overlay.locals.of_entity(row.id, tx)
    if claimed is not None and (claimed.base_parent, claimed.base_name) == (row.parent, row.name):
        # It is there until our own change of its name is sent.
        return []
    if overlay.opened(local.staged):
        overlay.queue(tx, local, delay_s=AGAIN_S)
        return []
    overlay.remove_row(tx, local, "overwritten")
    return [(local.parent, local.name)]


def miss(overlay: Overlay, entities: Iterable[EntityId]) -> None:
    """Entities vanished from where they were. Folders among them, and below them, in which something of
    ours lies are queued: who sends asks what became of them.
    """
    if not overlay.locals.busy or not any(_is_lost_folder(overlay, e) for e in entities):
        return
    lost = [key for key in list(overlay.locals.busy) if key > 0 and is_lost(overlay, key)]
    if not lost:
        return
    with overlay.change() as tx:
        for key in lost:
            seen = overlay.seen(key)
            if seen is None or seen.entity is None or not seen.is_folder:
                continue
            local = overlay.claim(tx, _with_free_name(overlay, tx, seen))
            if local.state == Sending.CLEAN and not local.gone:
                overlay.queue(tx, local)


def _with_free_name(overlay: Overlay, tx: sqlite3.Connection, seen: Seen) -> Seen:
    """Something else may have been made under the name of what nobody saw any more."""
    row = seen.row
    if seen.local is not None or row is None:
        return seen
    if overlay.locals.child(*_place(overlay, row), tx) is None:
        return seen
    name = to_file_name(row.name, row.id, taken=True).encode(errors="surrogateescape")
    return seen._replace(row=row._replace(file_name=name))


def _is_lost_folder(overlay: Overlay, entity: EntityId) -> bool:
    row = overlay.entities.find(entity)
    return row is not None and row.kind in _CONTAINERS and not overlay.entities.is_listed(entity)


def is_lost(overlay: Overlay, key: int) -> bool:
    """Whether the service has a thing, or a folder above it, no more where we know it to be."""
    at = key
    for _ in range(64):
        if at <= 0:
            return False
        seen = overlay.seen(at)
        if seen is None:
            return True
        row = seen.row
        if row is not None and row.parent != TOP and not overlay.entities.is_listed(row.id):
            return True
        if seen.local is not None:
            at = seen.local.parent
        elif row is not None:
            at = overlay.key_of(row.parent) if row.parent else TOP
    return False
