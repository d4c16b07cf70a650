"""JSON ↔ values for what changes the service: entities made and changed, multipart uploads, copies.

The rules are those of `synd.client.wire`: absent and null mean the same, what a shape cannot do without
is a ProtocolError when it lacks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple

from synd.client import wire
from synd.client.remote import Outgoing
from synd.client.wire import MODEL, Json, shaped
from synd.errors import ProtocolError
from synd.ids import EntityId, FileHandleId, Md5, Version, syn
from synd.model import Access, AnnotationValue, Entity, FileVersion, Kind, LinkTarget

_CONCRETE: Final[Mapping[Kind, str]] = {
    Kind.FOLDER: f"{MODEL}Folder",
    Kind.FILE: f"{MODEL}FileEntity",
    Kind.LINK: f"{MODEL}Link",
}
MAKEABLE: Final = frozenset(_CONCRETE)
"""Kinds that `new_entity` can spell."""

_TO_S3: Final = ("S3UploadDestination", "ExternalS3UploadDestination")
_TO_GOOGLE: Final = ("ExternalGoogleCloudUploadDestination",)
SENDABLE: Final = (*_TO_S3, *_TO_GOOGLE)
"""Upload destinations that the multipart upload leads to (synapse-rest.md 3.8)."""


class Destination(NamedTuple):
    """Where the bytes of a folder's new files go."""

    kind: str
    """Last part of the service's concreteType."""
    location: int | None


class UploadState(NamedTuple):
    """How far a multipart upload has come."""

    id: str
    parts: str
    """One 0 or 1 for each part, the first part first."""
    handle: FileHandleId | None
    """The result, once it is complete."""


class StoredCopy(NamedTuple):
    """A file handle that an entity's version has."""

    handle: FileHandleId
    entity: EntityId
    location: int | None


def annotations_json(annotations: Mapping[str, AnnotationValue]) -> Json:
    """``{"key": {"type": …, "value": […]}}``."""
    return {
        key: {"type": kind, "value": list(values)} for key, (kind, values) in annotations.items()
    }


def new_entity(
    kind: Kind,
    parent: EntityId,
    name: str,
    *,
    file: FileVersion | None,
    link: LinkTarget | None,
    version_comment: str,
    version_label: str,
) -> Json:
    """Body of ``POST /entity`` for one of `MAKEABLE`."""
    body: Json = {"concreteType": _CONCRETE[kind], "parentId": syn(parent), "name": name}
    if file is not None:
        body["dataFileHandleId"] = str(file.handle)
        if version_comment:
            body["versionComment"] = version_comment
        if version_label:
            body["versionLabel"] = version_label
    if link is not None:
        body["linksTo"] = {"targetId": syn(link.id), "targetVersionNumber": link.version}
    return body


def new_bundle(entity: Json, annotations: Mapping[str, AnnotationValue]) -> Json:
    """Body of ``POST /entity/bundle2/create``."""
    return {"entity": entity, "annotations": {"annotations": annotations_json(annotations)}}


def changed_entity(
    received: Json,
    *,
    name: str | None,
    parent: EntityId | None,
    file: FileVersion | None,
    version_comment: str,
    version_label: str,
) -> Json:
    """Body of ``PUT /entity/{id}``: all that was received, but for what changes."""
    body = dict(received)
    if name is not None:
        body["name"] = name
    if parent is not None:
        body["parentId"] = syn(parent)
    if file is not None:
        body["dataFileHandleId"] = str(file.handle)
        # Labels are unique in an entity: without one the service takes the version's number.
        body["versionLabel"] = version_label or None
        body["versionComment"] = version_comment or None
    return body


def annotations_request(
    entity: EntityId, etag: str, annotations: Mapping[str, AnnotationValue]
) -> Json:
    """Body of ``PUT /entity/{id}/annotations2``."""
    return {"id": syn(entity), "etag": etag, "annotations": annotations_json(annotations)}


@shaped
def entity_in(answer: Json) -> Json:
    """The entity's JSON in a bundle."""
    return answer["entity"]


@shaped
def etag_of(answer: Json) -> str:
    """The etag of an entity, or that its annotations' answer tells."""
    return str(answer["etag"])


@shaped
def entity_answer(
    answer: Json,
    file: FileVersion | None,
    annotations: Mapping[str, AnnotationValue],
    access: Access,
) -> Entity:
    """An entity as the service tells it after a change, with what its JSON lacks and we know."""
    told = wire.entity_bundle({"entity": answer})
    if file is not None:
        file = replace(file, entity=told.id, version=told.version or Version(1))
    return replace(told, file=file, annotations=annotations, access=access)


def upload_request(content: Outgoing, part_size: int, location: int | None) -> Json:
    """Body of ``POST /file/multipart``.

    The service knows an upload again by this text (synapse-rest.md 4.3), so it says nothing but what
    the content and its place say.
    """
    return {
        "concreteType": f"{MODEL}file.MultipartUploadRequest",
        "fileName": content.name,
        "fileSizeBytes": content.size,
        "contentMD5Hex": content.md5,
        "contentType": content.content_type,
        "partSizeBytes": part_size,
        "storageLocationId": location,
        "generatePreview": True,
    }


@shaped
def upload_state(answer: Json, parts: int) -> UploadState:
    """The status of a multipart upload that has so many parts."""
    state = str(answer["state"])
    handle = answer.get("resultFileHandleId")
    if state == "COMPLETED":
        return UploadState(str(answer["uploadId"]), "1" * parts, FileHandleId(int(handle)))
    told = str(answer.get("partsState") or "").ljust(parts, "0")
    if len(told) != parts or set(told) - {"0", "1"}:
        raise ProtocolError(f"the service counts {len(told)} parts where there are {parts}")
    return UploadState(str(answer["uploadId"]), told, None)


@shaped
def part_urls(answer: Json) -> dict[int, tuple[str, dict[str, str]]]:
    """Part number → URL and the headers that its signature covers."""
    return {
        int(row["partNumber"]): (str(row["uploadPresignedUrl"]), _headers(row.get("signedHeaders")))
        for row in answer["partPresignedUrls"]
    }


def _headers(told: Json) -> dict[str, str]:
    """Headers that can be sent as they are. Raises ValueError."""
    found = {str(name): str(value) for name, value in (told or {}).items()}
    if any(not text.isprintable() for pair in found.items() for text in pair):
        raise ValueError("a header holds what no header may hold")
    return found


@shaped
def part_refusal(answer: Json) -> str | None:
    """Why a part was not added; None when it was."""
    if answer["addPartState"] == "ADD_SUCCESS":
        return None
    return str(answer.get("errorMessage") or "the service gives no reason")


@shaped
def destination(answer: Json) -> Destination:
    """Where a folder's uploads go."""
    location = answer.get("storageLocationId")
    return Destination(
        str(answer.get("concreteType") or "").rpartition(".")[2],
        None if location is None else int(location),
    )


@shaped
def same_content(answer: Json) -> list[tuple[EntityId, Version]]:
    """Entities and their versions that ``GET /entity/md5/{md5}`` found."""
    return [
        (wire.entity_number(row["id"]), Version(int(row.get("versionNumber") or 1)))
        for row in answer.get("results") or ()
    ]


@shaped
def stored_copy(
    entity: EntityId, answer: Json, md5: Md5, size: int, location: int | None
) -> StoredCopy | None:
    """The handle among an entity's that holds just these bytes in that place; None without one."""
    for row in answer.get("list") or ():
        held = row.get("storageLocationId")
        if (
            str(row.get("contentMd5") or "").lower() == md5
            and int(row.get("contentSize") or -1) == size
            and not row.get("isPreview")
            and (held is None or location is None or int(held) == location)
        ):
            return StoredCopy(
                FileHandleId(int(row["id"])), entity, None if held is None else int(held)
            )
    return None


def copy_request(source: StoredCopy, content: Outgoing) -> Json:
    """Body of ``POST /filehandles/copy`` for one handle."""
    return {
        "copyRequests": [
            {
                "originalFile": {
                    "fileHandleId": str(source.handle),
                    "associateObjectId": syn(source.entity),
                    "associateObjectType": "FileEntity",
                },
                "newFileName": content.name,
                "newContentType": content.content_type,
            }
        ]
    }


@shaped
def copied(answer: Json) -> FileHandleId | None:
    """The handle that a copy made; None when the service refused it."""
    rows: Sequence[Json] = answer.get("copyResults") or ()
    made = rows[0].get("newFileHandle") if rows else None
    return None if not made else FileHandleId(int(made["id"]))
