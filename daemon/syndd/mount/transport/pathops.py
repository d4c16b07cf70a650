# the library's callbacks have its signatures
# ruff: noqa: ARG002  # the library's callbacks have its signatures
"""libfuse's callbacks: paths become nodes, and Futures are waited for. Reading; `pathchanges` changes.

An open file keeps its node: what comes with a handle goes to the node that was opened, whatever the
path leads to by now.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import itertools
import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from typing import Any, NamedTuple, ParamSpec, TypeVar

from synd.errors import NameTooLong, NotFound, Stale, SyndError
from synd.log import fields
from synd.ranges import FileSlice
from syndd.mount.ops import ROOT, Attr, Filesystem, Opened
from syndd.mount.transport.paths import Guesses, OpenFile, Owners, Paths

log = logging.getLogger(__name__)

_TICK_S = 0.1
"""How often a waiting request asks whether its caller gave up."""
_BLOCK = 4096
_NAME_MAX = 255
_BY_ID = b"/@id"
_ATTEMPTS = 3
"""Of what meets a name that leads to another content by now. The kernel would look it up again by itself;
libfuse leaves that to us."""

T = TypeVar("T")
P = ParamSpec("P")


def answered(method: Callable[P, T]) -> Callable[P, T]:
    """Errors of the filesystem become the OSError that the library turns into an errno."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except SyndError as error:
            raise failure(error.errno) from error
        except CancelledError as error:
            raise failure(errno.EINTR) from error
        except OSError:
            raise
        except Exception as error:
            log.exception("mount.failed", extra=fields(operation=method.__name__))
            raise failure(errno.EIO) from error

    return call


def failure(code: int) -> OSError:
    """What the library turns into an errno."""
    return OSError(code, os.strerror(code))


def spelled(path: str) -> bytes:
    """A path as `Paths` knows it."""
    return path.encode("utf-8", "surrogateescape").rstrip(b"/")


class OpenFolder(NamedTuple):
    """An open folder, and when it had that path."""

    path: bytes
    attr: Attr
    generation: int


class Operations:
    """What can be asked without changing anything. Called from several of libfuse's threads at once."""

    use_ns = True
    # With a handle there is no need for a path, which an unlinked file has not.
    flag_nullpath_ok = True
    flag_nopath = True
    flag_utime_omit_ok = True

    def __init__(self, fs: Filesystem, uid: int, gid: int, interrupted: Callable[[], bool]) -> None:
        self.paths = Paths()
        self.pending: dict[int, tuple[str, int, float]] = {}
        self.requests: Counter[str] = Counter()
        self.owners = Owners()
        self._guesses = Guesses()
        self.ready = threading.Event()
        self._fs = fs
        self._uid = uid
        self._gid = gid
        self._interrupted = interrupted
        self._numbers = itertools.count(1)
        self._folders: dict[int, OpenFolder] = {}
        self._hidden: dict[bytes, int] = {}
        """Names that libfuse gave to files that were unlinked while they were open."""
        self._no_links: set[bytes] = set()
        """Paths in ``@id`` that were a folder or a file when the kernel first asked."""

    # Waiting and finding.

    def _wait(
        self, answer: T | Future[T], operation: str, node: int, *, changing: bool = False
    ) -> T:
        self.requests[operation] += 1
        if not isinstance(answer, Future):
            return answer
        number = next(self._numbers)
        self.pending[number] = (operation, node, time.monotonic())
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    return answer.result(_TICK_S)
                if answer.done():
                    return answer.result()
                # EINTR would be a lie about a change that cannot be called off any more.
                if self._interrupted() and (answer.cancel() or not changing):
                    raise failure(errno.EINTR)
        finally:
            del self.pending[number]

    def _find(self, path: bytes) -> Attr:
        attr = self._found(path)
        if path.rpartition(b"/")[0] != _BY_ID:
            return attr
        # A name in ``@id`` becomes a symlink when its project enters the mount. The kernel knows one inode
        # per path, and fails whatever is asked of an inode that is another kind of thing by now: who was
        # there before, a shell in the folder or a reader of the file, goes on.
        if not stat.S_ISLNK(attr.mode):
            self._no_links.add(path)
        elif path in self._no_links:
            target = self._wait(self._fs.readlink(attr.node), "readlink", attr.node)
            return self._find(os.path.normpath(_BY_ID + b"/" + target))
        return attr

    def _found(self, path: bytes) -> Attr:
        # What is written meanwhile shows at once: the kernel believes the size that it is told.
        known = None if self.owners.is_open(path) else self.paths.get(path)
        if known is not None:
            return known
        generation = self.paths.generation
        if not path:
            attr = self._wait(self._fs.getattr(ROOT), "getattr", ROOT)
        elif (hidden := self._hidden.get(path)) is not None:
            return self._unlinked(hidden)
        else:
            parent, name = self._parent(path)
            attr = self._wait(self._fs.lookup(parent, name), "lookup", parent)
        self.paths.put(path, attr, generation)
        return attr

    def _unlinked(self, node: int) -> Attr:
        attr = self._wait(self._fs.getattr(node), "getattr", node)
        return attr._replace(nlink=0)

    def _parent(self, path: bytes) -> tuple[int, bytes]:
        """The folder's node, and the last name."""
        folder, _, name = path.rpartition(b"/")
        if len(name) > _NAME_MAX:
            # The kernel lets names of up to 1024 bytes through to us.
            raise NameTooLong(f"a name of {len(name)} bytes")
        return self._find(folder).node, name

    def _file(self, info: Any) -> OpenFile:
        """The open file of a handle."""
        file = self.owners.get(info.fh)
        if file is None:
            raise failure(errno.EBADF)
        return file

    def _node(self, path: str | None, info: Any) -> int:
        """The node of the open file, if there is one, else of the path."""
        if info is not None and (file := self.owners.get(info.fh)) is not None:
            return file.node
        if path is None:
            raise failure(errno.EBADF)
        return self._find(spelled(path)).node

    def _again(self, act: Callable[[], T]) -> T:
        """Repeats what failed because a name leads to another content by now."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return act()
            except Stale:
                self.paths.forget_all()
        return act()

    def _stat(self, attr: Attr) -> dict[str, int]:
        return {
            "st_ino": attr.ino,
            "st_mode": attr.mode,
            "st_nlink": attr.nlink,
            "st_uid": self._uid if attr.uid < 0 else attr.uid,
            "st_gid": self._gid if attr.gid < 0 else attr.gid,
            "st_rdev": attr.rdev,
            "st_size": attr.size,
            "st_blocks": (attr.size + 511) // 512 if attr.blocks < 0 else attr.blocks,
            "st_blksize": _BLOCK,
            "st_atime": attr.mtime_ns if attr.atime_ns == -1 else attr.atime_ns,
            "st_mtime": attr.mtime_ns,
            "st_ctime": attr.ctime_ns,
        }

    # What is there.

    def init(self, path: str) -> None:
        self.ready.set()

    @answered
    def getattr(self, path: str | None, fh: Any = None) -> dict[str, int]:
        file = self.owners.get(fh.fh) if fh is not None else None
        if file is not None:
            if file.path in self._hidden:
                return self._stat(self._unlinked(file.node))
            return self._stat(self._wait(self._fs.getattr(file.node), "getattr", file.node))
        if path is None:
            raise failure(errno.EBADF)
        where = spelled(path)
        attr = self._find(where)
        self._guesses.told(where, attr)
        return self._stat(attr)

    @answered
    def readlink(self, path: str) -> str:
        node = self._find(spelled(path)).node
        return self._wait(self._fs.readlink(node), "readlink", node).decode(
            "utf-8", "surrogateescape"
        )

    @answered
    def statfs(self, path: str) -> dict[str, int]:
        block, blocks, free, files, files_free = self._fs.statfs()
        return {
            "f_bsize": block,
            "f_frsize": block,
            "f_blocks": blocks,
            "f_bfree": free,
            "f_bavail": free,
            "f_files": files,
            "f_ffree": files_free,
            "f_favail": files_free,
            "f_namemax": _NAME_MAX,
        }

    @answered
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        if not name.startswith("user."):
            raise failure(errno.EOPNOTSUPP)
        node = self._find(spelled(path)).node
        try:
            return self._wait(self._fs.getxattr(node, os.fsencode(name)), "getxattr", node)
        except NotFound as error:
            raise failure(errno.ENODATA) from error

    @answered
    def listxattr(self, path: str) -> list[str]:
        node = self._find(spelled(path)).node
        return [os.fsdecode(n) for n in self._wait(self._fs.listxattr(node), "listxattr", node)]

    # Folders.

    @answered
    def opendir(self, path: str) -> int:
        where, generation = spelled(path), self.paths.generation
        attr = self._find(where)
        self._wait(self._fs.opendir(attr.node), "opendir", attr.node)
        handle = next(self._numbers)
        self._folders[handle] = OpenFolder(where, attr, generation)
        return handle

    @answered
    def readdir(self, path: str | None, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        where, attr, generation = self._folders[fh]
        entries = self._wait(self._fs.readdir(attr.node, 0, plus=True), "readdir", attr.node)

        def listing() -> Iterator[tuple[str, dict[str, int], int]]:
            yield ".", {"st_ino": attr.ino, "st_mode": attr.mode}, 0
            yield "..", {"st_mode": stat.S_IFDIR}, 0
            for name, _, ino, mode, known in entries:
                if known is not None:
                    self.paths.put(where + b"/" + name, known, generation)
                yield name.decode("utf-8", "surrogateescape"), {"st_ino": ino, "st_mode": mode}, 0

        return listing()

    @answered
    def releasedir(self, path: str | None, fh: int) -> int:
        self._folders.pop(fh, None)
        return 0

    # Files.

    @answered
    def open(self, path: str, info: Any) -> int:
        where = spelled(path)
        flags: int = info.flags

        def attempt() -> tuple[int, Opened]:
            node = self._find(where).node
            return node, self._wait(self._fs.open(node, flags), "open", node)

        node, opened = self._again(attempt)
        # It must not read what it opened with the size of what was there before.
        time.sleep(self._guesses.believed_s(where, node))
        self._opened(where, node, opened, info)
        if flags & os.O_TRUNC:
            self.paths.changed(where)
        return 0

    def _opened(self, where: bytes, node: int, opened: Opened, info: Any) -> None:
        """Gives the open file its handle."""
        if opened.backing is not None:
            os.close(opened.backing)
        handle = next(self._numbers)
        if opened.counted:
            self._fs.opened(node, handle)
        past, keep = self.owners.opened(where, node, handle)
        info.fh = handle
        info.direct_io = past or opened.direct_io
        info.keep_cache = keep and opened.keep_cache

    @answered
    def read(self, path: str | None, size: int, offset: int, info: Any) -> bytes:
        node = self._file(info).node
        answer: Any = self._fs.read(node, info.fh, offset, size)
        data: bytes | memoryview | FileSlice = self._wait(answer, "read", node)
        if isinstance(data, FileSlice):
            return os.pread(data.fd, min(data.size, size), data.offset)
        if len(data) > size:
            raise SyndError(f"a read of {size} bytes was answered with {len(data)}")
        # The library copies from the address of a bytes object.
        return data if isinstance(data, bytes) else bytes(data)

    @answered
    def release(self, path: str | None, info: Any) -> int:
        file = self.owners.closed(info.fh)
        if file is not None:
            self.paths.changed(file.path)
            self._fs.release(file.node, info.fh)
        return 0
