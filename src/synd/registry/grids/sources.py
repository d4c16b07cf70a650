"""Where a grid's rows come from and go to: record sets and views (synapse-rest.md 7.10).

A record set's file is a CSV; its upsert key names its rows. A view's rows are entities, whose annotations are
the cells.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from synd.clock import format_time
from synd.errors import UsageError
from synd.grid.crdt import UNDEFINED
from synd.ids import entity_id, syn
from synd.registry import access, entities, handles, schemas, tables
from synd.registry.access import Caller
from synd.registry.db import now_ns
from synd.registry.entities import EntityRow, VersionRow
from synd.registry.grids import csvs, sessions
from synd.registry.grids.csvs import Values
from synd.registry.grids.engine import LiveGrid
from synd.registry.grids.sessions import SessionRow
from synd.registry.routes.columns import VIEW_COLUMNS, ColumnModel
from synd.registry.service import Registry
from synd.registry.tablesql import compile_select, table_of
from synd.registry.web import Json, RefusedError, bad, forbidden


class RecordSet(NamedTuple):
    """A record set in one version."""

    row: EntityRow
    version: VersionRow

    @property
    def props(self) -> dict[str, Json]:
        found: dict[str, Json] = json.loads(self.version.props or "{}")
        return found

    @property
    def key(self) -> list[str]:
        return [str(name) for name in self.props.get("upsertKey") or []]

    @property
    def descriptor(self) -> dict[str, Json]:
        return self.props.get("csvDescriptor") or {}


def record_set(registry: Registry, caller: Caller, entity: int) -> RecordSet:
    """A record set in its newest version. Raises RefusedError 400, 403, 404."""
    where = access.need(registry.db, entity, caller, access.READ)
    row = entities.get(registry.db, entity)
    if row.kind != "recordset":
        raise bad(f"{syn(entity)} is not a RecordSet.")
    if not access.rights(registry.db, where.benefactor, caller) & access.DOWNLOAD or where.unmet:
        raise forbidden(f"{caller.name} may not download {syn(entity)}.")
    return RecordSet(row, entities.get_version(registry.db, entity, row.current))


def record_rows(
    registry: Registry, record: RecordSet, schema: str | None
) -> tuple[dict[str, str], list[Values]]:
    """(types, rows) of a record set's file. Raises RefusedError 400, 404."""
    handle = handles.get(registry.db, record.version.handle or 0)
    with csvs.open_text(registry, handle) as text:
        table = csvs.read(text, record.descriptor)
    whole = None if schema is None else schemas.validation_schema(registry.db, schema)
    types = csvs.types_of(whole, table)
    return types, list(csvs.values_of(table, types, lenient=True))


def bound_schema(registry: Registry, entity: int) -> str | None:
    found = schemas.binding(registry.db, entity)
    return None if found is None else found.schema


def fill_from_record_set(registry: Registry, record: RecordSet, live: LiveGrid) -> None:
    """The first rows of a grid, or those of a newer version by their key."""
    row = sessions.by_number(registry.db, live.grid)
    types, rows = record_rows(registry, record, row.schema)
    csvs.remember_types(registry, live, types)
    with live.lock:
        if live.document.exists and not record.key:
            writer = csvs.Writer(live)
            writer.delete(list(live.document.rows()))
            writer.finish()
        csvs.upsert(live, list(types), rows, record.key if live.document.exists else [])
    sessions.change(registry.db, live.grid, source_version=record.version.number)


class ViewRows(NamedTuple):
    """What a view shows."""

    models: list[ColumnModel]
    rows: dict[int, tuple[list[Json], Values]]
    """Entity → ([id, version, etag], cells)."""


def check_view(registry: Registry, caller: Caller, sql: str) -> int:
    """The view that a query reads. Raises RefusedError 400, 403, 404."""
    entity, _ = table_of(sql)
    access.need(registry.db, entity, caller, access.READ)
    if entities.get(registry.db, entity).kind != "entityview":
        raise bad(f"A grid is made from an EntityView; {syn(entity)} is none.")
    return entity


def view_rows(registry: Registry, caller: Caller, sql: str) -> ViewRows:
    """The rows of a query on a view. Raises RefusedError."""
    entity, number = table_of(sql)
    source, _, models = tables.source(registry.db, caller, entity, number)
    query = compile_select(sql, source, caller.user)
    if query.aggregate:
        raise bad("The query of a grid may not aggregate.")
    by_name = {model["name"]: model for model in models}
    for column in query.columns:
        if column.name not in by_name:
            raise bad(f"{column.name!r} is not a column of {syn(entity)}.")
    found: dict[int, tuple[list[Json], Values]] = {}
    for line in registry.db.all(query.sql, query.args):
        values = {
            column.name: _cell(value, column.type)
            for column, value in zip(query.columns, line[3:], strict=True)
        }
        found[int(line[0])] = (list(line[:3]), values)
    return ViewRows([by_name[column.name] for column in query.columns], found)


def _cell(value: Any, kind: str) -> Any:
    """A cell of a query as a grid holds it."""
    if value is None:
        return None
    spelled = tables.spell(value, kind)
    return csvs.typed(spelled, "", kind, lenient=True)


def fill_from_view(registry: Registry, view: ViewRows, live: LiveGrid) -> None:
    """The first rows of a grid."""
    types = {model["name"]: str(model["columnType"]) for model in view.models}
    csvs.remember_types(registry, live, types)
    with live.lock:
        writer = csvs.Writer(live)
        writer.columns(types)
        for source, values in view.rows.values():
            writer.insert(values, source)
        writer.finish()


def summary(live: LiveGrid, container: int) -> dict[str, Json]:
    """ValidationSummaryStatistics of a grid's rows."""
    counts = {"valid": 0, "invalid": 0, "pending": 0}
    with live.lock:
        for row in live.document.rows():
            counts[row.status] += 1
    return {
        "containerId": syn(container),
        "totalNumberOfChildren": sum(counts.values()),
        "numberOfValidChildren": counts["valid"],
        "numberOfInvalidChildren": counts["invalid"],
        "numberOfUnknownChildren": counts["pending"],
        "generatedOn": format_time(now_ns()),
    }


def export(
    registry: Registry, caller: Caller, session: SessionRow, live: LiveGrid
) -> dict[str, Json]:
    """Writes a grid's rows as a new version of its record set: the fields of GridRecordSetExportResponse.

    Raises RefusedError 400 without a record set, 403, 404.
    """
    if session.source is None:
        raise bad("This grid was not made from a RecordSet.")
    record = record_set(registry, caller, session.source)
    entity = session.source
    with live.lock:
        data = csvs.write_csv(live, record.descriptor)
        results = csvs.write_results(live)
        statistics = summary(live, entity)
    name = handles.get(registry.db, record.version.handle or 0).name
    with registry.db.write() as tx:
        handle = csvs.keep(registry, caller, data, name)
        told = csvs.keep(registry, caller, results, f"validation-{name}")
        body = entities.to_json(record.row, record.version)
        for gone in (
            "validationSummary",
            "validationFileHandleId",
            "versionLabel",
            "versionComment",
        ):
            body.pop(gone, None)
        number = entities.update(
            registry.db, caller, entity, body | {"dataFileHandleId": str(handle)},
            new_version=True, activity=None,
        )  # fmt: skip
        entities.set_props(
            tx, entity, number,
            {"validationSummary": statistics, "validationFileHandleId": str(told)},
        )  # fmt: skip
        sessions.change(registry.db, session.id, source_version=number)
    return {
        "sessionId": session.session_id,
        "recordSetId": syn(entity),
        "recordSetVersionNumber": number,
        "validationSummaryStatistics": statistics,
        "validationFileHandleId": str(told),
    }


def synchronize(
    registry: Registry, caller: Caller, session: SessionRow, live: LiveGrid, kind: str
) -> list[str]:
    """Pulls what is newer at the source, and pushes if asked to; what went wrong. Raises RefusedError 400."""
    if session.source is None:
        raise bad("This grid has no source to synchronize with.")
    is_view = entities.get(registry.db, session.source).kind == "entityview"
    if is_view and kind == "PULL":
        raise bad("PULL is supported for grids of a RecordSet only.")
    if not is_view:
        record = record_set(registry, caller, session.source)
        _rebind(registry, session, live, session.source)
        if record.version.number != session.source_version:
            fill_from_record_set(registry, record, live)
        if kind == "PULL_PUSH":
            export(registry, caller, session, live)
        return []
    return _push_view(registry, caller, session, live)


def _rebind(registry: Registry, session: SessionRow, live: LiveGrid, entity: int) -> None:
    """Takes over another schema that was bound meanwhile."""
    schema = bound_schema(registry, entity)
    if schema != session.schema:
        sessions.change(registry.db, session.id, schema=schema)
        live.revalidate()


def _push_view(
    registry: Registry, caller: Caller, session: SessionRow, live: LiveGrid
) -> list[str]:
    """Writes cells that differ onto the entities' annotations, then reads what the view shows now."""
    told: list[str] = []
    names = list(session.types)
    columns = ", ".join(f'"{name}"' for name in names) or "*"
    sql = f"SELECT {columns} FROM {syn(session.source or 0)}"  # noqa: S608
    before = view_rows(registry, caller, sql)
    models = {model["id"]: model for model in before.models}
    failed: set[int] = set()
    pushed: dict[int, str] = {}
    with live.lock:
        index = {name: i for i, name in live.document.columns}
        for row in live.document.rows():
            entity = _entity_of(row.synapse_row)
            if entity is None:
                told.append(f"Row {_id(row.row_id)}: it is not the row of an entity.")
                continue
            shown = before.rows.get(entity)
            if shown is None:
                told.append(f"{syn(entity)}: it is not in the view any more.")
                continue
            if row.newest_cell is None or row.newest_cell.sid <= sessions.WRITER:
                continue  # nobody edited it since its cells were read
            changes = {}
            for model in before.models:
                name = model["name"]
                if name not in index or name in VIEW_COLUMNS:
                    continue
                value = row.cells[index[name]]
                value = None if value is UNDEFINED else value
                if csvs.spelled(value) != csvs.spelled(shown[1][name]):
                    changes[model["id"]] = value
            if not changes:
                continue
            etag = row.synapse_row[2]
            change = tables.Change(entity, None, None if etag is None else str(etag), changes)
            try:
                with registry.db.write() as tx:
                    tables.apply_view_row(registry.db, tx, caller, change, models)
                pushed[entity] = models[next(iter(changes))]["name"]
            except RefusedError as error:
                told.append(f"{syn(entity)}: {error.reason}")
                failed.add(entity)
        _pull_view(registry, caller, sql, live, failed, pushed)
    _rebind(registry, session, live, _scope_of(registry, session))
    return told


def _pull_view(
    registry: Registry,
    caller: Caller,
    sql: str,
    live: LiveGrid,
    keep: set[int],
    pushed: dict[int, str],
) -> None:
    """Brings the view's rows into the grid, but for those whose own changes were refused.

    A row that was pushed gets one cell (`pushed`) anew: it counts as read from now on, not as edited.
    """
    now = view_rows(registry, caller, sql)
    writer = csvs.Writer(live)
    known = set()
    for row in list(live.document.rows()):
        entity = _entity_of(row.synapse_row)
        if entity is None or entity not in now.rows:
            continue
        known.add(entity)
        if entity not in keep:
            source, values = now.rows[entity]
            writer.update(row, {k: v for k, v in values.items() if k in writer.index})
            if entity in pushed:
                writer.again(row, pushed[entity])
            if list(row.synapse_row) != source:
                writer.set_source(row, source)
    for entity, (source, values) in now.rows.items():
        if entity not in known:
            writer.insert(values, source)
    writer.finish()


def _scope_of(registry: Registry, session: SessionRow) -> int:
    return scope_of_view(registry, session.source or 0)


def scope_of_view(registry: Registry, view: int) -> int:
    """Whose schema rules a view's rows: its own binding, else that of its first container."""
    if schemas.binding(registry.db, view) is None:
        row = entities.get(registry.db, view)
        props = json.loads(entities.get_version(registry.db, view, row.current).props or "{}")
        for raw in props.get("scopeIds") or []:
            try:
                scope = entity_id(str(raw))
                if schemas.binding(registry.db, scope) is not None:
                    return scope
            except (UsageError, RefusedError):
                continue
    return view


def _entity_of(synapse_row: Any) -> int | None:
    if isinstance(synapse_row, list) and synapse_row and isinstance(synapse_row[0], int):
        return synapse_row[0]
    return None


def _id(stamp: Any) -> str:
    return f"{stamp.sid}.{stamp.time}"
