# handlers of one table have one signature
# ruff: noqa: ARG002  # handlers of one table have one signature
"""Speaks the kernel's FUSE protocol on /dev/fuse: requests in, calls of the filesystem, replies out.

One thread reads requests and answers what the filesystem answers at once. A Future is answered from
its done-callback, by whichever thread completed it, so any number of waiting readers costs no thread.
More reading threads do not help: the interpreter lock lets one of them run, and every hand-over costs
more than a request.

Here are the loop, INIT and who serves which opcode. How a request is answered is `requests`' business;
what each means, that of `names`, `xattrs`, `folders`, `files` and `changes`. Nothing here knows Synapse
or the cache; `session` makes the mount and owns the descriptor. Invariant: no exception ends the loop.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from synd.log import fields
from syndd.mount import wire
from syndd.mount.handles import HandleTable
from syndd.mount.ops import Filesystem
from syndd.mount.transport.backing import TOO_OLD, Backings
from syndd.mount.transport.changes import Changes
from syndd.mount.transport.files import Files
from syndd.mount.transport.folders import Folders
from syndd.mount.transport.names import Names
from syndd.mount.transport.requests import Handler, Requests, Waiting
from syndd.mount.transport.xattrs import Xattrs
from syndd.mount.wire import Init, Op

log = logging.getLogger(__name__)

MAX_WRITE = 1 << 20
"""Largest READ and WRITE: 256 pages, the kernel's own limit (fs.fuse.max_pages_limit)."""
_BUFFER = MAX_WRITE + 4096
"""What one request can measure: the kernel refuses smaller buffers."""
MAX_READ = 512 << 10
"""Largest READ. A spliced answer must fit into one pipe, header included, and a pipe that a user may
have (pipe-max-size) holds 256 pages; half of that also lets two requests of one reader overlap."""

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
    # Without it every write asks for security.capability first. The mount is nosuid.
    | Init.HANDLE_KILLPRIV_V2
    | Init.DO_READDIRPLUS
    | Init.ABORT_ERROR
    | Init.INIT_EXT
    | Init.HAS_RESEND
)
"""Left out on purpose: locks (the kernel keeps them locally), WRITEBACK_CACHE (bars passthrough),
AUTO_INVAL_DATA (a node's content changes only through the kernel, so a new mtime must not drop its
pages), CACHE_SYMLINKS (a link leads to a place, and that changes with every folder above it), DONT_MASK
(the kernel takes the umask off), POSIX_ACL, EXPORT_SUPPORT."""

_UNKNOWN_TO_US: dict[int, int] = {
    # ENOSYS makes the kernel use its own way and never ask again in the life of the mount: copies go
    # through its page cache, locks stay with it, TMPFILE is EOPNOTSUPP for its caller.
    Op.IOCTL: errno.ENOTTY,
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
        self._stack_depth = stack_depth
        self._on_init = on_init
        self._requests = Requests(fd, lambda: fs.negative_ttl_s)
        self._folders = Folders(self._requests, fs, uid=uid, gid=gid)
        self._files = Files(self._requests, fs, self.backings, uid=uid, gid=gid)
        if negotiated is not None and not negotiated.passthrough and passthrough:
            self.backings.off = TOO_OLD
        named: dict[int, Handler] = {
            **Names(self._requests, fs, uid=uid, gid=gid, forgotten=self.doubt).handlers(),
            **Xattrs(self._requests, fs, self._extended).handlers(),
            **Changes(self._requests, fs, uid=uid, gid=gid).handlers(),
            **self._folders.handlers(),
            **self._files.handlers(),
            Op.INIT: self._init,
            Op.INTERRUPT: self._requests.interrupt,
            Op.DESTROY: self._requests.nothing_to_do,
        }
        refuse = self._requests.refuse
        self._table = [
            named.get(opcode) or partial(refuse, _UNKNOWN_TO_US.get(opcode, errno.ENOSYS))
            for opcode in range(wire.OPCODES)
        ]

    def _extended(self) -> bool:
        return self.negotiated is not None and bool(self.negotiated.flags & Init.SETXATTR_EXT)

    def use(self, handles: HandleTable) -> None:
        """Keeps open files in `handles`; the filesystem hears of each that is in it. Before `run`."""
        self._files.use(handles)

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
                self._requests.fail(unique, error, opcode, node)

    def doubt(self, node: int | None) -> None:
        """The kernel may keep a listing of this folder that is out of date; None: of any. Any thread."""
        self._folders.doubt(node)

    def resend(self) -> None:
        """Asks the kernel for every request that an earlier daemon left without an answer."""
        os.write(self.fd, wire.OUT_HEADER.pack(wire.OUT, wire.Notify.RESEND, 0))

    def waiting(self) -> list[Waiting]:
        """Requests without an answer, oldest first."""
        return self._requests.waiting()

    @property
    def passthrough_off(self) -> str:
        """Why files are not opened with passthrough; empty when they are."""
        return self.backings.off

    def open_handles(self) -> int:
        return len(self._files.handles)

    def request_counts(self) -> dict[str, int]:
        """How many requests came, by operation."""
        return {op.name.lower(): self.requests[op] for op in Op if self.requests[op]}

    def close(self) -> None:
        """Lets go of what is not the connection itself. Only after `run` has returned."""
        self._requests.close()
        self._folders.close()
        self._files.close()

    def _init(self, request: bytearray, unique: int, node: int, opcode: int) -> None:
        length = wire.IN_HEADER.unpack_from(request)[0]
        major, minor, readahead, offered = wire.INIT_IN_OLD.unpack_from(request, wire.BODY)
        if offered & Init.INIT_EXT and length >= wire.BODY + wire.INIT_IN.size:
            offered |= wire.INIT_IN.unpack_from(request, wire.BODY)[4] << 32
        if major != wire.MAJOR or minor < wire.MINOR_LEAST:
            log.error("mount.kernel_too_old", extra=fields(protocol=f"{major}.{minor}"))
            self._requests.error(unique, errno.EPROTO)
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
        self._requests.send(
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
