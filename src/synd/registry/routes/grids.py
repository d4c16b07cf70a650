"""Grid sessions: their life, replicas, socket URLs, and the jobs around them (synapse-rest.md 7.9, 7.10)."""

from __future__ import annotations

import time

from synd.registry import kinds
from synd.registry.access import Caller
from synd.registry.entities import parse_id, parse_number
from synd.registry.grids import csvs, queries, sessions, sources
from synd.registry.grids.sessions import SessionRow
from synd.registry.routes.asyncjobs import async_job
from synd.registry.routes.columns import check as check_column
from synd.registry.web import Json, Reply, Request, Router, bad, created, forbidden, ok

_G = kinds.OSRM + "grid."
_PAGE = 50
_MODES = (None, "SESSION_OWNER", "SOURCE_BENEFACTOR")


def _session(request: Request, raw: object) -> SessionRow:
    """Raises RefusedError 400, 403, 404."""
    if not raw:
        raise bad("sessionId is required.")
    return sessions.need(request.registry.db, raw, request.caller)


def _create(request: Request, body: dict[str, Json]) -> Json:
    registry, caller = request.registry, request.caller
    record_id, query = body.get("recordSetId"), body.get("initialQuery")
    if record_id is not None and query is not None:
        raise bad("recordSetId and initialQuery exclude each other.")
    mode = body.get("authorizationMode")
    if mode not in _MODES:
        raise bad(f"{mode!r} is not an authorizationMode.")
    owner = sessions.check_owner(caller, body.get("ownerPrincipalId"))
    source = version = schema = view = record = None
    if record_id is not None:
        record = sources.record_set(registry, caller, parse_id(record_id))
        source, version = record.row.id, record.version.number
        schema = sources.bound_schema(registry, source)
    elif query is not None:
        sql = str(query.get("sql") if isinstance(query, dict) else "")
        source = sources.check_view(registry, caller, sql)
        view = sources.view_rows(registry, caller, sql)
        schema = sources.bound_schema(registry, sources.scope_of_view(registry, source))
    grid = sessions.create(
        registry.db, caller, source=source, version=version, schema=schema, owner=owner, mode=mode
    )
    try:
        with registry.grids.use(grid) as live:
            if record is not None:
                sources.fill_from_record_set(registry, record, live)
            elif view is not None:
                sources.fill_from_view(registry, view, live)
            live.refresh_snapshot()
    except BaseException:
        registry.grids.delete(sessions.by_number(registry.db, grid))
        raise
    row = sessions.by_number(registry.db, grid)
    return {"concreteType": _G + "CreateGridResponse", "gridSession": sessions.to_json(row)}


def _get(request: Request) -> Reply:
    return ok(sessions.to_json(_session(request, request.args["id"])))


def _delete(request: Request) -> Reply:
    row = _session(request, request.args["id"])
    if request.caller.user not in (row.owner, row.started_by):
        raise forbidden("Only the owner of a grid session may delete it.")
    request.registry.grids.delete(row)
    return ok({})


def _list(request: Request) -> Reply:
    body = request.json()
    raw = body.get("sourceId")
    source = None if raw is None else parse_id(raw)
    token = body.get("nextPageToken")
    start = parse_number(token, "page token") if token else 0
    found = sessions.listed(request.registry.db, request.caller, source)
    more = str(start + _PAGE) if len(found) > start + _PAGE else None
    page = [sessions.to_json(row) for row in found[start : start + _PAGE]]
    return ok({"page": page, "nextPageToken": more})


def _create_replica(request: Request) -> Reply:
    row = _session(request, request.args["id"])
    made = sessions.create_replica(request.registry.db, row, request.caller)
    return created({"replica": made})


def _replica(request: Request, row: SessionRow, raw: object) -> dict[str, Json]:
    return sessions.replica(request.registry.db, row, parse_number(raw, "replica id"))


def _get_replica(request: Request) -> Reply:
    row = _session(request, request.args["id"])
    return ok(_replica(request, row, request.args["replica"]))


def _presigned(request: Request) -> Reply:
    row = _session(request, request.args["id"])
    found = _replica(request, row, request.json().get("replicaId"))
    if found["createdBy"] != str(request.caller.user):
        raise forbidden("Only the user who created a replica may connect it.")
    registry = request.registry
    url = registry.presigner.socket(
        "ws" + request.base_url.removeprefix("http"),
        f"gridSessionId={row.id}&replicaId={found['replicaId']}&userId={request.caller.user}",
        int(time.time()),
        registry.grids.url_ttl_s,
    )
    return created({"presignedUrl": url})


def _import(request: Request, body: dict[str, Json]) -> Json:
    registry, caller = request.registry, request.caller
    row = _session(request, body.get("sessionId"))
    key = _key(request, row, caller)
    schema = body.get("schema")
    if not isinstance(schema, list) or not schema:
        raise bad("schema is required: the column models of the CSV.")
    models = [check_column(one) for one in schema]
    types = {model["name"]: str(model["columnType"]) for model in models}
    handle = csvs.own_handle(registry, caller, body.get("fileHandleId"))
    with csvs.open_text(registry, handle) as text:
        table = csvs.read(text, body.get("csvDescriptor") or {}, list(types))
    for name in table.header:
        if name not in types:
            raise bad(f"The CSV column {name!r} is not a column of the schema.")
    for name in key:
        if name not in table.header:
            raise bad(f"The CSV lacks the column {name!r} of the record set's upsert key.")
    rows = list(csvs.values_of(table, types, lenient=False))
    with registry.grids.use(row.id) as live:
        csvs.remember_types(registry, live, {name: types[name] for name in table.header})
        made, updated = csvs.upsert(live, table.header, rows, key)
    return {
        "concreteType": _G + "GridCsvImportResponse",
        "sessionId": row.session_id,
        "totalCount": len(rows),
        "createdCount": made,
        "updatedCount": updated,
    }


def _key(request: Request, row: SessionRow, caller: Caller) -> list[str]:
    """The upsert key of a grid's record set. Raises RefusedError 400 when it has none."""
    if row.source is None:
        raise bad("A CSV can be imported only into a grid that was made from a RecordSet.")
    return sources.record_set(request.registry, caller, row.source).key


def _download(request: Request, body: dict[str, Json]) -> Json:
    registry = request.registry
    row = _session(request, body.get("sessionId"))
    with registry.grids.use(row.id) as live:
        data = csvs.write_csv(
            live,
            body.get("csvTableDescriptor") or {},
            header=body.get("writeHeader", True) is not False,
            row_ids=bool(body.get("includeRowIdAndRowVersion")),
            etags=bool(body.get("includeEtag")),
        )
    name = str(body.get("fileName") or f"grid-{row.session_id}.csv")
    handle = csvs.keep(registry, request.caller, data, name)
    return {
        "concreteType": _G + "DownloadFromGridResult",
        "sessionId": row.session_id,
        "resultsFileHandleId": str(handle),
    }


def _export(request: Request, body: dict[str, Json]) -> Json:
    row = _session(request, body.get("sessionId"))
    with request.registry.grids.use(row.id) as live:
        told = sources.export(request.registry, request.caller, row, live)
    return {"concreteType": _G + "GridRecordSetExportResponse", **told}


def _synchronize(request: Request, body: dict[str, Json]) -> Json:
    row = _session(request, body.get("gridSessionId"))
    kind = body.get("syncType") or "PULL_PUSH"
    if kind not in ("PULL", "PULL_PUSH"):
        raise bad(f"{kind!r} is not a syncType.")
    with request.registry.grids.use(row.id) as live:
        told = sources.synchronize(request.registry, request.caller, row, live, kind)
    return {
        "concreteType": _G + "SynchronizeGridResponse",
        "gridSessionId": row.session_id,
        "errorMessages": told,
    }


def _query(request: Request, body: dict[str, Json]) -> Json:
    row = _session(request, body.get("sessionId"))
    if body.get("replicaId") is not None:
        _replica(request, row, body["replicaId"])
    asked = body.get("queryRequest")
    with request.registry.grids.use(row.id) as live:
        found = queries.run(live, asked.get("query") if isinstance(asked, dict) else None)
    return {"concreteType": _G + "GridQueryJobResponse", "queryResult": found}


def _preview(request: Request, body: dict[str, Json]) -> Json:
    """What the columns of a CSV seem to be: asked for before an import."""
    handle = csvs.own_handle(request.registry, request.caller, body.get("uploadFileHandleId"))
    descriptor = body.get("csvTableDescriptor") or {}
    with csvs.open_text(request.registry, handle) as text:
        for _ in range(int(body.get("linesToSkip") or 0)):
            next(text, None)
        table = csvs.read(text, descriptor)
    scanned = table.rows if body.get("doFullFileScan") else table.rows[: csvs.SCANNED_ROWS]
    return {
        "concreteType": kinds.OSRM + "table.UploadToTablePreviewResult",
        # As the service: a file of a header alone suggests nothing.
        "suggestedColumns": []
        if not scanned
        else [
            {"concreteType": kinds.OSRM + "table.ColumnModel", **model}
            for model in csvs.suggested(csvs.Table(table.header, scanned))
        ],
        "sampleRows": [{"values": line} for line in scanned[: csvs.SAMPLE_ROWS]],
        "rowsScanned": len(scanned),
    }


def add(router: Router) -> None:
    base = "/repo/v1/grid"
    async_job(router, base + "/session", _create, scope="modify", concrete="CreateGridRequest")
    router.add("GET", base + "/session/{id}", _get, scope="view")
    router.add("DELETE", base + "/session/{id}", _delete, scope="modify", slow=True)
    router.add("POST", base + "/session/list", _list, scope="view")
    router.add("POST", base + "/session/{id}/replica", _create_replica, scope="modify")
    router.add("GET", base + "/session/{id}/replica/{replica}", _get_replica, scope="view")
    router.add("POST", base + "/session/{id}/presigned/url", _presigned, scope="modify")
    jobs = (
        ("/import/csv", _import, "modify", "GridCsvImportRequest"),
        ("/download/csv", _download, "download", "DownloadFromGridRequest"),
        ("/export/recordset", _export, "modify", "GridRecordSetExportRequest"),
        ("/synchronize", _synchronize, "modify", "SynchronizeGridRequest"),
        ("/session/query", _query, "view", "GridQueryJobRequest"),
    )
    for path, work, scope, concrete in jobs:
        async_job(router, base + path, work, scope=scope, concrete=concrete)
    async_job(
        router, "/repo/v1/table/upload/csv/preview", _preview,
        concrete="UploadToTablePreviewRequest",
    )  # fmt: skip
