"""Deadlines, back-off, and the service's times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.clock import NS, Deadline, backoff_s, format_time, parse_time_ns
from synd.errors import DeadlineExceeded


class Hand:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.at = 100.0

    def now_ns(self) -> int:
        return int(self.at * NS)

    def monotonic(self) -> float:
        return self.at


def test_deadline_when_time_is_left_says_how_much():
    """One budget, less and less."""
    clock = Hand()
    deadline = Deadline.after(10, "the work", clock)
    clock.at += 4

    assert deadline.left_s() == 6
    assert deadline.check() == 6
    assert not deadline.passed


def test_deadline_when_passed_raises_and_names_the_work():
    """What was waited for, and the whole budget, are in the message."""
    clock = Hand()
    deadline = Deadline.after(10, "the work", clock)
    clock.at += 10

    assert deadline.passed
    assert deadline.left_s() == 0
    with pytest.raises(DeadlineExceeded, match="the work took longer than 10 s"):
        deadline.check()


@given(st.integers(1, 60))
def test_backoff_always_is_jittered_within_half_and_half_again(attempt):
    """It doubles, up to the cap, and two clients do not come back together."""
    plain = min(30.0, 0.25 * 2 ** (attempt - 1))

    assert 0.5 * plain <= backoff_s(attempt) <= 1.5 * plain


@given(st.integers(0, 4_000_000_000_000))
def test_format_time_always_is_undone_by_parse_time(ms):
    """Milliseconds survive the service's spelling."""
    assert parse_time_ns(format_time(ms * 1_000_000)) == ms * 1_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:00.000Z", 0),
        ("1970-01-01T00:00:01Z", NS),
        ("1970-01-01T01:00:00.5+01:00", NS // 2),
        ("1970-01-01T00:00:00.123456", 123_456_000),
    ],
)
def test_parse_time_when_spelled_otherwise_is_understood(text, ns):
    """With and without fraction, zone by letter or offset, UTC when there is none."""
    assert parse_time_ns(text) == ns


def test_parse_time_when_nonsense_raises_value_error():
    """The caller knows which answer it came from, and says so."""
    with pytest.raises(ValueError, match="yesterday"):
        parse_time_ns("yesterday")
