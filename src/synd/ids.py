"""Identifiers as their own types, each made by a function that refuses nonsense.

Entity and file handle ids are integers inside synd; ``syn123`` is their spelling at the edges.
"""

from __future__ import annotations

import re
from typing import NewType

from synd.errors import UsageError

EntityId = NewType("EntityId", int)
"""Number of an entity: 123 for syn123."""

Version = NewType("Version", int)
"""Number of an entity's version, from 1; never used again by the service."""

FileHandleId = NewType("FileHandleId", int)
"""The service's number for stored bytes. Immutable there, so it names one content."""

Md5 = NewType("Md5", str)
"""32 lower-case hexadecimal digits."""

JobId = NewType("JobId", str)

ContentKey = NewType("ContentKey", str)
"""What names bytes in the cache: an md5, or ``h<file handle id>`` where the service knows no md5."""

_ENTITY = re.compile(r"(?:syn)?([0-9]{1,12})", re.IGNORECASE)
_ENTITY_VERSION = re.compile(r"((?:syn)?[0-9]{1,12})(?:\.([0-9]{1,9}))?", re.IGNORECASE)
_MD5 = re.compile(r"[0-9a-f]{32}")
_KEY = re.compile(r"[0-9a-f]{32}|h[0-9]{1,19}")


def entity_id(text: str | int) -> EntityId:
    """The entity id spelled ``syn123`` or ``123``. Raises UsageError."""
    match = _ENTITY.fullmatch(str(text).strip())
    if match is None or int(match[1]) == 0:
        raise UsageError(f"{text!r} is not an entity id", hint="write it like syn123")
    return EntityId(int(match[1]))


def entity_version(text: str) -> tuple[EntityId, Version | None]:
    """The parts of ``syn123`` or ``syn123.4``. Raises UsageError."""
    match = _ENTITY_VERSION.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"{text!r} is not an entity id", hint="write it like syn123 or syn123.4")
    return entity_id(match[1]), version(match[2]) if match[2] else None


def syn(entity: int) -> str:
    """The public spelling: ``syn123``."""
    return f"syn{entity}"


def version(text: str | int) -> Version:
    """A version number, at least 1. Raises UsageError."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise UsageError(f"{text!r} is not a version number", hint="versions count from 1")
    return Version(number)


def file_handle_id(text: str | int) -> FileHandleId:
    """A remote file handle's number. Raises UsageError."""
    spelled = str(text)
    if not spelled.isdecimal() or not spelled.isascii():
        raise UsageError(f"{text!r} is not a file handle id")
    return FileHandleId(int(spelled))


def md5(text: str) -> Md5:
    """An md5 in lower case. Raises UsageError."""
    lowered = text.strip().lower()
    if _MD5.fullmatch(lowered) is None:
        raise UsageError(f"{text!r} is not an md5 digest", hint="32 hexadecimal digits")
    return Md5(lowered)


def content_key(digest: Md5 | None, handle: FileHandleId | None) -> ContentKey:
    """The cache's name for bytes: their md5, else their file handle."""
    if digest is not None:
        return ContentKey(digest)
    if handle is None:
        raise UsageError("content without md5 and without file handle has no name in the cache")
    return ContentKey(f"h{handle}")


def check_content_key(text: str) -> ContentKey:
    """`text` if it can name bytes in the cache; so no key leaves the cache folder."""
    if _KEY.fullmatch(text) is None:
        raise UsageError(f"{text!r} does not name an object")
    return ContentKey(text)
