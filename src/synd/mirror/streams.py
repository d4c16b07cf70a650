"""Bytes on their way: what is being read but not complete yet.

A small file is fetched whole, checked, and only then answered. A large one is a sparse file with a
block map: a read waits for its own blocks only; a sequential reader gets a growing window of parallel
ranges ahead of it; a random one gets what it asks for. When all blocks are here and the md5 is right
it becomes an object. A mismatch is fetched once more, then every read fails and the user is told.

Lock order: `Streams._lock`, then a stream's; futures are settled under neither.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from synd.cache.hashing import Hasher
from synd.cache.objects import ObjectStore
from synd.cache.partial import BLOCK, Partial, PartialStore
from synd.clock import Deadline
from synd.client.transfer import Downloader, Sink
from synd.errors import Cancelled, IntegrityError, SyndError
from synd.ids import ContentKey, EntityId, syn
from synd.mirror.fetch import Pool, Task, Urgency
from synd.mirror.prefetch import Pattern, chunk_size
from synd.mirror.urls import Urls
from synd.mirror.waits import Waits, fail, settle
from synd.model import FileRef, FileVersion, Store
from synd.ranges import ByteRange, FileSlice, subtract
from synd.retry import RetryPolicy

log = logging.getLogger(__name__)

SMALL = 1 << 20
"""Files up to here are fetched in one request and verified before the first byte is answered."""

HASH_RATE = 500 << 20
"""Bytes per second that the hashing thread does at least, for judging whether a reader may wait."""

TRANSFER_S = 900.0
"""Longest life of one request for a range, as long as bytes keep coming."""

POLICY = RetryPolicy(tries=4, base_s=0.2, cap_s=5.0)


Got = FileSlice | bytes


class Adopt(Protocol):
    """Looks for the bytes on this machine before they are asked for; true when they are objects now."""

    def __call__(self, file: FileVersion) -> bool: ...


class Progress(NamedTuple):
    """A transfer under way, for status."""

    file: FileVersion
    have_bytes: int
    size: int
    bytes_per_s: float
    readers: int
    since: float
    verifying: bool


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
        self.waits = waits
        self.pool = Pool(connections)
        self.window_bytes = window_bytes
        self.wait_s = wait_s
        self.hold_s = hold_s
        self.on_complete = on_complete
        self.on_mismatch = on_mismatch
        self.on_corrupt = on_corrupt
        self.adopt = adopt
        self._lock = threading.Lock()
        self._large: dict[ContentKey, LargeStream] = {}
        self._small: dict[ContentKey, SmallFetch] = {}
        self._corrupt: dict[ContentKey, tuple[EntityId, str]] = {}
        self.completed_total = 0
        self.closed = False

    def reader(self, file: FileVersion) -> Reader:
        """A reader of content that is not an object (yet); `close_handle` ends its part for a handle."""
        size = file.size or 0
        if size <= SMALL:
            return self.small(file, Urgency.DEMAND)
        with self._lock:
            stream = self._large.get(file.key)
            if stream is None:
                stream = self._large[file.key] = LargeStream(self, file)
            return stream

    def small(self, file: FileVersion, urgency: Urgency) -> SmallFetch:
        """The fetch of a small file, begun now if it was not."""
        with self._lock:
            fetch = self._small.get(file.key)
            if fetch is None:
                fetch = self._small[file.key] = SmallFetch(self, file, urgency)
                self.pool.submit(fetch.task)
                return fetch
        self.pool.hurry(fetch.task, urgency)
        return fetch

    def under_way(self, key: ContentKey) -> bool:
        return key in self._small or key in self._large

    def whole(self, file: FileVersion) -> Future[None]:
        """Fetches all of a file in the background; settled once it is an object. Any thread.

        The Future has no deadline: whoever asked decides how long to wait.
        """
        done: Future[None] = Future()
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

    def corrupt_entities(self) -> list[tuple[EntityId, str]]:
        return list(self._corrupt.values())

    def forgive_all(self) -> None:
        """Lets content that was corrupt be fetched again."""
        self._corrupt.clear()

    def mark_corrupt(self, file: FileVersion, why: str) -> None:
        self._corrupt[file.key] = (file.entity, why)
        log.error("content.corrupt", extra={"fields": {"entity": syn(file.entity), "why": why}})
        if self.on_corrupt is not None:
            self.on_corrupt(file, why)

    def completed(self, file: FileVersion) -> None:
        self.completed_total += 1
        if self.on_complete is not None:
            self.on_complete(file)

    def drop_small(self, fetch: SmallFetch) -> None:
        with self._lock:
            if self._small.get(fetch.file.key) is fetch:
                del self._small[fetch.file.key]

    def drop_large(self, stream: LargeStream) -> None:
        with self._lock:
            if self._large.get(stream.file.key) is stream:
                del self._large[stream.file.key]

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
                return file.external_url
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
        with self._lock:
            large = list(self._large.values())
        for stream in large:
            stream.tick()

    def progress(self) -> list[Progress]:
        with self._lock:
            return [stream.progress() for stream in self._large.values()]

    def small_under_way(self) -> int:
        return len(self._small)

    def close(self) -> None:
        """Stops fetching. What has arrived stays for the next start."""
        self.closed = True
        self.pool.close()
        with self._lock:
            large = list(self._large.values())
        for stream in large:
            stream.abandon()


class SmallFetch:
    """One small file on its way: fetched whole, verified, stored, then answered."""

    def __init__(self, streams: Streams, file: FileVersion, urgency: Urgency) -> None:
        self.file = file
        self._streams = streams
        self.task = Task(self._run, urgency)
        self._lock = threading.Lock()
        self._waiting: list[tuple[Future[Got], int, int]] = []
        self._done: list[Future[None]] = []
        self._data: bytes | None = None
        self._error: SyndError | None = None

    def read(self, handle: int, offset: int, size: int) -> Got | Future[Got]:
        if self._data is not None:
            return self._data[offset : offset + size]
        future: Future[Got] = self._streams.waits.start(
            "reading a file", syn(self.file.entity), self._streams.wait_s
        )
        with self._lock:
            if self._data is None and self._error is None:
                self._waiting.append((future, offset, size))
                self._streams.pool.hurry(self.task, Urgency.DEMAND)
                return future
        if self._error is not None:
            fail(future, self._error)
            return future
        assert self._data is not None
        settle(future, self._data[offset : offset + size])
        return future

    def when_done(self, done: Future[None]) -> None:
        with self._lock:
            if self._data is None and self._error is None:
                self._done.append(done)
                return
        fail(done, self._error) if self._error is not None else settle(done, None)

    def close_handle(self, handle: int) -> None:
        """Nothing is kept per handle."""

    def _run(self) -> None:
        streams, file = self._streams, self.file
        data: bytes | None = None
        error: SyndError | None = None
        try:
            data = self._fetched()
        except SyndError as exception:
            error = exception
        except Exception as exception:
            log.exception("fetch.failed")
            error = SyndError(f"fetching {syn(file.entity)} failed: {exception}")
        # Out of the table first: a reader that comes now finds the object, or begins a new fetch.
        streams.drop_small(self)
        with self._lock:
            self._data, self._error = data, error
            waiting, self._waiting = self._waiting, []
            done, self._done = self._done, []
        for future, offset, size in waiting:
            if error is not None:
                fail(future, error)
            else:
                assert data is not None
                settle(future, data[offset : offset + size])
        for one in done:
            fail(one, error) if error is not None else settle(one, None)

    def _fetched(self) -> bytes:
        streams, file = self._streams, self.file
        size = file.size or 0
        if streams.adopt is not None and streams.adopt(file):
            fd = streams.objects.open(file.key, size)
            if fd is not None:
                with open(fd, "rb") as adopted:
                    return adopted.read()
        for attempt in (1, 2):
            buffer = bytearray(size)

            def keep(offset: int, piece: memoryview, into: bytearray = buffer) -> None:
                into[offset : offset + len(piece)] = piece

            if size:
                streams.fetch(file, 0, size, keep, cancelled=lambda: streams.closed)
            try:
                streams.objects.put_bytes(file.key, buffer)
            except IntegrityError as error:
                log.warning(
                    "content.mismatch",
                    extra={"fields": {"entity": syn(file.entity), "try": attempt}},
                )
                if attempt == 2:
                    streams.mark_corrupt(file, error.message)
                    raise _corrupt(file) from error
                continue
            streams.completed(file)
            return bytes(buffer)
        raise AssertionError("unreachable")


class _Waiter(NamedTuple):
    start: int
    end: int
    future: Future[Got]


class _Run:
    """A range on its way, queued or running."""

    __slots__ = ("end", "start", "task")

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        self.end = end
        self.task: Task


class LargeStream:
    """One large file on its way."""

    def __init__(self, streams: Streams, file: FileVersion) -> None:
        assert file.size is not None
        self.file = file
        self.size = file.size
        self._streams = streams
        self._lock = threading.Lock()
        self._partial: Partial | None = None
        self._patterns: dict[int, Pattern] = {}
        self._waiters: list[_Waiter] = []
        self._runs: list[_Run] = []
        self._whole: list[Future[None]] = []
        self._whole_until = 0
        self._mismatches = 0
        self._error: SyndError | None = None
        self._abandoned = False
        self._began = time.monotonic()
        self._began_bytes = 0
        self._sought = False
        self._hold_until: float | None = None

    # Readers.

    def read(self, handle: int, offset: int, size: int) -> Got | Future[Got]:
        """The bytes if they are here, else a Future of them."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        if self._error is not None:
            raise self._error
        partial = self._open()
        pattern = self._patterns.get(handle)
        if pattern is None:
            pattern = self._patterns[handle] = Pattern()
        ahead = pattern.note(offset, end - offset, most=self._streams.window_bytes)
        if partial.has(offset, end) and not self._holds(partial):
            if ahead:
                self._extend(end, ahead)
            return FileSlice(partial.fd, offset, end - offset)
        future: Future[Got] = self._streams.waits.start(
            "reading a file", syn(self.file.entity), self._streams.wait_s
        )
        with self._lock:
            self._waiters.append(_Waiter(offset, end, future))
        if not partial.has(offset, end):
            self._fetch(ByteRange(offset, end), Urgency.DEMAND, extra=ahead)
        # The blocks may have come between the two looks.
        self._wake(partial)
        if ahead:
            self._extend(end, ahead)
        return future

    def close_handle(self, handle: int) -> None:
        """A handle is closed. With the last one, fetching ahead ends; what is here stays."""
        self._patterns.pop(handle, None)
        if not self._patterns and not self._whole:
            self._leave()

    def want_whole(self, done: Future[None]) -> None:
        """Fetches all of it, behind whatever programs read."""
        if self._error is not None:
            fail(done, self._error)
            return
        try:
            partial = self._open()
        except SyndError as error:
            fail(done, error)
            return
        with self._lock:
            self._whole.append(done)
        if partial.sealed:
            self._finished(partial)
            return
        self._top_up()

    def progress(self) -> Progress:
        partial = self._partial
        have = partial.have_bytes if partial is not None else 0
        spent = max(0.001, time.monotonic() - self._began)
        verifying = partial is not None and partial.complete and not partial.sealed
        return Progress(
            self.file, have, self.size, max(0, have - self._began_bytes) / spent,
            len(self._patterns), self._began, verifying,
        )  # fmt: skip

    def abandon(self) -> None:
        """The daemon stops: lets go of the descriptors."""
        self._abandoned = True
        self._leave()

    def _open(self) -> Partial:
        partial = self._partial
        if partial is not None:
            return partial
        with self._lock:
            if self._partial is None:
                opened = self._streams.partials.open(self.file.key, self.size)
                self._began_bytes = opened.have_bytes
                if not opened.sealed:
                    self._streams.hasher.follow(opened, self._verified)
                self._partial = opened
            return self._partial

    def _leave(self) -> None:
        with self._lock:
            partial = self._partial
            if not self._abandoned:
                if self._patterns or self._whole:
                    return
                if (
                    partial is not None
                    and partial.complete
                    and not partial.sealed
                    and not self._error
                ):
                    # Being hashed: it is left once that is done, so nobody starts it a second time.
                    return
            self._partial = None
        self._streams.drop_large(self)
        if partial is not None:
            self._streams.hasher.forget(partial)
            partial.close()

    # What to fetch.

    def _extend(self, end: int, ahead: int) -> None:
        """Keeps the window ahead of a sequential reader full, in whole requests."""
        target = min(self.size, end + ahead)
        chunk = chunk_size(ahead)
        with self._lock:
            planned = max(
                (r.end for r in self._runs if r.start <= target and r.end > end), default=end
            )
        if target - planned >= chunk or (target == self.size and planned < target):
            self._fetch(ByteRange(end, target), Urgency.AHEAD, chunk=chunk)

    def _top_up(self) -> None:
        """Keeps a few background requests going until all is here."""
        partial = self._partial
        if partial is None or not self._whole:
            return
        with self._lock:
            room = 4 - len(self._runs)
        while room > 0 and self._whole_until < self.size:
            end = min(self.size, self._whole_until + (8 << 20))
            self._fetch(ByteRange(self._whole_until, end), Urgency.BACKGROUND)
            self._whole_until = end
            with self._lock:
                room = 4 - len(self._runs)

    def _fetch(
        self, wanted: ByteRange, urgency: Urgency, *, chunk: int = 8 << 20, extra: int = 0
    ) -> None:
        """Hands in requests for what of `wanted` is neither here nor on its way.

        `extra` lets the last request go on beyond, so that a reader's first request brings its
        first window too: one round trip less.
        """
        partial = self._partial
        if partial is None:
            return
        fresh: list[_Run] = []
        with self._lock:
            gaps = partial.missing(wanted.start, wanted.end)
            for gap in gaps:
                for run in self._runs:
                    if run.start < gap.end and run.end > gap.start:
                        self._streams.pool.hurry(run.task, urgency)
                for part in subtract(gap, [ByteRange(r.start, r.end) for r in self._runs]):
                    at = part.start
                    while at < part.end:
                        stop = min(part.end, at + chunk)
                        fresh.append(_Run(at, stop))
                        at = stop
            if fresh and extra and fresh[-1].end < self.size and fresh[-1].end >= wanted.end:
                last = fresh[-1]
                limit = min(self.size, last.end + min(extra, 1 << 20))
                limit = limit if limit == self.size else limit - limit % BLOCK
                more = partial.missing(last.end, limit)
                taken = any(r.start < limit and r.end > last.end for r in self._runs)
                if more and more[0].start == last.end and not taken:
                    last.end = more[0].end
            for run in fresh:
                run.task = Task(lambda run=run: self._run(run), urgency)
            self._runs.extend(fresh)
        for run in fresh:
            self._streams.pool.submit(run.task)

    def _run(self, run: _Run) -> None:
        """Fetches one range. On a transfer thread."""
        error: SyndError | None = None
        try:
            self._transfer(run)
        except Cancelled as exception:
            error = None if self._abandoned or not self._patterns else exception
        except SyndError as exception:
            error = exception
        except Exception as exception:
            log.exception("fetch.failed")
            error = SyndError(f"fetching {syn(self.file.entity)} failed: {exception}")
        failed: list[_Waiter] = []
        with self._lock:
            if run in self._runs:
                self._runs.remove(run)
            if error is not None:
                failed = [w for w in self._waiters if w.start < run.end and w.end > run.start]
                self._waiters = [w for w in self._waiters if w not in failed]
        for waiter in failed:
            assert error is not None
            fail(waiter.future, error)
        if error is not None and self._whole and not isinstance(error, Cancelled):
            whole, self._whole = self._whole, []
            for done in whole:
                fail(done, error)
        partial = self._partial
        if partial is None:
            return
        self._wake(partial)
        self._top_up()

    def _transfer(self, run: _Run) -> None:
        partial = self._partial
        if partial is None:
            raise Cancelled("nobody reads it any more")
        streams = self._streams
        if not self._sought:
            self._sought = True
            if streams.adopt is not None and streams.adopt(self.file) and partial.take_object():
                return
        partial.retain()
        try:
            gaps = partial.missing(run.start, run.end)
            for gap in gaps:
                piece = partial.piece(gap.start)

                def sink(offset: int, data: memoryview, piece: object = piece) -> None:
                    piece.write(data)  # type: ignore[attr-defined]
                    if self._waiters:
                        self._wake(partial)

                streams.fetch(self.file, gap.start, gap.end, sink, cancelled=self._unwanted)
        finally:
            partial.close()

    def _unwanted(self) -> bool:
        return self._abandoned or self._partial is None

    # What has arrived.

    def _holds(self, partial: Partial) -> bool:
        """Whether reads should wait for the digest, now that the last byte is here.

        So a reader of a file that storage got wrong ends in an error instead of wrong bytes, unless
        hashing lags so far behind that waiting for it would cost more than `hold_s`.
        """
        if partial.sealed or not partial.complete or self.file.md5 is None:
            return False
        now = time.monotonic()
        if self._hold_until is None:
            hold_s = self._streams.hold_s
            short = self._streams.hasher.lag_bytes(partial) <= hold_s * HASH_RATE
            self._hold_until = now + hold_s if short else now
        return now < self._hold_until

    def tick(self) -> None:
        """Answers readers that have waited long enough for the digest."""
        if self._waiters and (partial := self._partial) is not None:
            self._wake(partial)

    def _wake(self, partial: Partial) -> None:
        """Answers the waiters whose bytes are here."""
        ready: list[_Waiter] = []
        with self._lock:
            if not self._waiters:
                return
            rest: list[_Waiter] = []
            for waiter in self._waiters:
                if not partial.has(waiter.start, waiter.end) or self._holds(partial):
                    if not waiter.future.done():
                        rest.append(waiter)
                else:
                    ready.append(waiter)
            self._waiters = rest
        if not ready:
            return
        # The answer is written on this thread, from the descriptor: it must not close meanwhile.
        partial.retain()
        try:
            for waiter in ready:
                size = waiter.end - waiter.start
                settle(waiter.future, FileSlice(partial.fd, waiter.start, size))
        finally:
            partial.close()

    def _verified(self, ok: bool) -> None:
        """The digest of all bytes is known. On the hashing thread."""
        partial = self._partial
        if ok:
            if partial is not None:
                self._finished(partial)
            self._streams.completed(self.file)
            return
        self._mismatches += 1
        log.warning(
            "content.mismatch",
            extra={"fields": {"entity": syn(self.file.entity), "try": self._mismatches}},
        )
        if self._mismatches == 1 and partial is not None:
            partial.reset()
            self._whole_until = 0
            self._hold_until = None
            if self._streams.on_mismatch is not None:
                self._streams.on_mismatch(self.file)
            self._streams.hasher.follow(partial, self._verified)
            with self._lock:
                waiting = [ByteRange(w.start, w.end) for w in self._waiters]
            for wanted in waiting:
                self._fetch(wanted, Urgency.DEMAND)
            self._top_up()
            # Those who were held back want to know about the whole file.
            if waiting:
                self._fetch(ByteRange(0, self.size), Urgency.AHEAD)
            return
        error = _corrupt(self.file)
        self._error = error
        self._streams.mark_corrupt(self.file, error.message)
        with self._lock:
            waiters, self._waiters = self._waiters, []
            whole, self._whole = self._whole, []
        for waiter in waiters:
            fail(waiter.future, error)
        for done in whole:
            fail(done, error)
        if partial is not None:
            partial.discard()
            if not self._patterns:
                self._leave()

    def _finished(self, partial: Partial) -> None:
        self._wake(partial)
        with self._lock:
            whole, self._whole = self._whole, []
        for done in whole:
            settle(done, None)
        if not self._patterns:
            self._leave()


def _corrupt(file: FileVersion) -> IntegrityError:
    return IntegrityError(
        f"{file.name or syn(file.entity)}: the bytes that storage sends are not those the service promises",
        hint="it was fetched twice; tell the owner of the file, then `synd cache verify` to try again",
        entity=syn(file.entity),
    )
