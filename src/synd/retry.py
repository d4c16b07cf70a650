"""When to try again: a decision as a value, taken from the error and the number of tries so far."""

from __future__ import annotations

from dataclasses import dataclass

from synd.clock import Deadline, backoff_s
from synd.errors import Retry, SyndError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential back-off with jitter, bounded by tries and by the caller's deadline."""

    tries: int = 6
    base_s: float = 0.25
    cap_s: float = 30.0

    def wait_s(
        self, error: SyndError, attempt: int, deadline: Deadline, *, asked_s: float | None = None
    ) -> float | None:
        """Seconds to wait before the next try, or None to give up.

        `attempt` counts the tries made, from 1. `asked_s` is what the service asked for by Retry-After.
        """
        once = error.retry is Retry.ONCE and attempt < 2
        if error.retry is not Retry.LATER and not once:
            return None
        if attempt >= self.tries:
            return None
        wait = backoff_s(attempt, base_s=self.base_s, cap_s=self.cap_s)
        if asked_s is not None:
            wait = max(wait, asked_s)
        return wait if wait < deadline.left_s() else None
