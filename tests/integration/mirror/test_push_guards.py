"""Guards: mass deletes are held, memory stays bounded, late listings undo nothing."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from synd.errors import RemoteUnavailable
from synd.mirror.holds import too_many
from synd.testing import FakeRemote
from tests.support.pushing import World


@pytest.fixture
def many(worlds: Callable[..., World], remote: FakeRemote) -> Callable[..., World]:
    def make(files: int, **settings: object) -> World:
        remote.tree(
            None,
            {"P": {"d": {f"f{n}": b"%d" % n for n in range(files)}, "keep": {"k": b"k"}}, "Q": {}},
        )
        made = worlds(**settings)
        made.list_all()
        remote.calls.clear()
        return made

    return make


@pytest.mark.parametrize(
    ("deletes", "known", "held"),
    [(100, 1000, False), (101, 1000, True), (9, 9, False), (10, 19, True), (10, 20, False)],
    ids=["at the count", "above the count", "few", "most of a project", "half of a project"],
)
def test_too_many_is_more_than_the_count_or_the_part(deletes, known, held):
    """Fewer than ten are never too many for their part."""
    assert held is too_many(deletes, known, count=100, percent=50)


def test_bounds_can_be_switched_off():
    """0 and 100 %."""
    assert not too_many(10_000, 10_000, count=0, percent=100)


def test_mass_delete_waits_for_a_yes(many, remote):
    """Nothing is deleted on the service before; all of it afterwards."""
    world = many(30, delete_hold_count=20)
    for n in range(21):
        world.remove(f"P/d/f{n}")
    world.write("P/new", b"new")
    world.settle()
    assert (0, {"held"}) == (remote.calls["delete"], set(world.states().values()))
    assert (b"new", 30) == (world.server()["P/new"], sum("/d/" in p for p in world.server()))
    assert [{"deletes": 21}] == [what for kind, what in world.events if kind == "held"]

    assert 21 == world.pusher.approve()
    world.settle()
    assert (21, {}) == (remote.calls["delete"], world.states())


def test_deletes_that_trickle_are_counted_together(many, remote):
    """Those sent within the window before count."""
    world = many(30, delete_hold_count=10, delete_hold_percent=100)
    for n in range(12):
        world.remove(f"P/d/f{n}")
        world.clock.advance(5.1)
        world.step()

    assert 10 == remote.calls["delete"]
    assert 2 == list(world.states().values()).count("held")


def test_deletes_over_a_long_time_are_not_held(many, remote):
    """The window goes on."""
    world = many(30, delete_hold_count=10, delete_hold_percent=100)
    for n in range(20):
        world.remove(f"P/d/f{n}")
        world.clock.advance(10)
        world.step()

    assert (20, {}) == (remote.calls["delete"], world.states())


def test_removed_large_tree_is_held_and_sent_as_one(many, remote):
    """Every file counts, though one request deletes them all."""
    world = many(120)
    for n in range(120):
        world.remove(f"P/d/f{n}")
    world.remove("P/d")
    world.settle()
    assert {"held"} == set(world.states().values())

    world.pusher.approve()
    world.settle()
    assert (1, {}) == (remote.calls["delete"], world.states())
    assert "P/d" not in world.server()


def test_approved_delete_that_fails_is_not_held_again(many, remote):
    """A yes stays a yes."""
    world = many(30, delete_hold_count=20)
    for n in range(25):
        world.remove(f"P/d/f{n}")
    world.settle()
    world.pusher.approve()
    remote.fail(RemoteUnavailable("503"), call="delete", times=2)
    world.settle()

    assert {} == world.states()


def test_listing_begun_before_a_change_of_ours_does_not_undo_it(many, remote):
    """It is told of the service as it was."""
    world = many(3)
    folder = world.id_of("P/d")

    before = world.run(remote.children(folder))
    world.write("P/d/new", b"new")
    world.rename("P/d/f0", "P/d/g0")
    world.remove("P/d/f1")
    mark = world.entities.mark()
    world.settle()
    world.entities.apply_listing(folder, before.headers, mark)

    assert {"P/d/new", "P/d/g0", "P/d/f2"} == {p for p in world.view() if p.startswith("P/d/")}
    names = [row.name for row in world.entities.children(folder)]
    assert ["f2", "g0", "new"] == sorted(names)


def test_listing_begun_afterwards_tells_of_others(many, remote):
    """A protection that never ended would hide what they do."""
    world = many(3)
    world.write("P/d/new", b"new")
    world.settle()
    remote.trash(world.id_of("P/d/new"))
    world.run(world.tree.list_folder(world.id_of("P/d")))

    assert "new" not in [row.name for row in world.entities.children(world.id_of("P/d"))]


def test_bundle_older_than_our_change_does_not_undo_it(many, remote):
    """Its answer came late."""
    world = many(3)
    entity = world.id_of("P/d/f0")
    old = world.run(remote.entity(entity))
    world.write("P/d/f0", b"ours")
    world.settle()
    world.run(world.tree.record(old))

    assert 2 == world.entities.get(entity).version


def test_new_folder_needs_no_listing(many, remote):
    """Nobody else can have put anything there."""
    world = many(1)
    world.mkdir("P/n")
    world.settle()

    assert world.tree.folders.is_listed(world.id_of("P/n"))


@pytest.mark.slow
def test_hundred_thousand_rows_wait_in_bounded_memory(many, remote):
    """A window of them is in memory, however many wait, for their time or for a folder."""
    world = many(1)
    folder = world.mkdir("P/n")
    with world.overlay.change() as tx:
        tx.executemany(
            """INSERT INTO local (id, born, parent, name, kind, ctime_ns, staged, edit, size, state,
            since_ns) VALUES (?, 1, ?, ?, 'file', 1, ?, 1, 5, 'waiting', 1)""",
            [
                ((1 << 39) + 1000 + n, folder.id if n % 2 else world.id_of("P/d"), b"f%d" % n, 10**9 + n)
                for n in range(100_000)
            ],
        )  # fmt: skip
    world.pusher.pause()
    remote.offline = True
    tracemalloc.start()
    world.pusher.paused = False
    world.clock.advance(3)
    world.run(world.pusher.step())
    taken = len(world.pusher._tasks)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    world.step()

    assert taken <= 32
    assert peak < 8 << 20
