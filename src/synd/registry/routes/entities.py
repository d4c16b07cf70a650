"""Entities: create, read, change, delete; versions; headers; paths; look-ups by md5 and alias."""

from __future__ import annotations

from urllib.parse import quote

from synd.clock import format_time
from synd.errors import UsageError
from synd.ids import md5, syn
from synd.registry import access, entities, handles, kinds
from synd.registry.db import Database
from synd.registry.entities import EntityRow, get, get_version, parse_id, parse_number
from synd.registry.web import (
    NO_CONTENT,
    Json,
    RefusedError,
    Reply,
    Request,
    Router,
    bad,
    created,
    missing,
    ok,
    redirect,
    stale,
    text,
)


def entity_arg(request: Request) -> int:
    return parse_id(request.args["id"])


def version_arg(request: Request) -> int:
    return parse_number(request.args["version"], "version number")


def activity_arg(request: Request) -> int | None:
    """The activity that ?generatedBy= names. Raises RefusedError 404."""
    raw = request.query.get("generatedBy")
    if not raw:
        return None
    activity = parse_number(raw, "activity id")
    if request.registry.db.one("SELECT 1 FROM activity WHERE id = ?", (activity,)) is None:
        raise missing(f"The activity {activity} does not exist.")
    return activity


def entity_json(db: Database, entity: int, number: int | None = None) -> dict[str, Json]:
    """The entity as the wire spells it, its current version by default."""
    row = get(db, entity)
    return entities.to_json(row, get_version(db, entity, number or row.current))


def _create(request: Request) -> Reply:
    db = request.registry.db
    entity = entities.create(db, request.caller, request.json(), activity_arg(request))
    return created(entity_json(db, entity))


def _get(request: Request) -> Reply:
    entity = entity_arg(request)
    access.need(request.registry.db, entity, request.caller, access.READ)
    return ok(entity_json(request.registry.db, entity))


def _get_version(request: Request) -> Reply:
    entity = entity_arg(request)
    access.need(request.registry.db, entity, request.caller, access.READ)
    return ok(entity_json(request.registry.db, entity, version_arg(request)))


def _put(request: Request) -> Reply:
    db = request.registry.db
    entity = entity_arg(request)
    number = entities.update(
        db,
        request.caller,
        entity,
        request.json(),
        new_version=request.flag("newVersion", False),
        activity=activity_arg(request),
    )
    return ok(entity_json(db, entity, number))


def _delete(request: Request) -> Reply:
    entities.delete(request.registry.db, request.caller, entity_arg(request))
    return NO_CONTENT


def _delete_version(request: Request) -> Reply:
    entities.delete_version(
        request.registry.db, request.caller, entity_arg(request), version_arg(request)
    )
    return NO_CONTENT


def _versions(request: Request) -> Reply:
    db = request.registry.db
    entity = entity_arg(request)
    access.need(db, entity, request.caller, access.READ)
    limit, offset = request.page()
    current = get(db, entity).current
    rows = db.all(
        "SELECT v.number, v.label, v.comment, v.modified_by, v.modified_ns, v.handle_id, f.size, f.md5"
        " FROM entity_version AS v LEFT JOIN file_handle AS f ON f.id = v.handle_id"
        " WHERE v.entity_id = ? ORDER BY v.number DESC LIMIT ? OFFSET ?",
        (entity, limit, offset),
    )
    results = []
    for number, label, comment, by, modified_ns, handle, size, digest in rows:
        info: dict[str, Json] = {
            "id": syn(entity),
            "versionNumber": number,
            "versionLabel": label,
            "versionComment": comment,
            "isLatestVersion": number == current,
            "modifiedBy": str(by),
            "modifiedByPrincipalId": str(by),
            "modifiedOn": format_time(modified_ns),
        }
        if handle is not None:
            info["fileHandleId"] = str(handle)
            info["contentMd5"] = digest
            info["contentSize"] = None if size is None else str(size)
        results.append(info)
    full = len(results) == limit and limit > 0
    return ok({"results": results, "totalNumberOfResults": offset + len(results) + int(full)})


def _type(request: Request) -> Reply:
    entity = entity_arg(request)
    access.need(request.registry.db, entity, request.caller, access.READ)
    return ok(entities.header_of(request.registry.db, entity))


def _readable_headers(request: Request, wanted: list[tuple[int, int | None]]) -> dict[str, Json]:
    db = request.registry.db
    results = []
    for entity, number in wanted:
        try:
            access.need(db, entity, request.caller, access.READ)
            results.append(entities.header_of(db, entity, number))
        except RefusedError:
            continue  # the batch forms leave out what is missing or unreadable
    return {"results": results, "totalNumberOfResults": len(results)}


def _type_batch(request: Request) -> Reply:
    ids = [part for part in request.query.get("batch", "").split(",") if part]
    return ok(_readable_headers(request, [(parse_id(part), None) for part in ids]))


def _header_batch(request: Request) -> Reply:
    references = request.json().get("references")
    if not isinstance(references, list) or not all(isinstance(one, dict) for one in references):
        raise bad("references must be a list of objects.")
    wanted: list[tuple[int, int | None]] = []
    for reference in references:
        number = reference.get("targetVersionNumber")
        wanted.append(
            (parse_id(reference.get("targetId")), None if number is None else int(number))
        )
    return ok(_readable_headers(request, wanted))


def path_json(db: Database, entity: int) -> dict[str, Json]:
    where = access.place(db, entity)
    return {"path": [entities.header_of(db, one) for one in reversed(where.ancestors)]}


def _path(request: Request) -> Reply:
    entity = entity_arg(request)
    access.need(request.registry.db, entity, request.caller, access.READ)
    return ok(path_json(request.registry.db, entity))


def _benefactor(request: Request) -> Reply:
    db = request.registry.db
    where = access.need(db, entity_arg(request), request.caller, access.READ)
    return ok(entities.header_of(db, where.benefactor))


def _by_md5(request: Request) -> Reply:
    db = request.registry.db
    try:
        digest = md5(request.args["md5"])
    except UsageError as error:
        raise bad(error.message) from error
    rows = db.all(
        "SELECT v.entity_id, v.number FROM file_handle AS f JOIN entity_version AS v"
        " ON v.handle_id = f.id WHERE f.md5 = ? ORDER BY v.entity_id, v.number LIMIT 200",
        (digest,),
    )
    return ok(_readable_headers(request, [(row[0], row[1]) for row in rows]))


def _by_alias(request: Request) -> Reply:
    row = request.registry.db.one("SELECT id FROM entity WHERE alias = ?", (request.args["alias"],))
    if row is None:
        raise missing(f"There is no project with the alias {request.args['alias']!r}.")
    access.need(request.registry.db, row[0], request.caller, access.READ)
    return ok({"id": syn(row[0])})


def handle_list(db: Database, row: EntityRow, number: int) -> list[dict[str, Json]]:
    """The file handles of one version."""
    version = get_version(db, row.id, number)
    if version.handle is None:
        return []
    found = handles.find(db, version.handle)
    return [] if found is None else [handles.to_json(found)]


def _file_handles(request: Request) -> Reply:
    db = request.registry.db
    entity = entity_arg(request)
    access.need(db, entity, request.caller, access.DOWNLOAD)
    row = get(db, entity)
    number = version_arg(request) if "version" in request.args else row.current
    return ok({"list": handle_list(db, row, number)})


def _file(request: Request) -> Reply:
    db = request.registry.db
    entity = entity_arg(request)
    where = access.need(db, entity, request.caller, access.DOWNLOAD)
    if where.unmet:
        raise RefusedError(403, "There are unmet access requirements for this entity.")
    row = get(db, entity)
    number = version_arg(request) if "version" in request.args else row.current
    version = get_version(db, entity, number)
    if version.handle is None:
        raise missing(f"{syn(entity)} has no file.")
    url = handles.url(handles.get(db, version.handle), request.registry.presigner)
    if url is None:
        raise bad("This file handle has no URL.")
    return (
        redirect(quote(url, safe=":/?&=%#+@,;~")) if request.flag("redirect", True) else text(url)
    )


def _swap_handle(request: Request) -> Reply:
    """Replaces a version's file handle by another with equal bytes, without a new version."""
    db = request.registry.db
    entity, number = entity_arg(request), version_arg(request)
    body = request.json()
    old = parse_number(body.get("oldFileHandleId"), "file handle id")
    new = parse_number(body.get("newFileHandleId"), "file handle id")
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        version = get_version(db, entity, number)
        if version.handle != old:
            raise stale(f"The file handle of {syn(entity)}.{number}")
        before, after = handles.get(db, old), handles.get(db, new)
        if after.created_by != request.caller.user:
            raise RefusedError(
                403, f"{request.caller.name} is not the creator of file handle {new}."
            )
        if before.md5 is None or before.md5 != after.md5:
            raise RefusedError(
                412, "The MD5 of the new file handle differs from that of the old one."
            )
        tx.execute(
            "UPDATE entity_version SET handle_id = ? WHERE entity_id = ? AND number = ?",
            (new, entity, number),
        )
        entities.touch(tx, entity, request.caller.user)
    return Reply(200, b"", "")


def _child(request: Request) -> Reply:
    """The look-up by name. Hot: the official client asks it before almost every create."""
    body = request.json()
    db = request.registry.db
    raw = body.get("parentId")
    parent = kinds.ROOT if raw is None else parse_id(raw)
    name = body.get("entityName")
    if not isinstance(name, str):
        raise bad("entityName is required.")
    where = access.need(db, parent, request.caller, access.READ)
    row = db.one("SELECT id, has_acl FROM entity WHERE parent_id = ? AND name = ?", (parent, name))
    if row is None or (row[1] and not access.rights(db, row[0], request.caller) & access.READ):
        raise missing(f"{syn(where.ancestors[0])} has no child named {name!r}.")
    return ok({"id": syn(row[0])})


def add(router: Router) -> None:
    base = "/repo/v1/entity"
    router.add("POST", base, _create, scope="modify")
    router.add("GET", base + "/{id}", _get, scope="view")
    router.add("PUT", base + "/{id}", _put, scope="modify")
    router.add("DELETE", base + "/{id}", _delete, scope="modify", slow=True)
    router.add("GET", base + "/{id}/version", _versions, scope="view")
    router.add("GET", base + "/{id}/version/{version}", _get_version, scope="view")
    router.add("DELETE", base + "/{id}/version/{version}", _delete_version, scope="modify")
    router.add("GET", base + "/type", _type_batch, scope="view")
    router.add("GET", base + "/{id}/type", _type, scope="view")
    router.add("POST", base + "/header", _header_batch, scope="view")
    router.add("GET", base + "/{id}/path", _path, scope="view")
    router.add("GET", base + "/{id}/benefactor", _benefactor, scope="view")
    router.add("GET", base + "/md5/{md5}", _by_md5, scope="view")
    router.add("GET", base + "/alias/{alias}", _by_alias, scope="view")
    router.add("POST", base + "/child", _child, scope="view")
    for path in ("/{id}", "/{id}/version/{version}"):
        router.add("GET", base + path + "/filehandles", _file_handles, scope="download")
        router.add("GET", base + path + "/file", _file, scope="download")
    router.add("PUT", base + "/{id}/version/{version}/filehandle", _swap_handle, scope="modify")
