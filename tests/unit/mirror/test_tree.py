"""Folders and entities asked for as rarely as can be, and what others change meanwhile."""

from __future__ import annotations

import asyncio

import pytest

from synd.errors import Forbidden, NotFound, Offline
from synd.ids import EntityId
from synd.model import Access, Kind
from synd.store.entities import TOP
from syndd.mount.nodes import folder_node
from tests.support.mounts import eventually
from tests.support.parts import got


@pytest.fixture
def big(remote) -> EntityId:
    """A folder of three pages."""
    project = remote.project("P")
    folder = remote.folder(project, "big")
    for n in range(120):
        remote.file(folder, f"f{n:03}", b"x")
    return folder


class TestListing:
    def test_listing_is_one_request_per_page_and_then_none(self, build, remote, big):
        """Names of a folder are asked for once, however many ask at the same time."""
        parts = build()
        futures = [parts.tree.listed(big) for _ in range(10)]
        for future in futures:
            future.result(20)
        got(parts.fs.opendir(folder_node(big)))

        assert {"children": 3} == remote.calls
        assert 120 == parts.tree.entities.count_children(big)

    def test_listing_while_others_change_the_folder_misses_nothing(self, build, remote, big):
        """Offset pages skip entries when one before them goes; the count tells, and it is begun anew."""
        parts = build()
        first = parts.run(remote.children(big)).headers[0].id
        pages = 0
        real = remote.children

        async def children(parent, **how):
            nonlocal pages
            page = await real(parent, **how)
            pages += 1
            if pages == 1:
                remote.trash(first)
            return page

        remote.children = children
        parts.run(parts.tree.list_folder(big))

        names = {r.name for r in parts.tree.entities.children(big)}
        assert {f"f{n:03}" for n in range(1, 120)} == names
        assert pages > 3

    def test_missing_folder_leaves_its_parent(self, build, remote, big):
        """404: the name is taken away, and the kernel told."""
        parts = build()
        parts.entries("P")
        remote.trash(big)
        with pytest.raises(NotFound):
            parts.tree.listed(big).result(20)

        assert parts.tree.entities.child(parts.tree.entities.get(big).parent, b"big") is None
        assert b"big" in {name for _, name in parts.told.names}

    def test_closed_folder_is_an_error_and_stays_where_it_is(self, build, remote, big):
        """403 is not absence."""
        parts = build()
        parts.entries("P")
        remote.permit(big, Access(can_view=False))
        with pytest.raises(Forbidden):
            parts.tree.listed(big).result(20)

        assert ["big"] == parts.names("P")
        assert not parts.tree.folders.is_listed(big)

    def test_first_listing_tells_nobody_and_later_ones_tell_what_changed(self, build, remote, big):
        """No notice for names that nobody can have seen."""
        parts = build()
        parts.run(parts.tree.list_folder(big))
        assert (set(), set()) == parts.told.take()

        remote.rename(parts.tree.entities.child(big, b"f000").id, "renamed")
        parts.run(parts.tree.list_folder(big))
        names, _ = parts.told.take()
        assert {(folder_node(big), b"f000"), (folder_node(big), b"renamed")} == names


class TestTop:
    def test_all_visible_projects_without_a_choice(self, build, remote):
        """What the user may see."""
        remote.project("P")
        remote.project("Q")

        assert ["P", "Q"] == build().names()

    @pytest.mark.announces("project.missing")
    def test_chosen_projects_only_and_missing_ones_left_out(self, build, remote):
        """A project that is gone or closed does not take the others with it."""
        p, q, r = (remote.project(n) for n in "PQR")
        remote.trash(q)
        remote.permit(r, Access(can_view=False))
        parts = build(projects=[p, q, r, EntityId(999999)])

        assert ["P"] == parts.names()
        assert "children" not in remote.calls
        assert [q, r, 999999] == list(parts.tree.missing)

    @pytest.mark.announces("project.missing")
    def test_chosen_project_that_stays_away_is_told_once(self, build, remote, caplog):
        """Each poll asks again, and a log that says the same for days hides the rest."""
        p = remote.project("P")
        parts = build(projects=[p])
        parts.run(parts.tree.list_folder(TOP))
        told = []
        for allowed in (False, False, True, False):
            remote.permit(p, Access(can_view=allowed))
            parts.run(parts.tree.list_folder(TOP))
            told.append(sum("project.missing" in r.getMessage() for r in caplog.records))

        assert told == [1, 1, 1, 2]

    def test_projects_cannot_be_listed_while_offline(self, build, remote):
        """An error, never an empty folder."""
        p = remote.project("P")
        remote.offline = True
        parts = build(projects=[p])
        with pytest.raises(Offline):
            parts.names()

        remote.offline = False
        assert ["P"] == parts.names()


class TestLookup:
    def test_name_in_a_small_folder_costs_its_listing(self, build, remote):
        """And, once there, nothing."""
        project = remote.project("P")
        remote.file(project, "a", b"1")
        parts = build()
        parts.node("P")
        remote.calls.clear()
        with pytest.raises(NotFound):
            parts.node("P/nope")
        with pytest.raises(NotFound):
            parts.node("P/nope2")

        assert {"children": 1} == remote.calls

    def test_name_in_a_big_folder_does_not_wait_for_the_listing(self, build, remote, big):
        """On the first page it costs one bundle, beyond it one question by name."""
        parts = build()
        parts.node("P/big")
        pages = asyncio.Event()
        real = remote.children

        async def children(parent, **how):
            if how.get("token") is not None:
                await pages.wait()
            return await real(parent, **how)

        remote.children = children
        remote.calls.clear()
        assert parts.node("P/big/f001").size == 1
        assert {"children": 1, "entity": 1} == remote.calls

        assert parts.node("P/big/f119").size == 1
        assert {"children": 1, "entity": 2, "find_child": 1} == remote.calls
        parts.call(pages.set)
        assert 120 == len(parts.names("P/big"))

    def test_name_that_a_big_folder_has_not_is_missing(self, build, remote, big):
        """Only the whole listing proves it: the mount may spell names otherwise than the service."""
        parts = build()
        with pytest.raises(NotFound):
            parts.node("P/big/nope")

        assert parts.tree.folders.is_listed(big)

    def test_name_in_a_folder_that_cannot_be_listed_is_an_error(self, build, remote, big):
        """The listing's own, and asked for once."""
        parts = build()
        node = parts.node("P/big").node
        remote.permit(big, Access(can_view=False))
        remote.calls.clear()
        with pytest.raises(Forbidden):
            got(parts.fs.lookup(node, b"f001"))

        assert {"children": 1} == remote.calls


class TestDetails:
    def test_detail_of_the_deleted_takes_its_name_away(self, build, remote):
        """404 for an entity is news of its folder."""
        ids = remote.tree(None, {"P": {"a": b"1"}})
        parts = build()
        parts.entries("P")
        remote.trash(ids["P/a"])
        with pytest.raises(NotFound):
            parts.tree.detailed(ids["P/a"]).result(20)

        assert [] == parts.names("P")
        names, _ = parts.told.take()
        assert {(folder_node(ids["P"]), b"a")} == names

    def test_detail_that_shows_a_move_is_told_in_both_folders(self, build, remote):
        """Found out by a bundle before any listing shows it, of files and of folders."""
        ids = remote.tree(None, {"P": {"d": {"a": b"1", "s": {}}, "e": {}}})
        parts = build()
        parts.entries("P/d")
        parts.entries("P/e")
        for name in ("a", "s"):
            remote.move(ids[f"P/d/{name}"], ids["P/e"])
            parts.told.take()
            parts.tree.detailed(ids[f"P/d/{name}"]).result(20)

            names, _ = parts.told.take()
            moved = name.encode()
            assert {(folder_node(ids["P/d"]), moved), (folder_node(ids["P/e"]), moved)} == names
        assert [] == parts.names("P/d")

    def test_first_detail_of_a_file_is_no_change(self, build, remote):
        """A size that was not known was never told to the kernel as true."""
        ids = remote.tree(None, {"P": {"a": b"1"}})
        parts = build()
        parts.entries("P")
        parts.told.take()
        parts.tree.detailed(ids["P/a"]).result(20)

        assert (set(), set()) == parts.told.take()


class TestVersions:
    def test_versions_are_asked_for_in_pages_and_again_after_a_change(self, build, remote):
        """Complete however many there are; otherwise kept."""
        ids = remote.tree(None, {"P": {"a": b"1"}})
        for n in range(2, 61):
            remote.new_version(ids["P/a"], b"x" * n)
        parts = build()
        parts.entries("P")
        found = parts.tree.versions(ids["P/a"]).result(20)
        assert list(range(60, 0, -1)) == [v.number for v in found]
        asked = remote.calls["versions"]
        parts.tree.versions(ids["P/a"]).result(20)
        assert asked == remote.calls["versions"]

        remote.new_version(ids["P/a"], b"x" * 61)
        parts.poll()
        assert 61 == parts.tree.versions(ids["P/a"]).result(20)[0].number


class TestPlace:
    def test_place_brings_the_way_from_the_project(self, build, remote):
        """So that an entity reached by id has its one path."""
        ids = remote.tree(None, {"P": {"d": {"e": {"a": b"1"}}}})
        parts = build()
        row = parts.run(parts.tree.place(ids["P/d/e/a"]))

        assert "a" == row.name
        assert [b"P", b"d", b"e", b"a"] == parts.tree.entities.path_of(row.id)
        asked = sum(remote.calls.values())
        parts.run(parts.tree.place(ids["P/d/e/a"]))
        assert asked == sum(remote.calls.values())

    def test_place_while_the_top_cannot_be_listed_is_found_all_the_same(self, build, remote):
        """The project is then reached by its id."""
        ids = remote.tree(None, {"P": {"a": b"1"}})
        remote.fail(Offline("no"), call="children")
        parts = build()
        parts.run(parts.tree.place(ids["P/a"]))

        assert [b"@id", b"syn%d" % ids["P"], b"a"] == parts.tree.entities.path_of(ids["P/a"])

    def test_place_of_nothing_is_not_found(self, build, remote):
        """As the service says."""
        parts = build()
        with pytest.raises(NotFound):
            parts.run(parts.tree.place(EntityId(4711)))


class TestVisits:
    def test_visits_are_taken_once(self, build):
        """The newest of each folder."""
        parts = build()
        parts.tree.visit(5)
        parts.tree.visit(5)
        parts.tree.visit(TOP)

        assert [TOP, 5] == sorted(f for f, _ in parts.tree.take_visits())
        assert [] == parts.tree.take_visits()


def test_project_kinds_are_containers(build, remote):
    """A project's row is that of a folder at the top."""
    remote.project("P")
    parts = build()
    parts.entries()

    (row,) = parts.tree.entities.children(TOP)
    assert Kind.PROJECT == row.kind
    eventually(lambda: not parts.waits.all())
