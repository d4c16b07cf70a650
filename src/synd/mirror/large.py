"""A large file on its way: a sparse file that readers read while it fills.

A read waits for its own blocks only. A sequential reader gets a growing window of parallel ranges ahead
of it, a random one what it asks for. When all blocks are here and the md5 is right, the file is sealed
and becomes an object; a mismatch is fetched once more, then every read fails and the user is told.

Lock order: `Streams`' lock, then a stream's; futures are settled under neither.
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from functools import partial as partial_call
from typing import TYPE_CHECKING, NamedTuple

from synd.cache.partial import BLOCK, Partial, Piece
from synd.errors import Cancelled, IntegrityError, SyndError
from synd.ids import syn
from synd.mirror.fetch import Task, Urgency
from synd.mirror.prefetch import Pattern, chunk_size
from synd.mirror.waits import fail, settle
from synd.model import FileVersion
from synd.ranges import ByteRange, FileSlice, subtract

if TYPE_CHECKING:
    from synd.mirror.streams import Got, Streams

log = logging.getLogger(__name__)

HASH_RATE = 500 << 20
"""Bytes per second that the hashing thread does at least, for judging whether a reader may wait."""


class Progress(NamedTuple):
    """A transfer under way, for status."""

    file: FileVersion
    have_bytes: int
    size: int
    bytes_per_s: float
    readers: int
    since: float
    verifying: bool


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
        self._error: SyndError | None = None
        self._abandoned = False
        self._began = time.monotonic()
        self._began_bytes = 0
        self._sought = False
        self._hold_until: float | None = None
        self._left = False
        """It is over and out of the table: whoever still has it is sent to the one that came after."""
        self._right = False
        """The digest of all bytes is known, and is the one promised."""
        self._spoilt: set[int] = set()
        """Handles that were given bytes of which some turned out to be wrong."""

    # Readers.

    def read(self, handle: int, offset: int, size: int) -> Got | Future[Got]:
        """The bytes if they are here, else a Future of them."""
        end = min(offset + size, self.size)
        if offset >= end:
            return b""
        if self._error is not None:
            raise self._error
        with self._lock:
            if handle in self._spoilt:
                raise self._came_wrong()
            left = self._left
            if not left:
                # One step: the last of the other handles may be closed this moment.
                pattern = self._patterns.setdefault(handle, Pattern())
                partial = self._open_locked()
        if left:
            return self._streams.reader(self.file).read(handle, offset, size)
        ahead = pattern.note(offset, end - offset, most=self._streams.window_bytes)
        if partial.has(offset, end) and not self._holds(partial):
            if ahead:
                self._extend(end, ahead)
            return FileSlice(partial.fd, offset, end - offset)
        future: Future[Got] = self._streams.waits.start(
            "reading a file", syn(self.file.entity), self._streams.wait_s
        )
        with self._lock:
            spoilt = handle in self._spoilt
            if not spoilt:
                self._waiters.append(_Waiter(offset, end, future))
        if spoilt:
            fail(future, self._came_wrong())
            return future
        if not partial.has(offset, end):
            self._fetch(ByteRange(offset, end), Urgency.DEMAND, extra=ahead)
        # The blocks may have come between the two looks.
        self._wake(partial)
        if ahead:
            self._extend(end, ahead)
        return future

    def close_handle(self, handle: int) -> None:
        """A handle is closed. With the last one, fetching ahead ends; what is here stays."""
        self._spoilt.discard(handle)
        if self._patterns.pop(handle, None) is None and self._left:
            self._streams.close_handle(self.file.key, handle)
            return
        self._leave()

    def want_whole(self, done: Future[None]) -> None:
        """Fetches all of it, behind whatever programs read."""
        if self._error is not None:
            fail(done, self._error)
            return
        try:
            with self._lock:
                left = self._left
                if not left:
                    partial = self._open_locked()
                    self._whole.append(done)
        except SyndError as error:
            fail(done, error)
            self._leave()
            return
        if left:
            self._streams.whole(self.file, done)
            return
        if partial.sealed or self._right:
            self._finished(partial)
            return
        done.add_done_callback(self._whole_over)
        self._top_up()

    def _whole_over(self, done: Future[None]) -> None:
        """Whoever wanted all of it may have given up."""
        if done.cancelled():
            with self._lock:
                self._whole = [one for one in self._whole if one is not done]
            self._leave()

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

    def _open_locked(self) -> Partial:
        if self._partial is None:
            opened = self._streams.partials.open(self.file.key, self.size)
            self._began_bytes = opened.have_bytes
            if not opened.sealed:
                self._streams.hasher.follow(opened, self._verified)
            self._partial = opened
        return self._partial

    def _held(self) -> Partial | None:
        """The partial with one user more, who closes it; None when nobody reads it any more."""
        with self._lock:
            if self._partial is not None:
                self._partial.retain()
            return self._partial

    def _leave(self) -> None:
        """Ends the stream if nobody needs it."""
        with self._streams.lock, self._lock:
            partial = self._partial
            if self._left:
                return
            if not self._abandoned:
                if self._patterns or self._whole:
                    return
                if (
                    partial is not None
                    and partial.complete
                    and not partial.sealed
                    and not self._error
                    and not self._right
                ):
                    # Being hashed: it is left once that is done, so nobody starts it a second time.
                    return
            self._left = True
            self._partial = None
            waiters, self._waiters = self._waiters, []
            self._streams.drop_large_locked(self)
            if partial is not None:
                # Under the locks: the stream that comes after has the same partial, and follows it itself.
                self._streams.hasher.forget(partial)
        for waiter in waiters:
            fail(waiter.future, Cancelled("the file was closed"))
        if partial is not None:
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
                run.task = Task(partial_call(self._run, run), urgency)
            self._runs.extend(fresh)
        for run in fresh:
            self._streams.pool.submit(run.task)

    def _run(self, run: _Run) -> None:
        """Fetches one range. On a transfer thread."""
        error: SyndError | None = None
        try:
            self._transfer(run)
        except Cancelled:
            # Nobody reads it any more; or its blocks were thrown away, and are fetched again below.
            log.debug("fetch.cancelled", extra={"fields": {"entity": syn(self.file.entity)}})
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
                again = []
            else:
                again = [w for w in self._waiters if w.start < run.end and w.end > run.start]
        for waiter in failed:
            assert error is not None
            fail(waiter.future, error)
        if error is not None and self._whole:
            with self._lock:
                whole, self._whole = self._whole, []
            for done in whole:
                fail(done, error)
            self._leave()
        partial = self._held()
        if partial is None:
            return
        try:
            self._wake(partial)
            # What was thrown away while it came: a second mismatch throws nothing away, so this ends.
            for waiter in again:
                if not partial.has(waiter.start, waiter.end):
                    self._fetch(ByteRange(waiter.start, waiter.end), Urgency.DEMAND)
            if self._whole and not partial.has(run.start, run.end):
                self._whole_until = min(self._whole_until, run.start)
            self._top_up()
        finally:
            partial.close()

    def _transfer(self, run: _Run) -> None:
        partial = self._held()
        if partial is None:
            raise Cancelled("nobody reads it any more")
        streams = self._streams
        try:
            if not self._sought:
                self._sought = True
                adopt = streams.adopt
                if (
                    adopt is not None
                    and adopt.likely(self.file)
                    and adopt.take(self.file)
                    and partial.take_object()
                ):
                    return
            gaps = partial.missing(run.start, run.end)
            for gap in gaps:
                piece = partial.piece(gap.start)

                def sink(_offset: int, data: memoryview, piece: Piece = piece) -> None:
                    piece.write(data)
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
            self._right = True
            if partial is not None:
                self._finished(partial)
            self._streams.completed(self.file)
            return
        mismatches = self._streams.mismatched(self.file)
        log.warning(
            "content.mismatch",
            extra={"fields": {"entity": syn(self.file.entity), "try": mismatches}},
        )
        if mismatches == 1:
            if partial is None:
                return
            # Whoever has read of it ends in an error, not in a mixture of wrong bytes and right ones; who comes
            # from now on finds none of the old ones.
            with self._lock:
                self._spoilt |= self._patterns.keys()
                waiters, self._waiters = self._waiters, []
                partial.reset()
                self._whole_until = 0
                self._hold_until = None
                if not self._left:
                    # Before those that wait hear of it and go: what comes anew would be followed for nobody.
                    self._streams.hasher.follow(partial, self._verified)
            if self._streams.on_mismatch is not None:
                self._streams.on_mismatch(self.file)
            for waiter in waiters:
                fail(waiter.future, self._came_wrong())
            self._top_up()
            self._leave()
            return
        error = self._error = self._streams.mark_corrupt(self.file)
        with self._lock:
            waiters, self._waiters = self._waiters, []
            whole, self._whole = self._whole, []
        for waiter in waiters:
            fail(waiter.future, error)
        for done in whole:
            fail(done, error)
        if partial is not None:
            partial.discard()
        self._leave()

    def _came_wrong(self) -> IntegrityError:
        return IntegrityError(
            f"{self.file.name or syn(self.file.entity)}: storage sent wrong bytes",
            hint="open it again: all of it is fetched anew then",
            entity=syn(self.file.entity),
        )

    def _finished(self, partial: Partial) -> None:
        self._wake(partial)
        with self._lock:
            whole, self._whole = self._whole, []
        for done in whole:
            settle(done, None)
        self._leave()
