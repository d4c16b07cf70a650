"""Points at which a test may kill the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from synd.mirror import checkpoints

PROGRAM = """
from synd.mirror.checkpoints import checkpoint
for n in range(5):
    checkpoint("a.point")
    checkpoint("another")
    print(n, flush=True)
"""


@pytest.mark.parametrize(
    ("at", "lines"),
    [("a.point:3", 2), ("a.point", 0), ("another:5", 4)],
    ids=["third", "first", "last"],
)
def test_named_point_kills_the_process_at_that_passing(at, lines):
    """By SIGKILL, so that nothing is tidied up."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={**os.environ, "SYND_CRASH_AT": at},
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip

    assert (-signal.SIGKILL, lines) == (done.returncode, len(done.stdout.split()))


def test_without_a_name_nothing_happens():
    """The usual case; a listener hears of each point."""
    heard: list[str] = []
    checkpoints.listener = heard.append
    try:
        checkpoints.checkpoint("a.point")
    finally:
        checkpoints.listener = None

    assert ["a.point"] == heard
