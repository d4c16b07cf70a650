"""When a folder was listed, confirmed and looked at."""

from __future__ import annotations

from synd.ids import EntityId


def test_listing_is_known_once_recorded_and_forgotten_when_told(folders):
    """`unlist` makes the next look ask again; nothing else of the folder is lost."""
    assert folders.find(5) is None
    assert not folders.is_listed(5)

    folders.set_listed(5, 100, 3, 77, 2)
    assert folders.is_listed(5)
    assert (100, 100, 3, 77, 2) == tuple(folders.find(5))[1:3] + tuple(folders.find(5))[4:]

    folders.unlist(5)
    assert not folders.is_listed(5)
    assert 77 == folders.find(5).sum_bytes


def test_visit_before_the_listing_landed_is_remembered(folders):
    """Whoever opens a large folder is gone before its listing ends, and wants it fresh all the same."""
    folders.set_visited([(5, 50)])
    assert not folders.is_listed(5)
    assert [] == folders.recently_visited(0, 10)

    folders.set_listed(5, 100, 3, 77, 2)
    assert [(5, 50)] == [(r.id, r.visited_ns) for r in folders.recently_visited(0, 10)]


def test_recently_visited_are_those_since_then_newest_first(folders):
    """And no more than asked for."""
    for folder in range(1, 6):
        folders.set_listed(folder, 1, 0, 0, 0)
    folders.set_visited([(f, f * 10) for f in range(1, 6)])

    assert [5, 4, 3] == [r.id for r in folders.recently_visited(30, 10)]
    assert [5, 4] == [r.id for r in folders.recently_visited(0, 2)]


def test_checked_moves_alone(folders):
    """The service confirmed a listing: only that time changes."""
    folders.set_listed(5, 100, 3, 77, 2)
    folders.set_visited([(5, 150)])
    folders.set_checked([(5, 200)])

    row = folders.find(5)
    assert (100, 200, 150) == (row.listed_ns, row.checked_ns, row.visited_ns)


def test_view_is_unknown_none_or_one(folders):
    """Not looked for yet, looked for in vain, found."""
    assert folders.view_of(2) is None
    folders.set_view(2, 0, 10)
    assert (EntityId(0), 10) == folders.view_of(2)
    folders.set_view(2, 9, 20)
    assert (EntityId(9), 20) == folders.view_of(2)
