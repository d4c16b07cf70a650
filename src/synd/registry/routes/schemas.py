"""Organizations, registered JSON schemas, their bindings, and what validation says (synapse-rest.md 7.6)."""

from __future__ import annotations

import json

from synd.clock import format_time
from synd.errors import UsageError
from synd.ids import syn
from synd.registry import access, kinds, schemas
from synd.registry.db import Row, new_etag, now_ns
from synd.registry.entities import get, get_version, parse_id, parse_number
from synd.registry.routes.annotations import flat_json
from synd.registry.routes.asyncjobs import async_job
from synd.registry.web import (
    NO_CONTENT,
    Json,
    Reply,
    Request,
    Router,
    bad,
    created,
    missing,
    ok,
    stale,
)
from synd.validation import Checker

_S = kinds.OSRM + "schema."
_PAGE = 50


def _organization_json(row: Row) -> dict[str, Json]:
    return {
        "id": str(row[0]),
        "name": row[1],
        "createdOn": format_time(row[2]),
        "createdBy": str(row[3]),
    }


_ORGANIZATION = "SELECT id, name, created_ns, created_by FROM schema_organization"


def _create_organization(request: Request) -> Reply:
    name = schemas.check_organization_name(request.json().get("organizationName"))
    number = schemas.create_organization(request.registry.db, request.caller, name)
    row = request.registry.db.all(_ORGANIZATION + " WHERE id = ?", (number,))[0]
    return created(_organization_json(row))


def _get_organization(request: Request) -> Reply:
    name = request.query.get("name")
    if not name:
        raise bad("name is required.")
    number, _ = schemas.organization(request.registry.db, name)
    row = request.registry.db.all(_ORGANIZATION + " WHERE id = ?", (number,))[0]
    return ok(_organization_json(row))


def _page(request: Request, listed: list[dict[str, Json]]) -> Reply:
    """One page of a listing whose token is an offset. Raises RefusedError 400."""
    token = request.json().get("nextPageToken")
    start = parse_number(token, "page token") if token else 0
    if start < 0:
        raise bad(f"{token!r} is not a page token of this service.")
    more = str(start + _PAGE) if len(listed) > start + _PAGE else None
    return ok({"page": listed[start : start + _PAGE], "nextPageToken": more})


def _list_organizations(request: Request) -> Reply:
    rows = request.registry.db.all(_ORGANIZATION + " ORDER BY name")
    return _page(request, [_organization_json(row) for row in rows])


def _organization_id(request: Request) -> int:
    return parse_number(request.args["id"], "organization id")


def _delete_organization(request: Request) -> Reply:
    db = request.registry.db
    number = _organization_id(request)
    with db.write() as tx:
        schemas.need_organization(db, number, request.caller, "DELETE")
        if db.one("SELECT 1 FROM json_schema WHERE organization_id = ? LIMIT 1", (number,)):
            raise bad("All schemas of an organization must be deleted before it is.")
        tx.execute("DELETE FROM schema_organization WHERE id = ?", (number,))
    return NO_CONTENT


def _get_acl(request: Request) -> Reply:
    row = request.registry.db.one(
        "SELECT grants, etag, created_ns FROM schema_organization WHERE id = ?",
        (_organization_id(request),),
    )
    if row is None:
        raise missing(f"Organization {request.args['id']} not found")
    return ok(
        {
            "id": request.args["id"],
            "etag": row[1],
            "creationDate": format_time(row[2]),
            "resourceAccess": json.loads(row[0]),
        }
    )


def _put_acl(request: Request) -> Reply:
    db = request.registry.db
    number = _organization_id(request)
    body = request.json()
    grants = body.get("resourceAccess")
    if not isinstance(grants, list) or not grants:
        raise bad("resourceAccess must be a list that is not empty.")
    kept = []
    for one in grants:
        access.to_bits(one.get("accessType"))
        kept.append(
            {
                "principalId": parse_number(one.get("principalId"), "principal id"),
                "accessType": one["accessType"],
            }
        )
    with db.write() as tx:
        schemas.need_organization(db, number, request.caller, "CHANGE_PERMISSIONS")
        row = db.one("SELECT etag FROM schema_organization WHERE id = ?", (number,))
        if row is None or row[0] != body.get("etag"):
            raise stale(f"The ACL of organization {number}")
        tx.execute(
            "UPDATE schema_organization SET grants = ?, etag = ? WHERE id = ?",
            (json.dumps(kept), new_etag(), number),
        )
    return _get_acl(request)


def _create(request: Request, body: dict[str, Json]) -> Json:
    info, whole = schemas.register(
        request.registry.db, request.caller, body.get("schema"), dry_run=bool(body.get("dryRun"))
    )
    if not body.get("dryRun"):
        request.registry.grids.schemas_changed()
    return {
        "concreteType": _S + "CreateSchemaResponse",
        "newVersionInfo": info,
        "validationSchema": whole,
    }


def _get_registered(request: Request) -> Reply:
    uri = schemas.parse_uri(request.args["uri"])
    return ok(json.loads(schemas.find(request.registry.db, uri).body))


def _delete_registered(request: Request) -> Reply:
    schemas.delete(request.registry.db, request.caller, schemas.parse_uri(request.args["uri"]))
    return NO_CONTENT


def _list(request: Request) -> Reply:
    db = request.registry.db
    _, name = schemas.organization(db, str(request.json().get("organizationName")))
    rows = db.all(
        "SELECT s.id, s.name, s.created_ns, s.created_by, o.id, o.name FROM json_schema AS s"
        " JOIN schema_organization AS o ON o.id = s.organization_id WHERE o.name = ? ORDER BY s.name",
        (name,),
    )
    listed = [
        {
            "organizationId": str(row[4]),
            "organizationName": row[5],
            "schemaId": str(row[0]),
            "schemaName": row[1],
            "createdOn": format_time(row[2]),
            "createdBy": str(row[3]),
        }
        for row in rows
    ]
    return _page(request, listed)


def _list_versions(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    found = schemas.versions(db, str(body.get("organizationName")), str(body.get("schemaName")))
    return _page(request, [schemas.version_info(one) for one in found])


def _validation_schema(request: Request, body: dict[str, Json]) -> Json:
    whole = schemas.validation_schema(request.registry.db, str(body.get("$id")))
    return {"concreteType": _S + "GetValidationSchemaResponse", "validationSchema": whole}


def _bind(request: Request) -> Reply:
    body = request.json()
    entity = parse_id(request.args["id"])
    bound = schemas.bind(
        request.registry.db,
        request.caller,
        entity,
        body.get("schema$id"),
        bool(body.get("enableDerivedAnnotations")),
    )
    return ok(schemas.binding_json(request.registry.db, bound))


def _bound(request: Request, right: int) -> tuple[int, schemas.Binding]:
    """Raises RefusedError 403, 404 without a binding."""
    entity = parse_id(request.args["id"])
    access.need(request.registry.db, entity, request.caller, right)
    bound = schemas.binding(request.registry.db, entity)
    if bound is None:
        raise missing(f"No JSON schema found for '{syn(entity)}'")
    return entity, bound


def _get_binding(request: Request) -> Reply:
    return ok(schemas.binding_json(request.registry.db, _bound(request, access.READ)[1]))


def _unbind(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        tx.execute("DELETE FROM schema_binding WHERE entity_id = ?", (entity,))
    return NO_CONTENT


def _results(request: Request, entity: int, schema: str) -> dict[str, Json]:
    """ValidationResults of an entity's annotations, computed as they are asked for."""
    db = request.registry.db
    row = get(db, entity)
    flat = flat_json(db, row, get_version(db, entity, row.current))
    try:
        found = Checker(schemas.validation_schema(db, schema)).check(flat)
    except UsageError as error:
        raise bad(f"{schema}: {error.message}.") from error
    return {
        "objectId": syn(entity),
        "objectType": "entity",
        "objectEtag": row.etag,
        "schema$id": schema,
        "validatedOn": format_time(now_ns()),
        **found,
    }


def _validation(request: Request) -> Reply:
    entity, bound = _bound(request, access.READ)
    return ok(_results(request, entity, bound.schema))


def _children(request: Request) -> list[dict[str, Json]]:
    """The results of a container's children. Raises RefusedError 404."""
    container = parse_id(request.args["id"])
    db = request.registry.db
    access.need(db, container, request.caller, access.READ)
    found = []
    for (child,) in db.all("SELECT id FROM entity WHERE parent_id = ? ORDER BY id", (container,)):
        bound = schemas.binding(db, child)
        if bound is not None and access.may(db, child, request.caller, access.READ):
            found.append(_results(request, child, bound.schema))
    return found


def _statistics(request: Request) -> Reply:
    container = parse_id(request.args["id"])
    results = _children(request)
    row = request.registry.db.one("SELECT count(*) FROM entity WHERE parent_id = ?", (container,))
    total = 0 if row is None else int(row[0])
    valid = sum(bool(one["isValid"]) for one in results)
    return ok(
        {
            "containerId": syn(container),
            "totalNumberOfChildren": total,
            "numberOfValidChildren": valid,
            "numberOfInvalidChildren": len(results) - valid,
            "numberOfUnknownChildren": total - len(results),
            "generatedOn": format_time(now_ns()),
        }
    )


def _invalid(request: Request) -> Reply:
    return _page(request, [one for one in _children(request) if not one["isValid"]])


def add(router: Router) -> None:
    base = "/repo/v1/schema"
    router.add("POST", base + "/organization", _create_organization, scope="modify")
    router.add("GET", base + "/organization", _get_organization, scope="view")
    router.add("POST", base + "/organization/list", _list_organizations, scope="view")
    router.add("DELETE", base + "/organization/{id}", _delete_organization, scope="modify")
    router.add("GET", base + "/organization/{id}/acl", _get_acl, scope="view")
    router.add("PUT", base + "/organization/{id}/acl", _put_acl, scope="modify")
    async_job(
        router, base + "/type/create", _create, scope="modify", concrete="CreateSchemaRequest"
    )
    async_job(
        router, base + "/type/validation", _validation_schema,
        concrete="GetValidationSchemaRequest",
    )  # fmt: skip
    # The address that the official client puts before an $id has slashes: all that is left is the name.
    router.add("GET", base + "/type/registered/{uri*}", _get_registered, scope="view")
    router.add("DELETE", base + "/type/registered/{uri*}", _delete_registered, scope="modify")
    router.add("POST", base + "/list", _list, scope="view")
    router.add("POST", base + "/version/list", _list_versions, scope="view")
    entity = "/repo/v1/entity/{id}/schema"
    router.add("PUT", entity + "/binding", _bind, scope="modify")
    router.add("GET", entity + "/binding", _get_binding, scope="view")
    router.add("DELETE", entity + "/binding", _unbind, scope="modify")
    router.add("GET", entity + "/validation", _validation, scope="view", slow=True)
    router.add("GET", entity + "/validation/statistics", _statistics, scope="view", slow=True)
    router.add("POST", entity + "/validation/invalid", _invalid, scope="view", slow=True)
