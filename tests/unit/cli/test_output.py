"""Numbers and spans for people."""

import pytest

from synd.cli import output


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (5 << 30, "5.0 GiB"),
        (3 << 50, "3072.0 TiB"),
        (None, "?"),
    ],
)
def test_size_always_has_a_unit(count, text):
    """Binary units; unknown is said."""
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59, "59 s"),
        (61, "1 min 1 s"),
        (3700, "1 h 1 min"),
        (200000, "2 d 7 h"),
        (None, "?"),
    ],
)
def test_span_always_has_two_units_at_most(seconds, text):
    """Short enough to read at a glance."""
    assert output.span(seconds) == text


def test_table_when_not_on_a_terminal_is_tab_separated(capsys):
    """One line per row, whatever is in the cells."""
    output.table(("a", "b"), [("1", "x\ty\nz"), ("[bold]2", "")])

    assert capsys.readouterr().out == "a\tb\n1\tx y z\n[bold]2\t\n"


def test_waiting_when_not_on_a_terminal_is_silent(capsys):
    """No progress in logs."""
    with output.waiting("x") as tick:
        tick("y")
    with output.bar("x", unit="bytes") as update:
        update(1, 2, "")

    assert capsys.readouterr() == ("", "")


def test_age_when_unknown_is_never():
    """No time is no time."""
    assert output.age_of(None) == "never"
    assert output.age_of("2020-01-01T00:00:00.000Z").endswith("h")
