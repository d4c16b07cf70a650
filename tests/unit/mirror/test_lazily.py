"""Large files edited before their bytes are here: the rest comes in turns, and comes back with a restore."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from synd.cache.lazymap import BLOCK
from synd.errors import NotFound, StoreError
from synd.ids import EntityId
from synd.mirror.bases import base_of
from synd.mirror.lazily import LazyFiles
from synd.mirror.overlay import Seen
from tests.support.mounts import eventually
from tests.support.parts import noise
from tests.support.takings import Takings

SIZE = 20 * BLOCK + 77
BASE = noise(SIZE)
OWN = b"\1" * BLOCK
EDITED = BASE[: 3 * BLOCK] + OWN + BASE[4 * BLOCK :]


@pytest.fixture
def ids(remote, storage) -> dict[str, EntityId]:
    return remote.tree(None, {"P": {"a": BASE, "b": noise(SIZE, 1), "c": noise(SIZE, 2)}})


@pytest.fixture
def edits(build, remote, ids) -> Takings:
    return Takings(build(lazy_from_bytes=BLOCK, clock=remote.clock))


def cut_off(edits: Takings, path: str = "P/a") -> None:
    """The service goes away once it is known what the file is; its bytes are not here."""
    edits.parts.run(edits.parts.tree.detail(EntityId(edits.parts.node(path).ino)))
    edits.parts.remote.offline = True


def whole(edits: Takings, number: int) -> bool:
    return not edits.parts.overlay.locals.get(number).lazy


class TestFilling:
    def test_rest_of_one_file_that_cannot_be_had_holds_up_no_other(self, edits, remote, ids):
        """The others are sent; that one waits, blocked, with the reason for people."""
        rows = {}
        for name in ("a", "b", "c"):
            edits.parts.node(f"P/{name}")
            edits.parts.run(edits.parts.tree.detail(ids[f"P/{name}"]))
        remote.trash(ids["P/a"])
        for name in ("a", "b", "c"):
            rows[name] = edits.edit(f"P/{name}", 3 * BLOCK, OWN)
        eventually(lambda: whole(edits, rows["b"].id) and whole(edits, rows["c"].id))

        stuck = eventually(lambda: edits.parts.overlay.locals.get(rows["a"].id).problem)
        now = edits.parts.overlay.locals.get(rows["a"].id)
        assert (now.lazy, now.state) == (1, "blocked")
        assert "made from" in json.loads(stuck)["title"]
        expected = noise(SIZE, 1)
        assert expected[: 3 * BLOCK] + OWN + expected[4 * BLOCK :] == edits.bytes_of(
            edits.parts.overlay.locals.get(rows["b"].id)
        )

    def test_rest_that_can_be_had_again_comes_by_itself(self, edits, remote, ids):
        """Also that of a blocked file, which is queued again then."""
        parts = edits.parts
        parts.run(parts.tree.detail(ids["P/a"]))
        row = parts.tree.entities.get(ids["P/a"])
        done: list[int] = []
        lazily = LazyFiles(
            parts.overlay, parts.staging, parts.cache, parts.streams,
            on_whole=done.append, retry_s=0.005,
        )  # fmt: skip
        try:
            with parts.overlay.change() as tx:
                staged = parts.overlay.locals.next_number(tx)
            lazily.begin(row, staged)
            with parts.overlay.change() as tx:
                local = parts.overlay.claim(tx, Seen(None, row))
                parts.overlay.locals.update(
                    tx, local.id, staged=staged, lazy=1, edit=1, state="waiting", **base_of(row)
                )
            remote.trash(ids["P/a"])
            lazily.fill(staged)
            eventually(lambda: parts.overlay.locals.get(local.id).state == "blocked")
            remote.untrash(ids["P/a"])
            eventually(lambda: done == [staged])
        finally:
            lazily.close()

        assert whole(edits, local.id)
        assert parts.staging.path(staged).read_bytes() == BASE
        assert not parts.staging.is_lazy(staged)


class TestRestore:
    @pytest.mark.parametrize("restarted", [False, True])
    def test_edit_that_lacked_bytes_comes_back_whole(self, build, edits, remote, ids, restarted):
        """Its own bytes are what was written, the others those of the version it was made from."""
        cut_off(edits)
        row = edits.take(edits.edit("P/a", 3 * BLOCK, OWN))
        assert edits.staging.has_map(edits.staging.number_of(row.file))
        remote.offline = False
        remote.new_version(ids["P/a"], b"by somebody else")
        if restarted:
            edits.parts.close()
            edits = Takings(build(lazy_from_bytes=BLOCK, clock=remote.clock))
            edits.parts.contents.prepare()
            edits.parts.contents.start()
        edits.parts.node("P/a")
        back = edits.restore(row)
        eventually(lambda: whole(edits, back.id))
        back = edits.parts.overlay.locals.get(back.id)

        assert edits.bytes_of(back) == EDITED
        assert (back.state, back.size, back.edit > back.sent) == ("waiting", SIZE, True)
        assert edits.staging.recovered_names() == []
        assert edits.list.recovered() == []

    def test_edit_that_comes_back_while_offline_waits_for_the_rest(self, edits, remote):
        """What was written can be read; it can be taken away and brought back again."""
        cut_off(edits)
        row = edits.take(edits.edit("P/a", 3 * BLOCK, OWN))
        back = edits.restore(row)
        assert not whole(edits, back.id)
        lazy = edits.lazily.get(back.staged)
        assert lazy.read(3 * BLOCK, BLOCK) == OWN
        again = edits.take(back)
        assert edits.staging.has_map(edits.staging.number_of(again.file))
        remote.offline = False
        back = edits.restore(again)
        eventually(lambda: whole(edits, back.id))

        assert edits.bytes_of(edits.parts.overlay.locals.get(back.id)) == EDITED

    def test_restore_when_the_base_is_known_no_more_says_where_the_bytes_lie(self, edits):
        """Nothing is lost or half restored by the refusal."""
        cut_off(edits)
        row = edits.take(edits.edit("P/a", 3 * BLOCK, OWN))
        with edits.parts.overlay.change() as tx:
            tx.execute("DELETE FROM meta WHERE name LIKE 'lazy:%'")
        with pytest.raises(NotFound, match="made from is known no more") as caught:
            edits.undoing.restore(row.id)
        path = edits.staging.recovered_path(row.file)

        assert str(path) in caught.value.hint
        assert path.read_bytes()[3 * BLOCK : 4 * BLOCK] == OWN
        assert list(edits.staging.numbers()) == []
        assert [r.id for r in edits.list.recovered()] == [row.id]
        assert edits.parts.overlay.seen(edits.parts.node("P/a").ino).local.staged == 0

    def test_restore_when_the_map_is_damaged_says_where_the_bytes_lie(self, edits):
        """It is never guessed which bytes are the user's."""
        cut_off(edits)
        row = edits.take(edits.edit("P/a", 3 * BLOCK, OWN))
        (kept,) = Path(edits.staging.recovered).glob(".*.map")
        kept.write_bytes(b"damaged")
        with pytest.raises(StoreError) as caught:
            edits.undoing.restore(row.id)

        assert str(edits.staging.recovered_path(row.file)) in caught.value.hint
        assert list(edits.staging.numbers()) == []
        assert [r.id for r in edits.list.recovered()] == [row.id]

    @pytest.mark.parametrize("named", [False, True])
    def test_restore_that_was_killed_is_done_or_undone(self, build, edits, remote, named):
        """Before its row is durable the file stays recovered, afterwards it is the edit: with its base."""
        cut_off(edits)
        row = edits.take(edits.edit("P/a", 3 * BLOCK, OWN))
        overlay = edits.parts.overlay
        with overlay.change() as tx:
            staged = overlay.locals.next_number(tx)
        edits.staging.restore_recovered(row.file, staged)
        edits.lazily.bring_back(edits.staging.number_of(row.file), staged)
        if named:
            local = overlay.seen(edits.parts.node("P/a").ino).local
            with overlay.change() as tx:
                overlay.locals.update(tx, local.id, staged=staged, lazy=1, edit=2, size=SIZE)
                tx.execute("DELETE FROM recovered")
        edits.parts.close()
        remote.offline = False
        again = Takings(build(lazy_from_bytes=BLOCK, clock=remote.clock))
        again.parts.contents.prepare()
        again.parts.contents.start()
        if not named:
            assert list(again.staging.numbers()) == []
            again.parts.node("P/a")
            again.restore(row)
        found = again.parts.overlay.seen(again.parts.node("P/a").ino).local
        eventually(lambda: whole(again, found.id))

        assert again.bytes_of(again.parts.overlay.locals.get(found.id)) == EDITED
        assert again.staging.recovered_names() == []

    def test_second_restore_of_the_same_is_refused(self, edits):
        """One file never becomes two edits that share their bytes."""
        row = edits.take(edits.create("P", "new", b"bytes"))
        first = edits.restore(row)
        with pytest.raises(NotFound):
            edits.undoing.restore(row.id)

        assert edits.bytes_of(first) == b"bytes"
        assert list(edits.staging.numbers()) == [first.staged]
