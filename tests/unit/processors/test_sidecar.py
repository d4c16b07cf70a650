"""Whether an index that lies beside a file belongs to it."""

import gzip
import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.processors import bgzf
from synd.processors.containers import Container
from synd.processors.deflate import ZLIB
from synd.processors.detect import HEAD_BYTES, Detected, Format, detect
from synd.processors.sidecar import candidates, check
from tests.support.packed import fixture, ran

INDEXED = [
    ("align/sorted_indexed.bam", ".bai"),
    ("variants/sorted_indexed.vcf.gz", ".tbi"),
    ("intervals/sorted_indexed.bed.gz", ".tbi"),
]
indexed = pytest.mark.parametrize(("name", "suffix"), INDEXED)


def repacked(data, *, step=65280, level=6):
    """The same records as another tool would pack them."""
    plain = gzip.decompress(data)
    blocks = [plain[at : at + step] for at in range(0, len(plain), step)]
    packed = b"".join(bgzf.deflate_block(block, level, engine=ZLIB) for block in blocks)
    return packed + bgzf.EOF_BLOCK


class Ranged:
    """A file of which only ranges are read, and which remembers them."""

    def __init__(self, data):
        self.data = data
        self.read_bytes = 0

    def __call__(self, offset, n):
        assert 0 <= offset < len(self.data)
        assert 0 < n <= len(self.data) - offset
        self.read_bytes += n
        return self.data[offset : offset + n]


def accept(name, data, index, suffix, *, gzi=None):
    """How many bytes of the data were read; ValueError when the index is refused."""
    read = Ranged(data)
    check(index, suffix, read, len(data), detect(name, data[:HEAD_BYTES]), gzi=gzi)
    return read.read_bytes


def reason(name, data, index, suffix, *, gzi=None):
    with pytest.raises(ValueError, match=r"\w+ \w+") as caught:
        accept(name, data, index, suffix, gzi=gzi)
    return str(caught.value)


def test_candidates_always_are_the_names_that_tools_give():
    """Two ways for BAM and CRAM."""
    assert candidates("a.vcf.gz") == [
        "a.vcf.gz.bai", "a.vcf.gz.csi", "a.vcf.gz.tbi", "a.vcf.gz.crai", "a.vcf.gz.fai",
        "a.vcf.gz.gzi",
    ]  # fmt: skip
    assert {"a.bam.bai", "a.bai"} <= set(candidates("a.bam"))
    assert {"A.BAM.bai", "A.bai"} <= set(candidates("A.BAM"))
    assert {"a.cram.crai", "a.crai"} <= set(candidates("a.cram"))
    assert candidates(".bam") == [
        ".bam" + s for s in (".bai", ".csi", ".tbi", ".crai", ".fai", ".gzi")
    ]


@pytest.mark.req("S1-51")
@indexed
def test_check_of_a_files_own_index_accepts_it(name, suffix):
    """Reading a part of the data only."""
    data = fixture(name)

    assert accept(name, data, fixture(name + suffix), suffix) <= 3 * 65536 + 28


@pytest.mark.req("S1-51")
@indexed
def test_check_of_another_tools_index_for_the_same_records_refuses(name, suffix):
    """An index holds places in compressed bytes."""
    for step, level in ((65280, 6), (65280, 9), (40_000, 6), (5000, 6)):
        data = repacked(fixture(name), step=step, level=level)
        if data == fixture(name):
            continue
        assert reason(name, data, fixture(name + suffix), suffix)


@pytest.mark.req("S1-51")
@pytest.mark.parametrize(
    ("name", "index", "suffix"),
    [
        ("align/unsorted.bam", "align/sorted_indexed.bam.bai", ".bai"),
        ("align/queryname.bam", "align/sorted_indexed.bam.bai", ".bai"),
        ("align/sorted_no_hd.bam", "align/sorted_indexed.bam.bai", ".bai"),
        ("align/long_contig.bam", "align/sorted_indexed.bam.bai", ".bai"),
        ("align/header_only.bam", "align/sorted_indexed.bam.bai", ".bai"),
        ("variants/interleaved_contigs.vcf.gz", "variants/sorted_indexed.vcf.gz.tbi", ".tbi"),
        ("variants/header_only.vcf.gz", "variants/sorted_indexed.vcf.gz.tbi", ".tbi"),
        ("variants/sorted.vcf.gz", "intervals/sorted_indexed.bed.gz.tbi", ".tbi"),
        ("intervals/sorted.bed.gz", "variants/sorted_indexed.vcf.gz.tbi", ".tbi"),
        ("annotation/sorted.gff3.gz", "intervals/sorted_indexed.bed.gz.tbi", ".tbi"),
    ],
)
def test_check_of_another_files_index_refuses(name, index, suffix):
    """Same contigs or not, same family or not."""
    assert reason(name, fixture(name), fixture(index), suffix)


@indexed
def test_check_when_the_data_changed_since_refuses(name, suffix):
    """Shorter, longer, without its end, or with more records behind the last that is known."""
    data, index = fixture(name), fixture(name + suffix)
    blocks = [data[b.offset : b.offset + b.size] for b in bgzf.blocks(io.BytesIO(data))]
    plain = gzip.decompress(data)
    last = plain[plain.rindex(b"\n", 0, -1) + 1 :]
    changed = {
        "cut": data[: len(data) // 2],
        "no end": data[:-28],
        "only the first block": blocks[0] + bgzf.EOF_BLOCK,
        "only a header": repacked(gzip.compress(plain[:20])),
        "empty": b"",
    }
    if suffix == ".tbi":
        more = [*blocks[:-1], bgzf.deflate_block(last, 6), bgzf.EOF_BLOCK]
        changed["one record more"] = b"".join(more)
        changed["one record less"] = repacked(gzip.compress(plain[: -len(last)]))
    for other in changed.values():
        if other == data:
            continue
        found = Detected(detect(name, data[:HEAD_BYTES]).format, Container.BGZF, "")
        with pytest.raises(ValueError, match=r"\w+ \w+"):
            check(index, suffix, Ranged(other), len(other), found)


@indexed
def test_check_of_an_index_that_is_none_refuses(name, suffix):
    """Empty, cut, of another kind, or an error page."""
    data, index = fixture(name), fixture(name + suffix)
    for other in (b"", index[:10], index[: len(index) // 2], b"<html>", data):
        assert reason(name, data, other, suffix)
    for wrong in {".bai", ".tbi", ".csi", ".crai", ".fai", ".gzi"} - {suffix}:
        assert reason(name, data, index, wrong)


@indexed
def test_check_when_the_data_is_not_bgzf_refuses(name, suffix):
    """Nothing can be found in it."""
    data = gzip.compress(gzip.decompress(fixture(name)))

    assert "not BGZF" in reason(name, data, fixture(name + suffix), suffix)


@pytest.fixture
def made(tmp_path):
    """A fixture, or bytes, and what a program makes beside it."""

    def make(name, data, *command):
        path = tmp_path / name
        path.write_bytes(data)
        ran(*command, path)
        return lambda suffix: (tmp_path / (name + suffix)).read_bytes()

    return make


@pytest.mark.tools
@pytest.mark.parametrize(
    ("name", "suffix", "command"),
    [
        ("align/sorted.bam", ".csi", ("samtools", "index", "-c")),
        ("align/sorted_no_hd.bam", ".bai", ("samtools", "index")),
        ("align/header_only.bam", ".bai", ("samtools", "index")),
        ("align/header_only.bam", ".csi", ("samtools", "index", "-c")),
        ("align/long_contig.bam", ".csi", ("samtools", "index", "-c")),
        ("variants/sorted.vcf.gz", ".csi", ("tabix", "-C", "-p", "vcf")),
        ("variants/header_only.vcf.gz", ".tbi", ("tabix", "-p", "vcf")),
        ("variants/header_only.vcf.gz", ".csi", ("tabix", "-C", "-p", "vcf")),
        ("intervals/sorted.bed.gz", ".csi", ("tabix", "-C", "-p", "bed")),
        ("intervals/sorted.bed.gz", ".tbi", ("tabix", "-0", "-s1", "-b2", "-e3")),
        ("annotation/sorted.gff3.gz", ".tbi", ("tabix", "-p", "gff")),
        ("annotation/sorted.gff3.gz", ".csi", ("tabix", "-C", "-p", "gff")),
    ],
)
def test_check_of_what_a_tool_made_accepts_it_and_refuses_it_for_other_bytes(
    name, suffix, command, made
):
    """Each kind of index that htslib writes."""
    data = fixture(name)
    index = made(name.rpartition("/")[2], data, *command)(suffix)

    accept(name, data, index, suffix)
    other = repacked(data, step=3000)
    if "header_only" not in name:
        assert reason(name, other, index, suffix)


@pytest.mark.tools
def test_check_of_an_index_of_other_columns_refuses(made):
    """A BED that was indexed as if positions counted from 1."""
    data = fixture("intervals/sorted.bed.gz")
    index = made("a.bed.gz", data, "tabix", "-s1", "-b2", "-e3")(".tbi")

    assert "columns" in reason("a.bed.gz", data, index, ".tbi")


@pytest.mark.tools
def test_check_of_bcf_always_goes_by_its_header_and_places(made, tmp_path):
    """Its CSI has no names."""
    plain = tmp_path / "plain.vcf"
    plain.write_bytes(gzip.decompress(fixture("variants/sorted.vcf.gz")))
    data = ran("bcftools", "view", "-Ob", plain)
    less = ran("bcftools", "view", "-Ob", "-e", "POS>500000", plain)
    index = made("a.bcf", data, "bcftools", "index")(".csi")

    accept("a.bcf", data, index, ".csi")
    assert reason("a.bcf", less, index, ".csi")
    assert reason("a.bcf", repacked(data, step=9000), index, ".csi")


@pytest.mark.tools
def test_check_of_cram_always_goes_by_its_containers(made, tmp_path):
    """A CRAI names containers and slices; both are looked at."""
    reference = tmp_path / "ref.fa"
    reference.write_bytes(
        fasta([(b"chr1", 1_000_000), (b"chr2", 800_000), (b"chr10", 500_000), (b"chrM", 60_000)])
    )
    bam = tmp_path / "a.bam"
    bam.write_bytes(fixture("align/sorted.bam"))
    crams = {}
    for version in ("3.0", "2.1"):
        for slices in (10_000, 400):
            out = tmp_path / "out.cram"
            ran("samtools", "view", "-O", f"cram,version={version},seqs_per_slice={slices}", "-T", reference, "-o", out, bam)  # fmt: skip
            index = made("b.cram", out.read_bytes(), "samtools", "index")(".crai")
            crams[version, slices] = out.read_bytes(), index
    for (version, _), (data, index) in crams.items():
        accept("a.cram", data, index, ".crai")
        for other, _ in crams.values():
            if other != data:
                assert reason("a.cram", other, index, ".crai"), version
        assert reason("a.cram", data[: len(data) // 2], index, ".crai")
        assert reason("a.cram", data, fixture("align/sorted_indexed.bam.bai"), ".crai")


def fasta(sequences, *, width=60, end=b"\n", seed=5):
    bases = random.Random(seed)
    lines = []
    for name, length in sequences:
        lines.append(b">" + name + b" a description" + end)
        text = bytes(bases.choices(b"ACGTN", k=length))
        lines += [text[at : at + width] + end for at in range(0, length, width)]
    return b"".join(lines)


@pytest.mark.tools
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("lengths", [(7000, 61, 1, 60), (300,), (120, 200_000)])
def test_check_of_fasta_always_goes_by_where_sequences_begin_and_end(lengths, end, made):
    """Its first and its last."""
    sequences = [(b"s%d" % n, length) for n, length in enumerate(lengths)]
    data = fasta(sequences, end=end)
    index = made("a.fa", data, "samtools", "faidx")(".fai")

    accept("a.fa", data, index, ".fai")
    accept("a.fa", data.removesuffix(end), index, ".fai")
    first, *rest = sequences
    for other in (
        fasta([(first[0], first[1] + 1), *rest], end=end),
        fasta([*sequences[:-1], (sequences[-1][0], sequences[-1][1] + 61)], end=end),
        fasta([(b"other", first[1]), *rest], end=end),
        fasta([*sequences, (b"more", 60)], end=end),
        fasta(sequences, width=70, end=end) if max(lengths) > 60 else b">x\nA\n",
        data[:-90] if len(data) > 200 else data[:-1],
        gzip.compress(data),
    ):
        assert reason("a.fa", other, index, ".fai")
    assert reason("a.fa", data, b"", ".fai")


@pytest.mark.tools
def test_check_of_packed_fasta_always_wants_its_gzi_too(made):
    """A FAI has places in the decoded text, which only the GZI finds."""
    data = fasta([(b"a", 150_000), (b"b", 90_000), (b"c", 10)])
    out = io.BytesIO()
    with bgzf.BgzfWriter(out) as writer:
        writer.write(data)
    packed = out.getvalue()
    beside = made("a.fa.gz", packed, "samtools", "faidx")
    fai, gzi = beside(".fai"), beside(".gzi")

    accept("a.fa.gz", packed, fai, ".fai", gzi=gzi)
    accept("a.fa.gz", packed, gzi, ".gzi")
    assert "GZI" in reason("a.fa.gz", packed, fai, ".fai")
    other = repacked(packed, step=30_000)
    assert reason("a.fa.gz", other, gzi, ".gzi")
    assert reason("a.fa.gz", other, fai, ".fai", gzi=gzi)
    longer = fasta([(b"a", 150_000), (b"b", 90_001), (b"c", 10)])
    assert reason("a.fa.gz", repacked(gzip.compress(longer)), fai, ".fai", gzi=gzi)


def test_check_always_refuses_where_the_format_has_no_such_index():
    """Whatever the index holds."""
    for format in (Format.CSV, Format.BIGWIG, Format.OPAQUE, Format.SAM):
        with pytest.raises(ValueError, match="no index"):
            check(
                fixture("align/sorted_indexed.bam.bai"), ".bai", Ranged(b"x"), 1,
                Detected(format, Container.BGZF, ""),
            )  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    which=st.sampled_from(INDEXED),
    flips=st.lists(
        st.tuples(st.booleans(), st.integers(0, 1 << 20), st.integers(1, 255)), max_size=4
    ),
    cut=st.none() | st.integers(0, 1 << 18),
)
def test_check_of_damaged_files_accepts_or_refuses(which, flips, cut):
    """Never another exception, whatever was damaged."""
    name, suffix = which
    data, index = bytearray(fixture(name)), bytearray(fixture(name + suffix))
    for of_data, at, mask in flips:
        bytes_ = data if of_data else index
        bytes_[at % len(bytes_)] ^= mask
    whole = bytes(data[:cut])
    found = Detected(detect(name, fixture(name)[:HEAD_BYTES]).format, Container.BGZF, "")
    try:
        check(bytes(index), suffix, Ranged(whole), len(whole), found)
    except ValueError:
        return
    assert whole.endswith(bgzf.EOF_BLOCK)
