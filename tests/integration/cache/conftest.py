"""A file system of its own for the cache, where the machine lets us mount one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.disks import mount_disk, unmount_disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs of so many MiB; with `remount` changes its options."""
    made: list[Path] = []

    def mount(mib: int = 8, *, remount: str | None = None) -> Path:
        where = made[0] if remount else tmp_path / "disk"
        mount_disk(where, f"remount,{remount}" if remount else f"size={mib}m")
        if not remount:
            made.append(where)
        return where

    yield mount
    for where in made:
        unmount_disk(where)
