"""Local edits and the cache on one small disk that is really full: cached content gives way to edits."""

from __future__ import annotations

import errno
import hashlib
import os
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from synd.cache.disk import write_at
from synd.cache.folder import Cache
from synd.cache.headroom import AMPLE, LEAST, Headroom
from synd.cache.staging import Staging
from synd.errors import CacheFull
from synd.ids import ContentKey
from synd.testing import FakeClock, FakeRemote, FakeStorage
from tests.support.parts import Parts
from tests.support.takings import Takings

FIRST = 1 << 39
MIB = 1 << 20
SmallDisk = Callable[..., Path]


def cached(cache: Cache, seed: int) -> ContentKey:
    data = random.Random(seed).randbytes(MIB)
    key = ContentKey(hashlib.md5(data, usedforsecurity=False).hexdigest())
    cache.objects.put_bytes(key, data)
    return key


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@pytest.fixture
def disk(small_disk: SmallDisk) -> Path:
    where = small_disk(16)
    (where / "state").mkdir()
    return where


@pytest.fixture
def cache(disk: Path) -> Iterator[Cache]:
    """With ten objects of a mebibyte on the disk of 16."""
    made = Cache(disk / "cache")
    made.start()
    for seed in range(10):
        cached(made, seed)
    yield made
    made.stop()


@pytest.fixture
def staging(disk: Path, cache: Cache) -> Staging:
    room = Headroom(cache, disk / "state")
    return Staging(disk / "state/staged", disk / "state/recovered", on_full=room.make)


def write(staging: Staging, number: int, mib: int) -> None:
    """As programs write through the mount: a mebibyte at a time."""
    fd = staging.create(number)
    try:
        for at in range(0, mib * MIB, MIB):
            staging.with_room(MIB, "write", partial(write_at, fd, b"\1" * MIB, at))
    finally:
        os.close(fd)


def test_edit_on_the_caches_disk_evicts_what_it_needs(cache: Cache, staging: Staging) -> None:
    """More than is free is written; the objects that went are no loss, those that stay are whole."""
    write(staging, FIRST, 12)

    assert staging.path(FIRST).read_bytes() == b"\1" * (12 * MIB)
    assert cache.usage().objects < 10
    assert cache.verify_all() == []


@pytest.mark.announces("cache.full", "cache.unsynced")
def test_edit_when_nothing_is_left_to_evict_is_enospc_and_loses_nothing(
    cache: Cache, staging: Staging
) -> None:
    """Held objects and earlier edits stay."""
    kept = cached(cache, 5)
    cache.hold(kept)
    write(staging, FIRST, 3)
    with pytest.raises(CacheFull) as caught:
        write(staging, FIRST + 1, 14)

    assert caught.value.errno == errno.ENOSPC
    assert staging.path(FIRST).read_bytes() == b"\1" * (3 * MIB)
    assert cache.objects.verify(kept)
    assert cache.usage().objects == 1
    cache.release(kept)


def test_edit_on_another_disk_evicts_nothing(cache: Cache, disk: Path, tmp_path: Path) -> None:
    """It would not get what it needs from there."""
    room = Headroom(cache, tmp_path)

    assert not room.make(MIB)
    assert room.ample()
    room.keep()
    assert room.tend() == 0
    assert cache.usage().objects == 10


def test_change_of_names_finds_a_little_room(cache: Cache, disk: Path) -> None:
    """The database gets it before it asks; nothing is evicted while there is some."""
    room = Headroom(cache, disk / "state")
    room.keep()
    assert cache.usage().objects == 10
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(disk) - MIB)
    room.keep()

    assert free(disk) >= LEAST
    assert cache.usage().objects > 0


def test_room_is_ample_when_the_cache_has_nothing_to_give(cache: Cache, disk: Path) -> None:
    """Writers are sent round by the daemon only where that can help them."""
    room = Headroom(cache, disk / "state")
    assert free(disk) < AMPLE
    assert not room.ample()
    cache.clear()

    assert room.ample()


def test_tending_keeps_what_the_limits_leave_free(cache: Cache, disk: Path) -> None:
    """While somebody writes, so that the writer need not ask."""
    room = Headroom(cache, disk / "state")
    cache.limits = type(cache.limits)(keep_free_bytes=2 << 30)
    assert room.tend() == 0
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(disk) - MIB // 2)

    assert room.tend() >= MIB
    assert free(disk) >= 16 * MIB // 10


@pytest.mark.announces("cache.full")
def test_tending_in_vain_is_not_repeated_at_once(cache: Cache, disk: Path) -> None:
    """A disk that others have filled is looked at now and then only."""
    clock = FakeClock()
    room = Headroom(cache, disk / "state", clock=clock)
    cache.limits = type(cache.limits)(keep_free_bytes=2 << 30)
    with open(disk / "ballast", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, free(disk))
    cache.clear()
    (disk / "more").write_bytes(b"\1" * free(disk))
    assert room.tend() == 0
    (disk / "more").unlink()
    for seed in range(9):
        cached(cache, seed)
    assert cache.is_short
    assert room.tend() == 0
    clock.advance(60)

    assert room.tend() > 0


def test_write_through_the_mount_when_the_disk_fills_up_says_how_much_was_written(
    disk: Path,
) -> None:
    """As a local file system does: fewer bytes first, then ENOSPC; with room again it goes on."""
    remote = FakeRemote()
    remote.tree(None, {"P": {}})
    with FakeStorage(remote), Parts(disk, remote) as parts:
        edits = Takings(parts)
        local = edits.create("P", "new", b"x")
        ballast = disk / "ballast"
        with open(ballast, "wb") as file:
            os.posix_fallocate(file.fileno(), 0, free(disk) - 100_000)
        data = random.Random(1).randbytes(MIB)
        done = parts.contents.write(local.staged, 1, memoryview(data))
        assert isinstance(done, int)
        assert 0 < done < MIB
        with pytest.raises(CacheFull):
            parts.contents.write(local.staged, 1 + done, memoryview(data)[done:])
        ballast.unlink()
        edits.write(local, local.staged, 1 + done, data[done:])

        assert edits.staging.path(local.staged).read_bytes() == b"x" + data
