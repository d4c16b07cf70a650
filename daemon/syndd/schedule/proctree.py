"""What the processes of one job use, from /proc. Empty answers where there is none."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a process with all below it."""

    resident_bytes: int = 0
    peak_bytes: int = 0
    """The largest of the single peaks."""
    moved_bytes: int = 0
    """Read and written: it grows while a sort works that tells nobody how far it is."""


def usage(pid: int) -> Usage:
    resident = peak = moved = 0
    for one in below(pid):
        with suppress(OSError, ValueError):
            for line in (_PROC / str(one) / "status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    resident += int(line.split()[1]) * 1024
                elif line.startswith("VmHWM:"):
                    peak = max(peak, int(line.split()[1]) * 1024)
        with suppress(OSError, ValueError):
            lines = (_PROC / str(one) / "io").read_text().splitlines()
            moved += sum(int(line.split()[1]) for line in lines if line[1:5] == "char")
    return Usage(resident, peak, moved)


def below(pid: int) -> Iterator[int]:
    """The process and all that descend from it."""
    todo = [pid]
    while todo:
        one = todo.pop()
        yield one
        with suppress(OSError):
            for thread in (_PROC / str(one) / "task").iterdir():
                with suppress(OSError):
                    todo += [int(word) for word in (thread / "children").read_text().split()]


def group_lives(group: int) -> bool:
    """Whether a process group has a member that is not dead, reaped or not."""
    for stat in _PROC.glob("[0-9]*/stat"):
        with suppress(OSError):
            # After the name in brackets: state, parent, group.
            words = stat.read_text().rpartition(")")[2].split()
            if int(words[2]) == group and words[0] not in "ZX":
                return True
    return False


def end_marked(mark: bytes) -> list[int]:
    """SIGKILL to every process of this user whose environment holds `mark`; their numbers."""
    ended: list[int] = []
    own, user = os.getpid(), os.getuid()
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            if folder.stat().st_uid != user or int(folder.name) == own:
                continue
            if mark in (folder / "environ").read_bytes():
                os.kill(int(folder.name), signal.SIGKILL)
                ended.append(int(folder.name))
    return ended
