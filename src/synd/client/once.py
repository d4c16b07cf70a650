"""Calls that change something, when the answer may be lost: what was done by the first try is no error of the second."""

from __future__ import annotations

from contextlib import suppress

from synd.client.transport import Transport
from synd.clock import Deadline
from synd.errors import NotFound, Offline, RemoteUnavailable


async def delete(
    transport: Transport, path: str, *, deadline: Deadline | None = None, entity: str | None = None
) -> None:
    """Deletes what is at `path`. Raises NotFound only when it was gone before."""
    try:
        await transport.json("DELETE", path, deadline=deadline, entity=entity, replay=False)
    except Offline:
        raise
    except RemoteUnavailable:
        with suppress(NotFound):
            await transport.json("DELETE", path, deadline=deadline, entity=entity)
