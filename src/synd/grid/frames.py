"""A pandas data frame as a CSV for an import. pandas itself is never imported: the frame brings it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from synd.client.wire_grids import CsvFormat
from synd.errors import UsageError, not_written
from synd.grid.spelling import spelled_line

_COMMON = CsvFormat(escape="")


def is_frame(value: object) -> bool:
    """Whether something looks like a data frame."""
    return hasattr(value, "columns") and hasattr(value, "itertuples")


def names_of(frame: Any) -> list[str]:
    """The column names of a frame. Raises UsageError for columns of several levels."""
    names = list(frame.columns)
    if any(isinstance(name, tuple) for name in names):
        raise UsageError(
            "the data frame's columns have several levels", hint="flatten them: a grid has one"
        )
    # One without a name is told of by who reads it.
    return ["" if name is None or name != name else str(name) for name in names]  # noqa: PLR0124


def write(frame: Any, path: Path, whole: Collection[str]) -> None:
    """Writes a frame, without its index. What is missing (None, NaN, NaT, NA) is an empty cell.

    `whole`: columns of integers; pandas makes 150 a 150.0 as soon as another cell of the column is missing.
    """
    names = names_of(frame)
    columns = [name in whole for name in names]
    try:
        with path.open("w", encoding="utf-8", newline="") as out:
            out.write(spelled_line(names, _COMMON))
            for row in frame.itertuples(index=False, name=None):
                cells = [_spelled(cell, whole=one) for cell, one in zip(row, columns, strict=True)]
                out.write(spelled_line(cells, _COMMON))
    except UnicodeEncodeError as error:
        sign = error.object[error.start]
        raise UsageError(
            f"a cell or name of {path} holds {sign!r}, half of a sign: no UTF-8 text has that"
        ) from error
    except OSError as error:
        raise not_written(path, error) from error


def _spelled(value: Any, *, whole: bool) -> str:
    if isinstance(value, str):
        return value
    if hasattr(value, "tolist"):
        # A number or an array of numpy's.
        value = value.tolist()
    if isinstance(value, list | tuple | dict | set):
        listed = sorted(value) if isinstance(value, set) else value
        return json.dumps(listed, ensure_ascii=False, default=str)
    # Of all values only a missing one differs from itself, and NA says nothing at all.
    if value is None or type(value).__name__ in ("NAType", "NaTType") or value != value:  # noqa: PLR0124
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and whole and value.is_integer():
        return str(int(value))
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
