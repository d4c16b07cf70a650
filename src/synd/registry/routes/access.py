"""Permissions, access lists, and restrictions of entities (synapse-rest.md 2.9)."""

from __future__ import annotations

import sqlite3

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, entities, kinds
from synd.registry.access import Caller, Place
from synd.registry.db import Database
from synd.registry.entities import EntityRow, get, parse_id
from synd.registry.web import (
    NO_CONTENT,
    Json,
    Reply,
    Request,
    Router,
    bad,
    created,
    forbidden,
    missing,
    ok,
    stale,
)


def permissions_json(db: Database, row: EntityRow, where: Place, caller: Caller) -> dict[str, Json]:
    """UserEntityPermissions: the client reads every key."""
    bits = access.rights(db, where.benefactor, caller)
    public = access.rights(db, where.benefactor, Caller(kinds.PUBLIC, "anonymous", frozenset()))

    def has(bit: int) -> bool:
        return bool(bits & bit)

    project = row.kind == "project"
    return {
        "canView": has(access.READ),
        "canEdit": has(access.UPDATE),
        "canMove": has(access.CHANGE_PERMISSIONS) and not project,
        "canAddChild": has(access.CREATE),
        "canCertifiedUserEdit": has(access.UPDATE),
        "canCertifiedUserAddChild": has(access.CREATE),
        "isCertifiedUser": True,
        "canChangePermissions": has(access.CHANGE_PERMISSIONS),
        "canChangeSettings": has(access.CHANGE_SETTINGS),
        "canDelete": has(access.DELETE),
        "canDownload": has(access.DOWNLOAD) and not where.unmet,
        "canUpload": True,
        "canEnableInheritance": has(access.CHANGE_PERMISSIONS) and not project,
        "canPublicRead": bool(public & access.READ),
        "canModerate": has(access.MODERATE),
        "isCertificationRequired": False,
        "isEntityOpenData": False,
        "isDataContributor": True,
        "ownerPrincipalId": row.created_by,
    }


def acl_json(db: Database, entity: int) -> dict[str, Json]:
    row = db.one("SELECT etag, created_ns FROM acl WHERE entity_id = ?", (entity,))
    if row is None:
        raise missing(f"{syn(entity)} has no access control list of its own.")
    grants = db.all(
        "SELECT principal, access FROM acl_grant WHERE entity_id = ? ORDER BY principal", (entity,)
    )
    return {
        "id": syn(entity),
        "etag": row[0],
        "creationDate": format_time(row[1]),
        "resourceAccess": [
            {"principalId": principal, "accessType": access.to_names(bits)}
            for principal, bits in grants
        ],
    }


def restriction_json(entity: int, where: Place) -> dict[str, Json]:
    return {
        "objectId": entity,
        "restrictionDetails": [],
        "restrictionLevel": "RESTRICTED_BY_TERMS_OF_USE" if where.unmet else "OPEN",
        "hasUnmetAccessRequirement": where.unmet,
    }


def apply_acl(tx: sqlite3.Connection, entity: int, body: dict[str, Json]) -> None:
    """Gives the entity the ACL in `body`. Raises RefusedError 400."""
    grants: dict[int, int] = {}
    listed = body.get("resourceAccess")
    if not isinstance(listed, list) or not all(isinstance(one, dict) for one in listed):
        raise bad("resourceAccess must be a list of objects.")
    for grant in listed:
        principal = grant.get("principalId")
        if not isinstance(principal, int):
            principal = entities.parse_number(principal, "principal id")
        grants[principal] = grants.get(principal, 0) | access.to_bits(grant.get("accessType"))
    access.set_acl(tx, entity, grants)


def _permissions(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    where = access.place(db, entity)
    return ok(permissions_json(db, get(db, entity), where, request.caller))


def _access(request: Request) -> Reply:
    wanted = request.query.get("accessType", "READ")
    if wanted not in access.BITS:
        raise bad(f"{wanted!r} is not an access type.")
    where = access.place(request.registry.db, parse_id(request.args["id"]))
    bits = access.rights(request.registry.db, where.benefactor, request.caller)
    return ok({"result": bool(bits & access.BITS[wanted])})


def _get_acl(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    where = access.need(db, entity, request.caller, access.READ)
    if where.benefactor != entity:
        raise missing(
            f"{syn(entity)} inherits its access control list from {syn(where.benefactor)}."
        )
    return ok(acl_json(db, entity))


def _owned(request: Request, entity: int) -> Place:
    return access.need(request.registry.db, entity, request.caller, access.CHANGE_PERMISSIONS)


def _post_acl(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    with db.write() as tx:
        if _owned(request, entity).benefactor == entity:
            raise forbidden(f"{syn(entity)} has an access control list of its own already.")
        apply_acl(tx, entity, request.json())
        entities.touch(tx, entity, request.caller.user)
    return created(acl_json(db, entity))


def _put_acl(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    body = request.json()
    with db.write() as tx:
        where = _owned(request, entity)
        if where.benefactor != entity:
            raise forbidden(
                f"{syn(entity)} inherits its access control list from {syn(where.benefactor)}."
            )
        if body.get("etag") != acl_json(db, entity)["etag"]:
            raise stale(f"The access control list of {syn(entity)}")
        apply_acl(tx, entity, body)
        entities.touch(tx, entity, request.caller.user)
    return ok(acl_json(db, entity))


def _delete_acl(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    with db.write() as tx:
        where = _owned(request, entity)
        if where.benefactor != entity:
            # The service's own words: the official client goes on over them, by these alone.
            raise forbidden("Resource already inherits its permissions.")
        if get(db, entity).kind == "project":
            raise forbidden("A project must have an access control list.")
        access.drop_acl(tx, entity)
        entities.touch(tx, entity, request.caller.user)
    return NO_CONTENT


def _requirements(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    where = access.need(db, entity, request.caller, access.READ)
    limit, offset = request.page()
    results: list[dict[str, Json]] = []
    if where.unmet and offset == 0 and limit:
        results.append(
            {
                "concreteType": kinds.OSRM + "TermsOfUseAccessRequirement",
                "id": 1,
                "accessType": "DOWNLOAD",
                "subjectIds": [{"id": syn(entity), "type": "ENTITY"}],
            }
        )
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def _download_actions(request: Request) -> Reply:
    db = request.registry.db
    where = access.need(db, parse_id(request.args["id"]), request.caller, access.READ)
    actions: list[dict[str, Json]] = []
    if where.unmet:
        prefix = kinds.OSRM + "download."
        actions.append({"concreteType": prefix + "MeetAccessRequirement", "accessRequirementId": 1})
    return ok({"actions": actions})


def _restriction(request: Request) -> Reply:
    entity = parse_id(request.json().get("objectId"))
    return ok(restriction_json(entity, access.place(request.registry.db, entity)))


def _restriction_batch(request: Request) -> Reply:
    ids = request.json().get("objectIds")
    if not isinstance(ids, list):
        raise bad("objectIds must be a list.")
    found = []
    for raw in ids:
        entity = parse_id(raw)
        found.append(restriction_json(entity, access.place(request.registry.db, entity)))
    return ok({"restrictionInformation": found})


def _lock(request: Request) -> Reply:
    """Puts terms in the way of a download, as the client's `is_restricted` asks for."""
    entity = parse_id(request.args["id"])
    with request.registry.db.write() as tx:
        access.need(request.registry.db, entity, request.caller, access.UPDATE)
        tx.execute("UPDATE entity SET unmet_terms = 1 WHERE id = ?", (entity,))
    return created(
        {
            "concreteType": kinds.OSRM + "ACTAccessRequirement",
            "id": 1,
            "accessType": "DOWNLOAD",
            "subjectIds": [{"id": syn(entity), "type": "ENTITY"}],
            # The client tells it to the user: where the service's access team keeps its cases.
            "jiraKey": f"SYND-{entity}",
        }
    )


def add(router: Router) -> None:
    base = "/repo/v1/entity/{id}"
    router.add("GET", base + "/permissions", _permissions, scope="view")
    router.add("GET", base + "/access", _access, scope="view")
    router.add("GET", base + "/acl", _get_acl, scope="view")
    router.add("POST", base + "/acl", _post_acl, scope="modify")
    router.add("PUT", base + "/acl", _put_acl, scope="modify")
    router.add("DELETE", base + "/acl", _delete_acl, scope="modify")
    router.add("GET", base + "/accessRequirement", _requirements, scope="view")
    router.add("GET", base + "/actions/download", _download_actions, scope="view")
    router.add("POST", base + "/lockAccessRequirement", _lock, scope="modify")
    router.add("POST", "/repo/v1/restrictionInformation", _restriction, scope="view")
    router.add("POST", "/repo/v1/restrictionInformation/batch", _restriction_batch, scope="view")
