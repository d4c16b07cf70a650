"""Rows held against a JSON schema, with messages in the service's words; and the thread that does it.

The service validates with a Java library whose messages clients show as they come (``#/column: text``), so
jsonschema's findings are told in those words. Source: grid-protocol.md 7.6.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from synd.registry.web import Json

if TYPE_CHECKING:
    from jsonschema.exceptions import ValidationError

log = logging.getLogger("synd.registry.grids")

BATCH_ROWS = 250
"""Rows whose results are stored, and shown to clients, together."""

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


def _spelled(value: Json) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return "null" if value is None else str(value)


def _words(error: ValidationError) -> list[str]:
    """What one finding says; several where it is about several keys."""
    told: Any = error.validator_value
    found: Any = error.instance
    kind = str(error.validator)
    one: str | None = None
    if kind == "required":
        return [f"required key [{key}] not found" for key in told if key not in found]
    if kind == "additionalProperties" and isinstance(found, dict):
        schema: Any = error.schema
        known = set(schema.get("properties", ()))
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


class Checker:
    """One schema, compiled."""

    def __init__(self, schema: dict[str, Json]) -> None:
        from jsonschema import Draft7Validator, FormatChecker

        self.required = frozenset(map(str, schema.get("required") or ()))
        """Keys that the schema itself demands."""
        bare = {key: value for key, value in schema.items() if key not in ("$id", "$schema")}
        self._validator = Draft7Validator(bare, format_checker=FormatChecker())

    def check(self, value: dict[str, Json]) -> dict[str, Json]:
        """`isValid`, and where it is not: `validationErrorMessage`, `allValidationMessages`."""
        found: list[str] = []
        for error in self._validator.iter_errors(value):
            found.extend(_messages(error))
        if not found:
            return {"isValid": True}
        # A key that is missing is found once for each part of the schema that demands it.
        every = list(dict.fromkeys(found))
        line = every[0] if len(every) == 1 else f"#: {len(every)} schema violations found"
        return {"isValid": False, "validationErrorMessage": line, "allValidationMessages": every}


class Worker:
    """The one thread that validates grids, a batch of one grid at a time, so that no grid waits for another.

    `halted` and `pause_s` are for tests: they need to see rows that are not validated yet.
    """

    def __init__(self, validate_batch: Callable[[int], bool]) -> None:
        """`validate_batch(grid)` does a batch, and says whether that grid needs another."""
        self._do = validate_batch
        self._wake = threading.Condition()
        self._waiting: dict[int, None] = {}
        self._busy: int | None = None
        self._stop = False
        self._thread: threading.Thread | None = None
        self.halted = False
        self.pause_s = 0.0

    def add(self, grid: int) -> None:
        """Has a grid validated, soon."""
        with self._wake:
            self._waiting[grid] = None
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(
                    target=self._run, name="grid-validation", daemon=True
                )
                self._thread.start()
            self._wake.notify_all()

    def forget(self, grid: int) -> None:
        with self._wake:
            self._waiting.pop(grid, None)

    def control(self, *, halted: bool | None, pause_s: float | None) -> None:
        """Halts, resumes, or slows the work: `pause_s` is waited before each batch."""
        with self._wake:
            self.halted = self.halted if halted is None else halted
            self.pause_s = self.pause_s if pause_s is None else pause_s
            self._wake.notify_all()

    def state(self) -> dict[str, Any]:
        with self._wake:
            return {
                "halted": self.halted,
                "pauseSeconds": self.pause_s,
                "waiting": len(self._waiting) + (self._busy is not None),
            }

    def close(self) -> None:
        with self._wake:
            self._stop = True
            self._wake.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=10)

    def _next(self) -> int | None:
        """The grid whose turn it is; None at the end."""
        with self._wake:
            while not self._stop and (self.halted or not self._waiting):
                self._wake.wait()
            ends = time.monotonic() + self.pause_s
            while not self._stop and (left := ends - time.monotonic()) > 0:
                self._wake.wait(left)
            if self._stop:
                return None
            if self.halted or not self._waiting:
                return -1
            grid = next(iter(self._waiting))
            del self._waiting[grid]
            self._busy = grid
            return grid

    def _run(self) -> None:
        while (grid := self._next()) is not None:
            if grid < 0:
                continue
            again = False
            try:
                again = self._do(grid)
            except Exception:
                log.exception("grid.validation_failed")
            with self._wake:
                self._busy = None
                if again:
                    self._waiting[grid] = None
