"""The SELECT dialect over a small source."""

import sqlite3

import pytest

from synd.registry.tablesql import Column, Source, compile_select, table_of
from synd.registry.web import RefusedError

ROWS = [
    (1, "a", 10, 0.5, 1, 1000, '["x","y"]', "syn7"),
    (2, "b", 20, 1.5, 0, 2000, '["y"]', "syn8"),
    (3, "it's", None, 2.5, 1, 3000, None, "syn9"),
]
SOURCE = Source(
    "WITH src AS (SELECT row_id, 1 AS row_version, 'e' || row_id AS row_etag, name, n, x, yes, day,"
    " tags, ent FROM given)",
    (),
    (
        Column("name", "STRING", "src.name", "1"),
        Column("n", "INTEGER", "src.n", "2"),
        Column("x", "DOUBLE", "src.x", "3"),
        Column("yes", "BOOLEAN", "src.yes", "4"),
        Column("day", "DATE", "src.day", "5"),
        Column("tags", "STRING_LIST", "src.tags", "6"),
        Column("ent", "ENTITYID", "src.ent", "7"),
        Column("odd name", "STRING", "src.name", "8"),
    ),
    "src.n",
)


@pytest.fixture(scope="module")
def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE given (row_id, name, n, x, yes, day, tags, ent)")
    connection.executemany("INSERT INTO given VALUES (?, ?, ?, ?, ?, ?, ?, ?)", ROWS)
    yield connection
    connection.close()


def run(database, text, user=1):
    query = compile_select(text, SOURCE, user)
    rows = database.execute(query.sql, query.args).fetchall()
    return [row if query.aggregate else row[3:] for row in rows]


class TestSelect:
    @pytest.mark.parametrize(
        ("where", "names"),
        [
            ("n = 10", ["a"]),
            ("n = '10'", ["a"]),
            ("n <> 10", ["b"]),
            ("n != 10 or n is null", ["b", "it's"]),
            ("x >= 1.5", ["b", "it's"]),
            ("x > .5 and x < 2", ["b"]),
            ("name in ('a', 'it''s')", ["a", "it's"]),
            ("name not in ('a')", ["b", "it's"]),
            ("name like 'i%'", ["it's"]),
            ("x between 1 and 2", ["b"]),
            ("yes = true", ["a", "it's"]),
            ("yes = 'false'", ["b"]),
            ("yes is true", ["a", "it's"]),
            ("n is not null", ["a", "b"]),
            ("not (n = 10)", ["b"]),
            ("tags has ('y')", ["a", "b"]),
            ("tags has ('x', 'z')", ["a"]),
            ("ent = 'syn7'", ["a"]),
            ("ent in (7, '8')", ["a", "b"]),
            ("day > '1970-01-01T00:00:01.500Z'", ["b", "it's"]),
            ("day = 2000", ["b"]),
            ("\"odd name\" = 'b'", ["b"]),
            ("ROW_ID = 2", ["b"]),
            ("-n = -20", ["b"]),
            ("n + 5 = 15 or x * 2 = 5", ["a", "it's"]),
            ("lower(concat(name, 'X')) = 'ax'", ["a"]),
        ],
    )
    def test_where_leaves_the_rows_it_says(self, database, where, names):
        """Literals are taken as the column's type."""
        assert [(name,) for name in names] == run(database, f"select name from syn1 where {where}")

    @pytest.mark.parametrize(
        ("text", "rows"),
        [
            ("select count(*) from syn1", [(3,)]),
            ("SELECT COUNT(*) AS c, max(x) FROM syn1 WHERE n > 5", [(2, 1.5)]),
            ("select yes, count(*) from syn1 group by yes order by yes", [(0, 1), (1, 2)]),
            (
                "select yes, sum(x) s from syn1 group by yes having sum(x) > 2 order by s desc",
                [(1, 3.0)],
            ),
            ("select distinct yes from syn1 order by yes", [(0,), (1,)]),
            ("select name from syn1 order by x desc limit 2", [("it's",), ("b",)]),
            ("select name from syn1 order by name asc limit 1 offset 1", [("b",)]),
            ("select name from syn1.4 t", [("a",), ("b",), ("it's",)]),
            ("select ROW_ID, ROW_ETAG from syn1 where n = 20", [(2, "e2")]),
            ("select n * 2 as twice from syn1 order by twice desc limit 1", [(40,)]),
            ("select case when n > 15 then 'big' else 'small' end from syn1 limit 1", [("small",)]),
        ],
    )
    def test_select_gives(self, database, text, rows):
        """Aggregates, grouping, order, aliases, limits."""
        assert rows == run(database, text)

    def test_star_gives_all_columns_with_their_ids(self):
        """Result columns are told with name, type and id."""
        query = compile_select("select * from syn1", SOURCE, 1)

        assert [column.id for column in query.columns] == [str(n) for n in range(1, 9)]
        assert not query.aggregate

    def test_current_user_is_who_asks(self, database):
        """CURRENT_USER() is the caller's principal id, as text."""
        assert [("42",)] == run(database, "select CURRENT_USER() from syn1 limit 1", 42)

    def test_sum_of_sizes_obeys_the_where_clause(self, database):
        """`sum_sizes` adds only what the query would return."""
        query = compile_select("select name from syn1 where n > 10", SOURCE, 1)

        assert (20,) == database.execute(*query.sum_sizes).fetchone()

    @pytest.mark.parametrize(
        "text",
        [
            "select nothing from syn1",
            "select name from given",
            "select name syn1",
            "select name from syn1 where",
            "select name from syn1 where name = ",
            "select name from syn1; drop table given",
            "select name from syn1 where sqlite_version() = '1'",
            "delete from syn1",
            "select (((name from syn1",
            "select name from syn1 limit x",
            "select name from syn1 where n = 'x'",
            "select " + "(" * 3000 + "n" + ")" * 3000 + " from syn1",
        ],
    )
    def test_what_is_not_understood_is_refused_with_400(self, text):
        """Nothing reaches SQLite that was not looked up or bound."""
        with pytest.raises(RefusedError) as caught:
            compile_select(text, SOURCE, 1)
        assert caught.value.status == 400


class TestTableOf:
    @pytest.mark.parametrize(
        ("text", "table"),
        [
            ("select * from syn12", (12, None)),
            ("SELECT a FROM syn12.3 WHERE x = 'from syn99'", (12, 3)),
        ],
    )
    def test_table_is_read_from_the_text(self, text, table):
        """The entity and the version after FROM."""
        assert table == table_of(text)
