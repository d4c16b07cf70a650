"""Rows of entities ↔ values: look-ups for the mount, listings and details from the service.

Reading runs on the caller's own connection and costs a few microseconds; writing is one transaction.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from synd.errors import NotFound
from synd.ids import ContentKey, EntityId, FileHandleId, Md5, Version, content_key, syn
from synd.model import (
    CONTAINERS,
    AnnotationValue,
    Entity,
    FileVersion,
    Header,
    Kind,
    VersionInfo,
)
from synd.model import (
    Store as Place,
)
from synd.paths import to_file_name
from synd.store.connect import Store

TOP = EntityId(0)
"""The parent of projects: the top of the mount."""

UNKNOWN_PARENT = EntityId(-1)

REMEMBERED = 50_000
"""Own changes that late answers are compared with: more than the service takes while it gives one."""

_UNVERSIONED = CONTAINERS | {Kind.LINK, Kind.DOCKER_REPO, Kind.OTHER}


def version_of(kind: Kind, number: Version | None) -> Version:
    """The version in a row: 0 for what has none. Listings say 1 of folders, bundles say nothing."""
    return Version(0) if number is None or kind in _UNVERSIONED else number


class Row(NamedTuple):
    """An entity as the store knows it. Field order is that of the statements below."""

    id: EntityId
    parent: EntityId
    name: str
    file_name: bytes
    kind: str
    version: Version
    created_ns: int
    modified_ns: int
    modified_by: str
    detail_ns: int
    etag: str
    handle: FileHandleId | None
    md5: Md5 | None
    size: int | None
    handle_name: str
    content_type: str
    store: str
    url: str | None
    target: EntityId | None
    target_version: Version | None
    unmet_terms: int
    corrupt: str | None

    @property
    def detailed(self) -> bool:
        """Whether size and md5 are known. A version's bytes never change, so they outlive edits of
        annotations and the like; see `current` before trusting the file handle.
        """
        return self.detail_ns >= 0

    @property
    def current(self) -> bool:
        """Whether everything is known for the entity as it was last modified."""
        return self.detail_ns == self.modified_ns

    @property
    def key(self) -> ContentKey | None:
        """The cache's name for the present bytes; None without bytes."""
        if self.handle is None and self.md5 is None:
            return None
        return content_key(self.md5, self.handle)

    def file(self) -> FileVersion:
        """The present bytes as a value."""
        return FileVersion(
            entity=self.id,
            version=self.version,
            handle=self.handle,
            md5=self.md5,
            size=self.size,
            name=self.handle_name or self.name,
            content_type=self.content_type,
            store=Place(self.store),
            external_url=self.url,
        )


_COLUMNS = """id, parent, name, file_name, kind, version, created_ns, modified_ns, modified_by, detail_ns,
 etag, handle, md5, size, handle_name, content_type, store, url, target, target_version, unmet_terms, corrupt"""

_GET = f"SELECT {_COLUMNS} FROM entity WHERE id = ?"
_CHILD = f"SELECT {_COLUMNS} FROM entity WHERE parent = ? AND file_name = ? AND listed = 1"
_CHILDREN = f"""SELECT {_COLUMNS} FROM entity
 WHERE parent = ? AND listed = 1 AND id > ? ORDER BY id LIMIT ?"""
_NAMES = """SELECT id, file_name, kind, version, modified_ns, size, detail_ns FROM entity
 WHERE parent = ? AND listed = 1 AND id > ? ORDER BY id LIMIT ?"""
_UNDETAILED = """SELECT id FROM entity INDEXED BY entity_undetailed WHERE parent = ? AND listed = 1 AND detail_ns <> modified_ns
 AND kind IN ('file', 'recordset', 'link') ORDER BY id"""


class Change(NamedTuple):
    """What a listing or a detail changed about one entity, for the kernel's notices."""

    id: EntityId
    parent: EntityId
    file_name: bytes
    gone: bool
    """The name no longer leads there."""
    moved_on: bool
    """The content is another one than before."""
    appeared: bool = False
    """The name was not in the folder's listing before."""
    rewritten: bool = False
    """The same version has other bytes than it had."""


class Entities:
    """The entity, version and view tables."""

    def __init__(self, store: Store) -> None:
        self._store = store
        # What we changed ourselves, by the count of such changes: an answer to a question from
        # before it must not undo it. In memory, as questions do not outlive the process either.
        self._changes = 0
        self._changed: dict[EntityId, int] = {}

    def mark(self) -> int:
        """The present moment, to be taken before the service is asked and given with its answer."""
        return self._changes

    def _note(self, entity: EntityId) -> None:
        self._changes += 1
        self._changed.pop(entity, None)
        self._changed[entity] = self._changes
        while len(self._changed) > REMEMBERED:
            del self._changed[next(iter(self._changed))]

    def _changed_after(self, entity: EntityId, mark: int | None) -> bool:
        return mark is not None and self._changed.get(entity, 0) > mark

    def find(self, entity: int) -> Row | None:
        found = self._store.read.execute(_GET, (entity,)).fetchone()
        return Row._make(found) if found else None

    def find_in(self, tx: sqlite3.Connection, entity: int) -> Row | None:
        """As `find`, inside a transaction."""
        found = tx.execute(_GET, (entity,)).fetchone()
        return Row._make(found) if found else None

    def get(self, entity: int) -> Row:
        """Raises NotFound."""
        row = self.find(entity)
        if row is None:
            raise NotFound(f"{syn(entity)} is not known here", entity=syn(entity))
        return row

    def child(self, parent: int, file_name: bytes) -> Row | None:
        found = self._store.read.execute(_CHILD, (parent, file_name)).fetchone()
        return Row._make(found) if found else None

    def children(self, parent: int, after: int = 0, limit: int = -1) -> list[Row]:
        """Listed children in order of id, after that id."""
        rows = self._store.read.execute(_CHILDREN, (parent, after, limit)).fetchall()
        return [Row._make(row) for row in rows]

    def count_children(self, parent: int) -> int:
        statement = "SELECT count(*) FROM entity WHERE parent = ? AND listed = 1"
        found: int = self._store.read.execute(statement, (parent,)).fetchone()[0]
        return found

    def names(self, parent: int, after: int, limit: int) -> list[tuple[Any, ...]]:
        """What a listing in the mount needs of the children after that id: (id, file_name, kind,
        version, modified_ns, size, detail_ns) each. Bare rows: a folder may hold thousands.
        """
        return self._store.read.execute(_NAMES, (parent, after, limit)).fetchall()

    def annotations(self, row: Row) -> dict[str, AnnotationValue] | None:
        """An entity's annotations; None when they are not known for its present state."""
        statement = "SELECT annotations FROM entity WHERE id = ? AND detail_ns = modified_ns"
        found = self._store.read.execute(statement, (row.id,)).fetchone()
        if found is None or found[0] is None:
            return None
        return {k: (v[0], tuple(v[1])) for k, v in json.loads(found[0]).items()}

    def undetailed(self, parent: int) -> list[EntityId]:
        """Listed files of a folder whose size is not known, in order of id."""
        return [row[0] for row in self._store.read.execute(_UNDETAILED, (parent,))]

    def count(self) -> int:
        found: int = self._store.read.execute("SELECT count(*) FROM entity").fetchone()[0]
        return found

    def descendants(self, top: int) -> Iterator[Row]:
        """All known entities below `top` and itself, parents first, memory bounded by the tree's width."""
        first = self.find(top)
        if first is not None:
            yield first
        waiting = [EntityId(top)]
        while waiting:
            for row in self.children(waiting.pop()):
                yield row
                if Kind(row.kind).is_container:
                    waiting.append(row.id)

    def project_of(self, entity: int) -> EntityId | None:
        """The project that holds an entity, as far as its ancestors are known. Cost: a row per level."""
        at = EntityId(entity)
        for _ in range(64):
            row = self.find(at)
            if row is None:
                return None
            if row.parent == TOP or row.kind == Kind.PROJECT:
                return row.id
            at = row.parent
        return None

    def path_of(self, entity: int) -> list[bytes] | None:
        """The one path of an entity below the mount: through its project at the top, or through
        ``@id`` when that project is not there. None when a part of the way is not known.
        """
        parts: list[bytes] = []
        at = EntityId(entity)
        while at != TOP:
            row = self.find(at)
            if row is None or len(parts) > 64:
                return None
            if row.parent == TOP and not self.is_listed(row.id):
                return [b"@id", syn(row.id).encode(), *parts[::-1]]
            parts.append(row.file_name)
            at = row.parent
        return parts[::-1]

    def is_listed(self, entity: int) -> bool:
        statement = "SELECT listed FROM entity WHERE id = ?"
        found = self._store.read.execute(statement, (entity,)).fetchone()
        return bool(found and found[0])

    def apply_listing(
        self, parent: EntityId, headers: Sequence[Header], mark: int | None = None
    ) -> list[Change]:
        """Makes a folder's rows those of a whole listing; returns what changed.

        Names that clash on a file system get their id; who has the lower id keeps the plain name.
        With the `mark` from before the listing was asked for, it says nothing about entities that we
        have changed ourselves since. One transaction. Cost: a row each, plus the rows of what changed.
        """
        with self._store.write() as tx:
            statement = """SELECT id, name, file_name, kind, version, modified_ns
                FROM entity WHERE parent = ? AND listed = 1"""
            before = {row[0]: row for row in tx.execute(statement, (parent,))}
            changes: list[Change] = []
            ours = {i: row for i, row in before.items() if self._changed_after(i, mark)}
            taken: set[bytes] = {row[2] for row in ours.values()}
            before = {i: row for i, row in before.items() if i not in ours}
            wanted: dict[EntityId, tuple[Header, bytes]] = {}
            for header in sorted(headers, key=lambda h: h.id):
                if header.id in wanted or self._changed_after(header.id, mark):
                    continue
                known = tx.execute(_ELSEWHERE, (header.id,)).fetchone()
                external = False
                if known is not None:
                    there, name, is_listed, version, external = known
                    external = bool(external) and version == version_of(header.kind, header.version)
                    if is_listed and there != parent:
                        changes.append(Change(header.id, there, name, gone=True, moved_on=False))
                file_name = file_name_of(header.name, header.kind, header.id, external=external)
                if file_name in taken:
                    file_name = file_name_of(
                        header.name, header.kind, header.id, external=external, taken=True
                    )
                taken.add(file_name)
                wanted[header.id] = (header, file_name)
            gone = [i for i in before if i not in wanted]
            changes.extend(Change(i, parent, before[i][2], gone=True, moved_on=False) for i in gone)
            tx.executemany("UPDATE entity SET listed = 0 WHERE id = ?", [(i,) for i in gone])
            fresh: list[tuple[object, ...]] = []
            unlist: list[tuple[int]] = []
            for i, (header, file_name) in wanted.items():
                old = before.get(i)
                number = version_of(header.kind, header.version)
                new_state = (
                    header.name,
                    file_name,
                    str(header.kind),
                    number,
                    header.modified_on_ns,
                )
                if old is not None and old[1:] == new_state:
                    continue
                if old is not None and old[2] != file_name:
                    changes.append(Change(i, parent, old[2], gone=True, moved_on=False))
                    unlist.append((i,))
                changes.append(
                    Change(
                        i,
                        parent,
                        file_name,
                        gone=False,
                        moved_on=old is not None and old[4] != number,
                        appeared=old is None or old[2] != file_name,
                    )
                )
                fresh.append(
                    (
                        i, parent, header.name, file_name, str(header.kind), number,
                        header.created_on_ns, header.modified_on_ns, header.modified_by,
                    )
                )  # fmt: skip
            # Two names may change places, so the old ones leave the unique index first.
            tx.executemany("UPDATE entity SET listed = 0 WHERE id = ?", unlist)
            tx.executemany(_UPSERT_HEADER, fresh)
            tx.executemany(_KEEP_VERSION, [(f[0], f[0]) for f in fresh if f[0] in before])
            tx.execute(_DETAIL_FROM_VIEW, (parent,))
        return changes

    def apply_entity(self, entity: Entity) -> Change:
        """Records a bundle: header and details."""
        return self.apply_entities([entity])[0]

    def apply_entities(self, entities: Sequence[Entity]) -> list[Change]:
        """Records bundles in one transaction. Whether a folder lists them stays as it was.

        One that is older than what we made of the entity ourselves changes nothing.
        """
        with self._store.write() as tx:
            return [self._apply(tx, entity) for entity in entities]

    def _apply(self, tx: sqlite3.Connection, entity: Entity) -> Change:
        if entity.id in self._changed:
            known = tx.execute(_GET, (entity.id,)).fetchone()
            row = None if known is None else Row._make(known)
            if row is not None and row.modified_ns > entity.modified_on_ns:
                return Change(row.id, row.parent, row.file_name, gone=False, moved_on=False)
        return _apply_entity(tx, entity)

    def put(self, tx: sqlite3.Connection, entity: Entity, *, fresh: bool = False) -> list[Change]:
        """Records an entity as the service has it after a change of ours: in its folder's listing.

        `fresh`: just made by us, so a folder holds nothing yet. Belongs to the caller's transaction.
        """
        self._note(entity.id)
        old = tx.execute(_GET, (entity.id,)).fetchone()
        was_listed = _is_listed(tx, entity.id)
        _apply_entity(tx, entity)
        row = Row._make(tx.execute(_GET, (entity.id,)).fetchone())
        changes: list[Change] = []
        if old is not None and was_listed and (old[1], old[3]) != (row.parent, row.file_name):
            changes.append(Change(row.id, old[1], old[3], gone=True, moved_on=False))
        if row.parent != TOP or was_listed:
            tx.execute("UPDATE entity SET listed = 0 WHERE id = ?", (row.id,))
            external = _needs_url_name(entity)
            name = file_name_of(entity.name, entity.kind, entity.id, external=external)
            other = tx.execute(_CHILD, (row.parent, name)).fetchone()
            if other is not None and other[2] == entity.name:
                # The service lets nobody else have that name: what we know of the other is old.
                tx.execute("UPDATE entity SET listed = 0 WHERE id = ?", (other[0],))
                changes.append(Change(other[0], row.parent, name, gone=True, moved_on=False))
            elif other is not None:
                name = file_name_of(
                    entity.name, entity.kind, entity.id, external=external, taken=True
                )
            tx.execute("UPDATE entity SET file_name = ?, listed = 1 WHERE id = ?", (name, row.id))
            row = row._replace(file_name=name)
        if fresh and entity.kind.is_container:
            tx.execute(_LISTED_EMPTY, (row.id,))
        moved_on = old is not None and old[5] != row.version
        appeared = old is None or not was_listed or bool(changes)
        return [
            *changes,
            Change(row.id, row.parent, row.file_name, gone=False, moved_on=moved_on, appeared=appeared),
        ]  # fmt: skip

    def drop(self, tx: sqlite3.Connection, entity: EntityId) -> list[Change]:
        """Takes an entity that the service has no more out of its folder's listing, in the caller's
        transaction. Of a folder it is not known what it holds, should it come back.
        """
        self._note(entity)
        row = tx.execute(_GET, (entity,)).fetchone()
        if row is None:
            return []
        tx.execute("UPDATE entity SET listed = 0 WHERE id = ?", (entity,))
        tx.execute("UPDATE folder SET listed_ns = 0 WHERE id = ?", (entity,))
        return [Change(entity, row[1], row[3], gone=True, moved_on=False)]

    def forget(self, entity: EntityId) -> Change | None:
        """Takes an entity that the service no longer shows out of its folder's listing."""
        row = self.find(entity)
        if row is None:
            return None
        with self._store.write() as tx:
            tx.execute("UPDATE entity SET listed = 0 WHERE id = ?", (entity,))
        return Change(entity, row.parent, row.file_name, gone=True, moved_on=False)

    def apply_view_rows(self, rows: Iterable[tuple[object, ...]]) -> None:
        """Keeps rows of a view (columns of `view_row`) for listings to come and those at hand."""
        with self._store.write() as tx:
            tx.executemany(
                """INSERT OR REPLACE INTO view_row
                (id, version, modified_ns, etag, handle, md5, size, handle_name)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?)""",
                rows,
            )

    def use_view_rows(self, parents: Collection[int]) -> None:
        """Gives the listed files of these folders the details that a view told."""
        with self._store.write() as tx:
            tx.executemany(_DETAIL_FROM_VIEW, [(p,) for p in parents])

    def set_corrupt(self, entity: EntityId, why: str | None) -> None:
        with self._store.write() as tx:
            tx.execute("UPDATE entity SET corrupt = ? WHERE id = ?", (why, entity))

    def versions(self, entity: int) -> list[VersionInfo]:
        """Known versions, newest first."""
        statement = """SELECT number, label, comment, modified_ns, modified_by, size, md5, handle
            FROM version WHERE entity = ? ORDER BY number DESC"""
        rows = self._store.read.execute(statement, (entity,)).fetchall()
        return [
            VersionInfo(
                EntityId(entity), Version(n), label, comment, ns, by, size, md5, handle, index == 0
            )
            for index, (n, label, comment, ns, by, size, md5, handle) in enumerate(rows)
        ]

    def version(self, entity: int, number: int) -> VersionInfo | None:
        return next((v for v in self.versions(entity) if v.number == number), None)

    def versions_listed(self, row: Row) -> bool:
        statement = "SELECT modified_ns FROM version_listing WHERE entity = ?"
        found = self._store.read.execute(statement, (row.id,)).fetchone()
        return found is not None and found[0] == row.modified_ns

    def apply_versions(self, row: Row, versions: Iterable[VersionInfo]) -> None:
        """Makes the version rows of an entity those of a whole version listing."""
        with self._store.write() as tx:
            tx.execute("DELETE FROM version WHERE entity = ?", (row.id,))
            tx.executemany(
                """INSERT OR REPLACE INTO version
                (entity, number, label, comment, modified_ns, modified_by, handle, md5, size)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                [
                    (
                        row.id,
                        v.number,
                        v.label,
                        v.comment,
                        v.modified_on_ns,
                        v.modified_by,
                        v.handle,
                        v.md5,
                        v.size,
                    )
                    for v in versions
                ],
            )
            tx.execute(
                "INSERT OR REPLACE INTO version_listing (entity, modified_ns) VALUES (?, ?)",
                (row.id, row.modified_ns),
            )


def _is_listed(tx: sqlite3.Connection, entity: EntityId) -> bool:
    found = tx.execute("SELECT listed FROM entity WHERE id = ?", (entity,)).fetchone()
    return bool(found and found[0])


def _apply_entity(tx: sqlite3.Connection, entity: Entity) -> Change:
    parent = TOP if entity.kind is Kind.PROJECT else (entity.parent or UNKNOWN_PARENT)
    old = tx.execute(_GET, (entity.id,)).fetchone()
    is_listed = _is_listed(tx, entity.id)
    number = version_of(entity.kind, entity.version)
    external = _needs_url_name(entity)
    file_name = file_name_of(entity.name, entity.kind, entity.id, external=external)
    if is_listed:
        clash = tx.execute(_CHILD, (parent, file_name)).fetchone()
        if clash is not None and clash[0] != entity.id:
            file_name = file_name_of(
                entity.name, entity.kind, entity.id, external=external, taken=True
            )
            if clash[2] == entity.name and old is not None and old[1] == parent:
                # The service lets two have one name never, so what is known of the other is old. Until
                # the folder is listed again, at the next poll, this one keeps the name it had.
                file_name = old[3]
                tx.execute("UPDATE folder SET sum_bytes = -2 WHERE id = ?", (parent,))
    header = (
        entity.id, parent, entity.name, file_name, str(entity.kind), number,
        entity.created_on_ns, entity.modified_on_ns, entity.modified_by,
    )  # fmt: skip
    # Out of the unique index for the moment: a bundle does not say whether the folder lists it.
    tx.execute("UPDATE entity SET listed = 0 WHERE id = ?", (entity.id,))
    tx.execute(_UPSERT_HEADER.replace("?, 1)", "?, 0)").replace("listed = 1", "listed = 0"), header)
    if is_listed:
        tx.execute("UPDATE entity SET listed = 1 WHERE id = ?", (entity.id,))
    file = entity.file
    tx.execute(
        _SET_DETAIL,
        (
            entity.modified_on_ns, entity.etag,
            file.handle if file else None, file.md5 if file else None, file.size if file else None,
            file.name if file else "", file.content_type if file else "",
            str(file.store) if file else "s3", file.external_url if file else None,
            entity.link.id if entity.link else None,
            entity.link.version if entity.link else None,
            json.dumps(dict(entity.annotations)), int(entity.access.unmet_terms), entity.id,
        ),
    )  # fmt: skip
    moved_on = old is not None and (old[5] != number or old[3] != file_name)
    return Change(entity.id, parent, file_name, gone=False, moved_on=moved_on)


# Nobody else can have seen a folder that we have just made.
_LISTED_EMPTY = """INSERT INTO folder (id, listed_ns, checked_ns, total, sum_bytes, project)
 SELECT e.id, e.modified_ns, e.modified_ns, 0, 0, coalesce(p.project, 0)
 FROM entity AS e LEFT JOIN folder AS p ON p.id = e.parent WHERE e.id = ?
 ON CONFLICT (id) DO UPDATE SET listed_ns = excluded.listed_ns, checked_ns = excluded.checked_ns,
  total = 0, sum_bytes = 0, project = excluded.project"""

# Where an entity of a listing was known before, and whether it is a link without a size.
_ELSEWHERE = """SELECT parent, file_name, listed, version, url IS NOT NULL AND size IS NULL
 AND detail_ns >= 0 FROM entity WHERE id = ?"""

_UPSERT_HEADER = """INSERT INTO entity
 (id, parent, name, file_name, kind, version, created_ns, modified_ns, modified_by, listed)
 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1)
 ON CONFLICT (id) DO UPDATE SET parent = excluded.parent, name = excluded.name,
  file_name = excluded.file_name, kind = excluded.kind,
  corrupt = CASE WHEN version = excluded.version THEN corrupt END,
  detail_ns = CASE WHEN version = excluded.version THEN detail_ns ELSE -1 END,
  handle = CASE WHEN version = excluded.version THEN handle END,
  md5 = CASE WHEN version = excluded.version THEN md5 END,
  size = CASE WHEN version = excluded.version THEN size END,
  version = excluded.version, created_ns = excluded.created_ns, modified_ns = excluded.modified_ns,
  modified_by = excluded.modified_by, listed = 1"""

# A version's bytes stay readable under its number after a newer one came: nothing to do when its
# row is there; the listing of versions brings the rest.
_KEEP_VERSION = """DELETE FROM version_listing WHERE entity = ? AND modified_ns <>
 (SELECT modified_ns FROM entity WHERE id = ?)"""

_SET_DETAIL = """UPDATE entity SET detail_ns = ?, etag = ?, handle = ?, md5 = ?, size = ?, handle_name = ?,
 content_type = ?, store = ?, url = ?, target = ?, target_version = ?, annotations = ?,
 unmet_terms = ? WHERE id = ?"""

# External links have no md5 there and need their bundle; so does what the view does not know yet.
_DETAIL_FROM_VIEW = """UPDATE entity SET detail_ns = entity.modified_ns, etag = v.etag,
  handle = v.handle, md5 = v.md5, size = v.size, handle_name = v.handle_name, annotations = NULL
 FROM view_row AS v
 WHERE entity.parent = ? AND entity.listed = 1 AND entity.detail_ns <> entity.modified_ns
  AND entity.kind IN ('file', 'recordset') AND v.id = entity.id AND v.version = entity.version
  AND v.modified_ns = entity.modified_ns AND v.md5 IS NOT NULL AND v.size IS NOT NULL"""

_SUFFIX = {
    Kind.TABLE: ".csv",
    Kind.ENTITY_VIEW: ".csv",
    Kind.SUBMISSION_VIEW: ".csv",
    Kind.MATERIALIZED_VIEW: ".csv",
    Kind.VIRTUAL_TABLE: ".csv",
    Kind.DATASET: ".csv",
    Kind.DATASET_COLLECTION: ".csv",
    Kind.RECORD_SET: ".csv",
}


def _needs_url_name(entity: Entity) -> bool:
    return (
        entity.file is not None
        and entity.file.external_url is not None
        and entity.file.size is None
    )


def file_name_of(
    name: str, kind: Kind, entity: EntityId, *, external: bool = False, taken: bool = False
) -> bytes:
    """How the mount spells an entity: tables end in .csv, links without a size in .url."""
    suffix = ".url" if external else _SUFFIX.get(kind, "")
    if suffix and name.lower().endswith(suffix):
        suffix = ""
    return to_file_name(name, entity, suffix=suffix, taken=taken).encode(errors="surrogateescape")
