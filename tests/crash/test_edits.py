"""Nothing acknowledged is lost, doubled or wrong, whenever the daemon is killed.

A cycle edits through the mount with fsync and keeps a manifest outside, kills the daemon (-9), starts it
again, and goes on. At the end the service is compared with the manifest. `CRASH_CYCLES` sets how many
cycles the long form runs.
"""

from __future__ import annotations

import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crashing import CYCLES, EDITS, Loop
from tests.support.mounts import mount_fusectl
from tests.support.world import Remote, remote

pytestmark = [pytest.mark.fuse, pytest.mark.crash, pytest.mark.timeout(max(900, 15 * CYCLES))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    if not Path("/dev/fuse").exists() or os.geteuid() != 0:
        pytest.skip("these tests mount as root")
    mount_fusectl()
    with remote(tmp_path_factory.mktemp("crash") / "data") as one:
        yield one


@pytest.fixture
def loop(tmp_path: Path, server: Remote) -> Iterator[Loop]:
    one = Loop(tmp_path, server)
    yield one
    one.die()
    one.world.close()


@pytest.mark.announces
@pytest.mark.req("S2-49")
def test_edits_when_daemon_and_mount_die_again_and_again_are_all_sent(loop: Loop) -> None:
    """Killed with its mount at random moments: what was acknowledged is there, once, and right."""
    numbers = random.Random(20)
    for cycle in range(CYCLES):
        loop.world.up()
        if cycle:
            loop.forget_the_unsure()
            loop.local_bytes_agree()
        loop.edit(cycle, numbers.randrange(3, 25))
        # Now and then in the middle of sending, now and then before or after it.
        threading.Event().wait(numbers.choice([0.0, 0.05, 0.2, 0.6]))
        loop.die()
    loop.world.up()
    loop.forget_the_unsure()
    loop.local_bytes_agree()
    loop.settle()
    loop.check()


@pytest.mark.announces
def test_edits_when_only_the_daemon_dies_go_on_and_are_all_sent(loop: Loop) -> None:
    """The mount outlives it: the editing program notices nothing but a pause."""
    loop.world.up()
    for cycle in range(min(CYCLES, 4)):
        before = loop.world.daemon_pid()
        editing = loop.world.begin_python(
            EDITS, loop.top, str(loop.manifest), str(1000 + cycle), "25"
        )
        threading.Event().wait(0.1 + 0.05 * cycle)
        loop.world.kill_daemon()
        loop.world.successor(before)
        ran = editing.wait(60)
        assert "done" == ran.out.strip(), ran.err
    loop.local_bytes_agree()
    loop.settle()
    loop.check()
