"""Entity views: made, filled by annotations, queried."""

from prelude import OLD, WORK, login, md5, unique, write
from synapseclient import EntityViewSchema, EntityViewType, File, Folder, Project

syn = login()
project = syn.store(Project(unique("Views")))
folder = syn.store(Folder("data", parent=project))
for n in range(5):
    syn.store(
        File(
            write(f"v{n}.txt", f"file {n}"),
            parent=folder,
            annotations={"n": n, "kind": "abc"[n % 3]},
        )
    )
view = syn.store(
    EntityViewSchema(
        name="view", parent=project, scopes=[project], includeEntityTypes=[EntityViewType.FILE]
    )
)
rows = syn.tableQuery(
    f"select id, name, dataFileMD5Hex, dataFileSizeBytes from {view.id} order by name"
)
frame = rows.asDataFrame()
assert list(frame["name"]) == [f"v{n}.txt" for n in range(5)], frame
assert list(frame["dataFileSizeBytes"]) == [6] * 5
assert frame["dataFileMD5Hex"][frame.index[0]] == md5(WORK / "v0.txt")
names = set(syn.tableQuery(f"select * from {view.id}").asDataFrame().columns)
assert {"n", "kind"} <= names, names
two = syn.tableQuery(
    f"select name, n from {view.id} where kind = 'a' and n > 0", resultsAs="rowset"
)
assert [row["values"] for row in two] == [["v3.txt", 3]]
count = syn.tableQuery(f"select count(*) from {view.id}", resultsAs="rowset")
assert [row["values"] for row in count] == [[5]]
assert (
    len(
        syn.tableQuery(
            f"select kind, count(*) from {view.id} group by kind order by kind"
        ).asDataFrame()
    )
    == 3
)

if not OLD:
    from synapseclient.models import EntityView, ViewTypeMask

    made = EntityView(
        name="model view",
        parent_id=project.id,
        scope_ids=[project.id],
        view_type_mask=ViewTypeMask.FILE | ViewTypeMask.FOLDER,
    ).store()
    found = made.query(query=f"SELECT name, type FROM {made.id} ORDER BY name LIMIT 2")
    assert list(found["name"]) == ["data", "v0.txt"], found
    parts = made.query_part_mask(
        query=f"SELECT * FROM {made.id}", part_mask=0x1 | 0x2 | 0x40 | 0x80
    )
    assert parts.count == 6, parts
    assert parts.sum_file_sizes.sum_file_size_bytes == 30, parts.sum_file_sizes
    made.snapshot(comment="then")
