"""What the end of a worker means when it said nothing."""

import pytest

from synd.jobs.failures import Failure
from synd.processors.ending import Asked, failure_of_exit

CAP = 100 << 20


@pytest.mark.parametrize(
    ("status", "told", "expected"),
    [
        (-9, {}, Failure.WORKER_DIED),
        (-11, {}, Failure.WORKER_DIED),
        (0, {}, Failure.WORKER_DIED),
        (3, {}, Failure.WORKER_DIED),
        (-9, {"oom_kills": 1}, Failure.OUT_OF_MEMORY),
        (1, {"oom_kills": 1}, Failure.OUT_OF_MEMORY),
        (-9, {"peak_bytes": CAP, "cap_bytes": CAP}, Failure.OUT_OF_MEMORY),
        (-9, {"peak_bytes": CAP // 2, "cap_bytes": CAP}, Failure.WORKER_DIED),
        (-6, {"peak_bytes": CAP, "cap_bytes": CAP}, Failure.WORKER_DIED),
        (-15, {}, Failure.CANCELLED),
        (-9, {"asked": Asked.CANCEL}, Failure.CANCELLED),
        (-9, {"asked": Asked.SHUTDOWN}, Failure.CANCELLED),
        (-15, {"asked": Asked.TIMEOUT}, Failure.TIMEOUT),
        (-9, {"asked": Asked.TIMEOUT, "oom_kills": 2}, Failure.TIMEOUT),
    ],
)
def test_exit_without_a_word_always_has_a_class(status, told, expected):
    """A kill by the kernel for memory is told from other deaths, and from what was asked for."""
    assert expected is failure_of_exit(status, **told)
