"""Patches of one's own: what they do here, what they look like, where they are split."""

import json

import pytest

from synd.errors import NotFound, UsageError
from synd.grid.crdt import UNDEFINED, Replica, Timestamp
from synd.grid.crdt.author import BOUND, Author, split
from synd.grid.crdt.document import GridDocument
from tests.support import gridcases


def grid(columns=("a", "b"), rows=(("x", 1), ("y", 2), ("z", 3)), **settings):
    author = Author(Replica(), 66536, **settings)
    author.new_grid(columns)
    author.insert_rows(rows)
    return author


def rows(author):
    return list(author.document.rows())


def table(author):
    return [list(row.cells) for row in author.document.rows()]


def elsewhere(patches, replica=None):
    """The view at another replica that is sent the patches as text."""
    other = replica or Replica()
    other.apply_patches(json.loads(json.dumps(patches)))
    return other.view()


@pytest.mark.parametrize("skip", range(7))
def test_rows_after_some_always_are_the_rest(skip):
    """Deleted rows are not counted, nor are they in the way."""
    author = grid(rows=[(str(n), n) for n in range(6)])
    everyone = rows(author)
    author.delete_rows([everyone[1].element_id, everyone[4].element_id])
    left = [everyone[n].row_id for n in (0, 2, 3, 5)]

    assert left[skip:] == [row.row_id for row in author.document.rows(skip)]


def test_new_grid_always_is_the_services_patch():
    """Byte for byte what the service writes for a new document (case 34)."""
    wanted = gridcases.patches("34_grid_patches_only")[0]
    names = [op[1] for op in wanted if op[0] == 0 and isinstance(op[1], str)][1:]

    assert Author(Replica(), wanted[0][0][0]).new_grid(names) == [wanted]


@pytest.mark.parametrize("columns", [[], ["only"], [f"c{n}" for n in range(256)]])
def test_new_grid_of_any_width_is_a_grid_at_once(columns):
    """None, one, as many as there can be."""
    author = Author(Replica(), 66536)
    made = author.new_grid(columns)

    assert author.document.columns == list(enumerate(columns))
    assert author.document.doc_version == "0.1.0"
    assert elsewhere(made) == author.replica.view()
    assert not elsewhere(made + author.insert_row([]))["rows"][0]["metadata"]


def test_new_grid_when_too_wide_is_refused():
    """A slot's number is a byte."""
    with pytest.raises(UsageError):
        Author(Replica(), 66536).new_grid(["c"] * 257)
    author = Author(Replica(), 66536)
    author.new_grid(["c"] * 256)
    with pytest.raises(UsageError):
        author.add_column("one more")


def test_row_when_inserted_has_the_ids_that_the_recipe_says():
    """The row's id is the header's, the place's id follows by the number of columns."""
    author = grid()
    (patch,) = author.insert_row(["new"])
    row = rows(author)[-1]

    sid, time = patch[0][0]
    assert row.row_id == Timestamp(sid, time)
    assert row.element_id == Timestamp(sid, time + 2 + 5)
    assert list(row.cells) == ["new", None]
    assert row.status == "pending"


def test_rows_when_inserted_stand_where_they_were_put():
    """At the end, first, behind a row, behind a row that is gone; several in their order."""
    author = grid()
    second = rows(author)[1]
    author.delete_rows([second.element_id])
    author.insert_row(["behind the deleted"], second.element_id)
    author.insert_rows([["first"], ["second"]], author.first)
    author.insert_row(["last"])

    assert [row[0] for row in table(author)] == [
        "first", "second", "x", "behind the deleted", "z", "last",
    ]  # fmt: skip


def test_cell_when_set_makes_the_row_pending_until_it_is_validated_anew():
    """A result is as good as it is newer than all cells."""
    author = grid()
    row = rows(author)[0].row_id
    seen = []
    for _ in range(2):
        author.set_validation(row, {"isValid": True})
        seen.append(rows(author)[0].status)
        author.set_cell(row, 1, 7)
        seen.append(rows(author)[0].status)
    author.set_validation(row, {"isValid": False, "allValidationMessages": ["#/b: no"]})
    last = rows(author)[0]

    assert seen == ["valid", "pending"] * 2
    assert (last.status, last.validation["allValidationMessages"]) == ("invalid", ["#/b: no"])
    assert last.newest_cell.key < last.validation_id.key
    assert table(author)[0] == ["x", 7]


@pytest.mark.req("S0-58")
def test_summary_of_three_rows_is_one_valid_one_invalid_one_pending():
    """Status is inferred per row."""
    author = grid()
    first, second, _ = rows(author)
    author.set_validation(first.row_id, {"isValid": True})
    author.set_validation(second.row_id, {"isValid": False})

    assert [row.status for row in rows(author)] == ["valid", "invalid", "pending"]


def test_row_when_it_has_no_metadata_is_given_it_with_the_first_result():
    """Another author's rows may have none."""
    replica = Replica.from_snapshot(gridcases.snapshot("39_compact_patch_forms"))
    author = Author(replica, 66540)
    row = rows(author)[0]
    made = author.set_synapse_row(row.row_id, [5, 1, "e"]) + author.set_validation(
        row.row_id, {"isValid": True}
    )

    assert rows(author)[0].synapse_row == [5, 1, "e"]
    assert rows(author)[0].status == "valid"
    again = Replica.from_snapshot(gridcases.snapshot("39_compact_patch_forms"))
    assert elsewhere(made, again) == replica.view()


def test_column_when_added_or_renamed_shows_last_and_under_its_name():
    """Earlier rows have no cell in it, later ones do."""
    author = grid()
    author.add_column("c")
    author.rename_column(0, "A")
    author.insert_row([1, 2, 3])
    author.set_cell(rows(author)[0].row_id, 2, "late")

    assert author.document.columns == [(0, "A"), (1, "b"), (2, "c")]
    assert author.document.names == ["A", "b", "c"]
    assert table(author) == [["x", 1, "late"], ["y", 2], ["z", 3], [1, 2, 3]]
    assert rows(author)[1].cells[2] is UNDEFINED


def test_rows_when_deleted_together_take_one_operation():
    """Each by itself, since json-joy takes no range over two insertions; what is not there does nothing."""
    author = grid()
    author.replica.apply_patches(
        [[[[66536, 500]], [2], [2], [14, [66536, 5], [66536, 5], [500, 501]]]]
    )
    (patch,) = author.delete_rows([Timestamp(66536, 503), Timestamp(66536, 502), Timestamp(9, 9)])

    assert patch[1] == [16, [66536, 5], [[9, 9, 1], [66536, 502, 1], [66536, 503, 1]]]
    assert [row[0] for row in table(author)] == ["x", "y", "z"]
    assert author.delete_rows([]) == []


@pytest.mark.parametrize("bound", [1, 60, 200, BOUND])
def test_patches_when_split_are_no_longer_than_the_bound_or_one_operation(bound):
    """The parts lead to the same document, and follow each other without a gap."""
    made = []
    author = Author(Replica(), 66536, bound=bound)
    made += author.new_grid(["a", "b", "c"])
    made += author.insert_rows([[f"r{n}", n, {"n": [n]}] for n in range(40)])
    made += author.delete_rows([row.element_id for row in rows(author)[::2]])

    for patch in made:
        assert len(patch) == 2 or len(json.dumps(patch, separators=(",", ":"))) <= bound
    assert elsewhere(made) == author.replica.view()
    assert len(table(author)) == 20


def test_patches_when_never_split_are_one_each():
    """The service's own side has no frames to fit."""
    author = grid(bound=None)

    (patch,) = author.insert_rows([["x" * 100, n] for n in range(1000)])

    assert len(json.dumps(patch)) > 100_000
    assert all(len(json.dumps(part)) < 40_000 for part in split(patch, 30_000))


def test_time_of_a_new_operation_always_is_above_all_that_is_known():
    """Else it would lose against what is there, without any error."""
    author = grid()
    author.replica.apply_patches([[[[70000, 900_000]], [17, 5]]])
    (patch,) = author.set_cell(rows(author)[0].row_id, 0, "wins")

    assert patch[0] == [[66536, 900_005]]
    assert table(author)[0][0] == "wins"


def test_time_when_nodes_are_newer_than_the_clock_is_above_them():
    """A snapshot's table may lag behind its nodes."""
    data = bytearray(grid().replica.to_snapshot("json-joy"))
    known = Replica.from_snapshot(bytes(data))
    known.clock.clear()

    assert Author(known, 66540).begin() > max(time for time, _ in known.ids())


@pytest.mark.parametrize(
    "value", [b"bytes", object(), (1,), {1: 2}, float("nan"), float("inf"), [UNDEFINED], {"a": {2}}]
)
def test_value_when_json_cannot_say_it_is_refused_and_nothing_changes(value):
    """A patch is JSON."""
    author = grid()
    before = author.replica.to_snapshot()
    row = rows(author)[0].row_id
    with pytest.raises(UsageError):
        author.set_cell(row, 0, value)
    with pytest.raises(UsageError):
        author.insert_row([value])

    assert author.replica.to_snapshot() == before


def test_value_when_changed_later_by_its_giver_stays_in_the_grid():
    """Nor does a change of what was returned."""
    author = grid()
    value = {"list": [1]}
    made = author.set_cell(rows(author)[0].row_id, 0, value)
    value["list"].append(2)

    assert table(author)[0][0] == {"list": [1]}
    assert made[0][1] == [0, {"list": [1]}]


def test_row_when_unknown_is_not_found():
    """By id, by place, by column; a row that is too long is refused."""
    author = grid()
    nobody = Timestamp(1, 1)
    for call in (
        lambda: author.set_cell(nobody, 0, 1),
        lambda: author.set_validation(nobody, {}),
        lambda: author.insert_row([], nobody),
        lambda: author.rename_column(9, "x"),
        lambda: Author(Replica(), 66536).insert_row([]),
    ):
        with pytest.raises(NotFound):
            call()
    with pytest.raises(UsageError):
        author.insert_row([1, 2, 3])
    with pytest.raises(UsageError):
        author.set_cell(rows(author)[0].row_id, 256, 1)


@pytest.mark.parametrize("order", [0, 1])
def test_authors_when_they_write_at_once_agree_in_the_end(order):
    """Patches of two replicas lead to one document, whichever came first."""
    base = grid().replica.to_snapshot()
    made = []
    for sid in (66540, 66541):
        author = Author(Replica.from_snapshot(base), sid)
        first, second, third = rows(author)
        patches = author.insert_row([f"of {sid}"], first.element_id)
        patches += author.set_cell(second.row_id, 0, f"set by {sid}")
        patches += author.delete_rows([third.element_id])
        made.append(patches)
    one, two = Replica.from_snapshot(base), Replica.from_snapshot(base)
    one.apply_patches(made[0] + made[1])
    two.apply_patches(made[1] + made[0])

    assert one.view() == two.view()
    assert one.clock == two.clock
    cells = [row["data"][0] for row in (one, two)[order].view()["rows"]]
    assert cells == ["x", "of 66541", "of 66540", "set by 66541"]


def test_document_when_it_is_not_a_grid_is_refused_by_name():
    """A root of another kind, a version that is not known; missing parts are empty."""
    from synd.errors import ProtocolError

    other = Replica()
    other.apply_patches([[[[70000, 1]], [0, "text"], [9, [0, 0], 1]]])
    with pytest.raises(ProtocolError, match="not a grid"):
        list(GridDocument(other).rows())
    later = Replica()
    later.apply_patches(
        [[[[70000, 1]], [2], [0, "1.0.0"], [10, 1, [["doc_version", 2]]], [9, [0, 0], 1]]]
    )
    with pytest.raises(ProtocolError, match=r"1\.0\.0"):
        assert GridDocument(later).doc_version
    assert (GridDocument(later).columns, list(GridDocument(later).rows())) == ([], [])
