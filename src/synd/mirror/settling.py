"""The end of an edit: bytes that the service has leave the staging folder and become a cache object.

Not at once: who saves again finds the file as it was, and a mapping may outlive the handle it was made from.
The kernel may know the file by its staging node for longer than the daemon lives; what it was is remembered.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from synd.cache.objects import ObjectStore
from synd.cache.staging import Staging
from synd.errors import SyndError
from synd.log import fields
from synd.mirror.overlay import FORMER, Overlay
from synd.model import Kind
from synd.store.local import Local

log = logging.getLogger(__name__)

SETTLE_S = 2.0
"""So long nobody has used a file when it becomes a cache object: who saves again at once finds it as it was."""

REMEMBERED = 100_000
"""Former staging files of which it is known what they were."""


class Settling:
    """One thread that settles rows in the order in which they were last used."""

    def __init__(
        self,
        overlay: Overlay,
        staging: Staging,
        objects: ObjectStore,
        *,
        is_open: Callable[[int], bool],
        let_go: Callable[[int], None],
        changed: Callable[[int], object],
        on_settled: Callable[[int, bytes], None],
    ) -> None:
        """Of staging files: `is_open` says whether somebody has one open, `let_go` ends what is known of its
        missing bytes, `changed` queues one that was written to. `on_settled`: a name leads to another node.
        """
        self._overlay = overlay
        self._locals = overlay.locals
        self._staging = staging
        self._objects = objects
        self._is_open = is_open
        self._let_go = let_go
        self._changed = changed
        self._on_settled = on_settled
        self._ending = threading.Event()
        self._used: dict[int, float] = {}
        """Staging file → monotonic time of its last use, while it may be about to settle."""
        self._queue: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._mapped: set[int] = set()
        """Rows that could not settle as somebody can still write to their bytes: they are not asked at once."""
        self._former: OrderedDict[int, int] = OrderedDict()
        """Former staging file → its row: the kernel may still know it by that node."""
        for name, value in overlay.store.read.execute(
            "SELECT name, value FROM meta WHERE name LIKE ? ORDER BY name", (f"{FORMER}%",)
        ):
            self._former[int(name.removeprefix(FORMER))] = int(value)
        self._thread = threading.Thread(target=self._loop, name="settle-edits", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The thread ends soon; `close` waits for that."""
        self._ending.set()
        self._queue.put(None)

    def close(self) -> None:
        self.end()
        self._thread.join(timeout=10.0)

    def former(self, staged: int) -> Local | None:
        """The row whose staging file this was, if that is remembered."""
        number = self._former.get(staged)
        return None if number is None else self._locals.find(number)

    def used(self, staged: int) -> None:
        """A staging file is used just now."""
        self._used[staged] = time.monotonic()

    def settle(self, number: int) -> bool:
        """Lets bytes that the service has become a cache object once nobody has used them for a moment;
        true when they may.
        """
        local = self._locals.find(number)
        if local is None or not local.staged:
            return False
        self.used(local.staged)
        self._queue.put(number)
        return True

    def _loop(self) -> None:
        while True:
            number = self._queue.get()
            if number is None:
                return
            local = self._locals.find(number)
            if local is None or not local.staged:
                continue
            used = self._used.get(local.staged, 0.0)
            behind = self._is_over(local) or self._is_behind(local)
            over = behind and number not in self._mapped
            while (
                not over
                and (left := used + SETTLE_S - time.monotonic()) > 0
                and not self._ending.wait(left)
            ):
                pass
            if self._ending.is_set():
                return
            if not behind and self._used.get(local.staged, 0.0) > used:
                continue  # it is in the queue again
            self._used.pop(local.staged, None)
            try:
                self.settle_now(number)
            except SyndError as error:
                log.info("edit.not_settled", extra=fields(local=number, why=error.message))

    def settle_now(self, number: int) -> bool:
        """Makes bytes that the service has a cache object, if nobody has them open; whether it did."""
        with self._overlay.lock:
            local = self._locals.find(number)
            if local is None or not local.staged or local.gone:
                return False
            entity = local.entity
            if local.edit != local.sent or entity is None:
                return False
            listed = self._overlay.entities.is_listed(entity)
            if listed and local.base_md5 is None:
                return False
            staged = local.staged
            if self._is_open(staged) or number in self._overlay.sending:
                return False
            if self._is_mapped(staged):
                self._mapped.add(number)
                self.settle(number)
                return False
            self._mapped.discard(number)
            stamp = self._staging.stamp(staged)
            if local.stamp and stamp.text() != local.stamp:
                # Written to since: the start-up scan's case.
                self._changed(staged)
                return False
            row = self._overlay.entities.find(entity)
            if listed and (row is None or row.version < local.base_version):
                return False
            # What is known of the bytes here is not true of those that the name leads to from now on.
            known = {"md5": None, "hashed": 0} if self._is_over(local) else {}
            with self._overlay.change() as tx:
                self._locals.update(
                    tx,
                    number,
                    **known,
                    staged=0,
                    lazy=0,
                    stamp="",
                    mtime_ns=stamp.mtime_ns,
                    mtime_for=local.base_version,
                )
                # The kernel may know it by that node for longer than this daemon lives.
                tx.execute(
                    "INSERT OR REPLACE INTO meta (name, value) VALUES (?, ?)",
                    (f"{FORMER}{staged}", str(number)),
                )
                while len(self._former) >= REMEMBERED:
                    oldest, _ = self._former.popitem(last=False)
                    tx.execute("DELETE FROM meta WHERE name = ?", (f"{FORMER}{oldest}",))
            self._former[staged] = number
            unchanged = local.md5 is None or local.edit == 0
            other = local.md5 != local.base_md5
            self._let_go(staged)
            if unchanged or other or local.base_md5 is None or stamp.size != local.base_size:
                self._staging.remove(staged)
            else:
                self._staging.as_object(staged, self._objects, local.base_md5, local.base_size)
        # What others did to it was not followed while its bytes were here.
        names = self._overlay.follow(entity, gone=not listed)
        now = self._locals.find(number) or local
        names += [(local.parent, local.name), (now.parent, now.name)]
        for folder, name in dict.fromkeys(names):
            self._on_settled(folder, name)
        return True

    def _is_over(self, local: Local) -> bool:
        """Whether the service made bytes of its own of a record set's rows: those are to be seen at once, however
        often the file is read meanwhile.
        """
        if local.md5 in (None, local.base_md5) or not local.edit == local.sent == local.hashed:
            return False
        row = None if local.entity is None else self._overlay.entities.find(local.entity)
        return row is not None and row.kind == Kind.RECORD_SET

    def _is_behind(self, local: Local) -> bool:
        """Whether others changed, moved or removed since what the service has of an edit: it is not followed before
        the edit has settled, and who reads the file again and again would never see it.
        """
        row = None if local.entity is None else self._overlay.entities.find(local.entity)
        if row is None or local.edit != local.sent:
            return False
        placed = (row.parent, row.name) == (local.base_parent, local.base_name)
        there = placed and self._overlay.entities.is_listed(row.id)
        return not there or row.version > local.base_version

    def _is_mapped(self, staged: int) -> bool:
        """Whether somebody can still write to it: a shared mapping outlives the handle it was made from."""
        fd = self._staging.open(staged, os.O_RDONLY)
        try:
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except BlockingIOError:
            return True
        except OSError:
            return False  # a disk without leases
        finally:
            os.close(fd)
        return False
