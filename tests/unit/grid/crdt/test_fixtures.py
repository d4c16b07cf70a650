"""Every case of tests/fixtures/grid: what json-joy made of it is what the replica makes of it."""

import pytest

from synd.grid.crdt import Replica
from synd.grid.crdt.document import GridDocument
from tests.support import gridcases
from tests.support.gridcases import CASES, load, spelled

PATCHED = [case for case in CASES if gridcases.patches(case)]
GRIDS = [case for case in CASES if load(case, "meta.json")["grid"]]


def replica_of(case):
    data = gridcases.snapshot(case)
    return Replica() if data is None else Replica.from_snapshot(data)


def described(replica):
    """A grid as grid.json has it."""
    document = GridDocument(replica)
    columns, rows = document.columns, list(document.rows())
    counts = {"total": len(rows), "valid": 0, "invalid": 0, "pending": 0}
    for row in rows:
        counts[row.status] += 1
    return {
        "docVersion": document.doc_version,
        "columns": [{"index": index, "name": name} for index, name in columns],
        "rows": [
            {
                "rowId": str(row.row_id),
                "elementId": str(row.element_id),
                "status": row.status,
                "synapseRow": row.synapse_row,
                "rowValidation": row.validation,
                "cells": {name: spelled(row.cells[index]) for index, name in columns},
            }
            for row in rows
        ],
        "summary": counts,
    }


def test_cases_always_are_all_there():
    """37 cases, those with patches and grids among them."""
    assert (len(CASES), len(PATCHED) >= 8, len(GRIDS) >= 10) == (37, True, True)


@pytest.mark.req("S0-25", "S0-27", "S0-28")
@pytest.mark.parametrize("case", CASES)
def test_view_when_a_snapshot_is_decoded_is_that_of_json_joy(case):
    """All seven kinds of nodes, tombstones filtered out, both forms of bytes."""
    data = gridcases.snapshot(case)
    if data is None:
        assert spelled(Replica().view()) == {"$undefined": True}
        return

    assert spelled(Replica.from_snapshot(data).view()) == load(case, "view.json")


@pytest.mark.req("S0-26")
@pytest.mark.parametrize("case", [case for case in CASES if gridcases.snapshot(case) is not None])
def test_clock_when_a_snapshot_is_decoded_has_every_session(case):
    """The whole table is kept, not its first entry only."""
    replica = replica_of(case)

    assert replica.clock == dict(load(case, "meta.json")["clock_table"])
    assert len(replica) == load(case, "meta.json")["node_count"]


@pytest.mark.parametrize("case", PATCHED)
def test_view_when_patches_are_applied_is_that_of_json_joy(case):
    """Document and clock agree, and again when all patches come a second time."""
    replica = replica_of(case)
    for _ in range(2):
        replica.apply_patches(gridcases.patches(case))

        assert spelled(replica.view()) == load(case, "view_after.json")
        assert sorted(map(list, replica.clock.items())) == load(case, "meta.json")["clock_after"]


@pytest.mark.req("S0-34", "S0-37")
@pytest.mark.parametrize("case", GRIDS)
def test_grid_when_read_row_by_row_has_columns_ids_cells_and_status(case):
    """What is shown in which order, and what is known of each row."""
    replica = replica_of(case)
    if gridcases.has(case, "grid.json"):
        assert described(replica) == load(case, "grid.json")
    replica.apply_patches(gridcases.patches(case))
    if gridcases.has(case, "grid_after.json"):
        assert described(replica) == load(case, "grid_after.json")
    assert gridcases.has(case, "grid.json") or gridcases.has(case, "grid_after.json")


@pytest.mark.parametrize("form", ["service", "json-joy"])
@pytest.mark.parametrize("case", CASES)
def test_snapshot_when_encoded_again_says_the_same(case, form):
    """View and clock survive, before and after patches, in both forms and from one to the other."""
    replica = replica_of(case)
    for _ in range(2):
        again = Replica.from_snapshot(replica.to_snapshot(form))
        other = Replica.from_snapshot(
            again.to_snapshot("json-joy" if form == "service" else "service")
        )

        assert spelled(again.view()) == spelled(replica.view()) == spelled(other.view())
        assert {s: t for s, t in again.clock.items() if t} == {
            s: t for s, t in replica.clock.items() if t
        }
        assert again.root == replica.root
        replica.apply_patches(gridcases.patches(case))


@pytest.mark.parametrize("case", PATCHED)
def test_patches_when_they_follow_an_encoded_snapshot_lead_to_the_same(case):
    """What was encoded is a full replica: ids, tombstones and leftover nodes are in it."""
    replica = Replica.from_snapshot(replica_of(case).to_snapshot())
    for patch in gridcases.patches(case):
        replica = Replica.from_snapshot(replica.to_snapshot())
        replica.apply_patches([patch])

    assert spelled(replica.view()) == load(case, "view_after.json")


@pytest.mark.parametrize(
    "case", ["02_con_scalars", "04_con_json", "12_str_many_chunks", "27_service_cbor_forms"]
)
def test_snapshot_when_in_the_same_form_and_untouched_keeps_its_bytes(case):
    """Nothing is re-spelled without a need."""
    data = gridcases.snapshot(case)

    assert Replica.from_snapshot(data).to_snapshot(load(case, "meta.json")["form"]) == data


def test_view_when_changed_by_its_receiver_leaves_the_replica():
    """Lists and objects inside constants are the caller's own."""
    replica = Replica()
    replica.apply_patches([[[[70000, 1]], [0, {"a": [1]}], [9, [0, 0], 1]]])
    replica.view()["a"].append(2)

    assert replica.view() == {"a": [1]}
