# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Requests about open folders: listings, with and without attributes.

The kernel keeps what it read of a folder until a notice drops it. A notice that overtakes an answer on its way,
or comes between the reading of the names and their answer, drops nothing, and the old listing would be kept from
then on. So a folder that changed is opened anew without FOPEN_KEEP_CACHE, which drops what was kept till then.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from concurrent.futures import Future
from functools import partial

from syndd.mount import wire
from syndd.mount.ops import DirEntry, Filesystem
from syndd.mount.transport import listing, replies
from syndd.mount.transport.listing import Folder
from syndd.mount.transport.requests import Handler, Requests
from syndd.mount.wire import Op


class Folders:
    """Open folders, and where their readers are."""

    def __init__(self, requests: Requests, fs: Filesystem, *, uid: int, gid: int) -> None:
        self._requests = requests
        self._fs = fs
        self._uid = uid
        self._gid = gid
        self._folders: dict[int, Folder] = {}
        # Folder handles live no longer than the daemon. Starting at the clock keeps them apart from
        # those of an earlier daemon, whose readers go on with a handle that is not known here.
        self._next = time.time_ns()
        self._kept: dict[int, int] = {}
        """Folder → the first handle that opened it since it last changed: its listing may be kept. Any thread."""

    def handlers(self) -> dict[int, Handler]:
        return {
            Op.OPENDIR: self._opendir,
            Op.READDIR: partial(self._readdir, False),
            Op.READDIRPLUS: partial(self._readdir, True),
            Op.RELEASEDIR: self._releasedir,
            Op.FSYNCDIR: self._fsyncdir,
        }

    def close(self) -> None:
        self._folders.clear()

    def doubt(self, node: int | None) -> None:
        """What the kernel keeps of a folder's listing is out of date; None: of all. Any thread."""
        if node is None:
            self._kept.clear()
        else:
            self._kept.pop(node, None)

    def _opendir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        opened = partial(self._opened, node)
        self._requests.answer(self._fs.opendir(node), unique, opcode, node, opened)

    def _opened(self, node: int, unique: int, _: None) -> None:
        handle = self._next = self._next + 1
        flags = wire.FOPEN_CACHE_DIR
        if self._kept.setdefault(node, handle) != handle:
            flags |= wire.FOPEN_KEEP_CACHE
        self._requests.send(unique, replies.opened(unique, handle, flags, 0))

    def _releasedir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (handle,) = wire.RELEASE_IN.unpack_from(request, wire.BODY)
        self._folders.pop(handle, None)
        if handle < self._kept.get(node, 0):
            # Opened before the change, it may have filled what the kernel keeps after that was dropped.
            self._kept.pop(node, None)
        self._requests.done(unique)

    def _fsyncdir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.fsyncdir(node)
        self._requests.answer(answer, unique, opcode, node, self._requests.done)

    def _readdir(self, plus: bool, request: bytearray, unique: int, node: int, opcode: int) -> None:
        handle, offset, size = wire.READ_IN.unpack_from(request, wire.BODY)
        folder = self._folders.get(handle)
        if folder is None:
            folder = self._folders[handle] = Folder()
        if folder.goes_on(offset, plus=plus):
            self._listing(unique, node, folder, plus, offset, size)
            return

        def listed(unique: int, entries: Iterable[DirEntry]) -> None:
            folder.restart(iter(entries), plus=plus)
            self._listing(unique, node, folder, plus, offset, size)

        answer = self._fs.readdir(node, offset - 2 if offset > 2 else 0, plus=plus)
        self._requests.answer(answer, unique, opcode, node, listed)

    def _listing(
        self, unique: int, node: int, folder: Folder, plus: bool, offset: int, size: int
    ) -> None:
        own = self._fs.getattr(node) if offset == 0 else None
        ino = wire.UNKNOWN_INO if own is None or isinstance(own, Future) else own.ino
        out = bytearray(wire.OUT + size)
        end = listing.pack(folder, out, offset, ino=ino, plus=plus, uid=self._uid, gid=self._gid)
        wire.OUT_HEADER.pack_into(out, 0, end, 0, unique)
        with memoryview(out) as view:
            self._requests.send(unique, view[:end])
