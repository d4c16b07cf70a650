"""What stat shows: of an entity's row, of a local row, of both together."""

from __future__ import annotations

import os
import stat

from synd.model import CONTAINERS, Kind
from synd.store.entities import Row
from synd.store.local import Local, LocalKind
from syndd.mount.nodes import ENTITY_BASE, NodeKind, entity_node, pack
from syndd.mount.ops import Attr

KNOWN_TTL_S = 600.0
"""How long the kernel may believe a name or an attribute. Right because changes are told to it; and
shorter than `poll.ACTIVE_S`, so that whoever still uses a folder is heard of before it goes unpolled."""

DIR_MODE = stat.S_IFDIR | 0o755
OWN_DIR_MODE = stat.S_IFDIR | 0o555
"""Of folders that synd makes: nothing can be put there."""
FILE_MODE = stat.S_IFREG | 0o644
FIXED_MODE = stat.S_IFREG | 0o444
"""Of files that cannot be written: old versions, what synd makes, tables."""
LINK_MODE = stat.S_IFLNK | 0o777

CONTAINER_KINDS = frozenset(str(k) for k in CONTAINERS)
BYTES_KINDS = frozenset({str(Kind.FILE), str(Kind.RECORD_SET)})
_LINK = str(Kind.LINK)


def own_folder(node: int, ino: int, modified_ns: int) -> Attr:
    """A folder of synd's own."""
    # One link says "unknown" to programs that count subfolders by it.
    return Attr(
        node, ino or node, OWN_DIR_MODE, 0, modified_ns, modified_ns, 1, KNOWN_TTL_S, KNOWN_TTL_S
    )


def fixed_file(
    node: int, ino: int, size: int, modified_ns: int, *, ttl_s: float = KNOWN_TTL_S
) -> Attr:
    """A file that never changes."""
    return Attr(node, ino, FIXED_MODE, size, modified_ns, modified_ns, 1, ttl_s, ttl_s)


def of_row(row: Row) -> Attr:
    """From a row alone. A size that is not known is 0, and the kernel is told to ask again."""
    at = row.modified_ns
    if row.kind in CONTAINER_KINDS:
        return Attr(ENTITY_BASE | row.id, row.id, DIR_MODE, 0, at, at, 1, KNOWN_TTL_S, KNOWN_TTL_S)
    node = entity_node(row.id, row.version)
    if row.kind == _LINK:
        return Attr(node, row.id, LINK_MODE, 0, at, at, 1, KNOWN_TTL_S, KNOWN_TTL_S)
    if row.url is not None and row.size is None and row.detailed:
        size = len(f"[InternetShortcut]\nURL={row.url}\n".encode())
        return Attr(node, row.id, FIXED_MODE, size, at, at, 1, KNOWN_TTL_S, KNOWN_TTL_S)
    ttl_s = KNOWN_TTL_S if row.detailed or row.kind not in BYTES_KINDS else 0.0
    mode = FILE_MODE if row.kind in BYTES_KINDS else FIXED_MODE
    return Attr(node, row.id, mode, row.size or 0, at, at, 1, ttl_s, ttl_s)


def with_local(attr: Attr, local: Local, row: Row | None) -> Attr:
    """An entity's attributes with what only this machine keeps about it."""
    mtime = attr.mtime_ns
    if local.mtime_ns is not None and (
        row is None or local.is_folder or local.mtime_for == row.version
    ):
        mtime = local.mtime_ns
    return attr._replace(
        ino=local.key,
        mode=attr.mode if local.mode is None else stat.S_IFMT(attr.mode) | local.mode,
        mtime_ns=mtime,
        atime_ns=mtime if local.atime_ns is None else local.atime_ns,
        ctime_ns=max(attr.ctime_ns, local.ctime_ns),
        uid=-1 if local.uid is None else local.uid,
        gid=-1 if local.gid is None else local.gid,
        nlink=0 if local.gone else 1,
    )


def of_staged(local: Local, found: os.stat_result) -> Attr:
    """A file whose bytes are here: sizes and times are those of its staging file."""
    return Attr(
        pack(NodeKind.STAGED, local.staged),
        local.key,
        stat.S_IFREG | (0o644 if local.mode is None else local.mode),
        found.st_size,
        found.st_mtime_ns,
        max(local.ctime_ns, found.st_ctime_ns),
        0 if local.gone else 1,
        # The kernel itself writes to it where it can, and tells nobody.
        0.0,
        KNOWN_TTL_S,
        found.st_atime_ns,
        -1 if local.uid is None else local.uid,
        -1 if local.gid is None else local.gid,
        0,
        found.st_blocks,
    )


def of_local(local: Local) -> Attr:
    """What was made here and has no bytes: folder, symlink, special file."""
    mode, size = DIR_MODE if local.mode is None else stat.S_IFDIR | local.mode, 0
    node = ENTITY_BASE | local.key
    if local.kind == LocalKind.SYMLINK:
        mode, size = LINK_MODE, len(local.target or b"")
        node = pack(NodeKind.LOCAL, local.id)
    elif local.kind == LocalKind.SPECIAL:
        mode, node = local.mode or stat.S_IFIFO | 0o644, pack(NodeKind.LOCAL, local.id)
    mtime = local.ctime_ns if local.mtime_ns is None else local.mtime_ns
    return Attr(
        node, local.key, mode, size, mtime, local.ctime_ns, 0 if local.gone else 1,
        KNOWN_TTL_S, KNOWN_TTL_S,
        mtime if local.atime_ns is None else local.atime_ns,
        -1 if local.uid is None else local.uid,
        -1 if local.gid is None else local.gid,
        local.rdev,
    )  # fmt: skip
