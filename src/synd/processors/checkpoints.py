"""Named points of a worker at which a test may kill it: at each edge of a stage.

``SYND_CRASH_AT=worker.data.told:1`` sends SIGKILL when that point is passed. Without it a point costs a
comparison. The names are `worker.STAGE.begin`, `.made` (in the work folder) and `.told` (to who waits).
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

_NAME, _, _COUNT = os.environ.get("SYND_CRASH_AT", "").partition(":")
_left = int(_COUNT) if _COUNT.isdecimal() else 1

listener: Callable[[str], None] | None = None
"""Hears of every point that is passed, for tests in the same process."""


def checkpoint(name: str) -> None:
    """Passes a point."""
    global _left  # noqa: PLW0603 - one process, one countdown
    if listener is not None:
        listener(name)
    if name == _NAME:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
