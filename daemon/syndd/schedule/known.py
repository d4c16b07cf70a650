"""What is known of a file's artifacts: what was made and can be read now, and why nothing could be made.

The artifacts' bytes are objects of the cache, by the md5 of their own bytes, so they are read, evicted and
checked as all else there; what is evicted counts as not made. Looking never starts anything and asks nobody.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from synd.cache.folder import Cache
from synd.clock import NS, SYSTEM, Clock
from synd.config import Config, size_bytes
from synd.errors import StageFailed
from synd.ids import ContentKey, Md5, syn
from synd.jobs.failures import Failure
from synd.model import FileVersion
from synd.processors.base import SYNAPSE, ArtifactKind, Caps, Processor, Tools
from synd.processors.detect import Format, holds_for, name_format
from synd.processors.intervals import GtfAsGff3
from synd.processors.select import PROCESSORS, select
from synd.store.artifacts import (
    ArtifactRow,
    Artifacts,
    RefusalRow,
    forget_refusal,
    put_artifact,
    put_refusal,
)
from synd.store.connect import Store
from syndd.schedule.executor import MOST
from syndd.schedule.running import InWriter

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


class Known:
    """Rows about artifacts, and about contents that were refused. Any thread, but for the coroutines."""

    def __init__(
        self,
        store: Store,
        cache: Cache,
        write: InWriter,
        settings: Settings,
        clock: Clock = SYSTEM,
    ) -> None:
        self.settings = settings
        self._rows = Artifacts(store)
        self._store = store
        self._cache = cache
        self._write = write
        self._clock = clock

    @property
    def off(self) -> bool:
        """Whether files are served as they are."""
        return self.settings.off

    @property
    def gtf_as_gff3(self) -> bool:
        return self.settings.caps.gtf_as_gff3

    def look(self, file: FileVersion, name: str) -> Pair:
        """What of a file's artifacts can be read now. Asks nobody, starts nothing.

        What was made of the same bytes for another file serves, unless they mean another thing under this name.
        """
        own = f"{SYNAPSE}/{syn(file.entity)}/"
        return pair_of(
            self.made(
                file, lambda row: holds_for(row.format, name, own=row.cache_key.startswith(own))
            )
        )

    def made(
        self, file: FileVersion, fits: Callable[[ArtifactRow], bool]
    ) -> tuple[ArtifactRow | None, ArtifactRow | None]:
        """Data and index of these bytes that are here: a pair, or the data alone, or nothing."""
        if file.md5 is None or self.settings.off:
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
        chosen = self.select(Format(format)) if format else None
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
        since = self._clock.now_ns() - round(self.settings.negative_ttl_s * NS)
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

    def select(self, format: Format) -> Processor | None:
        """What makes files of a format readable by region, as it is set here."""
        return select(format, ArtifactKind.DATA, gtf_as_gff3=self.gtf_as_gff3)

    async def put(self, data: ArtifactRow, index: ArtifactRow) -> Pair:
        """Records both."""

        def write() -> None:
            with self._store.write() as tx:
                put_artifact(tx, data)
                put_artifact(tx, index)

        await self._write(write)
        return pair_of((data, index))

    async def remember(
        self, file: FileVersion, error: StageFailed, processor: str, version: int
    ) -> None:
        """Keeps why content cannot be processed, when that is the content's own fault."""
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

    async def forget(self, md5: Md5, who: str) -> None:
        """Somebody asked again, and it went well: what was made may be evicted, and is made again then."""
        known = await asyncio.to_thread(self._rows.refusals, md5, VERSIONS, 0)
        if all(row.processor != who for row in known):
            return

        def write() -> None:
            with self._store.write() as tx:
                forget_refusal(tx, md5, who)

        await self._write(write)


def pair_of(rows: tuple[ArtifactRow | None, ArtifactRow | None]) -> Pair:
    """Rows of data and index, as what can be read."""
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
