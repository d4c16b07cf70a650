"""The fakes themselves, where the contract of `Remote` says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from synd.client.remote import Remote
from synd.client.transfer import Downloader, Interrupted, UrlExpired
from synd.clock import NS, Deadline
from synd.errors import Exists, Forbidden, NotFound, Offline, Stale
from synd.model import Access, FileRef
from synd.testing import FakeClock, FakeRemote, FakeStorage


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def test_clock_when_advanced_moves_both_times() -> None:
    """The wall and the monotonic clock go together."""
    clock = FakeClock()
    wall, steady = clock.now_ns(), clock.monotonic()
    deadline = Deadline.after(5, "x", clock)
    clock.advance(5)

    assert (clock.now_ns() - wall, clock.monotonic() - steady) == (5 * NS, 5.0)
    assert deadline.passed


def test_fake_when_made_meets_the_protocol() -> None:
    """For the type checker as much as for the reader."""
    remote: Remote = FakeRemote()
    assert remote is not None


def test_tree_when_built_is_there_by_path() -> None:
    """Many entities in one line."""

    async def work() -> None:
        remote = FakeRemote()
        ids = remote.tree(None, {"P": {"d": {"a": b"1"}, "b": b"22"}})
        page = await remote.children(ids["P"], counts=True)

        assert {"P", "P/d", "P/d/a", "P/b"} == set(ids)
        assert (page.total, page.sum_bytes) == (2, 2)
        assert remote.calls == {"children": 1}
        with pytest.raises(Exists):
            remote.folder(ids["P"], "b")

    run(work())


def test_trouble_when_ordered_comes_once() -> None:
    """Failures by call, and the network switched off."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        remote.fail(Stale("moved"), call="entity")
        await remote.children(project)
        with pytest.raises(Stale):
            await remote.entity(project)
        await remote.entity(project)
        remote.offline = True
        with pytest.raises(Offline):
            await remote.entity(project)

        assert remote.calls["entity"] == 3

    run(work())


def test_call_when_held_waits_until_let_go() -> None:
    """Tests look at what happens meanwhile, without sleeping."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        with remote.hold("entity") as gate:
            call = asyncio.create_task(remote.entity(project))
            await remote.children(project)
            assert not call.done()
            gate.set()
            assert (await call).id == project

    run(work())


def test_access_when_taken_shows_in_every_call() -> None:
    """Unseen in listings, forbidden by id, without URLs where downloading is not allowed."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        hidden, kept = remote.file(project, "hidden"), remote.file(project, "kept")
        remote.permit(hidden, Access(can_view=False))
        remote.permit(kept, Access(can_download=False))
        handle = remote.handle_of(kept)

        assert [kept] == [h.id for h in (await remote.children(project)).headers]
        with pytest.raises(Forbidden):
            await remote.entity(hidden)
        entity = await remote.entity(kept)
        assert entity.file is None
        assert not entity.access.can_download
        (got,) = await remote.presign([FileRef(handle, kept)])
        assert got.failure == "UNAUTHORIZED"

    run(work())


def test_trash_when_emptied_out_again_restores_all_below() -> None:
    """Ids and versions survive the trash can."""

    async def work() -> None:
        remote = FakeRemote()
        ids = remote.tree(None, {"P": {"d": {"a": b"1"}}})
        remote.trash(ids["P/d"])
        with pytest.raises(NotFound):
            await remote.entity(ids["P/d/a"])
        remote.untrash(ids["P/d"])

        assert (await remote.entity(ids["P/d/a"])).name == "a"

    run(work())


def test_view_when_lagging_shows_the_past() -> None:
    """Views are eventually consistent there, so tests must meet that."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        view = remote.view(project, "v", [project])

        async def names() -> list[str]:
            return [row.name async for rows in remote.view_rows(view) for row in rows]

        remote.views_lag = True
        before = await names()
        remote.file(project, "new")
        assert before == await names()
        remote.views_lag = False
        assert await names() == ["new"]

    run(work())


def test_storage_when_asked_serves_what_was_presigned() -> None:
    """URLs lead somewhere, end with their time, and break off when told to."""
    remote = FakeRemote()
    project = remote.project("P")
    file = remote.file(project, "a", b"0123456789" * 100)
    ref = FileRef(remote.handle_of(file), file)

    def url() -> str:
        (got,) = asyncio.run(remote.presign([ref]))
        assert got.url is not None
        return got.url

    with FakeStorage(remote) as storage, Downloader() as downloader:
        got = bytearray()

        def fetch(start: int, end: int) -> None:
            downloader.fetch_range(
                live,
                start,
                end,
                lambda _, piece: got.extend(piece),
                deadline=Deadline.after(10, "x"),
            )

        live = url()
        fetch(5, 15)
        assert got == b"5678901234"
        storage.drop_after = 7
        with pytest.raises(Interrupted) as caught:
            fetch(0, 1000)
        assert caught.value.received == 7
        remote.clock.advance(31)
        with pytest.raises(UrlExpired):
            fetch(0, 10)
        live = url()
        storage.ignore_ranges = True
        got.clear()
        fetch(2, 4)

        assert got == b"23"
        assert storage.requests[0] == (ref.handle, "bytes=5-14")
        assert not storage.saw_authorization
