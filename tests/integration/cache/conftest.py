"""A file system of its own for the cache, where the machine lets us mount one."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Mounts a tmpfs of so many MiB; with `remount` changes its options."""
    made: list[Path] = []

    def mount(mib: int = 8, *, remount: str | None = None) -> Path:
        where = made[0] if remount else tmp_path / "disk"
        where.mkdir(exist_ok=True)
        options = f"remount,{remount}" if remount else f"size={mib}m"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)],
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")
        if not remount:
            made.append(where)
        return where

    yield mount
    for where in made:
        subprocess.run(["umount", "-l", str(where)], timeout=20, check=True)
