"""Provenance: which activity made a version (synapse-rest.md 7.1)."""

from __future__ import annotations

from collections.abc import Mapping

from synd.client.transport import Transport
from synd.clock import Deadline
from synd.errors import NotFound, ProtocolError
from synd.ids import EntityId, Version, syn


class ActivityCalls:
    """The part of `Remote` that is about provenance."""

    _transport: Transport

    async def generated_by(
        self, entity: EntityId, version: Version | None = None, *, deadline: Deadline | None = None
    ) -> Mapping[str, object] | None:
        numbered = "" if version is None else f"/version/{version}"
        try:
            answer = await self._transport.json(
                "GET",
                f"/entity/{syn(entity)}{numbered}/generatedBy",
                deadline=deadline,
                entity=syn(entity),
            )
        except NotFound:
            return None
        if not isinstance(answer, dict):
            raise ProtocolError("the service's answer is no activity", entity=syn(entity))
        return answer
