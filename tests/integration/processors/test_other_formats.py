"""FASTA, CRAM and BCF, which the fixtures lack: made here with the tools themselves."""

import gzip
import subprocess

import pytest

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.base import ArtifactKind, Tools, Work
from tests.support import genomics
from tests.support.genomics import case

pytestmark = pytest.mark.tools
CHAINS = [Tools.NATIVE, Tools.BUILTIN]
SEQUENCES = b">one first\nACGTACGT\nACGT\n>two\nGGGG\n>three\nTTTTTTTT\nTT\n"


@pytest.fixture(params=CHAINS)
def tools(request):
    genomics.need(Tools.NATIVE)
    genomics.need(request.param)
    return request.param


def program(*argv, **options):
    subprocess.run([str(word) for word in argv], check=True, capture_output=True, **options)


def fetch(data, index, region):
    """A region of an indexed FASTA, by pysam."""
    import pysam

    with pysam.FastaFile(str(data), filepath_index=str(index)) as file:
        return file.fetch(*region)


@pytest.mark.parametrize("packed", ["plain", "bgzf", "gzip"])
def test_fasta_always_has_an_index_that_finds_bases(tmp_path, tools, packed):
    """A plain or BGZF file is indexed as it is; plain gzip is packed anew first."""
    path = tmp_path / "x.fa"
    path.write_bytes(SEQUENCES)
    if packed == "gzip":
        path = tmp_path / "x.fa.gz"
        path.write_bytes(gzip.compress(SEQUENCES))
    elif packed == "bgzf":
        program("bgzip", path)
        path = tmp_path / "x.fa.gz"
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    data, index = result.made(ArtifactKind.DATA), result.made(ArtifactKind.INDEX)

    assert index.suffix == ".fai"
    assert list(index.extra) == ([] if packed == "plain" else [".gzi"])
    assert index.records == 3
    assert (data.alias_of == "source") == (packed != "gzip")
    expected = Work.COMPRESS_INDEX if packed == "gzip" else Work.INDEX_ONLY
    assert expected == result.finished.work
    lines = result.index.read_text().splitlines()
    assert [line.split("\t")[:2] for line in lines] == [
        ["one", "12"],
        ["two", "4"],
        ["three", "10"],
    ]
    assert genomics.lines(result.data) == SEQUENCES.splitlines()


def test_fasta_when_uneven_then_is_no_valid_record(tmp_path, tools):
    """Lines of different lengths cannot be indexed; the text says so."""
    path = tmp_path / "x.fa"
    path.write_bytes(b">one\nAC\nACGTACGT\nACG\nACGT\n")

    with pytest.raises(StageFailed) as failed:
        genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    assert failed.value.failure == Failure.INVALID_RECORD


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b">one\nAC\n>one\nGT\n", "two sequences are named 'one'"),
        (b">\nACGT\n", "a sequence has no name"),
        (b">one\n", "it ends in a name"),
        (b">one\n>two", "it ends in a name"),
        (b">one\nAC\n>two\n", "it ends in a name"),
    ],
    ids=["twice", "nameless", "empty", "empty-two", "ends-in-a-name"],
)
def test_fasta_when_a_sequence_cannot_be_found_then_is_no_valid_record(tmp_path, tools, text, why):
    """It is the content that is at fault: said so at once, not tried again as if a tool had failed."""
    path = tmp_path / "x.fa"
    path.write_bytes(text)

    with pytest.raises(StageFailed) as failed:
        genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    assert failed.value.failure == Failure.INVALID_RECORD
    assert why in failed.value.message


def test_fasta_when_it_begins_with_a_byte_order_mark_then_is_packed_without(tmp_path, tools):
    """No tool reads past the mark."""
    path = tmp_path / "x.fa"
    path.write_bytes(b"\xef\xbb\xbf" + SEQUENCES)
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))

    assert Work.COMPRESS_INDEX == result.finished.work
    assert genomics.lines(result.data) == SEQUENCES.splitlines()
    assert result.index.read_text().startswith("one\t12\t")


@pytest.mark.parametrize("file", ["align/sorted.bam", "align/unsorted.bam"])
def test_cram_always_is_readable_by_region(tmp_path, tools, file):
    """A sorted CRAM is indexed as it is, another is sorted."""
    path = tmp_path / "x.cram"
    program(
        "samtools",
        "view",
        "-C",
        "--no-PG",
        "--output-fmt-option",
        "no_ref=1",
        "-o",
        path,
        case(file).path,
    )
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    in_order = file == "align/sorted.bam"

    assert result.made(ArtifactKind.INDEX).suffix == ".crai"
    assert (result.made(ArtifactKind.DATA).alias_of == "source") == in_order
    assert (Work.INDEX_ONLY if in_order else Work.SORT_INDEX) == result.finished.work
    for region in case(file).expected["regions"]:
        found = genomics.overlaps(
            result.data,
            result.index,
            region["contig"],
            region["begin"],
            region["end"],
            alignments=True,
        )
        assert region["count"] == found


def test_cram_when_cut_then_is_truncated(tmp_path, tools):
    """A CRAM without its last container was cut."""
    path = tmp_path / "x.cram"
    program(
        "samtools", "view", "-C", "--no-PG", "--output-fmt-option", "no_ref=1", "-o", path,
        case("align/sorted.bam").path,
    )  # fmt: skip
    path.write_bytes(path.read_bytes()[:-38])

    with pytest.raises(StageFailed) as failed:
        genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    assert failed.value.failure == Failure.SOURCE_TRUNCATED


@pytest.mark.parametrize("file", ["variants/sorted.vcf.gz", "variants/interleaved_contigs.vcf.gz"])
def test_bcf_always_is_readable_by_region(tmp_path, tools, file):
    """A sorted BCF is indexed as it is, another is sorted by bcftools; the index is CSI."""
    import pysam

    path = tmp_path / "x.bcf"
    program("bcftools", "view", "--no-version", "-Ob", "-o", path, case(file).path)
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    in_order = file == "variants/sorted.vcf.gz"

    assert result.made(ArtifactKind.INDEX).suffix == ".csi"
    assert result.made(ArtifactKind.INDEX).records == 1500
    assert (Work.INDEX_ONLY if in_order else Work.SORT_INDEX) == result.finished.work
    with pysam.VariantFile(str(result.data), index_filename=str(result.index)) as bcf:
        for region in case(file).expected["regions"]:
            if region["contig"] in bcf.header.contigs:
                found = sum(
                    1 for _ in bcf.fetch(region["contig"], region["begin"] - 1, region["end"])
                )
                assert region["count"] == found


def test_bcf_when_cut_then_is_truncated(tmp_path, tools):
    """A BCF without BGZF's last block was cut."""
    path = tmp_path / "x.bcf"
    program("bcftools", "view", "-Ob", "-o", path, case("variants/sorted.vcf.gz").path)
    path.write_bytes(path.read_bytes()[:-28])

    with pytest.raises(StageFailed) as failed:
        genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    assert failed.value.failure == Failure.SOURCE_TRUNCATED
