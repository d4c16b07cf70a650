"""What libfuse makes us remember: paths and their nodes, and whose pages the kernel holds for each.

Paths are bytes without a slash at the end; the top folder is empty. Invariants:
- what `Paths` remembers is never older than `REMEMBER_S`, nor than the last change made here;
- the kernel knows one inode per path, so the pages it caches belong to one node at a time: `Owners`
  knows which, and whoever opens another node of that path meanwhile reads past the cache. (The size
  is shared all the same: a reader of the old content sees the new size.)
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from syndd.mount.ops import Attr

REMEMBER_S = 1.0
"""How long the kernel and we believe a name or an attribute."""
_LATE_S = 0.1
"""The kernel counts from when an answer arrives."""
_REMEMBER_MOST = 100_000
_LINGER_S = 5.0
_CLOSED_MOST = 10_000


class Paths:
    """path → attributes, remembered for a moment. Filled by look-ups and listings."""

    def __init__(self) -> None:
        self.generation = 0
        """Counts changes: what was asked for before one is not remembered after it."""
        self._known: dict[bytes, tuple[float, Attr]] = {}

    def get(self, path: bytes) -> Attr | None:
        found = self._known.get(path)
        return found[1] if found is not None and found[0] > time.monotonic() else None

    def put(self, path: bytes, attr: Attr, generation: int) -> None:
        """Remembers what was asked for when the count stood at `generation`."""
        if generation != self.generation:
            return
        if len(self._known) >= _REMEMBER_MOST:
            self._known.clear()
        self._known[path] = (time.monotonic() + min(REMEMBER_S, attr.entry_ttl_s), attr)

    def changed(self, path: bytes) -> None:
        """A path leads elsewhere or to other attributes; so may its folder."""
        self.generation += 1
        self._known.pop(path, None)
        self._known.pop(path.rpartition(b"/")[0], None)

    def forget_all(self) -> None:
        self.generation += 1
        self._known.clear()


class Guesses:
    """Paths of fixed files whose attributes were told although they need not hold (an `attr_ttl_s` of 0).

    libfuse has one time-out for all, so the kernel believes them for `REMEMBER_S`. Of a file that can be
    written the kernel keeps the size itself.
    """

    def __init__(self) -> None:
        self._told: dict[bytes, tuple[float, int]] = {}

    def told(self, path: bytes, attr: Attr) -> None:
        """Before the answer: these are the attributes that the kernel gets."""
        if attr.attr_ttl_s > 0 or attr.mode & 0o222:
            if self._told:
                self._told.pop(path, None)
            return
        if len(self._told) >= _CLOSED_MOST:
            self._told.clear()
        self._told[path] = (time.monotonic(), attr.node)

    def believed_s(self, path: bytes, node: int) -> float:
        """How long the kernel still takes another node's attributes for those of `node`; 0: it does not."""
        found = self._told.get(path)
        if found is None or found[1] == node:
            return 0.0
        return max(0.0, found[0] + REMEMBER_S + _LATE_S - time.monotonic())


class OpenFile(NamedTuple):
    """An open file: the path by which it is known, and the node it will stay."""

    path: bytes
    node: int


class Owners:
    """path → whose pages the kernel may hold, and what is open. Lock order: its lock is a leaf."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._owner: dict[bytes, int] = {}
        self._open: dict[bytes, dict[int, int]] = {}
        self._handles: dict[int, OpenFile] = {}
        self._closed: dict[bytes, float] = {}

    def __len__(self) -> int:
        return len(self._handles)

    def opened(self, path: bytes, node: int, handle: int) -> tuple[bool, bool]:
        """Whether to read past the cache, and whether cached pages may be kept."""
        with self._lock:
            self._handles[handle] = OpenFile(path, node)
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

    def get(self, handle: int) -> OpenFile | None:
        return self._handles.get(handle)

    def is_open(self, path: bytes) -> bool:
        return path in self._open

    def was_open(self, path: bytes) -> bool:
        """Whether the path is open, or was a moment ago: libfuse counts a file as open until some time
        after it has told us of the last close.
        """
        return path in self._open or self._closed.get(path, 0.0) + _LINGER_S > time.monotonic()

    def closed(self, handle: int) -> OpenFile | None:
        """Forgets a handle; what it was of."""
        with self._lock:
            found = self._handles.pop(handle, None)
            if found is None:
                return None
            nodes = self._open[found.path]
            nodes[found.node] -= 1
            if nodes[found.node] == 0:
                del nodes[found.node]
            if not nodes:
                del self._open[found.path]
                if len(self._closed) >= _CLOSED_MOST:
                    self._closed.clear()
                self._closed[found.path] = time.monotonic()
            return found

    def moved(self, old: bytes, new: bytes, *, exchanged: bool = False) -> None:
        """A path, with all below it, is now called otherwise. What `new` was before is gone, unless
        they were `exchanged`.
        """
        moves = ((old, new), (new, old)) if exchanged else ((old, new),)

        def now(path: bytes) -> bytes:
            for source, target in moves:
                if path == source or path.startswith(source + b"/"):
                    return target + path[len(source) :]
            return path

        with self._lock:
            # Whose pages the kernel holds under which name is settled anew when they are opened.
            self._owner.clear()
            if all(now(path) == path for path in self._open):
                return
            self._handles = {
                handle: OpenFile(now(file.path), file.node)
                for handle, file in self._handles.items()
            }
            self._open = {}
            for file in self._handles.values():
                nodes = self._open.setdefault(file.path, {})
                nodes[file.node] = nodes.get(file.node, 0) + 1
