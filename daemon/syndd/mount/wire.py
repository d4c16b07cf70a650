"""The kernel's FUSE protocol: numbers, flags and structures, and nothing that acts on them.

Source: include/uapi/linux/fuse.h, protocol 7.45 (Linux 6.18), little-endian machines' view: every
structure here is read and written in native order without padding, as the header lays its fields out
on 64-bit boundaries itself. Names are the header's without the FUSE_ prefix. A reply's header and body
are one `Struct` where the body has a fixed size, so that a reply is one `pack` and one `write`.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45
MINOR_LEAST: Final = 31
"""The oldest kernel protocol served (Linux 5.4): fixed-size INIT reply, max_pages, cached folders."""

ROOT_ID: Final = 1
UNKNOWN_INO: Final = 0xFFFF_FFFF
"""What libfuse puts into `d_ino` when it does not know better."""
NAME_MAX: Final = 255
XATTR_SIZE_MAX: Final = 65536
"""limits.h; the kernel allocates no more for a value or for a list of names."""
UNIQUE_RESEND: Final = 1 << 63
"""Set in `unique` of a request that was sent before (7.40)."""


class Op(IntEnum):
    """enum fuse_opcode."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


OPCODES: Final = 64
"""Size of a table indexed by opcode."""


class Notify(IntEnum):
    """enum fuse_notify_code: travels in the `error` field of a header whose `unique` is 0."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    DELETE = 6
    RESEND = 7
    INC_EPOCH = 8


class Init:
    """INIT flags (bits 0-31 in `flags`, 32-63 in `flags2`)."""

    ASYNC_READ: Final = 1 << 0
    POSIX_LOCKS: Final = 1 << 1
    ATOMIC_O_TRUNC: Final = 1 << 3
    EXPORT_SUPPORT: Final = 1 << 4
    BIG_WRITES: Final = 1 << 5
    DONT_MASK: Final = 1 << 6
    SPLICE_WRITE: Final = 1 << 7
    SPLICE_MOVE: Final = 1 << 8
    SPLICE_READ: Final = 1 << 9
    FLOCK_LOCKS: Final = 1 << 10
    AUTO_INVAL_DATA: Final = 1 << 12
    DO_READDIRPLUS: Final = 1 << 13
    READDIRPLUS_AUTO: Final = 1 << 14
    ASYNC_DIO: Final = 1 << 15
    WRITEBACK_CACHE: Final = 1 << 16
    PARALLEL_DIROPS: Final = 1 << 18
    HANDLE_KILLPRIV: Final = 1 << 19
    POSIX_ACL: Final = 1 << 20
    ABORT_ERROR: Final = 1 << 21
    MAX_PAGES: Final = 1 << 22
    CACHE_SYMLINKS: Final = 1 << 23
    EXPLICIT_INVAL_DATA: Final = 1 << 25
    HANDLE_KILLPRIV_V2: Final = 1 << 28
    SETXATTR_EXT: Final = 1 << 29
    INIT_EXT: Final = 1 << 30
    HAS_EXPIRE_ONLY: Final = 1 << 35
    DIRECT_IO_ALLOW_MMAP: Final = 1 << 36
    PASSTHROUGH: Final = 1 << 37
    NO_EXPORT_SUPPORT: Final = 1 << 38
    HAS_RESEND: Final = 1 << 39
    ALLOW_IDMAP: Final = 1 << 40
    OVER_IO_URING: Final = 1 << 41
    REQUEST_TIMEOUT: Final = 1 << 42


FOPEN_DIRECT_IO: Final = 1 << 0
FOPEN_KEEP_CACHE: Final = 1 << 1
FOPEN_CACHE_DIR: Final = 1 << 3
FOPEN_NOFLUSH: Final = 1 << 5
FOPEN_PASSTHROUGH: Final = 1 << 7

GETATTR_FH: Final = 1 << 0

FATTR_MODE: Final = 1 << 0
FATTR_UID: Final = 1 << 1
FATTR_GID: Final = 1 << 2
FATTR_SIZE: Final = 1 << 3
FATTR_ATIME: Final = 1 << 4
FATTR_MTIME: Final = 1 << 5
FATTR_FH: Final = 1 << 6
FATTR_ATIME_NOW: Final = 1 << 7
FATTR_MTIME_NOW: Final = 1 << 8
FATTR_NOW: Final = FATTR_ATIME_NOW | FATTR_MTIME_NOW
FATTR_KILL_SUIDGID: Final = 1 << 11
OPEN_KILL_SUIDGID: Final = 1 << 0
WRITE_KILL_SUIDGID: Final = 1 << 2

# ioctls of /dev/fuse: _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t).
DEV_IOC_BACKING_OPEN: Final = 0x4010_E501
DEV_IOC_BACKING_CLOSE: Final = 0x4004_E502
BACKING_MAP: Final = Struct("=iIQ")
"""struct fuse_backing_map: fd, flags, padding."""

IN_HEADER: Final = Struct("=IIQQIIIHH")
"""struct fuse_in_header: len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""
BODY: Final = IN_HEADER.size
CALLER: Final = Struct("=II")
"""Of the header: uid, gid."""
CALLER_AT: Final = 24
OUT_HEADER: Final = Struct("=IiQ")
"""struct fuse_out_header: len, error, unique."""
OUT: Final = OUT_HEADER.size

INIT_IN: Final = Struct("=IIIII")
"""struct fuse_init_in: major, minor, max_readahead, flags, flags2 (0 before 7.36, which sends 16 bytes)."""
INIT_IN_OLD: Final = Struct("=IIII")
INIT_REPLY: Final = Struct("=IiQIIIIHHIIHHIIH11H")
"""header; struct fuse_init_out: major, minor, max_readahead, flags, max_background,
congestion_threshold, max_write, time_gran, max_pages, map_alignment, flags2, max_stack_depth,
request_timeout, unused."""

_ENTRY_ATTR = "QQQQIIQQQqqqIIIIIIIIII"
"""struct fuse_entry_out: nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec;
struct fuse_attr: ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink,
uid, gid, rdev, blksize, flags. The header calls the seconds unsigned; the kernel reads them as signed,
which is how times before 1970 travel."""
ENTRY_REPLY: Final = Struct("=IiQ" + _ENTRY_ATTR)
ATTR_REPLY: Final = Struct("=IiQQIIQQQqqqIIIIIIIIII")
"""header; struct fuse_attr_out: attr_valid, attr_valid_nsec, dummy, struct fuse_attr."""
OPEN_REPLY: Final = Struct("=IiQQIi")
"""header; struct fuse_open_out: fh, open_flags, backing_id."""
OPEN_OUT: Final = Struct("=QIi")
CREATE_REPLY_SIZE: Final = ENTRY_REPLY.size + OPEN_OUT.size
"""header; struct fuse_entry_out; struct fuse_open_out."""
WRITE_REPLY: Final = Struct("=IiQII")
"""header; struct fuse_write_out: size, padding."""
STATFS_REPLY: Final = Struct("=IiQQQQQQIII28x")
"""header; struct fuse_kstatfs: blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, …"""
GETXATTR_REPLY: Final = Struct("=IiQII")
"""header; struct fuse_getxattr_out: size, padding."""

GETATTR_IN: Final = Struct("=IIQ")
OPEN_IN: Final = Struct("=II")
READ_IN: Final = Struct("=QQI")
"""struct fuse_read_in, its first fields: fh, offset, size. READDIR and READDIRPLUS use it too."""
RELEASE_IN: Final = Struct("=Q")
"""struct fuse_release_in, its first field: fh."""
FLUSH_IN: Final = Struct("=Q")
FSYNC_IN: Final = Struct("=Q")
WRITE_IN: Final = Struct("=QQII")
"""struct fuse_write_in, its first fields: fh, offset, size, write_flags."""
WRITE_DATA: Final = BODY + 40
"""The whole structure has lock_owner, flags and padding besides."""
FALLOCATE_IN: Final = Struct("=QQQI")
"""struct fuse_fallocate_in, its first fields: fh, offset, length, mode."""
SETATTR_IN: Final = Struct("=IIQQQqqqIIIIIIII")
"""struct fuse_setattr_in: valid, padding, fh, size, lock_owner, atime, mtime, ctime, atimensec,
mtimensec, ctimensec, mode, unused, uid, gid, unused."""
MKNOD_IN: Final = Struct("=IIII")
"""struct fuse_mknod_in: mode, rdev, umask, padding."""
MKDIR_IN: Final = Struct("=II")
"""struct fuse_mkdir_in: mode, umask."""
CREATE_IN: Final = Struct("=IIII")
"""struct fuse_create_in: flags, mode, umask, open_flags."""
LINK_IN: Final = Struct("=Q")
"""struct fuse_link_in: the node to link."""
RENAME_IN: Final = Struct("=Q")
RENAME2_IN: Final = Struct("=QII")
"""struct fuse_rename2_in: newdir, flags, padding."""
SETXATTR_IN: Final = Struct("=II")
"""struct fuse_setxattr_in without SETXATTR_EXT: size, flags."""
SETXATTR_EXT_SIZE: Final = 16
GETXATTR_IN: Final = Struct("=II")
GETXATTR_NAME: Final = BODY + GETXATTR_IN.size
ACCESS_IN: Final = Struct("=I")
FORGET_IN: Final = Struct("=Q")
BATCH_FORGET_IN: Final = Struct("=II")
FORGET_ONE: Final = Struct("=QQ")
INTERRUPT_IN: Final = Struct("=Q")

INVAL_INODE: Final = Struct("=IiQQqq")
"""header; struct fuse_notify_inval_inode_out: ino, off, len. A negative `off` spares the pages."""
INVAL_ENTRY: Final = Struct("=IiQQII")
"""header; struct fuse_notify_inval_entry_out: parent, namelen, flags; then the name and a NUL."""
DELETE: Final = Struct("=IiQQQII")
"""header; struct fuse_notify_delete_out: parent, child, namelen, padding; then the name and a NUL."""


def padded(length: int) -> int:
    """FUSE_DIRENT_ALIGN: `length` rounded up to 64 bits."""
    return (length + 7) & ~7


DIRENT_HEAD: Final = 24
DIRENTPLUS_HEAD: Final = 152

# One Struct per padded name length: the `s` code then copies the name and writes the padding's zeros,
# which makes an entry one pack_into instead of three slice assignments.
DIRENT: Final = tuple(Struct(f"=QQII{8 * n}s") for n in range(padded(NAME_MAX) // 8 + 1))
"""struct fuse_dirent by padded name length / 8: ino, off, namelen, type, name."""
DIRENTPLUS: Final = tuple(
    Struct(f"={_ENTRY_ATTR}QQII{8 * n}s") for n in range(padded(NAME_MAX) // 8 + 1)
)
"""struct fuse_direntplus by padded name length / 8: entry_out with its attr, then a dirent."""
