"""Annotations from the text of an attribute or a command, and what the service would refuse of them."""

from __future__ import annotations

import json
import re

from synd.errors import UsageError
from synd.model import AnnotationValue

VALUES_MOST = 100
CHARACTERS_MOST = 500
"""Of all values of one key. Source: synapse-rest.md 2.3, 2.8."""

_KEY = re.compile(r"[a-zA-Z0-9,_.]+")
_RESERVED = "_accessRequirementIds"


def annotation_from_text(text: str, known: AnnotationValue | None) -> AnnotationValue:
    """An annotation from an attribute's text: a value a line, of the type it had."""
    values = tuple(text.split("\n"))
    kind = known[0] if known is not None else "STRING"
    try:
        if kind == "LONG":
            values = tuple(str(int(v)) for v in values)
        elif kind == "DOUBLE":
            values = tuple(str(float(v)) for v in values)
        elif kind == "BOOLEAN":
            values = tuple(json.dumps({"true": True, "false": False}[v.lower()]) for v in values)
    except (ValueError, KeyError):
        kind, values = "STRING", tuple(text.split("\n"))
    return kind, values


def check_annotation(key: str, value: AnnotationValue) -> None:
    """Raises UsageError: told now, it can be mended; the queue would only find out when it sends."""
    if not _KEY.fullmatch(key) or key == _RESERVED:
        raise UsageError(
            f"{key!r} cannot be the name of an annotation",
            hint="letters of English, digits, underscores and periods are what a name is made of",
        )
    _, values = value
    if len(values) > VALUES_MOST:
        raise UsageError(
            f"the annotation {key!r} has {len(values)} values; {VALUES_MOST} are allowed"
        )
    characters = sum(map(len, values))
    if characters > CHARACTERS_MOST:
        raise UsageError(
            f"the values of the annotation {key!r} have {characters} characters; {CHARACTERS_MOST} are allowed"
        )
