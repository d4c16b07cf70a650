"""`FakeRemote`: the fake service's changing calls, on top of its reading ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace

from synd.client.remote import Outgoing
from synd.clock import Deadline
from synd.errors import Forbidden, IntegrityError, NotFound, NotSupported, Stale, UsageError
from synd.ids import EntityId, FileHandleId, Version, syn
from synd.model import AnnotationValue, Entity, FileVersion, Kind, LinkTarget
from synd.paths import check_entity_name
from synd.testing.reads import VERSIONED, FakeReads
from synd.testing.state import Node, Revision


class FakeRemote(FakeReads):
    """A service in memory, as one user sees it. Belongs to one event loop; builders may run anywhere."""

    async def upload(
        self,
        content: Outgoing,
        parent: EntityId,
        *,
        progress: Callable[[int], object] | None = None,
        deadline: Deadline | None = None,
    ) -> FileHandleId:
        await self._enter("upload", deadline)
        name = check_entity_name(content.name)
        if content.size < 1:
            raise UsageError("the service keeps no empty files", path=str(content.path))
        self._check_parent(parent)
        try:
            held = content.path.read_bytes()
        except OSError as error:
            raise IntegrityError(
                f"{content.path} cannot be read", path=str(content.path)
            ) from error
        digest = hashlib.md5(held, usedforsecurity=False).hexdigest()
        if (len(held), digest) != (content.size, content.md5):
            raise IntegrityError(
                f"{content.path} changed while it was sent", path=str(content.path)
            )
        key = (name, content.size, content.md5, content.content_type)
        handle = self._uploads.get(key)
        if handle is None:
            handle = self._uploads[key] = self.handle(held, name=name)
            stored = self._bytes[handle]
            stored.file = replace(stored.file, content_type=content.content_type)
        if progress is not None:
            progress(content.size)
        self._leave("upload")
        return handle

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
        if kind not in (Kind.FOLDER, Kind.FILE, Kind.LINK):
            raise NotSupported(f"synd makes no {kind}")
        if (kind is Kind.FILE) != (file is not None) or (kind is Kind.LINK) != (link is not None):
            raise UsageError(f"{name}: a file needs its bytes, a link its target, others neither")
        await self._enter("create", deadline)
        name = check_entity_name(name)
        self._check_parent(parent)
        node = self._nodes[self._add(kind, parent, name, handle=self._handle_in(file))]
        node.link = link
        first = node.current
        if kind in VERSIONED:
            first.comment, first.label = version_comment, version_label or first.label
        if annotations:
            first.annotations = dict(annotations)
        self._leave("create")
        return self._entity(node, first)

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
        await self._enter("update", deadline)
        if file is not None and entity.kind is not Kind.FILE:
            raise UsageError(f"{syn(entity.id)} is a {entity.kind}: it has no bytes")
        node = self._get(entity.id)
        if not node.access.can_edit:
            raise Forbidden(f"you may not change {syn(entity.id)}", entity=syn(entity.id))
        name = node.name if name is None else check_entity_name(name)
        parent = node.parent if parent is None else parent
        handle = self._handle_in(file)
        done = node.etag != entity.etag
        if done and not self._is_done(node, entity, name, parent, file, annotations):
            raise Stale(f"{syn(entity.id)} was changed meanwhile", entity=syn(entity.id))
        if not done and (file is not None or (name, parent) != (node.name, node.parent)):
            self._place(node, name, parent)
            if file is not None:
                self._add_version(node, handle, version_comment, version_label)
            self._touch(node)
        if annotations is not None and not (done and annotations == node.current.annotations):
            node.current.annotations = dict(annotations)
            self._touch(node)
        self._leave("update")
        return replace(self._entity(node, node.current), access=entity.access)

    async def delete(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        await self._enter("delete", deadline)
        node = self._nodes.get(entity)
        if node is not None and not self._gone(node):
            if not node.access.can_edit:
                raise Forbidden(f"you may not delete {syn(entity)}", entity=syn(entity))
            self.trash(entity)
        self._leave("delete")

    async def restore(self, entity: EntityId, *, deadline: Deadline | None = None) -> None:
        await self._enter("restore", deadline)
        node = self._nodes.get(entity)
        if node is None or (self._gone(node) and not node.trashed):
            raise NotFound(f"{syn(entity)} is not in the trash can", entity=syn(entity))
        if node.trashed:
            if node.parent is not None and self._gone(self._nodes[node.parent]):
                raise Forbidden(
                    f"{syn(entity)} cannot be restored: its folder is in the trash can",
                    entity=syn(entity),
                )
            self.untrash(entity)
        self._leave("restore")

    def _check_parent(self, parent: EntityId) -> None:
        """Raises NotFound, Forbidden for a folder that takes nothing from us."""
        if not self._get(parent).access.can_add_child:
            raise Forbidden(f"you may not add to {syn(parent)}", entity=syn(parent))

    def _handle_in(self, file: FileVersion | None) -> FileHandleId | None:
        if file is None:
            return None
        if file.handle is None:
            raise UsageError("a file needs its file handle")
        if file.handle not in self._bytes:
            raise NotFound(f"file handle {file.handle} does not exist")
        return file.handle

    def _is_done(
        self,
        node: Node,
        base: Entity,
        name: str,
        parent: EntityId | None,
        file: FileVersion | None,
        annotations: Mapping[str, AnnotationValue] | None,
    ) -> bool:
        """Whether an earlier attempt did what is asked for, although its answer was lost.

        Its annotations may be left to do, where nobody else changed them.
        """
        before = None if base.file is None else base.file.handle
        wanted = before if file is None else file.handle
        if (node.name, node.parent, node.current.handle) != (name, parent, wanted):
            return False
        moved = (name, parent, wanted) != (base.name, base.parent, before)
        if annotations is None or annotations == node.current.annotations:
            return moved or annotations is not None
        return moved and node.current.annotations == base.annotations

    def _place(self, node: Node, name: str, parent: EntityId | None) -> None:
        if (name, parent) == (node.name, node.parent):
            return
        if parent is not None and parent != node.parent:
            self._check_parent(parent)
            if parent == node.id or self._under(self._nodes[parent], {node.id}):
                raise UsageError(f"{syn(node.id)} cannot be moved into itself", entity=syn(node.id))
        self._check_free(parent, name)
        del self._inside[node.parent][node.id]
        self._inside.setdefault(parent, {})[node.id] = node
        self._named[parent, name] = node.id
        node.name, node.parent = name, parent

    def _add_version(
        self, node: Node, handle: FileHandleId | None, comment: str, label: str
    ) -> None:
        number = Version(max(r.number for r in node.revisions) + 1)
        node.revisions.append(
            Revision(
                number,
                label or str(number),
                comment,
                0,
                self.profile.id,
                handle,
                dict(node.current.annotations),
            )
        )
