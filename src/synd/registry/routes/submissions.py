"""Submissions to evaluations, and the status of each (synapse-rest.md 7.3)."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, handles
from synd.registry.db import new_etag, now_ns
from synd.registry.entities import get, get_version, parse_id, parse_number
from synd.registry.routes.bundles import bundle
from synd.registry.routes.evaluations import (
    DELETE_SUBMISSION,
    READ_PRIVATE,
    SUBMIT,
    UPDATE_SUBMISSION,
    allowed,
    evaluation_of,
    find,
    kept_of,
)
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
    redirect,
    stale,
    text,
)

_STATES = (
    "OPEN", "CLOSED", "SCORED", "INVALID", "VALIDATED", "EVALUATION_IN_PROGRESS", "RECEIVED",
    "REJECTED", "ACCEPTED",
)  # fmt: skip
_SUBMITTED = (
    "name", "submitterAlias", "teamId", "contributors", "dockerRepositoryName", "dockerDigest",
)  # fmt: skip
_STATUS = ("submissionAnnotations", "annotations", "score", "report", "canCancel")
_BUNDLE = {"includeEntity": True, "includeAnnotations": True, "includeFileHandles": True}


class Submission(NamedTuple):
    """A row of `submission`."""

    id: int
    evaluation: int
    entity: int
    version: int
    handle: int | None
    user: int
    created_ns: int
    body: str
    bundle: str
    status: str
    status_etag: str
    status_number: int
    status_ns: int
    status_body: str


_SUBMISSION = (
    "SELECT id, evaluation_id, entity_id, version, handle_id, user_id, created_ns, body, bundle,"
    " status, status_etag, status_number, status_ns, status_body FROM submission"
)


def _submission_json(one: Submission, *, whole: bool = True) -> dict[str, Json]:
    shown: dict[str, Json] = {
        "id": str(one.id),
        "userId": str(one.user),
        "evaluationId": str(one.evaluation),
        "entityId": syn(one.entity),
        "versionNumber": one.version,
        "createdOn": format_time(one.created_ns),
        **json.loads(one.body),
    }
    return shown | {"entityBundleJSON": one.bundle} if whole else shown


def _status_json(one: Submission) -> dict[str, Json]:
    return {
        "canCancel": False,
        "cancelRequested": False,
        **json.loads(one.status_body),
        "id": str(one.id),
        "etag": one.status_etag,
        "modifiedOn": format_time(one.status_ns),
        "status": one.status,
        "entityId": syn(one.entity),
        "versionNumber": one.version,
        "statusVersion": one.status_number,
    }


def _submit(request: Request) -> Reply:
    """The etag tells that nobody changed the entity since the caller looked at it."""
    body, db, caller = request.json(), request.registry.db, request.caller
    if body.get("teamId") is not None:
        raise missing(f"The team {body['teamId']} does not exist.")
    request.args["id"] = str(body.get("evaluationId"))
    entity = parse_id(body.get("entityId"))
    with db.write() as tx:
        found = evaluation_of(request, SUBMIT)
        access.need(db, entity, caller, access.READ)
        row = get(db, entity)
        number = body.get("versionNumber")
        number = row.current if number is None else parse_number(number, "version number")
        version = get_version(db, entity, number)
        if request.query.get("etag") != row.etag:
            raise stale(f"The entity {syn(entity)}")
        mine = db.one(
            "SELECT count(*) FROM submission WHERE evaluation_id = ? AND user_id = ?",
            (found.id, caller.user),
        )
        limit = (json.loads(found.body).get("quota") or {}).get("submissionLimit")
        if limit is not None and mine is not None and mine[0] >= limit:
            raise forbidden(f"The quota of {limit} submissions to this evaluation is used up.")
        name = str(body.get("name") or row.name)
        now = now_ns()
        cursor = tx.execute(
            "INSERT INTO submission (evaluation_id, entity_id, version, handle_id, user_id, created_ns,"
            " body, bundle, status, status_etag, status_number, status_ns, status_body)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'RECEIVED', ?, 0, ?, '{}')",
            (
                found.id, entity, number, version.handle, caller.user, now,
                kept_of(body | {"name": name}, _SUBMITTED),
                json.dumps(bundle(request, entity, number, dict(_BUNDLE))), new_etag(), now,
            ),
        )  # fmt: skip
    row_made = db.one(_SUBMISSION + " WHERE id = ?", (cursor.lastrowid,))
    assert row_made is not None  # written above
    return created(_submission_json(Submission._make(row_made)))


def _submission(request: Request, right: int) -> Submission:
    """The submission of the path: its submitter's, or by a right on the evaluation. Raises RefusedError."""
    db = request.registry.db
    number = parse_number(request.args["submission"], "submission id")
    row = db.one(_SUBMISSION + " WHERE id = ?", (number,))
    if row is None:
        raise missing(f"The submission {number} does not exist.")
    one = Submission._make(row)
    if one.user != request.caller.user or right != READ_PRIVATE:
        allowed(find(db, "id", one.evaluation), request.caller, right)
    return one


def _get_submission(request: Request) -> Reply:
    return ok(_submission_json(_submission(request, READ_PRIVATE)))


def _delete_submission(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        one = _submission(request, DELETE_SUBMISSION)
        tx.execute("DELETE FROM submission WHERE id = ?", (one.id,))
    return NO_CONTENT


def _get_status(request: Request) -> Reply:
    return ok(_status_json(_submission(request, READ_PRIVATE)))


def _write_status(tx: sqlite3.Connection, one: Submission, body: dict[str, Json]) -> None:
    """Raises RefusedError 400, 412."""
    if body.get("etag") != one.status_etag:
        raise stale(f"The status of the submission {one.id}")
    status = body.get("status") or one.status
    if not isinstance(status, str) or status not in _STATES:
        raise bad(f"status must be one of {', '.join(_STATES)}.")
    kept = json.loads(kept_of(body, _STATUS))
    kept["cancelRequested"] = bool(json.loads(one.status_body).get("cancelRequested"))
    if isinstance(kept.get("submissionAnnotations"), dict):
        kept["submissionAnnotations"]["id"] = str(one.id)
    tx.execute(
        "UPDATE submission SET status = ?, status_etag = ?, status_number = status_number + 1,"
        " status_ns = ?, status_body = ? WHERE id = ?",
        (status, new_etag(), now_ns(), json.dumps(kept), one.id),
    )


def _put_status(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        _write_status(tx, _submission(request, UPDATE_SUBMISSION), request.json())
    return ok(_status_json(_submission(request, READ_PRIVATE)))


def _put_statuses(request: Request) -> Reply:
    """A batch is one transaction; the token of the next one is any, as nothing is held between them."""
    body = request.json()
    statuses = body.get("statuses")
    if not isinstance(statuses, list) or not 0 < len(statuses) <= 500:
        raise bad("statuses must be a list of 1 to 500.")
    if not all(isinstance(status, dict) for status in statuses):
        raise bad("statuses must be a list of objects.")
    with request.registry.db.write() as tx:
        found = evaluation_of(request, UPDATE_SUBMISSION)
        for status in statuses:
            request.args["submission"] = str(status.get("id"))
            one = _submission(request, UPDATE_SUBMISSION)
            if one.evaluation != found.id:
                raise bad(f"The submission {one.id} is not of the evaluation {found.id}.")
            _write_status(tx, one, status)
    return ok({"nextUploadToken": None if body.get("isLastBatch") else new_etag()})


def _cancel(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        one = _submission(request, READ_PRIVATE)
        status = json.loads(one.status_body)
        if one.user != request.caller.user:
            raise forbidden("Only who made a submission may ask for its cancellation.")
        if not status.get("canCancel"):
            raise bad("This submission cannot be cancelled.")
        tx.execute(
            "UPDATE submission SET status_body = ?, status_etag = ? WHERE id = ?",
            (json.dumps({**status, "cancelRequested": True}), new_etag(), one.id),
        )
    return NO_CONTENT


def _listed(request: Request, *, own: bool) -> tuple[list[Submission], int]:
    """A page of an evaluation's submissions, and how many there are. Raises RefusedError 403."""
    found = evaluation_of(request, access.READ if own else READ_PRIVATE)
    limit, offset = request.page()
    status = request.query.get("status") or None
    user = request.caller.user if own else None
    where = (
        " WHERE evaluation_id = ?1 AND (?2 IS NULL OR status = ?2) AND (?3 IS NULL OR user_id = ?3)"
    )
    chosen = (found.id, status, user)
    db = request.registry.db
    rows = db.all(f"{_SUBMISSION}{where} ORDER BY id LIMIT ?4 OFFSET ?5", (*chosen, limit, offset))
    count = db.one(f"SELECT count(*) FROM submission{where}", chosen)  # noqa: S608
    return [Submission._make(row) for row in rows], count[0] if count else 0


def _submissions(request: Request, *, own: bool) -> Reply:
    found, total = _listed(request, own=own)
    results = [_submission_json(one, whole=False) for one in found]
    return ok({"results": results, "totalNumberOfResults": total})


def _statuses(request: Request) -> Reply:
    found, total = _listed(request, own=False)
    return ok({"results": [_status_json(one) for one in found], "totalNumberOfResults": total})


def _bundles(request: Request, *, own: bool) -> Reply:
    found, total = _listed(request, own=own)
    results = [
        {"submission": _submission_json(one), "submissionStatus": _status_json(one)}
        for one in found
    ]
    return ok({"results": results, "totalNumberOfResults": total})


def _count(request: Request) -> Reply:
    return ok({"count": _listed(request, own=False)[1]})


def _file(request: Request) -> Reply:
    one = _submission(request, READ_PRIVATE)
    wanted = parse_number(request.args["handle"], "file handle id")
    if wanted != one.handle:
        raise missing(f"The submission {one.id} has no file handle {wanted}.")
    url = handles.url(handles.get(request.registry.db, wanted), request.registry.presigner)
    if url is None:
        raise bad("This file handle has no URL.")
    return redirect(url) if request.flag("redirect", True) else text(url)


def _eligibility(request: Request) -> Reply:
    raise missing(f"The team {request.args['team']} does not exist.")


def add(router: Router) -> None:
    base = "/repo/v1/evaluation"
    router.add("POST", base + "/submission", _submit, scope="modify")
    one = base + "/submission/{submission}"
    router.add("GET", one, _get_submission, scope="view")
    router.add("DELETE", one, _delete_submission, scope="modify")
    router.add("GET", one + "/status", _get_status, scope="view")
    router.add("PUT", one + "/status", _put_status, scope="modify")
    router.add("PUT", one + "/cancellation", _cancel, scope="modify")
    router.add("GET", one + "/file/{handle}", _file, scope="download")
    router.add("PUT", base + "/{id}/statusBatch", _put_statuses, scope="modify")
    of = base + "/{id}/submission"
    router.add("GET", of, lambda r: _submissions(r, own=True), scope="view")
    router.add("GET", of + "/all", lambda r: _submissions(r, own=False), scope="view")
    router.add("GET", of + "/bundle", lambda r: _bundles(r, own=True), scope="view")
    router.add("GET", of + "/bundle/all", lambda r: _bundles(r, own=False), scope="view")
    router.add("GET", of + "/status/all", _statuses, scope="view")
    router.add("GET", of + "/count", _count, scope="view")
    router.add("GET", base + "/{id}/team/{team}/submissionEligibility", _eligibility, scope="view")
