# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Speaks the kernel's FUSE protocol on /dev/fuse: requests in, calls of the filesystem, replies out.

One thread reads requests and answers what the filesystem answers at once. A Future is answered from
its done-callback, by whichever thread completed it, so any number of waiting readers costs no thread.
More reading threads do not help: the interpreter lock lets one of them run, and every hand-over costs
more than a request.

Nothing here knows Synapse or the cache; `session` makes the mount and owns the descriptor.

Invariants:
- each request is answered exactly once: whoever takes it out of `_pending` answers it, be it the
  callback or an interrupt;
- a reply that the kernel refuses is followed by EIO, since a request without an answer cannot be
  killed;
- no exception ends the loop.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from synd.errors import NotFound, SyndError
from synd.log import fields
from synd.ranges import FileSlice
from syndd.mount import wire
from syndd.mount.handles import Handle, HandleTable, Mode
from syndd.mount.ops import Attr, DirEntry, Filesystem, Opened
from syndd.mount.transport import listing
from syndd.mount.transport.backing import TOO_OLD, Backings
from syndd.mount.transport.listing import BLOCK, Folder, split_ttl
from syndd.mount.transport.pages import SPLICE_FROM, Splicer, in_memory
from syndd.mount.wire import Init, Op

log = logging.getLogger(__name__)

MAX_WRITE = 1 << 20
"""Largest READ and WRITE: 256 pages, the kernel's own limit (fs.fuse.max_pages_limit)."""
_BUFFER = MAX_WRITE + 4096
"""What one request can measure: the kernel refuses smaller buffers."""
MAX_READ = 512 << 10
"""Largest READ. A spliced answer must fit into one pipe, header included, and a pipe that a user may
have (pipe-max-size) holds 256 pages; half of that also lets two requests of one reader overlap."""
_DISK_THREADS = 4
_NS = 1_000_000_000

# Reads ahead of a reader are "background" requests. The kernel's default of 12 at once would let a
# dozen reads that wait for the network hold up every other reader's read-ahead.
_MAX_BACKGROUND = 256
_CONGESTED_AT = 192

_WANTED = (
    Init.ASYNC_READ
    | Init.ATOMIC_O_TRUNC
    | Init.BIG_WRITES
    | Init.ASYNC_DIO
    | Init.PARALLEL_DIROPS
    | Init.MAX_PAGES
    | Init.CACHE_SYMLINKS
    # Without it every write asks for security.capability first. The mount is nosuid.
    | Init.HANDLE_KILLPRIV_V2
    | Init.DO_READDIRPLUS
    | Init.ABORT_ERROR
    | Init.INIT_EXT
    | Init.HAS_RESEND
)
"""Left out on purpose: locks (the kernel keeps them locally), WRITEBACK_CACHE (bars passthrough),
AUTO_INVAL_DATA (a node's content never changes, so a new mtime must not drop its pages), POSIX_ACL,
EXPORT_SUPPORT."""

_WRITING = os.O_ACCMODE | os.O_TRUNC

_CHANGES: dict[Op, str] = {
    Op.SETATTR: "setattr",
    Op.SYMLINK: "symlink",
    Op.MKNOD: "mknod",
    Op.MKDIR: "mkdir",
    Op.UNLINK: "unlink",
    Op.RMDIR: "rmdir",
    Op.RENAME: "rename",
    Op.RENAME2: "rename",
    Op.LINK: "link",
    Op.WRITE: "write",
    Op.SETXATTR: "setxattr",
    Op.REMOVEXATTR: "removexattr",
    Op.CREATE: "create",
    Op.TMPFILE: "create",
    Op.FALLOCATE: "fallocate",
    Op.COPY_FILE_RANGE: "write",
    Op.COPY_FILE_RANGE_64: "write",
}

_UNKNOWN_TO_US: dict[Op, int] = {
    # ENOSYS makes the kernel use its own way and never ask again in the life of the mount.
    Op.STATX: errno.ENOSYS,
    Op.LSEEK: errno.ENOSYS,
    Op.POLL: errno.ENOSYS,
    Op.BMAP: errno.ENOSYS,
    Op.SYNCFS: errno.ENOSYS,
    Op.IOCTL: errno.ENOTTY,
    Op.GETLK: errno.ENOSYS,
    Op.SETLK: errno.ENOSYS,
    Op.SETLKW: errno.ENOSYS,
    Op.SETUPMAPPING: errno.ENOSYS,
    Op.REMOVEMAPPING: errno.ENOSYS,
}


@dataclass(frozen=True, slots=True)
class Negotiated:
    """What INIT settled. A daemon that takes the mount over gets it instead of an INIT."""

    minor: int
    flags: int
    max_write: int

    @property
    def passthrough(self) -> bool:
        return bool(self.flags & Init.PASSTHROUGH)

    @property
    def resend(self) -> bool:
        return bool(self.flags & Init.HAS_RESEND)


class Waiting(NamedTuple):
    """A request that has no answer yet."""

    operation: str
    node: int
    since: float
    """Monotonic seconds."""


class _Pending(NamedTuple):
    opcode: int
    node: int
    since: float
    future: Future[Any]


class KernelTransport:
    """Serves one connection. `run` is the reading thread; everything else may be called from any."""

    def __init__(
        self,
        fd: int,
        fs: Filesystem,
        *,
        uid: int,
        gid: int,
        passthrough: bool = True,
        stack_depth: int = 1,
        on_init: Callable[[Negotiated | None], object] | None = None,
        negotiated: Negotiated | None = None,
    ) -> None:
        """A new connection gets `on_init`, called when INIT is answered (None: refused).

        A taken-over one gets what was `negotiated` instead. `use` gives either its handle table.
        """
        self.fd = fd
        self.negotiated = negotiated
        self.requests = [0] * wire.OPCODES
        """How many of each opcode came."""
        self.backings = Backings(fd, off="" if passthrough else "switched off by the settings")
        self._fs = fs
        self._uid = uid
        self._gid = gid
        self._stack_depth = stack_depth
        self._on_init = on_init
        self._handles = HandleTable(None, 0, close_backing=self.backings.close)
        self._pending: dict[int, _Pending] = {}
        self._folders: dict[int, Folder] = {}
        # Folder handles live no longer than the daemon. Starting at the clock keeps them apart from
        # those of an earlier daemon, whose readers go on with a handle that is not known here.
        self._next_folder = time.time_ns()
        self._splicer = Splicer(fd)
        self._disk: ThreadPoolExecutor | None = None
        if negotiated is not None and not negotiated.passthrough and passthrough:
            self.backings.off = TOO_OLD
        self._table = self._dispatch_table()

    def _dispatch_table(self) -> list[Callable[[bytearray, int, int, int], None]]:
        table: list[Callable[[bytearray, int, int, int], None]] = []
        named: dict[int, Callable[[bytearray, int, int, int], None]] = {
            Op.LOOKUP: self._lookup,
            Op.FORGET: self._forget,
            Op.GETATTR: self._getattr,
            Op.READLINK: self._readlink,
            Op.OPEN: self._open,
            Op.READ: self._read,
            Op.STATFS: self._statfs,
            Op.RELEASE: self._release,
            Op.FSYNC: self._nothing_to_do,
            Op.GETXATTR: self._getxattr,
            Op.LISTXATTR: self._listxattr,
            Op.FLUSH: self._nothing_to_do,
            Op.INIT: self._init,
            Op.OPENDIR: self._opendir,
            Op.READDIR: partial(self._readdir, False),
            Op.RELEASEDIR: self._releasedir,
            Op.FSYNCDIR: self._nothing_to_do,
            Op.ACCESS: self._access,
            Op.INTERRUPT: self._interrupt,
            Op.DESTROY: self._nothing_to_do,
            Op.BATCH_FORGET: self._batch_forget,
            Op.READDIRPLUS: partial(self._readdir, True),
        }
        for opcode in range(wire.OPCODES):
            if opcode in named:
                table.append(named[opcode])
            elif opcode in _CHANGES:
                table.append(partial(self._change, Op(opcode)))
            else:
                code = next((e for op, e in _UNKNOWN_TO_US.items() if op == opcode), errno.ENOSYS)
                table.append(partial(self._refuse, code))
        return table

    def use(self, handles: HandleTable) -> None:
        """Keeps open files in `handles`. Before `run`."""
        self._handles = handles

    # The loop.

    def run(self) -> str:
        """Serves until the mount ends; returns why it ended: `unmounted` or `aborted`."""
        fd, table, requests = self.fd, self._table, self.requests
        buffer = bytearray(_BUFFER)
        buffers = [buffer]
        unpack, readv = wire.IN_HEADER.unpack_from, os.readv
        while True:
            try:
                size = readv(fd, buffers)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return "unmounted"
                if error.errno == errno.ECONNABORTED:
                    return "aborted"
                # ENOENT: the request was given up before it was read. EINTR, EAGAIN: nothing yet.
                if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                    continue
                raise
            if size < wire.BODY:
                return "aborted"
            _, opcode, unique, node, _, _, _, _, _ = unpack(buffer)
            try:
                requests[opcode] += 1
                table[opcode](buffer, unique, node, opcode)
            except Exception as error:  # noqa: BLE001  # the edge of one request
                self._fail(unique, error, opcode, node)

    def resend(self) -> None:
        """Asks the kernel for every request that an earlier daemon left without an answer."""
        os.write(self.fd, wire.OUT_HEADER.pack(wire.OUT, wire.Notify.RESEND, 0))

    def waiting(self) -> list[Waiting]:
        """Requests without an answer, oldest first."""
        found = [
            Waiting(Op(p.opcode).name.lower(), p.node, p.since)
            for p in list(self._pending.values())
        ]
        return sorted(found, key=lambda w: w.since)

    @property
    def passthrough_off(self) -> str:
        """Why files are not opened with passthrough; empty when they are."""
        return self.backings.off

    def open_handles(self) -> int:
        return len(self._handles)

    def request_counts(self) -> dict[str, int]:
        """How many requests came, by operation."""
        return {op.name.lower(): self.requests[op] for op in Op if self.requests[op]}

    def close(self) -> None:
        """Lets go of what is not the connection itself. Only after `run` has returned."""
        for pending in list(self._pending.values()):
            pending.future.cancel()
        self._pending.clear()
        self._folders.clear()
        self._splicer.close()
        if self._disk is not None:
            self._disk.shutdown(wait=False, cancel_futures=True)

    # Answers.

    def _send(self, unique: int, reply: bytes | bytearray | memoryview) -> bool:
        """Whether the kernel took it."""
        try:
            os.write(self.fd, reply)
        except OSError as error:
            return self._refused(unique, error)
        return True

    def _refused(self, unique: int, error: OSError) -> bool:
        # ENOENT: interrupted, nobody waits any more. ENODEV and ENOTCONN: unmounted or aborted.
        if error.errno not in (errno.ENOENT, errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED):
            log.error("mount.reply_refused", extra=fields(error=error, request=unique))
            try:
                os.write(self.fd, wire.OUT_HEADER.pack(wire.OUT, -errno.EIO, unique))
            except OSError:
                pass
        return False

    def _error(self, unique: int, code: int) -> None:
        self._send(unique, wire.OUT_HEADER.pack(wire.OUT, -code, unique))

    def _fail(self, unique: int, error: BaseException, opcode: int, node: int) -> None:
        """Answers with the errno of `error`; what we did not foresee is EIO and a traceback."""
        if opcode == Op.LOOKUP and isinstance(error, NotFound):
            self._no_such_name(unique)
        elif isinstance(error, SyndError):
            code = error.errno
            if opcode == Op.GETXATTR and code == errno.ENOENT:
                code = errno.ENODATA
            self._error(unique, code)
        elif isinstance(error, CancelledError):
            self._error(unique, errno.EINTR)
        else:
            log.error("mount.failed", exc_info=error, extra=fields(operation=opcode, node=node))
            self._error(unique, errno.EIO)

    def _defer(
        self,
        unique: int,
        opcode: int,
        node: int,
        future: Future[Any],
        finish: Callable[[int, Any], None],
    ) -> None:
        self._pending[unique] = _Pending(opcode, node, time.monotonic(), future)
        future.add_done_callback(partial(self._settle, unique, opcode, node, finish))

    def _settle(
        self,
        unique: int,
        opcode: int,
        node: int,
        finish: Callable[[int, Any], None],
        future: Future[Any],
    ) -> None:
        if self._pending.pop(unique, None) is None:
            # Answered with EINTR before. An answer that came all the same must not leak.
            if not future.cancelled() and future.exception() is None:
                _discard(future.result())
            return
        try:
            finish(unique, future.result())
        except (Exception, CancelledError) as error:  # noqa: BLE001  # the edge of one request
            self._fail(unique, error, opcode, node)

    def _interrupt(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        # The request was read by this same thread before its interrupt, so one that is not pending
        # has been answered: nothing to do.
        (target,) = wire.INTERRUPT_IN.unpack_from(request, wire.BODY)
        pending = self._pending.pop(target, None)
        if pending is not None:
            self._error(target, errno.EINTR)
            pending.future.cancel()

    def _refuse(self, code: int, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self._error(unique, code)

    def _nothing_to_do(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        self._error(unique, 0)

    # INIT.

    def _init(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        length = wire.IN_HEADER.unpack_from(request)[0]
        major, minor, readahead, offered = wire.INIT_IN_OLD.unpack_from(request, wire.BODY)
        if offered & Init.INIT_EXT and length >= wire.BODY + wire.INIT_IN.size:
            offered |= wire.INIT_IN.unpack_from(request, wire.BODY)[4] << 32
        if major != wire.MAJOR or minor < wire.MINOR_LEAST:
            log.error("mount.kernel_too_old", extra=fields(protocol=f"{major}.{minor}"))
            self._error(unique, errno.EPROTO)
            if self._on_init is not None:
                self._on_init(None)
            return
        wanted = _WANTED
        if not self.backings.off:
            if offered & Init.PASSTHROUGH:
                wanted |= Init.PASSTHROUGH
            else:
                self.backings.off = TOO_OLD
        flags = offered & wanted
        self.negotiated = Negotiated(min(minor, wire.MINOR), flags, MAX_WRITE)
        self._send(
            unique,
            wire.INIT_REPLY.pack(
                wire.INIT_REPLY.size,
                0,
                unique,
                wire.MAJOR,
                self.negotiated.minor,
                readahead,
                flags & 0xFFFF_FFFF,
                _MAX_BACKGROUND,
                _CONGESTED_AT,
                MAX_WRITE,
                1,
                MAX_WRITE // 4096,
                0,
                flags >> 32,
                self._stack_depth if flags & Init.PASSTHROUGH else 0,
                0,
                *(0,) * 11,
            ),
        )
        if self._on_init is not None:
            self._on_init(self.negotiated)

    # Names and attributes.

    def _lookup(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        name = bytes(request[40 : request.index(0, 40)])
        if len(name) > wire.NAME_MAX:
            # The kernel lets names of up to 1024 bytes through to us.
            self._error(unique, errno.ENAMETOOLONG)
            return
        answer = self._fs.lookup(node, name)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, self._entry)
        else:
            self._entry(unique, answer)

    def _no_such_name(self, unique: int) -> None:
        ttl = self._fs.negative_ttl_s
        if ttl <= 0:
            self._error(unique, errno.ENOENT)
            return
        s, ns = split_ttl(ttl)
        self._send(
            unique,
            wire.ENTRY_REPLY.pack(wire.ENTRY_REPLY.size, 0, unique, 0, 0, s, 0, ns, 0, *(0,) * 16),
        )

    def _entry(self, unique: int, attr: Attr) -> None:
        node, ino, mode, size, mtime, ctime, nlink, attr_ttl, entry_ttl = attr
        attr_s, attr_ns = split_ttl(attr_ttl)
        entry_s, entry_ns = split_ttl(entry_ttl)
        mtime_s, mtime_ns = divmod(mtime, _NS)
        ctime_s, ctime_ns = divmod(ctime, _NS)
        self._send(
            unique,
            wire.ENTRY_REPLY.pack(
                144, 0, unique,
                node, 0, entry_s, attr_s, entry_ns, attr_ns,
                ino, size, (size + 511) >> 9, mtime_s, mtime_s, ctime_s, mtime_ns, mtime_ns, ctime_ns,
                mode, nlink, self._uid, self._gid, 0, BLOCK, 0,
            ),
        )  # fmt: skip

    def _getattr(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.getattr(node)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, self._attributes)
        else:
            self._attributes(unique, answer)

    def _attributes(self, unique: int, attr: Attr) -> None:
        _, ino, mode, size, mtime, ctime, nlink, attr_ttl, _ = attr
        attr_s, attr_ns = split_ttl(attr_ttl)
        mtime_s, mtime_ns = divmod(mtime, _NS)
        ctime_s, ctime_ns = divmod(ctime, _NS)
        self._send(
            unique,
            wire.ATTR_REPLY.pack(
                120, 0, unique,
                attr_s, attr_ns, 0,
                ino, size, (size + 511) >> 9, mtime_s, mtime_s, ctime_s, mtime_ns, mtime_ns, ctime_ns,
                mode, nlink, self._uid, self._gid, 0, BLOCK, 0,
            ),
        )  # fmt: skip

    def _readlink(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.readlink(node)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, self._data)
        else:
            self._data(unique, answer)

    def _forget(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (lookups,) = wire.FORGET_IN.unpack_from(request, wire.BODY)
        self._forget_one(node, lookups)

    def _batch_forget(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        count, _ = wire.BATCH_FORGET_IN.unpack_from(request, wire.BODY)
        start = wire.BODY + wire.BATCH_FORGET_IN.size
        with memoryview(request) as view:
            for forgotten, lookups in wire.FORGET_ONE.iter_unpack(
                view[start : start + count * wire.FORGET_ONE.size]
            ):
                self._forget_one(forgotten, lookups)

    def _forget_one(self, node: int, lookups: int) -> None:
        # Nobody waits for an answer, so there is nobody to tell.
        try:
            self._fs.forget(node, lookups)
        except Exception:
            log.exception("mount.failed", extra=fields(operation="forget", node=node))

    def _access(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (mask,) = wire.ACCESS_IN.unpack_from(request, wire.BODY)
        if not mask & os.W_OK:
            self._error(unique, 0)
            return
        answer = self._fs.change("access", node, None)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, lambda u, _: self._error(u, 0))
        else:
            self._error(unique, 0)

    def _statfs(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        block, blocks, free, files = self._fs.statfs()
        self._send(
            unique,
            wire.STATFS_REPLY.pack(
                wire.STATFS_REPLY.size, 0, unique,
                blocks, free, free, files, 0, block, wire.NAME_MAX, block,
            ),
        )  # fmt: skip

    # Extended attributes.

    def _getxattr(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        at = wire.GETXATTR_NAME
        name = bytes(request[at : request.index(0, at)])
        if not name.startswith(b"user."):
            # `ls -l` asks every file for its ACL and its security label; told that the filesystem
            # has none, it asks only once.
            self._error(unique, errno.EOPNOTSUPP)
            return
        (room, _) = wire.GETXATTR_IN.unpack_from(request, wire.BODY)
        answer = self._fs.getxattr(node, name)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, partial(self._xattr, room))
        else:
            self._xattr(room, unique, answer)

    def _listxattr(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (room, _) = wire.GETXATTR_IN.unpack_from(request, wire.BODY)
        answer = self._fs.listxattr(node)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, partial(self._xattr_names, room))
        else:
            self._xattr_names(room, unique, answer)

    def _xattr_names(self, room: int, unique: int, names: list[bytes]) -> None:
        self._xattr(room, unique, b"".join(name + b"\0" for name in names))

    def _xattr(self, room: int, unique: int, value: bytes) -> None:
        size = len(value)
        if size > wire.XATTR_SIZE_MAX:
            self._error(unique, errno.E2BIG)
        elif room == 0:
            self._send(
                unique,
                wire.GETXATTR_REPLY.pack(wire.GETXATTR_REPLY.size, 0, unique, size, 0),
            )
        elif size > room:
            self._error(unique, errno.ERANGE)
        else:
            self._data(unique, value)

    # Folders.

    def _opendir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        answer = self._fs.opendir(node)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, self._folder_opened)
        else:
            self._folder_opened(unique, None)

    def _folder_opened(self, unique: int, _: None) -> None:
        handle = self._next_folder = self._next_folder + 1
        self._send(
            unique,
            wire.OPEN_REPLY.pack(
                wire.OPEN_REPLY.size,
                0,
                unique,
                handle,
                wire.FOPEN_KEEP_CACHE | wire.FOPEN_CACHE_DIR,
                0,
            ),
        )

    def _releasedir(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (handle,) = wire.RELEASE_IN.unpack_from(request, wire.BODY)
        self._folders.pop(handle, None)
        self._error(unique, 0)

    def _readdir(self, plus: bool, request: bytearray, unique: int, node: int, opcode: int) -> None:
        handle, offset, size = wire.READ_IN.unpack_from(request, wire.BODY)
        folder = self._folders.get(handle)
        if folder is None:
            folder = self._folders[handle] = Folder()
        if folder.goes_on(offset, plus=plus):
            self._listing(unique, node, folder, plus, offset, size)
            return
        answer = self._fs.readdir(node, offset - 2 if offset > 2 else 0, plus=plus)
        if isinstance(answer, Future):

            def listed(unique: int, entries: Iterable[DirEntry]) -> None:
                folder.restart(iter(entries), plus=plus)
                self._listing(unique, node, folder, plus, offset, size)

            self._defer(unique, opcode, node, answer, listed)
        else:
            folder.restart(iter(answer), plus=plus)
            self._listing(unique, node, folder, plus, offset, size)

    def _listing(
        self, unique: int, node: int, folder: Folder, plus: bool, offset: int, size: int
    ) -> None:
        own = self._fs.getattr(node) if offset == 0 else None
        ino = wire.UNKNOWN_INO if own is None or isinstance(own, Future) else own.ino
        out = bytearray(wire.OUT + size)
        end = listing.pack(folder, out, offset, ino=ino, plus=plus, uid=self._uid, gid=self._gid)
        wire.OUT_HEADER.pack_into(out, 0, end, 0, unique)
        with memoryview(out) as view:
            self._send(unique, view[:end])

    # Files.

    def _open(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        flags, _ = wire.OPEN_IN.unpack_from(request, wire.BODY)
        if unique & wire.UNIQUE_RESEND:
            before = self._handles.resent(unique & ~wire.UNIQUE_RESEND)
            if before is not None:
                self._opened(unique, before, flags, keep_cache=True)
                return
        if flags & _WRITING:
            answer = self._fs.change("open", node, None)
            if isinstance(answer, Future):
                self._defer(
                    unique, opcode, node, answer, lambda u, _: self._open_now(u, node, flags)
                )
                return
        self._open_now(unique, node, flags)

    def _open_now(self, unique: int, node: int, flags: int) -> None:
        answer = self._fs.open(node, flags)
        if isinstance(answer, Future):
            self._defer(unique, Op.OPEN, node, answer, partial(self._finish_open, node, flags))
        else:
            self._finish_open(node, flags, unique, answer)

    def _finish_open(self, node: int, flags: int, unique: int, opened: Opened) -> None:
        backing = opened.backing
        try:
            handle = self._handles.open(
                node,
                unique & ~wire.UNIQUE_RESEND,
                direct=opened.direct_io,
                register=(
                    None
                    if backing is None or self.backings.off
                    else partial(self.backings.register, backing)
                ),
            )
        finally:
            if backing is not None:
                os.close(backing)
        if not self._opened(unique, handle, flags, keep_cache=opened.keep_cache):
            # Nobody got the handle, so nobody will release it.
            self._handles.release(handle.number)
            self._fs.release(node, handle.number)

    def _opened(self, unique: int, handle: Handle, flags: int, *, keep_cache: bool) -> bool:
        # A reader has nothing to flush: without this flag every close is a round trip.
        answer = 0 if flags & _WRITING else wire.FOPEN_NOFLUSH
        if handle.mode is Mode.PASSTHROUGH:
            answer |= wire.FOPEN_PASSTHROUGH
        elif handle.mode is Mode.DIRECT:
            answer |= wire.FOPEN_DIRECT_IO
        elif keep_cache:
            answer |= wire.FOPEN_KEEP_CACHE
        return self._send(
            unique, wire.OPEN_REPLY.pack(32, 0, unique, handle.number, answer, handle.backing)
        )

    def _release(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        (number,) = wire.RELEASE_IN.unpack_from(request, wire.BODY)
        handle = self._handles.release(number)
        if handle is not None:
            try:
                self._fs.release(node, number)
            except Exception:
                log.exception("mount.failed", extra=fields(operation="release", node=node))
        self._error(unique, 0)

    def _read(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        handle, offset, size = wire.READ_IN.unpack_from(request, wire.BODY)
        answer = self._fs.read(node, handle, offset, size)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, partial(self._bytes, node))
        else:
            self._bytes(node, unique, answer)

    def _bytes(self, node: int, unique: int, data: bytes | memoryview | FileSlice) -> None:
        if isinstance(data, FileSlice):
            self._slice(node, unique, data)
        else:
            self._data(unique, data)

    def _data(self, unique: int, data: bytes | bytearray | memoryview) -> None:
        size = len(data)
        try:
            os.writev(self.fd, (wire.OUT_HEADER.pack(16 + size, 0, unique), data))
        except OSError as error:
            self._refused(unique, error)

    def _slice(self, node: int, unique: int, part: FileSlice) -> None:
        fd, offset, size = part
        if not in_memory(fd, offset, size):
            # The disk would keep every other request waiting.
            if self._disk is None:
                self._disk = ThreadPoolExecutor(_DISK_THREADS, thread_name_prefix="synd-disk")
            read = self._disk.submit(os.pread, fd, size, offset)
            self._defer(unique, Op.READ, node, read, self._data)
            return
        if size >= SPLICE_FROM:
            size = max(0, min(size, os.fstat(fd).st_size - offset))
            try:
                if size >= SPLICE_FROM and self._splicer.send(unique, fd, offset, size):
                    return
            except OSError as error:
                self._refused(unique, error)
                return
        self._data(unique, os.pread(fd, size, offset))

    # Changes.

    def _change(
        self, operation: Op, request: bytearray, unique: int, node: int, opcode: int
    ) -> None:
        at = wire.NAME_AT.get(operation)
        name = None if at is None else bytes(request[at : request.index(0, at)])
        if name is not None and len(name) > wire.NAME_MAX:
            self._error(unique, errno.ENAMETOOLONG)
            return
        answer = self._fs.change(_CHANGES[operation], node, name)
        if isinstance(answer, Future):
            self._defer(unique, opcode, node, answer, self._changed)
        else:
            self._changed(unique, None)

    def _changed(self, unique: int, _: None) -> None:
        # `change` has no way yet to say what it did, and an empty success would be a lie.
        self._error(unique, errno.EOPNOTSUPP)


def _discard(value: object) -> None:
    """Closes what an answer that nobody wants any more holds."""
    if isinstance(value, Opened) and value.backing is not None:
        os.close(value.backing)
