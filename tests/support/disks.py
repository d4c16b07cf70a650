"""File systems of a few megabytes, where the machine lets us mount one."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount_disk(where: Path, options: str) -> None:
    """Mounts memory at a folder, which is made. `options`: as of `mount -o`. Skips the test where it may not."""
    where.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)],
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"cannot mount a tmpfs: {done.stderr.strip()}")


def unmount_disk(where: Path) -> None:
    """Takes it away, whoever still has a file of it open."""
    subprocess.run(["umount", "-l", str(where)], timeout=20, check=True)


@contextlib.contextmanager
def small_disk(where: Path, options: str) -> Iterator[Path]:
    """The same for the time of a `with` block."""
    mount_disk(where, options)
    try:
        yield where
    finally:
        unmount_disk(where)
