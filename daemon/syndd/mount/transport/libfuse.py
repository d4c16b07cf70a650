# the library's callbacks have its signatures
# ruff: noqa: ARG002  # the library's callbacks have its signatures
"""The same filesystem over libfuse, by way of mfusepy (or fusepy): portable, slower, without passthrough.

libfuse asks by path and waits for each answer on a thread of its own, so here paths become nodes and
Futures are waited for. It cannot be told what changed, therefore the kernel's time-outs are short.

Leaves to `session` when to start and stop. Invariants:
- what `_Paths` remembers is never older than `REMEMBER_S`, so a name that leads elsewhere by now is
  found in that time;
- the kernel knows one inode per path, so the pages it caches belong to one node at a time: `_Owners`
  knows which, and whoever opens another node of that path meanwhile reads past the cache. (The size
  is shared all the same: a reader of the old content sees the new size.)
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib
import itertools
import logging
import os
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from synd.errors import NotFound, Stale, SyndError, ToolMissing
from synd.log import fields
from synd.ranges import FileSlice
from syndd.mount.ops import ROOT, Attr, Filesystem, Opened
from syndd.mount.transport.kernel import Waiting

log = logging.getLogger(__name__)

REMEMBER_S = 1.0
"""How long the kernel and we believe a name or an attribute."""
_REMEMBER_MOST = 100_000
_TICK_S = 0.1
"""How often a waiting request asks whether its caller gave up."""
_BLOCK = 4096
_NAME_MAX = 255
_WRITING = os.O_ACCMODE | os.O_TRUNC

T = TypeVar("T")
P = ParamSpec("P")


def _library() -> Any:
    """mfusepy, else fusepy. Raises ToolMissing when neither they nor libfuse are there."""
    for name in ("mfusepy", "fuse"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        except OSError as error:
            raise ToolMissing(
                f"libfuse is not installed ({error})",
                hint="install libfuse3 (`apt install libfuse3-3`, `dnf install fuse3-libs`), "
                "or use --transport kernel",
            ) from error
        if hasattr(module, "FUSE"):
            return module
    raise ToolMissing(
        "the Python package mfusepy is not installed",
        hint="pip install mfusepy, or use --transport kernel",
    )


class _Paths:
    """path → attributes, remembered for a moment. Filled by look-ups and listings."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[float, Attr]] = {}

    def get(self, path: bytes) -> Attr | None:
        found = self._known.get(path)
        return found[1] if found is not None and found[0] > time.monotonic() else None

    def put(self, path: bytes, attr: Attr) -> None:
        if len(self._known) >= _REMEMBER_MOST:
            self._known.clear()
        self._known[path] = (time.monotonic() + min(REMEMBER_S, attr.entry_ttl_s), attr)

    def forget_all(self) -> None:
        self._known.clear()


class _Owners:
    """path → whose pages the kernel may hold, and what is open. Lock order: its lock is a leaf."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: dict[str, int] = {}
        self._open: dict[str, dict[int, int]] = {}
        self._handles: dict[int, tuple[str, int]] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def opened(self, path: str, node: int, handle: int) -> tuple[bool, bool]:
        """Whether to read past the cache, and whether cached pages may be kept."""
        with self._lock:
            self._handles[handle] = (path, node)
            nodes = self._open.setdefault(path, {})
            others = any(other != node for other in nodes)
            nodes[node] = nodes.get(node, 0) + 1
            if others:
                return True, True
            keep = self._owner.get(path) == node
            if len(self._owner) >= _REMEMBER_MOST:
                self._owner.clear()
            self._owner[path] = node
            return False, keep

    def node(self, handle: int) -> int | None:
        found = self._handles.get(handle)
        return None if found is None else found[1]

    def closed(self, handle: int) -> int | None:
        """The node that the handle was of."""
        with self._lock:
            found = self._handles.pop(handle, None)
            if found is None:
                return None
            path, node = found
            nodes = self._open[path]
            nodes[node] -= 1
            if nodes[node] == 0:
                del nodes[node]
            if not nodes:
                del self._open[path]
            return node


class PathNotices:
    """Meets `session.SessionNotices`: drops what we remember; the kernel's memory is short anyway."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self.sent = 0
        self.failed = 0
        self._forget = forget

    def entry(self, parent: int, name: bytes, *, gone: int | None = None) -> None:
        self.sent += 1
        self._forget()

    def node(self, node: int, *, data: bool) -> None:
        self.sent += 1
        self._forget()

    def everything(self) -> None:
        self._forget()

    def flush(self, timeout_s: float) -> bool:
        return True

    def waiting(self) -> int:
        return 0

    def stop(self, timeout_s: float = 5.0) -> None:
        """Nothing runs."""


def _answered(method: Callable[P, T]) -> Callable[P, T]:
    """Errors of the filesystem become the OSError that the library turns into an errno."""

    @functools.wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(*args, **kwargs)
        except SyndError as error:
            raise OSError(error.errno, os.strerror(error.errno)) from error
        except CancelledError as error:
            raise OSError(errno.EINTR, os.strerror(errno.EINTR)) from error
        except OSError:
            raise
        except Exception as error:
            log.exception("mount.failed", extra=fields(operation=method.__name__))
            raise OSError(errno.EIO, os.strerror(errno.EIO)) from error

    return call


class _Operations:
    """The library's callbacks. Called from several of libfuse's threads at once."""

    use_ns = True

    def __init__(self, fs: Filesystem, uid: int, gid: int, interrupted: Callable[[], bool]) -> None:
        self.paths = _Paths()
        self.pending: dict[int, tuple[str, int, float]] = {}
        self.requests: Counter[str] = Counter()
        self.owners = _Owners()
        self.ready = threading.Event()
        self._fs = fs
        self._uid = uid
        self._gid = gid
        self._interrupted = interrupted
        self._numbers = itertools.count(1)

    # Waiting and finding.

    def _wait(self, answer: T | Future[T], operation: str, node: int) -> T:
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
                if self._interrupted():
                    answer.cancel()
                    raise OSError(errno.EINTR, os.strerror(errno.EINTR))
        finally:
            del self.pending[number]

    def _find(self, path: str) -> Attr:
        spelled = path.encode("utf-8", "surrogateescape").rstrip(b"/")
        known = self.paths.get(spelled)
        if known is not None:
            return known
        if not spelled:
            attr = self._wait(self._fs.getattr(ROOT), "getattr", ROOT)
        else:
            parent, _, name = spelled.rpartition(b"/")
            _check_name(name)
            above = self._find(parent.decode("utf-8", "surrogateescape"))
            attr = self._wait(self._fs.lookup(above.node, name), "lookup", above.node)
        self.paths.put(spelled, attr)
        return attr

    def _parent(self, path: str) -> tuple[int, bytes]:
        folder, _, last = path.rpartition("/")
        name = last.encode("utf-8", "surrogateescape")
        _check_name(name)
        return self._find(folder).node, name

    def _stat(self, attr: Attr) -> dict[str, int]:
        return {
            "st_ino": attr.ino,
            "st_mode": attr.mode,
            "st_nlink": attr.nlink,
            "st_uid": self._uid,
            "st_gid": self._gid,
            "st_size": attr.size,
            "st_blocks": (attr.size + 511) // 512,
            "st_blksize": _BLOCK,
            "st_atime": attr.mtime_ns,
            "st_mtime": attr.mtime_ns,
            "st_ctime": attr.ctime_ns,
        }

    # Reading.

    def init(self, path: str) -> None:
        self.ready.set()

    @_answered
    def getattr(self, path: str, fh: Any = None) -> dict[str, int]:
        node = self.owners.node(fh.fh) if fh is not None else None
        if node is not None:
            return self._stat(self._wait(self._fs.getattr(node), "getattr", node))
        return self._stat(self._find(path))

    @_answered
    def readlink(self, path: str) -> str:
        node = self._find(path).node
        return self._wait(self._fs.readlink(node), "readlink", node).decode(
            "utf-8", "surrogateescape"
        )

    @_answered
    def opendir(self, path: str) -> int:
        node = self._find(path).node
        self._wait(self._fs.opendir(node), "opendir", node)
        return 0

    @_answered
    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        attr = self._find(path)
        spelled = path.encode("utf-8", "surrogateescape").rstrip(b"/")
        entries = self._wait(self._fs.readdir(attr.node, 0, plus=True), "readdir", attr.node)

        def listing() -> Iterator[tuple[str, dict[str, int], int]]:
            yield ".", {"st_ino": attr.ino, "st_mode": attr.mode}, 0
            yield "..", {"st_mode": stat.S_IFDIR}, 0
            for name, _, ino, mode, known in entries:
                if known is not None:
                    self.paths.put(spelled + b"/" + name, known)
                yield name.decode("utf-8", "surrogateescape"), {"st_ino": ino, "st_mode": mode}, 0

        return listing()

    @_answered
    def open(self, path: str, info: Any) -> int:
        flags: int = info.flags
        for attempt in range(3):
            node = self._find(path).node
            if flags & _WRITING:
                self._wait(self._fs.change("open", node, None), "open", node)
            try:
                opened: Opened = self._wait(self._fs.open(node, flags), "open", node)
            except Stale:
                # The kernel would look the name up again; libfuse has us do it.
                self.paths.forget_all()
                if attempt == 2:
                    raise
                continue
            if opened.backing is not None:
                os.close(opened.backing)
            info.fh = next(self._numbers)
            past, keep = self.owners.opened(path, node, info.fh)
            info.direct_io = past or opened.direct_io
            info.keep_cache = keep and opened.keep_cache
            return 0
        raise AssertionError  # the loop returns or raises

    @_answered
    def read(self, path: str, size: int, offset: int, info: Any) -> bytes:
        node = self.owners.node(info.fh)
        if node is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        answer: Any = self._fs.read(node, info.fh, offset, size)
        data: bytes | memoryview | FileSlice = self._wait(answer, "read", node)
        if isinstance(data, FileSlice):
            return os.pread(data.fd, min(data.size, size), data.offset)
        if len(data) > size:
            raise SyndError(f"a read of {size} bytes was answered with {len(data)}")
        # The library copies from the address of a bytes object.
        return data if isinstance(data, bytes) else bytes(data)

    @_answered
    def release(self, path: str, info: Any) -> int:
        node = self.owners.closed(info.fh)
        if node is not None:
            self._fs.release(node, info.fh)
        return 0

    @_answered
    def statfs(self, path: str) -> dict[str, int]:
        block, blocks, free, files = self._fs.statfs()
        return {
            "f_bsize": block,
            "f_frsize": block,
            "f_blocks": blocks,
            "f_bfree": free,
            "f_bavail": free,
            "f_files": files,
            "f_namemax": _NAME_MAX,
        }

    @_answered
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        if not name.startswith("user."):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        node = self._find(path).node
        try:
            return self._wait(self._fs.getxattr(node, os.fsencode(name)), "getxattr", node)
        except NotFound as error:
            raise OSError(errno.ENODATA, os.strerror(errno.ENODATA)) from error

    @_answered
    def listxattr(self, path: str) -> list[str]:
        node = self._find(path).node
        return [os.fsdecode(n) for n in self._wait(self._fs.listxattr(node), "listxattr", node)]

    # Changing.

    def _change(self, operation: str, node: int, name: bytes | None) -> int:
        self._wait(self._fs.change(operation, node, name), operation, node)
        # `change` has no way yet to say what it did, and an empty success would be a lie.
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    @_answered
    def chmod(self, path: str, mode: int) -> int:
        return self._change("setattr", self._find(path).node, None)

    @_answered
    def chown(self, path: str, uid: int, gid: int) -> int:
        return self._change("setattr", self._find(path).node, None)

    @_answered
    def truncate(self, path: str, length: int, fh: Any = None) -> int:
        return self._change("setattr", self._find(path).node, None)

    @_answered
    def utimens(self, path: str, times: tuple[int, int] | None = None) -> int:
        return self._change("setattr", self._find(path).node, None)

    @_answered
    def create(self, path: str, mode: int, fi: object = None) -> int:
        return self._change("create", *self._parent(path))

    @_answered
    def mknod(self, path: str, mode: int, dev: int) -> int:
        return self._change("mknod", *self._parent(path))

    @_answered
    def mkdir(self, path: str, mode: int) -> int:
        return self._change("mkdir", *self._parent(path))

    @_answered
    def unlink(self, path: str) -> int:
        return self._change("unlink", *self._parent(path))

    @_answered
    def rmdir(self, path: str) -> int:
        return self._change("rmdir", *self._parent(path))

    @_answered
    def symlink(self, target: str, source: str) -> int:
        return self._change("symlink", *self._parent(target))

    @_answered
    def link(self, target: str, source: str) -> int:
        return self._change("link", *self._parent(target))

    @_answered
    def rename(self, old: str, new: str) -> int:
        return self._change("rename", *self._parent(old))

    @_answered
    def write(self, path: str, data: bytes, offset: int, fh: Any) -> int:
        return self._change("write", self._find(path).node, None)

    @_answered
    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        return self._change("setxattr", self._find(path).node, os.fsencode(name))

    @_answered
    def removexattr(self, path: str, name: str) -> int:
        return self._change("removexattr", self._find(path).node, os.fsencode(name))


def _check_name(name: bytes) -> None:
    """The kernel lets names of up to 1024 bytes through to us."""
    if len(name) > _NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


class LibfuseTransport:
    """Meets `session.Transport`."""

    passthrough_off = "libfuse's Python binding has none; --transport kernel has"

    def __init__(
        self,
        fs: Filesystem,
        mountpoint: Path,
        *,
        source: str,
        allow_other: bool,
        read_only: bool,
        uid: int,
        gid: int,
    ) -> None:
        self._module = _library()
        native = getattr(self._module, "_libfuse", None)
        self._native_interrupted = getattr(native, "fuse_interrupted", None)
        self._operations = _Operations(fs, uid, gid, self._interrupted)
        self.notices = PathNotices(self._operations.paths.forget_all)
        self._mountpoint = mountpoint
        self._options: dict[str, Any] = {
            "foreground": True,
            "raw_fi": True,
            "nothreads": False,
            "fsname": source,
            "subtype": "synd",
            "default_permissions": True,
            "use_ino": True,
            "attr_timeout": REMEMBER_S,
            "entry_timeout": REMEMBER_S,
            "negative_timeout": min(REMEMBER_S, fs.negative_ttl_s),
        }
        if allow_other:
            self._options["allow_other"] = True
        if read_only:
            self._options["ro"] = True

    def _interrupted(self) -> bool:
        return bool(self._native_interrupted and self._native_interrupted())

    @property
    def ready(self) -> threading.Event:
        return self._operations.ready

    def run(self) -> str:
        """Mounts and serves until unmounted."""
        try:
            self._module.FUSE(self._operations, os.fspath(self._mountpoint), **self._options)
        except RuntimeError as error:
            # The library has printed why; all it tells us is a number.
            log.error("mount.libfuse_failed", extra=fields(code=error))  # noqa: TRY400
            return "failed"
        return "unmounted"

    def waiting(self) -> list[Waiting]:
        found = [Waiting(*entry) for entry in list(self._operations.pending.values())]
        return sorted(found, key=lambda w: w.since)

    def open_handles(self) -> int:
        return len(self._operations.owners)

    def request_counts(self) -> dict[str, int]:
        return dict(self._operations.requests)

    def close(self) -> None:
        """Nothing is left once `run` has returned."""
