"""Tells the kernel what it may no longer believe: a queue of notices on a thread of its own.

A notice can block in the kernel on a lock that an unanswered request holds, so it is never written by
a thread that answers requests, and callers only queue it. Equal notices that wait are one. The queue is
bounded: past the bound the oldest notices give way to one that distrusts every cached name at once,
where the kernel has it (7.44), else they are dropped and counted; cached attributes then last until
their own time-out.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable

from synd.log import fields
from syndd.mount import wire

log = logging.getLogger(__name__)

BOUND = 65536
"""Waiting notices. A folder of a million entries that changed is one notice, not a million."""

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.EBUSY)
"""The kernel does not know the node or name (nothing to invalidate), or holds it in use."""


class Invalidator:
    """Meets `ops.Notices`. Lock order: its condition is a leaf and is never held over a write."""

    def __init__(
        self,
        fd: int,
        *,
        epochs: bool = False,
        bound: int = BOUND,
        doubt: Callable[[int | None], None] = lambda _: None,
    ) -> None:
        """`doubt` hears at once of each node whose pages or listing are out of date; None: all. INC_EPOCH leaves
        listings as they are.
        """
        self.epochs = epochs
        """The kernel understands INC_EPOCH. Settled before `start`."""
        self._doubt = doubt
        self.sent = 0
        self.ignored = 0
        """Notices about what the kernel had not cached."""
        self.failed = 0
        self.dropped = 0
        self._fd = fd
        self._bound = bound
        # A dict is a queue that keeps its order and knows its members. Values are the `data` of node
        # notices, which grows (attributes, then pages too) while one waits.
        self._waiting: dict[tuple[int, bytes | None, int | None], bool] = {}
        self._distrust_all = False
        self._busy = False
        self._closed = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="synd-notices", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def entry(self, parent: int, name: bytes, *, gone: int | None = None) -> None:
        self._queue((parent, name, gone), data=False)

    def node(self, node: int, *, data: bool) -> None:
        if data:
            self._doubt(node)
        self._queue((node, None, None), data=data)

    def _queue(self, key: tuple[int, bytes | None, int | None], *, data: bool) -> None:
        with self._wake:
            if self._closed:
                return
            waiting = self._waiting
            waiting[key] = data or waiting.get(key, False)
            if len(waiting) > self._bound:
                del waiting[next(iter(waiting))]
                self.dropped += 1
                self._distrust_all = True
            if not self._busy:
                self._wake.notify()

    def everything(self) -> None:
        """All that the kernel knows may be out of date: it asks again. Older kernels are not told of names."""
        self._doubt(None)
        with self._wake:
            self._distrust_all = self.epochs
            if not self._busy:
                self._wake.notify()

    def flush(self, timeout_s: float) -> bool:
        """Waits until everything queued so far is written; for tests and before a hand-over."""
        with self._wake:
            return self._wake.wait_for(
                lambda: self._closed or not (self._waiting or self._distrust_all or self._busy),
                timeout_s,
            )

    def waiting(self) -> int:
        return len(self._waiting)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the thread; notices that wait are dropped, since the mount is about to go."""
        with self._wake:
            self._closed = True
            self._waiting.clear()
            self._wake.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._wake:
                self._busy = False
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._waiting or self._distrust_all or self._closed)
                if self._closed:
                    return
                batch, self._waiting = self._waiting, {}
                distrust, self._distrust_all = self._distrust_all, False
                self._busy = True
            if distrust and self.epochs:
                self._write(wire.OUT_HEADER.pack(wire.OUT, wire.Notify.INC_EPOCH, 0))
            for (node, name, gone), data in batch.items():
                self._write(_message(node, name, gone, data=data))

    def _write(self, message: bytes) -> None:
        if self._closed:
            return
        try:
            os.write(self._fd, message)
        except OSError as error:
            if error.errno in _GONE:
                self.ignored += 1
            elif error.errno in (errno.ENODEV, errno.ENOTCONN, errno.EBADF):
                self._closed = True
            else:
                self.failed += 1
                log.warning("mount.notice_failed", extra=fields(error=error))
        else:
            self.sent += 1


def _message(node: int, name: bytes | None, gone: int | None, *, data: bool) -> bytes:
    if name is None:
        # A negative offset spares the pages and drops the attributes only.
        size = wire.INVAL_INODE.size
        return wire.INVAL_INODE.pack(size, wire.Notify.INVAL_INODE, 0, node, 0 if data else -1, 0)
    if gone is None:
        size = wire.INVAL_ENTRY.size + len(name) + 1
        return (
            wire.INVAL_ENTRY.pack(size, wire.Notify.INVAL_ENTRY, 0, node, len(name), 0)
            + name
            + b"\0"
        )
    size = wire.DELETE.size + len(name) + 1
    return wire.DELETE.pack(size, wire.Notify.DELETE, 0, node, gone, len(name), 0) + name + b"\0"
