"""What the user does to a file while it is just being sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from synd.errors import RemoteUnavailable
from synd.mirror.plan import Mode
from synd.testing import FakeRemote
from tests.support.mounts import eventually
from tests.support.pushing import World


@pytest.fixture
def world(worlds: Callable[..., World], remote: FakeRemote) -> World:
    remote.tree(None, {"P": {"a": b"a", "d": {"x": b"x"}, "e": {}}})
    made = worlds()
    made.list_all()
    return made


def during(world: World, call: str, act: Callable[[], Any], *, after: bool = False) -> None:
    """Lets everything be sent; `act` happens once while the first such call is under way."""
    original = getattr(world.remote, call)
    done = False

    async def calling(*args: Any, **kwargs: Any) -> Any:
        nonlocal done
        first, done = not done, True
        if first and not after:
            await asyncio.to_thread(act)
        result = await original(*args, **kwargs)
        if first and after:
            await asyncio.to_thread(act)
        return result

    setattr(world.through, call, calling)
    world.settle()


WHEN = pytest.mark.parametrize(
    "after", [False, True], ids=["before it is done", "after it is done"]
)
NEW = pytest.mark.parametrize("call", ["upload", "create"])
OLD = pytest.mark.parametrize("call", ["upload", "entity", "update"])


def check(world: World) -> None:
    assert [] == world.conflicts.list(all=True)
    assert {} == world.states()
    assert world.server() == world.view()
    assert [] == [row for row in world.locals.all() if row.gone]


@WHEN
@NEW
def test_new_file_saved_again_while_it_is_sent_is_saved_again(world, call, after):
    """The later bytes win, as a version of the same entity."""
    world.write("P/n", b"one")
    during(world, call, lambda: world.write("P/n", b"two"), after=after)

    assert b"two" == world.server()["P/n"]
    check(world)


@WHEN
@NEW
def test_new_file_renamed_while_it_is_sent_is_there_once(world, call, after):
    """Under its last name."""
    world.write("P/n", b"one")
    during(world, call, lambda: world.rename("P/n", "P/e/m"), after=after)

    assert (b"one", False) == (world.server()["P/e/m"], "P/n" in world.server())
    check(world)


@WHEN
@NEW
def test_new_file_removed_while_it_is_sent_is_removed_there(world, call, after):
    """Nothing of it is left."""
    world.write("P/n", b"one")
    during(world, call, lambda: world.remove("P/n"), after=after)

    assert "P/n" not in world.server()
    check(world)


@WHEN
@NEW
def test_new_file_replaced_while_it_is_sent_is_one_entity(world, call, after):
    """Another new file was renamed over it: that is its next version."""
    world.write("P/n", b"one")
    world.write("P/.tmp", b"two")
    with world.overlay.change() as tx:
        tx.execute(
            "UPDATE local SET not_before_ns = not_before_ns + 5000000000 WHERE name = ?", (b".tmp",)
        )
    during(world, call, lambda: world.rename("P/.tmp", "P/n"), after=after)

    assert (b"two", False) == (world.server()["P/n"], "P/.tmp" in world.server())
    check(world)


@WHEN
@NEW
def test_new_file_removed_and_made_again_while_it_is_sent_is_there_once(world, call, after):
    """Under one name there is one entity."""

    def again() -> None:
        world.remove("P/n")
        world.write("P/n", b"two")

    world.write("P/n", b"one")
    during(world, call, again, after=after)

    assert b"two" == world.server()["P/n"]
    check(world)


@WHEN
@NEW
@pytest.mark.parametrize("moved", [False, True], ids=["stays", "moves on"])
@pytest.mark.parametrize("backup", [False, True], ids=["backup is removed", "backup is kept"])
def test_new_file_put_aside_by_an_editor_while_it_is_sent_is_there_once(
    world, call, after, backup, moved
):
    """Its successor is what the service has; what was put aside under a name that stays here is not there."""

    def save() -> None:
        world.rename("P/n", "P/n~")
        world.write("P/n", b"two")
        if moved:
            world.rename("P/n", "P/e/m")
        if not backup:
            world.remove("P/n~")

    world.write("P/n", b"one")
    during(world, call, save, after=after)

    kept = {"P/n~": b"one"} if backup else {}
    wanted = {("P/e/m" if moved else "P/n"): b"two"}
    before = {"P": None, "P/a": b"a", "P/d": None, "P/d/x": b"x", "P/e": None}
    assert before | wanted == world.server()
    assert before | wanted | kept == world.view()
    assert [] == world.conflicts.list(all=True)
    assert [] == [row for row in world.locals.all() if row.gone]


@WHEN
@OLD
def test_edit_saved_again_while_it_is_sent_is_the_last_version(world, call, after):
    """No conflict with ourselves."""
    world.write("P/a", b"one")
    during(world, call, lambda: world.write("P/a", b"two"), after=after)

    assert b"two" == world.server()["P/a"]
    check(world)


@WHEN
@OLD
def test_edit_moved_while_it_is_sent_arrives_there(world, call, after):
    """One entity, at its last place."""
    entity = world.id_of("P/a")
    world.write("P/a", b"one")
    during(world, call, lambda: world.rename("P/a", "P/e/z"), after=after)

    assert (b"one", entity) == (world.server()["P/e/z"], world.id_of("P/e/z"))
    check(world)


@WHEN
@OLD
def test_edit_removed_while_it_is_sent_is_removed_there(world, call, after):
    """What we have made of it meanwhile is no change of somebody else."""
    world.write("P/a", b"one")
    during(world, call, lambda: world.remove("P/a"), after=after)

    assert "P/a" not in world.server()
    check(world)


@WHEN
@OLD
def test_edit_replaced_while_it_is_sent_keeps_the_entity(world, call, after):
    """An editor's atomic save meets the one before."""
    entity = world.id_of("P/a")
    world.write("P/a", b"one")

    def save() -> None:
        world.write("P/.tmp", b"two")
        world.rename("P/.tmp", "P/a")

    during(world, call, save, after=after)

    assert (b"two", entity) == (world.server()["P/a"], world.id_of("P/a"))
    check(world)


@WHEN
def test_folder_renamed_while_it_is_made_is_there_once(world, after):
    """With what it holds."""
    world.mkdir("P/n")
    world.write("P/n/f", b"f")
    during(world, "create", lambda: world.rename("P/n", "P/m"), after=after)

    assert (b"f", False) == (world.server()["P/m/f"], "P/n" in world.server())
    check(world)


@WHEN
def test_delete_undone_by_a_new_file_while_it_is_sent(world, after):
    """The name is there in the end, with the new bytes."""
    world.remove("P/a")
    world.clock.advance(6)
    during(world, "delete", lambda: world.write("P/a", b"new"), after=after)

    assert b"new" == world.server()["P/a"]
    check(world)


@pytest.mark.parametrize("after", [False, True], ids=["not made", "answer lost"])
def test_rename_after_a_create_without_answer_is_there_once(world, remote, after):
    """The first attempt is looked for before another is made."""
    world.write("P/n", b"one")
    world.clock.advance(3)
    if after:
        remote.lose("create")
    else:
        remote.fail(RemoteUnavailable("503"), call="create")
    world.step()
    world.rename("P/n", "P/m")
    world.settle()

    assert (b"one", False) == (world.server()["P/m"], "P/n" in world.server())
    check(world)


def test_save_after_an_update_without_answer_is_no_conflict(world, remote):
    """The version there is ours."""
    world.write("P/a", b"one")
    world.clock.advance(3)
    remote.lose("update")
    world.step()
    world.write("P/a", b"two")
    world.settle()

    assert b"two" == world.server()["P/a"]
    check(world)


def test_save_after_a_create_without_answer_is_no_conflict(world, remote):
    """What is there under the name is ours."""
    world.write("P/n", b"one")
    world.clock.advance(3)
    remote.lose("create")
    world.step()
    world.write("P/n", b"two")
    world.settle()

    assert b"two" == world.server()["P/n"]
    check(world)


def test_folder_removed_on_both_sides_comes_back_for_an_edit_that_others_moved_into_it(
    world, remote
):
    """It was made here; what is edited lay in it when they removed it. All of that is made anew."""
    world.mkdir("P/n")
    world.settle()
    world.write("P/d/x", b"edited")
    world.remove("P/n")
    remote.move(world.id_of("P/d"), world.id_of("P/n"))
    world.list_all()
    remote.trash(world.id_of("P/n"))
    world.settle()

    assert {} == world.states()
    assert b"edited" == world.server()["P/n/d/x"]
    assert world.server() == world.view()


def test_folder_removed_here_and_filled_by_others_shows_what_is_in_it(world, remote):
    """It was made here, and we have a row for what they moved into it: both show again."""
    world.mkdir("P/n")
    world.settle()
    world.overlay.set_attributes(world.seen("P/d"), mode=0o700)
    world.remove("P/n")
    remote.move(world.id_of("P/d"), world.id_of("P/n"))
    world.list_all()
    world.overlay.follow(world.id_of("P/n/d"), gone=False)
    world.settle()
    world.list_all()

    assert {} == world.states()
    assert b"x" == world.server()["P/n/d/x"]
    assert world.server() == world.view()


def test_emptied_file_follows_a_rename_once_its_new_name_is_free(world, remote):
    """Others gave it the name of a file that was just made here, and is sent under another then."""
    a = world.id_of("P/a")
    world.write("P/a", b"")
    world.settle()
    world.write("P/n", b"ours")
    remote.rename(a, "n")
    world.list_all()
    world.overlay.follow(a, gone=False)
    world.settle()

    assert ({"P/n": "blocked"}, b"") == (world.states(), world.view()["P/n"])
    assert "P/a" not in world.view()
    assert b"ours" in world.server().values()
    assert {(world.id_of("P"), name) for name in (b"a", b"n")} <= set(world.names)


@pytest.mark.parametrize("mode", list(Mode), ids=str)
@pytest.mark.parametrize("asked", ["find_child", "entity"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_new_name_of_what_is_just_moving_away_is_no_conflict(worlds, remote, kind, asked, mode):
    """Whoever asks who has a name before the move arrives hears only after it that nobody has it any more."""
    remote.tree(None, {"P": {"a": b"a", "d": {"x": b"x"}, "e": {}}})
    world = worlds(conflicts=mode)
    world.list_all()
    old = {"file": "P/a", "folder": "P/d"}[kind]
    world.rename(old, "P/e/moved")
    row = world.seen("P/e/moved").row
    _ = world.mkdir(old) if kind == "folder" else world.write(old, b"another")
    update, ask = remote.update, getattr(remote, asked)
    held = asyncio.Event()
    answers = 0

    async def updating(told: Any, **how: Any) -> Any:
        if told.id == row.id:
            await held.wait()
        return await update(told, **how)

    async def asking(*what: Any, **how: Any) -> Any:
        nonlocal answers
        answer = await ask(*what, **how)
        # The move itself asks for the entity once, before it begins.
        answers += row.id in (answer, getattr(answer, "id", None))
        if not held.is_set() and answers == {"find_child": 1, "entity": 2}[asked]:
            held.set()
            await asyncio.to_thread(eventually, has_arrived)
        return answer

    def has_arrived() -> bool:
        return not any(local.entity == row.id for local in world.locals.unsent())

    world.through.update = updating
    setattr(world.through, asked, asking)
    world.settle()

    assert held.is_set()
    assert {old, "P/e/moved"} <= set(world.server())
    check(world)
