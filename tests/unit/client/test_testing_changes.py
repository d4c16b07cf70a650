"""The fake service's changes, where the contract of `Remote` says nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from synd.client.remote import Outgoing
from synd.digest import md5_of_bytes
from synd.errors import Exists, Forbidden, Offline, QuotaExceeded, RemoteUnavailable
from synd.ids import EntityId, FileHandleId, Version
from synd.model import Access, FileVersion, Kind
from synd.testing import FakeRemote


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


def outgoing(folder: Path, content: bytes) -> Outgoing:
    path = folder / "out"
    path.write_bytes(content)
    return Outgoing(path, len(content), md5_of_bytes(content), "a")


def file_of(what: Outgoing, handle: FileHandleId) -> FileVersion:
    return FileVersion(EntityId(0), Version(1), handle, what.md5, what.size, what.name)


def test_answer_when_lost_leaves_the_change(tmp_path: Path) -> None:
    """So that a test can look at what a second try does."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        what = outgoing(tmp_path, b"x")
        for call in ("upload", "create", "update", "delete", "restore"):
            remote.lose(call)
        with pytest.raises(RemoteUnavailable):
            await remote.upload(what, project)
        handle = await remote.upload(what, project)
        with pytest.raises(RemoteUnavailable):
            await remote.create(Kind.FILE, project, "a", file=file_of(what, handle))
        with pytest.raises(Exists):
            await remote.create(Kind.FILE, project, "a", file=file_of(what, handle))
        found = await remote.find_child(project, "a")
        assert found is not None
        base = await remote.entity(found)
        with pytest.raises(RemoteUnavailable):
            await remote.update(base, name="b")
        assert (await remote.update(base, name="b")).etag != base.etag
        with pytest.raises(RemoteUnavailable):
            await remote.delete(found)
        await remote.delete(found)
        with pytest.raises(RemoteUnavailable):
            await remote.restore(found)
        await remote.restore(found)

        assert (await remote.entity(found)).name == "b"
        assert remote.content(handle) == b"x"
        assert {call: remote.calls[call] for call in ("upload", "create", "update", "delete")} == {
            "upload": 2,
            "create": 2,
            "update": 2,
            "delete": 2,
        }

    run(work())


def test_trouble_when_ordered_comes_before_the_change(tmp_path: Path) -> None:
    """Failures by call, the network switched off, and changes held."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        remote.fail(QuotaExceeded("full"), call="upload")
        with pytest.raises(QuotaExceeded):
            await remote.upload(outgoing(tmp_path, b"x"), project)
        remote.offline = True
        with pytest.raises(Offline):
            await remote.create(Kind.FOLDER, project, "d")
        remote.offline = False
        with remote.hold("create") as gate:
            call = asyncio.create_task(remote.create(Kind.FOLDER, project, "d"))
            assert await remote.find_child(project, "d") is None
            gate.set()
            await call

        assert await remote.find_child(project, "d") == (await call).id

    run(work())


def test_access_when_taken_forbids_changes(tmp_path: Path) -> None:
    """Of the entity, and of what is in it."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        folder, file = remote.folder(project, "d"), remote.file(project, "f")
        remote.permit(folder, Access(can_add_child=False))
        remote.permit(file, Access(can_edit=False))
        seen = await remote.entity(file)
        with pytest.raises(Forbidden):
            await remote.upload(outgoing(tmp_path, b"x"), folder)
        with pytest.raises(Forbidden):
            await remote.create(Kind.FOLDER, folder, "e")
        with pytest.raises(Forbidden):
            await remote.update(seen, name="g")
        with pytest.raises(Forbidden):
            await remote.delete(file)

        assert (await remote.entity(file)).etag == seen.etag

    run(work())


def test_changes_when_made_show_in_listings_and_views(tmp_path: Path) -> None:
    """As other people's do."""

    async def work() -> None:
        remote = FakeRemote()
        project = remote.project("P")
        view = remote.view(project, "v", [project])
        what = outgoing(tmp_path, b"hello")
        handle = await remote.upload(what, project)
        made = await remote.create(Kind.FILE, project, "a", file=file_of(what, handle))
        await remote.update(made, name="b")
        rows = [row async for batch in remote.view_rows(view) for row in batch]

        assert [("b", handle, what.md5, 5)] == [(r.name, r.handle, r.md5, r.size) for r in rows]
        assert {"b", "v"} == {h.name for h in (await remote.children(project)).headers}

    run(work())
