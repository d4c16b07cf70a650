"""What every test with a real mount shares: where to mount, over what, and that it can be done here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import mounts


@pytest.fixture(autouse=True, scope="session")
def _may_mount() -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse on this machine")
    if os.geteuid() != 0 and shutil.which("fusermount3") is None:
        pytest.skip("neither root nor fusermount3")
    mounts.mount_fusectl()


@pytest.fixture
def mountpoint(tmp_path: Path) -> Iterator[Path]:
    """An empty folder to mount on; whatever is mounted there at the end is taken away."""
    path = tmp_path / "m"
    path.mkdir()
    yield path
    mounts.clear(path)


@pytest.fixture(params=["kernel", "libfuse"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each test that takes it runs over both."""
    return str(request.param)
