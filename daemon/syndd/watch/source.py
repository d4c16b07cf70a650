"""inotify → raw events, by watchdog's reader of it; an overflow is told as such, and means: scan again.

Leaves to others which path a watch means by now (`live`) and what an event means. watchdog's own observer is not
used: it tells neither a lost event nor a folder it could not watch, and takes half a second to tell a move.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, Protocol

from synd.log import fields

log = logging.getLogger(__name__)

BOUND = 1 << 18
"""Raw events that may wait: about 50 MB. More than that is an overflow, as the kernel's own bound is."""

_LIMITS = Path("/proc/sys/fs/inotify")


class Kind(StrEnum):
    """What the kernel told."""

    CREATED = "created"
    MODIFIED = "modified"
    CLOSED = "closed"
    """After writing."""
    DELETED = "deleted"
    MOVED_FROM = "moved-from"
    MOVED_TO = "moved-to"
    GONE = "gone"
    """The watched folder itself was deleted, moved or unmounted."""
    ENDED = "ended"
    """The watch is no more; its number is never used again."""
    OVERFLOW = "overflow"
    """Events were lost: scan again."""


class Raw(NamedTuple):
    """One event of one watched folder."""

    kind: Kind
    watch: int = -1
    name: str = ""
    """In the watched folder; empty for the folder itself."""
    folder: bool = False
    cookie: int = 0
    """The same in both halves of a move."""


class Refusal(StrEnum):
    """Why a folder is not watched."""

    GONE = "gone"
    FORBIDDEN = "forbidden"
    WATCHES = "watches"
    """The user's inotify watches are used up."""
    INSTANCES = "instances"
    """The user's inotify instances, or the process's descriptors, are used up."""


LIMITS = frozenset({Refusal.WATCHES, Refusal.INSTANCES})

Post = Callable[[Raw], None]


class Source(Protocol):
    """Tells what happens directly in watched folders, in order, on a thread of its own."""

    def watch(self, folder: Path) -> int | Refusal:
        """The watch's number; the same one again for a folder that is watched already."""
        ...

    def unwatch(self, watch: int) -> None:
        """Ends a watch; one that has ended by itself is no failure."""
        ...

    def alive(self) -> bool:
        """False once events may be lost because the reader died: all must be watched anew."""
        ...

    def sync(self, timeout_s: float) -> bool:
        """Waits until all that has happened so far is posted. False when the time passed first."""
        ...

    def close(self) -> None: ...


class InotifySource:
    """The kernel's inotify. The instance is opened by the first watch."""

    def __init__(self, post: Post) -> None:
        """`post` is called on the reader's thread; it must not block and must not raise."""
        self._post = post
        self._lock = threading.Lock()
        self._reader: _Reader | None = None

    def watch(self, folder: Path) -> int | Refusal:
        with self._lock:
            if self._reader is None or not self._reader.alive():
                try:
                    self._reader = _Reader(self._post)
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                        raise
                    return Refusal.INSTANCES
            return self._reader.watch(os.fsencode(folder))

    def unwatch(self, watch: int) -> None:
        with self._lock:
            if self._reader is not None:
                self._reader.unwatch(watch)

    def alive(self) -> bool:
        with self._lock:
            return self._reader is None or self._reader.alive()

    def sync(self, timeout_s: float) -> bool:
        with self._lock:
            reader = self._reader
        return reader is None or reader.sync(timeout_s)

    def close(self) -> None:
        with self._lock:
            reader, self._reader = self._reader, None
        if reader is not None:
            reader.close()


class _Reader:
    """One inotify instance with watchdog's thread that reads it; meets its `WatchCallback`."""

    def __init__(self, post: Post) -> None:
        # Loaded when the first folder is tracked: most daemons never track one.
        from watchdog.observers.inotify_c import CallbackId, InotifyConstants, InotifyFD, Mask

        c = InotifyConstants
        self._mask = Mask(
            c.IN_CREATE
            | c.IN_MODIFY
            | c.IN_CLOSE_WRITE
            | c.IN_MOVED_FROM
            | c.IN_MOVED_TO
            | c.IN_DELETE
            | c.IN_DELETE_SELF
            | c.IN_MOVE_SELF
            | c.IN_ONLYDIR
            | c.IN_DONT_FOLLOW
            | c.IN_EXCL_UNLINK
        )
        self._kinds = (
            (c.IN_CREATE, Kind.CREATED),
            (c.IN_MODIFY, Kind.MODIFIED),
            (c.IN_CLOSE_WRITE, Kind.CLOSED),
            (c.IN_DELETE, Kind.DELETED),
            (c.IN_MOVED_FROM, Kind.MOVED_FROM),
            (c.IN_MOVED_TO, Kind.MOVED_TO),
            (c.IN_DELETE_SELF | c.IN_MOVE_SELF | c.IN_UNMOUNT, Kind.GONE),
        )
        self._is_folder = c.IN_ISDIR
        self._post = post
        self._id = CallbackId(id(self))
        self._fd = InotifyFD()
        self._fd.name = "synd-inotify"
        self._fd.start()
        self._watches: set[int] = set()
        self._marks: dict[int, threading.Event] = {}

    def alive(self) -> bool:
        return self._fd.is_alive()

    def watch(self, folder: bytes) -> int | Refusal:
        import warnings

        try:
            with warnings.catch_warnings():
                # A folder that is watched already gets the same watch; that is wanted here.
                warnings.simplefilter("ignore", RuntimeWarning)
                watch = self._fd.add_callback(folder, self._mask, self, self._id)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                return Refusal.WATCHES
            if error.errno in (errno.EMFILE, errno.ENOMEM):
                return Refusal.INSTANCES
            return Refusal.GONE
        # watchdog lets EACCES pass as a watch that is none.
        if watch < 0:
            return Refusal.FORBIDDEN
        self._watches.add(watch)
        return int(watch)

    def unwatch(self, watch: int) -> None:
        from watchdog.observers.inotify_c import WatchDescriptor

        if watch in self._watches:
            self._watches.discard(watch)
            self._fd.remove_callbacks([(WatchDescriptor(watch), self._id)])

    def sync(self, timeout_s: float) -> bool:
        # Events come in the order in which things happen: when a folder's end is told, all before it is.
        mark = tempfile.mkdtemp(prefix="synd-watch-")
        try:
            watch = self.watch(os.fsencode(mark))
            seen = threading.Event()
            if not isinstance(watch, Refusal):
                self._marks[watch] = seen
        finally:
            os.rmdir(mark)
        if isinstance(watch, Refusal):
            return True
        try:
            return seen.wait(timeout_s)
        finally:
            self._marks.pop(watch, None)

    def close(self) -> None:
        self._fd.stop()
        self._fd.join(5.0)

    # What watchdog calls, on its thread.

    def on_event(self, event: _Event) -> None:
        for bit, kind in self._kinds:
            if event.mask & bit:
                folder = bool(event.mask & self._is_folder)
                name = os.fsdecode(event.name)
                self._post(Raw(kind, event.wd, name, folder, event.cookie))
                return

    def on_watch_deleted(self, wd: int) -> None:
        self._watches.discard(wd)
        self._post(Raw(Kind.ENDED, wd))
        if (seen := self._marks.get(wd)) is not None:
            seen.set()

    def on_queue_overflow(self) -> None:
        log.info("watch.overflow", extra=fields(bound=limit("max_queued_events")))
        self._post(Raw(Kind.OVERFLOW))


class _Event(Protocol):
    """What of watchdog's event is used."""

    @property
    def wd(self) -> int: ...
    @property
    def mask(self) -> int: ...
    @property
    def cookie(self) -> int: ...
    @property
    def name(self) -> bytes: ...


class Intake:
    """The queue between the reader and the tracker: bounded, and woken for other reasons too."""

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._waiting: deque[Raw] = deque()
        self._overflow = False
        self._woken = False
        self._ready = threading.Condition()
        self.posted = 0
        """Events that came so far, those lost to an overflow too."""

    def post(self, raw: Raw) -> None:
        """Takes an event; past the bound all that wait become one OVERFLOW. Never blocks."""
        with self._ready:
            waiting = self._waiting
            if raw.kind is Kind.MODIFIED and waiting and waiting[-1] == raw:
                return
            if len(waiting) >= self._bound:
                # Endings of watches are kept: their numbers would else stay in the books for ever.
                kept = [r for r in waiting if r.kind is Kind.ENDED]
                waiting.clear()
                waiting.extend(kept[: self._bound // 2])
                self._overflow = True
            waiting.append(raw)
            self.posted += 1
            self._ready.notify()

    def wake(self) -> None:
        """Lets `take` return although no event came."""
        with self._ready:
            self._woken = True
            self._ready.notify()

    def take(self, timeout_s: float, most: int = 4096) -> tuple[int, list[Raw]]:
        """The events that wait, oldest first, and the number (of `posted`) of the last of them. Waits for one,
        for `wake` or for the time to pass.
        """
        with self._ready:
            self._ready.wait_for(lambda: self._waiting or self._woken, max(0.0, timeout_s))
            self._woken = False
            taken = [self._waiting.popleft() for _ in range(min(most, len(self._waiting)))]
            if self._overflow:
                self._overflow = False
                taken.insert(0, Raw(Kind.OVERFLOW))
            return self.posted - len(self._waiting), taken

    def __len__(self) -> int:
        return len(self._waiting)


def limit(name: str) -> int:
    """One of the kernel's inotify limits (inotify(7)); 0 when it cannot be read."""
    try:
        return int((_LIMITS / name).read_text())
    except (OSError, ValueError):
        return 0


def remedy(refusal: Refusal, folders: int) -> str:
    """What to do about a limit, as a line for a shell. `folders`: how many are to be watched in all."""
    if refusal is Refusal.INSTANCES:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        try:
            held = len(os.listdir("/proc/self/fd"))
        except OSError:
            held = 0
        if held > most - 64:
            return (
                f"the daemon may open {most} files only: `systemctl --user edit synd` and set "
                f"`[Service] LimitNOFILE={max(65536, 4 * most)}`"
            )
        return _sysctl("max_user_instances", max(512, 2 * limit("max_user_instances")))
    used_by_others = limit("max_user_watches")
    return _sysctl("max_user_watches", _next_power_of_two(used_by_others + 2 * folders))


def _sysctl(name: str, value: int) -> str:
    setting = f"fs.inotify.{name}={value}"
    keep = f"/etc/sysctl.d/60-synd-{name}.conf"
    return f"sudo sysctl -w {setting} && echo {setting} | sudo tee {keep}"


def _next_power_of_two(number: int) -> int:
    return 1 << max(13, (number - 1).bit_length())
