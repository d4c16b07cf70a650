"""Two daemons on one project, as two people's machines: whoever is second finds what the first has done.

Both send nothing at first, so that each works from what the service had before; then one sends, then the
other. What either acknowledged is on the service afterwards, under a name of its own or as a version.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from synd.control import changes
from tests.support.mounts import eventually
from tests.support.world import Remote, World

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

SETTLED_S = 60


def md5_of(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


class Pair(NamedTuple):
    """Ann and Ben, and what they share."""

    ann: World
    ben: World
    server: Remote
    project: str
    name: str

    def at(self, world: World, *parts: str) -> str:
        return world.at(self.name, *parts)

    def sh(self, world: World, script: str) -> str:
        """Output of a shell script in the project, which must succeed."""
        done = world.run("sh", "-ec", script, cwd=self.at(world) + "/", timeout_s=60)
        assert done.status == 0, f"{script}: {done.out}{done.err}\n{world.log()[-3000:]}"
        return done.out

    def send(self, world: World) -> None:
        """Lets one side send, and waits until it has."""
        world.control.post(changes.RESUME)
        done = world.synd("wait", "--timeout", str(SETTLED_S), timeout_s=SETTLED_S + 30)
        assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"

    def held(self) -> dict[str, str | None]:
        """Path → md5 on the service; None for folders."""
        return {path: what.md5 for path, what in self.server.tree(self.project).items()}

    def digests(self) -> set[str | None]:
        """All bytes that the service shows or keeps as a version."""
        ids = [what.id for what in self.server.tree(self.project).values() if what.kind == "file"]
        return set(self.held().values()) | {
            md5
            for entity in ids
            for (md5,) in self.server.db.all(
                "SELECT f.md5 FROM entity_version AS v JOIN file_handle AS f ON f.id = v.handle_id"
                " WHERE v.entity_id = ?",
                (int(entity[3:]),),
            )
        }

    def shown(self, world: World) -> dict[str, str]:
        """Path → md5 in a mount, without what never leaves that machine."""
        script = "find . -type f -exec md5sum {} + | sed 's:[.]/::'"
        done = world.run("sh", "-c", script, cwd=self.at(world) + "/", timeout_s=60)
        return {path: md5 for md5, path in (x.split("  ", 1) for x in done.out.splitlines())}

    def agree(self) -> None:
        """Both mounts come to show what the service has."""
        wanted = {path: md5 for path, md5 in self.held().items() if md5 is not None}
        for world in (self.ann, self.ben):
            eventually(
                lambda world=world: self.shown(world) == wanted,
                timeout_s=20,
                what=f"{wanted} in {world.root.name}, not {self.shown(world)}",
            )


@pytest.fixture(scope="module", params=["kernel", "libfuse"])
def two(
    request: pytest.FixtureRequest, ground: Path, shared_server: Remote
) -> Iterator[tuple[World, World]]:
    """Two machines, as far as the service can tell."""
    made = [
        World(
            ground / f"{name}-{request.param}", shared_server, transport=request.param,
            upload_delay_s=0.1, delete_delay_s=0.1, freshness_s=1, request_concurrency=16,
            requests_per_minute=0, delete_hold_count=100_000, delete_hold_percent=100,
        )
        for name in ("ann", "ben")
    ]  # fmt: skip
    try:
        for world in made:
            world.up()
        yield made[0], made[1]
    finally:
        for world in made:
            world.close()


@pytest.fixture
def pair(
    request: pytest.FixtureRequest, shared_server: Remote, two: tuple[World, World]
) -> Iterator[Pair]:
    """A project with one file and one folder, listed by both; neither sends."""
    name = f"Pair {abs(hash(request.node.nodeid)) % 10**9}"
    project = shared_server.project(name)
    shared_server.file(project, "a.txt", b"first\n")
    folder = shared_server.folder(project, "folder")
    shared_server.file(folder, "b.txt", b"inside\n")
    found = Pair(two[0], two[1], shared_server, project, name)
    for world in two:
        world.control.post(changes.PAUSE)
        eventually(
            lambda world=world: world.run("test", "-d", found.at(world)).status == 0,
            what="the new project at the top of the mount",
        )
        found.sh(world, "cat a.txt folder/b.txt")
    yield found
    for world in two:
        world.control.post(changes.RESUME)


class TestCrossing:
    def test_folders_when_each_is_moved_into_the_other_stay_where_the_first_put_them(
        self, pair: Pair
    ) -> None:
        """The second's move is given up and listed; nothing is lost, doubled or blocked."""
        other = pair.server.folder(pair.project, "other")
        pair.server.file(other, "c.txt", b"other\n")
        for world in (pair.ann, pair.ben):
            eventually(
                lambda world=world: world.run("cat", pair.at(world, "other", "c.txt")).status == 0,
                what="the other folder",
            )
        known = {c["id"] for c in pair.ben.control.get(changes.CONFLICTS, all=1)["conflicts"]}
        pair.sh(pair.ann, "mv folder other/")
        pair.sh(pair.ben, "echo of ben > folder/new.txt; mv other folder/")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {
            "a.txt", "other", "other/c.txt", "other/folder", "other/folder/b.txt",
            "other/folder/new.txt",
        } == set(pair.held())  # fmt: skip
        pair.agree()
        found = pair.ben.control.get(changes.CONFLICTS, all=1)["conflicts"]
        assert [("renamed", "remote")] == [
            (c["reason"], c["kept"]) for c in found if c["id"] not in known
        ]


class TestOneName:
    def test_file_when_both_edit_it_keeps_both_versions(self, pair: Pair) -> None:
        """The second becomes a conflict copy; no version is overwritten unseen."""
        pair.sh(pair.ann, "echo of ann > a.txt")
        pair.sh(pair.ben, "echo of ben > a.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {md5_of("of ann\n"), md5_of("of ben\n")} <= set(pair.held().values())
        assert 3 == len([path for path, md5 in pair.held().items() if md5])
        pair.agree()

    def test_file_when_both_write_the_same_is_one(self, pair: Pair) -> None:
        """Equal bytes are no conflict."""
        for world in (pair.ann, pair.ben):
            pair.sh(world, "echo the same > a.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {"a.txt", "folder", "folder/b.txt"} == set(pair.held())
        assert 2 == pair.server.tree(pair.project)["a.txt"].version
        pair.agree()

    def test_name_when_both_create_it_is_kept_twice(self, pair: Pair) -> None:
        """Two new files of one name: two entities."""
        pair.sh(pair.ann, "echo of ann > new.txt")
        pair.sh(pair.ben, "echo of ben > new.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        new = {path: md5 for path, md5 in pair.held().items() if path.startswith("new")}
        assert md5_of("of ann\n") == new.pop("new.txt")
        assert [md5_of("of ben\n")] == list(new.values())
        pair.agree()

    def test_folder_when_both_make_it_is_one_with_all_in_it(self, pair: Pair) -> None:
        """Folders of one name are one folder."""
        pair.sh(pair.ann, "mkdir -p new/deep; echo of ann > new/deep/ann.txt")
        pair.sh(pair.ben, "mkdir -p new/deep; echo of ben > new/deep/ben.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {"new", "new/deep", "new/deep/ann.txt", "new/deep/ben.txt"} == {
            path for path in pair.held() if path.startswith("new")
        }
        pair.agree()

    def test_name_when_one_makes_a_folder_and_one_a_file_is_kept_twice(self, pair: Pair) -> None:
        """What is in the folder is there too."""
        pair.sh(pair.ann, "echo of ann > thing")
        pair.sh(pair.ben, "mkdir thing; echo of ben > thing/ben.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert md5_of("of ann\n") == pair.held()["thing"]
        assert md5_of("of ben\n") in pair.held().values()
        pair.agree()


class TestDeletes:
    def test_delete_when_the_other_has_edited_and_moved_it_then_it_is_listed_there(
        self, pair: Pair
    ) -> None:
        """A listing that was read while the delete hid it has it once the delete is given up."""
        pair.sh(pair.ann, "echo of ann > a.txt; mv a.txt folder/")
        pair.sh(pair.ben, "rm a.txt")
        pair.send(pair.ann)
        pair.sh(pair.ann, "echo mark > folder/mark")
        pair.send(pair.ann)

        def listed() -> list[str]:
            return sorted(pair.sh(pair.ben, "ls folder").split())

        eventually(lambda: "mark" in listed(), timeout_s=20)
        hidden = listed()
        pair.send(pair.ben)

        assert ["b.txt", "mark"] == hidden
        eventually(lambda: ["a.txt", "b.txt", "mark"] == listed(), timeout_s=8)
        pair.agree()

    def test_delete_when_the_other_has_edited_keeps_the_edit(self, pair: Pair) -> None:
        """A delete of a version that its maker never saw is not carried out."""
        pair.sh(pair.ann, "echo of ann > a.txt")
        pair.sh(pair.ben, "rm a.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert md5_of("of ann\n") == pair.held()["a.txt"]
        pair.agree()

    def test_edit_when_the_other_has_deleted_is_kept(self, pair: Pair) -> None:
        """The edit is a file again."""
        pair.sh(pair.ann, "rm a.txt")
        pair.sh(pair.ben, "echo of ben > a.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert md5_of("of ben\n") in pair.held().values()
        pair.agree()

    def test_delete_when_both_do_it_is_done(self, pair: Pair) -> None:
        """The second has nothing left to do."""
        for world in (pair.ann, pair.ben):
            pair.sh(world, "rm a.txt; rm -r folder")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {} == pair.held()
        pair.agree()

    def test_folder_when_deleted_while_the_other_adds_to_it_keeps_what_is_new(
        self, pair: Pair
    ) -> None:
        """What the deleter never saw stays, and so does its folder."""
        pair.sh(pair.ann, "echo of ann > folder/new.txt")
        pair.sh(pair.ben, "rm -r folder")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {"a.txt", "folder", "folder/new.txt"} == set(pair.held())
        pair.agree()

    def test_file_when_added_to_a_folder_that_the_other_has_deleted_is_kept(
        self, pair: Pair
    ) -> None:
        """Its folder is made anew."""
        pair.sh(pair.ann, "rm -r folder")
        pair.sh(pair.ben, "echo of ben > folder/new.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert md5_of("of ben\n") == pair.held()["folder/new.txt"]
        pair.agree()


class TestPlaces:
    def test_rename_when_the_other_edits_keeps_the_edit_under_one_name(self, pair: Pair) -> None:
        """Name and bytes are changed apart, and both changes hold."""
        pair.sh(pair.ann, "mv a.txt renamed.txt")
        pair.sh(pair.ben, "echo of ben > a.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {"folder", "folder/b.txt", "renamed.txt"} == set(pair.held())
        assert md5_of("of ben\n") == pair.held()["renamed.txt"]
        pair.agree()

    def test_rename_when_both_rename_leaves_one_file(self, pair: Pair) -> None:
        """One of the two names."""
        pair.sh(pair.ann, "mv a.txt ann.txt")
        pair.sh(pair.ben, "mv a.txt ben.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert 1 == len({"ann.txt", "ben.txt"} & set(pair.held()))
        assert 1 == list(pair.held().values()).count(md5_of("first\n"))
        pair.agree()

    def test_folder_when_moved_while_the_other_adds_to_it_takes_it_along(self, pair: Pair) -> None:
        """The new file is in the folder, wherever that is."""
        pair.sh(pair.ann, "mv folder moved")
        pair.sh(pair.ben, "echo of ben > folder/new.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {"a.txt", "moved", "moved/b.txt", "moved/new.txt"} == set(pair.held())
        pair.agree()

    def test_swap_when_the_other_edits_one_of_them_loses_nothing(self, pair: Pair) -> None:
        """A ring of names against an edit."""
        pair.sh(pair.ann, "mv a.txt t; mv folder/b.txt a.txt; mv t folder/b.txt")
        pair.sh(pair.ben, "echo of ben > a.txt")
        pair.send(pair.ann)
        pair.send(pair.ben)

        assert {md5_of("of ben\n"), md5_of("inside\n"), md5_of("first\n")} <= pair.digests()
        assert {md5_of("of ben\n"), md5_of("inside\n")} <= set(pair.held().values())
        pair.agree()


class TestAtOnce:
    def test_files_when_both_write_them_again_and_again_are_all_somewhere(self, pair: Pair) -> None:
        """Neither waits for the other: what either last wrote is shown, or kept as a version."""
        for world in (pair.ann, pair.ben):
            world.control.post(changes.RESUME)
        code = r"""
for n in range(12):
    with open(f'{argv[0]}/f{n % 4}.txt', 'w') as f:
        f.write(f'{argv[1]} {n}\n'); f.flush(); os.fsync(f.fileno())
    time.sleep(0.02 * (n % 3))
print('done')
"""
        running = [
            world.begin_python(code, pair.at(world), name)
            for world, name in ((pair.ann, "ann"), (pair.ben, "ben"))
        ]
        for program, world in zip(running, (pair.ann, pair.ben), strict=True):
            assert "done" == program.wait(60).out.strip(), f"{program.err}\n{world.log()[-3000:]}"
        for world in (pair.ann, pair.ben):
            pair.send(world)
        last = {md5_of(f"{name} {n}\n") for name in ("ann", "ben") for n in range(8, 12)}

        assert set() == last - pair.digests()
        pair.agree()
