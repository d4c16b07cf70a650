"""A clock that tests move."""

from __future__ import annotations

from synd.clock import NS


class FakeClock:
    """A clock that moves when told to. Both times move together."""

    def __init__(self, now_ns: int = 1_769_846_400 * NS, monotonic: float = 1000.0) -> None:
        self._now_ns = now_ns
        self._monotonic = monotonic

    def now_ns(self) -> int:
        return self._now_ns

    def monotonic(self) -> float:
        return self._monotonic

    def advance(self, seconds: float) -> None:
        self._now_ns += round(seconds * NS)
        self._monotonic += seconds
