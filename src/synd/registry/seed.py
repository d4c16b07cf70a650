"""Fills a registry's data folder: a local folder becomes a project, or a tree of any size is made up.

Works on the database itself, also while a server runs on the same folder: rows go in by short transactions
under an unlisted project, which gets its name and place in one last step. So nobody sees half a project, and a
seed that was killed leaves only rows that the next one removes.
"""

from __future__ import annotations

import itertools
import json
import mimetypes
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import md5
from pathlib import Path
from typing import Any

from synd.errors import Exists, NotDirectory, NotFound
from synd.ids import syn
from synd.paths import ENTITY_NAME
from synd.registry import access, entities, kinds
from synd.registry.blobs import BlobStore
from synd.registry.db import Database, default_token, new_etag, now_ns

_BATCH = 4000
"""Entities per transaction: some 100 ms, so that a running server never waits longer for its turn."""
_SMALL = 1 << 20
"""Files up to this size are hashed in one read."""
_UNLISTED = " seeding "
"""Start of the name of a project being filled; a space in front is no legal name, so none can clash."""
_STALE_S = 3600


@dataclass(slots=True)
class Report:
    """What an import did."""

    project: int = 0
    files: int = 0
    folders: int = 0
    links: int = 0
    bytes: int = 0
    linked: dict[str, int] = field(default_factory=dict)
    """How many files came in by which way: reflink, hardlink, copy, known."""
    renamed: list[tuple[str, str]] = field(default_factory=list)
    """(path in the folder, the name that Synapse allows)."""
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(path in the folder, why)."""

    def describe(self) -> dict[str, Any]:
        return {
            "project_id": syn(self.project),
            "files": self.files,
            "folders": self.folders,
            "links": self.links,
            "bytes": self.bytes,
            "linked": self.linked,
            "renamed": [{"path": path, "name": name} for path, name in self.renamed],
            "skipped": [{"path": path, "reason": why} for path, why in self.skipped],
        }


_NONE: set[str] = set()
_FORBIDDEN = re.compile(r"[^a-zA-Z0-9,_. \-+()']")


def allowed_name(name: str, taken: set[str]) -> str:
    """`name`, or the nearest one that Synapse accepts and no sibling in `taken` has."""
    wanted = name
    if ENTITY_NAME.fullmatch(name.strip()) is None or name != name.strip():
        wanted = _FORBIDDEN.sub("_", name).strip()[:256] or "_"
    if wanted not in taken:
        return wanted
    stem, dot, extension = wanted.rpartition(".")
    if not stem or len(extension) > 16:
        stem, dot, extension = wanted, "", ""
    n = 2
    while True:
        tail = f" ({n}){dot}{extension}"
        candidate = stem[: 256 - len(tail)] + tail
        if candidate not in taken:
            return candidate
        n += 1


class _Ids:
    """Numbers for new rows, reserved inside the transaction that uses them."""

    def __init__(self, tx: sqlite3.Connection, table: str) -> None:
        row = tx.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
        self._next = int(row[0])

    def take(self) -> int:
        self._next += 1
        return self._next


_INSERT_ENTITY = (
    "INSERT INTO entity (id, parent_id, name, kind, etag, created_ns, created_by, modified_ns,"
    " modified_by, current_version, max_version, size) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 1, ?)"
)
_INSERT_VERSION = (
    "INSERT INTO entity_version (entity_id, number, label, modified_ns, modified_by, handle_id, props)"
    " VALUES (?, 1, '1', ?, ?, ?, ?)"
)
_INSERT_HANDLE = (
    "INSERT INTO file_handle (id, type, md5, size, name, content_type, location_id, created_by,"
    " created_ns, etag) VALUES (?, 'S3FileHandle', ?, ?, ?, ?, 1, ?, ?, ?)"
)


@dataclass(slots=True)
class _File:
    path: str
    parent: int
    name: str
    size: int = 0
    digest: str = ""
    way: str = ""
    problem: str = ""


@dataclass(slots=True)
class _Link:
    path: str
    parent: int
    name: str


class _Writer:
    """Rows of one import, in batches."""

    def __init__(self, db: Database, owner: int) -> None:
        self.db = db
        self.owner = owner

    def folders(self, rows: list[tuple[int, str]]) -> list[int]:
        """The ids of new folders, for (parent, name)."""
        now = now_ns()
        with self.db.write() as tx:
            numbers = _Ids(tx, "entity")
            made = [(numbers.take(), parent, name) for parent, name in rows]
            tx.executemany(
                _INSERT_ENTITY,
                [
                    (n, parent, name, "folder", etag, now, self.owner, now, self.owner, 0)
                    for (n, parent, name), etag in zip(made, _etags(len(made)), strict=True)
                ],
            )
            tx.executemany(_INSERT_VERSION, [(n, now, self.owner, None, None) for n, _, _ in made])
        return [n for n, _, _ in made]

    def files(self, batch: list[_File]) -> list[int]:
        now = now_ns()
        with self.db.write() as tx:
            numbers, handle_numbers = _Ids(tx, "entity"), _Ids(tx, "file_handle")
            entity_rows, version_rows, handle_rows, ids = [], [], [], []
            etags = _etags(2 * len(batch))
            for i, one in enumerate(batch):
                n, handle = numbers.take(), handle_numbers.take()
                ids.append(n)
                entity_rows.append(
                    (n, one.parent, one.name, "file", etags[2 * i], now, self.owner, now,
                     self.owner, one.size)
                )  # fmt: skip
                version_rows.append((n, now, self.owner, handle, None))
                handle_rows.append(
                    (handle, one.digest, one.size, one.name, _content_type(one.name), self.owner,
                     now, etags[2 * i + 1])
                )  # fmt: skip
            tx.executemany(_INSERT_HANDLE, handle_rows)
            tx.executemany(_INSERT_ENTITY, entity_rows)
            tx.executemany(_INSERT_VERSION, version_rows)
        return ids

    def links(self, rows: list[tuple[int, str, int, str]]) -> None:
        """Link entities for (parent, name, target, kind of the target)."""
        now = now_ns()
        with self.db.write() as tx:
            numbers = _Ids(tx, "entity")
            for parent, name, target, kind in rows:
                n = numbers.take()
                props = {
                    "linksTo": {"targetId": syn(target), "targetVersionNumber": None},
                    "linksToClassName": kinds.BY_NAME[kind].concrete,
                }
                tx.execute(
                    _INSERT_ENTITY,
                    (
                        n,
                        parent,
                        name,
                        "link",
                        new_etag(),
                        now,
                        self.owner,
                        now,
                        self.owner,
                        0,
                    ),
                )
                tx.execute(_INSERT_VERSION, (n, now, self.owner, None, json.dumps(props)))


@lru_cache(maxsize=1024)
def _type_of(extension: str) -> str:
    return mimetypes.guess_type(f"x.{extension}")[0] or "application/octet-stream"


def _content_type(name: str) -> str:
    return _type_of(name.rpartition(".")[2])


def _etags(n: int) -> list[str]:
    """Random UUIDs as text, some times faster than `uuid` makes them one by one."""
    text = os.urandom(16 * n).hex()
    return [
        f"{text[i : i + 8]}-{text[i + 8 : i + 12]}-4{text[i + 13 : i + 16]}-a{text[i + 17 : i + 20]}"
        f"-{text[i + 20 : i + 32]}"
        for i in range(0, 32 * n, 32)
    ]


def _new_project(db: Database, owner: int) -> int:
    """An unlisted project: nobody but the seed knows it until `_publish`."""
    _remove_stale(db)
    now = now_ns()
    with db.write() as tx:
        n = _Ids(tx, "entity").take()
        tx.execute(
            _INSERT_ENTITY,
            (n, kinds.TRASH, f"{_UNLISTED}{os.getpid()} {n}", "project", new_etag(), now, owner, now,
             owner, 0),
        )  # fmt: skip
        tx.execute(_INSERT_VERSION, (n, now, owner, None, None))
    return n


def _remove_stale(db: Database) -> None:
    """Purges what killed seeds left."""
    from synd.registry.access import Caller
    from synd.registry.routes.trash import purge

    for n, created_ns, owner in db.all(
        "SELECT id, created_ns, created_by FROM entity WHERE parent_id = ? AND substr(name, 1, ?) = ?",
        (kinds.TRASH, len(_UNLISTED), _UNLISTED),
    ):
        if created_ns < now_ns() - _STALE_S * 1_000_000_000:
            with db.write() as tx:
                tx.execute("UPDATE entity SET trashed_by = ? WHERE id = ?", (owner, n))
            purge(db, Caller(owner, "seed", frozenset()), n)


def _publish(db: Database, project: int, name: str, owner: int, replace: bool) -> None:
    """Puts a filled project in its place. Raises Exists when the name is taken and `replace` is not set;
    with it, the project of that name goes to the trash in the same step.
    """
    with db.write() as tx:
        old = _named(db, name)
        if old is not None:
            if not replace:
                raise _exists(name, old)
            entities.to_trash(tx, entities.get(db, old), owner)
        now = now_ns()
        tx.execute(
            "UPDATE entity SET parent_id = ?, name = ?, modified_ns = ?, etag = ? WHERE id = ?",
            (kinds.ROOT, name, now, new_etag(), project),
        )
        tx.execute("UPDATE entity_version SET modified_ns = ? WHERE entity_id = ?", (now, project))
        access.set_acl(tx, project, {owner: access.OWNER})


def _named(db: Database, name: str) -> int | None:
    row = db.one("SELECT id FROM entity WHERE parent_id = ? AND name = ?", (kinds.ROOT, name))
    return None if row is None else int(row[0])


def _exists(name: str, project: int) -> Exists:
    return Exists(
        f"there is a project named {name!r} already ({syn(project)})",
        hint="choose another --project, or --replace moves the old one to the trash",
        entity=syn(project),
    )


class _Digests:
    """Hashes files and links them into the blob store, a few at a time."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs
        self._lock = threading.Lock()

    def take(self, one: _File) -> _File:
        try:
            fd = os.open(one.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                one.size, one.digest = _hash(fd)
            finally:
                os.close(fd)
            one.way = self._blobs.link(one.path, one.digest)
        except OSError as error:
            one.problem = error.strerror or str(error)
        return one


def _hash(fd: int) -> tuple[int, str]:
    """(size, md5) of an open file."""
    data = os.read(fd, _SMALL)
    if len(data) < _SMALL:
        return len(data), md5(data, usedforsecurity=False).hexdigest()
    hasher = md5(data, usedforsecurity=False)
    size = len(data)
    while data := os.read(fd, 4 << 20):
        hasher.update(data)
        size += len(data)
    return size, hasher.hexdigest()


class _Import:
    """One folder on its way into a project."""

    def __init__(self, db: Database, blobs: BlobStore, root: str, owner: int) -> None:
        self.root = root
        self.report = Report()
        self.writer = _Writer(db, owner)
        self.digests = _Digests(blobs)
        self.pending: list[_File] = []
        self.links: list[_Link] = []
        self.by_path: dict[str, tuple[int, str]] = {}
        """Real path → (entity, kind); filled only when the folder holds symlinks."""
        self.has_links = False

    def _shown(self, path: str) -> str:
        """A path as a report tells it: relative, and printable whatever bytes the name holds."""
        return os.path.relpath(path, self.root).encode(errors="backslashreplace").decode()

    def run(self, project: int, pool: ThreadPoolExecutor) -> None:
        self.by_path[self.root] = (project, "project")
        level = [(self.root, project)]
        # As the registry counts: the root, the project, and what is below.
        for depth in itertools.count(2):
            if not level:
                break
            folders: list[tuple[str, int, str]] = []
            for path, entity in level:
                folders += self._scan(path, entity, too_deep=depth >= access.MAX_DEPTH)
                if len(self.pending) >= _BATCH:
                    self._flush(pool, _BATCH)
            level = []
            for at in range(0, len(folders), _BATCH):
                chunk = folders[at : at + _BATCH]
                ids = self.writer.folders([(parent, name) for _, parent, name in chunk])
                for (path, _, _), n in zip(chunk, ids, strict=True):
                    self.by_path[path] = (n, "folder")
                    level.append((path, n))
                self.report.folders += len(ids)
        self._flush(pool, 1)
        self._write_links()

    def _scan(self, path: str, entity: int, *, too_deep: bool) -> list[tuple[str, int, str]]:
        """Sub-folders as (path, parent, name); files and symlinks are set aside."""
        folders = []
        taken: set[str] = set()
        with os.scandir(path) as entries:
            # What may keep its name does, whoever else would be mapped to it.
            for entry in sorted(
                entries, key=lambda e: (allowed_name(e.name, _NONE) != e.name, e.name)
            ):
                shown = self._shown(entry.path)
                if too_deep:
                    why = f"more than {access.MAX_DEPTH} levels deep, as Synapse counts"
                    self.report.skipped.append((shown, why))
                    continue
                name = allowed_name(entry.name, taken)
                if entry.is_symlink():
                    self.links.append(_Link(entry.path, entity, name))
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, entity, name))
                elif entry.is_file(follow_symlinks=False):
                    self.pending.append(_File(entry.path, entity, name))
                else:
                    self.report.skipped.append((shown, "not a file, folder or symlink"))
                    continue
                taken.add(name)
                if name != entry.name:
                    self.report.renamed.append((shown, name))
        return folders

    def _flush(self, pool: ThreadPoolExecutor, least: int) -> None:
        """Hashes and writes what is pending, as long as there are `least` files."""
        while len(self.pending) >= least and self.pending:
            batch, self.pending = self.pending[:_BATCH], self.pending[_BATCH:]
            done = []
            for one in pool.map(self.digests.take, batch, chunksize=64):
                if one.problem:
                    self.report.skipped.append((self._shown(one.path), one.problem))
                    continue
                done.append(one)
                self.report.linked[one.way] = self.report.linked.get(one.way, 0) + 1
                self.report.bytes += one.size
            for one, n in zip(done, self.writer.files(done), strict=True):
                self.by_path[one.path] = (n, "file")
            self.report.files += len(done)

    def _write_links(self) -> None:
        rows = []
        for link in self.links:
            shown = self._shown(link.path)
            target = self.by_path.get(os.path.realpath(link.path))
            if target is None:
                self.report.skipped.append((shown, "symlink to something outside the folder"))
                continue
            rows.append((link.parent, link.name, *target))
        for at in range(0, len(rows), _BATCH):
            self.writer.links(rows[at : at + _BATCH])
        self.report.links = len(rows)


def import_folder(
    data: Path, folder: Path, project: str, *, replace: bool = False, workers: int = 4
) -> Report:
    """Imports a local folder as a project named `project`, linking the bytes.

    Where the file system shares extents (reflink) the copies are independent; else they are hard links, and
    the source files must not be edited in place afterwards (replacing them is fine). Names that Synapse
    refuses are mapped and reported; symlinks within the folder become Link entities, others are skipped and
    reported. Raises Exists (unless `replace`: then the old project goes to the trash), NotFound,
    NotDirectory. Cost: one read of every byte.
    """
    root = os.path.realpath(folder)
    if not os.path.exists(root):
        raise NotFound(f"{folder} does not exist", path=str(folder))
    if not os.path.isdir(root):
        raise NotDirectory(f"{folder} is not a folder", path=str(folder))
    name = entities.check_name(project)
    db = Database(data / "registry.db")
    try:
        blobs = BlobStore(data)
        default_token(db, data)
        owner = kinds.FIRST_USER
        if not replace and (old := _named(db, name)) is not None:
            raise _exists(name, old)
        number = _new_project(db, owner)
        work = _Import(db, blobs, root, owner)
        work.report.project = number
        with ThreadPoolExecutor(workers, thread_name_prefix="seed") as pool:
            work.run(number, pool)
        _publish(db, number, name, owner, replace)
        return work.report
    finally:
        db.close()


def synthetic(
    db: Database,
    n_entities: int,
    *,
    name: str = "Synthetic",
    per_folder: int = 100,
    size: int = 4096,
    digest: str | None = None,
    owner: int = kinds.FIRST_USER,
) -> int:
    """The id of a new project with `n_entities` entities below it, made in the database alone.

    Folders ``d0000000 …`` stand in a tree of at most `per_folder` folders each, and hold `per_folder` files
    ``f0000000.bin …``. All files have `size` bytes and the md5 `digest`; without one, each has an md5 of its
    own that no blob has (their bytes answer 404). With `per_folder` ≥ `n_entities` all files stand in the
    project itself. Raises Exists. Cost: some 20 µs per entity.
    """
    if (old := _named(db, name)) is not None:
        raise _exists(name, old)
    project = _new_project(db, owner)
    writer = _Writer(db, owner)
    if per_folder >= n_entities:
        parents = [project]
        n_files = n_entities
    else:
        n_folders = max(1, n_entities // (per_folder + 1))
        n_files = n_entities - n_folders
        parents = []
        level = [project]
        while len(parents) < n_folders:
            rows = [
                (parent, f"d{len(parents) + i:07d}")
                for i, parent in enumerate(_repeat(level, per_folder, n_folders - len(parents)))
            ]
            level = []
            for at in range(0, len(rows), _BATCH):
                level += writer.folders(rows[at : at + _BATCH])
            parents += level
    batch: list[_File] = []
    for i in range(n_files):
        own = digest or f"{i:032x}"
        batch.append(
            _File("", parents[i * len(parents) // n_files], f"f{i:07d}.bin", size=size, digest=own)
        )
        if len(batch) == _BATCH:
            writer.files(batch)
            batch = []
    if batch:
        writer.files(batch)
    _publish(db, project, name, owner, False)
    return project


def _repeat(level: list[int], each: int, most: int) -> Iterator[int]:
    left = most
    for parent in level:
        for _ in range(each):
            if left == 0:
                return
            left -= 1
            yield parent
