"""The cache folder as the daemon uses it: objects, partials, hashing and eviction under one roof.

    objects/ab/<key>     complete objects
    partial/<key>, .map  incomplete ones
    suspect/<key>        objects that a power loss may have torn, waiting to be hashed again
    CACHEDIR.TAG         tells backup programs to leave the folder out
    lock                 held while a daemon uses the folder
    synced.json          boot id and time of the last sync

Power loss. Nothing here is synced when it is written, for speed. `sync` writes everything out now
and then and notes the time. A start under another boot id than the noted one means that what was
stored since may be torn: such objects move to ``suspect/`` (a miss for everyone) until their md5 is
checked, in the background or by `recall`; such partials are thrown away. After a mere kill there is
nothing to do, as the kernel still has it all.

Pins live in the store; whoever makes a `Cache` hands in the question "is this pinned?".
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from synd.cache.disk import boot_id, on_disk, sync_filesystem
from synd.cache.evict import UNLIMITED, Limits, Room, Row, victims
from synd.cache.hashing import NICE, Hasher, lower_priority
from synd.cache.objects import ObjectStore, digest_of_key
from synd.cache.partial import Partial, PartialStore
from synd.clock import NS, SYSTEM, Clock
from synd.digest import md5_of_file
from synd.errors import AlreadyRunning, StoreError, SyndError, UsageError
from synd.ids import ContentKey, check_content_key
from synd.log import fields

log = logging.getLogger(__name__)

TAG = (
    b"Signature: 8a477f597d28d172789f06886806bc55\n"
    b"# This folder is a cache made by synd; see https://bford.info/cachedir/\n"
)
SLACK_NS = 2 * NS
"""File systems stamp files with a clock that may lag by so much."""

SYNC_EVERY_S = 300.0
RETRY_EVICTION_S = 2.0
"""When there was nothing to evict: look again after so long, as a look costs a stat per object."""

CHECK_EVERY_BYTES = 16 << 20


class What(StrEnum):
    """What happened to the cache, for those who watch."""

    EVICTED = "evicted"
    CORRUPT = "corrupt"
    """An object's bytes were wrong; it is gone."""
    FULL = "full"
    """More room was wanted than could be freed."""


class CacheEvent(NamedTuple):
    what: What
    key: ContentKey | None
    bytes: int


class Usage(NamedTuple):
    """Sizes in bytes on disk."""

    objects: int
    object_bytes: int
    partials: int
    partial_bytes: int
    free_bytes: int
    max_bytes: int
    keep_free_bytes: int

    @property
    def used_bytes(self) -> int:
        return self.object_bytes + self.partial_bytes


def _unpinned(_key: ContentKey) -> bool:
    return False


def _unheard(_event: CacheEvent) -> None:
    return None


class Cache:
    """All of the above. Methods may be called from any thread.

    The mount thread may call `open`, `has`, `hold` and `release`; everything else may write to the
    disk, and some hash or walk. Lock order: eviction, then the stores' own locks.
    """

    def __init__(
        self,
        root: Path,
        limits: Limits = UNLIMITED,
        *,
        pinned: Callable[[ContentKey], bool] = _unpinned,
        on_event: Callable[[CacheEvent], None] = _unheard,
        clock: Clock = SYSTEM,
    ) -> None:
        self.root = root
        self.limits = limits
        self._pinned = pinned
        self._on_event = on_event
        self._clock = clock
        self.objects = ObjectStore(root, on_full=self.make_room, on_grow=self._on_grow)
        self.partials = PartialStore(
            root, self.objects, on_full=self.make_room, on_grow=self._on_grow
        )
        self.hasher = Hasher()
        self._suspect = root / "suspect"
        self._marker = root / "synced.json"
        self._lock_fd = -1
        self._stopping = threading.Event()
        self._background: threading.Thread | None = None
        self._evict_lock = threading.Lock()
        self._evictions = 0
        self._next_eviction_s = 0.0
        self._stuck = 0
        """How much was in use when the last eviction freed less than it should; 0: it did."""
        self._grown = 0
        self._sync_lock = threading.Lock()
        self._doubtful = True
        """Until the background has gone through what a power loss may have torn."""
        self._unsynced = True
        self._synced_s = clock.monotonic()
        self._use_lock = threading.Lock()
        self._held: dict[ContentKey, int] = {}
        self._used: dict[ContentKey, int] = {}

    # Life

    def start(self) -> None:
        """Takes the folder. Raises AlreadyRunning, StoreError. Cost after a boot: object stats."""
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_fd = os.open(
                self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self.root / "CACHEDIR.TAG").write_bytes(TAG)
            if self._boot_changed():
                self._distrust()
        except BlockingIOError as error:
            self._unlock()
            raise AlreadyRunning(f"another daemon uses the cache {self.root}") from error
        except OSError as error:
            self._unlock()
            raise StoreError(
                f"cannot use the cache folder {self.root}: {error.strerror}", path=str(self.root)
            ) from error
        self._background = threading.Thread(target=self._settle, name="cache-settle", daemon=True)
        self._background.start()

    def stop(self) -> None:
        """Ends the threads, writes everything out, gives the folder back."""
        self._stopping.set()
        self.hasher.stop()
        if self._background is not None:
            self._background.join()
        self._save_use_times()
        self._try_sync()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _settle(self) -> None:
        """What start-up need not wait for: counting, and hashing what may be torn."""
        lower_priority(NICE)
        try:
            self.objects.count()
            if self._boot_changed():
                self._try_sync()
            for key in self._suspects():
                if self._stopping.is_set():
                    return
                self.recall(key)
            self._doubtful = False
        except Exception:
            log.exception("cache.unsettled")

    # Power loss

    def _boot_changed(self) -> bool:
        now = boot_id()
        return not now or self._read_marker()[0] != now

    def _read_marker(self) -> tuple[str, int]:
        try:
            found = json.loads(self._marker.read_bytes())
            return str(found["boot"]), int(found["synced_ns"])
        except (OSError, ValueError, KeyError, TypeError):
            return "", 0

    def _distrust(self) -> None:
        since_ns = self._read_marker()[1] - SLACK_NS
        self._suspect.mkdir(mode=0o700, exist_ok=True)
        doubtful = 0
        for found in self.objects.entries():
            if found.stored_ns < since_ns:
                continue
            doubtful += 1
            if digest_of_key(found.key) is None:
                self.objects.discard(found.key)
            else:
                os.rename(self.objects.path(found.key), self._suspect / found.key)
        for partial in self.partials.idle():
            if partial.used_ns >= since_ns:
                self.partials.discard(partial.key)
                doubtful += 1
        if doubtful:
            # The note waits for a sync in the background: until then the next start asks again.
            log.info("cache.distrusts", extra=fields(files=doubtful))
        else:
            self._note_sync(self._clock.now_ns())
            self._unsynced = False

    def _try_sync(self) -> None:
        if not self._unsynced:
            return
        try:
            self.sync()
        except OSError as error:
            log.warning("cache.unsynced", extra=fields(error=error))

    def sync(self) -> None:
        """Writes out all that is cached, and notes it. Cost: waits for the disk."""
        with self._sync_lock:
            before_ns = self._clock.now_ns()
            self._unsynced = False
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                sync_filesystem(str(self.root))
                self._note_sync(before_ns)
            except OSError:
                self._unsynced = True
                raise
            self._synced_s = self._clock.monotonic()

    def _note_sync(self, at_ns: int) -> None:
        aside = self._marker.with_suffix(".new")
        with open(aside, "w", encoding="utf-8") as file:
            json.dump({"boot": boot_id(), "synced_ns": at_ns}, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, self._marker)

    def _suspects(self) -> Iterator[ContentKey]:
        try:
            names = os.listdir(self._suspect)
        except OSError:
            return
        for name in names:
            with suppress(UsageError):
                yield check_content_key(name)

    def doubts(self, key: ContentKey) -> bool:
        """Whether the object is here but has to be hashed before it is used (see `recall`)."""
        return self._doubtful and (self._suspect / key).exists()

    def recall(self, key: ContentKey) -> bool:
        """Whether the object is here after all: a suspect is hashed now, and taken back if right.

        For a worker to ask before it fetches. Cost: a stat, or one whole read of a suspect.
        """
        path = self._suspect / check_content_key(key)
        try:
            if md5_of_file(path) == digest_of_key(key):
                self.objects.take(key, str(path), os.stat(path).st_size)
                return True
            size = os.stat(path).st_size
            os.unlink(path)
        except FileNotFoundError:
            return self.objects.has(key)
        except OSError as error:
            log.warning("cache.unrecalled", extra=fields(key=key, error=error))
            return False
        self._tell(What.CORRUPT, key, size)
        return False

    # Use

    def open(self, key: ContentKey, size: int | None = None) -> int | None:
        """A descriptor of the complete object, which the caller closes; None: it is not here."""
        return self.objects.open(key, size)

    def has(self, key: ContentKey, size: int | None = None) -> bool:
        return self.objects.has(key, size)

    def partial(self, key: ContentKey, size: int) -> Partial:
        """The partial of that content, made or resumed; see `PartialStore.open`."""
        return self.partials.open(key, size)

    def hold(self, key: ContentKey) -> None:
        """Somebody opened that content: it is used now, and not evicted until `release`."""
        with self._use_lock:
            self._held[key] = self._held.get(key, 0) + 1
            self._used[key] = self._clock.now_ns()

    def release(self, key: ContentKey) -> None:
        """The opposite of one `hold`."""
        with self._use_lock:
            left = self._held.get(key, 0) - 1
            if left > 0:
                self._held[key] = left
            else:
                self._held.pop(key, None)
                self._next_eviction_s = 0.0
            self._used[key] = self._clock.now_ns()

    def used(self, key: ContentKey) -> None:
        """That content was used now, by somebody who does not hold it."""
        with self._use_lock:
            self._used[key] = self._clock.now_ns()

    def _save_use_times(self) -> None:
        with self._use_lock:
            used, self._used = self._used, {}
        for key, at_ns in used.items():
            self.objects.touch(key, at_ns)

    # Room

    def usage(self) -> Usage:
        """What the cache takes. Cost: a stat per partial; objects are counted as they come."""
        idle = list(self.partials.idle())
        opened = [one for one in self.partials.open_partials() if not one.sealed]
        free, keep_free = self._disk()
        return Usage(
            objects=self.objects.total_count,
            object_bytes=self.objects.total_bytes,
            partials=len(idle) + len(opened),
            partial_bytes=sum(one.disk_bytes for one in idle)
            + sum(one.have_bytes for one in opened),
            free_bytes=free,
            max_bytes=self.limits.max_bytes,
            keep_free_bytes=keep_free,
        )

    @property
    def is_short(self) -> bool:
        """Whether its disk has less free than is to be left. Cost: a statvfs."""
        free, keep_free = self._disk()
        return free < keep_free

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that could be evicted, now or later."""
        return not self.objects.total_count and next(iter(self.partials.idle()), None) is None

    def _disk(self) -> tuple[int, int]:
        """Free bytes, and how many of them to leave: at most a tenth of the disk."""
        try:
            found = os.statvfs(self.root)
        except OSError:
            return 0, 0
        tenth = found.f_blocks * found.f_frsize // 10
        return found.f_bavail * found.f_frsize, min(self.limits.keep_free_bytes, tenth)

    @property
    def owes(self) -> bool:
        """Whether less is in use than when an eviction fell short: then `tend` is due at once."""
        return self._stuck > 0 and self._in_use() < self._stuck

    def _in_use(self) -> int:
        return len(self._held) + len(self.partials.open_partials())

    def tend(self) -> None:
        """For a worker to call about once a minute: use times, limits, and now and then a sync."""
        self._save_use_times()
        self.evict()
        if self._clock.monotonic() - self._synced_s >= SYNC_EVERY_S:
            self._try_sync()

    def evict(self, needed: int = 0) -> int:
        """Evicts what the limits ask for, with room for `needed` bytes. Returns the bytes freed.

        Cost: nothing to do is a stat per partial; else a stat per object.
        """
        with self._evict_lock:
            usage = self.usage()
            return self._evict(needed, usage, usage.free_bytes)

    def _evict(self, needed: int, usage: Usage, free: int) -> int:
        """Holds the eviction lock."""
        self._stuck = 0
        limits = replace(self.limits, keep_free_bytes=usage.keep_free_bytes)
        room = Room(
            used_bytes=usage.used_bytes,
            free_bytes=free,
            needed_bytes=needed,
            spare_bytes=limits.max_bytes // 20,
        )
        if room.excess(limits) <= 0 and not limits.max_age_s:
            return 0
        freed = 0
        for row in victims(self._rows(), limits, room, self._clock.now_ns()):
            # Asked once more: choosing took a while, and somebody may hold it by now.
            if row.key in self._held:
                continue
            try:
                got = (self.partials if row.partial else self.objects).discard(row.key)
            except SyndError as error:
                log.warning("cache.unevicted", extra=fields(key=row.key, error=error))
                continue
            if got:
                freed += got
                self._tell(What.EVICTED, row.key, got)
        if freed:
            self._evictions += 1
        else:
            self._next_eviction_s = self._clock.monotonic() + RETRY_EVICTION_S
        if freed < room.excess(limits):
            self._stuck = self._in_use()
            self._tell(What.FULL, None, room.excess(limits) - freed)
        return freed

    def _rows(self) -> Iterator[Row]:
        opened = {one.key for one in self.partials.open_partials()}
        with self._use_lock:
            used, held = dict(self._used), set(self._held)
        for one in self.objects.entries():
            yield Row(
                one.key,
                one.disk_bytes,
                max(one.used_ns, used.get(one.key, 0)),
                pinned=self._pinned(one.key),
                open=one.key in held or one.key in opened,
            )
        for idle in self.partials.idle():
            yield Row(
                idle.key,
                idle.disk_bytes,
                max(idle.used_ns, used.get(idle.key, 0)),
                pinned=self._pinned(idle.key),
                open=idle.key in held,
                partial=True,
            )

    def make_room(self, needed: int) -> bool:
        """Evicts for a write that found no room, here or beside the cache; whether to try it again.

        Cost: a stat per object, but soon after a vain attempt nothing.
        """
        seen = self._evictions
        with self._evict_lock:
            if self._evictions != seen:
                return True  # Another thread made room while this one waited.
            if self._clock.monotonic() < self._next_eviction_s:
                return False
            # What the disk calls free is of no use here: a quota, or reserved blocks.
            return self._evict(needed, self.usage(), 0) > 0

    def _on_grow(self, grown: int) -> None:
        self._unsynced = True
        self._grown += grown  # Not exact among threads, nor need it be.
        step = CHECK_EVERY_BYTES
        if self.limits.max_bytes:
            step = min(step, self.limits.max_bytes // 32)
        if self._grown < step or self._clock.monotonic() < self._next_eviction_s:
            return
        self._grown = 0
        usage = self.usage()
        over = self.limits.max_bytes and usage.used_bytes > self.limits.max_bytes
        if over or usage.free_bytes < usage.keep_free_bytes:
            self.evict()

    def clear(self) -> int:
        """Removes all content but what is pinned or open. Returns the bytes freed."""
        freed = 0
        with self._evict_lock:
            for row in list(self._rows()):
                if not row.pinned and not row.open:
                    freed += (self.partials if row.partial else self.objects).discard(row.key)
            for key in self._suspects():
                if not self._pinned(key):
                    with suppress(OSError):
                        freed += os.stat(self._suspect / key).st_blocks * 512
                        os.unlink(self._suspect / key)
        return freed

    def verify_all(
        self,
        progress: Callable[[int, int], None] | None = None,
        stop: Callable[[], bool] | None = None,
        *,
        only: Collection[ContentKey] | None = None,
    ) -> list[ContentKey]:
        """Hashes every object (of those named by `only`); removes and returns the wrong ones.

        `progress`: (bytes, of all).
        """
        wrong: list[ContentKey] = []
        done, total = 0, self.objects.total_bytes
        if only is not None:
            total = sum(on_disk(self.objects.size(key) or 0) for key in only)
        for one in self.objects.entries():
            if only is not None and one.key not in only:
                continue
            if stop is not None and stop():
                break
            if not self.objects.verify(one.key, stop=stop) and self.objects.discard(one.key):
                wrong.append(one.key)
                self._tell(What.CORRUPT, one.key, one.size)
            done += one.disk_bytes
            if progress is not None:
                progress(done, max(done, total))
        return wrong

    def _tell(self, what: What, key: ContentKey | None, size: int) -> None:
        if what is not What.EVICTED:
            log.warning(f"cache.{what}", extra=fields(key=key, bytes=size))
        try:
            self._on_event(CacheEvent(what, key, size))
        except Exception:
            log.exception("cache.event", extra=fields(what=what))
