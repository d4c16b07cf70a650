"""The fake service's reading calls."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Final

from synd.client.remote import SortBy, ViewRow
from synd.clock import NS, Deadline, format_time
from synd.errors import Forbidden, NotFound, NotSupported, UsageError
from synd.ids import EntityId, Version, syn
from synd.model import (
    Access,
    ChildrenPage,
    Entity,
    FileRef,
    Header,
    Kind,
    Presigned,
    Profile,
    VersionInfo,
)
from synd.testing.state import FakeState, Node, Revision

PAGE: Final = 50
"""The service's page of a listing."""

VERSIONED: Final = frozenset(
    set(Kind) - {Kind.PROJECT, Kind.FOLDER, Kind.LINK, Kind.DOCKER_REPO, Kind.OTHER}
)


class FakeReads(FakeState):
    """The part of `Remote` that changes nothing (but for views and the user's own project)."""

    async def whoami(self, *, deadline: Deadline | None = None) -> Profile:
        await self._enter("whoami", deadline)
        return self.profile

    async def entity(
        self,
        entity: EntityId,
        version: Version | None = None,
        *,
        annotations: bool = True,
        permissions: bool = False,
        deadline: Deadline | None = None,
    ) -> Entity:
        await self._enter("entity", deadline)
        node = self._get(entity)
        revision = self._revision(node, version)
        return self._entity(node, revision, annotations=annotations, permissions=permissions)

    async def children(
        self,
        parent: EntityId | None,
        *,
        token: str | None = None,
        sort: SortBy = "CREATED_ON",
        descending: bool = False,
        counts: bool = False,
        deadline: Deadline | None = None,
    ) -> ChildrenPage:
        await self._enter("children", deadline)
        if parent is not None:
            self._get(parent)
        nodes = [n for n in self._below(parent) if n.access.can_view]
        keys: dict[str, Callable[[Node], tuple[object, int]]] = {
            "NAME": lambda n: (n.name, n.id),
            "CREATED_ON": lambda n: (n.created_on_ns, n.id),
            "MODIFIED_ON": lambda n: (n.current.modified_on_ns, n.id),
        }
        nodes.sort(key=keys[sort], reverse=descending)
        start = 0 if token is None else int(token.partition("a")[2])
        more = start + PAGE < len(nodes)
        sizes = (self._size(n) for n in nodes)
        return ChildrenPage(
            headers=tuple(self._header(n) for n in nodes[start : start + PAGE]),
            next_token=f"{PAGE}a{start + PAGE}" if more else None,
            total=len(nodes) if counts else None,
            sum_bytes=sum(sizes) if counts else None,
        )

    async def find_child(
        self, parent: EntityId | None, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        await self._enter("find_child", deadline)
        node = self._child(parent, name)
        return None if node is None else node.id

    async def versions(
        self,
        entity: EntityId,
        *,
        offset: int = 0,
        limit: int = 50,
        deadline: Deadline | None = None,
    ) -> Sequence[VersionInfo]:
        await self._enter("versions", deadline)
        node = self._get(entity)
        newest_first = node.revisions[::-1]
        return [
            self._version_info(node, revision) for revision in newest_first[offset : offset + limit]
        ]

    async def headers(
        self, entities: Collection[EntityId], *, deadline: Deadline | None = None
    ) -> Mapping[EntityId, Header]:
        found: dict[EntityId, Header] = {}
        wanted = list(dict.fromkeys(entities))
        for start in range(0, len(wanted), 100):
            await self._enter("headers", deadline)
            for entity in wanted[start : start + 100]:
                with suppress(NotFound, Forbidden):
                    found[entity] = self._header(self._get(entity))
        return found

    async def path(
        self, entity: EntityId, *, deadline: Deadline | None = None
    ) -> Sequence[tuple[EntityId, str]]:
        await self._enter("path", deadline)
        node = self._get(entity)
        steps = [(node.id, node.name)]
        while node.parent is not None:
            node = self._nodes[node.parent]
            steps.append((node.id, node.name))
        return steps[::-1]

    async def presign(
        self, refs: Sequence[FileRef], *, deadline: Deadline | None = None
    ) -> Sequence[Presigned]:
        answers: list[Presigned] = []
        for start in range(0, len(refs), 100):
            await self._enter("presign", deadline)
            answers += [self._presign(ref) for ref in refs[start : start + 100]]
        return answers

    async def generated_by(
        self, entity: EntityId, version: Version | None = None, *, deadline: Deadline | None = None
    ) -> Mapping[str, object] | None:
        await self._enter("generated_by", deadline)
        try:
            return self._revision(self._get(entity), version).activity
        except NotFound:
            return None

    async def find_view(
        self, project: EntityId, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        await self._enter("find_view", deadline)
        node = self._child(project, name)
        if node is None or node.kind is not Kind.ENTITY_VIEW or not node.access.can_view:
            return None
        return node.id

    async def own_project(self, name: str, *, deadline: Deadline | None = None) -> EntityId:
        await self._enter("own_project", deadline)
        node = self._child(None, name)
        return node.id if node is not None else self.project(name)

    async def covers(
        self, view: EntityId, container: EntityId, *, deadline: Deadline | None = None
    ) -> bool:
        await self._enter("covers", deadline)
        node = self._get(view)
        return node.kind is Kind.ENTITY_VIEW and container in node.scope

    async def create_view(
        self,
        parent: EntityId,
        name: str,
        scope: Sequence[EntityId],
        *,
        deadline: Deadline | None = None,
    ) -> EntityId:
        await self._enter("create_view", deadline)
        owner = self._get(parent)
        if not owner.access.can_add_child:
            raise Forbidden(f"you may not add to {syn(parent)}", entity=syn(parent))
        node = self._child(parent, name)
        if node is not None and node.kind is Kind.ENTITY_VIEW:
            return node.id
        return self.view(parent, name, scope)

    async def view_rows(
        self, view: EntityId, *, where: str = "", deadline: Deadline | None = None
    ) -> AsyncIterator[Sequence[ViewRow]]:
        await self._enter("view_rows", deadline)
        if self._get(view).kind is not Kind.ENTITY_VIEW:
            raise UsageError(f"{syn(view)} is not a view", entity=syn(view))
        if not self.views_lag:
            self._lagging.pop(view, None)
        rows = self._lagging.get(view)
        if rows is None:
            rows = self._rows(view)
            if self.views_lag:
                self._lagging[view] = rows
        rows = _filtered(rows, where)
        for start in range(0, len(rows), 1000):
            yield rows[start : start + 1000]

    # Within.

    def _entity(
        self, node: Node, revision: Revision, *, annotations: bool = True, permissions: bool = False
    ) -> Entity:
        file = None
        if revision.handle is not None and node.access.can_download:
            file = replace(
                self._bytes[revision.handle].file, entity=node.id, version=revision.number
            )
        # Without being asked for, permissions are told by what the bundle holds anyway.
        access = (
            node.access
            if permissions
            else Access(can_download=node.access.can_download, unmet_terms=node.access.unmet_terms)
        )
        versioned = node.kind in VERSIONED
        return Entity(
            id=node.id,
            name=node.name,
            kind=node.kind,
            parent=node.parent,
            etag=node.etag,
            version=revision.number if versioned else None,
            created_on_ns=node.created_on_ns,
            modified_on_ns=revision.modified_on_ns,
            created_by=self.profile.id,
            modified_by=revision.modified_by,
            description=node.description,
            version_label=revision.label if versioned else "",
            version_comment=revision.comment,
            file=file,
            link=node.link,
            annotations=dict(revision.annotations) if annotations else {},
            access=access,
        )

    def _size(self, node: Node) -> int:
        handle = node.current.handle
        return 0 if handle is None else self._bytes[handle].file.size or 0

    def _header(self, node: Node) -> Header:
        return Header(
            id=node.id,
            name=node.name,
            kind=node.kind,
            version=node.current.number,
            created_on_ns=node.created_on_ns,
            modified_on_ns=node.current.modified_on_ns,
            modified_by=node.current.modified_by,
        )

    def _version_info(self, node: Node, revision: Revision) -> VersionInfo:
        file = None if revision.handle is None else self._bytes[revision.handle].file
        return VersionInfo(
            id=node.id,
            number=revision.number,
            label=revision.label,
            comment=revision.comment,
            modified_on_ns=revision.modified_on_ns,
            modified_by=revision.modified_by,
            size=None if file is None else file.size,
            md5=None if file is None else file.md5,
            handle=revision.handle,
            is_latest=revision is node.current,
        )

    def _presign(self, ref: FileRef) -> Presigned:
        node = self._nodes.get(ref.entity)
        if node is None or self._gone(node) or ref.handle not in self._bytes:
            return Presigned(ref, None, failure="NOT_FOUND")
        if (
            not any(r.handle == ref.handle for r in node.revisions)
            or not node.access.can_download
            or node.access.unmet_terms
        ):
            return Presigned(ref, None, failure="UNAUTHORIZED")
        file = replace(self._bytes[ref.handle].file, entity=ref.entity)
        if file.external_url is not None:
            return Presigned(ref, file.external_url, file=file)
        now = self.clock.now_ns() // NS
        stamp = format_time(now * NS)[:19].replace("-", "").replace(":", "") + "Z"
        url = (
            f"{self.url_base}/{ref.handle}?X-Amz-Date={stamp}"
            f"&X-Amz-Expires={self.url_life_s}&X-Amz-Signature=fake"
        )
        return Presigned(ref, url, expires_at_ns=(now + self.url_life_s) * NS, file=file)

    def _rows(self, view: EntityId) -> list[ViewRow]:
        scope = set(self._nodes[view].scope)
        rows: list[ViewRow] = []
        for node in self._nodes.values():
            if node.kind not in (Kind.FILE, Kind.FOLDER) or self._gone(node):
                continue
            if not node.access.can_view or not self._under(node, scope):
                continue
            handle = node.current.handle
            file = None if handle is None else self._bytes[handle].file
            rows.append(
                ViewRow(
                    id=node.id,
                    parent=EntityId(node.parent or 0),
                    name=node.name,
                    kind=node.kind,
                    version=node.current.number,
                    etag=node.etag,
                    created_on_ns=node.created_on_ns,
                    modified_on_ns=node.current.modified_on_ns,
                    modified_by=node.current.modified_by,
                    handle=handle,
                    md5=None if file is None else file.md5,
                    size=None if file is None else file.size,
                    file_name="" if file is None else file.name,
                    store=None if file is None else file.store,
                )
            )
        return rows

    def _under(self, node: Node, scope: set[EntityId]) -> bool:
        at = node.parent
        while at is not None:
            if at in scope:
                return True
            at = self._nodes[at].parent
        return False


_CONDITION = re.compile(r"\s*modifiedOn\s*(>=|>)\s*(\d+)\s*", re.IGNORECASE)


def _filtered(rows: list[ViewRow], where: str) -> list[ViewRow]:
    """The one condition that the fake knows: ``modifiedOn > MILLISECONDS``."""
    if not where:
        return rows
    match = _CONDITION.fullmatch(where)
    if match is None:
        raise NotSupported(f"the fake service does not know the condition {where!r}")
    bound = int(match[2]) * 1_000_000 + (1 if match[1] == ">" else 0)
    return [row for row in rows if row.modified_on_ns >= bound]
