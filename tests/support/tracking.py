"""A sink that keeps what it is told, a source that tells what a test wants, and trees of files to compare."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from synd.errors import NotFound, SyndError
from synd.store.tracked import RelPath, Root
from syndd.watch.source import Kind, Post, Raw, Refusal

Tree = dict[str, bytes | None]
"""Relative path → content; None for folders."""


class RecordingSink:
    """Meets `Sink`: the calls as text, and the tree that they make."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.tree: Tree = {}
        self.refuse: dict[str, SyndError] = {}
        """Raised by calls about these paths."""
        self.before_put: Callable[[str], None] = lambda _: None
        self.after_put: Callable[[str], None] = lambda _: None
        self.threads: set[str] = set()

    def put(self, root: Root, path: RelPath, source: Path) -> None:
        at = self._call("put", path)
        self.before_put(at)
        assert self._folder(path), f"{at} comes before its folder"
        try:
            self.tree[at] = source.read_bytes()
        except FileNotFoundError as error:
            raise NotFound(str(source)) from error
        self.after_put(at)

    def mkdir(self, root: Root, path: RelPath) -> None:
        at = self._call("mkdir", path)
        assert self._folder(path), f"{at} comes before its folder"
        self.tree.setdefault(at, None)

    def move(self, root: Root, old: RelPath, new: RelPath) -> None:
        was, at = "/".join(old), "/".join(new)
        self._call("move", old, at)
        if was not in self.tree:
            raise NotFound(was)
        moved = {at + p[len(was) :]: self.tree.pop(p) for p in self._below(was)}
        for path in self._below(at):
            del self.tree[path]
        self.tree.update(moved)

    def remove(self, root: Root, path: RelPath) -> None:
        at = self._call("remove", path)
        for gone in self._below(at):
            del self.tree[gone]

    def told(self, verb: str) -> list[str]:
        """The arguments of the calls of one kind."""
        return [call.partition(" ")[2] for call in self.calls if call.startswith(verb + " ")]

    def _call(self, verb: str, path: RelPath, *more: str) -> str:
        self.threads.add(threading.current_thread().name)
        at = "/".join(path)
        self.calls.append(" ".join((verb, at, *more)))
        if (error := self.refuse.get(at)) is not None:
            raise error
        return at

    def _folder(self, path: RelPath) -> bool:
        return len(path) == 1 or self.tree.get("/".join(path[:-1]), b"") is None

    def _below(self, at: str) -> list[str]:
        return [p for p in self.tree if p == at or p.startswith(at + "/")]


class FakeSource:
    """Meets `Source`: watches nothing, tells what a test posts, refuses from a number of watches on."""

    def __init__(self, post: Post, most: int = 1 << 30, refusal: Refusal = Refusal.WATCHES) -> None:
        self.post = post
        self.most = most
        self.refusal = refusal
        self.folders: dict[Path, int] = {}
        self.dead = False
        self._next = 1
        self.ended: list[int] = []

    def watch(self, folder: Path) -> int | Refusal:
        self.dead = False
        if folder in self.folders:
            return self.folders[folder]
        if len(self.folders) >= self.most:
            return self.refusal
        self.folders[folder] = self._next
        self._next += 1
        return self.folders[folder]

    def unwatch(self, watch: int) -> None:
        self.ended.append(watch)
        self.folders = {f: w for f, w in self.folders.items() if w != watch}

    def alive(self) -> bool:
        return not self.dead

    def sync(self, timeout_s: float) -> bool:
        return True

    def close(self) -> None:
        self.folders.clear()

    def tell(
        self, kind: Kind, folder: Path, name: str = "", *, is_folder: bool = False, cookie: int = 0
    ) -> None:
        self.post(Raw(kind, self.folders.get(folder, -1), name, is_folder, cookie))


def tree_of(folder: Path) -> Tree:
    """What lies in a folder; symbolic links and special files left out."""
    found: Tree = {}
    for at, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(at, name)
            if path.is_symlink():
                continue
            if path.is_dir():
                found[str(path.relative_to(folder))] = None
            elif path.is_file():
                found[str(path.relative_to(folder))] = path.read_bytes()
    return found
