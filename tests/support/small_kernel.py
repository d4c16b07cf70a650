"""A kernel in small: what programs do becomes requests to a filesystem, at its Python interface.

It remembers names as Linux does, until it is told otherwise, and looks a stale one up again once only;
so a notice that is missing, or a second ESTALE, shows. It keeps no pages.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from synd.errors import NotFound, RemoteUnavailable, Stale
from syndd.mount.fs import SynapseFs
from syndd.mount.ops import ROOT, Attr, Caller, DirEntry, SetAttr
from tests.support.parts import Told, bytes_of, got

T = TypeVar("T")
ME = Caller(0, 0)
PIECE = 128 << 10


@dataclass(eq=False)
class Open:
    """One open file of a program."""

    node: int
    handle: int
    fd: int | None
    """Where the kernel reads and writes it by itself; None: through the daemon."""
    flags: int
    fixed: bool
    """It is one version's, whatever becomes of the file."""

    @property
    def writes(self) -> bool:
        return self.flags & os.O_ACCMODE != os.O_RDONLY


class Kernel:
    """Asks a filesystem as the kernel does for programs, and remembers names in between."""

    def __init__(self, fs: SynapseFs, told: Told, *, remembers: bool) -> None:
        self.fs = fs
        self._told = told
        self._remembers = remembers
        self._names: dict[tuple[int, bytes], Attr | None] = {}
        """None: there is no such name."""
        self._last_handle = 0
        self.open: list[Open] = []

    # What it remembers.

    def forget(self) -> None:
        """As after the daemon was started anew."""
        self._names.clear()

    def _hear(self) -> None:
        """Notices: these names lead elsewhere."""
        names, _ = self._told.take()
        for name in names:
            self._names.pop(name, None)

    def _keep(self, parent: int, name: bytes, attr: Attr | None) -> None:
        if self._remembers and (attr is None or attr.entry_ttl_s > 0):
            self._names[parent, name] = attr
        else:
            self._names.pop((parent, name), None)

    def _look(self, parent: int, name: bytes, *, anew: bool) -> Attr:
        if not anew and (parent, name) in self._names:
            known = self._names[parent, name]
            if known is None:
                raise NotFound(f"no {name!r}, as far as is remembered")
            return known
        try:
            attr = got(self.fs.lookup(parent, name))
        except NotFound:
            self._keep(parent, name, None)
            raise
        self._keep(parent, name, attr)
        return attr

    def node(self, path: str, *, anew: bool = False) -> int:
        node = ROOT
        for part in path.split("/") if path else ():
            node = self._look(node, part.encode(), anew=anew).node
        return node

    def _parent(self, path: str, *, anew: bool) -> tuple[int, bytes]:
        folder, _, name = path.rpartition("/")
        return self.node(folder, anew=anew), name.encode()

    def _again(self, act: Callable[[bool], T]) -> T:
        """`act`, and once more with all names looked up anew when something was stale."""
        self._hear()
        try:
            return act(False)
        except Stale:
            return act(True)

    # What programs ask.

    def stat(self, path: str) -> Attr:
        def act(anew: bool) -> Attr:
            return got(self.fs.getattr(self.node(path, anew=anew)))

        return self._again(act)

    def list(self, path: str, *, plus: bool = True) -> list[DirEntry]:
        def act(anew: bool) -> list[DirEntry]:
            node = self.node(path, anew=anew)
            got(self.fs.opendir(node))
            entries = list(got(self.fs.readdir(node, 0, plus=plus)))
            for entry in entries:
                if entry.attr is not None and (node, entry.name) not in self._names:
                    self._keep(node, entry.name, entry.attr)
            return entries

        return self._again(act)

    def walk(self, path: str = "") -> dict[str, DirEntry]:
        """Everything below a folder, by path."""
        found: dict[str, DirEntry] = {}
        for entry in self.list(path):
            here = f"{path}/{entry.name.decode()}" if path else entry.name.decode()
            found[here] = entry
            if stat.S_ISDIR(entry.mode):
                found |= self.walk(here)
        return found

    def mkdir(self, path: str) -> Attr:
        def act(anew: bool) -> Attr:
            parent, name = self._parent(path, anew=anew)
            attr = got(self.fs.mkdir(parent, name, 0o755, ME))
            self._keep(parent, name, attr)
            return attr

        return self._again(act)

    def unlink(self, path: str) -> None:
        self._remove(path, self.fs.unlink)

    def rmdir(self, path: str) -> None:
        self._remove(path, self.fs.rmdir)

    def _remove(self, path: str, remove: Any) -> None:
        def act(anew: bool) -> None:
            parent, name = self._parent(path, anew=anew)
            self._look(parent, name, anew=anew)
            got(remove(parent, name, ME))
            self._names.pop((parent, name), None)

        self._again(act)

    def rename(self, old: str, new: str, flags: int = 0) -> None:
        def act(anew: bool) -> None:
            parent, name = self._parent(old, anew=anew)
            to, new_name = self._parent(new, anew=anew)
            source = self._look(parent, name, anew=anew)
            target = None
            with contextlib.suppress(NotFound):
                target = self._look(to, new_name, anew=anew)
            got(self.fs.rename(parent, name, to, new_name, flags, ME))
            # What the names led to has moved with them.
            self._names.pop((parent, name), None)
            self._keep(to, new_name, source)
            if flags & 2 and target is not None:
                self._keep(parent, name, target)

        self._again(act)

    def create(self, path: str, flags: int, *, through: bool = True) -> tuple[Open, Attr]:
        """open(2) with O_CREAT."""

        def act(anew: bool) -> tuple[Open, Attr]:
            parent, name = self._parent(path, anew=anew)
            known = None if anew else self._names.get((parent, name))
            if known is not None and not flags & os.O_EXCL:
                return self._opened(known.node, flags, through), known
            attr, opened = got(self.fs.create(parent, name, 0o644, flags, ME))
            self._keep(parent, name, attr)
            return self._take(attr.node, flags, opened.backing, opened.counted, through), attr

        return self._again(act)

    def open_file(self, path: str, flags: int, *, through: bool = True) -> Open:
        return self._again(lambda anew: self._opened(self.node(path, anew=anew), flags, through))

    def _opened(self, node: int, flags: int, through: bool) -> Open:
        opened = got(self.fs.open(node, flags))
        return self._take(node, flags, opened.backing, opened.counted, through)

    def _take(self, node: int, flags: int, fd: int | None, counted: bool, through: bool) -> Open:
        self._last_handle += 1
        if counted:
            self.fs.opened(node, self._last_handle)
        if fd is not None and not through:
            os.close(fd)
            fd = None
        made = Open(node, self._last_handle, fd, flags, not counted)
        self.open.append(made)
        return made

    def size(self, file: Open) -> int:
        return got(self.fs.getattr(file.node)).size

    def read(self, file: Open, offset: int = 0, size: int | None = None) -> bytes:
        end = self.size(file) if size is None else offset + size
        if file.fd is not None:
            return os.pread(file.fd, end - offset, offset)
        out = bytearray()
        while offset + len(out) < end:
            at = offset + len(out)
            piece = self._piece(file, at, min(PIECE, end - at))
            if not piece:
                break
            out += piece
        return bytes(out)

    def _piece(self, file: Open, offset: int, size: int) -> bytes:
        """One read; where it fails Linux asks once more, for the page alone instead of its read-ahead."""

        def ask() -> bytes:
            answer: Any = self.fs.read(file.node, file.handle, offset, size)
            return bytes_of(got(answer))

        try:
            return ask()
        except RemoteUnavailable:
            return ask()

    def write(self, file: Open, offset: int, data: bytes) -> None:
        if file.fd is not None:
            assert os.pwrite(file.fd, data, offset) == len(data)
            return
        for at in range(0, len(data), PIECE):
            piece = memoryview(data)[at : at + PIECE]
            assert got(self.fs.write(file.node, file.handle, offset + at, piece)) == len(piece)

    def resize(self, file: Open, size: int) -> None:
        """ftruncate(2)."""
        got(self.fs.setattr(file.node, SetAttr(size=size, handle=file.handle), ME))

    def truncate(self, path: str, size: int) -> None:
        def act(anew: bool) -> None:
            got(self.fs.setattr(self.node(path, anew=anew), SetAttr(size=size), ME))

        self._again(act)

    def sync(self, file: Open) -> None:
        got(self.fs.fsync(file.node, file.handle))

    def close(self, file: Open) -> None:
        """close(2) of the last descriptor."""
        try:
            if not file.fixed or file.writes:
                got(self.fs.flush(file.node, file.handle))
        finally:
            self._release(file)

    def _release(self, file: Open) -> None:
        self.open.remove(file)
        if file.fd is not None:
            os.close(file.fd)
        self.fs.release(file.node, file.handle)

    def content(self, path: str) -> bytes:
        file = self.open_file(path, os.O_RDONLY)
        try:
            return self.read(file)
        finally:
            self.close(file)

    # A daemon that was started anew.

    def resume(self, fs: SynapseFs, told: Told) -> None:
        """The same mount, another daemon."""
        self.fs, self._told = fs, told
        self.forget()
        for file in self.open:
            fs.opened(file.node, file.handle)

    def drop(self) -> None:
        """The mount is gone, and with it whoever had something open."""
        for file in self.open:
            if file.fd is not None:
                os.close(file.fd)
        self.open.clear()
