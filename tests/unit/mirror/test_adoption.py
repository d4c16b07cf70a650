"""Bytes that are on this machine already are not fetched."""

from __future__ import annotations

import json
import os

import pytest

from synd.cache.synapse_cache import SynapseCache, floor_time
from synd.ids import Version
from synd.model import FileVersion
from tests.support.mounts import eventually
from tests.support.parts import bytes_of, got, md5_of, noise

SIZES = {"small": 20_000, "large": 3 << 20}


@pytest.fixture
def official(tmp_path) -> SynapseCache:
    return SynapseCache(tmp_path / "synapseCache")


def put(official: SynapseCache, handle: int, data: bytes) -> os.PathLike[str]:
    """As the official client leaves a download."""
    folder = official.root / str(handle % 1000) / str(handle)
    folder.mkdir(parents=True)
    path = folder / "name.bin"
    path.write_bytes(data)
    entry = {"modified_time": floor_time(path.stat().st_mtime), "content_md5": md5_of(data)}
    (folder / ".cacheMap").write_text(json.dumps({str(path): entry}))
    return path


def publish(remote, data: bytes) -> FileVersion:
    entity = remote.file(remote.project("P"), "f", data)
    return FileVersion(entity, Version(1), remote.handle_of(entity), md5_of(data), len(data), "f")


@pytest.mark.req("S2-47", "S3-01")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_file_in_the_official_cache_is_read_from_there(build, remote, storage, official, size):
    """One that the official client has fetched is not fetched again; it is verified, and it stays."""
    data = noise(size)
    file = publish(remote, data)
    path = put(official, file.handle, data)
    parts = build(official=official)
    reader = parts.streams.reader(file)

    assert data[: 1 << 17] == bytes_of(got(reader.read(1, 0, 1 << 17)))
    reader.close_handle(1)
    eventually(lambda: parts.cache.has(file.key, size))
    assert [] == storage.requests
    assert path.read_bytes() == data


@pytest.mark.req("S2-45", "S2-46")
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_file_that_was_modified_there_is_fetched(build, remote, storage, official, size):
    """Its time tells that it may be another, its bytes prove it: they are never served."""
    data = noise(size)
    file = publish(remote, data)
    path = put(official, file.handle, data)
    stat = path.stat()
    path.write_bytes(data[:-1] + b"?")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    parts = build(official=official)
    parts.streams.whole(file).result(20)

    assert storage.requests
    assert parts.cache.objects.verify(file.key)


def test_object_that_a_power_loss_made_doubtful_is_hashed_not_fetched(build, remote, storage):
    """And fetched when it proves torn."""
    data = noise(2 << 20)
    file = publish(remote, data)
    parts = build()
    eventually(lambda: not parts.cache._background.is_alive())
    suspect = parts.cache.root / "suspect"
    suspect.mkdir(exist_ok=True)
    (suspect / file.key).write_bytes(data)
    parts.cache._doubtful = True
    parts.streams.whole(file).result(20)

    assert [] == storage.requests
    assert parts.cache.objects.verify(file.key)
