"""JSON schemas of the service: organizations, registered versions, bindings (synapse-rest.md 7.6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from synd.client import once, wire_schemas
from synd.client.asyncjobs import run_job
from synd.client.pages import all_of
from synd.client.transport import Transport
from synd.client.wire_schemas import SchemaVersion
from synd.clock import Deadline
from synd.errors import NotFound
from synd.ids import EntityId, syn

_JOB_S: Final = 300.0


class SchemaCalls:
    """The service's JSON schemas."""

    _transport: Transport

    async def create_organization(self, name: str, *, deadline: Deadline | None = None) -> None:
        """A new organization, whose name begins the `$id` of its schemas. Raises Exists, UsageError."""
        await self._transport.json(
            "POST", "/schema/organization", {"organizationName": name}, deadline=deadline
        )

    async def has_organization(self, name: str, *, deadline: Deadline | None = None) -> bool:
        try:
            await self._transport.json(
                "GET", "/schema/organization", query={"name": name}, deadline=deadline
            )
        except NotFound:
            return False
        return True

    async def register_schema(
        self,
        schema: Mapping[str, object],
        *,
        dry_run: bool = False,
        deadline: Deadline | None = None,
    ) -> SchemaVersion:
        """Registers a schema under its `$id`. `dry_run`: only looks whether it could be.

        Raises UsageError with what the service refuses; a version is never replaced.
        """
        answer = await run_job(
            self._transport,
            "/schema/type/create",
            wire_schemas.new_schema(schema, dry_run=dry_run),
            deadline=deadline or Deadline.after(_JOB_S, "registering a schema"),
        )
        return wire_schemas.created_schema(answer)

    async def schema_versions(
        self, organization: str, name: str, *, deadline: Deadline | None = None
    ) -> list[SchemaVersion]:
        """The versions of a schema, the oldest first. Raises NotFound."""

        async def page(token: str | None) -> tuple[list[SchemaVersion], str | None]:
            body = {"organizationName": organization, "schemaName": name, "nextPageToken": token}
            return wire_schemas.schema_versions(
                await self._transport.json("POST", "/schema/version/list", body, deadline=deadline)
            )

        return await all_of("versions", page)

    async def validation_schema(
        self, uri: str, *, deadline: Deadline | None = None
    ) -> dict[str, object]:
        """A registered schema with everything it refers to put in. Raises NotFound."""
        answer = await run_job(
            self._transport,
            "/schema/type/validation",
            wire_schemas.validation_schema_request(uri),
            deadline=deadline or Deadline.after(_JOB_S, "resolving a schema"),
        )
        return wire_schemas.validation_schema(answer)

    async def delete_schema(self, uri: str, *, deadline: Deadline | None = None) -> None:
        """Deletes a version, or with no version in `uri` all of them. Raises NotFound, UsageError when bound."""
        await once.delete(self._transport, _registered(uri), deadline=deadline)

    async def registered_schema(
        self, uri: str, *, deadline: Deadline | None = None
    ) -> dict[str, object]:
        """A registered schema as it was given; without a version in `uri` the newest. Raises NotFound."""
        return wire_schemas.raw_schema(
            await self._transport.json("GET", _registered(uri), deadline=deadline)
        )

    async def bind_schema(
        self, entity: EntityId, uri: str, *, deadline: Deadline | None = None
    ) -> None:
        """Binds a schema to an entity and to all below it that has none of its own."""
        await self._transport.json(
            "PUT",
            f"/entity/{syn(entity)}/schema/binding",
            {"entityId": syn(entity), "schema$id": uri, "enableDerivedAnnotations": False},
            deadline=deadline,
            entity=syn(entity),
        )

    async def bound_schema(
        self, entity: EntityId, *, deadline: Deadline | None = None
    ) -> str | None:
        """`$id` of the schema that holds for an entity, its own or an ancestor's; None for none."""
        try:
            answer = await self._transport.json(
                "GET",
                f"/entity/{syn(entity)}/schema/binding",
                deadline=deadline,
                entity=syn(entity),
            )
        except NotFound:
            return None
        return wire_schemas.bound_schema(answer)

    async def unbind_schema(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        """Ends the binding of an entity. Raises NotFound when it has none of its own."""
        path = f"/entity/{syn(entity)}/schema/binding"
        await once.delete(self._transport, path, deadline=deadline, entity=syn(entity))


def _registered(uri: str) -> str:
    return f"/schema/type/registered/{quote(uri, safe='')}"
