"""Activities (provenance), and which activity generated a version (synapse-rest.md 7.1)."""

from __future__ import annotations

import json

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, entities
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.entities import get, get_version, parse_id, parse_number
from synd.registry.routes.entities import activity_arg, version_arg
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


def activity_json(db: Database, activity: int) -> dict[str, Json]:
    """Raises RefusedError 404."""
    row = db.one(
        "SELECT etag, created_ns, created_by, modified_ns, modified_by, body FROM activity"
        " WHERE id = ?",
        (activity,),
    )
    if row is None:
        raise missing(f"The activity {activity} does not exist.")
    return {
        "id": str(activity),
        "etag": row[0],
        "createdOn": format_time(row[1]),
        "createdBy": str(row[2]),
        "modifiedOn": format_time(row[3]),
        "modifiedBy": str(row[4]),
        **json.loads(row[5]),
    }


def _body(db: Database, raw: dict[str, Json]) -> str:
    """What is kept of an activity; a reference without a version means the current one, from now on."""
    used = raw.get("used") or []
    if not isinstance(used, list) or not all(isinstance(one, dict) for one in used):
        raise bad("used must be a list of objects.")
    kept = []
    for given in used:
        one = given
        reference = one.get("reference")
        if isinstance(reference, dict) and reference.get("targetId"):
            target = parse_id(reference["targetId"])
            number = reference.get("targetVersionNumber")
            if number is None:
                number = get(db, target).current
            one = {
                **one,
                "reference": {"targetId": syn(target), "targetVersionNumber": int(number)},
            }
        kept.append(one)
    return json.dumps(
        {"name": raw.get("name"), "description": raw.get("description"), "used": kept}
    )


def _create(request: Request) -> Reply:
    db = request.registry.db
    now = now_ns()
    with db.write() as tx:
        cursor = tx.execute(
            "INSERT INTO activity (etag, created_ns, created_by, modified_ns, modified_by, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (
                new_etag(), now, request.caller.user, now, request.caller.user,
                _body(db, request.json()),
            ),
        )  # fmt: skip
    return created(activity_json(db, int(cursor.lastrowid or 0)))


def _number(request: Request) -> int:
    return parse_number(request.args["id"], "activity id")


def _get(request: Request) -> Reply:
    return ok(activity_json(request.registry.db, _number(request)))


def _put(request: Request) -> Reply:
    db = request.registry.db
    body = request.json()
    with db.write() as tx:
        old = activity_json(db, _number(request))
        if old["createdBy"] != str(request.caller.user):
            raise forbidden("Only the creator of an activity may change it.")
        if body.get("etag") != old["etag"]:
            raise stale(f"The activity {old['id']}")
        tx.execute(
            "UPDATE activity SET etag = ?, modified_ns = ?, modified_by = ?, body = ? WHERE id = ?",
            (new_etag(), now_ns(), request.caller.user, _body(db, body), _number(request)),
        )
    return ok(activity_json(db, _number(request)))


def _delete(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        old = activity_json(request.registry.db, _number(request))
        if old["createdBy"] != str(request.caller.user):
            raise forbidden("Only the creator of an activity may delete it.")
        tx.execute(
            "UPDATE entity_version SET activity_id = NULL WHERE activity_id = ?",
            (_number(request),),
        )
        tx.execute("DELETE FROM activity WHERE id = ?", (_number(request),))
    return NO_CONTENT


def _generated(request: Request) -> Reply:
    limit, offset = request.page()
    rows = request.registry.db.all(
        "SELECT e.id, v.number FROM entity_version AS v JOIN entity AS e ON e.id = v.entity_id"
        " WHERE v.activity_id = ? ORDER BY e.id, v.number LIMIT ? OFFSET ?",
        (_number(request), limit, offset),
    )
    results = [{"targetId": syn(row[0]), "targetVersionNumber": row[1]} for row in rows]
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def _generated_by(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.READ)
    number = version_arg(request) if "version" in request.args else get(db, entity).current
    activity = get_version(db, entity, number).activity
    if activity is None:
        raise missing(f"{syn(entity)}.{number} has no activity.")
    return ok(activity_json(db, activity))


def _set(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    activity = activity_arg(request)
    if activity is None:
        raise bad("generatedBy is required.")
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        tx.execute(
            "UPDATE entity_version SET activity_id = ? WHERE entity_id = ? AND number = ?",
            (activity, entity, get(db, entity).current),
        )
        entities.touch(tx, entity, request.caller.user)
    return ok(activity_json(db, activity))


def _unset(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        tx.execute(
            "UPDATE entity_version SET activity_id = NULL WHERE entity_id = ? AND number = ?",
            (entity, get(db, entity).current),
        )
        entities.touch(tx, entity, request.caller.user)
    return NO_CONTENT


def add(router: Router) -> None:
    router.add("POST", "/repo/v1/activity", _create, scope="modify")
    router.add("GET", "/repo/v1/activity/{id}", _get, scope="view")
    router.add("PUT", "/repo/v1/activity/{id}", _put, scope="modify")
    router.add("DELETE", "/repo/v1/activity/{id}", _delete, scope="modify")
    router.add("GET", "/repo/v1/activity/{id}/generated", _generated, scope="view")
    base = "/repo/v1/entity/{id}"
    router.add("GET", base + "/generatedBy", _generated_by, scope="view")
    router.add("GET", base + "/version/{version}/generatedBy", _generated_by, scope="view")
    router.add("PUT", base + "/generatedBy", _set, scope="modify")
    router.add("DELETE", base + "/generatedBy", _unset, scope="modify")
