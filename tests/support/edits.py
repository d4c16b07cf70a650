"""Local changes over the real overlay and store, with a pusher that a test moves by hand."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, get_origin, get_type_hints

from synd.cache.staging import Staging
from synd.errors import Exists, NotFound, SyndError
from synd.ids import EntityId
from synd.mirror.conflicts import Conflicts
from synd.mirror.overlay import Overlay
from synd.mirror.push import Progress
from synd.mirror.undoing import Undoing
from synd.store.local import Local
from syndd.edits import Edits
from syndd.watch.intent import Problem
from tests.support.parts import Parts


class FakePusher:
    """Sends nothing by itself; a test says what becomes of the rows."""

    def __init__(self) -> None:
        self.paused = False
        self.problem: SyndError | None = None
        self.offline_since_ns = 0
        self.under_way: list[Progress] = []
        self.asked: list[tuple[str, object]] = []

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def push_now(self, numbers: Collection[int] | None = None) -> None:
        self.asked.append(("push_now", numbers))

    def retry_blocked(self, numbers: Collection[int] | None = None) -> None:
        self.asked.append(("retry_blocked", numbers))

    def approve(self, numbers: Collection[int]) -> None:
        self.asked.append(("approve", numbers))

    def sending(self) -> list[Progress]:
        return self.under_way

    async def drain(self, timeout_s: float) -> None:
        self.asked.append(("drain", timeout_s))


@dataclass
class HeldFiles:
    missing_files: int = 12


@dataclass
class Folder:
    """Stands for `syndd.watch`'s root and its status in one."""

    folder: Path
    entity: EntityId
    since_ns: int = 1
    state: str = "watching"
    why: str = ""
    remedy: str = ""
    files: int = 3
    unsent: int = 0
    waiting: int = 0
    scanned_ns: int = 0
    held: HeldFiles | None = None
    problems: Sequence[Problem] = ()
    problem_count: int = 0

    @property
    def root(self) -> Folder:
        return self


@dataclass
class FakeTracker:
    folders: dict[Path, Folder] = field(default_factory=dict)
    confirmed: list[Path] = field(default_factory=list)
    waited: list[float] = field(default_factory=list)

    def add(self, folder: Path, entity: EntityId) -> Folder:
        if folder in self.folders:
            raise Exists(f"{folder} is tracked")
        self.folders[folder] = Folder(folder, entity)
        return self.folders[folder]

    def remove(self, folder: Path) -> Folder:
        if folder not in self.folders:
            raise NotFound(f"{folder} is not tracked")
        return self.folders.pop(folder)

    def status(self) -> list[Folder]:
        return list(self.folders.values())

    def wait_settled(self, timeout_s: float) -> bool:
        self.waited.append(timeout_s)
        for one in self.folders.values():
            one.waiting = 0
        return True

    def confirm(self, folder: Path) -> None:
        self.confirmed.append(folder)


def keep(
    tx: sqlite3.Connection,
    path: str,
    reason: str,
    *,
    file: str = "",
    size: int = 0,
    entity: int | None = None,
) -> None:
    """A row of `recovered`."""
    tx.execute(
        "INSERT INTO recovered (at_ns, path, reason, entity, file, size) VALUES (?, ?, ?, ?, ?, ?)",
        (time.time_ns(), path, reason, entity, file, size),
    )


class Written:
    """Who has staging files open."""

    def __init__(self, overlay: Overlay) -> None:
        self.overlay = overlay
        self.open: set[int] = set()
        self.files: dict[int, Path] = {}
        """Those whose close found no room, with where their bytes lie."""

    def writers(self, number: int) -> int:
        row = self.overlay.locals.find(number)
        return int(row is not None and row.staged in self.open)

    def writing(self) -> list[int]:
        return list(self.open)

    def refused(self) -> list[int]:
        return list(self.files)

    def stat(self, staged: int) -> os.stat_result:
        return os.stat(self.files[staged])


class Desk:
    """Edits over all parts."""

    def __init__(self, parts: Parts, root: Path) -> None:
        self.parts = parts
        self.mount = root / "mnt"
        self.pusher = FakePusher()
        self.tracker = FakeTracker()
        self.overlay = parts.overlay
        self.staging = Staging(root / "staged", root / "recovered")
        undoing = Undoing(self.overlay, self.staging, parts.contents.lazily)
        self.discarded: list[int] = []
        """Rows whose changes were taken back, in that order."""

        def discard(number: int) -> None:
            self.discarded.append(number)
            undoing.discard(number)

        self.overlay.discard = discard
        self.contents = Written(self.overlay)
        self.conflicts = Conflicts(self.overlay, parts.tree, parts.remote)
        self.edits = parts.call(
            lambda: Edits(
                store=parts.store, tree=parts.tree, streams=parts.streams, overlay=self.overlay,
                contents=self.contents, staging=self.staging, pusher=self.pusher,
                conflicts=self.conflicts, tracker=self.tracker, events=parts.events,
                mount=self.mount, recovery=root / "recovered",
                by_pattern=lambda name: name.endswith(".tmp"),
            )
        )  # fmt: skip

    def ask(self, call: str, *args: object, **more: object) -> Any:
        return self.parts.run(getattr(self.edits, call)(*args, **more))

    def at(self, path: str) -> str:
        return str(self.mount / path)

    def key(self, path: str) -> int:
        parts = [p.encode() for p in path.split("/")]
        for most in range(1, len(parts) + 1):
            if self.overlay.child(self._parent(parts[:most]), parts[most - 1]) is None:
                self.parts.node("/".join(p.decode() for p in parts[:most]))
        seen = self.overlay.find_path(parts)
        assert seen is not None
        return seen.key

    def _parent(self, parts: list[bytes]) -> int:
        seen = self.overlay.find_path(parts[:-1]) if parts[:-1] else None
        return 0 if seen is None else seen.key

    def create(self, path: str, content: bytes = b"new") -> Local:
        """A closed new file, with bytes in its staging file."""
        folder, _, name = path.rpartition("/")
        row, staged = self.overlay.create_file(
            self.key(folder), name.encode(), mode=0o644, uid=0, gid=0
        )
        return self.write(row, staged, content)

    def write(self, row: Local, staged: int, content: bytes) -> Local:
        fd = self.staging.create(staged)
        os.write(fd, content)
        os.close(fd)
        with self.overlay.change() as tx:
            self.overlay.locals.update(
                tx, row.id, size=len(content), edit=row.edit + 1, staged=staged
            )
            if content and not row.local_only:
                self.overlay.queue(tx, self.overlay.locals.get(row.id, tx))
        return self.overlay.locals.get(row.id)

    def edit(self, path: str, content: bytes) -> Local:
        """An edit of what the service has."""
        self.parts.run(self.parts.tree.detail(EntityId(self.key(path))))
        seen = self.overlay.seen(self.key(path))
        assert seen is not None
        with self.overlay.change() as tx:
            row = self.overlay.claim(tx, seen)
            staged = self.overlay.locals.next_number(tx)
        return self.write(row, staged, content)

    def set(self, row: Local, **fields: object) -> Local:
        with self.overlay.change() as tx:
            self.overlay.locals.update(tx, row.id, **fields)
        self.edits.changed(row.id)
        return self.overlay.locals.get(row.id)

    def sent(self, row: Local) -> Local:
        return self.set(row, state="clean", since_ns=0, sent=row.edit, entity=row.entity or 9999)


def fits(found: object, shape: type) -> None:
    """All that the contract promises is there, and nothing else."""
    hints = get_type_hints(shape, include_extras=True)
    assert isinstance(found, dict)
    assert set(hints) >= set(found)
    assert {k for k, v in hints.items() if get_origin(v) is not NotRequired} <= set(found)
