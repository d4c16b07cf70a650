"""Changes to entities: create, update, trash, restore (synapse-rest.md 2.2 to 2.4, 2.8, 2.11).

The service has no request ids, so a change whose answer was lost is told by what it left behind: a taken
name (`Exists`, for the caller to judge), a moved etag with just our change in place (`update` takes it for
its own), an entity that is back from the trash can. The transport may therefore send all of these again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from synd.client import wire_changes
from synd.client.entities import EntityCalls
from synd.client.wire import Json
from synd.clock import Deadline
from synd.errors import NotFound, NotSupported, Stale, UsageError
from synd.ids import EntityId, FileHandleId, syn
from synd.model import Access, AnnotationValue, Entity, FileVersion, Kind, LinkTarget
from synd.paths import check_entity_name


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What an update is to change; None stays as it was."""

    name: str | None
    parent: EntityId | None
    file: FileVersion | None
    annotations: Mapping[str, AnnotationValue] | None

    def is_there(self, base: Entity, now: Entity) -> bool:
        """Whether `now` is `base` with this change and no other, but that annotations may be lacking.

        A handle is only ever ours, and who gave it the same name and folder has done our work.
        """
        before = (base.name, base.parent, _handle(base.file))
        aim = (
            self.name or base.name,
            self.parent or base.parent,
            _handle(self.file or base.file),
        )
        if (now.name, now.parent, _handle(now.file)) != aim:
            return False
        if self.annotations is None:
            return aim != before
        if now.annotations == self.annotations:
            return True
        return aim != before and now.annotations == base.annotations


def _handle(file: FileVersion | None) -> FileHandleId | None:
    return None if file is None else file.handle


def _check_handle(file: FileVersion | None) -> None:
    if file is not None and file.handle is None:
        raise UsageError("a file needs its file handle")


class ChangeCalls(EntityCalls):
    """The part of `Remote` that changes entities."""

    async def create(
        self,
        kind: Kind,
        parent: EntityId,
        name: str,
        *,
        file: FileVersion | None = None,
        link: LinkTarget | None = None,
        annotations: Mapping[str, AnnotationValue] | None = None,
        version_comment: str = "",
        version_label: str = "",
        deadline: Deadline | None = None,
    ) -> Entity:
        if kind not in wire_changes.MAKEABLE:
            raise NotSupported(f"synd makes no {kind}")
        if (kind is Kind.FILE) != (file is not None) or (kind is Kind.LINK) != (link is not None):
            raise UsageError(f"{name}: a file needs its bytes, a link its target, others neither")
        _check_handle(file)
        body = wire_changes.new_entity(
            kind,
            parent,
            check_entity_name(name),
            file=file,
            link=link,
            version_comment=version_comment,
            version_label=version_label,
        )
        path = "/entity"
        if annotations:
            # One transaction there, so that nobody ever sees the entity without them.
            path, body = "/entity/bundle2/create", wire_changes.new_bundle(body, annotations)
        answer = await self._transport.json(
            "POST", path, body, deadline=deadline, entity=syn(parent)
        )
        if annotations:
            answer = wire_changes.entity_in(answer)
        return wire_changes.entity_answer(answer, file, annotations or {}, Access())

    async def update(
        self,
        entity: Entity,
        *,
        name: str | None = None,
        parent: EntityId | None = None,
        file: FileVersion | None = None,
        annotations: Mapping[str, AnnotationValue] | None = None,
        version_comment: str = "",
        version_label: str = "",
        deadline: Deadline | None = None,
    ) -> Entity:
        if file is not None and entity.kind is not Kind.FILE:
            raise UsageError(f"{syn(entity.id)} is a {entity.kind}: it has no bytes")
        _check_handle(file)
        name = None if name is None else check_entity_name(name)
        try:
            if name is not None or parent is not None or file is not None:
                received = await self._entity_json(entity.id, deadline)
                if wire_changes.etag_of(received) != entity.etag:
                    raise Stale(f"{syn(entity.id)} was changed meanwhile", entity=syn(entity.id))
                body = wire_changes.changed_entity(
                    received,
                    name=name,
                    parent=parent,
                    file=file,
                    version_comment=version_comment,
                    version_label=version_label,
                )
                now = await self._put(entity, body, file, deadline)
            else:
                now = entity
            if annotations is None:
                return now
            return await self._annotate(now, annotations, deadline)
        except Stale:
            wanted = _Wanted(name, parent, file, annotations)
            return await self._take_over(entity, wanted, deadline)

    async def delete(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        try:
            await self._transport.json(
                "DELETE", f"/entity/{syn(entity)}", deadline=deadline, entity=syn(entity)
            )
        except NotFound:
            return

    async def restore(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        try:
            await self._transport.json(
                "PUT", f"/trashcan/restore/{syn(entity)}", deadline=deadline, entity=syn(entity)
            )
        except NotFound:
            # An earlier attempt may have brought it back.
            if not await self.headers([entity], deadline=deadline):
                raise

    async def _entity_json(self, entity: EntityId, deadline: Deadline | None) -> Json:
        return await self._transport.json(
            "GET", f"/entity/{syn(entity)}", deadline=deadline, entity=syn(entity)
        )

    async def _put(
        self, entity: Entity, body: Json, file: FileVersion | None, deadline: Deadline | None
    ) -> Entity:
        answer = await self._transport.json(
            "PUT",
            f"/entity/{syn(entity.id)}",
            body,
            query=None if file is None else {"newVersion": True},
            deadline=deadline,
            entity=syn(entity.id),
        )
        return wire_changes.entity_answer(
            answer, file or entity.file, entity.annotations, entity.access
        )

    async def _annotate(
        self,
        entity: Entity,
        annotations: Mapping[str, AnnotationValue],
        deadline: Deadline | None,
    ) -> Entity:
        """Replaces the annotations of an entity whose etag is known."""
        answer = await self._transport.json(
            "PUT",
            f"/entity/{syn(entity.id)}/annotations2",
            wire_changes.annotations_request(entity.id, entity.etag, annotations),
            deadline=deadline,
            entity=syn(entity.id),
        )
        changed = replace(entity, etag=wire_changes.etag_of(answer), annotations=dict(annotations))
        # The answer does not tell when that was. Whatever else changed since must not pass for ours.
        told = wire_changes.entity_answer(
            await self._entity_json(entity.id, deadline), entity.file, annotations, entity.access
        )
        if told.etag != changed.etag:
            return changed
        return replace(changed, modified_on_ns=told.modified_on_ns, modified_by=told.modified_by)

    async def _take_over(self, base: Entity, wanted: _Wanted, deadline: Deadline | None) -> Entity:
        """The entity as it is, where an earlier attempt made this change although its answer was lost.

        Raises Stale when somebody else's change is there.
        """
        now = replace(await self.entity(base.id, deadline=deadline), access=base.access)
        if not wanted.is_there(base, now):
            raise Stale(f"{syn(base.id)} was changed meanwhile", entity=syn(base.id))
        if wanted.annotations is None or now.annotations == wanted.annotations:
            return now
        return await self._annotate(now, wanted.annotations, deadline)
