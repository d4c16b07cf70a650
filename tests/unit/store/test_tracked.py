"""Tracked folders and what was seen in them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synd.errors import Exists, UsageError
from synd.ids import EntityId, Md5
from synd.store.connect import Store
from synd.store.tracked import RACY_NS, Options, Seen, Tracked, seen_of

FILE = Seen(False, 3, 10, 11, 12, 10 + 2 * RACY_NS, Md5("0" * 32), sent=True)
FOLDER = Seen(True, 0, 10, 11, 13, 99)


@pytest.fixture
def tracked(store):
    return Tracked(store)


@pytest.fixture
def root(tracked, tmp_path):
    return tracked.add(tmp_path, EntityId(7), os.stat(tmp_path), 5, Options(ignore=("*.o",)))


class TestRoots:
    def test_root_when_added_then_is_there_after_a_restart(self, tracked, root, store):
        """Folder, entity, identity and options are kept."""
        store.close()
        again = Store(store.path)

        assert [root] == Tracked(again).roots()
        assert ("*.o",) == root.options.ignore
        again.close()

    def test_root_when_added_twice_then_says_what_it_is(self, tracked, root, tmp_path):
        """A folder goes to one place."""
        with pytest.raises(Exists, match="syn7"):
            tracked.add(tmp_path, EntityId(8), os.stat(tmp_path), 5, Options())

    def test_root_when_removed_then_takes_its_files_along(self, tracked, root):
        """Nothing of it is left to be believed later."""
        tracked.note(root.id, [(("a",), FILE)])
        tracked.remove(root.id)

        assert [] == tracked.roots()
        assert tracked.find(root.id, ("a",)) is None

    def test_device_when_it_changed_then_is_the_new_one(self, tracked, root):
        """Numbers with the highest bit too."""
        tracked.set_device(root.id, (1 << 64) - 2)

        assert (1 << 64) - 2 == tracked.roots()[0].device

    def test_name_not_utf8_always_comes_back(self, tracked, tmp_path):
        """Paths are bytes."""
        odd = tmp_path / os.fsdecode(b"n\xff")
        odd.mkdir()
        root = tracked.add(odd, EntityId(7), os.stat(odd), 5, Options())
        tracked.note(root.id, [(("d\udcff", "f\udcfe"), FILE)])

        assert odd == tracked.roots()[0].folder
        assert FILE == tracked.find(root.id, ("d\udcff", "f\udcfe"))
        assert ["f\udcfe"] == list(tracked.children(root.id, ("d\udcff",)))

    @pytest.mark.parametrize("value", [-1.0, 1e9])
    def test_option_out_of_range_always_is_refused(self, value):
        """The message names it."""
        with pytest.raises(UsageError, match="quiet_s"):
            Options(quiet_s=value)


class TestFiles:
    def test_children_always_are_those_of_one_folder(self, tracked, root):
        """Neither of others nor deeper ones."""
        tracked.note(
            root.id, [(("a",), FILE), (("d",), FOLDER), (("d", "a"), FILE), (("d", "s", "b"), FILE)]
        )

        assert {"a": FILE, "d": FOLDER} == tracked.children(root.id, ())
        assert {"a": FILE} == tracked.children(root.id, ("d",))

    def test_below_always_leaves_names_with_the_same_beginning(self, tracked, root):
        """`d` is neither `dd` nor `d.x` nor `d0`."""
        for name in ("d", "dd", "d.x", "d0", "d-"):
            tracked.note(root.id, [((name,), FOLDER), ((name, "a"), FILE)])
        tracked.note(root.id, [(("d", "s", "a"), FILE)])

        assert [("d", "a"), ("d", "s", "a")] == [p for p, _ in tracked.below(root.id, ("d",))]
        assert (2, 0) == tracked.count(root.id, ("d",))
        tracked.forget(root.id, ("d",))
        assert (4, 4) == tracked.count(root.id)

    def test_folder_when_moved_then_takes_all_along(self, tracked, root):
        """Rows below have their new paths and are found by them; what was there before is forgotten."""
        tracked.note(
            root.id,
            [(("d",), FOLDER), (("d", "a"), FILE), (("d", "s", "b"), FILE), (("e", "x"), FILE)],
        )
        tracked.move(root.id, ("d",), ("e",))

        assert [("e",), ("e", "a"), ("e", "s", "b")] == [p for p, _ in tracked.below(root.id)]
        assert FILE == tracked.find(root.id, ("e", "s", "b"))
        assert {"b": FILE} == tracked.children(root.id, ("e", "s"))
        tracked.move(root.id, ("e", "s"), ("t",))
        assert FILE == tracked.find(root.id, ("t", "b"))

    def test_unsent_always_counts_what_has_to_be_told(self, tracked, root):
        """A row that the sink refused."""
        tracked.note(root.id, [(("a",), FILE), (("b",), FILE._replace(sent=False))])

        assert 1 == tracked.unsent(root.id)


class TestSeen:
    def test_file_when_nothing_differs_then_is_the_same(self, tmp_path):
        """Size, both times and the inode decide."""
        file = tmp_path / "f"
        file.write_bytes(b"abc")
        stat = os.stat(file)
        seen = seen_of(stat, folder=False, noted_ns=0)

        assert seen.same(stat)
        for field in ("size", "mtime_ns", "ctime_ns", "inode"):
            assert not seen._replace(**{field: getattr(seen, field) + 1}).same(stat)

    @pytest.mark.req("S2-46")
    def test_file_changed_when_it_was_noted_then_is_racy(self):
        """A change within the clock's granularity could have been followed by another with the same times."""
        assert not FILE.racy
        assert FILE._replace(noted_ns=FILE.mtime_ns).racy
        assert FILE._replace(ctime_ns=FILE.noted_ns - RACY_NS + 1).racy
        assert not FOLDER.racy

    def test_root_path_always_lies_in_it(self, root, tmp_path):
        """Relative names become an absolute path."""
        assert Path(tmp_path, "a", "b") == root.path(("a", "b"))
