"""Who runs a job: told from everybody else who ever had its process number."""

from __future__ import annotations

import os
import subprocess
import sys

from synd.jobs.owner import here, is_gone


def test_owner_of_a_living_process_is_not_gone():
    """Ours, and another's."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert not is_gone(here())
        assert not is_gone(here(process.pid))
    finally:
        process.communicate(b"\n", timeout=20)


def test_owner_that_has_ended_is_gone_even_before_it_is_reaped():
    """A dead process that still has its number does nothing any more."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print(); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    owner = here(process.pid)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert is_gone(owner)
    process.communicate(timeout=20)

    assert is_gone(owner)


def test_owner_with_a_number_given_anew_is_gone():
    """The time at which a process began tells it from the one that had its number before."""
    host, boot, pid, started = here().rsplit(":", 3)

    assert is_gone(f"{host}:{boot}:{pid}:{int(started) - 1}")
    assert is_gone(f"{host}:another-boot:{pid}:{started}")


def test_owner_on_another_machine_is_never_said_to_be_gone():
    """Nobody can know; its lease decides. The same holds for what is no owner at all."""
    _, boot, _, _ = here().rsplit(":", 3)

    assert not is_gone(f"elsewhere:{boot}:1:1")
    assert not is_gone("")
    assert not is_gone("a:b")
