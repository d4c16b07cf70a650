"""Where jobs run is a setting, and costs nothing where it is not used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from synd.config import Config
from synd.errors import ConfigError
from syndd.schedule import dask
from syndd.schedule.joblogs import JobLogs

ADDRESS = "tcp://127.0.0.1:1"


def executor(tmp_path: Path, **settings: str) -> dask.DaskPool:
    return dask.executor(
        Config(engine="dask", **settings),  # type: ignore[arg-type]
        tmp_path / "work", JobLogs(tmp_path / "jobs"), tmp_path / "state",
    )  # fmt: skip


def test_daemon_always_leaves_dask_alone_until_it_is_asked_for() -> None:
    """It takes a second to import, and may not be installed."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys, syndd.app; print(*sys.modules)"],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip

    assert not {"dask", "distributed", "fsspec", "psutil", "tornado"} & set(done.stdout.split())


@pytest.mark.parametrize("missing", ["dask_scheduler", "artifact_store"])
def test_settings_that_are_missing_when_dask_is_chosen_are_named(
    tmp_path: Path, missing: str
) -> None:
    """At the start, and not by the first job."""
    settings = {"dask_scheduler": ADDRESS, "artifact_store": str(tmp_path)}
    del settings[missing]

    with pytest.raises(ConfigError, match=missing):
        executor(tmp_path, **settings)


def test_executor_without_a_scheduler_always_begins_nothing(tmp_path: Path) -> None:
    """Jobs wait in the queue, and no attempt is lost."""
    pytest.importorskip("distributed", reason="Dask is not installed (pip install 'synd[dask]')")
    made = executor(tmp_path, dask_scheduler=ADDRESS, artifact_store=str(tmp_path / "shared"))

    assert not made.ready(0)
    assert made.where("a") is None
