"""The filesystem: entities as files and folders, in terms of nodes. No FUSE type appears here.

Every answer comes from the store or from an object on disk, at once; whatever needs the service is a
Future with a deadline. This is the read-only tree: whatever would change it raises ReadOnly. Names
with ``@`` are synd's own (`virtual`); how bytes arrive is `synd.mirror.streams`' matter.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any, NoReturn, TypeVar

from synd.cache.folder import Cache
from synd.errors import (
    Forbidden,
    IntegrityError,
    IsDirectory,
    NotDirectory,
    NotFound,
    NotSupported,
    ReadOnly,
    Stale,
)
from synd.ids import ContentKey, EntityId, Version, content_key, entity_version, syn
from synd.mirror.siblings import Siblings
from synd.mirror.sizes import Sizes
from synd.mirror.streams import SMALL, Reader, Streams
from synd.mirror.tree import Tree
from synd.mirror.urls import Urls
from synd.mirror.waits import fail, settle, then
from synd.mirror.walk import Walk
from synd.model import CONTAINERS, FileRef, FileVersion, Kind, VersionInfo
from synd.paths import is_dropping, split_version
from synd.ranges import FileSlice
from synd.store.entities import TOP, Change, Row
from syndd.mount.info import InfoFiles
from syndd.mount.nodes import (
    BY_ID,
    ENTITY_BASE,
    VERSION_SHIFT,
    NodeKind,
    entity_node,
    folder_node,
    pack,
    unpack,
)
from syndd.mount.ops import ROOT, Answer, Attr, DirEntry, Notices, Opened, StatFs

U = TypeVar("U")
log = logging.getLogger(__name__)

KNOWN_TTL_S = 600.0
"""How long the kernel may believe a name or an attribute. Right because changes are told to it; and
shorter than `poll.ACTIVE_S`, so that whoever still uses a folder is heard of before it goes unpolled."""

NEGATIVE_TTL_S = 60.0

DIR_MODE = stat.S_IFDIR | 0o555
FILE_MODE = stat.S_IFREG | 0o444
LINK_MODE = stat.S_IFLNK | 0o777

_CONTAINER_KINDS = frozenset(str(k) for k in CONTAINERS)
_LINK = str(Kind.LINK)
_BYTES_KINDS = frozenset({str(Kind.FILE), str(Kind.RECORD_SET)})
_PAGE = 1024
"""Rows read at once for a listing."""

PASSTHROUGH_FROM = 64 << 10
"""Smaller files are answered from memory: two ioctls to open one for passthrough cost more than its bytes
do, and from then on the page cache has them."""

ECHO_S = 0.5
"""A read that failed fails again, once, without another try if it comes back so soon."""

EXPECTED_MOST = 1024

_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_TRUNC | os.O_APPEND | os.O_CREAT


class _OpenFile:
    """What the reads of one node use, from the first read to the last release."""

    __slots__ = ("data", "failed", "fd", "handles", "held", "reader")

    def __init__(self) -> None:
        self.handles: set[int] = set()
        self.fd: int | None = None
        self.held: ContentKey | None = None
        """What must not be evicted meanwhile."""
        self.reader: Reader | None = None
        self.data: bytes | None = None
        self.failed: tuple[int, int, float, BaseException] | None = None
        """Start, end and monotonic time of the last read that ended in an error, and the error."""


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
        *,
        portal: str,
    ) -> None:
        self._tree = tree
        self._entities = tree.entities
        self._sizes = sizes
        self._streams = streams
        self._urls = urls
        self._cache = cache
        self._siblings = siblings
        self._walk = walk
        self._info = info
        self._portal = portal
        # Held for a dictionary access only; a leaf.
        self._lock = threading.Lock()
        self._open: dict[int, _OpenFile] = {}
        self._expected: dict[int, FileVersion] = {}
        """What small nodes name that were opened and will be read next: spares a look at the store."""
        self._listed: set[int] = set()
        self._own_listed: set[int] = set()
        """Folders with ``@`` that were listed: the kernel keeps their listings as well."""
        self.notices: Notices | None = None
        tree.on_changes(self._changed)

    # Names.

    def lookup(self, parent: int, name: bytes) -> Answer[Attr]:
        if parent == ROOT:
            if name == b"@id":
                return _folder_attr(BY_ID, BY_ID, 0)
            return self._in_folder(TOP, name)
        if parent == BY_ID:
            return self._by_id(name)
        node = unpack(parent)
        if node.kind is NodeKind.ENTITY:
            return self._in_folder(node.entity, name)
        if node.kind is NodeKind.VERSIONS:
            return self._with_child(node.entity, name, self._file_versions_attr)
        if node.kind is NodeKind.FILE_VERSIONS:
            if not name.isdigit() or name.startswith(b"0"):
                _missing(name)
            return self._version_attr(node.entity, int(name))
        if node.kind is NodeKind.INFO:
            if not name.endswith(b".json"):
                _missing(name)
            return self._with_child(node.entity, name[:-5], self._info_attr)
        raise NotDirectory(f"node {parent} is not a folder")

    def _in_folder(self, folder: EntityId, name: bytes) -> Answer[Attr]:
        if b"@" in name:
            return self._own_name(folder, name)
        return self._with_child(folder, name, self._attr)

    def _with_child(
        self, folder: EntityId, name: bytes, step: Callable[[Row], Answer[Attr]]
    ) -> Answer[Attr]:
        """`step` of the row of a name in a folder, once the folder is known well enough."""
        self._tree.visit(folder)
        row = self._entities.child(folder, name)
        if row is not None:
            return step(row)
        if self._is_listed(folder):
            # A link whose URL answers no size shows as NAME.url, and is found by NAME as well.
            row = self._entities.child(folder, name + b".url")
            if row is not None and row.url is not None:
                return step(row)
            _missing(name)
        if is_dropping(name.decode(errors="surrogateescape")):
            _missing(name)
        return _chain(self._tree.child(folder, name), step)

    def _is_listed(self, folder: EntityId) -> bool:
        if folder in self._listed:
            return True
        if self._tree.folders.is_listed(folder):
            self._listed.add(folder)
            return True
        return False

    def _own_name(self, folder: EntityId, name: bytes) -> Answer[Attr]:
        if name == b"@versions":
            return _folder_attr(pack(NodeKind.VERSIONS, folder), 0, 0)
        if name == b"@info":
            return _folder_attr(pack(NodeKind.INFO, folder), 0, 0)
        parts = split_version(name.decode(errors="surrogateescape"))
        if parts is None:
            _missing(name)
        base, number = parts
        return self._with_child(
            folder,
            base.encode(errors="surrogateescape"),
            lambda row: self._version_attr(row.id, number),
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
        return _chain(place, self._by_id_attr)

    def _by_id_attr(self, row: Row) -> Answer[Attr]:
        path = self._entities.path_of(row.id)
        if path is None or (path[0] == b"@id" and len(path) == 2):
            return self._attr(row)
        # A folder may have one place only, or the kernel would move it about.
        target = _join(path[1:]) if path[0] == b"@id" else b"../" + _join(path)
        return Attr(
            pack(NodeKind.VERSION, row.id, 0), row.id, LINK_MODE, len(target),
            row.modified_ns, row.modified_ns, 1, KNOWN_TTL_S, 60.0,
        )  # fmt: skip

    # Attributes.

    def getattr(self, node: int) -> Answer[Attr]:
        if node in (ROOT, BY_ID):
            return _folder_attr(node, node, 0)
        what = unpack(node)
        if what.kind is NodeKind.ENTITY:
            row = self._entities.find(what.entity)
            if row is None:
                raise Stale(f"{syn(what.entity)} is not known any more")
            if row.version == what.version or row.kind in _CONTAINER_KINDS:
                return self._attr(row)
            return _chain(
                self._file_of(node), lambda f: _file_attr(node, what.entity, f.size or 0, 0)
            )
        if what.kind is NodeKind.VERSION:
            if what.version == 0:
                return self._by_id(syn(what.entity).encode())
            return self._version_attr(what.entity, what.version)
        if what.kind is NodeKind.INFO_FILE:
            row = self._entities.get(what.entity)
            return self._info_attr(row)
        return _folder_attr(node, 0, 0)

    def _attr(self, row: Row) -> Answer[Attr]:
        """What stat shows of an entity; waits a bounded moment for a size."""
        if row.kind in _BYTES_KINDS and not row.detailed:
            wanted = self._sizes.want(row)
            if wanted is None:
                return _row_attr(row)
            return _chain(wanted, lambda found: _row_attr(found if found is not None else row))
        return _row_attr(row)

    def _version_attr(self, entity: EntityId, number: int) -> Answer[Attr]:
        def attr(versions: Sequence[VersionInfo]) -> Attr:
            found = next((v for v in versions if v.number == number), None)
            if found is None:
                raise NotFound(f"{syn(entity)} has no version {number}", entity=syn(entity))
            node = pack(NodeKind.VERSION, entity, number)
            return _file_attr(node, node, found.size or 0, found.modified_on_ns)

        return _chain(self._versions(entity), attr)

    def _versions(self, entity: EntityId) -> Answer[Sequence[VersionInfo]]:
        row = self._entities.find(entity)
        if row is not None:
            if row.kind not in _BYTES_KINDS:
                raise NotFound(f"{syn(entity)} has no versions", entity=syn(entity))
            if self._entities.versions_listed(row):
                return self._entities.versions(entity)
        return self._tree.versions(entity)  # type: ignore[return-value]

    def _file_versions_attr(self, row: Row) -> Attr:
        if row.kind not in _BYTES_KINDS:
            raise NotFound(f"{row.name!r} has no versions", entity=syn(row.id))
        return _folder_attr(pack(NodeKind.FILE_VERSIONS, row.id), 0, row.modified_ns)

    def _info_attr(self, row: Row) -> Answer[Attr]:
        node = pack(NodeKind.INFO_FILE, row.id)
        return _chain(
            self._info.content(row),
            lambda data: _file_attr(node, node, len(data), row.modified_ns, ttl_s=1.0),
        )

    def readlink(self, node: int) -> Answer[bytes]:
        what = unpack(node)
        if what.kind is NodeKind.VERSION and what.version == 0:
            path = self._entities.path_of(what.entity) or []
            return _join(path[1:]) if path[:1] == [b"@id"] else b"../" + _join(path)
        row = self._entities.get(what.entity)
        if row.target is None or not row.detailed:
            return _chain(self._tree.detailed(row.id), self._link_target)
        return self._link_target(row)

    def _link_target(self, row: Row) -> bytes:
        """Relative, so that it holds wherever the tree is mounted."""
        if row.target is None:
            raise NotFound(f"the link {row.name!r} has no target", entity=syn(row.id))
        up = len(self._entities.path_of(row.id) or [b""]) - 1
        if row.target_version is not None:
            path = [b"@id", f"{syn(row.target)}.{row.target_version}".encode()]
        else:
            path = self._entities.path_of(row.target) or [b"@id", syn(row.target).encode()]
        return b"../" * up + _join(path)

    # Folders.

    def opendir(self, node: int) -> Answer[None]:
        if node == BY_ID:
            return None
        folder = TOP
        if node != ROOT:
            what = unpack(node)
            if what.kind is NodeKind.FILE_VERSIONS:
                return _chain(self._versions(what.entity), lambda _: None)
            folder = what.entity
            # What was listed is a folder; this row would cost 7 µs in each of the thousands of a `find`.
            if what.kind is NodeKind.ENTITY and folder not in self._listed:
                row = self._entities.find(folder)
                if row is not None and row.kind not in _CONTAINER_KINDS:
                    raise NotDirectory(f"{row.name!r} is not a folder")
        self._tree.visit(folder)
        if self._is_listed(folder):
            self._walk.opened(folder, fresh=False)
            return None
        return _chain(self._tree.listed(folder), lambda _: self._walk.opened(folder, fresh=True))

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Answer[Iterable[DirEntry]]:
        if node == BY_ID:
            return ()
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
                return _chain(
                    self._versions(what.entity),
                    lambda versions: _version_files(what.entity, versions, cookie),
                )
            case NodeKind.INFO:
                return self._when_listed(what.entity, lambda: self._info_files(what.entity, cookie))
        raise NotDirectory(f"node {node} is not a folder")

    def _when_listed(
        self, folder: EntityId, entries: Callable[[], Iterable[DirEntry]]
    ) -> Answer[Iterable[DirEntry]]:
        if self._is_listed(folder):
            return entries()
        return _chain(self._tree.listed(folder), lambda _: entries())

    def _entries(self, folder: EntityId, cookie: int, plus: bool) -> Iterator[DirEntry]:
        """The hot loop of `find`: bare rows, no call per entry but the two tuples."""
        names = self._entities.names
        while True:
            rows = names(folder, cookie, _PAGE)
            for entity, name, kind, version, modified_ns, size, detail_ns in rows:
                attr: Attr | None
                if kind in _BYTES_KINDS:
                    mode = FILE_MODE
                    node = ENTITY_BASE | version << VERSION_SHIFT | entity
                    attr = None
                    if plus and detail_ns >= 0:
                        attr = Attr(
                            node, entity, FILE_MODE, size or 0, modified_ns, modified_ns, 1,
                            KNOWN_TTL_S, KNOWN_TTL_S,
                        )  # fmt: skip
                elif kind in _CONTAINER_KINDS:
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

    def _version_folders(self, folder: EntityId, cookie: int) -> Iterator[DirEntry]:
        for row in self._entities.children(folder, cookie):
            if row.kind in _BYTES_KINDS:
                attr = self._file_versions_attr(row)
                yield DirEntry(row.file_name, row.id, attr.ino, attr.mode, attr)

    def _info_files(self, folder: EntityId, cookie: int) -> Iterator[DirEntry]:
        for row in self._entities.children(folder, cookie):
            node = pack(NodeKind.INFO_FILE, row.id)
            yield DirEntry(row.file_name + b".json", row.id, node, FILE_MODE, None)

    # Files.

    def open(self, node: int, flags: int) -> Answer[Opened]:
        if flags & _WRITE_FLAGS:
            self.change("open", node, None)
        what = unpack(node)
        if what.kind is NodeKind.INFO_FILE:
            return Opened(keep_cache=False, direct_io=True)
        if what.kind is NodeKind.VERSION:
            return _chain(
                self._file_of(node), lambda f: self._open_file(node, f, None), _close_backing
            )
        if what.kind is not NodeKind.ENTITY:
            raise IsDirectory("this is a folder")
        row = self._entities.find(what.entity)
        if row is None or row.version != what.version:
            raise Stale(f"{syn(what.entity)} has moved on")
        if row.kind in _CONTAINER_KINDS:
            raise IsDirectory(f"{row.name!r} is a folder", entity=syn(row.id))
        if not row.current:
            return _chain(
                self._tree.detailed(row.id),
                lambda r: self._open_row(node, r, what.version),
                _close_backing,
            )
        return self._open_row(node, row, what.version)

    def _open_row(self, node: int, row: Row, version: int) -> Opened:
        if row.version != version:
            raise Stale(f"{syn(row.id)} has moved on")
        if row.kind not in _BYTES_KINDS:
            raise NotSupported(
                f"{row.name!r} is a {row.kind}; it cannot be read as a file",
                hint=f"see {self._portal}Synapse:{syn(row.id)}",
                entity=syn(row.id),
            )
        if row.unmet_terms:
            raise Forbidden(
                f"{row.name!r} has terms of use that you have not accepted",
                hint=f"accept them at {self._portal}Synapse:{syn(row.id)}",
                entity=syn(row.id),
            )
        if row.url is not None and row.size is None:
            return Opened()
        if row.key is None:
            raise Forbidden(
                f"you may see {row.name!r} but not download it",
                hint=f"ask for access at {self._portal}Synapse:{syn(row.id)}",
                entity=syn(row.id),
            )
        return self._open_file(node, row.file(), row.parent)

    def _open_file(self, node: int, file: FileVersion, folder: EntityId | None) -> Opened:
        size = file.size
        if not size:
            return Opened()
        key = file.key
        if size <= SMALL:
            if len(self._expected) >= EXPECTED_MOST:
                self._expected.clear()
            self._expected[node] = file
            if self._streams.find_small(key) is not None:
                # On its way, or in memory: no need to ask the disk.
                if folder is not None:
                    self._siblings.opened(folder, file.entity)
                return Opened()
        why = self._streams.corrupt(key)
        if why is not None:
            raise IntegrityError(why, entity=syn(file.entity))
        if size < PASSTHROUGH_FROM:
            backing, here = None, self._cache.has(key, size)
        else:
            backing = self._cache.open(key, size)
            here = backing is not None
        if here:
            self._cache.used(key)
            if folder is not None and size <= SMALL:
                self._siblings.opened(folder, file.entity)
            return Opened(backing=backing)
        if size <= SMALL:
            # Siblings first: their download URLs come with this one's. And whoever opens a small file
            # reads it, so it is begun before the kernel asks.
            if folder is not None:
                self._siblings.opened(folder, file.entity)
            self._streams.reader(file)
        elif file.handle is not None and file.external_url is None:
            self._urls.want([FileRef(file.handle, file.entity)])
        return Opened()

    def read(
        self, node: int, handle: int, offset: int, size: int
    ) -> Answer[bytes | memoryview | FileSlice]:
        opened = self._open.get(node)
        if opened is None or (
            handle not in opened.handles and not self._count_in(node, opened, handle)
        ):
            content = self._content_of(node)
            if isinstance(content, Future):
                return _chain(content, lambda c: self._read_first(node, handle, c, offset, size))
            return self._read_first(node, handle, content, offset, size)
        if opened.fd is not None:
            return FileSlice(opened.fd, offset, size)
        if opened.data is not None:
            return opened.data[offset : offset + size]
        assert opened.reader is not None
        failed = opened.failed
        if failed is not None and failed[0] <= offset < failed[1]:
            # The kernel asks again, at once, for the page at which its read-ahead failed: without an
            # answer from memory every time-out would be waited for twice.
            opened.failed = None
            if time.monotonic() - failed[2] < ECHO_S:
                raise failed[3]
        answer = opened.reader.read(handle, offset, size)
        if isinstance(answer, Future):
            answer.add_done_callback(partial(_note_failure, opened, offset, size))
        return answer  # type: ignore[return-value]

    def _count_in(self, node: int, opened: _OpenFile, handle: int) -> bool:
        """Counts a handle in, unless the last of the others was released this moment: then all is closed."""
        with self._lock:
            if self._open.get(node) is not opened:
                return False
            opened.handles.add(handle)
            return True

    def _content_of(self, node: int) -> Answer[FileVersion | bytes]:
        """The bytes themselves for what synd makes, else which content of which entity."""
        expected = self._expected.pop(node, None)
        if expected is not None:
            return expected
        what = unpack(node)
        if what.kind is NodeKind.INFO_FILE:
            return self._info.content(self._entities.get(what.entity))  # type: ignore[return-value]
        if what.kind is NodeKind.ENTITY:
            row = self._entities.find(what.entity)
            if (
                row is not None
                and row.version == what.version
                and row.url is not None
                and row.size is None
            ):
                return f"[InternetShortcut]\nURL={row.url}\n".encode()
        return self._file_of(node)  # type: ignore[return-value]

    def _file_of(self, node: int) -> Answer[FileVersion]:
        """The content that a node names, also when its entity has moved on since."""
        what = unpack(node)
        row = self._entities.find(what.entity)
        if row is not None and row.version == what.version and row.detailed:
            return row.file()

        def pick(versions: Sequence[VersionInfo]) -> FileVersion:
            found = next((v for v in versions if v.number == what.version), None)
            if found is None:
                raise NotFound(
                    f"{syn(what.entity)} has no version {what.version} any more",
                    entity=syn(what.entity),
                )
            return FileVersion(
                entity=what.entity,
                version=Version(what.version),
                handle=found.handle,
                md5=found.md5,
                size=found.size,
            )

        return _chain(self._versions(what.entity), pick)

    def _read_first(
        self, node: int, handle: int, content: FileVersion | bytes, offset: int, size: int
    ) -> Answer[bytes | memoryview | FileSlice]:
        with self._lock:
            if node not in self._open:
                opened = _OpenFile()
                if isinstance(content, bytes):
                    opened.data = content
                elif not content.size:
                    opened.data = b""
                else:
                    self._begin(opened, content, content.size)
                self._open[node] = opened
            self._open[node].handles.add(handle)
        return self.read(node, handle, offset, size)

    def _begin(self, opened: _OpenFile, file: FileVersion, size: int) -> None:
        """From memory, from the object, or as it arrives."""
        if size <= SMALL and (small := self._streams.find_small(file.key)) is not None:
            opened.reader = small
            return
        fd = self._cache.open(file.key, size)
        if fd is None:
            opened.reader = self._streams.reader(file)
        elif size < PASSTHROUGH_FROM:
            with open(fd, "rb", buffering=0) as whole:
                opened.data = whole.read()
        else:
            opened.fd, opened.held = fd, file.key
            self._cache.hold(file.key)

    def release(self, node: int, handle: int) -> None:
        opened = self._open.get(node)
        if opened is None:
            return
        with self._lock:
            opened.handles.discard(handle)
            last = not opened.handles and self._open.get(node) is opened
            if last:
                del self._open[node]
        if opened.reader is not None:
            opened.reader.close_handle(handle)
        if last and opened.fd is not None:
            os.close(opened.fd)
        if last and opened.held is not None:
            self._cache.release(opened.held)

    def forget(self, node: int, lookups: int) -> None:
        """Nothing is kept per node."""

    # The rest.

    def getxattr(self, node: int, name: bytes) -> Answer[bytes]:
        if not name.startswith(b"user.synapse."):
            raise NotFound(f"no attribute {name!r}")
        return _chain(self._xattrs(node), lambda found: _pick(found, name))

    def listxattr(self, node: int) -> Answer[list[bytes]]:
        return _chain(self._xattrs(node), list)

    def _xattrs(self, node: int) -> Answer[dict[bytes, bytes]]:
        if node in (ROOT, BY_ID):
            return {}
        what = unpack(node)
        if what.kind is NodeKind.VERSION and what.version:
            return _chain(self._file_of(node), self._version_xattrs)
        if what.kind is not NodeKind.ENTITY:
            return {}
        row = self._entities.get(what.entity)
        known = self._entities.annotations(row)
        if known is None:
            return _chain(self._tree.detailed(row.id), self._entity_xattrs)
        return self._entity_xattrs(row)

    def _entity_xattrs(self, row: Row) -> dict[bytes, bytes]:
        found = {b"user.synapse.id": syn(row.id).encode(), b"user.synapse.etag": row.etag.encode()}
        if row.kind in _BYTES_KINDS:
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
        if not file.size:
            return "cached" if file.size == 0 else "remote"
        if file.handle is None and file.md5 is None:
            return "remote"
        key = content_key(file.md5, file.handle)
        if self._streams.corrupt(key):
            return "corrupt"
        if self._cache.has(key, file.size) or self._streams.in_memory(key):
            return "cached"
        return "fetching" if self._streams.under_way(key) else "remote"

    def statfs(self) -> StatFs:
        """The disk of the cache: what is free there is what can be read without evicting."""
        try:
            disk = os.statvfs(self._cache.root)
        except OSError:
            return StatFs(4096, 1 << 28, 1 << 28, 1 << 20)
        return StatFs(disk.f_frsize, disk.f_blocks, disk.f_bavail, disk.f_files)

    def change(self, operation: str, node: int, name: bytes | None) -> Answer[None]:  # noqa: ARG002  # the protocol's
        raise ReadOnly(
            f"{operation}: the mount is read-only",
            hint="change files in a copy outside the mount",
            path=name.decode(errors="replace") if name else None,
        )

    # Changes.

    def _changed(self, changes: Sequence[Change]) -> None:
        """Tells the kernel. On whatever thread saw the change; never on one that answers it."""
        notices = self.notices
        if notices is None:
            return
        folders: set[int] = set()
        for change in changes:
            parent = folder_node(change.parent)
            if change.gone or change.moved_on or change.appeared:
                notices.entry(parent, change.file_name)
                folders.add(change.parent)
                self._own_changed(NodeKind.FILE_VERSIONS, change.id)
                continue
            row = self._entities.find(change.id)
            if row is not None:
                version = 0 if row.kind in _CONTAINER_KINDS else row.version
                notices.node(entity_node(change.id, version), data=change.rewritten)
        for folder in folders:
            self._siblings.forget(EntityId(folder))
            notices.node(folder_node(folder), data=True)
            self._own_changed(NodeKind.VERSIONS, folder)
            self._own_changed(NodeKind.INFO, folder)

    def _own_changed(self, kind: NodeKind, entity: int) -> None:
        node = pack(kind, entity)
        if node in self._own_listed and self.notices is not None:
            self.notices.node(node, data=True)

    def content_changed(self, file: FileVersion) -> None:
        """Bytes of this content that the kernel may hold are wrong: they go."""
        if self.notices is not None:
            self.notices.node(entity_node(file.entity, file.version), data=True)

    def open_files(self) -> int:
        """Nodes read through the daemon just now."""
        return len(self._open)


def _close_backing(opened: Opened) -> None:
    if opened.backing is not None:
        os.close(opened.backing)


def _chain(
    answer: Any, step: Callable[[Any], Answer[U]], unused: Callable[[U], None] | None = None
) -> Answer[U]:
    """`step` of the answer: at once, or when it comes. A step may itself have to wait.

    `unused` gets a result that nobody takes, as the caller has given up meanwhile.
    """
    if not isinstance(answer, Future):
        return step(answer)
    target: Future[U] = Future()

    def done(finished: Future[Any]) -> None:
        if finished.cancelled():
            target.cancel()
            return
        error = finished.exception()
        if error is not None:
            fail(target, error)
            return
        if target.done():
            return
        try:
            result = step(finished.result())
        except BaseException as exception:  # noqa: BLE001 - it belongs to the waiter
            fail(target, exception)
            return
        if isinstance(result, Future):
            then(result, target, lambda value: value)
        elif not settle(target, result) and unused is not None:
            unused(result)

    answer.add_done_callback(done)
    return target


def _note_failure(opened: _OpenFile, offset: int, size: int, answer: Future[Any]) -> None:
    if answer.cancelled() or (error := answer.exception()) is None:
        return
    now, end, before = time.monotonic(), offset + size, opened.failed
    if before is not None and now - before[2] < ECHO_S:
        # Read-ahead asks for several ranges at once.
        offset, end = min(offset, before[0]), max(end, before[1])
    opened.failed = (offset, end, now, error)


def _missing(name: bytes) -> NoReturn:
    raise NotFound(f"no {name.decode(errors='replace')!r}")


def _pick(found: dict[bytes, bytes], name: bytes) -> bytes:
    if name not in found:
        raise NotFound(f"no attribute {name!r}")
    return found[name]


def _join(path: Sequence[bytes]) -> bytes:
    return b"/".join(path)


def _folder_attr(node: int, ino: int, modified_ns: int) -> Attr:
    # One link says "unknown" to programs that count subfolders by it.
    return Attr(
        node, ino or node, DIR_MODE, 0, modified_ns, modified_ns, 1, KNOWN_TTL_S, KNOWN_TTL_S
    )


def _file_attr(
    node: int, ino: int, size: int, modified_ns: int, *, ttl_s: float = KNOWN_TTL_S
) -> Attr:
    return Attr(node, ino, FILE_MODE, size, modified_ns, modified_ns, 1, ttl_s, ttl_s)


def _row_attr(row: Row) -> Attr:
    """From a row alone. A size that is not known is 0, and the kernel is told to ask again."""
    at = row.modified_ns
    if row.kind in _CONTAINER_KINDS:
        return Attr(ENTITY_BASE | row.id, row.id, DIR_MODE, 0, at, at, 1, KNOWN_TTL_S, KNOWN_TTL_S)
    node = entity_node(row.id, row.version)
    if row.kind == _LINK:
        return Attr(node, row.id, LINK_MODE, 0, at, at, 1, KNOWN_TTL_S, KNOWN_TTL_S)
    if row.url is not None and row.size is None and row.detailed:
        size = len(f"[InternetShortcut]\nURL={row.url}\n".encode())
        return Attr(node, row.id, FILE_MODE, size, at, at, 1, KNOWN_TTL_S, KNOWN_TTL_S)
    ttl_s = KNOWN_TTL_S if row.detailed or row.kind not in _BYTES_KINDS else 0.0
    return Attr(node, row.id, FILE_MODE, row.size or 0, at, at, 1, ttl_s, ttl_s)


def _version_files(
    entity: EntityId, versions: Sequence[VersionInfo], cookie: int
) -> Iterator[DirEntry]:
    for version in sorted(versions, key=lambda v: v.number):
        if version.number <= cookie:
            continue
        node = pack(NodeKind.VERSION, entity, version.number)
        attr = _file_attr(node, node, version.size or 0, version.modified_on_ns)
        yield DirEntry(str(version.number).encode(), version.number, node, FILE_MODE, attr)
