"""The recovery area is kept within its bounds, and what is in it is listed, whatever was killed when."""

from __future__ import annotations

import asyncio
import logging
import os

import pytest

from synd.clock import NS
from synd.mirror.recovery import Recovery
from tests.support.mounts import eventually
from tests.support.parts import Parts, noise
from tests.support.takings import Takings

PAGE = 4096
DAY_S = 86400


@pytest.fixture
def parts(build, remote, storage) -> Parts:
    remote.tree(None, {"P": {"d": {}}})
    return build(clock=remote.clock)


@pytest.fixture
def area(parts) -> Takings:
    return Takings(parts)


def taken(area: Takings, *sizes: int, apart_s: float = DAY_S) -> list[str]:
    """So many new files taken away one after another; their names there."""
    names = []
    for number, size in enumerate(sizes):
        area.parts.remote.clock.advance(apart_s)
        made = area.create("P/d", f"f{number}", noise(size, number))
        names.append(area.take(made).file)
    return names


def left(area: Takings) -> list[str]:
    """What is listed, the oldest first; the same files are there."""
    listed = [row.file for row in reversed(area.list.recovered()) if row.file]
    assert sorted(listed) == area.staging.recovered_names()
    return listed


class TestBounds:
    def test_keep_over_the_bytes_drops_the_oldest(self, area, caplog):
        """Row and file together, as many as must; each is told."""
        caplog.set_level(logging.INFO)
        names = taken(area, PAGE, PAGE, PAGE, PAGE)
        dropped = area.recovery(max_bytes=2 * PAGE).keep()

        assert [row.file for row in dropped] == names[:2]
        assert left(area) == names[2:]
        told = [r.fields for r in caplog.records if r.message == "recovery.dropped"]
        assert [(t["path"], t["over"]) for t in told] == [("P/d/f0", "bytes"), ("P/d/f1", "bytes")]
        assert area.recovery(max_bytes=2 * PAGE).keep() == []

    def test_keep_over_the_bytes_keeps_the_newest_however_large(self, area):
        """It may be what somebody is about to miss; a smaller, older one does not outlive it."""
        names = taken(area, PAGE, 50 * PAGE)
        area.recovery(max_bytes=10 * PAGE).keep()

        assert left(area) == names[1:]
        area.recovery(max_bytes=1).keep()
        assert left(area) == names[1:]

    def test_keep_over_the_age_drops_what_is_too_old(self, area, remote):
        """The newest too, once it is as old."""
        names = taken(area, 10, 10, 10)
        recovery = area.recovery(max_age_s=3 * DAY_S)
        assert recovery.keep() == []
        remote.clock.advance(DAY_S)
        assert [row.file for row in recovery.keep()] == names[:1]
        remote.clock.advance(2 * DAY_S)
        recovery.keep()

        assert left(area) == []

    def test_keep_without_bounds_keeps_all(self, area, remote):
        """0 is no bound."""
        names = taken(area, 50 * PAGE, 50 * PAGE)
        remote.clock.advance(10_000 * DAY_S)

        assert area.recovery().keep() == []
        assert left(area) == names

    def test_keep_leaves_what_lies_in_the_trash_can(self, area, parts):
        """Rows of entities have no file here, and take no room."""
        with parts.overlay.change() as tx:
            tx.execute(
                "INSERT INTO recovered (at_ns, path, reason, entity) VALUES (1, 'P/x', 'deleted', 5)"
            )
        taken(area, 10)
        area.recovery(max_bytes=1, max_age_s=1).keep()

        assert "P/x" in [row.path for row in area.list.recovered()]

    def test_keep_of_what_is_just_restored_does_no_harm(self, area):
        """Its bytes are an edit again by then."""
        taken(area, PAGE, PAGE)
        rows = area.list.recovered()
        back = area.restore(rows[1])
        area.recovery(max_bytes=1).keep()

        assert noise(PAGE, 0) == area.bytes_of(back)
        assert left(area) == [rows[0].file]


class TestKilled:
    def test_file_whose_row_went_first_is_dropped_at_the_next_start(self, area, parts):
        """A kill between row and file leaves a file that is as old as before."""
        names = taken(area, PAGE, PAGE)
        with parts.overlay.change() as tx:
            tx.execute("DELETE FROM recovered WHERE file = ?", (names[0],))
        # The file's own time is the real one, the rows' that of a clock in the past or the future.
        at_ns = os.stat(area.staging.recovered_path(names[0])).st_ctime_ns
        parts.remote.clock.advance((at_ns - parts.remote.clock.now_ns()) / NS + DAY_S + 1)
        recovery = area.recovery(max_age_s=DAY_S)
        assert recovery.adopt() == 1
        (found,) = [row for row in area.list.recovered() if row.file == names[0]]
        assert (found.reason, found.path, found.size, found.at_ns) == ("found", "f0", PAGE, at_ns)
        recovery.keep()

        assert names[0] not in left(area)

    def test_file_that_nobody_knows_is_listed(self, build, area, parts):
        """What the start rescues can be found by `synd restore --list`, once."""
        fd = area.staging.create(1 << 45)
        os.write(fd, b"whose?")
        os.close(fd)
        parts.close()
        again = Takings(build(clock=parts.remote.clock))
        again.parts.contents.prepare()
        again.parts.contents.start()
        assert again.recovery().adopt() == 1
        assert again.recovery().adopt() == 0
        (row,) = again.list.recovered()

        assert again.staging.recovered_path(row.file).read_bytes() == b"whose?"
        assert (row.path, row.size) == ("unnamed", 6)

    def test_file_that_the_disk_forgot_to_move_is_under_its_name_again(self, build, area, parts):
        """After a power loss the row may know of a move that the disk does not."""
        (name,) = taken(area, 10)
        assert area.staging.put_back(area.staging.number_of(name))
        parts.close()
        again = Takings(build(clock=parts.remote.clock))
        again.parts.contents.prepare()
        again.parts.contents.start()

        assert again.recovery().adopt() == 0
        assert left(again) == [name]
        assert noise(10, 0) == again.bytes_of(again.restore(again.list.recovered()[0]))


class TestRun:
    def test_run_keeps_the_bounds_from_the_start_and_after_each_taking(self, area, parts):
        """Without anybody asking."""
        names = taken(area, PAGE, PAGE, apart_s=1)
        recovery = area.recovery(max_bytes=PAGE)
        parts.contents.on_recovered = recovery.taken

        async def begin(recovery: Recovery) -> asyncio.Task[None]:
            return asyncio.create_task(recovery.run())

        task = parts.run(begin(recovery))
        eventually(lambda: area.staging.recovered_names() == names[1:])
        (third,) = taken(area, PAGE, apart_s=1)
        eventually(lambda: area.staging.recovered_names() == [third])

        async def end() -> None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        parts.run(end())
        assert left(area) == [third]
