"""JSON ↔ values of grids and record sets (synapse-rest.md 7.7, 7.9, 7.10)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from synd.client.wire import MODEL, TABLE, Json, entity_number, shaped
from synd.ids import EntityId, FileHandleId, Md5, Version, md5, syn

GRID: Final = f"{MODEL}grid."


@dataclass(frozen=True, slots=True)
class GridSession:
    """A curation grid of the service."""

    id: str
    source: EntityId | None
    """The record set or view it was made from; None for an empty one."""
    schema_id: str | None
    """`$id` of the bound JSON schema. Without one nothing ever validates the rows."""
    started_by: str
    started_on: str
    """ISO time of the service, as are all times here."""
    modified_on: str
    etag: str
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table or grid: its name, the service's type of it, and how much it holds."""

    name: str
    type: str = "STRING"
    max_size: int | None = None
    """Characters of a text, or of each text in a list."""
    max_list: int | None = None


@dataclass(frozen=True, slots=True)
class CsvFormat:
    """How a CSV is spelled."""

    separator: str = ","
    quote: str = '"'
    escape: str = "\\"
    line_end: str = "\n"
    header: bool = True


@dataclass(frozen=True, slots=True)
class GridImport:
    """What an import did: rows of the CSV that it took, that are new, that were known; None where not told."""

    total: int | None
    created: int | None
    updated: int | None


@dataclass(frozen=True, slots=True)
class GridExport:
    """The record set version that a grid became."""

    record_set: EntityId
    version: Version | None
    total: int | None
    valid: int | None
    invalid: int | None
    unknown: int | None
    """Rows that had no result when it was made."""
    results: FileHandleId | None
    """A CSV of the result of each row."""


@dataclass(frozen=True, slots=True)
class QueriedRow:
    """A row of a grid query: its id ``session.time``, its cells by column, its validation if it has one."""

    id: str
    cells: Mapping[str, object]
    validation: Mapping[str, object] | None


@dataclass(frozen=True, slots=True)
class RecordSet:
    """A versioned CSV of the service with the columns by which its rows are known again."""

    id: EntityId
    name: str
    parent: EntityId | None
    version: Version | None
    etag: str
    handle: FileHandleId | None
    upsert_key: tuple[str, ...]
    csv: CsvFormat


@shaped
def grid_session(answer: Json) -> GridSession:
    """A GridSession."""
    source = answer.get("sourceEntityId")
    return GridSession(
        id=str(answer["sessionId"]),
        source=entity_number(source) if source else None,
        schema_id=str(answer["gridJsonSchema$Id"]) if answer.get("gridJsonSchema$Id") else None,
        started_by=str(answer.get("startedBy") or ""),
        started_on=str(answer.get("startedOn") or ""),
        modified_on=str(answer.get("modifiedOn") or ""),
        etag=str(answer.get("etag") or ""),
        owner=str(answer.get("ownerPrincipalId") or ""),
    )


@shaped
def created_session(answer: Json) -> GridSession:
    """The session of a CreateGridResponse."""
    return grid_session(answer["gridSession"])


@shaped
def session_page(answer: Json) -> tuple[list[GridSession], str | None]:
    """Sessions, and the token of the next page."""
    return [grid_session(one) for one in answer.get("page") or ()], answer.get("nextPageToken")


@shaped
def replica_number(answer: Json) -> int:
    """The replica id of a CreateReplicaResponse."""
    return int(answer["replica"]["replicaId"])


@shaped
def socket_url(answer: Json) -> str:
    """The signed WebSocket URL."""
    return str(answer["presignedUrl"])


def create_request(
    record_set: EntityId | None, sql: str | None, owner: str | None
) -> dict[str, Json]:
    """Body of ``/grid/session/async/start``."""
    body: dict[str, Json] = {"concreteType": f"{GRID}CreateGridRequest"}
    if record_set is not None:
        body["recordSetId"] = syn(record_set)
    if sql is not None:
        body["initialQuery"] = {"concreteType": f"{TABLE}Query", "sql": sql}
    if owner is not None:
        body["ownerPrincipalId"] = owner
    return body


def csv_descriptor(csv: CsvFormat) -> dict[str, Json]:
    """A CsvTableDescriptor."""
    return {
        "separator": csv.separator,
        "quoteCharacter": csv.quote,
        "escapeCharacter": csv.escape,
        "lineEnd": csv.line_end,
        "isFirstLineHeader": csv.header,
    }


def csv_format(descriptor: Json) -> CsvFormat:
    """A CsvTableDescriptor as a value; the service's defaults for what it does not say."""
    if not isinstance(descriptor, dict):
        return CsvFormat()
    header = descriptor.get("isFirstLineHeader")
    return CsvFormat(
        separator=str(descriptor.get("separator") or ","),
        quote=str(descriptor.get("quoteCharacter") or '"'),
        escape=str(descriptor.get("escapeCharacter") or "\\"),
        line_end=str(descriptor.get("lineEnd") or "\n"),
        header=True if header is None else bool(header),
    )


def column_model(column: Column) -> dict[str, Json]:
    """A ColumnModel."""
    body: dict[str, Json] = {
        "concreteType": f"{TABLE}ColumnModel",
        "name": column.name,
        "columnType": column.type,
    }
    if column.max_size is not None:
        body["maximumSize"] = column.max_size
    if column.max_list is not None:
        body["maximumListLength"] = column.max_list
    return body


def import_request(
    session: str, handle: FileHandleId, columns: Sequence[Column], csv: CsvFormat
) -> dict[str, Json]:
    """Body of ``/grid/import/csv/async/start``."""
    return {
        "concreteType": f"{GRID}GridCsvImportRequest",
        "sessionId": session,
        "fileHandleId": str(handle),
        "csvDescriptor": csv_descriptor(csv),
        "schema": [column_model(one) for one in columns],
    }


def _count(answer: Json, key: str) -> int | None:
    value = answer.get(key)
    return None if value is None else int(value)


@shaped
def import_result(answer: Json) -> GridImport:
    """A GridCsvImportResponse."""
    return GridImport(
        _count(answer, "totalCount"), _count(answer, "createdCount"), _count(answer, "updatedCount")
    )


def preview_request(handle: FileHandleId, csv: CsvFormat) -> dict[str, Json]:
    """Body of ``/table/upload/csv/preview/async/start``."""
    return {
        "concreteType": f"{TABLE}UploadToTablePreviewRequest",
        "uploadFileHandleId": str(handle),
        "csvTableDescriptor": csv_descriptor(csv),
        "doFullFileScan": True,
    }


@shaped
def preview_columns(answer: Json) -> list[Column]:
    """The suggested columns of an UploadToTablePreviewResult."""
    return [
        Column(
            str(one["name"]),
            str(one.get("columnType") or "STRING"),
            _count(one, "maximumSize"),
            _count(one, "maximumListLength"),
        )
        for one in answer.get("suggestedColumns") or ()
    ]


def download_request(
    session: str, csv: CsvFormat, *, row_id: bool, etag: bool, name: str | None
) -> dict[str, Json]:
    """Body of ``/grid/download/csv/async/start``."""
    body: dict[str, Json] = {
        "concreteType": f"{GRID}DownloadFromGridRequest",
        "sessionId": session,
        "writeHeader": csv.header,
        "includeRowIdAndRowVersion": row_id,
        "includeEtag": etag,
        "csvTableDescriptor": csv_descriptor(csv),
    }
    if name is not None:
        body["fileName"] = name
    return body


@shaped
def download_result(answer: Json) -> FileHandleId:
    """The file handle of a DownloadFromGridResult."""
    return FileHandleId(int(answer["resultsFileHandleId"]))


def synchronize_request(session: str, *, pull_only: bool) -> dict[str, Json]:
    """Body of ``/grid/synchronize/async/start``. Services older than the sync type ignore it."""
    return {
        "concreteType": f"{GRID}SynchronizeGridRequest",
        "gridSessionId": session,
        "syncType": "PULL" if pull_only else "PULL_PUSH",
    }


@shaped
def synchronize_result(answer: Json) -> list[str]:
    """What went wrong, a text each."""
    return [str(one) for one in answer.get("errorMessages") or ()]


def export_request(session: str) -> dict[str, Json]:
    """Body of ``/grid/export/recordset/async/start``."""
    return {"concreteType": f"{GRID}GridRecordSetExportRequest", "sessionId": session}


@shaped
def export_result(answer: Json) -> GridExport:
    """A GridRecordSetExportResponse."""
    counts = answer.get("validationSummaryStatistics") or {}
    results = answer.get("validationFileHandleId")
    version = answer.get("recordSetVersionNumber")
    return GridExport(
        record_set=entity_number(answer["recordSetId"]),
        version=None if version is None else Version(int(version)),
        total=_count(counts, "totalNumberOfChildren"),
        valid=_count(counts, "numberOfValidChildren"),
        invalid=_count(counts, "numberOfInvalidChildren"),
        unknown=_count(counts, "numberOfUnknownChildren"),
        results=None if results is None else FileHandleId(int(results)),
    )


def query_request(session: str, replica: int, limit: int, offset: int) -> dict[str, Json]:
    """Body of ``/grid/session/query/async/start``: all columns, with validation."""
    return {
        "concreteType": f"{GRID}GridQueryJobRequest",
        "sessionId": session,
        "replicaId": replica,
        "queryRequest": {
            "query": {
                "columnSelection": [{"concreteType": f"{GRID}query.SelectAll"}],
                "filters": [],
                "limit": limit,
                "offset": offset,
                "includeValidationMessages": True,
            }
        },
    }


@shaped
def query_rows(answer: Json) -> tuple[list[str], list[QueriedRow]]:
    """Column names in order, and rows. A row's data is an object by column, or a list in their order."""
    result = answer["queryResult"]
    names = [str(one["columnName"]) for one in result.get("selectColumns") or ()]
    rows: list[QueriedRow] = []
    for row in result.get("rows") or ():
        data = row.get("data") or {}
        cells = data if isinstance(data, dict) else dict(zip(names, data, strict=True))
        found = row.get("validationResults")
        rows.append(QueriedRow(str(row["rowId"]), cells, found or None))
    return names, rows


@shaped
def size_and_md5(answer: Json) -> tuple[int | None, Md5 | None]:
    """Bytes and md5 of a file handle, as far as it tells them."""
    size, digest = answer.get("contentSize"), answer.get("contentMd5")
    return (None if size is None else int(size), md5(str(digest)) if digest else None)


@shaped
def own_url(answer: Json) -> str:
    """A signed URL that was answered as plain text or as JSON text."""
    url = answer.strip().strip('"')
    if not url.startswith(("http://", "https://")):
        raise ValueError("it is no URL")
    return str(url)


def new_record_set(
    parent: EntityId, name: str, handle: FileHandleId, upsert_key: Sequence[str], csv: CsvFormat
) -> dict[str, Json]:
    """Body of ``POST /entity`` for a record set."""
    return {
        "concreteType": f"{MODEL}RecordSet",
        "name": name,
        "parentId": syn(parent),
        "dataFileHandleId": str(handle),
        "upsertKey": list(upsert_key),
        "csvDescriptor": csv_descriptor(csv),
    }


@shaped
def record_set(answer: Json) -> RecordSet:
    """A RecordSet."""
    parent, version = answer.get("parentId"), answer.get("versionNumber")
    handle = answer.get("dataFileHandleId")
    if not str(answer.get("concreteType") or "").endswith(".RecordSet"):
        raise ValueError(f"{answer['id']} is a {answer.get('concreteType')}")
    return RecordSet(
        id=entity_number(answer["id"]),
        name=str(answer.get("name") or ""),
        parent=entity_number(parent) if parent else None,
        version=None if version is None else Version(int(version)),
        etag=str(answer.get("etag") or ""),
        handle=FileHandleId(int(handle)) if handle else None,
        upsert_key=tuple(str(key) for key in answer.get("upsertKey") or ()),
        csv=csv_format(answer.get("csvDescriptor")),
    )
