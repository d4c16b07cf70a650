"""Files to the service: where to, what is known already, parts, and the handle (synapse-rest.md 4).

An upload is known there by what is told of it: name, size, md5, type, part size and place. All of these
follow from the content, so a repeated attempt (by another process, after a crash) finds the parts that
have arrived, and gets the finished handle again when only its answer was lost.

Requests count against the service's limits, parts do not: they go to storage, several at a time, from
worker threads (`synd.client.sender`), and small files in one piece from the event loop. How many at
once is bounded for the whole client.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

from synd.client import wire_changes
from synd.client.remote import Outgoing
from synd.client.storage import PARTS_AT_ONCE, NotPlainError, Source, Storage
from synd.client.transfer import Downloader, StorageBusy, UrlExpired
from synd.client.transport import Transport
from synd.client.wire import Json
from synd.client.wire_changes import Destination, UploadState
from synd.clock import SYSTEM, Clock, Deadline
from synd.digest import md5_of_bytes
from synd.errors import (
    IntegrityError,
    NotFound,
    NotSupported,
    RateLimited,
    RemoteUnavailable,
    SyndError,
    UsageError,
)
from synd.ids import EntityId, FileHandleId, Md5, syn
from synd.log import fields
from synd.paths import check_entity_name
from synd.retry import RetryPolicy

log = logging.getLogger(__name__)

MIN_PART: Final = 8 << 20
MAX_PART: Final = 64 << 20
"""Bytes. Each part costs a request, of which there are 600 a minute; an upload that is cut off loses what
is under way. So there are 64 parts of growing size, then more of this one."""

_USUAL_PARTS: Final = 64
_MAX_PARTS: Final = 1024
"""The service itself takes 10 000."""

SMALL: Final = 64 << 10
"""Bytes up to which a file goes out whole, from the event loop: a thread would cost more than it."""

ASK_FROM: Final = 256 << 10
"""Bytes from which the service is asked whether it has them. It costs a request where it has not, and saves
two besides the bytes where it has; smaller files are sent in the time that the question takes."""

_CANDIDATES: Final = 3
"""Entities with the same content that are looked at."""

_ADDING: Final = 4
"""Parts of one upload that may be with the service while further ones go to storage."""

_URLS_BYTES: Final = 1 << 30
_URLS_MAX: Final = 128
_URLS_LIFE_S: Final = 600.0
"""URLs live for 15 minutes from when they were made there."""

_OWN: Final = Destination("S3UploadDestination", None)
"""The service's own storage, which is what it takes where none is named."""

_DESTINATION_S: Final = 300.0
_STEP_S: Final = 300.0
"""Most of it may be spent waiting for a turn, when many uploads share the service's limits."""

_COMPLETE_S: Final = 900.0
"""Storage puts the parts together while we wait."""

_BASE_S: Final = 120.0
_SLOWEST: Final = 64 << 10
"""Bytes a second, by which an upload without a deadline of its own gets one."""

_ROUNDS: Final = 3
_TIMES_REFUSED: Final = 3


def part_size(size: int) -> int:
    """Bytes of each part but the last, in whole MiB. Says nothing but the size: see `upload_request`."""
    wanted = max(MIN_PART, min(MAX_PART, size / _USUAL_PARTS), size / _MAX_PARTS)
    return math.ceil(wanted / (1 << 20)) << 20


class Uploader:
    """Uploads of one client. Belongs to the client's event loop."""

    def __init__(
        self,
        transport: Transport,
        downloader: Downloader,
        *,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        clock: Clock = SYSTEM,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._transport = transport
        self._clock = clock
        self.policy = policy or RetryPolicy()
        self.storage = Storage(
            downloader, connect_timeout_s=connect_timeout_s, read_timeout_s=read_timeout_s
        )
        self._destinations: dict[EntityId, tuple[float, Destination]] = {}
        self._asking: dict[EntityId, asyncio.Task[Destination]] = {}

    async def aclose(self) -> None:
        """Parts under way are given up."""
        for task in list(self._asking.values()):
            task.cancel()
        await self.storage.aclose()

    async def upload(
        self,
        content: Outgoing,
        parent: EntityId | None,
        progress: Callable[[int], object] | None,
        deadline: Deadline | None,
    ) -> FileHandleId:
        """`Remote.upload`. Without a parent: into the service's own storage."""
        content = content._replace(name=check_entity_name(content.name))
        if content.size < 1:
            raise UsageError("the service keeps no empty files", path=str(content.path))
        deadline = deadline or Deadline.after(
            _BASE_S + content.size / _SLOWEST, f"uploading {content.name}", self._clock
        )
        source = Source(content)
        try:
            place = _OWN if parent is None else await self._destination(parent)
            if content.size >= ASK_FROM:
                handle = await self._copy(content, place, deadline)
                if handle is not None:
                    if progress is not None:
                        progress(content.size)
                    return handle
            return await _Upload(self, source, place, progress, deadline).run()
        finally:
            source.close()

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        deadline: Deadline,
        step_s: float = _STEP_S,
        service: str = "file",
        query: Mapping[str, object] | None = None,
        entity: str | None = None,
    ) -> Json:
        """One request, which may not take the whole upload's time."""
        step = deadline
        if deadline.left_s() > step_s:
            step = Deadline.after(step_s, f"{method} {path}", self._clock)
        return await self._transport.json(
            method, path, body, service=service, query=query, deadline=step, entity=entity
        )

    async def _destination(self, parent: EntityId) -> Destination:
        """Where the files of a folder go; asked for once in a while. Raises NotSupported."""
        known = self._destinations.get(parent)
        if known is None or known[0] < self._clock.monotonic():
            task = self._asking.get(parent)
            if task is None:
                task = asyncio.create_task(self._ask_destination(parent))
                self._asking[parent] = task
                task.add_done_callback(lambda _: self._asking.pop(parent, None))
            place = await asyncio.shield(task)
        else:
            place = known[1]
        if place.kind not in wire_changes.SENDABLE:
            raise NotSupported(
                f"files of {syn(parent)} are kept in a storage that synd cannot send to"
                f" ({place.kind or 'without a name'})",
                entity=syn(parent),
            )
        return place

    async def _ask_destination(self, parent: EntityId) -> Destination:
        answer = await self.json(
            "GET",
            f"/entity/{syn(parent)}/uploadDestination",
            deadline=Deadline.after(_STEP_S, "where to upload", self._clock),
            entity=syn(parent),
        )
        place = wire_changes.destination(answer)
        now = self._clock.monotonic()
        for old in [p for p, (until, _) in self._destinations.items() if until < now]:
            del self._destinations[old]
        self._destinations[parent] = (now + _DESTINATION_S, place)
        return place

    async def _copy(
        self, content: Outgoing, place: Destination, deadline: Deadline
    ) -> FileHandleId | None:
        """A handle of ours on bytes that the service has already; None when they must be sent."""
        try:
            found = wire_changes.same_content(
                await self.json(
                    "GET", f"/entity/md5/{content.md5}", service="repo", deadline=deadline
                )
            )
            for entity, version in found[:_CANDIDATES]:
                answer = await self.json(
                    "GET",
                    f"/entity/{syn(entity)}/version/{version}/filehandles",
                    service="repo",
                    deadline=deadline,
                )
                held = wire_changes.stored_copy(
                    entity, answer, content.md5, content.size, place.location
                )
                if held is None:
                    continue
                body = wire_changes.copy_request(held, content)
                made = wire_changes.copied(
                    await self.json("POST", "/filehandles/copy", body, deadline=deadline)
                )
                if made is not None:
                    log.debug("upload.copied", extra=fields(entity=syn(entity), bytes=content.size))
                    return made
        except SyndError as error:
            deadline.check()
            log.debug("upload.not_copied", extra=fields(why=type(error).__name__))
        return None


class _Upload:
    """One upload from the first request to its handle."""

    def __init__(
        self,
        uploader: Uploader,
        source: Source,
        place: Destination,
        progress: Callable[[int], object] | None,
        deadline: Deadline,
    ) -> None:
        self._uploader = uploader
        self._source = source
        self._progress = progress
        self._deadline = deadline
        self._part_size = part_size(source.size)
        self._count = -(-source.size // self._part_size)
        self._request = wire_changes.upload_request(source.content, self._part_size, place.location)
        self._told: set[int] = set()
        self._stop = threading.Event()

    async def run(self) -> FileHandleId:
        for round_ in range(_ROUNDS):
            last = round_ == _ROUNDS - 1
            state = await self._begin(restart=last)
            if state.handle is not None:
                self._tell(range(1, self._count + 1))
                return state.handle
            self._tell(n for n in range(1, self._count + 1) if state.parts[n - 1] == "1")
            try:
                await self._send_missing(state)
                if self._source.is_touched:
                    await self._uploader.storage.verify(self._source)
                return await self._complete(state)
            except (NotFound, UsageError) as error:
                # Another attempt has finished it, storage has forgotten it, or the parts do not make
                # up what was announced. Which one it is, the beginning tells.
                await self._uploader.storage.verify(self._source)
                if last:
                    raise IntegrityError(
                        f"the service does not take {self._source.content.name}: {error.message}",
                        path=str(self._source.content.path),
                    ) from error
                log.info("upload.again", extra=fields(why=error.message))
            finally:
                self._stop.set()
            self._stop = threading.Event()
        raise AssertionError("the last round returns or raises")

    async def _begin(self, *, restart: bool) -> UploadState:
        answer = await self._json(
            "POST", "/file/multipart", self._request, query={"forceRestart": restart}
        )
        return wire_changes.upload_state(answer, self._count)

    async def _complete(self, state: UploadState) -> FileHandleId:
        answer = await self._json("PUT", f"/file/multipart/{state.id}/complete", step_s=_COMPLETE_S)
        handle = wire_changes.upload_state(answer, self._count).handle
        if handle is None:
            raise RemoteUnavailable("the service has not put the file together yet")
        return handle

    async def _json(self, method: str, path: str, body: object = None, **more: Any) -> Json:
        return await self._uploader.json(method, path, body, deadline=self._deadline, **more)

    def _tell(self, numbers: Any) -> None:
        """Reports parts that need not be sent any more, each once."""
        for number in numbers:
            if number not in self._told:
                self._told.add(number)
                if self._progress is not None:
                    self._progress(self._extent(number)[1])

    def _extent(self, number: int) -> tuple[int, int]:
        """(first byte, bytes) of a part."""
        start = (number - 1) * self._part_size
        return start, min(self._part_size, self._source.size - start)

    async def _send_missing(self, state: UploadState) -> None:
        missing = deque(n for n in range(1, self._count + 1) if state.parts[n - 1] == "0")
        urls = _Urls(self._uploader, state.id, missing, self._part_size, self._deadline)
        if len(missing) == 1:
            await self._send_one(state, missing.popleft(), urls)
            return

        async def work() -> None:
            while missing:
                await self._send_one(state, missing.popleft(), urls)

        workers = min(len(missing), PARTS_AT_ONCE + _ADDING)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(workers):
                    group.create_task(work())
        except BaseExceptionGroup as failed:
            _raise_first(failed)

    async def _send_one(self, state: UploadState, number: int, urls: _Urls) -> None:
        """Sends a part and adds it, as often as makes sense."""
        before: Md5 | None = None
        refused = 0
        while True:
            md5 = await self._put(number, urls)
            if before is not None and md5 != before:
                raise self._source.changed()
            before = md5
            answer = await self._json(
                "PUT", f"/file/multipart/{state.id}/add/{number}", query={"partMD5Hex": md5}
            )
            why = wire_changes.part_refusal(answer)
            if why is None:
                self._tell((number,))
                return
            refused += 1
            log.info("upload.part_refused", extra=fields(part=number, why=why))
            if refused > _TIMES_REFUSED:
                raise IntegrityError(
                    f"part {number} of {self._source.content.name} is refused: {why}",
                    path=str(self._source.content.path),
                )

    async def _put(self, number: int, urls: _Urls) -> Md5:
        """The md5 of a part that storage has taken."""
        start, size = self._extent(number)
        expired = tries = 0
        while True:
            try:
                if self._source.size <= SMALL:
                    return await self._put_small(urls)
                async with self._uploader.storage.slots:
                    url, headers = await urls.get(number)
                    md5 = await self._uploader.storage.send_part(
                        self._source, url, headers, start, size, self._stop, self._deadline
                    )
                if self._count == 1 and md5 != self._source.content.md5:
                    raise self._source.changed()
                return md5
            except UrlExpired:
                expired += 1
                if expired > _TIMES_REFUSED:
                    raise
                urls.forget(number)
            except (RemoteUnavailable, RateLimited) as error:
                tries += 1
                asked_s = error.retry_after_s if isinstance(error, StorageBusy) else None
                wait = self._uploader.policy.wait_s(error, tries, self._deadline, asked_s=asked_s)
                if wait is None or self._uploader.storage.closed:
                    raise
                log.debug("upload.retry", extra=fields(part=number, why=type(error).__name__))
                await asyncio.sleep(wait)

    async def _put_small(self, urls: _Urls) -> Md5:
        content = self._source.content
        body = os.pread(self._source.fd, content.size + 1, 0)
        md5 = md5_of_bytes(body)
        if md5 != content.md5:
            raise self._source.changed()
        url, headers = await urls.get(1)
        try:
            await self._uploader.storage.send_small(url, headers, body, self._deadline)
        except NotPlainError:
            await self._uploader.storage.send_part(
                self._source, url, headers, 0, content.size, self._stop, self._deadline
            )
        return md5


class _Urls:
    """Part URLs of one upload, asked for in batches ahead of their use."""

    def __init__(
        self,
        uploader: Uploader,
        upload: str,
        ahead: deque[int],
        size: int,
        deadline: Deadline,
    ) -> None:
        self._uploader = uploader
        self._upload = upload
        self._ahead = ahead
        self._batch = max(PARTS_AT_ONCE, min(_URLS_MAX, _URLS_BYTES // size))
        self._deadline = deadline
        self._known: dict[int, tuple[str, dict[str, str]]] = {}
        self._given: dict[int, int] = {}
        """Part → batch that its last URL came from."""
        self._batches = 0
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self, number: int) -> tuple[str, dict[str, str]]:
        """A part's URL and the headers that it wants."""
        async with self._lock:
            now = asyncio.get_running_loop().time()
            if now - self._asked_at > _URLS_LIFE_S:
                self._known.clear()
            if number not in self._known:
                wanted = [number]
                for following in self._ahead:
                    if len(wanted) >= self._batch:
                        break
                    if following not in self._known:
                        wanted.append(following)
                answer = await self._uploader.json(
                    "POST",
                    f"/file/multipart/{self._upload}/presigned/url/batch",
                    {"uploadId": self._upload, "partNumbers": wanted},
                    deadline=self._deadline,
                )
                self._known.update(wire_changes.part_urls(answer))
                self._batches += 1
                self._asked_at = now
            if number not in self._known:
                raise NotFound(f"the service gives no URL for part {number}")
            self._given[number] = self._batches
            return self._known.pop(number)

    def forget(self, number: int) -> None:
        """Storage refused this part's URL: all that came before or with it are as old."""
        if self._given.get(number) == self._batches:
            self._known.clear()


def _raise_first(failed: BaseExceptionGroup[BaseException]) -> NoReturn:
    """Raises what made the others stop. A bug of ours goes before what it caused."""
    errors: list[BaseException] = []
    queue: list[BaseException] = [failed]
    while queue:
        one = queue.pop(0)
        if isinstance(one, BaseExceptionGroup):
            queue.extend(one.exceptions)
        else:
            errors.append(one)
    raise next((e for e in errors if not isinstance(e, SyndError)), errors[0])


class UploadCalls:
    """The part of `Remote` that sends bytes."""

    _uploader: Uploader

    async def upload(
        self,
        content: Outgoing,
        parent: EntityId,
        *,
        progress: Callable[[int], object] | None = None,
        deadline: Deadline | None = None,
    ) -> FileHandleId:
        return await self._uploader.upload(content, parent, progress, deadline)
