"""JSON ↔ values of JSON schemas (synapse-rest.md 7.6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from synd.client.wire import MODEL, Json, shaped


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """A registered version of a JSON schema."""

    uri: str
    """Its `$id`, as `org-name-1.0.0`."""
    semantic_version: str | None
    version_id: str
    created_on: str


def new_schema(schema: Mapping[str, object], *, dry_run: bool) -> dict[str, Json]:
    """Body of ``/schema/type/create/async/start``."""
    return {
        "concreteType": f"{MODEL}schema.CreateSchemaRequest",
        "schema": schema,
        "dryRun": dry_run,
    }


@shaped
def schema_version(answer: Json) -> SchemaVersion:
    """A JsonSchemaVersionInfo."""
    semantic = answer.get("semanticVersion")
    return SchemaVersion(
        uri=str(answer["$id"]),
        semantic_version=str(semantic) if semantic else None,
        version_id=str(answer.get("versionId") or ""),
        created_on=str(answer.get("createdOn") or ""),
    )


@shaped
def created_schema(answer: Json) -> SchemaVersion:
    """The version of a CreateSchemaResponse."""
    return schema_version(answer["newVersionInfo"])


@shaped
def schema_versions(answer: Json) -> tuple[list[SchemaVersion], str | None]:
    """Versions, and the token of the next page."""
    return [schema_version(one) for one in answer.get("page") or ()], answer.get("nextPageToken")


def validation_schema_request(uri: str) -> dict[str, Json]:
    """Body of ``/schema/type/validation/async/start``."""
    return {"concreteType": f"{MODEL}schema.GetValidationSchemaRequest", "$id": uri}


@shaped
def validation_schema(answer: Json) -> dict[str, Json]:
    """The schema with all it refers to put in."""
    found = answer["validationSchema"]
    if not isinstance(found, dict):
        raise TypeError("the schema is no object")
    return found


@shaped
def raw_schema(answer: Json) -> dict[str, Json]:
    """A schema as it was registered."""
    if not isinstance(answer, dict):
        raise TypeError("the schema is no object")
    return answer


@shaped
def bound_schema(answer: Json) -> str:
    """The `$id` of a JsonSchemaObjectBinding."""
    return str(answer["jsonSchemaVersionInfo"]["$id"])
