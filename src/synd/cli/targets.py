"""What users name on the command line: a path in the mount, an entity id, or a change's number."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ID = re.compile(r"syn[0-9]{1,12}(\.[0-9]{1,9})?", re.IGNORECASE)


def resolve_target(text: str) -> str:
    """An id as it is, a path as the daemon knows it. `./syn123` is a path."""
    if _ID.fullmatch(text):
        return text.lower()
    from synd.cli.mounts import resolve

    return resolve(text)


def resolve_all(targets: Iterable[str]) -> list[str]:
    return [resolve_target(one) for one in targets]


def resolve_change(text: str) -> str:
    """The same, or the number of a change or of a recovered thing. `./17` is a path."""
    return text if text.isdecimal() else resolve_target(text)
