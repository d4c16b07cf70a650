"""Deleting a folder on the service: only once all that it holds there is known to be ours to delete.

The service deletes a folder with all below it. So everything below is listed first; what somebody
else has put or changed there stays, with the folders that lead to it, and the rest goes one by one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple

from synd.client.remote import Remote
from synd.ids import EntityId
from synd.model import Header
from synd.store.entities import version_of
from synd.store.local import Local, Locals, Sending


class Below(NamedTuple):
    """What lies below a folder on the service."""

    deletable: list[EntityId]
    """Whole trees of ours, each by its top; empty when the folder itself may go."""
    ours: list[int]
    """Rows whose entities go, what a folder holds before it."""
    kept: list[int]
    """Rows of folders that stay, as somebody else's things lie in them."""
    foreign: list[tuple[EntityId, EntityId]]
    """(folder, entity) that are not ours to delete."""
    waits_for: int = 0
    """A row that must be sent first: it moves something out. 0: none."""


async def look_below(remote: Remote, locals_: Locals, top: Local) -> Below:
    """Lists all below a folder. Raises what listing raises. Cost: a request per 50 entities."""
    assert top.entity is not None
    inside: dict[EntityId, list[tuple[Header, Local | None]]] = {}
    order: list[EntityId] = []
    waiting: list[EntityId] = [top.entity]
    while waiting:
        folder = waiting.pop()
        order.append(folder)
        found = inside[folder] = []
        async for header in _children(remote, folder):
            local = locals_.of_entity(header.id)
            if local is not None and _waits(local, folder):
                return Below([], [], [], [], local.id)
            if not is_deletable(header, local):
                local = None
            elif header.kind.is_container:
                waiting.append(header.id)
            found.append((header, local))
    return _sorted_out(top, order, inside)


async def _children(remote: Remote, folder: EntityId) -> AsyncIterator[Header]:
    token: str | None = None
    while True:
        page = await remote.children(folder, token=token)
        for header in page.headers:
            yield header
        token = page.next_token
        if token is None:
            return


def is_deletable(header: Header, local: Local | None) -> bool:
    """Whether an entity of a listing was deleted here as it is there."""
    return (
        local is not None
        and bool(local.gone)
        and local.state == Sending.WAITING
        and version_of(header.kind, header.version) == local.base_version
    )


def _waits(local: Local, folder: EntityId) -> bool:
    """Whether a row has something to do first with what lies in the folder there."""
    if local.gone:
        return local.state == Sending.HELD
    return local.state == Sending.WAITING and local.base_parent == folder and local.parent != folder


def _sorted_out(
    top: Local,
    order: list[EntityId],
    inside: dict[EntityId, list[tuple[Header, Local | None]]],
) -> Below:
    whole: dict[EntityId, bool] = {}
    for folder in reversed(order):
        whole[folder] = all(
            local is not None and whole.get(header.id, True) for header, local in inside[folder]
        )
    assert top.entity is not None
    below = Below([], [], [], [])
    for folder in reversed(order):
        for header, local in inside[folder]:
            if local is None:
                below.foreign.append((folder, header.id))
            elif whole.get(header.id, True):
                below.ours.append(local.id)
                if not whole[folder]:
                    below.deletable.append(header.id)
            else:
                below.kept.append(local.id)
    return below
