"""Bytes on their way: the table of what is being read or fetched but is not an object yet.

How a small file comes is `small`'s matter, a large one's `large`'s; which thread or connection carries
it is `lane`'s and `fetch`'s. This module hands out readers and remembers what can never be right.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Protocol

from synd.cache.hashing import Hasher
from synd.cache.objects import ObjectStore
from synd.cache.partial import PartialStore
from synd.client.drs import Links
from synd.client.getter import Getter
from synd.client.transfer import Downloader, Sink
from synd.clock import Deadline
from synd.errors import Busy, IntegrityError
from synd.ids import ContentKey, EntityId, syn
from synd.mirror.fetch import Pool, Urgency
from synd.mirror.keeper import Keeper
from synd.mirror.lane import Lane
from synd.mirror.large import LargeStream, Progress
from synd.mirror.small import POLICY, SmallFetch
from synd.mirror.urls import Urls
from synd.mirror.waits import Waits
from synd.model import FileRef, FileVersion, Store
from synd.ranges import FileSlice

log = logging.getLogger(__name__)

SMALL = 1 << 20
"""Files up to here are fetched in one request and verified before the first byte is answered."""

TRANSFER_S = 900.0
"""Longest life of one request for a range, as long as bytes keep coming."""

KEEP_S = 5.0
"""How long a stop waits for small files that are in memory only. A cache may lose them."""

Got = FileSlice | bytes


class Adopt(Protocol):
    """Finds bytes that are on this machine already, before the network is asked."""

    def likely(self, file: FileVersion) -> bool:
        """Whether a look is worth its cost. A stat or two."""
        ...

    def take(self, file: FileVersion) -> bool:
        """Whether the bytes are an object now. May hash and copy a whole file."""
        ...


class Reader(Protocol):
    """Content on its way, as an open file reads it."""

    def read(self, handle: int, offset: int, size: int) -> Got | Future[Got]: ...

    def close_handle(self, handle: int) -> None: ...


class Streams:
    """All content on its way. Any thread, but not the daemon's loop where a method says so."""

    def __init__(
        self,
        objects: ObjectStore,
        partials: PartialStore,
        hasher: Hasher,
        downloader: Downloader,
        urls: Urls,
        waits: Waits,
        *,
        connections: int,
        connect_s: float,
        window_bytes: int,
        wait_s: float,
        hold_s: float,
        on_complete: Callable[[FileVersion], None] | None = None,
        on_mismatch: Callable[[FileVersion], None] | None = None,
        on_corrupt: Callable[[FileVersion, str], None] | None = None,
        adopt: Adopt | None = None,
    ) -> None:
        self.objects = objects
        self.partials = partials
        self.hasher = hasher
        self.downloader = downloader
        self.urls = urls
        self.links = Links(downloader)
        self.waits = waits
        self.pool = Pool(connections)
        self.lane = Lane(connections)
        self.keeper = Keeper(objects, self.lane.busy)
        self.getter = Getter(downloader, connections=connections)
        self.connect_s = connect_s
        self.window_bytes = window_bytes
        self.wait_s = wait_s
        self.hold_s = hold_s
        self.on_complete = on_complete
        self.on_mismatch = on_mismatch
        self.on_corrupt = on_corrupt
        self.adopt = adopt
        self.lock = threading.Lock()
        """Of the tables below. Taken before a stream's own."""
        self._large: dict[ContentKey, LargeStream] = {}
        self._small: dict[ContentKey, SmallFetch] = {}
        self._corrupt: dict[ContentKey, tuple[EntityId, str]] = {}
        self._mismatches: dict[ContentKey, int] = {}
        self._ever_wrong: set[ContentKey] = set()
        self.completed_total = 0
        self.closed = False

    def reader(self, file: FileVersion) -> Reader:
        """A reader of content that is not an object (yet); `close_handle` ends its part for a handle."""
        if self.closed:
            raise Busy("the daemon is stopping")
        size = file.size or 0
        if size <= SMALL:
            return self.small(file, Urgency.DEMAND)
        with self.lock:
            stream = self._large.get(file.key)
            if stream is None:
                stream = self._large[file.key] = LargeStream(self, file)
            return stream

    def small(self, file: FileVersion, urgency: Urgency) -> SmallFetch:
        """The fetch of a small file, begun now if it was not."""
        with self.lock:
            fetch = self._small.get(file.key)
            if fetch is None:
                fetch = self._small[file.key] = SmallFetch(self, file, urgency)
                self.lane.submit(fetch.errand)
                return fetch
        self.lane.hurry(fetch.errand, urgency)
        return fetch

    def under_way(self, key: ContentKey) -> bool:
        """Whether its bytes are on their way."""
        small = self._small.get(key)
        return (small is not None and not small.arrived) or key in self._large

    def find_small(self, key: ContentKey) -> SmallFetch | None:
        """The fetch of a small file that is on its way or not stored yet."""
        return self._small.get(key)

    def in_memory(self, key: ContentKey) -> bool:
        """Whether it has arrived and is verified, but is not an object yet."""
        small = self._small.get(key)
        return small is not None and small.arrived

    def whole(self, file: FileVersion, done: Future[None] | None = None) -> Future[None]:
        """Fetches all of a file in the background; settled once it is an object. Any thread.

        The Future has no deadline: whoever asked decides how long to wait, and cancels it to give up.
        """
        done = Future() if done is None else done
        if (file.size or 0) <= SMALL:
            self.small(file, Urgency.BACKGROUND).when_done(done)
        else:
            reader = self.reader(file)
            assert isinstance(reader, LargeStream)
            reader.want_whole(done)
        return done

    def corrupt(self, key: ContentKey) -> str | None:
        """Why this content can never be right, when that has been seen twice."""
        found = self._corrupt.get(key)
        return found[1] if found else None

    def ever_wrong(self, key: ContentKey) -> bool:
        """Whether wrong bytes of this content have gone out: whoever was given some may still have them."""
        return key in self._ever_wrong

    def corrupt_entities(self) -> list[tuple[EntityId, str]]:
        return list(self._corrupt.values())

    def forgive_all(self) -> None:
        """Lets content that was corrupt be fetched again."""
        self._corrupt.clear()
        self._mismatches.clear()

    def mismatched(self, file: FileVersion) -> int:
        """How often this content came wrong by now; whoever read it the first time may be gone."""
        with self.lock:
            self._ever_wrong.add(file.key)
            self._mismatches[file.key] = self._mismatches.get(file.key, 0) + 1
            return self._mismatches[file.key]

    def mark_corrupt(self, file: FileVersion) -> IntegrityError:
        """Remembers that this content came wrong twice; the error for whoever reads it."""
        error = IntegrityError(
            f"{file.name or syn(file.entity)}: the bytes that storage sends are not those the "
            "service promises",
            hint="it was fetched twice; tell the owner of the file, then `synd cache verify`",
            entity=syn(file.entity),
        )
        self._corrupt[file.key] = (file.entity, error.message)
        log.error("content.corrupt", extra={"fields": {"entity": syn(file.entity)}})
        if self.on_corrupt is not None:
            self.on_corrupt(file, error.message)
        return error

    def completed(self, file: FileVersion) -> None:
        self.completed_total += 1
        self._mismatches.pop(file.key, None)
        if self.on_complete is not None:
            self.on_complete(file)

    def drop_small(self, fetch: SmallFetch) -> None:
        with self.lock:
            if self._small.get(fetch.file.key) is fetch:
                del self._small[fetch.file.key]

    def drop_large_locked(self, stream: LargeStream) -> None:
        """Holds `lock`."""
        if self._large.get(stream.file.key) is stream:
            del self._large[stream.file.key]

    def close_handle(self, key: ContentKey, handle: int) -> None:
        """A handle is closed whose stream was over before: the one that came after it has the handle."""
        with self.lock:
            stream = self._large.get(key)
        if stream is not None:
            stream.close_handle(handle)

    def fetch(
        self,
        file: FileVersion,
        start: int,
        end: int,
        sink: Sink,
        *,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Blocks until the range has gone to `sink`. For transfer threads."""
        deadline = Deadline.after(TRANSFER_S, f"fetching {syn(file.entity)}")
        used: list[str] = []

        def url(fresh: bool) -> str:
            if file.store is Store.EXTERNAL and file.external_url is not None:
                return self.links.url(file.external_url, fresh=fresh)
            assert file.handle is not None
            ref = FileRef(file.handle, file.entity)
            if fresh and used:
                self.urls.drop(ref, used[-1])
            used.append(
                self.urls.get(ref, Deadline.after(self.wait_s, "asking for a download URL"))
            )
            return used[-1]

        self.downloader.resume(
            url, start, end, sink, deadline=deadline, cancelled=cancelled, policy=POLICY
        )

    def tick(self) -> None:
        """To be called a few times a second."""
        with self.lock:
            large = list(self._large.values())
        for stream in large:
            stream.tick()

    def progress(self) -> list[Progress]:
        with self.lock:
            return [stream.progress() for stream in self._large.values()]

    def small_under_way(self) -> int:
        return len(self._small)

    def close(self) -> None:
        """Stops fetching. What has arrived stays for the next start."""
        self.closed = True
        self.pool.close()
        with self.lock:
            large = list(self._large.values())
        for stream in large:
            stream.abandon()
        self.lane.close(self.getter.aclose)
        with self.lock:
            small = list(self._small.values())
        for fetch in small:
            fetch.abandon()
        self.keeper.close(KEEP_S)
