"""Indexes of other programs, read as far as checks need it."""

import gzip
import io
import random
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.processors import bgzf
from synd.processors.indexes import SUFFIXES, Columns, Sequence, read_index
from tests.support.packed import FIXTURES, fixture, member, ran

VCF_COLUMNS = Columns(2, 1, 2, 0, ord("#"), 0)


def blocked(data):
    out = io.BytesIO()
    with bgzf.BgzfWriter(out) as writer:
        writer.write(data)
    return out.getvalue()


@pytest.fixture
def copied(tmp_path):
    def copy(name):
        path = tmp_path / name.rpartition("/")[2]
        path.write_bytes(fixture(name))
        return path

    return copy


def test_bai_of_a_fixture_always_tells_contigs_offsets_and_records():
    """Metadata's bin is no chunk: the largest offset is the end of the last placed record."""
    found = read_index(fixture("align/sorted_indexed.bam.bai"), ".bai")
    packed = fixture("align/sorted_indexed.bam")

    assert (found.contigs, found.names, found.records) == (4, None, 3000)
    assert found.first is not None and found.last is not None
    assert 0 <= found.first < found.last < len(packed) << 16


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("variants/sorted_indexed.vcf.gz", VCF_COLUMNS),
        ("intervals/sorted_indexed.bed.gz", Columns(0x10000, 1, 2, 3, ord("#"), 0)),
    ],
)
def test_tbi_of_a_fixture_always_tells_names_and_columns(name, columns):
    """Names in the order of the file."""
    found = read_index(fixture(name + ".tbi"), ".tbi")
    lines = gzip.decompress(fixture(name)).splitlines()
    contigs = dict.fromkeys(line.split(b"\t")[0] for line in lines if not line.startswith(b"#"))

    assert found.names == tuple(contigs)
    assert found.contigs == len(contigs)
    assert found.columns == columns
    assert found.records == sum(not line.startswith(b"#") for line in lines)


@pytest.mark.tools
def test_csi_of_text_always_is_as_tabix_made_it(copied):
    """It has columns and names as a TBI has."""
    path = copied("variants/sorted.vcf.gz")
    ran("tabix", "-C", "-p", "vcf", path)
    ran("tabix", "-p", "vcf", path)
    csi = read_index(path.with_name(path.name + ".csi").read_bytes(), ".csi")
    tbi = read_index(path.with_name(path.name + ".tbi").read_bytes(), ".tbi")

    assert (csi.names, csi.columns, csi.first, csi.last, csi.records) == (
        tbi.names, tbi.columns, tbi.first, tbi.last, tbi.records,
    )  # fmt: skip


@pytest.mark.tools
@pytest.mark.parametrize(
    ("name", "contigs", "records"),
    [
        ("align/sorted.bam", 4, 3000),
        ("align/header_only.bam", 4, 0),
        ("align/long_contig.bam", 2, 200),
    ],
)
def test_csi_of_bam_always_is_as_samtools_made_it(copied, name, contigs, records):
    """No names; contigs past 2**29 have more levels."""
    path = copied(name)
    ran("samtools", "index", "-c", path)
    found = read_index(path.with_name(path.name + ".csi").read_bytes(), ".csi")

    assert (found.contigs, found.names, found.columns, found.records) == (
        contigs, None, None, records,
    )  # fmt: skip
    assert (found.first is None) == (records == 0)


@pytest.mark.tools
def test_fai_and_gzi_always_are_as_samtools_made_them(tmp_path):
    """Lines of a FAI, blocks of a GZI."""
    bases = random.Random(3)
    text = b"".join(
        b">s%d of ours\n" % n + b"".join(bytes(bases.choices(b"ACGT", k=60)) + b"\n" for _ in range(900))
        for n in range(3)
    )  # fmt: skip
    path = tmp_path / "ref.fa.gz"
    path.write_bytes(blocked(text))
    ran("samtools", "faidx", path)
    fai = read_index((tmp_path / "ref.fa.gz.fai").read_bytes(), ".fai")
    gzi = read_index((tmp_path / "ref.fa.gz.gzi").read_bytes(), ".gzi")

    assert fai.names == (b"s0", b"s1", b"s2")
    assert fai.sequences[0] == Sequence(b"s0", 54_000, 12, 60, 61)
    walked = list(bgzf.blocks(io.BytesIO(path.read_bytes())))
    assert gzi.blocks[0] == (walked[1].offset, walked[0].data_size)
    assert gzi.last == gzi.blocks[-1][0]


def test_crai_always_tells_the_first_and_last_container():
    """Packed or plain; unplaced reads have no contig."""
    text = b"0\t1\t90\t300\t200\t50\n2\t1\t90\t900\t210\t60\n-1\t0\t0\t900\t280\t60\n"
    for data in (text, member(text)):
        found = read_index(data, ".crai")
        assert (found.contigs, found.first, found.last) == (3, 300, 900)
        assert found.slices == ((300, 200, 50), (900, 280, 60))
    assert read_index(b"", ".crai").last is None


@pytest.mark.parametrize(
    ("data", "suffix"),
    [
        (b"", ".bai"),
        (b"BAI\x02" + bytes(4), ".bai"),
        (b"BAI\x01\xff\xff\xff\xff", ".bai"),
        (b"BAI\x01\xff\xff\xff\x7f", ".bai"),
        (struct.pack("<4siiIi", b"BAI\x01", 1, 1, 0, -1), ".bai"),
        (struct.pack("<4siiIi", b"BAI\x01", 1, 1, 0, 1 << 30), ".bai"),
        (b"TBI\x01", ".tbi"),
        (member(b"TBI\x01" + bytes(40)), ".tbi"),
        (blocked(b"CSI\x01" + bytes(40)), ".tbi"),
        (blocked(b"TBI\x01" + bytes(3)), ".tbi"),
        (blocked(struct.pack("<4s8i", b"TBI\x01", 1, 2, 1, 2, 0, 35, 0, 2) + b"a\0")[:-28], ".tbi"),
        (blocked(struct.pack("<4s8i", b"TBI\x01", 2, 2, 1, 2, 0, 35, 0, 2) + b"a\0"), ".tbi"),
        (blocked(struct.pack("<4s8i", b"TBI\x01", 1, 2, 1, 2, 0, 35, 0, 2) + b"ab"), ".tbi"),
        (blocked(b"TBI\x01" + bytes(40)), ".csi"),
        (blocked(struct.pack("<4s4i", b"CSI\x01", 14, 99, 0, 0)), ".csi"),
        (blocked(struct.pack("<4s4i", b"CSI\x01", 14, 5, -1, 0)), ".csi"),
        (b"a\tb\n", ".crai"),
        (b"0\t1\t2\t-3\t4\t5\n", ".crai"),
        (member(b"0\t1\t2\t3\t4\t5\n")[:-4], ".crai"),
        (b"chr1\t10\t5\t60\n", ".fai"),
        (b"chr1\t10\t5\tx\t61\n", ".fai"),
        (b"chr1\t10\t5\t61\t60\n", ".fai"),
        (b"chr1\t10\t5\t0\t0\n", ".fai"),
        (b"r1\t10\t5\t60\t61\t90\n", ".fai"),
        (b"\x02" + bytes(7) + bytes(16), ".gzi"),
        (struct.pack("<5Q", 2, 50, 60, 40, 50), ".gzi"),
        (b"", ".gzi"),
        (b"BAI\x01" + bytes(4), ".idx"),
    ],
)  # fmt: skip
def test_index_that_is_none_always_is_refused_with_the_reason(data, suffix):
    """Never by an exception of a parser."""
    with pytest.raises(ValueError, match=r"\w+ \w+"):
        read_index(data, suffix)


WHOLE = {
    ".bai": (FIXTURES / "align/sorted_indexed.bam.bai").read_bytes(),
    ".tbi": gzip.decompress((FIXTURES / "variants/sorted_indexed.vcf.gz.tbi").read_bytes()),
}


@pytest.mark.parametrize("suffix", WHOLE)
def test_index_that_is_cut_always_is_refused(suffix):
    """At every place but before the count at its end, which older tools left out."""
    whole = WHOLE[suffix]
    for cut in range(0, len(whole) - 8, 7):
        data = whole[:cut]
        with pytest.raises(ValueError, match=r"\w"):
            read_index(data if suffix == ".bai" else blocked(data), suffix)
    older = whole[:-8]
    assert read_index(older if suffix == ".bai" else blocked(older), suffix).contigs == 4


@settings(max_examples=300, deadline=None)
@given(
    suffix=st.sampled_from(SUFFIXES),
    data=st.one_of(
        st.binary(max_size=80),
        st.builds(
            lambda magic, rest: magic + rest,
            st.sampled_from([b"BAI\x01", b"TBI\x01", b"CSI\x01"]),
            st.binary(max_size=80),
        ),
    ),
    packed=st.booleans(),
)
def test_index_of_any_bytes_is_read_or_refused(suffix, data, packed):
    """Files come from anybody."""
    try:
        found = read_index(blocked(data) if packed else data, suffix)
    except ValueError:
        return
    assert found.suffix == suffix
