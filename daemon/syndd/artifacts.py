"""What the control API may ask of files made readable by region: their bytes, their state, their jobs.

Access is decided on the file that was asked for, before anything else. Leaves what there is and how it is
made to `schedule.preparing`, and HTTP to `control.data`. On the daemon's loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from concurrent.futures import Future

from synd.cache.folder import Cache
from synd.control import contract, ready
from synd.errors import (
    Busy,
    Draining,
    Forbidden,
    NotFound,
    NotSupported,
    QueueFull,
    StageFailed,
    SwitchedOff,
    SyndError,
    UsageError,
)
from synd.ids import ContentKey, syn
from synd.jobs.failures import failure_of
from synd.jobs.model import Job
from synd.mirror.external import Probe
from synd.mirror.sizes import Sizes
from synd.mirror.streams import Streams
from synd.model import WITH_BYTES, FileVersion, Kind, Store
from synd.processors.base import ArtifactKind, Tools
from synd.processors.detect import claimed, name_format
from synd.processors.select import formats_table
from synd.processors.tools import Toolchain
from synd.ranges import ByteRange, FileSlice
from synd.store.entities import Row
from syndd.mount.readynames import form_of
from syndd.mount.readystate import is_edited
from syndd.places import Places
from syndd.schedule.known import Content, NothingToMake, Pair, Ready
from syndd.schedule.preparing import KIND, Preparer
from syndd.schedule.showing import as_contract

CHUNK = 1 << 20
FORMAT_ANNOTATION = "fileFormat"
"""What Synapse projects call the annotation that names a file's format."""
AT_ONCE = 16
"""Files of one request whose first bytes are looked at together."""

_HANDLES = itertools.count(1 << 40)
"""Of reads for the control API; the kernel's are smaller, the preparer's negative."""


class ReadyFiles:
    """Artifacts of entities, for the control API."""

    def __init__(
        self,
        places: Places,
        sizes: Sizes,
        streams: Streams,
        cache: Cache,
        preparer: Preparer,
        tools: Tools,
    ) -> None:
        self._places = places
        self._sizes = sizes
        self._streams = streams
        self._cache = cache
        self._preparer = preparer
        self._tools = tools

    async def find(
        self,
        target: str,
        kind: ArtifactKind,
        *,
        raw: bool = False,
        start: bool = True,
        suffix: str = "",
    ) -> Content | contract.Job:
        """The bytes of an artifact, or the job that makes it. `suffix`: a further file that belongs to it.

        Raises NotFound: no such file, a file that has no such artifact, or, without `start`, one that is not
        made yet; Forbidden; StageFailed when its content cannot be processed; SwitchedOff; QueueFull; Draining.
        """
        row, file = await self._file(target)
        if raw:
            return await self._raw(row, file, kind)
        # A few reads of the store and of the cache's names: less than a thread costs.
        pair = self._preparer.look(file, row.name)
        if (pair.data if kind is ArtifactKind.DATA else pair.index) is not None:
            return self._content(row, file, pair, kind, suffix)
        if not start:
            return await self._unstarted(row, file, kind)
        wanted = await self._preparer.want(file, row.name, hint=self._hint(row))
        if isinstance(wanted, Job):
            return as_contract(wanted)
        if isinstance(wanted, NothingToMake):
            if self._preparer.off and kind is ArtifactKind.INDEX and self._makes(row):
                raise SwitchedOff(
                    f"no index of {row.name!r} is made here: {wanted.why}",
                    hint="an index that lies beside the file is read with raw=true",
                    entity=syn(row.id),
                )
            return await self._as_it_is(row, file, kind, wanted.why)
        return self._content(row, file, wanted, kind, suffix)

    async def readiness(self, target: str, kind: ArtifactKind) -> ready.Readiness:
        """Whether `find` would have bytes. Starts nothing. Raises NotFound for an index of what has none."""
        try:
            found = await self.find(target, kind, start=False)
        except NotFound as error:
            if isinstance(error, _NotMade):
                return {"ready": False}
            raise
        assert isinstance(found, Content)  # nothing was started
        return {"ready": True, "name": found.name}

    async def prepare(self, targets: Sequence[str]) -> ready.Prepared:
        """Claims a job for each file that needs one; of a folder, for each below it whose name says so.

        Raises NotFound when there is no such file, Busy for bytes that are not on the service yet, and QueueFull or Draining when no job could be made for any.
        """
        if not targets:
            raise UsageError("nothing was named to be prepared")
        found: ready.Prepared = {
            "jobs": [], "ready": [], "as_they_are": [], "failed": [], "refused": [],
        }  # fmt: skip
        files = [one for target in targets for one in await self._files(target)]
        slots = asyncio.Semaphore(AT_ONCE)

        async def want(row: Row, file: FileVersion) -> Pair | Job | NothingToMake | SyndError:
            async with slots:
                try:
                    return await self._preparer.want(file, row.name, hint=self._hint(row))
                except (StageFailed, Forbidden, NotFound, QueueFull, Draining) as error:
                    return error

        outcomes = await asyncio.gather(*(want(row, file) for row, file in files))
        for (row, _), wanted in zip(files, outcomes, strict=True):
            path = self._places.shown_entity(row.id)
            match wanted:
                case Job():
                    found["jobs"].append(as_contract(wanted))
                case NothingToMake():
                    found["as_they_are"].append({"path": path, "reason": wanted.why})
                case Pair():
                    found["ready"].append(path)
                case QueueFull() | Draining():
                    found["refused"].append(
                        {"path": path, "type": type(wanted).__name__, "reason": wanted.message}
                    )
                case _:
                    found["failed"].append(
                        {"path": path, "failure": failure_of(wanted), "reason": wanted.message}
                    )
        busy = [one for one in outcomes if isinstance(one, Busy)]
        if busy and len(busy) == len(files):
            raise busy[-1]
        return found

    def why(self, row: Row, jobs: Sequence[contract.WhyJob]) -> list[contract.WhyJob]:
        """`jobs` of a file, without those that somebody else's made needless, and with the reason why its content
        cannot be prepared, when that was found without one. Any thread.
        """
        if row.key is None or row.md5 is None:
            return [*jobs]
        file = row.file()
        pair = self._preparer.look(file, row.name)
        if pair.data is not None and pair.index is not None:
            return [job for job in jobs if job["kind"] != KIND]
        error = self._preparer.refused(file, row.name)
        if error is None or any(job["kind"] == KIND for job in jobs):
            return [*jobs]
        told: contract.WhyJob = {
            "id": "", "kind": KIND, "state": "failed", "reason": error.message, "mend": error.hint,
            "failure": error.failure, "attempt": 0, "log": "",
        }  # fmt: skip
        return [*jobs, told]

    async def formats(self) -> ready.Formats:
        """What becomes of each format here, and what is missing."""
        rows = await asyncio.to_thread(lambda: formats_table(Toolchain(self._tools)))
        return {
            "formats": [
                {
                    "format": str(row.format),
                    "processor": row.processor,
                    "data": row.data,
                    "indexes": list(row.indexes),
                    "tools": list(row.tools),
                    "missing": row.missing,
                }
                for row in rows
            ]
        }

    async def _files(self, target: str) -> list[tuple[Row, FileVersion]]:
        """The file that was named, or those below a folder that may be downloaded and have something to make."""
        place = await self._places.resolve(target)
        if not place.is_folder:
            if place.local is not None and (place.row is None or is_edited(place.local)):
                raise Busy(
                    f"{os.path.basename(target)!r} was changed here, and is prepared once it is sent",
                    hint="`synd wait` waits for that",
                    path=target,
                )
            return [await self._file(target)]
        found = []
        handled = self._handled()
        for row in await self._places.files_below(place):
            if name_format(row.name) in handled:
                with contextlib.suppress(Forbidden, NotFound, NotSupported):
                    found.append(await self._file(syn(row.id)))
        return found

    def _makes(self, row: Row) -> bool:
        """Whether something is made of files of that name."""
        return claimed(row.name, self._hint(row)) in self._handled()

    def _hint(self, row: Row) -> str:
        """The provider's own word for the format, where the name says none."""
        return "" if name_format(row.name) else self._places.annotation(row, FORMAT_ANNOTATION)

    def _handled(self) -> set[str]:
        """The formats of which something is made here."""
        return {str(one.format) for one in formats_table(Toolchain(self._tools)) if one.indexes}

    async def _file(self, target: str) -> tuple[Row, FileVersion]:
        place = await self._places.resolve(target)
        row = place.row
        if row is None or Kind(row.kind) not in WITH_BYTES:
            raise NotFound(f"{target} is no file of the service", path=target)
        self._places.follow(row)
        if place.version is not None:
            row = (await self._places.resolve(syn(row.id))).row or row
            if row.version != place.version:
                raise NotSupported(
                    f"only the present version of a file is prepared: that of {row.name!r} is {row.version}",
                    entity=syn(row.id),
                )
        if not row.current:
            row = await self._sizes.one(row)
        if row.unmet_terms or row.key is None:
            raise Forbidden(f"you may not download {row.name!r}", entity=syn(row.id))
        file = row.file()
        if file.store in (Store.EXTERNAL_OBJECT_STORE, Store.PROXY):
            raise NotSupported(
                f"{row.name!r} has no address to download it from: it lies in a store of its owner's",
                entity=syn(row.id),
            )
        if file.external_url is not None and file.size is None:
            # Its server may have been away when it was asked; what it says now is told.
            file = await Probe(self._streams.downloader).look(file)
            if file.size is None:
                raise NotSupported(
                    f"{row.name!r} is a link whose server tells no size",
                    hint=f"open {file.external_url}",
                    entity=syn(row.id),
                )
        return row, file

    async def _unstarted(self, row: Row, file: FileVersion, kind: ArtifactKind) -> Content:
        """What a request that must not start anything is answered; by the name alone."""
        off = self._preparer.off and kind is ArtifactKind.DATA
        if off or file.md5 is None or not file.size or not self._makes(row):
            return await self._as_it_is(row, file, kind, "it is read as it is")
        raise _NotMade(f"{row.name!r} is not prepared", hint="`synd prepare` does it")

    async def _as_it_is(self, row: Row, file: FileVersion, kind: ArtifactKind, why: str) -> Content:
        if kind is ArtifactKind.INDEX:
            raise NotFound(f"{row.name!r} has no index: {why}", entity=syn(row.id))
        return self._source(row, file)

    async def _raw(self, row: Row, file: FileVersion, kind: ArtifactKind) -> Content:
        if kind is ArtifactKind.DATA:
            return self._source(row, file)
        found = await self._preparer.beside(file, row.name)
        if found is None:
            raise NotFound(f"no index lies beside {row.name!r}", entity=syn(row.id))
        if found.unmet_terms or found.key is None:
            raise Forbidden(f"you may not download {found.name!r}", entity=syn(found.id))
        return self._source(found, found.file())

    def _source(self, row: Row, file: FileVersion) -> Content:
        return Content(
            key=file.key, size=file.size or 0, etag=f'"md5:{file.key}"', media=file.content_type,
            name=row.name, source=file,
        )  # fmt: skip

    def _content(
        self, row: Row, file: FileVersion, pair: Pair, kind: ArtifactKind, suffix: str
    ) -> Content:
        made = pair.data if kind is ArtifactKind.DATA else pair.index
        assert pair.data is not None  # no index without the data that it is of
        assert made is not None  # asked before
        name = row.name if pair.data.alias else self._called(row.name, pair.data)
        if suffix in made.extra:
            key, size = made.extra[suffix]
            return Content(
                key=ContentKey(key), size=size, etag=f'"md5:{key}"',
                media="application/octet-stream", name=f"{name}{suffix}",
            )  # fmt: skip
        if made.alias:
            return self._source(row, file)
        return Content(
            key=made.content, size=made.size, etag=f'"{made.digest}"',
            media="application/octet-stream",
            name=name if kind is ArtifactKind.DATA else f"{name}{made.suffix}",
        )  # fmt: skip

    def _called(self, name: str, data: Ready) -> str:
        """What the data is called in ``@ready``, so that the index goes by its name wherever both are saved."""
        form = form_of(
            name.encode(errors="surrogateescape"),
            format=data.format,
            gtf_as_gff3=self._preparer.gtf_as_gff3,
        )
        if form is None or not form.indexes:
            return f"{name}{data.suffix}"
        return form.data.decode(errors="surrogateescape")

    # Bytes.

    def opened(self, content: Content) -> int | None:
        """A descriptor of its bytes, which the caller closes: they stay, even if they are evicted meanwhile.
        None when they are still to be read from the service.

        Raises NotFound when an artifact has just been evicted.
        """
        fd = self._cache.open(content.key, content.size)
        if fd is None and content.source is None:
            raise NotFound(f"{content.name!r} left the cache just now", hint="ask again")
        return fd

    async def read(self, content: Content, span: ByteRange) -> AsyncGenerator[bytes, None]:
        """The bytes of a range of a source, as they come from the service."""
        assert content.source is not None  # what is made is in the cache, or is not there
        self._cache.hold(content.key)
        try:
            async for piece in self._fetched(content.source, span):
                yield piece
        finally:
            self._cache.release(content.key)

    async def _fetched(self, file: FileVersion, span: ByteRange) -> AsyncIterator[bytes]:
        handle = next(_HANDLES)
        reader = self._streams.reader(file)
        try:
            at = span.start
            while at < span.end:
                got = await asyncio.to_thread(reader.read, handle, at, min(CHUNK, span.end - at))
                if isinstance(got, Future):
                    got = await asyncio.wrap_future(got)
                if isinstance(got, FileSlice):
                    got = await asyncio.to_thread(os.pread, got.fd, got.size, got.offset)
                if not got:
                    return
                yield bytes(got)
                at += len(got)
        finally:
            reader.close_handle(handle)


class _NotMade(NotFound):
    """Buildable, and not built."""
