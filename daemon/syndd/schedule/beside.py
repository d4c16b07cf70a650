"""Indexes that lie beside a file in its folder: found by their names, and taken when they belong to it.

What a taken one spares is everything: the file is served as it is, and nothing of it is downloaded but the few
ranges that prove it. Whether an index belongs to a file is `synd.processors.sidecar`'s to say.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from synd.cache.folder import Cache
from synd.errors import SyndError
from synd.ids import ContentKey, EntityId, syn
from synd.log import fields
from synd.mirror.sizes import Sizes
from synd.mirror.tree import Tree
from synd.model import WITH_BYTES, FileVersion, Kind
from synd.processors import sidecar
from synd.processors.containers import Container, peek
from synd.processors.detect import INTERVALS, Detected, Format
from synd.store.entities import TOP, UNKNOWN_PARENT, Row, file_name_of
from syndd.schedule.sources import Sources

log = logging.getLogger(__name__)

INDEX_BYTES_MOST = 64 << 20
"""A larger one is not looked at: making it anew costs less than one thinks, and no memory."""

_REFUSED_MOST = 4096


@dataclass(frozen=True, slots=True)
class Found:
    """An index that belongs to a file, whose bytes are objects of the cache."""

    file: FileVersion
    suffix: str
    digest: str
    """`sha256:…` of its bytes."""
    extra: Mapping[str, tuple[ContentKey, int]]
    """Further files that belong to it, by suffix: `.gzi`."""


class Beside:
    """Looks for indexes in the folder of a file. On the daemon's loop."""

    def __init__(self, tree: Tree, sizes: Sizes, sources: Sources, cache: Cache) -> None:
        self._tree = tree
        self._sizes = sizes
        self._sources = sources
        self._cache = cache
        self._refused: set[tuple[ContentKey, ContentKey]] = set()
        """(data, index) pairs that do not belong together: told once, and not looked at again."""

    async def raw(self, file: FileVersion, name: str, format: Format) -> Row | None:
        """The first file beside it that is named like an index of it, whatever it holds.

        Raises what listing the folder raises, and what asking for a file does.
        """
        rows = await self._named(file, name, sidecar.suffixes(format))
        return await self._known(rows[0][1]) if rows else None

    async def find(
        self, file: FileVersion, name: str, detected: Detected, head: bytes
    ) -> Found | None:
        """An index beside it that is right for its very bytes; None: one must be made.

        One that cannot be had, or is not right, is passed over, with a line in the log.
        """
        if not _serves_as_it_is(detected, head):
            return None
        try:
            for suffix, row in await self._named(file, name, sidecar.suffixes(detected.format)):
                if (found := await self._taken(file, detected, head, suffix, row)) is not None:
                    return found
        except SyndError as error:
            log.info("sidecar.not_had", extra=fields(entity=syn(file.entity), why=error.message))
        return None

    async def _named(
        self, file: FileVersion, name: str, suffixes: Iterable[str]
    ) -> list[tuple[str, Row]]:
        """Candidates in the folder of a file, likeliest first, with the kind of index of each."""
        row = self._tree.entities.find(file.entity)
        if row is None or row.parent in (TOP, UNKNOWN_PARENT):
            return []
        wanted = [
            (suffix, one)
            for one in sidecar.candidates(name)
            for suffix in suffixes
            if one.endswith(suffix)
        ]
        if not wanted:
            return []
        if not self._tree.folders.is_listed(row.parent):
            await asyncio.wrap_future(self._tree.listed(row.parent))
        return await asyncio.to_thread(self._children, row.parent, wanted)

    def _children(
        self, parent: EntityId, wanted: Iterable[tuple[str, str]]
    ) -> list[tuple[str, Row]]:
        found: list[tuple[str, Row]] = []
        for suffix, name in wanted:
            row = self._tree.entities.child(parent, file_name_of(name, Kind.FILE, EntityId(0)))
            if row is not None and row.name == name and Kind(row.kind) in WITH_BYTES:
                found.append((suffix, row))
        return found

    async def _known(self, row: Row) -> Row:
        return row if row.current else await self._sizes.one(row)

    async def _taken(
        self, file: FileVersion, detected: Detected, head: bytes, suffix: str, row: Row
    ) -> Found | None:
        row = await self._known(row)
        if row.key is None or row.unmet_terms or (file.key, row.key) in self._refused:
            return None
        one, extra = row.file(), {}
        try:
            index = await self._bytes(one)
            gzi = None
            if suffix == ".fai" and detected.container is Container.BGZF:
                for _, blocks in await self._named(file, row.name.removesuffix(suffix), [".gzi"]):
                    block_file = (await self._known(blocks)).file()
                    gzi = await self._bytes(block_file)
                    extra[".gzi"] = (block_file.key, len(gzi))
            ranges = self._sources.ranges(file, head)
            await asyncio.to_thread(
                sidecar.check, index, suffix, ranges, file.size or 0, detected, gzi=gzi
            )
        except ValueError as error:
            if len(self._refused) >= _REFUSED_MOST:
                self._refused.clear()
            self._refused.add((file.key, row.key))
            log.info(
                "sidecar.refused",
                extra=fields(entity=syn(file.entity), sidecar=syn(row.id), why=str(error)),
            )
            return None
        digest = f"sha256:{hashlib.sha256(index).hexdigest()}"
        return Found(one, suffix, digest, extra)

    async def _bytes(self, file: FileVersion) -> bytes:
        """All of an index. Raises ValueError when it is none by its size alone."""
        if not file.size or file.size > INDEX_BYTES_MOST:
            raise ValueError(f"a file of {file.size} bytes is not taken for an index")
        await self._sources.whole(file)
        return await self._sources.head(file, file.size)


def _serves_as_it_is(detected: Detected, head: bytes) -> bool:
    """Whether a file of that beginning could be served with an index and without a change."""
    if detected.format not in INTERVALS:
        return True
    text, _ = peek(head, detected.container)
    # Programs that read by region hand out carriage returns as a part of the last column.
    return detected.container is Container.BGZF and b"\r\n" not in text
