"""Rows that are not valid, as people and programs want them: table, CSV, JSON or a page of HTML."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Any, NamedTuple

from synd.cli import output
from synd.control import contract


class Format(StrEnum):
    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    HTML = "html"


class Problem(NamedTuple):
    """One message about one row."""

    row: int
    """The first row is 1."""
    id: str
    """The row's id on the grid; in a file, the line it ends on."""
    column: str
    """Empty: it is about the whole row."""
    message: str
    value: str
    """What stands in that cell."""


_HEAD = ("row", "column", "value", "message")


def show(
    problems: Sequence[Problem], summary: str, data: dict[str, Any], form: Format, *, id_name: str
) -> None:
    """Prints problems and a line of summary. `data` goes with the JSON; `id_name` heads the rows' ids."""
    match form:
        case Format.TABLE:
            if problems:
                output.table(
                    ("row", id_name, *_HEAD[1:]),
                    [
                        (str(p.row), *map(_seen, (p.id, p.column or "(row)", p.value, p.message)))
                        for p in problems
                    ],
                    right=("row",),
                )
            output.say(summary)
        case Format.CSV:
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(("row", id_name.replace(" ", "_"), *_HEAD[1:]))
            writer.writerows((p.row, p.id, p.column, p.value, p.message) for p in problems)
            output.say(text.getvalue().rstrip("\n"))
            output.remark(summary)
        case Format.JSON:
            output.say(
                json.dumps(
                    {"schema": contract.SCHEMA, **data}, ensure_ascii=False, indent=2, default=str
                )
            )
        case Format.HTML:
            output.say(_page(problems, summary, id_name))
            output.remark(summary)


def _seen(text: str) -> str:
    """`text` without signs that a terminal would act upon."""
    return "".join(sign if sign.isprintable() or sign in "\t\n" else "\ufffd" for sign in text)


def _page(problems: Iterable[Problem], summary: str, id_name: str) -> str:
    """A page that stands alone; nothing of a cell is taken for markup."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("row", id_name, *_HEAD[1:]))
    lines = "\n".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(cell)}</td>"
            for cell in (str(p.row), p.id, p.column or "(row)", p.value, p.message)
        )
        + "</tr>"
        for p in problems
    )
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Validation: {html.escape(summary)}</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #1a1a1a; }}
table {{ border-collapse: collapse; }}
th, td {{ border: 1px solid #d0d0d0; padding: .3rem .6rem; text-align: left; vertical-align: top; }}
th {{ background: #f2f2f2; }}
tr:nth-child(even) td {{ background: #fafafa; }}
</style>
</head>
<body>
<h1>Validation</h1>
<p>{html.escape(summary)}</p>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{lines}
</tbody>
</table>
</body>
</html>"""
