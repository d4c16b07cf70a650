"""Bytes and patches that are broken or made to harm: ProtocolError, in bounded time and memory, or a view."""

import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from synd.errors import ProtocolError
from synd.grid.crdt import UNDEFINED, Replica
from synd.grid.crdt.document import GridDocument
from synd.grid.crdt.varint import MOST, write_b1vu56, write_id, write_vu57
from tests.support import gridcases

SMALL = [
    "07_val_nodes",
    "12_str_many_chunks",
    "15_bin_chunks",
    "19_arr_upd",
    "25_same_document_json_joy_form",
    "30_grid_3_rows",
]
SLOW = [HealthCheck.too_slow]


def read(data):
    """Everything that reads: view, rows, patches, both forms."""
    try:
        replica = Replica.from_snapshot(data)
        view = replica.view()
        replica.to_snapshot("service")
        replica.to_snapshot("json-joy")
        for key in replica.ids():
            replica.node(key)
    except ProtocolError:
        return None
    try:
        document = GridDocument(replica)
        for row in document.rows():
            list(row.cells)
        assert document.columns is not None
    except ProtocolError:
        pass
    return [view]


def node_map(nodes, *, root=(0, 1), clock=((70000, 99),)):
    """A snapshot of these (name, bytes)."""
    out = bytearray(b"\xbf")

    def put(name, raw):
        out.extend(bytes([0x60 + len(name)]) + name.encode())
        out.extend(b"\x5a" + len(raw).to_bytes(4, "big") + raw)

    for name, raw in nodes:
        put(name, bytes(raw))
    table = bytearray()
    write_vu57(table, len(clock))
    for sid, time in clock:
        write_vu57(table, sid)
        write_vu57(table, time)
    put("c", bytes(table))
    if root:
        put("r", ident(*root))
    out.append(0xFF)
    return bytes(out)


def ident(index, time):
    out = bytearray()
    write_id(out, index, time)
    return bytes(out)


def flagged(flag, number):
    out = bytearray()
    write_b1vu56(out, flag, number)
    return bytes(out)


@pytest.mark.parametrize("case", SMALL)
def test_snapshot_when_cut_anywhere_is_refused(case):
    """No part of a snapshot is taken for a snapshot."""
    data = gridcases.snapshot(case)
    for length in range(len(data)):
        with pytest.raises(ProtocolError):
            Replica.from_snapshot(data[:length]).view()
    with pytest.raises(ProtocolError):
        Replica.from_snapshot(data + b"\x00")


@pytest.mark.parametrize("case", SMALL[3:])
def test_snapshot_when_a_bit_is_wrong_is_read_or_refused(case):
    """Any single bit: never another class of error."""
    data = gridcases.snapshot(case)
    refused = 0
    for place in range(0, len(data), 1 + len(data) // 250):
        for bit in range(8):
            wrong = bytearray(data)
            wrong[place] ^= 1 << bit
            refused += read(bytes(wrong)) is None

    assert refused


@settings(max_examples=150, deadline=None, suppress_health_check=SLOW)
@given(
    st.sampled_from(SMALL),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(max_size=9)), min_size=1, max_size=4),
)
def test_snapshot_when_bytes_are_replaced_is_read_or_refused(case, changes):
    """Whole stretches of foreign bytes."""
    data = bytearray(gridcases.snapshot(case))
    for place, raw in changes:
        at = place % len(data)
        data[at : at + len(raw)] = raw

    assert read(bytes(data)) is None or isinstance(read(bytes(data)), list)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200))
def test_snapshot_when_random_is_refused_or_read(data):
    """Bytes that nobody meant."""
    assert read(b"\xbf" + data) is None or data


A, B = ident(0, 1), ident(0, 2)
SELF = {
    "a register that holds itself": [("0_1", b"\x20" + A)],
    "registers that hold each other": [("0_1", b"\x20" + B), ("0_2", b"\x20" + A)],
    "an object that holds itself": [("0_1", b"\x42\x61a" + A + b"\x61b" + A)],
    "a list that holds itself": [("0_1", b"\xc1" + ident(0, 5) + b"\x03" + A + A + A)],
    "slots that hold themselves": [("0_1", b"\x63\x01" + A + b"\x01" + A + b"\x00")],
    "objects doubled a hundred times": [
        (f"0_{chr(97 + n // 26)}{chr(97 + n % 26)}", b"\x42\x61a" + ident(0, t) + b"\x61b" + ident(0, t))
        for n, t in ((n, int(chr(97 + (n + 1) // 26) + chr(97 + (n + 1) % 26), 36)) for n in range(100))
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SELF)
def test_view_when_nodes_hold_themselves_is_refused(name):
    """Depth and work are bounded, so that neither the stack nor time runs out."""
    nodes = SELF[name]
    root = (0, int(nodes[0][0][2:], 36))
    if len(nodes) == 100:
        last = int(nodes[-1][0][2:], 36) + 1
        nodes = [*nodes, (f"0_{chr(97 + 100 // 26)}{chr(97 + 100 % 26)}", b"\x00\xf6")]
        assert last == int(nodes[-1][0][2:], 36)
    replica = Replica.from_snapshot(node_map(nodes, root=root))
    with pytest.raises(ProtocolError):
        replica.view()


def test_view_when_long_values_are_shared_too_often_is_refused():
    """A hundred thousand cells that name one list of a million numbers are not made into as many lists."""
    text = b"\x00\x9a\x00\x10\x00\x00" + bytes(1 << 20)
    cells = b"\xc1" + ident(0, 5) + flagged(0, 100_000) + B * 100_000
    replica = Replica.from_snapshot(node_map([("0_1", cells), ("0_2", text)]))
    with pytest.raises(ProtocolError, match="too often"):
        replica.view()


def test_view_when_a_long_text_is_shared_has_it_once():
    """Equal cells may point to one constant, and then cost no more than one."""
    text = b"\x00\x7a\x00\x10\x00\x00" + b"x" * (1 << 20)
    cells = b"\xc1" + ident(0, 5) + flagged(0, 100_000) + B * 100_000
    view = Replica.from_snapshot(node_map([("0_1", cells), ("0_2", text)])).view()

    assert len(view) == 100_000
    assert len({id(cell) for cell in view}) == 1
    assert view[0] == "x" * (1 << 20)


@pytest.mark.parametrize("empty", [b"\x40", b"\x60", b"\xc0"])
def test_view_when_one_empty_node_is_named_without_end_is_refused(empty):
    """A byte that becomes a dict each time it is read is paid for; some thousand are not too many."""
    for count, fits in ((20_000, True), (500_000, False)):
        cells = b"\xc1" + ident(0, 5) + flagged(0, count) + B * count
        replica = Replica.from_snapshot(node_map([("0_1", cells), ("0_2", empty)]))
        if fits:
            assert len(replica.view()) == count
        else:
            with pytest.raises(ProtocolError, match="too often"):
                replica.view()


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"\x02\xf6", b"\x01", b"\x00", b"\x00\xf6\xf6", b"\x1f\xf6", b"\x1b" + bytes(8) + b"\xf6",
        b"\xe0", b"\x20", b"\x5a\xff\xff\xff\xff", b"\x7a\xff\xff\xff\xff\x00", b"\x61\x02" + A,
        b"\x61\x01" + ident(5, 1), b"\x41\x01" + A, b"\x81" + A + b"\xf6", b"\x81" + A + b"\x20",
        b"\xa1" + A + flagged(0, MOST), b"\xc1" + A + flagged(0, MOST), b"\xc1" + A + b"\x01",
        b"\x81" + A + b"\x62\xc3\x28", b"\x41\x61\xff" + A, b"\xc1" + A + b"\x01" + A + b"\x00",
    ],
)  # fmt: skip
def test_node_when_broken_is_refused(raw):
    """Unknown kinds, counts that cannot be, unknown sessions, bytes left over."""
    replica = Replica.from_snapshot(node_map([("0_1", raw), ("0_2", b"\x00\xf6")]))
    with pytest.raises(ProtocolError):
        replica.view()
    with pytest.raises(ProtocolError):
        replica.node((1, 70000))


def test_sequence_when_two_elements_have_one_id_takes_no_patch():
    """A later insert could not know behind which to stand; document and clock stay."""
    raw = b"\xc2" + ident(0, 5) + b"\x01" + B + ident(0, 5) + b"\x01" + B
    replica = Replica.from_snapshot(node_map([("0_1", raw), ("0_2", b"\x00\x07")]))
    with pytest.raises(ProtocolError):
        replica.apply_patches([[[[70001, 100]], [0, 1], [14, [70000, 1], [70000, 5], [100]]]])

    assert replica.view() == [7, 7]
    assert replica.clock == {70000: 99}
    assert not replica.has((100, 70001))


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x80", b"\xf6", b"\xa0", b"\xbf\xff", b"\xbb" + b"\xff" * 8, b"\xbf\x01\x41\x00\xff",
        b"\xbf\x61c\x61x\xff", b"\xbf\x61c\x41\x01\xff", b"\xbf\x61c\x5b" + b"\xff" * 8,
        b"\xbf\x61c\x46\x02\x05\x01\x05\x01\x00\xff", b"\xbf\x61c\x48\x01" + b"\xff" * 7 + b"\xff",
        node_map([("9_1", b"\x00\xf6")], root=None), node_map([], root=(3, 1)),
        node_map([("0_1", b"\x00\xf6")], clock=((7, 1), (7, 2))), node_map([("0-1", b"\x00\xf6")]),
        node_map([("0_ 1", b"\x00\xf6")]), node_map([("0_-1", b"\x00\xf6")]), node_map([("__1", b"\x00\xf6")]),
        node_map([("0_1_2", b"\x00\xf6")]), node_map([("0_zzzzzzzzzzz", b"\x00\xf6")]),
    ],
)  # fmt: skip
def test_snapshot_when_its_outer_map_is_broken_is_refused(data):
    """Names, clock and root are looked at when the snapshot is."""
    with pytest.raises(ProtocolError):
        Replica.from_snapshot(data)


def test_snapshot_when_times_are_far_apart_takes_memory_by_its_size():
    """A few bytes that name a great time must not become an array of it."""
    names = [f"{'0123456789'[n % 10]}_{'zzzzzz'[: 1 + n % 6]}{n:x}" for n in range(5000)]
    clock = [(70000 + n, 9) for n in range(10)]
    data = node_map([(name, b"\x00\xf6") for name in dict.fromkeys(names)], clock=clock)
    tracemalloc.start()
    try:
        replica = Replica.from_snapshot(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 4_000_000
    assert len(replica) == len(set(names))
    assert all(replica.has(key) for key in replica.ids())


BASE = [[[70000, 1]], [2], [3], [4], [5], [6], [1], [0, 1],
        [10, 1, [["v", 2], ["s", 3], ["b", 4], ["a", 5], ["r", 6]]], [9, [0, 0], 1],
        [11, 2, [[0, 7]]], [12, 3, 3, "text"], [13, 4, 4, "AQID"], [14, 5, 5, [7]]]  # fmt: skip


def based():
    replica = Replica()
    replica.apply_patches([BASE])
    return replica


@pytest.mark.parametrize(
    "patch",
    [
        None, 7, "x", {}, [], [[]], [[[70000]]], [[[70000, 1, 2]]], [[["70000", 1]]], [[[70000, 1.0]]],
        [[[70000, True]]], [[[70000, -1]]], [[[-70000, 1]]], [[[70000, 1 << 53]]], [[[1 << 53, 1]]],
        [[[0, 1]]], [[[70000, 0]]], [[None]], [[[70000, 50], {}, {}]],
        *(
            [[[70000, 50]], [0, "before"], op]
            for op in (
                None, 5, [], ["0"], [True], [0.0], [7], [8], [18], [-1], [1 << 70], [0, 1, 1], [0, "x", True],
                [0, [1, 2, 3], True], [0, -5, True], [0, {1: 2}], [0, object()], [0, (1,)],
                [9], [9, 6], [9, 6, -7], [9, 6, 7.0], [9, 6, True], [9, 6, None], [9, 6, [70000]], [9, 6, "7"],
                [10, 1, None], [10, 1, {}], [10, 1, [["k"]]], [10, 1, [[1, 7]]], [10, 1, [["k", 7.5]]],
                [11, 2, [[256, 7]]], [11, 2, [[-1, 7]]], [11, 2, [[True, 7]]], [11, 2, [["0", 7]]],
                [11, 2, [[1 << 40, 7]]], [11, 2, [[0.0, 7]]], [11, 2, 7],
                [12, 3, 3], [12, 3, 3, 5], [12, 3, 3, ["a"]], [12, -3, 3, "a"],
                [13, 4, 4, "!!"], [13, 4, 4, "é"], [13, 4, 4, None], [13, 4, 4, "A"],
                [14, 5, 5], [14, 5, 5, 7], [14, 5, 5, [None]], [14, 5, 5, [True]], [14, 5, None, [7]],
                [15, 5, 17], [15, 5, 17, -1], [16, 5], [16, 5, 7], [16, 5, [7]], [16, 5, [[1]]],
                [16, 5, [[1, -1]]], [16, 5, [[1, 2, 3, 4]]], [16, 5, [[1, 1.5]]], [16, 5, [[70000, 1, True]]],
                [17, -1], [17, "1"], [17, 1.5], [17, True], [17, MOST], [17, 1 << 60],
            )
        ),
    ],
    ids=repr,
)  # fmt: skip
def test_patch_when_broken_is_refused_whole(patch):
    """Nothing of it is applied, not even what stands before the fault; the patch before it is."""
    replica = based()
    view, clock = replica.view(), dict(replica.clock)
    good = [[[70001, 40]], [0, "good"], [10, [70000, 1], [["good", 40]]]]
    with pytest.raises(ProtocolError):
        replica.apply_patches([patch])

    assert (replica.view(), replica.clock) == (view, clock)
    with pytest.raises(ProtocolError):
        replica.apply_patches([good, patch, [[[70002, 60]], [17]]])
    assert replica.view() == view | {"good": "good"}
    assert replica.clock == clock | {70001: 41}


@pytest.mark.parametrize(
    "op",
    [
        [9, 99, 7], [9, 1, 7], [9, 6, 999], [9, 6, 6], [9, 6, 5], [9, [0, 0], 999], [10, 99, [["k", 7]]],
        [10, 2, [["k", 7]]], [10, 1, [["v", 999]]], [10, 1, [["v", 1]]], [11, 1, [[0, 7]]], [11, 2, [[0, 999]]],
        [11, 2, [[0, 2]]], [12, 4, 4, "x"], [12, 3, 999, "x"], [13, 3, 3, "AQ=="], [13, 4, 3, "AQ=="],
        [14, 3, 3, [7]], [14, 5, 999, [7]], [14, 5, 5, [999]], [14, 5, 5, [5]], [14, 5, 5, []], [12, 3, 3, ""],
        [15, 5, 999, 7], [15, 5, 18, 999], [15, 2, 18, 7], [16, 1, [[1, 9]]], [16, 99, [[1, 9]]],
        [16, 5, [[70009, 1, MOST]]], [16, 5, []], [17, 1000], [17, 0], [10, 7, [["k", 7]]],
    ],
    ids=repr,
)  # fmt: skip
def test_operation_when_it_fits_no_node_changes_the_clock_only(op):
    """What another replica might do to nodes that are not here, or are of another kind, is no fault."""
    replica = based()
    view = replica.view()

    replica.apply_patches([[[[70000, 50]], op, [17]]])

    assert replica.view() == view
    assert replica.clock[70000] >= 50


def test_deletion_when_of_a_huge_range_deletes_what_there_is():
    """Its cost is that of the runs it meets."""
    replica = based()
    for part in (3, 4, 5):
        replica.apply_patches([[[[70000, 50 + part]], [16, part, [[0, MOST]]]]])

    assert (
        replica.view()
        == {
            "v": [1],
            "s": "",
            "b": b"",
            "a": [],
        }
        | {}
    )
    assert Replica.from_snapshot(replica.to_snapshot()).view() == replica.view()


def test_tombstone_when_of_a_huge_span_stays_one_run():
    """Neither reading nor writing takes it to pieces."""
    raw = b"\xc2" + ident(0, 50) + flagged(1, 1 << 50) + ident(0, 3) + b"\x01" + B
    replica = Replica.from_snapshot(node_map([("0_1", raw), ("0_2", b"\x00\x07")]))
    replica.apply_patches([[[[70001, 100]], [0, 8], [14, [70000, 1], [70000, 1000], [100]]]])

    assert replica.view() == [8, 7]
    for form in ("service", "json-joy"):
        data = replica.to_snapshot(form)
        assert len(data) < 8000
        assert Replica.from_snapshot(data).view() == [8, 7]


NUMBER = st.integers(-2, 40) | st.sampled_from([MOST, 1 << 53, 1.5, True, None, "x"])
REF = NUMBER | st.lists(st.sampled_from([0, 70000, 70001]) | NUMBER, max_size=3)
OPERATION = st.one_of(
    st.tuples(st.just(0), st.none() | st.text(max_size=3)).map(list),
    st.integers(1, 6).map(lambda code: [code]),
    st.tuples(st.just(9), REF, REF).map(list),
    st.tuples(
        st.just(10), REF, st.lists(st.tuples(st.sampled_from("ab"), REF).map(list), max_size=2)
    ).map(list),
    st.tuples(st.just(11), REF, st.lists(st.tuples(NUMBER, REF).map(list), max_size=2)).map(list),
    st.tuples(st.just(12), REF, REF, st.text(max_size=3)).map(list),
    st.tuples(st.just(14), REF, REF, st.lists(REF, max_size=3)).map(list),
    st.tuples(st.just(15), REF, REF, REF).map(list),
    st.tuples(st.just(16), REF, st.lists(st.lists(NUMBER, max_size=3), max_size=2)).map(list),
    st.tuples(st.just(17), NUMBER).map(list),
)
PATCH = st.tuples(
    st.integers(1, 60), st.sampled_from([70000, 70001]), st.lists(OPERATION, max_size=4)
).map(lambda made: [[[made[1], made[0]]], *made[2]])


@settings(max_examples=300, deadline=None, suppress_health_check=SLOW)
@given(st.lists(PATCH, max_size=5))
def test_patches_when_arbitrary_are_applied_or_refused_whole(batch):
    """After each, the document can be seen, encoded and read again; one that is refused changed nothing."""
    replica = based()
    for patch in batch:
        before = replica.to_snapshot()
        try:
            replica.apply_patches([patch])
        except ProtocolError:
            assert replica.to_snapshot() == before
        again = Replica.from_snapshot(replica.to_snapshot("json-joy"))
        assert again.view() == replica.view()
        applied = replica.to_snapshot()
        try:
            replica.apply_patches([patch])
        except ProtocolError:
            pass
        assert replica.to_snapshot() == applied


def test_view_when_many_rows_have_a_far_cell_only_is_made():
    """Empty slots before a cell count as content: such a document is odd and not hostile."""
    replica = Replica()
    replica.apply_patches([[[[70000, 1]], [6], [9, [0, 0], 1]]])
    for number in range(6000):
        time = 10 + 5 * number
        ops = [[3], [0, number], [11, time, [[255, time + 1]]], [14, 1, 1, [time]]]
        replica.apply_patches([[[[70000, time]], *ops]])

    assert [len(row) for row in replica.view()] == [256] * 6000


def test_replica_when_empty_is_undefined_and_can_be_written():
    """No document is not an empty grid."""
    replica = Replica()

    assert replica.view() is UNDEFINED
    assert replica.root is None
    assert not GridDocument(replica).exists
    assert Replica.from_snapshot(replica.to_snapshot()).clock == {}
