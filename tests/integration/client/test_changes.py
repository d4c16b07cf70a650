"""Changes to entities of a real registry whose answers are lost, refused, or overtaken by others."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synd.client.credentials import Token, from_base
from synd.client.remote import Outgoing
from synd.client.service import SynapseClient
from synd.digest import md5_of_file
from synd.errors import Exists, Forbidden, NotFound, RemoteUnavailable, Stale
from synd.ids import EntityId, FileHandleId, Version, syn
from synd.model import Entity, FileVersion, Kind, LinkTarget
from synd.retry import RetryPolicy
from tests.integration.client.stub import Answer, Request, Stub, json_answer
from tests.support.registry import Registry, running, wait_until

QUICK = RetryPolicy(tries=4, base_s=0.01, cap_s=0.05)
NOTE = {"k": ("STRING", ("v",))}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("changes") / "data") as registry:
        yield registry


@pytest.fixture
def registry(served: Registry) -> Registry:
    served.call("DELETE", "/admin/faults")
    return served


def client(registry: Registry, token: str | None = None) -> SynapseClient:
    return SynapseClient(from_base(registry.url), Token(token or registry.token), policy=QUICK)


def run(registry: Registry, work: Callable[[SynapseClient, EntityId], Awaitable[None]]) -> None:
    """Runs `work` with a client and a project of its own."""

    async def whole() -> None:
        async with client(registry) as one:
            project = await one.own_project(f"P {os.urandom(6).hex()}")
            await work(one, project)

    asyncio.run(whole())


async def content(one: SynapseClient, project: EntityId, folder: Path) -> FileVersion:
    """Uploaded bytes that no entity has yet."""
    path = folder / os.urandom(4).hex()
    path.write_bytes(os.urandom(100))
    md5 = md5_of_file(path)
    handle = await one.upload(Outgoing(path, 100, md5, "a.bin"), project)
    return FileVersion(EntityId(0), Version(1), handle, md5, 100, "a.bin")


async def made(one: SynapseClient, project: EntityId, folder: Path) -> Entity:
    file = await content(one, project, folder)
    return await one.create(Kind.FILE, project, "a.bin", file=file)


def lost(registry: Registry, method: str, path: str, times: int = 1) -> None:
    """The next requests of that kind are carried out, and their answers lost."""
    registry.fault(action="drop-after", method=method, path=path, times=times)


class TestLost:
    """Answers that never came."""

    def test_update_when_its_answer_was_lost_is_made_once(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """The second try meets another etag, and finds its own work behind it."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await made(one, project, tmp_path)
            new = await content(one, project, tmp_path)
            lost(registry, "PUT", "/entity/syn")
            got = await one.update(file, file=new, name="b.bin")

            assert (got.version, got.name) == (2, "b.bin")
            assert got.file is not None
            assert (new.handle, new.md5) == (got.file.handle, got.file.md5)
            assert len(await one.versions(file.id)) == 2

        run(registry, work)

    @pytest.mark.parametrize("with_name", [True, False], ids=["and name", "alone"])
    def test_annotations_when_their_answer_was_lost_are_there(
        self, registry: Registry, tmp_path: Path, with_name: bool
    ) -> None:
        """As they were wanted, and with the etag that the next change needs."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await made(one, project, tmp_path)
            lost(registry, "PUT", "annotations2")
            got = await one.update(file, annotations=NOTE, name="b" if with_name else None)
            again = await one.update(got, annotations={})

            assert (NOTE, {}) == (got.annotations, again.annotations)
            assert (await one.entity(file.id)).name == ("b" if with_name else "a.bin")

        run(registry, work)

    @pytest.mark.parametrize("noted", [True, False], ids=["annotated", "plain"])
    def test_create_when_its_answer_was_lost_exists(
        self, registry: Registry, tmp_path: Path, noted: bool
    ) -> None:
        """The caller finds by its handle that the entity is its own."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await content(one, project, tmp_path)
            lost(registry, "POST", "/entity(/bundle2/create)?$")
            with pytest.raises(Exists):
                await one.create(
                    Kind.FILE, project, "a", file=file, annotations=NOTE if noted else None
                )
            found = await one.find_child(project, "a")
            assert found is not None
            got = await one.entity(found)

            assert got.file is not None
            assert file.handle == got.file.handle
            assert got.annotations == (NOTE if noted else {})

        run(registry, work)

    def test_delete_and_restore_when_their_answers_were_lost_are_done(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """To do them twice is to do them once."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await made(one, project, tmp_path)
            lost(registry, "DELETE", "/entity/syn")
            await one.delete(file.id)
            with pytest.raises(NotFound):
                await one.entity(file.id)
            lost(registry, "PUT", "/trashcan/restore")
            await one.restore(file.id)

            assert (await one.entity(file.id)).name == "a.bin"

        run(registry, work)

    def test_service_when_it_fails_is_tried_again(self, registry: Registry, tmp_path: Path) -> None:
        """And told when it goes on."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await made(one, project, tmp_path)
            registry.fault(action="status", status=503, method="PUT", path="/entity/", times=2)
            got = await one.update(file, name="b")
            registry.fault(action="status", status=503, method="PUT", path="/entity/", times=0)
            with pytest.raises(RemoteUnavailable):
                await one.update(got, name="c")

            assert (await one.entity(file.id)).name == "b"

        run(registry, work)


class TestOvertaken:
    """Changes by others."""

    @pytest.mark.parametrize("change", ["file", "name", "annotations"])
    def test_entity_when_changed_between_look_and_change_is_stale(
        self, registry: Registry, tmp_path: Path, change: str
    ) -> None:
        """The etag decides at the last moment, at the service."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await made(one, project, tmp_path)
            new = await content(one, project, tmp_path)
            theirs = await content(one, project, tmp_path)
            registry.fault(
                action="delay", seconds=0.5, method="PUT", path=f"/{syn(file.id)}(/|[?]|$)"
            )
            mine: dict[str, dict[str, Any]] = {
                "file": {"file": new},
                "name": {"name": "mine"},
                "annotations": {"annotations": NOTE},
            }
            task = asyncio.create_task(one.update(file, **mine[change]))
            await asyncio.to_thread(_wait_for_put, registry)
            await one.update(file, file=theirs, name="theirs")
            with pytest.raises(Stale):
                await task
            got = await one.entity(file.id)

            assert (got.name, got.version, got.annotations) == ("theirs", 2, {})

        run(registry, work)

    def test_annotations_when_followed_by_another_change_keep_their_own_etag(
        self, tmp_path: Path
    ) -> None:
        """What somebody changed just afterwards must not pass for seen."""
        entity = {
            "id": "syn7", "name": "d", "parentId": "syn5", "etag": "theirs",
            "concreteType": "org.sagebionetworks.repo.model.Folder",
            "createdOn": "2026-01-31T08:00:00.000Z", "modifiedOn": "2026-01-31T08:00:00.000Z",
        }  # fmt: skip

        def answer(request: Request) -> Answer:
            if request.method == "PUT":
                return json_answer({"id": "syn7", "etag": "ours", "annotations": {}})
            return json_answer(entity)

        async def work() -> None:
            with Stub(answer) as stub:
                async with SynapseClient(from_base(stub.url), Token("x")) as one:
                    base = Entity(EntityId(7), "d", Kind.FOLDER, EntityId(5), "base", None, 1, 2)
                    got = await one.update(base, annotations=NOTE)

            assert (got.etag, got.annotations, got.modified_on_ns) == ("ours", NOTE, 2)

        asyncio.run(work())


def _wait_for_put(registry: Registry) -> None:
    """Until the registry has met its first fault."""
    wait_until(lambda: registry.call("GET", "/admin/faults")[1]["faults"][0]["hits"], 10, "the PUT")


class TestSent:
    """What goes out."""

    def test_update_when_sent_repeats_all_that_was_received(self) -> None:
        """Also what this version of synd does not know, but no label of its own."""
        received = {
            "id": "syn7", "name": "a", "parentId": "syn5", "etag": "e", "newThing": {"x": [1]},
            "description": "long", "dataFileHandleId": "1", "versionLabel": "old",
            "versionComment": "old", "versionNumber": 3, "fileNameOverride": "z",
            "concreteType": "org.sagebionetworks.repo.model.FileEntity",
        }  # fmt: skip
        sent: list[Request] = []

        def answer(request: Request) -> Answer:
            if request.method == "PUT":
                sent.append(request)
                return json_answer({**request.json, "etag": "f", "versionNumber": 4})
            return json_answer(received)

        async def work() -> None:
            with Stub(answer) as stub:
                async with SynapseClient(from_base(stub.url), Token("x")) as one:
                    base = Entity(EntityId(7), "a", Kind.FILE, EntityId(5), "e", Version(3), 1, 2)
                    file = FileVersion(EntityId(0), Version(1), FileHandleId(12), None, 9)
                    await one.update(base, name="b")
                    got = await one.update(base, file=file)

            assert got.version == 4
            assert {**received, "name": "b"} == sent[0].json
            assert "newVersion" not in sent[0].path
            assert sent[1].path.endswith("?newVersion=true")
            assert sent[1].json == {
                **received,
                "dataFileHandleId": "12",
                "versionLabel": None,
                "versionComment": None,
            }

        asyncio.run(work())

    def test_file_when_created_costs_one_request(self, registry: Registry, tmp_path: Path) -> None:
        """Its answer tells all; with annotations too."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await content(one, project, tmp_path)
            registry.requests(reset=True)
            await one.create(Kind.FILE, project, "a", file=file)
            await one.create(Kind.FOLDER, project, "d", annotations=NOTE)
            found = registry.requests()["counters"]

            assert ["/repo/v1/entity", "/repo/v1/entity/bundle2/create"] == sorted(
                row["route"] for row in found if row["method"] == "POST"
            )

        run(registry, work)


class TestRights:
    """What one may not do is said so."""

    def test_entity_when_only_readable_is_forbidden(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """Every kind of change."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            file = await made(one, project, tmp_path)
            _, user = registry.call("POST", "/admin/users", {"userName": os.urandom(4).hex()})
            acl = await one.rest("GET", f"/entity/{syn(project)}/acl")
            acl["resourceAccess"].append(
                {"principalId": int(user["ownerId"]), "accessType": ["READ", "DOWNLOAD"]}
            )
            await one.rest("PUT", f"/entity/{syn(project)}/acl", acl)
            async with client(registry, user["token"]) as other:
                seen = await other.entity(file.id)
                with pytest.raises(Forbidden):
                    await other.update(seen, name="b")
                with pytest.raises(Forbidden):
                    await other.update(seen, annotations=NOTE)
                with pytest.raises(Forbidden):
                    await other.delete(file.id)
                with pytest.raises(Forbidden):
                    await other.create(Kind.FOLDER, project, "d")
                with pytest.raises(Forbidden):
                    await other.create(Kind.LINK, project, "l", link=LinkTarget(file.id))
                assert file.file is not None
                own = await other.own_project(os.urandom(6).hex())
                with pytest.raises(Forbidden, match="creator"):
                    await other.create(Kind.FILE, own, "a", file=file.file)

            assert (await one.entity(file.id)).name == "a.bin"

        run(registry, work)

    def test_file_when_restored_into_the_trash_is_forbidden(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """Its folder must be restored first."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            folder = await one.create(Kind.FOLDER, project, "d")
            file = await one.create(Kind.FOLDER, folder.id, "e")
            await one.delete(file.id)
            await one.delete(folder.id)
            with pytest.raises(Forbidden):
                await one.restore(file.id)
            await one.restore(folder.id)
            await one.restore(file.id)

            assert (await one.find_child(folder.id, "e")) == file.id

        run(registry, work)
