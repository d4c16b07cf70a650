"""Remote file handles: rows to JSON, minting, who may see one, and its presigned URL."""

from __future__ import annotations

import json
import sqlite3
from typing import NamedTuple

from synd.clock import format_time
from synd.registry import access, kinds
from synd.registry.access import Caller
from synd.registry.blobs import Presigner
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.entities import parse_id
from synd.registry.web import Json, RefusedError, missing

_BY_ID = (
    "SELECT id, type, md5, size, name, content_type, location_id, created_by, created_ns, etag, extra"
    " FROM file_handle WHERE id = ?"
)
WITH_BLOB = ("S3FileHandle", "GoogleCloudFileHandle")


class HandleRow(NamedTuple):
    """A row of `file_handle`."""

    id: int
    type: str
    md5: str | None
    size: int | None
    name: str
    content_type: str
    location: int | None
    created_by: int
    created_ns: int
    etag: str
    extra: str | None


def find(db: Database, handle: int) -> HandleRow | None:
    row = db.one(_BY_ID, (handle,))
    return None if row is None else HandleRow._make(row)


def get(db: Database, handle: int) -> HandleRow:
    """Raises RefusedError 404."""
    row = find(db, handle)
    if row is None:
        raise missing(f"FileHandle {handle} does not exist.")
    return row


def to_json(row: HandleRow) -> dict[str, Json]:
    body: dict[str, Json] = {
        "concreteType": f"{kinds.OSRM}file.{row.type}",
        "id": str(row.id),
        "etag": row.etag,
        "createdBy": str(row.created_by),
        "createdOn": format_time(row.created_ns),
        "modifiedOn": format_time(row.created_ns),
        "contentType": row.content_type,
        "fileName": row.name,
        "status": "AVAILABLE",
    }
    if row.md5 is not None:
        body["contentMd5"] = row.md5
    if row.size is not None:
        body["contentSize"] = row.size
    if row.location is not None:
        body["storageLocationId"] = row.location
    if row.type in WITH_BLOB:
        body["bucketName"] = "local.registry"
        body["key"] = f"{row.created_by}/{row.md5}"
        body["isPreview"] = False
    if row.extra:
        body.update(json.loads(row.extra))
    return body


def mint(
    tx: sqlite3.Connection,
    caller: int,
    *,
    name: str,
    md5: str | None,
    size: int | None,
    content_type: str = "application/octet-stream",
    handle_type: str = "S3FileHandle",
    location: int | None = kinds.DEFAULT_LOCATION,
    extra: dict[str, Json] | None = None,
) -> int:
    """The id of a new handle."""
    cursor = tx.execute(
        "INSERT INTO file_handle (type, md5, size, name, content_type, location_id, created_by,"
        " created_ns, etag, extra) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            handle_type,
            md5,
            size,
            name,
            content_type,
            location,
            caller,
            now_ns(),
            new_etag(),
            json.dumps(extra, separators=(",", ":")) if extra else None,
        ),
    )
    return int(cursor.lastrowid or 0)


def url(row: HandleRow, presigner: Presigner) -> str | None:
    """Where the bytes are: presigned, or the external URL itself; None when only its owner's tools reach them."""
    if row.type in WITH_BLOB and row.md5 is not None:
        return presigner.get(row.md5, row.name, row.content_type, now_ns() // 1_000_000_000)
    if row.extra:
        external = json.loads(row.extra).get("externalURL")
        return None if external is None else str(external)
    return None


_ENTITY_TYPES = ("FileEntity", "TableEntity")


def may_download(
    db: Database, caller: Caller, handle: HandleRow, object_id: object, object_type: object
) -> bool:
    """Whether the association lets the caller have the bytes (synapse-rest.md 3.4)."""
    if handle.created_by == caller.user and object_type != "FileEntity":
        return True
    if object_type in ("WikiAttachment", "WikiMarkdown"):
        return _wiki_readable(db, caller, handle.id, object_id)
    if object_type == "SubmissionAttachment":
        return _was_submitted(db, caller, handle.id, object_id)
    if object_type not in _ENTITY_TYPES:
        return False
    try:
        entity = parse_id(object_id)
        where = access.place(db, entity)
    except RefusedError:
        return False
    granted = access.rights(db, where.benefactor, caller)
    if not granted & access.DOWNLOAD or where.unmet:
        return False
    if object_type == "TableEntity":
        return bool(
            db.one(
                "SELECT 1 FROM table_row WHERE table_id = ? AND instr(cells, ?) LIMIT 1",
                (entity, f'"{handle.id}"'),
            )
        )
    if db.one(
        "SELECT 1 FROM entity_version WHERE handle_id = ? AND entity_id = ? LIMIT 1",
        (handle.id, entity),
    ):
        return True
    # A record set's validation result hangs on its properties.
    return bool(
        db.one(
            "SELECT 1 FROM entity_version WHERE entity_id = ?"
            " AND json_extract(props, '$.validationFileHandleId') = ? LIMIT 1",
            (entity, str(handle.id)),
        )
    )


def _was_submitted(db: Database, caller: Caller, handle: int, submission: object) -> bool:
    """Whether the caller made that submission of the handle, or may read those of its evaluation."""
    row = db.one(
        "SELECT s.user_id, e.grants FROM submission AS s JOIN evaluation AS e ON e.id = s.evaluation_id"
        " WHERE s.handle_id = ? AND s.id = ?",
        (handle, str(submission)),
    )
    if row is None:
        return False
    private = access.BITS["READ_PRIVATE_SUBMISSION"]
    grants = json.loads(row[1])
    return row[0] == caller.user or any(
        grants.get(str(principal), 0) & private for principal in caller.principals
    )


def _wiki_readable(db: Database, caller: Caller, handle: int, wiki: object) -> bool:
    if not str(wiki).isdecimal():
        return False
    row = db.one(
        "SELECT p.owner_type, p.owner_id FROM wiki_page AS p JOIN wiki_version AS v ON v.page_id = p.id"
        " WHERE p.id = ?1 AND (v.markdown_id = ?2 OR instr(v.attachments, ?3)) LIMIT 1",
        (int(str(wiki)), handle, f'"{handle}"'),
    )
    if row is None:
        return False
    return row[0] != "entity" or access.may(db, int(row[1]), caller, access.READ)
