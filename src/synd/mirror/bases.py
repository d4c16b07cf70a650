"""The base of a local change: what the service had when both sides last agreed, as fields of a row."""

from __future__ import annotations

from collections.abc import Mapping

from synd.store.entities import Row

BASE = (
    "base_parent",
    "base_name",
    "base_version",
    "base_etag",
    "base_handle",
    "base_md5",
    "base_size",
)

NO_BASE: Mapping[str, object] = {**dict.fromkeys(BASE), "base_version": 0, "base_etag": ""}
"""Base fields of what was never on the service."""


def base_of(row: Row) -> dict[str, object]:
    """The base fields for an entity as it is known now."""
    return {
        "base_parent": row.parent,
        "base_name": row.name,
        "base_version": row.version,
        "base_etag": row.etag,
        "base_handle": row.handle,
        "base_md5": row.md5,
        "base_size": row.size,
    }
