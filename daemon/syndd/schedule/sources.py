"""The bytes of sources: their first ones, ranges of them, and all of them as an object of the cache.

What goes wrong on the way is told as the class of failure that a job has of it.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from concurrent.futures import Future

from synd.cache.folder import Cache
from synd.clock import Deadline
from synd.errors import Forbidden, IntegrityError, NotFound, NotLoggedIn, StageFailed, SyndError
from synd.ids import syn
from synd.jobs.failures import Failure, failure_of
from synd.mirror.streams import Streams
from synd.model import FileRef, FileVersion
from synd.model import Store as Location
from synd.ranges import FileSlice
from syndd.schedule.running import Run

ALIVE_S = 5.0
"""While the source is fetched the job says so often that it lives."""

WINDOW = 64 << 10
"""Ranges of a file that is looked through are asked for in pieces of this size."""

_HANDLES = itertools.count(1)
"""Of our own reads; those of the kernel are positive."""


class Sources:
    """Reads files of the service, from the cache where they lie there."""

    def __init__(self, streams: Streams, cache: Cache) -> None:
        self._streams = streams
        self._cache = cache

    async def head(self, file: FileVersion, size: int) -> bytes:
        """The first bytes of a file, from the cache or on their way into it."""
        fd = self._cache.open(file.key, file.size)
        if fd is None:
            # A range of a large file; the whole of a small one.
            return await asyncio.to_thread(_first_bytes, self._streams, file, size)
        return await asyncio.to_thread(_read_fd, fd, size)

    def ranges(self, file: FileVersion, head: bytes) -> Ranges:
        """Ranges of a file whose beginning is known."""
        return Ranges(self._streams, self._cache, file, head)

    async def whole(self, file: FileVersion) -> None:
        """Until the file is an object of the cache. Raises what reading it raises."""
        if not self._cache.has(file.key, file.size):
            await asyncio.wrap_future(self._streams.whole(file))

    async def address(self, file: FileVersion) -> str:
        """A URL that gives the file to whoever asks within the next seconds. Raises StageFailed."""
        try:
            return await asyncio.to_thread(_address, self._streams, file)
        except SyndError as error:
            raise StageFailed(
                error.message, failure=_failure(error), hint=error.hint, entity=error.entity
            ) from error

    async def fetch(self, file: FileVersion, run: Run) -> None:
        """The same, for a job: it says that it lives. Raises StageFailed."""
        if self._cache.has(file.key, file.size):
            return
        run.progress(0, file.size, stage="fetch")
        fetched = asyncio.wrap_future(self._streams.whole(file))
        try:
            while True:
                done, _ = await asyncio.wait({fetched}, timeout=ALIVE_S)
                if done:
                    break
                run.alive()
            await fetched
        except SyndError as error:
            raise StageFailed(
                error.message, failure=_failure(error), hint=error.hint, entity=error.entity
            ) from error
        finally:
            # Nobody waits for it any more.
            fetched.cancel()
        run.progress(file.size or 0, file.size, stage="fetch")


class Ranges:
    """Bytes of a file by place, each window asked for once. Blocks; for one thread at a time."""

    def __init__(self, streams: Streams, cache: Cache, file: FileVersion, head: bytes) -> None:
        self._streams = streams
        self._cache = cache
        self._file = file
        self._size = file.size or 0
        self._windows: dict[int, bytes] = {}
        for number in range(len(head) // WINDOW):
            self._windows[number] = head[number * WINDOW : (number + 1) * WINDOW]
        if len(head) == self._size:
            self._windows[len(head) // WINDOW] = head[len(head) // WINDOW * WINDOW :]

    def __call__(self, offset: int, n: int) -> bytes:
        """Up to `n` bytes from `offset` on; fewer at the end. Raises what a download raises."""
        end = min(offset + n, self._size)
        if offset >= end:
            return b""
        first = offset // WINDOW
        found = b"".join(self._window(one) for one in range(first, (end - 1) // WINDOW + 1))
        return found[offset - first * WINDOW : end - first * WINDOW]

    def _window(self, number: int) -> bytes:
        found = self._windows.get(number)
        if found is None:
            start = number * WINDOW
            found = self._windows[number] = self._read(start, min(start + WINDOW, self._size))
        return found

    def _read(self, start: int, end: int) -> bytes:
        fd = self._cache.open(self._file.key, self._file.size)
        if fd is not None:
            try:
                return os.pread(fd, end - start, start)
            finally:
                os.close(fd)
        data = bytearray(end - start)

        def keep(offset: int, piece: memoryview) -> None:
            data[offset - start : offset - start + len(piece)] = piece

        self._streams.fetch(self._file, start, end, keep)
        return bytes(data)


def _failure(error: SyndError) -> Failure:
    match error:
        case Forbidden() | NotLoggedIn():
            return Failure.SOURCE_FORBIDDEN
        case NotFound():
            return Failure.SOURCE_GONE
        case IntegrityError():
            return Failure.SOURCE_CHANGED
    found = failure_of(error)
    return found if found is Failure.NO_SPACE else Failure.SOURCE_UNAVAILABLE


def _first_bytes(streams: Streams, file: FileVersion, size: int) -> bytes:
    """A ranged read of a large file; a small one comes whole. Waits for the service."""
    handle = -next(_HANDLES)
    reader = streams.reader(file)
    try:
        got = reader.read(handle, 0, min(size, file.size or 0))
        if isinstance(got, Future):
            got = got.result()
        if isinstance(got, FileSlice):
            return os.pread(got.fd, got.size, got.offset)
        return bytes(got)
    finally:
        reader.close_handle(handle)


def _address(streams: Streams, file: FileVersion) -> str:
    """Waits for the service."""
    if file.store is Location.EXTERNAL and file.external_url is not None:
        return streams.links.url(file.external_url, fresh=False)
    if file.handle is None:
        raise NotFound("the file has no bytes that could be downloaded", entity=syn(file.entity))
    deadline = Deadline.after(streams.wait_s, "asking for a download URL")
    return streams.urls.get(FileRef(file.handle, file.entity), deadline)


def _read_fd(fd: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
