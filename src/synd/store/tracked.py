"""Rows of tracked folders and of what was seen in them ↔ values.

A relative path is a tuple of names (`os.fsdecode`d, so names that are not UTF-8 come back as they were).
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from synd.clock import NS
from synd.errors import Exists, UsageError
from synd.ids import EntityId, Md5, syn
from synd.store.connect import Store, translated

RelPath: TypeAlias = tuple[str, ...]
"""Names from the tracked folder down; () is the folder itself."""

RACY_NS = 2 * NS
"""A file changed so shortly before it was looked at may change again with the same times: the coarsest
clock of a file system (FAT) ticks every 2 s.
"""


@dataclass(frozen=True, slots=True)
class Options:
    """How one folder is tracked."""

    quiet_s: float = 2.0
    """A file is sent once nobody has changed it for so long after its writer closed it."""
    open_quiet_s: float = 30.0
    """The same for a file that nobody was seen to close."""
    scan_every_s: float = 60.0
    """Time between two scans where the kernel tells no events."""
    rescan_every_s: float = 3600.0
    """Time between two scans where it does: what no event told is found then."""
    ignore: tuple[str, ...] = ()
    """Patterns as in `.syndignore`, for the whole folder."""

    def __post_init__(self) -> None:
        for name in ("quiet_s", "open_quiet_s", "scan_every_s", "rescan_every_s"):
            value = getattr(self, name)
            if not 0 <= value <= 7 * 86400:
                raise UsageError(f"{name} is {value}: it must lie between 0 and a week")


@dataclass(frozen=True, slots=True)
class Root:
    """A tracked folder."""

    id: int
    folder: Path
    entity: EntityId
    device: int
    inode: int
    since_ns: int
    options: Options = field(default_factory=Options)

    def path(self, relative: RelPath) -> Path:
        """The absolute path of what lies in it."""
        return self.folder.joinpath(*relative)


class Seen(NamedTuple):
    """What a file or folder looked like when it was last noted."""

    folder: bool
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    noted_ns: int
    md5: Md5 | None = None
    sent: bool = True

    def same(self, now: os.stat_result) -> bool:
        """Whether size, times and inode are what they were. Folders: whether it is the same folder."""
        if self.folder:
            return self.inode == now.st_ino
        return (self.size, self.mtime_ns, self.ctime_ns, self.inode) == (
            now.st_size,
            now.st_mtime_ns,
            now.st_ctime_ns,
            now.st_ino,
        )

    @property
    def racy(self) -> bool:
        """Whether it may have been changed again within the clock's granularity after it was noted."""
        return not self.folder and max(self.mtime_ns, self.ctime_ns) > self.noted_ns - RACY_NS


_ROOT = "id, folder, entity, device, inode, since_ns, options"
_SEEN = "kind, size, mtime_ns, ctime_ns, inode, noted_ns, md5, sent"


class Tracked:
    """The two tables."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # Tracked folders.

    def roots(self) -> list[Root]:
        """All of them, in the order in which they were tracked."""
        rows = self._store.read.execute(f"SELECT {_ROOT} FROM tracked ORDER BY id").fetchall()
        return [_root(row) for row in rows]

    def add(
        self, folder: Path, entity: EntityId, stat: os.stat_result, at_ns: int, options: Options
    ) -> Root:
        """Raises Exists when the folder is tracked already."""
        with self._store.write() as tx:
            spelled = os.fsencode(folder)
            found = tx.execute("SELECT entity FROM tracked WHERE folder = ?", (spelled,)).fetchone()
            if found is not None:
                raise Exists(
                    f"{folder} is tracked already, as {syn(found[0])}",
                    hint=f"`synd untrack {folder}` first, to track it as something else",
                    path=str(folder),
                )
            row = tx.execute(
                f"""INSERT INTO tracked (folder, entity, device, inode, since_ns, options)
                VALUES (?, ?, ?, ?, ?, ?) RETURNING {_ROOT}""",
                (
                    spelled,
                    entity,
                    _signed(stat.st_dev),
                    _signed(stat.st_ino),
                    at_ns,
                    json.dumps(asdict(options)),
                ),
            ).fetchone()
        return _root(row)

    def remove(self, root: int) -> None:
        """Forgets a tracked folder and all that was seen in it."""
        with self._store.write() as tx:
            tx.execute("DELETE FROM tracked WHERE id = ?", (root,))

    def set_device(self, root: int, device: int) -> None:
        """Device numbers of some file systems change with each mount."""
        with self._store.write() as tx:
            tx.execute("UPDATE tracked SET device = ? WHERE id = ?", (_signed(device), root))

    # What was seen.

    def find(self, root: int, path: RelPath) -> Seen | None:
        statement = f"""SELECT {_SEEN} FROM tracked_file
            WHERE root = ? AND folder = ? AND name = ?"""
        with translated(self._store.path):
            row = self._store.read.execute(statement, (root, *_key(path))).fetchone()
        return _seen(row) if row else None

    def children(self, root: int, folder: RelPath) -> dict[str, Seen]:
        """What was seen directly in a folder, by name."""
        statement = f"SELECT name, {_SEEN} FROM tracked_file WHERE root = ? AND folder = ?"
        with translated(self._store.path):
            rows = self._store.read.execute(statement, (root, _join(folder))).fetchall()
        return {os.fsdecode(row[0]): _seen(row[1:]) for row in rows}

    def below(self, root: int, folder: RelPath = ()) -> Iterator[tuple[RelPath, Seen]]:
        """All that was seen below a folder, folders before what they hold."""
        where, values = _below(folder)
        statement = f"""SELECT folder, name, {_SEEN} FROM tracked_file
            WHERE root = ? AND {where} ORDER BY folder, name"""
        with translated(self._store.path):
            rows = self._store.read.execute(statement, (root, *values)).fetchall()
        for row in rows:
            yield (*_split(row[0]), os.fsdecode(row[1])), _seen(row[2:])

    def count(self, root: int, folder: RelPath = ()) -> tuple[int, int]:
        """How many files and how many folders are known below a folder."""
        where, values = _below(folder)
        statement = f"""SELECT count(*) FILTER (WHERE kind = 'file'),
            count(*) FILTER (WHERE kind = 'folder') FROM tracked_file WHERE root = ? AND {where}"""
        with translated(self._store.path):
            files, folders = self._store.read.execute(statement, (root, *values)).fetchone()
        return files, folders

    def unsent(self, root: int) -> int:
        """How many files were seen in a state that has still to be told. Cost: all rows of the root."""
        statement = "SELECT count(*) FROM tracked_file WHERE root = ? AND sent = 0"
        with translated(self._store.path):
            return int(self._store.read.execute(statement, (root,)).fetchone()[0])

    def note(self, root: int, seen: Iterable[tuple[RelPath, Seen]]) -> None:
        """Records how things look now."""
        rows = [
            (
                root,
                *_key(path),
                "folder" if s.folder else "file",
                s.size,
                s.mtime_ns,
                s.ctime_ns,
                _signed(s.inode),
                s.noted_ns,
                s.md5,
                int(s.sent),
            )
            for path, s in seen
        ]
        with self._store.write() as tx:
            tx.executemany(
                f"""INSERT OR REPLACE INTO tracked_file (root, folder, name, {_SEEN})
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
                rows,
            )

    def move(self, root: int, old: RelPath, new: RelPath) -> None:
        """What was seen at `old`, and below, was at `new` all the time. What was seen there is forgotten."""
        prefix = _join(old)
        with self._store.write() as tx:
            self._forget(tx, root, new)
            tx.execute(
                """UPDATE tracked_file SET folder = ?, name = ?
                WHERE root = ? AND folder = ? AND name = ?""",
                (*_key(new), root, *_key(old)),
            )
            where, values = _below(old)
            # Concatenation makes text of blobs: cast back, or no later look-up finds them.
            tx.execute(
                f"""UPDATE tracked_file SET folder = CAST(? || substr(folder, ?) AS BLOB)
                WHERE root = ? AND {where}""",
                (_join(new), len(prefix) + 1, root, *values),
            )

    def forget(self, root: int, path: RelPath) -> None:
        """Nothing is known of `path` any more, nor of what was below it."""
        with self._store.write() as tx:
            self._forget(tx, root, path)

    def _forget(self, tx: sqlite3.Connection, root: int, path: RelPath) -> None:
        where, values = _below(path)
        tx.execute(f"DELETE FROM tracked_file WHERE root = ? AND {where}", (root, *values))
        if path:
            tx.execute(
                "DELETE FROM tracked_file WHERE root = ? AND folder = ? AND name = ?",
                (root, *_key(path)),
            )


def seen_of(stat: os.stat_result, *, folder: bool, noted_ns: int, sent: bool = True) -> Seen:
    """What `stat` says, without content."""
    size = 0 if folder else stat.st_size
    return Seen(
        folder,
        size,
        stat.st_mtime_ns,
        stat.st_ctime_ns,
        stat.st_ino,
        noted_ns,
        None,
        sent,
    )


def _below(folder: RelPath) -> tuple[str, tuple[bytes, ...]]:
    """What a row must meet to lie below `folder`, and the values. '0' is the byte after '/'."""
    if not folder:
        return "1", ()
    joined = _join(folder)
    return "(folder = ? OR folder >= ? AND folder < ?)", (joined, joined + b"/", joined + b"0")


def _join(path: RelPath) -> bytes:
    return b"/".join(os.fsencode(name) for name in path)


def _split(joined: bytes) -> RelPath:
    return tuple(os.fsdecode(joined).split("/")) if joined else ()


def _key(path: RelPath) -> tuple[bytes, bytes]:
    return _join(path[:-1]), os.fsencode(path[-1])


def _signed(number: int) -> int:
    """64 bits as SQLite holds them: device and inode numbers of some file systems use the highest."""
    return number - (1 << 64) if number >= 1 << 63 else number


def _unsigned(number: int) -> int:
    return number + (1 << 64) if number < 0 else number


def _root(row: tuple[Any, ...]) -> Root:
    id, folder, entity, device, inode, since_ns, options = row
    given = json.loads(options)
    given["ignore"] = tuple(given.get("ignore", ()))
    return Root(
        id,
        Path(os.fsdecode(folder)),
        EntityId(entity),
        _unsigned(device),
        _unsigned(inode),
        since_ns,
        Options(**given),
    )


def _seen(row: tuple[Any, ...]) -> Seen:
    kind, size, mtime_ns, ctime_ns, inode, noted_ns, md5, sent = row
    return Seen(
        kind == "folder",
        size,
        mtime_ns,
        ctime_ns,
        _unsigned(inode),
        noted_ns,
        None if md5 is None else Md5(md5),
        bool(sent),
    )
