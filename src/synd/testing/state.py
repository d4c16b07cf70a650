"""What the fake service holds: nodes, their revisions, bytes; how tests build it, and its troubles."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from synd.client.remote import ViewRow
from synd.clock import Deadline
from synd.errors import (
    Exists,
    Forbidden,
    NotFound,
    Offline,
    RemoteUnavailable,
    SyndError,
    UsageError,
)
from synd.ids import EntityId, FileHandleId, Md5, Version, syn
from synd.model import (
    WITH_BYTES,
    Access,
    AnnotationValue,
    FileVersion,
    Kind,
    LinkTarget,
    Profile,
    Store,
)
from synd.testing.clock import FakeClock

_LOOK_S = 0.01
"""How soon a call that waits sees that it need not."""


@dataclass(slots=True)
class StoredBytes:
    """What a remote file handle stands for."""

    file: FileVersion
    content: bytes | None


@dataclass(slots=True)
class Revision:
    number: Version
    label: str
    comment: str
    modified_on_ns: int
    modified_by: str
    handle: FileHandleId | None
    annotations: dict[str, AnnotationValue]
    activity: Mapping[str, object] | None = None


@dataclass(slots=True)
class Node:
    id: EntityId
    kind: Kind
    parent: EntityId | None
    name: str
    etag: str
    created_on_ns: int
    revisions: list[Revision]
    """Oldest first; never empty. Those of unversioned kinds have one."""
    link: LinkTarget | None = None
    description: str = ""
    trashed: bool = False
    scope: tuple[EntityId, ...] = ()
    access: Access = field(default_factory=Access)

    @property
    def current(self) -> Revision:
        return self.revisions[-1]


class FakeState:
    """Entities and bytes of a service in memory, with the builders that change them as others would."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.calls: Counter[str] = Counter()
        """Requests by name of the call, failed ones too: what a rate limit would count."""
        self.offline = False
        """While true every call raises Offline."""
        self.delay_s = 0.0
        """Each call takes so long. Lowered, it also lets go of those that wait."""
        self.url_base = "https://storage.invalid"
        """Where presigned URLs lead; `FakeStorage` puts itself here."""
        self.url_life_s = 30
        self.views_lag = False
        """While true, views show what they showed when it was switched on."""
        self.profile = Profile(id="1", name="fake")
        self._ids = itertools.count(1001)
        self._handles = itertools.count(5001)
        self._etags = itertools.count(1)
        self._last_ns = 0
        self._nodes: dict[EntityId, Node] = {}
        self._inside: dict[EntityId | None, dict[EntityId, Node]] = {}
        self._named: dict[tuple[EntityId | None, str], EntityId] = {}
        """Who last took a name; whether it still has it must be looked at."""
        self._bytes: dict[FileHandleId, StoredBytes] = {}
        self._uploads: dict[object, FileHandleId] = {}
        """What was uploaded, by all that is told of it: the same again is the same handle."""
        self._failures: list[tuple[str | None, SyndError]] = []
        self._lost: Counter[str] = Counter()
        self._held: dict[str, asyncio.Event] = {}
        self._lagging: dict[EntityId, list[ViewRow]] = {}

    # Builders: what other people do to the service.

    def project(self, name: str) -> EntityId:
        return self._add(Kind.PROJECT, None, name)

    def folder(self, parent: EntityId, name: str) -> EntityId:
        return self._add(Kind.FOLDER, parent, name)

    def file(
        self,
        parent: EntityId,
        name: str,
        content: bytes | None = b"content",
        *,
        size: int | None = None,
        md5: str | None = None,
        external_url: str | None = None,
        file_name: str | None = None,
        kind: Kind = Kind.FILE,
    ) -> EntityId:
        """A file of `content`; or, with None, one of which only size and md5 are told."""
        handle = self.handle(
            content, size=size, md5=md5, external_url=external_url, name=file_name or name
        )
        return self._add(kind, parent, name, handle=handle)

    def link(
        self, parent: EntityId, name: str, target: EntityId, version: int | None = None
    ) -> EntityId:
        made = self._add(Kind.LINK, parent, name)
        self._nodes[made].link = LinkTarget(target, None if version is None else Version(version))
        return made

    def other(self, parent: EntityId, name: str, kind: Kind) -> EntityId:
        """Anything else: a table, a dataset, a container image …"""
        return self._add(kind, parent, name)

    def view(self, parent: EntityId, name: str, scope: Sequence[EntityId]) -> EntityId:
        made = self._add(Kind.ENTITY_VIEW, parent, name)
        self._nodes[made].scope = tuple(scope)
        return made

    def tree(self, parent: EntityId | None, shape: Mapping[str, object]) -> dict[str, EntityId]:
        """Many at once: names to bytes (files) or to mappings (folders; projects at the top).

        Returns their ids by path, e.g. ``{"P": …, "P/dir/a.txt": …}``.
        """
        made: dict[str, EntityId] = {}
        for name, what in shape.items():
            if isinstance(what, Mapping):
                here = self.project(name) if parent is None else self.folder(parent, name)
                for path, entity in self.tree(here, what).items():
                    made[f"{name}/{path}"] = entity
            elif isinstance(what, bytes) and parent is not None:
                here = self.file(parent, name, what)
            else:
                raise TypeError(f"{name}: a tree holds mappings, and bytes below its top")
            made[name] = here
        return made

    def handle(
        self,
        content: bytes | None,
        *,
        size: int | None = None,
        md5: str | None = None,
        external_url: str | None = None,
        name: str = "",
    ) -> FileHandleId:
        """A remote file handle that no entity has yet."""
        number = FileHandleId(next(self._handles))
        if content is not None and external_url is None:
            md5 = hashlib.md5(content, usedforsecurity=False).hexdigest() if md5 is None else md5
            size = len(content) if size is None else size
        file = FileVersion(
            entity=EntityId(0),
            version=Version(1),
            handle=number,
            md5=None if md5 is None else Md5(md5),
            size=size,
            name=name,
            store=Store.EXTERNAL if external_url else Store.S3,
            external_url=external_url,
        )
        self._bytes[number] = StoredBytes(file, content)
        return number

    def new_version(
        self, entity: EntityId, content: bytes, *, comment: str = "", label: str = ""
    ) -> Version:
        node = self._nodes[entity]
        if node.kind not in WITH_BYTES:
            raise TypeError(f"a {node.kind} has no bytes")
        number = Version(max(r.number for r in node.revisions) + 1)
        node.revisions.append(
            Revision(
                number,
                label or str(number),
                comment,
                0,
                self.profile.id,
                self.handle(content, name=node.name),
                dict(node.current.annotations),
            )
        )
        self._touch(node)
        return number

    def swap_handle(self, entity: EntityId, content: bytes) -> None:
        """Other bytes without a new version: the service allows it for equal md5s, disks rot otherwise."""
        node = self._nodes[entity]
        node.current.handle = self.handle(content, name=node.name)
        self._touch(node)

    def rename(self, entity: EntityId, name: str) -> None:
        node = self._nodes[entity]
        self._check_free(node.parent, name)
        node.name = name
        self._named[node.parent, name] = entity
        self._touch(node)

    def move(self, entity: EntityId, parent: EntityId) -> None:
        node = self._nodes[entity]
        self._check_free(parent, node.name)
        del self._inside[node.parent][entity]
        self._inside.setdefault(parent, {})[entity] = node
        self._named[parent, node.name] = entity
        node.parent = parent
        self._touch(node)

    def annotate(self, entity: EntityId, **values: str) -> None:
        """Sets annotations of type STRING."""
        node = self._nodes[entity]
        node.current.annotations.update({k: ("STRING", (v,)) for k, v in values.items()})
        self._touch(node)

    def describe(self, entity: EntityId, text: str) -> None:
        node = self._nodes[entity]
        node.description = text
        self._touch(node)

    def set_activity(self, entity: EntityId, activity: Mapping[str, object]) -> None:
        node = self._nodes[entity]
        node.current.activity = activity
        self._touch(node)

    def trash(self, entity: EntityId) -> None:
        """Into the trash can, with all below it."""
        self._nodes[entity].trashed = True

    def untrash(self, entity: EntityId) -> None:
        """Out of the trash can again."""
        node = self._nodes[entity]
        self._check_free(node.parent, node.name)
        node.trashed = False
        self._named[node.parent, node.name] = entity
        self._touch(node)

    def permit(self, entity: EntityId, access: Access) -> None:
        """What the user may do with one entity (not with those below it).

        Without `can_view` calls raise Forbidden and listings leave it out; without `can_download` or
        with `unmet_terms` there are no URLs.
        """
        self._nodes[entity].access = access

    def content(self, handle: FileHandleId) -> bytes | None:
        """The bytes behind a remote file handle."""
        return self._bytes[handle].content

    def handle_of(self, entity: EntityId) -> FileHandleId:
        """The remote file handle of an entity's current version."""
        handle = self._nodes[entity].current.handle
        if handle is None:
            raise KeyError(f"{syn(entity)} has no bytes")
        return handle

    # Trouble.

    def fail(self, error: SyndError, *, call: str | None = None, times: int = 1) -> None:
        """The next calls raise `error`; only those named `call` when it is given."""
        self._failures += [(call, error)] * times

    def lose(self, call: str, *, times: int = 1) -> None:
        """The next changes of that name happen, but their answers are lost: RemoteUnavailable."""
        self._lost[call] += times

    @contextmanager
    def hold(self, call: str) -> Iterator[asyncio.Event]:
        """Calls of that name wait inside the block, until the event is set. For the loop's thread."""
        event = self._held[call] = asyncio.Event()
        try:
            yield event
        finally:
            event.set()
            self._held.pop(call, None)

    async def _enter(self, call: str, deadline: Deadline | None) -> None:
        self.calls[call] += 1
        if deadline is not None:
            deadline.check()
        if event := self._held.get(call):
            await event.wait()
        begun = time.monotonic()
        # An event would be of one loop; the delay is lowered from any thread.
        while (left := begun + self.delay_s - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left, _LOOK_S))
        # Even without a delay the call is no call of a function: others have their turn.
        await asyncio.sleep(0)
        if self.offline:
            raise Offline("the fake service is switched off")
        for index, (name, error) in enumerate(self._failures):
            if name in (None, call):
                del self._failures[index]
                raise error

    def _leave(self, call: str) -> None:
        """The end of a change: here its answer may be lost."""
        if self._lost[call] > 0:
            self._lost[call] -= 1
            raise RemoteUnavailable("the fake service gave no answer")

    # Within.

    def _add(
        self, kind: Kind, parent: EntityId | None, name: str, handle: FileHandleId | None = None
    ) -> EntityId:
        self._check_free(parent, name)
        number = EntityId(next(self._ids))
        now = self._tick()
        first = Revision(Version(1), "1", "", now, self.profile.id, handle, {})
        node = Node(number, kind, parent, name, self._etag(), now, [first])
        self._nodes[number] = node
        self._inside.setdefault(parent, {})[number] = node
        self._named[parent, name] = number
        return number

    def _check_free(self, parent: EntityId | None, name: str) -> None:
        if parent is not None and self._nodes[parent].kind not in (Kind.PROJECT, Kind.FOLDER):
            raise UsageError(f"{syn(parent)} cannot hold entities")
        if self._child(parent, name) is not None:
            raise Exists(f"there is already a {name!r}")

    def _child(self, parent: EntityId | None, name: str) -> Node | None:
        node = self._nodes.get(self._named.get((parent, name), EntityId(0)))
        if node is None or self._gone(node) or (node.parent, node.name) != (parent, name):
            return None
        return node

    def _tick(self) -> int:
        """The time, in whole milliseconds as the service has it; never the same twice."""
        self._last_ns = max(self.clock.now_ns() // 1_000_000 * 1_000_000, self._last_ns + 1_000_000)
        return self._last_ns

    def _etag(self) -> str:
        return f"00000000-0000-4000-8000-{next(self._etags):012d}"

    def _touch(self, node: Node) -> None:
        node.etag = self._etag()
        node.current.modified_on_ns = self._tick()

    def _gone(self, node: Node) -> bool:
        if node.trashed:
            return True
        return node.parent is not None and self._gone(self._nodes[node.parent])

    def _get(self, entity: EntityId) -> Node:
        node = self._nodes.get(entity)
        if node is None or self._gone(node):
            raise NotFound(f"{syn(entity)} does not exist", entity=syn(entity))
        if not node.access.can_view:
            raise Forbidden(f"you may not see {syn(entity)}", entity=syn(entity))
        return node

    def _revision(self, node: Node, version: Version | None) -> Revision:
        if version is None:
            return node.current
        for revision in node.revisions:
            if revision.number == version:
                return revision
        raise NotFound(f"{syn(node.id)} has no version {version}", entity=syn(node.id))

    def _below(self, parent: EntityId | None) -> list[Node]:
        return [n for n in self._inside.get(parent, {}).values() if not self._gone(n)]
