"""Which format a file has: the name proposes, the content decides.

Only the first bytes are looked at. That the rest is whole is seen when it is read for real (`containers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.bgzf import EOF_BLOCK
from synd.processors.containers import Container, container_of, peek, refuse_twice

HEAD_BYTES = 64 << 10
"""How much of a file `detect` wants to see."""


class Format(StrEnum):
    """What a file is."""

    SAM = "sam"
    BAM = "bam"
    CRAM = "cram"
    VCF = "vcf"
    BCF = "bcf"
    BED = "bed"
    NARROW_PEAK = "narrowPeak"
    BROAD_PEAK = "broadPeak"
    BEDGRAPH = "bedGraph"
    GFF2 = "gff2"
    GFF3 = "gff3"
    GTF = "gtf"
    BIGBED = "bigBed"
    BIGWIG = "bigWig"
    WIG = "wig"
    CSV = "csv"
    TSV = "tsv"
    FASTA = "fasta"
    FASTQ = "fastq"
    HDF5 = "hdf5"
    H5AD = "h5ad"
    COOL = "cool"
    MCOOL = "mcool"
    ZARR = "zarr"
    PARQUET = "parquet"
    HTML = "html"
    """An error page, most likely."""
    EMPTY = "empty"
    """It holds nothing."""
    OPAQUE = "opaque"
    """None that we know."""


TABLES = frozenset([Format.CSV, Format.TSV])
BED_FAMILY = frozenset([Format.BED, Format.NARROW_PEAK, Format.BROAD_PEAK, Format.BEDGRAPH])
GFF_FAMILY = frozenset([Format.GFF2, Format.GFF3, Format.GTF])
INTERVALS = BED_FAMILY | GFF_FAMILY | {Format.VCF}
"""Text of intervals: what `normalise` reads."""
TEXT = INTERVALS | TABLES | {Format.SAM, Format.FASTA, Format.FASTQ, Format.WIG}
HDF5_FAMILY = frozenset([Format.HDF5, Format.H5AD, Format.COOL, Format.MCOOL])
AS_IT_IS = TABLES | {Format.FASTQ, Format.WIG, Format.ZARR}
"""Names that promise nothing we would have to look into: whatever they hold is passed on."""

_PACKINGS = (".gz", ".bgz", ".bgzf", ".bz2", ".xz", ".zst")
_NAMES = {
    **{format.value.lower(): format for format in Format},
    "bdg": Format.BEDGRAPH,
    "gff": Format.GFF3,
    "bb": Format.BIGBED,
    "bw": Format.BIGWIG,
    "fa": Format.FASTA,
    "fna": Format.FASTA,
    "fq": Format.FASTQ,
    "h5": Format.HDF5,
}
for _told_by_content in (Format.HTML, Format.EMPTY, Format.OPAQUE):
    del _NAMES[_told_by_content.value]
_HINTS = {"tab-separated-values": Format.TSV, "comma-separated-values": Format.CSV}

_MAGIC = (
    (b"BAM\x01", Format.BAM),
    (b"BCF\x02", Format.BCF),
    (b"\xeb\xf2\x89\x87", Format.BIGBED),
    (b"\x87\x89\xf2\xeb", Format.BIGBED),
    (b"\x26\xfc\x8f\x88", Format.BIGWIG),
    (b"\x88\x8f\xfc\x26", Format.BIGWIG),
    (b"\x89HDF\r\n\x1a\n", Format.HDF5),
    (b"PAR1", Format.PARQUET),
    (b"CRAM", Format.CRAM),
)
_HTML = re.compile(rb"\s*<(?:!doctype|html|\?xml)", re.IGNORECASE)
_WIDE_TEXT = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
"""Byte-order marks of UTF-16 and UTF-32."""
_BOM = b"\xef\xbb\xbf"
_SAM = re.compile(rb"@(?:HD|SQ|RG|PG|CO)\t")
_GFF_VERSION = re.compile(rb"##gff-version[ \t]+(3?)")
_GTF_COLUMN = re.compile(rb'\s*[^\s=;"]+\s+(?:"[^"]*"|[0-9]+)\s*(?:;|$)')
_FASTA = re.compile(rb">\S.*[\r\n]+[A-Za-z*.-]+\s")
"""Where no name tells it, a second line of letters does: `>` also begins quoted text."""
_FASTQ = re.compile(rb"\s*@\S*.*\n.*\n\+")
_TRACK = re.compile(rb"(?:track|browser)(?:\s|$)")
_BEDGRAPH = re.compile(rb"track\s(?:.*\s)?type=[\"']?bedGraph\b", re.IGNORECASE)
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


@dataclass(frozen=True, slots=True)
class Detected:
    """What a file is, and why it is thought to be that."""

    format: Format
    container: Container
    """By the first bytes; `containers.Decoder` may demote BGZF to gzip."""
    name_format: str
    """What the name claims, or the hint where the name claims nothing; `""`: nothing."""
    reason: str = ""
    """What told the format, for people."""


def name_format(name: str) -> str:
    """The format that a file's name claims, as a value of `Format`; `""` when it claims none."""
    lowered = name.lower()
    while packing := next((p for p in _PACKINGS if lowered.endswith(p)), ""):
        lowered = lowered.removesuffix(packing)
    stem, _, suffix = lowered.rpartition(".")
    found = _NAMES.get(suffix) if stem else None
    return found.value if found else ""


def claimed(name: str, hint: str = "") -> str:
    """The format that a name claims, or the provider's word for it where the name claims none; `""`: nothing."""
    return name_format(name) or _hinted(hint)


_WHATEVER_NAME = frozenset([Format.BAM, Format.CRAM, Format.BCF, Format.BIGBED])
"""Told by the content alone."""
_PERHAPS_NAMELESS = frozenset([Format.SAM, Format.VCF, Format.GFF2, Format.GFF3, Format.FASTA])
"""The content may tell them, or a name."""


def holds_for(format: str, name: str, *, own: bool = False) -> bool:
    """Whether content that was found to be `format` is surely that under this name too: a table is never turned into
    intervals, whatever a file with the same bytes is called. `own`: it was found for this very file.
    """
    if not format or format in _WHATEVER_NAME:
        return True
    found, claim = Format(format), name_format(name)
    for family in (BED_FAMILY, GFF_FAMILY, {found}):
        if found in family and claim in family:
            return True
    return own and (not claim or found in _PERHAPS_NAMELESS)


def content(name: str, head: bytes, *, hint: str = "") -> Detected:
    """What the content is, whether or not the name can be right.

    Raises StageFailed: UNSUPPORTED_ENCODING, and FORMAT_MISMATCH for what is packed twice.
    """
    container = container_of(head)
    if container is Container.BGZF and head.startswith(EOF_BLOCK) and len(head) > len(EOF_BLOCK):
        # Programs take the first block, being empty, for the end.
        container = Container.GZIP
    claim = claimed(name, hint)
    format, reason = _content(head, container, Format(claim) if claim else None)
    return Detected(format, container, claim, reason)


def detect(name: str, head: bytes, *, hint: str = "") -> Detected:
    """What a file is, from its name and the first bytes (`HEAD_BYTES`, or all of a smaller file).

    `hint`: the provider's own word for the format, used where the name claims nothing.

    Raises StageFailed: FORMAT_MISMATCH when name and content cannot both be right, UNSUPPORTED_ENCODING for UTF-16/32.
    """
    found = content(name, head, hint=hint)
    claim = found.name_format
    unlike = found.format in (Format.HTML, Format.OPAQUE)
    # What was not to be seen (packed in what cannot be decoded here) contradicts nobody.
    if unlike and claim and Format(claim) not in AS_IT_IS and found.reason != _UNSEEN:
        raise StageFailed(
            f"named as {claim}, but the content is {_WORDS[found.format]}",
            failure=Failure.FORMAT_MISMATCH,
        )
    return found


_UNSEEN = "the content cannot be seen from its first bytes"
_WORDS = {Format.HTML: "an HTML or XML page", Format.OPAQUE: "nothing of that kind"}


def _hinted(hint: str) -> str:
    """The format that a provider's word means: `BAM`, `.vcf`, `bed narrowPeak`, `text/csv`."""
    words = re.split(r"[\s/.]+", hint.strip().lower())
    word = words[-1].removeprefix("x-")
    found = _HINTS.get(word) or _NAMES.get(word)
    return found.value if found else ""


def _content(head: bytes, container: Container, claim: Format | None) -> tuple[Format, str]:
    if not head:
        return Format.EMPTY, "it has no bytes"
    if container is Container.CRAM:
        return Format.CRAM, "magic"
    if container is Container.ZIP:
        zarr = claim is Format.ZARR
        return (Format.ZARR, "name, a zip") if zarr else (Format.OPAQUE, "a zip archive")
    data, known = (head, True) if container is Container.NONE else peek(head, container)
    if not known:
        return (claim or Format.OPAQUE), _UNSEEN
    if not data:
        return Format.EMPTY, "what is packed has no bytes"
    if container is not Container.NONE:
        refuse_twice(data)
    for magic, format in _MAGIC:
        if data.startswith(magic):
            if format is Format.HDF5 and claim in HDF5_FAMILY:
                return claim, "magic of HDF5, and name"
            return format, "magic"
    if data.startswith(_WIDE_TEXT):
        if claim is None or claim in AS_IT_IS:
            return claim or Format.OPAQUE, "UTF-16 or UTF-32"
        raise StageFailed(
            "the text is UTF-16 or UTF-32",
            failure=Failure.UNSUPPORTED_ENCODING,
            hint="convert it to UTF-8",
        )
    data = data.removeprefix(_BOM)
    if _HTML.match(data):
        return Format.HTML, "an HTML or XML page"
    return _text(data, claim)


def _text(data: bytes, claim: Format | None) -> tuple[Format, str]:
    if data.startswith(b"##fileformat=VCF"):
        return Format.VCF, "first line"
    if _SAM.match(data):
        return Format.SAM, "first line"
    if version := _gff_version(data):
        return (Format.GFF3 if version[1] else Format.GFF2), "##gff-version"
    if claim in TABLES:
        return claim, "name"
    if data.startswith(b">") and (claim is Format.FASTA or (claim is None and _FASTA.match(data))):
        return Format.FASTA, "first line"
    if data.startswith(b"@") and claim is Format.FASTQ:
        return Format.FASTQ, "first line, and name"
    if claim in GFF_FAMILY and (found := _gff(data, claim)) is not None:
        return found, "first record, and name"
    if claim in BED_FAMILY and (found := _bed(data, claim)) is not None:
        return found, "first record, and name"
    if claim is Format.FASTA and _FASTQ.match(data):
        return Format.OPAQUE, "FASTQ, and not so named"
    if claim in AS_IT_IS or (claim in TEXT and not _BINARY.search(data)):
        return claim, "name"
    return Format.OPAQUE, "neither name nor content tells it"


def _lines(data: bytes) -> Iterator[bytes]:
    """Lines that are neither blank nor comments; the last one may be cut."""
    for line in data.splitlines():
        if line.strip() and not line.startswith(b"#"):
            yield line


def _gff_version(data: bytes) -> re.Match[bytes] | None:
    """The line that tells it, among the comments on top."""
    for line in data.splitlines():
        if not line.startswith(b"#"):
            return None
        if found := _GFF_VERSION.match(line):
            return found
    return None


def _gff(data: bytes, claim: Format) -> Format | None:
    columns = next(_lines(data), b"").split(b"\t")
    if len(columns) != 9:
        return None
    if _GTF_COLUMN.match(columns[8]):
        return Format.GTF
    return Format.GFF2 if claim is Format.GFF2 else Format.GFF3


def _bed(data: bytes, claim: Format) -> Format | None:
    records = 0
    for line in _lines(data):
        columns = line.split(b"\t")
        if len(columns) < 3:
            columns = line.split()
        if len(columns) >= 3 and columns[1].isdigit() and columns[2].isdigit():
            if claim is Format.NARROW_PEAK and len(columns) == 9:
                return Format.BROAD_PEAK
            return claim
        if _BEDGRAPH.match(line):
            claim = Format.BEDGRAPH
        elif not _TRACK.match(line):
            # The names of the columns may stand in the first line.
            records += 1
            if records > 1:
                return None
    return None if claim is not Format.BEDGRAPH else claim
