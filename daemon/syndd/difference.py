"""What differs between this machine and what it started from: `synd diff`.

Text is compared line by line, everything else by size and md5. Reads at most `TEXT_MAX` bytes a side
for text and `HASH_MAX` for an md5; what is larger is told by its size.
"""

from __future__ import annotations

import asyncio
import difflib
import itertools
from collections.abc import Awaitable, Callable
from pathlib import Path

from synd.control import changes
from synd.digest import md5_of_file
from synd.errors import NotFound, SyndError
from synd.ids import EntityId
from synd.model import FileVersion
from synd.store.entities import Row
from synd.store.local import Local, LocalKind
from syndd.places import Place
from syndd.showing import Showing

TEXT_MAX = 1 << 20
HASH_MAX = 256 << 20
LINES_MAX = 10_000
"""Lines of a side that are compared: the comparison's cost grows with their square."""
SHOWN_LINES = 2_000
BELOW_MAX = 1_000
"""Changes listed for a folder."""

ReadBase = Callable[[FileVersion], Awaitable[bytes]]
"""The bytes of a version, from the cache or fetched."""


class Differences:
    """Compares single things. On the daemon's loop; files are read in a thread."""

    def __init__(
        self, showing: Showing, *, staged: Callable[[int], Path], read_base: ReadBase
    ) -> None:
        """`staged`: where a staging file lies."""
        self._showing = showing
        self._staged = staged
        self._read_base = read_base

    async def of(self, path: str, place: Place) -> changes.Difference:
        """What differs at a path; of a removed thing, what it was."""
        found = self._outline(path, place.local, place.row)
        row = place.local
        if row is not None and row.gone:
            return found
        if place.is_folder:
            below = await asyncio.to_thread(
                self._showing.pending, self._showing.inside(path), BELOW_MAX
            )
            found["kind"] = "folder" if below["uploads"] or found["intents"] else "same"
            found["changes"] = below["changes"]
            found["truncated"] = below["uploads"] > len(below["changes"])
        elif row is not None and row.kind == LocalKind.FILE:
            await self._compare(found, row)
        return found

    def _outline(self, path: str, row: Local | None, entity: Row | None) -> changes.Difference:
        told = self._showing.unsent_of(row) if row is not None else None
        base: changes.Content | None = None
        if row is not None and row.entity is not None:
            base = {"version": row.base_version or None, "size": row.base_size, "md5": row.base_md5}
        elif entity is not None:
            base = {"version": entity.version or None, "size": entity.size, "md5": entity.md5}
        wanted = row.wanted_annotations if row is not None else {}
        return {
            "path": path,
            "entity": told["entity"] if told else f"syn{entity.id}" if entity else "",
            "kind": "binary" if told and told["intents"] else "same",
            "intents": told["intents"] if told else [],
            "base": base,
            "local": None if row is not None and row.gone else base,
            "moved_from": self._showing.moved_from(row) if row is not None else "",
            "annotations": {k: None if v is None else list(v[1]) for k, v in wanted.items()},
            "text": "",
            "truncated": False,
            "note": "",
            "changes": [],
        }

    async def _compare(self, found: changes.Difference, row: Local) -> None:
        """Adds the local side of a file, and the diff where both sides are text."""
        if not row.staged:
            return
        path = self._staged(row.staged)
        try:
            size = path.stat().st_size
        except OSError as error:
            raise NotFound(f"{found['path']} has just become another file") from error
        digest = row.md5 if row.hashed == row.edit and row.md5 and not row.lazy else None
        if digest is None and size <= HASH_MAX and not row.lazy:
            digest = await asyncio.to_thread(md5_of_file, path)
        found["local"] = {"version": None, "size": size, "md5": digest}
        if found["base"] is None or digest is None or digest != row.base_md5:
            found["kind"] = "binary"
        if found["kind"] == "same" or row.lazy or max(size, row.base_size or 0) > TEXT_MAX:
            return
        ours = await asyncio.to_thread(path.read_bytes)
        try:
            base = await self._base(row)
        except SyndError as error:
            found["note"] = f"the version it was made from cannot be read: {error}"
            return
        text = unified(base, ours, found["path"], row.base_version) if base != ours else None
        if text is None:
            return
        found["kind"] = "text"
        found["text"], found["truncated"] = await asyncio.to_thread(text)

    async def _base(self, row: Local) -> bytes:
        if row.entity is None or not row.base_size:
            return b""
        file = FileVersion(
            EntityId(row.entity), row.base_version, row.base_handle, row.base_md5, row.base_size,
            name=row.base_name or "",
        )  # fmt: skip
        return await self._read_base(file)


def unified(
    base: bytes, ours: bytes, path: str, version: int
) -> Callable[[], tuple[str, bool]] | None:
    """What makes the unified diff of two texts, and says whether it was cut; None when one is no text."""
    before, after = _lines(base), _lines(ours)
    if before is None or after is None:
        return None
    name = f"{path}@{version}" if version else "/dev/null"

    def compare() -> tuple[str, bool]:
        lines = difflib.unified_diff(before, after, name, path, n=3)
        shown = list(itertools.islice(lines, SHOWN_LINES + 1))
        text = "".join(
            line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
            for line in shown[:SHOWN_LINES]
        )
        return text, len(shown) > SHOWN_LINES

    return compare


def _lines(data: bytes) -> list[str] | None:
    """Lines with their ends; None for what is no text, or has more of them than can be compared."""
    if b"\0" in data:
        return None
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    whole = [f"{line}\n" for line in lines[:-1]] + ([lines[-1]] if lines[-1] else [])
    return whole if len(whole) <= LINES_MAX else None
