"""Grids of the remote service: the socket's protocol, the document, what is read from and written to it.

`crdt` is the document alone and knows nothing of sockets. The names below come from their modules when they are
asked for, so that importing this loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synd.grid.crdt import UNDEFINED, Replica, Timestamp
    from synd.grid.limits import GridLimits, GridTimeouts
    from synd.grid.outcome import Kind, Outcome, Phase, Reason
    from synd.grid.snapshot import (
        Ended,
        Followed,
        GridCalls,
        GridConnection,
        follow_grid,
        open_grid,
        read_grid,
        watch_grid,
    )
    from synd.grid.values import GridRow, GridSnapshot, Message, Status, Verdict

__all__ = [
    "UNDEFINED",
    "Ended",
    "Followed",
    "GridCalls",
    "GridConnection",
    "GridLimits",
    "GridRow",
    "GridSnapshot",
    "GridTimeouts",
    "Kind",
    "Message",
    "Outcome",
    "Phase",
    "Reason",
    "Replica",
    "Status",
    "Timestamp",
    "Verdict",
    "follow_grid",
    "open_grid",
    "read_grid",
    "watch_grid",
]

_HOMES = {
    "synd.grid.crdt": ("UNDEFINED", "Replica", "Timestamp"),
    "synd.grid.limits": ("GridLimits", "GridTimeouts"),
    "synd.grid.outcome": ("Kind", "Outcome", "Phase", "Reason"),
    "synd.grid.snapshot": (
        "Ended",
        "Followed",
        "GridCalls",
        "GridConnection",
        "follow_grid",
        "open_grid",
        "read_grid",
        "watch_grid",
    ),
    "synd.grid.values": ("GridRow", "GridSnapshot", "Message", "Status", "Verdict"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
