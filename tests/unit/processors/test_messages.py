"""Texts of failures name no place of the machine, and fit where they are stored."""

import json

import pytest

from synd.processors.messages import MESSAGE_MAX, escaped, fit, shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cannot open /home/ada/secret plan/x.bam", "cannot open secret plan/x.bam"),
        ("samtools: /var/lib/a/b.bam: cut", "samtools: b.bam: cut"),
        ("'/srv/data/x.vcf.gz' is bad", "'x.vcf.gz' is bad"),
        ("1/2 of it, and/or more", "1/2 of it, and/or more"),
        ("see https://example.org/help/me", "see https://example.org/help/me"),
        ("one\ntwo", "one; two"),
        ("a\x1b[31mred\x00", "a\\x1b[31mred\\x00"),
        ("", ""),
    ],
    ids=["known folder", "path", "quoted", "fractions", "address", "lines", "control", "empty"],
)
def test_text_always_is_fit_to_be_shown(text, expected):
    """Absolute paths shrink to the name, control characters are spelled out."""
    assert expected == fit(text, hide=("/home/ada",))


def test_text_when_long_then_is_cut_to_its_bound():
    """Never more than 1024 bytes, and never half a letter."""
    found = fit("ä" * 2000)

    assert len(found.encode()) <= MESSAGE_MAX
    assert found.endswith("ä…")
    json.dumps(found).encode("ascii")


def test_text_when_it_holds_half_a_surrogate_then_is_escaped():
    """A name that is no UTF-8 can be sent as JSON."""
    assert fit("bad \udcff name") == "bad \\udcff name"


def test_line_when_shown_then_is_printable_and_short():
    """At most 80 bytes of a bad line, whatever is in them."""
    assert shown(b"chr1\t\xff\n") == "chr1\\x09\\xff\\x0a"
    assert shown(b"x" * 100) == "x" * 80 + "…"
    assert escaped("\u2028") == "\\u2028"
