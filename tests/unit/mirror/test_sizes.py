"""Sizes: asked for in bulk, those first that somebody waits for, and never waited for without end."""

from __future__ import annotations

import threading

import pytest

from synd.client.remote import PRIORITY, Priority
from synd.errors import Forbidden, NotFound, Offline, RemoteUnavailable
from synd.ids import EntityId
from synd.model import Access
from tests.support.mounts import eventually
from tests.support.parts import Parts, got


@pytest.fixture
def folder(remote) -> EntityId:
    """A folder of 40 files; the n-th has n bytes."""
    project = remote.project("P")
    folder = remote.folder(project, "d")
    for n in range(1, 41):
        remote.file(folder, f"f{n:02}", b"x" * n)
    return folder


def rows(parts: Parts, folder: EntityId):
    return parts.tree.entities.children(folder)


def settled(parts: Parts) -> None:
    eventually(lambda: not parts.call(lambda: dict(parts.sizes._folders)))


class TestBundles:
    def test_stat_of_one_brings_the_whole_folder_one_request_each(self, build, remote, folder):
        """Whoever stats one file of a folder nearly always stats the others."""
        parts = build()
        parts.entries("P/d")
        remote.calls.clear()
        assert 7 == parts.node("P/d/f07").size
        settled(parts)

        assert {"entity": 40} == remote.calls
        assert list(range(1, 41)) == [r.size for r in rows(parts, folder)]
        remote.calls.clear()
        assert list(range(1, 41)) == [parts.node(f"P/d/f{n:02}").size for n in range(1, 41)]
        assert {} == remote.calls

    def test_file_asked_for_goes_first(self, build, remote, folder):
        """Before all those that nobody waits for."""
        parts = build()
        parts.entries("P/d")
        asked: list[tuple[int, Priority]] = []
        real = remote.entity

        async def entity(number, *args, **how):
            asked.append((number, PRIORITY.get()))
            return await real(number, *args, **how)

        remote.entity = entity
        last = rows(parts, folder)[-1]
        got(parts.sizes.want(last))
        settled(parts)

        assert (last.id, Priority.FOREGROUND) == asked[0]
        assert {Priority.BACKGROUND} == {priority for _, priority in asked[1:]}

    def test_many_files_at_once_are_recorded_together(self, build, remote, folder):
        """A transaction per file would cost more than the answers."""
        parts = build()
        parts.entries("P/d")
        statements: list[str] = []
        parts.store._writer.set_trace_callback(statements.append)
        parts.sizes.prefetch(folder)
        eventually(lambda: all(r.current for r in rows(parts, folder)))
        settled(parts)

        assert 0 < sum(s.startswith("BEGIN") for s in statements) < 40

    def test_file_asked_for_while_a_folder_is_being_ended_is_asked_for(self, build, remote, folder):
        """Its workers have gone, its last sizes are being recorded: the next round takes it."""
        parts = build(size_wait_s=20.0)
        parts.entries("P/d")
        one, other = rows(parts, folder)[:2]
        parts.run(parts.tree.detail(one.id))
        for row in rows(parts, folder)[2:]:
            parts.run(parts.tree.detail(row.id))
        go = threading.Event()
        waiting = parts.sizes.want(other)
        parts.loop.call_soon_threadsafe(
            lambda: parts.loop.create_task(parts.tree.in_writer(lambda: go.wait(20)))
        )
        eventually(lambda: waiting.done() or parts.call(lambda: parts.sizes._recording is not None))
        with parts.store.write() as tx:
            tx.execute("UPDATE entity SET detail_ns = -1, size = NULL WHERE id = ?", (one.id,))
        late = parts.sizes.want(parts.tree.entities.get(one.id))
        parts.call(lambda: None)
        go.set()

        assert 2 == got(waiting).size
        assert 1 == got(late, 5).size

    def test_file_asked_for_while_the_last_ones_land_is_not_lost(self, build, remote, folder):
        """Whenever a stat comes, somebody works on it: here at every moment of a round."""
        parts = build(size_wait_s=5.0)
        parts.entries("P/d")
        for _ in range(15):
            for row in rows(parts, folder):
                parts.run(_undetail(parts, row.id))
            futures = [parts.sizes.want(parts.tree.entities.get(r.id)) for r in rows(parts, folder)]
            for future in futures:
                assert future is not None
                assert future.result(10) is not None

    def test_one_knows_all_of_a_row(self, build, remote, folder):
        """For jobs, which wait until it is there."""
        parts = build()
        parts.entries("P/d")
        row = parts.run(parts.sizes.one(rows(parts, folder)[4]))

        assert (5, True) == (row.size, row.current)


async def _undetail(parts: Parts, entity: EntityId) -> None:
    def write() -> None:
        with parts.store.write() as tx:
            tx.execute("UPDATE entity SET detail_ns = -1, size = NULL WHERE id = ?", (entity,))

    await parts.tree.in_writer(write)


class TestWaiting:
    def test_size_that_takes_too_long_is_unknown_once_per_folder(self, build, remote, folder):
        """A listing waits its time once, then shows what it has; the sizes come in all the same."""
        parts = build(size_wait_s=0.2)
        parts.entries("P/d")
        with_hold = _Hold(parts, remote, "entity")
        first = parts.node("P/d/f01")
        assert (0, 0.0) == (first.size, first.attr_ttl_s)
        assert parts.sizes.want(rows(parts, folder)[1]) is None
        second = parts.node("P/d/f02")
        assert (0, 0.0) == (second.size, second.attr_ttl_s)
        with_hold.release()

        eventually(lambda: rows(parts, folder)[1].size == 2)
        assert 2 == parts.node("P/d/f02").size
        assert parts.node("P/d/f02").attr_ttl_s > 0

    def test_deleted_and_closed_files_end_their_wait_with_the_reason(self, build, remote, folder):
        """The others of the folder do not suffer."""
        parts = build()
        parts.entries("P/d")
        one, two, three = rows(parts, folder)[:3]
        remote.trash(one.id)
        remote.permit(two.id, Access(can_view=False))
        waits = [parts.sizes.want(r) for r in (one, two, three)]

        with pytest.raises(NotFound):
            got(waits[0])
        with pytest.raises(Forbidden):
            got(waits[1])
        assert 3 == got(waits[2]).size

    def test_service_away_ends_every_wait_and_coming_back_is_enough(self, build, remote, folder):
        """Offline fails fast, not at the deadline; a later stat asks again."""
        parts = build(size_wait_s=60.0, wait_s=60.0)
        parts.entries("P/d")
        remote.offline = True
        waits = [parts.sizes.want(r) for r in rows(parts, folder)]
        for wait in waits:
            with pytest.raises(Offline):
                got(wait, 10)

        remote.offline = False
        assert 9 == parts.node("P/d/f09").size

    def test_failure_of_one_request_leaves_no_wait_of_another_hanging(self, build, remote, folder):
        """Those under way at that moment are answered too."""
        parts = build(size_wait_s=60.0, wait_s=60.0)
        parts.entries("P/d")
        hold = _Hold(parts, remote, "entity")
        waits = [parts.sizes.want(r) for r in rows(parts, folder)[:8]]
        eventually(lambda: remote.calls["entity"] >= 8)
        remote.fail(RemoteUnavailable("no"), call="entity", times=1)
        hold.release()
        ends = [w.exception(10) for w in waits]

        assert 1 <= sum(e is not None for e in ends) < 8
        assert [] == [w.what for w in parts.waits.all()]


class _Hold:
    """Keeps calls of one name waiting, from a test's thread."""

    def __init__(self, parts: Parts, remote, call: str) -> None:
        self._parts = parts
        self._context = remote.hold(call)
        parts.call(self._context.__enter__)

    def release(self) -> None:
        self._parts.call(lambda: self._context.__exit__(None, None, None))


class TestViews:
    def test_view_that_is_there_tells_all_sizes_of_the_project(self, build, remote, folder):
        """Three requests instead of one per file."""
        project = parts_project(remote, folder)
        remote.view(project, "everything", [project])
        parts = build(views="use")
        parts.entries("P")
        parts.entries("P/d")
        remote.calls.clear()
        assert 7 == parts.node("P/d/f07").size
        settled(parts)

        assert {"covers": 1, "view_rows": 1} == remote.calls
        assert list(range(1, 41)) == [r.size for r in rows(parts, folder)]

    def test_no_view_is_made_unless_allowed(self, build, remote, folder):
        """`use` takes what is there; bundles do the rest."""
        parts = build(views="use")
        parts.entries("P/d")
        parts.node("P/d/f07")
        settled(parts)

        assert 0 == remote.calls["create_view"]
        assert 40 == remote.calls["entity"]

    def test_view_is_made_where_allowed_and_found_again(self, build, remote, folder):
        """Once, in the project."""
        parts = build(views="create")
        parts.entries("P/d")
        parts.node("P/d/f07")
        settled(parts)
        assert 1 == remote.calls["create_view"]
        assert 0 == remote.calls["entity"]
        parts.close()

        parts = build(views="create")
        parts.run(parts.tree.list_folder(folder))
        for row in rows(parts, folder):
            parts.run(_undetail(parts, row.id))
        with parts.store.write() as tx:
            tx.execute("DELETE FROM view")
        parts.node("P/d/f07")
        settled(parts)
        assert 1 == remote.calls["create_view"]

    def test_view_that_fails_is_replaced_by_bundles(self, build, remote, folder):
        """Slower, never wrong."""
        project = parts_project(remote, folder)
        remote.view(project, "everything", [project])
        remote.fail(RemoteUnavailable("no"), call="view_rows")
        parts = build(views="use")
        parts.entries("P")
        parts.entries("P/d")
        assert 7 == parts.node("P/d/f07").size
        settled(parts)

        assert list(range(1, 41)) == [r.size for r in rows(parts, folder)]

    def test_view_that_lags_gives_way_to_bundles_for_what_changed(self, build, remote, folder):
        """A row of an older version is not believed."""
        project = parts_project(remote, folder)
        view = remote.view(project, "everything", [project])
        remote.views_lag = True
        parts = build(views="use")

        async def read() -> None:
            async for _ in remote.view_rows(view):
                pass

        parts.run(read())
        parts.entries("P")
        parts.entries("P/d")
        changed = rows(parts, folder)[2].id
        remote.new_version(changed, b"y" * 1000)
        parts.poll(folder)
        assert 1000 == parts.node("P/d/f03").size
        settled(parts)

        assert 1 == remote.calls["entity"]
        assert 40 == sum(r.current for r in rows(parts, folder))

    def test_few_unknown_sizes_are_not_worth_a_view(self, build, remote):
        """A view takes three requests at the least."""
        project = remote.project("P")
        remote.view(project, "everything", [project])
        for n in range(5):
            remote.file(project, f"f{n}", b"x")
        parts = build(views="use")
        parts.entries("P")
        parts.node("P/f1")
        settled(parts)

        assert 0 == remote.calls["view_rows"]


def parts_project(remote, folder: EntityId) -> EntityId:
    return remote._nodes[folder].parent
