"""When a folder is asked about again, and what becomes of the answer."""

from __future__ import annotations

from contextlib import suppress
from typing import ClassVar

import pytest

from synd.clock import NS
from synd.errors import NotFound, Offline, ProtocolError
from synd.ids import EntityId, Version
from synd.mirror.poll import ACTIVE_S, IDLE_FOR_S, LOOK_ROWS_PER_S, due, interval_s, same
from synd.model import Access, Header, Kind
from synd.store.entities import Row
from synd.store.folders import FolderRow
from synd.testing import FakeClock
from syndd.mount.nodes import folder_node

NOW = 1_000_000
FRESH, IDLE = 30.0, 300.0


def folder(id=1, *, checked=0.0, visited=0.0) -> FolderRow:
    """A folder checked and visited so many seconds ago."""
    now = NOW * NS
    return FolderRow(
        EntityId(id), 1, int(now - checked * NS), int(now - visited * NS), 0, 0, EntityId(9)
    )


@pytest.mark.parametrize(
    ("visited", "every"),
    [
        (0, FRESH), (ACTIVE_S, FRESH), (ACTIVE_S + 1, IDLE), (IDLE_FOR_S, IDLE),
        (IDLE_FOR_S + 1, float("inf")), (-3600, FRESH),
    ],
    ids=["now", "just active", "idle", "just idle", "forgotten", "clock set back"],
)  # fmt: skip
def test_interval_follows_the_last_look(visited, every):
    """Looked at lately: often; for a day: rarely; then not at all."""
    assert every == interval_s(folder(visited=visited), NOW * NS, fresh_s=FRESH, idle_s=IDLE)


DUE = {
    "nothing": ([], []),
    "fresh": ([folder(1, checked=29)], []),
    "due": ([folder(1, checked=30)], [1]),
    "most overdue first": ([folder(1, checked=31), folder(2, checked=90)], [2, 1]),
    "in its own intervals": (
        [folder(1, checked=600, visited=2000), folder(2, checked=90)],
        [2, 1],
    ),
    "idle not yet": ([folder(1, checked=200, visited=2000)], []),
    "forgotten": ([folder(1, checked=1e6, visited=1e5)], []),
    "checked in the future": ([folder(1, checked=-500), folder(2, checked=90)], [1, 2]),
}


@pytest.mark.parametrize(("rows", "ids"), DUE.values(), ids=DUE)
def test_due_are_those_whose_time_is_over(rows, ids):
    """Counted in each folder's own interval; a clock that was set back means ask again."""
    assert ids == [r.id for r in due(rows, NOW * NS, fresh_s=FRESH, idle_s=IDLE)]


def test_due_when_the_interval_is_nothing_then_is_everything_oldest_first():
    """`freshness_s = 0` asks about every visited folder at each look."""
    rows = [folder(1, checked=0), folder(2, checked=5)]

    assert [2, 1] == [r.id for r in due(rows, NOW * NS, fresh_s=0.0, idle_s=0.0)]


ROW = Row(
    EntityId(5), EntityId(1), "a", b"a", "file", Version(2), 1, 10, "", -1, "", None, None, None,
    "", "", "s3", None, None, None, 0, None,
)  # fmt: skip
SAME = {
    "as it is": (Header(EntityId(5), "a", Kind.FILE, Version(2), 1, 10), ROW, True),
    "unknown": (Header(EntityId(5), "a", Kind.FILE, Version(2), 1, 10), None, False),
    "renamed": (Header(EntityId(5), "b", Kind.FILE, Version(2), 1, 10), ROW, False),
    "new version": (Header(EntityId(5), "a", Kind.FILE, Version(3), 1, 10), ROW, False),
    "modified": (Header(EntityId(5), "a", Kind.FILE, Version(2), 1, 11), ROW, False),
    "elsewhere": (
        Header(EntityId(5), "a", Kind.FILE, Version(2), 1, 10), ROW._replace(parent=EntityId(3)), False,
    ),
    "a folder's version means nothing": (
        Header(EntityId(5), "a", Kind.FOLDER, Version(1), 1, 10),
        ROW._replace(kind="folder", version=Version(0)),
        True,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("header", "row", "equal"), SAME.values(), ids=SAME)
def test_same_compares_all_that_a_listing_tells(header, row, equal):
    """Name, place, kind, version and time."""
    assert equal is same(header, row, 1)


class TestPoller:
    @pytest.fixture
    def clock(self, remote) -> FakeClock:
        return remote.clock

    @pytest.fixture
    def ids(self, remote) -> dict[str, EntityId]:
        return remote.tree(None, {"P": {"d": {"a": b"1"}, "e": {"b": b"2"}}, "Q": {}})

    @pytest.fixture
    def parts(self, build, clock, ids):
        made = build(clock=clock)
        for path in ("P/d", "P/e"):
            made.entries(path)
        made.run(made.poller.step())
        made.remote.calls.clear()
        made.told.take()
        return made

    def step(self, parts) -> int:
        return parts.run(parts.poller.step())

    def test_step_before_anything_is_due_asks_nothing(self, parts, clock):
        """An idle mount costs no request."""
        clock.advance(29)

        assert 0 == self.step(parts)
        assert {} == parts.remote.calls

    def test_step_asks_one_request_per_due_folder(self, parts, clock):
        """The top, the project and two folders; nothing changed, so nothing is listed again."""
        clock.advance(31)

        assert 4 == self.step(parts)
        assert {"children": 4} == parts.remote.calls
        assert 0 == self.step(parts)
        assert (set(), set()) == parts.told.take()

    CHANGES: ClassVar = {
        "added": lambda r, ids: r.file(ids["P/d"], "new", b"x"),
        "renamed": lambda r, ids: r.rename(ids["P/d/a"], "z"),
        "deleted": lambda r, ids: r.trash(ids["P/d/a"]),
        "new version": lambda r, ids: r.new_version(ids["P/d/a"], b"22"),
        "annotated": lambda r, ids: r.annotate(ids["P/d/a"], k="v"),
        "moved away": lambda r, ids: r.move(ids["P/d/a"], ids["P"]),
        "moved in": lambda r, ids: r.move(ids["P/e/b"], ids["P/d"]),
    }

    @pytest.mark.parametrize("change", CHANGES)
    def test_changed_folder_is_listed_again(self, parts, clock, remote, ids, change):
        """Whatever somebody else does to it."""
        self.CHANGES[change](remote, ids)
        clock.advance(31)
        self.step(parts)

        now = parts.run(remote.children(ids["P/d"]))
        told = {(h.id, h.name, h.version, h.modified_on_ns) for h in now.headers}
        assert told == {
            (r.id, r.name, r.version, r.modified_ns)
            for r in parts.tree.entities.children(ids["P/d"])
        }
        assert parts.told.take() != (set(), set())

    def test_step_keeps_to_its_budget(self, build, clock, remote):
        """So many requests a minute, most overdue first; the rest waits for later rounds."""
        project = remote.project("P")
        for n in range(20):
            remote.folder(project, f"d{n}")
        parts = build(clock=clock, per_minute=60)
        for n in range(20):
            parts.entries(f"P/d{n}")
        clock.advance(40)
        asked = []
        for _ in range(30):
            asked.append(self.step(parts))
            clock.advance(1)

        assert max(asked) <= 2
        assert 20 <= sum(asked) <= 33

    def test_visit_among_very_many_folders_comes_first(self, build, clock, remote):
        """Very many are looked through rarely; who comes back to a stale one does not wait for that."""
        project = remote.project("P")
        folders = [remote.folder(project, f"d{n}") for n in range(2 * LOOK_ROWS_PER_S + 50)]
        parts = build(clock=clock, per_minute=60)
        for n in range(len(folders)):
            parts.entries(f"P/d{n}")
        clock.advance(40)
        self.step(parts)
        remote.file(folders[0], "new", b"x")
        parts.tree.visit(folders[0])
        clock.advance(1)
        self.step(parts)

        assert ["new"] == [r.name for r in parts.tree.entities.children(folders[0])]

    def test_idle_folders_are_asked_rarely_and_forgotten_ones_never(self, parts, clock):
        """Nobody has looked for a quarter of an hour, and for a day."""
        clock.advance(ACTIVE_S + 60)
        assert 4 == self.step(parts)
        clock.advance(100)
        assert 0 == self.step(parts)
        clock.advance(201)
        assert 4 == self.step(parts)
        clock.advance(IDLE_FOR_S + 1)
        assert 0 == self.step(parts)

        parts.node("P/d/a")
        assert 1 <= self.step(parts)

    def test_clock_set_back_asks_again(self, parts, clock):
        """A check in the future proves nothing."""
        clock._now_ns -= 7200 * NS
        clock.advance(1)

        assert 4 == self.step(parts)
        assert 0 == self.step(parts)

    def test_offline_step_raises_and_the_next_goes_on(self, parts, clock, remote):
        """Being offline is a state of the client; polling goes on once it is over."""
        clock.advance(31)
        remote.offline = True
        with pytest.raises(Offline):
            self.step(parts)

        remote.offline = False
        assert 4 == self.step(parts)
        assert parts.poller.last_error is None

    def test_deleted_folder_is_told_and_does_not_starve_the_others(self, parts, clock, remote, ids):
        """It leaves its parent at once, and is not asked about over and over."""
        remote.trash(ids["P/d"])
        clock.advance(31)
        self.step(parts)

        names, _ = parts.told.take()
        assert (folder_node(ids["P"]), b"d") in names
        assert parts.tree.entities.child(ids["P"], b"d") is None
        remote.calls.clear()
        for _ in range(5):
            clock.advance(1)
            assert 0 == self.step(parts)
        assert {} == remote.calls

    def test_folder_closed_to_us_waits_for_its_turn_like_the_others(
        self, parts, clock, remote, ids
    ):
        """A refusal is no reason to ask every second."""
        remote.permit(ids["P/d"], Access(can_view=False))
        clock.advance(31)
        self.step(parts)
        remote.calls.clear()
        clock.advance(5)

        assert 0 == self.step(parts)
        assert {} == remote.calls

    @pytest.mark.announces("poll.failed")
    def test_trouble_with_one_folder_is_not_the_others(self, parts, clock, remote, ids):
        """An answer that cannot be understood is told; the rest is polled all the same."""
        remote.new_version(ids["P/e/b"], b"new")
        remote.new_version(ids["P/d/a"], b"new")
        clock.advance(31)
        remote.fail(ProtocolError("what?"), call="children", times=1)
        self.step(parts)
        assert parts.poller.last_error is not None

        clock.advance(31)
        self.step(parts)
        assert parts.poller.last_error is None
        assert 2 == parts.tree.entities.get(ids["P/d/a"]).version
        assert 2 == parts.tree.entities.get(ids["P/e/b"]).version

    def test_visit_while_a_listing_is_under_way_is_polled_later(self, build, clock, remote, ids):
        """Polling begins where the reader has been, even if he was gone before the listing landed."""
        parts = build(clock=clock)
        parts.tree.visit(ids["P/d"])
        self.step(parts)
        parts.run(parts.tree.list_folder(ids["P/d"]))
        remote.new_version(ids["P/d/a"], b"new")
        clock.advance(31)
        self.step(parts)

        assert 2 == parts.tree.entities.get(ids["P/d/a"]).version

    def test_freshness_tells_what_holds(self, parts, clock):
        """Setting, folders watched, the oldest answer, and what the budget allows."""
        clock.advance(12)
        found = parts.poller.freshness()

        assert (30.0, 4, 12.0) == (found.setting_s, found.watched, found.oldest_s)
        assert 30.0 == found.bound_s

    def test_gone_entity_that_comes_back_is_seen(self, parts, clock, remote, ids):
        """Restored from the trash can."""
        remote.trash(ids["P/d"])
        clock.advance(31)
        self.step(parts)
        with pytest.raises(NotFound):
            parts.node("P/d")
        remote.untrash(ids["P/d"])
        clock.advance(31)
        with suppress(NotFound):
            self.step(parts)

        assert ["a"] == parts.names("P/d")
