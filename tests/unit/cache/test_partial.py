"""Incomplete objects: the block map, pieces, sealing, resuming; checked against a plain model."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from synd.cache import disk
from synd.cache.objects import ObjectStore
from synd.cache.partial import BLOCK, Partial, PartialStore
from synd.errors import CacheFull, Cancelled, IntegrityError, StoreError, UsageError
from synd.ids import ContentKey, Md5
from synd.ranges import ByteRange

Make = Callable[..., tuple[ContentKey, bytes]]


class TestBlocks:
    def test_fresh_partial_misses_everything(self, partials: PartialStore, content: Make) -> None:
        """Nothing is here at first; the whole is one gap that ends with the file."""
        key, data = content(3 * BLOCK + 5)
        partial = partials.open(key, len(data))

        assert not partial.has(0, 1)
        assert [ByteRange(0, len(data))] == partial.missing(0, 1 << 40)
        assert (
            partial.have_bytes,
            partial.contiguous_prefix(),
            partial.complete,
        ) == (0, 0, False)
        partial.close()

    def test_missing_is_cut_to_blocks_around_the_range(
        self, partials: PartialStore, content: Make
    ) -> None:
        """A random read of 64 KiB asks for 80 KiB at most: its blocks, nothing more."""
        key, data = content(64 * BLOCK)
        partial = partials.open(key, len(data))

        assert [ByteRange(2 * BLOCK, 7 * BLOCK)] == partial.missing(
            2 * BLOCK + 1, 2 * BLOCK + 1 + (64 << 10)
        )
        assert [ByteRange(2 * BLOCK, 6 * BLOCK)] == partial.missing(2 * BLOCK, 6 * BLOCK)

        partial.write(3 * BLOCK, data[3 * BLOCK : 4 * BLOCK])

        assert [
            ByteRange(2 * BLOCK, 3 * BLOCK),
            ByteRange(4 * BLOCK, 7 * BLOCK),
        ] == partial.missing(2 * BLOCK + 1, 6 * BLOCK + 1)
        assert partial.has(3 * BLOCK + 7, 4 * BLOCK)
        assert not partial.has(3 * BLOCK + 7, 4 * BLOCK + 1)
        partial.close()

    def test_piece_counts_a_block_once_it_is_filled(
        self, partials: PartialStore, content: Make
    ) -> None:
        """Chunks of any length; only whole blocks count, and the last short one at the end."""
        key, data = content(2 * BLOCK + 5000)
        partial = partials.open(key, len(data))
        piece = partial.piece(0)

        ends = [piece.write(data[at : at + 5000]) for at in range(0, len(data), 5000)]

        assert [0, 0, 0, BLOCK, BLOCK, BLOCK, 2 * BLOCK, len(data)] == ends
        assert partial.complete
        assert data == partial.read(0, len(data))
        partial.close()

    def test_part_of_a_block_left_behind_does_not_count(
        self, partials: PartialStore, content: Make
    ) -> None:
        """A fetcher that dies in mid-block leaves that block to the next one."""
        key, data = content(4 * BLOCK)
        partial = partials.open(key, len(data))
        partial.piece(0).write(data[: BLOCK + 100])

        assert [ByteRange(BLOCK, 4 * BLOCK)] == partial.missing(0, len(data))

        partial.write(BLOCK, data[BLOCK:])
        assert partial.complete
        partial.close()

    def test_block_that_is_here_is_never_written_again(
        self, partials: PartialStore, content: Make
    ) -> None:
        """A late second answer with other bytes changes nothing that somebody may have read."""
        key, data = content(4 * BLOCK)
        partial = partials.open(key, len(data))
        late = partial.piece(0)
        late.write(b"x" * 10)
        partial.write(BLOCK, data[BLOCK : 2 * BLOCK])

        partial.piece(BLOCK).write(b"x" * BLOCK)
        late.write(b"y" * (3 * BLOCK - 10))

        assert data[BLOCK : 2 * BLOCK] == partial.read(BLOCK, BLOCK)
        assert partial.read(2 * BLOCK, BLOCK) == b"y" * BLOCK
        partial.close()

    def test_piece_off_the_grid_or_past_the_end_is_refused(
        self, partials: PartialStore, content: Make
    ) -> None:
        """Pieces start on a block, and more bytes than the file has are not its content."""
        key, data = content(BLOCK + 1)
        partial = partials.open(key, len(data))

        with pytest.raises(UsageError):
            partial.piece(1)
        with pytest.raises(IntegrityError):
            partial.piece(BLOCK).write(b"12")

        assert partial.have_bytes == 0
        partial.close()

    def test_prefix_follows_the_first_gap(self, partials: PartialStore, content: Make) -> None:
        """The prefix grows over blocks that came before, and falls back after a reset."""
        key, data = content(10 * BLOCK + 1)
        partial = partials.open(key, len(data))
        seen = []
        for block in (1, 0, 3, 10, 2):
            partial.write(block * BLOCK, data[block * BLOCK : (block + 1) * BLOCK])
            seen.append(partial.contiguous_prefix() // BLOCK)

        assert seen == [0, 2, 2, 2, 4]
        assert partial.have_bytes == 4 * BLOCK + 1
        partial.reset()
        assert (partial.contiguous_prefix(), partial.have_bytes) == (0, 0)
        partial.close()

    def test_empty_content_is_complete_at_once(
        self, partials: PartialStore, objects: ObjectStore, content: Make
    ) -> None:
        """Zero bytes need no fetch."""
        key, _ = content(0)
        partial = partials.open(key, 0)

        assert partial.complete
        assert partial.has(0, 0)
        assert partial.missing(0, 100) == []
        partial.seal(partial.md5())
        assert objects.has(key, 0)
        partial.close()


class TestLife:
    def test_all_users_of_a_key_share_one_partial(
        self, partials: PartialStore, content: Make
    ) -> None:
        """What one fetches the other has; the last close ends it, and what is here stays."""
        key, data = content(3 * BLOCK)
        one, other = partials.open(key, len(data)), partials.open(key, len(data))
        assert one is other
        one.write(0, data[:BLOCK])
        one.close()
        assert data[:BLOCK] == other.read(0, BLOCK)
        other.close()
        assert other.fd == -1

        again = partials.open(key, len(data))

        assert [ByteRange(BLOCK, 3 * BLOCK)] == again.missing(0, len(data))
        assert data[:BLOCK] == again.read(0, BLOCK)
        again.close()

    def test_open_with_another_size_is_refused(self, partials: PartialStore, content: Make) -> None:
        """One content has one size; what claims otherwise is wrong about one of the two."""
        key, data = content(100)
        partial = partials.open(key, len(data))

        with pytest.raises(IntegrityError):
            partials.open(key, 101)
        partial.close()

    @pytest.mark.parametrize(
        "damage",
        [
            lambda path: path.write_bytes(b""),
            lambda path: path.write_bytes(path.read_bytes()[:-1]),
            lambda path: path.write_bytes(b"X" + path.read_bytes()[1:]),
            lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\x07"),
            lambda path: path.unlink(),
        ],
        ids=["empty", "short", "foreign", "not marks", "gone"],
    )
    def test_torn_map_counts_as_empty(
        self,
        partials: PartialStore,
        content: Make,
        tmp_path: Path,
        damage: Callable[[Path], None],
    ) -> None:
        """A map that is not whole claims nothing."""
        key, data = content(3 * BLOCK)
        partial = partials.open(key, len(data))
        partial.write(0, data)
        partial.close()

        damage(tmp_path / "partial" / f"{key}.map")

        again = partials.open(key, len(data))
        assert again.have_bytes == 0
        assert [ByteRange(0, len(data))] == again.missing(0, len(data))
        again.close()

    def test_lost_or_short_data_file_counts_as_empty(
        self, partials: PartialStore, content: Make, tmp_path: Path
    ) -> None:
        """A map without its data claims nothing either."""
        key, data = content(3 * BLOCK)
        for damage in (os.unlink, lambda path: os.truncate(path, BLOCK)):
            partial = partials.open(key, len(data))
            partial.write(0, data)
            partial.close()

            damage(tmp_path / "partial" / key)

            again = partials.open(key, len(data))
            assert again.have_bytes == 0
            again.close()

    def test_reset_cancels_pieces_under_way_and_keeps_other_keys(
        self, partials: PartialStore, content: Make
    ) -> None:
        """After a mismatch all blocks of that content go, and late answers do not bring them back."""
        key, data = content(2 * BLOCK)
        partial, other = partials.open(key, len(data)), partials.open(*_sized(content(BLOCK)))
        other.write(0, content(BLOCK)[1])
        late = partial.piece(0)
        partial.write(0, data)

        partial.reset()

        with pytest.raises(Cancelled):
            late.write(data)
        assert partial.have_bytes == 0
        assert other.complete
        partial.close()
        again = partials.open(key, len(data))
        assert again.have_bytes == 0
        again.close()
        other.close()

    def test_discard_leaves_users_alone_with_it(
        self, partials: PartialStore, content: Make, tmp_path: Path
    ) -> None:
        """Discarded content is gone for the next one to open; who has it open reads on."""
        key, data = content(2 * BLOCK)
        partial = partials.open(key, len(data))
        partial.write(0, data)

        partial.discard()

        assert data == partial.read(0, len(data))
        assert list((tmp_path / "partial").iterdir()) == []
        fresh = partials.open(key, len(data))
        assert fresh is not partial
        assert fresh.have_bytes == 0
        partial.discard()
        assert (tmp_path / "partial" / key).exists()
        partial.close()
        fresh.close()

    def test_idle_lists_what_nobody_has_open(
        self, partials: PartialStore, content: Make, tmp_path: Path
    ) -> None:
        """Idle partials are for eviction; open ones cannot be discarded by it."""
        (key, data), (other, more) = content(2 * BLOCK), content(BLOCK)
        partial, opened = partials.open(key, len(data)), partials.open(other, len(more))
        partial.write(0, data)
        partial.close()
        orphan = tmp_path / "partial" / f"{'0' * 32}.map"
        orphan.write_bytes(b"left by a kill")

        assert [key] == [one.key for one in partials.idle()]
        assert not orphan.exists()
        assert partials.discard(other) == 0
        assert partials.discard(key) > 0
        assert list(partials.idle()) == []
        opened.close()


def _sized(made: tuple[ContentKey, bytes]) -> tuple[ContentKey, int]:
    return made[0], len(made[1])


class TestSeal:
    def test_seal_makes_an_object_of_the_same_inode(
        self, partials: PartialStore, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """Sealing moves the file; descriptors taken before read on, and nothing is left behind."""
        key, data = content(2 * BLOCK + 9)
        partial = partials.open(key, len(data))
        partial.write(0, data)
        inode = os.fstat(partial.fd).st_ino

        partial.seal(partial.md5())

        assert partial.sealed
        assert inode == objects.path(key).stat().st_ino
        assert objects.path(key).stat().st_mode & 0o777 == 0o444
        assert data == partial.read(0, len(data))
        assert list((tmp_path / "partial").iterdir()) == []
        partial.piece(0).write(b"late" * 4096)
        assert objects.verify(key)
        assert partials.open(key, len(data)) is partial
        partial.close()
        partial.close()

    def test_seal_of_wrong_bytes_is_refused(
        self, partials: PartialStore, objects: ObjectStore, content: Make
    ) -> None:
        """A wrong digest never becomes an object; neither does what is not complete."""
        key, data = content(BLOCK + 1)
        partial = partials.open(key, len(data))
        with pytest.raises(UsageError):
            partial.seal(Md5(key))
        partial.write(0, b"x" * len(data))

        with pytest.raises(IntegrityError):
            partial.seal(partial.md5())
        with pytest.raises(UsageError):
            partial.seal(None)

        assert not partial.sealed
        assert not objects.has(key)
        partial.reset()
        partial.write(0, data)
        partial.seal(partial.md5())
        assert objects.verify(key)
        partial.close()

    def test_seal_of_content_without_md5(
        self, partials: PartialStore, objects: ObjectStore
    ) -> None:
        """Where the key is a file handle, complete is all that can be asked."""
        partial = partials.open(ContentKey("h9"), 5)
        partial.write(0, b"hello")
        partial.seal(None)

        assert objects.has(ContentKey("h9"), 5)
        partial.close()

    def test_open_of_a_complete_object_is_sealed_at_once(
        self, partials: PartialStore, objects: ObjectStore, content: Make
    ) -> None:
        """Who missed the moment of sealing does not fetch it all again."""
        key, data = content(3 * BLOCK + 1)
        objects.put_bytes(key, data)

        partial = partials.open(key, len(data))

        assert partial.sealed
        assert partial.complete
        assert data == partial.read(0, len(data))
        assert not (objects.folder.parent / "partial").exists()
        partial.close()

    def test_take_object_goes_on_with_bytes_that_came_otherwise(
        self, partials: PartialStore, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """An object adopted meanwhile replaces the half-fetched file under its readers."""
        key, data = content(3 * BLOCK + 1)
        partial = partials.open(key, len(data))
        fd = partial.fd
        assert not partial.take_object()

        objects.put_bytes(key, data)

        assert partial.take_object()
        assert fd == partial.fd
        assert data == os.pread(fd, 1 << 20, 0)
        assert partial.sealed
        assert list((tmp_path / "partial").iterdir()) == []
        partial.close()

    def test_seal_after_the_folder_was_removed_keeps_the_bytes(
        self, partials: PartialStore, objects: ObjectStore, content: Make, tmp_path: Path
    ) -> None:
        """Somebody removes the cache while a file arrives: it still ends as a right object."""
        key, data = content(4 * BLOCK)
        partial = partials.open(key, len(data))
        partial.write(0, data[:BLOCK])
        shutil.rmtree(tmp_path / "partial")
        partial.write(BLOCK, data[BLOCK:])

        partial.seal(partial.md5())

        assert objects.verify(key)
        partial.close()
        other, more = content(BLOCK)
        shutil.rmtree(tmp_path / "objects")
        fresh = partials.open(other, len(more))
        fresh.write(0, more)
        fresh.seal(fresh.md5())
        assert objects.verify(other)
        fresh.close()


class TestTrouble:
    def test_write_on_a_full_disk_asks_for_room_once(
        self, tmp_path: Path, content: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No room: ask, try once more; still none: CacheFull, and the blocks do not count."""
        key, data = content(2 * BLOCK)
        gives = [True]
        partials = PartialStore(tmp_path, ObjectStore(tmp_path), on_full=lambda _: gives[0])
        partial = partials.open(key, len(data))
        broken = [1]
        real = disk.write_at

        def write_at(fd: int, data: bytes, offset: int) -> None:
            if broken[0]:
                broken[0] -= 1
                raise OSError(errno.ENOSPC, "full")
            real(fd, data, offset)

        monkeypatch.setattr("synd.cache.partial.write_at", write_at)
        partial.write(0, data[:BLOCK])
        assert partial.has(0, BLOCK)

        broken[0], gives[0] = 2, False
        with pytest.raises(CacheFull):
            partial.write(BLOCK, data[BLOCK:])
        assert not partial.has(BLOCK, 2 * BLOCK)
        partial.close()

    def test_broken_disk_is_a_store_error(
        self, tmp_path: Path, content: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Other failures to write keep their name, and ask nobody for room."""
        key, data = content(BLOCK)
        partials = PartialStore(
            tmp_path, ObjectStore(tmp_path), on_full=lambda _: pytest.fail("asked")
        )
        partial = partials.open(key, len(data))

        def write_at(fd: int, data: bytes, offset: int) -> None:
            raise OSError(errno.EIO, "broken")

        monkeypatch.setattr("synd.cache.partial.write_at", write_at)
        with pytest.raises(StoreError):
            partial.write(0, data)
        partial.close()

    def test_grow_hook_hears_of_every_block_once(self, tmp_path: Path, content: Make) -> None:
        """What takes room is told after it was written, outside of all locks."""
        grown: list[int] = []
        partials = PartialStore(tmp_path, ObjectStore(tmp_path), on_grow=grown.append)
        key, data = content(4 * BLOCK)
        partial = partials.open(key, len(data))

        partial.write(0, data[: 2 * BLOCK])
        partial.write(0, data)

        assert grown == [2 * BLOCK, 2 * BLOCK]
        partial.close()


def test_many_fetchers_and_readers_agree(
    partials: PartialStore, objects: ObjectStore, content: Make
) -> None:
    """Overlapping fetchers, some failing in mid-block, beside readers: no wrong byte, right seal."""
    key, data = content(400 * BLOCK + 321)
    partial = partials.open(key, len(data))
    wrong: list[ByteRange] = []
    done = threading.Event()

    def fetch(seed: int) -> None:
        rng = random.Random(seed)
        while gaps := partial.missing(0, len(data)):
            gap = rng.choice(gaps)
            start = rng.randrange(gap.start, gap.end, BLOCK)
            end = min(len(data), start + rng.randrange(1, 20 * BLOCK))
            piece = partial.piece(start)
            while piece.at < end:
                piece.write(data[piece.at : min(end, piece.at + rng.randrange(1, 40_000))])

    def read(seed: int) -> None:
        rng = random.Random(seed)
        while not done.is_set():
            start = rng.randrange(len(data))
            end = min(len(data), start + rng.randrange(1, 8 * BLOCK))
            if partial.has(start, end) and data[start:end] != partial.read(start, end - start):
                wrong.append(ByteRange(start, end))

    fetchers = [threading.Thread(target=fetch, args=(seed,)) for seed in range(8)]
    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in fetchers + readers:
        thread.start()
    for thread in fetchers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()

    assert wrong == []
    assert len(data) == partial.have_bytes == partial.contiguous_prefix()
    partial.seal(partial.md5())
    assert objects.verify(key)
    partial.close()


SIZES = st.one_of(
    st.integers(0, 3 * BLOCK),
    st.integers(0, 40).map(lambda n: n * BLOCK),
    st.integers(0, 40 * BLOCK),
)


class PartialMachine(RuleBasedStateMachine):
    """Random use of one partial, against a plain bytearray and a set of blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.tmp = TemporaryDirectory()
        self.root = Path(self.tmp.name)
        self.abandoned: list[Partial] = []

    @initialize(size=SIZES, seed=st.integers(0, 3))
    def make(self, size: int, seed: int) -> None:
        self.data = random.Random(seed).randbytes(size)
        self.size = size
        self.key = ContentKey(hashlib.md5(self.data).hexdigest())
        self.blocks: set[int] = set()
        self.sealed = False
        self._open()

    def _open(self) -> None:
        self.objects = ObjectStore(self.root)
        self.partials = PartialStore(self.root, self.objects)
        self.partial = self.partials.open(self.key, self.size)

    def _all(self) -> int:
        return -(-self.size // BLOCK)

    @precondition(lambda self: self.size > 0)
    @rule(data=st.data())
    def fetch(self, data: st.DataObject) -> None:
        """A piece of some chunks; it may stop anywhere."""
        first = data.draw(st.integers(0, self._all() - 1))
        start = first * BLOCK
        end = data.draw(st.integers(start, min(self.size, start + 6 * BLOCK)))
        piece = self.partial.piece(start)
        readable = start
        while piece.at < end:
            step = data.draw(st.integers(1, 3 * BLOCK))
            readable = piece.write(memoryview(self.data)[piece.at : min(end, piece.at + step)])
        last = self._all() if end == self.size else end // BLOCK
        self.blocks.update(range(first, max(first, last)))
        assert readable == max(start, min(last * BLOCK, self.size))

    @rule()
    def close_and_open(self) -> None:
        self.partial.close()
        self._open()

    @rule()
    def kill_and_open(self) -> None:
        """The process is gone without a close: only what is in files counts."""
        self.abandoned.append(self.partial)
        self._open()

    @precondition(lambda self: not self.sealed)
    @rule()
    def reset(self) -> None:
        self.partial.reset()
        self.blocks.clear()

    @precondition(lambda self: not self.sealed)
    @rule()
    def discard(self) -> None:
        self.partial.discard()
        self.partial.close()
        self.blocks.clear()
        self._open()

    @rule()
    def seal(self) -> None:
        if len(self.blocks) < self._all():
            with pytest.raises(UsageError):
                self.partial.seal(Md5(self.key))
        else:
            self.partial.seal(self.partial.md5())
            self.sealed = True

    @rule()
    def lose_object(self) -> None:
        """The object is evicted while nobody has it open."""
        if self.sealed:
            self.partial.close()
            self.objects.discard(self.key)
            self.sealed = False
            self.blocks.clear()
            self._open()

    @rule(data=st.data())
    def look(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.size))
        end = data.draw(st.integers(start, self.size))
        wanted = range(start // BLOCK, -(-end // BLOCK))
        here = all(block in self.blocks for block in wanted)
        assert here == self.partial.has(start, end)
        gaps = self.partial.missing(start, end)
        assert [b for b in wanted if b not in self.blocks] == [
            block for gap in gaps for block in range(gap.start // BLOCK, -(-gap.end // BLOCK))
        ]
        assert all(gap.end == self.size or gap.end % BLOCK == 0 for gap in gaps)
        if here:
            assert self.data[start:end] == self.partial.read(start, end - start)

    @invariant()
    def agrees(self) -> None:
        if not hasattr(self, "size"):
            return
        prefix = next((n for n in range(self._all()) if n not in self.blocks), self._all())
        assert min(prefix * BLOCK, self.size) == self.partial.contiguous_prefix()
        assert self.partial.complete == (len(self.blocks) == self._all())
        assert self.partial.have_bytes == sum(
            min(BLOCK, self.size - block * BLOCK) for block in self.blocks
        )
        assert self.sealed == self.partial.sealed == self.objects.has(self.key)

    def teardown(self) -> None:
        if hasattr(self, "size"):
            self.partial.close()
        for partial in self.abandoned:
            partial.close()
        self.tmp.cleanup()


TestPartialMachine = PartialMachine.TestCase
TestPartialMachine.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
