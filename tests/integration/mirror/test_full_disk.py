"""Streams over a cache whose disk is really full."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.errors import CacheFull
from synd.ids import Version
from synd.model import FileVersion
from synd.testing import FakeRemote, FakeStorage
from tests.support.disks import small_disk
from tests.support.mounts import eventually
from tests.support.parts import Parts, bytes_of, got, md5_of, noise

pytestmark = pytest.mark.announces("cache.full", "cache.unsynced", "object.not_kept")
DATA = noise(6 << 20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB, where the machine lets us mount one."""
    with small_disk(tmp_path / "disk", "size=4m") as where:
        yield where


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def parts(tmp_path: Path, disk: Path, remote: FakeRemote) -> Iterator[Parts]:
    root = tmp_path / "home"
    root.mkdir()
    (root / "cache").symlink_to(disk)
    with FakeStorage(remote), Parts(root, remote) as made:
        yield made


def publish(remote: FakeRemote, data: bytes) -> FileVersion:
    entity = remote.file(remote.project(f"P{len(data)}"), "f", data)
    return FileVersion(entity, Version(1), remote.handle_of(entity), md5_of(data), len(data), "f")


def grow(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], timeout=20, check=True)


def test_read_when_the_disk_is_full_fails_and_goes_on_once_there_is_room(parts, disk, remote):
    """ENOSPC for who reads; the daemon lives, and the same handle reads on afterwards."""
    file = publish(remote, DATA)
    reader = parts.streams.reader(file)

    def read_all() -> bytes:
        return b"".join(
            bytes_of(got(reader.read(1, at, 65536))) for at in range(0, len(DATA), 65536)
        )

    with pytest.raises(CacheFull):
        read_all()
    grow(disk)

    assert DATA == read_all()
    reader.close_handle(1)
    eventually(lambda: parts.cache.has(file.key, len(DATA)))


def test_prefetch_when_the_disk_is_full_fails_and_leaves_no_transfer(parts, disk, remote):
    """Its job gets the error; status shows nothing on its way."""
    with pytest.raises(CacheFull):
        parts.streams.whole(publish(remote, DATA)).result(20)

    eventually(lambda: not parts.streams.progress() and not parts.cache.partials.open_partials())


def test_small_file_when_the_disk_is_full_is_read_all_the_same(parts, disk, remote):
    """Its bytes are verified and in memory; only keeping them fails."""
    with pytest.raises(OSError, match="No space"):
        (disk / "ballast").write_bytes(bytes(5 << 20))
    data = noise(50_000)
    file = publish(remote, data)

    assert data == bytes_of(got(parts.streams.reader(file).read(1, 0, len(data))))
    eventually(lambda: 0 == parts.streams.small_under_way())
    with pytest.raises(CacheFull):
        parts.streams.whole(file).result(20)
