"""Time as a value: a clock that can be handed in, one deadline passed down, back-off arithmetic."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from synd.errors import DeadlineExceeded

NS = 1_000_000_000


class Clock(Protocol):
    """Wall time (UTC ns since 1970) and monotonic time (s). The wall may jump; waits use the other."""

    def now_ns(self) -> int: ...

    def monotonic(self) -> float: ...


class SystemClock:
    """The machine's clock."""

    def now_ns(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()


SYSTEM = SystemClock()


@dataclass(frozen=True, slots=True)
class Deadline:
    """One budget of time that a whole chain of calls shares."""

    at: float
    """Monotonic seconds."""
    total_s: float
    what: str
    clock: Clock = SYSTEM

    @classmethod
    def after(cls, seconds: float, what: str, clock: Clock = SYSTEM) -> Deadline:
        return cls(clock.monotonic() + seconds, seconds, what, clock)

    def left_s(self) -> float:
        """Seconds left, never below 0."""
        return max(0.0, self.at - self.clock.monotonic())

    @property
    def passed(self) -> bool:
        return self.clock.monotonic() >= self.at

    def check(self) -> float:
        """Seconds left. Raises DeadlineExceeded when none are."""
        left = self.left_s()
        if left <= 0:
            raise DeadlineExceeded(
                f"{self.what} took longer than {self.total_s:g} s",
                hint="see `synd status` for what it waited for",
            )
        return left


def backoff_s(attempt: int, *, base_s: float = 0.25, cap_s: float = 30.0) -> float:
    """Seconds to wait before try `attempt` + 1 (first failure is attempt 1), jittered over [½, 1½]."""
    return float(min(cap_s, base_s * 2 ** (attempt - 1)) * random.uniform(0.5, 1.5))


def parse_time_ns(text: str) -> int:
    """UTC ns of the service's ISO-8601 text, e.g. 2026-01-31T08:00:00.123Z. Raises ValueError."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    whole = int(moment.replace(microsecond=0).timestamp())
    return whole * NS + moment.microsecond * 1000


def format_time(ns: int) -> str:
    """The service's spelling: ISO-8601, milliseconds, Z."""
    seconds, rest = divmod(ns, NS)
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{stamp}.{rest // 1_000_000:03d}Z"
