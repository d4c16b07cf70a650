"""Incremental md5 of content that is still arriving: one thread follows each file from its start.

It reads through the page cache, a mebibyte at a time, when bytes without a gap are there; hashlib
and preadv give the interpreter free meanwhile. So little is left to do when the last byte arrives.
A verified file is sealed here. After a restart a file is hashed from its start again.

Leaves to others: what happens after a mismatch (reset, fetch once more, then an error).
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Callable

from synd.cache.objects import digest_of_key
from synd.cache.partial import Partial
from synd.errors import IntegrityError, SyndError
from synd.ids import Md5
from synd.log import fields

log = logging.getLogger(__name__)

CHUNK = 1 << 20
INLINE_MAX = 8 << 20
"""Files up to here (about 12 ms) may as well be hashed by whoever wrote the last byte."""

NICE = 19

OnVerified = Callable[[bool], None]


class _Task:
    """One followed file: how far it is hashed, under which generation of its blocks."""

    __slots__ = ("at", "generation", "md5", "on_verified", "partial")

    def __init__(self, partial: Partial, on_verified: OnVerified) -> None:
        self.partial = partial
        self.on_verified = on_verified
        self.restart()

    def restart(self) -> None:
        self.generation = self.partial.generation
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.at = 0


class Hasher:
    """The hashing thread. Methods may be called from any thread; only `stop` waits for hashing."""

    def __init__(self, *, nice: int = NICE) -> None:
        self._nice = nice
        self._buffer = bytearray(CHUNK)
        # Guards what follows; never held while hashing or calling back.
        self._changed = threading.Condition()
        self._tasks: dict[Partial, _Task] = {}
        self._ready: dict[_Task, None] = {}
        """In the order in which they get their next chunk."""
        self._stopping = False
        self._thread: threading.Thread | None = None

    def follow(self, partial: Partial, on_verified: OnVerified) -> None:
        """Hashes the content as it arrives; seals it if the md5 is the key's.

        `on_verified` is called once, on the hashing thread: true after sealing, false after a
        mismatch or a read error. A file that is followed already keeps its progress and its caller.
        """
        with self._changed:
            if self._stopping or partial in self._tasks:
                return
            partial.retain()
            task = self._tasks[partial] = _Task(partial, on_verified)
            self._ready[task] = None
            partial.on_progress = lambda: self._wake(task)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="hasher", daemon=True)
                self._thread.start()
            self._changed.notify()

    def forget(self, partial: Partial) -> None:
        """Stops following it; nothing is called back. Call it before the last `close`."""
        self._pop(partial)

    def _pop(self, partial: Partial, ended: _Task | None = None) -> bool:
        """Whether it was followed; with `ended`, whether by that one, and not by one that came since."""
        with self._changed:
            task = self._tasks.get(partial)
            if task is None or (ended is not None and task is not ended):
                return False
            del self._tasks[partial]
            self._ready.pop(task, None)
            partial.on_progress = None
        partial.close()
        return True

    def lag_bytes(self, partial: Partial) -> int:
        """Bytes that are here without a gap but not hashed yet; 0 for a sealed file."""
        if partial.sealed:
            return 0
        task = self._tasks.get(partial)
        hashed = task.at if task is not None and task.generation == partial.generation else 0
        return max(0, partial.contiguous_prefix() - hashed)

    def stop(self) -> None:
        """Ends the thread, after the chunk it is at."""
        with self._changed:
            self._stopping = True
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        for partial in list(self._tasks):
            self.forget(partial)

    def _wake(self, task: _Task) -> None:
        with self._changed:
            if task.partial in self._tasks:
                self._ready[task] = None
                self._changed.notify()

    def _run(self) -> None:
        lower_priority(self._nice)
        while True:
            with self._changed:
                while not self._ready and not self._stopping:
                    self._changed.wait()
                if self._stopping:
                    return
                task = next(iter(self._ready))
                del self._ready[task]
                # Ours until this chunk is done, whatever `forget` does meanwhile.
                task.partial.retain()
            try:
                self._step(task)
            except Exception:
                log.exception("hasher.failed", extra=fields(key=task.partial.key))
                self._end(task, ok=False)
            finally:
                task.partial.close()

    def _step(self, task: _Task) -> None:
        partial = task.partial
        if partial.sealed:
            self._end(task, ok=True)
            return
        if task.generation != partial.generation:
            task.restart()
        prefix = partial.contiguous_prefix()
        if digest_of_key(partial.key) is None:
            task.at = prefix  # Nobody knows the md5 that it should have.
        elif task.at < prefix:
            chunk = memoryview(self._buffer)[: prefix - task.at]
            got = os.preadv(partial.fd, [chunk], task.at)
            task.md5.update(chunk[:got])
            if got == 0:
                raise EOFError(f"content {partial.key} ends at {task.at}")
            task.at += got
        if task.at < prefix or task.generation != partial.generation:
            self._wake(task)
        elif task.at == partial.size:
            self._finish(task)

    def _finish(self, task: _Task) -> None:
        partial = task.partial
        digest = Md5(task.md5.hexdigest()) if digest_of_key(partial.key) is not None else None
        ok = True
        try:
            partial.seal(digest)
        except IntegrityError as error:
            log.warning("content.mismatch", extra=fields(error=error))
            ok = False
        except SyndError as error:
            # The bytes are right, and readers of this partial get them; only the next daemon
            # will have to hash them again.
            log.warning("object.unsealed", extra=fields(key=partial.key, error=error))
        self._end(task, ok=ok)

    def _end(self, task: _Task, *, ok: bool) -> None:
        if not self._pop(task.partial, task):
            return
        try:
            task.on_verified(ok)
        except Exception:
            log.exception("hasher.callback", extra=fields(key=task.partial.key))


def lower_priority(nice: int) -> None:
    """Makes the calling thread yield to others; where that cannot be done it goes on as it is."""
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except (OSError, AttributeError):
        log.debug("hasher.priority", extra=fields(refused=nice))
