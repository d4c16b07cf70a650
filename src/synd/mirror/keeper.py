"""Storing small files after they were answered, on a thread that waits while others are busy.

Making a file costs a file system up to half a millisecond, more than all else about a small file. Nobody
needs to wait for it: the bytes are verified and in memory, and a cache may lose what it has not stored yet.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable

from synd.cache.objects import ObjectStore
from synd.errors import Busy, SyndError
from synd.ids import ContentKey

log = logging.getLogger(__name__)

MOST_BYTES = 64 << 20
"""So much may wait in memory; beyond, whoever has more stores it himself."""

PAUSE_S = 0.05
PATIENCE_S = 3.0
"""What waits longer than this is stored however busy the others are."""

Kept = Callable[[SyndError | None], None]


class Keeper:
    """One thread, started when there is work. Any thread may hand in."""

    def __init__(self, objects: ObjectStore, others_busy: Callable[[], bool]) -> None:
        """`others_busy`: whether small files are just being fetched; then storing waits a little."""
        self._objects = objects
        self._others_busy = others_busy
        self._changed = threading.Condition()
        self._queue: deque[tuple[ContentKey, bytes, Kept]] = deque()
        self._since = 0.0
        self._bytes = 0
        self._busy = False
        self._closed = False
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def keep(self, key: ContentKey, data: bytes, kept: Kept) -> None:
        """Stores the content soon; then calls `kept`, with what went wrong if anything did.

        At once, on the caller's thread, when too much waits already.
        """
        with self._changed:
            if not self._closed and self._bytes + len(data) <= MOST_BYTES:
                first = not self._queue
                if first:
                    self._since = time.monotonic()
                self._queue.append((key, data, kept))
                self._bytes += len(data)
                if self._thread is None:
                    self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)
                    self._thread.start()
                if first:
                    self._changed.notify()
                return
        self._store(key, data, kept)

    def _work(self) -> None:
        # No lower priority than others: this thread takes the interpreter often and briefly, and must not be
        # put aside by the scheduler while it has it. It waits for quiet instead.
        while True:
            with self._changed:
                self._busy = False
                self._changed.notify_all()
                self._changed.wait_for(lambda: self._queue or self._closed)
            while self._others_busy() and not self._pressed():
                # Not on the condition: every file handed in would wake it.
                if self._closing.wait(PAUSE_S):
                    break
            with self._changed:
                if not self._queue:
                    if self._closed:
                        return
                    continue
                key, data, kept = self._queue.popleft()
                self._busy = True
            self._store(key, data, kept)
            with self._changed:
                self._bytes -= len(data)

    def _pressed(self) -> bool:
        return self._bytes > MOST_BYTES // 2 or time.monotonic() - self._since > PATIENCE_S

    def _store(self, key: ContentKey, data: bytes, kept: Kept) -> None:
        error: SyndError | None = None
        try:
            self._objects.put_bytes(key, data)
        except SyndError as exception:
            # The reader has its bytes; only the next one will have to fetch them again.
            log.warning("object.not_kept", extra={"fields": {"key": key, "why": exception.message}})
            error = exception
        kept(error)

    def close(self, timeout_s: float) -> None:
        """Stores what waits, as far as the time allows, and ends the thread."""
        self._closing.set()
        with self._changed:
            self._changed.wait_for(lambda: not (self._queue or self._busy), timeout_s)
            self._closed = True
            left = list(self._queue)
            self._queue.clear()
            self._changed.notify_all()
        for _, _, kept in left:
            kept(Busy("the daemon is stopping"))
