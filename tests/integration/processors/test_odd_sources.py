"""Sources that are rare and legal, which are prepared, and such that are neither, which are told by their class."""

import gzip
import struct
import subprocess

import pytest

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.base import ArtifactKind, Tools, Work
from synd.processors.bgzf import EOF_BLOCK
from tests.support import genomics

pytestmark = pytest.mark.tools
CHAINS = [Tools.NATIVE, Tools.BUILTIN]
VCF = (
    b"##fileformat=VCFv4.2\n##contig=<ID=chr1,length=1000>\n"
    b"#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    b"chr1\t5\t.\tA\tT\t.\tPASS\t.\nchr1\t9\t.\tA\tT\t.\tPASS\t.\n"
)
SAM = (
    b"@HD\tVN:1.6\tSO:coordinate\n@SQ\tSN:chr1\tLN:1000\n@SQ\tSN:chr2\tLN:1000\n"
    b"a\t0\tchr1\t10\t30\t4M\t*\t0\t0\tACGT\tIIII\nb\t0\tchr2\t50\t30\t4M\t*\t0\t0\tACGT\tIIII\n"
)
FASTA = b">a first\nACGTACGT\nACG\n>b\nACGT\n"


@pytest.fixture(params=CHAINS)
def tools(request):
    genomics.need(Tools.NATIVE)
    genomics.need(request.param)
    return request.param


def piped(data, *argv):
    return subprocess.run(
        [str(word) for word in argv], input=data, stdout=subprocess.PIPE, check=True
    ).stdout


def bgzf(data):
    return piped(data, "bgzip", "-c")


def bam(data=SAM):
    return piped(data, "samtools", "view", "--no-PG", "-b", "-")


def cram(version="3.0"):
    return piped(SAM, "samtools", "view", "-O", f"cram,version={version},no_ref=1", "-")


def bcf():
    return piped(VCF, "bcftools", "view", "--no-version", "-Ob", "-")


def made(tmp_path, tools, name, data):
    path = tmp_path / name
    path.write_bytes(data)
    return genomics.make(genomics.order(path, tmp_path / "work", tools=tools))


@pytest.mark.parametrize(
    ("name", "records"),
    [("x.bam", 2), ("x.bcf", 2), ("x.vcf.gz", 2), ("x.fa.gz", 2)],
)
def test_bgzf_when_its_first_block_is_empty_then_is_packed_anew(tmp_path, tools, name, records):
    """samtools and tabix take an empty block on top for the end of the file; nothing is lost to that."""
    data = {"x.bam": bam, "x.bcf": bcf}.get(
        name, lambda: bgzf(VCF if name == "x.vcf.gz" else FASTA)
    )
    result = made(tmp_path, tools, name, EOF_BLOCK + data())

    assert not result.made(ArtifactKind.DATA).alias_of
    assert result.made(ArtifactKind.INDEX).records == records


@pytest.mark.parametrize("name", ["x.bam", "x.bcf"])
def test_binary_when_zeros_stand_behind_its_end_then_is_prepared(tmp_path, tools, name):
    """Padding behind the last member is legal, in BGZF as in gzip."""
    result = made(tmp_path, tools, name, (bam() if name == "x.bam" else bcf()) + bytes(600))

    assert result.finished.work is Work.SORT_INDEX
    assert result.made(ArtifactKind.INDEX).records == 2


@pytest.mark.parametrize("ends", [0, 1, 3])
def test_fasta_when_joined_of_packed_files_then_is_indexed_as_it_is(tmp_path, tools, ends):
    """`cat a.fa.gz b.fa.gz` leaves empty blocks in the middle, which the GZI does not name."""
    data = bgzf(FASTA) + EOF_BLOCK * ends + bgzf(b">c\nACG\n") + EOF_BLOCK * ends
    result = made(tmp_path, tools, "x.fa.gz", data)

    assert result.finished.work is Work.INDEX_ONLY
    assert result.made(ArtifactKind.INDEX).records == 3


def test_fasta_when_a_description_is_long_then_is_indexed(tmp_path, tools):
    """Merged descriptions take more than what is looked at first."""
    data = b">z\nAC\n>a " + b"gi|1| " * 30_000 + b"\nACGT\nAC\n"

    assert made(tmp_path, tools, "x.fa", data).made(ArtifactKind.INDEX).records == 2


def test_cram_when_of_version_2_then_is_indexed(tmp_path, tools):
    """htslib writes the container of a header of version 2.1 shorter than what stands in it."""
    result = made(tmp_path, tools, "x.cram", cram("2.1"))

    assert result.finished.work is Work.INDEX_ONLY


@pytest.mark.parametrize(
    "lines",
    [
        b"browser\t4\t8\ntrack\t1\t5\n",
        b"chr 1\t4\t8\nchr 1\t6\t9\nchr2\t1\t2\n",
        b"chr1\t16384\t16384\n",
        b"chr1\t536870912\t536870912\n",
    ],
    ids=["named as a track", "a blank in the name", "no base, at a bin", "no base, past TBI"],
)
def test_bed_when_odd_but_legal_then_is_prepared(tmp_path, tools, lines):
    """What no region finds, or looks like a track line, is no reason to refuse the file."""
    result = made(tmp_path, tools, "x.bed", lines)

    assert genomics.records(result.data) == lines
    assert result.made(ArtifactKind.INDEX).records == lines.count(b"\n")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "x.vcf",
            VCF.replace(b"chr1\t", b"track\t").replace(b"##contig=<ID=chr1,length=1000>\n", b""),
        ),
        ("x.gff3", b"##gff-version 3\nbrowser\tx\tgene\t5\t9\t.\t+\t.\tID=a\n"),
    ],
)
def test_contig_when_named_as_a_track_is_one(tmp_path, tools, name, text):
    """Lines for a browser are a matter of BED alone."""
    assert genomics.records(made(tmp_path, tools, name, text).data) == text


@pytest.mark.parametrize("reference", [False, True], ids=["without reference", "of a reference"])
def test_cram_when_unsorted_within_a_slice_then_is_sorted(tmp_path, tools, reference):
    """The index build of CRAM takes any order within a slice; a region would lack records then."""
    lines = SAM.replace(b"chr1\t10\t", b"chr1\t500\t") + (
        b"c\t0\tchr1\t10\t30\t4M\t*\t0\t0\tACGT\tIIII\n"
    )
    options = ["no_ref=1", "reference=" + str(tmp_path / "r.fa")]
    (tmp_path / "r.fa").write_text(">chr1\n" + "ACGT" * 250 + "\n>chr2\n" + "ACGT" * 250 + "\n")
    data = piped(lines, "samtools", "view", "-O", f"cram,{options[reference]}", "-")
    # With the reference at hand, by a path that stands in the header.
    result = made(tmp_path, tools, "x.cram", data)

    assert result.finished.work is Work.SORT_INDEX
    index = f"{result.data}.crai"
    if not (tmp_path / index).exists():
        (tmp_path / index).symlink_to(result.index)
    found = piped(b"", "samtools", "view", "-c", result.data, "chr1:1-20")
    assert found.strip() == b"1"


def test_cram_when_its_reference_is_gone_is_not_a_program_that_failed(tmp_path, tools):
    """Sorting needs the bases; it waits for them, and the bytes are not blamed."""
    lines = SAM.replace(b"chr1\t10\t", b"chr1\t500\t") + (
        b"c\t0\tchr1\t10\t30\t4M\t*\t0\t0\tACGT\tIIII\n"
    )
    reference = tmp_path / "r.fa"
    reference.write_text(">chr1\n" + "ACGT" * 250 + "\n>chr2\n" + "ACGT" * 250 + "\n")
    data = piped(lines, "samtools", "view", "-O", f"cram,reference={reference}", "-")
    reference.unlink()

    with pytest.raises(StageFailed) as failed:
        made(tmp_path, tools, "x.cram", data)

    assert failed.value.failure == Failure.TOOL_MISSING
    assert "REF_PATH" in (failed.value.hint or "")
    assert not Failure.TOOL_MISSING.meaning.of_content


def test_index_of_alignments_always_is_built_without_further_threads(tmp_path, tools):
    """With them htslib 1.16 now and then waits for ever on a damaged header."""
    path = tmp_path / "x.bam"
    path.write_bytes(bam())
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools, tool_threads=2))

    (index,) = [argv for argv in result.recorder.commands("samtools") if argv[0] == "index"]
    assert "-@" not in index


BAD = {
    "header cut.bam": (lambda: bgzf(b"BAM\1"), Failure.SOURCE_CORRUPT),
    "header length.bam": (
        lambda: bgzf(b"BAM\1" + struct.pack("<i", -5) + bytes(50)),
        Failure.SOURCE_CORRUPT,
    ),
    "joined.bam": (lambda: bam() + bam(), Failure.SOURCE_CORRUPT),
    "record cut.bam": (lambda: bgzf(gzip.decompress(bam())[:-10]), Failure.SOURCE_CORRUPT),
    "junk.bam": (lambda: bam() + b"junk", Failure.SOURCE_CORRUPT),
    "junk.bcf": (lambda: bcf() + b"junk", Failure.SOURCE_CORRUPT),
    "header.bcf": (lambda: bgzf(b"BCF\2\2" + b"\xff" * 200), Failure.SOURCE_CORRUPT),
    "version.cram": (lambda: b"CRAM\4\0" + cram()[6:], Failure.SOURCE_CORRUPT),
    "cut.cram": (lambda: cram()[:100], Failure.SOURCE_TRUNCATED),
    "long.sam": (
        lambda: SAM.replace(b"LN:1000\na", b"LN:8589934592\na"),
        Failure.INVALID_HEADER,
    ),
    "nul.vcf": (lambda: VCF.replace(b"chr1\t9", b"ch\0r1\t9"), Failure.INVALID_RECORD),
    "nul.fa": (lambda: b">a\nAC\n>b\0c\nACGT\n", Failure.INVALID_RECORD),
    "reads.fa": (lambda: b"@r\nACGT\n+\nIIII\n", Failure.FORMAT_MISMATCH),
    "answer.bed": (lambda: b'{"error": "no such file"}', Failure.INVALID_RECORD),
}


@pytest.mark.parametrize("name", BAD)
def test_source_when_it_cannot_be_right_then_the_class_is_one_of_content(tmp_path, tools, name):
    """What no second try can mend is never told as a program that failed, nor as a bug of ours."""
    data, expected = BAD[name]

    with pytest.raises(StageFailed) as failed:
        made(tmp_path, tools, f"x.{name.rpartition('.')[2]}", data())
    assert failed.value.failure == expected
