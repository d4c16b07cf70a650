"""Entities: bundles, listings, versions, paths, and looking up by name (synapse-rest.md 2)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

from synd.client import wire
from synd.client.remote import SortBy
from synd.client.transport import Transport
from synd.clock import Deadline
from synd.errors import NotFound
from synd.ids import EntityId, Version, syn
from synd.model import ChildrenPage, Entity, Header, Profile, VersionInfo

_HEADERS_AT_ONCE: Final = 100


class EntityCalls:
    """The part of `Remote` that is about entities."""

    _transport: Transport

    async def whoami(self, *, deadline: Deadline | None = None) -> Profile:
        return wire.profile(await self._transport.json("GET", "/userProfile", deadline=deadline))

    async def entity(
        self,
        entity: EntityId,
        version: Version | None = None,
        *,
        annotations: bool = True,
        permissions: bool = False,
        deadline: Deadline | None = None,
    ) -> Entity:
        numbered = "" if version is None else f"/version/{version}"
        answer = await self._transport.json(
            "POST",
            f"/entity/{syn(entity)}{numbered}/bundle2",
            wire.bundle_request(annotations=annotations, permissions=permissions),
            deadline=deadline,
            entity=syn(entity),
        )
        return wire.entity_bundle(answer)

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
        answer = await self._transport.json(
            "POST",
            "/entity/children",
            wire.children_request(parent, token, sort, descending=descending, counts=counts),
            deadline=deadline,
            entity=None if parent is None else syn(parent),
        )
        return wire.children_page(answer)

    async def find_child(
        self, parent: EntityId | None, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        try:
            answer = await self._transport.json(
                "POST",
                "/entity/child",
                {"parentId": None if parent is None else syn(parent), "entityName": name},
                deadline=deadline,
                entity=None if parent is None else syn(parent),
            )
        except NotFound:
            return None
        return wire.child_id(answer)

    async def versions(
        self,
        entity: EntityId,
        *,
        offset: int = 0,
        limit: int = 50,
        deadline: Deadline | None = None,
    ) -> Sequence[VersionInfo]:
        answer = await self._transport.json(
            "GET",
            f"/entity/{syn(entity)}/version",
            query={"offset": offset, "limit": limit},
            deadline=deadline,
            entity=syn(entity),
        )
        return wire.version_list(answer)

    async def headers(
        self, entities: Collection[EntityId], *, deadline: Deadline | None = None
    ) -> Mapping[EntityId, Header]:
        found: dict[EntityId, Header] = {}
        for some in wire.parts(dict.fromkeys(entities), _HEADERS_AT_ONCE):
            answer = await self._transport.json(
                "POST",
                "/entity/header",
                {"references": [{"targetId": syn(number)} for number in some]},
                deadline=deadline,
            )
            found.update((header.id, header) for header in wire.list_of_headers(answer))
        return found

    async def path(
        self, entity: EntityId, *, deadline: Deadline | None = None
    ) -> Sequence[tuple[EntityId, str]]:
        answer = await self._transport.json(
            "GET", f"/entity/{syn(entity)}/path", deadline=deadline, entity=syn(entity)
        )
        return wire.entity_path(answer)
