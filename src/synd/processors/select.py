"""Which processor makes a kind of artifact of a format: the first that matches, or none."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from synd.processors.alignment import BamIndex
from synd.processors.base import ArtifactKind, Work
from synd.processors.detect import Format
from synd.processors.intervals import GtfAsGff3, TabixInterval
from synd.processors.passthrough import Passthrough
from synd.processors.sequences import Faidx
from synd.processors.tools import Step, Toolchain

if TYPE_CHECKING:
    from collections.abc import Mapping

    from synd.processors.base import Processor

PROCESSORS: Final[tuple[Processor, ...]] = (BamIndex(), TabixInterval(), Faidx(), Passthrough())
_WITH_GFF3: Final[tuple[Processor, ...]] = (GtfAsGff3(), *PROCESSORS)


def select(format: Format, kind: ArtifactKind, *, gtf_as_gff3: bool = False) -> Processor | None:
    """The processor for that artifact; None: a file of that format has none of that kind."""
    table = _WITH_GFF3 if gtf_as_gff3 else PROCESSORS
    return next((one for one in table if one.matches(format, kind)), None)


@dataclass(frozen=True, slots=True)
class FormatRow:
    """What becomes of a format here."""

    format: Format
    processor: str
    data: str
    """For people: what DATA is."""
    indexes: tuple[str, ...]
    """Suffixes that its index may have."""
    least: tuple[Work, ...]
    """The least work, from the best case to the worst."""
    tools: tuple[str, ...]
    """Who does it here, without versions."""
    missing: str
    """What has to be installed first; empty: nothing."""


_TEXT = (Work.NONE, Work.INDEX_ONLY, Work.COMPRESS_INDEX, Work.SORT_COMPRESS_INDEX)
_BINARY = (Work.NONE, Work.INDEX_ONLY, Work.SORT_INDEX)
_TEXT_STEPS = (Step.SORT, Step.COMPRESS, Step.TEXT_INDEX)

_WHAT: Final[Mapping[Format, tuple[str, tuple[str, ...], tuple[Work, ...], tuple[Step, ...]]]] = (
    MappingProxyType(
        {
            Format.SAM: (
                "sorted BAM",
                (".bai", ".csi"),
                (Work.CONVERT_SORT_INDEX,),
                (Step.ALIGNMENTS,),
            ),
            Format.BAM: (
                "the source when it is sorted, else sorted BAM",
                (".bai", ".csi"),
                _BINARY,
                (Step.ALIGNMENTS,),
            ),
            Format.CRAM: (
                "the source when it is sorted, else sorted CRAM",
                (".crai",),
                _BINARY,
                (Step.ALIGNMENTS,),
            ),
            Format.BCF: (
                "the source when it is sorted, else sorted BCF",
                (".csi",),
                _BINARY,
                (Step.VARIANTS,),
            ),
            Format.BIGBED: (
                "BED in BGZF",
                (".tbi", ".csi"),
                (Work.CONVERT_COMPRESS_INDEX,),
                (Step.BIGBED, Step.COMPRESS, Step.TEXT_INDEX),
            ),
            Format.FASTA: (
                "the source, or BGZF when it is plain gzip",
                (".fai", ".gzi"),
                (Work.NONE, Work.INDEX_ONLY, Work.COMPRESS_INDEX),
                (Step.SEQUENCES, Step.COMPRESS),
            ),
        }
    )
)


def formats_table(tools: Toolchain, *, gtf_as_gff3: bool = False) -> list[FormatRow]:
    """What becomes of each format here, in the order of `Format`."""
    rows = []
    for format in Format:
        processor = select(format, ArtifactKind.DATA, gtf_as_gff3=gtf_as_gff3)
        if processor is None:
            raise RuntimeError(f"nobody minds {format}")
        if isinstance(processor, Passthrough):
            rows.append(FormatRow(format, processor.id, "the source", (), (Work.NONE,), (), ""))
            continue
        data, indexes, least, steps = _WHAT.get(
            format,
            ("sorted, in BGZF; the source when it is that", (".tbi", ".csi"), _TEXT, _TEXT_STEPS),
        )
        if isinstance(processor, GtfAsGff3):
            data, steps = "GFF3 made by gffread, sorted, in BGZF", (Step.GFF3, *steps)
            least = (Work.CONVERT_COMPRESS_INDEX,)
        found = [tools.find(step) for step in steps]
        rows.append(
            FormatRow(
                format,
                processor.id,
                data,
                indexes,
                least,
                tuple(dict.fromkeys(tool.name for tool in found if tool)),
                "; ".join(dict.fromkeys(filter(None, (tools.missing(step) for step in steps)))),
            )
        )
    return rows
