"""How programs are started: argument vectors, keys, caps, one environment, no shell, no name of a user's."""

import os

import pytest

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors.base import ArtifactKind, Tools, Work
from tests.support import genomics
from tests.support.genomics import case

pytestmark = pytest.mark.tools
CHAINS = [Tools.NATIVE, Tools.BUILTIN]
HOSTILE = ["-rf ; touch pwned.bam", "a b'c\"d$(touch pwned).bam", "новый\nфайл.bam", "--help"]


def after(argv, option):
    """What follows an option."""
    return argv[argv.index(option) + 1]


@pytest.fixture
def made(tmp_path):
    """Makes a fixture's artifacts, with the caps given."""

    def make(file, tools=Tools.NATIVE, **caps):
        genomics.need(tools)
        order = genomics.order(case(file).path, tmp_path / "work", tools=tools, **caps)
        return genomics.make(order)

    return make


@pytest.mark.req("S1-10", "S1-11", "S1-64")
@pytest.mark.parametrize("tools", CHAINS)
@pytest.mark.parametrize("file", ["align/unsorted.bam", "align/unsorted.sam", "align/reads.sam.gz"])
def test_alignments_when_unsorted_then_are_sorted_by_one_program(made, file, tools):
    """No program name in the header, memory per thread, spills in the work folder; SAM is read by the sort itself."""
    result = made(file, tools, samtools_memory_bytes=32 << 20, tool_threads=2, bgzf_level=3)
    (sort,) = result.recorder.commands("samtools")[1 if file.endswith(".bam") else 0 :][:1]

    assert sort[0] == "sort"
    assert "--no-PG" in sort
    assert after(sort, "-m") == str(32 << 20)
    assert after(sort, "-T") == "spill"
    assert after(sort, "-@") == "2"
    assert after(sort, "-l") == "3"
    assert sort[-1] == ("src" if file.endswith(".bam") else "-")
    assert not [argv for argv in result.recorder.commands("samtools") if argv[0] == "view"]


@pytest.mark.req("S1-10")
@pytest.mark.parametrize("tools", CHAINS)
def test_alignments_when_sorted_then_are_only_indexed(made, tools):
    """The index build itself is the proof of order, and it is not built twice."""
    result = made("align/sorted.bam", tools)

    assert [argv[0] for argv in result.recorder.commands("samtools")] == ["index"]
    assert result.finished.work is Work.INDEX_ONLY
    assert result.made(ArtifactKind.DATA).file is None


@pytest.mark.req("S1-12", "S1-22", "S1-63", "S1-64", "S1-65")
@pytest.mark.parametrize(
    ("file", "keys", "preset"),
    [
        ("variants/unsorted.vcf", ["1,1", "2,2n"], "vcf"),
        ("intervals/unsorted.bed", ["1,1", "2,2n", "3,3n"], "bed"),
        ("intervals/peaks.narrowPeak", ["1,1", "2,2n", "3,3n"], "bed"),
        ("annotation/genes.gff3", ["1,1", "4,4n", "5,5nr"], "gff"),
        ("annotation/genes.gtf.gz", ["1,1", "4,4n", "5,5nr"], "gff"),
    ],
)
def test_text_when_unsorted_then_is_sorted_by_its_keys(made, tmp_path, file, keys, preset):
    """Keys of the format, tabs alone, stable, memory capped, spills in the work folder, C collation."""
    result = made(file, sort_memory_bytes=3 << 20, tool_threads=2, bgzf_level=4)
    (sort,) = result.recorder.commands("sort")
    (bgzip,) = result.recorder.commands("bgzip")
    tabix = result.recorder.commands("tabix")

    assert keys == [word.removeprefix("-k") for word in sort if word.startswith("-k")]
    assert "-s" in sort
    assert "\t" in (after(sort, "-t") if "-t" in sort else next(w for w in sort if "-t" in w))
    joined = " ".join(sort)
    assert "-S" in joined
    assert str(tmp_path / "work") in joined
    assert "--parallel=2" in joined
    assert bgzip == ("-c", "-@", "2", "-l", "4")
    assert tabix[0] == ("-f", "-p", preset, "ready.gz")
    (launch,) = [one for one in result.recorder.launches if one.argv[0].endswith("sort")]
    assert launch.environment["LC_ALL"] == "C"
    assert launch.environment["TMPDIR"] == str(tmp_path / "work")


@pytest.mark.req("S1-66")
@pytest.mark.parametrize(
    "file", ["variants/unsorted.vcf", "variants/plain_gzip.vcf.gz", "annotation/genes.gff3"]
)
def test_text_always_streams(made, file):
    """From program to program: no step leaves a copy of its own, packed or not."""
    result = made(file)
    left = {
        path.name for path in result.folder.rglob("*") if path.is_file() and not path.is_symlink()
    }

    assert left <= {"data.gz", "ready.gz", "ready.gz.tbi", "ready.gz.csi", "regions.txt"}


@pytest.mark.parametrize("file", ["variants/sorted_plain.vcf", "variants/plain_gzip.vcf.gz"])
def test_text_when_in_order_then_is_not_sorted(made, file):
    """The sort is skipped where order was not broken."""
    result = made(file)

    assert result.recorder.commands("sort") == []
    assert len(result.recorder.commands("bgzip")) == 1
    assert result.finished.work is Work.COMPRESS_INDEX


@pytest.mark.req("S1-21")
def test_text_when_it_lies_ready_then_is_only_indexed(made):
    """A sorted BGZF file is neither sorted nor compressed again."""
    result = made("variants/sorted.vcf.gz")

    assert result.recorder.commands("sort") == []
    assert result.recorder.commands("bgzip") == []
    assert len(result.recorder.commands("tabix")) == 2


def test_index_when_a_record_ends_far_then_is_csi(made):
    """Neither BAI nor TBI can hold an end past 2**29."""
    text = made("variants/long_contig.vcf").recorder.commands("tabix")

    assert ("-f", "-C", "-p", "vcf", "ready.gz") in text


@pytest.mark.parametrize("tools", CHAINS)
def test_program_always_is_started_without_a_shell(made, tools):
    """An argument vector each, by its own path, with none of our descriptors but its three."""
    result = made("variants/unsorted.vcf", tools)

    assert result.recorder.launches
    for launch in result.recorder.launches:
        assert os.path.isabs(launch.argv[0])
        assert os.path.basename(launch.argv[0]) not in {"sh", "bash", "dash", "env"}
        assert launch.folder == result.folder


@pytest.mark.parametrize("tools", CHAINS)
@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("file", ["align/unsorted.bam", "variants/plain_gzip.vcf.gz"])
def test_name_when_hostile_then_reaches_no_command_line(tmp_path, file, name, tools):
    """Blanks, dashes, quotes and newlines in a file's name, and in the names of folders above it, do no harm."""
    genomics.need(tools)
    folder = tmp_path / "a folder; with 'quotes' --help"
    folder.mkdir()
    source = folder / name.replace("/", "_")
    source.write_bytes(case(file).path.read_bytes())

    result = genomics.make(
        genomics.order(source, folder / "-work", tools=tools, name=f"{name}.vcf.gz")
    )

    assert result.made(ArtifactKind.INDEX).records == case(file).expected["records"]
    assert not list(tmp_path.rglob("pwned"))
    for launch in result.recorder.launches:
        assert not any(name in word for word in launch.argv)


@pytest.mark.req("S1-14")
@pytest.mark.parametrize("file", ["annotation/genes.gtf", "annotation/genes.gtf.gz"])
def test_gtf_when_asked_as_gff3_then_goes_through_gffread(tmp_path, file):
    """The conversion is a variant with an id of its own; gffread's command line is in no header."""
    genomics.need(Tools.NATIVE)
    genomics.need(Tools.NATIVE, "gffread")
    order = genomics.order(case(file).path, tmp_path / "work", gtf_as_gff3=True)
    result = genomics.make(order)
    lines = genomics.lines(result.data)

    assert result.recorder.commands("gffread") == [("-E", "-o-", "src.gtf")]
    assert result.finished.processor == "tabix_interval.gff3"
    assert not any(b"gffread" in line for line in lines)
    assert any(
        b"ID=" in line and (b"\tmRNA\t" in line or b"\ttranscript\t" in line) for line in lines
    )
    assert result.made(ArtifactKind.INDEX).suffix == ".tbi"


@pytest.mark.req("S1-14")
def test_gtf_when_not_asked_then_keeps_every_line(made):
    """GTF is indexed as it is by default: gffread would lose lines."""
    result = made("annotation/genes.gtf")

    assert result.recorder.commands("gffread") == []
    assert result.made(ArtifactKind.DATA).records == 1390


def test_gtf_when_gffread_makes_nothing_of_it_then_is_an_error(tmp_path):
    """It exits 0 without a word on garbage: no feature out of a file with lines is a failure."""
    genomics.need(Tools.NATIVE)
    genomics.need(Tools.NATIVE, "gffread")
    path = tmp_path / "x.gtf"
    path.write_text('chr1\tx\tnothing\t10\t20\t.\t+\t.\tgene_id "a";\n')

    with pytest.raises(StageFailed, match="gffread made nothing") as failed:
        genomics.make(genomics.order(path, tmp_path / "work", gtf_as_gff3=True))
    assert failed.value.failure == Failure.TOOL_FAILED
