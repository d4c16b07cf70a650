"""Streaming digests of files and streams."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable

from synd.ids import Md5

CHUNK = 1 << 20


def md5_of_bytes(data: bytes | bytearray | memoryview) -> Md5:
    return Md5(hashlib.md5(data, usedforsecurity=False).hexdigest())


def md5_of_fd(fd: int, *, stop: Callable[[], bool] | None = None) -> Md5:
    """The md5 of all bytes of an open file, from its start. Cost: one whole read.

    `stop` is asked between chunks; when it says so, the digest so far is returned and means nothing.
    """
    hasher = hashlib.md5(usedforsecurity=False)
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    at = 0
    while n := os.preadv(fd, [buffer], at):
        hasher.update(view[:n])
        at += n
        if stop is not None and stop():
            break
    return Md5(hasher.hexdigest())


def md5_of_file(path: str | os.PathLike[str]) -> Md5:
    """The md5 of a file's bytes. Cost: one whole read."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return md5_of_fd(fd)
    finally:
        os.close(fd)
