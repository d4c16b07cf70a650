"""Whose the local changes are: what was changed for one service is never sent to another.

Ids mean nothing across services. An edit of syn5 of one registry would become a version of what happens to be
syn5 of the next, and overwrite it. So a daemon does not start for another service while something lies only here.
A local registry is the same one at whatever port it is served: it tells an id of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from synd.client.service import SynapseClient
from synd.clock import Deadline
from synd.errors import ConfigError, SyndError
from synd.store import meta
from synd.store.connect import Store

_SERVICE = "service"
"""Name in `meta` of the id that a local registry tells."""
_WAIT_S = 5.0


async def settle(store: Store, client: SynapseClient) -> bool:
    """Makes the store that of the client's service; True when rows of another were dropped. Raises ConfigError.

    Cost: a request, if there are changes that were made for a service at another address.
    """
    endpoints = client.endpoints
    before = meta.get(store, "endpoint")
    count = meta.only_here(store) if before not in (None, endpoints.name) else 0
    if not count:
        return meta.belong_to(store, endpoints.name)
    known = meta.get(store, _SERVICE)
    if not known or not endpoints.is_loopback or await _asked(client) != known:
        things = "1 thing lies" if count == 1 else f"{count} things lie"
        raise ConfigError(
            f"{things} only here, made for {before}, and must not go to {endpoints.name}",
            hint=f"`synd up` with SYND_ENDPOINT={before}, then `synd wait` or `synd discard`;"
            " or give the other service a SYND_HOME of its own",
        )
    return meta.belong_to(store, endpoints.name, same=True)


async def remember(store: Store, client: SynapseClient) -> None:
    """Notes which registry it is that was logged in to. Asks local ones only."""
    if not client.endpoints.is_loopback:
        return
    found = await _asked(client)
    if found and found != meta.get(store, _SERVICE):
        meta.put(store, _SERVICE, found)


async def _asked(client: SynapseClient) -> str:
    """The id of a local registry; empty for any other service, and for one that does not answer."""
    try:
        said: Mapping[str, Any] = await client.version(
            deadline=Deadline.after(_WAIT_S, "asking which service it is")
        )
    except SyndError:
        return ""
    return str(said.get("id") or "") if said.get("synd-registry") is True else ""
