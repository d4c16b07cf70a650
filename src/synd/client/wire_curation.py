"""JSON ↔ values of curation tasks (synapse-rest.md 7.8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from synd.client.wire import MODEL, Json, entity_number, shaped
from synd.ids import EntityId, syn

_CURATION: Final = f"{MODEL}curation."
_RECORD_BASED: Final = f"{_CURATION}metadata.RecordBasedMetadataTaskProperties"
_FILE_BASED: Final = f"{_CURATION}metadata.FileBasedMetadataTaskProperties"


@dataclass(frozen=True, slots=True)
class CurationTask:
    """A piece of curation work in a project."""

    id: int
    project: EntityId
    data_type: str
    instructions: str
    etag: str
    record_set: EntityId | None = None
    """Record-based: what its grid is made from."""
    folder: EntityId | None = None
    """File-based: where the files are uploaded to."""
    file_view: EntityId | None = None
    """File-based: the view its grid is made from."""

    @property
    def kind(self) -> str:
        """``record`` or ``file``; empty for what is newer than this program."""
        if self.record_set is not None:
            return "record"
        return "file" if self.folder is not None or self.file_view is not None else ""


def task_properties(
    record_set: EntityId | None, folder: EntityId | None, file_view: EntityId | None
) -> dict[str, Json]:
    """The taskProperties of a curation task of either kind."""
    if record_set is not None:
        return {"concreteType": _RECORD_BASED, "recordSetId": syn(record_set)}
    properties: dict[str, Json] = {"concreteType": _FILE_BASED}
    if folder is not None:
        properties["uploadFolderId"] = syn(folder)
    if file_view is not None:
        properties["fileViewId"] = syn(file_view)
    return properties


@shaped
def curation_task(answer: Json) -> CurationTask:
    """A CurationTask."""
    properties = answer.get("taskProperties") or {}

    def entity(key: str) -> EntityId | None:
        return entity_number(properties[key]) if properties.get(key) else None

    return CurationTask(
        id=int(answer["taskId"]),
        project=entity_number(answer["projectId"]),
        data_type=str(answer.get("dataType") or ""),
        instructions=str(answer.get("instructions") or ""),
        etag=str(answer.get("etag") or ""),
        record_set=entity("recordSetId"),
        folder=entity("uploadFolderId"),
        file_view=entity("fileViewId"),
    )


@shaped
def task_page(answer: Json) -> tuple[list[CurationTask], str | None]:
    """Tasks, and the token of the next page."""
    return [curation_task(one) for one in answer.get("page") or ()], answer.get("nextPageToken")
