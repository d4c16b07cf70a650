"""What the service said of a record set's rows: ``@info/NAME.validation.json`` and an extended attribute."""

from __future__ import annotations

import json
from typing import NamedTuple

from synd.clock import format_time
from synd.errors import NotFound
from synd.ids import syn
from synd.mirror.overlay import Overlay
from synd.model import Kind
from synd.store.curation import Curation, Curations
from synd.store.entities import Row
from synd.store.local import Local

SUFFIX = b".validation.json"
_CSV = b".csv"
XATTR = b"user.synapse.validation"

_RECORD_SET = str(Kind.RECORD_SET)


class Report(NamedTuple):
    """The content of a file in ``@info``."""

    data: bytes
    made_ns: int


class Validations:
    """The last reports, as files show them. Any thread; from the local database alone."""

    def __init__(self, overlay: Overlay) -> None:
        self._overlay = overlay
        self._curations = Curations(overlay.store)

    @staticmethod
    def names_of(name: bytes) -> tuple[bytes, ...]:
        """File names that a name in ``@info`` may be about; none if it is no report's."""
        if not name.endswith(SUFFIX):
            return ()
        stem = name.removesuffix(SUFFIX)
        return (stem,) if stem.lower().endswith(_CSV) else (stem + _CSV,)

    @staticmethod
    def name_of(file_name: bytes) -> bytes:
        """Name in ``@info`` of the report about a file."""
        return (file_name[:-4] if file_name.lower().endswith(_CSV) else file_name) + SUFFIX

    def has(self, row: Row) -> bool:
        if row.kind != _RECORD_SET:
            return False
        known = self._curations.find(row.id)
        return known is not None and known.report is not None

    def reported_in(self, folder: int, after: int) -> list[Row]:
        """Record sets of a folder (an entity) with a report, in order of id, after that id."""
        found = [self._overlay.entities.find(e) for e in self._curations.reported_in(folder, after)]
        return [row for row in found if row is not None]

    def report(self, row: Row | None) -> Report:
        """Raises NotFound."""
        known = None
        if row is not None and row.kind == _RECORD_SET:
            known = self._curations.find(row.id)
        if known is None or known.report is None or row is None:
            raise NotFound("nothing was heard of its rows yet")
        told = {
            **json.loads(known.report),
            "at": format_time(known.at_ns),
            "exported": bool(known.version),
            "version": known.version or None,
        }
        head = {"id": syn(row.id), "state": self.state(row, self._overlay.locals.of_entity(row.id))}
        text = json.dumps({**head, **told}, indent=2, ensure_ascii=False) + "\n"
        return Report(text.encode(), known.at_ns)

    def state(self, row: Row, local: Local | None) -> str | None:
        """What may be said of the rows that the mount shows; None: nothing."""
        if row.kind != _RECORD_SET:
            return None
        known = self._curations.find(row.id)
        if local is not None and local.unsent_bytes and not local.gone:
            if known is None or (known.local, known.edit) != (local.id, local.edit):
                return Curation.PENDING.value
            return known.state
        if known is None or known.version != row.version:
            return None
        return known.state
