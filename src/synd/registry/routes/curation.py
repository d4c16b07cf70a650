"""Curation tasks and their status (synapse-rest.md 7.8)."""

from __future__ import annotations

import json
import sqlite3

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, kinds
from synd.registry.db import Row, new_etag, now_ns
from synd.registry.entities import get, parse_id, parse_number
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
    taken,
)

_C = kinds.OSRM + "curation."
_REQUIRED = {
    _C + "metadata.FileBasedMetadataTaskProperties": ("uploadFolderId", "fileViewId"),
    _C + "metadata.RecordBasedMetadataTaskProperties": ("recordSetId",),
    _C + "execution.SampleSheetGenerationExecutionProperties": ("inputTaskId", "destinationTaskId"),
    _C + "execution.RecordSetGenerationExecutionProperties": ("folderId", "destinationTaskId"),
}
"""The kinds of task, and what each must name."""
_SHOWN = ("instructions", "taskProperties", "assigneePrincipalId")
_STATES = ("NOT_STARTED", "IN_PROGRESS", "EXECUTING", "IN_REVIEW", "COMPLETED", "CANCELED")
_PAGE = 50
_TASK = (
    "SELECT id, project_id, data_type, etag, body, status, status_etag, created_ns, created_by,"
    " modified_ns, modified_by, status_ns, status_by FROM curation_task"
)


def _task_json(row: Row) -> dict[str, Json]:
    return {
        "taskId": row[0],
        "dataType": row[2],
        "projectId": syn(row[1]),
        "etag": row[3],
        "createdOn": format_time(row[7]),
        "createdBy": str(row[8]),
        "modifiedOn": format_time(row[9]),
        "modifiedBy": str(row[10]),
        **json.loads(row[4]),
    }


def _status_json(row: Row) -> dict[str, Json]:
    return {
        "taskId": row[0],
        "etag": row[6],
        "lastUpdatedOn": format_time(row[11]),
        "lastUpdatedBy": str(row[12]),
        **json.loads(row[5]),
    }


def _row(request: Request, right: int) -> Row:
    """The task of the path. Raises RefusedError 403, 404."""
    number = parse_number(request.args["id"], "task id")
    row = request.registry.db.one(_TASK + " WHERE id = ?", (number,))
    if row is None:
        raise missing(f"CurationTask {number} does not exist.")
    access.need(request.registry.db, row[1], request.caller, right)
    return row


def _kept(request: Request, body: dict[str, Json]) -> tuple[str, str]:
    """(data type, JSON that is kept). Raises RefusedError 400, 404."""
    data_type = body.get("dataType")
    if not isinstance(data_type, str) or not data_type.strip():
        raise bad("dataType is required.")
    properties = body.get("taskProperties")
    if not isinstance(properties, dict):
        raise bad("taskProperties is required.")
    concrete = properties.get("concreteType")
    if concrete not in _REQUIRED:
        raise bad(f"{concrete!r} is not a kind of task properties.")
    for name in _REQUIRED[concrete]:
        if properties.get(name) is None:
            raise bad(f"taskProperties.{name} is required.")
        if name in ("uploadFolderId", "fileViewId", "recordSetId", "folderId"):
            entity = parse_id(properties[name])
            access.need(request.registry.db, entity, request.caller, access.READ)
    kept = {name: body[name] for name in _SHOWN if body.get(name) is not None}
    return data_type, json.dumps(kept, separators=(",", ":"), ensure_ascii=False)


def _exists(data_type: str, project: int) -> Exception:
    return taken(f"A task with the data type {data_type!r} already exists in {syn(project)}.")


def _create(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    project = parse_id(body.get("projectId"))
    with db.write() as tx:
        access.need(db, project, request.caller, access.CREATE)
        if get(db, project).kind != "project":
            raise bad(f"{syn(project)} is not a project.")
        data_type, kept = _kept(request, body)
        now, user = now_ns(), request.caller.user
        try:
            cursor = tx.execute(
                "INSERT INTO curation_task (project_id, data_type, etag, body, status, status_etag,"
                " created_ns, created_by, modified_ns, modified_by, status_ns, status_by)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (project, data_type, new_etag(), kept, '{"state":"NOT_STARTED"}', new_etag(),
                 now, user, now, user, now, user),
            )  # fmt: skip
        except sqlite3.IntegrityError as error:
            raise _exists(data_type, project) from error
    request.args["id"] = str(cursor.lastrowid)
    return created(_task_json(_row(request, access.READ)))


def _get(request: Request) -> Reply:
    return ok(_task_json(_row(request, access.READ)))


def _put(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    with db.write() as tx:
        row = _row(request, access.UPDATE)
        if body.get("etag") != row[3]:
            raise stale(f"CurationTask {row[0]}")
        if body.get("projectId") is not None and parse_id(body["projectId"]) != row[1]:
            raise bad("The projectId of a task cannot be changed.")
        data_type, kept = _kept(request, body)
        try:
            tx.execute(
                "UPDATE curation_task SET data_type = ?, body = ?, etag = ?, modified_ns = ?,"
                " modified_by = ? WHERE id = ?",
                (data_type, kept, new_etag(), now_ns(), request.caller.user, row[0]),
            )
        except sqlite3.IntegrityError as error:
            raise _exists(data_type, row[1]) from error
    return _get(request)


def _delete(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        row = _row(request, access.DELETE)
        tx.execute("DELETE FROM curation_task WHERE id = ?", (row[0],))
    return NO_CONTENT


def _list(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    project = parse_id(body.get("projectId"))
    access.need(db, project, request.caller, access.READ)
    states = body.get("stateFilter")
    assignees = body.get("assigneeIds")
    if body.get("assignedToMe"):
        assignees = [request.caller.user]
    token = body.get("nextPageToken")
    start = parse_number(token, "page token") if token else 0
    found = []
    for row in db.all(_TASK + " WHERE project_id = ? AND id > ? ORDER BY id", (project, start)):
        task = _task_json(row)
        if states and json.loads(row[5])["state"] not in states:
            continue
        if assignees and str(task.get("assigneePrincipalId")) not in map(str, assignees):
            continue
        found.append(task)
    more = str(found[_PAGE - 1]["taskId"]) if len(found) > _PAGE else None
    return ok({"page": found[:_PAGE], "nextPageToken": more})


def _get_status(request: Request) -> Reply:
    return ok(_status_json(_row(request, access.READ)))


def _put_status(request: Request) -> Reply:
    body = request.json()
    with request.registry.db.write() as tx:
        row = _row(request, access.UPDATE)
        if body.get("etag") != row[6]:
            raise stale(f"The status of CurationTask {row[0]}")
        state = body.get("state")
        if state not in _STATES:
            raise bad(f"state must be one of {', '.join(_STATES)}, not {state!r}.")
        kept = {"state": state}
        if body.get("executionDetails") is not None:
            kept["executionDetails"] = body["executionDetails"]
        tx.execute(
            "UPDATE curation_task SET status = ?, status_etag = ?, status_ns = ?, status_by = ?"
            " WHERE id = ?",
            (json.dumps(kept), new_etag(), now_ns(), request.caller.user, row[0]),
        )
    return _get_status(request)


def add(router: Router) -> None:
    base = "/repo/v1/curation/task"
    router.add("POST", base, _create, scope="modify")
    router.add("POST", base + "/list", _list, scope="view")
    router.add("GET", base + "/{id}", _get, scope="view")
    router.add("PUT", base + "/{id}", _put, scope="modify")
    router.add("DELETE", base + "/{id}", _delete, scope="modify")
    router.add("GET", base + "/{id}/status", _get_status, scope="view")
    router.add("PUT", base + "/{id}/status", _put_status, scope="modify")
