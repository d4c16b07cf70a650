"""The promises of `Remote` about changes, kept by the fake and by the real client alike."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synd.client.remote import Outgoing
from synd.errors import (
    Exists,
    IntegrityError,
    NotFound,
    NotSupported,
    Stale,
    UsageError,
)
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.model import Entity, FileRef, FileVersion, Kind, LinkTarget
from tests.contract.worlds import Runner, World, names, unique

TEXT = ("STRING", ("one", "two"))
NUMBER = ("LONG", ("7",))


def outgoing(folder: Path, content: bytes, name: str = "a.txt") -> Outgoing:
    """A file on disk, as it is handed to `upload`."""
    path = folder / hashlib.sha256(content).hexdigest()[:12]
    path.write_bytes(content)
    digest = Md5(hashlib.md5(content, usedforsecurity=False).hexdigest())
    return Outgoing(path, len(content), digest, name)


async def sent(w: World, folder: Path, parent: EntityId, content: bytes) -> FileVersion:
    """An uploaded content, as `create` and `update` want it."""
    what = outgoing(folder, content)
    handle = await w.remote.upload(what, parent)
    return as_file(what, handle)


def as_file(what: Outgoing, handle: FileHandleId) -> FileVersion:
    return FileVersion(EntityId(0), Version(1), handle, what.md5, what.size, what.name)


async def made(w: World, folder: Path, content: bytes = b"first") -> Entity:
    """A file in a project of its own."""
    project = await w.project(unique())
    file = await sent(w, folder, project, content)
    return await w.remote.create(Kind.FILE, project, "a.txt", file=file)


def plain(entity: Entity) -> Entity:
    """What a change must tell as a later look does: all but what only the look asks for."""
    file = entity.file
    if file is not None:
        file = replace(file, content_type="", store=file.store)
    return replace(entity, file=file, created_by="", modified_by="")


class TestUpload:
    """Bytes become a file handle."""

    @pytest.mark.parametrize(
        "size", [1, 5_000, 70_000, 300_000], ids=["byte", "small", "one part", "asked for"]
    )
    def test_bytes_when_uploaded_are_behind_the_handle(
        self, world: Runner, tmp_path: Path, size: int
    ) -> None:
        """Size and md5 are the file's, whatever way they took."""
        content = (unique().encode() * (size // 8 + 1))[:size]

        async def work(w: World) -> None:
            project = await w.project(unique())
            what = outgoing(tmp_path, content)
            handle = await w.remote.upload(what, project)
            entity = await w.remote.create(Kind.FILE, project, "b.txt", file=as_file(what, handle))
            got = await w.remote.entity(entity.id)

            assert got.file is not None
            assert (what.md5, size, "a.txt") == (got.file.md5, got.file.size, got.file.name)
            (url,) = await w.remote.presign([FileRef(handle, entity.id)])
            assert url.failure is None
            assert content == await w.content(handle, url.url)

        world(work)

    def test_progress_when_told_sums_up_to_the_size(self, world: Runner, tmp_path: Path) -> None:
        """It hears of each byte once."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            heard: list[int] = []
            what = outgoing(tmp_path, unique().encode() * 100)
            await w.remote.upload(what, project, progress=heard.append)
            again: list[int] = []
            await w.remote.upload(what, project, progress=again.append)

            assert what.size == sum(heard) == sum(again)

        world(work)

    def test_upload_when_repeated_gives_the_same_handle(
        self, world: Runner, tmp_path: Path
    ) -> None:
        """An answer that was lost costs nothing."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            what = outgoing(tmp_path, unique().encode())

            first = await w.remote.upload(what, project)
            assert first == await w.remote.upload(what, project)
            other = await w.remote.upload(what._replace(name="other.txt"), project)
            assert first != other

        world(work)

    @pytest.mark.parametrize("spoil", ["shorter", "longer", "other", "gone"])
    def test_file_when_changed_is_refused(self, world: Runner, tmp_path: Path, spoil: str) -> None:
        """What is sent is what was announced, or nothing."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            what = outgoing(tmp_path, unique().encode() * 10)
            held = what.path.read_bytes()
            if spoil == "gone":
                what.path.unlink()
            else:
                what.path.write_bytes(
                    {"shorter": held[:-1], "longer": held + b"x", "other": held[::-1]}[spoil]
                )
            with pytest.raises(IntegrityError):
                await w.remote.upload(what, project)

        world(work)

    def test_upload_when_impossible_says_why(self, world: Runner, tmp_path: Path) -> None:
        """No empty files, no names that the service refuses, no folder that is not there."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            what = outgoing(tmp_path, b"x")
            with pytest.raises(UsageError, match="refuses the name"):
                await w.remote.upload(what._replace(name="a@b"), project)
            with pytest.raises(UsageError, match="empty"):
                await w.remote.upload(outgoing(tmp_path, b""), project)
            await w.delete(project)
            with pytest.raises(NotFound):
                await w.remote.upload(what, project)

        world(work)


class TestCreate:
    """New entities."""

    def test_folder_when_created_is_there(self, world: Runner) -> None:
        """The answer tells what a look tells."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            folder = await w.remote.create(Kind.FOLDER, project, "d")

            assert plain(folder) == plain(await w.remote.entity(folder.id))
            assert (folder.name, folder.parent, folder.version) == ("d", project, None)
            assert ["d"] == names((await w.remote.children(project)).headers)

        world(work)

    def test_file_when_created_has_its_bytes(self, world: Runner, tmp_path: Path) -> None:
        """Version 1, with the handle, size and md5 that were given, its comment and its label."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            given = await sent(w, tmp_path, project, b"hello")
            file = await w.remote.create(
                Kind.FILE,
                project,
                "a.txt",
                file=given,
                version_comment="why",
                version_label="raw",
            )

            assert plain(file) == plain(await w.remote.entity(file.id))
            assert file.file is not None
            assert (file.version, file.version_label, file.version_comment) == (1, "raw", "why")
            assert (given.handle, given.md5, 5) == (file.file.handle, file.file.md5, file.file.size)
            assert file.file.entity == file.id

        world(work)

    @pytest.mark.parametrize("version", [None, 1])
    def test_link_when_created_has_its_target(
        self, world: Runner, tmp_path: Path, version: int | None
    ) -> None:
        """With the version it is bound to, or none."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            target = LinkTarget(file.id, None if version is None else Version(version))
            link = await w.remote.create(Kind.LINK, file.parent, "l", link=target)

            assert target == link.link
            assert plain(link) == plain(await w.remote.entity(link.id))

        world(work)

    def test_annotations_when_given_are_there_at_once(self, world: Runner, tmp_path: Path) -> None:
        """Of files and folders."""

        async def work(w: World) -> None:
            project = await w.project(unique())
            given = await sent(w, tmp_path, project, b"hello")
            notes = {"k": TEXT, "n": NUMBER}
            file = await w.remote.create(Kind.FILE, project, "a.txt", file=given, annotations=notes)
            folder = await w.remote.create(Kind.FOLDER, project, "d", annotations=notes)

            assert notes == file.annotations == folder.annotations
            assert plain(file) == plain(await w.remote.entity(file.id))
            assert plain(folder) == plain(await w.remote.entity(folder.id))

        world(work)

    def test_name_when_taken_exists(self, world: Runner, tmp_path: Path) -> None:
        """Across kinds; names that differ in case are different."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            with pytest.raises(Exists):
                await w.remote.create(Kind.FOLDER, file.parent, "a.txt")
            assert (await w.remote.create(Kind.FOLDER, file.parent, "A.txt")).name == "A.txt"

        world(work)

    def test_create_when_impossible_says_why(self, world: Runner, tmp_path: Path) -> None:
        """Names, kinds, parents and file handles are looked at."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            project = file.parent
            assert project is not None
            gone = await w.remote.create(Kind.FOLDER, project, "gone")
            await w.delete(gone.id)
            with pytest.raises(UsageError, match="refuses the name"):
                await w.remote.create(Kind.FOLDER, project, "a/b")
            with pytest.raises(NotSupported):
                await w.remote.create(Kind.TABLE, project, "t")
            with pytest.raises(UsageError):
                await w.remote.create(Kind.FILE, project, "f")
            with pytest.raises(UsageError):
                await w.remote.create(Kind.FOLDER, file.id, "below a file")
            with pytest.raises(NotFound):
                await w.remote.create(Kind.FOLDER, gone.id, "d")
            assert file.file is not None
            with pytest.raises(NotFound):
                await w.remote.create(
                    Kind.FILE,
                    project,
                    "f",
                    file=replace(file.file, handle=FileHandleId(999_999_999)),
                )

        world(work)


class TestUpdate:
    """Changes of what is there."""

    def test_file_when_given_makes_a_version(self, world: Runner, tmp_path: Path) -> None:
        """With its comment; the old version keeps its bytes, annotations go along."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            await w.annotate(file.id, "k", "v")
            file = await w.remote.entity(file.id)
            assert file.parent is not None
            new = await sent(w, tmp_path, file.parent, b"second")
            got = await w.remote.update(file, file=new, version_comment="why")

            assert plain(got) == plain(await w.remote.entity(file.id))
            assert (got.version, got.version_label, got.version_comment) == (2, "2", "why")
            assert got.etag != file.etag
            assert got.annotations == {"k": ("STRING", ("v",))}
            rows = await w.remote.versions(file.id)
            assert [new.md5, file.file and file.file.md5] == [row.md5 for row in rows]

        world(work)

    def test_label_when_given_is_kept(self, world: Runner, tmp_path: Path) -> None:
        """A later version without one has its number again."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            two = await w.remote.update(
                file, file=await sent(w, tmp_path, file.parent, b"2"), version_label="final"
            )
            three = await w.remote.update(two, file=await sent(w, tmp_path, file.parent, b"3"))

            assert ("final", "3") == (two.version_label, three.version_label)

        world(work)

    def test_same_bytes_when_sent_again_make_a_version(self, world: Runner, tmp_path: Path) -> None:
        """A save is a save, even of what was there."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            again = await w.remote.upload(outgoing(tmp_path, b"first", "again.txt"), file.parent)
            assert file.file is not None
            got = await w.remote.update(file, file=replace(file.file, handle=again))

            assert got.version == 2

        world(work)

    def test_name_and_folder_when_given_move_it(self, world: Runner, tmp_path: Path) -> None:
        """In one step, without a version, for any kind."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            one = await w.remote.create(Kind.FOLDER, file.parent, "one")
            two = await w.remote.create(Kind.FOLDER, file.parent, "two")
            link = await w.remote.create(Kind.LINK, file.parent, "link", link=LinkTarget(file.id))
            got = await w.remote.update(file, name="b.txt", parent=one.id)
            await w.remote.update(link, name="l", parent=one.id)
            await w.remote.update(one, parent=two.id)

            assert plain(got) == plain(await w.remote.entity(file.id))
            assert (got.name, got.parent, got.version) == ("b.txt", one.id, 1)
            assert {"b.txt", "l"} == set(names((await w.remote.children(one.id)).headers))
            assert (await w.remote.entity(link.id)).link == LinkTarget(file.id)
            assert ["one"] == names((await w.remote.children(two.id)).headers)

        world(work)

    def test_annotations_when_given_replace_all(self, world: Runner, tmp_path: Path) -> None:
        """Alone or with a new version; the others of the entity stay."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            one = await w.remote.update(file, annotations={"k": TEXT})
            two = await w.remote.update(
                one, file=await sent(w, tmp_path, file.parent, b"2"), annotations={"n": NUMBER}
            )
            none = await w.remote.update(two, annotations={})

            assert (one.annotations, one.version) == ({"k": TEXT}, 1)
            assert (two.annotations, two.version) == ({"n": NUMBER}, 2)
            assert plain(none) == plain(await w.remote.entity(file.id))
            assert none.annotations == {}
            assert len({file.etag, one.etag, two.etag, none.etag}) == 4

        world(work)

    @pytest.mark.parametrize("change", ["file", "name", "annotations"])
    def test_entity_when_changed_by_another_is_stale(
        self, world: Runner, tmp_path: Path, change: str
    ) -> None:
        """Nothing is overwritten unseen."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            new = await sent(w, tmp_path, file.parent, b"mine")
            await w.annotate(file.id, "theirs", "v")
            theirs = await w.remote.entity(file.id)
            mine: dict[str, Any] = {
                "file": {"file": new},
                "name": {"name": "mine"},
                "annotations": {"annotations": {"mine": TEXT}},
            }
            with pytest.raises(Stale):
                await w.remote.update(file, **mine[change])

            assert plain(theirs) == plain(await w.remote.entity(file.id))

        world(work)

    def test_update_when_repeated_is_made_once(self, world: Runner, tmp_path: Path) -> None:
        """A change whose answer was lost is found in place, and its annotations are caught up on."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            new = await sent(w, tmp_path, file.parent, b"second")
            await w.remote.update(file, file=new, name="b.txt")
            again = await w.remote.update(file, file=new, name="b.txt", annotations={"k": TEXT})
            third = await w.remote.update(file, file=new, name="b.txt", annotations={"k": TEXT})

            assert (again.version, again.name, again.annotations) == (2, "b.txt", {"k": TEXT})
            assert plain(again) == plain(third)
            assert len(await w.remote.versions(file.id)) == 2
            await w.new_version(file.id, b"theirs")
            with pytest.raises(Stale):
                await w.remote.update(file, file=new, name="b.txt")

        world(work)

    def test_name_when_taken_exists(self, world: Runner, tmp_path: Path) -> None:
        """Nothing is changed then."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            await w.remote.create(Kind.FOLDER, file.parent, "d")
            with pytest.raises(Exists):
                await w.remote.update(file, name="d")

            assert file.etag == (await w.remote.entity(file.id)).etag

        world(work)

    def test_update_when_impossible_says_why(self, world: Runner, tmp_path: Path) -> None:
        """Gone entities, bytes for a folder, a folder into itself."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            assert file.file is not None
            folder = await w.remote.create(Kind.FOLDER, file.parent, "d")
            with pytest.raises(UsageError):
                await w.remote.update(folder, file=file.file)
            with pytest.raises(UsageError):
                await w.remote.update(folder, parent=folder.id)
            with pytest.raises(UsageError, match="refuses the name"):
                await w.remote.update(file, name="a:b")
            await w.delete(file.id)
            with pytest.raises(NotFound):
                await w.remote.update(file, name="b")

        world(work)


class TestTrash:
    """Deleting is no end."""

    def test_entity_when_deleted_is_gone_with_all_below(
        self, world: Runner, tmp_path: Path
    ) -> None:
        """And its name is free; again is no error."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            folder = await w.remote.create(Kind.FOLDER, file.parent, "d")
            await w.remote.update(file, parent=folder.id)
            await w.remote.delete(folder.id)
            await w.remote.delete(folder.id)
            with pytest.raises(NotFound):
                await w.remote.entity(file.id)

            assert (await w.remote.children(file.parent)).headers == ()
            assert (await w.remote.create(Kind.FOLDER, file.parent, "d")).id != folder.id

        world(work)

    def test_entity_when_restored_is_as_it_was(self, world: Runner, tmp_path: Path) -> None:
        """Name, folder, versions; again is no error."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            await w.remote.delete(file.id)
            await w.remote.restore(file.id)
            await w.remote.restore(file.id)
            got = await w.remote.entity(file.id)

            assert (file.name, file.parent, file.file) == (got.name, got.parent, got.file)
            assert got.etag != file.etag

        world(work)

    def test_entity_when_not_restorable_says_why(self, world: Runner, tmp_path: Path) -> None:
        """Another has its name, or it never was there."""

        async def work(w: World) -> None:
            file = await made(w, tmp_path)
            assert file.parent is not None
            await w.remote.delete(file.id)
            await w.remote.create(Kind.FOLDER, file.parent, "a.txt")
            with pytest.raises(Exists):
                await w.remote.restore(file.id)
            with pytest.raises(NotFound):
                await w.remote.restore(EntityId(999_999_999))

        world(work)


def test_changes_when_made_at_once_all_happen(world: Runner, tmp_path: Path) -> None:
    """Many uploads and creations side by side."""

    async def one(w: World, project: EntityId, n: int) -> None:
        file = await sent(w, tmp_path, project, b"%d %s" % (n, str(project).encode()))
        await w.remote.create(Kind.FILE, project, f"f{n}", file=file)

    async def work(w: World) -> None:
        project = await w.project(unique())
        await asyncio.gather(*(one(w, project, n) for n in range(20)))
        page = await w.remote.children(project, counts=True)

        assert page.total == 20

    world(work)
