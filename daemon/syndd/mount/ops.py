"""What a mount can be asked, in terms of nodes: the seam between the filesystem and its transports.

No FUSE type appears here. A node is a number that means the same after a restart: one content of one
entity. An operation returns its answer, or a Future when it must wait; it never blocks. It raises (or
puts into the Future) only `synd.errors`. A transport may cancel the Future when the caller gave up.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from synd.ranges import FileSlice

T = TypeVar("T")
Answer: TypeAlias = T | Future[T]

ROOT = 1
"""The node of the mount's top folder."""


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


class StatFs(NamedTuple):
    """Sizes in `block` bytes."""

    block: int
    blocks: int
    free: int
    files: int


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

    def change(self, operation: str, node: int, name: bytes | None) -> Answer[None]:
        """Any operation that would change the tree: mkdir, unlink, setattr, write, … Raises ReadOnly."""
        ...


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
