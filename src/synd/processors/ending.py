"""What the end of a worker process means when it said nothing itself."""

from __future__ import annotations

import signal
from enum import StrEnum

from synd.jobs.failures import Failure

NEAR = 0.95
"""A process whose memory peaked this near to its cap was most likely ended for it."""


class Asked(StrEnum):
    """Why whoever started the worker ended it."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


def failure_of_exit(
    status: int,
    *,
    asked: Asked | None = None,
    oom_kills: int = 0,
    peak_bytes: int = 0,
    cap_bytes: int | None = None,
) -> Failure:
    """The class of failure of a worker that ended without an `error` or `done` event.

    `status`: as `subprocess` gives it, negative for a signal. `oom_kills`: how often the kernel ended a
    process of its control group for memory. `peak_bytes`: the largest resident size.
    """
    match asked:
        case Asked.TIMEOUT:
            return Failure.TIMEOUT
        case Asked.CANCEL | Asked.SHUTDOWN:
            return Failure.CANCELLED
        case None:
            pass
    if oom_kills:
        return Failure.OUT_OF_MEMORY
    if status == -signal.SIGKILL and cap_bytes and peak_bytes >= cap_bytes * NEAR:
        return Failure.OUT_OF_MEMORY
    if status in (-signal.SIGTERM, -signal.SIGINT):
        return Failure.CANCELLED
    return Failure.WORKER_DIED
