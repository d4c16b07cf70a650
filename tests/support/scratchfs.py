"""A small writable filesystem for tests, over a scratch folder: what the transports must be able to carry.

Names and attributes are in memory, and in a log, so that a killed server goes on where it was. Each file's bytes are one file of the folder, named by its node. A file may be
sealed: opening it for writing then makes a copy with another node and answers Stale. Requests that are
sent again get the answer they got.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

from synd.errors import (
    Exists,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    NotPermitted,
    NotSupported,
    ReadOnly,
    Stale,
    SyndError,
    UsageError,
)
from synd.ranges import FileSlice
from syndd.mount.ops import (
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    ROOT,
    Attr,
    Caller,
    DirEntry,
    Opened,
    SetAttr,
    StatFs,
)
from tests.support.scratchlog import Log, Node

_WRITING = os.O_ACCMODE | os.O_TRUNC
_libc = ctypes.CDLL(None, use_errno=True)


class ScratchFS:
    """Meets `ops.Filesystem`. Tests ask the `do_…` methods by name."""

    negative_ttl_s = 60.0

    def __init__(
        self,
        folder: str,
        backing: bool = True,
        how: str = "bytes",
        defer_s: float = 0.0,
        ttl_s: float = 60.0,
        direct: bool = False,
        slow: Sequence[str] = (),
    ) -> None:
        """`how` says how reads are served: bytes or slice. With `defer_s` each change (or only those
        that are `slow`) is carried out at once, and answered so much later.
        """
        self.notices: Any = None
        self.calls: dict[str, int] = {}
        self._folder = Path(folder)
        self._backing = backing
        self._how = how
        self._defer_s = defer_s
        self._ttl_s = ttl_s
        self._direct = direct
        self._slow = slow
        self._lock = threading.RLock()
        self._fds: dict[int, int] = {}
        self._handles: dict[int, int] = {}
        now = time.time_ns()
        own = (os.getuid(), os.getgid())
        self._nodes = {ROOT: Node(ROOT, ROOT, stat.S_IFDIR | 0o755, *own, now, now, now)}
        self._folder.mkdir(exist_ok=True)
        self._log = Log(self._folder / "log")
        self._answered = self._log.replay(self._nodes)
        self._next = max(self._nodes) + 1

    # What tests ask for.

    def do_calls(self) -> dict[str, int]:
        return dict(self.calls)

    def do_handles(self) -> dict[str, int]:
        """The counted open files: handle → node."""
        return {str(handle): node for handle, node in self._handles.items()}

    def do_seal(self, path: str) -> int:
        """From now on the file is not written in place."""
        node = self._walk(path)
        node.sealed = True
        self._log.save(node)
        return node.number

    def do_node(self, path: str) -> int:
        return self._walk(path).number

    def do_defer(self, seconds: float) -> None:
        self._defer_s = seconds

    def _walk(self, path: str) -> Node:
        node = self._nodes[ROOT]
        for name in path.encode().split(b"/"):
            node = self._nodes[node.names[name]]
        return node

    # Help.

    def _count(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1

    def _tell(self, what: str, handle: int) -> None:
        """For tests that can read only the log of the server."""
        print(f"handle {handle} {what}", file=sys.stderr, flush=True)

    def _later(self, what: str, act: Callable[[], Any]) -> Any:
        with self._lock:
            self._count(what)
            if not self._defer_s or (self._slow and what not in self._slow):
                return act()
            future: Future[Any] = Future()
            future.set_running_or_notify_cancel()
            try:
                value = act()
            except SyndError as error:
                deliver: Callable[[], None] = _deliver(future.set_exception, error)
            else:
                deliver = _deliver(future.set_result, value)
            if self._slow:
                print(f"slowly {what}", file=sys.stderr, flush=True)
            timer = threading.Timer(self._defer_s, deliver)
            timer.daemon = True
            timer.start()
            return future

    def _once(self, caller: Caller, act: Callable[[], Any]) -> Any:
        """Carries a request out, or repeats the answer that it had."""
        before = self._answered.get(caller.request) if caller.resent else None
        if before is not None:
            self._count("repeated")
            kind, value = before
            if kind == "error":
                raise value
            return value
        try:
            value = act()
        except SyndError as error:
            self._answer(caller, ("error", error))
            raise
        self._answer(caller, ("value", value))
        return value

    def _answer(self, caller: Caller, answer: Any) -> None:
        if caller.request:
            self._answered[caller.request] = answer
            self._log.save(answered={caller.request: answer})

    def _node(self, number: int) -> Node:
        node = self._nodes.get(number)
        if node is None:
            raise NotFound("no such node")
        return node

    def _dir(self, number: int) -> Node:
        node = self._node(number)
        if not stat.S_ISDIR(node.mode):
            raise NotDirectory("not a folder")
        if not node.linked:
            raise NotFound("the folder is gone")
        return node

    def _child(self, parent: int, name: bytes) -> Node:
        number = self._dir(parent).names.get(name)
        if number is None:
            raise NotFound("no such name")
        return self._nodes[number]

    def _path(self, node: Node) -> Path:
        return self._folder / str(node.number)

    def _fd(self, node: Node) -> int:
        fd = self._fds.get(node.number)
        if fd is None:
            fd = os.open(self._path(node), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._fds[node.number] = fd
        return fd

    def _attr(self, node: Node) -> Attr:
        size, blocks, links = 0, 0, int(node.linked)
        times = (node.mtime_ns, node.ctime_ns, node.atime_ns)
        if stat.S_ISREG(node.mode):
            st = os.fstat(self._fd(node))
            size, blocks = st.st_size, st.st_blocks
            times = (st.st_mtime_ns, max(node.ctime_ns, st.st_ctime_ns), st.st_atime_ns)
        elif stat.S_ISLNK(node.mode):
            size = len(node.target)
        return Attr(
            node.number, node.ino, node.mode, size, times[0], times[1], links,
            self._ttl_s, self._ttl_s,
            times[2], node.uid, node.gid, node.rdev, blocks,
        )  # fmt: skip

    def _touch(self, *folders: Node) -> None:
        for folder in folders:
            folder.mtime_ns = folder.ctime_ns = time.time_ns()

    def _add(self, parent: Node, name: bytes, mode: int, caller: Caller, **more: Any) -> Node:
        if name.startswith(b"@"):
            raise ReadOnly("a name of ours")
        if name in parent.names:
            raise Exists("the name is taken")
        number = self._next
        self._next += 1
        now = time.time_ns()
        group = parent.gid if parent.mode & stat.S_ISGID else caller.gid
        if stat.S_ISDIR(mode):
            mode |= parent.mode & stat.S_ISGID
        node = Node(number, number, mode, caller.uid, group, now, now, now, **more)
        if stat.S_ISREG(mode):
            self._fd(node)
        self._nodes[number] = node
        parent.names[name] = number
        self._touch(parent)
        self._log.save(node, parent, names=[(parent, name)])
        return node

    def _gone(self, node: Node) -> None:
        node.linked = False
        node.ctime_ns = time.time_ns()

    def _open(self, node: Node, flags: int) -> Opened:
        if flags & os.O_TRUNC:
            os.ftruncate(self._fd(node), 0)
        counted = bool(flags & _WRITING)
        backing = None
        if self._backing:
            backing = os.open(self._path(node), os.O_RDWR | os.O_CLOEXEC)
        return Opened(backing, keep_cache=False, direct_io=self._direct, counted=counted)

    def _writable(self, node: Node, *, empty: bool) -> Node:
        """The node itself, unless it is sealed: then its heir is there from now on, and it is stale."""
        if not node.sealed or not node.linked:
            return node
        if not node.heir:
            number = self._next
            self._next += 1
            heir = replace(node, number=number, sealed=False, heir=0)
            if not empty:
                Path(self._path(heir)).write_bytes(self._path(node).read_bytes())
            self._nodes[number] = heir
            node.heir = number
            parent, name = self._where(node.number)
            parent.names[name] = number
            self._log.save(node, heir, names=[(parent, name)])
        raise Stale("written elsewhere")

    def _where(self, number: int) -> tuple[Node, bytes]:
        for node in self._nodes.values():
            for name, child in node.names.items():
                if child == number:
                    return node, name
        raise NotFound("it has no name")

    # Reading.

    def lookup(self, parent: int, name: bytes) -> Any:
        self._count("lookup")
        with self._lock:
            return self._attr(self._child(parent, name))

    def getattr(self, node: int) -> Any:
        self._count("getattr")
        with self._lock:
            return self._attr(self._node(node))

    def readlink(self, node: int) -> bytes:
        return self._node(node).target

    def opendir(self, node: int) -> None:
        self._dir(node)

    def readdir(self, node: int, cookie: int, *, plus: bool) -> list[DirEntry]:
        with self._lock:
            # Numbers only grow, so what was there when the reader began stays in its place.
            found = sorted((n, name) for name, n in self._node(node).names.items() if n > cookie)
            return [self._entry(name, self._nodes[number], plus) for number, name in found]

    def _entry(self, name: bytes, node: Node, plus: bool) -> DirEntry:
        attr = self._attr(node) if plus else None
        return DirEntry(name, node.number, node.ino, node.mode, attr)

    def open(self, node: int, flags: int) -> Any:

        def act() -> Opened:
            found = self._node(node)
            if found.heir:
                raise Stale("written elsewhere")
            if flags & _WRITING:
                found = self._writable(found, empty=bool(flags & os.O_TRUNC))
            return self._open(found, flags)

        return self._later("open", act)

    def read(self, node: int, handle: int, offset: int, size: int) -> Any:
        self._count("read")
        fd = self._fd(self._node(node))
        if self._how == "slice":
            return FileSlice(fd, offset, size)
        return os.pread(fd, size, offset)

    def release(self, node: int, handle: int) -> None:
        self._count("release")
        if self._handles.pop(handle, None) is not None:
            self._tell("released", handle)

    def forget(self, node: int, lookups: int) -> None:
        self._count("forget")

    def getxattr(self, node: int, name: bytes) -> bytes:
        value = self._node(node).xattrs.get(name)
        if value is None:
            raise NotFound("no such attribute")
        return value

    def listxattr(self, node: int) -> list[bytes]:
        return list(self._node(node).xattrs)

    def statfs(self) -> StatFs:
        return StatFs(4096, 1 << 28, 1 << 27, len(self._nodes), 1 << 20)

    # Changing.

    def opened(self, node: int, handle: int) -> None:
        self._count("opened")
        self._handles[handle] = node
        self._tell("opened" if self.notices else "inherited", handle)

    def access(self, node: int) -> None:
        self._count("access")

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> Any:

        def act() -> int:
            folder = self._dir(parent)
            there = folder.names.get(name)
            if there is None:
                return self._add(folder, name, stat.S_IFREG | mode, caller).number
            if flags & os.O_EXCL:
                raise Exists("the name is taken")
            node = self._nodes[there]
            if stat.S_ISDIR(node.mode):
                raise IsDirectory("a folder has this name")
            if flags & _WRITING:
                self._writable(node, empty=bool(flags & os.O_TRUNC))
            return node.number

        def both() -> tuple[Attr, Opened]:
            node = self._nodes[self._once(caller, act)]
            opened = self._open(node, flags)
            return self._attr(node), opened

        return self._later("create", both)

    def _make(
        self, what: str, parent: int, name: bytes, mode: int, caller: Caller, **more: Any
    ) -> Any:
        def act() -> int:
            return self._add(self._dir(parent), name, mode, caller, **more).number

        return self._later(what, lambda: self._attr(self._nodes[self._once(caller, act)]))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Any:
        if stat.S_ISBLK(mode) or stat.S_ISCHR(mode):
            raise NotPermitted("no devices here")
        return self._make("mknod", parent, name, mode, caller, rdev=rdev)

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Any:
        return self._make("mkdir", parent, name, stat.S_IFDIR | mode, caller)

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Any:
        return self._make("symlink", parent, name, stat.S_IFLNK | 0o777, caller, target=target)

    def link(self, node: int, parent: int, name: bytes, caller: Caller) -> Any:
        self._count("link")
        raise NotPermitted("a thing has one name")

    def unlink(self, parent: int, name: bytes, caller: Caller) -> Any:

        def act() -> None:
            node, folder = self._child(parent, name), self._dir(parent)
            if stat.S_ISDIR(node.mode):
                raise IsDirectory("a folder")
            del folder.names[name]
            self._gone(node)
            self._touch(folder)
            self._log.save(node, folder, names=[(folder, name)])

        return self._later("unlink", lambda: self._once(caller, act))

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> Any:

        def act() -> None:
            node, folder = self._child(parent, name), self._dir(parent)
            if not stat.S_ISDIR(node.mode):
                raise NotDirectory("not a folder")
            if node.names:
                raise NotEmpty("the folder is not empty")
            del folder.names[name]
            self._gone(node)
            self._touch(folder)
            self._log.save(node, folder, names=[(folder, name)])

        return self._later("rmdir", lambda: self._once(caller, act))

    def rename(
        self, parent: int, name: bytes, to: int, new_name: bytes, flags: int, caller: Caller
    ) -> Any:

        def act() -> None:
            if flags not in (0, RENAME_NOREPLACE, RENAME_EXCHANGE):
                raise UsageError("these flags are not known")
            node, source, target = self._child(parent, name), self._dir(parent), self._dir(to)
            there = target.names.get(new_name)
            changed = [node, source, target]
            if flags & RENAME_EXCHANGE:
                if there is None:
                    raise NotFound("nothing to exchange it with")
                source.names[name] = there
                changed.append(self._nodes[there])
            else:
                if there is not None and flags & RENAME_NOREPLACE:
                    raise Exists("the name is taken")
                if there == node.number:
                    return
                if there is not None:
                    old = self._nodes[there]
                    if old.names:
                        raise NotEmpty("the folder is not empty")
                    self._gone(old)
                    changed.append(old)
                del source.names[name]
            target.names[new_name] = node.number
            node.ctime_ns = time.time_ns()
            self._touch(source, target)
            self._log.save(*changed, names=[(source, name), (target, new_name)])

        return self._later("rename", lambda: self._once(caller, act))

    def setattr(self, node: int, change: SetAttr, caller: Caller) -> Any:
        return self._later("setattr", lambda: self._setattr(self._node(node), change))

    def _setattr(self, node: Node, change: SetAttr) -> Attr:
        file = stat.S_ISREG(node.mode)
        if change.size is not None:
            if not file:
                raise IsDirectory("not a file")
            if change.handle is None:
                if node.heir:
                    raise Stale("written elsewhere")
                self._writable(node, empty=change.size == 0)
            os.ftruncate(self._fd(node), change.size)
        if change.mode is not None:
            node.mode = stat.S_IFMT(node.mode) | change.mode
        if change.uid is not None:
            node.uid = change.uid
        if change.gid is not None:
            node.gid = change.gid
        if change.atime_ns is not None or change.mtime_ns is not None:
            if file:
                st = os.fstat(self._fd(node))
                node.atime_ns, node.mtime_ns = st.st_atime_ns, st.st_mtime_ns
            if change.atime_ns is not None:
                node.atime_ns = change.atime_ns
            if change.mtime_ns is not None:
                node.mtime_ns = change.mtime_ns
            if file:
                os.utime(self._fd(node), ns=(node.atime_ns, node.mtime_ns))
        node.ctime_ns = time.time_ns()
        self._log.save(node)
        return self._attr(node)

    def write(self, node: int, handle: int, offset: int, data: memoryview) -> Any:
        return self._later("write", lambda: os.pwrite(self._fd(self._node(node)), data, offset))

    def fallocate(self, node: int, handle: int, mode: int, offset: int, length: int) -> Any:

        def act() -> None:
            fd = self._fd(self._node(node))
            sizes = (ctypes.c_long(offset), ctypes.c_long(length))
            if _libc.fallocate(fd, mode, *sizes) != 0:
                raise NotSupported(os.strerror(ctypes.get_errno()))

        return self._later("fallocate", act)

    def flush(self, node: int, handle: int) -> Any:
        self._tell("flushed", handle)
        return self._later("flush", lambda: None)

    def fsync(self, node: int, handle: int) -> Any:
        return self._later("fsync", lambda: None)

    def fsyncdir(self, node: int) -> Any:
        return self._later("fsyncdir", lambda: None)

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int, caller: Caller) -> Any:

        def act() -> None:
            found = self._node(node)
            if flags & os.XATTR_CREATE and name in found.xattrs:
                raise Exists("it is there")
            if flags & os.XATTR_REPLACE and name not in found.xattrs:
                raise NotFound("no such attribute")
            found.xattrs[name] = value
            found.ctime_ns = time.time_ns()
            self._log.save(found)

        return self._later("setxattr", act)

    def removexattr(self, node: int, name: bytes, caller: Caller) -> Any:

        def act() -> None:
            found = self._node(node)
            if name not in found.xattrs:
                raise NotFound("no such attribute")
            del found.xattrs[name]
            self._log.save(found)

        return self._later("removexattr", act)


def _deliver(give: Callable[[Any], None], value: Any) -> Callable[[], None]:
    return lambda: give(value)
