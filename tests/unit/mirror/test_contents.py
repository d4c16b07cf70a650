"""Writing, closing and the end of an edit, where the mount's own tests do not come."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from synd.cache.lazymap import BLOCK
from synd.errors import CacheFull, Stale
from synd.ids import EntityId
from tests.support.mounts import eventually
from tests.support.parts import noise
from tests.support.takings import Takings

SIZE = 4 * BLOCK


@pytest.fixture
def edits(build, remote, storage) -> Takings:
    remote.tree(None, {"P": {"a": noise(SIZE)}})
    return Takings(build(lazy_from_bytes=BLOCK, clock=remote.clock))


def test_close_when_one_file_is_damaged_answers_all_others(build, edits, remote):
    """An edit whose map cannot be read is told to its writer and shown as blocked; the rest goes on."""
    edits.parts.node("P/a")
    edits.parts.run(edits.parts.tree.detail(EntityId(edits.parts.node("P/a").ino)))
    remote.offline = True
    local = edits.edit("P/a", BLOCK, b"\1" * BLOCK)
    edits.parts.close()
    Path(edits.staging.map_path(local.staged)).write_bytes(b"damaged")
    os.utime(edits.staging.path(local.staged))
    again = Takings(build(lazy_from_bytes=BLOCK, clock=remote.clock))
    remote.offline = False
    again.parts.contents.prepare()
    assert again.parts.contents.start() == 1
    made = again.create("P", "new", b"other")

    assert (made.edit, made.state) == (1, "waiting")
    eventually(lambda: again.parts.overlay.locals.get(local.id).state == "blocked")
    assert "damaged" in (again.parts.overlay.locals.get(local.id).problem or "")


def test_close_when_the_disk_is_full_is_refused_and_recorded_once_there_is_room(edits):
    """Who closed it is told; the bytes that lie there all the same are queued without a restart."""
    contents, overlay = edits.parts.contents, edits.parts.overlay
    local = edits.create("P", "new", b"x")
    room = overlay.make_room

    def none() -> None:
        raise CacheFull("the disk of the state folder is full")

    overlay.make_room = none
    Path(edits.staging.path(local.staged)).write_bytes(b"longer")
    closed = contents.closed(local.staged)
    with pytest.raises(CacheFull):
        closed.result(10)
    assert [local.staged] == contents.refused()
    assert (1, 1) == (overlay.locals.get(local.id).edit, overlay.locals.get(local.id).size)
    overlay.make_room = room

    eventually(lambda: not contents.refused())
    now = overlay.locals.get(local.id)
    assert (2, 6, "waiting") == (now.edit, now.size, now.state)


@pytest.mark.parametrize("passes", [True, False])
def test_descriptor_is_given_only_while_the_kernel_may_write_by_itself(edits, passes):
    """Also of a new file; one that is gone is stale in any case."""
    contents = edits.parts.contents
    contents.passes = lambda: passes
    local = edits.create("P", "new", b"x")
    fd = contents.descriptor(local.staged)
    assert (fd is not None) == passes
    if fd is not None:
        os.close(fd)
    mine = os.open(edits.staging.path(local.staged), os.O_RDWR)
    kept = contents.passed(mine)
    assert (kept is not None) == passes
    if kept is not None:
        os.close(kept)

    with pytest.raises(Stale):
        contents.descriptor(local.staged + 1000)


def test_start_when_files_are_made_meanwhile_leaves_them_alone(edits):
    """The mount is served while a start looks around: a new file is nobody's leftover, with a row or without."""
    contents = edits.parts.contents
    contents.prepare()
    with_row = edits.create("P", "new", b"x")
    with edits.parts.overlay.change() as tx:
        bare = edits.parts.overlay.locals.next_number(tx)
    os.close(edits.staging.create(bare))

    assert contents.start() == 0

    assert edits.staging.exists(with_row.staged)
    assert edits.staging.exists(bare)


def test_start_when_a_file_of_before_has_no_row_takes_it_away(edits):
    """The same file, but left by a daemon that was killed."""
    contents = edits.parts.contents
    with edits.parts.overlay.change() as tx:
        bare = edits.parts.overlay.locals.next_number(tx)
    os.close(edits.staging.create(bare))
    contents.prepare()

    contents.start()

    assert not edits.staging.exists(bare)
