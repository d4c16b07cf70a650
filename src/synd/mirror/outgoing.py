"""Bytes of a local change on their way: their md5, and the remote file handle that they become.

A handle counts only if the staging file was the same all the time; else it is thrown away.
"""

from __future__ import annotations

import asyncio
import mimetypes
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from synd.cache.staged import TICK_NS, Stamp
from synd.client.remote import Outgoing
from synd.clock import Deadline
from synd.digest import md5_of_fd
from synd.errors import IntegrityError, NotFound, Stale
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.mirror.checkpoints import checkpoint
from synd.mirror.plan import Upload
from synd.mirror.steps import Later, Tools
from synd.model import FileVersion
from synd.store.local import Local

LEAST_BYTES_PER_S = 50_000
"""The slowest line that an upload is given time for."""


class Bytes:
    """Hashes and uploads staging files."""

    def __init__(
        self,
        tools: Tools,
        hashers: Executor,
        *,
        delay_s: float,
        progress: Callable[[int, int, int], None],
    ) -> None:
        """`delay_s`: what is being written to waits so long. `progress`: row, bytes sent, bytes in all."""
        self._tools = tools
        self._hashers = hashers
        self._upload_delay_s = delay_s
        self._progress = progress

    async def digest(self, row: Local) -> None:
        """Records the md5 of a row's bytes."""
        if row.lazy:
            raise Later(5.0)
        stamp = self._stamp(row)
        while stamp.hides(time.time_ns()):
            await asyncio.sleep(TICK_NS / 1e9)
            stamp = self._stamp(row)
        if await self.has_changed(row, stamp):
            return
        checkpoint("push.before-hash")
        path = self._tools.staging.path(row.staged)
        loop = asyncio.get_running_loop()
        md5 = await loop.run_in_executor(self._hashers, _digest, path)
        if self._stamp(row) != stamp:
            raise Later(self._upload_delay_s)
        await self._tools.record(lambda tx: self._tools.records.hashed(tx, row, md5))
        checkpoint("push.after-hash")

    async def has_changed(self, row: Local, stamp: Stamp | None = None) -> bool:
        """Whether a file was written to without a close that we heard of: that is one more edit."""
        stamp = stamp or self._stamp(row)
        if not row.stamp or stamp.text() == row.stamp:
            return False
        await self._tools.record(
            lambda tx: self._tools.records.noticed(tx, row.id, stamp.size, stamp.text())
        )
        return True

    def _stamp(self, row: Local) -> Stamp:
        try:
            return self._tools.staging.stamp(row.staged)
        except NotFound as error:
            if self._is_same(row):
                raise IntegrityError(
                    "the bytes of this change are not on the disk any more",
                    hint="`synd discard` it",
                ) from error
            raise Later(0.0) from error

    def _is_same(self, row: Local) -> bool:
        now = self._tools.overlay.locals.find(row.id)
        return now is not None and (now.staged, now.edit) == (row.staged, row.edit)

    async def upload(self, row: Local, step: Upload) -> None:
        """Records the remote file handle of a row's bytes."""
        assert row.md5 is not None
        if await self.has_changed(row, self._stamp(row)):
            return
        content = Outgoing(
            self._tools.staging.path(row.staged), row.size, row.md5, step.name,
            content_type(step.name),
        )  # fmt: skip
        sent = 0

        def progress(more: int) -> None:
            nonlocal sent
            sent += more
            self._progress(row.id, sent, row.size)
            checkpoint("push.after-part")

        self._progress(row.id, 0, row.size)
        checkpoint("push.before-upload")
        try:
            handle = await self._tools.remote.upload(
                content,
                step.parent,
                progress=progress,
                deadline=Deadline.after(
                    600.0 + row.size / LEAST_BYTES_PER_S, f"sending {step.name}"
                ),
            )
        except NotFound:
            await self._tools.check_folder(step.parent)
            raise Stale(f"the folder of {step.name} changed meanwhile") from None
        except IntegrityError as error:
            if self.unchanged(row):
                raise
            raise Later(self._upload_delay_s) from error
        checkpoint("push.after-upload")
        if not self.unchanged(row):
            # The handle is thrown away: nobody can say what it holds.
            raise Later(self._upload_delay_s)
        attempt = (step.parent, step.name) if row.entity is None else None
        await self._tools.record(lambda tx: self._tools.records.uploaded(tx, row, handle, attempt))
        checkpoint("push.after-journal")

    def unchanged(self, row: Local) -> bool:
        """Whether the staging file is what was hashed."""
        try:
            stamp = self._tools.staging.stamp(row.staged)
        except NotFound:
            return False
        return stamp.size == row.size if not row.stamp else stamp.text() == row.stamp


def content_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def file_of(row: Local, name: str, entity: EntityId | None = None) -> FileVersion:
    """The bytes of a row as the service is told of them."""
    return FileVersion(
        entity or EntityId(0), Version(1), FileHandleId(row.handle or 0), row.md5, row.size,
        name=name, content_type=content_type(name),
    )  # fmt: skip


def _digest(path: Path) -> Md5:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"{path} is gone") from error
    try:
        return md5_of_fd(fd, stop=_go_on)
    finally:
        os.close(fd)


def _go_on() -> bool:
    """Between two pieces of a file: nothing stops it but a kill."""
    checkpoint("push.while-hashing")
    return False
