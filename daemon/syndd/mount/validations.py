"""What the service said of a record set's rows: ``@info/NAME.validation.json`` and an extended attribute."""

from __future__ import annotations

import json
from typing import NamedTuple, TypeGuard

from synd.clock import format_time
from synd.errors import NotFound
from synd.ids import syn
from synd.mirror.overlay import Overlay
from synd.mirror.plan import EMPTY
from synd.model import Kind
from synd.store.curation import Curation, Curations, Saved
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
        local = self._overlay.locals.of_entity(row.id)
        state = self.state(row, local)
        told: dict[str, object] = {
            **json.loads(known.report),
            "at": format_time(known.at_ns),
            "exported": bool(known.version),
            "version": known.version or None,
        }
        if _is_unsent(local) and not _is_about(known, local):
            # What was said of other rows must not be taken for a verdict on these.
            told = {"verdict": state, "exported": False, "version": None, "before": told}
            if state == Curation.REFUSED.value:
                told = {"verdict": state, "problem": EMPTY["title"], **told}
        head = {"id": syn(row.id), "state": state}
        text = json.dumps({**head, **told}, indent=2, ensure_ascii=False) + "\n"
        return Report(text.encode(), known.at_ns)

    def state(self, row: Row, local: Local | None) -> str | None:
        """What may be said of the rows that the mount shows; None: nothing."""
        if row.kind != _RECORD_SET:
            return None
        known = self._curations.find(row.id)
        if _is_unsent(local):
            if known is not None and _is_about(known, local):
                return known.state
            return (Curation.REFUSED if _is_empty(local) else Curation.PENDING).value
        if known is None or known.version != row.version:
            return None
        return known.state


def _is_unsent(local: Local | None) -> TypeGuard[Local]:
    """Whether the mount shows rows that are not the service's."""
    return local is not None and local.unsent_bytes and not local.gone


def _is_about(known: Saved, local: Local) -> bool:
    """Whether a report is about the present edit."""
    return (known.local, known.edit) == (local.id, local.edit)


def _is_empty(local: Local) -> bool:
    """Without a byte, and no longer being written: it is not even looked at."""
    return not local.size and local.state == "blocked"
