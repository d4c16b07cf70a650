"""What a mount can be asked, in terms of nodes: the seam between the filesystem and its transports.

No FUSE type appears here. A node is a number that means the same after a restart: one content of one
entity. An operation returns its answer, or a Future when it must wait; it never blocks. It raises (or
puts into the Future) only `synd.errors`. A transport may cancel the Future when the caller gave up.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from synd.errors import NotFound
from synd.ranges import FileSlice

T = TypeVar("T")
Answer: TypeAlias = T | Future[T]

ROOT = 1
"""The node of the mount's top folder."""


class NotThereYet(NotFound):
    """A name that may be there the next moment, without a notice: nobody is to remember that it is not."""


class Attr(NamedTuple):
    """What stat shows, and how long the kernel may believe it."""

    node: int
    ino: int
    """st_ino: the entity's own number, the same for all its contents."""
    mode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    nlink: int
    attr_ttl_s: float
    entry_ttl_s: float
    """Belongs to the name that led here; only look-ups and listings use it."""
    atime_ns: int = -1
    """-1: as the time of modification."""
    uid: int = -1
    """-1: the owner of the mount."""
    gid: int = -1
    rdev: int = 0
    blocks: int = -1
    """Of 512 bytes; -1: as many as the size needs."""


class Caller(NamedTuple):
    """Who asks for a change, and by which request."""

    uid: int
    gid: int
    umask: int = 0
    """Taken off the mode already by the kernel; libfuse takes it off itself."""
    request: int = 0
    """The request's own number; the same when it is sent again after a restart. 0: never sent again."""
    resent: bool = False
    """An earlier daemon may have carried this request out: then it gets the same answer."""


class SetAttr(NamedTuple):
    """What a setattr changes; None stays as it is."""

    mode: int | None = None
    """Permission bits only."""
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    """The transport has put the present time in where the caller asked for that."""
    handle: int | None = None
    """The open file it came through, if any."""


RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class DirEntry(NamedTuple):
    """One name in a folder's listing."""

    name: bytes
    cookie: int
    """Where to go on after this entry; stays valid while the folder changes. Never 0."""
    ino: int
    mode: int
    attr: Attr | None
    """None: the kernel asks by a look-up when somebody stats it (sizes still on their way)."""


class Opened(NamedTuple):
    """How an open file is to be read."""

    backing: int | None = None
    """Descriptor of the complete object, for passthrough. The transport closes it."""
    keep_cache: bool = True
    direct_io: bool = False
    counted: bool = False
    """The filesystem wants to know of the handle: `opened` before the reply, `flush` at each close."""


class StatFs(NamedTuple):
    """Sizes in `block` bytes."""

    block: int
    blocks: int
    free: int
    files: int
    files_free: int


class Filesystem(Protocol):
    """The tree. Methods may be called from any thread, several at once."""

    def lookup(self, parent: int, name: bytes) -> Answer[Attr]:
        """Raises NotFound; `negative_ttl_s` says how long the kernel may remember that."""
        ...

    negative_ttl_s: float

    def getattr(self, node: int) -> Answer[Attr]: ...

    def readlink(self, node: int) -> Answer[bytes]: ...

    def opendir(self, node: int) -> Answer[None]: ...

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Answer[Iterable[DirEntry]]:
        """Entries after `cookie` (0: from the start), lazily; `.` and `..` are left to the transport.

        With `plus` false the entries need carry no attributes. A transport keeps the iterator between
        two requests of one open folder and drops it when the folder is closed or its reader seeks.
        """
        ...

    def open(self, node: int, flags: int) -> Answer[Opened]:
        """Raises Stale when the name leads to another node by now: the kernel looks it up again."""
        ...

    def read(
        self, node: int, handle: int, offset: int, size: int
    ) -> Answer[bytes | memoryview | FileSlice]:
        """Up to `size` bytes; fewer only at the end of the file. A memoryview is one of bytes."""
        ...

    def release(self, node: int, handle: int) -> None: ...

    def forget(self, node: int, lookups: int) -> None: ...

    def getxattr(self, node: int, name: bytes) -> Answer[bytes]:
        """Raises NotFound when the node has no such attribute (the transport answers ENODATA)."""
        ...

    def listxattr(self, node: int) -> Answer[list[bytes]]: ...

    def statfs(self) -> StatFs: ...

    # Changes. A name that synd keeps for itself, or a place that cannot change, raises ReadOnly.

    def opened(self, node: int, handle: int) -> None:
        """A `counted` open got this handle; called before the reply, and again for every open handle
        that a new daemon inherits. Ends with `release`.
        """
        ...

    def access(self, node: int) -> Answer[None]:
        """Whether the node may be written at all; permissions are the kernel's own matter."""
        ...

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> Answer[tuple[Attr, Opened]]:
        """A new file, open; or the one that is there already unless `flags` hold O_EXCL."""
        ...

    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller
    ) -> Answer[Attr]: ...

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Answer[Attr]: ...

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Answer[Attr]: ...

    def link(self, node: int, parent: int, name: bytes, caller: Caller) -> Answer[Attr]:
        """Raises NotPermitted: an entity has one name."""
        ...

    def unlink(self, parent: int, name: bytes, caller: Caller) -> Answer[None]: ...

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> Answer[None]: ...

    def rename(
        self, parent: int, name: bytes, to: int, new_name: bytes, flags: int, caller: Caller
    ) -> Answer[None]:
        """`flags`: RENAME_NOREPLACE, RENAME_EXCHANGE; raises UsageError for others."""
        ...

    def setattr(self, node: int, change: SetAttr, caller: Caller) -> Answer[Attr]:
        """Raises Stale as `open` does when a size is set on what must not be written in place."""
        ...

    def write(self, node: int, handle: int, offset: int, data: memoryview) -> Answer[int]:
        """Bytes taken. `data` is the transport's buffer: copied before a Future is returned."""
        ...

    def fallocate(
        self, node: int, handle: int, mode: int, offset: int, length: int
    ) -> Answer[None]: ...

    def flush(self, node: int, handle: int) -> Answer[None]:
        """A descriptor was closed: what was written through it is durable when this is answered."""
        ...

    def fsync(self, node: int, handle: int) -> Answer[None]: ...

    def fsyncdir(self, node: int) -> Answer[None]: ...

    def setxattr(
        self, node: int, name: bytes, value: bytes, flags: int, caller: Caller
    ) -> Answer[None]:
        """`flags`: os.XATTR_CREATE, os.XATTR_REPLACE. Raises Exists, NotFound (ENODATA)."""
        ...

    def removexattr(self, node: int, name: bytes, caller: Caller) -> Answer[None]: ...


class Notices(Protocol):
    """How the filesystem tells the kernel that something changed. Never blocks, any thread."""

    def entry(self, parent: int, name: bytes, *, gone: int | None = None) -> None:
        """A name in a folder leads elsewhere, or nowhere.

        `gone`: the node that the name led to, when it was deleted: programs that have it open see
        that it has no name left.
        """
        ...

    def node(self, node: int, *, data: bool) -> None:
        """A node's attributes (and with `data` its cached pages or listing) are out of date."""
        ...
