"""The real worker program, of which the first to pass a point is killed there, or its daemon is.

Told by the environment: ``KILL_WHO`` (``worker``, ``daemon``), ``KILL_AT`` (a name of `synd.processors.checkpoints`)
and ``KILL_ONCE`` (a file that is made when it is done).
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

WHO, AT = os.environ.get("KILL_WHO", ""), os.environ.get("KILL_AT", "")
ONCE = Path(os.environ.get("KILL_ONCE", "/nowhere"))


def kill_parent(name: str) -> None:
    """Linux then ends this process too, whatever it does."""
    if name == AT and not ONCE.exists():
        ONCE.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()


def main() -> int:
    if WHO == "worker" and not ONCE.exists():
        ONCE.touch()
        os.environ["SYND_CRASH_AT"] = AT
    # Read when it is imported.
    from synd.processors import checkpoints, worker

    if WHO == "daemon":
        checkpoints.listener = kill_parent
    return worker.main()


if __name__ == "__main__":
    sys.exit(main())
