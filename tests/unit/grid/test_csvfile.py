"""CSVs as users write them: what is read, what is refused, what the service would read otherwise."""

import csv
import io
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.client.wire_grids import CsvFormat
from synd.errors import NotFound, UsageError
from synd.grid import csvfile, spelling

TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)
ROWS = st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5)


def written(tmp_path, data):
    path = tmp_path / "rows.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


class TestReading:
    def test_rows_always_have_their_number_and_line(self, tmp_path):
        """A cell of two lines and an empty line count as lines, not as rows."""
        path = written(tmp_path, 'a,b\n1,"x\ny"\n\n2,z\n')

        found = list(csvfile.rows(path))

        assert [(1, 3, ["1", "x\ny"]), (2, 5, ["2", "z"])] == [
            (one.number, one.line, one.cells) for one in found
        ]

    def test_header_when_it_has_a_mark_and_spaces_is_bare(self, tmp_path):
        """Neither belongs to the names."""
        assert ["a", "b"] == csvfile.header(written(tmp_path, "\ufeffa, b \n1,2\n"))

    def test_facts_always_tell_rows_and_longest_cells(self, tmp_path):
        """In characters, not bytes."""
        facts = csvfile.facts(written(tmp_path, "a,b\n1,äöü\n22,\n"))

        assert (("a", "b"), 2, {"a": 2, "b": 3}, True) == (
            facts.names,
            facts.rows,
            facts.longest,
            facts.plain,
        )

    @pytest.mark.parametrize(
        ("data", "said"),
        [
            ("", "is empty"),
            ("a,\n", "column 2 has no name"),
            ("a,a\n", "two columns are named 'a'"),
            ("a,b\n1\n", "line 2: 1 cells where the header has 2"),
            ("a,b\n1,2\n1,2,3\n", "line 3: 3 cells"),
            ('a,b\n"1,2\n', "line 2: unexpected end of data"),
            ('a,b\n"1"x,2\n', "line 2"),
            (b"a,b\n\xff,2\n", "no UTF-8 text: byte 0xff"),
            ("a,b\n1,2\n".encode("utf-16-le"), "no CSV: there is a NUL"),
        ],
        ids=[
            "nothing", "no name", "doubled", "short", "long", "open quote", "after quote", "bytes",
            "utf-16",
        ],
    )  # fmt: skip
    def test_file_when_it_cannot_be_used_says_where(self, tmp_path, data, said):
        """The first thing that is wrong, with its line."""
        path = written(tmp_path, data)

        with pytest.raises(UsageError, match=said) as error:
            list(csvfile.rows(path))

        assert str(path) in str(error.value)
        assert error.value.hint or "named" in said

    def test_file_when_it_is_not_there_is_not_found(self, tmp_path):
        """A folder neither."""
        for path in (tmp_path / "no.csv", tmp_path):
            with pytest.raises(NotFound, match="cannot be read"):
                csvfile.facts(path)

    def test_file_without_header_needs_names(self, tmp_path):
        """Its first line is a row."""
        path = written(tmp_path, "1,2\n")
        form = CsvFormat(header=False)

        assert [["1", "2"]] == [one.cells for one in csvfile.rows(path, form, ["a", "b"])]
        with pytest.raises(UsageError, match="no header line"):
            csvfile.rows(path, form)

    def test_long_cell_when_others_read_too_is_read(self, tmp_path):
        """The bound of a cell is one for the process: who ends first must not take it from the others."""
        path = written(tmp_path, "a\n1\n" + "x" * 500_000 + "\n")
        slow = csvfile.rows(path)
        next(slow)
        other = threading.Thread(target=lambda: list(csvfile.rows(path)))
        other.start()
        other.join()

        assert 500_000 == len(next(slow).cells[0])

    def test_quote_when_it_is_never_closed_ends_at_a_bound(self, tmp_path):
        """It does not swallow a file of any size."""
        path = written(tmp_path, 'a\n"' + "x\n" * 1_000_000)

        with pytest.raises(UsageError, match="field larger than field limit"):
            csvfile.facts(path)


class TestCells:
    @pytest.mark.parametrize(
        ("text", "kind", "value"),
        [
            ("7", "INTEGER", 7),
            ("-7", "INTEGER", -7),
            ("1_000", "INTEGER", "1_000"),
            ("7.0", "INTEGER", "7.0"),
            ("٣", "INTEGER", "٣"),
            ("9" * 30, "INTEGER", "9" * 30),
            ("1.5", "DOUBLE", 1.5),
            ("2.0", "DOUBLE", 2),
            ("1e3", "DOUBLE", 1000),
            (".5", "DOUBLE", 0.5),
            ("1,5", "DOUBLE", "1,5"),
            ("nan", "DOUBLE", "nan"),
            ("true", "BOOLEAN", True),
            ("False", "BOOLEAN", False),
            ("yes", "BOOLEAN", "yes"),
            ('["a"]', "STRING_LIST", ["a"]),
            ("[1]", "INTEGER_LIST", [1]),
            ("a", "STRING_LIST", "a"),
            ('{"a":1}', "STRING_LIST", '{"a":1}'),
            ("7", "STRING", "7"),
        ],
    )
    def test_cell_always_is_a_value_of_its_type_or_stays_text(self, text, kind, value):
        """What does not fit is kept, so that a message can show it."""
        found = csvfile.typed(text, kind)

        assert (value, type(value)) == (found, type(found))

    @pytest.mark.parametrize(
        ("text", "kind", "fits"),
        [
            ("x", "STRING", True),
            ("x", "DATE", True),
            ("x", "INTEGER", False),
            ("NaN", "DOUBLE", True),
            ("-Infinity", "DOUBLE", True),
            ("1.5", "INTEGER", False),
            ("no", "BOOLEAN", False),
            ("[1", "INTEGER_LIST", False),
            ("9223372036854775808", "INTEGER", False),
            ('{"a":1}', "JSON", True),
            ('"x"', "JSON", True),
            ("x", "JSON", False),
        ],
    )
    def test_cell_always_fits_or_not(self, text, kind, fits):
        """As the service will say of the whole file."""
        assert fits is csvfile.fits(text, kind)


class TestPlain:
    @pytest.mark.parametrize(
        ("data", "plain"),
        [
            ("a,b\n1,2\n", True),
            ("a,b\r\n1,2\r\n", True),
            ('a,b\n1,"say ""x"""\n', True),
            ("\ufeffa,b\n1,2\n", False),
            ("a,b\n1,C:\\x\n", False),
            ("a, b\n1,2\n", False),
            ("a,b\n\n1,2\n", False),
            ("a,b\r\n1,2\r\n\r\n", False),
        ],
        ids=["plain", "CRLF", "quotes", "mark", "backslash", "spaces", "empty line", "end"],
    )
    def test_bytes_always_are_known_to_be_read_alike_or_not(self, tmp_path, data, plain):
        """What the service would read otherwise is spelled anew before it is sent."""
        assert plain is csvfile.facts(written(tmp_path, data)).plain

    def test_sign_when_blocks_part_it_is_seen(self, tmp_path, monkeypatch):
        """An empty line may begin in one block and end in the next."""
        monkeypatch.setattr(csvfile, "_BLOCK", 4)

        assert not csvfile.facts(written(tmp_path, "abc\n\nd\n")).plain


def service_rows(data: str, form: CsvFormat) -> list[list[str]]:
    """As the service reads: an escape counts between quotes, before a quote or itself."""
    reader = csv.reader(
        io.StringIO(data, newline=""),
        delimiter=form.separator, quotechar=form.quote, escapechar=form.escape,
    )  # fmt: skip
    return list(reader)


class TestSpelling:
    @given(rows=ROWS, separator=st.sampled_from([",", "\t", ";"]))
    def test_rows_when_spelled_for_the_service_are_read_as_they_were(
        self, rows, separator, tmp_path_factory
    ):
        """Whatever stands in the cells."""
        form = CsvFormat(separator=separator)
        folder = tmp_path_factory.mktemp("s")
        users, sent = folder / "users.csv", folder / "sent.csv"
        with users.open("w", encoding="utf-8", newline="") as out:
            csv.writer(out, delimiter=separator).writerows([("a", "b"), *rows])

        spelling.to_service(users, sent, form)

        with sent.open(encoding="utf-8", newline="") as text:
            assert [["a", "b"], *map(list, rows)] == service_rows(text.read(), form)

    @given(rows=ROWS)
    def test_rows_when_spelled_back_are_as_the_service_had_them(self, rows, tmp_path_factory):
        """Escapes by a backslash become doubled quotes; a backslash is one letter again."""
        form = CsvFormat()
        folder = tmp_path_factory.mktemp("s")
        fetched, common = folder / "fetched.csv", folder / "common.csv"
        with fetched.open("w", encoding="utf-8", newline="") as out:
            csv.writer(
                out, doublequote=False, escapechar="\\", lineterminator="\n", quoting=csv.QUOTE_ALL
            ).writerows(rows)

        spelling.to_common(fetched, common, form)

        with common.open(encoding="utf-8", newline="") as text:
            assert list(map(list, rows)) == list(csv.reader(text, strict=True))

    def test_escape_when_it_is_far_into_a_file_is_found(self, tmp_path):
        """A file without one is left as it is."""
        path = written(tmp_path, b"x" * (1 << 20) + b"\\")

        assert spelling.has_escapes(path, CsvFormat())
        assert not spelling.has_escapes(path, CsvFormat(escape="~"))
        assert not spelling.has_escapes(path, CsvFormat(escape=""))

    def test_only_cell_when_empty_is_still_a_row(self):
        """An empty line would be none."""
        assert '""\n' == spelling.spelled_line([""], CsvFormat())


class TestEither:
    def cells(self, tmp_path, data, form=CsvFormat()):  # noqa: B008
        source = written(tmp_path, data)
        path = spelling.either(source, tmp_path / "aside.csv", form)
        return path == source, [one.cells for one in csvfile.rows(path, form)]

    @pytest.mark.parametrize(
        ("data", "own", "cell"),
        [
            ("a,b\n1,x\n", True, "x"),
            ('a,b\n1,"say ""x"""\n', True, 'say "x"'),
            ("a,b\n1,C:\\new\n", True, "C:\\new"),
            ('a,b\n1,"say \\"x\\""\n', False, 'say "x"'),
            ('a,b\n1,say \\"x\\"\n', False, 'say "x"'),
            ('a,b\n1,"C:\\\\new"\n', False, "C:\\new"),
            ('a,b\n1,"ends with \\\\"\n', False, "ends with \\"),
            ('a,b\n1,"C:\\"\n', True, "C:\\"),
            ('\ufeffa,b\n1,"\\"\n\\""\n', False, '"\n"'),
        ],
        ids=[
            "plain", "doubled", "lone backslash", "escaped", "escaped bare", "backslashes",
            "at its end", "common at its end", "lines",
        ],
    )  # fmt: skip
    def test_cell_always_is_read_in_the_spelling_it_is_in(self, tmp_path, data, own, cell):
        """By what the whole file can be read as."""
        assert (own, [["1", cell]]) == self.cells(tmp_path, data)

    @given(rows=ROWS)
    def test_rows_when_the_service_wrote_them_are_as_it_had_them(self, rows, tmp_path_factory):
        """Every cell quoted, quotes and backslashes escaped: as its writer does."""
        folder = tmp_path_factory.mktemp("e")
        source = folder / "rows.csv"
        with source.open("w", encoding="utf-8", newline="") as out:
            for row in [("a", "b"), *rows]:
                cells = [cell.replace("\\", "\\\\").replace('"', '\\"') for cell in row]
                out.write(",".join(f'"{cell}"' for cell in cells) + "\n")

        path = spelling.either(source, folder / "aside.csv", CsvFormat())

        assert list(map(list, rows)) == [one.cells for one in csvfile.rows(path)]

    def test_file_when_it_is_not_there_is_not_found(self, tmp_path):
        """As for all that reads one."""
        with pytest.raises(NotFound):
            spelling.either(tmp_path / "no.csv", tmp_path / "aside.csv", CsvFormat())

    def test_file_when_nothing_escapes_is_itself(self, tmp_path):
        """There is no other spelling then."""
        assert self.cells(tmp_path, "a\n\\\\\n", CsvFormat(escape=""))[0]
