"""JSON ↔ values of `synd.model`: the service's spellings stop here.

Absent and null mean the same. What a shape cannot do without is asked for by name, and its absence is a
ProtocolError; everything else is optional, and unknown fields and kinds are let pass.
`Any` stands for parsed JSON and lives in this file only.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache, wraps
from typing import Any, Final, ParamSpec, TypeVar

from synd.client.remote import SortBy, ViewRow
from synd.clock import NS, parse_time_ns
from synd.errors import ProtocolError
from synd.ids import EntityId, FileHandleId, Md5, Version, syn
from synd.model import (
    Access,
    AnnotationValue,
    ChildrenPage,
    Entity,
    FileRef,
    FileVersion,
    Header,
    Kind,
    LinkTarget,
    Presigned,
    Profile,
    Store,
    VersionInfo,
)

Json = Any

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

MODEL: Final = "org.sagebionetworks.repo.model."
TABLE: Final = f"{MODEL}table."

KINDS: Final[Mapping[str, Kind]] = {
    "Project": Kind.PROJECT,
    "Folder": Kind.FOLDER,
    "FileEntity": Kind.FILE,
    "Link": Kind.LINK,
    "RecordSet": Kind.RECORD_SET,
    "TableEntity": Kind.TABLE,
    "EntityView": Kind.ENTITY_VIEW,
    "SubmissionView": Kind.SUBMISSION_VIEW,
    "Dataset": Kind.DATASET,
    "DatasetCollection": Kind.DATASET_COLLECTION,
    "MaterializedView": Kind.MATERIALIZED_VIEW,
    "VirtualTable": Kind.VIRTUAL_TABLE,
    "DockerRepository": Kind.DOCKER_REPO,
}
"""Last part of a concreteType → kind."""

CHILD_TYPES: Final = tuple(kind.value for kind in Kind if kind not in (Kind.PROJECT, Kind.OTHER))
"""The service's EntityType of all that a folder may hold. Our values are its spellings."""

_BY_ANY_NAME: Final[Mapping[str, Kind]] = {
    **{f"{MODEL}{name}": kind for name, kind in KINDS.items()},
    **{f"{TABLE}{name}": kind for name, kind in KINDS.items()},
    f"{MODEL}docker.DockerRepository": Kind.DOCKER_REPO,
    **{kind.value: kind for kind in Kind},
}

_STORES: Final[Mapping[str, Store]] = {
    "S3FileHandle": Store.S3,
    "GoogleCloudFileHandle": Store.GOOGLE,
    "ExternalFileHandle": Store.EXTERNAL,
    "ExternalObjectStoreFileHandle": Store.EXTERNAL_OBJECT_STORE,
    "ProxyFileHandle": Store.PROXY,
}

_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_STAMP = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d):(\d\d):(\d\d)\.(\d{3})Z")
_EXPIRY: Final = re.compile(
    r"[?&](X-(?:Amz|Goog)-(?:Date|Expires)|Expires)=([^&#]*)", re.IGNORECASE
)
_AMZ_DATE = "%Y%m%dT%H%M%SZ"

VIEW_COLUMNS: Final = (
    "id",
    "name",
    "type",
    "parentId",
    "currentVersion",
    "etag",
    "createdOn",
    "modifiedOn",
    "modifiedBy",
    "dataFileHandleId",
    "dataFileSizeBytes",
    "dataFileMD5Hex",
    "dataFileName",
    "dataFileConcreteType",
)
"""What `view_rows` reads, in this order."""

VIEW_NEEDS: Final = frozenset({"id", "name", "type", "parentId", "modifiedOn"})
"""Without these columns a view is of no use to us."""

VIEW_COLUMN_TYPES: Final[Mapping[str, tuple[str, int | None]]] = {
    "id": ("ENTITYID", None),
    "name": ("STRING", 256),
    "type": ("STRING", 20),
    "parentId": ("ENTITYID", None),
    "currentVersion": ("INTEGER", None),
    "etag": ("STRING", 36),
    "createdOn": ("DATE", None),
    "modifiedOn": ("DATE", None),
    "modifiedBy": ("USERID", None),
    "dataFileHandleId": ("FILEHANDLEID", None),
    "dataFileSizeBytes": ("INTEGER", None),
    "dataFileMD5Hex": ("STRING", 100),
    "dataFileName": ("STRING", 256),
    "dataFileConcreteType": ("STRING", 65),
}
"""Column type and maximum size (synapse-rest.md 6.5)."""

FILES_AND_FOLDERS: Final = 0x01 | 0x08
"""viewTypeMask of files and folders."""


def parts(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """`items` in lists of up to `size`: many calls of the service take so many ids and no more."""
    left = list(items)
    for start in range(0, len(left), size):
        yield left[start : start + size]


def shaped(parse: Callable[P, R]) -> Callable[P, R]:
    """Turns what a wrong shape makes Python raise into ProtocolError."""

    @wraps(parse)
    def parsed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return parse(*args, **kwargs)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            what = parse.__name__.replace("_", " ")
            detail = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ProtocolError(f"the service's answer is no {what}: {detail}") from error

    return parsed


def kind_of(concrete_type: str | None) -> Kind:
    """The kind of a concreteType or EntityType; OTHER for what is newer than this program."""
    if concrete_type is None:
        return Kind.OTHER
    return _BY_ANY_NAME.get(concrete_type, Kind.OTHER)


def entity_number(text: str | int) -> EntityId:
    """123 of ``syn123``. Raises ValueError."""
    spelled = str(text)
    number = int(spelled[3:] if spelled[:3].lower() == "syn" else spelled)
    if number <= 0:
        raise ValueError(f"{text!r} is not an entity id")
    return EntityId(number)


@lru_cache(maxsize=4096)
def _day_ns(day: str) -> int:
    return parse_time_ns(f"{day}T00:00:00Z")


def time_ns(text: str | int | None) -> int:
    """UTC ns of the service's ISO text, or of its milliseconds; 0 for none. Raises ValueError."""
    if text is None:
        return 0
    if isinstance(text, int):
        return text * 1_000_000
    # The usual spelling, without a datetime: listings hold two of these a row.
    if match := _STAMP.fullmatch(text):
        day, hour, minute, second, milli = match.groups()
        seconds = (int(hour) * 60 + int(minute)) * 60 + int(second)
        return _day_ns(day) + seconds * NS + int(milli) * 1_000_000
    return parse_time_ns(text)


def _version(value: Json) -> Version | None:
    return None if value is None else Version(int(value))


def _md5(value: Json) -> Md5 | None:
    """An external file's md5 is whatever somebody typed, so what is none is left out."""
    if not isinstance(value, str) or _MD5.fullmatch(value) is None:
        return None
    return Md5(value.lower())


def _size(value: Json) -> int | None:
    if value is None or value == "":
        return None
    size = int(value)
    return size if size >= 0 else None


def _header(row: Json) -> Header:
    return Header(
        id=entity_number(row["id"]),
        name=row["name"],
        kind=kind_of(row.get("type")),
        version=_version(row.get("versionNumber")),
        created_on_ns=time_ns(row.get("createdOn")),
        modified_on_ns=time_ns(row.get("modifiedOn")),
        modified_by=str(row.get("modifiedBy") or ""),
    )


def children_request(
    parent: EntityId | None, token: str | None, sort: SortBy, *, descending: bool, counts: bool
) -> Json:
    """Body of ``POST /entity/children``."""
    body: Json = {
        "includeTypes": [Kind.PROJECT.value] if parent is None else CHILD_TYPES,
        "sortBy": sort,
        "sortDirection": "DESC" if descending else "ASC",
        "includeTotalChildCount": counts,
        "includeSumFileSizes": counts,
    }
    if parent is not None:
        body["parentId"] = syn(parent)
    if token is not None:
        body["nextPageToken"] = token
    return body


@shaped
def children_page(answer: Json) -> ChildrenPage:
    """The page of a folder's listing."""
    return ChildrenPage(
        headers=tuple([_header(row) for row in answer.get("page") or ()]),
        next_token=answer.get("nextPageToken"),
        total=answer.get("totalChildCount"),
        sum_bytes=answer.get("sumFileSizesBytes"),
    )


@shaped
def list_of_headers(answer: Json) -> list[Header]:
    """``{"results": [EntityHeader]}``."""
    return [_header(row) for row in answer.get("results") or ()]


@shaped
def entity_path(answer: Json) -> list[tuple[EntityId, str]]:
    """(id, name) from the project down."""
    rows = answer["path"]
    first = next((i for i, row in enumerate(rows) if kind_of(row.get("type")) is Kind.PROJECT), 1)
    return [(entity_number(row["id"]), row["name"]) for row in rows[first:]]


@shaped
def child_id(answer: Json) -> EntityId:
    """``{"id": "syn7"}``."""
    return entity_number(answer["id"])


@shaped
def profile(answer: Json) -> Profile:
    """Who is logged in."""
    return Profile(id=str(answer["ownerId"]), name=str(answer.get("userName") or ""))


@shaped
def version_list(answer: Json) -> list[VersionInfo]:
    """A page of an entity's versions."""
    return [
        VersionInfo(
            id=entity_number(row["id"]),
            number=Version(int(row["versionNumber"])),
            label=row.get("versionLabel") or "",
            comment=row.get("versionComment") or "",
            modified_on_ns=time_ns(row.get("modifiedOn")),
            modified_by=str(row.get("modifiedByPrincipalId") or row.get("modifiedBy") or ""),
            size=_size(row.get("contentSize")),
            md5=_md5(row.get("contentMd5")),
            handle=_handle_id(row.get("fileHandleId")),
            is_latest=bool(row.get("isLatestVersion")),
        )
        for row in answer.get("results") or ()
    ]


def _handle_id(value: Json) -> FileHandleId | None:
    return None if value is None or value == "" else FileHandleId(int(value))


def _file_version(entity: EntityId, version: Version, handle: Json) -> FileVersion:
    store = _STORES.get(str(handle.get("concreteType", "")).rpartition(".")[2], Store.S3)
    return FileVersion(
        entity=entity,
        version=version,
        handle=_handle_id(handle["id"]),
        md5=_md5(handle.get("contentMd5")),
        size=_size(handle.get("contentSize")),
        name=handle.get("fileName") or "",
        content_type=handle.get("contentType") or "application/octet-stream",
        store=store,
        external_url=handle.get("externalURL") if store is Store.EXTERNAL else None,
    )


def bundle_request(*, annotations: bool, permissions: bool) -> Json:
    """Body of ``bundle2``."""
    body = {
        "includeEntity": True,
        "includeFileHandles": True,
        "includeRestrictionInformation": True,
    }
    if annotations:
        body["includeAnnotations"] = True
    if permissions:
        body["includePermissions"] = True
    return body


@shaped
def entity_bundle(answer: Json) -> Entity:
    """An entity with its file handle, restriction, and what else the bundle brought."""
    found = answer["entity"]
    kind = kind_of(found.get("concreteType"))
    number = entity_number(found["id"])
    version = _version(found.get("versionNumber"))
    file = None
    wanted = found.get("dataFileHandleId")
    if wanted is not None:
        handle = next(
            (h for h in answer.get("fileHandles") or () if str(h.get("id")) == str(wanted)), None
        )
        if handle is not None:
            file = _file_version(number, version or Version(1), handle)
    target = found.get("linksTo")
    annotations: dict[str, AnnotationValue] = {
        key: (value["type"], tuple([str(v) for v in value.get("value") or ()]))
        for key, value in ((answer.get("annotations") or {}).get("annotations") or {}).items()
    }
    parent = found.get("parentId")
    may = answer.get("permissions") or {}
    terms = answer.get("restrictionInformation") or {}
    return Entity(
        id=number,
        name=found["name"],
        kind=kind,
        parent=None if parent is None else entity_number(parent),
        etag=found.get("etag") or "",
        version=version,
        created_on_ns=time_ns(found.get("createdOn")),
        modified_on_ns=time_ns(found.get("modifiedOn")),
        created_by=str(found.get("createdBy") or ""),
        modified_by=str(found.get("modifiedBy") or ""),
        description=found.get("description") or "",
        version_label=found.get("versionLabel") or "",
        version_comment=found.get("versionComment") or "",
        file=file,
        link=None
        if not target
        else LinkTarget(
            entity_number(target["targetId"]), _version(target.get("targetVersionNumber"))
        ),
        annotations=annotations,
        access=Access(
            can_view=bool(may.get("canView", True)),
            can_edit=bool(may.get("canEdit", True)),
            can_add_child=bool(may.get("canAddChild", True)),
            # The service leaves the file handle out when its bytes may not be downloaded.
            can_download=bool(may.get("canDownload", wanted is None or file is not None)),
            unmet_terms=bool(terms.get("hasUnmetAccessRequirement", False)),
        ),
    )


def batch_request(refs: Sequence[FileRef], *, kind: str = "FileEntity", urls: bool = True) -> Json:
    """Body of ``POST /fileHandle/batch``; `kind` is what the handles are seen through."""
    return {
        "includeFileHandles": True,
        "includePreSignedURLs": urls,
        "includePreviewPreSignedURLs": False,
        "requestedFiles": [
            {
                "fileHandleId": str(ref.handle),
                "associateObjectId": syn(ref.entity),
                "associateObjectType": kind,
            }
            for ref in refs
        ],
    }


@shaped
def file_batch(refs: Sequence[FileRef], answer: Json) -> list[Presigned]:
    """One value per ref, in the order asked for; a ref without an answer counts as not found."""
    by_handle: dict[str, Json] = {
        str(row["fileHandleId"]): row for row in answer.get("requestedFiles") or ()
    }
    found = []
    for ref in refs:
        row = by_handle.get(str(ref.handle))
        if row is None:
            found.append(Presigned(ref, None, failure="NOT_FOUND"))
            continue
        handle = row.get("fileHandle")
        url = row.get("preSignedURL")
        found.append(
            Presigned(
                ref=ref,
                url=url,
                expires_at_ns=url_expiry_ns(url) if url else 0,
                # A file handle knows no version; the caller knows which one it asked for.
                file=_file_version(ref.entity, Version(1), handle) if handle else None,
                failure=row.get("failureCode"),
            )
        )
    return found


def url_expiry_ns(url: str) -> int:
    """UTC ns at which a presigned URL ends, by its own parameters; 0 when it tells none."""
    # No general parser: this is done for every small file.
    found = {name.lower(): value for name, value in _EXPIRY.findall(url)}
    for vendor in ("x-amz", "x-goog"):
        start, life = found.get(f"{vendor}-date"), found.get(f"{vendor}-expires")
        if start and life:
            try:
                return (_amz_second(start) + int(life)) * NS
            except (ValueError, OverflowError):
                return 0
    absolute = found.get("expires", "")
    return int(absolute) * NS if absolute.isdecimal() and len(absolute) <= 10 else 0


@lru_cache(maxsize=256)
def _amz_second(start: str) -> int:
    """Seconds since 1970 of 20260131T080000Z. Raises ValueError."""
    return int(datetime.strptime(f"{start}+0000", f"{_AMZ_DATE}%z").timestamp())


@shaped
def column_names(answer: Json) -> frozenset[str]:
    """Names of a table's columns."""
    return frozenset(column["name"] for column in answer.get("results") or ())


@shaped
def column_ids(answer: Json) -> list[str]:
    """Ids of the columns of ``POST /column/batch``, in the order asked for."""
    return [str(column["id"]) for column in answer["list"]]


@shaped
def created_entity(answer: Json) -> EntityId:
    """The id in a bundle that was just made."""
    return entity_number(answer["entity"]["id"])


def made_entity(answer: Json) -> EntityId:
    """The id of an entity that was just made."""
    return entity_number(answer["id"])


def columns_request() -> Json:
    """Body of ``POST /column/batch`` for the columns of our views."""
    columns = []
    for name in VIEW_COLUMNS:
        kind, size = VIEW_COLUMN_TYPES[name]
        column: Json = {"concreteType": f"{TABLE}ColumnModel", "name": name, "columnType": kind}
        if size is not None:
            column["maximumSize"] = size
        columns.append(column)
    return {"concreteType": f"{MODEL}ListWrapper", "list": columns}


def view_request(parent: EntityId, name: str, scope: Sequence[EntityId]) -> Json:
    """Body of ``POST /entity/bundle2/create`` for a view of files and folders."""
    return {
        "entity": {
            "concreteType": f"{TABLE}EntityView",
            "name": name,
            "parentId": syn(parent),
            "columnIds": [],
            "viewTypeMask": FILES_AND_FOLDERS,
            # The official client sends bare numbers here (synapse-rest.md 0.4).
            "scopeIds": [str(number) for number in scope],
        }
    }


def schema_request(view: EntityId, columns: Sequence[str]) -> Json:
    """Body of the table transaction that gives an empty view its columns."""
    return {
        "concreteType": f"{TABLE}TableUpdateTransactionRequest",
        "entityId": syn(view),
        "changes": [
            {
                "concreteType": f"{TABLE}TableSchemaChangeRequest",
                "entityId": syn(view),
                "changes": [
                    {
                        "concreteType": f"{TABLE}ColumnChange",
                        "oldColumnId": None,
                        "newColumnId": column,
                    }
                    for column in columns
                ],
                "orderedColumnIds": list(columns),
            }
        ],
        "createSnapshot": False,
    }


def csv_request(table: EntityId, sql: str) -> Json:
    """Body of the job that writes a query's rows as CSV."""
    return {
        "concreteType": f"{TABLE}DownloadFromTableRequest",
        "entityId": syn(table),
        "sql": sql,
        "writeHeader": True,
        "includeRowIdAndRowVersion": False,
        "includeEntityEtag": False,
        "csvTableDescriptor": {
            "separator": ",",
            "quoteCharacter": '"',
            "escapeCharacter": "\\",
            "lineEnd": "\n",
            "isFirstLineHeader": True,
        },
    }


@shaped
def csv_result(answer: Json) -> FileHandleId:
    """The remote file handle of a finished CSV."""
    return FileHandleId(int(answer["resultsFileHandleId"]))


@shaped
def job_token(answer: Json) -> str:
    """The token that a started job is asked for by."""
    return str(answer["token"])


def view_batches(lines: Iterable[str], size: int) -> Iterator[list[ViewRow]]:
    """Rows of a view's CSV (with its header line) in batches of up to `size`.

    Raises ProtocolError for what is not such a CSV.
    """
    reader = csv.reader(lines, delimiter=",", quotechar='"', escapechar="\\", strict=True)
    try:
        names = next(reader, None)
        if names is None:
            return
        at = {name: index for index, name in enumerate(names)}
        if missing := VIEW_NEEDS - at.keys():
            raise ProtocolError(f"the view's CSV lacks the columns {', '.join(sorted(missing))}")
        # A column that the view lacks reads as empty: index of an extra cell.
        none = len(names)
        where = [at.get(name, none) for name in VIEW_COLUMNS]
        batch: list[ViewRow] = []
        for cells in reader:
            cells.append("")
            batch.append(_view_row([cells[i] for i in where]))
            if len(batch) >= size:
                yield batch
                batch = []
        if batch:
            yield batch
    except (csv.Error, ValueError, IndexError) as error:
        raise ProtocolError(f"the view's CSV cannot be read: {error}") from error


def _view_row(cells: Sequence[str]) -> ViewRow:
    (ident, name, kind, parent, version, etag, created, modified, by) = cells[:9]
    (handle, size, digest, file_name, store) = cells[9:]
    return ViewRow(
        entity_number(ident),
        entity_number(parent),
        name,
        kind_of(kind),
        Version(int(version)) if version else None,
        etag,
        int(created) * 1_000_000 if created else 0,
        int(modified) * 1_000_000 if modified else 0,
        by,
        FileHandleId(int(handle)) if handle else None,
        _md5(digest),
        _size(size),
        file_name,
        _STORES.get(store.rpartition(".")[2]) if store else None,
    )


_FILES = 0x01
"""The bit of files in a view's type mask (synapse-rest.md 6.5)."""


def view_covers(answer: Any, container: EntityId) -> bool:
    """Whether an entity's JSON is a view over the files of `container`."""
    if not isinstance(answer, dict) or not str(answer.get("concreteType")).endswith(".EntityView"):
        return False
    scope = {str(s).lower().removeprefix("syn") for s in answer.get("scopeIds") or ()}
    return str(container) in scope and bool(int(answer.get("viewTypeMask") or _FILES) & _FILES)


def project_request(name: str) -> object:
    """The body that makes a project."""
    return {"concreteType": "org.sagebionetworks.repo.model.Project", "name": name}
