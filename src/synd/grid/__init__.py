"""Grids of the remote service: the socket's protocol, the document, what is read from and written to it.

`crdt` is the document alone and knows nothing of sockets. The names below come from their modules when they are
asked for, so that importing this loads nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from synd.client.wire_grids import Column, CsvFormat, GridExport, GridImport
    from synd.grid.check import CheckReport, RowCheck, check_csv, read_schema
    from synd.grid.crdt import UNDEFINED, Replica, Timestamp
    from synd.grid.limits import GridLimits, GridTimeouts
    from synd.grid.operations import (
        bound_schema,
        download_csv,
        export,
        import_csv,
        synchronize,
    )
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
    from synd.grid.validation import (
        RowProblem,
        Validation,
        Via,
        get_snapshot,
        get_validation,
    )
    from synd.grid.values import GridRow, GridSnapshot, Message, Status, Verdict

__all__ = [
    "UNDEFINED",
    "CheckReport",
    "Column",
    "CsvFormat",
    "Ended",
    "Followed",
    "GridCalls",
    "GridConnection",
    "GridExport",
    "GridImport",
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
    "RowCheck",
    "RowProblem",
    "Status",
    "Timestamp",
    "Validation",
    "Verdict",
    "Via",
    "bound_schema",
    "check_csv",
    "download_csv",
    "export",
    "follow_grid",
    "get_snapshot",
    "get_validation",
    "import_csv",
    "open_grid",
    "read_grid",
    "read_schema",
    "synchronize",
    "watch_grid",
]

_HOMES = {
    "synd.client.wire_grids": ("Column", "CsvFormat", "GridExport", "GridImport"),
    "synd.grid.check": ("CheckReport", "RowCheck", "check_csv", "read_schema"),
    "synd.grid.crdt": ("UNDEFINED", "Replica", "Timestamp"),
    "synd.grid.limits": ("GridLimits", "GridTimeouts"),
    "synd.grid.operations": (
        "bound_schema",
        "download_csv",
        "export",
        "import_csv",
        "synchronize",
    ),
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
    "synd.grid.validation": (
        "RowProblem",
        "Validation",
        "Via",
        "get_snapshot",
        "get_validation",
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
