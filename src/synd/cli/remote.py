"""Commands that speak with the service themselves, without the daemon."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from synd.errors import UsageError

if TYPE_CHECKING:
    from synd.client.service import SynapseClient
    from synd.ids import EntityId

T = TypeVar("T")

_ENTITY = re.compile(r"(?:syn)?([0-9]{1,12})", re.IGNORECASE)


def ask(work: Callable[[SynapseClient], Awaitable[T]]) -> T:
    """What `work` returns, done with the client that settings and environment name.

    Raises NotLoggedIn, ConfigError, and what `work` raises.
    """
    import asyncio

    from synd.client.service import SynapseClient

    async def whole() -> T:
        async with SynapseClient.open() as client:
            return await work(client)

    return asyncio.run(whole())


def entity(text: str) -> EntityId:
    """The entity that was named, as syn123 or 123. Raises UsageError."""
    from synd.ids import EntityId

    found = _ENTITY.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no Synapse id", hint="it looks like syn123")
    return EntityId(int(found[1]))
