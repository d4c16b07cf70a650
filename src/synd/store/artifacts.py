"""Rows of artifacts, and of content that cannot be processed. jobs.sql explains the fields.

A row says that an artifact was made and what its bytes are; whether they are still in the cache is the
cache's to say.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping
from typing import NamedTuple

from synd.store.connect import Store


class ArtifactRow(NamedTuple):
    """A row of `artifact`."""

    cache_key: str
    md5: str
    processor: str
    processor_version: int
    kind: str
    alias_of: str
    digest: str
    of_digest: str
    size: int
    records: int | None
    suffix: str
    toolchain: str
    content: str
    """Key of its bytes in the cache; of an alias: of what it stands for."""
    format: str
    extra: Mapping[str, tuple[str, int]]
    """Further files that belong to it: suffix → (key in the cache, bytes)."""
    job: str
    created_ns: int
    used_ns: int


class RefusalRow(NamedTuple):
    """A row of `refusal`."""

    md5: str
    processor: str
    """Who, and for which format: `PROCESSOR/FORMAT`. `/FORMAT`: nobody, as it is not what such a name claims."""
    processor_version: int
    failure: str
    message: str
    bad_line: int | None
    at_ns: int

    @property
    def who(self) -> str:
        return self.processor.partition("/")[0]

    @property
    def format(self) -> str:
        return self.processor.partition("/")[2]


_FIELDS = ", ".join(ArtifactRow._fields)
_MARKS = ", ".join("?" * len(ArtifactRow._fields))
_OF_CONTENT = f"SELECT {_FIELDS} FROM artifact WHERE md5 = ?"
_REFUSED = f"SELECT {', '.join(RefusalRow._fields)} FROM refusal WHERE md5 = ?"

Versions = Collection[tuple[str, int]]
"""(processor, version) pairs of the processors that are in use."""


class Artifacts:
    """Reading: any thread. Writing: inside a transaction of the store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of_content(self, md5: str, versions: Versions) -> list[ArtifactRow]:
        """What present processors made of these bytes, whichever file they were first asked for."""
        rows = self._store.read.execute(_OF_CONTENT, (md5,)).fetchall()
        found = [_row(row) for row in rows]
        return [row for row in found if (row.processor, row.processor_version) in versions]

    def refusals(self, md5: str, versions: Versions, since_ns: int) -> list[RefusalRow]:
        """Why these bytes cannot be processed, as it was found after `since_ns` under one name or another, newest first."""
        rows = self._store.read.execute(_REFUSED, (md5,)).fetchall()
        found = [RefusalRow._make(row) for row in rows]
        known = [
            row
            for row in found
            if row.at_ns >= since_ns
            and (not row.who or (row.who, row.processor_version) in versions)
        ]
        return sorted(known, key=lambda row: row.at_ns, reverse=True)


def put_artifact(tx: sqlite3.Connection, row: ArtifactRow) -> None:
    """Records an artifact; one of the same key is replaced, as its bytes are gone."""
    values = [*row]
    values[ArtifactRow._fields.index("extra")] = json.dumps(row.extra)
    tx.execute(f"INSERT OR REPLACE INTO artifact ({_FIELDS}) VALUES ({_MARKS})", values)


def put_refusal(tx: sqlite3.Connection, row: RefusalRow) -> None:
    """Remembers that these bytes cannot be processed."""
    tx.execute(
        f"""INSERT OR REPLACE INTO refusal ({", ".join(RefusalRow._fields)})
        VALUES ({", ".join("?" * len(row))})""",
        row,
    )


def forget_refusal(tx: sqlite3.Connection, md5: str, processor: str) -> None:
    """They could be processed after all."""
    tx.execute("DELETE FROM refusal WHERE md5 = ? AND processor = ?", (md5, processor))


def _row(row: tuple[object, ...]) -> ArtifactRow:
    found = ArtifactRow._make(row)
    extra = {s: (str(key), int(size)) for s, (key, size) in json.loads(str(found.extra)).items()}
    return found._replace(extra=extra)
