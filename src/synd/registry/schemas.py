"""JSON schemas: names and versions, references put together, bindings, and who may register what.

Follows synapse-rest.md 7.6. A schema's `$id` is ``organization-name`` or ``organization-name-1.2.3``; the official
client puts the service's address before it, which is taken off again.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from typing import NamedTuple

from synd.clock import format_time
from synd.ids import syn
from synd.registry import access, kinds
from synd.registry.access import Caller
from synd.registry.db import Database, new_etag, now_ns
from synd.registry.entities import get
from synd.registry.web import Json, bad, forbidden, missing, taken

_NAME = r"[A-Za-z][A-Za-z0-9]*(?:\.[A-Za-z][A-Za-z0-9]*)*"
_ID = re.compile(rf"({_NAME})-({_NAME})(?:-(\d+\.\d+\.\d+))?")
_ADDRESS = "/schema/type/registered/"
MAX_REFERENCES = 500
"""Schemas that one schema may refer to, in all."""


class SchemaId(NamedTuple):
    """A `$id` in its parts."""

    organization: str
    name: str
    semantic: str | None

    def __str__(self) -> str:
        bare = f"{self.organization}-{self.name}"
        return bare if self.semantic is None else f"{bare}-{self.semantic}"


class SchemaVersion(NamedTuple):
    """One registration of a schema."""

    id: int
    semantic: str | None
    sha256: str
    body: str
    created_ns: int
    created_by: int
    schema_id: int
    schema_name: str
    organization_id: int
    organization_name: str

    @property
    def uri(self) -> str:
        return str(SchemaId(self.organization_name, self.schema_name, self.semantic))


def without_address(text: str) -> str:
    """A `$id` or `$ref` without the service's address."""
    return text.rpartition(_ADDRESS)[2].removesuffix("#")


def parse_uri(raw: object) -> SchemaId:
    """Raises RefusedError 400."""
    match = _ID.fullmatch(without_address(raw)) if isinstance(raw, str) else None
    if match is None:
        raise bad(
            f"Invalid '$id': '{raw}'. It must be <organization>-<name> or"
            " <organization>-<name>-<major.minor.patch>."
        )
    if match[3] == "0.0.0":
        raise bad("Semantic version must be greater than or equal to '0.0.1'")
    return SchemaId(match[1], match[2], match[3])


def check_organization_name(raw: object) -> str:
    """Raises RefusedError 400."""
    if not isinstance(raw, str) or not 6 <= len(raw) <= 250:
        raise bad("Organization name must be 6 to 250 characters.")
    if re.fullmatch(_NAME, raw) is None:
        raise bad(
            f"Invalid 'organizationName': '{raw}'. Each part between dots must start with a letter,"
            " followed by letters and digits."
        )
    return raw


def organization(db: Database, name: str) -> tuple[int, str]:
    """(id, name as registered). Raises RefusedError 404."""
    row = db.one("SELECT id, name FROM schema_organization WHERE name = ?", (name,))
    if row is None:
        raise missing(f"Organization with name: '{name}' not found")
    return int(row[0]), str(row[1])


def need_organization(db: Database, number: int, caller: Caller, right: str) -> None:
    """Raises RefusedError 404, 403 without that right (READ, CREATE, CHANGE_PERMISSIONS, UPDATE, DELETE)."""
    row = db.one("SELECT grants FROM schema_organization WHERE id = ?", (number,))
    if row is None:
        raise missing(f"Organization {number} not found")
    for grant in json.loads(row[0]):
        if int(grant["principalId"]) in caller.principals and right in grant["accessType"]:
            return
    raise forbidden(f"{caller.name} lacks {right} access to the organization.")


_VERSION = (
    "SELECT v.id, v.semantic, v.sha256, v.body, v.created_ns, v.created_by, s.id, s.name, o.id, o.name"
    " FROM json_schema_version AS v JOIN json_schema AS s ON s.id = v.schema_id"
    " JOIN schema_organization AS o ON o.id = s.organization_id"
)


def find(db: Database, uri: SchemaId) -> SchemaVersion:
    """The registration that a `$id` names: the newest, without a number. Raises RefusedError 404."""
    row = db.one(
        _VERSION + " WHERE o.name = ?1 AND s.name = ?2 AND (?3 IS NULL OR v.semantic = ?3)"
        " ORDER BY v.id DESC LIMIT 1",
        uri,
    )
    if row is None:
        raise missing(f"JSON Schema not found for '$id': '{uri}'")
    return SchemaVersion._make(row)


def versions(db: Database, organization_name: str, name: str) -> list[SchemaVersion]:
    """All registrations of a schema, oldest first."""
    rows = db.all(
        _VERSION + " WHERE o.name = ? AND s.name = ? ORDER BY v.id", (organization_name, name)
    )
    return [SchemaVersion._make(row) for row in rows]


def version_info(version: SchemaVersion) -> dict[str, Json]:
    """A JsonSchemaVersionInfo."""
    info: dict[str, Json] = {
        "organizationId": str(version.organization_id),
        "organizationName": version.organization_name,
        "schemaId": str(version.schema_id),
        "schemaName": version.schema_name,
        "versionId": str(version.id),
        "$id": version.uri,
        "jsonSHA256Hex": version.sha256,
        "createdOn": format_time(version.created_ns),
        "createdBy": str(version.created_by),
    }
    if version.semantic is not None:
        info["semanticVersion"] = version.semantic
    return info


class _DryRunError(Exception):
    """Undoes what a dry run wrote."""


def register(
    db: Database, caller: Caller, raw: object, *, dry_run: bool
) -> tuple[dict[str, Json], dict[str, Json]]:
    """(JsonSchemaVersionInfo, validation schema) of a new registration. Raises RefusedError 400, 403, 404, 409."""
    if not isinstance(raw, dict):
        raise bad("schema is required.")
    uri = parse_uri(raw.get("$id"))
    body = {**raw, "$id": str(uri)}
    _check_schema(body)
    result: tuple[dict[str, Json], dict[str, Json]] | None = None
    try:
        with db.write() as tx:
            number = organization(db, uri.organization)[0]
            need_organization(db, number, caller, "CREATE")
            _insert(tx, caller, number, uri, body)
            result = version_info(find(db, uri)), resolve(db, body)
            if dry_run:
                raise _DryRunError
    except _DryRunError:
        pass
    assert result is not None
    return result


def _check_schema(body: dict[str, Json]) -> None:
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import SchemaError

    try:
        Draft7Validator.check_schema({k: v for k, v in body.items() if k not in ("$id", "$schema")})
    except SchemaError as error:
        where = "/".join(map(str, error.absolute_path))
        raise bad(f"The schema is not valid: #/{where}: {error.message}") from error


def _insert(
    tx: sqlite3.Connection, caller: Caller, number: int, uri: SchemaId, body: dict[str, Json]
) -> None:
    now = now_ns()
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    tx.execute(
        "INSERT OR IGNORE INTO json_schema (organization_id, name, created_ns, created_by)"
        " VALUES (?, ?, ?, ?)",
        (number, uri.name, now, caller.user),
    )
    (schema,) = tx.execute(
        "SELECT id FROM json_schema WHERE organization_id = ? AND name = ?", (number, uri.name)
    ).fetchone()
    try:
        tx.execute(
            "INSERT INTO json_schema_version (schema_id, semantic, sha256, body, created_ns, created_by)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (schema, uri.semantic, hashlib.sha256(text.encode()).hexdigest(), text, now, caller.user),
        )  # fmt: skip
    except sqlite3.IntegrityError as error:
        raise taken(f"Semantic version: '{uri.semantic}' already exists for this schema") from error


def resolve(db: Database, body: dict[str, Json]) -> dict[str, Json]:
    """The schema with every registered schema that it refers to as one of its `definitions`.

    Raises RefusedError 404 for a reference to what is not registered, 400 for too many.
    """
    taken_in: dict[str, Json] = {}

    def walk(node: Json, home: str) -> Json:
        if isinstance(node, list):
            return [walk(one, home) for one in node]
        if not isinstance(node, dict):
            return node
        found = {key: walk(value, home) for key, value in node.items()}
        target = node.get("$ref")
        if isinstance(target, str):
            found["$ref"] = moved(target, home)
        return found

    def moved(target: str, home: str) -> str:
        if target.startswith("#"):
            return f"#{home}{target[1:]}"
        name, _, pointer = without_address(target).partition("#")
        uri = str(parse_uri(name))
        place = f"/definitions/{uri}"
        if uri not in taken_in:
            if len(taken_in) >= MAX_REFERENCES:
                raise bad(f"A schema may refer to at most {MAX_REFERENCES} others.")
            taken_in[uri] = None  # a schema may refer back to it
            inner = json.loads(find(db, parse_uri(uri)).body)
            taken_in[uri] = walk({k: v for k, v in inner.items() if k != "$id"}, place)
        return f"#{place}{pointer}"

    whole: dict[str, Json] = walk(body, "")
    if taken_in:
        whole["definitions"] = {**whole.get("definitions", {}), **taken_in}
    return whole


def validation_schema(db: Database, uri: str) -> dict[str, Json]:
    """The schema that a `$id` names, put together. Raises RefusedError 400, 404."""
    return resolve(db, json.loads(find(db, parse_uri(uri)).body))


def delete(db: Database, caller: Caller, uri: SchemaId) -> None:
    """Removes one version, or the whole schema without a number. Raises RefusedError 400, 403, 404."""
    with db.write() as tx:
        found = find(db, uri)
        need_organization(db, found.organization_id, caller, "DELETE")
        bound = tx.execute("SELECT schema FROM schema_binding").fetchall()
        for (text,) in bound:
            one = parse_uri(text)
            same = (one.organization, one.name) == (found.organization_name, found.schema_name)
            if same and uri.semantic in (None, one.semantic):
                raise bad("Cannot delete a schema that is bound to an object")
        if uri.semantic is None:
            tx.execute("DELETE FROM json_schema WHERE id = ?", (found.schema_id,))
            return
        tx.execute("DELETE FROM json_schema_version WHERE id = ?", (found.id,))
        tx.execute(
            "DELETE FROM json_schema WHERE id = ?1 AND NOT EXISTS"
            " (SELECT 1 FROM json_schema_version WHERE schema_id = ?1)",
            (found.schema_id,),
        )


class Binding(NamedTuple):
    """What is bound to an entity."""

    entity: int
    """The entity that it was bound to: the one asked for, or an ancestor."""
    schema: str
    derived: int
    created_ns: int
    created_by: int


def binding(db: Database, entity: int) -> Binding | None:
    """The binding that rules an entity: its own, or its nearest ancestor's."""
    for one in access.place(db, entity).ancestors:
        row = db.one(
            "SELECT entity_id, schema, derived, created_ns, created_by FROM schema_binding"
            " WHERE entity_id = ?",
            (one,),
        )
        if row is not None:
            return Binding._make(row)
    return None


def binding_json(db: Database, bound: Binding) -> dict[str, Json]:
    """A JsonSchemaObjectBinding. Raises RefusedError 404 when the schema is gone."""
    return {
        "jsonSchemaVersionInfo": version_info(find(db, parse_uri(bound.schema))),
        "objectId": bound.entity,
        "objectType": "entity",
        "createdOn": format_time(bound.created_ns),
        "createdBy": str(bound.created_by),
        "enableDerivedAnnotations": bool(bound.derived),
    }


def bind(db: Database, caller: Caller, entity: int, raw: object, derived: bool) -> Binding:
    """Binds a registered schema. Raises RefusedError 400, 403, 404."""
    with db.write() as tx:
        access.need(db, entity, caller, access.UPDATE)
        if get(db, entity).kind == "link" or entity == kinds.ROOT:
            raise bad(f"A schema cannot be bound to {syn(entity)}.")
        uri = parse_uri(raw)
        find(db, uri)
        tx.execute(
            "INSERT INTO schema_binding VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET schema ="
            " excluded.schema, derived = excluded.derived, created_ns = excluded.created_ns,"
            " created_by = excluded.created_by",
            (entity, str(uri), int(derived), now_ns(), caller.user),
        )
    found = binding(db, entity)
    assert found is not None
    return found


def create_organization(db: Database, caller: Caller, name: str) -> int:
    """The id of a new organization. Raises RefusedError 409."""
    rights = ["READ", "CREATE", "CHANGE_PERMISSIONS", "UPDATE", "DELETE"]
    grants = [{"principalId": caller.user, "accessType": rights}]
    try:
        with db.write() as tx:
            cursor = tx.execute(
                "INSERT INTO schema_organization (name, etag, grants, created_ns, created_by)"
                " VALUES (?, ?, ?, ?, ?)",
                (name, new_etag(), json.dumps(grants), now_ns(), caller.user),
            )
    except sqlite3.IntegrityError as error:
        raise taken(f"An Organization with the name: '{name}' already exists") from error
    return int(cursor.lastrowid or 0)
