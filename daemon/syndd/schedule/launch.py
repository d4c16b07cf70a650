"""Becomes a worker program, after setting what must hold before its first line runs.

``python -I -S launch.py PARENT PROGRAM ARGUMENT…``. Started this way, and not by a function between fork and
exec, as the daemon has many threads. Imports nothing of synd; costs some 15 ms. Linux ends the program
when the thread that started it is gone, so nothing outlives a daemon that is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
NICE = 10
OOM_SCORE = "500"
"""The kernel, short of memory, ends a job rather than the daemon."""


def main() -> None:
    """Never returns."""
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            # It died before it could be told of us.
            os._exit(1)
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write(OOM_SCORE)
    with contextlib.suppress(OSError):
        os.nice(NICE)
    os.execvp(program[0], program)  # noqa: S606 - the argument vector is the daemon's own


if __name__ == "__main__":
    main()
