"""Rows that are not valid: as a table, CSV, JSON and a page, whatever stands in their cells."""

import csv
import io
import json
from html.parser import HTMLParser

import pytest

from synd.cli.rows import Format, Problem, show

HOSTILE = [
    "<script>alert(1)</script>",
    "a\tb\nc",
    '"quoted", and; more',
    "[bold]no markup[/bold]",
    "&amp; 'single'",
    "grüße 🧬",
]
PROBLEMS = [Problem(n, f"1.{n}", text, text, text) for n, text in enumerate(HOSTILE, start=1)]
SUMMARY = "6 rows: 0 valid, 6 invalid <&>"
DATA = {"total_rows": 6, "rows": [{"row": 1, "text": HOSTILE[0]}]}


def shown(form, capsys, problems=PROBLEMS):
    show(problems, SUMMARY, DATA, form, id_name="row id")
    return capsys.readouterr()


class _Cells(HTMLParser):
    """The texts of a page's cells, and the tags that it has."""

    def __init__(self):
        super().__init__()
        self.tags, self.cells, self._inside = set(), [], False

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self._inside = tag == "td"
        if self._inside:
            self.cells.append("")

    def handle_endtag(self, tag):
        self._inside = False

    def handle_data(self, data):
        if self._inside:
            self.cells[-1] += data


def test_table_when_it_is_piped_has_a_line_a_message(capsys):
    """Tabs and line ends in cells do not break it; the summary is its last line."""
    lines = shown(Format.TABLE, capsys).out.splitlines()

    assert ["row", "row id", "column", "value", "message"] == lines[0].split("\t")
    assert len(HOSTILE) == len(lines) - 2
    assert all(5 == len(line.split("\t")) for line in lines[1:-1])
    assert SUMMARY == lines[-1]


def test_table_when_nothing_is_wrong_is_the_summary_alone(capsys):
    """No head without rows."""
    assert f"{SUMMARY}\n" == shown(Format.TABLE, capsys, []).out


def test_csv_always_gives_back_what_it_was_given(capsys):
    """The table alone on standard output, the summary beside it."""
    said = shown(Format.CSV, capsys)
    rows = list(csv.DictReader(io.StringIO(said.out, newline="")))

    assert HOSTILE == [row["value"] for row in rows] == [row["message"] for row in rows]
    assert ["row", "row_id", "column", "value", "message"] == list(rows[0])
    assert f"{SUMMARY}\n" == said.err


def test_json_always_is_one_object_with_its_schema_number(capsys):
    """As --json, for people's eyes."""
    found = json.loads(shown(Format.JSON, capsys).out)

    assert {"schema": 1, **DATA} == found


@pytest.mark.parametrize("text", HOSTILE)
def test_page_always_shows_cells_and_never_takes_them_for_markup(capsys, text):
    """Nothing of a cell becomes a tag, and nothing of it is lost."""
    page = _Cells()
    page.feed(shown(Format.HTML, capsys).out)

    assert not page.tags & {"script", "img", "a", "link", "iframe"}
    assert 3 == page.cells.count(text)


def test_page_always_needs_nothing_from_elsewhere(capsys):
    """It can be sent to somebody."""
    page = shown(Format.HTML, capsys).out

    assert page.startswith("<!doctype html>")
    assert "http" not in page
    assert "src=" not in page


def test_row_when_a_message_is_about_all_of_it_says_so(capsys):
    """There is no column to name."""
    problem = Problem(1, "1.1", "", "required key [a] not found", "")

    assert "(row)" in shown(Format.TABLE, capsys, [problem]).out
    assert "(row)" in shown(Format.HTML, capsys, [problem]).out


def test_table_when_a_cell_would_command_the_terminal_shows_it_instead(capsys):
    """Somebody else's cell must not clear the screen or set the title."""
    problem = Problem(1, "1.1", "a", "wrong", "\x1b[2J\x1b]0;title\x07\u202ex")

    out = shown(Format.TABLE, capsys, [problem]).out

    assert not {"\x1b", "\x07", "\u202e"} & set(out)
    assert "[2J" in out
