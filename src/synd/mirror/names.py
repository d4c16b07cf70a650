"""Names that our own things have on the service and others of ours are to have: who goes first."""

from __future__ import annotations

from synd.errors import NotFound, Stale
from synd.ids import EntityId
from synd.mirror.checkpoints import checkpoint
from synd.mirror.plan import goes_with, passing_name, place_of, wanted_name
from synd.mirror.steps import LONG_WAIT_S, Later, Tools
from synd.model import Entity
from synd.store.entities import TOP, file_name_of
from synd.store.local import Local, Sending


class Names:
    """Finds the order in which names change hands."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def make_way(self, row: Local, occupant: Local) -> None:
        """What has the name there is ours, and to be deleted or to go elsewhere: that comes first.

        Raises Later, or Stale: the name is free now. Returns when the other stays where it is.
        """
        if occupant.gone:
            first = self._deleted_first(occupant)
            await self._tools.hurry(first.id)
            raise Later(LONG_WAIT_S, first.id)
        kind = self._tools.records.rules_of(occupant).kind
        wish = (self._tools.records.folder_of(occupant).entity, wanted_name(occupant, kind))
        if wish == (occupant.base_parent, occupant.base_name):
            return
        if self._leads_back(row, occupant):
            passing = row if row.entity is not None else occupant
            assert passing.entity is not None
            told = await self._tools.remote.entity(passing.entity)
            checkpoint("push.before-passing")
            made = await self._tools.remote.update(told, name=passing_name(passing.id))
            checkpoint("push.after-passing")
            await self._tools.record(lambda tx: self._tools.records.succeeded(tx, passing, made))
            if passing is occupant or self._has_gone(occupant):
                raise Stale("the name is free now")
        await self._tools.hurry(occupant.id)
        raise Later(LONG_WAIT_S, occupant.id)

    async def leave_first(self, row: Local, parent: EntityId) -> None:
        """A folder is to go to a place that lies in it still, on the service: what is to leave it goes first.

        Raises Later. Each waits for something that lies in it, so nobody waits in a ring.
        """
        overlay = self._tools.overlay
        at, leaving = parent, None
        for _ in range(64):
            if at == row.entity:
                if leaving is not None:
                    await self._tools.hurry(leaving.id)
                    raise Later(LONG_WAIT_S, leaving.id)
                return
            local = overlay.locals.of_entity(at)
            known = overlay.entities.find(at)
            above = known.parent if known is not None else TOP
            if local is not None and local.base_parent is not None:
                above = EntityId(local.base_parent)
                if self._tools.records.folder_of(local).entity != above:
                    leaving = local
            if above <= TOP:
                return
            at = above

    async def way_up(self, row: Local, parent: EntityId) -> list[Entity] | None:
        """The folders of the service from the one just below a row's up to `parent`, the destination that lies in
        it there; None when it does not. Raises Later when something of that way is to leave it.
        """
        tools = self._tools
        way: list[Entity] = []
        at, leaving = parent, None
        for _ in range(64):
            if at == row.entity:
                if leaving is not None:
                    await tools.hurry(leaving.id)
                    raise Later(LONG_WAIT_S, leaving.id)
                return way[::-1]
            try:
                there = await tools.remote.entity(at)
            except NotFound:
                return None
            local = tools.overlay.locals.of_entity(at)
            if local is not None and not local.gone and local.state == Sending.WAITING:
                wanted = tools.records.folder_of(local).entity
                if wanted not in (local.base_parent, place_of(there)):
                    leaving = local
            way.append(there)
            at = place_of(there)
            if at <= TOP:
                return None
        return None

    def _has_gone(self, occupant: Local) -> bool:
        """Whether it left its name meanwhile: in a ring, the other may have made way at the same moment."""
        now = self._tools.overlay.locals.find(occupant.id)
        left = (occupant.entity, occupant.base_parent, occupant.base_name)
        return now is None or (now.entity, now.base_parent, now.base_name) != left

    def _deleted_first(self, row: Local) -> Local:
        """The folder whose delete takes a removed row with it; itself when there is none."""
        for _ in range(64):
            folder = self._tools.records.folder_of(row)
            above = self._tools.overlay.locals.of_key(folder.key)
            if above is None or not goes_with(row, folder):
                break
            row = above
        return row

    def _leads_back(self, row: Local, occupant: Local) -> bool:
        """Whether those who wait for each other's names form a ring with `row` in it."""
        at = occupant
        for _ in range(64):
            kind = self._tools.records.rules_of(at).kind
            parent, name = self._tools.records.folder_of(at).entity, wanted_name(at, kind)
            if parent is None:
                return self._is_above(row, at)
            if row.entity is not None and (parent, name) == (row.base_parent, row.base_name):
                return True
            spelled = file_name_of(name, kind, EntityId(0))
            there = self._tools.overlay.entities.child(parent, spelled)
            following = None if there is None else self._tools.overlay.locals.of_entity(there.id)
            if following is None or following.id == at.id:
                return False
            at = following
        return False

    def _is_above(self, row: Local, inside: Local) -> bool:
        """Whether `inside` waits for the folder `row` to be made."""
        folder = self._tools.overlay.locals.of_key(inside.parent)
        for _ in range(64):
            if folder is None or folder.entity is not None:
                return False
            if folder.id == row.id:
                return True
            folder = self._tools.overlay.locals.of_key(folder.parent)
        return False
