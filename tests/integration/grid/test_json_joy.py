"""The real json-joy reads what we write, and our patches lead to the same document there."""

import base64
import json
import random

import pytest

from benchmarks import jsonjoy
from synd.grid.crdt import UNDEFINED, Replica, Timestamp
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import GridDocument
from tests.support import gridcases
from tests.support.gridcases import CASES, spelled

pytestmark = [pytest.mark.tools, pytest.mark.timeout(300)]

FORMS = ("service", "json-joy")


def views(jobs):
    """json-joy's views; skips where it cannot be had."""
    try:
        return [answer["view"] for answer in jsonjoy.ask(jobs).jobs]
    except jsonjoy.UnavailableError as error:
        pytest.skip(str(error))


def normal(view):
    """Through JSON, with whole floats as ints, as JavaScript has them."""
    return json.loads(json.dumps(spelled(view)), parse_float=_number)


def _number(text):
    value = float(text)
    return int(value) if value.is_integer() else value


def described(replica, folder, form):
    path = folder / f"{form}.bin"
    path.write_bytes(replica.to_snapshot(form))
    return {"snapshot": str(path), "patches": []}


@pytest.mark.req("S0-25")
def test_snapshot_when_we_wrote_it_is_read_by_json_joy(tmp_path):
    """Each case, before and after its patches, in both forms, has the same view there as here."""
    jobs, wanted, names = [], [], []
    for case in CASES:
        data = gridcases.snapshot(case)
        replica = Replica.from_snapshot(data) if data is not None else Replica()
        for turn in range(2):
            for form in FORMS:
                folder = tmp_path / f"{case}-{turn}"
                folder.mkdir(exist_ok=True)
                jobs.append(described(replica, folder, form))
                wanted.append(normal(replica.view()))
                names.append(f"{case} {turn} {form}")
            replica.apply_patches(gridcases.patches(case))

    found = views(jobs)

    assert [n for n, a, b in zip(names, found, wanted, strict=True) if a != b] == []


def write_all(author):
    """A grid to which each kind of patch is applied; the patches in order."""
    made = author.new_grid(["name", "weight", "tags"])
    made += author.insert_row(["Anna", 1.5, ["a", {"b": None}]])
    made += author.insert_rows(
        [["first", -7], [], [UNDEFINED, True, {"deep": {"er": [1, 2]}}]],
        author.first,
        synapse_rows=[[1, 2, "etag"]],
    )
    rows = list(GridDocument(author.replica).rows())
    made += author.set_cell(rows[1].row_id, 0, "小鼠 🐁")
    made += author.set_validation(
        rows[0].row_id, {"isValid": False, "allValidationMessages": ["#: x"]}
    )
    made += author.set_validation(rows[3].row_id, {"isValid": True})
    made += author.set_cell(rows[3].row_id, 1, None)
    made += author.add_column("later")
    made += author.set_cell(rows[3].row_id, 3, "in it")
    made += author.rename_column(1, "mass")
    made += author.set_synapse_row(rows[1].row_id, [7, 1, None])
    made += author.delete_rows([rows[0].element_id, rows[2].element_id])
    made += author.insert_row(["behind what is gone"], rows[2].element_id)
    return made


@pytest.mark.parametrize("bound", [None, 120])
def test_patches_when_we_authored_them_lead_to_the_same_document_there(tmp_path, bound):
    """Whole or split, applied to nothing or by another replica to a snapshot with a service's row."""
    author = Author(Replica(), 66536, bound=bound)
    base = Author(Replica(), 65535)
    base.new_grid(["a"])
    base.insert_row(["x"])
    job = described(base.replica, tmp_path, "service")
    author_of_more = Author(Replica.from_snapshot(base.replica.to_snapshot()), 66540, bound=bound)

    made = write_all(author)
    more = author_of_more.insert_rows([["y"], ["z"]])
    row = next(iter(GridDocument(author_of_more.replica).rows()))
    more += author_of_more.set_cell(row.row_id, 0, "changed")
    found = views([{"snapshot": None, "patches": made}, job | {"patches": more}])

    assert found == [normal(author.replica.view()), normal(author_of_more.replica.view())]
    assert found[1]["rows"][0]["data"] == ["changed"]
    assert len(found[0]["rows"]) == 3


def test_snapshot_when_a_grid_was_authored_is_read_by_json_joy(tmp_path):
    """A document that never came from a snapshot, in both forms."""
    author = Author(Replica(), 66536)
    write_all(author)

    found = views([described(author.replica, tmp_path, form) for form in FORMS])

    assert found == [normal(author.replica.view())] * 2


def test_patches_when_sequences_are_edited_agree_with_json_joy(tmp_path):
    """Text, bytes and lists that two sessions edit at one place."""
    one = [
        [[[70000, 1]], [2], [4], [5], [6], [1],
         [10, 1, [["s", 2], ["b", 3], ["a", 4], ["v", 5]]], [9, [0, 0], 1]],
        # Text 10 to 15, bytes 16 to 19, constants 20 to 23, elements 24 to 26.
        [[[70000, 10]], [12, 2, 2, "h🐁llo"], [13, 3, 3, "AQIDBA=="], [0, 1], [0, 2], [0, 3], [0, 4],
         [14, 4, 4, [20, 21, 22]], [9, 5, 23]],
        [[[70001, 30]], [12, [70000, 2], [70000, 11], "x"], [16, [70000, 2], [[70000, 12, 3]]],
         [16, [70000, 3], [[70000, 17, 2]]], [0, "new"], [15, [70000, 4], [70000, 25], 33]],
        [[[70002, 30]], [12, [70000, 2], [70000, 11], "yy"], [16, [70000, 4], [[70000, 24, 1]]],
         [0, "z"], [14, [70000, 4], [70000, 24], [33]]],
    ]  # fmt: skip
    replica = Replica()
    replica.apply_patches(one)

    found = views(
        [{"snapshot": None, "patches": one}, *[described(replica, tmp_path, f) for f in FORMS]]
    )

    assert found == [normal(replica.view())] * 3
    assert replica.root == Timestamp(70000, 1)
    assert replica.view()["b"] == b"\x01\x04"
    assert replica.view()["a"] == ["z", "new", 3]


def random_patches(seed):
    """Edits of two sessions at all kinds of nodes, now and then at once; no constant is used twice."""
    numbers = random.Random(seed)
    base = 70000
    made = [
        [[[base, 1]], [2], [4], [6], [3], [1], [0, "first"], [5],
         [10, 1, [["s", 2], ["a", 3], ["v", 4], ["r", 5], ["b", 7]]], [9, 5, 6], [9, [0, 0], 1]],
    ]  # fmt: skip
    clocks = {base: 11, 70001: 11}
    places = {2: [[base, 2]], 3: [[base, 3]], 7: [[base, 7]]}
    for _ in range(25):
        sid = numbers.choice(list(clocks))
        # Not always in sync: then two sessions use the same times.
        time = (max(clocks.values()) if numbers.random() < 0.6 else clocks[sid]) + 1
        ops, at = [], time

        def new(value, ops=ops, start=time):
            ops.append([0, value])
            return start + sum(_span(op) for op in ops[:-1])

        for _ in range(numbers.randrange(1, 4)):
            kind = numbers.choice(["str", "bin", "arr", "upd", "obj", "vec", "val", "del", "nop"])
            # Who names an element knows it, so its own times are later.
            after = {
                node: numbers.choice([one for one in known if one[1] < time])
                for node, known in places.items()
            }
            if kind == "str":
                text = "".join(numbers.choices("abé小🐁", k=numbers.randrange(1, 5)))
                ops.append([12, [base, 2], after[2], text])
            elif kind == "bin":
                raw = bytes(numbers.choices(range(256), k=numbers.randrange(1, 5)))
                ops.append([13, [base, 7], after[7], base64.b64encode(raw).decode()])
            elif kind == "arr":
                targets = [new(numbers.randrange(99)) for _ in range(numbers.randrange(1, 4))]
                ops.append([14, [base, 3], after[3], targets])
            elif kind == "upd":
                ops.append([15, [base, 3], after[3], new("updated")])
            elif kind == "obj":
                ops.append([10, [base, 1], [[numbers.choice("kl"), new({"x": [None, 1.5]})]]])
            elif kind == "vec":
                ops.append([11, [base, 4], [[numbers.randrange(6), new(numbers.random())]]])
            elif kind == "val":
                ops.append([9, [base, 5], new(True)])
            elif kind == "del":
                node = numbers.choice([2, 3, 7])
                ops.append([16, [base, node], [[*after[node], 1]]])
            else:
                ops.append([17, numbers.randrange(1, 5)])
            at = time + sum(map(_span, ops[:-1]))
            if ops[-1][0] in (12, 13, 14):
                places[ops[-1][1][1]] += [[sid, at + n] for n in range(_span(ops[-1]))]
        clocks[sid] = time + sum(map(_span, ops)) - 1
        made.append([[[sid, time]], *ops])
    return made


def _span(op):
    code = op[0]
    if code == 12:
        return len(op[3].encode("utf-16-le")) // 2
    if code == 13:
        return len(base64.b64decode(op[3]))
    return len(op[3]) if code == 14 else op[1] if code == 17 else 1


def test_patches_when_arbitrary_lead_to_the_same_document_as_in_json_joy(tmp_path):
    """Forty documents of which no one thought; what we encode of them is read there, too."""
    jobs, wanted = [], []
    for seed in range(40):
        made = random_patches(seed)
        replica = Replica()
        replica.apply_patches(made)
        folder = tmp_path / str(seed)
        folder.mkdir()
        jobs += [{"snapshot": None, "patches": made}, described(replica, folder, FORMS[seed % 2])]
        wanted += [normal(replica.view())] * 2

    found = views(jobs)

    assert [
        n / 2 for n, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1]
    ] == []
    assert sum(len(view["a"]) + len(view["s"]) for view in found) > 400
