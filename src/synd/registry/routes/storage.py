"""Where uploads go, how much is stored, and project settings (synapse-rest.md 3.8)."""

from __future__ import annotations

import json
import sqlite3

from synd.ids import syn
from synd.registry import access, kinds
from synd.registry.db import Row, new_etag
from synd.registry.entities import parse_id, parse_number
from synd.registry.web import (
    EMPTY,
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


def _destination(request: Request) -> Reply:
    where = access.need(
        request.registry.db, parse_id(request.args["id"]), request.caller, access.READ
    )
    location = request.args.get("location", str(kinds.DEFAULT_LOCATION))
    return ok(
        {
            "concreteType": kinds.OSRM + "file.S3UploadDestination",
            "storageLocationId": parse_number(location, "storage location id"),
            "uploadType": "S3",
            "banner": None,
            "stsEnabled": False,
            "destinationProjectId": syn(where.project),
        }
    )


def _locations(request: Request) -> Reply:
    access.need(request.registry.db, parse_id(request.args["id"]), request.caller, access.READ)
    location = {
        "storageLocationId": kinds.DEFAULT_LOCATION,
        "description": "This registry",
        "uploadType": "S3",
    }
    return ok({"list": [location]})


def _create_location(request: Request) -> Reply:
    body = request.json()
    with request.registry.db.write() as tx:
        cursor = tx.execute("INSERT INTO storage_location (body) VALUES (?)", (json.dumps(body),))
    return created({**body, "storageLocationId": int(cursor.lastrowid or 0)})


def _get_location(request: Request) -> Reply:
    number = parse_number(request.args["id"], "storage location id")
    if number == kinds.DEFAULT_LOCATION:
        return ok(
            {
                "concreteType": kinds.OSRM + "project.S3StorageLocationSetting",
                "storageLocationId": number,
                "uploadType": "S3",
                "description": "This registry",
            }
        )
    row = request.registry.db.one("SELECT body FROM storage_location WHERE id = ?", (number,))
    if row is None:
        raise missing(f"The storage location {number} does not exist.")
    return ok({**json.loads(row[0]), "storageLocationId": number})


_USAGE = (
    "WITH RECURSIVE below (id) AS (SELECT ? UNION ALL SELECT e.id FROM entity AS e JOIN below"
    " ON e.parent_id = below.id WHERE e.kind = 'folder')"
    " SELECT coalesce(sum(c.bytes), 0) FROM child_count AS c JOIN below ON c.parent_id = below.id"
)


def _usage(request: Request) -> Reply:
    """Bytes of the current versions in a project; old versions are not counted here."""
    db = request.registry.db
    project = parse_id(request.args["id"])
    access.need(db, project, request.caller, access.READ)
    row = db.one(_USAGE, (project,))
    return ok(
        {
            "projectId": syn(project),
            "locations": [
                {
                    "storageLocationId": kinds.DEFAULT_LOCATION,
                    "sumFileBytes": row[0] if row else 0,
                    "maxAllowedFileBytes": None,
                    "isOverLimit": False,
                }
            ],
        }
    )


def _setting_json(row: Row) -> dict[str, Json]:
    return {
        **json.loads(row[4]),
        "id": str(row[0]),
        "projectId": syn(row[1]),
        "settingsType": row[2],
        "etag": row[3],
    }


_SETTING = "SELECT id, project_id, type, etag, body FROM project_setting"


def _setting(request: Request) -> Reply:
    project = parse_id(request.args["id"])
    where = access.need(request.registry.db, project, request.caller, access.READ)
    row = request.registry.db.one(
        _SETTING + " WHERE project_id = ? AND type = ?",
        (where.project, request.args["type"]),
    )
    return EMPTY if row is None else ok(_setting_json(row))


def _create_setting(request: Request) -> Reply:
    body = request.json()
    project = parse_id(body.get("projectId"))
    db = request.registry.db
    access.need(db, project, request.caller, access.CHANGE_SETTINGS)
    with db.write() as tx:
        try:
            tx.execute(
                "INSERT INTO project_setting (project_id, type, etag, body) VALUES (?, ?, ?, ?)",
                (project, str(body.get("settingsType")), new_etag(), json.dumps(body)),
            )
        except sqlite3.IntegrityError as error:
            raise taken("The project has a setting of that type already.") from error
        row = tx.execute(
            _SETTING + " WHERE project_id = ? AND type = ?",
            (project, str(body.get("settingsType"))),
        ).fetchone()
    return created(_setting_json(row))


def _put_setting(request: Request) -> Reply:
    body = request.json()
    db = request.registry.db
    number = parse_number(body.get("id"), "project setting id")
    with db.write() as tx:
        row = db.one(_SETTING + " WHERE id = ?", (number,))
        if row is None:
            raise missing(f"The project setting {number} does not exist.")
        access.need(db, row[1], request.caller, access.CHANGE_SETTINGS)
        if body.get("etag") != row[3]:
            raise stale(f"The project setting {number}")
        tx.execute(
            "UPDATE project_setting SET etag = ?, body = ? WHERE id = ?",
            (new_etag(), json.dumps(body), number),
        )
    return EMPTY


def _delete_setting(request: Request) -> Reply:
    db = request.registry.db
    number = parse_number(request.args["id"], "project setting id")
    with db.write() as tx:
        row = db.one(_SETTING + " WHERE id = ?", (number,))
        if row is not None:
            access.need(db, row[1], request.caller, access.CHANGE_SETTINGS)
            tx.execute("DELETE FROM project_setting WHERE id = ?", (number,))
    return NO_CONTENT


def _sts(_: Request) -> Reply:
    raise bad("The storage of this registry gives no STS tokens.")


def add(router: Router) -> None:
    base = "/file/v1/entity/{id}"
    router.add("GET", base + "/uploadDestination", _destination, scope="view")
    router.add("GET", base + "/uploadDestination/{location}", _destination, scope="view")
    router.add("GET", base + "/uploadDestinationLocations", _locations, scope="view")
    router.add("POST", "/repo/v1/storageLocation", _create_location, scope="modify")
    router.add("GET", "/repo/v1/storageLocation/{id}", _get_location, scope="view")
    router.add("GET", "/repo/v1/project/{id}/storage/usage", _usage, scope="view")
    router.add("GET", "/repo/v1/projectSettings/{id}/type/{type}", _setting, scope="view")
    router.add("POST", "/repo/v1/projectSettings", _create_setting, scope="modify")
    router.add("PUT", "/repo/v1/projectSettings", _put_setting, scope="modify")
    router.add("DELETE", "/repo/v1/projectSettings/{id}", _delete_setting, scope="modify")
    router.add("GET", "/repo/v1/entity/{id}/sts", _sts, scope="view")
