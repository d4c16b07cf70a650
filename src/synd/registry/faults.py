"""Trouble on request: latency, bandwidth, throttling, and single failures at chosen requests.

A grid's socket asks for its handshake as GET /grid/socket?…, and for each of its messages as WS /grid/socket/NAME
with NAME one of connected, synchronize-clock, patch, ping, new-patch.

Tests and benchmarks meet a realistic remote this way. Rules are matched by the REST side (an event loop) and
by the byte server (threads) alike, so the book has a lock; both carry out what `Fault` says themselves.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from synd.errors import UsageError

CLEARED_S = 0.05
"""A held request on the event loop looks so often whether the rules were cleared."""


class Action(StrEnum):
    """What goes wrong."""

    STATUS = "status"
    """Answer with `status` instead of handling the request."""
    DROP_BEFORE = "drop-before"
    """Close the connection; the request is not handled."""
    DROP_AFTER = "drop-after"
    """Handle the request, then close the connection without an answer."""
    TRUNCATE = "truncate"
    """Announce the whole body, send `bytes` of it, close the connection."""
    CORRUPT = "corrupt"
    """Invert byte number `bytes` of the body (counted in what is sent; of a part, in what was received)."""
    DELAY = "delay"
    """Wait `seconds`, then handle the request."""
    HOLD = "hold"
    """The same, but the wait is over as soon as the rules are cleared."""
    EXPIRE = "expire"
    """Answer a presigned URL as if its time were over (403)."""
    SILENT = "silent"
    """A grid's socket (method WS) stays open and says nothing any more."""
    ADD_FAILED = "add-failed"
    """Answer the adding of an upload's part with ADD_FAILED; the part is not added."""


@dataclass(slots=True)
class Fault:
    """One rule: which requests, from the how-manieth on, how often, and what happens."""

    id: int
    method: str
    """A method, or * for all."""
    path: re.Pattern[str]
    """Searched in path and query."""
    action: Action
    nth: int = 1
    """The first matching request that it hits, from 1."""
    times: int = 1
    """How many matching requests it hits from there; 0 is all."""
    status: int = 503
    reason: str = "This failure was asked for."
    code: str = ""
    """The service's errorCode beside the reason, if any."""
    bytes: int = 0
    seconds: float = 0.0
    seen: int = 0
    hits: int = 0
    cleared: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """For `DELAY` and `HOLD`, on a thread of the request's own."""
        if self.action is Action.HOLD:
            self.cleared.wait(self.seconds)
        else:
            time.sleep(self.seconds)

    async def wait_async(self) -> None:
        if self.action is Action.DELAY:
            await asyncio.sleep(self.seconds)
            return
        until = time.monotonic() + self.seconds
        # The event is one for threads: storage waits for it, too.
        while (left := until - time.monotonic()) > 0 and not self.cleared.is_set():  # noqa: ASYNC110
            await asyncio.sleep(min(left, CLEARED_S))

    def describe(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "method": self.method,
            "path": self.path.pattern,
            "action": self.action.value,
            "nth": self.nth,
            "times": self.times,
            "status": self.status,
            "reason": self.reason,
            "code": self.code,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "seen": self.seen,
            "hits": self.hits,
        }


def parse(body: dict[str, Any], number: int) -> Fault:
    """The rule that a JSON object describes, as POST /admin/faults takes it. Raises UsageError."""
    known = {
        "method",
        "path",
        "action",
        "nth",
        "times",
        "status",
        "reason",
        "code",
        "bytes",
        "seconds",
    }
    if unknown := sorted(set(body) - known):
        raise UsageError(
            f"unknown fields in a fault: {', '.join(unknown)}", hint=str(sorted(known))
        )
    try:
        fault = Fault(
            number,
            str(body.get("method", "*")).upper(),
            re.compile(str(body.get("path", "."))),
            Action(body["action"]),
            int(body.get("nth", 1)),
            int(body.get("times", 1)),
            int(body.get("status", 503)),
            str(body.get("reason", "This failure was asked for.")),
            str(body.get("code", "")),
            int(body.get("bytes", 0)),
            float(body.get("seconds", 0.0)),
        )
    except (KeyError, ValueError, TypeError, re.error) as error:
        raise UsageError(f"not a fault: {error!r}") from error
    if fault.nth < 1 or fault.times < 0 or fault.bytes < 0 or fault.seconds < 0:
        raise UsageError("nth counts from 1; times, bytes and seconds are not negative")
    if not 100 <= fault.status <= 599:
        raise UsageError(f"{fault.status} is not an HTTP status")
    return fault


class FaultBook:
    """The rules in force. Thread-safe; costs one attribute read when there are none."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._last = 0
        self.armed = False

    def add(self, body: dict[str, Any]) -> Fault:
        with self._lock:
            self._last += 1
            fault = parse(body, self._last)
            self._rules.append(fault)
            self.armed = True
            return fault

    def clear(self) -> None:
        with self._lock:
            for fault in self._rules:
                fault.cleared.set()
            self._rules.clear()
            self.armed = False

    def describe(self) -> list[dict[str, Any]]:
        with self._lock:
            return [fault.describe() for fault in self._rules]

    def hit(self, method: str, target: str) -> list[Fault]:
        """The rules that this request meets, in the order of their making; each is counted."""
        found = []
        with self._lock:
            for fault in self._rules:
                if fault.method not in ("*", method) or not fault.path.search(target):
                    continue
                fault.seen += 1
                if fault.seen >= fault.nth and (
                    not fault.times or fault.seen < fault.nth + fault.times
                ):
                    fault.hits += 1
                    found.append(fault)
        return found


class RequestLog:
    """Who asked for what: counters per method and route, and the newest requests. Thread-safe."""

    KEEP = 20_000

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count: Counter[tuple[str, str, str, int]] = Counter()
        self._latest: deque[tuple[float, str, str, str, int]] = deque(maxlen=self.KEEP)
        self._sent_bytes = 0

    def add(
        self, side: str, method: str, route: str, target: str, status: int, sent_bytes: int = 0
    ) -> None:
        """`side` is rest or blob, `route` the template, `status` 0 for a dropped connection."""
        with self._lock:
            self._sent_bytes += sent_bytes
            self._count[side, method, route, status] += 1
            self._latest.append((time.time(), side, method, target, status))

    def reset(self) -> None:
        with self._lock:
            self._count.clear()
            self._latest.clear()
            self._sent_bytes = 0

    def report(self, limit: int) -> dict[str, Any]:
        with self._lock:
            counts = sorted(self._count.items())
            latest = list(self._latest)[-limit:] if limit else []
            sent_bytes = self._sent_bytes
        return {
            "total": sum(n for _, n in counts),
            "rest": sum(n for (side, *_), n in counts if side == "rest"),
            "blob": sum(n for (side, *_), n in counts if side == "blob"),
            "blob_bytes": sent_bytes,
            "counters": [
                {"side": side, "method": method, "route": route, "status": status, "count": n}
                for (side, method, route, status), n in counts
            ],
            "requests": [
                {"at": at, "side": side, "method": method, "path": path, "status": status}
                for at, side, method, path, status in latest
            ],
        }


CONCURRENT = 3
PER_MINUTE = 600


@dataclass(slots=True)
class Throttle:
    """Synapse's own limits per user: 3 requests at once, 600 in 60 s (synapse-rest.md 1.7).

    Used from the event loop only, so it needs no lock.
    """

    running: Counter[int] = field(default_factory=Counter)
    _recent: dict[int, deque[float]] = field(default_factory=dict)

    def enter(self, user: int, now: float) -> str | None:
        """Why the request is refused, None when it may run; then `leave` must follow. `now` is monotonic s."""
        if self.running[user] >= CONCURRENT:
            return f"Too many concurrent requests: at most {CONCURRENT} at once."
        recent = self._recent.setdefault(user, deque())
        while recent and recent[0] <= now - 60:
            recent.popleft()
        if len(recent) >= PER_MINUTE:
            return f"Too many requests: at most {PER_MINUTE} in 60 seconds."
        recent.append(now)
        self.running[user] += 1
        return None

    def leave(self, user: int) -> None:
        self.running[user] -= 1
