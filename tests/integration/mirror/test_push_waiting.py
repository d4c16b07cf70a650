"""Who waits for whom, and for how long: nobody for what is over, nor for what a former process knew."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from synd.client.remote import Outgoing
from synd.clock import NS
from synd.ids import EntityId, FileHandleId
from synd.mirror.steps import LONG_WAIT_S
from synd.testing import FakeRemote
from tests.support.pushing import World


def test_names_when_exchanged_at_the_same_moment_wait_for_nothing(
    worlds: Callable[..., World], remote: FakeRemote
) -> None:
    """Both make way for each other under passing names; then both names are free."""
    remote.tree(None, {"P": {"a": b"a", "b": b"b"}})
    world = worlds(uploads_at_once=8)
    world.list_all()
    for old, new in (("P/a", "P/t"), ("P/b", "P/a"), ("P/t", "P/b")):
        world.rename(old, new)
    began = world.clock.monotonic()
    world.settle()

    assert {"P": None, "P/a": b"b", "P/b": b"a"} == world.server()
    assert world.clock.monotonic() - began < LONG_WAIT_S


def test_start_when_a_row_waits_longer_than_for_more_changes_tries_it_at_once(
    worlds: Callable[..., World], remote: FakeRemote
) -> None:
    """Whoever was to wake it is gone; what may still be changed waits as it did."""
    remote.tree(None, {"P": {"a": b"a", "b": b"b"}})
    first = worlds()
    first.list_all()
    waiting, fresh = first.write("P/a", b"2").id, first.write("P/b", b"2").id
    now = first.overlay.now_ns()
    with first.overlay.change() as tx:
        first.locals.update(tx, waiting, not_before_ns=now + round(LONG_WAIT_S * NS))
    first.close()
    second = worlds()

    assert second.locals.get(waiting).not_before_ns <= second.overlay.now_ns()
    assert now < second.locals.get(fresh).not_before_ns <= now + 2 * NS


class InPieces:
    """A service that takes an upload in three pieces."""

    def __init__(self, remote: FakeRemote) -> None:
        self._remote = remote
        self.seen: list[int] = []
        self.world: World | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._remote, name)

    async def upload(
        self, content: Outgoing, parent: EntityId, *, progress: Callable[[int], object], **more: Any
    ) -> FileHandleId:
        assert self.world is not None
        for piece in (2, 3, content.size - 5):
            progress(piece)
            (told,) = self.world.pusher.sending()
            assert content.size == told.total_bytes
            self.seen.append(told.sent_bytes)
        return await self._remote.upload(content, parent, **more)


def test_progress_of_an_upload_in_pieces_sums_them_up(tmp_path: Path, remote: FakeRemote) -> None:
    """What `synd status` tells is how much is there, not how large the last part was."""
    remote.tree(None, {"P": {}})
    service = InPieces(remote)
    service.world = world = World(tmp_path, remote, through=service)  # type: ignore[arg-type]
    try:
        world.list_all()
        world.write("P/large", b"0123456789")
        world.settle()

        assert [2, 5, 10] == service.seen
    finally:
        world.close()
