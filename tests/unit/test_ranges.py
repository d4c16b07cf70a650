"""Byte ranges against a set of byte numbers, the plainest model there is."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.errors import RangeNotSatisfiable, UsageError
from synd.ranges import ByteRange, clip, merge, parse_range, subtract

some = st.builds(lambda a, n: ByteRange(a, a + n), st.integers(0, 60), st.integers(0, 20))


def numbers(ranges) -> set[int]:
    return {b for r in ranges for b in range(r.start, r.end)}


@pytest.mark.req("S1-58")
class TestParse:
    @pytest.mark.parametrize(
        ("header", "wanted"),
        [
            (None, None),
            ("bytes=0-0", (0, 1)),
            ("bytes=0-", (0, 100)),
            ("bytes=90-200", (90, 100)),
            ("bytes=-10", (90, 100)),
            ("bytes=-1000", (0, 100)),
            ("BYTES=5-9", (5, 10)),
            ("bytes=0-1,5-6", None),
            ("bytes= 0-1, -6,", None),
            ("bytes=, 3-5", (3, 6)),
            ("bytes=0-" + "9" * 5000, (0, 100)),
            ("bytes=-" + "9" * 5000, (0, 100)),
            ("bytes=" + "0" * 5000 + "7-8", (7, 9)),
        ],
    )
    def test_parse_when_satisfiable_is_the_clipped_range(self, header, wanted):
        """Ends are inclusive on the wire and half open here; several ranges are the whole."""
        assert parse_range(header, 100) == wanted

    @pytest.mark.parametrize(
        "header", ["bytes=100-", "bytes=-0", "bytes=500-600", f"bytes={'9' * 5000}-"]
    )
    def test_parse_when_past_the_end_is_not_satisfiable(self, header):
        """416."""
        with pytest.raises(RangeNotSatisfiable):
            parse_range(header, 100)

    @pytest.mark.parametrize(
        "header",
        ["", "bytes", "bytes=-", "bytes=a-b", "items=0-1", "bytes=5-2", "bytes=,", "bytes=0-1,x"],
    )
    def test_parse_when_malformed_is_refused(self, header):
        """400."""
        with pytest.raises(UsageError):
            parse_range(header, 100)

    def test_parse_when_the_file_is_empty_is_not_satisfiable(self):
        """An empty file has no first byte, and no last ones."""
        for header in ("bytes=0-", "bytes=-5"):
            with pytest.raises(RangeNotSatisfiable):
                parse_range(header, 0)


@given(some, st.integers(0, 60))
def test_clip_always_keeps_the_bytes_inside_the_file(wanted, size):
    """The part within the file, and no negative range."""
    clipped = clip(wanted, size)

    assert numbers([clipped]) == {b for b in numbers([wanted]) if b < size}
    assert 0 <= clipped.start <= clipped.end <= size


@given(st.lists(some))
def test_merge_always_holds_the_same_bytes_apart(ranges):
    """Same bytes; sorted; neither touching nor overlapping."""
    merged = merge(ranges)

    assert numbers(merged) == numbers(ranges)
    assert all(a.end < b.start for a, b in pairwise(merged))


@given(some, st.lists(some))
def test_subtract_always_is_what_is_missing(wanted, have):
    """Exactly the wanted bytes that are not had, in order."""
    left = subtract(wanted, have)

    assert numbers(left) == numbers([wanted]) - numbers(have)
    assert left == merge(left)


def test_size_always_counts_the_bytes():
    """Half open: end minus start."""
    assert ByteRange(3, 10).size == 7
