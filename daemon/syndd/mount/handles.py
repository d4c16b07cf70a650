"""Open files, and in which mode the kernel holds each node: what may not be forgotten or mixed.

The kernel keeps a node either in cached mode (its page cache) or in passthrough mode (reads go to a
backing file), never both, and every passthrough open must name the backing id of the first one; a
mistake is EIO at the caller's `open`. The table knows which mode a node is in, because it counts a
handle from before the kernel hears of it until after the kernel has let go of it.

It outlives the daemon: every handle is one slot of a memory-mapped file. The page cache keeps what a
killed process wrote, so a restarted daemon finds each open handle, its mode and its backing id (ids
stay registered in the kernel's connection). It is not synced: handles do not outlive the machine.

Invariants:
- a handle number is never used twice in the life of a mount;
- a slot is written before its `open` is answered and cleared before its `release` is;
- a slot's mode byte is stored last, so a kill in between leaves a free slot, never half a handle;
- a backing id is in a slot, or younger than `backing_seen`, until it is closed: none leaks.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from struct import Struct
from typing import NamedTuple, Self

_MAGIC = b"syndfh02"
_HEADER = Struct("=8sQQQ")
"""magic; mount (which one this table belongs to); next_handle; backing_seen (highest id ever given)."""
_HEADER_SIZE = 64
_NEXT_AT = 16
_SEEN_AT = 24
_WORD = Struct("=Q")

_SLOT = Struct("=QQQiB3x")
"""unique of the open; handle; node; backing id; mode."""
_MODE_AT = 28
_GROW = 1024
"""Slots by which the file grows: 32 KiB."""


class Mode(IntEnum):
    """How the kernel holds an open file."""

    CACHED = 1
    """Through the node's page cache. Bars passthrough."""
    PASSTHROUGH = 2
    """From the backing file. Bars both others."""
    DIRECT = 3
    """Every read asks the filesystem. Bars nothing."""


class Handle(NamedTuple):
    """One open file."""

    number: int
    node: int
    mode: Mode
    backing: int
    """Backing id, 0 without passthrough."""
    unique: int
    """Of the request that opened it: the same open, sent again after a restart, finds its handle."""
    slot: int


@dataclass(slots=True)
class _Node:
    """The open handles of one node, by mode."""

    cached: int = 0
    through: int = 0
    direct: int = 0
    backing: int = 0


@dataclass(slots=True)
class _File:
    """The slots on disk. Holds no lock: the table's is held around every call."""

    map: mmap.mmap
    fd: int
    slots: int
    free: list[int] = field(default_factory=list)

    def grow(self) -> None:
        """Room for more slots. Allocated at once: a hole that cannot be filled would be a SIGBUS."""
        size = _HEADER_SIZE + (self.slots + _GROW) * _SLOT.size
        os.posix_fallocate(self.fd, 0, size)
        self.map.close()
        self.map = mmap.mmap(self.fd, size)
        self.free.extend(range(self.slots + _GROW - 1, self.slots - 1, -1))
        self.slots += _GROW

    def put(self, handle: Handle) -> None:
        at = _HEADER_SIZE + handle.slot * _SLOT.size
        _SLOT.pack_into(self.map, at, handle.unique, handle.number, handle.node, handle.backing, 0)
        self.map[at + _MODE_AT] = handle.mode

    def clear(self, slot: int) -> None:
        """Frees a slot; its backing id stays written, so that a kill before the close leaks nothing."""
        self.map[_HEADER_SIZE + slot * _SLOT.size + _MODE_AT] = 0


class HandleTable:
    """fh → node, mode, backing id. Without a path it lives in memory only.

    Lock order: `lock` is a leaf, but for the backing ioctls that `open` and `release` make under it.
    """

    def __init__(
        self,
        path: Path | None,
        mount: int,
        *,
        close_backing: Callable[[int], None],
        inherited: bool = False,
    ) -> None:
        """Opens the table of `mount`; with `inherited` keeps what another process left in it."""
        self.lock = threading.Lock()
        self.path = path
        self.loaded = False
        """An earlier daemon's handles were found."""
        self._close_backing = close_backing
        self._handles: dict[int, Handle] = {}
        self._nodes: dict[int, _Node] = {}
        self._resent: dict[int, Handle] = {}
        self._next = 1
        self._seen = 0
        self._file = None if path is None else self._open_file(path, mount, keep=inherited)

    def _open_file(self, path: Path, mount: int, *, keep: bool) -> _File:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            if not keep or size < _HEADER_SIZE:
                os.ftruncate(fd, 0)
                size = 0
            slots = max(0, size - _HEADER_SIZE) // _SLOT.size
            if slots == 0:
                os.posix_fallocate(fd, 0, _HEADER_SIZE + _GROW * _SLOT.size)
            file = _File(mmap.mmap(fd, 0), fd, slots)
        except BaseException:
            os.close(fd)
            raise
        magic, owner, following, seen = _HEADER.unpack_from(file.map, 0)
        if slots and (magic, owner) == (_MAGIC, mount):
            self._load(file, following, seen)
        else:
            size = len(file.map)
            file.map[:] = bytes(size)
            file.slots = (size - _HEADER_SIZE) // _SLOT.size
            file.free = list(range(file.slots - 1, -1, -1))
            _HEADER.pack_into(file.map, 0, _MAGIC, mount, self._next, self._seen)
        return file

    def _load(self, file: _File, following: int, seen: int) -> None:
        self._next, self._seen, self.loaded = following, seen, True
        closing: set[int] = set()
        for slot in range(file.slots - 1, -1, -1):
            at = _HEADER_SIZE + slot * _SLOT.size
            unique, number, node, backing, mode = _SLOT.unpack_from(file.map, at)
            if mode == 0:
                file.free.append(slot)
                if backing:
                    closing.add(backing)
                continue
            handle = Handle(number, node, Mode(mode), backing, unique, slot)
            self._add(handle)
            self._resent[unique] = handle
        # The daemon may have died between clearing a slot and closing its backing id.
        for backing in closing - {h.backing for h in self._handles.values()}:
            self._close_backing(backing)

    def _add(self, handle: Handle) -> None:
        self._handles[handle.number] = handle
        node = self._nodes.get(handle.node)
        if node is None:
            node = self._nodes[handle.node] = _Node()
        if handle.mode is Mode.CACHED:
            node.cached += 1
        elif handle.mode is Mode.PASSTHROUGH:
            node.through += 1
            node.backing = handle.backing
        else:
            node.direct += 1

    def _record_locked(self, node: int, mode: Mode, backing: int, unique: int) -> Handle:
        number = self._next
        self._next = number + 1
        file = self._file
        slot = -1
        if file is not None:
            if not file.free:
                file.grow()
            slot = file.free.pop()
            # The number is used up before a slot names it, else a kill in between gives it out twice.
            _WORD.pack_into(file.map, _NEXT_AT, number + 1)
        handle = Handle(number, node, mode, backing, unique, slot)
        if file is not None:
            file.put(handle)
        self._add(handle)
        return handle

    def open(
        self,
        node: int,
        unique: int,
        *,
        direct: bool,
        register: Callable[[], int] | None,
    ) -> Handle:
        """A new handle for `node`, in the best mode that the node's other handles allow.

        `register` makes a backing id of the filesystem's descriptor (0: it could not); None when
        there is no such descriptor.
        """
        with self.lock:
            state = self._nodes.get(node)
            if state is not None and state.through:
                return self._record_locked(node, Mode.PASSTHROUGH, state.backing, unique)
            if (
                register is not None
                and (state is None or not state.cached)
                and (made := register())
            ):
                if made > self._seen:
                    self._seen = made
                    if self._file is not None:
                        _WORD.pack_into(self._file.map, _SEEN_AT, made)
                return self._record_locked(node, Mode.PASSTHROUGH, made, unique)
            return self._record_locked(node, Mode.DIRECT if direct else Mode.CACHED, 0, unique)

    def resent(self, unique: int) -> Handle | None:
        """The handle that an earlier daemon made for this request, if it came so far. Once."""
        with self.lock:
            handle = self._resent.pop(unique, None)
            return handle if handle is not None and handle.number in self._handles else None

    def release(self, number: int) -> Handle | None:
        """Forgets a handle. None when it is unknown: a release that was sent again."""
        with self.lock:
            handle = self._handles.pop(number, None)
            if handle is None:
                return None
            node = self._nodes[handle.node]
            closing = 0
            if handle.mode is Mode.CACHED:
                node.cached -= 1
            elif handle.mode is Mode.DIRECT:
                node.direct -= 1
            else:
                node.through -= 1
                if node.through == 0:
                    closing, node.backing = node.backing, 0
            if not (node.cached or node.through or node.direct):
                del self._nodes[handle.node]
            if self._file is not None:
                self._file.clear(handle.slot)
                self._file.free.append(handle.slot)
            if closing:
                self._close_backing(closing)
            return handle

    def close_leaked(self, probe: int) -> int:
        """Closes ids that an earlier daemon was given but never recorded; returns how many it tried.

        `probe` is an id that was just given: the kernel counts them up, so whatever lies between it
        and the highest recorded one belongs to nobody.
        """
        with self.lock:
            lost = range(self._seen + 1, probe)
            for backing in lost:
                self._close_backing(backing)
            self._seen = max(self._seen, probe)
            if self._file is not None:
                _WORD.pack_into(self._file.map, _SEEN_AT, self._seen)
            return len(lost)

    def get(self, number: int) -> Handle | None:
        return self._handles.get(number)

    def mode(self, node: int) -> Mode | None:
        """The mode that a node is held in, None when it is not open (or only directly)."""
        state = self._nodes.get(node)
        if state is None:
            return None
        return Mode.PASSTHROUGH if state.through else Mode.CACHED if state.cached else None

    def __len__(self) -> int:
        return len(self._handles)

    def __iter__(self) -> Iterator[Handle]:
        with self.lock:
            return iter(list(self._handles.values()))

    def close(self, *, remove: bool = False) -> None:
        """Lets go of the file; with `remove` (the mount is gone) deletes it."""
        with self.lock:
            if self._file is not None:
                self._file.map.close()
                os.close(self._file.fd)
                self._file = None
        if remove and self.path is not None:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
