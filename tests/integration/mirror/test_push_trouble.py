"""Every failure at every call, and a kill at every point: in the end the service has what was wanted, once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synd.errors import (
    Forbidden,
    NotLoggedIn,
    Offline,
    ProtocolError,
    QuotaExceeded,
    RateLimited,
    RemoteUnavailable,
    Stale,
    SyndError,
)
from synd.mirror import checkpoints
from synd.testing import FakeRemote
from tests.support.pushing import World

CHANGES = frozenset({"upload", "create", "update", "delete"})


class Troubled:
    """A service whose n-th call goes wrong: fails before it is carried out, or loses its answer."""

    def __init__(self, remote: FakeRemote) -> None:
        self._remote = remote
        self.calls: list[str] = []
        self.at = -1
        self.error: SyndError | None = None
        self.lose = False

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._remote, name)
        if not asyncio.iscoroutinefunction(found):
            return found

        async def call(*args: Any, **kwargs: Any) -> Any:
            number = len(self.calls)
            self.calls.append(name)
            wrong = number == self.at
            if wrong and (not self.lose or name not in CHANGES):
                raise self.error or RemoteUnavailable("no answer")
            result = await found(*args, **kwargs)
            if wrong:
                raise self.error or RemoteUnavailable("the answer was lost")
            return result

        return call


def scene(remote: FakeRemote) -> None:
    remote.tree(
        None,
        {
            "P": {
                "a": b"a", "b": b"b", "c": b"c", "m": b"m",
                "gone": {"x": b"x", "y": b"y"}, "e": {}, "del": b"del", "mix": {"k": b"k"},
            },
        },
    )  # fmt: skip


def changes(world: World) -> None:
    """Every kind of change."""
    world.write("P/new", b"new")
    world.mkdir("P/n")
    world.mkdir("P/n/m")
    world.write("P/n/m/f", b"deep")
    world.write("P/a", b"a2")
    world.rename("P/a", "P/e/a2")
    world.rename("P/b", "P/c", flags=2)
    world.remove("P/del")
    for path in ("P/gone/x", "P/gone/y", "P/gone"):
        world.remove(path)
    world.symlink("P/l", "m")
    world.overlay.annotate(world.seen("P/m"), "k", ("STRING", ("v",)))


WANTED = {
    "P": None, "P/new": b"new", "P/n": None, "P/n/m": None, "P/n/m/f": b"deep", "P/e": None,
    "P/e/a2": b"a2", "P/b": b"c", "P/c": b"b", "P/m": b"m", "P/mix": None, "P/mix/k": b"k",
}  # fmt: skip


def check(world: World, remote: FakeRemote) -> None:
    """What was wanted is there, once, and nothing else; nobody was told of a conflict."""
    server = world.server()
    link = server.pop("P/l")
    assert world.id_of("P/m") == link.id  # type: ignore[attr-defined]
    assert WANTED == server
    assert {} == world.states()
    assert [] == world.conflicts.list(all=True)
    versions = {
        path: len(remote._nodes[world.id_of(path)].revisions)
        for path, content in server.items() if content is not None
    }  # fmt: skip
    assert {
        "P/new": 1,
        "P/n/m/f": 1,
        "P/e/a2": 2,
        "P/b": 1,
        "P/c": 1,
        "P/m": 1,
        "P/mix/k": 1,
    } == versions
    assert {"k": ("STRING", ("v",))} == remote._nodes[world.id_of("P/m")].current.annotations
    view = world.view()
    view.pop("P/l")
    assert WANTED == view
    for row in world.locals.all():
        assert not row.gone, row
    world.list_all()
    again = world.view()
    again.pop("P/l")
    assert WANTED == again


ERRORS = [
    RemoteUnavailable("503"), Offline("off"), RateLimited("slow down"), ProtocolError("what?"),
    Stale("moved on"), QuotaExceeded("full"), NotLoggedIn("who?"), Forbidden("no"),
]  # fmt: skip


def one_run(root: Path, at: int, *, error: SyndError | None, lose: bool) -> int:
    """Runs the whole scene with trouble at one call; how many calls there were."""
    remote = FakeRemote()
    scene(remote)
    troubled = Troubled(remote)
    world = World(root, remote, through=troubled, login_wait_s=0.002, uploads_at_once=3)  # type: ignore[arg-type]
    try:
        world.list_all()
        changes(world)
        troubled.calls.clear()
        troubled.at, troubled.error, troubled.lose = at, error, lose
        world.settle(60 if isinstance(error, Forbidden) else None)
        count = len(troubled.calls)
        if isinstance(error, Forbidden):
            world.pusher.retry_blocked()
            world.settle()
        check(world, remote)
        return count
    finally:
        world.close()


@pytest.fixture(scope="module")
def call_count(tmp_path_factory: pytest.TempPathFactory) -> int:
    return one_run(tmp_path_factory.mktemp("count"), -1, error=None, lose=False)


@pytest.mark.parametrize("lose", [False, True], ids=["fails", "answer lost"])
def test_trouble_at_any_call_ends_as_wanted(tmp_path, call_count, lose):
    """Each call in turn is not carried out, or is and nobody hears of it."""
    assert call_count > 20
    for at in range(call_count):
        one_run(tmp_path / str(at), at, error=None, lose=lose)


@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_every_error_at_any_call_ends_as_wanted(tmp_path, call_count, error):
    """Whether it waits, is blocked until asked, or stops all for a while."""
    for at in range(call_count):
        one_run(tmp_path / str(at), at, error=error, lose=False)


def killed_run(root: Path, at: int) -> int:
    """The scene, with everything stopped dead at the n-th point passed, then a new start on the same
    disk; how many points there were.
    """
    remote = FakeRemote()
    scene(remote)
    world = World(root, remote, uploads_at_once=1)
    world.list_all()
    changes(world)
    count, killed = 0, False

    def listen(name: str) -> None:
        # Some points are passed in other threads. The journal's are not one row's: it just stands still.
        nonlocal count, killed
        count += 1
        if count == at:
            killed = True
            world.loop.call_soon_threadsafe(dead.set)
        if count >= at > 0 and not name.startswith("journal."):
            raise asyncio.CancelledError

    async def in_writer(work: Any) -> Any:
        if killed:
            await world.loop.create_future()
        return await original(work)

    async def until_dead() -> None:
        while world.locals.unsent(1) and not dead.is_set():
            await world.pusher.step()
            waiting = [*world.pusher._tasks.values(), world.loop.create_task(dead.wait())]
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            waiting[-1].cancel()
            if not world.pusher._tasks:
                world.clock.advance(1.0)

    dead = asyncio.Event()
    original = world.tree.in_writer
    world.tree.in_writer = in_writer  # type: ignore[method-assign]
    checkpoints.listener = listen
    try:
        world.run(until_dead())
    finally:
        checkpoints.listener = None
    world.abandon()
    again = World(root, remote)
    try:
        again.list_all()
        again.settle()
        check(again, remote)
    finally:
        again.close()
    return count


def test_kill_at_any_point_ends_as_wanted(tmp_path):
    """Started anew on the same disk, the rest is sent and nothing twice."""
    count = killed_run(tmp_path / "count", 0)
    assert count > 40
    for at in range(1, count + 1):
        killed_run(tmp_path / str(at), at)


def test_restart_takes_up_what_waits(worlds: Callable[..., World], remote: FakeRemote):
    """Rows are all there is; a new pusher finds them."""
    scene(remote)
    first = worlds()
    first.list_all()
    changes(first)
    first.close()
    second = worlds()
    second.settle()

    check(second, remote)
