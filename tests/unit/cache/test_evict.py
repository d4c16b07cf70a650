"""The choice of victims, as a function of values."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from synd.cache.evict import UNLIMITED, Limits, Room, Row, victims
from synd.clock import NS
from synd.ids import ContentKey

NOW = 1_000_000 * NS


def row(
    name: str, size: int = 10, age_s: int = 0, *, pinned: bool = False, open: bool = False
) -> Row:
    return Row(ContentKey(name), size, NOW - age_s * NS, pinned, open)


def names(rows: list[Row]) -> str:
    return "".join(one.key for one in rows)


def test_nothing_goes_while_there_is_room() -> None:
    """Within the limits nothing is evicted, however old it is."""
    rows = [row("a", age_s=10**6)]

    assert victims(rows, UNLIMITED, Room(10, 100), NOW) == []
    assert victims(rows, Limits(max_bytes=10), Room(10, 100), NOW) == []
    assert victims(rows, Limits(keep_free_bytes=100), Room(10, 100), NOW) == []


def test_least_recently_used_goes_first_until_there_is_room() -> None:
    """Just as much as needed goes, oldest use first."""
    rows = [row("c", age_s=1), row("a", age_s=3), row("b", age_s=2)]

    assert names(victims(rows, Limits(max_bytes=25), Room(30, 100), NOW)) == "a"
    assert names(victims(rows, Limits(max_bytes=25), Room(30, 100, 10), NOW)) == "ab"
    assert names(victims(rows, Limits(max_bytes=25), Room(30, 100, spare_bytes=10), NOW)) == "ab"
    assert names(victims(rows, Limits(keep_free_bytes=20), Room(30, 5), NOW)) == "ab"
    assert names(victims(rows, Limits(max_bytes=1), Room(30, 0), NOW)) == "abc"


def test_pinned_and_open_content_never_goes() -> None:
    """Even when there is no room otherwise."""
    rows = [row("a", age_s=9, pinned=True), row("b", age_s=8, open=True), row("c", age_s=1)]

    assert names(victims(rows, Limits(max_bytes=1), Room(30, 0, 1000), NOW)) == "c"
    assert names(victims(rows[:2], Limits(max_bytes=1, max_age_s=1), Room(30, 0), NOW)) == ""


def test_what_is_too_old_goes_and_counts_as_room() -> None:
    """Age alone is enough; what it frees need not be freed again."""
    rows = [row("a", age_s=11), row("b", age_s=9), row("c", age_s=10)]

    assert names(victims(rows, Limits(max_age_s=10), Room(30, 100), NOW)) == "a"
    assert names(victims(rows, Limits(max_bytes=20, max_age_s=10), Room(30, 100), NOW)) == "a"
    assert names(victims(rows, Limits(max_bytes=10, max_age_s=10), Room(30, 100), NOW)) == "ac"


ROWS = st.lists(
    st.builds(
        row,
        st.uuids().map(lambda u: u.hex),
        st.integers(1, 100),
        st.integers(0, 1000),
        pinned=st.booleans(),
        open=st.booleans(),
    ),
    max_size=30,
)


@given(ROWS, st.integers(0, 2000), st.integers(0, 500), st.integers(0, 200), st.randoms())
def test_victims_are_enough_and_not_one_too_many(
    rows: list[Row], max_bytes: int, keep_free: int, needed: int, rng: random.Random
) -> None:
    """Enough goes if enough may go; without the newest victim it would not be; order is by use."""
    limits = Limits(max_bytes=max_bytes, keep_free_bytes=keep_free)
    room = Room(sum(one.size for one in rows), 100, needed)
    rng.shuffle(rows)

    out = victims(rows, limits, room, NOW)

    freed = sum(one.size for one in out)
    evictable = [one for one in rows if not one.pinned and not one.open]
    assert set(out) <= set(evictable)
    assert freed >= min(room.excess(limits), sum(one.size for one in evictable))
    if out:
        assert freed - out[-1].size < room.excess(limits)
    kept = [one.last_used_ns for one in evictable if one not in out]
    assert all(one.last_used_ns <= min(kept, default=NOW) for one in out)
