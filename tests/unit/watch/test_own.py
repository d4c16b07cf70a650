"""What the daemon itself changes, and until when."""

from __future__ import annotations

from pathlib import Path

import pytest

from synd.testing import FakeClock
from syndd.watch.own import LINGER_S, OwnChanges

F = Path("/r/d/f")


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def own(clock):
    return OwnChanges(clock)


def test_path_is_own_during_a_change_and_a_little_longer(own, clock):
    """Then it is told once, to be looked at."""
    assert not own.covers(F)
    with own.changing(F):
        assert own.covers(F)
        assert own.covers(F / "below")
        assert not own.covers(F.parent)
        assert [] == own.over()
    assert own.covers(F)
    assert LINGER_S == own.next_s()
    clock.advance(LINGER_S)

    assert not own.covers(F)
    assert [F] == own.over()
    assert [] == own.over()
    assert own.next_s() is None


def test_change_that_never_ends_is_nobody_s_after_its_time(own, clock):
    """A forgotten mark must not hide other people's changes for ever."""
    own.begin(F, within_s=5.0)
    clock.advance(5.0)

    assert not own.covers(F)
    assert [F] == own.over()
    own.end(F)
    assert own.next_s() is None


def test_path_changed_by_two_is_own_until_the_last_has_ended(own, clock):
    """They do not know of each other."""
    with own.changing(F):
        with own.changing(F):
            pass
        clock.advance(LINGER_S + 1)
        assert own.covers(F)
    clock.advance(LINGER_S)

    assert not own.covers(F)


def test_change_that_failed_ends_too(own, clock):
    """The path is looked at like any other."""
    with pytest.raises(OSError), own.changing(F):
        raise OSError
    clock.advance(LINGER_S)

    assert [F] == own.over()
