"""Column models: immutable, shared, named by their content (synapse-rest.md 6.1)."""

from __future__ import annotations

import hashlib
import json
import sqlite3

from synd.registry import access
from synd.registry.db import Database
from synd.registry.entities import VersionRow, get, get_version, parse_id, parse_number
from synd.registry.web import Json, Reply, Request, Router, bad, created, missing, ok

TYPES = frozenset(
    [
        "STRING",
        "DOUBLE",
        "INTEGER",
        "BOOLEAN",
        "DATE",
        "FILEHANDLEID",
        "ENTITYID",
        "SUBMISSIONID",
        "EVALUATIONID",
        "LINK",
        "MEDIUMTEXT",
        "LARGETEXT",
        "USERID",
        "STRING_LIST",
        "INTEGER_LIST",
        "BOOLEAN_LIST",
        "DATE_LIST",
        "ENTITYID_LIST",
        "USERID_LIST",
        "JSON",
    ]
)
_KEPT = ("name", "columnType", "maximumSize", "maximumListLength", "defaultValue", "enumValues",
         "facetType", "facetSortConfig", "jsonSubColumns")  # fmt: skip
_MAX_STRING = 1000

ColumnModel = dict[str, Json]


def check(raw: object) -> ColumnModel:
    """A column model as it is kept. Raises RefusedError 400."""
    if not isinstance(raw, dict):
        raise bad("A column model must be an object.")
    body = {key: raw[key] for key in _KEPT if raw.get(key) is not None}
    name = body.get("name")
    if not isinstance(name, str) or not 1 <= len(name.strip()) <= 256:
        raise bad("A column needs a name of 1 to 256 letters.")
    body["name"] = name.strip()
    kind = body.get("columnType")
    if kind not in TYPES:
        raise bad(f"{kind!r} is not a column type.")
    if kind in ("STRING", "STRING_LIST", "LINK"):
        size = int(body.get("maximumSize", 50))
        if not 1 <= size <= _MAX_STRING:
            raise bad(f"maximumSize of {name!r} must lie between 1 and {_MAX_STRING}.")
        body["maximumSize"] = size
    else:
        body.pop("maximumSize", None)
    if str(kind).endswith("_LIST"):
        length = int(body.get("maximumListLength", 100))
        if not 1 <= length <= 100:
            raise bad(f"maximumListLength of {name!r} must lie between 1 and 100.")
        body["maximumListLength"] = length
    return body


def store(tx: sqlite3.Connection, raw: object) -> ColumnModel:
    """The column model with its id: the old one where equal content is known."""
    body = check(raw)
    text = json.dumps(body, sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()
    tx.execute(
        "INSERT OR IGNORE INTO column_model (hash, name, body) VALUES (?, ?, ?)",
        (digest, body["name"], text),
    )
    row = tx.execute("SELECT id FROM column_model WHERE hash = ?", (digest,)).fetchone()
    return {"id": str(row[0]), **body}


def get_column(db: Database, column: int) -> ColumnModel:
    """Raises RefusedError 404."""
    row = db.one("SELECT body FROM column_model WHERE id = ?", (column,))
    if row is None:
        raise missing(f"The column {column} does not exist.")
    return {"id": str(column), **json.loads(row[0])}


def columns_of(db: Database, version: VersionRow) -> list[ColumnModel]:
    """The column models of a table or view, in their order."""
    ids = json.loads(version.props or "{}").get("columnIds") or []
    return [get_column(db, parse_number(one, "column id")) for one in ids]


def _create(request: Request) -> Reply:
    with request.registry.db.write() as tx:
        return created(store(tx, request.json()))


def _create_batch(request: Request) -> Reply:
    listed = request.json().get("list")
    if not isinstance(listed, list):
        raise bad("list must be a list of column models.")
    with request.registry.db.write() as tx:
        return created({"list": [store(tx, one) for one in listed]})


def _get(request: Request) -> Reply:
    return ok(get_column(request.registry.db, parse_number(request.args["id"], "column id")))


def _list(request: Request) -> Reply:
    prefix = request.query.get("prefix", "").lower()
    limit, offset = request.page()
    rows = request.registry.db.all(
        "SELECT id, body FROM column_model WHERE lower(substr(name, 1, ?)) = ?"
        " ORDER BY name, id LIMIT ? OFFSET ?",
        (len(prefix), prefix, limit, offset),
    )
    results = [{"id": str(row[0]), **json.loads(row[1])} for row in rows]
    return ok({"results": results, "totalNumberOfResults": offset + len(results)})


def _of_entity(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.READ)
    return ok({"results": columns_of(db, get_version(db, entity, get(db, entity).current))})


BASIC: tuple[tuple[str, str, int | None], ...] = (
    ("id", "ENTITYID", None),
    ("name", "STRING", 256),
    ("description", "STRING", 1000),
    ("createdOn", "DATE", None),
    ("createdBy", "USERID", None),
    ("etag", "STRING", 36),
    ("modifiedOn", "DATE", None),
    ("modifiedBy", "USERID", None),
    ("path", "STRING", 1000),
)
WITH_FILES: tuple[tuple[str, str, int | None], ...] = (
    ("type", "STRING", 20),
    ("currentVersion", "INTEGER", None),
    ("parentId", "ENTITYID", None),
    ("benefactorId", "ENTITYID", None),
    ("projectId", "ENTITYID", None),
    ("dataFileHandleId", "FILEHANDLEID", None),
    ("dataFileName", "STRING", 256),
    ("dataFileSizeBytes", "INTEGER", None),
    ("dataFileMD5Hex", "STRING", 100),
    ("dataFileConcreteType", "STRING", 65),
    ("dataFileBucket", "STRING", 100),
    ("dataFileKey", "STRING", 700),
)
VIEW_COLUMNS = {name: kind for name, kind, _ in (*BASIC, *WITH_FILES)}
_FACETED = ("type", "createdBy", "modifiedBy", "parentId", "projectId", "benefactorId")


def default_columns(view_type: str, mask: int) -> list[ColumnModel]:
    """The columns that a new view is offered (synapse-rest.md 6.5), without ids."""
    wanted = BASIC
    if view_type in ("dataset", "datasetcollection") or mask & 0x01:
        wanted = BASIC + WITH_FILES
    found = []
    for name, kind, size in wanted:
        column: ColumnModel = {"name": name, "columnType": kind}
        if size is not None:
            column["maximumSize"] = size
        if name in _FACETED:
            column["facetType"] = "enumeration"
        found.append(column)
    return found


def _defaults(request: Request) -> Reply:
    view_type = request.query.get("viewEntityType") or "entityview"
    mask = request.integer("viewTypeMask", 0x01)
    with request.registry.db.write() as tx:
        return ok({"list": [store(tx, one) for one in default_columns(view_type, mask)]})


def _defaults_old(request: Request) -> Reply:
    mask = 0x01 if request.args["kind"].lower() in ("file", "file_and_table") else 0x02
    with request.registry.db.write() as tx:
        return ok({"list": [store(tx, one) for one in default_columns("entityview", mask)]})


def add(router: Router) -> None:
    base = "/repo/v1/column"
    router.add("POST", base, _create, scope="modify")
    router.add("POST", base + "/batch", _create_batch, scope="modify")
    router.add("GET", base, _list, scope="view")
    router.add("GET", base + "/{id}", _get, scope="view")
    router.add("GET", base + "/tableview/defaults", _defaults, scope="view")
    router.add("GET", base + "/tableview/defaults/{kind}", _defaults_old, scope="view")
    router.add("GET", "/repo/v1/entity/{id}/column", _of_entity, scope="view")
