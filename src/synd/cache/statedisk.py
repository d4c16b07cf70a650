"""The disk of the state folder: its errors as ours, and the calls that `disk` does not have.

Unlike a cache, edits cannot do without their disk: what it refuses is told to whoever writes, with the
errno that a local file system would give.
"""

from __future__ import annotations

import ctypes
import errno
import os

from synd.cache.disk import COPY_CHUNK, GONE, NO_SPACE, write_at
from synd.errors import (
    CacheFull,
    Exists,
    NotFound,
    NotSupported,
    ReadOnly,
    StoreError,
    SyndError,
    UsageError,
)

KEEP_SIZE = 0x01
PUNCH_HOLE = 0x02
ZERO_RANGE = 0x10
"""Modes of `allocate`. linux/falloc.h"""

_NO_COPY = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS, errno.EPERM, errno.ENOTTY}
)
_libc = ctypes.CDLL(None, use_errno=True)


def disk_error(error: OSError, doing: str) -> SyndError:
    """What the disk of the state folder refused, with the errno that the writer should see."""
    why = error.strerror or str(error)
    if error.errno in NO_SPACE:
        return CacheFull(
            f"cannot {doing}: the disk of the state folder is full",
            hint="make room there; what was written before is not lost",
        )
    if error.errno == errno.EROFS:
        return ReadOnly(f"cannot {doing}: the disk of the state folder is read-only")
    if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        return NotSupported(f"cannot {doing}: the disk of the state folder does not do this")
    if error.errno in (errno.EINVAL, errno.EFBIG):
        return UsageError(f"cannot {doing}: {why}")
    if isinstance(error, GONE):
        return NotFound(f"cannot {doing}: it is gone")
    if isinstance(error, FileExistsError):
        return Exists(f"cannot {doing}: it is there already")
    return StoreError(f"cannot {doing}: {why}", hint="look at the disk of the state folder")


class disk_errors:  # noqa: N801 - used as a block
    """Turns OSErrors of the block into ours; `doing` completes "cannot …"."""

    __slots__ = ("_doing",)

    def __init__(self, doing: str) -> None:
        self._doing = doing

    def __enter__(self) -> None: ...

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise disk_error(error, self._doing) from error


def flush_folder(path: str) -> None:
    """Returns once the names in a folder outlive power loss. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def next_data(fd: int, at: int, size: int) -> tuple[int, int] | None:
    """The next (start, end) of a file that is no hole, from `at` on; None: only holes follow."""
    try:
        start = os.lseek(fd, at, os.SEEK_DATA)
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return None
        if error.errno != errno.EINVAL:
            raise
        return at, size


def copy_sparse(source: int, target: int, size: int) -> None:
    """Fills the empty file `target` with `size` bytes of `source`, holes as holes. Raises OSError.

    Ends early where `source` does. Moves the file offset of `source`.
    """
    os.ftruncate(target, size)
    at, in_kernel = 0, hasattr(os, "copy_file_range")
    while at < size and (data := next_data(source, at, size)) is not None:
        at, end = data
        while at < end:
            if in_kernel:
                try:
                    n = os.copy_file_range(source, target, min(end - at, 1 << 30), at, at)
                except OSError as error:
                    if error.errno not in _NO_COPY:
                        raise
                    in_kernel = False
                    continue
            else:
                chunk = os.pread(source, min(end - at, COPY_CHUNK), at)
                write_at(target, chunk, at)
                n = len(chunk)
            if n == 0:
                return
            at += n


def allocate(fd: int, mode: int, offset: int, size: int) -> None:
    """What fallocate(2) does. Raises OSError."""
    done = _libc.fallocate(
        ctypes.c_int(fd), ctypes.c_int(mode), ctypes.c_int64(offset), ctypes.c_int64(size)
    )
    if done != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
