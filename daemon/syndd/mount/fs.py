"""The filesystem: entities and local changes as files and folders, in terms of nodes. No FUSE type here.

Every answer comes from the store or from a file on disk, at once; whatever needs the service is a
Future with a deadline. Names with ``@`` that synd keeps for itself are served here; what the user
changes is `changing`'s matter, reading of fixed content `reading`'s.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import NoReturn

from synd.cache.folder import Cache
from synd.errors import IsDirectory, NotDirectory, NotFound, Offline, Stale
from synd.ids import EntityId, entity_version, syn
from synd.mirror.contents import Contents
from synd.mirror.following import is_bare, miss
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.siblings import Siblings
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.mirror.tree import Tree
from synd.mirror.urls import Urls
from synd.mirror.walk import Walk
from synd.model import FileVersion, Kind, VersionInfo
from synd.paths import is_dropping, is_own_name, split_version
from synd.ranges import FileSlice
from synd.store.entities import TOP, Change, Row
from synd.store.local import FIRST, Local, LocalKind
from syndd.mount import attrs
from syndd.mount.attrs import (
    BYTES_KINDS,
    CONTAINER_KINDS,
    DIR_MODE,
    FILE_MODE,
    FIXED_MODE,
    KNOWN_TTL_S,
    LINK_MODE,
)
from syndd.mount.chain import chain, unless
from syndd.mount.changing import Changing
from syndd.mount.info import InfoFiles
from syndd.mount.nodes import (
    BY_ID,
    ENTITY_BASE,
    MADE_KINDS,
    READY_KINDS,
    VERSION_SHIFT,
    NodeKind,
    entity_node,
    folder_node,
    pack,
    unpack,
)
from syndd.mount.ops import (
    ROOT,
    Answer,
    Attr,
    DirEntry,
    Notices,
    Opened,
    StatFs,
)
from syndd.mount.reading import Reading
from syndd.mount.ready import ReadyTree
from syndd.mount.validations import XATTR as VALIDATION_XATTR
from syndd.mount.validations import Validations

log = logging.getLogger(__name__)

NEGATIVE_TTL_S = 60.0

_LINK = str(Kind.LINK)
_PAGE = 1024
"""Rows read at once for a listing."""

WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_CREAT


class SynapseFs:
    """The tree of a mount. Methods may be called from any thread; none blocks but on the local disk."""

    negative_ttl_s = NEGATIVE_TTL_S

    def __init__(
        self,
        tree: Tree,
        sizes: Sizes,
        streams: Streams,
        urls: Urls,
        cache: Cache,
        siblings: Siblings,
        walk: Walk,
        info: InfoFiles,
        overlay: Overlay,
        contents: Contents,
        *,
        portal: str,
    ) -> None:
        self._tree = tree
        self._entities = tree.entities
        self._sizes = sizes
        self._siblings = siblings
        self._walk = walk
        self._info = info
        self._overlay = overlay
        self._locals = overlay.locals
        self._contents = contents
        self._validations = Validations(overlay)
        self._reading = Reading(
            tree,
            streams,
            urls,
            cache,
            siblings,
            info,
            self._validations,
            versions=self._versions,
            portal=portal,
        )
        self.ready = ReadyTree(self, tree.entities, sizes, overlay, cache, self._reading)
        changing = self.changing = Changing(self, overlay, contents)
        # What a user of the mount changes goes straight there.
        self.access = changing.check_changeable
        self.create = changing.create
        self.mknod = changing.mknod
        self.mkdir = changing.mkdir
        self.symlink = changing.symlink
        self.link = changing.link
        self.unlink = changing.unlink
        self.rmdir = changing.rmdir
        self.rename = changing.rename
        self.setattr = changing.setattr
        self.write = changing.write
        self.fallocate = changing.fallocate
        self.flush = changing.flush
        self.fsync = changing.fsync
        self.fsyncdir = changing.fsyncdir
        self.setxattr = changing.setxattr
        self.removexattr = changing.removexattr
        self._listed: set[int] = set()
        self._own_listed: set[int] = set()
        """Folders with ``@`` that were listed: the kernel keeps their listings as well."""
        self.notices: Notices | None = None
        tree.on_changes(self._changed)
        contents.on_settled = self.name_changed

    # Names.

    def lookup(self, parent: int, name: bytes) -> Answer[Attr]:
        if parent == ROOT:
            if name == b"@id":
                return attrs.own_folder(BY_ID, BY_ID, 0)
            return self._in_folder(TOP, name)
        if parent == BY_ID:
            return self._by_id(name)
        node = unpack(parent)
        if node.kind is NodeKind.ENTITY:
            return self._in_folder(node.entity, name)
        if node.kind is NodeKind.VERSION and node.version == 0:
            return self._in_folder(self._overlay.key_of(node.entity), name)
        if node.kind is NodeKind.VERSIONS:
            return chain(self.child(node.entity, name), self._file_versions_attr)
        if node.kind is NodeKind.FILE_VERSIONS:
            if not name.isdigit() or name.startswith(b"0"):
                _missing(name)
            return self._version_attr(node.entity, int(name))
        if node.kind is NodeKind.READY:
            return self.ready.lookup(node.entity, name)
        if node.kind is NodeKind.INFO:
            if not name.endswith(b".json"):
                _missing(name)
            for about in self._validations.names_of(name):
                known = self._overlay.known_child(node.entity, about)
                if known is not None and known.row is not None and self._validations.has(known.row):
                    return self._validation_attr(known.row)
            return chain(self.child(node.entity, name[:-5]), self._info_attr)
        raise NotDirectory(f"node {parent} is not a folder")

    def _in_folder(self, folder: int, name: bytes) -> Answer[Attr]:
        if b"@" in name and is_own_name(name):
            return self._own_name(folder, name)
        return chain(self.child(folder, name), self.attr)

    def child(self, folder: int, name: bytes) -> Answer[Seen]:
        """What a name leads to, once the folder is known well enough. `folder` is a key."""
        own = self._overlay.child(folder, name)
        if own is not None:
            return own
        entity = self._overlay.entity_of(folder) if folder >= FIRST else EntityId(folder)
        if entity is None:
            _missing(name)
        self._tree.visit(entity)
        row = self._entities.child(entity, name)
        if row is not None:
            return self._shown(row, name)
        if self.is_listed(entity):
            # A link whose URL answers no size shows as NAME.url, and is found by NAME as well.
            row = self._entities.child(entity, name + b".url")
            if row is not None and row.url is not None:
                return self._shown(row, name)
            _missing(name)
        if is_dropping(name.decode(errors="surrogateescape")):
            _missing(name)
        return chain(self._tree.child(entity, name), lambda r: self._shown(r, name))

    def _shown(self, row: Row, name: bytes) -> Seen:
        """A row of the service's tree, unless a local change speaks for it."""
        if self._overlay.hides(row):
            _missing(name)
        return Seen(None, row)

    def is_listed(self, folder: int) -> bool:
        """Whether the listing of a folder (an entity) is here."""
        if folder in self._listed:
            return True
        if self._tree.folders.is_listed(folder):
            self._listed.add(folder)
            return True
        return False

    def listed(self, folder: int) -> Answer[None]:
        """Settled once all names of a folder, by its key, are known."""
        entity = self._overlay.entity_of(folder)
        if entity is None or self.is_listed(entity):
            return None
        return self._tree.listed(entity)

    def _own_name(self, folder: int, name: bytes) -> Answer[Attr]:
        if name == b"@versions":
            return attrs.own_folder(pack(NodeKind.VERSIONS, folder), 0, 0)
        if name == b"@info":
            return attrs.own_folder(pack(NodeKind.INFO, folder), 0, 0)
        if name == b"@ready":
            return self.ready.folder(folder)
        parts = split_version(name.decode(errors="surrogateescape"))
        if parts is None:
            _missing(name)
        base, number = parts
        return chain(
            self.child(folder, base.encode(errors="surrogateescape")),
            lambda seen: self._version_attr(_entity(seen, name), number),
        )

    def _by_id(self, name: bytes) -> Answer[Attr]:
        text = name.decode(errors="replace")
        if not text.startswith("syn") or not text[3:].replace(".", "", 1).isdigit():
            _missing(name)
        try:
            entity, number = entity_version(text)
        except Exception:  # noqa: BLE001 - whatever the text is, it names nothing
            _missing(name)
        if number is not None:
            return self._version_attr(entity, number)
        place = self._tree.ask(
            ("place", entity), syn(entity), "finding an entity", lambda: self._tree.place(entity)
        )
        return chain(place, self._by_id_attr)

    def _by_id_attr(self, row: Row) -> Answer[Attr]:
        key = self._overlay.key_of(row.id)
        path = self._overlay.path_of(key)
        if path is None or (path[0] == b"@id" and len(path) == 2):
            seen = self._overlay.seen(key)
            return self.attr(seen if seen is not None else Seen(None, row))
        # A folder may have one place only, or the kernel would move it about.
        target = _join(path[1:]) if path[0] == b"@id" else b"../" + _join(path)
        return Attr(
            pack(NodeKind.VERSION, row.id, 0), row.id, LINK_MODE, len(target),
            row.modified_ns, row.modified_ns, 1, KNOWN_TTL_S, 60.0,
        )  # fmt: skip

    # Attributes.

    def getattr(self, node: int) -> Answer[Attr]:
        if node in (ROOT, BY_ID):
            return attrs.own_folder(node, node, 0)
        what = unpack(node)
        if what.kind is NodeKind.ENTITY:
            return self._entity_attr(node, what.entity, what.version)
        if what.kind is NodeKind.STAGED:
            local = self._locals.of_staged(what.entity)
            if local is None:
                raise Stale("the file has become another one")
            return attrs.of_staged(local, self._contents.stat(what.entity))
        if what.kind is NodeKind.LOCAL:
            return attrs.of_local(self._local(what.entity))
        if what.kind is NodeKind.VERSION:
            if what.version == 0:
                return self._by_id(syn(what.entity).encode())
            return self._version_attr(what.entity, what.version)
        if what.kind is NodeKind.INFO_FILE:
            return self._info_attr(Seen(None, self._entities.get(what.entity)))
        if what.kind is NodeKind.VALIDATION:
            return self._validation_attr(self._entities.get(what.entity))
        if what.kind in READY_KINDS:
            return self.ready.getattr(node)
        return attrs.own_folder(node, 0, 0)

    def _entity_attr(self, node: int, key: int, version: int) -> Answer[Attr]:
        seen = self._overlay.seen(key)
        if seen is None:
            raise Stale(f"{syn(key)} is not known any more")
        row = seen.row
        if seen.is_folder or row is None:
            return self.attr(seen)
        if row.version != version:
            return chain(
                self._reading.file_of(node), lambda f: attrs.fixed_file(node, key, f.size or 0, 0)
            )
        if seen.local is not None and seen.local.staged:
            # Of those that had it open before it was edited.
            return attrs.with_local(attrs.of_row(row), seen.local, row)
        return self.attr(seen)

    def attr(self, seen: Seen) -> Answer[Attr]:
        """What stat shows of a thing; waits a bounded moment for a size."""
        local, row = seen
        if local is None:
            assert row is not None
            found = self._row_attr(row)
            if row.id in self._overlay.changed_at and row.kind in CONTAINER_KINDS:
                return self._with_changes(attrs.of_row(row), row.id)
            return found
        if local.staged:
            return attrs.of_staged(local, self._contents.stat(local.staged))
        if local.is_folder:
            if row is None:
                return self._with_changes(attrs.of_local(local), local.key)
            attr = attrs.of_row(row)._replace(node=ENTITY_BASE | local.key)
            return self._with_changes(attrs.with_local(attr, local, row), local.key)
        if local.kind != LocalKind.FILE and (row is None or local.target is not None):
            return attrs.of_local(local)
        if row is None:
            raise Stale("the file has become another one")
        return chain(self._row_attr(row), lambda attr: attrs.with_local(attr, local, row))

    def _with_changes(self, attr: Attr, key: int) -> Attr:
        """A folder's times, moved on by what was made and removed in it."""
        at = self._overlay.changed_at.get(key, 0)
        if not at:
            return attr
        return attr._replace(mtime_ns=max(attr.mtime_ns, at), ctime_ns=max(attr.ctime_ns, at))

    def _row_attr(self, row: Row) -> Answer[Attr]:
        if row.kind in BYTES_KINDS and not row.detailed:
            wanted = self._sizes.want(row)
            if wanted is None:
                return attrs.of_row(row)
            # Offline it is "not known yet", too: what is only to be moved or removed needs no size.
            return chain(
                unless(wanted, Offline, None),
                lambda found: attrs.of_row(found if found is not None else row),
            )
        return attrs.of_row(row)

    def _local(self, number: int) -> Local:
        found = self._locals.find(number)
        if found is None:
            raise Stale("what was made here is gone")
        return found

    def seen(self, node: int) -> Seen:
        """What a node stands for now. Raises Stale, and NotFound for synd's own nodes."""
        what = unpack(node)
        found: Seen | None = None
        if what.kind is NodeKind.ENTITY:
            found = self._overlay.seen(what.entity)
        elif what.kind in (NodeKind.STAGED, NodeKind.LOCAL):
            local = (
                self._locals.of_staged(what.entity)
                if what.kind is NodeKind.STAGED
                else self._locals.find(what.entity)
            )
            if local is not None:
                found = Seen(local, self._entities.find(local.entity) if local.entity else None)
        else:
            raise NotFound("one of synd's own")
        if found is None:
            raise Stale("it is not known any more")
        return found

    def _version_attr(self, entity: EntityId, number: int) -> Answer[Attr]:
        def attr(versions: Sequence[VersionInfo]) -> Attr:
            found = next((v for v in versions if v.number == number), None)
            if found is None:
                raise NotFound(f"{syn(entity)} has no version {number}", entity=syn(entity))
            node = pack(NodeKind.VERSION, entity, number)
            return attrs.fixed_file(node, node, found.size or 0, found.modified_on_ns)

        return chain(self._versions(entity), attr)

    def _versions(self, entity: EntityId) -> Answer[Sequence[VersionInfo]]:
        row = self._entities.find(entity)
        if row is not None:
            if row.kind not in BYTES_KINDS:
                raise NotFound(f"{syn(entity)} has no versions", entity=syn(entity))
            if self._entities.versions_listed(row):
                return self._entities.versions(entity)
        return self._tree.versions(entity)  # type: ignore[return-value]

    def _file_versions_attr(self, seen: Seen) -> Attr:
        row = seen.row
        if row is None or row.kind not in BYTES_KINDS:
            raise NotFound(f"{seen.name!r} has no versions")
        return attrs.own_folder(pack(NodeKind.FILE_VERSIONS, row.id), 0, row.modified_ns)

    def _info_attr(self, seen: Seen) -> Answer[Attr]:
        row = seen.row
        if row is None:
            raise NotFound(f"{seen.name!r} is not on the service yet")
        node = pack(NodeKind.INFO_FILE, row.id)
        return chain(
            self._info.content(row),
            lambda data: attrs.fixed_file(node, node, len(data), row.modified_ns, ttl_s=1.0),
        )

    def _validation_attr(self, row: Row) -> Attr:
        node = pack(NodeKind.VALIDATION, row.id)
        report = self._validations.report(row)
        return attrs.fixed_file(node, node, len(report.data), report.made_ns, ttl_s=1.0)

    def readlink(self, node: int) -> Answer[bytes]:
        what = unpack(node)
        if what.kind is NodeKind.LOCAL:
            return self._local(what.entity).target or b""
        if what.kind is NodeKind.VERSION and what.version == 0:
            path = self._overlay.path_of(self._overlay.key_of(what.entity)) or []
            return _join(path[1:]) if path[:1] == [b"@id"] else b"../" + _join(path)
        row = self._entities.get(what.entity)
        # Unlike a version's bytes, where a link leads can change.
        if row.target is None or not row.current:
            return chain(self._tree.detailed(row.id), self._link_target)
        return self._link_target(row)

    def _link_target(self, row: Row) -> bytes:
        """Relative, so that it holds wherever the tree is mounted."""
        if row.target is None:
            raise NotFound(f"the link {row.name!r} has no target", entity=syn(row.id))
        up = len(self._overlay.path_of(self._overlay.key_of(row.id)) or [b""]) - 1
        if row.target_version is not None:
            path = [b"@id", f"{syn(row.target)}.{row.target_version}".encode()]
        else:
            path = self._overlay.path_of(self._overlay.key_of(row.target)) or [
                b"@id",
                syn(row.target).encode(),
            ]
        return b"../" * up + _join(path)

    # Folders.

    def opendir(self, node: int) -> Answer[None]:
        if node == BY_ID:
            return None
        node = self._place_of(node)
        folder = int(TOP)
        if node != ROOT:
            what = unpack(node)
            if what.kind is NodeKind.FILE_VERSIONS:
                return chain(self._versions(what.entity), lambda _: None)
            folder = what.entity
            if folder >= FIRST:
                entity = self._overlay.entity_of(folder)
                if entity is None:
                    return None
                folder = entity
            # What was listed is a folder; this row would cost 7 µs in each of the thousands of a `find`.
            if what.kind is NodeKind.ENTITY and folder not in self._listed:
                row = self._entities.find(folder)
                if row is not None and row.kind not in CONTAINER_KINDS:
                    raise NotDirectory(f"{row.name!r} is not a folder")
        entity = EntityId(folder)
        self._tree.visit(entity)
        if self.is_listed(entity):
            self._walk.opened(entity, fresh=False)
            return None
        return chain(self._tree.listed(entity), lambda _: self._walk.opened(entity, fresh=True))

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Answer[Iterable[DirEntry]]:
        if node == BY_ID:
            return ()
        node = self._place_of(node)
        if node == ROOT:
            return self._when_listed(TOP, lambda: self._entries(TOP, cookie, plus))
        what = unpack(node)
        if what.kind is not NodeKind.ENTITY:
            self._own_listed.add(node)
        match what.kind:
            case NodeKind.ENTITY:
                return self._when_listed(
                    what.entity, lambda: self._entries(what.entity, cookie, plus)
                )
            case NodeKind.VERSIONS:
                return self._when_listed(
                    what.entity, lambda: self._version_folders(what.entity, cookie)
                )
            case NodeKind.FILE_VERSIONS:
                return chain(
                    self._versions(what.entity),
                    lambda versions: _version_files(what.entity, versions, cookie),
                )
            case NodeKind.INFO:
                return self._when_listed(what.entity, lambda: self._info_files(what.entity, cookie))
            case NodeKind.READY:
                return self._when_listed(
                    what.entity, lambda: self.ready.listing(what.entity, cookie)
                )
        raise NotDirectory(f"node {node} is not a folder")

    def entries(self, folder: int) -> Iterable[DirEntry]:
        """All names of a folder, by its key, that is listed; without attributes."""
        return self._entries(folder, 0, plus=False)

    def _place_of(self, node: int) -> int:
        """The folder itself for ``@id/syn123``, which was a folder before its project was in the mount: a
        transport that goes by paths may ask of it still.
        """
        if node in (ROOT, BY_ID):
            return node
        what = unpack(node)
        if what.kind is NodeKind.VERSION and what.version == 0:
            return folder_node(self._overlay.key_of(what.entity))
        return node

    def _when_listed(
        self, folder: int, entries: Callable[[], Iterable[DirEntry]]
    ) -> Answer[Iterable[DirEntry]]:
        waiting = self.listed(folder)
        return entries() if waiting is None else chain(waiting, lambda _: entries())

    def _entries(self, folder: int, cookie: int, plus: bool) -> Iterator[DirEntry]:
        bare = not self._locals.claims and not self._locals.has_children(folder)
        if bare and not self._overlay.limbo:
            return self._told(EntityId(folder), cookie, plus)
        return self._merged(folder, cookie, plus)

    def _told(self, folder: EntityId, cookie: int, plus: bool) -> Iterator[DirEntry]:
        """The hot loop of `find`: bare rows, no call per entry but the two tuples."""
        names = self._entities.names
        while True:
            rows = names(folder, cookie, _PAGE)
            for entity, name, kind, version, modified_ns, size, detail_ns in rows:
                attr: Attr | None
                if kind in BYTES_KINDS:
                    mode = FILE_MODE
                    node = ENTITY_BASE | version << VERSION_SHIFT | entity
                    attr = None
                    if plus and detail_ns >= 0:
                        attr = Attr(
                            node, entity, mode, size or 0, modified_ns, modified_ns, 1,
                            KNOWN_TTL_S, KNOWN_TTL_S,
                        )  # fmt: skip
                elif kind in CONTAINER_KINDS:
                    mode = DIR_MODE
                    attr = Attr(
                        ENTITY_BASE | entity, entity, DIR_MODE, 0, modified_ns, modified_ns, 1,
                        KNOWN_TTL_S, KNOWN_TTL_S,
                    )  # fmt: skip
                else:
                    mode = LINK_MODE if kind == _LINK else FILE_MODE
                    attr = None
                yield DirEntry(name, entity, entity, mode, attr)
            if len(rows) < _PAGE:
                return
            cookie = rows[-1][0]

    def _merged(self, folder: int, cookie: int, plus: bool) -> Iterator[DirEntry]:
        """What the service told and what is local, in order of key: a key never changes, so nothing is
        left out or told twice while a listing is read in pieces.
        """
        entity = self._overlay.entity_of(folder)
        claims = self._locals.claims
        if cookie < FIRST:
            here = {local.key: local for local in self._locals.taken_over(folder)}
            coming = sorted(key for key in here if key > cookie)
            at = 0
            told = () if entity is None else self._told(entity, cookie, plus)
            for entry in told:
                while at < len(coming) and coming[at] <= entry.cookie:
                    yield self._own_entry(here[coming[at]], plus)
                    at += 1
                if entry.cookie in claims or self._overlay.in_limbo(entity or 0, entry.name):
                    continue
                if self._locals.child(folder, entry.name) is None:
                    yield entry
            for key in coming[at:]:
                yield self._own_entry(here[key], plus)
            cookie = FIRST - 1
        while True:
            rows = self._locals.children(folder, cookie, _PAGE)
            for local in rows:
                if local.key == local.id:
                    yield self._own_entry(local, plus)
            if len(rows) < _PAGE:
                return
            cookie = rows[-1].id

    def _own_entry(self, local: Local, plus: bool) -> DirEntry:
        attr: Attr | None = None
        if plus:
            try:
                seen = Seen(local, self._entities.find(local.entity) if local.entity else None)
                found = self.attr(seen)
                attr = None if isinstance(found, Future) else found
            except Stale:
                attr = None
        mode = {"folder": DIR_MODE, "symlink": LINK_MODE}.get(local.kind, FILE_MODE)
        if local.kind == LocalKind.SPECIAL and local.mode is not None:
            mode = local.mode
        return DirEntry(local.name, local.key, local.key, mode if attr is None else attr.mode, attr)

    def _version_folders(self, folder: int, cookie: int) -> Iterator[DirEntry]:
        for row in self._entities.children(self._overlay.entity_of(folder) or -1, cookie):
            if row.kind in BYTES_KINDS:
                attr = self._file_versions_attr(Seen(None, row))
                yield DirEntry(row.file_name, row.id, attr.ino, attr.mode, attr)

    def _info_files(self, folder: int, cookie: int) -> Iterator[DirEntry]:
        entity = self._overlay.entity_of(folder) or -1
        for row in self._entities.children(entity, cookie) if cookie < FIRST else ():
            node = pack(NodeKind.INFO_FILE, row.id)
            yield DirEntry(row.file_name + b".json", row.id, node, FIXED_MODE, None)
        for row in self._validations.reported_in(entity, max(0, cookie - FIRST)):
            told = pack(NodeKind.VALIDATION, row.id)
            name = self._validations.name_of(row.file_name)
            yield DirEntry(name, FIRST + row.id, told, FIXED_MODE, None)

    # Files.

    def open(self, node: int, flags: int) -> Answer[Opened]:
        what = unpack(node)
        if what.kind is NodeKind.STAGED:
            return self.changing.reopen(what.entity, flags)
        if what.kind is NodeKind.ENTITY:
            if what.entity in self._locals.claims or what.entity >= FIRST:
                seen = self._overlay.seen(what.entity)
                if seen is not None and seen.is_folder:
                    raise IsDirectory(f"{seen.name!r} is a folder")
                if seen is None or seen.local is None or seen.local.gone or seen.local.staged:
                    raise Stale("the file has become another one")
            if flags & WRITE_FLAGS:
                return self.changing.begin(what.entity, what.version, flags)
        elif flags & WRITE_FLAGS:
            self.changing.refuse_own()
        if what.kind in READY_KINDS:
            return self.ready.open(node, flags)
        return self._reading.open(node)

    def opened(self, node: int, handle: int) -> None:
        if node >> 60 in MADE_KINDS:
            self.ready.opened(node, handle)
        else:
            self.changing.opened(node, handle)

    def read(
        self, node: int, handle: int, offset: int, size: int
    ) -> Answer[bytes | memoryview | FileSlice]:
        if node >> 60 == NodeKind.STAGED:
            return self._contents.read(unpack(node).entity, offset, size)  # type: ignore[return-value]
        return self._reading.read(node, handle, offset, size)

    def release(self, node: int, handle: int) -> None:
        if node >> 60 == NodeKind.STAGED:
            self._contents.released(unpack(node).entity, handle)
        else:
            self._reading.release(node, handle)

    def forget(self, node: int, lookups: int) -> None:
        """Nothing is kept per node."""

    # The rest.

    def getxattr(self, node: int, name: bytes) -> Answer[bytes]:
        return chain(self._xattrs(node), lambda found: _pick(found, name))

    def listxattr(self, node: int) -> Answer[list[bytes]]:
        return chain(self._xattrs(node), list)

    def _xattrs(self, node: int) -> Answer[dict[bytes, bytes]]:
        if node in (ROOT, BY_ID):
            return {}
        what = unpack(node)
        if what.kind is NodeKind.VERSION and what.version:
            return chain(self._reading.file_of(node), self._version_xattrs)
        if what.kind in READY_KINDS:
            return self.ready.xattrs(node)
        if what.kind not in (NodeKind.ENTITY, NodeKind.STAGED, NodeKind.LOCAL):
            return {}
        seen = self.seen(node)
        if seen.local is not None:
            own = self.changing.xattrs(seen.local)
            if seen.row is None:
                return own
            if (said := self._validations.state(seen.row, seen.local)) is not None:
                own[VALIDATION_XATTR] = said.encode()
            return chain(self._row_xattrs(seen.row), lambda found: {**found, **own})
        assert seen.row is not None
        said = self._validations.state(seen.row, None)
        own = {} if said is None else {VALIDATION_XATTR: said.encode()}
        return chain(self._row_xattrs(seen.row), lambda found: {**found, **own})

    def _row_xattrs(self, row: Row) -> Answer[dict[bytes, bytes]]:
        known = self._entities.annotations(row)
        if known is None:
            return chain(self._tree.detailed(row.id), self._entity_xattrs)
        return self._entity_xattrs(row)

    def _entity_xattrs(self, row: Row) -> dict[bytes, bytes]:
        found = {b"user.synapse.id": syn(row.id).encode(), b"user.synapse.etag": row.etag.encode()}
        if row.kind in BYTES_KINDS:
            found |= self._version_xattrs(row.file())
        if row.url:
            found[b"user.synapse.external_url"] = row.url.encode()
        for key, (_, values) in (self._entities.annotations(row) or {}).items():
            name = f"user.synapse.annotations.{key}".encode()
            if len(name) <= 255:
                found[name] = "\n".join(values).encode()
        return found

    def _version_xattrs(self, file: FileVersion) -> dict[bytes, bytes]:
        found = {
            b"user.synapse.id": syn(file.entity).encode(),
            b"user.synapse.version": str(file.version).encode(),
            b"user.synapse.state": self.state_of(file).encode(),
        }
        if file.md5:
            found[b"user.synapse.md5"] = file.md5.encode()
        return found

    def state_of(self, file: FileVersion) -> str:
        """Where a version's bytes are: remote, fetching, cached, or corrupt."""
        return self._reading.state_of(file)

    def statfs(self) -> StatFs:
        """The disk of the staging files: what is free there can be written."""
        try:
            disk = self._contents.statvfs()
        except OSError:
            return StatFs(4096, 1 << 28, 1 << 28, 1 << 20, 1 << 20)
        return StatFs(disk.f_frsize, disk.f_blocks, disk.f_bavail, disk.f_files, disk.f_favail)

    # Changes, by the service.

    def _changed(self, changes: Sequence[Change]) -> None:
        """Tells the kernel. On whatever thread saw the change; never on one that answers it."""
        miss(self._overlay, [change.id for change in changes if change.gone])
        for change in changes:
            if change.gone and change.id in self._listed:
                # Should it come back, what the kernel kept of its names is of old.
                self._listed.discard(change.id)
                if self.notices is not None:
                    self.notices.node(folder_node(self._key_of(change.id)), data=True)
            if change.appeared or change.moved_on or change.gone:
                self._give_way(change)
        for change in changes:
            for folder, name in self._overlay.follow(change.id, gone=change.gone):
                self.name_changed(folder, name)
            if change.gone and (number := self._locals.claims.get(change.id)) is not None:
                self._contents.settle(number)
        for shown_in in {change.parent for change in changes}:
            self.ready.changed(self._key_of(shown_in))
        notices = self.notices
        if notices is None:
            return
        folders: set[int] = set()
        for change in changes:
            parent = folder_node(self._key_of(change.parent))
            if change.gone or change.moved_on or change.appeared:
                notices.entry(parent, change.file_name)
                folders.add(change.parent)
                self._own_changed(NodeKind.FILE_VERSIONS, change.id)
                continue
            row = self._entities.find(change.id)
            if row is not None:
                version = 0 if row.kind in CONTAINER_KINDS else row.version
                key = self._key_of(change.id) if version == 0 else change.id
                notices.node(entity_node(key, version), data=change.rewritten)
        for folder in folders:
            self._siblings.forget(EntityId(folder))
            key = self._key_of(folder)
            notices.node(folder_node(key), data=True)
            self._own_changed(NodeKind.VERSIONS, key)
            self._own_changed(NodeKind.INFO, key)

    def _give_way(self, change: Change) -> None:
        """What is empty here hides nothing that others made: sending asks what they did to it."""
        rows = [self._locals.of_entity(change.id)] if change.id in self._locals.claims else []
        own = self._overlay.child(self._key_of(change.parent), change.file_name)
        rows += [] if own is None else [own.local]
        for row in rows:
            if row is not None and is_bare(row):
                with self._overlay.change() as tx:
                    self._overlay.queue(tx, self._locals.get(row.id, tx), delay_s=0.0)

    def _key_of(self, entity: int) -> int:
        return self._overlay.key_of(entity) if entity > 0 else max(entity, 0)

    def name_changed(self, folder: int, name: bytes) -> None:
        """A name in a folder, by its key, leads elsewhere now. Any thread: notices only queue up."""
        if self.notices is not None:
            self.notices.entry(folder_node(folder), name)
            self.notices.node(folder_node(folder), data=True)

    def _own_changed(self, kind: NodeKind, entity: int) -> None:
        node = pack(kind, entity)
        if node in self._own_listed and self.notices is not None:
            self.notices.node(node, data=True)

    def validated(self, entity: EntityId) -> None:
        """There may be another report about a record set."""
        row = self._entities.find(entity)
        if row is None or self.notices is None or not self._validations.has(row):
            return
        folder = self._key_of(row.parent)
        self.notices.entry(pack(NodeKind.INFO, folder), self._validations.name_of(row.file_name))
        self.notices.node(pack(NodeKind.VALIDATION, entity), data=True)
        self._own_changed(NodeKind.INFO, folder)

    def node_changed(self, node: int) -> None:
        """What the kernel holds of a node is wrong."""
        if self.notices is not None:
            self.notices.node(node, data=True)

    def content_changed(self, file: FileVersion) -> None:
        """Bytes of this content that the kernel may hold are wrong: they go."""
        if self.notices is not None:
            self.notices.node(entity_node(file.entity, file.version), data=True)

    def open_files(self) -> int:
        """Nodes read through the daemon just now."""
        return len(self._reading)


def _missing(name: bytes) -> NoReturn:
    raise NotFound(f"no {name.decode(errors='replace')!r}")


def _entity(seen: Seen, name: bytes) -> EntityId:
    if seen.entity is None:
        _missing(name)
    return seen.entity


def _pick(found: dict[bytes, bytes], name: bytes) -> bytes:
    if name not in found:
        raise NotFound(f"no attribute {name!r}")
    return found[name]


def _join(path: Sequence[bytes]) -> bytes:
    return b"/".join(path)


def _version_files(
    entity: EntityId, versions: Sequence[VersionInfo], cookie: int
) -> Iterator[DirEntry]:
    for version in sorted(versions, key=lambda v: v.number):
        if version.number <= cookie:
            continue
        node = pack(NodeKind.VERSION, entity, version.number)
        attr = attrs.fixed_file(node, node, version.size or 0, version.modified_on_ns)
        yield DirEntry(str(version.number).encode(), version.number, node, FIXED_MODE, attr)
