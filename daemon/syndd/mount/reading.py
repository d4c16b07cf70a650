"""Reading what never changes: one version of one entity, or what synd makes. No FUSE type here.

From the object on disk, from memory, or as it arrives; how bytes arrive is `synd.mirror.streams`' matter.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from synd.cache.folder import Cache
from synd.errors import Forbidden, IntegrityError, IsDirectory, NotFound, NotSupported, Stale
from synd.ids import ContentKey, EntityId, Version, content_key, syn
from synd.mirror.siblings import Siblings
from synd.mirror.streams import SMALL, Reader, Streams
from synd.mirror.tree import Tree
from synd.mirror.urls import Urls
from synd.model import FileRef, FileVersion, VersionInfo
from synd.ranges import FileSlice
from synd.store.entities import Row
from syndd.mount.attrs import BYTES_KINDS, CONTAINER_KINDS
from syndd.mount.chain import chain
from syndd.mount.info import InfoFiles
from syndd.mount.nodes import MADE_KINDS, NodeKind, unpack
from syndd.mount.ops import Answer, Opened
from syndd.mount.validations import Validations

PASSTHROUGH_FROM = 64 << 10
"""Smaller files are answered from memory: two ioctls to open one for passthrough cost more than its bytes
do, and from then on the page cache has them."""

ECHO_S = 0.5
"""A read that failed fails again, once, without another try if it comes back so soon."""

EXPECTED_MOST = 1024


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


class Reading:
    """Open files of fixed content. Any thread."""

    def __init__(
        self,
        tree: Tree,
        streams: Streams,
        urls: Urls,
        cache: Cache,
        siblings: Siblings,
        info: InfoFiles,
        validations: Validations,
        *,
        versions: Callable[[EntityId], Answer[Sequence[VersionInfo]]],
        portal: str,
    ) -> None:
        self._tree = tree
        self._entities = tree.entities
        self._streams = streams
        self._urls = urls
        self._cache = cache
        self._siblings = siblings
        self._info = info
        self._validations = validations
        self._versions = versions
        self._portal = portal
        # Held for a dictionary access only; a leaf.
        self._lock = threading.Lock()
        self._open: dict[int, _OpenFile] = {}
        self._expected: dict[int, FileVersion] = {}
        """What small nodes name that were opened and will be read next: spares a look at the store."""

    def __len__(self) -> int:
        """Nodes read through the daemon just now."""
        return len(self._open)

    def open(self, node: int) -> Answer[Opened]:
        what = unpack(node)
        if what.kind in (NodeKind.INFO_FILE, NodeKind.VALIDATION):
            return Opened(keep_cache=False, direct_io=True)
        if what.kind in (NodeKind.VERSION, NodeKind.READY_SOURCE):
            return chain(
                self.file_of(node), lambda f: self._open_file(node, f, None), _close_backing
            )
        if what.kind is not NodeKind.ENTITY:
            raise IsDirectory("this is a folder")
        row = self._entities.find(what.entity)
        if row is None or row.version != what.version:
            raise Stale(f"{syn(what.entity)} has moved on")
        if row.kind in CONTAINER_KINDS:
            raise IsDirectory(f"{row.name!r} is a folder", entity=syn(row.id))
        if not row.current:
            return chain(
                self._tree.detailed(row.id),
                lambda r: self._open_row(node, r, what.version),
                _close_backing,
            )
        return self._open_row(node, row, what.version)

    def _open_row(self, node: int, row: Row, version: int) -> Opened:
        if row.version != version:
            raise Stale(f"{syn(row.id)} has moved on")
        if row.kind not in BYTES_KINDS:
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
        # The notice that wrong pages are to go may still be on its way to the kernel; this open is not to
        # be read from them.
        keep = not self._streams.ever_wrong(key)
        if size < PASSTHROUGH_FROM:
            backing, here = None, self._cache.has(key, size)
        else:
            backing = self._cache.open(key, size)
            here = backing is not None
        if here:
            self._cache.used(key)
            if folder is not None and size <= SMALL:
                self._siblings.opened(folder, file.entity)
            return Opened(backing=backing, keep_cache=keep)
        if size <= SMALL:
            # Siblings first: their download URLs come with this one's. And whoever opens a small file
            # reads it, so it is begun before the kernel asks.
            if folder is not None:
                self._siblings.opened(folder, file.entity)
            self._streams.reader(file)
        elif file.handle is not None and file.external_url is None:
            self._urls.want([FileRef(file.handle, file.entity)])
        return Opened(keep_cache=keep)

    def read(
        self, node: int, handle: int, offset: int, size: int
    ) -> Answer[bytes | memoryview | FileSlice]:
        opened = self._open.get(node)
        if opened is None or (
            handle not in opened.handles and not self._count_in(node, opened, handle)
        ):
            content = self._content_of(node)
            if isinstance(content, Future):
                return chain(content, lambda c: self._read_first(node, handle, c, offset, size))
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
        if what.kind in MADE_KINDS:
            raise Stale("what was prepared is not here any more")
        if what.kind is NodeKind.INFO_FILE:
            return self._info.content(self._entities.get(what.entity))  # type: ignore[return-value]
        if what.kind is NodeKind.VALIDATION:
            return self._validations.report(self._entities.find(what.entity)).data
        if what.kind is NodeKind.ENTITY:
            row = self._entities.find(what.entity)
            if (
                row is not None
                and row.version == what.version
                and row.url is not None
                and row.size is None
            ):
                return f"[InternetShortcut]\nURL={row.url}\n".encode()
        return self.file_of(node)  # type: ignore[return-value]

    def file_of(self, node: int) -> Answer[FileVersion]:
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

        return chain(self._versions(what.entity), pick)

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

    def keep(self, node: int, handle: int, key: ContentKey, fd: int) -> None:
        """Serves a handle from an object, whose descriptor is taken over, until it is released."""
        with self._lock:
            opened = self._open.get(node)
            if opened is None:
                opened = self._open[node] = _OpenFile()
                opened.fd, opened.held = fd, key
                self._cache.hold(key)
            else:
                os.close(fd)
            opened.handles.add(handle)

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


def _close_backing(opened: Opened) -> None:
    if opened.backing is not None:
        os.close(opened.backing)


def _note_failure(opened: _OpenFile, offset: int, size: int, answer: Future[Any]) -> None:
    if answer.cancelled() or (error := answer.exception()) is None:
        return
    now, end, before = time.monotonic(), offset + size, opened.failed
    if before is not None and now - before[2] < ECHO_S:
        # Read-ahead asks for several ranges at once.
        offset, end = min(offset, before[0]), max(end, before[1])
    opened.failed = (offset, end, now, error)
