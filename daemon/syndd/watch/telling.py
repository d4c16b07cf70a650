"""Tells the overlay what happened in tracked folders, as if it had been done in the mount."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from synd.errors import Busy, Exists, IsDirectory, NotDirectory, NotFound
from synd.ids import EntityId, syn
from synd.mirror.contents import Contents
from synd.mirror.overlay import Overlay, Seen
from synd.mirror.tree import Tree
from synd.store.local import Local
from synd.store.tracked import RelPath, Root

_DURABLE_S = 60.0
"""Longest wait for the local disk to have taken a copy."""


class OverlaySink:
    """Meets `watch.sink.Sink`. What a folder of the service holds must be known before a name in it
    changes: it is asked for, and the tracker comes again.
    """

    def __init__(
        self,
        overlay: Overlay,
        contents: Contents,
        tree: Tree,
        on_name: Callable[[int, bytes], None] = lambda _folder, _name: None,
    ) -> None:
        """`on_name`: a name in a folder, by its key, leads elsewhere now."""
        self._overlay = overlay
        self._contents = contents
        self._tree = tree
        self._on_name = on_name

    def put(self, root: Root, path: RelPath, source: Path) -> None:
        folder, name = self._place(root, path)
        seen = self._child(folder, name)
        if seen is not None and seen.is_folder:
            raise IsDirectory(f"{path[-1]!r} is a folder on the service", path="/".join(path))
        fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            local = self._row(folder, name, seen, found.st_mode & 0o777)
            self._contents.replace(local.staged, fd, found.st_size)
            self._contents.set_times(local.staged, found.st_atime_ns, found.st_mtime_ns)
        finally:
            os.close(fd)
        waiting = self._contents.closed(local.staged)
        if waiting is not None:
            waiting.result(_DURABLE_S)
        self._on_name(folder, name)

    def _row(self, folder: int, name: bytes, seen: Seen | None, mode: int) -> Local:
        if seen is None:
            local, staged = self._overlay.create_file(
                folder, name, mode=mode, uid=os.getuid(), gid=os.getgid()
            )
            os.close(self._contents.created(staged))
            return local
        staged_row = self._contents.stage(seen, empty=True)
        return staged_row if isinstance(staged_row, Local) else staged_row.result(_DURABLE_S)

    def mkdir(self, root: Root, path: RelPath) -> None:
        folder, name = self._place(root, path)
        seen = self._child(folder, name)
        if seen is not None:
            if not seen.is_folder:
                raise Exists(f"{path[-1]!r} is a file on the service", path="/".join(path))
            return
        self._overlay.make_folder(folder, name, mode=0o755, uid=os.getuid(), gid=os.getgid())
        self._on_name(folder, name)

    def move(self, root: Root, old: RelPath, new: RelPath) -> None:
        folder, name = self._place(root, old)
        target, new_name = self._place(root, new)
        source = self._child(folder, name)
        if source is None:
            raise NotFound(f"nothing is at {'/'.join(old)!r}")
        self._child(target, new_name)
        if self._overlay.parts(source, new_name):
            staged = self._contents.stage(source)
            source = Seen(
                staged if isinstance(staged, Local) else staged.result(_DURABLE_S), source.row
            )
        self._overlay.rename(source, target, new_name)
        self._on_name(folder, name)
        self._on_name(target, new_name)

    def remove(self, root: Root, path: RelPath) -> None:
        folder, name = self._place(root, path)
        seen = self._child(folder, name)
        if seen is None:
            raise NotFound(f"nothing is at {'/'.join(path)!r}")
        self._remove(seen)
        self._on_name(folder, name)

    def _remove(self, seen: Seen) -> None:
        if seen.is_folder:
            self._know(seen.key)
            for child in self._overlay.inside(seen.key):
                self._remove(child)
        self._overlay.remove(seen)

    def _place(self, root: Root, path: RelPath) -> tuple[int, bytes]:
        """(key of the folder, name) of a path in a tracked folder."""
        key = self._overlay.key_of(root.entity)
        if self._overlay.seen(key) is None:
            self._tree.ask(
                ("place", root.entity),
                syn(root.entity),
                "finding an entity",
                lambda: self._tree.place(EntityId(root.entity)),
            )
            raise Busy(f"{syn(root.entity)} is being asked for")
        for part in path[:-1]:
            seen = self._child(key, os.fsencode(part))
            if seen is None:
                raise NotFound(f"the folder {part!r} is not there yet")
            if not seen.is_folder:
                raise NotDirectory(f"{part!r} is no folder on the service")
            key = seen.key
        return key, os.fsencode(path[-1])

    def _child(self, folder: int, name: bytes) -> Seen | None:
        self._know(folder)
        return self._overlay.known_child(folder, name)

    def _know(self, folder: int) -> None:
        """Raises Busy while what a folder holds is not known."""
        entity = self._overlay.entity_of(folder)
        if entity is not None and not self._tree.folders.is_listed(entity):
            self._tree.listed(entity)
            raise Busy(f"the listing of {syn(entity)} is being asked for")
