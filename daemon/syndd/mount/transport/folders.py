# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Requests about open folders: listings, with and without attributes."""

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

    def _opendir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self._requests.answer(self._fs.opendir(node), unique, opcode, node, self._opened)

    def _opened(self, unique: int, _: None) -> None:
        handle = self._next = self._next + 1
        flags = wire.FOPEN_KEEP_CACHE | wire.FOPEN_CACHE_DIR
        self._requests.send(unique, replies.opened(unique, handle, flags, 0))

    def _releasedir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (handle,) = wire.RELEASE_IN.unpack_from(request, wire.BODY)
        self._folders.pop(handle, None)
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
