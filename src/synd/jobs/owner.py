"""Who runs a job, as a text: enough to tell later whether that process still lives.

``host:boot_id:pid:start_time``. A process number alone is given anew, even to us; with the boot and the
time at which the process began it is nobody else's.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from pathlib import Path


def here(pid: int | None = None) -> str:
    """This process, or another of this machine, as an owner."""
    number = os.getpid() if pid is None else pid
    return f"{platform.node()}:{_boot()}:{number}:{_started(number) or 0}"


def is_gone(owner: str) -> bool:
    """Whether the process has certainly ended. One on another machine never has: its lease decides."""
    parts = owner.rsplit(":", 3)
    if len(parts) != 4 or parts[0] != platform.node():
        return False
    _, boot, pid, started = parts
    if boot != _boot():
        return True
    if not (pid.isdecimal() and started.isdecimal()):
        return False
    # Where nothing tells the time it is 0, both here and in the owner.
    return (_started(int(pid)) or 0) != int(started)


@cache
def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return "-"


def _started(pid: int) -> int | None:
    """Clock ticks after the boot at which a process began; None when there is none, or a dead one."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The name in brackets may hold anything, brackets and blanks too.
    words = text.rpartition(")")[2].split()
    return None if words[0] in "ZX" else int(words[19])
