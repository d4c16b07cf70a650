"""A daemon whose jobs run on a Dask cluster: asked for as ever, made elsewhere, and ended with the daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dask_cluster import DaskCluster
from tests.support.genomics import FIXTURES
from tests.support.world import Remote, World

pytest.importorskip("distributed", reason="Dask is not installed (pip install 'synd[dask]')")

pytestmark = [pytest.mark.fuse, pytest.mark.slow, pytest.mark.timeout(180)]

NAME = "align/unsorted.bam"


@pytest.fixture
def cluster(ground: Path) -> Iterator[DaskCluster]:
    with DaskCluster(ground / "dask") as found:
        found.start_scheduler()
        # As the README starts it.
        found.start_worker(nanny=True)
        yield found


@pytest.fixture
def world(ground: Path, shared_server: Remote, cluster: DaskCluster) -> Iterator[World]:
    project = shared_server.seed(FIXTURES, "On Dask")
    one = World(
        ground / "on-dask", shared_server, projects=[project], requests_per_minute=0,
        engine="dask", dask_scheduler=cluster.address, artifact_store=ground / "shared", lease=5,
    )  # fmt: skip
    try:
        one.up()
        yield one
    finally:
        one.close()


def test_file_is_prepared_on_the_cluster_when_asked_for_as_ever(
    world: World, cluster: DaskCluster
) -> None:
    """The command and the mount know no difference; the job's log names the worker."""
    path = world.mount / "On Dask" / NAME
    done = world.synd("prepare", "--wait", "--json", str(path), timeout_s=120)
    assert 0 == done.status, f"{done.out}{done.err}\n{world.log()[-3000:]}"
    [job] = json.loads(done.out)["jobs"]

    assert "completed" == job["state"]
    assert "started on" in (world.folders.state / "jobs" / f"{job['id']}.log").read_text()
    assert 0 == world.synd("down").status
    assert [] == cluster.children()


def test_daemon_without_its_settings_when_started_names_what_is_missing(
    ground: Path, shared_server: Remote
) -> None:
    """Instead of waiting for a scheduler that nobody named."""
    one = World(ground / "no-dask", shared_server, engine="dask", artifact_store=ground / "shared")
    try:
        done = one.try_up()
    finally:
        one.close()

    assert 78 == done.status
    assert "dask_scheduler" in done.out + done.err
