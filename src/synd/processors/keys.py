"""Keys of jobs and artifacts: pure text, the same answer each time, refused when a part is bad.

Whoever looks for an artifact, writes it or reports about it has its key from here, through the processor.
A file without an md5 has no key: it is served as it is.
"""

from __future__ import annotations

import re
import unicodedata

from synd.processors.base import ArtifactKind

_MD5 = re.compile(r"[0-9a-f]{32}")
_PROCESSOR = re.compile(r"[A-Za-z0-9._-]+")
_KINDS = frozenset(kind.value for kind in ArtifactKind)


def workflow_key(namespace: str, id: str, md5: str, pipeline_version: int) -> str:
    """`{namespace}/{id}/{md5}/v{pipeline_version}`: what one job at a time may work on.

    Raises ValueError that names the bad field.
    """
    version = _version("pipeline_version", pipeline_version)
    return f"{_namespace(namespace)}/{_part('id', id)}/{_md5(md5)}/v{version}"


def cache_key(
    namespace: str,
    id: str,
    kind: ArtifactKind,
    processor_id: str,
    md5: str,
    processor_version: int,
) -> str:
    """`{namespace}/{id}/{kind}/{processor_id}/{md5}-v{processor_version}`: names one artifact.

    Raises ValueError that names the bad field.
    """
    version = _version("processor_version", processor_version)
    return (
        f"{_namespace(namespace)}/{_part('id', id)}/{_kind(kind)}/{_processor(processor_id)}"
        f"/{_md5(md5)}-v{version}"
    )


def _namespace(text: object) -> str:
    return _part("namespace", text).lower()


def _part(field: str, text: object) -> str:
    """One part of a path, blanks around it dropped."""
    part = text.strip() if isinstance(text, str) else ""
    if not part:
        raise ValueError(f"{field} is empty, or no text")
    if part in (".", ".."):
        raise ValueError(f"{field}: {part!r} is no name")
    # Cc: NUL and other control characters; Cs: halves of surrogate pairs, which UTF-8 cannot hold.
    if any(c in "/\\" or unicodedata.category(c) in ("Cc", "Cs") for c in part):
        raise ValueError(f"{field}: {part!r} holds a slash, a backslash or a control character")
    return part


def _md5(text: object) -> str:
    lowered = text.strip().lower() if isinstance(text, str) else ""
    if _MD5.fullmatch(lowered) is None:
        raise ValueError(f"md5: {text!r} is not 32 hexadecimal digits")
    return lowered


def _kind(kind: object) -> str:
    if kind not in _KINDS:
        raise ValueError(f"kind: {kind!r} is none of {', '.join(sorted(_KINDS))}")
    return ArtifactKind(kind).value


def _processor(text: object) -> str:
    if not isinstance(text, str) or not _PROCESSOR.fullmatch(text) or text in (".", ".."):
        raise ValueError(f"processor_id: {text!r} is not letters, digits, dots, _ and -")
    if text.lower() in _KINDS:
        raise ValueError(f"processor_id: {text!r} is the name of a kind")
    return text


def _version(field: str, number: object) -> int:
    if isinstance(number, int) and not isinstance(number, bool) and number >= 0:
        return number
    raise ValueError(f"{field}: {number!r} is no integer from 0 on")
