"""The stages of a job: fetch, data, index. Each asks first whether its artifact is stored already.

What a stage made lies in the work folder and is told at once, before the next begins: whoever listens
links it to its digest, so that a later failure keeps it, and the next attempt does not make it again. An
INDEX is built of the DATA that was told, or of that which is stored; never of a fresh sort.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import fetching, pipeline, verify
from synd.processors.base import (
    ArtifactKind,
    Caps,
    Made,
    Processor,
    Source,
    Stage,
    Stored,
    Tools,
    Work,
)
from synd.processors.checkpoints import checkpoint
from synd.processors.containers import container_of
from synd.processors.detect import HEAD_BYTES, Detected, Format, detect
from synd.processors.select import select
from synd.processors.tools import Toolchain
from synd.processors.workshop import Progress, Workshop

_STAGE_OF: Final = {ArtifactKind.DATA: Stage.DATA, ArtifactKind.INDEX: Stage.INDEX}


@dataclass(frozen=True, slots=True)
class Order:
    """What one job is to make, of what and with what: the document that a worker is given."""

    job: str
    source: Source
    folder: Path
    """The work folder: there, empty or with leftovers of its own, and nobody else's."""
    path: Path | None = None
    """Where the source's bytes lie, when they are on this machine."""
    url: str = ""
    """Where to download them, when they are not."""
    headers: Mapping[str, str] = field(default_factory=dict)
    stored: Mapping[ArtifactKind, Stored] = field(default_factory=dict)
    caps: Caps = field(default_factory=Caps)
    engine: str = "local"
    memory_group: Path | None = None
    """A control group to join."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Order:
        """The order that a JSON document holds. Raises ValueError that names what is wrong."""
        try:
            source = document["source"]
            caps = dict(document.get("caps") or {})
            if "tools" in caps:
                caps["tools"] = Tools(caps["tools"])
            path = document.get("source_path")
            group = document.get("memory_group")
            return cls(
                job=str(document["job"]),
                source=Source(
                    **{**source, "size": int(source["size"]), "md5": source["md5"].lower()}
                ),
                folder=Path(document["work_dir"]),
                path=Path(path) if path else None,
                url=str(document.get("url") or ""),
                headers=dict(document.get("headers") or {}),
                stored={
                    ArtifactKind(kind): _stored(one)
                    for kind, one in (document.get("stored") or {}).items()
                    if one
                },
                caps=Caps(**caps),
                engine=str(document.get("engine") or "local"),
                memory_group=Path(group) if group else None,
            )
        except KeyError as error:
            raise ValueError(f"the document has no {error.args[0]}") from error
        except (TypeError, AttributeError) as error:
            raise ValueError(f"the document is not as it must be: {error}") from error

    def document(self) -> dict[str, Any]:
        """The JSON document of this order: `Order.of` gives it back."""
        caps = {name: getattr(self.caps, name) for name in Caps.__dataclass_fields__}
        source = {name: getattr(self.source, name) for name in Source.__dataclass_fields__}
        return {
            "job": self.job,
            "source": source,
            "source_path": str(self.path) if self.path else None,
            "url": self.url,
            "headers": dict(self.headers),
            "stored": {
                str(kind): {
                    "digest": one.digest,
                    "size": one.size,
                    "path": str(one.path) if one.path else None,
                    "records": one.records,
                    "format": one.format,
                }
                for kind, one in self.stored.items()
            },
            "caps": caps,
            "work_dir": str(self.folder),
            "engine": self.engine,
            "memory_group": str(self.memory_group) if self.memory_group else None,
        }


def _stored(one: Mapping[str, Any]) -> Stored:
    path = one.get("path")
    return Stored(
        digest=str(one["digest"]),
        size=int(one["size"]),
        path=Path(path) if path else None,
        records=one.get("records"),
        format=str(one.get("format") or ""),
    )


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of an order."""

    detected: Detected
    processor: str
    version: int
    work: Work | None
    """None: DATA was stored before, and what it took is not known any more."""
    made: tuple[Made, ...]


@dataclass(slots=True)
class Stages:
    """Runs the stages of one order."""

    order: Order
    tools: Toolchain
    on_progress: Callable[[Stage, int, int], object]
    """Takes stage, bytes done, bytes in all; called from a thread of its own."""
    on_done: Callable[[Stage, Made | None, Detected | None], object]
    """Takes what a stage made, before the next begins; None for `fetch`."""
    spawn: pipeline.Spawn = pipeline.spawn

    def run(self) -> Finished:
        """Raises StageFailed, and what `on_done` raises."""
        order = self.order
        data = order.stored.get(ArtifactKind.DATA)
        path = None
        if data is None or data.path is None:
            path = self._fetch()
        detected = _detect(order.source, path, data)
        processor = select(detected.format, ArtifactKind.DATA, gtf_as_gff3=order.caps.gtf_as_gff3)
        if processor is None or not processor.needs_processing(detected):
            return Finished(
                detected,
                processor.id if processor else "",
                processor.version if processor else 0,
                Work.NONE,
                (),
            )
        made: list[Made] = []
        shop = Workshop(
            order.folder,
            order.source,
            path,
            detected,
            order.caps,
            self.tools,
            # Each stage has its own.
            Progress.silent(),
            self.spawn,
        )
        if data is None:
            one = self._make(shop, processor, ArtifactKind.DATA, None)
            made.append(one)
            data = Stored(one.digest, one.size, one.file, one.records, str(detected.format))
        elif data.path is not None:
            _check_stored(data)
        if ArtifactKind.INDEX not in order.stored:
            made.append(self._make(shop, processor, ArtifactKind.INDEX, data))
        work = next((one.work for one in made if one.kind is ArtifactKind.DATA), None)
        return Finished(detected, processor.id, processor.version, work, tuple(made))

    def _fetch(self) -> Path:
        order = self.order
        checkpoint("worker.fetch.begin")
        if order.path is not None:
            path = fetching.at_hand(order.path, order.source)
        elif order.url:
            progress = self._progress(Stage.FETCH, order.source.size)
            try:
                target = order.folder / "source"
                target.unlink(missing_ok=True)
                path = fetching.download(
                    order.url,
                    order.headers,
                    order.source,
                    target,
                    advance=progress.advance,
                    reserve_bytes=order.caps.reserve_bytes,
                )
            except OSError as error:
                raise pipeline.out_of(error, "the download cannot be kept") from error
            finally:
                progress.close()
        else:
            raise StageFailed(
                "the source is not here, and there is no address to download it from",
                failure=Failure.SOURCE_UNAVAILABLE,
            )
        checkpoint("worker.fetch.made")
        self.on_done(Stage.FETCH, None, None)
        checkpoint("worker.fetch.told")
        return path

    def _make(
        self, shop: Workshop, processor: Processor, kind: ArtifactKind, data: Stored | None
    ) -> Made:
        stage = _STAGE_OF[kind]
        checkpoint(f"worker.{stage}.begin")
        shop.progress = self._progress(stage, data.size if data else self.order.source.size)
        try:
            made = processor.run(kind, shop, data)
        except OSError as error:
            raise pipeline.out_of(error, f"the stage {stage} cannot go on") from error
        finally:
            shop.progress.close()
        if kind is ArtifactKind.INDEX and data and made.of_digest != data.digest:
            made = replace(made, of_digest=data.digest)
        checkpoint(f"worker.{stage}.made")
        self.on_done(stage, made, shop.detected)
        checkpoint(f"worker.{stage}.told")
        return made

    def _progress(self, stage: Stage, total: int) -> Progress:
        return Progress(lambda done, of: self.on_progress(stage, done, of), total)


def _detect(source: Source, path: Path | None, data: Stored | None) -> Detected:
    """What the source is: by its bytes, or as it was when the stored DATA was made of it."""
    if data is not None and data.format:
        head = _head(path or data.path)
        return Detected(Format(data.format), container_of(head), data.format)
    return detect(
        source.name, _head(path or (data.path if data else None)), hint=source.format_hint
    )


def _head(path: Path | None) -> bytes:
    if path is None:
        return b""
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def _check_stored(data: Stored) -> None:
    """That stored DATA is what its row says: an index of other bytes would be refused by every reader."""
    if data.path is None:
        return
    try:
        if data.path.stat().st_size != data.size or verify.digest(data.path) != data.digest:
            raise verify.wrong("the stored data does not have the bytes that were recorded")
    except FileNotFoundError as error:
        raise verify.wrong("the stored data is gone") from error
