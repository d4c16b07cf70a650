"""Local edits on a disk that is really full, or really read-only: the errno is right and nothing is lost."""

from __future__ import annotations

import errno
import os
import random
import stat
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from synd.cache.lazy import Lazy
from synd.cache.lazymap import BLOCK
from synd.cache.objects import ObjectStore
from synd.cache.staging import Staging
from synd.digest import md5_of_bytes
from synd.errors import CacheFull, ReadOnly
from synd.ids import ContentKey
from tests.support.lazies import Base, whole

FIRST = 1 << 39
MIB = 1 << 20
SmallDisk = Callable[..., Path]


def noise(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[int]:
    """An open file of 3 MiB on another disk."""
    path = tmp_path / "source"
    path.write_bytes(noise(3 * MIB))
    fd = os.open(path, os.O_RDONLY)
    yield fd
    os.close(fd)


def staging_on(disk: Path, **more: Callable[[int], bool]) -> Staging:
    return Staging(disk / "staged", disk / "recovered", **more)


def fill_up(disk: Path, leave: int) -> Path:
    """Takes the room of a disk but for so many bytes."""
    found = os.statvfs(disk)
    ballast = disk / "ballast"
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, found.f_bavail * found.f_frsize - leave)
    return ballast


def files(staging: Staging) -> list[str]:
    return sorted(p.name for p in staging.root.rglob("*") if p.is_file())


class TestStaging:
    def test_copy_when_full_leaves_nothing_half_made(
        self, small_disk: SmallDisk, source: int
    ) -> None:
        """CacheFull is ENOSPC to the writer; what is there stays; with room it works."""
        disk = small_disk(8)
        staging = staging_on(disk)
        staging.copy_in(FIRST, source, 3 * MIB)
        ballast = fill_up(disk, MIB)
        copies: list[Callable[[], None]] = [
            lambda: staging.copy_in(FIRST + 1, source, 3 * MIB),
            lambda: staging.snapshot(FIRST, FIRST + 1),
        ]
        for copy in copies:
            with pytest.raises(CacheFull) as caught:
                copy()
            assert caught.value.errno == errno.ENOSPC
            assert [f"{FIRST:x}"] == files(staging)
        assert noise(3 * MIB) == staging.path(FIRST).read_bytes()
        ballast.unlink()
        staging.copy_in(FIRST + 1, source, 3 * MIB)

        assert noise(3 * MIB) == staging.path(FIRST + 1).read_bytes()

    def test_copy_when_full_is_tried_again_after_an_eviction(
        self, small_disk: SmallDisk, source: int
    ) -> None:
        """Cached content makes room for an edit; it is asked once."""
        disk = small_disk(8)
        asked = []

        def evict(needed: int) -> bool:
            asked.append(needed)
            ballast.unlink()
            return True

        staging = staging_on(disk, on_full=evict)
        ballast = fill_up(disk, MIB)
        staging.copy_in(FIRST, source, 3 * MIB)

        assert [3 * MIB] == asked
        assert noise(3 * MIB) == staging.path(FIRST).read_bytes()

    def test_move_when_full_needs_no_room(self, small_disk: SmallDisk) -> None:
        """Taking away, restoring and becoming an object are renames: they work on a full disk."""
        disk = small_disk(8)
        staging = staging_on(disk)
        objects = ObjectStore(disk / "cache")
        data = noise(MIB)
        key = ContentKey(md5_of_bytes(data))
        objects.put_bytes(key, data)
        objects.discard(key)
        fd = staging.create(FIRST)
        os.write(fd, data)
        os.close(fd)
        fill_up(disk, 64 << 10)
        name = staging.recover(FIRST, "a")
        staging.put_back(FIRST)
        staging.recover(FIRST, "a")
        staging.restore_recovered(name, FIRST + 256)
        staging.drop_recovered(name)
        staging.sync(FIRST + 256)
        staging.as_object(FIRST + 256, objects, md5_of_bytes(data), MIB)

        assert objects.verify(key)

    def test_object_on_another_disk_is_copied(
        self, small_disk: SmallDisk, tmp_path: Path, source: int
    ) -> None:
        """Where a rename cannot go the bytes are copied; when that finds no room the edit stays."""
        staging = Staging(tmp_path / "staged", tmp_path / "recovered")
        disk = small_disk(8)
        objects = ObjectStore(disk / "cache")
        md5 = md5_of_bytes(noise(3 * MIB))
        staging.copy_in(FIRST, source, 3 * MIB)
        ballast = fill_up(disk, MIB)
        with pytest.raises(CacheFull):
            staging.as_object(FIRST, objects, md5, 3 * MIB)
        assert noise(3 * MIB) == staging.path(FIRST).read_bytes()
        ballast.unlink()
        staging.as_object(FIRST, objects, md5, 3 * MIB)

        assert objects.verify(ContentKey(md5))
        assert not staging.exists(FIRST)

    def test_everything_when_read_only_says_so(self, small_disk: SmallDisk, source: int) -> None:
        """EROFS to whoever changes something; reading goes on."""
        disk = small_disk(8)
        staging = staging_on(disk)
        staging.copy_in(FIRST, source, 3 * MIB)
        small_disk(remount="ro")
        for change in (
            lambda: staging.create(FIRST + 1),
            lambda: staging.copy_in(FIRST + 1, source, 3 * MIB),
            lambda: staging.remove(FIRST),
            lambda: staging.recover(FIRST, "a"),
            lambda: staging.open(FIRST),
        ):
            with pytest.raises(ReadOnly) as caught:
                change()
            assert caught.value.errno == errno.EROFS
        fd = staging.open(FIRST, os.O_RDONLY)

        assert noise(3 * MIB) == os.pread(fd, 3 * MIB, 0)
        os.close(fd)
        small_disk(remount="rw")


class TestLazy:
    def test_write_when_full_writes_what_fits_and_tells_how_much(
        self, small_disk: SmallDisk
    ) -> None:
        """As a local file system does: fewer bytes, then ENOSPC; no byte is torn or lost."""
        disk = small_disk(8)
        base = Base(4 * MIB)
        lazy = Lazy.create(staging_on(disk), FIRST, len(base.data), base)
        lazy.write(3 * MIB + 5, b"before")
        ballast = fill_up(disk, MIB + 1000)
        done = lazy.write(10, b"\1" * (2 * MIB))
        assert isinstance(done, int)
        assert 0 < done < 2 * MIB
        with pytest.raises(CacheFull) as caught:
            lazy.write(2 * MIB + BLOCK, b"\2" * BLOCK)
        assert caught.value.errno == errno.ENOSPC
        with pytest.raises(CacheFull):
            lazy.write(2 * MIB + BLOCK + 5, b"needs a block")
        assert lazy.write(3 * MIB + 7, b"here") == 4
        with pytest.raises(CacheFull):
            lazy.fill()
        expected = bytearray(base.data)
        expected[10 : 10 + done] = b"\1" * done
        expected[3 * MIB + 5 : 3 * MIB + 11] = b"behere"
        assert expected == whole(lazy)
        lazy.close()
        lazy = Lazy.open(staging_on(disk), FIRST, len(base.data), base)
        assert expected == whole(lazy)
        ballast.unlink()

        assert lazy.fill()
        assert expected == whole(lazy)
        lazy.close()

    def test_write_when_full_is_tried_again_after_an_eviction(self, small_disk: SmallDisk) -> None:
        """Also one that waited for its block; the writer does not notice."""
        disk = small_disk(8)
        asked = []

        def evict(needed: int) -> bool:
            asked.append(needed)
            ballast[-1].unlink(missing_ok=True)
            return True

        base = Base(4 * MIB)
        lazy = Lazy.create(staging_on(disk, on_full=evict), FIRST, len(base.data), base)
        ballast = [fill_up(disk, BLOCK // 2)]
        assert lazy.write(0, b"\1" * BLOCK) == BLOCK
        assert [BLOCK] == asked
        base.later = True
        ballast.append(fill_up(disk, 0))
        writing = lazy.write(2 * BLOCK + 5, b"\2" * BLOCK)
        assert isinstance(writing, Future)
        with ThreadPoolExecutor(1) as network:
            network.submit(base.release_all).result(20)

        assert writing.result(20) == BLOCK
        assert len(asked) == 2
        expected = base.data[2 * BLOCK : 2 * BLOCK + 5] + b"\2" * BLOCK
        assert expected == lazy.read(2 * BLOCK, BLOCK + 5)
        lazy.close()

    def test_create_when_full_leaves_nothing(self, small_disk: SmallDisk) -> None:
        """Neither a file nor a map, whichever did not fit."""
        disk = small_disk(8)
        staging = staging_on(disk)
        os.close(staging.create(FIRST))
        staging.remove(FIRST)
        fill_up(disk, 0)
        base = Base(BLOCK)
        with pytest.raises(CacheFull):
            Lazy.create(staging, FIRST, len(base.data), base)

        assert files(staging) == []

    def test_truncate_when_full_works(self, small_disk: SmallDisk) -> None:
        """Cutting needs no room, and gives some back."""
        disk = small_disk(8)
        base = Base(4 * MIB)
        lazy = Lazy.create(staging_on(disk), FIRST, len(base.data), base)
        lazy.write(2 * MIB, b"\1" * MIB)
        fill_up(disk, 0)
        lazy.truncate(MIB)
        lazy.truncate(2 * MIB)

        assert lazy.write(MIB, b"\2" * BLOCK) == BLOCK
        assert base.data[:MIB] + b"\2" * BLOCK + bytes(MIB - BLOCK) == whole(lazy)
        lazy.close()


@pytest.fixture
def failing_disk(tmp_path: Path) -> Path:
    """A device whose every write is refused with ENOSPC."""
    full = Path("/dev/full")
    if not full.exists() or not stat.S_ISCHR(full.stat().st_mode):
        pytest.skip("there is no /dev/full")
    return full


def test_sync_of_a_file_that_cannot_is_an_error(tmp_path: Path, failing_disk: Path) -> None:
    """A descriptor that cannot be synced is told; nothing counts as durable."""
    staging = Staging(tmp_path / "staged", tmp_path / "recovered")
    os.close(staging.create(FIRST))
    with open(failing_disk, "wb") as file, pytest.raises(Exception, match="cannot write an edit"):
        staging.sync(FIRST, file.fileno())

    assert staging._entered == set()
