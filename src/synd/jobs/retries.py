"""Whether a failed attempt has a successor, when that may begin, and with which arguments. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Final

from synd.jobs.failures import Again, Failure

WAITS_S: Final = (5.0, 30.0, 180.0)
"""Before the second attempt, the third, and every later one."""

JITTER: Final = (0.8, 1.2)
"""Parts of the wait, so that what failed together is not tried again together."""

LEAST_MEMORY_BYTES: Final = 1 << 20
"""No cap is halved below it."""

_MEMORY = "_memory_bytes"


def goes_on(failure: Failure, attempt: int, attempts: int, earlier: Collection[Failure]) -> bool:
    """Whether another attempt follows by itself.

    `attempt`: the one that failed, from 1; `attempts`: how many there may be; `earlier`: what the attempts
    before it failed of.
    """
    if attempt >= attempts:
        return False
    match failure.meaning.again:
        case Again.YES:
            return True
        case Again.ONCE:
            return failure not in earlier
        case Again.NEVER | Again.AFTER_CHANGE:
            return False


def wait_s(attempt: int, uniform: Callable[[float, float], float]) -> float:
    """Seconds until the attempt after number `attempt` may begin."""
    return WAITS_S[min(attempt, len(WAITS_S)) - 1] * uniform(*JITTER)


def arguments_after(failure: Failure, arguments: Mapping[str, object]) -> dict[str, object]:
    """The successor's arguments: after OUT_OF_MEMORY with half the caps and one thread.

    Caps lie under ``caps``; those of memory end in ``_memory_bytes``. ``share`` is the part of the configured
    caps that is left, for those that are not told here: `capped` puts both together.
    """
    if failure is not Failure.OUT_OF_MEMORY:
        return dict(arguments)
    told = arguments.get("caps")
    caps = dict(told) if isinstance(told, Mapping) else {}
    for name, value in caps.items():
        if name.endswith(_MEMORY) and isinstance(value, int):
            caps[name] = max(LEAST_MEMORY_BYTES, value // 2)
    share = caps.get("share", 1.0)
    caps["share"] = (share if isinstance(share, int | float) else 1.0) / 2
    caps["tool_threads"] = 1
    return {**arguments, "caps": caps}


def capped(configured: Mapping[str, object], arguments: Mapping[str, object]) -> dict[str, object]:
    """The caps of an attempt: the configured ones, lowered to what its arguments say."""
    told = arguments.get("caps")
    if not isinstance(told, Mapping):
        return dict(configured)
    share = told.get("share", 1.0)
    found: dict[str, object] = {}
    for name, value in configured.items():
        if name in told:
            found[name] = told[name]
        elif name.endswith(_MEMORY) and isinstance(value, int) and isinstance(share, int | float):
            found[name] = max(LEAST_MEMORY_BYTES, int(value * share))
        else:
            found[name] = value
    return found
