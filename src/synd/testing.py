"""Fakes that ship with the code: a service in memory, its storage on loopback, a clock that stands still.

`FakeRemote` meets `synd.client.remote.Remote` and passes the same contract tests as the real client
(tests/contract). It answers from plain dictionaries, counts its calls, fails when told to, and is
changed by its builders as other people would change the service. It holds no sockets; `FakeStorage`
serves the bytes behind its presigned URLs where a test wants them fetched.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import re
import socket
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final, Self
from urllib.parse import parse_qs, urlsplit

from synd.client.remote import SortBy, ViewRow
from synd.clock import NS, Deadline, format_time
from synd.errors import Exists, Forbidden, NotFound, NotSupported, Offline, SyndError, UsageError
from synd.ids import EntityId, FileHandleId, Md5, Version, syn
from synd.model import (
    WITH_BYTES,
    Access,
    AnnotationValue,
    ChildrenPage,
    Entity,
    FileRef,
    FileVersion,
    Header,
    Kind,
    LinkTarget,
    Presigned,
    Profile,
    Store,
    VersionInfo,
)
from synd.ranges import parse_range

PAGE: Final = 50
"""The service's page of a listing."""

VERSIONED: Final = frozenset(
    set(Kind) - {Kind.PROJECT, Kind.FOLDER, Kind.LINK, Kind.DOCKER_REPO, Kind.OTHER}
)


class FakeClock:
    """A clock that moves when told to. Both times move together."""

    def __init__(self, now_ns: int = 1_769_846_400 * NS, monotonic: float = 1000.0) -> None:
        self._now_ns = now_ns
        self._monotonic = monotonic

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now_ns += round(seconds * NS)
        self._monotonic += seconds


@dataclass(slots=True)
class _Bytes:
    """What a remote file handle stands for."""

    file: FileVersion
    content: bytes | None


@dataclass(slots=True)
class _Revision:
    number: Version
    label: str
    comment: str
    modified_on_ns: int
    modified_by: str
    handle: FileHandleId | None
    annotations: dict[str, AnnotationValue]
    activity: Mapping[str, object] | None = None


@dataclass(slots=True)
class _Node:
    id: EntityId
    kind: Kind
    parent: EntityId | None
    name: str
    etag: str
    created_on_ns: int
    revisions: list[_Revision]
    """Oldest first; never empty. Those of unversioned kinds have one."""
    link: LinkTarget | None = None
    description: str = ""
    trashed: bool = False
    scope: tuple[EntityId, ...] = ()
    access: Access = field(default_factory=Access)

    @property
    def current(self) -> _Revision:
        return self.revisions[-1]


class FakeRemote:
    """A service in memory, as one user sees it. Belongs to one event loop; builders may run anywhere."""

    def __init__(self, clock: FakeClock | None = None) -> None:
        self.clock = clock or FakeClock()
        self.calls: Counter[str] = Counter()
        """Requests by name of the call, failed ones too: what a rate limit would count."""
        self.offline = False
        """While true every call raises Offline."""
        self.delay_s = 0.0
        """Each call takes so long."""
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
        self._nodes: dict[EntityId, _Node] = {}
        self._inside: dict[EntityId | None, dict[EntityId, _Node]] = {}
        self._named: dict[tuple[EntityId | None, str], EntityId] = {}
        """Who last took a name; whether it still has it must be looked at."""
        self._bytes: dict[FileHandleId, _Bytes] = {}
        self._failures: list[tuple[str | None, SyndError]] = []
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
        self._bytes[number] = _Bytes(file, content)
        return number

    def new_version(
        self, entity: EntityId, content: bytes, *, comment: str = "", label: str = ""
    ) -> Version:
        node = self._nodes[entity]
        if node.kind not in WITH_BYTES:
            raise TypeError(f"a {node.kind} has no bytes")
        number = Version(max(r.number for r in node.revisions) + 1)
        node.revisions.append(
            _Revision(
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

    def delete(self, entity: EntityId) -> None:
        """Into the trash can, with all below it."""
        self._nodes[entity].trashed = True

    def restore(self, entity: EntityId) -> None:
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
        await asyncio.sleep(self.delay_s)
        if self.offline:
            raise Offline("the fake service is switched off")
        for index, (name, error) in enumerate(self._failures):
            if name in (None, call):
                del self._failures[index]
                raise error

    # `Remote`.

    async def whoami(self, *, deadline: Deadline | None = None) -> Profile:
        await self._enter("whoami", deadline)
        return self.profile

    async def entity(
        self,
        entity: EntityId,
        version: Version | None = None,
        *,
        annotations: bool = True,
        permissions: bool = False,
        deadline: Deadline | None = None,
    ) -> Entity:
        await self._enter("entity", deadline)
        node = self._get(entity)
        revision = self._revision(node, version)
        file = None
        if revision.handle is not None and node.access.can_download:
            file = replace(
                self._bytes[revision.handle].file, entity=entity, version=revision.number
            )
        # Without being asked for, permissions are told by what the bundle holds anyway.
        access = (
            node.access
            if permissions
            else Access(can_download=node.access.can_download, unmet_terms=node.access.unmet_terms)
        )
        versioned = node.kind in VERSIONED
        return Entity(
            id=entity,
            name=node.name,
            kind=node.kind,
            parent=node.parent,
            etag=node.etag,
            version=revision.number if versioned else None,
            created_on_ns=node.created_on_ns,
            modified_on_ns=revision.modified_on_ns,
            created_by=self.profile.id,
            modified_by=revision.modified_by,
            description=node.description,
            version_label=revision.label if versioned else "",
            version_comment=revision.comment,
            file=file,
            link=node.link,
            annotations=dict(revision.annotations) if annotations else {},
            access=access,
        )

    async def children(
        self,
        parent: EntityId | None,
        *,
        token: str | None = None,
        sort: SortBy = "CREATED_ON",
        descending: bool = False,
        counts: bool = False,
        deadline: Deadline | None = None,
    ) -> ChildrenPage:
        await self._enter("children", deadline)
        if parent is not None:
            self._get(parent)
        nodes = [n for n in self._below(parent) if n.access.can_view]
        keys: dict[str, Callable[[_Node], tuple[object, int]]] = {
            "NAME": lambda n: (n.name, n.id),
            "CREATED_ON": lambda n: (n.created_on_ns, n.id),
            "MODIFIED_ON": lambda n: (n.current.modified_on_ns, n.id),
        }
        nodes.sort(key=keys[sort], reverse=descending)
        start = 0 if token is None else int(token.partition("a")[2])
        more = start + PAGE < len(nodes)
        sizes = (self._size(n) for n in nodes)
        return ChildrenPage(
            headers=tuple(self._header(n) for n in nodes[start : start + PAGE]),
            next_token=f"{PAGE}a{start + PAGE}" if more else None,
            total=len(nodes) if counts else None,
            sum_bytes=sum(sizes) if counts else None,
        )

    async def find_child(
        self, parent: EntityId | None, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        await self._enter("find_child", deadline)
        node = self._child(parent, name)
        return None if node is None else node.id

    async def versions(
        self,
        entity: EntityId,
        *,
        offset: int = 0,
        limit: int = 50,
        deadline: Deadline | None = None,
    ) -> Sequence[VersionInfo]:
        await self._enter("versions", deadline)
        node = self._get(entity)
        newest_first = node.revisions[::-1]
        return [
            self._version_info(node, revision) for revision in newest_first[offset : offset + limit]
        ]

    async def headers(
        self, entities: Collection[EntityId], *, deadline: Deadline | None = None
    ) -> Mapping[EntityId, Header]:
        found: dict[EntityId, Header] = {}
        wanted = list(dict.fromkeys(entities))
        for start in range(0, len(wanted), 100):
            await self._enter("headers", deadline)
            for entity in wanted[start : start + 100]:
                with suppress(NotFound, Forbidden):
                    found[entity] = self._header(self._get(entity))
        return found

    async def path(
        self, entity: EntityId, *, deadline: Deadline | None = None
    ) -> Sequence[tuple[EntityId, str]]:
        await self._enter("path", deadline)
        node = self._get(entity)
        steps = [(node.id, node.name)]
        while node.parent is not None:
            node = self._nodes[node.parent]
            steps.append((node.id, node.name))
        return steps[::-1]

    async def presign(
        self, refs: Sequence[FileRef], *, deadline: Deadline | None = None
    ) -> Sequence[Presigned]:
        answers: list[Presigned] = []
        for start in range(0, len(refs), 100):
            await self._enter("presign", deadline)
            answers += [self._presign(ref) for ref in refs[start : start + 100]]
        return answers

    async def generated_by(
        self, entity: EntityId, version: Version | None = None, *, deadline: Deadline | None = None
    ) -> Mapping[str, object] | None:
        await self._enter("generated_by", deadline)
        try:
            return self._revision(self._get(entity), version).activity
        except NotFound:
            return None

    async def find_view(
        self, project: EntityId, name: str, *, deadline: Deadline | None = None
    ) -> EntityId | None:
        await self._enter("find_view", deadline)
        node = self._child(project, name)
        if node is None or node.kind is not Kind.ENTITY_VIEW or not node.access.can_view:
            return None
        return node.id

    async def own_project(self, name: str, *, deadline: Deadline | None = None) -> EntityId:
        await self._enter("own_project", deadline)
        node = self._child(None, name)
        return node.id if node is not None else self.project(name)

    async def covers(
        self, view: EntityId, container: EntityId, *, deadline: Deadline | None = None
    ) -> bool:
        await self._enter("covers", deadline)
        node = self._get(view)
        return node.kind is Kind.ENTITY_VIEW and container in node.scope

    async def create_view(
        self,
        parent: EntityId,
        name: str,
        scope: Sequence[EntityId],
        *,
        deadline: Deadline | None = None,
    ) -> EntityId:
        await self._enter("create_view", deadline)
        owner = self._get(parent)
        if not owner.access.can_add_child:
            raise Forbidden(f"you may not add to {syn(parent)}", entity=syn(parent))
        node = self._child(parent, name)
        if node is not None and node.kind is Kind.ENTITY_VIEW:
            return node.id
        return self.view(parent, name, scope)

    async def view_rows(
        self, view: EntityId, *, where: str = "", deadline: Deadline | None = None
    ) -> AsyncIterator[Sequence[ViewRow]]:
        await self._enter("view_rows", deadline)
        if self._get(view).kind is not Kind.ENTITY_VIEW:
            raise UsageError(f"{syn(view)} is not a view", entity=syn(view))
        if not self.views_lag:
            self._lagging.pop(view, None)
        rows = self._lagging.get(view)
        if rows is None:
            rows = self._rows(view)
            if self.views_lag:
                self._lagging[view] = rows
        rows = _filtered(rows, where)
        for start in range(0, len(rows), 1000):
            yield rows[start : start + 1000]

    # Within.

    def _add(
        self, kind: Kind, parent: EntityId | None, name: str, handle: FileHandleId | None = None
    ) -> EntityId:
        self._check_free(parent, name)
        number = EntityId(next(self._ids))
        now = self._tick()
        first = _Revision(Version(1), "1", "", now, self.profile.id, handle, {})
        node = _Node(number, kind, parent, name, self._etag(), now, [first])
        self._nodes[number] = node
        self._inside.setdefault(parent, {})[number] = node
        self._named[parent, name] = number
        return number

    def _check_free(self, parent: EntityId | None, name: str) -> None:
        if parent is not None and self._nodes[parent].kind not in (Kind.PROJECT, Kind.FOLDER):
            raise UsageError(f"{syn(parent)} cannot hold entities")
        if self._child(parent, name) is not None:
            raise Exists(f"there is already a {name!r}")

    def _child(self, parent: EntityId | None, name: str) -> _Node | None:
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

    def _touch(self, node: _Node) -> None:
        node.etag = self._etag()
        node.current.modified_on_ns = self._tick()

    def _gone(self, node: _Node) -> bool:
        if node.trashed:
            return True
        return node.parent is not None and self._gone(self._nodes[node.parent])

    def _get(self, entity: EntityId) -> _Node:
        node = self._nodes.get(entity)
        if node is None or self._gone(node):
            raise NotFound(f"{syn(entity)} does not exist", entity=syn(entity))
        if not node.access.can_view:
            raise Forbidden(f"you may not see {syn(entity)}", entity=syn(entity))
        return node

    def _revision(self, node: _Node, version: Version | None) -> _Revision:
        if version is None:
            return node.current
        for revision in node.revisions:
            if revision.number == version:
                return revision
        raise NotFound(f"{syn(node.id)} has no version {version}", entity=syn(node.id))

    def _below(self, parent: EntityId | None) -> list[_Node]:
        return [n for n in self._inside.get(parent, {}).values() if not self._gone(n)]

    def _size(self, node: _Node) -> int:
        handle = node.current.handle
        return 0 if handle is None else self._bytes[handle].file.size or 0

    def _header(self, node: _Node) -> Header:
        return Header(
            id=node.id,
            name=node.name,
            kind=node.kind,
            version=node.current.number,
            created_on_ns=node.created_on_ns,
            modified_on_ns=node.current.modified_on_ns,
            modified_by=node.current.modified_by,
        )

    def _version_info(self, node: _Node, revision: _Revision) -> VersionInfo:
        file = None if revision.handle is None else self._bytes[revision.handle].file
        return VersionInfo(
            id=node.id,
            number=revision.number,
            label=revision.label,
            comment=revision.comment,
            modified_on_ns=revision.modified_on_ns,
            modified_by=revision.modified_by,
            size=None if file is None else file.size,
            md5=None if file is None else file.md5,
            handle=revision.handle,
            is_latest=revision is node.current,
        )

    def _presign(self, ref: FileRef) -> Presigned:
        node = self._nodes.get(ref.entity)
        if node is None or self._gone(node) or ref.handle not in self._bytes:
            return Presigned(ref, None, failure="NOT_FOUND")
        if (
            not any(r.handle == ref.handle for r in node.revisions)
            or not node.access.can_download
            or node.access.unmet_terms
        ):
            return Presigned(ref, None, failure="UNAUTHORIZED")
        file = replace(self._bytes[ref.handle].file, entity=ref.entity)
        if file.external_url is not None:
            return Presigned(ref, file.external_url, file=file)
        now = self.clock.now_ns() // NS
        stamp = format_time(now * NS)[:19].replace("-", "").replace(":", "") + "Z"
        url = (
            f"{self.url_base}/{ref.handle}?X-Amz-Date={stamp}"
            f"&X-Amz-Expires={self.url_life_s}&X-Amz-Signature=fake"
        )
        return Presigned(ref, url, expires_at_ns=(now + self.url_life_s) * NS, file=file)

    def _rows(self, view: EntityId) -> list[ViewRow]:
        scope = set(self._nodes[view].scope)
        rows: list[ViewRow] = []
        for node in self._nodes.values():
            if node.kind not in (Kind.FILE, Kind.FOLDER) or self._gone(node):
                continue
            if not node.access.can_view or not self._under(node, scope):
                continue
            handle = node.current.handle
            file = None if handle is None else self._bytes[handle].file
            rows.append(
                ViewRow(
                    id=node.id,
                    parent=EntityId(node.parent or 0),
                    name=node.name,
                    kind=node.kind,
                    version=node.current.number,
                    etag=node.etag,
                    created_on_ns=node.created_on_ns,
                    modified_on_ns=node.current.modified_on_ns,
                    modified_by=node.current.modified_by,
                    handle=handle,
                    md5=None if file is None else file.md5,
                    size=None if file is None else file.size,
                    file_name="" if file is None else file.name,
                    store=None if file is None else file.store,
                )
            )
        return rows

    def _under(self, node: _Node, scope: set[EntityId]) -> bool:
        at = node.parent
        while at is not None:
            if at in scope:
                return True
            at = self._nodes[at].parent
        return False


_CONDITION = re.compile(r"\s*modifiedOn\s*(>=|>)\s*(\d+)\s*", re.IGNORECASE)


def _filtered(rows: list[ViewRow], where: str) -> list[ViewRow]:
    """The one condition that the fake knows: ``modifiedOn > MILLISECONDS``."""
    if not where:
        return rows
    match = _CONDITION.fullmatch(where)
    if match is None:
        raise NotSupported(f"the fake service does not know the condition {where!r}")
    bound = int(match[2]) * 1_000_000 + (1 if match[1] == ">" else 0)
    return [row for row in rows if row.modified_on_ns >= bound]


class FakeStorage:
    """Serves the bytes behind a `FakeRemote`'s presigned URLs on loopback, with ranges.

    with FakeStorage(remote) as storage:
        storage.drop_after = 1000     # the next answer breaks off after 1000 bytes
    """

    def __init__(self, remote: FakeRemote) -> None:
        self._remote = remote
        self.requests: list[tuple[int, str | None]] = []
        """(file handle id, Range header) of each request, in order of arrival."""
        self.drop_after: int | None = None
        """The next answer breaks off after so many bytes of its body; then normal again."""
        self.refuse_next: list[int] = []
        """Statuses that the next requests are answered with instead."""
        self.ignore_ranges = False
        self.saw_authorization = False
        """Whether any request carried a login, which must never come here."""
        storage = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                storage._answer(self)

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="fake-storage", daemon=True
        )

    @property
    def url(self) -> str:
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._remote.url_base = self.url
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self._thread.join()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        number = FileHandleId(int(parts.path.strip("/")))
        header = request.headers.get("Range")
        self.requests.append((number, header))
        self.saw_authorization |= "Authorization" in request.headers
        if self.refuse_next:
            self._send(request, self.refuse_next.pop(0), b"refused")
            return
        content = self._remote.content(number)
        if content is None:
            self._send(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        if self._is_over(parts.query):
            self._send(request, 403, b"<Error><Code>AccessDenied</Code>expired</Error>")
            return
        try:
            wanted = None if self.ignore_ranges else parse_range(header, len(content))
        except SyndError as error:
            self._send(request, error.status, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        if wanted is None:
            self._send(request, 200, content)
            return
        told = f"bytes {wanted.start}-{wanted.end - 1}/{len(content)}"
        self._send(request, 206, content[wanted.start : wanted.end], {"Content-Range": told})

    def _is_over(self, query: str) -> bool:
        found = parse_qs(query)
        stamp, life = found["X-Amz-Date"][0], int(found["X-Amz-Expires"][0])
        now = format_time(self._remote.clock.now_ns() - life * NS)[:19]
        return now.replace("-", "").replace(":", "") + "Z" >= stamp

    def _send(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        request.send_response(status)
        for name, value in (headers or {}).items():
            request.send_header(name, value)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        if self.drop_after is not None and status in (200, 206):
            body, self.drop_after = body[: self.drop_after], None
            request.close_connection = True
        request.wfile.write(body)


class _Server(ThreadingHTTPServer):
    """Ends the connections that clients keep, so that its threads end with it."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client may go at any time."""

    def process_request(self, request: object, client_address: object) -> None:
        if isinstance(request, socket.socket):
            self._open.add(request)
        super().process_request(request, client_address)  # type: ignore[arg-type]

    def shutdown_request(self, request: object) -> None:
        if isinstance(request, socket.socket):
            self._open.discard(request)
        super().shutdown_request(request)  # type: ignore[arg-type]

    def close_connections(self) -> None:
        for sock in list(self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
