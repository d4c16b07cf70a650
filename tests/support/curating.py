"""A curator's world: a registry in another process, a project, and the client that asks it.

The schema and the rows are those of examples/curation; `Curator.session` begins most tests.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from synd.client.credentials import Token, from_base
from synd.client.service import SynapseClient
from synd.client.wire_grids import GridSession
from synd.clock import Deadline
from synd.curation import create_record_based
from synd.ids import EntityId, entity_id
from synd.retry import RetryPolicy
from tests.support.registry import Registry
from tests.support.source import ROOT

T = TypeVar("T")

EXAMPLE = ROOT / "examples" / "curation"
METADATA = EXAMPLE / "metadata.csv"
SCHEMA: dict[str, Any] = json.loads((EXAMPLE / "schema.json").read_text())
BUDGET_S = 60.0
_QUICK = RetryPolicy(tries=5, base_s=0.01, cap_s=0.05)
_numbers = itertools.count(1)


class Curator:
    """Somebody with a project of their own in a registry."""

    def __init__(self, registry: Registry, token: str | None = None) -> None:
        self.registry = registry
        self.token = token or registry.token
        self.number = next(_numbers)
        status, made = registry.call(
            "POST",
            "/repo/v1/entity",
            {
                "concreteType": "org.sagebionetworks.repo.model.Project",
                "name": f"Curation {self.number}",
            },
            token=self.token,
        )
        assert status == 201, made
        self.project: EntityId = entity_id(made["id"])

    def client(self) -> SynapseClient:
        """A new client; it belongs to the loop that opens it."""
        return SynapseClient(from_base(self.registry.url), Token(self.token, "test"), policy=_QUICK)

    def do(self, work: Callable[[SynapseClient], Awaitable[T]]) -> T:
        """What `work` returns, within a minute."""

        async def whole() -> T:
            async with self.client() as client, asyncio.timeout(BUDGET_S):
                return await work(client)

        return asyncio.run(whole())

    def schema(self, body: dict[str, Any] | None = None) -> str:
        """The `$id` of a newly registered schema: the example's unless told otherwise."""
        organization = f"test.org{next(_numbers)}"
        uri = f"{organization}-specimen-1.0.0"
        known = {**(SCHEMA if body is None else body), "$id": uri}

        async def work(client: SynapseClient) -> None:
            await client.create_organization(organization)
            await client.register_schema(known)

        self.do(work)
        return uri

    def record_set(
        self, template: Path, key: list[str], schema: dict[str, Any] | str | None = None
    ) -> EntityId:
        """A new record set with a task; `schema`: bound to it, by its body or its `$id`."""
        uri = schema if isinstance(schema, str) or schema is None else self.schema(schema)
        name = f"Records {next(_numbers)}"
        made = self.do(
            lambda client: create_record_based(
                client,
                self.project,
                self.project,
                name,
                template=template,
                upsert_key=key,
                data_type=name,
                instructions="",
                schema=uri,
            )
        )
        return made.record_set.id

    def session(
        self, template: Path, key: list[str], schema: dict[str, Any] | str | None = None
    ) -> GridSession:
        """A grid on a new record set."""
        source = self.record_set(template, key, schema)
        return self.do(lambda client: client.create_grid(record_set=source))

    def other(self) -> Curator:
        """Another user of the same registry."""
        status, made = self.registry.call(
            "POST", "/admin/users", {"userName": f"curator{next(_numbers)}"}
        )
        assert status == 201, made
        return Curator(self.registry, made["token"])

    def halt(self, *, halted: bool) -> None:
        """Halts or resumes the registry's validation of all grids."""
        status, answer = self.registry.call("POST", "/admin/grids", {"halted": halted})
        assert status == 200, answer

    def environ(self, home: Path) -> dict[str, str]:
        """What a `synd` command is told this registry by."""
        return {
            "SYND_ENDPOINT": self.registry.url,
            "SYNAPSE_AUTH_TOKEN": self.token,
            "SYND_HOME": str(home),
        }


def within(seconds: float, what: str = "the test") -> Deadline:
    return Deadline.after(seconds, what)
