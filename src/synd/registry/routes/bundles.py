"""Bundles: an entity with what belongs to it, in one request. The client's main read, so a hot path."""

from __future__ import annotations

import json

from synd.registry import access, entities, handles, kinds
from synd.registry.access import Place
from synd.registry.db import Database
from synd.registry.entities import EntityRow, VersionRow, get, get_version, parse_id
from synd.registry.routes.access import (
    acl_json,
    apply_acl,
    permissions_json,
    restriction_json,
)
from synd.registry.routes.activities import activity_json
from synd.registry.routes.annotations import annotations_json, write_annotations
from synd.registry.routes.columns import columns_of
from synd.registry.routes.entities import activity_arg, path_json, version_arg
from synd.registry.web import Json, Reply, Request, Router, bad, created, ok


def bundle(request: Request, entity: int, number: int | None, flags: dict[str, Json]) -> Json:
    """The parts that `flags` ask for. Raises RefusedError 404, 403."""
    db = request.registry.db
    where = access.need(db, entity, request.caller, access.READ)
    row = get(db, entity)
    version = get_version(db, entity, number or row.current)
    answer: dict[str, Json] = {"entityType": row.kind}
    want = flags.get
    if want("includeEntity"):
        answer["entity"] = entities.to_json(row, version)
    if want("includeAnnotations"):
        answer["annotations"] = annotations_json(row, version)
    if want("includeFileHandles"):
        files = _files(db, request, where, version)
        if files is not None:
            answer["fileHandles"] = files
    if want("includeRestrictionInformation"):
        answer["restrictionInformation"] = restriction_json(entity, where)
    if len(answer) - 1 < sum(1 for value in flags.values() if value is True):
        _rest(request, row, version, where, flags, answer)
    return answer


def _files(
    db: Database, request: Request, where: Place, version: VersionRow
) -> list[dict[str, Json]] | None:
    """None when the caller may not download: the service leaves the part out."""
    if not access.rights(db, where.benefactor, request.caller) & access.DOWNLOAD:
        return None
    if version.handle is None:
        return []
    found = handles.find(db, version.handle)
    return [] if found is None else [handles.to_json(found)]


def _rest(
    request: Request,
    row: EntityRow,
    version: VersionRow,
    where: Place,
    flags: dict[str, Json],
    answer: dict[str, Json],
) -> None:
    """The parts that few ask for."""
    db = request.registry.db
    want = flags.get
    if want("includePermissions"):
        answer["permissions"] = permissions_json(db, row, where, request.caller)
    if want("includeEntityPath"):
        answer["path"] = path_json(db, row.id)
    if want("includeHasChildren"):
        answer["hasChildren"] = bool(
            db.one("SELECT 1 FROM entity WHERE parent_id = ? LIMIT 1", (row.id,))
        )
    if want("includeAccessControlList") and row.has_acl:
        answer["accessControlList"] = acl_json(db, row.id)
    if want("includeBenefactorACL"):
        answer["benefactorAcl"] = acl_json(db, where.benefactor)
    if want("includeTableBundle") and kinds.BY_NAME[row.kind].tabular:
        answer["tableBundle"] = {
            "columnModels": columns_of(db, version),
            "maxRowsPerPage": 10_000,
        }
    if want("includeRootWikiId"):
        wiki = db.one(
            "SELECT id FROM wiki_page WHERE owner_type = 'entity' AND owner_id = ?"
            " AND parent_id IS NULL",
            (row.id,),
        )
        if wiki is not None:
            answer["rootWikiId"] = str(wiki[0])
    if want("includeFileName") and version.handle is not None:
        override = json.loads(version.props or "{}").get("fileNameOverride")
        answer["fileName"] = override or handles.get(db, version.handle).name
    if want("includeThreadCount"):
        answer["threadCount"] = 0
    if want("includeActivity") and version.activity is not None:
        answer["activity"] = activity_json(db, version.activity)


_FLAGS_AFTER_WRITE = {
    "includeEntity": True,
    "includeAnnotations": True,
    "includeFileHandles": True,
    "includeRestrictionInformation": True,
}


def _get(request: Request) -> Reply:
    entity = parse_id(request.args["id"])
    return ok(bundle(request, entity, None, request.json()))


def _get_version(request: Request) -> Reply:
    entity = parse_id(request.args["id"])
    return ok(bundle(request, entity, version_arg(request), request.json()))


def _annotations_of(body: dict[str, Json]) -> Json:
    part = body.get("annotations")
    return part.get("annotations") if isinstance(part, dict) else None


def _create(request: Request) -> Reply:
    body = request.json()
    if not isinstance(body.get("entity"), dict):
        raise bad("The bundle must hold an entity.")
    db = request.registry.db
    with db.write() as tx:
        entity = entities.create(db, request.caller, body["entity"], activity_arg(request))
        if annotations := _annotations_of(body):
            write_annotations(tx, entity, 1, annotations)
        if isinstance(acl := body.get("accessControlList"), dict):
            apply_acl(tx, entity, acl)
    return created(bundle(request, entity, None, _FLAGS_AFTER_WRITE))


def _put(request: Request) -> Reply:
    body = request.json()
    entity = parse_id(request.args["id"])
    db = request.registry.db
    with db.write() as tx:
        if isinstance(part := body.get("entity"), dict):
            entities.update(
                db,
                request.caller,
                entity,
                part,
                new_version=request.flag("newVersion", False),
                activity=activity_arg(request),
            )
        access.need(db, entity, request.caller, access.UPDATE)
        if (annotations := _annotations_of(body)) is not None:
            write_annotations(tx, entity, get(db, entity).current, annotations)
            entities.touch(tx, entity, request.caller.user)
        if isinstance(acl := body.get("accessControlList"), dict):
            access.need(db, entity, request.caller, access.CHANGE_PERMISSIONS)
            apply_acl(tx, entity, acl)
            entities.touch(tx, entity, request.caller.user)
    return ok(bundle(request, entity, None, _FLAGS_AFTER_WRITE))


def add(router: Router) -> None:
    base = "/repo/v1/entity"
    router.add("POST", base + "/{id}/bundle2", _get, scope="view")
    router.add("POST", base + "/{id}/version/{version}/bundle2", _get_version, scope="view")
    router.add("POST", base + "/bundle2/create", _create, scope="modify")
    router.add("PUT", base + "/{id}/bundle2", _put, scope="modify")
