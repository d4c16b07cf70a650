"""Named points at which a test may kill the process: between any two steps that must survive it.

``SYND_CRASH_AT=push.before-create:3`` sends SIGKILL at the third passing. Without it a point costs a
comparison.
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
    if listener is not None:
        listener(name)
    if name == _NAME:
        _die_in_time()


def _die_in_time() -> None:
    global _left  # noqa: PLW0603 - one process, one countdown
    _left -= 1
    if _left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
