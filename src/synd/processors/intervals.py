"""VCF, GFF, GTF and the BED family: sorted, in BGZF, with TBI or CSI; BCF and bigBed as well.

The normaliser always reads the whole text. Where that shows a clean BGZF file in order, the file itself is
indexed. Else it is written anew (`rewriting`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import keys, twins, variants, verify
from synd.processors.alignment import TOO_FAR
from synd.processors.base import ArtifactKind, Made, Source, Stored, Work
from synd.processors.containers import Container, decoded
from synd.processors.detect import Detected, Format
from synd.processors.normalise import Point, Report, normalise, rules
from synd.processors.pipeline import Ended
from synd.processors.rewriting import Guess, probe, rewritten
from synd.processors.tools import Step
from synd.processors.twins import bigbed_is_cut
from synd.processors.workshop import Workshop

FARTHEST: Final = 1 << 29
"""Records that end later need CSI."""

_GFFREAD: Final = re.compile(rb"# (?:\S*/)?gffread\b")

TEXT: Final = frozenset(
    {
        Format.VCF,
        Format.GFF2,
        Format.GFF3,
        Format.GTF,
        Format.BED,
        Format.NARROW_PEAK,
        Format.BROAD_PEAK,
        Format.BEDGRAPH,
    }
)


class TabixInterval:
    """Text of intervals and its binary kin, readable by region."""

    id = "tabix_interval"
    version = 1
    formats = TEXT | {Format.BCF, Format.BIGBED}

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
            return self.data(shop)
        if data is None:
            raise RuntimeError("an index is built of stored data only")
        if shop.detected.format is Format.BCF:
            return variants.index(shop, data)
        return _index_text(shop, data, self.indexed_as(shop.detected.format))

    def data(self, shop: Workshop) -> Made:
        match shop.detected.format:
            case Format.BCF:
                return variants.data(shop)
            case Format.BIGBED:
                return _data_bigbed(shop)
            case format:
                return _data_text(shop, format)

    def indexed_as(self, format: Format) -> Format:
        """The format whose columns the index takes apart."""
        return Format.BED if format is Format.BIGBED else format


class GtfAsGff3(TabixInterval):
    """GTF as GFF3 made by gffread, which loses lines: a variant with artifacts of its own."""

    id = "tabix_interval.gff3"
    formats = frozenset({Format.GTF})

    def data(self, shop: Workshop) -> Made:
        return _data_gff3(shop)

    def indexed_as(self, format: Format) -> Format:
        del format
        return Format.GFF3


def _data_text(shop: Workshop, format: Format) -> Made:
    shop.tool(Step.DECODE)

    def index(data: Path) -> tuple[Path, list[str]]:
        shop.linked("ready.gz", data)
        return shop.file("ready.gz.tbi"), _tabix(shop, format)

    guess = probe(shop.decoding, format)
    if not (guess.clean and guess.ordered and shop.detected.container is Container.BGZF):
        return rewritten(shop, format, shop.decoding, guess, index=index)
    with shop.pipe() as pipe:
        # Beside the check, as most files in BGZF are what they should be.
        built, command = index(shop.bytes_at)
        pipe.start(command)
        with shop.decoding() as chunks:
            report = normalise(chunks, format, len)
        if report.clean and report.ordered and chunks.container is Container.BGZF:
            if pipe.finish().blamed is None:
                shop.facts.index = built
            shop.facts.report = report
            return Made(
                ArtifactKind.DATA,
                f"md5:{shop.source.md5}",
                shop.source.size,
                shop.toolchain(),
                suffix=".gz",
                alias_of="source",
                records=report.records,
                header_lines=report.header_lines,
                work=Work.INDEX_ONLY,
                contigs=report.contigs,
            )
    return rewritten(shop, format, shop.decoding, Guess(report.ordered, report.header))


def _data_bigbed(shop: Workshop) -> Made:
    source = shop.bytes_at
    with source.open("rb") as file:
        if bigbed_is_cut(file.read(64), source.stat().st_size):
            raise StageFailed(
                "the file was cut: what its header points to lies past its end",
                failure=Failure.SOURCE_TRUNCATED,
            )
    shop.linked("src", source)
    command = shop.command(Step.BIGBED, "bigBedToBed", "src", "stdout")

    def explain(one: Ended) -> StageFailed:
        return StageFailed(f"the file is damaged: {one.why()}", failure=Failure.SOURCE_CORRUPT)

    return rewritten(
        shop,
        Format.BED,
        lambda: shop.produced(command, explain),
        Guess(ordered=True, header=b""),
        Work.CONVERT_COMPRESS_INDEX,
    )


def _data_gff3(shop: Workshop) -> Made:
    """Unpacked first where it is packed, as gffread reads plain files only."""
    tool = shop.tool(Step.GFF3)
    if shop.detected.container is Container.NONE:
        shop.linked("src.gtf", shop.bytes_at)
        with shop.decoding() as chunks:
            filled = any(b"\t" in chunk for chunk in chunks)
    else:
        shop.need_room()
        filled = False
        with shop.file("src.gtf").open("xb") as out, shop.decoding() as chunks:
            for chunk in chunks:
                filled = filled or b"\t" in chunk
                out.write(chunk)

    @contextmanager
    def converted() -> Iterator[Iterator[bytes]]:
        with shop.produced([tool.path, "-E", "-o-", "src.gtf"]) as lines:
            yield _without_command(lines)

    made = rewritten(
        shop,
        Format.GFF3,
        converted,
        Guess(ordered=False, header=b""),
        Work.CONVERT_COMPRESS_INDEX,
    )
    if filled and not made.records:
        raise StageFailed("gffread made nothing of this file")
    return made


def _without_command(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """What gffread wrote, without the comment that holds its command line."""
    top = b""
    chunks = iter(chunks)
    for chunk in chunks:
        top += chunk
        body = _body(top)
        if body is not None:
            yield b"".join(
                line for line in top[:body].splitlines(keepends=True) if not _GFFREAD.match(line)
            )
            yield top[body:]
            break
    else:
        yield b"".join(line for line in top.splitlines(keepends=True) if not _GFFREAD.match(line))
    yield from chunks


def _body(text: bytes) -> int | None:
    """Where the first line begins that is no comment; None: it has not come yet."""
    start = 0
    while text.startswith(b"#", start):
        end = text.find(b"\n", start)
        if end < 0:
            return None
        start = end + 1
    return start if start < len(text) else None


def _index_text(shop: Workshop, data: Stored, format: Format) -> Made:
    path = data.path or shop.bytes_at
    shop.tool(Step.TEXT_INDEX)
    report = shop.facts.report
    built = shop.facts.index or _build(shop, path, format, report)
    points = report.points if report else _points(path, format)
    with _finding(shop, points, format, built) as found_all:
        found = verify.index(
            built,
            built.suffix,
            path,
            Detected(format, Container.BGZF, shop.detected.name_format),
        )
        if report is not None:
            verify.contigs(found, report.contigs)
        found_all()
    return Made(
        ArtifactKind.INDEX,
        verify.digest(built),
        built.stat().st_size,
        shop.toolchain(),
        suffix=built.suffix,
        file=built,
        of_digest=data.digest,
        records=report.records if report else data.records,
    )


def _tabix(shop: Workshop, format: Format, *, csi: bool = False) -> list[str]:
    tool = shop.tools.get(Step.TEXT_INDEX)
    arguments = ["-f", *(["-C"] if csi else []), "-p", str(rules(format).family), "ready.gz"]
    return [tool.path, *arguments] if tool.native else twins.command("tabix", *arguments)


def _build(shop: Workshop, path: Path, format: Format, report: Report | None) -> Path:
    """The index of a file that is in order."""
    shop.linked("ready.gz", path)
    csi = report is not None and report.largest_end > FARTHEST
    while True:
        built = shop.file("ready.gz.csi" if csi else "ready.gz.tbi")
        outcome = shop.run(_tabix(shop, format, csi=csi), watch=True)
        if (one := outcome.blamed) is None:
            return built
        built.unlink(missing_ok=True)
        if csi or not TOO_FAR.search(one.text):
            # The data was checked line by line: that it is refused is no fault of the source.
            outcome.check()
        csi = True


@contextmanager
def _finding(
    shop: Workshop, points: Iterable[Point], format: Format, index: Path
) -> Iterator[Callable[[], None]]:
    """Begins a query for records by their places; what it yields raises VERIFY_FAILED when one is not found."""
    wanted = [point for point in points if point.begin > 0]
    if not wanted:
        yield lambda: None
        return
    columns = rules(format)
    regions = shop.file("regions.txt")
    verify.points_file(wanted, regions)
    tool = shop.tool(Step.TEXT_INDEX)
    if tool.native:
        command = [tool.path, "-R", regions.name, "ready.gz"]
    else:
        command = twins.command("tabix-regions", regions.name, "ready.gz", index.name)
    finder = verify.Finder(
        wanted, columns.contig, columns.begin, shift=1 if columns.preset & 0x10000 else 0
    )
    with shop.pipe() as pipe:
        mine, its = pipe.channel()
        pipe.start(command, writes=its)

        def look() -> None:
            for data in pipe.read(mine):
                if finder.add(data):
                    return
            pipe.finish().check()
            contig, begin = min(finder.left)
            raise verify.wrong(
                f"the index does not find the record at {contig.decode('utf-8', 'replace')}:{begin}"
            )

        yield look


def _points(path: Path, format: Format) -> tuple[Point, ...]:
    """Where the first record of stored data lies."""
    with path.open("rb") as file:
        rest = b""
        for chunk in decoded(file, Container.BGZF):
            rest += chunk
            while (end := rest.find(b"\n")) >= 0:
                line, rest = rest[: end + 1], rest[end + 1 :]
                if not line.startswith(b"#"):
                    header = b"##fileformat=VCFv4.2\n#CHROM\n" if format is Format.VCF else b""
                    return normalise([header, line], format, len).points
    return ()
