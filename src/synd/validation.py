"""Rows held against a JSON schema, with messages in the service's words.

The service validates with a Java library whose messages clients show as they come (``#/column: text``), so
jsonschema's findings are told in those words, whether the local registry finds them or a check before an
upload. Source: grid-protocol.md 7.6.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from synd.errors import UsageError

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

_TYPES = {
    "string": "String",
    "number": "Number",
    "integer": "Integer",
    "boolean": "Boolean",
    "array": "JSONArray",
    "object": "JSONObject",
    "null": "Null",
}
_PYTHON = {
    str: "String",
    bool: "Boolean",
    int: "Integer",
    float: "Double",
    list: "JSONArray",
    dict: "JSONObject",
    type(None): "Null",
}
_BOUNDS = {
    "minimum": "is not greater or equal to",
    "maximum": "is not less or equal to",
    "exclusiveMinimum": "is not greater than",
    "exclusiveMaximum": "is not less than",
}

_SCALARS = (str, int, float, bool, type(None))
_PATTERN_S = 1.0
_REMEMBERED = 100_000
"""Values known to be good; some 20 MB."""


def _spelled(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _words(error: ValidationError) -> list[str]:
    """What one finding says; several where it is about several keys."""
    kind = str(error.validator)
    told: Any = error.validator_value
    found: Any = error.instance
    part: Any = error.schema
    one: str | None = None
    if kind == "required":
        return [f"required key [{key}] not found" for key in told if key not in found]
    if kind == "additionalProperties" and isinstance(found, dict):
        known = set(part.get("properties", ()))
        return [f"extraneous key [{key}] is not permitted" for key in found if key not in known]
    if kind == "type":
        names = told if isinstance(told, list) else [told]
        wanted = " or ".join(_TYPES.get(str(name), str(name)) for name in names)
        one = f"expected type: {wanted}, found: {_PYTHON.get(type(found), 'Object')}"
    elif kind == "enum":
        one = f"{_spelled(found)} is not a valid enum value"
    elif kind in _BOUNDS:
        one = f"{_spelled(found)} {_BOUNDS[kind]} {_spelled(told)}"
    elif kind in ("minLength", "maxLength"):
        one = f"expected {kind}: {told}, actual: {len(found)}"
    elif kind in ("minItems", "maxItems"):
        side = "minimum" if kind == "minItems" else "maximum"
        one = f"expected {side} item count: {told}, found: {len(found)}"
    elif kind == "uniqueItems":
        one = "array items are not unique"
    elif kind == "pattern":
        one = f"string [{found}] does not match pattern {told}"
    elif kind == "format":
        one = f"[{found}] is not a valid {told}"
    elif kind == "multipleOf":
        one = f"{_spelled(found)} is not a multiple of {_spelled(told)}"
    elif kind == "const":
        one = f"{_spelled(found)} is not the expected value {_spelled(told)}"
    return [error.message if one is None else one]


def _messages(error: ValidationError, pointer: str = "#") -> Iterator[str]:
    """The flat list: what lies below anyOf, oneOf, allOf is told instead of them."""
    where = pointer + "".join(f"/{part}" for part in error.path)
    if error.context:
        for inner in error.context:
            yield from _messages(inner, where)
        return
    for words in _words(error):
        yield f"{where}: {words}"


def _validator_class() -> Any:
    """Draft 7, remembering which values of a property were good: a column of a table has few different ones.

    What a subschema says of a value depends on nothing else. Saves three quarters of the time on the example's rows.
    A pattern that would be tried on a text for ever is given up, which is a finding of its own.
    """
    import regex
    from jsonschema import Draft7Validator, ValidationError
    from jsonschema.validators import extend

    def pattern(
        validator: Any, wanted: str, instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        del schema
        if not validator.is_type(instance, "string"):
            return
        try:
            if regex.search(wanted, instance, timeout=_PATTERN_S) is None:
                yield ValidationError("it does not match")
        except TimeoutError:
            yield ValidationError(
                f"whether it matches the pattern {wanted} is not known after {_PATTERN_S:g} s",
                validator="time",
            )

    good: set[tuple[int, type, object]] = set()

    def properties(
        validator: Any, properties: Mapping[str, Any], instance: Any, schema: Mapping[str, Any]
    ) -> Iterator[ValidationError]:
        del schema
        if not isinstance(instance, dict):
            return
        for name, part in properties.items():
            if name not in instance:
                continue
            value = instance[name]
            # The type is in the key since 1, 1.0 and True are equal, the part's id since it lives as long as this.
            short = isinstance(value, _SCALARS) and (not isinstance(value, str) or len(value) < 200)
            known = (id(part), type(value), value) if short else None
            if known in good:
                continue
            wrong = False
            for error in validator.descend(value, part, path=name, schema_path=name):
                wrong = True
                yield error
            if known is not None and not wrong:
                if len(good) >= _REMEMBERED:
                    good.clear()
                good.add(known)

    return extend(Draft7Validator, {"properties": properties, "pattern": pattern})  # type: ignore[no-untyped-call]


class Checker:
    """One schema, compiled (JSON Schema draft 7, which is what the service knows). For one thread at a time."""

    def __init__(self, schema: Mapping[str, object]) -> None:
        """Raises UsageError when it is no schema."""
        from jsonschema import Draft7Validator, FormatChecker, SchemaError
        from referencing import Registry

        required = schema.get("required")
        self.required = frozenset(map(str, required)) if isinstance(required, list) else frozenset()
        """Keys that the schema itself demands."""
        bare = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
        try:
            Draft7Validator.check_schema(bare)
        except SchemaError as error:
            where = "/".join(map(str, error.path))
            raise UsageError(f"it is no JSON schema: {where or 'it'}: {error.message}") from error
        except RecursionError as error:
            raise UsageError("it is no JSON schema: it is too deep") from error
        # An empty registry: what a schema refers to outside itself is never fetched from anywhere.
        self._validator = _validator_class()(
            bare, format_checker=FormatChecker(), registry=Registry()
        )

    def check(self, value: Mapping[str, object]) -> dict[str, Any]:
        """`isValid`, and where it is not: `validationErrorMessage`, `allValidationMessages`.

        Raises UsageError for a schema that refers to another one, or to itself without end.
        """
        from referencing.exceptions import Unresolvable

        found: list[str] = []
        try:
            for error in self._validator.iter_errors(value):
                found.extend(_messages(error))
        except Unresolvable as error:
            raise UsageError(
                f"the schema refers to {error.ref}, which is not in it",
                hint="give the schema by its `$id`: the service puts in what it refers to",
            ) from error
        except RecursionError as error:
            raise UsageError("the schema refers to itself without end") from error
        if not found:
            return {"isValid": True}
        # A key that is missing is found once for each part of the schema that demands it.
        every = list(dict.fromkeys(found))
        line = every[0] if len(every) == 1 else f"#: {len(every)} schema violations found"
        return {"isValid": False, "validationErrorMessage": line, "allValidationMessages": every}
