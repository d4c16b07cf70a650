"""Small filesystems to mount in tests: one in memory with ways to misbehave, one over a real folder,
one synthetic and large. Each is made by a factory that takes keyword arguments from JSON."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from typing import Any, NoReturn

from synd.errors import NotFound, Offline, ReadOnly, Stale
from synd.ranges import FileSlice
from syndd.mount.ops import ROOT, Attr, Caller, DirEntry, Opened, SetAttr, StatFs

WHEN_NS = 1_700_000_000_123_456_789


def attr(
    node: int, *, mode: int, size: int = 0, ino: int | None = None, ttl_s: float = 60.0
) -> Attr:
    return Attr(node, ino or node, mode, size, WHEN_NS, WHEN_NS + 1, 1, ttl_s, ttl_s)


class Tree:
    """What all of them share: they never change, and have room for ever."""

    negative_ttl_s = 60.0

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}
        self.notices: Any = None

    def count(self, what: str) -> None:
        self.calls[what] = self.calls.get(what, 0) + 1

    def opendir(self, node: int) -> None:
        return None

    def release(self, node: int, handle: int) -> None:
        self.count("release")

    def forget(self, node: int, lookups: int) -> None:
        self.count("forget")

    def readlink(self, node: int) -> bytes:
        raise NotFound("not a symbolic link")

    def getxattr(self, node: int, name: bytes) -> bytes:
        raise NotFound("no such attribute")

    def listxattr(self, node: int) -> list[bytes]:
        return []

    def statfs(self) -> StatFs:
        return StatFs(4096, 1 << 28, 1 << 27, 12345, 678)

    # Changes, each refused.

    def refuse(self, operation: str) -> NoReturn:
        self.count(f"change.{operation}")
        raise ReadOnly(f"{operation}: the tree is read-only")

    def check_open(self, flags: int) -> None:
        """An open for writing is a change."""
        if flags & (os.O_ACCMODE | os.O_TRUNC):
            self.refuse("open")

    def opened(self, node: int, handle: int) -> None:
        self.count("opened")

    def access(self, node: int) -> None:
        self.refuse("access")

    def create(self, parent: int, name: bytes, mode: int, flags: int, caller: Caller) -> Any:
        self.refuse("create")

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Any:
        self.refuse("mknod")

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Any:
        self.refuse("mkdir")

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Any:
        self.refuse("symlink")

    def link(self, node: int, parent: int, name: bytes, caller: Caller) -> Any:
        self.refuse("link")

    def unlink(self, parent: int, name: bytes, caller: Caller) -> Any:
        self.refuse("unlink")

    def rmdir(self, parent: int, name: bytes, caller: Caller) -> Any:
        self.refuse("rmdir")

    def rename(
        self, parent: int, name: bytes, to: int, new_name: bytes, flags: int, caller: Caller
    ) -> Any:
        self.refuse("rename")

    def setattr(self, node: int, change: SetAttr, caller: Caller) -> Any:
        self.refuse("setattr")

    def write(self, node: int, handle: int, offset: int, data: memoryview) -> Any:
        self.refuse("write")

    def fallocate(self, node: int, handle: int, mode: int, offset: int, length: int) -> Any:
        self.refuse("fallocate")

    def flush(self, node: int, handle: int) -> Any:
        self.count("flush")

    def fsync(self, node: int, handle: int) -> Any:
        self.count("fsync")

    def fsyncdir(self, node: int) -> Any:
        self.count("fsyncdir")

    def setxattr(self, node: int, name: bytes, value: bytes, flags: int, caller: Caller) -> Any:
        self.refuse("setxattr")

    def removexattr(self, node: int, name: bytes, caller: Caller) -> Any:
        self.refuse("removexattr")


class MemoryTree(Tree):
    """Files from a dict of paths; names with a meaning of their own are listed in `_read`."""

    def __init__(
        self,
        files: dict[str, str] | None = None,
        wide: int = 0,
        deep: int = 0,
        defer_s: float = 0.0,
        attr_none: bool = False,
        ttl_s: float = 60.0,
    ) -> None:
        super().__init__()
        self._numbers = itertools.count(ROOT + 1)
        self._attr: dict[int, Attr] = {ROOT: attr(ROOT, mode=stat.S_IFDIR | 0o755, ttl_s=ttl_s)}
        self._names: dict[int, dict[bytes, int]] = {ROOT: {}}
        self._data: dict[int, bytes] = {}
        self._link: dict[int, bytes] = {}
        self._xattrs: dict[int, dict[bytes, bytes]] = {}
        self._name: dict[int, bytes] = {}
        self._stale: set[int] = set()
        self._defer_s = defer_s
        self._attr_none = attr_none
        self._ttl_s = ttl_s
        self._held, self._holding = threading.Event(), threading.Event()
        self._held.set()
        for path, text in (files or {}).items():
            self.add(path, text.encode())
        for number in range(wide):
            self.add(f"wide/entry-{number:06d}", b"x" * (number % 7))
        if deep:
            self.add("/".join(["deep"] * deep) + "/bottom", b"far down")

    def add(self, path: str, data: bytes, *, mode: int = stat.S_IFREG | 0o644) -> int:
        parent = ROOT
        *folders, last = path.encode("utf-8", "surrogateescape").split(b"/")
        for name in folders:
            child = self._names[parent].get(name)
            if child is None:
                child = next(self._numbers)
                self._names[parent][name] = child
                self._names[child] = {}
                self._attr[child] = attr(child, mode=stat.S_IFDIR | 0o755, ttl_s=self._ttl_s)
            parent = child
        node = next(self._numbers)
        self._names[parent][last] = node
        self._name[node] = last
        self._attr[node] = attr(node, mode=mode, size=len(data), ttl_s=self._ttl_s)
        if stat.S_ISLNK(mode):
            self._link[node] = data
        else:
            self._data[node] = data
        return node

    def add_link(self, path: str, target: str) -> None:
        self.add(path, target.encode(), mode=stat.S_IFLNK | 0o777)

    def _later(self, value: Any, delay_s: float | None = None) -> Any:
        delay_s = self._defer_s if delay_s is None else delay_s
        if delay_s <= 0:
            return value
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()
        timer = threading.Timer(delay_s, lambda: _complete(future, value))
        timer.daemon = True
        timer.start()
        return future

    # What tests ask for by name over the control line.

    def do_replace(self, path: str, text: str, notify: bool = True) -> int:
        """The name gets a new content: a new node with the old ino."""
        name = path.encode()
        old = self._names[ROOT][name]
        new = self.add(path, text.encode())
        self._attr[new] = self._attr[new]._replace(ino=self._attr[old].ino)
        self._stale.add(old)
        if notify:
            self.notices.entry(ROOT, name)
        return new

    def do_remove(self, path: str, notify: bool = True) -> None:
        node = self._names[ROOT].pop(path.encode())
        if notify:
            self.notices.entry(ROOT, path.encode(), gone=node)
            self.notices.node(ROOT, data=True)

    def do_add(self, path: str, text: str, notify: bool = True, entry: bool = True) -> None:
        """`entry`: whether the name is told as well, which waits for who lists its folder just now."""
        self.add(path, text.encode())
        if notify:
            if entry:
                self.notices.entry(ROOT, path.encode())
            self.notices.node(ROOT, data=True)

    def do_touch(self, path: str, mtime_ns: int) -> None:
        node = self._names[ROOT][path.encode()]
        self._attr[node] = self._attr[node]._replace(mtime_ns=mtime_ns)
        self.notices.node(node, data=False)

    def do_xattr(self, path: str, name: str, value: str) -> None:
        node = self._names[ROOT][path.encode()]
        self._xattrs.setdefault(node, {})[name.encode()] = value.encode("latin-1")

    def do_calls(self) -> dict[str, int]:
        return dict(self.calls)

    def do_everything(self) -> None:
        self.notices.everything()

    def do_hold(self) -> None:
        """From now on a listing, once its names are read, waits for `release` before it is told."""
        self._held.clear()

    def do_holding(self) -> bool:
        return self._holding.is_set()

    def do_release(self) -> None:
        self._held.set()

    # The operations.

    def lookup(self, parent: int, name: bytes) -> Any:
        self.count("lookup")
        if name == b"broken-name":
            raise RuntimeError("a bug in the filesystem")
        names = self._names.get(parent, {})
        if name == b"never-found":
            return Future()
        node = names.get(name)
        if node is None:
            if self._defer_s:
                return self._later(NotFound("no such name"))
            raise NotFound("no such name")
        return self._later(self._attr[node])

    def getattr(self, node: int) -> Any:
        self.count("getattr")
        if node not in self._attr:
            raise NotFound("no such node")
        return self._later(self._attr[node])

    def readlink(self, node: int) -> Any:
        return self._later(self._link[node])

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Any:
        self.count("readdir")
        return self._later(self._listing(node, cookie, plus))

    def _listing(self, node: int, cookie: int, plus: bool) -> Iterator[DirEntry]:
        names = list(self._names[node].items())
        if not self._held.is_set():
            self._holding.set()
            self._held.wait(30)
        for number, (name, child) in enumerate(names[cookie:], cookie + 1):
            known = self._attr[child]
            shown = known if plus and not self._attr_none else None
            yield DirEntry(name, number, known.ino, known.mode, shown)

    def open(self, node: int, flags: int) -> Any:
        self.count("open")
        self.check_open(flags)
        if node in self._stale:
            raise Stale("the name leads to another content")
        return self._later(Opened(direct_io=self._name[node].startswith(b"direct")))

    def read(self, node: int, handle: int, offset: int, size: int) -> Any:
        self.count("read")
        name = self._name[node].removeprefix(b"direct-")
        data = self._data[node][offset : offset + size]
        if name == b"broken":
            raise RuntimeError("a bug in the filesystem")
        if name == b"offline":
            raise Offline("no network")
        if name == b"offline-later":
            return self._later(Offline("no network"), 0.1)
        if name == b"broken-later":
            return self._later(RuntimeError("a bug in the filesystem"), 0.1)
        if name == b"never":
            return Future()
        if name == b"too-much":
            return data + b"!" * size
        return self._later(data)

    def getxattr(self, node: int, name: bytes) -> Any:
        found = self._xattrs.get(node, {}).get(name)
        if found is None:
            raise NotFound("no such attribute")
        return self._later(found)

    def listxattr(self, node: int) -> Any:
        return self._later(list(self._xattrs.get(node, {})))


def _complete(future: Future[Any], value: Any) -> None:
    if isinstance(value, Exception):
        future.set_exception(value)
    else:
        future.set_result(value)


def conformance(**kwargs: Any) -> MemoryTree:
    """The tree of the reading tests."""
    tree = MemoryTree(
        files={
            "hello.txt": "hello, world\n",
            "empty": "",
            "folder/inside": "in a folder",
            "n" * 255: "a long name",
            "h\u00e4ndel \u4e2d\u6587 \U0001f600": "not ASCII",
            "broken": "x" * 10,
            "broken-later": "x" * 10,
            "offline": "x" * 10,
            "offline-later": "x" * 10,
            "never": "x" * 10,
            "direct-never": "x" * 10,
            "too-much": "x" * 10,
            "direct-too-much": "x" * 10,
            "direct-hello": "straight",
        },
        **kwargs,
    )
    tree.add("pattern", pattern(3_000_000))
    tree.add_link("link", "hello.txt")
    tree.add_link("dangling", "nowhere")
    tree.do_xattr("hello.txt", "user.synapse.id", "syn123")
    tree.do_xattr("hello.txt", "user.binary", "\x00\xff\n")
    tree.do_xattr("hello.txt", "user.empty", "")
    return tree


def pattern(size: int) -> bytes:
    """Bytes that differ at every offset of interest."""
    block = b"".join(n.to_bytes(4, "big") for n in range((size + 3) // 4))
    return block[:size]


class FolderTree(Tree):
    """A real folder, read-only. `how` says how reads are served: bytes, slice or passthrough."""

    def __init__(self, root: str, how: str = "passthrough", ttl_s: float = 3600.0) -> None:
        super().__init__()
        self.how = how
        self._ttl_s = ttl_s
        self._paths: dict[int, str] = {ROOT: root}
        self._fds: dict[int, int] = {}
        self._lock = threading.Lock()
        self._known: dict[str, int] = {root: ROOT}
        # Node numbers must mean the same after a restart: the inode numbers of the folder do.
        for folder, folders, files in os.walk(root):
            for name in folders + files:
                path = os.path.join(folder, name)
                node = os.lstat(path).st_ino
                self._paths[node] = path
                self._known[path] = node

    def _attr(self, path: str) -> Attr:
        st = os.lstat(path)
        node = self._known[path]
        return Attr(
            node, st.st_ino, st.st_mode, st.st_size, st.st_mtime_ns, st.st_ctime_ns,
            st.st_nlink, self._ttl_s, self._ttl_s,
        )  # fmt: skip

    def do_how(self, how: str) -> None:
        self.how = how

    def lookup(self, parent: int, name: bytes) -> Attr:
        path = os.path.join(self._paths[parent], os.fsdecode(name))
        if path not in self._known:
            raise NotFound("no such name")
        return self._attr(path)

    def getattr(self, node: int) -> Attr:
        return self._attr(self._paths[node])

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Iterable[DirEntry]:
        folder = self._paths[node]
        for number, name in enumerate(sorted(os.listdir(folder))[cookie:], cookie + 1):
            known = self._attr(os.path.join(folder, name))
            yield DirEntry(
                os.fsencode(name), number, known.ino, known.mode, known if plus else None
            )

    def readlink(self, node: int) -> bytes:
        return os.fsencode(os.readlink(self._paths[node]))

    def open(self, node: int, flags: int) -> Opened:
        self.count("open")
        self.check_open(flags)
        if self.how == "passthrough":
            return Opened(backing=os.open(self._paths[node], os.O_RDONLY | os.O_CLOEXEC))
        return Opened()

    def read(self, node: int, handle: int, offset: int, size: int) -> Any:
        self.count("read")
        fd = self._fds.get(node)
        if fd is None:
            with self._lock:
                fd = self._fds.setdefault(
                    node, os.open(self._paths[node], os.O_RDONLY | os.O_CLOEXEC)
                )
        if self.how == "bytes":
            return os.pread(fd, size, offset)
        return FileSlice(fd, offset, size)

    def do_calls(self) -> dict[str, int]:
        return dict(self.calls)


class WideTree(Tree):
    """`folders` folders of `files` files each, computed and not stored."""

    def __init__(self, folders: int = 100, files: int = 1000, size: int = 100) -> None:
        super().__init__()
        self._folders = folders
        self._files = files
        self._size = size
        self._data = b"s" * size

    def _folder(self, number: int) -> Attr:
        return attr(2 + number, mode=stat.S_IFDIR | 0o755, ttl_s=3600.0)

    def _file(self, node: int) -> Attr:
        return Attr(
            node, node, stat.S_IFREG | 0o644, self._size, WHEN_NS, WHEN_NS, 1, 3600.0, 3600.0
        )

    def lookup(self, parent: int, name: bytes) -> Attr:
        self.count("lookup")
        try:
            number = int(name[1:])
        except ValueError:
            raise NotFound("no such name") from None
        if parent == ROOT and name[:1] == b"d" and number < self._folders:
            return self._folder(number)
        if parent != ROOT and name[:1] == b"f" and number < self._files:
            return self._file(parent * 1_000_000 + number)
        raise NotFound("no such name")

    def getattr(self, node: int) -> Attr:
        self.count("getattr")
        if node == ROOT:
            return attr(ROOT, mode=stat.S_IFDIR | 0o755, ttl_s=3600.0)
        return self._folder(node - 2) if node < 1_000_000 else self._file(node)

    def readdir(self, node: int, cookie: int, *, plus: bool) -> Iterator[DirEntry]:
        self.count("readdir")
        if node == ROOT:
            for number in range(cookie, self._folders):
                known = self._folder(number)
                yield DirEntry(b"d%04d" % number, number + 1, known.ino, known.mode, known)
            return
        base = node * 1_000_000
        mode, size = stat.S_IFREG | 0o644, self._size
        for number in range(cookie, self._files):
            child = base + number
            known = Attr(child, child, mode, size, WHEN_NS, WHEN_NS, 1, 3600.0, 3600.0)
            yield DirEntry(b"f%06d" % number, number + 1, child, mode, known)

    def open(self, node: int, flags: int) -> Opened:
        self.count("open")
        self.check_open(flags)
        return Opened()

    def read(self, node: int, handle: int, offset: int, size: int) -> bytes:
        return self._data[offset : offset + size]

    def do_calls(self) -> dict[str, int]:
        return dict(self.calls)
