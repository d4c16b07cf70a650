"""A tree against the books: what changed while nobody looked, and that the sink ends with what is there."""

from __future__ import annotations

import os
import random
import shutil

import pytest

from synd.clock import SYSTEM
from synd.ids import EntityId
from synd.mirror.coalesce import Deleted, Moved
from synd.store.connect import Store
from synd.store.tracked import Options, Tracked
from syndd.watch.burst import Burst
from syndd.watch.ignore import Ignore
from syndd.watch.intent import Intent
from syndd.watch.scan import scan
from syndd.watch.source import Refusal
from tests.support.tracking import RecordingSink, tree_of


class Desk:
    """A root, its books and a sink; `look` scans once and carries it out."""

    def __init__(self, base):
        self.base = base
        self.folder = base / "t"
        self.folder.mkdir()
        self.store = Store(base / "state" / "s.db")
        self.books = Tracked(self.store)
        stat = os.stat(self.folder)
        self.root = self.books.add(self.folder, EntityId(1), stat, 1, Options(quiet_s=0.0))
        self.sink = RecordingSink()

    def scan(self, watch=lambda _: None):
        return scan(self.root, self.books, Ignore(self.folder), watch)

    def look(self):
        found = self.scan()
        burst = Burst(self.root.options)
        intent = Intent(
            self.root, self.books, self.sink, burst, SYSTEM, lambda: True, lambda: False
        )
        return intent.carry_out(found.events(deletions=True))

    def settle(self):
        """Scans as often as a scan asks for another."""
        for _ in range(3):
            if self.look().rescan_after_s is None:
                return
        raise AssertionError("it never is content")


@pytest.fixture
def desk(tmp_path):
    found = Desk(tmp_path)
    yield found
    found.store.close()


class TestFound:
    def test_scan_when_nothing_changed_then_finds_nothing(self, desk):
        """Not a single event."""
        (desk.folder / "d").mkdir()
        (desk.folder / "d" / "f").write_bytes(b"one")
        old = os.stat(desk.folder / "d" / "f").st_mtime_ns - 10**11
        os.utime(desk.folder / "d" / "f", ns=(old, old))
        desk.settle()
        seen = desk.books.find(desk.root.id, ("d", "f"))
        later = seen._replace(noted_ns=seen.noted_ns + 10**10)
        desk.books.note(desk.root.id, [(("d", "f"), later)])

        assert [] == desk.scan().events(deletions=True)

    @pytest.mark.req("S2-46")
    def test_file_noted_within_the_clock_s_tick_then_is_hashed_again(self, desk):
        """It could have changed after it was looked at, with the very same times."""
        (desk.folder / "f").write_bytes(b"one")
        desk.settle()
        file = desk.folder / "f"
        before = os.stat(file)
        with open(file, "r+b") as opened:
            opened.write(b"two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        now = os.stat(file)
        seen = desk.books.find(desk.root.id, ("f",))
        # As if the clock had not ticked between the two writes.
        desk.books.note(desk.root.id, [(("f",), seen._replace(ctime_ns=now.st_ctime_ns))])
        desk.settle()

        assert {"f": b"two"} == desk.sink.tree

    def test_moves_and_deletions_are_told_by_their_old_paths(self, desk):
        """They happen all at once, so a path after one of them would mean another thing."""
        for path in ("a/x", "a/y", "b/z"):
            (desk.folder / path).parent.mkdir(exist_ok=True)
            (desk.folder / path).write_bytes(path.encode())
        desk.settle()
        (desk.folder / "a").rename(desk.folder / "c")
        (desk.folder / "c" / "y").unlink()
        found = desk.scan()

        assert Moved(("a",), ("c",), folder=True) in found.moves
        assert [Deleted(("a", "y"))] == found.deleted
        assert [("a", "y")] == found.missing

    def test_inode_used_again_never_is_a_move(self, desk):
        """Another file got the number of a deleted one."""
        (desk.folder / "f").write_bytes(b"one")
        desk.settle()
        seen = desk.books.find(desk.root.id, ("f",))
        (desk.folder / "f").unlink()
        (desk.folder / "g").write_bytes(b"other")
        inode = os.stat(desk.folder / "g").st_ino
        desk.books.note(desk.root.id, [(("f",), seen._replace(inode=inode))])

        assert [] == desk.scan().moves

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
    def test_folder_that_cannot_be_listed_never_loses_its_files(self, desk):
        """Nothing is concluded from what cannot be seen."""
        (desk.folder / "d").mkdir()
        (desk.folder / "d" / "f").write_bytes(b"one")
        desk.settle()
        (desk.folder / "d").chmod(0)
        try:
            found = desk.scan()
        finally:
            (desk.folder / "d").chmod(0o700)

        assert [("d",)] == list(found.unread)
        assert [] == found.deleted

    def test_folder_that_vanishes_while_it_is_scanned_never_loses_its_files(self, desk):
        """It was there when its own folder was listed; where it is now is for the next scan to say."""
        (desk.folder / "d").mkdir()
        (desk.folder / "d" / "f").write_bytes(b"one")
        desk.settle()

        def watch(path):
            if path == ("d",):
                (desk.folder / "d").rename(desk.base / "elsewhere")

        assert [] == desk.scan(watch).events(deletions=True)

    def test_limit_when_met_then_no_more_folders_are_watched(self, desk):
        """The scan itself goes on to its end."""
        for n in range(5):
            (desk.folder / f"d{n}").mkdir()
        asked = []

        def watch(path):
            asked.append(path)
            return Refusal.WATCHES if len(asked) == 3 else None

        found = desk.scan(watch)

        assert Refusal.WATCHES is found.refused
        assert 3 == len(asked)
        assert 5 == len(found.created)

    def test_known_file_that_is_ignored_now_is_neither_missing_nor_there(self, desk):
        """It is forgotten; what was sent stays."""
        (desk.folder / "f.log").write_bytes(b"one")
        desk.settle()
        (desk.folder / ".syndignore").write_text("*.log\n")
        found = desk.scan()

        assert [("f.log",)] == found.ignored
        assert [] == found.events(deletions=True)

    def test_file_that_gave_way_to_a_link_keeps_what_was_sent(self, desk):
        """Its content may lie elsewhere now; nobody deleted it."""
        (desk.folder / "f").write_bytes(b"one")
        desk.settle()
        (desk.folder / "f").unlink()
        (desk.folder / "f").symlink_to("/somewhere")
        desk.settle()

        assert {"f": b"one"} == desk.sink.tree

    @pytest.mark.parametrize(
        ("missing", "known", "held"),
        [(9, 10, False), (10, 20, False), (11, 20, True), (10, 19, True)],
        ids=["few", "half", "more than half", "just more than half"],
    )
    def test_many_missing_are_too_many_when(self, desk, missing, known, held):
        """At least ten, and more than half."""
        for n in range(known):
            (desk.folder / f"f{n}").write_bytes(b"%d" % n)
        desk.settle()
        for n in range(missing):
            (desk.folder / f"f{n}").unlink()
        found = desk.scan()

        assert held is found.too_many_missing
        found.count_unseen({("f0",), ("f1",)})
        assert missing - 2 == found.missing_files


def churn(base, folder, dice, steps):
    """Things that people do to a tree, of which many fail."""

    def place():
        return folder.joinpath(*(f"d{dice.randrange(3)}" for _ in range(dice.randrange(1, 4))))

    for n in range(steps):
        file, other = place() / f"f{dice.randrange(3)}", place() / f"f{dice.randrange(3)}"
        try:
            match dice.randrange(8):
                case 0 | 1:
                    place().mkdir(exist_ok=True)
                case 2 | 3:
                    file.write_bytes(b"%d-%d" % (n, dice.randrange(10**6)))
                case 4:
                    file.rename(other)
                case 5:
                    place().rename(place())
                case 6:
                    file.unlink()
                case 7:
                    out = sorted(base.glob("out*"))
                    if out and dice.random() < 0.5:
                        dice.choice(out).rename(place())
                    else:
                        place().rename(base / f"out{n}-{dice.randrange(10**9)}")
        except OSError:
            continue


class TestRandom:
    @pytest.mark.parametrize("seed", range(12))
    def test_tree_when_changed_at_random_then_ends_the_same_in_sink_and_books(self, desk, seed):
        """Whatever moved where, every step is possible when it comes and nothing is left over."""
        dice = random.Random(seed)
        for _ in range(12):
            churn(desk.base, desk.folder, dice, 30)
            desk.settle()

            assert tree_of(desk.folder) == desk.sink.tree
            assert set(desk.sink.tree) == {"/".join(p) for p, _ in desk.books.below(desk.root.id)}

    def test_whole_tree_when_moved_to_another_disk_and_back_then_is_compared_by_content(self, desk):
        """All inodes are others: nothing moved, and nothing that is the same is sent again."""
        (desk.folder / "d" / "e").mkdir(parents=True)
        for n in range(12):
            (desk.folder / "d" / "e" / f"f{n}").write_bytes(b"%d" % n)
        desk.settle()
        shutil.copytree(desk.folder / "d", desk.base / "copy")
        (desk.folder / "d").rename(desk.base / "old")
        (desk.base / "copy").rename(desk.folder / "d")
        desk.sink.calls.clear()
        desk.settle()

        assert [] == desk.sink.calls
