"""Makes files readable by region: what there is of a file's artifacts, and the jobs that make them.

Leaves formats to `synd.processors`, the worker process to `pool`, and the job's life to `dispatch`. The
artifacts' bytes are objects of the cache, by the md5 of their own bytes, so they are read, evicted and
checked as all else there; what is evicted counts as not made.

Looking never starts anything and asks nobody; `want` may read a file's first bytes, and claims a job.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from synd.cache.folder import Cache
from synd.cache.objects import How
from synd.clock import NS, SYSTEM, Clock
from synd.config import Config, size_bytes
from synd.digest import md5_of_file
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
from synd.ids import ContentKey, EntityId, FileHandleId, Md5, Version, syn
from synd.jobs.failures import Failure
from synd.jobs.model import Job, Priority
from synd.jobs.retries import capped
from synd.log import fields
from synd.model import FileVersion
from synd.model import Store as Place
from synd.processors.base import (
    PIPELINE_VERSION,
    SYNAPSE,
    ArtifactKind,
    Caps,
    Processor,
    Source,
    Stored,
    Tools,
)
from synd.processors.containers import Container
from synd.processors.detect import (
    HEAD_BYTES,
    Detected,
    Format,
    claimed,
    detect,
    holds_for,
    name_format,
)
from synd.processors.intervals import GtfAsGff3
from synd.processors.keys import workflow_key
from synd.processors.select import PROCESSORS, select
from synd.processors.stages import Order
from synd.store.artifacts import (
    ArtifactRow,
    Artifacts,
    RefusalRow,
    forget_refusal,
    put_artifact,
    put_refusal,
)
from synd.store.connect import Store
from synd.store.entities import Row
from syndd.schedule.beside import Beside, Found
from syndd.schedule.dispatch import Dispatcher
from syndd.schedule.executor import MOST, Executor
from syndd.schedule.running import InWriter, Kind, Run
from syndd.schedule.sources import Sources

log = logging.getLogger(__name__)

KIND = "preprocess"
VERSIONS = frozenset((one.id, one.version) for one in (GtfAsGff3(), *PROCESSORS))


@dataclass(frozen=True, slots=True)
class Ready:
    """An artifact that can be read now."""

    kind: ArtifactKind
    content: ContentKey
    size: int
    digest: str
    suffix: str
    alias: bool
    """It is the source itself."""
    format: str
    """What the source was found to be."""
    extra: Mapping[str, tuple[str, int]]


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes that can be served: of an artifact, or of the file itself."""

    key: ContentKey
    size: int
    etag: str
    """Strong: names the very bytes."""
    media: str
    name: str
    source: FileVersion | None = None
    """The bytes are this file's, which may have to be fetched."""


@dataclass(frozen=True, slots=True)
class NothingToMake:
    """The file is served as it is, and has no index."""

    why: str


@dataclass(frozen=True, slots=True)
class Pair:
    """What there is of one source."""

    data: Ready | None
    index: Ready | None


class Head(Protocol):
    """Reads the first bytes of a file: from the cache, or asks for them."""

    def __call__(self, file: FileVersion, size: int, /) -> Awaitable[bytes]: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How jobs are run; the names are those of the configuration."""

    caps: Caps
    jobs: int = 1
    timeout_s: float = 14_400.0
    stall_s: float = 900.0
    queue_max: int = 1000
    negative_ttl_s: float = 86_400.0
    off: bool = False
    """Nothing is made, and nothing that was made is served."""


def settings(config: Config) -> Settings:
    """What the configuration says about preprocessing."""
    cores = len(os.sched_getaffinity(0))
    # A cluster runs as many as it has workers for.
    jobs = config.jobs or (MOST if config.engine == "dask" else max(1, cores // 2))
    return Settings(
        caps=Caps(
            sort_memory_bytes=size_bytes(config.sort_memory),
            samtools_memory_bytes=size_bytes(config.samtools_memory),
            tool_threads=config.tool_threads or (2 if jobs == 1 and cores > 1 else 1),
            bgzf_level=config.bgzf_level,
            tools=Tools(config.tools),
            gtf_as_gff3=config.gtf == "gff3",
            verify_full=config.verify == "full",
            reserve_bytes=config.cache_keep_free_bytes,
        ),
        jobs=jobs,
        timeout_s=config.job_timeout,
        stall_s=config.stall,
        queue_max=config.queue_max,
        negative_ttl_s=config.negative_ttl,
        off=config.engine == "off",
    )


class Preparer:
    """On the daemon's loop, but for `look`, which any thread may call."""

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
        self._rows = Artifacts(store)
        self._store = store
        self._cache = cache
        self._sources = sources
        self._beside = beside
        self._dispatcher = dispatcher
        self._pool = pool
        self._write = write
        self._settings = settings
        self._read_head = read_head or sources.head
        self._clock = clock
        dispatcher.register(
            KIND,
            Kind(
                self._run,
                limit=settings.jobs,
                timeout_s=settings.timeout_s,
                stall_s=settings.stall_s,
                most=settings.queue_max,
                ready=lambda: not settings.off and pool.ready(dispatcher.count(KIND)),
            ),
        )

    # Looking.

    @property
    def off(self) -> bool:
        """Whether files are served as they are."""
        return self._settings.off

    @property
    def gtf_as_gff3(self) -> bool:
        return self._settings.caps.gtf_as_gff3

    def look(self, file: FileVersion, name: str) -> Pair:
        """What of a file's artifacts can be read now. Asks nobody, starts nothing.

        What was made of the same bytes for another file serves, unless they mean another thing under this name.
        """
        own = f"{SYNAPSE}/{syn(file.entity)}/"
        return _pair(
            self._made(
                file, lambda row: holds_for(row.format, name, own=row.cache_key.startswith(own))
            )
        )

    def _made(
        self, file: FileVersion, fits: Callable[[ArtifactRow], bool]
    ) -> tuple[ArtifactRow | None, ArtifactRow | None]:
        """Data and index of these bytes that are here: a pair, or the data alone, or nothing."""
        if file.md5 is None or self._settings.off:
            return None, None
        rows = [
            row
            for row in self._rows.of_content(file.md5, VERSIONS)
            if self._uses(row.processor, row.format) and fits(row) and self._is_here(row, file)
        ]
        alone = None
        for data in rows:
            if data.kind != ArtifactKind.DATA:
                continue
            for row in rows:
                # Offsets of an index hold for the very bytes that it was built from.
                if (
                    row.kind == ArtifactKind.INDEX
                    and row.processor == data.processor
                    and row.of_digest == data.digest
                ):
                    return data, row
            alone = alone or data
        return alone, None

    def _uses(self, processor: str, format: str) -> bool:
        """Whether that processor is the one for the format here: GTF has two, and a setting chooses."""
        chosen = self._select(Format(format)) if format else None
        return chosen is None or chosen.id == processor

    def _is_here(self, row: ArtifactRow, file: FileVersion) -> bool:
        if row.alias_of == "source":
            return row.content == file.key
        return self._cache.has(ContentKey(row.content), row.size) and all(
            self._cache.has(ContentKey(key), size) for key, size in row.extra.values()
        )

    def refused(
        self, file: FileVersion, name: str, format: Format | None = None
    ) -> StageFailed | None:
        """Why a file's bytes cannot be processed under that name, when that was found lately. `format`: what they were
        just found to be; left out, the name tells it as far as it can.
        """
        if file.md5 is None:
            return None
        since = self._clock.now_ns() - round(self._settings.negative_ttl_s * NS)
        for row in self._rows.refusals(file.md5, VERSIONS, since):
            if row.who and not self._uses(row.who, row.format):
                continue
            if not row.who:
                holds = format is None and row.format == name_format(name)
            elif format is None:
                holds = holds_for(row.format, name)
            else:
                holds = row.format == format
            if holds:
                break
        else:
            return None
        return StageFailed(
            row.message, failure=row.failure, bad_line=row.bad_line, entity=syn(file.entity),
            # Without a processor there was no job either, that could be tried again.
            hint="the file itself can be read as it is" + "; `synd retry` tries again" * bool(row.who),
        )  # fmt: skip

    # Asking for it.

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
        pair = await asyncio.to_thread(self.look, file, name)
        if pair.data is not None and pair.index is not None:
            return pair
        error = await asyncio.to_thread(self.refused, file, name)
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
                await self._remember(file, refused, f"/{name_format(name)}", 0)
            raise
        except (Forbidden, NotFound, NotLoggedIn, NotSupported, Busy):
            raise
        except SyndError as away:
            if isinstance(away, Offline) and priority is Priority.READER:
                # Who reads is told at once, as of every file whose bytes are not here.
                raise
            # Tried again by the job, as long as the name says that there is something to make.
            detected = Detected(Format(claimed(name, hint) or Format.OPAQUE), Container.NONE, "")
            processor = self._select(detected.format)
            if processor is None or not processor.needs_processing(detected):
                raise
            log.info("source.away", extra=fields(entity=source.id, why=away.message))
        else:
            processor = self._select(detected.format)
            if processor is None or not processor.needs_processing(detected):
                return NothingToMake(f"{detected.format} files are read as they are")
            error = await asyncio.to_thread(self.refused, file, name, detected.format)
            if error is not None:
                raise error
            shared = await self._share(file, source, processor, detected)
            if shared is not None:
                return shared
            if self._beside is not None:
                found = await self._beside.find(file, name, detected, head)
                if found is not None:
                    return await self._take(file, source, processor, detected, found)
        arguments: dict[str, object] = {
            "entity": file.entity,
            "version": file.version,
            "handle": file.handle,
            "md5": file.md5,
            "size": file.size,
            "name": name,
            "hint": hint,
            "format": str(detected.format),
            "store": file.store,
            "url": file.external_url,
        }
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

        return await self._put(data, index)

    async def _share(
        self, file: FileVersion, source: Source, processor: Processor, detected: Detected
    ) -> Pair | None:
        """What was made of the same bytes under a name that did not tell their format, recorded for this file too."""
        format = str(detected.format)
        data, index = await asyncio.to_thread(self._made, file, lambda row: row.format == format)
        if data is None or index is None or data.processor != processor.id:
            return None
        return await self._put(
            data._replace(cache_key=processor.cache_key(source, ArtifactKind.DATA)),
            index._replace(cache_key=processor.cache_key(source, ArtifactKind.INDEX)),
        )

    async def _put(self, data: ArtifactRow, index: ArtifactRow) -> Pair:
        def write() -> None:
            with self._store.write() as tx:
                put_artifact(tx, data)
                put_artifact(tx, index)

        await self._write(write)
        return _pair((data, index))

    async def beside(self, file: FileVersion, name: str) -> Row | None:
        """The file that lies beside another as its index, whatever it holds; None: there is none."""
        format = name_format(name)
        if self._beside is None or not format:
            return None
        return await self._beside.raw(file, name, Format(format))

    def _select(self, format: Format) -> Processor | None:
        return select(format, ArtifactKind.DATA, gtf_as_gff3=self.gtf_as_gff3)

    async def _remember(
        self, file: FileVersion, error: StageFailed, processor: str, version: int
    ) -> None:
        try:
            of_content = Failure(error.failure).meaning.of_content
        except ValueError:
            return
        if not of_content or file.md5 is None:
            return
        row = RefusalRow(
            file.md5, processor, version, error.failure, error.message, error.bad_line,
            self._clock.now_ns(),
        )  # fmt: skip

        def write() -> None:
            with self._store.write() as tx:
                put_refusal(tx, row)

        await self._write(write)

    async def _forget(self, md5: Md5, who: str) -> None:
        """Somebody asked again, and it went well: what was made may be evicted, and is made again then."""
        known = await asyncio.to_thread(self._rows.refusals, md5, VERSIONS, 0)
        if all(row.processor != who for row in known):
            return

        def write() -> None:
            with self._store.write() as tx:
                forget_refusal(tx, md5, who)

        await self._write(write)

    # Making it.

    async def _run(self, job: Job, run: Run) -> Mapping[str, object]:
        file, name, hint = _file_of(job.arguments)
        assert file.md5 is not None  # `want` claims for nothing else
        source = Source(SYNAPSE, syn(file.entity), file.md5, name, file.size or 0, hint)
        pair = await asyncio.to_thread(self.look, file, name)
        if pair.data is not None and pair.index is not None:
            # Its predecessor died after its last word but one.
            run.progress(source.size, source.size)
            return {"format": pair.data.format, "processor": "", "work": "none"}
        made = None if pair.data is None or pair.data.alias else pair.data
        held = [file.key] if made is None else [file.key, made.content]
        for key in held:
            self._cache.hold(key)
        try:
            if made is None and not self._pool.fetches:
                await self._sources.fetch(file, run)
            stored = {}
            if pair.data is not None:
                # An alias has no bytes but the source's, which are looked at by themselves.
                at = self._cache.objects.path(made.content) if made is not None else None
                stored[ArtifactKind.DATA] = Stored(
                    pair.data.digest, pair.data.size, at, format=pair.data.format
                )
            order = Order(
                job=job.id,
                source=source,
                folder=self._pool.folder(job.id),
                path=self._cache.objects.path(file.key),
                stored=stored,
                caps=_caps(self._settings.caps, job, self._cache.usage().keep_free_bytes),
            )
            done = await self._pool.run(
                job.id,
                order.document(),
                run,
                on_stage=lambda event: self._stage_done(file, job, run, event),
                memory_bytes=_memory_bytes(order.caps),
                address=lambda: self._sources.address(file),
            )
        except StageFailed as error:
            format = str(job.arguments.get("format") or name_format(name))
            processor = self._select(Format(format)) if format else None
            if processor is not None:
                who = f"{processor.id}/{format}"
                await self._remember(file, error, who, processor.version)
            raise
        finally:
            for key in held:
                self._cache.release(key)
        run.progress(source.size, source.size)
        await self._forget(file.md5, f"{done.get('processor')}/{done.get('format')}")
        return {name: done.get(name) for name in ("format", "processor", "work")}

    async def _stage_done(
        self, file: FileVersion, job: Job, run: Run, event: Mapping[str, Any]
    ) -> None:
        """Keeps what a stage made, then records it; a replaced worker's work is dropped by the fence."""
        if event.get("kind") is None:
            await run.stage_done(str(event["stage"]))
            return
        row = await asyncio.to_thread(self._keep, file, job, event)
        await run.stage_done(str(event["stage"]), [row.cache_key], lambda tx: put_artifact(tx, row))

    def _keep(self, file: FileVersion, job: Job, event: Mapping[str, Any]) -> ArtifactRow:
        """The row of what a stage made, whose bytes are objects now. Cost: a read of them."""
        folder = self._pool.folder(job.id)
        kind = ArtifactKind(event["kind"])
        processor = self._select(Format(event["format"]))
        assert processor is not None  # it has just made this
        assert file.md5 is not None
        source = Source(SYNAPSE, syn(file.entity), file.md5, "", file.size or 0)
        content = file.key
        if event.get("file"):
            content = self._adopt(folder / event["file"])
        extra = {
            suffix: (self._adopt(folder / name), (folder / name).stat().st_size)
            for suffix, name in (event.get("extra") or {}).items()
        }
        now = self._clock.now_ns()
        return ArtifactRow(
            cache_key=processor.cache_key(source, kind),
            md5=file.md5,
            processor=processor.id,
            processor_version=processor.version,
            kind=str(kind),
            alias_of=event.get("alias_of") or "",
            digest=event["digest"],
            of_digest=event.get("of_digest") or "",
            size=event["size"],
            records=event.get("records"),
            suffix=event.get("suffix") or "",
            toolchain=event.get("toolchain") or "",
            content=content,
            format=event.get("format") or "",
            extra=extra,
            job=job.id,
            created_ns=now,
            used_ns=now,
        )

    def _adopt(self, path: Path) -> ContentKey:
        key = ContentKey(md5_of_file(path))
        if not self._cache.objects.adopt_file(key, path, How.HARDLINK):
            raise StageFailed("what was made is gone", failure=Failure.INTERNAL)
        return key


def _pair(rows: tuple[ArtifactRow | None, ArtifactRow | None]) -> Pair:
    data, index = rows
    return Pair(
        None if data is None else _ready(data),
        None if index is None else _ready(index),
    )


def _ready(row: ArtifactRow) -> Ready:
    return Ready(
        kind=ArtifactKind(row.kind),
        content=ContentKey(row.content),
        size=row.size,
        digest=row.digest,
        suffix=row.suffix,
        alias=row.alias_of == "source",
        format=row.format,
        extra=row.extra,
    )


def _caps(caps: Caps, job: Job, reserve_bytes: int) -> Caps:
    """Those of the job: its predecessor may have run out of memory. A small disk reserves less than it should."""
    found: dict[str, Any] = capped(asdict(caps), job.arguments)
    return replace(Caps(**found), reserve_bytes=min(caps.reserve_bytes, reserve_bytes))


def _memory_bytes(caps: Caps) -> int:
    """Twice what a job should need (the formula in docs/formats.md)."""
    most = max(caps.sort_memory_bytes, caps.samtools_memory_bytes * caps.tool_threads)
    return 2 * (most * 6 // 5 + (40 << 20)) + (256 << 20)


def _file_of(arguments: Mapping[str, object]) -> tuple[FileVersion, str, str]:
    told: dict[str, Any] = dict(arguments)
    name = str(told["name"])
    file = FileVersion(
        entity=EntityId(told["entity"]),
        version=Version(told["version"]),
        handle=None if told["handle"] is None else FileHandleId(told["handle"]),
        md5=Md5(told["md5"]),
        size=told["size"],
        name=name,
        store=Place(told.get("store") or Place.S3),
        external_url=told.get("url"),
    )
    return file, name, str(told.get("hint") or "")
