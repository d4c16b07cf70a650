# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Requests about open files: open, create, read, write, flush, release."""

from __future__ import annotations

import logging
import os
import stat
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

from synd.errors import SyndError
from synd.log import fields
from synd.ranges import FileSlice
from syndd.mount import wire
from syndd.mount.handles import Handle, HandleTable, Mode
from syndd.mount.ops import Attr, Caller, Filesystem, Opened, SetAttr
from syndd.mount.transport import replies
from syndd.mount.transport.backing import Backings
from syndd.mount.transport.changes import unprivileged
from syndd.mount.transport.pages import SPLICE_FROM, Splicer, in_memory
from syndd.mount.transport.requests import Handler, Requests, caller_of, name_at
from syndd.mount.wire import Op

log = logging.getLogger(__name__)

_DISK_THREADS = 4
_WRITING = os.O_ACCMODE | os.O_TRUNC
_PERMISSIONS = 0o7777


class Files:
    """Open files and their bytes."""

    def __init__(
        self, requests: Requests, fs: Filesystem, backings: Backings, *, uid: int, gid: int
    ) -> None:
        self._requests = requests
        self._fs = fs
        self._backings = backings
        self._uid = uid
        self._gid = gid
        self.handles = HandleTable(None, 0, close_backing=backings.close)
        self._splicer = Splicer(requests.fd)
        self._disk: ThreadPoolExecutor | None = None

    def handlers(self) -> dict[int, Handler]:
        return {
            Op.OPEN: self._open,
            Op.CREATE: self._create,
            Op.READ: self._read,
            Op.WRITE: self._write,
            Op.FALLOCATE: self._fallocate,
            Op.FLUSH: self._flush,
            Op.FSYNC: self._fsync,
            Op.RELEASE: self._release,
        }

    def use(self, handles: HandleTable) -> None:
        """Keeps open files in `handles`; the filesystem hears of those that an earlier daemon left."""
        self.handles = handles
        for handle in sorted(handles, key=lambda handle: handle.number):
            self._fs.opened(handle.node, handle.number)

    def close(self) -> None:
        self._splicer.close()
        if self._disk is not None:
            self._disk.shutdown(wait=False, cancel_futures=True)

    # Opening.

    def _open(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        flags, more = wire.OPEN_IN.unpack_from(request, wire.BODY)
        if unique & wire.UNIQUE_RESEND:
            before = self.handles.resent(unique & ~wire.UNIQUE_RESEND)
            if before is not None:
                # Whether the filesystem counts it is not known any more; a flush too many does no harm.
                self._send_opened(unique, before, flags, keep_cache=True, counted=True)
                return
        caller = caller_of(request, unique)
        answer = self._fs.open(node, flags)
        finish = partial(self._finish_open, node, flags, more, caller)
        self._requests.answer(answer, unique, opcode, node, finish)

    def _finish_open(
        self, node: int, flags: int, more: int, caller: Caller, unique: int, opened: Opened
    ) -> None:
        if more & wire.OPEN_KILL_SUIDGID:
            self._drop_privileges(node, caller)
        through = opened.backing is not None
        if through and flags & os.O_ACCMODE and caller.uid:
            attr = self._fs.getattr(node)
            through = isinstance(attr, Future) or _may_pass(attr, flags, caller)
        handle = self._take(node, unique, opened, through=through)
        if not self._send_opened(
            unique, handle, flags, keep_cache=opened.keep_cache, counted=opened.counted
        ):
            self._let_go(handle)

    def _create(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        flags, mode, umask, _ = wire.CREATE_IN.unpack_from(request, wire.BODY)
        name = name_at(request, wire.BODY + wire.CREATE_IN.size)
        caller = caller_of(request, unique, umask)
        answer = self._fs.create(node, name, mode & _PERMISSIONS, flags, caller)
        finish = partial(self._finish_create, flags, caller)
        self._requests.answer(answer, unique, opcode, node, finish)

    def _finish_create(
        self, flags: int, caller: Caller, unique: int, made: tuple[Attr, Opened]
    ) -> None:
        attr, opened = made
        handle = self.handles.resent(caller.request) if caller.resent else None
        if handle is not None and handle.node != attr.node:
            self._let_go(handle)
            handle = None
        if handle is None:
            through = opened.backing is not None and _may_pass(attr, flags, caller)
            handle = self._take(attr.node, unique, opened, through=through)
        elif opened.backing is not None:
            os.close(opened.backing)
        answer = _open_flags(handle, flags, keep_cache=opened.keep_cache, counted=opened.counted)
        reply = replies.created(
            unique, attr, self._uid, self._gid, handle.number, answer, handle.backing
        )
        if not self._requests.send(unique, reply):
            self._let_go(handle)

    def _take(self, node: int, unique: int, opened: Opened, *, through: bool) -> Handle:
        """A handle in the table, and known to the filesystem if it wants to."""
        backing = opened.backing
        register = None
        if through and backing is not None and not self._backings.off:
            register = partial(self._backings.register, backing)
        try:
            handle = self.handles.open(
                node, unique & ~wire.UNIQUE_RESEND, direct=opened.direct_io, register=register
            )
        finally:
            if backing is not None:
                os.close(backing)
        if opened.counted:
            try:
                self._fs.opened(node, handle.number)
            except BaseException:
                self.handles.release(handle.number)
                raise
        return handle

    def _let_go(self, handle: Handle) -> None:
        """Nobody got the handle, so nobody will release it."""
        self.handles.release(handle.number)
        self._fs.release(handle.node, handle.number)

    def _send_opened(
        self, unique: int, handle: Handle, flags: int, *, keep_cache: bool, counted: bool
    ) -> bool:
        answer = _open_flags(handle, flags, keep_cache=keep_cache, counted=counted)
        return self._requests.send(
            unique, replies.opened(unique, handle.number, answer, handle.backing)
        )

    def _release(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (number,) = wire.RELEASE_IN.unpack_from(request, wire.BODY)
        handle = self.handles.release(number)
        if handle is not None:
            try:
                self._fs.release(node, number)
            except Exception:
                log.exception("mount.failed", extra=fields(operation="release", node=node))
        self._requests.done(unique)

    # Reading.

    def _read(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        handle, offset, size = wire.READ_IN.unpack_from(request, wire.BODY)
        answer = self._fs.read(node, handle, offset, size)
        if isinstance(answer, Future):
            self._requests.defer(answer, unique, opcode, node, partial(self._bytes, node))
        else:
            self._bytes(node, unique, answer)

    def _bytes(self, node: int, unique: int, data: bytes | memoryview | FileSlice) -> None:
        if isinstance(data, FileSlice):
            self._slice(node, unique, data)
        else:
            self._requests.send_data(unique, data)

    def _slice(self, node: int, unique: int, part: FileSlice) -> None:
        fd, offset, size = part
        if not in_memory(fd, offset, size):
            # The disk would keep every other request waiting.
            if self._disk is None:
                self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="synd-disk")
            read = self._disk.submit(os.pread, fd, size, offset)
            self._requests.defer(read, unique, Op.READ, node, self._requests.send_data)
            return
        if size >= SPLICE_FROM:
            size = max(0, min(size, os.fstat(fd).st_size - offset))
            try:
                if size >= SPLICE_FROM and self._splicer.send(unique, fd, offset, size):
                    return
            except OSError as error:
                self._requests.refused(unique, error)
                return
        self._requests.send_data(unique, os.pread(fd, size, offset))

    # Writing.

    def _write(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        handle, offset, size, more = wire.WRITE_IN.unpack_from(request, wire.BODY)
        # Released at the end, so that bytes of a later request are never taken for these.
        with memoryview(request)[wire.WRITE_DATA : wire.WRITE_DATA + size] as data:
            answer = self._fs.write(node, handle, offset, data)
        if more & wire.WRITE_KILL_SUIDGID:
            finish = partial(self._written_unprivileged, node, caller_of(request, unique))
            self._requests.answer(answer, unique, opcode, node, finish)
        else:
            self._requests.answer(answer, unique, opcode, node, self._written)

    def _written(self, unique: int, size: int) -> None:
        self._requests.send(unique, replies.written(unique, size))

    def _written_unprivileged(self, node: int, caller: Caller, unique: int, size: int) -> None:
        self._drop_privileges(node, caller)
        self._written(unique, size)

    def _drop_privileges(self, node: int, caller: Caller) -> None:
        """Takes the set-id bits off a file that somebody without privilege changes.

        The answer does not wait for it: by the request that follows it has been asked for.
        """
        attr = self._fs.getattr(node)
        mode = None if isinstance(attr, Future) else unprivileged(attr.mode)
        if mode is not None:
            try:
                # Not the request's own number: the filesystem keeps one answer for each.
                self._fs.setattr(node, SetAttr(mode=mode), caller._replace(request=0, resent=False))
            except SyndError as error:
                # The bytes are written all the same, and on this mount the bits give nobody a right.
                log.info("mount.bits_kept", extra=fields(node=node, error=error))

    def _fallocate(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        handle, offset, length, mode = wire.FALLOCATE_IN.unpack_from(request, wire.BODY)
        answer = self._fs.fallocate(node, handle, mode, offset, length)
        self._requests.answer(answer, unique, opcode, node, self._requests.done)

    def _flush(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (handle,) = wire.FLUSH_IN.unpack_from(request, wire.BODY)
        answer = self._fs.flush(node, handle)
        self._requests.answer(answer, unique, opcode, node, self._requests.done)

    def _fsync(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (handle,) = wire.FSYNC_IN.unpack_from(request, wire.BODY)
        answer = self._fs.fsync(node, handle)
        self._requests.answer(answer, unique, opcode, node, self._requests.done)


def _open_flags(handle: Handle, flags: int, *, keep_cache: bool, counted: bool) -> int:
    """FOPEN_… of a handle."""
    # Without NOFLUSH every close is a round trip; a reader has nothing to flush.
    answer = 0 if counted or flags & _WRITING else wire.FOPEN_NOFLUSH
    if handle.mode is Mode.PASSTHROUGH:
        answer |= wire.FOPEN_PASSTHROUGH
    elif handle.mode is Mode.DIRECT:
        answer |= wire.FOPEN_DIRECT_IO
    elif keep_cache:
        answer |= wire.FOPEN_KEEP_CACHE
    return answer


def _may_pass(attr: Attr, flags: int, caller: Caller) -> bool:
    """Whether writes may go past us: not where the first of them must take set-id bits away."""
    bits = stat.S_ISUID | stat.S_ISGID
    return not (attr.mode & bits and flags & os.O_ACCMODE and caller.uid)
