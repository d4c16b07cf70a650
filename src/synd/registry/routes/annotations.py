"""Annotations of an entity, per version (synapse-rest.md 2.8)."""

from __future__ import annotations

import json
import math
import re
import sqlite3

from synd.ids import syn
from synd.registry import access, entities
from synd.registry.db import Database
from synd.registry.entities import EntityRow, VersionRow, get, get_version, parse_id
from synd.registry.routes.entities import version_arg
from synd.registry.web import Json, Reply, Request, Router, bad, ok, stale

_KEY = re.compile(r"[a-zA-Z0-9,_.]+")
_TYPES = ("STRING", "DOUBLE", "LONG", "TIMESTAMP_MS", "BOOLEAN")
_MAX_KEYS = 100
_MAX_VALUES = 100


def annotations_json(row: EntityRow, version: VersionRow) -> dict[str, Json]:
    return {
        "id": syn(row.id),
        "etag": row.etag,
        "annotations": json.loads(version.annotations) if version.annotations else {},
    }


def _check_value(kind: str, value: str, key: str) -> None:
    try:
        if kind in ("LONG", "TIMESTAMP_MS"):
            int(value)
        elif kind == "DOUBLE":
            float(value)
    except ValueError as error:
        raise bad(f"The value {value!r} of annotation {key!r} is not a valid {kind}.") from error
    if kind == "BOOLEAN" and value.lower() not in ("true", "false"):
        raise bad(f"The value {value!r} of annotation {key!r} is not a valid BOOLEAN.")


def check(raw: object) -> dict[str, Json]:
    """An annotation map as it is stored. Raises RefusedError 400."""
    if not isinstance(raw, dict):
        raise bad("annotations must be an object.")
    if len(raw) > _MAX_KEYS:
        raise bad(f"An entity may have at most {_MAX_KEYS} annotation keys.")
    kept = {}
    for raw_key, part in raw.items():
        key = raw_key.strip()
        if _KEY.fullmatch(key) is None or key == "_accessRequirementIds":
            raise bad(
                f"Invalid annotation name: '{raw_key}'. Annotation names may only contain: letters,"
                " numbers, underscores and periods."
            )
        if not isinstance(part, dict) or part.get("type") not in _TYPES:
            raise bad(f"The annotation {key!r} needs a type of {', '.join(_TYPES)}.")
        values = part.get("value")
        if not isinstance(values, list):
            raise bad(f"The annotation {key!r} needs a list of values.")
        if len(values) > _MAX_VALUES:
            raise bad(f"The annotation {key!r} has more than {_MAX_VALUES} values.")
        spelled = [
            str(value).lower() if isinstance(value, bool) else str(value) for value in values
        ]
        for value in spelled:
            _check_value(part["type"], value, key)
        kept[key] = {"type": part["type"], "value": spelled}
    return kept


def write_annotations(tx: sqlite3.Connection, entity: int, number: int, raw: object) -> None:
    """Replaces a version's annotations. Raises RefusedError 400."""
    kept = check(raw)
    tx.execute(
        "UPDATE entity_version SET annotations = ? WHERE entity_id = ? AND number = ?",
        (
            json.dumps(kept, separators=(",", ":"), ensure_ascii=False) if kept else None,
            entity,
            number,
        ),
    )


def _get(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.READ)
    row = get(db, entity)
    number = version_arg(request) if "version" in request.args else row.current
    return ok(annotations_json(row, get_version(db, entity, number)))


def _put(request: Request) -> Reply:
    db = request.registry.db
    entity = parse_id(request.args["id"])
    body = request.json()
    with db.write() as tx:
        access.need(db, entity, request.caller, access.UPDATE)
        row = get(db, entity)
        if body.get("etag") != row.etag:
            raise stale(f"Object: {syn(entity)}")
        write_annotations(tx, entity, row.current, body.get("annotations") or {})
        entities.touch(tx, entity, request.caller.user)
    row = get(db, entity)
    return ok(annotations_json(row, get_version(db, entity, row.current)))


def _derived(_: Request) -> Reply:
    return ok({"keys": []})


def _flat(request: Request) -> Reply:
    """Entity and annotations as one flat object: single values bare, several as a list."""
    db = request.registry.db
    entity = parse_id(request.args["id"])
    access.need(db, entity, request.caller, access.READ)
    row = get(db, entity)
    number = version_arg(request) if "version" in request.args else row.current
    return ok(flat_json(db, row, get_version(db, entity, number)))


def flat_json(db: Database, row: EntityRow, version: VersionRow) -> dict[str, Json]:
    """An entity and its annotations as one flat object: what a JSON schema is held against."""
    from synd.registry.routes.entities import entity_json

    flat: dict[str, Json] = entity_json(db, row.id, version.number)
    for key, part in json.loads(version.annotations or "{}").items():
        values = [_typed(part["type"], value) for value in part["value"]]
        flat.setdefault(key, values[0] if len(values) == 1 else values)
    return flat


def _typed(kind: str, value: str) -> Json:
    if kind in ("LONG", "TIMESTAMP_MS"):
        return int(value)
    if kind == "DOUBLE":
        number = float(value)
        return number if math.isfinite(number) else value
    return value.lower() == "true" if kind == "BOOLEAN" else value


def add(router: Router) -> None:
    base = "/repo/v1/entity/{id}"
    router.add("GET", base + "/annotations2", _get, scope="view")
    router.add("PUT", base + "/annotations2", _put, scope="modify")
    router.add("GET", base + "/version/{version}/annotations2", _get, scope="view")
    router.add("GET", base + "/derivedKeys", _derived, scope="view")
    router.add("GET", base + "/json", _flat, scope="view")
    router.add("GET", base + "/version/{version}/json", _flat, scope="view")
