"""The queue between the kernel's events and the tracker, and what is said about the kernel's limits."""

from __future__ import annotations

import os

import pytest

from syndd.watch.source import InotifySource, Intake, Kind, Raw, Refusal, limit, remedy
from tests.support.mounts import eventually


def raw(name, kind=Kind.CREATED):
    return Raw(kind, 1, name)


class TestIntake:
    def test_events_come_in_order_with_the_number_of_the_last(self):
        """So it is known which came before a scan ended."""
        intake = Intake()
        for n in range(5):
            intake.post(raw(str(n)))

        assert (3, [raw("0"), raw("1"), raw("2")]) == intake.take(0, most=3)
        assert (5, [raw("3"), raw("4")]) == intake.take(0)
        assert (5, []) == intake.take(0)

    def test_full_queue_becomes_a_rescan(self):
        """What was lost is not known, only that something was; ends of watches are kept."""
        intake = Intake(bound=4)
        intake.post(Raw(Kind.ENDED, 7))
        for n in range(4):
            intake.post(raw(str(n)))
        last, taken = intake.take(0)

        assert [Raw(Kind.OVERFLOW), Raw(Kind.ENDED, 7), raw("3")] == taken
        assert 5 == last == intake.posted

    def test_same_write_again_is_one_event(self):
        """A writer of many small pieces fills nothing."""
        intake = Intake()
        for _ in range(100):
            intake.post(raw("f", Kind.MODIFIED))

        assert 1 == len(intake)

    def test_wake_lets_the_waiter_go(self):
        """Without any event."""
        intake = Intake()
        intake.wake()

        assert (0, []) == intake.take(60.0)


class TestRemedy:
    def test_watches_are_enough_for_all_folders(self):
        """A line for a shell, with a number that suffices."""
        line = remedy(Refusal.WATCHES, 1_000_000)
        number = int(line.split("max_user_watches=")[1].split()[0])

        assert number >= limit("max_user_watches") + 1_000_000
        assert line.startswith("sudo sysctl -w ")
        assert f"echo fs.inotify.max_user_watches={number} | sudo tee /etc/sysctl.d/" in line

    def test_instances_are_doubled(self):
        """At least."""
        number = int(remedy(Refusal.INSTANCES, 1).split("max_user_instances=")[1].split()[0])

        assert number >= max(512, 2 * limit("max_user_instances"))

    def test_limit_that_cannot_be_read_is_0(self):
        """Other systems have no such file."""
        assert 0 == limit("no_such_limit")


class TestInotify:
    @pytest.fixture
    def told(self):
        return []

    @pytest.fixture
    def source(self, told):
        found = InotifySource(told.append)
        yield found
        found.close()

    def test_move_has_two_halves_with_one_cookie(self, source, told, tmp_path):
        """Across folders too."""
        (tmp_path / "a").mkdir()
        (tmp_path / "b").mkdir()
        (tmp_path / "a" / "f").touch()
        one, two = source.watch(tmp_path / "a"), source.watch(tmp_path / "b")
        (tmp_path / "a" / "f").rename(tmp_path / "b" / "g")
        assert source.sync(10.0)
        first, second = told[:2]

        assert (Kind.MOVED_FROM, one, "f", False) == first[:4]
        assert (Kind.MOVED_TO, two, "g", False) == second[:4]
        assert first.cookie == second.cookie != 0

    def test_folder_watched_twice_has_one_watch(self, source, tmp_path):
        """Also after it moved: the watch is on the folder, not on its path."""
        (tmp_path / "a").mkdir()
        watch = source.watch(tmp_path / "a")
        (tmp_path / "a").rename(tmp_path / "b")

        assert watch == source.watch(tmp_path / "b")

    def test_end_of_a_watched_folder_is_told(self, source, told, tmp_path):
        """It is gone, and its watch has ended."""
        (tmp_path / "a").mkdir()
        watch = source.watch(tmp_path / "a")
        (tmp_path / "a").rmdir()
        eventually(lambda: len(told) >= 2)

        assert [(Kind.GONE, watch), (Kind.ENDED, watch)] == [r[:2] for r in told[:2]]
        source.unwatch(watch)

    def test_what_is_no_folder_never_is_watched(self, source, tmp_path):
        """Neither a file, nor a link to a folder, nor nothing."""
        (tmp_path / "f").touch()
        (tmp_path / "l").symlink_to(tmp_path)

        for name in ("f", "l", "none"):
            assert Refusal.GONE is source.watch(tmp_path / name)

    def test_unwatched_folder_tells_nothing(self, source, told, tmp_path):
        """The kernel is told, not only our books."""
        source.unwatch(source.watch(tmp_path))
        (tmp_path / "f").touch()
        assert source.sync(10.0)

        assert not [r for r in told if r.kind is not Kind.ENDED and r.kind is not Kind.GONE]

    def test_closed_source_can_be_used_again(self, source, told, tmp_path):
        """A new instance is opened."""
        source.watch(tmp_path)
        source.close()
        assert source.alive()
        source.watch(tmp_path)
        (tmp_path / "f").touch()
        eventually(lambda: Kind.CREATED in [r.kind for r in told])

    def test_name_not_utf8_comes_as_python_spells_it(self, source, told, tmp_path):
        """It leads back to the same bytes."""
        source.watch(tmp_path)
        (tmp_path / os.fsdecode(b"\xff")).touch()
        eventually(lambda: told)

        assert b"\xff" == os.fsencode(told[0].name)
