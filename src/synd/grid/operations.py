"""What one does with a grid of the service: import, validate, download, synchronize, export, delete.

Each takes a `SynapseClient` (or what has its calls) and a session id. The upload of a path or a data frame happens
inside `import_csv`; nothing is ever written to a folder that was not named.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from synd.client.asyncjobs import JobProgress
from synd.client.wire_grids import Column, CsvFormat, GridExport, GridImport
from synd.clock import Deadline
from synd.errors import NotFound, UsageError, not_written
from synd.grid import csvfile, frames, spelling
from synd.grid.schema import column_type, properties
from synd.grid.schema import columns as columns_of
from synd.grid.validation import RowProblem, Validation, Via, get_snapshot, get_validation
from synd.ids import FileHandleId

if TYPE_CHECKING:
    from synd.client.service import SynapseClient

__all__ = [
    "Progress",
    "RowProblem",
    "Validation",
    "Via",
    "bound_schema",
    "check_types",
    "download_csv",
    "export",
    "get_snapshot",
    "get_validation",
    "import_csv",
    "synchronize",
    "target",
]

Progress = Callable[[JobProgress], object]

_BUDGET_S: Final = 600.0
_SHOWN: Final = 5
"""Cells that an error names."""
_LONGEST: Final = 80
"""Characters that it shows of one."""


async def import_csv(
    client: SynapseClient,
    session: str,
    source: Path | str | FileHandleId | Any,
    *,
    schema: Sequence[Column] | None = None,
    form: CsvFormat | None = None,
    aside: Path | None = None,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> GridImport:
    """Puts the rows of a CSV on a grid: of a path, a pandas data frame, or a file handle (its number).

    `schema`: the columns, exactly those; else their names come from the header or the frame, their types from the
    JSON schema bound to the session, STRING where it says nothing. Rows whose upsert key is on the grid already
    are updated. `form` is of no use to a frame. A copy that is needed on the way lies in `aside`, else in the
    temporary folder. Raises UsageError for a CSV that cannot be used, before anything
    is sent, and for what the service refuses; NotFound.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "importing a CSV into the grid")
    form = form or CsvFormat()
    if isinstance(source, int) and not isinstance(source, bool):
        handle = FileHandleId(source)
        columns = schema or await _columns_of_handle(client, session, handle, form, deadline)
        return await client.import_grid_csv(
            session, handle, columns, form, progress=progress, deadline=deadline
        )
    if not isinstance(source, str | Path) and not frames.is_frame(source):
        raise UsageError(f"{type(source).__name__} is no path, data frame or file handle")
    given = [one.name for one in schema or ()]
    with (
        tempfile.TemporaryDirectory(prefix="synd-grid-", dir=aside) as folder,
        ExitStack() as stack,
    ):
        # Its owner's alone, and gone when the import is over, however that ends.
        aside = Path(folder)
        facts: csvfile.Facts | None = None
        bound = None
        path = aside / "frame.csv"
        name = path.name
        if isinstance(source, str | Path):
            name = Path(source).name
            read = csvfile.whole(Path(source), aside)
            path = await asyncio.to_thread(stack.enter_context, read)
            own = await asyncio.to_thread(
                partial(spelling.either, path, aside / "own.csv", form, exported=False)
            )
            if own != path:
                stack.enter_context(csvfile.named(own, str(source)))
                path = own
            # What is wrong with a file is told without a network.
            facts = await asyncio.to_thread(_facts, path, form, given)
        else:
            stack.enter_context(csvfile.named(path, "the data frame"))
        if schema is None:
            bound = await bound_schema(client, session, deadline=deadline)
        if facts is None:
            form = CsvFormat()
            await asyncio.to_thread(frames.write, source, path, _integers(source, schema, bound))
            facts = await asyncio.to_thread(_facts, path, form, given)
        columns = schema or columns_of(facts.names, bound, facts.longest)
        await asyncio.to_thread(check_types, path, columns, form)
        ready = path
        if not facts.plain:
            ready = aside / "service.csv"
            await asyncio.to_thread(spelling.to_service, path, ready, form, given)
        handle = await client.upload_own(ready, name=name, deadline=deadline)
    return await client.import_grid_csv(
        session, handle, columns, form, progress=progress, deadline=deadline
    )


def _integers(
    frame: Any, schema: Sequence[Column] | None, bound: Mapping[str, object] | None
) -> set[str]:
    """The columns of a frame that hold integers."""
    if schema is not None:
        return {one.name for one in schema if one.type == "INTEGER"}
    told = properties(bound or {})
    return {name for name in frames.names_of(frame) if column_type(told.get(name)) == "INTEGER"}


def _facts(path: Path, form: CsvFormat, given: Sequence[str]) -> csvfile.Facts:
    """Raises UsageError for a file without rows, or with other columns than those given."""
    facts = csvfile.facts(path, form, given)
    if not facts.rows:
        raise UsageError(f"{path} has a header and no rows: nothing to import", path=str(path))
    if given and list(facts.names) != list(given):
        raise UsageError(
            f"{path} has the columns {', '.join(facts.names)}, but the schema given names"
            f" {', '.join(given)}",
            hint="name every column of the file, in its order",
            path=str(path),
        )
    return facts


def check_types(path: Path, columns: Sequence[Column], form: CsvFormat | None = None) -> None:
    """Looks whether each cell fits its column, as the service would refuse all rows for one that does not.

    Raises UsageError with the first such cells. Cost: a read of the file, if a column is no text.
    """
    kinds = [(n, one) for n, one in enumerate(columns) if one.type not in csvfile.TEXTS]
    if not kinds:
        return
    wrong: list[str] = []
    more = 0
    for line in csvfile.rows(path, form, [one.name for one in columns]):
        for n, column in kinds:
            cell = line.cells[n]
            if cell == "" or csvfile.fits(cell, column.type):
                continue
            if len(wrong) < _SHOWN:
                shown = cell if len(cell) <= _LONGEST else cell[:_LONGEST] + "…"
                wrong.append(f"line {line.line}: {shown!r} in {column.name} is no {column.type}")
            else:
                more += 1
    if wrong:
        rest = f", and {more} more" if more else ""
        raise UsageError(
            f"{path}: {'; '.join(wrong)}{rest}",
            hint="mend these cells: the service takes no row of a file with one that does not fit",
            path=str(path),
        )


async def _columns_of_handle(
    client: SynapseClient,
    session: str,
    handle: FileHandleId,
    form: CsvFormat,
    deadline: Deadline,
) -> list[Column]:
    """As the service sees the file, typed by the bound schema."""
    seen = await client.preview_csv(handle, form, deadline=deadline)
    bound = await bound_schema(client, session, deadline=deadline)
    longest = {one.name: one.max_size or 0 for one in seen if one.type.startswith("STRING")}
    return columns_of([one.name for one in seen], bound, longest)


async def bound_schema(
    client: SynapseClient, session: str, *, deadline: Deadline | None = None
) -> dict[str, object] | None:
    """The JSON schema bound to a session with what it refers to put in; None when there is none."""
    uri = (await client.grid_session(session, deadline=deadline)).schema_id
    return None if uri is None else await client.validation_schema(uri, deadline=deadline)


async def download_csv(
    client: SynapseClient,
    session: str,
    to: Path | str,
    *,
    form: CsvFormat | None = None,
    row_id: bool = False,
    etag: bool = False,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> Path:
    """The grid's present rows as CSV: into the folder `to` as ``grid-SESSION.csv``, or at the path `to`; where it is.

    Quotes in a cell are doubled and a backslash is a letter (RFC 4180), so `form.escape` says only how it travels.
    The file is there whole or not at all; one that was there is replaced. There is no default folder. Raises
    NotFound for a folder that is not there, CacheFull for a full disk, Forbidden, ReadOnly.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "downloading the grid")
    form = form or CsvFormat()
    path = target(Path(to), session)
    handle = await client.download_grid_csv(
        session, form, row_id=row_id, etag=etag, progress=progress, deadline=deadline
    )
    # What is no file (a pipe, /dev/stdout) takes the bytes; a link stays one.
    stream = path.exists() and not path.is_file()
    real = path if stream else path.resolve()
    beside = None if stream else real.parent
    try:
        # Beside the target, so that taking its place is one rename.
        with tempfile.TemporaryDirectory(prefix=f".{real.name[:100]}.", dir=beside) as folder:
            fetched = Path(folder) / "service.csv"
            await client.save_own(handle, fetched, deadline=deadline)
            await asyncio.to_thread(_put, fetched, real, form, stream=stream)
    except OSError as error:
        raise not_written(path, error) from error
    return path


def _put(fetched: Path, path: Path, form: CsvFormat, *, stream: bool) -> None:
    ready = fetched
    if spelling.has_escapes(fetched, form):
        ready = fetched.with_name("common.csv")
        spelling.to_common(fetched, ready, form)
    if stream:
        with ready.open("rb") as source, path.open("wb") as out:
            shutil.copyfileobj(source, out)
    else:
        ready.replace(path)


def target(to: Path, session: str) -> Path:
    """Where the CSV of a session goes: `to`, or into it when that is a folder. Raises NotFound."""
    path = to / f"grid-{session}.csv" if to.is_dir() else to
    if not path.parent.is_dir():
        raise NotFound(f"{path.parent} is no folder", path=str(path.parent))
    return path


async def synchronize(
    client: SynapseClient,
    session: str,
    *,
    pull_only: bool = False,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> list[str]:
    """Brings a grid and its source together; what went wrong, a text each, and nothing when all went well."""
    return await client.synchronize_grid(
        session, pull_only=pull_only, progress=progress, deadline=deadline
    )


async def export(
    client: SynapseClient,
    session: str,
    *,
    progress: Progress | None = None,
    deadline: Deadline | None = None,
) -> GridExport:
    """Makes the grid a new version of its record set, whether its rows are valid or not."""
    return await client.export_grid(session, progress=progress, deadline=deadline)
