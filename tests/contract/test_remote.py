"""The promises of `synd.client.remote.Remote`, kept by the fake and by the real client alike."""

from __future__ import annotations

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from synd.client.credentials import Token, from_base
from synd.client.service import SynapseClient
from synd.clock import Deadline
from synd.errors import DeadlineExceeded, Exists, NotFound, NotLoggedIn, SyndError
from synd.ids import EntityId, FileHandleId, Version, entity_id, syn
from synd.model import FileRef, Kind, LinkTarget, Store
from tests.contract.worlds import Runner, ServiceWorld, World, names, unique
from tests.support.registry import Registry


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class TestEntity:
    """One bundle tells an entity."""

    def test_file_when_asked_for_has_its_bytes_told(self, world: Runner) -> None:
        """Name, parent, version, md5, size and file handle in one request."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            file = await w.file(project, "a.txt", b"hello")
            got = await w.remote.entity(file)

            assert (got.id, got.name, got.kind, got.parent) == (file, "a.txt", Kind.FILE, project)
            assert got.version == 1
            assert got.file is not None
            assert (got.file.md5, got.file.size, got.file.name) == (md5(b"hello"), 5, "a.txt")
            assert (got.file.entity, got.file.version, got.file.store) == (file, 1, Store.S3)
            assert got.file.handle
            assert got.etag
            assert got.modified_on_ns >= got.created_on_ns > 1_500_000_000 * 10**9
            assert got.access.can_download
            assert got.link is None

        world(work)

    def test_version_when_old_keeps_its_bytes(self, world: Runner) -> None:
        """Each version has its own md5; without a number the newest is meant."""

        async def work(w: World) -> None:
            file = await w.file(await w.project(unique()), "a", b"one")
            await w.new_version(file, b"two!")
            old, new = await w.remote.entity(file, Version(1)), await w.remote.entity(file)

            assert (old.version, new.version) == (1, 2)
            assert old.file is not None
            assert new.file is not None
            assert (old.file.md5, old.file.version) == (md5(b"one"), 1)
            assert (new.file.md5, new.file.size, new.file.version) == (md5(b"two!"), 4, 2)
            with pytest.raises(NotFound):
                await w.remote.entity(file, Version(9))

        world(work)

    def test_containers_when_asked_for_have_no_version(self, world: Runner) -> None:
        """Projects and folders are not versioned."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            folder = await w.remote.entity(await w.folder(project, "d"))
            got = await w.remote.entity(project)

            assert (got.kind, got.version, got.file) == (Kind.PROJECT, None, None)
            assert (folder.kind, folder.version, folder.parent) == (Kind.FOLDER, None, project)

        world(work)

    @pytest.mark.parametrize("version", [None, 1])
    def test_link_when_asked_for_has_its_target(self, world: Runner, version: int | None) -> None:
        """With the version it is bound to, or none."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            file = await w.file(project, "a", b"1")
            got = await w.remote.entity(await w.link(project, "l", file, version))

            assert got.kind is Kind.LINK
            assert got.link == LinkTarget(file, None if version is None else Version(version))

        world(work)

    def test_external_file_when_asked_for_has_its_url(self, world: Runner) -> None:
        """The service only remembers where it lies."""

        async def work(w: World) -> None:
            url = "https://example.org/data.csv"
            got = await w.remote.entity(await w.external(await w.project(unique()), "x", url))

            assert got.file is not None
            assert (got.file.store, got.file.external_url) == (Store.EXTERNAL, url)
            assert got.file.size is None

        world(work)

    def test_annotations_when_changed_change_the_etag_but_not_the_version(
        self, world: Runner
    ) -> None:
        """They come with the bundle, unless they are not wanted."""

        async def work(w: World) -> None:
            file = await w.file(await w.project(unique()), "a", b"1")
            before = await w.remote.entity(file)
            await w.annotate(file, "tissue", "blood")
            after = await w.remote.entity(file)

            assert after.annotations == {"tissue": ("STRING", ("blood",))}
            assert (await w.remote.entity(file, annotations=False)).annotations == {}
            assert after.version == before.version
            assert after.etag != before.etag
            assert after.modified_on_ns > before.modified_on_ns

        world(work)

    def test_permissions_when_asked_for_are_the_owners(self, world: Runner) -> None:
        """Who made a project may do anything with it."""

        async def work(w: World) -> None:
            got = await w.remote.entity(await w.project(unique()), permissions=True)

            assert got.access.can_edit
            assert got.access.can_add_child
            assert not got.access.unmet_terms

        world(work)

    def test_entity_when_trashed_is_not_found_with_all_below(self, world: Runner) -> None:
        """The trash can is out of sight."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            folder = await w.folder(project, "d")
            file = await w.file(folder, "a", b"1")
            await w.delete(folder)

            for gone in (folder, file):
                with pytest.raises(NotFound):
                    await w.remote.entity(gone)
            assert (await w.remote.children(project)).headers == ()
            assert await w.remote.find_child(project, "d") is None

        world(work)

    def test_entity_when_never_made_is_not_found(self, world: Runner) -> None:
        """The error names it."""

        async def work(w: World) -> None:
            with pytest.raises(NotFound) as caught:
                await w.remote.entity(EntityId(999_999_999))
            assert caught.value.entity == "syn999999999"

        world(work)

    def test_deadline_when_passed_is_told(self, world: Runner) -> None:
        """A spent budget is DeadlineExceeded, without an answer."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            with pytest.raises(DeadlineExceeded):
                await w.remote.entity(project, deadline=Deadline.after(-1, "the test"))

        world(work)


class TestChildren:
    """Listings: pages of 50, in order, complete."""

    def test_children_when_many_come_in_pages_of_50(self, world: Runner) -> None:
        """All of them, each once, in the order of their making."""

        async def work(w: World) -> None:
            folder = await w.folder(await w.project(unique()), "d")
            made = [await w.folder(folder, f"n{i:03d}") for i in range(120)]
            pages = []
            token: str | None = None
            while True:
                page = await w.remote.children(folder, token=token)
                pages.append(page)
                token = page.next_token
                if token is None:
                    break

            assert [len(p.headers) for p in pages] == [50, 50, 20]
            assert made == [h.id for p in pages for h in p.headers]
            first = pages[0].headers[0]
            assert (first.name, first.kind) == ("n000", Kind.FOLDER)
            assert first.modified_on_ns >= first.created_on_ns > 0

        world(work)

    @pytest.mark.parametrize(
        ("sort", "descending", "expected"),
        [
            ("NAME", False, ["a", "b", "c"]),
            ("NAME", True, ["c", "b", "a"]),
            ("CREATED_ON", False, ["b", "a", "c"]),
            ("MODIFIED_ON", True, ["b", "c", "a"]),
        ],
    )
    def test_children_when_sorted_come_in_that_order(
        self, world: Runner, sort: Any, descending: bool, expected: list[str]
    ) -> None:
        """A modified child rises to the top of the newest first."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            made = {n: await w.file(project, n, n.encode()) for n in ("b", "a", "c")}
            await w.annotate(made["b"], "k", "v")
            page = await w.remote.children(project, sort=sort, descending=descending)

            assert expected == names(page.headers)

        world(work)

    def test_children_when_counted_tell_number_and_bytes(self, world: Runner) -> None:
        """A poll of one request sees additions and removals."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            await w.file(project, "a", b"12345")
            gone = await w.file(project, "b", b"123")
            before = await w.remote.children(project, counts=True)
            await w.delete(gone)
            after = await w.remote.children(project, counts=True)

            assert (before.total, before.sum_bytes) == (2, 8)
            assert (after.total, after.sum_bytes) == (1, 5)
            assert (await w.remote.children(project)).total is None

        world(work)

    def test_projects_when_listed_hold_those_just_made(self, world: Runner) -> None:
        """With no parent, the projects that one may see."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            page = await w.remote.children(None, sort="CREATED_ON", descending=True)

            assert page.headers[0].id == project
            assert page.headers[0].kind is Kind.PROJECT

        world(work)

    def test_children_when_of_all_kinds_are_all_listed(self, world: Runner) -> None:
        """Links too, which the official client's listing leaves out."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            file = await w.file(project, "f", b"1")
            await w.folder(project, "d")
            await w.link(project, "l", file, None)
            await w.remote.create_view(project, "v", [project])
            page = await w.remote.children(project)

            assert {Kind.FILE, Kind.FOLDER, Kind.LINK, Kind.ENTITY_VIEW} == {
                h.kind for h in page.headers
            }

        world(work)

    def test_folder_when_missing_is_not_an_empty_one(self, world: Runner) -> None:
        """Absence is not emptiness."""

        async def work(w: World) -> None:
            with pytest.raises(NotFound):
                await w.remote.children(EntityId(999_999_999))

        world(work)

    def test_child_when_looked_up_is_found_by_exact_name(self, world: Runner) -> None:
        """Case counts; renaming moves the name."""

        async def work(w: World) -> None:
            name = unique()
            project = await w.project(name)
            file = await w.file(project, "A.txt", b"1")

            assert await w.remote.find_child(project, "A.txt") == file
            assert await w.remote.find_child(project, "a.txt") is None
            assert await w.remote.find_child(None, name) == project
            await w.rename(file, "b.txt")
            assert await w.remote.find_child(project, "A.txt") is None
            assert await w.remote.find_child(project, "b.txt") == file

        world(work)


class TestVersions:
    """Versions are listed newest first, in pages that end."""

    def test_versions_when_listed_tell_md5_and_size(self, world: Runner) -> None:
        """One request for all old contents."""

        async def work(w: World) -> None:
            file = await w.file(await w.project(unique()), "a", b"one")
            await w.new_version(file, b"three")
            rows = await w.remote.versions(file)

            assert [(2, 5, md5(b"three"), True), (1, 3, md5(b"one"), False)] == [
                (r.number, r.size, r.md5, r.is_latest) for r in rows
            ]
            assert rows[0].handle != rows[1].handle
            assert [r.number for r in await w.remote.versions(file, limit=1)] == [2]
            assert [r.number for r in await w.remote.versions(file, offset=1, limit=1)] == [1]
            assert await w.remote.versions(file, offset=2) == []

        world(work)


class TestHeadersAndPaths:
    """Many ids at once, and the way down to one."""

    def test_headers_when_asked_for_leave_out_what_is_gone(self, world: Runner) -> None:
        """More than a batch of 100; ids that vanished are absent, not an error."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            made = [await w.folder(project, f"n{i}") for i in range(105)]
            await w.delete(made[3])
            got = await w.remote.headers([*made, EntityId(999_999_999), made[0]])

            assert set(made) - {made[3]} == set(got)
            assert got[made[104]].name == "n104"
            assert await w.remote.headers([]) == {}

        world(work)

    def test_path_when_asked_for_goes_from_project_to_entity(self, world: Runner) -> None:
        """The service's own root is left out."""

        async def work(w: World) -> None:
            name = unique()
            project = await w.project(name)
            folder = await w.folder(project, "d")
            file = await w.file(folder, "f", b"1")

            assert await w.remote.path(file) == [(project, name), (folder, "d"), (file, "f")]
            assert await w.remote.path(project) == [(project, name)]

        world(work)


class TestPresign:
    """URLs to bytes, in the order asked for, each failure on its own."""

    def test_presign_when_some_fail_answers_each(self, world: Runner) -> None:
        """One handle of another entity, one that never was: the rest still comes."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            files = [await w.file(project, f"f{i}", b"x%d" % i) for i in range(3)]
            entities = [await w.remote.entity(f) for f in files]
            handles = [e.file.handle for e in entities if e.file is not None and e.file.handle]
            refs = [FileRef(h, f) for h, f in zip(handles, files, strict=True)]
            wrong = FileRef(handles[0], files[1])
            never = FileRef(FileHandleId(1), files[0])
            got = await w.remote.presign([refs[2], never, refs[0], wrong, refs[2]])

            assert [refs[2], never, refs[0], wrong, refs[2]] == [p.ref for p in got]
            assert [p.failure for p in got] == [None, "NOT_FOUND", None, "UNAUTHORIZED", None]
            assert got[0].url
            assert got[0].expires_at_ns > 1_500_000_000 * 10**9
            assert got[0].file is not None
            assert got[0].file.md5 == md5(b"x2")
            assert got[1].url is None
            assert await w.remote.presign([]) == []

        world(work)

    def test_presign_when_over_a_hundred_still_answers_all(self, world: Runner) -> None:
        """The service's bound of 100 is not the caller's business."""

        async def work(w: World) -> None:
            file = await w.file(await w.project(unique()), "f", b"1")
            entity = await w.remote.entity(file)
            assert entity.file is not None
            assert entity.file.handle is not None
            refs = [FileRef(FileHandleId(n), file) for n in range(1, 130)]
            got = await w.remote.presign([*refs, FileRef(entity.file.handle, file)])

            assert len(got) == 130
            assert got[-1].url

        world(work)

    def test_presign_when_external_gives_the_url_itself(self, world: Runner) -> None:
        """It never expires, as far as anybody knows."""

        async def work(w: World) -> None:
            file = await w.external(await w.project(unique()), "x", "https://example.org/x")
            entity = await w.remote.entity(file)
            assert entity.file is not None
            assert entity.file.handle is not None
            (got,) = await w.remote.presign([FileRef(entity.file.handle, file)])

            assert (got.url, got.expires_at_ns) == ("https://example.org/x", 0)

        world(work)


class TestProvenance:
    """The activity that made a version."""

    @pytest.mark.req("S2-37")
    def test_activity_when_set_is_told(self, world: Runner) -> None:
        """None where there is none."""

        async def work(w: World) -> None:
            file = await w.file(await w.project(unique()), "a", b"1")
            assert await w.remote.generated_by(file) is None
            await w.activity(file, "aligned")
            got = await w.remote.generated_by(file)

            assert got is not None
            assert got["name"] == "aligned"
            assert await w.remote.generated_by(file, Version(1)) is not None

        world(work)


class TestViews:
    """A view tells a whole project at once."""

    def test_view_when_read_tells_files_and_folders(self, world: Runner) -> None:
        """Sizes and md5s for all, below any depth, and nothing from outside its scope."""

        async def work(w: World) -> None:
            project, other = await w.project(unique()), await w.project(unique("Q"))
            folder = await w.folder(project, "d")
            a = await w.file(project, "a", b"one")
            b = await w.file(folder, "b", b"three")
            await w.file(other, "elsewhere", b"x")
            await w.link(project, "l", a, None)
            await w.new_version(a, b"fourteen")
            view = await w.remote.create_view(project, "sizes", [project])
            rows = [row async for batch in w.remote.view_rows(view) for row in batch]

            by_id = {row.id: row for row in rows}
            assert {folder, a, b} == set(by_id)
            entity = await w.remote.entity(a)
            row = by_id[a]
            assert entity.file is not None
            assert (row.name, row.kind, row.parent, row.version) == ("a", Kind.FILE, project, 2)
            assert (row.md5, row.size, row.handle) == (md5(b"fourteen"), 8, entity.file.handle)
            assert (row.etag, row.modified_on_ns) == (entity.etag, entity.modified_on_ns)
            assert row.store in (Store.S3, None)
            assert (by_id[b].parent, by_id[b].size) == (folder, 5)
            assert (by_id[folder].kind, by_id[folder].size) == (Kind.FOLDER, None)

        world(work)

    def test_view_when_conditioned_tells_only_what_changed(self, world: Runner) -> None:
        """A condition on modifiedOn makes a poll of a whole project small."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            await w.file(project, "a", b"1")
            last = await w.remote.entity(await w.file(project, "b", b"2"))
            newer = await w.file(project, "c", b"3")
            view = await w.remote.create_view(project, "sizes", [project])
            where = f"modifiedOn > {last.modified_on_ns // 1_000_000}"
            rows = [row async for batch in w.remote.view_rows(view, where=where) for row in batch]

            assert [newer] == [row.id for row in rows]

        world(work)

    def test_view_when_made_is_found_and_not_made_twice(self, world: Runner) -> None:
        """The name decides; what is no view is none."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            assert await w.remote.find_view(project, "sizes") is None
            view = await w.remote.create_view(project, "sizes", [project])
            await w.folder(project, "folder")

            assert await w.remote.find_view(project, "sizes") == view
            assert await w.remote.create_view(project, "sizes", [project]) == view
            assert await w.remote.find_view(project, "folder") is None
            with pytest.raises(Exists):
                await w.remote.create_view(project, "folder", [project])

        world(work)

    def test_view_when_asked_tells_what_it_covers(self, world: Runner) -> None:
        """Its own scope, not another project; and what is no view covers nothing."""

        async def work(w: World) -> None:
            project, other = await w.project(unique()), await w.project(unique("Q"))
            view = await w.remote.create_view(project, "sizes", [project])
            folder = await w.folder(project, "d")

            assert await w.remote.covers(view, project)
            assert not await w.remote.covers(view, other)
            assert not await w.remote.covers(folder, project)
            with pytest.raises(NotFound):
                await w.remote.covers(EntityId(999_999_999), project)

        world(work)

    def test_view_when_of_nothing_has_no_rows(self, world: Runner) -> None:
        """An empty project is an empty view, not an error."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            view = await w.remote.create_view(project, "sizes", [project])

            assert [row async for batch in w.remote.view_rows(view) for row in batch] == []

        world(work)

    def test_rows_when_asked_of_no_view_are_refused(self, world: Runner) -> None:
        """A folder has no rows."""

        async def work(w: World) -> None:
            folder = await w.folder(await w.project(unique()), "d")
            with pytest.raises(SyndError):
                async for _ in w.remote.view_rows(folder):
                    pass

        world(work)


def test_user_when_logged_in_has_a_name(world: Runner) -> None:
    """Who we are."""

    async def work(w: World) -> None:
        got = await w.remote.whoami()

        assert got.id
        assert got.name

    world(work)


class TestService:
    """What only the real client does, against a real service."""

    def test_token_when_wrong_is_not_logged_in(self, served: Registry) -> None:
        """The service's 401 says what to do."""

        async def work() -> None:
            async with SynapseClient(from_base(served.url), Token("wrong")) as client:
                with pytest.raises(NotLoggedIn) as caught:
                    await client.whoami()
                assert "synd login" in caught.value.hint

        asyncio.run(work())

    @pytest.mark.req("S2-39", "S2-40", "S2-41", "S2-42")
    def test_rest_when_used_gets_posts_puts_and_deletes(self, served: Registry) -> None:
        """Any call of the service, with its login, limits and errors."""

        async def work() -> None:
            async with SynapseClient(from_base(served.url), Token(served.token)) as client:
                project = {
                    "concreteType": "org.sagebionetworks.repo.model.Project",
                    "name": unique(),
                }
                made = await client.rest("POST", "/repo/v1/entity", project)
                path = f"/entity/{made['id']}"
                body = await client.rest("GET", path)
                changed = await client.rest("PUT", path, {**body, "description": "new"})
                assert changed["description"] == "new"
                assert await client.rest("DELETE", path) is None
                with pytest.raises(NotFound):
                    await client.rest("GET", path)

        asyncio.run(work())

    def test_bytes_when_presigned_are_downloaded(self, served: Registry) -> None:
        """From entity to bytes, by ranges, in a worker thread."""
        content = os.urandom(3_000_000)

        async def work() -> bytes:
            async with SynapseClient(from_base(served.url), Token(served.token)) as client:
                w = ServiceWorld(client)
                file = await w.file(await w.project(unique()), "big", content)
                entity = await client.entity(file)
                assert entity.file is not None
                assert entity.file.handle is not None
                (found,) = await client.presign([FileRef(entity.file.handle, file)])
                assert found.url is not None
                got = bytearray(len(content))

                def put(offset: int, piece: memoryview) -> None:
                    got[offset : offset + len(piece)] = piece

                for start in range(0, len(content), 1_000_000):
                    await asyncio.to_thread(
                        client.downloader.fetch_range, found.url, start, start + 1_000_000, put,
                        deadline=Deadline.after(20, "the test"),
                    )  # fmt: skip
                return bytes(got)

        assert content == asyncio.run(work())

    def test_client_when_opened_by_environment_finds_its_service(
        self, served: Registry, tmp_path: Path
    ) -> None:
        """SYND_ENDPOINT and SYNAPSE_AUTH_TOKEN are all it takes."""
        env = {
            "SYND_HOME": str(tmp_path),
            "HOME": str(tmp_path),
            "SYND_ENDPOINT": served.url,
            "SYNAPSE_AUTH_TOKEN": served.token,
        }

        async def work() -> None:
            async with SynapseClient.open(environ=env) as client:
                assert (await client.whoami()).name
                assert served.token not in repr(client.status)

        asyncio.run(work())

    def test_ids_when_spelled_are_the_services(self, served: Registry) -> None:
        """What the service calls syn123 is 123 here."""

        async def work() -> None:
            async with SynapseClient(from_base(served.url), Token(served.token)) as client:
                made = await ServiceWorld(client).project(unique())
                body = await client.rest("GET", f"/entity/{syn(made)}")
                assert entity_id(body["id"]) == made

        asyncio.run(work())
