"""Queries, CSV downloads, transactions and snapshots of tables and views (synapse-rest.md 6)."""

# Queries are put together from constants and from what `tablesql` made; values are bound.

# ruff: noqa: S608

from __future__ import annotations

import base64
import io
import json
import sqlite3
from typing import Any

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, entities, handles, kinds, tables
from synd.registry.entities import get, parse_id, parse_number
from synd.registry.routes.asyncjobs import async_job
from synd.registry.routes.columns import VIEW_COLUMNS, ColumnModel
from synd.registry.tables import MAX_ROWS_PER_PAGE, Change, apply_view_row, spell
from synd.registry.tablesql import Query, SelectColumn, compile_select, table_of
from synd.registry.web import (
    Json,
    RefusedError,
    Reply,
    Request,
    Router,
    bad,
    created,
    missing,
    ok,
    stale,
)

_T = kinds.OSRM + "table."
_MAX_PAGE_BYTES = 512_000


def _header(column: SelectColumn) -> dict[str, Json]:
    found: dict[str, Json] = {"name": column.name, "columnType": column.type}
    if column.id is not None:
        found["id"] = column.id
    return found


def _compiled(request: Request, sql: str) -> tuple[Query, int, list[ColumnModel]]:
    """(query, the table it reads, the table's columns). Raises RefusedError."""
    entity, number = table_of(sql)
    source, _, models = tables.source(request.registry.db, request.caller, entity, number)
    return compile_select(sql, source, request.caller.user), entity, models


def _run(request: Request, sql: str, args: tuple[Any, ...]) -> sqlite3.Cursor:
    """Raises RefusedError 400 where SQLite refuses what the parser let through."""
    try:
        return request.registry.db.connection.execute(sql, args)
    except sqlite3.Error as error:
        raise bad(f"The query cannot be run: {error}") from error


def _etag(request: Request, entity: int) -> str:
    row = request.registry.db.one("SELECT etag FROM table_state WHERE table_id = ?", (entity,))
    return str(row[0]) if row is not None else get(request.registry.db, entity).etag


def _token(sql: str, offset: int, limit: int | None, with_etag: bool) -> str:
    raw = json.dumps({"sql": sql, "offset": offset, "limit": limit, "etag": with_etag})
    return base64.urlsafe_b64encode(raw.encode()).decode()


def _page(
    request: Request,
    query: Query,
    entity: int,
    sql: str,
    offset: int,
    limit: int | None,
    etag: bool,
) -> dict[str, Json]:
    """A QueryResult: rows from `offset`, at most a page of them, and the token of the next page."""
    page = MAX_ROWS_PER_PAGE if limit is None else min(limit, MAX_ROWS_PER_PAGE)
    text, args = query.page(page + 1, offset)
    rows: list[dict[str, Json]] = []
    size = 0
    more = False
    for found in _run(request, text, args):
        values = found
        if len(rows) == page or size > _MAX_PAGE_BYTES:
            more = True
            break
        row: dict[str, Json] = {}
        if not query.aggregate:
            row = {"rowId": values[0], "versionNumber": values[1]}
            if etag and values[2] is not None:
                row["etag"] = values[2]
            values = values[3:]
        row["values"] = [spell(v, c.type) for v, c in zip(values, query.columns, strict=True)]
        size += sum(len(cell or "") for cell in row["values"])
        rows.append(row)
    if limit is not None and len(rows) == limit:
        more = False
    left = None if limit is None else limit - len(rows)
    next_token = None
    if more:
        next_token = {
            "concreteType": _T + "QueryNextPageToken",
            "entityId": syn(entity),
            "token": _token(sql, offset + len(rows), left, etag),
        }
    return {
        "concreteType": _T + "QueryResult",
        "queryResults": {
            "concreteType": _T + "RowSet",
            "tableId": syn(entity),
            "etag": _etag(request, entity),
            "headers": [_header(column) for column in query.columns],
            "rows": rows,
        },
        "nextPageToken": next_token,
    }


def _query(request: Request, body: dict[str, Json]) -> Json:
    wanted = body.get("query")
    if not isinstance(wanted, dict) or not wanted.get("sql"):
        raise bad("query.sql is required.")
    sql = str(wanted["sql"])
    mask = int(body.get("partMask") or 0x3FF)
    query, entity, models = _compiled(request, sql)
    answer: dict[str, Json] = {"concreteType": _T + "QueryResultBundle"}
    if mask & 0x1:
        limit = wanted.get("limit")
        answer["queryResult"] = _page(
            request,
            query,
            entity,
            sql,
            int(wanted.get("offset") or 0),
            None if limit is None else int(limit),
            bool(wanted.get("includeEntityEtag")),
        )
    if mask & 0x2:
        answer["queryCount"] = _run(request, *query.count).fetchone()[0]
    if mask & 0x4:
        answer["selectColumns"] = [_header(column) for column in query.columns]
    if mask & 0x8:
        answer["maxRowsPerPage"] = MAX_ROWS_PER_PAGE
    if mask & 0x10:
        answer["columnModels"] = models
    if mask & 0x20:
        answer["facets"] = []
    if mask & 0x40:
        total = 0 if query.aggregate else _run(request, *query.sum_sizes).fetchone()[0]
        answer["sumFileSizes"] = {"sumFileSizesBytes": total, "greaterThan": False}
    if mask & 0x80:
        answer["lastUpdatedOn"] = _last_updated(request, query, entity)
    if mask & 0x100:
        answer["combinedSql"] = sql
    return answer


def _last_updated(request: Request, query: Query, entity: int) -> str:
    row = request.registry.db.one(
        "SELECT changed_ns FROM table_state WHERE table_id = ?", (entity,)
    )
    if row is not None:
        return format_time(row[0])
    changed = get(request.registry.db, entity).modified_ns
    if query.source.size_sql:
        newest = _run(
            request,
            f"{query.source.with_sql} SELECT max(src.modified_ns) FROM src",
            query.source.args,
        ).fetchone()[0]
        changed = max(changed, newest or 0)
    return format_time(changed)


def _next_page(request: Request, body: dict[str, Json]) -> Json:
    try:
        told = json.loads(base64.urlsafe_b64decode(str(body.get("token"))))
        sql, offset = str(told["sql"]), int(told["offset"])
    except (ValueError, KeyError, TypeError) as error:
        raise bad("This is not a page token of this registry.") from error
    query, entity, _ = _compiled(request, sql)
    return _page(request, query, entity, sql, offset, told.get("limit"), bool(told.get("etag")))


def _download_csv(request: Request, body: dict[str, Json]) -> Json:
    sql = str(body.get("sql") or f"SELECT * FROM {request.args['id']}")
    query, entity, _ = _compiled(request, sql)
    descriptor = body.get("csvTableDescriptor") or {}
    with_rows = body.get("includeRowIdAndRowVersion", True) is not False and not query.aggregate
    # Rows of a view are entities, each with its etag; those of a table have none.
    is_view = get(request.registry.db, entity).kind in kinds.VIEWS
    with_etag = bool(body.get("includeEntityEtag")) and with_rows and is_view
    skip = 0 if query.aggregate else 3
    blobs = request.registry.blobs
    aside = blobs.aside()
    with open(aside, "w", encoding="utf-8", newline="") as out:
        writer = tables.csv_writer(out, descriptor)
        if body.get("writeHeader", True) is not False:
            lead = (["ROW_ID", "ROW_VERSION"] if with_rows else []) + (
                ["ROW_ETAG"] if with_etag else []
            )
            writer.writerow(lead + [column.name for column in query.columns])
        types = [column.type for column in query.columns]
        for values in _run(request, query.sql, query.args):
            cells = [spell(value, kind) for value, kind in zip(values[skip:], types, strict=True)]
            first = list(values[:2]) if with_rows else []
            if with_etag:
                first.append(values[2])
            writer.writerow(first + cells)
    from synd.digest import md5_of_file

    digest, size = md5_of_file(aside), aside.stat().st_size
    blobs.adopt(aside, digest)
    with request.registry.db.write() as tx:
        handle = handles.mint(
            tx, request.caller.user, name=f"Job-{syn(entity)}.csv", md5=digest, size=size,
            content_type="text/csv",
        )  # fmt: skip
    return {
        "concreteType": _T + "DownloadFromTableResult",
        "resultsFileHandleId": str(handle),
        "tableId": syn(entity),
        "etag": _etag(request, entity),
        "headers": [_header(column) for column in query.columns],
    }


def _handle_text(request: Request, raw: object) -> io.TextIOWrapper:
    """The bytes of one of the caller's file handles, as text. Raises RefusedError 403, 404."""
    row = handles.get(request.registry.db, parse_number(raw, "file handle id"))
    if row.created_by != request.caller.user:
        raise RefusedError(
            403, f"{request.caller.name} is not the creator of file handle {row.id}."
        )
    try:
        return open(request.registry.blobs.path(row.md5 or ""), encoding="utf-8-sig", newline="")
    except FileNotFoundError as error:
        raise missing(f"The bytes of file handle {row.id} are gone.") from error


def _current_columns(request: Request, entity: int) -> list[ColumnModel]:
    from synd.registry.routes.columns import columns_of

    db = request.registry.db
    return columns_of(db, entities.get_version(db, entity, get(db, entity).current))


def _upload(
    request: Request, tx: sqlite3.Connection, entity: int, change: dict[str, Json]
) -> dict[str, Json]:
    models = _current_columns(request, entity)
    if (guard := change.get("updateEtag")) and guard != _etag(request, entity):
        raise stale(f"The table {syn(entity)}")
    with _handle_text(request, change.get("uploadFileHandleId")) as text:
        rows = tables.csv_changes(text, change.get("csvTableDescriptor") or {}, models, change)
        count, etag = _apply(request, tx, entity, models, list(rows))
    return {"concreteType": _T + "UploadToTableResult", "rowsProcessed": count, "etag": etag}


def _apply(
    request: Request,
    tx: sqlite3.Connection,
    entity: int,
    models: list[ColumnModel],
    rows: list[Change],
) -> tuple[int, str]:
    db = request.registry.db
    if get(db, entity).kind == "table":
        done, etag = tables.apply_rows(tx, request.caller, entity, rows)
        return len(done), etag
    by_id = {model["id"]: model for model in models}
    for row in rows:
        apply_view_row(db, tx, request.caller, row, by_id)
    return len(rows), get(db, entity).etag


_FAILURES = {
    403: "UNAUTHORIZED",
    404: "NOT_FOUND",
    412: "CONCURRENT_UPDATE",
    400: "ILLEGAL_ARGUMENT",
}


def _append(
    request: Request, tx: sqlite3.Connection, entity: int, change: dict[str, Json]
) -> dict[str, Json]:
    db = request.registry.db
    models = _current_columns(request, entity)
    raw = change.get("toAppend")
    if not isinstance(raw, dict):
        raise bad("toAppend is required.")
    rows = list(tables.row_set_changes(raw, models))
    if get(db, entity).kind == "table":
        done, etag = tables.apply_rows(tx, request.caller, entity, rows)
        return {
            "concreteType": _T + "RowReferenceSetResults",
            "rowReferenceSet": {
                "tableId": syn(entity),
                "etag": etag,
                "headers": [
                    {"id": m["id"], "name": m["name"], "columnType": m["columnType"]}
                    for m in models
                ],
                "rows": [{"rowId": row, "versionNumber": version} for row, version in done],
            },
        }
    by_id = {model["id"]: model for model in models}
    results: list[dict[str, Json]] = []
    for row in rows:
        result: dict[str, Json] = {"entityId": syn(row.row or 0)}
        results.append(result)
        try:
            apply_view_row(db, tx, request.caller, row, by_id)
        except RefusedError as error:
            result["failureCode"] = _FAILURES.get(error.status, "UNKNOWN")
            result["failureMessage"] = error.reason
    return {"concreteType": _T + "EntityUpdateResults", "updateResults": results}


def _transaction(request: Request, body: dict[str, Json]) -> Json:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    changes = body.get("changes") or []  # a transaction may be a snapshot alone
    if not isinstance(changes, list):
        raise bad("changes must be a list.")
    results: list[dict[str, Json]] = []
    answer: dict[str, Json] = {
        "concreteType": _T + "TableUpdateTransactionResponse",
        "results": results,
    }
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        if not kinds.BY_NAME[get(db, entity).kind].tabular:
            raise bad(f"{syn(entity)} is not a table or view.")
        for change in changes:
            kind = str(change.get("concreteType", "")).rpartition(".")[2]
            if kind == "TableSchemaChangeRequest":
                models = tables.change_schema(db, tx, request.caller, entity, change)
                results.append({"concreteType": _T + "TableSchemaChangeResponse", "schema": models})
            elif kind == "UploadToTableRequest":
                results.append(_upload(request, tx, entity, change))
            elif kind == "AppendableRowSetRequest":
                results.append(_append(request, tx, entity, change))
            elif kind == "TableSearchChangeRequest":
                number = get(db, entity).current
                enabled = bool(change.get("searchEnabled"))
                entities.set_props(tx, entity, number, {"isSearchEnabled": enabled})
                results.append(
                    {"concreteType": _T + "TableSearchChangeResponse", "searchEnabled": enabled}
                )
            else:
                raise bad(f"{change.get('concreteType')!r} is not a change of a table.")
        if body.get("createSnapshot"):
            answer["snapshotVersionNumber"] = tables.snapshot(
                db, tx, request.caller, entity, body.get("snapshotOptions") or {}
            )
    return answer


def _upload_alone(request: Request, body: dict[str, Json]) -> Json:
    """The old form: a CSV upload without a transaction around it."""
    entity = parse_id(request.args["id"])
    with request.registry.db.write() as tx:
        access.need(request.registry.db, entity, request.caller, access.UPDATE)
        return _upload(request, tx, entity, body)


def _snapshot(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        if not kinds.BY_NAME[get(db, entity).kind].tabular:
            raise bad(f"{syn(entity)} is not a table or view.")
        number = tables.snapshot(db, tx, request.caller, entity, request.json())
    return created({"snapshotVersionNumber": number})


_COLUMN_TYPES = {"STRING": "STRING", "LONG": "INTEGER", "DOUBLE": "DOUBLE", "BOOLEAN": "BOOLEAN",
                 "TIMESTAMP_MS": "DATE"}  # fmt: skip


def _scope_columns(request: Request, body: dict[str, Json]) -> Json:
    """Columns that the annotations within a scope would make."""
    scope = body.get("viewScope") or body
    props = {"scopeIds": scope.get("scope") or [], "viewTypeMask": scope.get("viewTypeMask") or 1}
    source = tables.view_source(request.registry.db, request.caller, props, [])
    found: dict[str, dict[str, Json]] = {}
    for (text,) in _run(
        request,
        f"{source.with_sql} SELECT DISTINCT src.annotations FROM src"
        " WHERE src.annotations IS NOT NULL",
        source.args,
    ):
        for key, part in json.loads(text).items():
            if key in VIEW_COLUMNS or not part["value"]:
                continue
            kind = _COLUMN_TYPES[part["type"]]
            column = found.setdefault(key, {"name": key, "columnType": kind})
            if len(part["value"]) > 1 and kind != "DOUBLE":
                column["columnType"] = kind + "_LIST"
            if column["columnType"].startswith("STRING"):
                longest = max(len(value) for value in part["value"])
                column["maximumSize"] = max(column.get("maximumSize", 50), longest)
    return {
        "concreteType": _T + "ViewColumnModelResponse",
        "results": [found[key] for key in sorted(found)],
        "nextPageToken": None,
    }


def _cell_file(request: Request) -> Reply:
    """The URL of a file that a FILEHANDLEID cell names."""
    from synd.registry.web import redirect, text

    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.DOWNLOAD)
    row = db.one(
        "SELECT cells FROM table_row WHERE table_id = ? AND row_id = ?",
        (entity, parse_number(request.args["row"], "row id")),
    )
    handle = json.loads(row[0]).get(request.args["column"]) if row is not None else None
    if handle is None:
        raise missing("There is no file in that cell.")
    url = handles.url(handles.get(db, int(handle)), request.registry.presigner)
    if url is None:
        raise bad("This file handle has no URL.")
    return redirect(url) if request.flag("redirect", True) else text(url)


def _cell_handles(request: Request) -> Reply:
    """Handles of cells, for {"headers": [columns], "rows": [{"rowId"}]}."""
    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.DOWNLOAD)
    body = request.json()
    rows = []
    for wanted in body.get("rows") or []:
        row = db.one(
            "SELECT cells FROM table_row WHERE table_id = ? AND row_id = ?",
            (entity, int(wanted.get("rowId"))),
        )
        cells = json.loads(row[0]) if row is not None else {}
        listed: list[Json] = []
        for header in body.get("headers") or []:
            handle = cells.get(str(header.get("id")))
            found = handles.find(db, int(handle)) if handle else None
            listed.append(None if found is None else handles.to_json(found))
        rows.append({"list": listed})
    return ok({"tableId": syn(entity), "headers": body.get("headers"), "rows": rows})


def add(router: Router) -> None:
    base = "/repo/v1/entity/{id}/table"
    async_job(router, base + "/query", _query, concrete="QueryBundleRequest")
    async_job(router, base + "/query/nextPage", _next_page, concrete="QueryNextPageToken")
    async_job(
        router, base + "/download/csv", _download_csv, scope="download",
        concrete="DownloadFromTableRequest",
    )  # fmt: skip
    async_job(
        router, base + "/transaction", _transaction, scope="modify",
        concrete="TableUpdateTransactionRequest",
    )  # fmt: skip
    async_job(
        router, base + "/upload/csv", _upload_alone, scope="modify",
        concrete="UploadToTableRequest", entity_field="tableId",
    )  # fmt: skip
    async_job(
        router, "/repo/v1/column/view/scope", _scope_columns, concrete="ViewColumnModelRequest"
    )
    router.add("POST", base + "/snapshot", _snapshot, scope="modify", slow=True)
    router.add("POST", base + "/filehandles", _cell_handles, scope="download")
    router.add(
        "GET", base + "/column/{column}/row/{row}/version/{version}/file", _cell_file,
        scope="download",
    )  # fmt: skip
