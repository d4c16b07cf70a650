"""One pass over the lines of a text format: each rule is a case."""

import dataclasses
import gzip

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.errors import StageFailed
from synd.processors import normalise as module
from synd.processors.detect import Format
from synd.processors.normalise import BED, GFF, VCF, Point, normalise, rules
from tests.support.packed import fixture, manifest

BOM = b"\xef\xbb\xbf"
HEAD = b"##fileformat=VCFv4.2\n##x\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"


def var(contig="chr1", pos=5, ref="A", info="DP=1", more=""):
    return f"{contig}\t{pos}\t.\t{ref}\tC\t.\tPASS\t{info}{more}\n".encode()


def gene(contig="chr1", start=1, end=9, attributes="ID=a"):
    return f"{contig}\tensembl havana\texon\t{start}\t{end}\t.\t+\t.\t{attributes}\n".encode()


def run(data, format=Format.BED, *, step=None):
    """Body and report, from chunks of `step` bytes."""
    out = []
    step = step or max(1, len(data))
    chunks = [data[at : at + step] for at in range(0, len(data), step)]
    report = normalise(iter(chunks), format, out.append)
    assert all(piece.endswith(b"\n") for piece in out)
    return b"".join(out), report


def refused(data, format=Format.BED, *, step=None):
    with pytest.raises(StageFailed) as caught:
        run(data, format, step=step)
    return caught.value.failure, caught.value.bad_line


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("data", "body"),
    [
        (BOM + b"chr1\t1\t2\n", b"chr1\t1\t2\n"),
        (b"chr1\t1\t2\r\nchr1\t3\t4\r\n", b"chr1\t1\t2\nchr1\t3\t4\n"),
        (b"chr1\t1\t2\n\n \t \nchr1\t3\t4\n\n", b"chr1\t1\t2\nchr1\t3\t4\n"),
        (b"chr1\t1\t2", b"chr1\t1\t2\n"),
        (b"chr1\t1\t2\r", b"chr1\t1\t2\n"),
        (BOM, b""),
        (BOM + b"\r\n\r\n", b""),
        (b"chr1 1 2\n", b"chr1\t1\t2\n"),
        (b"chr1  1\t2 name  0\n", b"chr1\t1\t2\tname\t0\n"),
        (b" chr1 1 2 \n", b"chr1\t1\t2\n"),
        (b"chr1 1 2\nchr1\t3\t4\n", b"chr1\t1\t2\nchr1\t3\t4\n"),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_lines_when_they_have_to_be_mended_are_and_it_is_told(data, body, step):
    """Mark, line ends, blank lines, the last newline, and blanks for tabs."""
    found, report = run(data, step=step)

    assert found == body
    assert report.records == body.count(b"\n")
    assert not report.clean


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"chr1\t1\t2\n",
        b"chr1\t1\t2\ta name with blanks\t0\n",
        b"chr1\t1\t2\ta\rb\n",
        b"chr1\t1\t1\n",
        b"chr1\t007\t8\n",
        b"track1\t1\t2\n",
        b"track\t1\t2\n",
        b"browser\t1\t2\n",
        b"\xff\xfe\t1\t2\t\xe9\n",
        b"#comment\nchr1\t1\t2\n",
        b"chr1\t1\t2\t\nchr1\t1\t2\t3\t4\n",
    ],
    ids=lambda v: repr(v)[:40],
)
def test_lines_when_they_are_right_pass_as_they_are(data, step):
    """Nothing is changed, and that is told too."""
    found, report = run(data, step=step)

    assert report.header + found == data
    assert report.clean


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("data", "header", "body"),
    [
        (
            b"browser position chr1\ntrack name=a\nchr1\t1\t2\ntrack name=b\nchr1\t3\t4\n",
            b"#browser position chr1\n#track name=a\n#track name=b\n",
            b"chr1\t1\t2\nchr1\t3\t4\n",
        ),
        (b"track\nchr1\t1\t2\n", b"#track\n", b"chr1\t1\t2\n"),
        (b"track 1 2\n", b"", b"track\t1\t2\n"),
        (b"chr1\t1\t2\n#late\n", b"#late\n", b"chr1\t1\t2\n"),
        (b"chrom\tstart\tend\nchr1\t1\t2\n", b"#chrom\tstart\tend\n", b"chr1\t1\t2\n"),
        (b"#c\nchrom start end\nchr1 1 2\n", b"#c\n#chrom start end\n", b"chr1\t1\t2\n"),
        (
            b"track name=a\nchrom\tstart\tend\n",
            b"#track name=a\n#chrom\tstart\tend\n",
            b"",
        ),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_bed_lines_that_are_no_records_always_go_to_the_header(data, header, body, step):
    """Lines for a browser and the names of columns get a `#`; a contig may be called `track`."""
    found, report = run(data, step=step)

    assert (report.header, found) == (header, body)
    assert report.header_lines == header.count(b"\n")
    assert not report.clean


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("data", "header", "body", "clean"),
    [
        (b"##gff-version 3\n#c\n" + gene(), b"##gff-version 3\n#c\n", gene(), True),
        (gene() + b"###\n" + gene(start=2), b"", gene() + gene(start=2), False),
        (gene() + b"##FASTA\n>chr1\nACGT\n" + gene(), b"", gene(), False),
        (gene() + b">chr1\nACGT\n", b"", gene(), False),
        (b">chr1\nACGT\n", b"", b"", False),
        (gene() + b"##late\n" + gene(start=3), b"##late\n", gene() + gene(start=3), False),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_gff_lines_that_are_no_records_always_are_dropped_or_go_to_the_header(
    data, header, body, clean, step
):
    """`###` means nothing once sorted, sequences end the data."""
    found, report = run(data, Format.GFF3, step=step)

    assert (report.header, found, report.clean) == (header, body, clean)


def test_gff_when_sequences_follow_still_reads_to_the_end():
    """What is wrong with the packing is seen there."""

    def chunks():
        yield gene() + b"##FASTA\n"
        yield b">chr1\nACGT\n"
        raise StageFailed("cut", failure="SOURCE_TRUNCATED")

    with pytest.raises(StageFailed, match="cut"):
        normalise(chunks(), Format.GFF3, lambda _: None)


@pytest.mark.req("S1-63")
@pytest.mark.parametrize("step", [None, 1])
def test_vcf_header_always_is_kept_apart_unchanged_and_in_order(step):
    """It never meets the sort."""
    found, report = run(HEAD + var() + var(pos=9), Format.VCF, step=step)

    assert report.header == HEAD
    assert report.header_lines == 3
    assert found == var() + var(pos=9)
    assert report.clean


@pytest.mark.parametrize("step", [None, 1])
def test_vcf_when_it_is_a_header_only_has_no_records(step):
    """A TBI of it works."""
    found, report = run(HEAD, Format.VCF, step=step)

    assert (found, report.header, report.records, report.largest_end) == (b"", HEAD, 0, 0)
    assert report.ordered
    assert report.points == ()


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("data", "line"),
    [
        (var(), 1),
        (b"##fileformat=VCFv4.2\n" + var(), 2),
        (b"\n##fileformat=VCFv4.2\n\n" + var(), 4),
        (HEAD + var() + HEAD + var(), 5),
        (HEAD + var() + b"#c\n", 5),
        (HEAD + HEAD, 4),
        (b"##fileformat=VCFv4.2\n", None),
        (b"", None),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_vcf_when_its_header_is_not_on_top_or_not_whole_is_refused(data, line, step):
    """`#CHROM` comes before the first record, and after it no line of a header: two files joined."""
    assert refused(data, Format.VCF, step=step) == ("INVALID_HEADER", line)


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("format", "line"),
    [
        (Format.BED, b"chr1\t-1\t2\n"),
        (Format.BED, b"chr1\t+1\t2\n"),
        (Format.BED, b"chr1\t1e3\t2000\n"),
        (Format.BED, b"chr1\t1.0\t2\n"),
        (Format.BED, b"chr1\t1_0\t20\n"),
        (Format.BED, b"chr1\t 1\t2\n"),
        (Format.BED, b"chr1\t1\t2x\n"),
        (Format.BED, b"chr1\t\t2\n"),
        (Format.BED, b"chr1\t1\t\n"),
        (Format.BED, b"chr1\tx\t2\n"),
        (Format.BED, b"chr1\t5\t4\n"),
        (Format.BED, b"chr1\t5\n"),
        (Format.BED, b"chr1\n"),
        (Format.BED, b"chr1 5\n"),
        (Format.BED, b"\t1\t2\n"),
        (Format.BED, b"chr1\t1\t4294967297\n"),
        (Format.BED, b"chr1\t1\t" + b"9" * 19 + b"\n"),
        (Format.BED, b"chr1\t1\t" + b"9" * 5000 + b"\n"),
        (Format.BED, "chr1\t\u0661\t2\n".encode()),
        (Format.GFF3, gene(start=0)),
        (Format.GFF3, gene(start=5, end=4)),
        (Format.GFF3, gene(start="")),
        (Format.GFF3, gene(end=".")),
        (Format.GFF3, b"chr1\ta\tb\t1\t2\n"),
        (Format.GFF3, b"chr1 a b 1 2 . + . ID=a\n"),
        (Format.GFF3, gene(contig="")),
        (Format.VCF, var(pos=-1)),
        (Format.VCF, var(pos="")),
        (Format.VCF, var(pos="1e3")),
        (Format.VCF, var(pos=4294967297)),
        (Format.VCF, var(info="END=4294967297")),
        (Format.VCF, b"chr1\t1\t.\tA\tC\t.\tPASS\n"),
        (Format.VCF, b"chr1 1 . A C . PASS DP=1\n"),
        (Format.VCF, var(contig="")),
    ],
    ids=lambda v: repr(v)[:40],
)
def test_record_that_is_not_valid_always_is_refused_by_its_line(format, line, step):
    """The first bad line of the source is named, blank and comment lines counted."""
    good = {Format.BED: b"chr1\t1\t2\n", Format.GFF3: gene(), Format.VCF: var()}[format]
    head = HEAD if format is Format.VCF else b"#c\n\n\r\n"
    data = head + good + good + line + good + line

    assert refused(data, format, step=step) == ("INVALID_RECORD", 6)


@pytest.mark.parametrize("first", [b"chr1\t-1\t2\n", b"chr1\t1e3\t2000\n", b"chr1\t.5\t2\n"])
def test_bed_first_line_with_a_bad_number_is_no_column_header(first):
    """It is a record that would be lost."""
    assert refused(first + b"chr1\t1\t2\n") == ("INVALID_RECORD", 1)


def test_bed_column_header_is_only_the_first_line():
    """Once."""
    names = b"chrom\tstart\tend\n"

    assert refused(names + names + b"chr1\t1\t2\n") == ("INVALID_RECORD", 2)
    assert refused(b"chr1\t1\t2\n" + names) == ("INVALID_RECORD", 2)


def test_message_always_shows_at_most_80_bytes_of_the_line():
    """A line may be megabytes, and hold anything."""
    with pytest.raises(StageFailed) as caught:
        run(b"chr1\t1\tx\x00\x1b" + b"y" * 5000)

    assert caught.value.message.startswith("line 1: ")
    assert "y" * 40 in caught.value.message
    assert "y" * 81 not in caught.value.message
    assert caught.value.message.isprintable()


@pytest.mark.parametrize(
    ("data", "failure"),
    [
        (b"#" + b"x" * (17 << 20) + b"\n", "INVALID_HEADER"),
        (b"#" + b"x" * (65 << 20), "INVALID_HEADER"),
        ((b"#" + b"x" * (1 << 20) + b"\n") * 17, "INVALID_HEADER"),
        (b"chr1\t1\t2\t" + b"x" * (65 << 20) + b"\n", "INVALID_RECORD"),
        (b"chr1\t1\t2\t" + b"x" * (65 << 20), "INVALID_RECORD"),
    ],
    ids=["header line", "no newline", "header", "line", "line without newline"],
)
def test_text_that_is_too_large_always_is_refused(data, failure):
    """16 MiB of header, 64 MiB of line."""
    assert refused(data, step=1 << 20)[0] == failure
    assert refused(data)[0] == failure


def test_line_that_is_long_but_not_too_long_passes():
    """Thousands of samples make long lines."""
    line = b"chr1\t1\t2\t" + b"x" * (20 << 20) + b"\n"

    assert run(line * 2, step=1 << 20)[0] == line * 2


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("places", "ordered", "blocks_ok"),
    [
        ([], True, True),
        ([("a", 1), ("a", 1), ("a", 5)], True, True),
        ([("b", 9), ("a", 1)], True, True),
        ([("a", 5), ("a", 4)], False, True),
        ([("a", 5), ("b", 1), ("b", 0)], False, True),
        ([("a", 1), ("b", 1), ("a", 2)], False, False),
        ([("a", 2), ("a", 1), ("b", 1), ("a", 2)], False, False),
    ],
)
def test_order_always_is_whole_contigs_with_ascending_starts(places, ordered, blocks_ok, step):
    """The order of the contigs is free."""
    bed = b"".join(b"%s\t%d\t%d\n" % (c.encode(), n, n + 1) for c, n in places)
    vcf = HEAD + b"".join(var(c, n) for c, n in places)
    for data, format in ((bed, Format.BED), (vcf, Format.VCF)):
        _, report = run(data, format, step=step)
        assert (report.ordered, report.blocks_ok) == (ordered, blocks_ok)
        assert report.contigs == tuple(dict.fromkeys(c.encode() for c, _ in places))


@pytest.mark.parametrize("step", [None, 1])
@pytest.mark.parametrize(
    ("record", "end"),
    [
        (var(pos=5), 5),
        (var(pos=5, ref="ACGT"), 8),
        (var(pos=0), 0),
        (var(pos=5, info="END=90"), 90),
        (var(pos=5, info="A=1;END=90;B=2"), 90),
        (var(pos=5, info="CIEND=90;XEND=91"), 5),
        (var(pos=5, info="END=9x;END=."), 5),
        (var(pos=5, ref="ACGT", info="END=6"), 8),
        (var(pos=5, info="DP=1", more="\tGT\tEND=90"), 5),
        (var(pos=5, info="END=600000000"), 600_000_000),
    ],
    ids=lambda v: repr(v)[-40:],
)
def test_largest_end_of_vcf_always_counts_the_reference_and_end(record, end, step):
    """END of INFO alone, and only as a number."""
    for more in (b"", var(pos=1, more="\tGT\t0/1")):
        assert run(HEAD + more + record, Format.VCF, step=step)[1].largest_end == max(
            end, 1 if more else 0
        )


def test_points_always_are_the_first_and_last_records_of_three_contigs():
    """1-based and closed; the first two contigs and the one that came last."""
    data = b"".join(
        b"%s\t%d\t%d\n" % (c, n, n + 5) for c in (b"a", b"b", b"c", b"d") for n in (10, 20, 30)
    )
    for step in (None, 1, 13):
        assert run(data, step=step)[1].points == (
            Point(b"a", 11, 15), Point(b"a", 31, 35),
            Point(b"b", 11, 15), Point(b"b", 31, 35),
            Point(b"d", 11, 15), Point(b"d", 31, 35),
        )  # fmt: skip
    assert run(b"a\t7\t7\n")[1].points == (Point(b"a", 8, 8),)
    assert run(HEAD + var(pos=0), Format.VCF)[1].points == (Point(b"chr1", 1, 1),)
    assert run(HEAD + var(pos=7, ref="ACG"), Format.VCF)[1].points == (Point(b"chr1", 7, 9),)
    assert run(gene(start=7, end=9), Format.GTF)[1].points == (Point(b"chr1", 7, 9),)


@pytest.mark.req("S1-22")
@pytest.mark.parametrize(
    ("formats", "expected"),
    [
        ([Format.VCF], VCF),
        ([Format.BED, Format.NARROW_PEAK, Format.BROAD_PEAK, Format.BEDGRAPH], BED),
        ([Format.GFF2, Format.GFF3, Format.GTF], GFF),
    ],
)
def test_rules_always_follow_the_format(formats, expected):
    """Preset and sort keys come with the family."""
    assert all(rules(format) is expected for format in formats)
    assert (VCF.family.value, BED.family.value, GFF.family.value) == ("vcf", "bed", "gff")
    assert VCF.sort_keys == ("1,1", "2,2n")
    assert BED.sort_keys == ("1,1", "2,2n", "3,3n")
    assert GFF.sort_keys == ("1,1", "4,4n", "5,5nr")


@pytest.mark.parametrize("format", [Format.BAM, Format.CSV, Format.FASTA, Format.OPAQUE])
def test_rules_of_what_is_no_text_of_intervals_are_refused(format):
    """A mistake of the caller's."""
    with pytest.raises(ValueError, match=format.value):
        rules(format)


TEXTS = [
    row for row in manifest()
    if row["processor"] == "tabix_interval" and row["detected_format"] not in ("bigBed", "bcf")
    and row["expected"]["outcome"] == "ok"
]  # fmt: skip


@pytest.mark.parametrize("row", TEXTS, ids=lambda row: row["file"])
def test_report_on_a_fixture_always_is_what_its_manifest_says(row):
    """Counts, contigs, ends and order; the numbers are not ours."""
    data, expected = fixture(row["file"]), row["expected"]
    if row["container"] in ("gzip", "bgzf"):
        data = gzip.decompress(data)
    body, report = run(data, Format(row["detected_format"]), step=4096)

    assert report.records == expected["records"] == body.count(b"\n")
    assert report.header_lines == expected.get("header_lines", report.header_lines)
    assert sorted(c.decode("latin-1") for c in report.contigs) == expected["contigs"]
    assert report.largest_end == expected["max_end"]
    assert report.body_bytes == len(body)
    if expected["work"] in ("none", "index_only", "compress+index"):
        assert report.ordered
    if expected["work"] in ("none", "index_only"):
        assert report.clean
    assert run(data, Format(row["detected_format"])) == (body, report)


cells = st.sampled_from(
    [b"1", b"2", b"30", b"007", b"", b"x", b"-1", b"1e3", b"99999999999999999999"]
)
names = st.sampled_from([b"a", b"b", b"chr1", b"track", b"browser", b"track x", b"", b">s", b"#c"])
beds = st.builds(
    lambda n, s, e, more, sep: sep.join([n, s, e, *more]),
    names, cells, cells, st.lists(st.sampled_from([b"n", b"a b", b""]), max_size=2),
    st.sampled_from([b"\t", b"\t", b"\t", b" "]),
)  # fmt: skip
gffs = st.builds(
    lambda n, s, e, more: b"\t".join([n, b"x", b"y", s, e, b".", b"+", *more]),
    names, cells, cells, st.lists(st.just(b"z"), max_size=3),
)  # fmt: skip
vcfs = st.builds(
    lambda n, s, r, i, more: b"\t".join([n, s, b".", r, b"C", b".", b".", i, *more]),
    names, cells, st.sampled_from([b"A", b"ACG"]),
    st.sampled_from([b"DP=1", b"END=77", b"X=1;END=5", b"CIEND=9"]),
    st.lists(st.just(b"GT"), max_size=8),
)  # fmt: skip
good = {
    Format.BED: st.builds(lambda c, s, n: b"%s\t%d\t%d" % (c, s, s + n),
                          st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 50), st.integers(0, 9)),
    Format.GFF3: st.builds(lambda c, s, n: b"%s\tx\ty\t%d\t%d\t.\t+\t.\tz" % (c, s, s + n),
                           st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 50), st.integers(0, 9)),
    Format.VCF: st.builds(lambda c, s: b"%s\t%d\t.\tA\tC\t.\t.\tEND=60" % (c, s),
                          st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 50)),
}  # fmt: skip
odd = {Format.BED: beds, Format.GFF3: gffs, Format.VCF: vcfs}
others = st.sampled_from(
    [b"", b" ", b"#late", b"###", b"track name=a", b"##FASTA", b">s", b"c s e"]
)


@pytest.mark.parametrize("format", [Format.BED, Format.GFF3, Format.VCF])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_pass_in_pieces_of_any_size_always_sees_the_same(format, data):
    """Lines are taken together where they are alike: that is speed, never another answer."""
    lines = data.draw(
        st.lists(st.one_of(good[format], good[format], odd[format], others), max_size=8)
        | st.lists(good[format], max_size=12)
    )
    text = (HEAD if format is Format.VCF else b"") + b"".join(line + b"\n" for line in lines)

    def outcome(step):
        try:
            return run(text, format, step=step)
        except StageFailed as error:
            return error.failure, error.bad_line, error.message

    assert outcome(1) == outcome(None) == outcome(17)


@pytest.mark.parametrize("format", [Format.BED, Format.GFF3, Format.VCF])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_pass_over_usual_lines_always_agrees_with_the_one_that_knows_all_rules(format, data):
    """A blank line among them sends all to the slow way; only `clean` tells it."""
    lines = data.draw(st.lists(good[format], max_size=30))
    head = HEAD if format is Format.VCF else b""
    text = b"".join(line + b"\n" for line in lines)
    quick, slow = run(head + text, format), run(head + b"\n" + text, format)

    assert quick[0] == slow[0] == text
    assert dataclasses.replace(quick[1], clean=False) == slow[1]


@settings(max_examples=80, deadline=None)
@given(lines=st.lists(good[Format.BED], max_size=40))
def test_order_always_is_what_a_plain_look_at_all_records_says(lines):
    """Judged by sorting."""
    _, report = run(b"".join(line + b"\n" for line in lines), step=64)
    records = [(c, int(s), int(e)) for c, s, e in (line.split(b"\t") for line in lines)]
    runs = [c for at, (c, *_) in enumerate(records) if at == 0 or records[at - 1][0] != c]
    rank = {c: n for n, c in enumerate(dict.fromkeys(runs))}
    keys = [(rank[c], s) for c, s, _ in records]

    assert report.blocks_ok == (len(runs) == len(set(runs)))
    assert report.ordered == (keys == sorted(keys))
    assert report.largest_end == max((e for *_, e in records), default=0)


def test_pass_over_a_long_file_always_looks_at_pieces():
    """Seams between the pieces that are looked at together do not show."""
    lines = b"".join(
        b"chr%d\t%d\t%d\n" % (n // 40_000, n % 40_000, n) for n in range(40_000, 120_000)
    )
    assert len(lines) > 10 * module._PIECE_BYTES
    body, report = run(lines, step=100_003)

    assert body == lines
    assert (report.records, report.ordered, report.clean) == (80_000, True, True)
    assert refused(lines + b"chr9\tx\t1\n", step=100_003) == ("INVALID_RECORD", 80_001)
