"""When events are ripe. Times are handed in."""

from __future__ import annotations

from math import inf

import pytest

from synd.mirror.coalesce import Created, Deleted, Modified, Moved
from synd.store.tracked import Options
from syndd.watch.burst import MOST_QUIETS, Burst, Touch

QUIET, OPEN = 2.0, 30.0
F, G, D = ("f",), ("g",), ("d",)


@pytest.fixture
def burst():
    return Burst(Options(quiet_s=QUIET, open_quiet_s=OPEN))


class TestShape:
    def test_shape_waits_until_it_is_quiet(self, burst):
        """Each further event puts it off."""
        assert inf == burst.due()
        burst.add(Deleted(F), 0.0)
        burst.add(Created(D, folder=True), 1.0)

        assert 3.0 == burst.due()
        assert [] == burst.take(2.9)
        assert [Deleted(F), Created(D, folder=True)] == burst.take(3.0)
        assert inf == burst.due()

    def test_shape_that_never_is_quiet_is_taken_all_the_same(self, burst):
        """After some quiet times."""
        for at in range(100):
            burst.add(Deleted((f"f{at}",)), float(at))
            if burst.take(float(at)):
                break

        assert MOST_QUIETS * QUIET == at

    def test_half_of_a_move_when_the_other_comes_stands_where_it_was(self, burst):
        """Order is that of the first half."""
        number = burst.add(Deleted(F), 0.0, sure=False)
        burst.add(Created(D, folder=True), 0.0)
        burst.replace(number, Moved(F, G), 0.1)

        assert [Moved(F, G), Created(D, folder=True)] == burst.take(10.0)


class TestContent:
    def test_file_that_is_written_all_day_holds_up_no_other(self, burst):
        """The other one is told; this one is asked for again."""
        burst.touch(F, 0.0, closed=False)
        burst.touch(G, 0.0, closed=True)
        burst.touch(F, 2.0, closed=False)

        assert [Modified(F), Modified(G)] == burst.take(burst.due())
        assert burst.ready(F, QUIET) is not None
        assert burst.ready(G, QUIET) is None

    def test_open_file_waits_for_its_close_or_a_long_quiet(self, burst):
        """`ready` says why not yet, and forgets what is ready."""
        burst.touch(F, 0.0, closed=False)

        assert OPEN == burst.due()
        assert Touch(0.0, closed=False) == burst.ready(F, OPEN - 1)
        assert burst.ready(F, OPEN) is None
        assert {} == burst.files
        burst.touch(F, 0.0, closed=False)
        burst.touch(F, 1.0, closed=True)
        assert 1.0 + QUIET == burst._ready_at(burst.files[F])

    def test_many_writes_are_one_event(self, burst):
        """Memory does not grow with what a writer does."""
        for at in range(1000):
            burst.touch(F, float(at), closed=False)

        assert 1 == len(burst)

    def test_deferred_content_comes_first_next_time(self, burst):
        """It happened before what comes now."""
        burst.touch(F, 0.0, closed=False, created=True)
        burst.take(QUIET)
        burst.defer(Created(F), Touch(0.0, closed=False))
        burst.add(Moved(F, G), 3.0)

        assert [Created(F), Moved(F, G)] == burst.take(5.0)
        assert burst.ready(G, 5.0) is not None

    def test_touched_again_since_it_was_due_then_waits_on(self, burst):
        """Nothing is taken, and it is asked again later, not at once."""
        burst.touch(F, 0.0, closed=True)
        burst.touch(F, 1.5, closed=True)

        assert [] == burst.take(QUIET)
        assert 1.5 + QUIET == burst.due()

    def test_refused_file_waits_for_its_time(self, burst):
        """Even if it is quiet long before."""
        burst.defer(Modified(F), Touch(0.0, closed=True, not_before=100.0))

        assert 100.0 == burst.due()


class TestFollowing:
    def test_file_in_a_folder_that_moved_is_waited_for_under_its_new_name(self, burst):
        """And what waited at the target is replaced."""
        burst.touch(("d", "f"), 0.0, closed=False)
        burst.touch(("e", "f"), 0.0, closed=True)
        burst.add(Moved(D, ("e",), folder=True), 1.0)

        assert {("e", "f"): Touch(0.0, closed=False)} == burst.files

    def test_file_in_a_folder_that_is_gone_is_not_waited_for(self, burst):
        """Nor a file that is gone itself."""
        burst.touch(("d", "f"), 0.0, closed=False)
        burst.touch(F, 0.0, closed=False)
        burst.add(Deleted(D, folder=True, whole=True), 1.0)
        burst.add(Deleted(F), 1.0)

        assert {} == burst.files
        assert {D, F} == burst.seen_going()

    def test_prune_forgets_files_without_an_event(self, burst):
        """Their changes came to nothing."""
        burst.touch(F, 0.0, closed=True)
        burst.take(QUIET)
        burst.prune()

        assert {} == burst.files
