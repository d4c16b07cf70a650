"""Local changes arrive on the service: each kind of change, its cost, its order."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from synd.clock import NS
from synd.errors import (
    Forbidden,
    NotLoggedIn,
    Offline,
    ProtocolError,
    QuotaExceeded,
    RemoteUnavailable,
)
from synd.mirror.steps import LONG_WAIT_S
from synd.store.outbox import Outbox
from synd.testing import FakeRemote
from tests.support.pushing import World


@pytest.fixture
def world(worlds: Callable[..., World], remote: FakeRemote) -> World:
    remote.tree(None, {"P": {"a.txt": b"aa", "b.txt": b"bb", "d": {"x": b"x", "y": b"y"}, "e": {}}})
    made = worlds()
    made.list_all()
    remote.calls.clear()
    return made


def test_new_file_costs_an_upload_and_a_create(world: World, remote: FakeRemote):
    """Nothing else is asked of the service for small new files."""
    for n in range(20):
        world.write(f"P/new{n}", b"content %d" % n)
    world.settle()

    assert {"upload": 20, "create": 20} == remote.calls
    assert b"content 7" == world.server()["P/new7"]
    assert {} == world.states()


def test_new_folders_come_before_what_they_hold(world: World, remote: FakeRemote):
    """However deep, whatever the order of the rows."""
    world.mkdir("P/n")
    world.mkdir("P/n/m")
    world.write("P/n/m/f", b"deep")
    world.write("P/n/g", b"g")
    world.settle()

    assert {"upload": 2, "create": 4} == remote.calls
    assert {
        "P/n": None,
        "P/n/m": None,
        "P/n/m/f": b"deep",
        "P/n/g": b"g",
    }.items() <= world.server().items()


def test_edit_becomes_the_next_version_with_one_reading_before(world: World, remote: FakeRemote):
    """Many saves are one version; the entity is read once just before."""
    for n in range(3):
        world.write("P/a.txt", b"edit %d" % n)
    entity = world.id_of("P/a.txt")
    world.settle()

    assert {"upload": 1, "entity": 1, "update": 1} == remote.calls
    assert (b"edit 2", 2) == (world.server()["P/a.txt"], remote._nodes[entity].current.number)


def test_edit_back_to_the_same_bytes_asks_nothing(world: World, remote: FakeRemote):
    """Bytes that are those of the base are not sent."""
    world.write("P/a.txt", b"aa")
    world.settle()

    assert {} == remote.calls
    assert {} == world.states()


def test_rename_move_and_edit_are_one_update(world: World, remote: FakeRemote):
    """Name, folder and bytes go in one PUT."""
    world.rename("P/a.txt", "P/e/z.txt")
    world.write("P/e/z.txt", b"zz")
    world.settle()

    assert {"upload": 1, "entity": 1, "update": 1} == remote.calls
    assert b"zz" == world.server()["P/e/z.txt"]
    assert "P/a.txt" not in world.server()


def test_create_then_delete_asks_nothing(world: World, remote: FakeRemote):
    """What never was there need not be deleted."""
    world.write("P/n", b"n")
    world.remove("P/n")
    world.settle()

    assert {} == remote.calls


def test_delete_and_create_of_one_name_is_a_version(world: World, remote: FakeRemote):
    """An editor's way of saving keeps the entity."""
    entity = world.id_of("P/a.txt")
    world.remove("P/a.txt")
    world.write("P/a.txt", b"again")
    world.settle()

    assert entity == world.id_of("P/a.txt")
    assert b"again" == world.server()["P/a.txt"]
    assert 0 == remote.calls["delete"]


def test_rename_over_a_file_makes_a_version_of_the_target(world: World):
    """Atomic save: the target's entity stays."""
    entity = world.id_of("P/a.txt")
    world.write("P/.tmp-1", b"saved")
    world.rename("P/.tmp-1", "P/a.txt")
    world.settle()

    assert entity == world.id_of("P/a.txt")
    assert b"saved" == world.server()["P/a.txt"]
    assert "P/.tmp-1" not in world.server()


def test_removed_tree_is_one_delete(world: World, remote: FakeRemote):
    """The service deletes all below; it is listed before."""
    for path in ("P/d/x", "P/d/y", "P/d"):
        world.remove(path)
    world.settle()

    assert (1, 1) == (remote.calls["delete"], remote.calls["children"])
    assert "P/d" not in world.server()
    assert [] == list(world.locals.all())


def test_exchange_of_two_names_goes_over_a_passing_one(world: World):
    """Each has the other's name in the end."""
    a, b = world.id_of("P/a.txt"), world.id_of("P/b.txt")
    world.rename("P/a.txt", "P/b.txt", flags=2)
    world.settle()

    assert (b, a) == (world.id_of("P/a.txt"), world.id_of("P/b.txt"))
    assert {} == world.states()


def test_ring_of_names_is_untied(world: World):
    """Three files whose names go round."""
    a, b, x = (world.id_of(p) for p in ("P/a.txt", "P/b.txt", "P/d/x"))
    world.rename("P/a.txt", "P/b.txt", flags=2)
    world.rename("P/a.txt", "P/d/x", flags=2)
    world.settle()

    assert (x, a, b) == tuple(world.id_of(p) for p in ("P/a.txt", "P/b.txt", "P/d/x"))


def test_name_of_a_moved_file_is_free_for_a_new_one(world: World):
    """The move is sent before the name is used again."""
    world.rename("P/a.txt", "P/old.txt")
    world.write("P/a.txt", b"new")
    world.settle()

    assert (b"new", b"aa") == (world.server()["P/a.txt"], world.server()["P/old.txt"])
    assert [] == world.conflicts.list(all=True)


def test_folder_made_where_a_file_was_deleted_waits_for_the_delete(world: World):
    """One name, two kinds."""
    world.remove("P/a.txt")
    world.mkdir("P/a.txt")
    world.write("P/a.txt/in", b"in")
    world.settle()

    assert b"in" == world.server()["P/a.txt/in"]
    assert [] == world.conflicts.list(all=True)


def test_empty_file_stays_until_it_has_bytes(world: World, remote: FakeRemote):
    """The service keeps no empty files; that is no error."""
    world.write("P/empty", b"")
    world.settle()
    assert ({}, {"P/empty": "blocked"}) == (remote.calls, world.states())

    world.write("P/empty", b"now")
    world.settle()
    assert (b"now", {}) == (world.server()["P/empty"], world.states())


def test_truncated_file_stays_at_its_version(world: World, remote: FakeRemote):
    """Emptying what is there sends nothing, a rename of it does."""
    world.write("P/a.txt", b"")
    world.rename("P/a.txt", "P/c.txt")
    world.settle()

    assert b"aa" == world.server()["P/c.txt"]
    assert {"P/c.txt": "blocked"} == world.states()
    assert 0 == remote.calls["upload"]


def test_symlink_inside_becomes_a_link_and_others_stay(world: World):
    """A link to an entity is an entity; any other is this machine's."""
    world.symlink("P/l", "d/x")
    world.symlink("P/out", "/etc/passwd")
    world.write("P/new", b"n")
    world.symlink("P/l2", "new")
    world.settle()

    server = world.server()
    assert world.id_of("P/d/x") == server["P/l"].id
    assert world.id_of("P/new") == server["P/l2"].id
    assert "P/out" not in server
    assert {} == world.states()


def test_symlink_to_an_empty_file_when_that_is_never_sent_waits_for_nothing(world: World):
    """It is sent once the file holds something; until then nothing of it is unsent, over a restart too."""
    empty = world.write("P/new", b"")
    world.symlink("P/l", "new")
    began = world.clock.monotonic()
    world.settle(3)
    assert {"P/new": "blocked"} == world.states()
    assert world.clock.monotonic() - began < LONG_WAIT_S
    with world.overlay.change() as tx:
        assert ["l"] == [r.name.decode() for r in Outbox(world.overlay.store).links_at_rest(tx)]
    assert empty.id == world.write("P/new", b"n").id
    world.settle()

    assert world.id_of("P/new") == world.server()["P/l"].id
    assert {} == world.states()


def test_symlink_when_its_target_is_removed_unsent_does_not_wait_for_it(world: World):
    """Nobody would wake it."""
    target = world.write("P/new", b"n")
    link = world.symlink("P/l", "new")
    world.step()
    assert world.locals.get(link.id).not_before_ns > world.overlay.now_ns() + 10 * NS
    world.remove("P/new")
    assert world.locals.find(target.id) is None
    began = world.clock.monotonic()
    world.settle()

    assert {} == world.states()
    assert world.clock.monotonic() - began < LONG_WAIT_S / 2
    assert "P/l" not in world.server()


def test_strange_names_are_escaped_and_come_back(world: World):
    """Bytes that the service refuses."""
    world.write("P/naïve=1.txt", b"n")
    world.settle()
    world.list_all()

    assert b"n" == world.server()["P/na(xC3)(xAF)ve(x3D)1.txt"]
    assert b"n" == world.view()["P/naïve=1.txt"]


def test_annotations_are_merged_with_theirs(world: World, remote: FakeRemote):
    """Ours are set or removed, others' stay."""
    entity = world.id_of("P/a.txt")
    remote.annotate(entity, theirs="t", old="o")
    world.overlay.annotate(world.seen("P/a.txt"), "mine", ("STRING", ("m",)))
    world.overlay.annotate(world.seen("P/a.txt"), "old", None)
    world.settle()

    assert {"theirs": ("STRING", ("t",)), "mine": ("STRING", ("m",))} == (
        remote._nodes[entity].current.annotations
    )
    assert {} == world.states()


def test_refused_row_is_blocked_until_asked(world: World, remote: FakeRemote):
    """Trying again by itself would not help."""
    remote.fail(Forbidden("no"), call="create")
    world.write("P/n", b"n")
    world.settle()
    assert {"P/n": "blocked"} == world.states()

    world.pusher.retry_blocked()
    world.settle()
    assert b"n" == world.server()["P/n"]


@pytest.mark.parametrize(
    "error", [QuotaExceeded("full"), RemoteUnavailable("503"), ProtocolError("what?")]
)
def test_failure_is_tried_again_by_itself(world: World, remote: FakeRemote, error):
    """After a while, with what happened told meanwhile."""
    remote.fail(error, call="upload", times=2)
    world.write("P/n", b"n")
    world.clock.advance(3)
    world.step()
    row = world.locals.unsent()[0]
    assert (1, "waiting") == (row.tries, row.state)
    assert error.message in str(row.problem)

    world.settle()
    assert (b"n", {}) == (world.server()["P/n"], world.states())


@pytest.mark.parametrize("error", [Offline("off"), NotLoggedIn("who?")])
def test_no_service_stops_all_but_a_probe(worlds, remote: FakeRemote, error):
    """One question at a time instead of all rows; then all goes on."""
    remote.tree(None, {"P": {}})
    world = worlds(uploads_at_once=4, login_wait_s=0.002)
    world.list_all()
    for n in range(50):
        world.write(f"P/{n}", b"%d" % n)
    world.clock.advance(3)
    remote.fail(error, times=12)
    world.step()
    assert error is world.pusher.problem or type(error) is type(world.pusher.problem)
    assert remote.calls["upload"] <= 4

    world.settle()
    assert 50 == sum(1 for path in world.server() if path.startswith("P/"))
    assert (None, 0) == (world.pusher.problem, world.pusher.offline_since_ns)


def test_pause_sends_nothing_until_resumed(world: World, remote: FakeRemote):
    """By the user."""
    world.pusher.pause()
    world.write("P/n", b"n")
    world.clock.advance(10)
    world.step()
    assert {} == remote.calls

    world.pusher.resume()
    world.settle()
    assert b"n" == world.server()["P/n"]


def test_drain_begins_nothing_during_a_pause(world: World, remote: FakeRemote):
    """Stopping the daemon is no `resume`."""
    world.pusher.pause()
    world.write("P/n", b"n")
    assert not world.run(world.pusher.drain(1.0))
    world.step()

    assert {} == remote.calls


def test_push_now_sends_during_a_pause(world: World, remote: FakeRemote):
    """What was asked for, with the folders that it needs; nothing else."""
    world.pusher.pause()
    world.write("P/other", b"o")
    world.mkdir("P/n")
    row = world.write("P/n/f", b"f")
    world.pusher.push_now([row.id])
    world.settle(10)

    assert b"f" == world.server()["P/n/f"]
    assert ("P/other" not in world.server(), {"P/other": "waiting"}) == (True, world.states())


def test_open_file_is_sent_once_it_is_quiet(world: World, remote: FakeRemote):
    """Somebody may write on."""
    row = world.write("P/n", b"n")
    world.files.open_for_writing.add(row.id)
    world.clock.advance(3)
    world.step()
    assert {} == remote.calls

    world.files.quiet = 31.0
    world.settle()
    assert b"n" == world.server()["P/n"]


def test_bytes_that_change_while_they_are_sent_are_sent_again(world: World, remote: FakeRemote):
    """The handle of the torn upload is thrown away."""
    row = world.write("P/n", b"one")
    path = world.staging.path(row.staged)

    async def upload_then_change(content, parent, **kwargs):
        made = await original(content, parent, **kwargs)
        if path.read_bytes() == b"one":
            path.write_bytes(b"other")
        return made

    original = remote.upload
    world.through.upload = upload_then_change
    world.settle()

    assert b"other" == world.server()["P/n"]
    assert 1 == remote.calls["create"]


def test_every_save_is_a_version_when_asked_for(worlds, remote: FakeRemote):
    """In order, before the final state."""
    remote.tree(None, {"P": {"a": b"0"}})
    world = worlds(every_save=True)
    world.list_all()
    for n in (1, 2, 3):
        row = world.write("P/a", b"save %d" % n)
        with world.overlay.change() as tx:
            staged = world.locals.next_number(tx)
            world.put(staged, b"save %d" % n)
            tx.execute("INSERT INTO save VALUES (?, ?, ?)", (row.id, row.edit, staged))
    world.settle()

    node = remote._nodes[world.id_of("P/a")]
    assert [b"0", b"save 1", b"save 2", b"save 3"] == [
        remote.content(r.handle) for r in node.revisions
    ]
    assert [] == world.store.read.execute("SELECT * FROM save").fetchall()


def test_drain_sends_at_once(world: World):
    """Without delays, until nothing waits."""
    world.write("P/n", b"n")

    async def work() -> bool:
        pushing = world.loop.create_task(world.pusher.run())
        try:
            return await world.pusher.drain(10.0)
        finally:
            pushing.cancel()

    assert world.run(work())
    assert b"n" == world.server()["P/n"]


def test_comment_and_label_when_the_file_is_new_are_those_of_its_first_version(world: World):
    """As they are those of the next one later; either goes with one version only."""
    row = world.write("P/n", b"one")
    world.overlay.set_comment(row.id, "first", "raw")
    world.settle()
    made = world.run(world.remote.entity(world.id_of("P/n")))
    world.write("P/n", b"two")
    world.settle()
    later = world.run(world.remote.entity(made.id))

    assert ("first", "raw") == (made.version_comment, made.version_label)
    assert ("", "2") == (later.version_comment, later.version_label)
