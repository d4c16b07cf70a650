"""How a file is read → what to fetch next; which small files follow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.mirror.prefetch import (
    CHUNK_MAX,
    CHUNK_MIN,
    GROWTH,
    INITIAL_AHEAD,
    SLACK,
    Pattern,
    SiblingPattern,
    chunk_size,
)

K, M = 1 << 10, 1 << 20
MOST = 64 * M

READS = {
    "first read at the start": ([(0, 128 * K)], [INITIAL_AHEAD + 512 * K]),
    "first small read at the start": ([(0, 4 * K)], [INITIAL_AHEAD]),
    "first read elsewhere": ([(5 * M, 4 * K)], [0]),
    "sequential grows": (
        [(0, 128 * K), (128 * K, 128 * K), (256 * K, 128 * K)],
        [GROWTH * 128 * K, GROWTH * 256 * K, GROWTH * 384 * K],
    ),
    "goes on where a jump led": ([(5 * M, 64 * K), (5 * M + 64 * K, 64 * K)], [0, INITIAL_AHEAD]),
    "bounded by the window": ([(0, 32 * M)], [MOST]),
    "skips a little": ([(0, 128 * K), (512 * K, 128 * K)], [M, 2 * M]),
    "repeats a little": ([(0, M), (M - 64 * K, 64 * K)], [8 * M, 8 * M]),
    "jumps far": ([(0, 128 * K), (10 * M, 4 * K)], [M, 0]),
    "jumps back": ([(0, 4 * M), (0, 4 * K)], [32 * M, 0]),
    "random": ([(9 * M, 4 * K), (3 * M, 4 * K), (6 * M, 4 * K)], [0, 0, 0]),
    "an index, then the start": ([(50 * M, 4 * K), (0, 64 * K)], [0, 0]),
}


@pytest.mark.parametrize(("reads", "ahead"), READS.values(), ids=READS)
def test_pattern_when_read_so_wants_so_much(reads, ahead):
    """A sequential reader gets a window that grows with what it has read; a random one nothing."""
    pattern = Pattern()

    assert ahead == [pattern.note(offset, size, most=MOST) for offset, size in reads]


@given(
    st.lists(st.tuples(st.integers(0, 1 << 34), st.integers(1, 1 << 20)), max_size=30),
    st.integers(0, 1 << 28),
)
def test_pattern_never_wants_more_than_allowed(reads, most):
    """Whatever the reads, the window is the bound."""
    pattern = Pattern()
    for offset, size in reads:
        assert 0 <= pattern.note(offset, size, most=most) <= most


def test_slack_is_for_readers_that_have_begun():
    """The first read of a file away from its start is a jump, however near."""
    assert 0 == Pattern().note(SLACK // 2, 4 * K, most=MOST)


@pytest.mark.parametrize(
    ("ahead", "size"),
    [
        (0, CHUNK_MIN), (INITIAL_AHEAD, CHUNK_MIN), (4 * M, 512 * K), (5 * M, 512 * K),
        (8 * M, M), (64 * M, CHUNK_MAX), (1 << 40, CHUNK_MAX),
    ],
)  # fmt: skip
def test_chunk_size_makes_about_eight_requests(ahead, size):
    """Whole multiples of the least, none too large to be urgent beside."""
    assert size == chunk_size(ahead)
    assert 0 == chunk_size(ahead) % CHUNK_MIN


IDS = list(range(1, 41))
BY_ID = [f"{n:03}".encode() for n in IDS]
BACKWARDS = [f"{99 - n:03}".encode() for n in IDS]


class TestSiblings:
    @pytest.mark.parametrize(
        ("names", "opened", "following"),
        [
            (BY_ID, [1], []),
            (BY_ID, [1, 2], []),
            (BY_ID, [1, 1, 1], []),
            (BY_ID, [1, 2, 3], [4, 5, 6]),
            (BY_ID, [5, 9, 7], [8, 10, 11]),
            (BACKWARDS, [40, 39, 38], [37, 36, 35]),
            (BACKWARDS, [3, 4, 5], [6, 7, 8]),
            (BY_ID, [38, 39, 40], []),
            (BY_ID, [77, 78, 79], []),
        ],
        ids=[
            "one", "two", "the same again", "three by id", "with gaps", "by name", "by id, not name",
            "at the end", "strangers",
        ],
    )  # fmt: skip
    def test_siblings_when_three_were_opened_follow(self, names, opened, following):
        """In the order in which they are taken: of ids, or of names."""
        pattern = SiblingPattern(IDS, names)
        told = [pattern.note(entity) for entity in opened]

        assert following == told[-1][:3]

    def test_siblings_are_bounded_and_never_those_seen(self):
        """A guess costs something."""
        ids = list(range(2000))
        pattern = SiblingPattern(ids, [f"{n:05}".encode() for n in ids])
        for entity in (0, 2, 1):
            told = pattern.note(entity)

        assert list(range(3, 2 + SiblingPattern.AHEAD_FILES)) == told
