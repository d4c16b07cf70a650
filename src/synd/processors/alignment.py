"""BAM, CRAM and SAM: sorted by coordinate where they are not, and indexed.

Whether a file is in order is proved by building its index, never believed: htslib refuses positions that
descend and contigs that come in pieces. SAM is read by the sort itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import keys, verify
from synd.processors.base import ArtifactKind, Made, Source, Stored, Work
from synd.processors.containers import Container, has_eof_block
from synd.processors.detect import Detected, Format
from synd.processors.pipeline import Ended
from synd.processors.tools import Step
from synd.processors.workshop import Workshop

_LEAST_MEMORY: Final = 1 << 20
"""samtools takes a smaller number for a number of bytes per record, and makes files without end."""

TOO_FAR: Final = re.compile(r"cannot be stored in a (?:bai|tbi) index")
UNSORTED: Final = re.compile(
    r"Unsorted positions|blocks not continuous|not sorted by|cannot be indexed", re.IGNORECASE
)
_PLACE: Final = 0x2E
"""Of a record's fields: flags, contig, position and CIGAR."""
_BAD_LINE = re.compile(r"Parse error at line (\d+)")
_UNKNOWN_CONTIG = re.compile(r'unrecognized reference name ("[^"\n]*")')
_HEADER = re.compile(
    r"no SQ lines present|\[E::sam_hdr|\[E::sam_hrecs|\[E::sam_hdr_create|[Ff]ail\w* to read (?:the )?header"
)
_CUT = re.compile(r"EOF marker is absent|Failed to read BGZF block data|[Uu]nexpected end")
_DAMAGED = re.compile(
    r"CRC32 checksum mismatch|[Ii]nflate|BGZF|bgzf_|cram_|bam_read|bcf_read|[Mm]alformed|[Cc]orrupt"
    r"|bam_hdr_read|bcf_hdr_read|could not be opened for reading"
)
_UNREADABLE = re.compile(
    r"failed to create index for \"ready|is in a format that cannot be usefully indexed"
)
"""Not of writing it: that samtools tells in other words."""
_TOO_LONG = re.compile(r"not compatible with very large references")
_CRAM_ENDS = tuple(
    map(
        bytes.fromhex,
        (
            "0f000000ffffffff0fe0454f4600000000010005bdd94f0001000606010001000100ee63014b",
            "0b000000ffffffff0fe0454f4600000000010000010006060100010001000100",
        ),
    )
)
"""Of version 3, and 2.1."""
_NO_REFERENCE = re.compile(r"cram_get_ref|fetch reference|populate reference|load reference")


class BamIndex:
    """Sorted BAM (or CRAM) with BAI, CSI or CRAI."""

    id = "bam_index"
    version = 1
    formats = frozenset({Format.SAM, Format.BAM, Format.CRAM})

    def matches(self, format: Format, kind: ArtifactKind) -> bool:
        del kind
        return format in self.formats

    def needs_processing(self, detected: Detected) -> bool:
        return detected.format in self.formats

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
    format = shop.detected.format
    if format is Format.SAM:
        return _sorted(shop, Work.CONVERT_SORT_INDEX)
    source = shop.bytes_at
    prove_end(shop)
    if format is Format.CRAM:
        _quickcheck(shop, shop.linked("src.cram", source))
    # In another packing than BGZF nobody could seek in it.
    if format is Format.CRAM or shop.detected.container is Container.BGZF:
        built = _try_index(shop, source)
        if built is not None and (format is not Format.CRAM or _in_order(shop)):
            shop.facts.index = built
            return Made(
                ArtifactKind.DATA,
                f"md5:{shop.source.md5}",
                shop.source.size,
                shop.toolchain(),
                suffix=f".{format}",
                alias_of="source",
                work=Work.INDEX_ONLY,
            )
    return _sorted(shop, Work.SORT_INDEX)


def prove_end(shop: Workshop) -> None:
    """That a BGZF ends in its empty block. Zeros behind that make it plain gzip, as nobody could tell the end."""
    if shop.detected.container is not Container.BGZF or has_eof_block(shop.bytes_at):
        return
    with shop.decoding() as chunks:
        # Raises what is wrong with the end.
        for _ in chunks:
            pass
    shop.detected = replace(shop.detected, container=Container.GZIP)


def _try_index(shop: Workshop, data: Path) -> Path | None:
    """The index of a file; None when the file is not in order."""
    cram = shop.detected.format is Format.CRAM
    suffixes = [".crai"] if cram else [".bai", ".csi"]
    name = "ready.cram" if cram else "ready.bam"
    shop.linked(name, data)
    for suffix in suffixes:
        path = shop.file(name + suffix)
        extra = ["-c"] if suffix == ".csi" else []
        # No -@: on a damaged header htslib 1.16 waits for its own threads for ever, and they gain nothing.
        command = shop.command(Step.ALIGNMENTS, "samtools", "index", *extra, name, path.name)
        outcome = shop.run(command, watch=True)
        one = outcome.blamed
        if one is None:
            return path
        # What was refused leaves a file behind.
        path.unlink(missing_ok=True)
        if TOO_FAR.search(one.text):
            continue
        if UNSORTED.search(one.text) and not _CUT.search(one.text):
            return None
        outcome.check(explainer(shop.detected.format))
    raise StageFailed("a record ends further than any index can tell")


def _in_order(shop: Workshop) -> bool:
    """Whether a CRAM's records are in order, of which its own index build sees only that of its slices.

    As BAM of nothing but places, which needs no reference, it is indexed for no other use.
    """
    with shop.pipe() as pipe:
        reads, its = pipe.channel()
        fields = ("--input-fmt-option", f"required_fields={_PLACE}")
        shop.progress.restart()
        shop.progress.watch(
            pipe.start(
                shop.command(
                    Step.ALIGNMENTS, "samtools", "view", "--no-PG", "-u", *fields, "ready.cram"
                ),
                writes=its,
            )
        )
        index = shop.command(
            Step.ALIGNMENTS, "samtools", "index", "-c", "/dev/stdin", shop.file("order.csi").name
        )
        pipe.start(index, reads=reads)
        outcome = pipe.finish()
    shop.file("order.csi")
    if (one := outcome.blamed) is not None and UNSORTED.search(one.text):
        return False
    outcome.check(explainer(Format.CRAM))
    return True


def _sorted(shop: Workshop, work: Work) -> Made:
    """A sorted copy; samtools reads from a pipe what is not BAM, and from the file what is."""
    shop.need_room()
    cram = shop.detected.format is Format.CRAM
    caps = shop.caps
    if caps.samtools_memory_bytes < _LEAST_MEMORY:
        raise StageFailed("samtools sort cannot do with less than 1 MiB", failure=Failure.INTERNAL)
    piped = shop.detected.format is Format.SAM or (
        not cram and shop.detected.container is not Container.BGZF
    )
    if not piped:
        shop.linked("src", shop.bytes_at)
    shop.file("data.tmp")
    command = shop.command(
        Step.ALIGNMENTS,
        "samtools",
        "sort",
        "--no-PG",
        *("-l", str(caps.bgzf_level)),
        *("-@", str(caps.tool_threads)),
        *("-m", str(caps.samtools_memory_bytes)),
        *("-T", "spill"),
        # Without a reference of its own to be read with: nobody needs to have one to read it.
        *("-O", "cram,no_ref=1" if cram else "bam"),
        *("-o", "-"),
        "-" if piped else "src",
    )
    records = _Records()
    with shop.pipe() as pipe:
        out, its = pipe.channel()
        if piped:
            reads, feed_fd = pipe.channel()
            started = pipe.start(command, reads=reads, writes=its)
        else:
            started = pipe.start(command, writes=its)
            shop.progress.watch(started)
        kept = pipe.consume(out, lambda file: verify.keep(file, shop.folder / "data.tmp"))
        if piped:
            with pipe.feed(feed_fd) as feed, shop.decoding() as chunks:
                for chunk in _unmarked(chunks):
                    records.add(chunk)
                    feed.write(chunk)
        outcome = pipe.finish()
        try:
            outcome.check(explainer(shop.detected.format))
        except StageFailed as error:
            if error.failure == Failure.INVALID_RECORD and error.bad_line is None:
                raise _bad_line(shop) or error from None
            raise
        for one in outcome.ended:
            if found := _UNKNOWN_CONTIG.search(one.text):
                raise StageFailed(
                    f"a read lies on {found[1]}, which the header does not name",
                    failure=Failure.INVALID_HEADER,
                )
        file = kept.result()
    name = "data.cram" if cram else "data.bam"
    path = shop.folder / name
    file.path.rename(path)
    toolchain = shop.toolchain() + f" level {caps.bgzf_level}"
    _check_sorted(shop, path)
    if shop.detected.format is Format.SAM:
        shop.facts.records = records.count
    elif caps.verify_full:
        shop.facts.records = _count(shop, "src" if not piped else name)
    return Made(
        ArtifactKind.DATA,
        file.digest,
        file.size,
        toolchain,
        suffix=".cram" if cram else ".bam",
        file=path,
        records=shop.facts.records,
        work=work,
    )


def _bad_line(shop: Workshop) -> StageFailed | None:
    """The error with its line, which samtools only tells when it reads in one thread."""
    with shop.pipe() as pipe:
        reads, feed_fd = pipe.channel()
        pipe.start(
            shop.command(Step.ALIGNMENTS, "samtools", "view", "-c", "-@", "0", "-"), reads=reads
        )
        with pipe.feed(feed_fd) as feed, shop.decoding() as chunks:
            for chunk in _unmarked(chunks):
                feed.write(chunk)
        one = pipe.finish().blamed
    return explainer(Format.SAM)(one) if one else None


def _index(shop: Workshop, data: Stored) -> Made:
    path = data.path or shop.bytes_at
    shop.tool(Step.ALIGNMENTS)
    cram = shop.detected.format is Format.CRAM
    built = shop.facts.index
    if built is None:
        built = _try_index(shop, path)
        if built is None:
            raise verify.wrong("the sorted data is not in order")
    try:
        found = verify.index(
            built,
            built.suffix,
            path,
            Detected(
                Format.CRAM if cram else Format.BAM,
                Container.CRAM if cram else Container.BGZF,
                shop.detected.name_format,
            ),
        )
    except StageFailed as error:
        if not (cram and data.digest.startswith("md5:")):
            raise
        # The source itself: of CRAM, the index build looks at little.
        raise StageFailed(
            f"the file is damaged: {error.message}", failure=Failure.SOURCE_CORRUPT
        ) from error
    expected = shop.facts.records if shop.facts.records is not None else data.records
    if expected is not None and found.records is not None and found.records != expected:
        raise verify.wrong(f"{expected} records were read, and the index counts {found.records}")
    return Made(
        ArtifactKind.INDEX,
        verify.digest(built),
        built.stat().st_size,
        shop.toolchain(),
        suffix=built.suffix,
        file=built,
        of_digest=data.digest,
        records=found.records,
    )


def _quickcheck(shop: Workshop, path: Path) -> None:
    """That the end is there, and the header can be read."""
    outcome = shop.run(
        shop.command(Step.ALIGNMENTS, "samtools", "quickcheck", "-u", "-v", path.name)
    )
    one = outcome.blamed
    if one is None:
        return
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - max(map(len, _CRAM_ENDS))))
        ended = file.read().endswith(_CRAM_ENDS)
    if not ended or "EOF" in one.text or one.status & 16:
        raise StageFailed(
            "the file was cut: what must end it is missing", failure=Failure.SOURCE_TRUNCATED
        )
    outcome.check(explainer(shop.detected.format))


def _check_sorted(shop: Workshop, path: Path) -> None:
    outcome = shop.run(
        shop.command(Step.ALIGNMENTS, "samtools", "quickcheck", "-u", "-v", path.name)
    )
    if (one := outcome.blamed) is not None:
        raise verify.wrong(f"the sorted data is not whole: {one.why()}")
    if path.suffix == ".bam" and not has_eof_block(path):
        raise verify.wrong("the sorted data has no end")


def _count(shop: Workshop, name: str) -> int:
    data, outcome = shop.output(shop.command(Step.ALIGNMENTS, "samtools", "view", "-c", name))
    outcome.check(explainer(shop.detected.format))
    return int(data)


class _Records:
    """Counts the records of a SAM text."""

    def __init__(self) -> None:
        self._lines = 0
        self._header = 0
        self._rest: bytes | None = b""
        self._open = False

    def add(self, data: bytes) -> None:
        self._lines += data.count(b"\n")
        self._open = not data.endswith(b"\n")
        if self._rest is None:
            return
        data = self._rest + data
        start = 0
        while data.startswith(b"@", start):
            end = data.find(b"\n", start)
            if end < 0:
                break
            start = end + 1
            self._header += 1
        self._rest = data[start:] if data[start : start + 1] in (b"", b"@") else None

    @property
    def count(self) -> int:
        return self._lines + self._open - self._header


def _unmarked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The text without a byte-order mark."""
    first = next(chunks, b"")
    yield first.removeprefix(b"\xef\xbb\xbf")
    yield from chunks


def explainer(format: Format) -> Callable[[Ended], StageFailed | None]:
    """What the words of samtools and bcftools say about a source of that format."""

    def explain(one: Ended) -> StageFailed | None:
        text = one.text
        words = one.complaints[0] if one.complaints else one.why()
        line = int(found[1]) if (found := _BAD_LINE.search(text)) else None
        if _NO_REFERENCE.search(text):
            return StageFailed(
                f"the reference of this CRAM is not here: {words}",
                failure=Failure.TOOL_MISSING,
                hint="put it there and `synd retry ID`, or start the daemon with REF_PATH as samtools takes it",
            )
        if _CUT.search(text):
            return StageFailed(f"the file was cut: {words}", failure=Failure.SOURCE_TRUNCATED)
        if _DAMAGED.search(text):
            return StageFailed(f"the file is damaged: {words}", failure=Failure.SOURCE_CORRUPT)
        if _UNREADABLE.search(text):
            return StageFailed(
                "the file is damaged: its records cannot be read to the end",
                failure=Failure.SOURCE_CORRUPT,
            )
        if _TOO_LONG.search(text):
            return StageFailed(
                f"a contig of the header is too long for BAM: {words}",
                failure=Failure.INVALID_HEADER,
            )
        if _HEADER.search(text):
            return StageFailed(
                f"the header is not valid: {words}", failure=Failure.INVALID_HEADER, bad_line=line
            )
        if line is not None or (format is Format.SAM and "truncated file" in text):
            where = "a line" if line is None else f"line {line}"
            return StageFailed(
                f"{where} is no valid record: {words}",
                failure=Failure.INVALID_RECORD,
                bad_line=line,
            )
        if "truncated file" in text:
            return StageFailed(f"the file is damaged: {words}", failure=Failure.SOURCE_CORRUPT)
        return None

    return explain
