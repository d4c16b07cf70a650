"""Which format a file has: the name proposes, the content decides."""

import bz2
import lzma

import pytest

from synd.errors import StageFailed
from synd.processors.bgzf import EOF_BLOCK
from synd.processors.containers import Container
from synd.processors.detect import (
    HEAD_BYTES,
    Format,
    content,
    detect,
    holds_for,
    name_format,
)
from tests.support.packed import FIXTURES, fixture, manifest, member

VCF = b"##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
GTF_LINE = b'chr1\thavana\texon\t1\t9\t.\t+\t.\tgene_id "G1"; transcript_id "T1";\n'
GFF_LINE = b'chr1\thavana\texon\t1\t9\t.\t+\t.\tID=a;Note=b "c"\n'


@pytest.mark.req("S1-21")
@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_content_of_a_fixture_always_is_what_its_manifest_says(row):
    """Format, packing and the name's claim, from the first 64 KiB."""
    found = content(row["file"], fixture(row["file"])[:HEAD_BYTES])

    assert found.format.value == row["detected_format"]
    assert found.container.value == row["container"]
    assert found.name_format == row["name_format"]


@pytest.mark.parametrize("row", manifest(), ids=lambda row: row["file"])
def test_detect_a_fixture_always_refuses_only_what_cannot_be_what_it_is_named(row):
    """Damage further on is for later."""
    head = fixture(row["file"])[:HEAD_BYTES]
    if row["expected"].get("error_class") == "FORMAT_MISMATCH":
        with pytest.raises(StageFailed) as caught:
            detect(row["file"], head)
        assert caught.value.failure == "FORMAT_MISMATCH"
    else:
        assert detect(row["file"], head).format.value == row["detected_format"]


def test_fixtures_always_are_all_here():
    """Each file of the manifest lies there with its size."""
    assert len(manifest()) == 53
    assert all((FIXTURES / row["file"]).stat().st_size == row["size"] for row in manifest())


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("a.bam", "bam"),
        ("A.BAM", "bam"),
        ("a.b.vcf.gz", "vcf"),
        ("a.vcf.bgz", "vcf"),
        ("a.bed.bgzf", "bed"),
        ("a.bed.gz.bz2", "bed"),
        ("a.gff.xz", "gff3"),
        ("a.gff2", "gff2"),
        ("a.gtf.zst", "gtf"),
        ("a.bdg", "bedGraph"),
        ("a.bedgraph", "bedGraph"),
        ("a.narrowPeak", "narrowPeak"),
        ("a.broadpeak.gz", "broadPeak"),
        ("a.bb", "bigBed"),
        ("a.bigBed", "bigBed"),
        ("a.bw", "bigWig"),
        ("a.fna", "fasta"),
        ("a.fa.gz", "fasta"),
        ("a.fq", "fastq"),
        ("a.h5", "hdf5"),
        ("a.h5ad", "h5ad"),
        ("a.mcool", "mcool"),
        ("a.zarr", "zarr"),
        ("a.parquet", "parquet"),
        ("a.wig", "wig"),
        ("a.txt", ""),
        ("a.html", ""),
        ("a.opaque", ""),
        ("a.gz", ""),
        ("bam", ""),
        (".bam", ""),
        ("a.", ""),
        ("", ""),
    ],
)
def test_name_format_always_is_the_last_suffix_behind_the_packing(name, format):
    """Case does not matter; what is no format of ours claims nothing."""
    assert name_format(name) == format


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("x.bin", b"BAM\x01rest", Format.BAM),
        ("x.bin", b"BCF\x02\x02rest", Format.BCF),
        ("x.bin", b"\xeb\xf2\x89\x87", Format.BIGBED),
        ("x.bin", b"\x87\x89\xf2\xeb", Format.BIGBED),
        ("x.bin", b"\x26\xfc\x8f\x88", Format.BIGWIG),
        ("x.bin", b"\x88\x8f\xfc\x26", Format.BIGWIG),
        ("x.bin", b"\x89HDF\r\n\x1a\n", Format.HDF5),
        ("x.h5ad", b"\x89HDF\r\n\x1a\n", Format.H5AD),
        ("x.mcool", b"\x89HDF\r\n\x1a\n", Format.MCOOL),
        ("x.bam", b"\x89HDF\r\n\x1a\n", Format.HDF5),
        ("x.bin", b"PAR1", Format.PARQUET),
        ("x.bam", b"CRAM\x03\x00", Format.CRAM),
        ("x", b"<!DOCTYPE html>", Format.HTML),
        ("x", b"\xef\xbb\xbf <HTML>", Format.HTML),
        ("x.csv", b"<?xml version='1.0'?>", Format.HTML),
        ("x.bed", VCF, Format.VCF),
        ("x.csv", VCF, Format.VCF),
        ("x", b"\xef\xbb\xbf" + VCF, Format.VCF),
        ("x.vcf", b"#CHROM\tPOS\n", Format.VCF),
        ("x.vcf", b"@SQ\tSN:chr1\tLN:9\n", Format.SAM),
        ("x.sam", b"r1\t4\t*\t0\t0\t*\t*\t0\t0\tA\tI\n", Format.SAM),
        ("x", b"@SQx", Format.OPAQUE),
        ("x.txt", b"##gff-version 3\n", Format.GFF3),
        ("x.txt", b"##gff-version   3.1.26\n", Format.GFF3),
        ("x.txt", b"##gff-version 2\n", Format.GFF2),
        ("x.gtf", b"#!genome\n##gff-version 3\n" + GTF_LINE, Format.GFF3),
        ("x.gtf", b"# a comment\n\n" + GTF_LINE, Format.GTF),
        ("x.gff", GTF_LINE, Format.GTF),
        ("x.gtf", GFF_LINE, Format.GFF3),
        ("x.gff2", GFF_LINE, Format.GFF2),
        ("x.txt", GTF_LINE, Format.OPAQUE),
        ("x.csv", b"chr1\t1\t2\n", Format.CSV),
        ("x.tsv", b"chr1\t1\t2\n", Format.TSV),
        ("x.tsv", b">a\nACGT\n", Format.TSV),
        ("x.csv", b"\x00\x01", Format.CSV),
        ("x.fa", b">a\nACGT\n", Format.FASTA),
        ("x", b">a b c\nACGTNacgt\n", Format.FASTA),
        ("README", b"> as he said\nin the year of 1999\n", Format.OPAQUE),
        ("x.fastq", b"@r1\nACGT\n+\nIIII\n", Format.FASTQ),
        ("x", b"@r1\nACGT\n+\nIIII\n", Format.OPAQUE),
        ("x", b"chr1\t1\t2\n", Format.OPAQUE),
        ("x.bed", b"chr1 1 2\n", Format.BED),
        ("x.bed", b"chrom\tstart\tend\nchr1\t1\t2\n", Format.BED),
        ("x.bed", b"no interval at all\n", Format.BED),
        ("x.narrowPeak", b"chr1\t1\t2\ta\t0\t.\t1\t2\t3\t4\n", Format.NARROW_PEAK),
        ("x.narrowPeak", b"chr1\t1\t2\ta\t0\t.\t1\t2\t3\n", Format.BROAD_PEAK),
        (
            "x.narrowPeak",
            b"chrom\tstart\tend\nchr1\t1\t2\ta\t0\t.\t1\t2\t3\n",
            Format.BROAD_PEAK,
        ),
        ("x.bed", b"track type=bedGraph name=a\nchr1\t1\t2\t0.5\n", Format.BEDGRAPH),
        ("x.bed", b'browser hide\ntrack name="a b" type="bedGraph"\nchr1 1 2 3\n', Format.BEDGRAPH),
        ("x.bed", b"track type=bed\nchr1\t1\t2\t0.5\n", Format.BED),
        ("x.bed", b"", Format.EMPTY),
        ("x.bam", EOF_BLOCK, Format.EMPTY),
        ("x.wig", b"track type=wiggle_0\nfixedStep chrom=chr1\n", Format.WIG),
        ("x.zip", b"PK\x03\x04", Format.OPAQUE),
        ("x.zarr", b"PK\x03\x04", Format.ZARR),
        ("x.csv", "a,b\n".encode("utf-16"), Format.CSV),
        ("x.bin", b"\xff\xfe\x00", Format.OPAQUE),
    ],
)
def test_detect_always_lets_the_content_decide(name, head, format):
    """The first rule that holds, in the order of the table."""
    assert detect(name, head).format is format


@pytest.mark.parametrize(
    ("pack", "container"),
    [
        (member, Container.GZIP),
        (bz2.compress, Container.BZIP2),
        (lzma.compress, Container.XZ),
    ],
)
def test_detect_when_packed_looks_inside(pack, container):
    """The packing is told by the bytes, whatever the name."""
    found = detect("x.bed", pack(VCF))

    assert (found.format, found.container) == (Format.VCF, container)


def test_detect_when_packed_bytes_are_cut_goes_by_what_is_there():
    """The head of a long file is a cut stream."""
    packed = member(
        VCF + b"".join(b"chr1\t%d\t.\tA\tC\t.\t.\t.\n" % (n * 7919) for n in range(50_000))
    )

    assert detect("x", packed[:HEAD_BYTES]).format is Format.VCF


def test_detect_when_nothing_could_be_decoded_yet_believes_the_name():
    """A block of bzip2 is longer than the head: unknown is not contradictory."""
    import random

    packed = bz2.compress(random.Random(1).randbytes(300_000))[:HEAD_BYTES]

    assert detect("x.vcf.bz2", packed).format is Format.VCF
    assert detect("x.bam.bz2", packed).format is Format.BAM
    assert detect("x.bz2", packed).format is Format.OPAQUE


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("x.bam", b"<html>"),
        ("x.vcf.gz", b"<?xml version='1.0'?><Error>"),
        ("x.bw", b"<!doctype html>"),
        ("x.bam", b"chr1\t1\t2\n"),
        ("x.bam", b"\x00\x01\x02\x03"),
        ("x.cram", b"not a cram"),
        ("x.vcf", b"\x00\x01\x02\x03"),
        ("x.bed", "chr1\t1\t2\n".encode("utf-16-le")),
        ("x.h5ad", b"text"),
        ("x.parquet", b"text"),
        ("x.vcf", b"PK\x03\x04"),
        ("x.vcf.gz", member(member(VCF))),
        ("x.gz", member(bz2.compress(VCF))),
        ("x", member(b"PK\x03\x04")),
        ("x.cram.gz", member(b"CRAM\x03\x00")),
    ],
)
def test_detect_when_name_and_content_cannot_both_be_right_refuses(name, head):
    """What is packed twice is refused too."""
    with pytest.raises(StageFailed) as caught:
        detect(name, head)

    assert caught.value.failure == "FORMAT_MISMATCH"


@pytest.mark.parametrize(
    ("format", "name", "own", "expected"),
    [
        ("bam", "x.sam", False, True),
        ("vcf", "x.csv", False, False),
        ("vcf", "x.csv", True, True),
        ("bed", "x.narrowPeak.gz", False, True),
        ("gtf", "x.gff3", False, True),
        ("bed", "x.tsv", True, False),
        ("bed", "x", False, False),
        ("bed", "x", True, True),
        ("fasta", "x.txt", False, False),
        ("sam", "x.bam", True, True),
        ("sam", "x.bam", False, False),
        ("gff3", "x.tsv", True, True),
        ("gff3", "x.tsv", False, False),
        ("", "x.tsv", False, True),
    ],
)
def test_holds_for_always_follows_what_the_name_may_decide(format, name, own, expected):
    """Magic holds under every name; what a name has told holds under names of its family."""
    assert expected == holds_for(format, name, own=own)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
@pytest.mark.parametrize("order", ["-le", "-be"])
def test_detect_when_the_text_is_wide_names_the_encoding(encoding, order):
    """Told by the byte-order mark."""
    with pytest.raises(StageFailed) as caught:
        detect("x.vcf", ("\ufeff" + VCF.decode()).encode(encoding + order))

    assert caught.value.failure == "UNSUPPORTED_ENCODING"


@pytest.mark.parametrize(
    ("hint", "format"),
    [
        ("BED", "bed"),
        (".bed", "bed"),
        ("bed narrowPeak", "narrowPeak"),
        ("text/csv", "csv"),
        ("text/tab-separated-values", "tsv"),
        ("application/x-vcf", "vcf"),
        ("", ""),
        ("picture", ""),
    ],
)
def test_detect_when_the_name_claims_nothing_takes_the_hint(hint, format):
    """The provider's word has the weight of a name."""
    assert content("x", b"chr1\t1\t2\n", hint=hint).name_format == format


def test_detect_when_name_and_hint_differ_takes_the_name():
    """One of the two goes first."""
    assert detect("x.bed", b"chr1\t1\t2\n", hint="csv").format is Format.BED
