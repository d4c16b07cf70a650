"""Evaluations, and who may do what in them (synapse-rest.md 7.3). Leaves what is submitted to `submissions`."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, kinds
from synd.registry.access import Caller
from synd.registry.db import Database, Row, new_etag, now_ns
from synd.registry.entities import get, parse_id, parse_number
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
    taken,
)

SUBMIT, READ_PRIVATE, UPDATE_SUBMISSION, DELETE_SUBMISSION = (
    access.BITS[name]
    for name in ("SUBMIT", "READ_PRIVATE_SUBMISSION", "UPDATE_SUBMISSION", "DELETE_SUBMISSION")
)
_OWNER = access.OWNER | SUBMIT | READ_PRIVATE | UPDATE_SUBMISSION | DELETE_SUBMISSION
"""What the creator of an evaluation may."""

_SHOWN = ("description", "submissionInstructionsMessage", "submissionReceiptMessage", "quota")


class Evaluation(NamedTuple):
    """A row of `evaluation`."""

    id: int
    name: str
    project: int
    owner: int
    etag: str
    created_ns: int
    body: str
    acl_etag: str
    grants: str


_EVALUATION = "SELECT id, name, project_id, owner_id, etag, created_ns, body, acl_etag, grants FROM evaluation"


def _rights(found: Evaluation, caller: Caller) -> int:
    grants = json.loads(found.grants)
    bits = 0
    for principal in caller.principals:
        bits |= grants.get(str(principal), 0)
    return bits


def find(db: Database, where: str, value: object) -> Evaluation:
    """Raises RefusedError 404."""
    row = db.one(f"{_EVALUATION} WHERE {where} = ?", (value,))
    if row is None:
        raise missing(f"There is no evaluation {value}.")
    return Evaluation._make(row)


def allowed(found: Evaluation, caller: Caller, right: int) -> Evaluation:
    """Raises RefusedError 403."""
    if not _rights(found, caller) & right:
        names = ", ".join(access.to_names(right))
        raise forbidden(f"{caller.name} lacks {names} access to the evaluation {found.id}.")
    return found


def evaluation_of(request: Request, right: int) -> Evaluation:
    """The evaluation of the path. Raises RefusedError 403, 404."""
    number = parse_number(request.args["id"], "evaluation id")
    return allowed(find(request.registry.db, "id", number), request.caller, right)


def _json(found: Evaluation) -> dict[str, Json]:
    return {
        "id": str(found.id),
        "etag": found.etag,
        "name": found.name,
        "ownerId": str(found.owner),
        "createdOn": format_time(found.created_ns),
        "contentSource": syn(found.project),
        **json.loads(found.body),
    }


def kept_of(body: dict[str, Json], names: tuple[str, ...]) -> str:
    """What of a body is stored as it came."""
    return json.dumps({name: body[name] for name in names if body.get(name) is not None})


def _name(body: dict[str, Json]) -> str:
    name = body.get("name")
    if not isinstance(name, str) or not name.strip():
        raise bad("Evaluation.name is required.")
    return name.strip()


def _create(request: Request) -> Reply:
    body, db, caller = request.json(), request.registry.db, request.caller
    project = parse_id(body.get("contentSource"))
    access.need(db, project, caller, access.CREATE)
    if get(db, project).kind != "project":
        raise bad(f"{syn(project)} is not a project.")
    grants = json.dumps({str(caller.user): _OWNER})
    with db.write() as tx:
        try:
            cursor = tx.execute(
                "INSERT INTO evaluation (name, project_id, owner_id, etag, created_ns, body, acl_etag,"
                " grants) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    _name(body), project, caller.user, new_etag(), now_ns(), kept_of(body, _SHOWN),
                    new_etag(), grants,
                ),
            )  # fmt: skip
        except sqlite3.IntegrityError as error:
            raise taken(f"An evaluation with the name {body['name']!r} already exists.") from error
    return created(_json(find(db, "id", cursor.lastrowid)))


def _get(request: Request) -> Reply:
    return ok(_json(evaluation_of(request, access.READ)))


def _by_name(request: Request) -> Reply:
    found = find(request.registry.db, "name", request.args["name"])
    return ok(_json(allowed(found, request.caller, access.READ)))


def _put(request: Request) -> Reply:
    body, db = request.json(), request.registry.db
    with db.write() as tx:
        found = evaluation_of(request, access.UPDATE)
        if body.get("etag") != found.etag:
            raise stale(f"The evaluation {found.id}")
        if (
            body.get("contentSource") is not None
            and parse_id(body["contentSource"]) != found.project
        ):
            raise bad("The contentSource of an evaluation cannot be changed.")
        try:
            tx.execute(
                "UPDATE evaluation SET name = ?, etag = ?, body = ? WHERE id = ?",
                (_name(body), new_etag(), kept_of(body, _SHOWN), found.id),
            )
        except sqlite3.IntegrityError as error:
            raise taken(f"An evaluation with the name {body['name']!r} already exists.") from error
    return ok(_json(find(db, "id", found.id)))


def _delete(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        found = evaluation_of(request, access.DELETE)
        tx.execute("DELETE FROM evaluation WHERE id = ?", (found.id,))
    return NO_CONTENT


def _paged(request: Request, rows: list[Row], right: int) -> Reply:
    """Those of the evaluations that the caller may use so, a page of them."""
    limit, offset = request.page()
    wanted = {part for part in request.query.get("evaluationIds", "").split(",") if part}
    found = [Evaluation._make(row) for row in rows]
    seen = [
        one for one in found
        if _rights(one, request.caller) & right and (not wanted or str(one.id) in wanted)
    ]  # fmt: skip
    results = [_json(one) for one in seen[offset : offset + limit]]
    return ok({"results": results, "totalNumberOfResults": len(seen)})


def _access_type(request: Request, default: int) -> int:
    name = request.query.get("accessType")
    if name is None:
        return default
    return access.to_bits([name])


def _all(request: Request) -> Reply:
    rows = request.registry.db.all(_EVALUATION + " ORDER BY id")
    return _paged(request, rows, _access_type(request, access.READ))


def _available(request: Request) -> Reply:
    return _paged(request, request.registry.db.all(_EVALUATION + " ORDER BY id"), SUBMIT)


def _of_project(request: Request) -> Reply:
    project = parse_id(request.args["id"])
    access.need(request.registry.db, project, request.caller, access.READ)
    rows = request.registry.db.all(_EVALUATION + " WHERE project_id = ? ORDER BY id", (project,))
    return _paged(request, rows, _access_type(request, access.READ))


# Who may do what.


def _acl_json(found: Evaluation) -> dict[str, Json]:
    return {
        "id": str(found.id),
        "etag": found.acl_etag,
        "creationDate": format_time(found.created_ns),
        "resourceAccess": [
            {"principalId": int(principal), "accessType": access.to_names(bits)}
            for principal, bits in json.loads(found.grants).items()
        ],
    }


def _get_acl(request: Request) -> Reply:
    return ok(_acl_json(evaluation_of(request, access.READ)))


def _put_acl(request: Request) -> Reply:
    body, db = request.json(), request.registry.db
    request.args["id"] = str(body.get("id"))
    grants: dict[str, int] = {}
    listed = body.get("resourceAccess")
    if not isinstance(listed, list) or not all(isinstance(grant, dict) for grant in listed):
        raise bad("resourceAccess must be a list of objects.")
    for grant in listed:
        principal = str(parse_number(grant.get("principalId"), "principal id"))
        grants[principal] = grants.get(principal, 0) | access.to_bits(grant.get("accessType"))
    with db.write() as tx:
        found = evaluation_of(request, access.CHANGE_PERMISSIONS)
        if body.get("etag") != found.acl_etag:
            raise stale(f"The access control list of the evaluation {found.id}")
        if not grants.get(str(request.caller.user), 0) & access.CHANGE_PERMISSIONS:
            raise bad("The caller must keep CHANGE_PERMISSIONS.")
        tx.execute(
            "UPDATE evaluation SET acl_etag = ?, grants = ? WHERE id = ?",
            (new_etag(), json.dumps(grants), found.id),
        )
    return ok(_acl_json(find(db, "id", found.id)))


def _permissions(request: Request) -> Reply:
    number = parse_number(request.args["id"], "evaluation id")
    found = find(request.registry.db, "id", number)
    bits = _rights(found, request.caller)
    public = json.loads(found.grants).get(str(kinds.PUBLIC), 0)
    return ok(
        {
            "ownerPrincipalId": found.owner,
            "canView": bool(bits & access.READ),
            "canEdit": bool(bits & access.UPDATE),
            "canDelete": bool(bits & access.DELETE),
            "canPublicRead": bool(public & access.READ),
            "canChangePermissions": bool(bits & access.CHANGE_PERMISSIONS),
            "canSubmit": bool(bits & SUBMIT),
            "canViewPrivateSubmissionStatusAnnotations": bool(bits & READ_PRIVATE),
            "canEditSubmissionStatuses": bool(bits & UPDATE_SUBMISSION),
            "canDeleteSubmissions": bool(bits & DELETE_SUBMISSION),
        }
    )


def add(router: Router) -> None:
    base = "/repo/v1/evaluation"
    router.add("POST", base, _create, scope="modify")
    router.add("GET", base, _all, scope="view")
    router.add("GET", base + "/available", _available, scope="view")
    router.add("GET", base + "/name/{name*}", _by_name, scope="view")
    router.add("GET", base + "/{id}", _get, scope="view")
    router.add("PUT", base + "/{id}", _put, scope="modify")
    router.add("DELETE", base + "/{id}", _delete, scope="modify")
    router.add("GET", "/repo/v1/entity/{id}/evaluation", _of_project, scope="view")
    router.add("GET", base + "/{id}/acl", _get_acl, scope="view")
    router.add("PUT", base + "/acl", _put_acl, scope="modify")
    router.add("GET", base + "/{id}/permissions", _permissions, scope="view")
