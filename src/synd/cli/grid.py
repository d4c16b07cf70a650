"""`synd grid`: curation grids from the command line, from making one to its export, with no web page needed."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synd.cli import grid_checks, output
from synd.cli.grid_options import (
    EX_DATAERR,
    STANDARD,
    Separator,
    Session,
    Timeout,
    csv_form,
    given,
    within,
)
from synd.cli.output import Json
from synd.cli.remote import ask, entity
from synd.errors import Exists, NotFound, SyndError, UsageError

if TYPE_CHECKING:
    from synd.client.service import SynapseClient
    from synd.client.wire_grids import Column, GridSession


app = typer.Typer(
    help="Curation grids: make, fill, validate, export. Needs no daemon.", no_args_is_help=True
)


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="grid", rich_help_panel="Curation")


@app.command()
def create(
    record_set: Annotated[
        str | None,
        typer.Option("--record-set", metavar="ID", help="The record set whose rows it holds."),
    ] = None,
    view: Annotated[
        str | None,
        typer.Option("--view", metavar="ID", help="The view whose rows it holds, all of them."),
    ] = None,
    query: Annotated[
        str | None, typer.Option("--query", metavar="SQL", help="A query of a view instead.")
    ] = None,
    owner: Annotated[
        str | None,
        typer.Option("--owner", metavar="NUMBER", help="Number of the team or user it belongs to."),
    ] = None,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="Take your newest session of that source, if any.")
    ] = False,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Start a grid session. Example: `synd grid create --record-set syn123`."""
    if sum(one is not None for one in (record_set, view, query)) > 1:
        raise UsageError(
            "a grid holds a record set, a view or a query, not several of them",
            hint="name one; none at all makes an empty grid",
        )
    if reuse and record_set is None and view is None:
        raise UsageError("--reuse needs a source", hint="name --record-set or --view")
    source = entity(record_set or view or "") if record_set or view else None
    sql = query if view is None else f"SELECT * FROM syn{source}"  # noqa: S608 - the service's own language
    deadline = within(timeout, "creating the grid session")

    async def work(client: SynapseClient) -> tuple[GridSession, bool]:
        if reuse:
            known = await client.grid_sessions(source, deadline=deadline)
            if known:
                return max(known, key=lambda one: one.started_on), True
        made = await client.create_grid(
            record_set=source if record_set else None, sql=sql, owner=owner, deadline=deadline
        )
        return made, False

    with output.waiting("creating the grid"):
        found, reused = ask(work)
    output.emit(
        {**_told(found), "reused": reused}, as_json=as_json, human=lambda: output.say(found.id)
    )
    if not as_json and found.schema_id is None:
        output.remark("no JSON schema is bound to its source: nothing will validate its rows")


@app.command(name="list")
def list_(
    source: Annotated[
        str | None,
        typer.Option("--source", metavar="ID", help="Only those of this record set or view."),
    ] = None,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Show your grid sessions."""
    where = None if source is None else entity(source)
    deadline = within(timeout, "listing the grid sessions")
    found = ask(lambda client: client.grid_sessions(where, deadline=deadline))
    output.emit(
        {"sessions": [_told(one) for one in found]},
        as_json=as_json,
        human=lambda: output.table(
            ("session", "source", "schema", "started"),
            [
                (one.id, f"syn{one.source}" if one.source else "-", one.schema_id or "-",
                 one.started_on)
                for one in found
            ],
        ) if found else output.say("there are no grid sessions"),
    )  # fmt: skip


def _told(session: GridSession) -> dict[str, Any]:
    return {
        "session": session.id,
        "source": f"syn{session.source}" if session.source else None,
        "json_schema": session.schema_id,
        "started_on": session.started_on,
        "modified_on": session.modified_on,
    }


@app.command(name="import")
def import_(
    session: Session,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="A CSV with a header line; - is standard input."),
    ] = None,
    handle: Annotated[
        int | None, typer.Option("--file-handle", metavar="NUMBER", help="A CSV that was uploaded before.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column", metavar="NAME:TYPE",
            help="The columns, each in turn; not given: by header and bound schema.",
        ),
    ] = None,
    separator: Separator = ",",
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Put the rows of a CSV on a grid; known rows are updated. Example: `synd grid import ID samples.csv`."""
    from synd.grid import operations
    from synd.ids import FileHandleId

    if (file is None) == (handle is None):
        raise UsageError(
            "an import is of a file or of a file handle",
            hint="name one of them: `synd grid import SESSION FILE`",
        )
    schema = [_column(one) for one in columns] if columns else None
    form = csv_form(separator)
    deadline = within(timeout, "importing the CSV")
    with given(file or Path()) as path, output.bar("importing", unit="rows") as tell:
        found = ask(
            lambda client: operations.import_csv(
                client, session, path if handle is None else FileHandleId(handle), schema=schema, form=form, deadline=deadline,
                progress=lambda p: tell(p.current, p.total, p.message),
            )
        )  # fmt: skip
    data = {
        "session": session,
        "total": found.total,
        "created": found.created,
        "updated": found.updated,
    }
    output.emit(
        data,
        as_json=as_json,
        human=lambda: output.say(
            f"{output.count(found.total or 0, 'row')} imported:"
            f" {found.created} new, {found.updated} updated"
        ),
    )


def _column(text: str) -> Column:
    from synd.client.wire_grids import Column
    from synd.grid.csvfile import TYPES

    name, colon, kind = text.rpartition(":")
    if not colon or not name:
        raise UsageError(f"{text!r} is no column", hint="it looks like age:INTEGER")
    if kind.upper() not in TYPES:
        raise UsageError(
            f"{text!r}: {kind!r} is no type of a column", hint=f"one of {', '.join(sorted(TYPES))}"
        )
    return Column(name, kind.upper())


app.command()(grid_checks.check)
app.command()(grid_checks.validate)


@app.command()
def download(
    session: Session,
    to: Annotated[
        Path,
        typer.Argument(
            metavar="TO", help="A folder, or the path of the CSV; - is standard output."
        ),
    ],
    row_id: Annotated[bool, typer.Option("--row-id", help="With row ids and versions.")] = False,
    etag: Annotated[bool, typer.Option("--etag", help="With etags.")] = False,
    separator: Separator = ",",
    force: Annotated[
        bool, typer.Option("--force", "-f", help="Replace a file that is there.")
    ] = False,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Save the present rows of a grid as CSV. Example: `synd grid download ID rows.csv`."""
    from synd.grid import operations

    form = csv_form(separator)
    if str(to) == STANDARD:
        if as_json:
            raise UsageError(
                "--json and the CSV would both go to standard output",
                hint="leave out --json, or name a file instead of -",
            )
        deadline = within(timeout, "downloading the grid")
        with (
            output.waiting("downloading"),
            tempfile.TemporaryDirectory(prefix="synd-grid-") as aside,
        ):
            path = ask(
                lambda client: operations.download_csv(
                    client, session, aside, form=form, row_id=row_id, etag=etag, deadline=deadline
                )
            )
            with path.open("rb") as source:
                shutil.copyfileobj(source, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        return
    path = operations.target(to, session)
    if path.is_file() and not force:
        raise Exists(f"{path} is there", hint="--force replaces it", path=str(path))
    deadline = within(timeout, "downloading the grid")
    with output.waiting("downloading"):
        path = ask(
            lambda client: operations.download_csv(
                client, session, path, form=form, row_id=row_id, etag=etag, deadline=deadline
            )
        )
    output.emit(
        {"session": session, "path": str(path)},
        as_json=as_json,
        # Not among the bytes that went to a pipe.
        human=lambda: (output.say if path.is_file() else output.remark)(str(path)),
    )


@app.command()
def sync(
    session: Session,
    pull: Annotated[
        bool, typer.Option("--pull", help="Only take what is new in the source.")
    ] = False,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Bring a grid and its source together. Exit code 65 when some of it could not be."""
    from synd.grid import operations

    deadline = within(timeout, "synchronizing")
    with output.waiting("synchronizing"):
        wrong = ask(
            lambda client: operations.synchronize(
                client, session, pull_only=pull, deadline=deadline
            )
        )

    def human() -> None:
        for text in wrong:
            output.say(text)
        output.say(f"{output.count(len(wrong), 'error')}" if wrong else "synchronized")

    output.emit({"session": session, "errors": wrong}, as_json=as_json, human=human)
    if wrong:
        raise typer.Exit(EX_DATAERR)


app.command()(grid_checks.export)


@app.command()
def delete(
    sessions: Annotated[
        list[str], typer.Argument(metavar="SESSION...", help="The ids of the grid sessions.")
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """End grid sessions; what was not exported from them is gone."""
    sessions = list(dict.fromkeys(sessions))
    output.confirm(f"Delete {output.count(len(sessions), 'grid session')}?", yes=yes)
    deadline = within(timeout, "deleting grid sessions")
    deleted: list[str] = []
    missing: list[SyndError] = []

    async def work(client: SynapseClient) -> None:
        for one in sessions:
            try:
                await client.delete_grid(one, deadline=deadline)
                deleted.append(one)
            except NotFound as error:
                missing.append(error)

    ask(work)
    if missing and not deleted:
        raise missing[0]
    output.emit(
        {"deleted": deleted, "missing": [one for one in sessions if one not in deleted]},
        as_json=as_json,
        human=lambda: output.say(f"deleted {output.count(len(deleted), 'grid session')}"),
    )
    if missing:
        for error in missing if not as_json else ():
            output.remark(f"synd: {error}")
        raise typer.Exit(NotFound.exit_code)


app.command()(grid_checks.watch)
