"""Saved record sets: what each answer of who makes their versions means for the edit, and what a kill leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from synd.errors import Forbidden, Offline, RemoteUnavailable, Stale
from synd.ids import EntityId
from synd.mirror.curating import ChangedMeanwhile, Committed, Refused, Wanted
from synd.mirror.plan import Mode
from synd.model import Entity, Kind
from synd.store.curation import Curation, Curations
from synd.testing import FakeRemote
from tests.support.pushing import World

PROBLEM = {"type": "NotValid", "title": "1 of 2 rows are not valid", "hint": "mend them"}


def capitals(path: Path) -> bytes:
    return path.read_bytes().upper()


class FakeCurator:
    """Makes versions in the service in memory, spelled in its own way: in capitals."""

    def __init__(self, remote: FakeRemote) -> None:
        self.remote = remote
        self.script: list[Any] = []
        """What the next attempts end with; then versions are made."""
        self.after: list[Callable[[], object]] = []
        """Done at once after the next exports."""
        self.commits = 0
        self.ended: list[str] = []

    async def commit(self, wanted: Wanted) -> Committed | Refused:
        self.commits += 1
        await wanted.begun(f"session {self.commits}")
        outcome = self.script.pop(0) if self.script else None
        if isinstance(outcome, Exception):
            raise outcome
        if outcome is not None:
            await wanted.ended()
            return outcome  # type: ignore[no-any-return]
        data = wanted.path.read_bytes()
        assert wanted.still()
        await wanted.looked(Curation.VALID, {"rows": 2})
        self.remote.new_version(wanted.entity.id, data.upper())
        while self.after:
            self.after.pop()()
        await wanted.ended()
        return Committed(Curation.VALID, {"rows": 2})

    async def same_rows(self, told: Entity, path: Path) -> bool:
        assert told.file is not None
        assert told.file.handle is not None
        return self.remote.content(told.file.handle) == capitals(path)

    async def end(self, session: str) -> None:
        self.ended.append(session)


@pytest.fixture
def make(worlds: Callable[..., World], remote: FakeRemote) -> Callable[..., World]:
    made = remote.tree(None, {"P": {}})
    remote.file(made["P"], "set", b"ID,X\n1,2\n", kind=Kind.RECORD_SET)

    def world(**settings: Any) -> World:
        one = worlds(curating=FakeCurator(remote), **settings)
        one.list_all()
        remote.calls.clear()
        return one

    return world


@pytest.fixture
def world(make: Callable[..., World]) -> World:
    return make()


def curator(world: World) -> FakeCurator:
    assert isinstance(world.curating, FakeCurator)
    return world.curating


def said(world: World) -> tuple[str, int, str]:
    """(state, version, session) of the record set."""
    found = Curations(world.store).find(the_set(world))
    assert found is not None
    return found.state, found.version, found.session


def the_set(world: World) -> EntityId:
    return world.id_of("P/set")


def version(world: World) -> int:
    return world.remote._nodes[the_set(world)].current.number


class TestOutcomes:
    def test_save_when_committed_is_a_version_and_no_file_handle_of_ours(self, world, remote):
        """Nothing is uploaded or attached by who sends; the base is what the service made."""
        world.write("P/set.csv", b"id,x\n1,3\n")
        world.settle()

        assert (b"ID,X\n1,3\n", 2) == (world.server()["P/set"], version(world))
        assert {"entity": 2} == remote.calls
        assert ({}, ("valid", 2, "")) == (world.states(), said(world))
        row = world.locals.of_entity(the_set(world))
        assert row is not None
        assert (2, row.edit) == (row.base_version, row.sent)

    def test_save_when_refused_stays_and_the_next_is_tried(self, world):
        """The bytes stay here, unsent, with the reason; a further save needs no asking."""
        curator(world).script = [Refused(Curation.INVALID, {"rows": 2}, PROBLEM)]
        world.write("P/set.csv", b"id,x\nwrong\n")
        world.settle()

        assert {"P/set.csv": "blocked"} == world.states()
        assert b"id,x\nwrong\n" == world.view()["P/set.csv"]
        assert (1, ("invalid", 0, "")) == (version(world), said(world))

        world.write("P/set.csv", b"id,x\n1,4\n")
        world.settle()
        assert ({}, 2, ("valid", 2, "")) == (world.states(), version(world), said(world))

    def test_save_when_refused_is_tried_again_when_asked(self, world):
        """As after a change of the schema: the same bytes once more."""
        curator(world).script = [Refused(Curation.INVALID, {}, PROBLEM)]
        world.write("P/set.csv", b"id,x\n1,4\n")
        world.settle()
        world.pusher.retry_blocked()
        world.settle()

        assert ({}, 2) == (world.states(), version(world))

    def test_save_when_it_may_pass_is_tried_again_by_itself(self, world):
        """Rows that the service has not validated yet block nothing for ever."""
        late = RemoteUnavailable("the service has not validated 2 of 2 rows")
        curator(world).script = [Refused(Curation.PENDING, {}, late.problem(), late)]
        world.write("P/set.csv", b"id,x\n1,4\n")
        world.settle()

        assert ({}, 2, 2) == (world.states(), version(world), curator(world).commits)

    @pytest.mark.parametrize(
        "error", [Offline("no service"), RemoteUnavailable("a break"), Stale("changed"),
                  ChangedMeanwhile()],
        ids=lambda error: type(error).__name__,
    )  # fmt: skip
    def test_save_when_an_attempt_breaks_off_is_made_in_the_end(self, world, error):
        """The session that was left is deleted by the next attempt."""
        curator(world).script = [error]
        world.write("P/set.csv", b"id,x\n1,4\n")
        world.settle()

        assert ({}, 2) == (world.states(), version(world))
        assert ["session 1"] == curator(world).ended

    def test_save_when_not_permitted_is_blocked_with_the_reason(self, world):
        """As for files: trying again mends nothing."""
        curator(world).script = [Forbidden("you may not change it")]
        world.write("P/set.csv", b"id,x\n1,4\n")
        world.settle()

        assert {"P/set.csv": "blocked"} == world.states()
        assert "incomplete" == said(world)[0]

    def test_save_where_nobody_makes_versions_is_blocked(self, worlds, remote):
        """A program without grids does not send a record set as if it were a file."""
        made = remote.tree(None, {"P": {}})
        remote.file(made["P"], "set", b"x", kind=Kind.RECORD_SET)
        world = worlds()
        world.list_all()
        world.write("P/set.csv", b"y")
        world.settle()

        assert {"P/set.csv": "blocked"} == world.states()
        assert b"x" == world.server()["P/set"]

    def test_saves_when_each_is_a_version_are_merged_all_the_same(self, make):
        """`versions = "every"` is for files: a save that is not valid must not hold up the mended one."""
        world = make(every_save=True)
        curator(world).script = [Refused(Curation.INVALID, {}, PROBLEM)]
        world.write("P/set.csv", b"id,x\nwrong\n")
        world.settle()
        world.write("P/set.csv", b"id,x\n1,4\n")
        world.settle()

        assert ({}, 2) == (world.states(), version(world))


class TestConflicts:
    @pytest.mark.parametrize(
        ("mode", "held", "copies"),
        [(Mode.KEEP_BOTH, b"THEIRS", 1), (Mode.KEEP_LOCAL, b"OURS", 0),
         (Mode.OVERWRITE_LOCAL, b"THEIRS", 0)],
    )  # fmt: skip
    def test_edit_on_both_sides_goes_as_the_mode_says(self, make, mode, held, copies):
        """As for files; a copy is a file of its own."""
        world = make(conflicts=mode)
        world.write("P/set.csv", b"ours")
        world.remote.new_version(the_set(world), b"THEIRS")
        world.settle()

        assert held == world.server()["P/set"]
        beside = {p: c for p, c in world.server().items() if "(conflict " in p}
        assert [b"ours"] * copies == list(beside.values())
        assert 1 == len(world.conflicts.list(all=True))

    def test_copy_when_kept_instead_becomes_a_version_of_the_record_set(self, make):
        """Before it is sent as a file it can take the record set's place."""
        world = make()
        world.write("P/set.csv", b"ours")
        world.remote.new_version(the_set(world), b"THEIRS")
        world.settle(rounds=2)
        (conflict,) = world.conflicts.list()
        world.run(world.conflicts.resolve(conflict.id, "local"))
        world.settle()

        assert b"OURS" == world.server()["P/set"]

    def test_version_of_others_right_after_ours_is_no_conflict(self, make):
        """Ours is in the history, and what the mount shows is theirs."""
        world = make()
        curator(world).after = [lambda: world.remote.new_version(the_set(world), b"THEIRS")]
        world.write("P/set.csv", b"ours")
        world.settle()

        assert ({}, 3, b"THEIRS") == (world.states(), version(world), world.server()["P/set"])
        assert [] == list(world.conflicts.list(all=True))

    def test_edit_of_what_others_deleted_becomes_a_file(self, make):
        """Its rows are not lost with the record set."""
        world = make()
        world.write("P/set.csv", b"ours")
        world.remote.trash(the_set(world))
        world.settle()

        assert b"ours" == world.server()["P/set.csv"]


class TestKills:
    def test_export_whose_answer_was_lost_is_known_by_its_rows(self, make):
        """Other bytes than ours, the same rows: no conflict, no second version."""
        world = make()

        def lose() -> None:
            world.remote.fail(RemoteUnavailable("a break"), call="entity")

        curator(world).after = [lose]
        world.write("P/set.csv", b"ours")
        world.settle()

        assert ({}, 2, 1) == (world.states(), version(world), curator(world).commits)
        assert [] == list(world.conflicts.list(all=True))
        assert ("valid", 2, "") == said(world)
