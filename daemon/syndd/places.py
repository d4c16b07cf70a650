"""What a path or an id that somebody names stands for: found through the overlay and the tree.

Never through the mount: the daemon would wait for its own answer. Unknown names are asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

from synd.errors import Forbidden, NotFound
from synd.ids import EntityId, Version, entity_version, syn
from synd.mirror.tree import Tree
from synd.model import WITH_BYTES, Kind, VersionInfo
from synd.paths import RESERVED, split_version
from synd.store.entities import TOP, Row
from synd.store.local import Local
from syndd.mount.ops import Answer
from syndd.showing import Showing


class Place(NamedTuple):
    """What was found. All empty: the top of the mount."""

    row: Row | None = None
    """Its entity, as far as the service has one."""
    version: Version | None = None
    """The one that was named: then `row` is as the entity was in it, and `local` is none."""
    local: Local | None = None
    """What was made or changed here."""

    @property
    def key(self) -> int:
        if self.local is not None:
            return self.local.key
        return TOP if self.row is None else self.row.id

    @property
    def entity(self) -> EntityId | None:
        if self.local is not None:
            return self.local.entity
        return TOP if self.row is None else self.row.id

    @property
    def is_folder(self) -> bool:
        if self.local is not None:
            return self.local.is_folder
        return self.row is None or Kind(self.row.kind).is_container


class Places:
    """The mount's paths. On the daemon's loop."""

    def __init__(self, tree: Tree, mount: Path, showing: Showing | None) -> None:
        """Without `showing` nothing can have been changed here."""
        self._tree = tree
        self._mount = mount
        self._showing = showing
        self._overlay = showing.overlay if showing is not None else None
        self.ready_source: Callable[[int, bytes], Answer[bytes]] | None = None
        """(folder, name in its ``@ready``) → the name of the file that it is made of."""

    def annotation(self, row: Row, key: str) -> str:
        """An annotation of the service, as far as it is known here; of several values the first."""
        found = (self._tree.entities.annotations(row) or {}).get(key)
        return str(found[1][0]) if found and found[1] else ""

    async def find(self, target: str) -> Place:
        """As `resolve`; of a removed thing whose delete is unsent, what it was."""
        try:
            return await self.resolve(target)
        except NotFound:
            if self._showing is None or not target.startswith("/"):
                raise
            gone = await asyncio.to_thread(self._showing.gone_at, target)
            if gone is None:
                raise
            entity = gone.entity
            row = self._tree.entities.find(entity) if entity is not None else None
            return Place(row, None, gone)

    async def resolve(self, target: str) -> Place:
        """What a path or id names. Raises NotFound, UsageError."""
        if not target.startswith("/"):
            return await self._by_id(target)
        try:
            inside = Path(target).relative_to(self._mount)
        except ValueError as error:
            if self._showing is not None:
                raise self._showing.outside(target) from error
            raise NotFound(f"{target} is not in the mount at {self._mount}", path=target) from error
        at = Place()
        parts = [p for p in inside.parts if p != "/"]
        if parts[:1] == ["@id"]:
            if len(parts) == 1:
                return at
            at, parts = await self._by_id(parts[1]), parts[2:]
        for place, part in enumerate(parts):
            rest = parts[place + 1 :]
            at = await self._through_link(at)
            if part == "@versions" and rest:
                found = await self.child(at, rest[0], target)
                if len(rest) == 1:
                    return found
                return await self._at_version(found, rest[1], target)
            if part == "@info" and rest:
                return await self.child(at, rest[0].removesuffix(".json"), target)
            if part == "@ready" and rest and self.ready_source is not None:
                source = self.ready_source(at.key, rest[0].encode(errors="surrogateescape"))
                if isinstance(source, Future):
                    source = await asyncio.wrap_future(source)
                return await self.child(at, source.decode(errors="surrogateescape"), target)
            if part in RESERVED:
                return at
            versioned = split_version(part)
            if versioned is not None:
                found = await self.child(at, versioned[0], target)
                return await self._at_version(found, str(versioned[1]), target)
            at = await self.child(at, part, target)
        return at

    def own_name(self, target: str) -> str | None:
        """The first name in a path that synd made, which no file or folder of the service has."""
        if not target.startswith("/"):
            return None
        with contextlib.suppress(ValueError):
            parts = Path(target).relative_to(self._mount).parts
            for place, part in enumerate(parts):
                # `@id/syn123` is an entity, and `@ready/FILE` stands for its source.
                leads_on = place + 1 < len(parts) and (
                    part == "@ready" or (part == "@id" and place == 0)
                )
                if part in RESERVED and not leads_on:
                    return part
        return None

    async def _by_id(self, text: str) -> Place:
        entity, number = entity_version(text)
        row = await self._tree.place(entity)
        local = self._overlay.locals.of_entity(row.id) if self._overlay is not None else None
        if local is not None and local.gone:
            raise NotFound(f"{syn(row.id)} was removed here", hint="`synd restore` brings it back")
        found = Place(row, None, local)
        if number is None:
            return found
        if Kind(row.kind) not in WITH_BYTES:
            return found._replace(version=number)
        return await self._at_version(found, str(number), text)

    async def _at_version(self, place: Place, number: str, target: str) -> Place:
        """A file as it was in that version. Raises NotFound."""
        row = place.row
        known: Sequence[VersionInfo] = ()
        if row is not None and Kind(row.kind) in WITH_BYTES:
            known = await self._tree.list_versions(row.id)
        found = next((v for v in known if str(v.number) == number), None)
        if row is None or found is None:
            raise NotFound(f"there is no {target}", path=target)
        if found.number != row.version:
            row = row._replace(
                version=found.number, modified_ns=found.modified_on_ns,
                detail_ns=found.modified_on_ns, etag="", handle=found.handle, md5=found.md5,
                size=found.size, corrupt=None,
            )  # fmt: skip
        return Place(row, found.number)

    async def _through_link(self, at: Place) -> Place:
        """Where a link on the way leads, as the kernel follows it."""
        for _ in range(40):
            row = at.row
            if row is None or row.kind != Kind.LINK:
                break
            if not row.current:
                row = await asyncio.wrap_future(self._tree.detailed(row.id))
            if row.target is None:
                break
            at = await self._by_id(syn(row.target))
        return at

    async def child(self, parent: Place, name: str, target: str) -> Place:
        """A name in a folder. Raises NotFound."""
        if not parent.is_folder:
            raise NotFound(f"{target} leads through what is not a folder", path=target)
        raw = name.encode(errors="surrogateescape")
        if self._overlay is not None:
            seen = self._overlay.child(parent.key, raw)
            if seen is not None:
                return Place(seen.row, None, seen.local)
        folder = parent.entity
        try:
            if folder is None:
                raise NotFound(f"there is no {target}")
            row = await self._tree.find_child(folder, raw)
        except NotFound as error:
            raise NotFound(f"there is no {target}", path=target) from error
        if self._overlay is not None and self._overlay.hides(row):
            raise NotFound(f"there is no {target}", path=target)
        return Place(row)

    async def files_below(self, place: Place) -> list[Row]:
        """The files in a folder and in all below it, listed as needed; what may not be listed is left out.

        Removed things whose delete is unsent are none of them.
        """
        found: list[Row] = []
        waiting = [place.entity]
        while waiting:
            folder = waiting.pop()
            if folder is None:
                continue
            try:
                if not self._tree.folders.is_listed(folder):
                    await self._tree.list_folder(folder)
            except (Forbidden, NotFound):
                continue
            children = self._tree.entities.children(folder)
            if self._overlay is not None:
                children = [row for row in children if not self._overlay.hides(row)]
            waiting += [row.id for row in reversed(children) if Kind(row.kind).is_container]
            found += [row for row in children if Kind(row.kind) in WITH_BYTES]
        return found

    def follow(self, row: Row) -> None:
        """Has changes of an entity noticed as those of what is walked to are: its folder is in use."""
        self._tree.visit(row.parent)
        if not self._tree.folders.is_listed(row.parent):
            self._tree.refresh_soon(row.parent)

    def shown(self, place: Place) -> str:
        """A thing's path in the mount, or its id while that is not known; an old version's with its number."""
        if place.version is not None and place.row is not None:
            path = self.shown_entity(place.row.id)
            present = self._tree.entities.find(place.row.id)
            if present is None or present.version != place.version:
                path += f"{'@' if path.startswith('/') else '.'}{place.version}"
            return path
        if place.local is not None and self._showing is not None:
            return self._showing.shown_of(place.local)
        return self.shown_entity(TOP if place.row is None else place.row.id)

    def shown_entity(self, entity: int) -> str:
        """The same, of an entity."""
        if entity == TOP:
            return str(self._mount)
        if self._overlay is not None:
            parts = self._overlay.path_of(self._overlay.key_of(entity))
        else:
            parts = self._tree.entities.path_of(entity)
        if parts is None:
            return syn(EntityId(entity))
        return str(self._mount.joinpath(*(p.decode(errors="replace") for p in parts)))
