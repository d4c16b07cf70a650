"""Entities and their versions: rows to JSON, and every rule of creating, changing and deleting them.

Follows synapse-rest.md 2. Each change is one transaction: the entity's row repeats what its newest version
holds, and both are written here and nowhere else (`seed` writes new rows in bulk, with the same meaning).
"""

from __future__ import annotations

import json
import sqlite3
from typing import Any, NamedTuple

from synd.clock import format_time
from synd.errors import UsageError
from synd.ids import entity_id as parse_entity_id
from synd.ids import syn
from synd.paths import check_entity_name
from synd.registry import access, kinds
from synd.registry.access import Caller
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.web import Json, RefusedError, bad, forbidden, missing, stale, taken

MAX_VERSIONS = 15_000
MAX_CHILDREN = 10_000
"""Files, folders and links in one container, as the service limits what is created one by one. `seed`
may put more there: the registry also stands in for projects older than the limit."""
MAX_NUMBER = (1 << 63) - 1
"""The service's numbers are 64 bits wide, and so are SQLite's."""
_LIMITED = ("file", "folder", "link")

_BY_ID = (
    "SELECT id, parent_id, name, kind, etag, created_ns, created_by, modified_ns, modified_by,"
    " current_version, max_version, size, alias, has_acl, unmet_terms FROM entity WHERE id = ?"
)
_VERSION = (
    "SELECT entity_id, number, label, comment, modified_ns, modified_by, handle_id, props,"
    " annotations, activity_id FROM entity_version WHERE entity_id = ? AND number = ?"
)


class EntityRow(NamedTuple):
    """A row of `entity`."""

    id: int
    parent: int | None
    name: str
    kind: str
    etag: str
    created_ns: int
    created_by: int
    modified_ns: int
    modified_by: int
    current: int
    max_version: int
    size: int
    alias: str | None
    has_acl: int
    unmet_terms: int


class VersionRow(NamedTuple):
    """A row of `entity_version`."""

    entity: int
    number: int
    label: str
    comment: str | None
    modified_ns: int
    modified_by: int
    handle: int | None
    props: str | None
    annotations: str | None
    activity: int | None


def parse_id(text: object) -> int:
    """``syn123`` or ``123`` (an integer too). Raises RefusedError 400."""
    try:
        return parse_entity_id(str(text))
    except UsageError as error:
        raise bad(f"{text!r} is not a valid Synapse ID.") from error


def parse_number(text: object, what: str) -> int:
    try:
        number = int(str(text))
    except ValueError as error:
        raise bad(f"{text!r} is not a valid {what}.") from error
    if abs(number) > MAX_NUMBER:
        raise bad(f"{text!r} is not a valid {what}.")
    return number


def get(db: Database, entity: int) -> EntityRow:
    """Raises RefusedError 404. Says nothing about the trash: `access.place` does."""
    row = db.one(_BY_ID, (entity,))
    if row is None:
        raise missing(f"Entity {syn(entity)} does not exist.")
    return EntityRow._make(row)


def get_version(db: Database, entity: int, number: int) -> VersionRow:
    row = db.one(_VERSION, (entity, number))
    if row is None:
        raise missing(f"Entity {syn(entity)} has no version {number}.")
    return VersionRow._make(row)


def to_json(entity: EntityRow, version: VersionRow) -> dict[str, Json]:
    """The entity as the wire spells it; null properties are left out, as the service does."""
    kind = kinds.BY_NAME[entity.kind]
    body: dict[str, Json] = {
        "concreteType": kind.concrete,
        "id": syn(entity.id),
        "name": entity.name,
        "etag": entity.etag,
        "createdOn": format_time(entity.created_ns),
        "createdBy": str(entity.created_by),
        "modifiedOn": format_time(version.modified_ns),
        "modifiedBy": str(version.modified_by),
    }
    if entity.parent is not None:
        body["parentId"] = syn(entity.parent)
    if kind.versioned:
        body["versionNumber"] = version.number
        body["versionLabel"] = version.label
        body["versionComment"] = version.comment
        body["isLatestVersion"] = version.number == entity.current
    if version.handle is not None:
        body["dataFileHandleId"] = str(version.handle)
    if entity.alias is not None:
        body["alias"] = entity.alias
    if version.props:
        body.update(json.loads(version.props))
    if kind.name == "dataset":
        body.setdefault("items", [])
        body["count"] = len(body["items"])
    return body


def header(
    entity: EntityRow, number: int, label: str, benefactor: int, modified_ns: int, modified_by: int
) -> dict[str, Json]:
    """An EntityHeader: what listings and paths hold."""
    return {
        "id": syn(entity.id),
        "name": entity.name,
        "type": kinds.BY_NAME[entity.kind].concrete,
        "versionNumber": number,
        "versionLabel": label,
        "isLatestVersion": number == entity.current,
        "benefactorId": benefactor,
        "createdOn": format_time(entity.created_ns),
        "modifiedOn": format_time(modified_ns),
        "createdBy": str(entity.created_by),
        "modifiedBy": str(modified_by),
    }


def header_of(db: Database, entity: int, number: int | None = None) -> dict[str, Json]:
    """The header of an entity that is there. Raises RefusedError 404."""
    where = access.place(db, entity)
    row = get(db, entity)
    version = get_version(db, entity, number or row.current)
    return header(
        row,
        version.number,
        version.label,
        where.benefactor,
        version.modified_ns,
        version.modified_by,
    )


def check_name(name: object) -> str:
    """Raises RefusedError 400 in the service's words."""
    if not isinstance(name, str):
        raise bad("Entity name must be text.")
    try:
        return check_entity_name(name)
    except UsageError as error:
        raise bad(
            f"Invalid Name: '{name}'. Names may only contain: letters, numbers, spaces, underscores,"
            " hyphens, periods, plus signs, apostrophes, and parentheses"
        ) from error


def _props(kind: kinds.EntityKind, body: dict[str, Json]) -> str | None:
    kept = {
        key: body[key]
        for key in (*kind.props, "description")
        if key in body and body[key] is not None
    }
    if "description" in kept and len(str(kept["description"])) > 1000:
        raise bad("Description must be 1000 characters or less.")
    if kind.name == "link":
        target = kept.get("linksTo")
        if not isinstance(target, dict) or not target.get("targetId"):
            raise bad("Link.linksTo.targetId is required.")
    return json.dumps(kept, separators=(",", ":")) if kept else None


def _check_handle(
    db: Database, kind: kinds.EntityKind, body: dict[str, Json], caller: Caller, kept: int | None
) -> tuple[int | None, int, str | None]:
    """(handle, size, md5) that the body attaches. Raises RefusedError."""
    if not kind.has_bytes:
        return None, 0, None
    raw = body.get("dataFileHandleId")
    if raw is None:
        raise bad(f"{kind.concrete.rpartition('.')[2]}.dataFileHandleId cannot be null")
    handle = parse_number(raw, "file handle id")
    row = db.one("SELECT created_by, size, md5 FROM file_handle WHERE id = ?", (handle,))
    if row is None:
        raise missing(f"FileHandle {handle} does not exist.")
    if handle != kept and row[0] != caller.user:
        raise forbidden(f"{caller.name} is not the creator of file handle {handle}.")
    return handle, int(row[1] or 0), row[2]


def _check_container(
    db: Database, parent: int, kind: kinds.EntityKind, caller: Caller
) -> access.Place:
    """The place of a container that takes a child of that kind from that caller. Raises RefusedError."""
    where = access.need(db, parent, caller, access.CREATE)
    if parent == kinds.ROOT:
        if kind.name != "project":
            raise forbidden("Only projects may be placed at the root.")
        return where
    if kind.name == "project":
        raise bad("A project must be at the root.")
    if not kinds.BY_NAME[get(db, parent).kind].container:
        raise bad(f"{syn(parent)} cannot be a parent: it is not a project or folder.")
    if len(where.ancestors) >= access.MAX_DEPTH:
        raise bad(f"The hierarchy may be at most {access.MAX_DEPTH} levels deep.")
    if kind.name in _LIMITED:
        row = db.one(
            "SELECT coalesce(sum(n), 0) FROM child_count"
            " WHERE parent_id = ? AND kind IN ('file', 'folder', 'link')",
            (parent,),
        )
        if row is not None and row[0] >= MAX_CHILDREN:
            raise bad(f"Limit of {MAX_CHILDREN} children exceeded for container: {syn(parent)}")
    return where


def _name_taken(name: str, parent: int | None) -> RefusedError:
    where = syn(parent) if parent is not None else "null"
    return taken(
        f"An entity with the name: {name} already exists with a parentId: {where}."
        " Please use a different name."
    )


def create(db: Database, caller: Caller, body: dict[str, Json], activity: int | None) -> int:
    """The id of a new entity. Raises RefusedError 400, 403, 404 (parent), 409 (name)."""
    kind = kinds.BY_CONCRETE.get(str(body.get("concreteType")))
    if kind is None:
        raise bad(f"concreteType {body.get('concreteType')!r} is not an entity type.")
    raw_parent = body.get("parentId")
    if raw_parent is None and kind.name != "project":
        raise bad("Entity.parentId cannot be null")
    parent = kinds.ROOT if raw_parent is None else parse_id(raw_parent)
    now = now_ns()
    with db.write() as tx:
        _check_container(db, parent, kind, caller)
        raw_name = body.get("name")
        name = None if raw_name is None else check_name(raw_name)
        handle, size, _ = _check_handle(db, kind, body, caller, None)
        alias = body.get("alias") if kind.name == "project" else None
        etag = new_etag()
        try:
            cursor = tx.execute(
                "INSERT INTO entity (parent_id, name, kind, etag, created_ns, created_by, modified_ns,"
                " modified_by, current_version, max_version, size, alias)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 1, 1, ?, ?)",
                (
                    parent,
                    name if name is not None else f" {etag}",
                    kind.name,
                    etag,
                    now,
                    caller.user,
                    now,
                    caller.user,
                    size,
                    alias,
                ),
            )
        except sqlite3.IntegrityError as error:
            if alias is not None and "alias" in str(error):
                raise taken(f"The alias {alias!r} is not available.") from error
            raise _name_taken(name or "", parent) from error
        entity = int(cursor.lastrowid or 0)
        if name is None:
            tx.execute("UPDATE entity SET name = ? WHERE id = ?", (syn(entity), entity))
        label = body.get("versionLabel") if kind.versioned else None
        tx.execute(
            "INSERT INTO entity_version VALUES (?, 1, ?, ?, ?, ?, ?, ?, NULL, ?)",
            (
                entity,
                str(label) if label else "1",
                body.get("versionComment") if kind.versioned else None,
                now,
                caller.user,
                handle,
                _props(kind, body),
                activity,
            ),
        )
        if kind.name == "project":
            access.set_acl(tx, entity, {caller.user: access.OWNER})
        if kind.name == "table":
            tx.execute("INSERT INTO table_state VALUES (?, ?, 0, 0, ?)", (entity, new_etag(), now))
    return entity


def update(
    db: Database,
    caller: Caller,
    entity: int,
    body: dict[str, Json],
    *,
    new_version: bool,
    activity: int | None,
) -> int:
    """The current version's number after a PUT. Raises RefusedError 400, 403, 404, 409, 412."""
    if not body.get("etag"):
        raise bad("Entity.etag is required for an update.")
    if body.get("id") is not None and parse_id(body["id"]) != entity:
        raise bad("The id in the body differs from the id in the path.")
    with db.write() as tx:
        where = access.need(db, entity, caller, access.UPDATE)
        row = get(db, entity)
        old = get_version(db, entity, row.current)
        if body["etag"] != row.etag:
            raise stale(f"Object: {syn(entity)}")
        kind = kinds.BY_NAME[row.kind]
        if body.get("concreteType") not in (None, kind.concrete):
            raise bad("The concreteType of an entity cannot be changed.")
        parent = _new_parent(db, caller, row, kind, body, where)
        name = row.name if body.get("name") is None else check_name(body["name"])
        handle, size, md5 = _check_handle(db, kind, body, caller, old.handle)
        automatic = False
        if handle != old.handle:
            before = db.one("SELECT md5 FROM file_handle WHERE id = ?", (old.handle,))
            automatic = md5 is None or before is None or before[0] != md5
        wants_new = (new_version and kind.versioned and not kind.tabular) or automatic
        now = max(now_ns(), row.modified_ns + 1)
        number = row.max_version + 1 if wants_new else row.current
        label, comment = body.get("versionLabel"), body.get("versionComment")
        if automatic and not new_version:
            label = comment = None
        _write_update(
            tx, row, name=name, parent=parent, size=size, number=number, now=now, by=caller.user,
            alias=body.get("alias", row.alias) if kind.name == "project" else None,
        )  # fmt: skip
        # A table's columns are changed by transactions: a body that does not name them leaves them.
        props = _props(kind, json.loads(old.props or "{}") | body if kind.tabular else body)
        try:
            if wants_new:
                count = db.one("SELECT count(*) FROM entity_version WHERE entity_id = ?", (entity,))
                if count is not None and count[0] >= MAX_VERSIONS:
                    raise bad(f"Limit of {MAX_VERSIONS} versions exceeded for {syn(entity)}.")
                tx.execute(
                    "INSERT INTO entity_version VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        entity, number, str(label) if label else str(number), comment, now,
                        caller.user, handle, props, old.annotations, activity,
                    ),
                )  # fmt: skip
            else:
                tx.execute(
                    "UPDATE entity_version SET label = ?, comment = ?, modified_ns = ?, modified_by = ?,"
                    " handle_id = ?, props = ?, activity_id = ? WHERE entity_id = ? AND number = ?",
                    (
                        str(label) if label and kind.versioned else old.label,
                        comment if kind.versioned else None,
                        now,
                        caller.user,
                        handle,
                        props,
                        activity if activity is not None else old.activity,
                        entity,
                        number,
                    ),
                )
        except sqlite3.IntegrityError as error:
            raise taken(
                f"The version label {label!r} is already used by another version of {syn(entity)}."
            ) from error
    return number


def _new_parent(
    db: Database,
    caller: Caller,
    row: EntityRow,
    kind: kinds.EntityKind,
    body: dict[str, Json],
    where: access.Place,
) -> int:
    """The container a PUT puts the entity into. Raises RefusedError."""
    raw = body.get("parentId")
    if raw is None:
        if kind.name == "project":
            return kinds.ROOT
        raise bad("Entity.parentId is required for an update.")
    parent = parse_id(raw)
    if parent == row.parent:
        return parent
    if not access.rights(db, where.benefactor, caller) & access.CHANGE_PERMISSIONS:
        raise forbidden(f"{caller.name} may not move {syn(row.id)}.")
    target = _check_container(db, parent, kind, caller)
    if row.id in target.ancestors:
        raise bad("An entity cannot be moved into itself or below itself.")
    return parent


def _write_update(
    tx: sqlite3.Connection,
    row: EntityRow,
    *,
    name: str,
    parent: int,
    size: int,
    number: int,
    now: int,
    by: int,
    alias: str | None,
) -> None:
    try:
        tx.execute(
            "UPDATE entity SET name = ?, parent_id = ?, size = ?, current_version = ?, max_version ="
            " max(max_version, ?), etag = ?, modified_ns = ?, modified_by = ?, alias = ? WHERE id = ?",
            (name, parent, size, number, number, new_etag(), now, by, alias, row.id),
        )
    except sqlite3.IntegrityError as error:
        if "alias" in str(error):
            raise taken(f"The alias {alias!r} is not available.") from error
        raise _name_taken(name, parent) from error


def touch(tx: sqlite3.Connection, entity: int, by: int) -> str:
    """A new etag and modification time, as every change of an entity's surroundings gives it. The etag."""
    etag = new_etag()
    now = now_ns()
    tx.execute(
        "UPDATE entity SET etag = ?, modified_ns = max(?, modified_ns + 1), modified_by = ?"
        " WHERE id = ?",
        (etag, now, by, entity),
    )
    tx.execute(
        "UPDATE entity_version SET (modified_ns, modified_by) ="
        " (SELECT modified_ns, modified_by FROM entity WHERE id = ?1)"
        " WHERE entity_id = ?1 AND number = (SELECT current_version FROM entity WHERE id = ?1)",
        (entity,),
    )
    return etag


def set_props(tx: sqlite3.Connection, entity: int, number: int, changes: dict[str, Any]) -> None:
    """Sets type-specific properties of one version."""
    row = tx.execute(
        "SELECT props FROM entity_version WHERE entity_id = ? AND number = ?", (entity, number)
    ).fetchone()
    props = json.loads(row[0]) if row and row[0] else {}
    props.update(changes)
    tx.execute(
        "UPDATE entity_version SET props = ? WHERE entity_id = ? AND number = ?",
        (json.dumps(props, separators=(",", ":")), entity, number),
    )


def delete(db: Database, caller: Caller, entity: int) -> None:
    """Moves an entity, with all below it, to the trash. What is not there is already deleted."""
    with db.write() as tx:
        try:
            where = access.place(db, entity)
        except RefusedError:
            return
        if not access.rights(db, where.benefactor, caller) & access.DELETE:
            raise forbidden(f"{caller.name} lacks DELETE access to {syn(entity)}.")
        if entity in (kinds.ROOT, kinds.TRASH):
            raise forbidden("This entity cannot be deleted.")
        to_trash(tx, get(db, entity), caller.user)


def to_trash(tx: sqlite3.Connection, row: EntityRow, by: int) -> None:
    tx.execute(
        "UPDATE entity SET trashed_ns = ?, trashed_by = ?, trashed_parent = parent_id,"
        " trashed_name = name, parent_id = ?, name = ?, alias = NULL WHERE id = ?",
        (now_ns(), by, kinds.TRASH, syn(row.id), row.id),
    )
    touch(tx, row.id, by)
    # The whole tree loses its own access lists (synapse-rest.md 2.11).
    owned = tx.execute(
        "WITH RECURSIVE below (id) AS (SELECT ?1 UNION ALL"
        " SELECT e.id FROM entity AS e JOIN below ON e.parent_id = below.id WHERE e.kind IN"
        " ('project', 'folder') OR e.has_acl = 1)"
        " SELECT acl.entity_id FROM acl JOIN below ON acl.entity_id = below.id",
        (row.id,),
    ).fetchall()
    for (entity,) in owned:
        access.drop_acl(tx, entity)


def restore(db: Database, caller: Caller, entity: int, to: int | None) -> None:
    """Takes an entity out of the trash. Raises RefusedError 403, 404, 409."""
    with db.write() as tx:
        row = tx.execute(
            "SELECT trashed_by, trashed_parent, trashed_name, kind FROM entity"
            " WHERE id = ? AND parent_id = ?",
            (entity, kinds.TRASH),
        ).fetchone()
        if row is None:
            raise missing(f"{syn(entity)} is not in the trash can.")
        if row[0] != caller.user:
            raise forbidden("Only the user who deleted an entity may restore it.")
        parent = row[1] if to is None else to
        try:
            _check_container(db, parent, kinds.BY_NAME[row[3]], caller)
        except RefusedError as error:
            if error.status == 404:
                raise forbidden(f"The parent {syn(parent)} is in the trash can.") from error
            raise
        try:
            tx.execute(
                "UPDATE entity SET parent_id = ?, name = ?, trashed_ns = NULL, trashed_by = NULL,"
                " trashed_parent = NULL, trashed_name = NULL WHERE id = ?",
                (parent, row[2], entity),
            )
        except sqlite3.IntegrityError as error:
            raise _name_taken(row[2], parent) from error
        if row[3] == "project":
            access.set_acl(tx, entity, {caller.user: access.OWNER})
        touch(tx, entity, caller.user)


def delete_version(db: Database, caller: Caller, entity: int, number: int) -> None:
    """Raises RefusedError 400 when it is the only version. A version that is not there is deleted already."""
    with db.write() as tx:
        access.need(db, entity, caller, access.DELETE)
        row = get(db, entity)
        numbers = [
            n
            for (n,) in tx.execute(
                "SELECT number FROM entity_version WHERE entity_id = ? ORDER BY number", (entity,)
            )
        ]
        if number not in numbers:
            return
        if len(numbers) == 1:
            raise bad("Cannot delete the last version of an entity.")
        tx.execute(
            "DELETE FROM entity_version WHERE entity_id = ? AND number = ?", (entity, number)
        )
        numbers.remove(number)
        if number == row.current:
            tx.execute(
                "UPDATE entity SET current_version = ?1, size = coalesce((SELECT f.size FROM"
                " entity_version AS v JOIN file_handle AS f ON f.id = v.handle_id"
                " WHERE v.entity_id = ?2 AND v.number = ?1), 0) WHERE id = ?2",
                (numbers[-1], entity),
            )
        touch(tx, entity, caller.user)
