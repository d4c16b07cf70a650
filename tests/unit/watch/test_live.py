"""Raw events of one root → events about its paths; which watch is which folder."""

from __future__ import annotations

import os

import pytest

from synd.ids import EntityId
from synd.mirror.coalesce import Created, Deleted, Modified, Moved
from synd.store.tracked import Options, Root
from synd.testing import FakeClock
from syndd.watch.burst import Burst
from syndd.watch.ignore import Ignore
from syndd.watch.live import MOVE_S, Live, Watches
from syndd.watch.own import OwnChanges
from syndd.watch.source import Kind, Raw, Refusal
from tests.support.tracking import FakeSource

NOW = 100.0


class Desk:
    def __init__(self, folder):
        self.folder = folder
        stat = os.stat(folder)
        self.root = Root(
            1, folder, EntityId(1), stat.st_dev, stat.st_ino, 0, Options(quiet_s=0, open_quiet_s=0)
        )
        self.source = FakeSource(lambda raw: self.live.take(raw, NOW))
        self.burst = Burst(self.root.options)
        self.watches = Watches(self.root, self.source)
        self.clock = FakeClock()
        self.own = OwnChanges(self.clock)
        self.skipped = {}
        self.live = Live(
            self.root,
            self.watches,
            self.burst,
            Ignore(folder),
            self.own,
            self.skipped.__setitem__,
        )
        self.watches.add(())

    def tell(self, kind, at, name, **more):
        self.source.tell(kind, self.folder / at, name, **more)

    def told(self):
        return self.burst.take(NOW * 10)


@pytest.fixture
def desk(tmp_path):
    for path in ("d/e", "other"):
        (tmp_path / path).mkdir(parents=True)
    found = Desk(tmp_path)
    for path in (("d",), ("d", "e"), ("other",)):
        found.watches.add(path)
    return found


class TestMoves:
    def test_halves_become_a_move_and_the_watches_follow(self, desk):
        """Folders below it too; the source is not asked for new ones."""
        watch = desk.source.folders[desk.folder / "d" / "e"]
        desk.tell(Kind.MOVED_FROM, "", "d", is_folder=True, cookie=7)
        (desk.folder / "d").rename(desk.folder / "other" / "d")
        desk.tell(Kind.MOVED_TO, "other", "d", is_folder=True, cookie=7)

        assert [Moved(("d",), ("other", "d"), folder=True)] == desk.told()
        assert ("other", "d", "e") == desk.watches.path(watch)
        assert not desk.live.rescan

    def test_what_happens_in_a_folder_between_the_halves_is_told_at_its_new_place(self, desk):
        """Another thread's event may come between them."""
        (desk.folder / "d" / "f").touch()
        desk.tell(Kind.MOVED_FROM, "", "d", is_folder=True, cookie=7)
        desk.tell(Kind.CLOSED, "d", "f")
        (desk.folder / "d").rename(desk.folder / "g")
        desk.tell(Kind.MOVED_TO, "", "g", is_folder=True, cookie=7)

        assert [Moved(("d",), ("g",), folder=True), Modified(("g", "f"))] == desk.told()

    def test_half_without_the_other_left_the_tree(self, desk):
        """It is given up after a while, and its watches end."""
        desk.tell(Kind.MOVED_FROM, "", "d", is_folder=True, cookie=7)
        assert NOW + MOVE_S == desk.live.settle(NOW)
        assert [] == desk.source.ended
        assert desk.live.settle(NOW + MOVE_S) is None

        assert [Deleted(("d",), folder=True, whole=True)] == desk.told()
        assert 2 == len(desk.source.ended)

    def test_new_folder_under_the_name_of_one_that_left_keeps_its_own_watch(self, desk):
        """The watches of the old one end without touching it."""
        desk.tell(Kind.MOVED_FROM, "", "d", is_folder=True, cookie=7)
        old = desk.source.folders.pop(desk.folder / "d")
        desk.tell(Kind.CREATED, "", "d", is_folder=True)
        new = desk.source.folders[desk.folder / "d"]
        desk.live.settle(NOW + MOVE_S)

        assert ("d",) == desk.watches.path(new)
        assert desk.watches.path(old) is None

    def test_second_half_alone_came_in(self, desk):
        """With all that is in it, closed already."""
        (desk.folder / "other" / "in").mkdir()
        (desk.folder / "other" / "in" / "f").touch()
        desk.tell(Kind.MOVED_TO, "other", "in", is_folder=True, cookie=9)

        assert [Created(("other", "in"), folder=True), Created(("other", "in", "f"))] == desk.told()
        assert desk.burst.files[("other", "in", "f")].closed

    def test_folder_that_is_not_the_one_that_was_watched_means_a_scan(self, desk):
        """Events are behind what they tell: the path had led to another folder."""
        desk.tell(Kind.MOVED_FROM, "", "d", is_folder=True, cookie=7)
        (desk.folder / "n").mkdir()
        desk.tell(Kind.MOVED_TO, "", "n", is_folder=True, cookie=7)

        assert desk.live.rescan

    def test_folder_that_moved_on_before_it_could_be_watched_means_a_scan(self, tmp_path):
        """What happened in it was told to nobody."""
        desk = Desk(tmp_path)
        desk.source.watch = lambda _: Refusal.GONE
        desk.tell(Kind.CREATED, "", "n", is_folder=True)

        assert [Created(("n",), folder=True)] == desk.told()
        assert desk.live.rescan

    def test_late_move_of_a_folder_means_a_scan(self, desk):
        """The watches are where the scan put them; an older event would spoil that."""
        raw = Raw(Kind.MOVED_FROM, desk.source.folders[desk.folder], "d", True, 7)
        desk.live.take(raw, NOW, late=True)

        assert desk.live.rescan
        assert {("d",)} == desk.live.seen_going
        assert ("d",) == desk.watches.path(desk.source.folders[desk.folder / "d"])

    @pytest.mark.parametrize(
        ("old", "new", "told"),
        [
            ("f", "f~", [Deleted(("f",))]),
            ("f~", "f", [Created(("f",))]),
            ("a~", "b~", []),
        ],
        ids=["out", "in", "beside"],
    )
    def test_move_from_or_to_a_local_name_is_one_out_of_or_into_the_tree(
        self, desk, old, new, told
    ):
        """Names that stay local are no part of it."""
        desk.tell(Kind.MOVED_FROM, "", old, cookie=1)
        desk.tell(Kind.MOVED_TO, "", new, cookie=1)

        assert told == desk.told()


class TestFolders:
    def test_time_of_a_folder_is_no_event(self, desk):
        """The kernel tells it like a change of content when it is set alone."""
        (desk.folder / "new").mkdir()
        desk.tell(Kind.CREATED, "", "new", is_folder=True)
        desk.tell(Kind.MODIFIED, "", "new", is_folder=True)

        assert [Created(("new",), folder=True)] == desk.told()


class TestOwn:
    def test_event_about_what_the_daemon_changes_is_no_event(self, desk):
        """Nor about what lies below it."""
        with desk.own.changing(desk.folder / "d"):
            desk.tell(Kind.CLOSED, "", "d")
            desk.tell(Kind.CLOSED, "d", "f")
            desk.tell(Kind.CLOSED, "other", "f")

        assert [Modified(("other", "f"))] == desk.told()

    def test_folder_that_the_daemon_makes_and_moves_is_watched_all_the_same(self, desk):
        """Others will change it later."""
        (desk.folder / "n").mkdir()
        with desk.own.changing(desk.folder / "n", desk.folder / "m"):
            desk.tell(Kind.CREATED, "", "n", is_folder=True)
            watch = desk.source.folders[desk.folder / "n"]
            desk.tell(Kind.MOVED_FROM, "", "n", is_folder=True, cookie=3)
            (desk.folder / "n").rename(desk.folder / "m")
            desk.tell(Kind.MOVED_TO, "", "m", is_folder=True, cookie=3)

        assert ("m",) == desk.watches.path(watch)
        assert [] == desk.told()


class TestWatches:
    def test_scan_keeps_the_watches_of_folders_that_it_saw(self, desk):
        """All others end."""
        desk.watches.keep({(), ("d",)})

        assert 2 == len(desk.watches)
        assert 2 == len(desk.source.ended)

    def test_event_of_an_ended_watch_is_nobody_s(self, desk):
        """Numbers are never used again."""
        watch = desk.source.folders[desk.folder / "d"]
        desk.live.take(Raw(Kind.ENDED, watch), NOW)
        desk.live.take(Raw(Kind.CREATED, watch, "f"), NOW)

        assert [] == desk.told()

    def test_only_the_root_s_end_asks_whether_the_root_is_there(self, desk):
        """A folder's end is told by the folder that holds it."""
        desk.tell(Kind.GONE, "d", "")
        assert not desk.live.gone
        desk.tell(Kind.GONE, "", "")

        assert desk.live.gone

    def test_limit_met_by_a_new_folder_is_told(self, desk):
        """Events are no longer complete from then on."""
        (desk.folder / "n").mkdir()
        desk.source.most = 0
        desk.tell(Kind.CREATED, "", "n", is_folder=True)

        assert Refusal.WATCHES is desk.live.refused
