"""Who wants a file readable by region gets it: what was made serves, or a job is claimed that makes it.

Leaves what there is to `known`, the job itself to `making`, and its life to `dispatch`. `want` may read a
file's first bytes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Protocol

from synd.cache.folder import Cache
from synd.clock import SYSTEM, Clock
from synd.errors import (
    Busy,
    Forbidden,
    NotFound,
    NotLoggedIn,
    NotSupported,
    Offline,
    StageFailed,
    SyndError,
)
from synd.ids import syn
from synd.jobs.model import Job, Priority
from synd.log import fields
from synd.model import FileVersion
from synd.processors.base import PIPELINE_VERSION, SYNAPSE, ArtifactKind, Processor, Source
from synd.processors.containers import Container
from synd.processors.detect import HEAD_BYTES, Detected, Format, claimed, detect, name_format
from synd.processors.keys import workflow_key
from synd.store.artifacts import ArtifactRow
from synd.store.connect import Store
from synd.store.entities import Row
from syndd.schedule.beside import Beside, Found
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.executor import Executor
from syndd.schedule.known import Known, NothingToMake, Pair, Settings
from syndd.schedule.making import Maker, arguments_of
from syndd.schedule.running import InWriter, Kind
from syndd.schedule.sources import Sources

log = logging.getLogger(__name__)

KIND = "preprocess"


class Head(Protocol):
    """Reads the first bytes of a file: from the cache, or asks for them."""

    def __call__(self, file: FileVersion, size: int, /) -> Awaitable[bytes]: ...


class Preparer:
    """On the daemon's loop, but for `look` and `refused`, which any thread may call."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        sources: Sources,
        dispatcher: Dispatcher,
        pool: Executor,
        write: InWriter,
        settings: Settings,
        *,
        read_head: Head | None = None,
        beside: Beside | None = None,
        clock: Clock = SYSTEM,
    ) -> None:
        self._known = Known(store, cache, write, settings, clock)
        self._beside = beside
        self._dispatcher = dispatcher
        self._write = write
        self._settings = settings
        self._read_head = read_head or sources.head
        self._clock = clock
        dispatcher.register(
            KIND,
            Kind(
                Maker(self._known, cache, sources, pool, clock).run,
                limit=settings.jobs,
                timeout_s=settings.timeout_s,
                stall_s=settings.stall_s,
                most=settings.queue_max,
                ready=lambda: not settings.off and pool.ready(dispatcher.count(KIND)),
            ),
        )
        self.look = self._known.look
        self.refused = self._known.refused

    @property
    def off(self) -> bool:
        """Whether files are served as they are."""
        return self._known.off

    @property
    def gtf_as_gff3(self) -> bool:
        return self._known.gtf_as_gff3

    async def want(
        self,
        file: FileVersion,
        name: str,
        *,
        hint: str = "",
        priority: Priority = Priority.ASKED,
    ) -> Pair | Job | NothingToMake:
        """Both artifacts when they are there; else the job that makes them, which all who ask share.

        Raises StageFailed (its content cannot be processed), QueueFull, Draining, and Forbidden or NotFound when its
        first bytes are refused; Offline to a reader. What else keeps them away is the job's to try again.
        """
        if self._settings.off:
            return NothingToMake("preprocessing is off (engine = off)")
        if file.md5 is None:
            return NothingToMake("the service does not know its md5")
        pair = await asyncio.to_thread(self._known.look, file, name)
        if pair.data is not None and pair.index is not None:
            return pair
        error = await asyncio.to_thread(self._known.refused, file, name)
        if error is not None:
            raise error
        source = Source(SYNAPSE, syn(file.entity), file.md5, name, file.size or 0, hint)
        if not source.size:
            return NothingToMake("it is empty")
        key = workflow_key(source.namespace, source.id, source.md5, PIPELINE_VERSION)
        try:
            head = await self._read_head(file, HEAD_BYTES)
            detected = detect(name, head, hint=hint)
        except StageFailed as refused:
            if name_format(name) or not hint:
                # Under the same name another file may have another hint.
                await self._known.remember(file, refused, f"/{name_format(name)}", 0)
            raise
        except (Forbidden, NotFound, NotLoggedIn, NotSupported, Busy):
            raise
        except SyndError as away:
            if isinstance(away, Offline) and priority is Priority.READER:
                # Who reads is told at once, as of every file whose bytes are not here.
                raise
            # Tried again by the job, as long as the name says that there is something to make.
            detected = Detected(Format(claimed(name, hint) or Format.OPAQUE), Container.NONE, "")
            processor = self._known.select(detected.format)
            if processor is None or not processor.needs_processing(detected):
                raise
            log.info("source.away", extra=fields(entity=source.id, why=away.message))
        else:
            processor = self._known.select(detected.format)
            if processor is None or not processor.needs_processing(detected):
                return NothingToMake(f"{detected.format} files are read as they are")
            error = await asyncio.to_thread(self._known.refused, file, name, detected.format)
            if error is not None:
                raise error
            shared = await self._share(file, source, processor, detected)
            if shared is not None:
                return shared
            if self._beside is not None:
                found = await self._beside.find(file, name, detected, head)
                if found is not None:
                    return await self._take(file, source, processor, detected, found)
        arguments = arguments_of(file, name, hint, detected.format)
        claim = await self._write(
            lambda: self._dispatcher.claim(
                KIND, name, arguments, workflow_key=key, priority=priority
            )
        )
        return claim.job

    async def _take(
        self, file: FileVersion, source: Source, processor: Processor, detected: Detected,
        found: Found,
    ) -> Pair:  # fmt: skip
        """Records that the file itself serves, with an index that lies beside it."""
        assert file.md5 is not None  # asked before
        now = self._clock.now_ns()
        data = ArtifactRow(
            cache_key=processor.cache_key(source, ArtifactKind.DATA), md5=file.md5,
            processor=processor.id, processor_version=processor.version,
            kind=str(ArtifactKind.DATA), alias_of="source", digest=f"md5:{file.md5}", of_digest="",
            size=source.size, records=None, suffix="", toolchain="", content=file.key,
            format=str(detected.format), extra={}, job="", created_ns=now, used_ns=now,
        )  # fmt: skip
        index = data._replace(
            cache_key=processor.cache_key(source, ArtifactKind.INDEX),
            kind=str(ArtifactKind.INDEX), alias_of=syn(found.file.entity), digest=found.digest,
            of_digest=data.digest, size=found.file.size or 0, suffix=found.suffix,
            content=found.file.key, extra=found.extra,
        )  # fmt: skip

        return await self._known.put(data, index)

    async def _share(
        self, file: FileVersion, source: Source, processor: Processor, detected: Detected
    ) -> Pair | None:
        """What was made of the same bytes under a name that did not tell their format, recorded for this file too."""
        format = str(detected.format)
        data, index = await asyncio.to_thread(
            self._known.made, file, lambda row: row.format == format
        )
        if data is None or index is None or data.processor != processor.id:
            return None
        return await self._known.put(
            data._replace(cache_key=processor.cache_key(source, ArtifactKind.DATA)),
            index._replace(cache_key=processor.cache_key(source, ArtifactKind.INDEX)),
        )

    async def beside(self, file: FileVersion, name: str) -> Row | None:
        """The file that lies beside another as its index, whatever it holds; None: there is none."""
        format = name_format(name)
        if self._beside is None or not format:
            return None
        return await self._beside.raw(file, name, Format(format))
