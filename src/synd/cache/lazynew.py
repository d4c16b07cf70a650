"""A new lazy file on disk, of which nothing is here yet: the file with its map, or neither."""

from __future__ import annotations

import os
from contextlib import suppress

from synd.cache.lazymap import write_new
from synd.cache.staging import Staging
from synd.cache.statedisk import flush_folder
from synd.errors import Exists


def make_lazy(staging: Staging, number: int, base_size: int, boot: str) -> None:
    """The map first: a file without one counts as whole. Cost: three syncs. Raises Exists, OSError."""
    path, map_path = staging.path(number), staging.map_path(number)
    if path.exists():
        raise Exists(f"staging file {number:x} is there already")
    aside, map_aside = staging.aside(number), staging.aside(number)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        fd = staging.open_new(aside, flags)
        try:
            os.ftruncate(fd, base_size)
            staging.flush(fd)
        finally:
            os.close(fd)
        if base_size:
            fd = staging.open_new(map_aside, flags)
            try:
                write_new(fd, base_size, boot)
                staging.flush(fd)
            finally:
                os.close(fd)
            os.rename(map_aside, map_path)
            flush_folder(str(path.parent))
        os.rename(aside, path)
    except BaseException:
        for made in (aside, map_aside, map_path):
            with suppress(OSError):
                os.unlink(made)
        raise
