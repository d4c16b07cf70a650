"""Replies packed as the kernel reads them: pure, from values to bytes."""

from __future__ import annotations

from functools import lru_cache

from syndd.mount import wire
from syndd.mount.ops import Attr, StatFs

BLOCK = 4096
"""st_blksize."""
_NS = 1_000_000_000
_NO_ATTR = (0,) * 16


@lru_cache(maxsize=1024)
def split_ttl(seconds: float) -> tuple[int, int]:
    """A time-out as the protocol spells it: seconds and nanoseconds."""
    whole = int(seconds)
    return whole, int((seconds - whole) * _NS)


def no_entry(unique: int, ttl_s: float) -> bytes:
    """No such name, and for how long that may be remembered."""
    s, ns = split_ttl(ttl_s)
    return wire.ENTRY_REPLY.pack(wire.ENTRY_REPLY.size, 0, unique, 0, 0, s, 0, ns, 0, *_NO_ATTR)


def entry(unique: int, attr: Attr, own_uid: int, own_gid: int) -> bytes:
    """A name's node. `own_…` stand for those that `attr` leaves to the mount."""
    (
        node, ino, mode, size, mtime, ctime, nlink, attr_ttl, entry_ttl,
        atime, uid, gid, rdev, blocks,
    ) = attr  # fmt: skip
    attr_s, attr_ns = split_ttl(attr_ttl)
    entry_s, entry_ns = split_ttl(entry_ttl)
    mtime_s, mtime_ns = divmod(mtime, _NS)
    ctime_s, ctime_ns = divmod(ctime, _NS)
    atime_s, atime_ns = (mtime_s, mtime_ns) if atime == -1 else divmod(atime, _NS)
    return wire.ENTRY_REPLY.pack(
        144, 0, unique,
        node, 0, entry_s, attr_s, entry_ns, attr_ns,
        ino, size, (size + 511) >> 9 if blocks < 0 else blocks,
        atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        mode, nlink, own_uid if uid < 0 else uid, own_gid if gid < 0 else gid, rdev, BLOCK, 0,
    )  # fmt: skip


def attributes(unique: int, attr: Attr, own_uid: int, own_gid: int) -> bytes:
    """A node's attributes."""
    (
        _, ino, mode, size, mtime, ctime, nlink, attr_ttl, _,
        atime, uid, gid, rdev, blocks,
    ) = attr  # fmt: skip
    attr_s, attr_ns = split_ttl(attr_ttl)
    mtime_s, mtime_ns = divmod(mtime, _NS)
    ctime_s, ctime_ns = divmod(ctime, _NS)
    atime_s, atime_ns = (mtime_s, mtime_ns) if atime == -1 else divmod(atime, _NS)
    return wire.ATTR_REPLY.pack(
        120, 0, unique,
        attr_s, attr_ns, 0,
        ino, size, (size + 511) >> 9 if blocks < 0 else blocks,
        atime_s, mtime_s, ctime_s, atime_ns, mtime_ns, ctime_ns,
        mode, nlink, own_uid if uid < 0 else uid, own_gid if gid < 0 else gid, rdev, BLOCK, 0,
    )  # fmt: skip


def opened(unique: int, handle: int, flags: int, backing: int) -> bytes:
    """An open file or folder. `flags`: FOPEN_…"""
    return wire.OPEN_REPLY.pack(32, 0, unique, handle, flags, backing)


def created(
    unique: int, attr: Attr, own_uid: int, own_gid: int, handle: int, flags: int, backing: int
) -> bytes:
    """A name's node, and that it is open."""
    name = entry(unique, attr, own_uid, own_gid)[wire.OUT :]
    return (
        wire.OUT_HEADER.pack(wire.CREATE_REPLY_SIZE, 0, unique)
        + name
        + wire.OPEN_OUT.pack(handle, flags, backing)
    )


def written(unique: int, size: int) -> bytes:
    """How many bytes a write took."""
    return wire.WRITE_REPLY.pack(24, 0, unique, size, 0)


def statfs(unique: int, sizes: StatFs) -> bytes:
    block, blocks, free, files, files_free = sizes
    return wire.STATFS_REPLY.pack(
        wire.STATFS_REPLY.size, 0, unique,
        blocks, free, free, files, files_free, block, wire.NAME_MAX, block,
    )  # fmt: skip


def xattr_size(unique: int, size: int) -> bytes:
    """How much room an attribute's value, or the list of names, needs."""
    return wire.GETXATTR_REPLY.pack(wire.GETXATTR_REPLY.size, 0, unique, size, 0)
