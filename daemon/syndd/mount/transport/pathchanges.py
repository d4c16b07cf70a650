# the library's callbacks have its signatures
# ruff: noqa: ARG002  # the library's callbacks have its signatures
"""libfuse's callbacks that change the tree.

libfuse renames a file that is unlinked while it is open, and unlinks it when it is closed. That never
reaches the filesystem: it unlinks at once and keeps the open node, and the name is remembered here.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from synd.errors import NotFound
from syndd.mount.ops import RENAME_EXCHANGE, Caller, Filesystem, SetAttr
from syndd.mount.transport.changes import unprivileged
from syndd.mount.transport.pathops import Operations, answered, failure, spelled

T = TypeVar("T")

_HIDDEN = re.compile(rb"\.fuse_hidden[0-9a-f]{16}")
"""Source: hide_node in libfuse's fuse.c."""
_PERMISSIONS = 0o7777


class ChangingOperations(Operations):
    """All that can be asked."""

    def __init__(
        self,
        fs: Filesystem,
        uid: int,
        gid: int,
        interrupted: Callable[[], bool],
        caller: Callable[[], tuple[int, int, int]],
    ) -> None:
        """`caller` gives uid, gid and pid of who asks, on the thread that was asked."""
        super().__init__(fs, uid, gid, interrupted)
        self._asks = caller

    def _caller(self) -> Caller:
        # The kernel has taken the umask off: libfuse does not ask for FUSE_DONT_MASK.
        uid, gid, _ = self._asks()
        return Caller(uid, gid)

    def _change(self, answer: T | Future[T], operation: str, node: int) -> T:
        return self._wait(answer, operation, node, changing=True)

    # Attributes.

    def _setattr(
        self, path: str | None, info: Any, change: SetAttr, *, unprivileged_if: bool = False
    ) -> int:
        file = None if info is None else self.owners.get(info.fh)
        if file is not None:
            change = change._replace(handle=info.fh)

        def attempt() -> None:
            node = self._node(path, info)
            wanted = change
            if unprivileged_if:
                mode = unprivileged(self._wait(self._fs.getattr(node), "getattr", node).mode)
                if mode is not None:
                    wanted = change._replace(mode=mode)
            self._change(self._fs.setattr(node, wanted, self._caller()), "setattr", node)

        if file is not None:
            attempt()
            self.paths.changed(file.path)
        else:
            self._again(attempt)
        if path is not None:
            self.paths.changed(spelled(path))
        return 0

    @answered
    def chmod(self, path: str | None, mode: int, fh: Any = None) -> int:
        return self._setattr(path, fh, SetAttr(mode=mode & _PERMISSIONS))

    @answered
    def chown(self, path: str | None, uid: int, gid: int, fh: Any = None) -> int:
        # -1, signed or not: stays as it is.
        owner = None if uid & 0xFFFF_FFFF == 0xFFFF_FFFF else uid
        group = None if gid & 0xFFFF_FFFF == 0xFFFF_FFFF else gid
        return self._setattr(path, fh, SetAttr(uid=owner, gid=group), unprivileged_if=True)

    @answered
    def truncate(self, path: str | None, length: int, fh: Any = None) -> int:
        weak = self._asks()[0] != 0
        return self._setattr(path, fh, SetAttr(size=length), unprivileged_if=weak)

    @answered
    def utimens(
        self, path: str | None, times: tuple[int | None, int | None], fh: Any = None
    ) -> int:
        accessed, modified = times
        return self._setattr(path, fh, SetAttr(atime_ns=accessed, mtime_ns=modified))

    @answered
    def setxattr(self, path: str, name: str, value: bytes, options: int, position: int = 0) -> int:
        return self._change_xattr(
            path,
            name,
            lambda node, key: self._fs.setxattr(node, key, value, options, self._caller()),
        )

    @answered
    def removexattr(self, path: str, name: str) -> int:
        return self._change_xattr(
            path, name, lambda node, key: self._fs.removexattr(node, key, self._caller())
        )

    def _change_xattr(self, path: str, name: str, act: Callable[[int, bytes], Any]) -> int:
        if not name.startswith("user."):
            raise failure(errno.EOPNOTSUPP)
        node = self._find(spelled(path)).node
        try:
            self._change(act(node, os.fsencode(name)), "setxattr", node)
        except NotFound as error:
            raise failure(errno.ENODATA) from error
        return 0

    # Names.

    @answered
    def create(self, path: str, mode: int, fi: Any = None) -> int:
        where = spelled(path)
        parent, name = self._parent(where)
        attr, opened = self._again(
            lambda: self._change(
                self._fs.create(parent, name, mode & _PERMISSIONS, fi.flags, self._caller()),
                "create",
                parent,
            )
        )
        self._opened(where, attr.node, opened, fi)
        self.paths.changed(where)
        return 0

    @answered
    def mknod(self, path: str, mode: int, dev: int) -> int:
        where = spelled(path)
        parent, name = self._parent(where)
        answer = self._fs.mknod(parent, name, mode, dev, self._caller())
        self._change(answer, "mknod", parent)
        self.paths.changed(where)
        return 0

    @answered
    def mkdir(self, path: str, mode: int) -> int:
        where = spelled(path)
        parent, name = self._parent(where)
        answer = self._fs.mkdir(parent, name, mode & _PERMISSIONS, self._caller())
        self._change(answer, "mkdir", parent)
        self.paths.changed(where)
        return 0

    @answered
    def symlink(self, target: str, source: str) -> int:
        """`target` is the new name, `source` what it shall hold."""
        where = spelled(target)
        parent, name = self._parent(where)
        held = source.encode("utf-8", "surrogateescape")
        answer = self._fs.symlink(parent, name, held, self._caller())
        self._change(answer, "symlink", parent)
        self.paths.changed(where)
        return 0

    @answered
    def link(self, target: str, source: str) -> int:
        """`target` is the new name."""
        where = spelled(target)
        node = self._find(spelled(source)).node
        parent, name = self._parent(where)
        answer = self._fs.link(node, parent, name, self._caller())
        self._change(answer, "link", node)
        self.paths.forget_all()
        return 0

    @answered
    def unlink(self, path: str) -> int:
        where = spelled(path)
        if self._hidden.pop(where, None) is not None:
            return 0
        parent, name = self._parent(where)
        self._change(self._fs.unlink(parent, name, self._caller()), "unlink", parent)
        self.paths.changed(where)
        return 0

    @answered
    def rmdir(self, path: str) -> int:
        where = spelled(path)
        parent, name = self._parent(where)
        self._change(self._fs.rmdir(parent, name, self._caller()), "rmdir", parent)
        self.paths.forget_all()
        return 0

    @answered
    def rename(self, old: str, new: str, flags: int = 0) -> int:
        source, target = spelled(old), spelled(new)
        parent, name = self._parent(source)
        if _HIDDEN.fullmatch(target.rpartition(b"/")[2]) and self.owners.was_open(source):
            node = self._find(source).node
            self._change(self._fs.unlink(parent, name, self._caller()), "unlink", parent)
            self._hidden[target] = node
        else:
            to, new_name = self._parent(target)
            answer = self._fs.rename(parent, name, to, new_name, flags, self._caller())
            self._change(answer, "rename", parent)
        self.owners.moved(source, target, exchanged=bool(flags & RENAME_EXCHANGE))
        self.paths.forget_all()
        return 0

    # Files.

    @answered
    def open(self, path: str, info: Any) -> int:
        super().open(path, info)
        if info.flags & os.O_TRUNC and self._asks()[0] != 0:
            self._drop_privileges(self._file(info).node)
        return 0

    @answered
    def write(self, path: str | None, data: bytes, offset: int, info: Any) -> int:
        where, node = self._file(info)
        with memoryview(data) as view:
            answer = self._fs.write(node, info.fh, offset, view)
        size = self._change(answer, "write", node)
        if self._asks()[0] != 0:
            self._drop_privileges(node)
        self.paths.changed(where)
        return size

    def _drop_privileges(self, node: int) -> None:
        """What a change by somebody without privilege does to the set-id bits.

        libfuse promises it to the kernel (HANDLE_KILLPRIV in version 3, and O_TRUNC in an open).
        """
        mode = unprivileged(self._wait(self._fs.getattr(node), "getattr", node).mode)
        if mode is not None:
            answer = self._fs.setattr(node, SetAttr(mode=mode), self._caller())
            self._change(answer, "setattr", node)

    @answered
    def fallocate(self, path: str | None, mode: int, offset: int, size: int, info: Any) -> int:
        where, node = self._file(info)
        answer = self._fs.fallocate(node, info.fh, mode, offset, size)
        self._change(answer, "fallocate", node)
        self.paths.changed(where)
        return 0

    @answered
    def flush(self, path: str | None, info: Any) -> int:
        node = self._file(info).node
        self._change(self._fs.flush(node, info.fh), "flush", node)
        return 0

    @answered
    def fsync(self, path: str | None, datasync: int, info: Any) -> int:
        node = self._file(info).node
        self._change(self._fs.fsync(node, info.fh), "fsync", node)
        return 0

    @answered
    def fsyncdir(self, path: str | None, datasync: int, fh: int) -> int:
        node = self._folders[fh].attr.node
        self._change(self._fs.fsyncdir(node), "fsyncdir", node)
        return 0
