"""Tables: made, filled, asked, changed."""

import pandas as pd
from prelude import OLD, login, unique
from synapseclient import Column, Project, Schema, Table

syn = login()
project = syn.store(Project(unique("Tables")))
columns = [
    Column(name="name", columnType="STRING", maximumSize=30),
    Column(name="n", columnType="INTEGER"),
    Column(name="x", columnType="DOUBLE"),
    Column(name="yes", columnType="BOOLEAN"),
]
schema = syn.store(Schema(name="t", columns=columns, parent=project))
frame = pd.DataFrame(
    {
        "name": ["a", 'quote " and , comma', "c\\d"],
        "n": [1, 2, 3],
        "x": [0.5, 1.5, 2.5],
        "yes": [True, False, True],
    }
)
syn.store(Table(schema, frame))
back = syn.tableQuery(f"select * from {schema.id} order by n").asDataFrame()
assert list(back["name"]) == list(frame["name"]), back
assert list(back["yes"]) == [True, False, True]
some = syn.tableQuery(
    f"select name from {schema.id} where n in (1, 3) and x > 1", resultsAs="rowset"
)
assert [row["values"] for row in some] == [["c\\d"]], list(some)
back.loc[back["n"] == 1, "x"] = 9.0
syn.store(Table(schema.id, back, etag=None))
assert syn.tableQuery(f"select sum(x) from {schema.id}").asDataFrame().iloc[0, 0] == 13.0
doomed = syn.tableQuery(f"select * from {schema.id} where n = 2")
syn.delete(doomed)
assert syn.tableQuery(f"select count(*) from {schema.id}").asDataFrame().iloc[0, 0] == 2

if not OLD:
    from synapseclient.models import Column as ModelColumn
    from synapseclient.models import ColumnType
    from synapseclient.models import Table as ModelTable

    table = ModelTable(
        name="m",
        parent_id=project.id,
        columns=[
            ModelColumn(name="k", column_type=ColumnType.STRING, maximum_size=20),
            ModelColumn(name="v", column_type=ColumnType.INTEGER),
            ModelColumn(name="tags", column_type=ColumnType.STRING_LIST),
        ],
    ).store()
    table.store_rows(pd.DataFrame({"k": ["x", "y"], "v": [1, 2], "tags": ['["a", "b"]', "[]"]}))
    found = table.query(query=f"SELECT * FROM {table.id} ORDER BY v")
    assert list(found["k"]) == ["x", "y"], found
    table.upsert_rows(values=pd.DataFrame({"k": ["y", "z"], "v": [20, 30]}), primary_keys=["k"])
    found = table.query(query=f"SELECT k, v FROM {table.id} ORDER BY v")
    assert list(found["v"]) == [1, 20, 30], found
    table.delete_rows(query=f"SELECT ROW_ID, ROW_VERSION FROM {table.id} WHERE k = 'x'")
    snap = table.snapshot(comment="c", label="first")
    number = snap.snapshot_version_number if hasattr(snap, "snapshot_version_number") else None
    table.store_rows(pd.DataFrame({"k": ["later"], "v": [99]}))
    old = table.query(query=f"SELECT k FROM {table.id}.1 ORDER BY v")
    assert list(old["k"]) == ["y", "z"], old
    table.add_column(ModelColumn(name="more", column_type=ColumnType.DOUBLE))
    table = table.store()
    assert "more" in ModelTable(id=table.id).get(include_columns=True).columns
    parts = table.query_part_mask(query=f"SELECT * FROM {table.id}", part_mask=0x1 | 0x2)
    assert parts.count == 3, parts
