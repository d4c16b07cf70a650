"""FASTA: an index of the sequences; packed anew only where nobody could seek in it."""

from __future__ import annotations

import re
from typing import Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import keys, verify
from synd.processors.base import ArtifactKind, Made, Source, Stored, Work
from synd.processors.containers import Container
from synd.processors.detect import Detected, Format
from synd.processors.packing import packing
from synd.processors.pipeline import Ended
from synd.processors.tools import Step
from synd.processors.workshop import Workshop

_UNEVEN: Final = re.compile(
    r"Different line length|[Ff]ormat error|malformed|Inlined empty line|File truncated"
)
_BOM: Final = b"\xef\xbb\xbf"
_TWICE: Final = re.compile(r"Ignoring duplicate sequence \"(.*)\"")


class Faidx:
    """FASTA with FAI, and GZI where it is BGZF."""

    id = "faidx"
    version = 1

    def matches(self, format: Format, kind: ArtifactKind) -> bool:
        del kind
        return format is Format.FASTA

    def needs_processing(self, detected: Detected) -> bool:
        return detected.format is Format.FASTA

    def artifact_kinds_produced(self, detected: Detected) -> frozenset[ArtifactKind]:
        return frozenset(ArtifactKind) if self.needs_processing(detected) else frozenset()

    def cache_key(self, source: Source, kind: ArtifactKind) -> str:
        return keys.cache_key(source.namespace, source.id, kind, self.id, source.md5, self.version)

    def run(self, kind: ArtifactKind, shop: Workshop, data: Stored | None = None) -> Made:
        if not self.needs_processing(shop.detected):
            raise RuntimeError(f"a {shop.detected.format} file is nothing for {self.id}")
        if kind is ArtifactKind.DATA:
            return _data(shop)
        if data is None:
            raise RuntimeError("an index is built of stored data only")
        return _index(shop, data)


def _data(shop: Workshop) -> Made:
    container = shop.detected.container
    count = _Sequences()
    if container in (Container.NONE, Container.BGZF):
        with shop.decoding() as chunks:
            marked = False
            for chunk in chunks:
                marked = marked or (not count.size and chunk.startswith(_BOM))
                count.add(chunk)
        if chunks.container is container and not marked:
            count.check()
            shop.facts.records = count.count
            return Made(
                ArtifactKind.DATA,
                f"md5:{shop.source.md5}",
                shop.source.size,
                shop.toolchain(),
                suffix=".gz" if container is Container.BGZF else "",
                alias_of="source",
                records=count.count,
                work=Work.INDEX_ONLY,
            )
        count = _Sequences()
    shop.need_room()
    path = shop.file("data.gz")
    with shop.pipe() as pipe, shop.decoding() as chunks:
        with packing(shop, pipe, path, verify.keep_text) as packed:
            for chunk in chunks:
                kept_of_it = chunk if count.size else chunk.removeprefix(_BOM)
                count.add(kept_of_it)
                packed.write(kept_of_it)
        pipe.finish().check()
        kept = packed.kept()
    count.check()
    if kept.lines != count.lines:
        raise verify.wrong(f"{count.lines} lines were written, and {kept.lines} came out")
    shop.facts.records = count.count
    return Made(
        ArtifactKind.DATA,
        kept.digest,
        kept.size,
        shop.toolchain(),
        suffix=".gz",
        file=path,
        records=count.count,
        work=Work.COMPRESS_INDEX,
    )


def _index(shop: Workshop, data: Stored) -> Made:
    path = data.path or shop.bytes_at
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    name = "ready.fa.gz" if packed else "ready.fa"
    shop.linked(name, path)
    fai = shop.file(name + ".fai")
    gzi = shop.file(name + ".gzi") if packed else None
    outcome = shop.run(shop.command(Step.SEQUENCES, "samtools", "faidx", name), watch=True)
    outcome.check(_explain)
    if (twice := _TWICE.search(outcome.ended[-1].text)) is not None:
        raise _invalid(f"two sequences are named {twice[1]!r}")
    if any(line.startswith(b"\t") for line in fai.read_bytes().splitlines()):
        raise _invalid("a sequence has no name")
    found = verify.index(
        fai,
        ".fai",
        path,
        Detected(
            Format.FASTA,
            Container.BGZF if packed else Container.NONE,
            shop.detected.name_format,
        ),
        gzi=gzi,
    )
    expected = shop.facts.records if shop.facts.records is not None else data.records
    if expected is not None and len(found.sequences) != expected:
        raise verify.wrong(
            f"{expected} sequences were read, and the index has {len(found.sequences)}"
        )
    return Made(
        ArtifactKind.INDEX,
        verify.digest(fai),
        fai.stat().st_size,
        shop.toolchain(),
        suffix=".fai",
        file=fai,
        of_digest=data.digest,
        records=len(found.sequences),
        extra={".gzi": gzi} if gzi else {},
    )


class _Sequences:
    """Counts lines that begin with `>`."""

    def __init__(self) -> None:
        self.size = 0
        self.count = 0
        self.lines = 0
        self._before = b"\n"
        self._last = b""
        """What the last line begins with."""

    def add(self, data: bytes) -> None:
        if b"\0" in data:
            line = self.lines + data.count(b"\n", 0, data.index(b"\0")) + 1
            raise _invalid(f"line {line} holds a NUL")
        self.size += len(data)
        self.lines += data.count(b"\n")
        self.count += (self._before + data).count(b"\n>")
        start = data.rfind(b"\n", 0, -1) + 1
        if start or self._before == b"\n":
            self._last = data[start : start + 1]
        self._before = data[-1:] or self._before

    def check(self) -> None:
        """Raises INVALID_RECORD when it ends in a name: samtools 1.16 fails then without a reason."""
        if self._last == b">":
            raise _invalid("it ends in a name, without the sequence")


def _explain(one: Ended) -> StageFailed | None:
    if _UNEVEN.search(one.text):
        return _invalid(f"it cannot be indexed: {(*one.complaints, one.why())[0]}")
    return None


def _invalid(text: str) -> StageFailed:
    return StageFailed(text, failure=Failure.INVALID_RECORD)
