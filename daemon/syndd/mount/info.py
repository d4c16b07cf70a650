"""``@info/NAME.json``: an entity, its annotations, provenance and access, as JSON made on demand."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from concurrent.futures import Future

from synd.clock import format_time
from synd.errors import Forbidden, NotFound
from synd.ids import EntityId, syn
from synd.mirror.tree import Tree
from synd.model import AnnotationValue, Entity
from synd.store.entities import Row

KEPT = 256
"""Contents kept in memory; each is a few kilobytes."""


class InfoFiles:
    """Makes and keeps the contents. Any thread."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._lock = threading.Lock()
        self._kept: OrderedDict[EntityId, tuple[int, bytes]] = OrderedDict()

    def content(self, row: Row) -> bytes | Future[bytes]:
        """The JSON text, kept as long as the entity stays as it is. Cost: two requests when new."""
        with self._lock:
            kept = self._kept.get(row.id)
            if kept is not None and kept[0] == row.modified_ns:
                self._kept.move_to_end(row.id)
                return kept[1]
        return self._tree.ask(
            ("info", row.id),
            syn(row.id),
            "asking for an entity's details",
            lambda: self._make(row.id),
        )

    async def _make(self, entity: EntityId) -> bytes:
        found = await self._tree.remote.entity(entity, annotations=True, permissions=True)
        try:
            provenance = await self._tree.remote.generated_by(entity)
        except (NotFound, Forbidden):
            provenance = None
        text = json.dumps(as_json(found, provenance), indent=2, ensure_ascii=False) + "\n"
        data = text.encode()
        with self._lock:
            self._kept[entity] = (found.modified_on_ns, data)
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return data


def plain(annotation: AnnotationValue) -> list[str | int | float | bool]:
    """An annotation's values in JSON's own types."""
    kind, values = annotation
    if kind == "LONG":
        return [int(v) for v in values]
    if kind == "DOUBLE":
        # JSON has no NaN and no infinity.
        return [f if abs(f := float(v)) < float("inf") else v for v in values]
    if kind == "BOOLEAN":
        return [v == "true" for v in values]
    if kind == "TIMESTAMP_MS":
        return [format_time(int(v) * 1_000_000) for v in values]
    return list(values)


def as_json(entity: Entity, provenance: object) -> dict[str, object]:
    """What the file holds: stable keys, nulls left out."""
    file = entity.file
    body: dict[str, object | None] = {
        "id": syn(entity.id),
        "name": entity.name,
        "type": str(entity.kind),
        "parent": syn(entity.parent) if entity.parent else None,
        "version": entity.version,
        "version_label": entity.version_label or None,
        "version_comment": entity.version_comment or None,
        "etag": entity.etag,
        "description": entity.description or None,
        "created_on": format_time(entity.created_on_ns),
        "created_by": entity.created_by,
        "modified_on": format_time(entity.modified_on_ns),
        "modified_by": entity.modified_by,
        "file": None
        if file is None
        else {
            "name": file.name,
            "size": file.size,
            "md5": file.md5,
            "content_type": file.content_type,
            "file_handle_id": str(file.handle) if file.handle else None,
            "external_url": file.external_url,
        },
        "link": None
        if entity.link is None
        else {"target": syn(entity.link.id), "version": entity.link.version},
        "annotations": {k: plain(v) for k, v in sorted(entity.annotations.items())},
        "access": {
            "can_view": entity.access.can_view,
            "can_edit": entity.access.can_edit,
            "can_add_child": entity.access.can_add_child,
            "can_download": entity.access.can_download,
            "unmet_terms": entity.access.unmet_terms,
        },
        "provenance": provenance,
    }
    return {k: v for k, v in body.items() if v is not None}
