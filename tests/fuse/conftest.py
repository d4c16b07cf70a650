"""What every test with a real mount shares: where to mount, over what, and that it can be done here."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import mounts
from tests.support.mounts import SCRATCH, Run

_NUMBERS = itertools.count(1)


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


@pytest.fixture(params=list(mounts.ways()))
def way(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The mount's options; each test that takes it runs in every way that this machine can."""
    return mounts.ways()[str(request.param)]


@pytest.fixture(params=["kernel", "libfuse"])
def transport(request: pytest.FixtureRequest) -> str:
    """Each test that takes it runs over both."""
    return str(request.param)


@pytest.fixture(params=[*mounts.ways(), "deferred", "direct"], scope="module")
def how(request: pytest.FixtureRequest) -> str:
    """How the mount is served; `deferred` answers changes by Futures, `direct` has no page cache."""
    return str(request.param)


@pytest.fixture(scope="module")
def writable(how: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A writable mount, empty at first."""
    base = tmp_path_factory.mktemp("writing")
    arguments: dict[str, Any] = {"folder": str(base / "scratch")}
    options = mounts.ways().get(how, {"passthrough": False})
    if how == "deferred":
        arguments["defer_s"] = 0.001
    if how == "direct":
        arguments["direct"] = True
    with mounts.mounted(
        base / "m", SCRATCH, arguments, limit_s=900, allow_other=os.geteuid() == 0, **options
    ):
        yield base / "m"


@pytest.fixture
def run(writable: Path) -> Run:
    """Runs a client in an empty folder of the mount, which it sees as its working directory."""
    place = writable / f"t{next(_NUMBERS)}"
    mounts.told("os.mkdir(argv[0]); os.chmod(argv[0], 0o777)", place, mountpoint=writable)

    def client(code: str, *arguments: object, timeout_s: float = 30.0) -> str:
        return mounts.told(
            f"os.chdir(argv.pop(0))\n{code}",
            place,
            *arguments,
            mountpoint=writable,
            timeout_s=timeout_s,
        )

    return client
