"""What a worker may take of the machine: last in line for processor and disk, bounded in memory.

All of it is asked for, and none of it is needed: where the system refuses, the work goes on without.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from synd.processors.base import Caps

NICE: Final = 10
MARK: Final = "SYND_WORK_DIR"
"""In the environment of all processes of a job: what was left behind is found by it."""

_PR_SET_PDEATHSIG: Final = 1
_IOPRIO_SET: Final = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}
_IOPRIO_WHO_PROCESS: Final = 1
_IOPRIO_CLASS_IDLE: Final = 3 << 13
_AUTOGROUP: Final = Path("/proc/self/autogroup")
_CGROUPS: Final = Path("/sys/fs/cgroup")


_SECRET: Final = ("TOKEN", "SECRET", "PASSWORD", "CREDENTIALS", "NOTIFY_SOCKET", "LISTEN_")


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """An environment for a worker: nothing in it is a secret, or somebody else's business."""
    return {
        name: value
        for name, value in environ.items()
        if not any(word in name.upper() for word in _SECRET)
    }


def environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """A worker's environment, of the daemon's own."""
    return {**clean_environment(environ), "LC_ALL": "C", **_of_folder(folder)}


def settle_in(folder: Path) -> None:
    """Has this process and all that it will start work in a folder: it may have been started before its job."""
    os.chdir(folder)
    os.environ.update(_of_folder(folder))


def _of_folder(folder: Path) -> dict[str, str]:
    return {"TMPDIR": str(folder), MARK: str(folder)}


def memory_need(caps: Caps) -> int:
    """Bytes that a job takes at most, text and alignments alike."""
    text = caps.sort_memory_bytes
    alignments = caps.samtools_memory_bytes * max(1, caps.tool_threads)
    return int(max(text, alignments) * 1.2) + (40 << 20)


def lead_own_session() -> None:
    """Makes this process the leader of a session of its own: one signal to its group ends all of the job."""
    if os.getpgrp() != os.getpid():
        os.setsid()


def end_with_parent() -> None:
    """On Linux: SIGKILL when the thread that started this process is gone."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def be_last() -> None:
    """The mount's reads come first: nice 10, and the disk when nobody else wants it."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(NICE, os.getpriority(os.PRIO_PROCESS, 0)))
    if os.getsid(0) == os.getpid():
        # Linux may weigh sessions against each other, and processes within them only.
        with suppress(OSError):
            _AUTOGROUP.write_text(str(NICE))
    number = _IOPRIO_SET.get(os.uname().machine)
    if sys.platform == "linux" and number is not None:
        _libc().syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE)


def join(group: Path) -> None:
    """Moves this process, and all that it will start, into a control group that was made for the job."""
    with suppress(OSError):
        (group / "cgroup.procs").write_text(str(os.getpid()))


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A control group (v2) that bounds the memory of one job. Belongs to whoever starts the worker."""

    path: Path

    @classmethod
    def make(cls, name: str, limit_bytes: int, *, root: Path = _CGROUPS) -> MemoryGroup | None:
        """A new group below that of this process; None where that is not permitted."""
        try:
            lines = Path("/proc/self/cgroup").read_text().splitlines()
            own = next(line[3:] for line in lines if line.startswith("0::"))
            if ".." in own.split("/"):
                # Seen from within a namespace whose root lies below: not ours to make groups in.
                return None
            path = root / own.lstrip("/") / f"synd-{name}"
            path.mkdir()
        except (OSError, StopIteration):
            return None
        try:
            # Opened, not made: where the controller is missing, or another file system lies there, it is not.
            with (path / "memory.max").open("r+") as file:
                file.write(str(limit_bytes))
        except OSError:
            with suppress(OSError):
                path.rmdir()
            return None
        return cls(path)

    def oom_kills(self) -> int:
        """How often the kernel ended a process of it for memory."""
        with suppress(OSError, ValueError):
            for line in (self.path / "memory.events").read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        return 0

    def remove(self) -> None:
        """After the last of its processes has ended."""
        with suppress(OSError):
            self.path.rmdir()


def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)
