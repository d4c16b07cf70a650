"""`synd grid check`, `validate`, `export` and `watch`: which rows are valid, and what depends on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synd.cli import output
from synd.cli.grid_options import (
    EX_DATAERR,
    Form,
    Limit,
    Separator,
    Session,
    Timeout,
    Via,
    csv_form,
    given,
    within,
)
from synd.cli.output import Json
from synd.cli.remote import ask
from synd.cli.rows import Format, Problem, show
from synd.errors import ConfigError, DeadlineExceeded, UsageError

if TYPE_CHECKING:
    from synd.client.service import SynapseClient
    from synd.clock import Deadline
    from synd.grid.validation import Validation

_SCHEMA_ID = re.compile(r"[A-Za-z][\w.]*-[A-Za-z][\w.]*(-\d+\.\d+\.\d+)?")
"""As `my.org-patient-1.0.0`; what else is given for a schema is a path."""


def check(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A CSV with a header line; - is standard input."),
    ],
    schema: Annotated[
        str,
        typer.Option(
            "--schema", metavar="SCHEMA", help="A file with a JSON schema, or the `$id` of one."
        ),
    ],
    separator: Separator = ",",
    limit: Limit = 1000,
    form: Form = Format.TABLE,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Hold a CSV against a JSON schema, here: nothing is sent. Exit code 65 when a row is not valid.

    Example: `synd grid check samples.csv --schema patient.json`. Needs no network with a schema file.
    """
    from synd.grid.check import check_csv, read_schema

    if Path(schema).exists() or not _SCHEMA_ID.fullmatch(schema):
        known = read_schema(Path(schema))
    else:
        deadline = within(timeout, "fetching the schema")
        known = ask(lambda client: client.validation_schema(schema, deadline=deadline))
    with given(file) as path:
        report = check_csv(path, known, csv_form(separator), most=limit)
    problems = [
        Problem(one.row, str(one.line), m.column or "", m.text, one.cells.get(m.column or "", ""))
        for one in report.invalid
        for m in one.messages
    ]
    data = {
        "file": str(file),
        "total_rows": report.total_rows,
        "valid_rows": report.valid_rows,
        "invalid_rows": report.invalid_rows,
        "columns_without_schema": list(report.unknown),
        "columns_missing": list(report.missing),
        "rows": [
            {
                "row": one.row,
                "line": one.line,
                "messages": [{"column": m.column, "text": m.text} for m in one.messages],
            }
            for one in report.invalid
        ],
    }
    summary = (
        f"{output.count(report.total_rows, 'row')}: {report.valid_rows} valid,"
        f" {report.invalid_rows} invalid"
    )
    if as_json:
        output.emit(data, as_json=True, human=lambda: None)
    else:
        show(problems, summary, data, form, id_name="line")
        _remark_left_out(report.invalid_rows - len(report.invalid), form)
        for name in report.unknown:
            output.remark(f"the schema says nothing of the column {name!r}")
        for name in report.missing:
            output.remark(f"the schema demands {name!r}, and there is no such column")
    if not report.is_valid:
        raise typer.Exit(EX_DATAERR)


def validate(
    session: Session,
    via: Via = "auto",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Until every row has its result.")
    ] = True,
    timeout: Timeout = 120.0,
    open_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Seconds to open the socket.")
    ] = 15.0,
    read_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.1, help="Seconds for each answer.")
    ] = 30.0,
    fetch_timeout: Annotated[
        float,
        typer.Option(metavar="SECONDS", min=0.1, help="Seconds without a byte of the snapshot."),
    ] = 20.0,
    limit: Limit = 1000,
    form: Form = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Show which rows of a grid are valid, and why others are not. Changes nothing.

    Exit codes: 0 all are valid, 65 some are not, 75 some have no result yet, 78 no schema is bound.
    """
    found = _validated(
        session, via, within(timeout, "validating the grid"), wait=wait,
        timeouts=(open_timeout, read_timeout, fetch_timeout),
    )  # fmt: skip
    _show_validation(found, form, limit, as_json=as_json)
    _raise_unless_valid(found, quiet=as_json)


def _validated(
    session: str,
    via: str,
    deadline: Deadline,
    *,
    wait: bool = True,
    timeouts: tuple[float, float, float] = (15.0, 30.0, 20.0),
) -> Validation:
    from synd.grid import operations
    from synd.grid.limits import GridTimeouts

    if via not in tuple(operations.Via):
        raise UsageError(f"{via!r} is no way to validate", hint="--via auto, rest or socket")
    open_s, read_s, fetch_s = timeouts
    with output.bar("validating", unit="rows") as tell:
        return ask(
            lambda client: operations.get_validation(
                client, session, via=via, wait=wait, deadline=deadline,
                timeouts=GridTimeouts(open_s=open_s, read_s=read_s, fetch_s=fetch_s),
                seen=lambda done, total: tell(done, total, "validating"),
            )
        )  # fmt: skip


def _show_validation(
    found: Validation, form: Format, limit: int, *, as_json: bool, **more: Any
) -> None:
    """Prints how the rows stand; `more` goes with the JSON."""
    from synd.grid.values import Message

    shown = found.problems[:limit]
    problems = [
        Problem(
            one.row, one.row_id, m.column or "", m.text, _spelled(one.cells.get(m.column or ""))
        )
        for one in shown
        # A result may come without a word of what is wrong.
        for m in one.messages or (Message(None, "invalid"),)
    ]
    data = {
        **_summary(found.validation_summary),
        "settled": found.settled,
        "rows": [
            {
                "row": one.row,
                "row_id": one.row_id,
                "messages": [{"column": m.column, "text": m.text} for m in one.messages],
            }
            for one in shown
        ],
        **more,
    }
    if as_json:
        output.emit(data, as_json=True, human=lambda: None)
        return
    summary = f"nothing could be read: {found.outcome}"
    if found.total_rows is not None:
        summary = _line(found.validation_summary)
    show(problems, summary, data, form, id_name="row id")
    _remark_left_out(len(found.problems) - len(shown), form)


def _summary(told: dict[str, Any]) -> dict[str, Any]:
    """`schema` is the number of the output's own form."""
    return {("json_schema" if key == "schema" else key): value for key, value in told.items()}


def _remark_left_out(rows: int, form: Format) -> None:
    if rows > 0 and form is not Format.JSON:
        output.remark(f"{output.count(rows, 'more invalid row')} not shown; --limit shows more")


def _spelled(value: Any) -> str:
    return "" if value is None else str(value)


def _raise_unless_valid(found: Validation, *, quiet: bool) -> None:
    """Ends with the exit code that the verdict asks for, and says why unless the JSON has said it."""
    from synd.grid.values import Verdict

    remark = (lambda _text: None) if quiet else output.remark
    match found.verdict:
        case Verdict.VALID:
            return
        case Verdict.INVALID:
            raise typer.Exit(EX_DATAERR)
        case Verdict.PENDING:
            count = output.count(found.pending_rows or 0, "row")
            remark(f"synd: {count} without a result yet: try later, or with a longer --timeout")
            raise typer.Exit(DeadlineExceeded.exit_code)
        case Verdict.NO_SCHEMA:
            remark("synd: no JSON schema is bound to the session: nothing validates its rows")
            remark("      `synd curate bind` binds one to its source; then make a new session")
            raise typer.Exit(ConfigError.exit_code)
        case Verdict.INCOMPLETE:
            error = found.outcome.error(found.session)
            remark(f"synd: {error}")
            raise typer.Exit(error.exit_code)


def export(
    session: Session,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Also when rows are not valid, or not validated.")
    ] = False,
    via: Via = "auto",
    timeout: Timeout = 600.0,
    limit: Limit = 1000,
    form: Form = Format.TABLE,
    as_json: Json = False,
) -> None:
    """Make a grid a new version of its record set, once all its rows are valid.

    Exit codes as `synd grid validate`; nothing is exported unless it is 0. The seconds of --timeout are for
    validation and export together.
    """
    from synd.grid import operations

    deadline = within(timeout, "exporting the grid")
    if not anyway:
        found = _validated(session, via, deadline)
        if not found.is_valid:
            _show_validation(found, form, limit, as_json=as_json, exported=False)
            if not as_json:
                output.remark("nothing was exported; --anyway does so all the same")
            _raise_unless_valid(found, quiet=as_json)
    with output.waiting("exporting"):
        made = ask(lambda client: operations.export(client, session, deadline=deadline))
    data = {
        "session": session,
        "exported": True,
        "record_set": f"syn{made.record_set}",
        "version": made.version,
        "total_rows": made.total,
        "valid_rows": made.valid,
        "invalid_rows": made.invalid,
        "pending_rows": made.unknown,
    }
    output.emit(
        data,
        as_json=as_json,
        human=lambda: output.say(
            f"syn{made.record_set} is now version {made.version}"
            + ("" if made.total is None else f": {_counts(data)}")
        ),
    )


def watch(
    session: Session,
    timeout: Timeout = 7200.0,
    as_json: Json = False,
) -> None:
    """Tell how the rows stand, now and after each change, until Ctrl-C or the time is over."""
    from synd.grid.outcome import Reason
    from synd.grid.snapshot import watch_grid

    deadline = within(timeout, "watching the grid")

    async def work(client: SynapseClient) -> Any:
        last, shown = None, False
        async for snapshot in watch_grid(client, session, deadline=deadline):
            last = snapshot
            if not snapshot.decoded:
                break
            shown = True
            told = snapshot.validation_summary
            output.emit(
                _summary(told),
                as_json=as_json,
                human=lambda told=told: output.say(_line(told)),  # type: ignore[misc]
            )
            output.flush()
        return last, shown

    last, shown = ask(work)
    if last is None:
        # It was over before anything could be read.
        deadline.check()
    elif not last.outcome.complete and not (shown and last.outcome.reason is Reason.TIMEOUT):
        raise last.outcome.error(session)


def _line(told: dict[str, Any]) -> str:
    return f"{output.count(told['total_rows'], 'row')}: {_counts(told)}"


def _counts(told: dict[str, Any]) -> str:
    return f"{told['valid_rows']} valid, {told['invalid_rows']} invalid, {told['pending_rows']} pending"
