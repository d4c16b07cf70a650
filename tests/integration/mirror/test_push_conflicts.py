"""Both sides changed: what each mode does with either side, and that nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from synd.errors import Forbidden, NotFound, UsageError
from synd.mirror.plan import Mode
from synd.testing import FakeRemote
from tests.support.pushing import World

COPY = re.compile(r"P/(.*) \(conflict here \d{4}-\d\d-\d\d \d\d\.\d\d( \d+)?\)(\..*)?")


@pytest.fixture
def make(worlds: Callable[..., World], remote: FakeRemote) -> Callable[..., World]:
    remote.tree(None, {"P": {"a.txt": b"aa", "b.txt": b"bb", "d": {"x": b"x", "y": b"y"}, "e": {}}})

    def world(mode: Mode = Mode.KEEP_BOTH, **settings: Any) -> World:
        made = worlds(conflicts=mode, **settings)
        made.list_all()
        remote.calls.clear()
        return made

    return world


def copies(world: World) -> list[object]:
    return [content for path, content in world.server().items() if COPY.fullmatch(path)]


def recovered(world: World) -> list[bytes]:
    return [world.staging.recovered_path(n).read_bytes() for n in world.staging.recovered_names()]


def told(world: World) -> list[tuple[str, str, bool]]:
    """(reason, kept, open) of each conflict."""
    return [(c.reason, c.kept, c.resolved_ns == 0) for c in world.conflicts.list(all=True)]


EDITED = {
    Mode.KEEP_BOTH: (b"theirs", [b"ours"], [], ("edited", "both", True)),
    Mode.KEEP_LOCAL: (b"ours", [], [], ("edited", "local", False)),
    Mode.OVERWRITE_LOCAL: (b"theirs", [], [b"ours"], ("edited", "remote", False)),
}


@pytest.mark.parametrize("mode", EDITED)
def test_edit_on_both_sides_goes_as_the_mode_says(make, remote, mode):
    """A copy beside theirs, a version over theirs, or the recovery area."""
    world = make(mode)
    world.write("P/a.txt", b"ours")
    remote.new_version(world.id_of("P/a.txt"), b"theirs")
    world.settle()

    content, copied, kept, conflict = EDITED[mode]
    assert content == world.server()["P/a.txt"]
    assert (copied, kept) == (copies(world), recovered(world))
    assert [conflict] == told(world)
    assert {} == world.states()
    assert content == world.view()["P/a.txt"]
    versions = [remote.content(r.handle) for r in remote._nodes[world.id_of("P/a.txt")].revisions]
    assert b"theirs" in versions


def test_conflict_copies_have_names_of_their_own(make, remote):
    """Two within one minute."""
    world = make()
    for n in range(2):
        world.write("P/a.txt", b"ours %d" % n)
        remote.new_version(world.id_of("P/a.txt"), b"theirs %d" % n)
        world.clock._now_ns -= world.clock._now_ns % 60_000_000_000
        world.pusher.push_now()
        world.settle()
        world.list_all()

    assert [b"ours 0", b"ours 1"] == sorted(map(bytes, copies(world)))


def test_other_change_beside_ours_is_no_conflict(make, remote):
    """Their annotation, their rename or their move and our edit go together."""
    world = make()
    entity = world.id_of("P/a.txt")
    world.write("P/a.txt", b"ours")
    remote.annotate(entity, k="v")
    remote.rename(entity, "r.txt")
    remote.move(entity, world.id_of("P/e"))
    world.settle()

    assert b"ours" == world.server()["P/e/r.txt"]
    assert b"ours" == world.view()["P/e/r.txt"]
    assert [] == told(world)
    assert {"k": ("STRING", ("v",))} == remote._nodes[entity].current.annotations


def test_same_bytes_on_both_sides_are_no_conflict(make, remote):
    """Both made the same edit."""
    world = make()
    world.write("P/a.txt", b"same")
    remote.new_version(world.id_of("P/a.txt"), b"same")
    world.settle()

    assert [] == told(world)
    assert 2 == remote._nodes[world.id_of("P/a.txt")].current.number
    assert {} == world.states()


@pytest.mark.parametrize("mode", Mode)
def test_edit_of_what_was_deleted_there_becomes_new(make, remote, mode):
    """Under the same name; with overwrite.local it goes to the recovery area."""
    world = make(mode)
    entity = world.id_of("P/a.txt")
    world.write("P/a.txt", b"ours")
    remote.trash(entity)
    world.settle()

    if mode is Mode.OVERWRITE_LOCAL:
        assert ("P/a.txt" not in world.server(), [b"ours"]) == (True, recovered(world))
        assert "P/a.txt" not in world.view()
    else:
        assert b"ours" == world.server()["P/a.txt"] == world.view()["P/a.txt"]
        assert entity != world.id_of("P/a.txt")
    assert ["deleted-there"] == [reason for reason, _, _ in told(world)]
    assert {} == world.states()


def test_move_of_what_was_deleted_there_is_dropped(make, remote):
    """Nothing of ours is lost with it."""
    world = make()
    remote.trash(world.id_of("P/a.txt"))
    world.rename("P/a.txt", "P/z.txt")
    world.settle()

    assert ("P/z.txt" in world.view(), {}) == (False, world.states())
    assert any(kind == "sent" and what["action"] == "dropped" for kind, what in world.events)


@pytest.mark.parametrize("new", [True, False], ids=["new file", "edit"])
def test_folder_deleted_there_is_made_anew_for_what_is_ours(make, remote, new):
    """With all folders above it that are gone, too."""
    world = make()
    remote.trash(world.id_of("P/d"))
    world.write("P/d/n" if new else "P/d/x", b"ours")
    world.settle()

    path = "P/d/n" if new else "P/d/x"
    assert b"ours" == world.server()[path] == world.view()[path]
    assert "P/d/y" not in world.server()
    assert {} == world.states()


def test_delete_of_what_was_edited_there_is_not_sent(make, remote):
    """It shows again as they have it."""
    world = make()
    world.remove("P/a.txt")
    remote.new_version(world.id_of("P/a.txt"), b"theirs")
    world.settle()

    assert b"theirs" == world.server()["P/a.txt"] == world.view()["P/a.txt"]
    assert [("deleted-here", "remote", False)] == told(world)
    assert 0 == remote.calls["delete"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_undone_delete_when_it_was_moved_there_then_its_new_name_is_told(make, remote, what):
    """Hidden while its delete was unsent, it shows where others moved it: who listed that folder hears of it."""
    world = make()
    moved, to = world.id_of("P/a.txt" if what == "file" else "P/d"), world.id_of("P/e")
    for path in ["P/a.txt"] if what == "file" else ["P/d/x", "P/d/y", "P/d"]:
        world.remove(path)
    if what == "file":
        remote.new_version(moved, b"theirs")
    else:
        remote.file(moved, "new", b"new")
    remote.move(moved, to)
    remote.rename(moved, "renamed")
    world.list_all()
    hidden = "P/e/renamed" not in world.view()
    world.settle()

    assert hidden
    assert "P/e/renamed" in world.view()
    assert (to, b"renamed") in world.names
    assert ["deleted-here"] == [reason for reason, _, _ in told(world)]


def test_delete_of_what_was_annotated_there_is_sent(make, remote):
    """The bytes are those that were deleted."""
    world = make()
    world.remove("P/a.txt")
    remote.annotate(world.id_of("P/a.txt"), k="v")
    world.settle()

    assert "P/a.txt" not in world.server()


@pytest.mark.parametrize("what", ["new", "edited", "new below"])
def test_deleted_folder_with_something_new_keeps_that(make, remote, what):
    """What is new there stays, with its folder; the known rest goes."""
    world = make()
    d = world.id_of("P/d")
    if what == "new below":
        sub = remote.folder(d, "sub")
        world.list_all()
        world.remove("P/d/sub")
        remote.file(sub, "new", b"new")
    for path in ("P/d/x", "P/d/y", "P/d"):
        world.remove(path)
    if what == "new":
        remote.file(d, "new", b"new")
    elif what == "edited":
        remote.new_version(world.id_of("P/d/x"), b"new")
    world.settle()
    world.list_all()

    path = {"new": "P/d/new", "edited": "P/d/x", "new below": "P/d/sub/new"}[what]
    below = {p: c for p, c in world.server().items() if p.startswith("P/d/")}
    assert (b"new", 2 if what == "new below" else 1) == (below[path], len(below))
    assert below.items() <= world.view().items()
    assert {"deleted-here"} == {reason for reason, _, _ in told(world)}
    assert {} == world.states()


@pytest.mark.parametrize("mode", Mode)
def test_name_taken_by_another_file_goes_as_the_mode_says(make, remote, mode):
    """Two files made under one name."""
    world = make(mode)
    remote.file(world.id_of("P"), "n.txt", b"theirs")
    world.write("P/n.txt", b"ours")
    world.settle()

    if mode is Mode.KEEP_BOTH:
        assert (b"theirs", [b"ours"]) == (world.server()["P/n.txt"], copies(world))
    elif mode is Mode.KEEP_LOCAL:
        assert (b"ours", []) == (world.server()["P/n.txt"], copies(world))
        assert 2 == remote._nodes[world.id_of("P/n.txt")].current.number
    else:
        assert (b"theirs", [b"ours"]) == (world.server()["P/n.txt"], recovered(world))
    assert world.server()["P/n.txt"] == world.view()["P/n.txt"]
    assert ["name-taken"] == [reason for reason, _, _ in told(world)]
    assert {} == world.states()


def test_name_taken_by_the_same_bytes_is_one_file(make, remote):
    """Both made the same file."""
    world = make()
    remote.file(world.id_of("P"), "n.txt", b"same")
    world.write("P/n.txt", b"same")
    world.settle()

    assert ([], {}) == (told(world), world.states())
    assert 1 == remote._nodes[world.id_of("P/n.txt")].current.number


def test_folders_of_one_name_merge(make, remote):
    """Ours is theirs then, and what ours holds goes into it."""
    world = make()
    remote.file(remote.folder(world.id_of("P"), "n"), "t", b"t")
    world.mkdir("P/n")
    world.write("P/n/o", b"o")
    world.settle()
    world.list_all()

    assert {"P/n/t": b"t", "P/n/o": b"o"}.items() <= world.server().items()
    assert {"P/n/t": b"t", "P/n/o": b"o"}.items() <= world.view().items()


@pytest.mark.parametrize("mode", Mode)
def test_folder_whose_name_a_file_took_gets_another(make, remote, mode):
    """All that it holds goes with it, in every mode."""
    world = make(mode)
    remote.file(world.id_of("P"), "n", b"theirs")
    world.mkdir("P/n")
    world.write("P/n/o", b"o")
    world.settle()

    assert b"theirs" == world.server()["P/n"]
    assert b"o" in [c for p, c in world.server().items() if p.endswith("/o")]


@pytest.mark.parametrize("mode", Mode)
def test_rename_on_both_sides_is_noted(make, remote, mode):
    """Ours wins, unless theirs is to."""
    world = make(mode)
    entity = world.id_of("P/a.txt")
    world.rename("P/a.txt", "P/ours.txt")
    remote.rename(entity, "theirs.txt")
    world.settle()

    name = "theirs.txt" if mode is Mode.OVERWRITE_LOCAL else "ours.txt"
    assert entity == world.id_of(f"P/{name}")
    assert f"P/{name}" in world.view()
    kept = "remote" if mode is Mode.OVERWRITE_LOCAL else "local"
    assert [("renamed", kept, False)] == told(world)
    assert {} == world.states()


def test_rename_to_a_name_that_was_taken_there_gets_another(make, remote):
    """Nobody's file is replaced."""
    world = make()
    world.rename("P/a.txt", "P/z.txt")
    remote.file(world.id_of("P"), "z.txt", b"theirs")
    world.settle()

    assert (b"theirs", [b"aa"]) == (world.server()["P/z.txt"], copies(world))
    assert {} == world.states()


CROSSED: dict[str, object] = {
    "P": None, "P/a.txt": b"aa", "P/b.txt": b"bb", "P/d": None, "P/d/x": b"x", "P/d/y": b"y",
    "P/d/e": None, "P/d/e/n": b"new",
}  # fmt: skip


class TestCrossingMoves:
    """A folder moved into another here, and that one into it there: theirs stays, ours is given up."""

    @pytest.mark.parametrize("mode", Mode)
    @pytest.mark.parametrize("seen", [False, True], ids=["unseen", "seen before"])
    def test_move_into_what_was_moved_into_it_there_is_given_up(self, make, remote, mode, seen):
        """Nothing is lost or there twice, whether or not the listing told of it before the move was sent."""
        world = make(mode)
        world.rename("P/d", "P/e/d")
        world.write("P/e/n", b"new")
        remote.move(world.id_of("P/e"), world.id_of("P/d"))
        if seen:
            world.list_all()
        world.settle()

        assert CROSSED == world.server()
        world.list_all()
        assert CROSSED == world.view()
        assert [("renamed", "remote", False)] == told(world)
        assert {} == world.states()

    def test_move_with_another_name_across_several_folders_is_given_up(self, make, remote):
        """Place and name are theirs; what lies between is known from then on."""
        world = make()
        world.rename("P/d", "P/e/other")
        between = remote.folder(world.id_of("P/d"), "between")
        remote.move(world.id_of("P/e"), between)
        world.settle()
        world.list_all()

        assert {"P/d/between/e", "P/d/x"} <= set(world.server())
        assert world.server() == world.view()
        assert [("renamed", "remote", False)] == told(world)

    def test_move_that_is_given_up_when_its_old_name_is_taken_here_gets_another(self, make, remote):
        """Both folders that are here are there."""
        world = make()
        world.rename("P/d", "P/e/d")
        world.mkdir("P/d")
        world.write("P/d/z", b"z")
        remote.move(world.id_of("P/e"), world.id_of("P/d"))
        world.settle()
        world.list_all()

        assert world.server() == world.view()
        assert {"P/d", "P/d/z"} <= set(world.server())
        assert [b"x"] == [c for p, c in world.server().items() if p.endswith("/x")]
        assert {} == world.states()

    @pytest.mark.timeout(20)
    def test_folders_that_lie_in_each_other_for_a_while_can_be_worked_in(self, make, remote):
        """Told of their move while ours is unsent, as during a pause: whoever is in there goes on."""
        world = make()
        inner, other = world.mkdir("P/d/inner"), world.mkdir("P/d/other")
        world.settle()
        world.rename("P/d", "P/e/d")
        remote.move(world.id_of("P/e"), world.id_of("P/d"))
        world.list_all()
        seen = world.overlay.seen(inner.id) or world.overlay.seen(world.id_of("P/d/inner"))
        into = world.overlay.seen(other.id) or world.overlay.seen(world.id_of("P/d/other"))
        assert seen is not None
        assert into is not None
        world.overlay.rename(seen, into.key, b"inner")
        world.settle()
        world.list_all()

        assert {"P/d/e", "P/d/other/inner"} <= set(world.server())
        assert world.server() == world.view()
        assert {} == world.states()

    def test_move_waits_for_its_destination_when_that_is_to_go_elsewhere(self, make, remote):
        """Then nothing needs to be given up."""
        world = make()
        world.mkdir("P/f")
        world.rename("P/e", "P/f/e")
        world.rename("P/d", "P/f/e/d")
        remote.move(world.id_of("P/e"), world.id_of("P/d"))
        world.settle()
        world.list_all()

        assert {"P/f/e/d/x": b"x"}.items() <= world.server().items()
        assert world.server() == world.view()
        assert {} == world.states()


class TestResolve:
    @pytest.fixture
    def world(self, make, remote) -> World:
        made = make()
        made.write("P/a.txt", b"ours")
        remote.new_version(made.id_of("P/a.txt"), b"theirs")
        return made

    def resolve(self, world: World, keep: str) -> None:
        number = world.conflicts.list()[0].id
        found = world.run(world.conflicts.resolve(number, keep))
        assert (keep, []) == (found.kept, world.conflicts.list())
        world.settle()
        world.list_all()

    @pytest.mark.parametrize("sent", [True, False], ids=["copy sent", "copy unsent"])
    def test_resolve_local_makes_ours_the_next_version(self, world, remote, sent):
        """Over theirs, which stays among the versions; the copy goes."""
        if not sent:
            remote.fail(Forbidden("not now"), call="create")
        world.settle()
        self.resolve(world, "local")

        assert ([], b"ours") == (copies(world), world.server()["P/a.txt"])
        assert 3 == remote._nodes[world.id_of("P/a.txt")].current.number
        assert b"ours" == world.view()["P/a.txt"]

    def test_resolve_remote_removes_our_copy(self, world):
        """It goes to the trash can."""
        world.settle()
        self.resolve(world, "remote")

        assert ([], b"theirs") == (copies(world), world.server()["P/a.txt"])

    def test_resolve_local_when_our_copy_was_removed_is_not_found(self, world):
        """Nothing of ours could become a version: the conflict stays open."""
        world.settle()
        (copy,) = (path for path in world.view() if "conflict" in path)
        world.remove(copy)
        number = world.conflicts.list()[0].id
        with pytest.raises(NotFound, match="not there any more"):
            world.run(world.conflicts.resolve(number, "local"))
        assert [number] == [one.id for one in world.conflicts.list()]
        self.resolve(world, "remote")

        assert b"theirs" == world.server()["P/a.txt"]

    @pytest.mark.parametrize("keep", ["local", "remote"])
    def test_resolve_when_settled_otherwise_is_a_usage_error_that_says_what_was_kept(
        self, world, keep
    ):
        """The same once more is none, and either changes nothing."""
        world.settle()
        number = world.conflicts.list()[0].id
        self.resolve(world, "both")
        before = world.server()
        with pytest.raises(UsageError, match="settled already: both were kept"):
            world.run(world.conflicts.resolve(number, keep))
        assert "both" == world.run(world.conflicts.resolve(number, "both")).kept
        world.settle()

        assert before == world.server()

    def test_resolve_both_leaves_both(self, world):
        """Nothing changes but that it is over."""
        world.settle()
        self.resolve(world, "both")

        assert ([b"ours"], b"theirs") == (copies(world), world.server()["P/a.txt"])
