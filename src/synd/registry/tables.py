"""Tables and views: where their rows come from, how rows change, snapshots (synapse-rest.md 6).

A table's rows are JSON cells keyed by column id. A view has no rows: each query runs over the entity tables
within its scope, so it is never behind. Both end as a `tablesql.Source`.
"""

# Queries are put together from constants and from what `tablesql` made; values are bound.

# ruff: noqa: S608

from __future__ import annotations

import csv
import io
import json
import math
import re
import sqlite3
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

from synd.clock import parse_time_ns
from synd.ids import syn
from synd.registry import access, entities, kinds
from synd.registry.access import Caller
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.entities import EntityRow, VersionRow, get, get_version, parse_id
from synd.registry.routes.columns import VIEW_COLUMNS, ColumnModel, columns_of
from synd.registry.tablesql import Column, Source
from synd.registry.web import Json, RefusedError, bad, missing, stale

MAX_ROWS_PER_PAGE = 10_000
_SHOWN = 200
"""Characters of a cell that an error shows."""

VIEW_BITS = {
    0x01: "file",
    0x02: "project",
    0x04: "table",
    0x08: "folder",
    0x10: "entityview",
    0x20: "dockerrepo",
    0x40: "submissionview",
    0x80: "dataset",
    0x100: "datasetcollection",
    0x200: "materializedview",
}
_OLD_TYPES = {"file": 0x01, "project": 0x02, "table": 0x04, "folder": 0x08, "view": 0x10,
              "docker": 0x20, "file_and_table": 0x05}  # fmt: skip
_ANNOTATION_KEY = re.compile(r"[a-zA-Z0-9_]+(?:[,.][a-zA-Z0-9_]+)*")

_ROW_FIELDS = (
    "e.id AS row_id, v.number AS row_version, e.etag AS row_etag, e.id AS id, e.name AS name,"
    " e.kind AS kind, e.parent_id AS parent_id, e.created_ns AS created_ns,"
    " e.created_by AS created_by, v.modified_ns AS modified_ns, v.modified_by AS modified_by,"
    " v.props AS props, v.annotations AS annotations, v.handle_id AS handle_id, f.size AS f_size,"
    " f.md5 AS f_md5, f.type AS f_type, f.name AS f_name, f.created_by AS f_by"
)
_JOINS = (
    " JOIN entity_version AS v ON v.entity_id = e.id AND v.number = e.current_version"
    " LEFT JOIN file_handle AS f ON f.id = v.handle_id"
)
_SCOPE = (
    "WITH RECURSIVE scope (id, path, project, benefactor) AS MATERIALIZED ("
    " SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),"
    " json_extract(value, '$[3]') FROM json_each(?)"
    " UNION SELECT e.id, scope.path || '/' || e.name, scope.project,"
    " CASE WHEN e.has_acl THEN e.id ELSE scope.benefactor END"
    " FROM scope JOIN entity AS e ON e.parent_id = scope.id AND e.kind IN ('project', 'folder')),"
    " granted (id) AS MATERIALIZED (SELECT DISTINCT entity_id FROM acl_grant"
    " WHERE principal IN (?, ?, ?) AND access & 1),"
    " src AS ("
)
_BELOW = (
    f"SELECT {_ROW_FIELDS}, scope.path || '/' || e.name AS path, scope.project AS project,"
    " CASE WHEN e.has_acl THEN e.id ELSE scope.benefactor END AS benefactor"
    " FROM scope JOIN entity AS e ON e.parent_id = scope.id"
    + _JOINS
    + " WHERE e.kind IN (SELECT value FROM json_each(?))"
    " AND (CASE WHEN e.has_acl THEN e.id ELSE scope.benefactor END) IN (SELECT id FROM granted)"
)
_ITSELF = (
    f" UNION ALL SELECT {_ROW_FIELDS}, scope.path AS path, scope.project AS project,"
    " scope.benefactor AS benefactor FROM scope JOIN entity AS e ON e.id = scope.id"
    + _JOINS
    + " WHERE e.kind = 'project' AND scope.benefactor IN (SELECT id FROM granted)"
)
_ITEMS = (
    "WITH src AS ("
    f"SELECT {_ROW_FIELDS}, NULL AS path, json_extract(i.value, '$[2]') AS project,"
    " json_extract(i.value, '$[3]') AS benefactor FROM json_each(?) AS i"
    " JOIN entity AS e ON e.id = json_extract(i.value, '$[0]')"
    " JOIN entity_version AS v ON v.entity_id = e.id AND v.number = json_extract(i.value, '$[1]')"
    " LEFT JOIN file_handle AS f ON f.id = v.handle_id)"
)
_TABLE_ROWS = (
    "WITH src AS (SELECT row_id, version AS row_version, NULL AS row_etag, cells FROM table_row"
    " WHERE table_id = ?)"
)
_SNAPSHOT_ROWS = (
    "WITH src AS (SELECT row_id, version AS row_version, NULL AS row_etag, cells FROM table_snapshot"
    " WHERE table_id = ? AND number = ?)"
)

_OBJECT_COLUMNS = {
    "id": "'syn' || src.id",
    "name": "src.name",
    "description": "json_extract(src.props, '$.description')",
    "type": "src.kind",
    "parentId": "'syn' || src.parent_id",
    "projectId": "'syn' || src.project",
    "benefactorId": "'syn' || src.benefactor",
    "path": "src.path",
    "etag": "src.row_etag",
    "currentVersion": "src.row_version",
    "createdOn": "src.created_ns / 1000000",
    "createdBy": "CAST(src.created_by AS TEXT)",
    "modifiedOn": "src.modified_ns / 1000000",
    "modifiedBy": "CAST(src.modified_by AS TEXT)",
    "dataFileHandleId": "CAST(src.handle_id AS TEXT)",
    "dataFileName": "src.f_name",
    "dataFileSizeBytes": "src.f_size",
    "dataFileMD5Hex": "src.f_md5",
    "dataFileConcreteType": f"'{kinds.OSRM}file.' || src.f_type",
    "dataFileBucket": "CASE WHEN src.f_md5 IS NULL THEN NULL ELSE 'local.registry' END",
    "dataFileKey": "src.f_by || '/' || src.f_md5",
}


def _annotation_sql(name: str, kind: str) -> str:
    """The expression of an annotation as a column of that type. Keys that cannot exist are NULL."""
    if _ANNOTATION_KEY.fullmatch(name) is None:
        return "NULL"
    if kind.endswith("_LIST"):
        return f"json_extract(src.annotations, '$.\"{name}\".value')"
    first = f"json_extract(src.annotations, '$.\"{name}\".value[0]')"
    if kind in ("INTEGER", "DATE"):
        return f"CAST({first} AS INTEGER)"
    if kind == "DOUBLE":
        return f"CAST({first} AS REAL)"
    if kind == "BOOLEAN":
        return f"({first} = 'true')"
    return first


def _view_columns(models: Iterable[ColumnModel]) -> tuple[Column, ...]:
    return tuple(
        Column(
            model["name"],
            model["columnType"],
            _OBJECT_COLUMNS.get(model["name"])
            or _annotation_sql(model["name"], model["columnType"]),
            model["id"],
        )
        for model in models
    )


def _cell_columns(models: Iterable[ColumnModel]) -> tuple[Column, ...]:
    return tuple(
        Column(
            model["name"],
            model["columnType"],
            f"json_extract(src.cells, '$.\"{int(model['id'])}\"')",
            model["id"],
        )
        for model in models
    )


def view_mask(props: dict[str, Json]) -> int:
    mask = props.get("viewTypeMask")
    if mask is None:
        mask = _OLD_TYPES.get(str(props.get("type") or "file"), 0x01)
    return int(mask)


def _names(db: Database, ancestors: tuple[int, ...]) -> str:
    """The path of names from the project down."""
    return "/".join(get(db, one).name for one in reversed(ancestors[:-1]))


def view_source(
    db: Database, caller: Caller, props: dict[str, Json], models: list[ColumnModel]
) -> Source:
    roots = []
    for raw in props.get("scopeIds") or []:
        try:
            where = access.place(db, parse_id(raw))
        except RefusedError:
            continue  # a container that is gone takes its rows along
        roots.append(
            [where.ancestors[0], _names(db, where.ancestors), where.project, where.benefactor]
        )
    mask = view_mask(props)
    wanted = [kind for bit, kind in VIEW_BITS.items() if mask & bit and kind != "project"]
    text = _SCOPE + _BELOW + (_ITSELF if mask & 0x02 else "") + ")"
    args = (json.dumps(roots), *caller.principals, json.dumps(wanted))
    return Source(text, args, _view_columns(models), "src.f_size")


def _dataset_source(
    db: Database, caller: Caller, props: dict[str, Json], models: list[ColumnModel]
) -> Source:
    items = []
    for item in props.get("items") or []:
        entity = parse_id(item.get("entityId"))
        if access.may(db, entity, caller, access.READ):
            where = access.place(db, entity)
            number = item.get("versionNumber") or get(db, entity).current
            items.append([entity, int(number), where.project, where.benefactor])
    return Source(_ITEMS, (json.dumps(items),), _view_columns(models), "src.f_size")


def source(
    db: Database, caller: Caller, entity: int, number: int | None
) -> tuple[Source, EntityRow, list[ColumnModel]]:
    """What a query on that table or view (in that version) reads. Raises RefusedError 400, 403, 404."""
    access.need(db, entity, caller, access.READ)
    row = get(db, entity)
    version = get_version(db, entity, number or row.current)
    models = columns_of(db, version)
    props = json.loads(version.props or "{}")
    if row.kind in ("table", "entityview", "dataset", "datasetcollection") and (
        number is not None and number != row.current
    ):
        return Source(_SNAPSHOT_ROWS, (entity, number), _cell_columns(models)), row, models
    if row.kind == "table":
        return Source(_TABLE_ROWS, (entity,), _cell_columns(models)), row, models
    if row.kind == "entityview":
        return view_source(db, caller, props, models), row, models
    if row.kind in ("dataset", "datasetcollection"):
        return _dataset_source(db, caller, props, models), row, models
    if kinds.BY_NAME[row.kind].tabular:
        raise bad(f"This registry cannot query entities of the type {row.kind}.")
    raise bad(f"{syn(entity)} is not a table or view.")


def spell(value: Any, kind: str) -> str | None:
    """A cell as the wire spells it: text, or None."""
    if value is None:
        return None
    if kind == "BOOLEAN":
        return "true" if value in (1, True, "true") else "false"
    if kind.endswith("_LIST"):
        return _spell_list(value, kind)
    if kind == "INTEGER" and isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _spell_list(value: Any, kind: str) -> str:
    items = json.loads(value) if isinstance(value, str) else value
    if kind in ("INTEGER_LIST", "DATE_LIST", "USERID_LIST"):
        items = [int(item) for item in items]
    elif kind == "BOOLEAN_LIST":
        items = [item in (True, "true", 1) for item in items]
    return json.dumps(items, separators=(",", ":"), ensure_ascii=False)


def parse_cell(raw: Any, model: ColumnModel) -> Json:
    """A cell as it is stored, from text or JSON. Raises RefusedError 400."""
    if raw is None or raw == "":
        return None
    kind = model["columnType"]
    try:
        return _parsed(raw, kind)
    except (ValueError, TypeError, RecursionError) as error:
        shown = repr(raw) if len(str(raw)) <= _SHOWN else f"{str(raw)[:_SHOWN]!r}…"
        raise bad(f"Value {shown} in column {model['name']!r} is not a valid {kind}.") from error


def _parsed(raw: Any, kind: str) -> Json:
    text = str(raw)
    if kind == "INTEGER":
        number = float(text)
        if not number.is_integer():
            raise ValueError(text)
        whole = int(text) if text.lstrip("+-").isdecimal() else int(number)
        if not -(2**63) <= whole < 2**63:
            raise ValueError(text)
        return whole
    if kind == "DATE":
        return _milliseconds(text)
    if kind == "DOUBLE":
        number = float(text)
        return None if math.isnan(number) else str(number) if math.isinf(number) else number
    if kind == "BOOLEAN":
        if text.lower() not in ("true", "false", "1", "0"):
            raise ValueError(text)
        return text.lower() in ("true", "1")
    if kind == "ENTITYID":
        return syn(parse_id(text.partition(".")[0]))
    if kind.endswith("_LIST"):
        items = json.loads(raw) if isinstance(raw, str) else raw
        if not isinstance(items, list):
            raise ValueError(text)
        return [_parsed(item, kind.removesuffix("_LIST")) for item in items]
    if kind == "JSON":
        return raw if isinstance(raw, dict | list) else json.loads(text)
    return text


def _milliseconds(text: str) -> int:
    if text.lstrip("-").isdecimal():
        return int(text)
    try:
        return int(float(text))
    except ValueError:
        try:
            return parse_time_ns(text) // 1_000_000
        except ValueError:
            day = datetime.strptime(text, "%m/%d/%Y").replace(tzinfo=UTC)
            return int(day.timestamp() * 1000)


class Change:
    """One row as a change set gives it: append (no id), update, or delete (no values at all)."""

    __slots__ = ("etag", "row", "values", "version")

    def __init__(
        self, row: int | None, version: int | None, etag: str | None, values: dict[str, Json] | None
    ) -> None:
        self.row = row
        self.version = version
        self.etag = etag
        self.values = values
        """Column id → cell; None deletes the row."""


def csv_changes(
    text: io.TextIOBase,
    descriptor: dict[str, Json],
    models: list[ColumnModel],
    body: dict[str, Json],
) -> Iterator[Change]:
    """The changes that an uploaded CSV asks for. Raises RefusedError 400."""
    reader = csv.reader(text, **csv_dialect(descriptor), strict=False)
    for _ in range(int(body.get("linesToSkip") or 0)):
        next(reader, None)
    by_name = {model["name"]: model for model in models}
    by_id = {model["id"]: model for model in models}
    if descriptor.get("isFirstLineHeader", True):
        header = next(reader, None)
        if header is None:
            raise bad("The CSV file is empty.")
        header = [name.strip() for name in header]
    else:
        ids = body.get("columnIds") or [model["id"] for model in models]
        header = [by_id[str(one)]["name"] for one in ids]
    special = {
        name: i for i, name in enumerate(header) if name in ("ROW_ID", "ROW_VERSION", "ROW_ETAG")
    }
    columns: list[tuple[int, ColumnModel]] = []
    for i, name in enumerate(header):
        if name in special or name == "ROW_BENEFACTOR":
            continue
        if name not in by_name:
            raise bad(f"The CSV column {name!r} is not a column of the table.")
        columns.append((i, by_name[name]))
    only_ids = "ROW_ID" in special and not columns
    for line in reader:
        if not line:
            continue
        if len(line) != len(header):
            raise bad(f"Line {reader.line_num} has {len(line)} fields instead of {len(header)}.")
        row = line[special["ROW_ID"]] if "ROW_ID" in special else ""
        version = line[special["ROW_VERSION"]] if "ROW_VERSION" in special else ""
        etag = line[special["ROW_ETAG"]] if "ROW_ETAG" in special else ""
        values = None if only_ids else {m["id"]: parse_cell(line[i], m) for i, m in columns}
        yield Change(
            int(float(row)) if row else None, int(float(version)) if version else None, etag or None,
            values,
        )  # fmt: skip


def csv_dialect(descriptor: dict[str, Json]) -> dict[str, Any]:
    """Csv's options for a CsvTableDescriptor, reading and writing."""
    return {
        "delimiter": descriptor.get("separator") or ",",
        "quotechar": descriptor.get("quoteCharacter") or '"',
        "escapechar": descriptor.get("escapeCharacter") or "\\",
        "doublequote": True,
    }


def csv_writer(out: Any, descriptor: dict[str, Json]) -> Any:
    options = csv_dialect(descriptor)
    return csv.writer(
        out,
        **{**options, "doublequote": False},
        lineterminator=descriptor.get("lineEnd") or "\n",
        quoting=csv.QUOTE_MINIMAL,
    )


def row_set_changes(raw: dict[str, Json], models: list[ColumnModel]) -> Iterator[Change]:
    """The changes of a PartialRowSet or RowSet. Raises RefusedError 400."""
    by_id = {model["id"]: model for model in models}
    by_name = {model["name"]: model for model in models}
    headers = raw.get("headers")
    for row in raw.get("rows") or []:
        number = row.get("rowId")
        listed = row.get("values")
        values: dict[str, Json] | None
        if listed is None or (listed == [] and number is not None):
            values = None
        elif headers and not str(raw.get("concreteType", "")).endswith("PartialRowSet"):
            values = {}
            for header, value in zip(headers, listed, strict=True):
                model = by_id.get(str(header.get("id"))) or by_name.get(str(header.get("name")))
                if model is None:
                    raise bad(f"{header.get('name')!r} is not a column of the table.")
                values[model["id"]] = parse_cell(value, model)
        else:
            values = {}
            for pair in listed:
                model = by_id.get(str(pair.get("key"))) or by_name.get(str(pair.get("key")))
                if model is None:
                    raise bad(f"{pair.get('key')!r} is not a column of the table.")
                values[model["id"]] = parse_cell(pair.get("value"), model)
        yield Change(
            None if number is None else int(number),
            row.get("versionNumber"),
            row.get("etag"),
            values,
        )


def apply_rows(
    tx: sqlite3.Connection, caller: Caller, table: int, changes: Iterable[Change]
) -> tuple[list[tuple[int, int]], str]:
    """((row, version) of each changed row, new etag). All or nothing. Raises RefusedError 400, 404, 412."""
    state = tx.execute(
        "SELECT last_row, row_version FROM table_state WHERE table_id = ?", (table,)
    ).fetchone()
    last, version = int(state[0]), int(state[1]) + 1
    done: list[tuple[int, int]] = []
    for change in changes:
        if change.row is None:
            last += 1
            tx.execute(
                "INSERT INTO table_row VALUES (?, ?, ?, ?)",
                (table, last, version, _cells(change.values or {})),
            )
            done.append((last, version))
            continue
        row = tx.execute(
            "SELECT version, cells FROM table_row WHERE table_id = ? AND row_id = ?",
            (table, change.row),
        ).fetchone()
        if row is None:
            raise missing(f"Row {change.row} of {syn(table)} does not exist.")
        if change.version is not None and change.version != row[0]:
            raise stale(f"Row id: {change.row} of {syn(table)}")
        if change.values is None:
            tx.execute(
                "DELETE FROM table_row WHERE table_id = ? AND row_id = ?", (table, change.row)
            )
        else:
            cells = json.loads(row[1]) | change.values
            tx.execute(
                "UPDATE table_row SET version = ?, cells = ? WHERE table_id = ? AND row_id = ?",
                (version, _cells(cells), table, change.row),
            )
        done.append((change.row, version))
    etag = new_etag()
    tx.execute(
        "UPDATE table_state SET etag = ?, last_row = ?, row_version = ?, changed_ns = ?"
        " WHERE table_id = ?",
        (etag, last, version, now_ns(), table),
    )
    entities.touch(tx, table, caller.user)
    return done, etag


def _cells(values: dict[str, Json]) -> str:
    return json.dumps(
        {key: value for key, value in values.items() if value is not None},
        separators=(",", ":"),
        ensure_ascii=False,
    )


_ANNOTATION_TYPES = {
    "INTEGER": "LONG",
    "DOUBLE": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "DATE": "TIMESTAMP_MS",
}


def apply_view_row(
    db: Database,
    tx: sqlite3.Connection,
    caller: Caller,
    change: Change,
    models: dict[str, ColumnModel],
) -> None:
    """Writes a view's row onto its entity's annotations. Raises RefusedError 400, 403, 404, 412."""
    from synd.registry.routes.annotations import write_annotations

    if change.row is None or change.values is None:
        raise bad("Rows of a view can be neither added nor deleted.")
    access.need(db, change.row, caller, access.UPDATE)
    row = get(db, change.row)
    if change.etag is not None and change.etag != row.etag:
        raise stale(f"Object: {syn(change.row)}")
    version = get_version(db, change.row, row.current)
    annotations = json.loads(version.annotations or "{}")
    for column, value in change.values.items():
        model = models[column]
        name, kind = model["name"], model["columnType"]
        if name in VIEW_COLUMNS:
            continue  # what the entity itself holds is not changed through a view
        if value is None:
            annotations.pop(name, None)
            continue
        values = value if isinstance(value, list) else [value]
        spelled = [str(one).lower() if isinstance(one, bool) else str(one) for one in values]
        base = kind.removesuffix("_LIST")
        annotations[name] = {"type": _ANNOTATION_TYPES.get(base, "STRING"), "value": spelled}
    write_annotations(tx, change.row, row.current, annotations)
    entities.touch(tx, change.row, caller.user)


def change_schema(
    db: Database, tx: sqlite3.Connection, caller: Caller, entity: int, body: dict[str, Json]
) -> list[ColumnModel]:
    """Applies a TableSchemaChangeRequest; the new columns in order. Raises RefusedError."""
    row = get(db, entity)
    version = get_version(db, entity, row.current)
    ids = [str(one) for one in json.loads(version.props or "{}").get("columnIds") or []]
    for change in body.get("changes") or []:
        old, new = change.get("oldColumnId"), change.get("newColumnId")
        if old is not None and str(old) not in ids:
            raise bad(f"The column {old} is not part of {syn(entity)}.")
        if new is not None and old is None:
            if str(new) not in ids:  # the official client names default columns twice
                ids.append(str(new))
        elif new is not None:
            ids[ids.index(str(old))] = str(new)
            if row.kind == "table":
                _move_cells(db, tx, entity, str(old), str(new))
        elif old is not None:
            ids.remove(str(old))
            if row.kind == "table":
                _move_cells(db, tx, entity, str(old), None)
    ordered = [str(one) for one in body.get("orderedColumnIds") or ids]
    if sorted(ordered) != sorted(ids):
        raise bad("orderedColumnIds must hold exactly the columns that the table then has.")
    names = set()
    entities.set_props(tx, entity, row.current, {"columnIds": ordered})
    models = columns_of(db, get_version(db, entity, row.current))
    for model in models:
        if model["name"] in names:
            raise bad(f"Duplicate column name: {model['name']!r}.")
        names.add(model["name"])
    entities.touch(tx, entity, caller.user)
    return models


def _move_cells(
    db: Database, tx: sqlite3.Connection, table: int, old: str, new: str | None
) -> None:
    """Takes a column's cells to another column, converted; drops what does not convert."""
    from synd.registry.routes.columns import get_column

    model = None if new is None else get_column(db, int(new))
    for row_id, text in tx.execute(
        "SELECT row_id, cells FROM table_row WHERE table_id = ?", (table,)
    ).fetchall():
        cells = json.loads(text)
        value = cells.pop(old, None)
        if model is not None and value is not None:
            try:
                cells[str(new)] = parse_cell(value, model)
            except RefusedError:
                cells.pop(str(new), None)
        tx.execute(
            "UPDATE table_row SET cells = ? WHERE table_id = ? AND row_id = ?",
            (_cells(cells), table, row_id),
        )


def snapshot(
    db: Database, tx: sqlite3.Connection, caller: Caller, entity: int, options: dict[str, Json]
) -> int:
    """Freezes the present rows as a version; its number. What follows happens in a new version."""
    row = get(db, entity)
    version = get_version(db, entity, row.current)
    _freeze(db, tx, caller, row, version)
    now = now_ns()
    activity = options.get("snapshotActivityId")
    label = options.get("snapshotLabel")
    try:
        tx.execute(
            "UPDATE entity_version SET label = ?, comment = ?, activity_id = ?, modified_ns = ?,"
            " modified_by = ? WHERE entity_id = ? AND number = ?",
            (
                str(label) if label else version.label,
                options.get("snapshotComment"),
                version.activity if activity is None else int(activity),
                now,
                caller.user,
                entity,
                version.number,
            ),
        )
        number = row.max_version + 1
        tx.execute(
            "INSERT INTO entity_version VALUES (?, ?, ?, NULL, ?, ?, NULL, ?, ?, NULL)",
            (entity, number, str(number), now, caller.user, version.props, version.annotations),
        )
    except sqlite3.IntegrityError as error:
        raise bad(f"The version label {label!r} is already used.") from error
    tx.execute(
        "UPDATE entity SET current_version = ?, max_version = ? WHERE id = ?",
        (number, number, entity),
    )
    entities.touch(tx, entity, caller.user)
    return version.number


def _freeze(
    db: Database, tx: sqlite3.Connection, caller: Caller, row: EntityRow, version: VersionRow
) -> None:
    if row.kind == "table":
        tx.execute(
            "INSERT INTO table_snapshot SELECT table_id, ?, row_id, version, cells FROM table_row"
            " WHERE table_id = ?",
            (version.number, row.id),
        )
        return
    from synd.registry.tablesql import compile_select

    live, _, _ = source(db, caller, row.id, None)
    query = compile_select(f"SELECT * FROM {syn(row.id)}", live, caller.user)
    for values in tx.execute(query.sql, query.args).fetchall():
        cells = {
            column.id: json.loads(value) if column.type.endswith("_LIST") and value else value
            for column, value in zip(query.columns, values[3:], strict=True)
            if column.id is not None
        }
        tx.execute(
            "INSERT OR REPLACE INTO table_snapshot VALUES (?, ?, ?, ?, ?)",
            (row.id, version.number, values[0], values[1], _cells(cells)),
        )
