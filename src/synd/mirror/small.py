"""A small file on its way: fetched whole, verified, and only then answered; stored after that."""

from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from synd.cache.objects import check_digest
from synd.client.drs import is_drs
from synd.client.getter import NotPlain
from synd.client.transfer import Interrupted
from synd.clock import Deadline
from synd.digest import md5_of_bytes
from synd.errors import DeadlineExceeded, IntegrityError, Offline, SyndError
from synd.ids import syn
from synd.mirror.fetch import Task, Urgency
from synd.mirror.lane import Errand
from synd.mirror.waits import fail, settle
from synd.model import FileRef, FileVersion, Store
from synd.retry import RetryPolicy

if TYPE_CHECKING:
    from synd.mirror.streams import Got, Streams

log = logging.getLogger(__name__)

POLICY = RetryPolicy(tries=4, base_s=0.2, cap_s=5.0)


class SmallFetch:
    """One fetch, for any number of readers. Made and begun by `Streams.small`."""

    def __init__(self, streams: Streams, file: FileVersion, urgency: Urgency) -> None:
        self.file = file
        self.errand = Errand(self._run, urgency)
        self._streams = streams
        self._lock = threading.Lock()
        self._waiting: list[tuple[Future[Got], int, int]] = []
        self._done: list[Future[None]] = []
        self._data: bytes | None = None
        self._error: SyndError | None = None
        self._over = False
        self._adopted = False
        self._stored = False
        self._not_stored: SyndError | None = None

    # For readers, on any thread.

    def read(self, handle: int, offset: int, size: int) -> Got | Future[Got]:
        """As `streams.Reader.read`; nothing is kept per handle."""
        if self._data is not None:
            return self._data[offset : offset + size]
        if self._error is not None and self._streams.corrupt(self.file.key) is None:
            # It failed for whoever read then; a read that comes later is another try.
            return self._streams.small(self.file, Urgency.DEMAND).read(handle, offset, size)
        future: Future[Got] = self._streams.waits.start(
            "reading a file", syn(self.file.entity), self._streams.wait_s
        )
        with self._lock:
            if not self._over:
                self._waiting.append((future, offset, size))
                self._streams.lane.hurry(self.errand, Urgency.DEMAND)
                return future
        self._answer(future, offset, size)
        return future

    def _answer(self, future: Future[Got], offset: int, size: int) -> None:
        if self._error is not None:
            fail(future, self._error)
        else:
            settle(future, (self._data or b"")[offset : offset + size])

    def when_done(self, done: Future[None]) -> None:
        with self._lock:
            if not self._stored:
                self._done.append(done)
                return
        error = self._not_stored
        fail(done, error) if error is not None else settle(done, None)

    @property
    def arrived(self) -> bool:
        """Whether the bytes are here, verified, stored or not."""
        return self._data is not None

    def close_handle(self, handle: int) -> None:
        """Nothing is kept per handle."""

    def abandon(self) -> None:
        """The daemon stops, and the lane has not begun this or has let go of it: nobody waits on."""
        error = Interrupted("the daemon is stopping")
        with self._lock:
            if self._over:
                return
            self._error, self._over = error, True
            waiting, self._waiting = self._waiting, []
        for future, offset, size in waiting:
            self._answer(future, offset, size)
        self._kept(error)

    # On the lane.

    async def _run(self) -> None:
        data: bytes | None = None
        error: SyndError | None = None
        try:
            data = await self._fetched()
        except SyndError as exception:
            error = exception
        except asyncio.CancelledError:
            error = Interrupted("the daemon is stopping")
        except Exception as exception:
            log.exception("fetch.failed")
            error = SyndError(f"fetching {syn(self.file.entity)} failed: {exception}")
        if data is None:
            # A reader that comes now begins a new fetch.
            self._streams.drop_small(self)
        with self._lock:
            self._data, self._error, self._over = data, error, True
            waiting, self._waiting = self._waiting, []
        for future, offset, size in waiting:
            self._answer(future, offset, size)
        if data is None or self._adopted:
            self._kept(error)
        else:
            self._streams.keeper.keep(self.file.key, data, self._kept)

    def _kept(self, error: SyndError | None) -> None:
        """The content is an object now, or will not be one: from here on readers ask the store."""
        self._streams.drop_small(self)
        with self._lock:
            self._stored = True
            self._not_stored = error
            done, self._done = self._done, []
        for one in done:
            fail(one, error) if error is not None else settle(one, None)
        if error is None and not self._adopted:
            self._streams.completed(self.file)

    async def _fetched(self) -> bytes:
        streams, file = self._streams, self.file
        size = file.size or 0
        # Whoever asked may have looked a moment before an earlier fetch was stored.
        fd = streams.objects.open(file.key, size)
        adopt = streams.adopt
        if (
            fd is None
            and adopt is not None
            and adopt.likely(file)
            and await asyncio.to_thread(adopt.take, file)
        ):
            fd = streams.objects.open(file.key, size)
        if fd is not None:
            with open(fd, "rb") as stored:  # noqa: ASYNC230 - a mebibyte at most
                self._adopted = True
                return stored.read()
        for attempt in (1, 2):
            data = await self._get(size)
            try:
                check_digest(file.key, md5_of_bytes(data))
            except IntegrityError as error:
                log.warning(
                    "content.mismatch",
                    extra={"fields": {"entity": syn(file.entity), "try": attempt}},
                )
                if attempt == 2:
                    raise streams.mark_corrupt(file) from error
                continue
            return data
        raise AssertionError("unreachable")

    async def _get(self, size: int) -> bytes:
        streams, file = self._streams, self.file
        if file.external_url is not None and is_drs(file.external_url):
            # Its host is asked first, in another thread too.
            return await asyncio.wrap_future(self._by_thread(size))
        deadline = Deadline.after(streams.wait_s, f"fetching {syn(file.entity)}")
        attempt = 0
        while True:
            # Not among what is tried again: the client has tried enough before it said no.
            url = await self._url(deadline)
            try:
                left = max(0.001, deadline.left_s())
                return await streams.getter.get(
                    url, size, connect_s=min(left, streams.connect_s), read_s=left
                )
            except NotPlain:
                return await asyncio.wrap_future(self._by_thread(size))
            except (Interrupted, Offline) as error:
                attempt += 1
                if isinstance(error, Offline) and file.handle is not None:
                    # The service may name another place than one that cannot be reached.
                    streams.urls.drop(FileRef(file.handle, file.entity), url)
                wait = POLICY.wait_s(error, attempt, deadline)
                if wait is None:
                    # Silence up to the end is told as such.
                    deadline.check()
                    raise
                await asyncio.sleep(wait)

    async def _url(self, deadline: Deadline) -> str:
        file = self.file
        if file.store is Store.EXTERNAL and file.external_url is not None:
            return file.external_url
        assert file.handle is not None
        future = self._streams.urls.want([FileRef(file.handle, file.entity)])[0]
        if future.done():
            return future.result()
        # Shielded: others may wait for the same URL.
        waiting = asyncio.shield(asyncio.wrap_future(future))
        try:
            return await asyncio.wait_for(waiting, deadline.left_s())
        except TimeoutError as error:
            raise DeadlineExceeded(f"no download URL for {syn(file.entity)} in time") from error

    def _by_thread(self, size: int) -> Future[bytes]:
        """The bytes by the blocking client, which knows redirects, proxies and expired URLs."""
        streams = self._streams
        future: Future[bytes] = Future()

        def fetch() -> None:
            buffer = bytearray(size)

            def keep(offset: int, piece: memoryview) -> None:
                buffer[offset : offset + len(piece)] = piece

            try:
                streams.fetch(self.file, 0, size, keep, cancelled=lambda: streams.closed)
            except SyndError as error:
                fail(future, error)
            except BaseException as error:
                fail(future, error)
                raise
            else:
                settle(future, bytes(buffer))

        streams.pool.submit(Task(fetch, Urgency.DEMAND))
        return future
