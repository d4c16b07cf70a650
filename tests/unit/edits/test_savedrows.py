"""Which rows of a grid go before a saved CSV is imported, and when two CSVs hold the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from synd.client.wire_grids import Column, CsvFormat, RecordSet
from synd.errors import UsageError
from synd.grid.crdt import UNDEFINED, Replica
from synd.grid.crdt.author import Author
from synd.ids import EntityId, Version
from syndd import savedrows

TEXT, NUMBER = Column("id"), Column("n", "INTEGER")


def record_set(*key: str) -> RecordSet:
    return RecordSet(EntityId(7), "set", EntityId(1), Version(1), "e", None, key, CsvFormat())


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "set.csv"


def left(
    rows: Sequence[Sequence[Any]], path: Path, *key: str, columns: Sequence[Column] = (TEXT, NUMBER)
) -> list[Any]:
    """First cells of the rows that stay in a grid of columns id, n."""
    author = Author(Replica(), 70_000)
    author.new_grid(["id", "n"])
    author.insert_rows(rows)
    these = record_set(*key)
    facts, why = savedrows.look(path, these)
    assert "" == why
    wanted = savedrows.keys(path, these, columns)
    doomed = savedrows.doomed(author.document, these, facts.names, wanted)
    author.delete_rows(doomed)
    return [row.cells[0] for row in author.document.rows()]


class TestRowsThatGo:
    @pytest.mark.parametrize(
        ("text", "stay"),
        [
            ("id,n\na,1\nb,2\nc,3\n", ["a", "b", "c"]),
            ("id,n\na,5\nc,3\n", ["a", "c"]),
            ("id,n\na,1\nc,3\nd,4\n", ["a", "c"]),
            ("id,n\nd,4\n", []),
            ("id,n\n", []),
        ],
        ids=["none", "one", "one, and one is new", "all", "all, without others"],
    )
    def test_row_when_its_key_is_gone_from_the_csv_goes(self, csv, text, stay):
        """The others stay, as the import changes their cells."""
        csv.write_text(text)

        assert stay == left([["a", 1], ["b", 2], ["c", 3]], csv, "id")

    @pytest.mark.parametrize(
        "text",
        ["id,n\nb,2\na,1\n", "id,n\nd,4\na,1\nb,2\n", "id\na\nb\n"],
        ids=["moved", "a new one before", "a column less"],
    )
    def test_rows_when_an_import_would_not_make_those_of_the_csv_go_all(self, csv, text):
        """An import moves no row, and leaves alone what it has no column for."""
        csv.write_text(text)
        columns = [TEXT, NUMBER][: text.splitlines()[0].count(",") + 1]

        assert [] == left([["a", 1], ["b", 2]], csv, "id", columns=columns)

    def test_rows_without_a_key_go_all(self, csv):
        """An import would add to them."""
        csv.write_text("id,n\na,1\n")

        assert [] == left([["a", 1]], csv)

    @pytest.mark.parametrize("cell", [7, 7.0])
    def test_key_of_a_number_is_known_in_each_of_its_spellings(self, csv, cell):
        """A grid holds a number where the CSV has a text."""
        csv.write_text("id,n\na,7\n")

        assert ["a"] == left([["a", cell], ["b", 8]], csv, "n")

    @pytest.mark.parametrize("cell", [None, UNDEFINED, ""])
    def test_key_when_empty_is_one_however_the_grid_holds_it(self, csv, cell):
        """Null, undefined and a text without letters are the same empty cell."""
        csv.write_text("id,n\n,7\n")

        assert [cell] == left([[cell, 7], ["b", 8]], csv, "id")


class TestLook:
    def test_key_when_twice_is_told_with_both_lines(self, csv):
        """One of the two rows would be lost."""
        csv.write_text("id,n\na,1\nb,2\na,3\n")
        _, why = savedrows.look(csv, record_set("id"))

        assert "lines 2 and 4 have the same key: a" == why

    def test_key_column_when_missing_is_told(self, csv):
        """Without it no row is known again."""
        csv.write_text("n\n1\n")
        _, why = savedrows.look(csv, record_set("id"))

        assert "the column 'id' is missing: rows are known again by it" == why

    def test_csv_when_broken_is_refused(self, csv):
        """As an import refuses it."""
        csv.write_text("id,n\na\n")
        with pytest.raises(UsageError):
            savedrows.look(csv, record_set("id"))


class TestSame:
    @pytest.mark.parametrize(
        ("other", "same"),
        [
            ("id,n\na,1\nb,\n", True),
            ('n,id\n1.0,"a"\n,b\n', True),
            ("id,n,x\na,1,\nb,,\n", True),
            ("id,n\nb,\na,1\n", False),
            ("id,n\na,1\n", False),
            ("id,n\na,2\nb,\n", False),
            ("id,n\na\n", False),
        ],
        ids=["equal", "spelled otherwise", "an empty column", "order", "less", "a cell", "broken"],
    )
    def test_rows_when_spelled_otherwise_are_the_same(self, csv, tmp_path, other, same):
        """By column and value; the order of rows counts, that of columns does not."""
        csv.write_text("id,n\na,1\nb,\n")
        second = tmp_path / "other.csv"
        second.write_text(other)

        assert same == savedrows.same(csv, second, CsvFormat())
