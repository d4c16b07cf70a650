"""Columns for an import: from a CSV's header and the JSON schema bound to the grid (CHECKLIST S0-17 to S0-20)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from synd.client.wire_grids import Column

_TYPES: Final = {"string": "STRING", "integer": "INTEGER", "number": "DOUBLE", "boolean": "BOOLEAN"}
_LISTS: Final = {"integer": "INTEGER_LIST", "boolean": "BOOLEAN_LIST"}
_PYTHON: Final = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"))
TEXT_MIN: Final = 50
"""Characters that a text column holds when nobody says."""
TEXT_MAX: Final = 1000
"""Characters that it can hold; longer ones are LARGETEXT."""
_DEEP: Final = 32
"""References that lead to references; a schema may lead round in a circle."""


def columns(
    names: Sequence[str],
    schema: Mapping[str, object] | None,
    longest: Mapping[str, int] | None = None,
) -> list[Column]:
    """A column for each name: its type by the schema, STRING where that says nothing of it.

    `longest`: characters of the longest cell by name, so that none is too long for its column.
    """
    known = properties(schema or {})
    return [_column(name, known.get(name), (longest or {}).get(name)) for name in names]


def _column(name: str, told: Mapping[str, Any] | None, longest: int | None) -> Column:
    kind = column_type(told)
    if kind not in ("STRING", "STRING_LIST"):
        return Column(name, kind)
    if kind == "STRING" and (longest or 0) > TEXT_MAX:
        return Column(name, "LARGETEXT")
    most = told.get("maxLength") if told else None
    most = most if isinstance(most, int) else 0
    return Column(name, kind, min(TEXT_MAX, max(TEXT_MIN, most, longest or 0)))


def properties(schema: Mapping[str, object]) -> dict[str, Mapping[str, Any]]:
    """What a schema says of each key of an object, its conditional parts included; the first word counts."""
    found: dict[str, Mapping[str, Any]] = {}
    _collect(schema, schema, found, 0)
    return found


def _collect(
    part: Any, whole: Mapping[str, object], found: dict[str, Mapping[str, Any]], depth: int
) -> None:
    part = _followed(part, whole)
    if not isinstance(part, Mapping) or depth > _DEEP:
        return
    named = part.get("properties")
    if isinstance(named, Mapping):
        for name, said in named.items():
            told = _followed(said, whole)
            # A condition speaks of a key without saying what it is: the next to say more is heard.
            if isinstance(told, Mapping) and (name not in found or not _speaks(found[name])):
                found[str(name)] = told
    for key in ("allOf", "anyOf", "oneOf"):
        several = part.get(key)
        for one in several if isinstance(several, list) else ():
            _collect(one, whole, found, depth + 1)
    for key in ("if", "then", "else"):
        if key in part:
            _collect(part[key], whole, found, depth + 1)


def _speaks(told: Mapping[str, Any]) -> bool:
    return any(key in told for key in ("type", "enum", "const", "anyOf", "oneOf", "allOf"))


def _followed(part: Any, whole: Mapping[str, object]) -> Any:
    """What a `$ref` within the schema leads to; the part itself where it is none."""
    for _ in range(_DEEP):
        ref = part.get("$ref") if isinstance(part, Mapping) else None
        if not isinstance(ref, str) or not ref.startswith("#/"):
            return part
        found: Any = whole
        for step in ref[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                return None
            found = found[name]
        part = found
    return None


def column_type(told: Mapping[str, Any] | None) -> str:
    """The service's column type of a key; STRING for what is mixed, unknown or an object."""
    kinds = _kinds(told, 0) - {"null"}
    if kinds == {"integer", "number"}:
        return "DOUBLE"
    if len(kinds) != 1:
        return "STRING"
    (kind,) = kinds
    if kind != "array":
        return _TYPES.get(kind, "STRING")
    items = told.get("items") if told else None
    inner = _kinds(items, 0) - {"null"} if isinstance(items, Mapping) else set()
    return _LISTS.get(next(iter(inner)), "STRING_LIST") if len(inner) == 1 else "STRING_LIST"


def _kinds(told: Any, depth: int) -> set[str]:
    """The JSON types that a part of a schema allows, as far as it says."""
    if not isinstance(told, Mapping) or depth > _DEEP:
        return set()
    said = told.get("type")
    if isinstance(said, str):
        return {said}
    if isinstance(said, list):
        return {str(one) for one in said}
    if "const" in told or isinstance(told.get("enum"), list):
        return {_kind_of(one) for one in ([told["const"]] if "const" in told else told["enum"])}
    found: set[str] = set()
    for key in ("anyOf", "oneOf", "allOf"):
        several = told.get(key)
        for one in several if isinstance(several, list) else ():
            found |= _kinds(one, depth + 1)
    return found


def _kind_of(value: Any) -> str:
    if value is None:
        return "null"
    return next((kind for type_, kind in _PYTHON if isinstance(value, type_)), "object")
