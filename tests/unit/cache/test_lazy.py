"""Files that are edited before they are here, against a plain bytearray."""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from synd.cache.lazy import Lazy
from synd.cache.lazymap import BLOCK
from synd.cache.staging import Staging
from synd.cache.statedisk import KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE
from synd.errors import (
    Busy,
    Cancelled,
    Exists,
    IntegrityError,
    NotFound,
    NotSupported,
    Offline,
    StoreError,
)
from tests.support.lazies import NUMBER, Base, Remembering, noise, staging_in, whole


@pytest.fixture
def staging(tmp_path: Path) -> Staging:
    return staging_in(tmp_path)


@pytest.fixture
def base() -> Base:
    return Base(4 * BLOCK + 777)


@pytest.fixture
def lazy(staging: Staging, base: Base) -> Lazy:
    return Lazy.create(staging, NUMBER, len(base.data), base)


def at_once(value: int | Future[int]) -> int:
    assert isinstance(value, int)
    return value


def later(value: int | Future[int]) -> Future[int]:
    assert isinstance(value, Future)
    assert not value.done()
    return value


class TestReading:
    def test_read_when_nothing_is_here_gives_the_base(self, lazy: Lazy, base: Base) -> None:
        """Bytes that nobody wrote are those of the base; nothing is kept of them."""
        assert base.data[70_000:170_000] == lazy.read(70_000, 100_000)
        assert [(70_000, 100_000)] == base.asked
        assert lazy.missing_bytes == len(base.data)
        assert lazy.read(len(base.data), 10) == b""
        assert base.data[-5:] == lazy.read(len(base.data) - 5, 100)

    def test_read_when_partly_here_asks_for_the_gaps_only(self, lazy: Lazy, base: Base) -> None:
        """Blocks that were written are not fetched."""
        lazy.write(BLOCK, bytes(2 * BLOCK))
        got = lazy.read(10, 4 * BLOCK)

        assert got == base.data[10:BLOCK] + bytes(2 * BLOCK) + base.data[3 * BLOCK : 4 * BLOCK + 10]
        assert [(10, BLOCK - 10), (3 * BLOCK, BLOCK + 10)] == base.asked

    def test_read_that_waits_shows_writes_that_came_meanwhile(self, lazy: Lazy, base: Base) -> None:
        """What was acknowledged before the answer is in it."""
        base.later = True
        reading = lazy.read(0, 2 * BLOCK)
        assert isinstance(reading, Future)
        lazy.write(0, b"\1" * BLOCK)
        base.release()

        assert b"\1" * BLOCK + base.data[BLOCK : 2 * BLOCK] == reading.result(0)

    def test_read_that_waits_when_the_file_is_cut_ends_there(self, lazy: Lazy, base: Base) -> None:
        """Bytes that were cut off meanwhile are not shown."""
        base.later = True
        reading = lazy.read(0, 2 * BLOCK)
        assert isinstance(reading, Future)
        lazy.truncate(100)
        base.release()

        assert base.data[:100] == reading.result(0)

    def test_read_that_is_given_up_cancels_its_requests(self, lazy: Lazy, base: Base) -> None:
        """Nobody fetches what nobody waits for."""
        base.later = True
        lazy.write(BLOCK, bytes(BLOCK))
        reading = lazy.read(0, 3 * BLOCK)
        assert isinstance(reading, Future)
        assert reading.cancel()

        assert [True, True] == [future.cancelled() for future, _, _ in base.waiting]

    def test_read_when_offline_raises_what_fetching_raises(self, lazy: Lazy, base: Base) -> None:
        """The errno is that of the fetch, at once or later."""
        base.offline = True
        with pytest.raises(Offline):
            lazy.read(0, 1)
        base.later = True
        reading = lazy.read(0, 1)
        base.release()

        assert isinstance(reading, Future)
        assert isinstance(reading.exception(0), Offline)

    def test_read_when_the_base_is_short_never_makes_up_bytes(self, staging: Staging) -> None:
        """A base that gives fewer bytes than asked is an error."""
        lazy = Lazy.create(staging, NUMBER, 100, lambda _offset, size: bytes(size - 1))

        with pytest.raises(IntegrityError):
            lazy.read(0, 100)
        with pytest.raises(IntegrityError):
            lazy.write(50, b"x")
        with pytest.raises(IntegrityError):
            lazy.fill()


class TestWriting:
    def test_write_of_whole_blocks_asks_nothing(self, lazy: Lazy, base: Base) -> None:
        """Whole blocks, the last short one too, need nothing of the base; offline they work."""
        base.offline = True

        assert BLOCK == lazy.write(BLOCK, b"\2" * BLOCK)
        assert lazy.write(4 * BLOCK, b"\3" * 777) == 777
        assert lazy.write(len(base.data) + 10, b"past the end") == 12
        assert base.asked == []
        assert lazy.missing_bytes == 3 * BLOCK
        assert lazy.size == len(base.data) + 22

    def test_write_into_a_block_fetches_just_that_block(self, lazy: Lazy, base: Base) -> None:
        """One request brings the block, or two that are neighbours; the next write needs none."""
        assert lazy.write(BLOCK - 1, b"ab") == 2
        assert lazy.write(5, b"c") == 1

        assert [(0, 2 * BLOCK)] == base.asked
        expected = bytearray(base.data)
        expected[BLOCK - 1 : BLOCK + 1] = b"ab"
        expected[5:6] = b"c"
        assert expected == whole(lazy)

    def test_write_that_waits_keeps_its_bytes_whatever_the_caller_does(
        self, lazy: Lazy, base: Base
    ) -> None:
        """The caller's buffer is its own again as soon as the call returns."""
        base.later = True
        buffer = bytearray(b"kept")
        writing = later(lazy.write(100, memoryview(buffer)))
        buffer[:] = b"lost"
        base.release()

        assert writing.result(0) == 4
        assert lazy.read(100, 4) == b"kept"

    def test_writes_into_one_missing_block_all_stay_in_order(self, lazy: Lazy, base: Base) -> None:
        """Of writes that wait for one block none is lost, and the last one wins."""
        base.later = True
        first = later(lazy.write(10, b"1111"))
        second = later(lazy.write(12, b"2222"))
        third = later(lazy.write(BLOCK // 2, b"3"))
        assert [(0, BLOCK)] == base.asked
        base.release()

        assert [4, 4, 1] == [one.result(0) for one in (first, second, third)]
        assert lazy.read(9, 8) == base.data[9:10] + b"112222" + base.data[16:17]
        assert lazy.read(BLOCK // 2, 1) == b"3"

    def test_write_of_a_whole_block_when_one_waits_never_overtakes_it(
        self, lazy: Lazy, base: Base
    ) -> None:
        """A write that needs nothing still comes after the one it overlaps."""
        base.later = True
        first = later(lazy.write(10, b"first"))
        second = later(lazy.write(0, b"\7" * BLOCK))
        apart = lazy.write(2 * BLOCK, b"\7" * BLOCK)
        base.release()

        assert at_once(apart) == BLOCK
        assert first.result(0) == 5
        assert second.result(0) == BLOCK
        assert lazy.read(0, BLOCK) == b"\7" * BLOCK

    def test_write_that_is_given_up_changes_nothing(self, lazy: Lazy, base: Base) -> None:
        """A cancelled Future is a write that never was; its neighbours are made."""
        base.later = True
        gone = later(lazy.write(0, b"gone"))
        kept = later(lazy.write(2, b"kept"))
        assert gone.cancel()
        base.release()

        assert kept.result(0) == 4
        assert base.data[:2] + b"kept" == lazy.read(0, 6)

    def test_write_when_fetching_fails_changes_nothing(self, lazy: Lazy, base: Base) -> None:
        """The error is the fetch's, at once or later; a later try works."""
        base.offline = True
        with pytest.raises(Offline):
            lazy.write(5, b"x")
        base.later = True
        writing = later(lazy.write(5, b"x"))
        behind = later(lazy.write(BLOCK - 1, b"yz"))
        base.release_all()
        assert isinstance(writing.exception(0), Offline)
        assert isinstance(behind.exception(0), Offline)
        base.offline = base.later = False

        assert base.data == whole(lazy)
        assert lazy.write(5, b"x") == 1
        assert lazy.read(5, 1) == b"x"

    def test_write_that_waits_when_its_block_is_cut_off_is_made_at_once(
        self, lazy: Lazy, base: Base
    ) -> None:
        """What was waited for is no part of the file any more."""
        base.later = True
        writing = later(lazy.write(BLOCK + 5, b"x"))
        lazy.truncate(BLOCK)

        assert writing.result(0) == 1
        base.release()
        assert lazy.read(BLOCK, 100) == bytes(5) + b"x"

    def test_write_when_closed_ends_in_cancelled(self, lazy: Lazy, base: Base) -> None:
        """Nothing hangs: what waits at the close is told so, what comes late as well."""
        base.later = True
        writing = later(lazy.write(5, b"x"))
        reading = lazy.read(0, 10)
        lazy.close()
        lazy.close()

        assert isinstance(writing.exception(0), Cancelled)
        with pytest.raises(Cancelled):
            lazy.write(0, b"x")
        with pytest.raises(Cancelled):
            lazy.fill()
        base.release_all()
        assert isinstance(reading, Future)
        assert base.data[:10] == reading.result(0)


class TestSize:
    def test_truncate_when_grown_again_reads_zeros(self, lazy: Lazy, base: Base) -> None:
        """What was cut off of the base never shows again, nor in the block of the cut."""
        lazy.truncate(BLOCK + 10)
        lazy.truncate(3 * BLOCK)
        lazy.write(BLOCK + 20, b"x")

        expected = base.data[: BLOCK + 10] + bytes(10) + b"x" + bytes(2 * BLOCK - 21)
        assert expected == whole(lazy)
        assert lazy.missing_bytes == BLOCK + 10
        assert lazy.fill()
        assert expected == whole(lazy)

    @pytest.mark.parametrize(
        ("mode", "grows"),
        [(PUNCH_HOLE | KEEP_SIZE, False), (ZERO_RANGE, True), (ZERO_RANGE | KEEP_SIZE, False)],
        ids=["hole", "zeros", "zeros inside"],
    )
    def test_fallocate_of_zeros_reads_zeros(
        self, lazy: Lazy, base: Base, mode: int, grows: bool
    ) -> None:
        """Zeros hide the base: whole blocks without a request, the edges with one."""
        lazy.fallocate(mode, BLOCK + 10, 2 * BLOCK)
        lazy.fallocate(mode, len(base.data) - 7, 20)

        size = len(base.data)
        expected = bytearray(base.data)
        expected[BLOCK + 10 : 3 * BLOCK + 10] = bytes(2 * BLOCK)
        expected[size - 7 :] = bytes(20 if grows else 7)
        assert expected == whole(lazy)
        assert lazy.missing_bytes == BLOCK

    def test_fallocate_of_room_keeps_what_is_read(self, lazy: Lazy, base: Base) -> None:
        """Reserved room changes no byte; it lengthens the file unless told not to."""
        lazy.fallocate(KEEP_SIZE, 0, 8 * BLOCK)
        assert base.data == whole(lazy)
        lazy.fallocate(0, 0, 5 * BLOCK)

        assert base.data + bytes(BLOCK - 777) == whole(lazy)
        with pytest.raises(NotSupported):
            lazy.fallocate(0x08, 0, BLOCK)


class TestFilling:
    def test_fill_makes_the_file_like_any_other(
        self, lazy: Lazy, base: Base, staging: Staging
    ) -> None:
        """In order, once, around what was written; then there is no map, and the base is not asked."""
        lazy.write(2 * BLOCK, b"\5" * BLOCK)
        assert lazy.fill()

        assert [(0, 2 * BLOCK), (3 * BLOCK, BLOCK + 777)] == base.asked
        assert lazy.complete
        assert lazy.missing_bytes == 0
        assert not staging.is_lazy(NUMBER)
        expected = base.data[: 2 * BLOCK] + b"\5" * BLOCK + base.data[3 * BLOCK :]
        assert expected == staging.path(NUMBER).read_bytes()
        lazy.write(0, b"later")
        lazy.truncate(7)
        lazy.sync()
        lazy.close()
        again = Lazy.open(staging, NUMBER, len(base.data), base)
        assert again.complete
        assert whole(again) == b"later" + base.data[5:7]

    def test_fill_that_is_stopped_goes_on_where_it_was(self, staging: Staging) -> None:
        """What has come stays, over a restart too."""
        base = Base(5 << 20)
        lazy = Lazy.create(staging, NUMBER, len(base.data), base)
        assert not lazy.fill(stop=lambda: len(base.asked) >= 2)
        lazy.close()
        lazy = Lazy.open(staging, NUMBER, len(base.data), base)

        assert lazy.missing_bytes == 3 << 20
        assert lazy.fill()
        assert [(n << 20, 1 << 20) for n in range(5)] == base.asked
        assert base.data == staging.path(NUMBER).read_bytes()

    def test_fill_of_some_bytes_leaves_the_rest_for_the_next_turn(self, staging: Staging) -> None:
        """So that other files have theirs in between."""
        base = Base(5 << 20)
        lazy = Lazy.create(staging, NUMBER, len(base.data), base)
        assert not lazy.fill(most=2 << 20)
        assert lazy.missing_bytes == 3 << 20
        assert not lazy.fill(most=1)
        assert lazy.missing_bytes == 2 << 20

        assert lazy.fill(most=2 << 20)
        assert base.data == whole(lazy)
        lazy.close()

    def test_fill_that_waits_when_stopped_cancels_its_request(self, lazy: Lazy, base: Base) -> None:
        """A stop does not wait for the network."""
        base.later = True
        stopping = threading.Event()
        with ThreadPoolExecutor(1) as worker:
            filling = worker.submit(lazy.fill, stopping.is_set)
            while not base.waiting:
                assert not filling.done()
            stopping.set()

            assert filling.result(20) is False
        assert base.waiting[0][0].cancelled()

    def test_fill_when_a_write_waits_makes_it(self, lazy: Lazy, base: Base) -> None:
        """A block that came by another way ends the wait for it; the late answer changes nothing."""
        base.later = True
        writing = later(lazy.write(5, b"x"))
        base.later = False
        assert lazy.fill()

        assert writing.result(0) == 1
        base.release()
        assert lazy.read(0, 10) == base.data[:5] + b"x" + base.data[6:10]

    def test_fill_when_offline_raises_and_keeps_the_map(self, lazy: Lazy, base: Base) -> None:
        """It can be tried again."""
        base.offline = True
        with pytest.raises(Offline):
            lazy.fill()
        base.offline = False

        assert not lazy.complete
        assert lazy.fill()

    def test_fill_while_others_write_loses_nothing(self, staging: Staging) -> None:
        """Writers of every block, and answers that come late, while all is brought."""
        data = noise(40 * BLOCK)
        with ThreadPoolExecutor(4) as network, ThreadPoolExecutor(5) as workers:
            lazy = Lazy.create(
                staging,
                NUMBER,
                len(data),
                lambda offset, size: network.submit(lambda: data[offset : offset + size]),
            )
            expected = bytearray(data)

            def write(part: int) -> None:
                rng = random.Random(part)
                for _ in range(150):
                    # Each writer has bytes of its own in every block.
                    at = rng.randrange(40) * BLOCK + part * 1000
                    text = rng.randbytes(rng.randrange(1, 1000))
                    expected[at : at + len(text)] = text
                    done = lazy.write(at, text)
                    assert len(text) == (done if isinstance(done, int) else done.result(20))

            writing = [workers.submit(write, part) for part in range(4)]
            assert workers.submit(lazy.fill).result(60)
            for one in writing:
                one.result(60)

        assert expected == whole(lazy)
        assert expected == staging.path(NUMBER).read_bytes()


class TestPowerLoss:
    """Of each file either what was flushed or what was written since, whichever is worse."""

    @pytest.fixture
    def disk(self, tmp_path: Path) -> Remembering:
        return Remembering(tmp_path / "staged", tmp_path / "recovered")

    def restarted(self, lazy: Lazy, disk: Remembering, base: Base, *lost: str) -> bytes:
        """The content under another boot id, after files went back to their last flush."""
        lazy.close()
        paths = {"data": str(disk.path(NUMBER)), "map": disk.map_path(NUMBER)}
        for name in lost:
            disk.lose(paths[name])
        again = Lazy.open(disk, NUMBER, len(base.data), base, boot="another")
        found = whole(again)
        again.close()
        return found

    @pytest.mark.parametrize("lost", [(), ("data",), ("map",), ("data", "map")])
    def test_sync_always_outlives_it(
        self, disk: Remembering, base: Base, lost: tuple[str, ...]
    ) -> None:
        """What was synced is there, whole blocks and parts; what the base had is not zeros."""
        lazy = Lazy.create(disk, NUMBER, len(base.data), base, boot="one")
        lazy.write(5, b"part")
        lazy.write(BLOCK, b"\1" * BLOCK)
        lazy.sync()

        expected = bytearray(base.data)
        expected[5:9] = b"part"
        expected[BLOCK : 2 * BLOCK] = b"\1" * BLOCK
        assert expected == self.restarted(lazy, disk, base, *lost)

    @pytest.mark.parametrize("lost", [("data",), ("map",), ("data", "map")])
    def test_write_without_sync_is_there_or_not(
        self, disk: Remembering, base: Base, lost: tuple[str, ...]
    ) -> None:
        """A map that reached the disk before its bytes does not make zeros of the base."""
        lazy = Lazy.create(disk, NUMBER, len(base.data), base, boot="one")
        lazy.write(5, b"part")
        lazy.write(BLOCK, b"\1" * BLOCK)

        assert base.data == self.restarted(lazy, disk, base, *lost)

    @pytest.mark.parametrize("lost", [(), ("data",), ("map",), ("data", "map")])
    def test_cut_that_was_synced_never_shows_the_base_again(
        self, disk: Remembering, base: Base, lost: tuple[str, ...]
    ) -> None:
        """The file was cut and grown: what lies between are zeros, whichever came to the disk."""
        lazy = Lazy.create(disk, NUMBER, len(base.data), base, boot="one")
        lazy.truncate(100)
        lazy.truncate(3 * BLOCK)
        lazy.sync()

        expected = base.data[:100] + bytes(3 * BLOCK - 100)
        assert expected == self.restarted(lazy, disk, base, *lost)

    def test_cut_without_sync_never_makes_zeros(self, disk: Remembering, base: Base) -> None:
        """When the map came to the disk and the cut did not, the file is as it was, or cut."""
        lazy = Lazy.create(disk, NUMBER, len(base.data), base, boot="one")
        lazy.truncate(100)
        lazy.truncate(3 * BLOCK)

        found = self.restarted(lazy, disk, base, "data")
        assert found in (base.data, base.data[:100])

    @pytest.mark.parametrize("back", [False, True], ids=["gone", "back"])
    def test_fill_always_outlives_it(self, disk: Remembering, base: Base, back: bool) -> None:
        """Once it is through, its bytes are there, even when the map's removal is lost."""
        lazy = Lazy.create(disk, NUMBER, len(base.data), base, boot="one")
        marks = Path(disk.map_path(NUMBER))
        inode = os.stat(marks).st_ino
        lazy.write(5, b"part")
        lazy.fill()
        if back:
            marks.write_bytes(disk.durable[inode])
        base.offline = True

        expected = base.data[:5] + b"part" + base.data[9:]
        assert expected == self.restarted(lazy, disk, base, "data")


class TestOpening:
    def test_create_when_it_is_there_refuses(
        self, lazy: Lazy, staging: Staging, base: Base
    ) -> None:
        """A number is given to one file; the one that is there stays."""
        with pytest.raises(Exists):
            Lazy.create(staging, NUMBER, 10, base)
        with pytest.raises(Busy):
            Lazy.open(staging, NUMBER, len(base.data), base)

        assert base.data == whole(lazy)

    def test_open_when_it_is_not_there_raises(self, staging: Staging, base: Base) -> None:
        """Nothing is made by an open."""
        with pytest.raises(NotFound):
            Lazy.open(staging, NUMBER, 10, base)

        assert not staging.exists(NUMBER)
        Lazy.create(staging, NUMBER, 10, base).close()
        Lazy.open(staging, NUMBER, 10, base).close()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda raw: raw[:-1],
            lambda raw: raw + b"\0",
            lambda raw: raw[:-1] + b"\x09",
            lambda raw: b"X" + raw[1:],
            lambda _raw: b"",
        ],
        ids=["short", "long", "foreign mark", "foreign header", "empty"],
    )
    def test_open_when_the_map_is_damaged_never_guesses(
        self, lazy: Lazy, staging: Staging, base: Base, damage: Callable[[bytes], bytes]
    ) -> None:
        """Without a sound map nobody knows which bytes are the user's: an error, and all stays."""
        lazy.close()
        path = Path(staging.map_path(NUMBER))
        path.write_bytes(damage(path.read_bytes()))

        for _ in range(2):
            with pytest.raises(StoreError):
                Lazy.open(staging, NUMBER, len(base.data), base)
        assert staging.exists(NUMBER)

    def test_open_with_another_base_refuses(self, lazy: Lazy, staging: Staging, base: Base) -> None:
        """The map is that of one base."""
        lazy.close()

        with pytest.raises(StoreError):
            Lazy.open(staging, NUMBER, len(base.data) - 1, base)

    def test_file_always_is_sparse_until_it_is_filled(self, lazy: Lazy, staging: Staging) -> None:
        """It shows its whole length from the start, and takes the room of what is here."""
        stat = os.stat(staging.path(NUMBER))

        assert stat.st_size == lazy.size == lazy.stamp().size
        assert stat.st_blocks == 0
        lazy.write(0, bytes(BLOCK))
        assert 0 < os.stat(staging.path(NUMBER)).st_blocks * 512 <= 2 * BLOCK
        assert lazy.has(0, BLOCK)
        assert not lazy.has(0, BLOCK + 1)

    def test_kept_file_takes_its_map_along(self, lazy: Lazy, staging: Staging, base: Base) -> None:
        """Taken away and restored under another number, it can still be filled."""
        lazy.write(7, b"mine")
        lazy.close()
        name = staging.recover(NUMBER, "big.bin")
        staging.restore_recovered(name, NUMBER + 1)
        staging.drop_recovered(name)
        again = Lazy.open(staging, NUMBER + 1, len(base.data), base)

        assert again.fill()
        assert base.data[:7] + b"mine" + base.data[11:] == whole(again)
        assert staging.recovered_names() == []
