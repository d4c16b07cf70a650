"""What is put into the shared store comes out as it was, or not at all."""

from __future__ import annotations

import errno
import hashlib
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from synd.errors import ConfigError, StageFailed
from synd.jobs.failures import Failure
from synd.processors.sharing import Left, SharedStore

pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'synd[dask]')")


@pytest.fixture(params=["folder", "file", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> SharedStore:
    """The same by three ways that fsspec knows."""
    match request.param:
        case "folder":
            return SharedStore(f"{tmp_path}/shared")
        case "file":
            return SharedStore(f"file://{tmp_path}/shared/")
    return SharedStore(f"memory://{uuid.uuid4().hex}/shared")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "made"
    path.write_bytes(b"made there" * 1000)
    return path


def test_file_that_was_put_when_taken_is_the_same(
    store: SharedStore, file: Path, tmp_path: Path
) -> None:
    """And told with its size and digest, which travel as JSON."""
    left = store.put(file, "us/job/data.gz")
    store.take(Left.of(left.document()), tmp_path / "taken")

    assert file.read_bytes() == (tmp_path / "taken").read_bytes()
    assert (10_000, hashlib.sha256(file.read_bytes()).hexdigest()) == (left.size, left.sha256)


@pytest.mark.parametrize("change", [{"size": 1}, {"sha256": "0" * 64}], ids=["size", "digest"])
def test_file_that_is_another_than_told_when_taken_is_refused(
    store: SharedStore, file: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """As what somebody else wrote, or only a part of it."""
    left = replace(store.put(file, "us/job/data.gz"), **change)

    with pytest.raises(StageFailed) as caught:
        store.take(left, tmp_path / "taken")
    assert Failure.VERIFY_FAILED == caught.value.failure


def test_folder_that_is_removed_always_leaves_those_beside_it(
    store: SharedStore, file: Path
) -> None:
    """Removed twice, or never made, is as well."""
    store.put(file, "us/job/data.gz")
    store.put(file, "us/job/data.gz.tbi")
    store.put(file, "us/other/data.gz")
    store.put(file, "them/job/data.gz")
    for _ in range(2):
        store.remove("us/job")

    assert ["other"] == store.names("us")
    assert ["job"] == store.names("them")
    assert [] == store.names("nobody")


def test_file_that_is_not_there_when_taken_is_no_fault_of_the_source(
    store: SharedStore, tmp_path: Path
) -> None:
    """The next attempt puts it anew."""
    with pytest.raises(StageFailed) as caught:
        store.take(Left("us/job/gone", 1, "0" * 64), tmp_path / "taken")

    assert Failure.STORE_UNAVAILABLE == caught.value.failure


class FullFolder:
    """Meets fsspec: every write finds the disk full."""

    def put_file(self, source: str, target: str) -> None:
        raise OSError(errno.ENOSPC, "full", target)


def test_full_store_when_written_is_told_as_such(tmp_path: Path, file: Path) -> None:
    """Trying again would not help."""
    store = SharedStore(str(tmp_path))
    store._fs = FullFolder()

    with pytest.raises(StageFailed) as caught:
        store.put(file, "us/job/data.gz")
    assert Failure.NO_SPACE == caught.value.failure


@pytest.mark.parametrize("url", ["shared/folder", "nosuch://x/y", ""])
def test_address_that_leads_nowhere_always_names_the_setting(url: str) -> None:
    """Before the first job."""
    with pytest.raises(ConfigError, match="artifact_store"):
        SharedStore(url)
