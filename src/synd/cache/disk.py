"""The few file-system calls that the cache's parts share: write, clone or copy, make room, sync.

Foreign `OSError`s of writes are translated here: no room becomes `CacheFull`, anything else
`StoreError`. Reads translate nothing; a file that is not there is a miss, which callers decide.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from synd.errors import CacheFull, StoreError

T = TypeVar("T")

OnFull = Callable[[int], bool]
"""Asked to make room for so many bytes; true when trying once more makes sense. May block."""

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})
GONE = (FileNotFoundError, NotADirectoryError)
PAGE = 4096
COPY_CHUNK = 1 << 20

_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)
_CANNOT_CLONE = frozenset(
    {errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EPERM}
)


def never(_bytes: int) -> bool:
    """The `OnFull` of somebody who has nothing to give."""
    return False


def with_room(needed: int, on_full: OnFull, attempt: Callable[[], T]) -> T:
    """What `attempt` returns; it is tried once more if the disk was full and `on_full` made room.

    `attempt` must be repeatable. Raises CacheFull, or StoreError for any other failure to write.
    Holds no lock of the cache: `on_full` may evict, which takes them.
    """
    try:
        return attempt()
    except OSError as error:
        if error.errno not in NO_SPACE:
            raise _unwritable(error) from error
        if not on_full(needed):
            raise _full(needed) from error
    try:
        return attempt()
    except OSError as error:
        raise (_full(needed) if error.errno in NO_SPACE else _unwritable(error)) from error


def _full(needed: int) -> CacheFull:
    return CacheFull(
        f"the disk of the cache is full ({needed} bytes more were needed)",
        hint="free disk space, or unpin or close cached files",
    )


def _unwritable(error: OSError) -> StoreError:
    return StoreError(
        f"cannot write into the cache: {error.strerror}",
        hint="check the owner, the mode and the disk of the cache folder",
        path=error.filename if isinstance(error.filename, str) else None,
    )


def on_disk(size: int) -> int:
    """Bytes that a file of `size` takes, in whole pages: small ones would else count as nothing."""
    return -(-size // PAGE) * PAGE


def write_at(fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Writes all of `data`; one pwrite may write less, e.g. on a disk that is just filling up."""
    written = os.pwrite(fd, data, offset)
    view = memoryview(data)
    while written < len(view):
        written += os.pwrite(fd, view[written:], offset + written)


def clone(source: int, target: int) -> bool:
    """Makes `target` share all extents of `source`; false where the file systems cannot do that."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno not in _CANNOT_CLONE:
            raise
        return False
    return True


def copy(source: int, target: int) -> None:
    """Fills the empty file `target` with the bytes of `source`."""
    at = 0
    in_kernel = hasattr(os, "copy_file_range")
    while True:
        if in_kernel:
            try:
                n = os.copy_file_range(source, target, 1 << 30, at, at)
            except OSError as error:
                if error.errno not in _CANNOT_CLONE:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, COPY_CHUNK, at)
            write_at(target, data, at)
            n = len(data)
        if n == 0:
            return
        at += n


def can_clone(source: Path, target: Path) -> bool:
    """Whether files of one folder can share their extents with copies in the other."""
    try:
        if not target.is_dir() or source.stat().st_dev != target.stat().st_dev:
            return False
        with tempfile.TemporaryFile(dir=source) as one, tempfile.TemporaryFile(dir=target) as two:
            one.write(b"\0" * PAGE)
            one.flush()
            fcntl.ioctl(two.fileno(), _FICLONE, one.fileno())
    except OSError:
        return False
    return True


def sync_filesystem(folder: str) -> None:
    """Returns once all that was written to the file system of `folder` would survive power loss."""
    import ctypes

    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), folder)
    finally:
        os.close(fd)


def boot_id() -> str:
    """The kernel's name for this boot; empty where the system tells none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""
