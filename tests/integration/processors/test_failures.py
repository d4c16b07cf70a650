"""What is wrong with a source, a disk or an index ends in an error of its class, never in an artifact."""

import gzip
import os
import shutil
from dataclasses import replace

import pytest

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import verify
from synd.processors.base import ArtifactKind, Stage, Stored, Tools
from synd.processors.detect import Format
from synd.processors.stages import Order
from tests.support import genomics
from tests.support.disks import small_disk
from tests.support.genomics import case

pytestmark = pytest.mark.tools
CHAINS = [Tools.NATIVE, Tools.BUILTIN]
READ = "r{i}\t0\tchr1\t{at}\t60\t4M\t*\t0\t0\tACGT\tIIII\n"


@pytest.fixture(params=CHAINS)
def tools(request):
    genomics.need(request.param)
    return request.param


def failing(order, **made):
    """The error of an order, of which nothing but `made` may have been told."""
    told = []
    with pytest.raises(StageFailed) as failed:
        genomics.make(order, told=told)
    assert [stage for stage, one in told if one is not None] == list(made)
    return failed.value


@pytest.mark.req("S1-62")
@pytest.mark.parametrize("at", [0.3, 0.6, 0.95])
@pytest.mark.parametrize("file", ["variants/unsorted.vcf", "intervals/unsorted.bed"])
def test_gzip_when_cut_anywhere_then_is_truncated(tmp_path, tools, file, at):
    """Wherever a gzip file was cut, no artifact of its first part is made."""
    packed = gzip.compress(case(file).path.read_bytes())
    path = tmp_path / (os.path.basename(file) + ".gz")
    path.write_bytes(packed[: int(len(packed) * at)])

    assert failing(genomics.order(path, tmp_path / "work", tools=tools)).failure == (
        Failure.SOURCE_TRUNCATED
    )


@pytest.mark.req("S1-62")
@pytest.mark.parametrize(
    "file", ["variants/sorted.vcf.gz", "align/sorted.bam", "align/unsorted.bam"]
)
def test_bgzf_when_cut_between_blocks_then_is_truncated(tmp_path, tools, file):
    """Tools exit 0 on a file that lacks its last block; we do not."""
    path = tmp_path / os.path.basename(file)
    path.write_bytes(case(file).path.read_bytes()[:-28])

    assert failing(genomics.order(path, tmp_path / "work", tools=tools)).failure == (
        Failure.SOURCE_TRUNCATED
    )


@pytest.mark.parametrize(
    "file", ["variants/sorted.vcf.gz", "align/sorted.bam", "align/unsorted.bam"]
)
def test_bgzf_when_a_byte_is_wrong_then_is_corrupt(tmp_path, tools, file):
    """A flipped byte in the middle is found by the CRC."""
    data = bytearray(case(file).path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path = tmp_path / os.path.basename(file)
    path.write_bytes(data)

    assert failing(genomics.order(path, tmp_path / "work", tools=tools)).failure == (
        Failure.SOURCE_CORRUPT
    )


@pytest.mark.parametrize("threads", [1, 2])
def test_sam_when_a_line_is_bad_then_is_told_which(tmp_path, tools, threads):
    """The line's number is found also where samtools reads in several threads and does not tell it."""
    path = tmp_path / "x.sam"
    lines = [READ.format(i=i, at=100 + i) for i in range(2000)]
    lines[1500] = lines[1500].replace("\t1600\t", "\tsoon\t")
    path.write_text("@SQ\tSN:chr1\tLN:10000\n" + "".join(lines))

    error = failing(genomics.order(path, tmp_path / "work", tools=tools, tool_threads=threads))

    assert error.failure == Failure.INVALID_RECORD
    assert error.bad_line == 1502


@pytest.mark.parametrize(
    "header",
    [
        "@HD\tVN:1.6\n",
        "@SQ\tSN:chr1\n",
        "@SQ\tSN:chr1\tLN:10\n@SQ\tSN:chr1\tLN:20\n",
        "@SQ\tSN:chr2\tLN:1000\n",
    ],
    ids=["no contigs", "no length", "twice", "another contig"],
)
def test_sam_when_its_header_does_not_do_then_is_invalid(tmp_path, tools, header):
    """Reads with a place need a header that names the contig, once, with a length."""
    path = tmp_path / "x.sam"
    path.write_text(header + READ.format(i=1, at=5))

    assert failing(genomics.order(path, tmp_path / "work", tools=tools)).failure == (
        Failure.INVALID_HEADER
    )


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("x.bed", "chr1\t5\t10\nchr1\t20\t15\n", 2),
        ("x.bed", "#a\nchr1\t5\t1e3\n", 2),
        ("x.vcf", "##fileformat=VCFv4.2\n#CHROM\tPOS\nchr1\t-3\t.\tA\tC\t.\t.\t.\n", 3),
        ("x.gff3", "##gff-version 3\nchr1\tx\tgene\t0\t5\t.\t+\t.\tID=a\n", 2),
        ("x.bed", "chr1\t5\t10\nchr1\t20\t4294967297\n", 2),
    ],
)
def test_text_when_a_record_is_bad_then_is_told_which(tmp_path, tools, name, text, line):
    """The first bad record's line of the source."""
    path = tmp_path / name
    path.write_text(text)

    error = failing(genomics.order(path, tmp_path / "work", tools=tools))

    assert (error.failure, error.bad_line) == (Failure.INVALID_RECORD, line)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.vcf", "##fileformat=VCFv4.2\n#CHROM\tPOS\nchr1\t0\t.\tA\tC\t.\t.\t.\n"),
        ("x.bed", "chr1\t0\t0\n"),
        ("x.bed", "chr1\t0\t0\nchr1\t0\t1\nchr2\t7\t7\n"),
        ("x.bed", "chr1\t5\t4294967296\n"),
    ],
    ids=["telomere", "before-the-first", "without-a-base", "the-last-place"],
)
def test_text_when_a_record_lies_at_the_very_edge_then_is_prepared(tmp_path, tools, name, text):
    """Position 0 of VCF is the telomere, a record of BED may have no base, and what is legal is no bug."""
    path = tmp_path / name
    path.write_text(text)
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))

    assert text.encode().splitlines() == list(genomics.lines(result.data))


def test_text_when_disorder_comes_late_then_is_sorted_after_all(tmp_path, tools):
    """A file that looks sorted for its first megabyte, and a comment in its middle, end up right."""
    lines = [f"chr1\t{i}\t{i + 9}\tname_{i}_{'x' * 60}\n" for i in range(20_000)]
    path = tmp_path / "x.bed"
    path.write_text("".join([*lines, "# late\n", "chr1\t3\t4\tearly\n"]))
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))
    made = genomics.lines(result.data)

    assert made[0] == b"# late"
    assert made[4:6] == [lines[3].rstrip().encode(), b"chr1\t4\t13\tname_4_" + b"x" * 60] or (
        b"chr1\t3\t4\tearly" in made[4:6]
    )
    assert len(made) == 20_002
    starts = [int(line.split(b"\t")[1]) for line in made[1:]]
    assert starts == sorted(starts)
    assert result.finished.work == "sort+compress+index"


def test_text_when_a_comment_comes_late_then_is_on_top(tmp_path, tools):
    """In order, but for a header line after records: not sorted, and nothing is lost."""
    lines = [f"chr1\t{i}\t{i + 9}\tname_{i}_{'x' * 60}\n" for i in range(20_000)]
    path = tmp_path / "x.bed"
    path.write_text("".join([*lines, "# late\n"]))
    result = genomics.make(genomics.order(path, tmp_path / "work", tools=tools))

    assert genomics.lines(result.data) == [b"# late", *(line.rstrip().encode() for line in lines)]
    assert result.finished.work == "compress+index"
    assert result.recorder.commands("sort") == []


def _disorder(count):
    return [
        f"chr{i % 7}\t{(i * 7919) % 99991}\t100000\tname_{i}_{'x' * 40}\n" for i in range(count)
    ]


def test_text_when_a_late_line_must_be_mended_then_is(tmp_path, tools):
    """A file that looks clean for its first megabyte, and has a line end of another kind far behind."""
    lines = [*_disorder(30_000), "chr1\t7\t9\tlast\r\n"]
    path = tmp_path / "x.bed"
    path.write_text("".join(lines), newline="")
    made = genomics.lines(genomics.make(genomics.order(path, tmp_path / "w", tools=tools)).data)

    assert sorted(line.rstrip("\r\n").encode() for line in lines) == sorted(made)


@pytest.mark.parametrize("tail", ["chr1\t9\t3\n", "chr1\tx\t3"])
def test_text_when_a_late_record_is_bad_then_nothing_is_made(tmp_path, tools, tail):
    """The programs may be far along when it is found: they are ended, and their work is dropped."""
    path = tmp_path / "x.bed"
    path.write_text("".join([*_disorder(30_000), tail]))

    error = failing(genomics.order(path, tmp_path / "w", tools=tools))

    assert (error.failure, error.bad_line) == (Failure.INVALID_RECORD, 30_001)


def test_sort_when_memory_is_little_then_spills_and_is_right(tmp_path, tools):
    """A sort buffer of 1 MiB and a BED of 60 000 lines."""
    numbers = [(i * 7919) % 60_000 for i in range(60_000)]
    path = tmp_path / "x.bed"
    path.write_text("".join(f"chr{n % 3}\t{n}\t{n + 50}\tf{n}\n" for n in numbers))
    result = genomics.make(
        genomics.order(path, tmp_path / "work", tools=tools, sort_memory_bytes=1 << 20)
    )
    keys = [
        (line.split(b"\t")[0], int(line.split(b"\t")[1])) for line in genomics.lines(result.data)
    ]

    assert keys == sorted(keys)
    assert len(set(keys)) == 60_000


@pytest.mark.parametrize("file", ["align/unsorted.bam", "align/unsorted.sam"])
def test_alignments_when_memory_is_little_then_spill_and_are_right(tmp_path, tools, file):
    """1 MiB a thread, the least that samtools may be given."""
    result = genomics.make(
        genomics.order(case(file).path, tmp_path / "w", tools=tools, samtools_memory_bytes=1 << 20)
    )

    assert result.made(ArtifactKind.INDEX).records == 3000


@pytest.mark.parametrize(
    "file", ["align/unsorted.bam", "align/unsorted.sam", "variants/unsorted.vcf", "big/features.bb"]
)
def test_digest_always_is_the_same_for_one_toolchain(tmp_path, tools, file):
    """Two runs, and one thread or two, in folders of other names, give the same bytes."""
    if file.endswith(".bb") and tools is Tools.NATIVE:
        pytest.skip("bigBedToBed is not here")
    digests = set()
    for n, threads in enumerate([1, 1, 2]):
        folder = tmp_path / f"work{'x' * n}"
        made = genomics.make(
            genomics.order(case(file).path, folder, tools=tools, tool_threads=threads)
        )
        digests.add(made.made(ArtifactKind.DATA).digest)
        digest = verify.digest(made.data)
        assert made.made(ArtifactKind.DATA).digest == digest

    assert len(digests) == 1


@pytest.mark.parametrize("file", ["align/unsorted.bam", "variants/unsorted.vcf"])
def test_index_when_of_other_data_then_is_refused(tmp_path, file):
    """An index made for the data of one toolchain does not serve that of another."""
    for one in CHAINS:
        genomics.need(one)
    made = {
        one: genomics.make(
            genomics.order(case(file).path, tmp_path / one, tools=one, bgzf_level=level)
        )
        for one, level in zip(CHAINS, (1, 6), strict=True)
    }
    first, second = made[Tools.NATIVE], made[Tools.BUILTIN]
    found = replace(
        genomics.detected(first.data, "x"),
        format=Format.BAM if file.endswith("bam") else Format.VCF,
    )

    assert first.made(ArtifactKind.DATA).digest != second.made(ArtifactKind.DATA).digest
    assert genomics.records(first.data) == genomics.records(second.data)
    verify.index(first.index, first.index.suffix, first.data, found)
    with pytest.raises(StageFailed) as failed:
        verify.index(first.index, first.index.suffix, second.data, found)
    assert failed.value.failure == Failure.VERIFY_FAILED


@pytest.mark.req("S1-23")
@pytest.mark.parametrize(
    ("file", "sorts"),
    [
        ("align/unsorted.bam", "samtools"),
        ("align/unsorted.sam", "samtools"),
        ("variants/unsorted.vcf", "sort"),
        ("big/features.bb", "bigBedToBed"),
    ],
)
def test_index_when_data_is_stored_then_is_built_of_it_alone(tmp_path, file, sorts):
    """A second attempt skips fetch and data: the source is not even there, and no sort runs."""
    genomics.need(Tools.BUILTIN)
    path = case(file).path
    first = genomics.make(genomics.order(path, tmp_path / "one", tools=Tools.BUILTIN))
    data = first.made(ArtifactKind.DATA)
    object_ = tmp_path / "objects"
    shutil.copy(first.data, object_)
    stored = Stored(data.digest, data.size, object_, data.records, first.finished.detected.format)
    order = replace(
        genomics.order(
            path, tmp_path / "two", tools=Tools.BUILTIN, stored={ArtifactKind.DATA: stored}
        ),
        path=None,
    )

    told = []
    recorder = genomics.Recorder([])
    finished = genomics.stages(order, told, recorder).run()

    assert [stage for stage, _ in told] == [Stage.INDEX]
    assert finished.made[0].of_digest == data.digest
    assert finished.made[0].digest == first.made(ArtifactKind.INDEX).digest
    ran = recorder.commands(sorts)
    assert not [argv for argv in ran if sorts != "samtools" or argv[0] == "sort"]


def test_index_when_stored_data_has_other_bytes_then_is_not_built(tmp_path, tools):
    """What its row says and what lies there must be the same."""
    first = genomics.make(
        genomics.order(case("variants/unsorted.vcf").path, tmp_path / "one", tools=tools)
    )
    data = first.made(ArtifactKind.DATA)
    content = bytearray(first.data.read_bytes())
    content[100] ^= 1
    (tmp_path / "object").write_bytes(content)
    stored = Stored(data.digest, data.size, tmp_path / "object", data.records, "vcf")
    order = replace(
        genomics.order(
            case("variants/unsorted.vcf").path,
            tmp_path / "two",
            tools=tools,
            stored={ArtifactKind.DATA: stored},
        ),
        path=None,
    )

    with pytest.raises(StageFailed) as failed:
        genomics.stages(order, [], genomics.Recorder([])).run()
    assert failed.value.failure == Failure.VERIFY_FAILED


@pytest.mark.req("S1-23")
def test_data_when_the_index_fails_then_was_told_before(tmp_path):
    """A failure of the second stage keeps the first: it was handed over before."""
    genomics.need(Tools.NATIVE)
    from synd.processors.tools import Toolchain

    def no_tabix(name):
        return None if name == "tabix" else shutil.which(name)

    toolchain = Toolchain(Tools.NATIVE, which=no_tabix)
    told = []
    order = genomics.order(case("variants/unsorted.vcf").path, tmp_path / "w", tools=Tools.NATIVE)

    with pytest.raises(StageFailed, match="tabix") as failed:
        genomics.make(order, toolchain=toolchain, told=told)

    assert failed.value.failure == Failure.TOOL_MISSING
    assert [stage for stage, _ in told] == [Stage.FETCH, Stage.DATA]
    assert (tmp_path / "w" / "data.gz").exists()


def test_source_when_its_size_is_another_then_has_changed(tmp_path, tools):
    """What lies here is not what was announced."""
    order = genomics.order(case("variants/unsorted.vcf").path, tmp_path / "w", tools=tools)
    changed = replace(order, source=replace(order.source, size=5))

    assert failing(changed).failure == Failure.SOURCE_CHANGED


def test_source_when_nowhere_then_is_unavailable(tmp_path):
    """Neither a file nor an address."""
    order = genomics.order(case("variants/unsorted.vcf").path, tmp_path / "w")

    error = failing(replace(order, path=None))
    assert error.failure == Failure.SOURCE_UNAVAILABLE


def test_room_when_too_little_then_nothing_is_begun(tmp_path, tools):
    """The disk is looked at before the sort, not filled by it."""
    order = genomics.order(
        case("variants/unsorted.vcf").path, tmp_path / "w", tools=tools, reserve_bytes=1 << 60
    )

    assert failing(order).failure == Failure.NO_SPACE


@pytest.fixture
def tiny(tmp_path):
    """A file system of 256 KiB."""
    with small_disk(tmp_path / "tiny", "size=256k") as folder:
        yield folder


@pytest.mark.parametrize("kind", ["bed", "bam"])
def test_disk_when_it_fills_up_in_the_work_then_is_no_space(
    tmp_path, tiny, tools, kind, monkeypatch
):
    """ENOSPC of any program, or of our own writing, is NO_SPACE, and nothing was told."""
    monkeypatch.setattr("synd.processors.workshop.ROOM_FACTOR", 0.0)
    if kind == "bed":
        path = tmp_path / "x.bed"
        # Random enough that it does not pack into the file system.
        lines = (
            f"chr{i % 5}\t{(i * 7919) % 99991}\t100000\t{os.urandom(12).hex()}\n"
            for i in range(30_000)
        )
        path.write_text("".join(lines))
    else:
        genomics.need(Tools.NATIVE)
        text = "@SQ\tSN:chr1\tLN:1000000\n" + "".join(
            f"{os.urandom(12).hex()}\t0\tchr1\t{(i * 7919) % 99991}\t60\t4M\t*\t0\t0\tACGT\tIIII\n"
            for i in range(1, 30_000)
        )
        path = tmp_path / "x.sam"
        path.write_text(text)
    order = genomics.order(path, tiny / "w", tools=tools, sort_memory_bytes=1 << 20)

    assert failing(order).failure == Failure.NO_SPACE


def test_order_always_survives_its_document(tmp_path):
    """What is written as JSON reads back the same."""
    order = genomics.order(
        case("variants/unsorted.vcf").path,
        tmp_path / "w",
        tools=Tools.BUILTIN,
        tool_threads=3,
        stored={ArtifactKind.DATA: Stored("sha256:00", 5, tmp_path / "x", 7, "vcf")},
    )

    assert order == Order.of(order.document())
