"""Events of a folder tree → the few steps that matter."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.mirror.coalesce import Created, Deleted, Modified, Moved, Rearranged, coalesce


def p(text):
    return tuple(text.split("/")) if text else ()


def new(path):
    return Created(p(path))


def mkdir(path):
    return Created(p(path), folder=True)


def change(path):
    return Modified(p(path))


def rm(path):
    return Deleted(p(path))


def rmdir(path):
    return Deleted(p(path), folder=True)


def out(path):
    """A folder that was moved out of the tree."""
    return Deleted(p(path), folder=True, whole=True)


def mv(old, to):
    return Moved(p(old), p(to))


def mvdir(old, to):
    return Moved(p(old), p(to), folder=True)


KNOWN = {
    "f": False,
    "g": False,
    "d": True,
    "d/x": False,
    "d/y": False,
    "d/s": True,
    "d/s/z": False,
    "e": True,
}
"""What was there before each burst: whether it is a folder. `n` and `m` are free."""


def known(path):
    return KNOWN.get("/".join(path))


PAIRS = {
    "created, created": ([new("n"), new("n")], [new("n")]),
    "created, modified": ([new("n"), change("n")], [new("n")]),
    "created, deleted": ([new("n"), rm("n")], []),
    "created, moved": ([new("n"), mv("n", "m")], [new("m")]),
    "created, moved over a file": ([new("n"), mv("n", "f")], [change("f")]),
    "modified, created": ([change("f"), new("f")], [change("f")]),
    "modified, modified": ([change("f"), change("f")], [change("f")]),
    "modified, deleted": ([change("f"), rm("f")], [rm("f")]),
    "modified, moved": ([change("f"), mv("f", "n")], [mv("f", "n"), change("n")]),
    "modified, moved over a file": ([change("f"), mv("f", "g")], [mv("f", "g"), change("g")]),
    "deleted, created": ([rm("f"), new("f")], [change("f")]),
    "deleted, modified": ([rm("f"), change("f")], [change("f")]),
    "deleted, deleted": ([rm("f"), rm("f")], [rm("f")]),
    "deleted, moved": ([rm("f"), mv("f", "n")], [mv("f", "n")]),
    "deleted, another moved there": ([rm("f"), mv("g", "f")], [mv("g", "f")]),
    "moved, created": ([mv("f", "n"), new("f")], [mv("f", "n"), new("f")]),
    "moved, modified": ([mv("f", "n"), change("n")], [mv("f", "n"), change("n")]),
    "moved, old name modified": ([mv("f", "n"), change("f")], [mv("f", "n"), new("f")]),
    "moved, deleted": ([mv("f", "n"), rm("n")], [rm("f")]),
    "moved, moved": ([mv("f", "n"), mv("n", "m")], [mv("f", "m")]),
    "moved, moved back": ([mv("f", "n"), mv("n", "f")], []),
    "moved over a file, deleted": ([mv("f", "g"), rm("g")], [rm("g"), rm("f")]),
    "moved over a file, moved on": ([mv("f", "g"), mv("g", "n")], [rm("g"), mv("f", "n")]),
    "moved over a file, created": ([mv("f", "g"), new("f")], [mv("f", "g"), new("f")]),
    "unknown modified": ([change("n"), change("n")], [new("n")]),
    "unknown deleted": ([rm("n"), rm("m")], []),
    "unknown moved": ([mv("n", "m"), change("m")], [new("m")]),
    "two of them": ([new("n"), rm("f")], [rm("f"), new("n")]),
}

FOLDERS = {
    "made, deleted": ([mkdir("n"), rmdir("n")], []),
    "made, moved": ([mkdir("n"), mvdir("n", "m")], [mkdir("m")]),
    "made, told twice": ([mkdir("n"), mkdir("n")], [mkdir("n")]),
    "made, filled": ([mkdir("n"), new("n/a")], [mkdir("n"), new("n/a")]),
    "made, filled, moved": ([mkdir("n"), new("n/a"), mvdir("n", "m")], [mkdir("m"), new("m/a")]),
    "filled before it was told": ([new("n/a")], [mkdir("n"), new("n/a")]),
    "moved": ([mvdir("d", "n")], [mvdir("d", "n")]),
    "moved, child modified": ([mvdir("d", "n"), change("n/x")], [mvdir("d", "n"), change("n/x")]),
    "child modified, moved": ([change("d/x"), mvdir("d", "n")], [mvdir("d", "n"), change("n/x")]),
    "child created, moved": ([new("d/n"), mvdir("d", "n")], [mvdir("d", "n"), new("n/n")]),
    "moved, child created": ([mvdir("d", "n"), new("n/n")], [mvdir("d", "n"), new("n/n")]),
    "moved, child deleted": ([mvdir("d", "n"), rm("n/x")], [mvdir("d", "n"), rm("n/x")]),
    "child moved, moved": ([mv("d/x", "d/n"), mvdir("d", "n")], [mv("d/x", "d/n"), mvdir("d", "n")]),
    "moved, old name made again": ([mvdir("d", "n"), mkdir("d"), new("d/x")], [mvdir("d", "n"), mkdir("d"), new("d/x")]),
    "moved out": ([out("d")], [out("d")]),
    "child modified, moved out": ([change("d/x"), out("d")], [out("d")]),
    "child moved, moved out": ([mv("d/x", "n"), out("d")], [mv("d/x", "n"), out("d")]),
    "moved out with what came in": ([mv("f", "d/n"), out("d")], [rm("f"), out("d")]),
    "moved out, made anew": ([out("d"), mkdir("d"), new("d/x")], [out("d"), mkdir("d"), new("d/x")]),
    "deleted with all in it": (
        [rm("d/x"), rm("d/y"), rm("d/s/z"), rmdir("d/s"), rmdir("d")],
        [rmdir("d")],
    ),
    "deleted, made again as it was": (
        [rm("d/x"), rm("d/y"), rm("d/s/z"), rmdir("d/s"), rmdir("d"), mkdir("d"), new("d/x")],
        [rm("d/y"), rmdir("d/s"), change("d/x")],
    ),
    "a file where a folder was": ([rmdir("e"), new("e")], [rmdir("e"), new("e")]),
    "a folder where a file was": ([rm("f"), mkdir("f"), new("f/a")], [rm("f"), mkdir("f"), new("f/a")]),
    "file moved in": ([mv("f", "e/f")], [mv("f", "e/f")]),
    "file moved into a new folder": ([mkdir("n"), mv("f", "n/f")], [mkdir("n"), mv("f", "n/f")]),
    "file saved from a deleted folder": (
        [mv("d/x", "x"), rm("d/y"), rm("d/s/z"), rmdir("d/s"), rmdir("d")],
        [mv("d/x", "x"), rmdir("d")],
    ),
    "nested the other way round": (
        [mvdir("d/s", "n"), mvdir("d", "n/d")],
        [mvdir("d/s", "n"), mvdir("d", "n/d")],
    ),
}  # fmt: skip

SAVES = {
    "aside, renamed over": ([new("f.tmp"), change("f.tmp"), mv("f.tmp", "f")], [change("f")]),
    "old one aside, renamed, old one deleted": (
        [new("f.tmp"), mv("f", "f.bak"), mv("f.tmp", "f"), rm("f.bak")],
        [change("f")],
    ),
    "old one aside, written, old one deleted": (
        [mv("f", "f.bak"), new("f"), change("f"), rm("f.bak")],
        [change("f")],
    ),
    "old one aside for good": ([mv("f", "f.bak"), new("f")], [mv("f", "f.bak"), new("f")]),
    "deleted, renamed there": ([new("f.tmp"), rm("f"), mv("f.tmp", "f")], [change("f")]),
    "old one left the tree, written": ([rm("f"), new("f"), change("f")], [change("f")]),
    "saved twice": (
        [new("t1"), mv("t1", "f"), new("t2"), mv("t2", "f")],
        [change("f")],
    ),
    "a new file saved so": ([new("n.tmp"), mv("n.tmp", "n")], [new("n")]),
    "a folder swapped for a new one": (
        [mkdir("t"), new("t/x"), new("t/q"), mvdir("d", "o"), mvdir("t", "d"), rm("o/x"), rm("o/y"), rm("o/s/z"), rmdir("o/s"), rmdir("o")],
        [rm("d/y"), rmdir("d/s"), change("d/x"), new("d/q")],
    ),
}  # fmt: skip


class TestTable:
    @pytest.mark.parametrize(("events", "steps"), PAIRS.values(), ids=PAIRS)
    def test_pair_always_becomes(self, events, steps):
        """What two events about one file come to."""
        assert steps == coalesce(events, known)

    @pytest.mark.parametrize(("events", "steps"), FOLDERS.values(), ids=FOLDERS)
    def test_folder_always_becomes(self, events, steps):
        """What events about folders and their content come to."""
        assert steps == coalesce(events, known)

    @pytest.mark.parametrize(("events", "steps"), SAVES.values(), ids=SAVES)
    def test_save_always_becomes_one_change(self, events, steps):
        """However an editor saves, the file stays the file and has one new content."""
        assert steps == coalesce(events, known)

    def test_nothing_always_becomes_nothing(self):
        """No events, no steps."""
        assert [] == coalesce([], known)

    def test_contents_always_come_last_in_the_order_of_their_touch(self):
        """They are read from the disk under their last names."""
        events = [change("g"), new("n"), change("f"), change("g"), mv("d/x", "m")]

        assert [mv("d/x", "m"), new("n"), change("f"), change("g")] == coalesce(events, known)


class TestCircles:
    def test_swap_always_goes_by_a_name_aside(self):
        """Two files that changed places are moved, not sent again."""
        steps = coalesce([mv("f", "n"), mv("g", "f"), mv("n", "g")], known)

        assert ["f", "g"] == sorted(_end(steps, path) for path in ("f", "g"))
        assert "g" == _end(steps, "f")
        assert all(isinstance(step, Moved) for step in steps)

    def test_rearranged_always_means_all_at_once(self):
        """A scan tells where things are by where they were before any of them moved."""
        at_once = Rearranged((mv("f", "g"), mv("g", "f"), mvdir("d", "n"), mv("d/x", "n/q")))
        steps = coalesce([at_once], known)

        assert "g" == _end(steps, "f")
        assert "f" == _end(steps, "g")
        assert "n/q" == _end(steps, "d/x")
        assert "n/y" == _end(steps, "d/y")

    def test_folder_and_its_child_can_change_places(self):
        """What lay in it holds it now, with everything else still in its place."""
        steps = coalesce([mvdir("d/s", "t"), mvdir("d", "t/s"), mvdir("t", "d")], known)

        assert "d/z" == _end(steps, "d/s/z")
        assert "d/s/x" == _end(steps, "d/x")


def _end(steps, path):
    """Where a path leads after the steps, all of which are moves."""
    at = p(path)
    for step in steps:
        if at[: len(step.old)] == step.old:
            at = (*step.new, *at[len(step.old) :])
    return "/".join(at)


class Model:
    """A tree: path → None for a folder, else a number that stands for the file's content."""

    def __init__(self, tree):
        self.tree = dict(tree)

    def below(self, path):
        return [q for q in self.tree if q[: len(path)] == path]

    def is_folder(self, path):
        return path == () or (path in self.tree and self.tree[path] is None)

    def drop(self, path):
        for q in self.below(path):
            del self.tree[q]

    def move(self, old, to):
        moved = {(*to, *q[len(old) :]): self.tree.pop(q) for q in self.below(old)}
        self.drop(to)
        self.tree.update(moved)

    def legal(self, event):
        """Whether a file system could tell this event now."""
        match event:
            case Created(path):
                return path not in self.tree and self.is_folder(path[:-1])
            case Modified(path):
                return self.tree.get(path) is not None
            case Deleted(path, folder, whole):
                return (
                    path in self.tree
                    and self.is_folder(path) is folder
                    and (whole or len(self.below(path)) == 1)
                )
            case Moved(old, to, folder):
                return (
                    old in self.tree
                    and self.is_folder(old) is folder
                    and self.is_folder(to[:-1])
                    and to[: len(old)] != old
                    and (
                        to not in self.tree
                        or (self.is_folder(to) is folder and len(self.below(to)) == 1)
                    )
                )
        raise AssertionError(event)

    def play(self, event, content):
        match event:
            case Created(path, folder):
                self.tree[path] = None if folder else content
            case Modified(path):
                self.tree[path] = content
            case Deleted(path):
                self.drop(path)
            case Moved(old, to):
                self.move(old, to)


PATHS = [tuple(path) for depth in (1, 2, 3) for path in product("ab", repeat=depth)] + [("c",)]
paths = st.sampled_from(PATHS)
ANY = [
    *(Created(path, folder) for path in PATHS for folder in (False, True)),
    *(Modified(path) for path in PATHS),
    *(Deleted(path, folder) for path in PATHS for folder in (False, True)),
    *(Deleted(path, folder=True, whole=True) for path in PATHS),
    *(Moved(old, to, folder) for old in PATHS for to in PATHS for folder in (False, True)),
]


@st.composite
def bursts(draw):
    """A tree as it was, and a burst of events that a file system could tell of it."""
    tree = {}
    for at in draw(st.lists(paths, max_size=10)):
        if all(tree.get(at[:depth], 0) is None for depth in range(1, len(at))):
            tree.setdefault(at, -len(tree) if draw(st.booleans()) else None)
    model = Model(tree)
    told = []
    for _ in range(draw(st.integers(0, 20))):
        kind = draw(st.sampled_from([Created, Modified, Deleted, Moved, Moved]))
        if legal := [event for event in ANY if type(event) is kind and model.legal(event)]:
            told.append(draw(st.sampled_from(legal)))
            model.play(told[-1], content=0)
    return tree, told


def asked(tree):
    return lambda path: None if path not in tree else tree[path] is None


NEW = 10**6
"""Content that is read from the disk when the step is carried out."""


class TestModel:
    @given(bursts())
    @settings(max_examples=250, deadline=None)
    def test_steps_always_have_the_effect_of_all_events(self, burst):
        """Every path ends as what it is, every step is possible when it comes, and what is not sent is right."""
        tree, told = burst
        full, few = Model(tree), Model(tree)
        for event in told:
            full.play(event, content=NEW)
        for step in coalesce(told, asked(tree)):
            if not (isinstance(step, Created) and not step.folder):
                assert few.legal(step) or isinstance(step, Deleted), step
            few.play(step, content=NEW)

        assert full.tree.keys() == few.tree.keys()
        for path, content in full.tree.items():
            assert few.tree[path] in (content, NEW), path
            assert (content is None) is (few.tree[path] is None), path

    @given(bursts())
    @settings(max_examples=250, deadline=None)
    def test_unchanged_content_never_is_sent_again(self, burst):
        """What was only moved costs no bytes."""
        tree, told = burst
        full, few = Model(tree), Model(tree)
        for event in told:
            full.play(event, content=NEW)
        for step in coalesce(told, asked(tree)):
            few.play(step, content=NEW)

        assert full.tree == few.tree

    @given(bursts())
    @settings(max_examples=250, deadline=None)
    def test_steps_never_touch_a_thing_twice(self, burst):
        """No path is created, changed or deleted more than once."""
        tree, told = burst
        steps = coalesce(told, asked(tree))
        contents = [
            s.path
            for s in steps
            if isinstance(s, Created | Modified) and not getattr(s, "folder", False)
        ]

        assert len(contents) == len(set(contents))

    @given(st.lists(st.sampled_from(ANY), max_size=30))
    @settings(max_examples=250, deadline=None)
    def test_events_that_lie_never_stop_it(self, told):
        """Missed, doubled and impossible events give some answer, in which no content comes twice."""
        steps = coalesce(told, known)
        contents = [
            s.path
            for s in steps
            if isinstance(s, Created | Modified) and not getattr(s, "folder", False)
        ]

        assert len(contents) == len(set(contents))
