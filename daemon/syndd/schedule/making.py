"""The job that makes a file readable by region: its source fetched, a worker run, what it made kept and recorded.

Leaves formats to `synd.processors`, the worker process to `pool`, the job's life to `dispatch`, and who wants
it to `preparing`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from synd.cache.folder import Cache
from synd.cache.objects import How
from synd.clock import SYSTEM, Clock
from synd.digest import md5_of_file
from synd.errors import StageFailed
from synd.ids import ContentKey, EntityId, FileHandleId, Md5, Version, syn
from synd.jobs.failures import Failure
from synd.jobs.model import Job
from synd.jobs.retries import capped
from synd.model import FileVersion
from synd.model import Store as Place
from synd.processors.base import SYNAPSE, ArtifactKind, Caps, Source, Stored
from synd.processors.detect import Format, name_format
from synd.processors.stages import Order
from synd.store.artifacts import ArtifactRow, put_artifact
from syndd.schedule.executor import Executor
from syndd.schedule.known import Known
from syndd.schedule.running import Run
from syndd.schedule.sources import Sources


class Maker:
    """Runs these jobs. On the daemon's loop."""

    def __init__(
        self,
        known: Known,
        cache: Cache,
        sources: Sources,
        pool: Executor,
        clock: Clock = SYSTEM,
    ) -> None:
        self._known = known
        self._cache = cache
        self._sources = sources
        self._pool = pool
        self._clock = clock

    async def run(self, job: Job, run: Run) -> Mapping[str, object]:
        """Both artifacts of the job's file; the job's result. Raises StageFailed, and what fetching raises."""
        file, name, hint = file_of(job.arguments)
        assert file.md5 is not None  # `want` claims for nothing else
        source = Source(SYNAPSE, syn(file.entity), file.md5, name, file.size or 0, hint)
        pair = await asyncio.to_thread(self._known.look, file, name)
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
                caps=_caps(self._known.settings.caps, job, self._cache.usage().keep_free_bytes),
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
            processor = self._known.select(Format(format)) if format else None
            if processor is not None:
                who = f"{processor.id}/{format}"
                await self._known.remember(file, error, who, processor.version)
            raise
        finally:
            for key in held:
                self._cache.release(key)
        run.progress(source.size, source.size)
        await self._known.forget(file.md5, f"{done.get('processor')}/{done.get('format')}")
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
        processor = self._known.select(Format(event["format"]))
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


def arguments_of(file: FileVersion, name: str, hint: str, format: Format) -> dict[str, object]:
    """What a job must know of its file; `file_of` reads it."""
    return {
        "entity": file.entity,
        "version": file.version,
        "handle": file.handle,
        "md5": file.md5,
        "size": file.size,
        "name": name,
        "hint": hint,
        "format": str(format),
        "store": file.store,
        "url": file.external_url,
    }


def file_of(arguments: Mapping[str, object]) -> tuple[FileVersion, str, str]:
    """A job's file, its name, and the format that was proposed for it."""
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


def _caps(caps: Caps, job: Job, reserve_bytes: int) -> Caps:
    """Those of the job: its predecessor may have run out of memory. A small disk reserves less than it should."""
    found: dict[str, Any] = capped(asdict(caps), job.arguments)
    return replace(Caps(**found), reserve_bytes=min(caps.reserve_bytes, reserve_bytes))


def _memory_bytes(caps: Caps) -> int:
    """Twice what a job should need (the formula in docs/formats.md)."""
    most = max(caps.sort_memory_bytes, caps.samtools_memory_bytes * caps.tool_threads)
    return 2 * (most * 6 // 5 + (40 << 20)) + (256 << 20)
