"""Which processor minds a format, and what each says it makes."""

import pytest

from synd.processors.base import ArtifactKind, Source, Stored, Tools, Work
from synd.processors.containers import Container
from synd.processors.detect import Detected, Format
from synd.processors.select import PROCESSORS, formats_table, select
from synd.processors.tools import Toolchain

ALIGNMENTS = {Format.SAM, Format.BAM, Format.CRAM}
INTERVALS = {
    Format.VCF,
    Format.BCF,
    Format.BED,
    Format.NARROW_PEAK,
    Format.BROAD_PEAK,
    Format.BEDGRAPH,
    Format.GFF2,
    Format.GFF3,
    Format.GTF,
    Format.BIGBED,
}
SOURCE = Source("synapse", "syn1", "0" * 32, "x", 1)


def expected(format):
    if format in ALIGNMENTS:
        return "bam_index"
    if format in INTERVALS:
        return "tabix_interval"
    return "faidx" if format is Format.FASTA else "passthrough"


@pytest.mark.req("S1-13", "S1-20")
@pytest.mark.parametrize("format", list(Format))
def test_format_always_resolves_to_the_first_that_matches(format):
    """Every format has a processor for its data; GFF3 is never bypassed."""
    found = select(format, ArtifactKind.DATA)

    assert found is not None
    assert expected(format) == found.id


@pytest.mark.req("S1-18", "S1-20", "S1-53")
@pytest.mark.parametrize("format", list(Format))
def test_index_when_the_format_has_none_then_resolves_to_nobody(format):
    """CSV, TSV, bigWig and the like have no index; all others have."""
    found = select(format, ArtifactKind.INDEX)

    assert (found is None) == (expected(format) == "passthrough")


@pytest.mark.req("S1-19")
@pytest.mark.parametrize("format", list(Format))
def test_processor_always_agrees_with_itself(format):
    """`needs_processing` is true exactly where artifacts are produced, and never raises."""
    detected = Detected(format, Container.NONE, "")
    processor = select(format, ArtifactKind.DATA)
    assert processor is not None

    kinds = processor.artifact_kinds_produced(detected)

    assert processor.needs_processing(detected) == bool(kinds)
    assert kinds in (frozenset(), frozenset(ArtifactKind))


@pytest.mark.req("S1-19")
@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: p.id)
def test_processor_when_the_format_is_another_then_needs_nothing(processor):
    """A format that is not its own gives false, not an error."""
    foreign = Detected(Format.OPAQUE, Container.NONE, "")

    assert not processor.needs_processing(foreign)
    assert not processor.artifact_kinds_produced(foreign)


class _Shop:
    """All that a refusal looks at."""

    def __init__(self, format):
        self.detected = Detected(format, Container.NONE, "")


@pytest.mark.req("S1-18", "S1-24")
@pytest.mark.parametrize("processor", PROCESSORS, ids=lambda p: p.id)
@pytest.mark.parametrize("kind", list(ArtifactKind))
def test_run_when_nothing_is_to_be_processed_then_is_an_error(processor, kind):
    """Running a processor on a pass-through format is a bug that shows itself."""
    with pytest.raises(RuntimeError, match="csv"):
        processor.run(kind, _Shop(Format.CSV), Stored("md5:0", 1))


@pytest.mark.parametrize(
    ("processor", "format"),
    [("bam_index", Format.BAM), ("tabix_interval", Format.BED), ("faidx", Format.FASTA)],
)
def test_index_when_no_data_is_stored_then_is_an_error(processor, format):
    """An index is built of stored data, of nothing else."""
    found = select(format, ArtifactKind.INDEX)
    assert found is not None
    assert found.id == processor

    with pytest.raises(RuntimeError, match="stored"):
        found.run(ArtifactKind.INDEX, _Shop(format), None)


@pytest.mark.req("S1-08")
def test_cache_key_always_names_processor_kind_and_version():
    """Each kind and each processor has keys of its own."""
    keys = {processor.cache_key(SOURCE, kind) for processor in PROCESSORS for kind in ArtifactKind}

    assert len(keys) == len(PROCESSORS) * len(ArtifactKind)
    assert "synapse/syn1/index/bam_index/" + "0" * 32 + "-v1" in keys


@pytest.mark.req("S1-14")
def test_gtf_when_asked_as_gff3_then_has_a_processor_of_its_own():
    """The variant that loses lines never shares a key with the one that keeps them."""
    variant = select(Format.GTF, ArtifactKind.DATA, gtf_as_gff3=True)
    normal = select(Format.GTF, ArtifactKind.DATA)

    assert variant is not None
    assert normal is not None
    assert (variant.id, normal.id) == ("tabix_interval.gff3", "tabix_interval")
    other = select(Format.GFF3, ArtifactKind.DATA, gtf_as_gff3=True)
    assert other is not None
    assert other.id == "tabix_interval"


def _here(*programs):
    return Toolchain(
        Tools.AUTO,
        which=lambda name: f"/bin/{name}" if name in programs else None,
        has_module=lambda name: False,
        sort_usable=lambda: True,
    )


@pytest.mark.req("S1-67")
def test_table_always_has_a_row_for_each_format():
    """Processor, data, index, least work, tools here, and what is missing."""
    rows = {row.format: row for row in formats_table(_here("tabix", "sort", "bgzip"))}

    assert list(rows) == list(Format)
    assert "samtools" in rows[Format.BAM].missing
    assert rows[Format.BAM].indexes == (".bai", ".csi")
    assert rows[Format.VCF].missing == ""
    assert rows[Format.VCF].tools == ("sort", "bgzip", "tabix")
    assert rows[Format.CSV].least == (Work.NONE,)
    assert rows[Format.CSV].missing == ""


def test_table_when_gtf_is_made_gff3_then_names_gffread():
    """The variant's row tells what it needs."""
    rows = {row.format: row for row in formats_table(_here("tabix"), gtf_as_gff3=True)}

    assert rows[Format.GTF].processor == "tabix_interval.gff3"
    assert "gffread" in rows[Format.GTF].missing
