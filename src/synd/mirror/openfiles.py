"""Who has which staging file open, and the descriptors that their reads and writes use. Knows no rows."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import NamedTuple

from synd.cache.staging import Staging
from synd.errors import NotFound, Stale


class Open(NamedTuple):
    """One open file handle of a staging file."""

    handle: int
    writes: bool


class OpenFiles:
    """The open staging files of one daemon. Any thread; `_lock` is a leaf."""

    def __init__(self, staging: Staging) -> None:
        self._staging = staging
        self._lock = threading.Lock()
        self._open: dict[int, list[Open]] = {}
        self._fds: dict[int, int] = {}

    def close(self) -> None:
        with self._lock:
            for fd in self._fds.values():
                os.close(fd)
            self._fds.clear()

    def opened(self, staged: int, handle: int, *, writes: bool) -> None:
        with self._lock:
            self._open.setdefault(staged, []).append(Open(handle, writes))

    def released(self, staged: int, handle: int) -> bool:
        """Ends one handle; whether it was the last one."""
        with self._lock:
            left = [o for o in self._open.get(staged, ()) if o.handle != handle]
            if left:
                self._open[staged] = left
                return False
            self._open.pop(staged, None)
            fd = self._fds.pop(staged, None)
        if fd is not None:
            os.close(fd)
        return True

    def is_open(self, staged: int) -> bool:
        return staged in self._open

    def writers(self, staged: int) -> int:
        """Handles that may write to the file."""
        return sum(o.writes for o in self._open.get(staged, ()))

    def writing(self) -> list[int]:
        """Staging files that somebody may be writing to."""
        with self._lock:
            return [
                staged for staged, handles in self._open.items() if any(o.writes for o in handles)
            ]

    def fd(self, staged: int) -> int:
        """The descriptor that all handles of the file share, open until the last one ends. Raises Stale."""
        fd = self._fds.get(staged)
        if fd is None:
            fd = self.new_fd(staged)
            with self._lock:
                kept = self._fds.setdefault(staged, fd)
            if kept != fd:
                os.close(fd)
                fd = kept
        return fd

    def new_fd(self, staged: int) -> int:
        """A descriptor that the caller closes. Raises Stale."""
        try:
            return self._staging.open(staged)
        except NotFound as error:
            raise Stale("the file has become another one") from error

    @contextlib.contextmanager
    def lent(self, staged: int) -> Iterator[int]:
        """A descriptor for one step by somebody who need not have the file open: kept, it would be closed
        by nobody, or by another's last release while this step still uses its number.
        """
        fd = self.new_fd(staged)
        try:
            yield fd
        finally:
            os.close(fd)

    def stat(self, staged: int) -> os.stat_result:
        """Raises Stale."""
        try:
            with self._lock:
                # Nobody closes it meanwhile, or its number would soon be another file's.
                if (fd := self._fds.get(staged)) is not None:
                    return os.fstat(fd)
            return os.stat(self._staging.path(staged))
        except OSError as error:
            raise Stale("the file has become another one") from error
