"""CBOR items back to back, numbers in few bytes, text of halves: each byte is accounted for."""

import copy
import math
import pickle

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from synd.errors import ProtocolError
from synd.grid.crdt import UNDEFINED, Timestamp, varint
from synd.grid.crdt.values import (
    MOST_DEEP,
    check_value,
    joined,
    read_value,
    units,
    write_value,
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=30)
    | st.binary(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
    ),
    max_leaves=10,
)


@pytest.mark.req("S0-29", "S0-57")
def test_values_when_packed_in_one_buffer_are_read_each_to_its_end():
    """Text, number, map, null and boolean in one buffer, with what is not CBOR behind them."""
    values = ["key", 70000, {"a": [1, {"b": None}]}, None, True, 1.5, "é" * 40, b"\x00" * 300]
    data = b"".join(map(cbor2.dumps, values)) + b"\xff\xff"

    at, found = 0, []
    for _ in values:
        value, at = read_value(data, at, len(data))
        found.append(value)

    assert found == values
    assert data[at:] == b"\xff\xff"


@settings(max_examples=200, deadline=None)
@given(JSON, st.booleans())
def test_value_when_written_is_read_by_another_library_and_by_us(value, service):
    """cbor2 agrees with both forms, and nothing is left over."""
    out = bytearray()
    write_value(out, value, service=service)

    assert cbor2.loads(bytes(out)) == value
    assert read_value(bytes(out), 0, len(out)) == (value, len(out))


@settings(max_examples=200, deadline=None)
@given(JSON)
def test_value_when_written_by_another_library_is_read(value):
    """What cbor2 writes of any value that a constant holds."""
    data = cbor2.dumps(value)

    assert read_value(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("f7", UNDEFINED), ("f93c00", 1.0), ("fa3fc00000", 1.5), ("fb3ff8000000000000", 1.5),
        ("1bffffffffffffffff", (1 << 64) - 1), ("3bffffffffffffffff", -(1 << 64)),
        ("bf6161f6ff", {"a": None}), ("9f0102ff", [1, 2]), ("7f61616162ff", "ab"), ("7fff", ""),
        ("5f4101ff", b"\x01"), ("63eda0bd", "\ud83d"), ("66eda0bdedb090", "\U0001f410"),
        ("7f63eda0bd63edb090ff", "\U0001f410"), ("1800", 0),
    ],
)  # fmt: skip
def test_value_when_of_a_rare_form_is_read(text, value):
    """Forms that the service, json-joy or a standard allow."""
    data = bytes.fromhex(text)

    assert read_value(data, 0, len(data)) == (value, len(data))


@pytest.mark.parametrize(
    "text",
    [
        "", "18", "19ff", "1c", "1f", "3f", "61", "61ff", "62c328", "7f", "7f61", "7f4101ff", "7f7f",
        "41", "5b7fffffffffffffff", "7bffffffffffffffff", "9bffffffffffffffff", "bbffffffffffffffff",
        "81", "9f", "a1", "a161", "a10102", "bf", "bf61", "bf6161ff", "c000", "d81c80", "f0",
        "f8ff", "f818", "ff", "fa00", "fb00000000000000", "f9", "fc", "fe",
    ],
)  # fmt: skip
def test_value_when_broken_is_refused(text):
    """Truncated, endless, tagged, of odd keys: one class of error, whatever is wrong."""
    data = bytes.fromhex(text)
    with pytest.raises(ProtocolError):
        read_value(data, 0, len(data))


@pytest.mark.parametrize("opening", [b"\x81", b"\x9f", b"\xa1\x61a", b"\xbf\x61a"])
def test_value_when_nested_too_deeply_is_refused(opening):
    """Depth is bounded on its own, not by the interpreter."""
    data = opening * 100_000 + b"\xf6"
    with pytest.raises(ProtocolError, match="deep"):
        read_value(data, 0, len(data))
    value = []
    for _ in range(MOST_DEEP):
        value = [value]
    with pytest.raises(ProtocolError, match="deep"):
        check_value(value)


@pytest.mark.parametrize("value", [object(), (1,), {1: 2}, {"a": {3}}, [Timestamp(1, 2)]])
def test_check_when_a_constant_cannot_hold_it_refuses(value):
    """Only what the bytes can say."""
    with pytest.raises(ProtocolError):
        check_value(value)


@given(st.integers(0, (1 << 57) - 1))
def test_vu57_when_written_is_read(value):
    """To its last byte, in at most eight."""
    out = bytearray()
    varint.write_vu57(out, value)

    assert varint.read_vu57(bytes(out) + b"\xff", 0) == (value, len(out))
    assert len(out) <= 8


@given(st.integers(0, 1), st.integers(0, (1 << 56) - 1))
def test_b1vu56_when_written_is_read(flag, value):
    """To its last byte, in at most eight."""
    out = bytearray()
    varint.write_b1vu56(out, flag, value)

    assert varint.read_b1vu56(bytes(out) + b"\xff", 0) == (flag, value, len(out))
    assert len(out) <= 8


@pytest.mark.parametrize(
    ("flag", "value", "text"),
    [
        (0, 1, "01"),
        (1, 1, "81"),
        (0, 63, "3f"),
        (0, 100, "6401"),
        (1, 100, "e401"),
        (0, 300, "6c04"),
    ],
)
def test_b1vu56_of_the_examples_is_as_described(flag, value, text):
    """reference/grid-protocol.md, 8.2."""
    out = bytearray()
    varint.write_b1vu56(out, flag, value)

    assert out.hex() == text


@given(st.integers(0, 300), st.integers(0, varint.MOST))
def test_id_when_written_is_read(index, time):
    """One byte where it goes."""
    out = bytearray()
    varint.write_id(out, index, time)

    assert varint.read_id(bytes(out) + b"\xff", 0) == (index, time, len(out))
    assert (len(out) == 1) == (index <= 7 and time <= 15)


@given(st.text())
def test_units_when_joined_again_are_the_text(text):
    """As many as UTF-16 has, and pairs come together again."""
    assert len(units(text)) == len(text.encode("utf-16-le", "surrogatepass")) // 2
    assert joined(units(text)) == text


def test_undefined_always_is_one_falsy_value_of_its_own():
    """Copied and pickled it is still the same."""
    assert not UNDEFINED
    assert UNDEFINED is not None
    assert repr(UNDEFINED) == "undefined"
    assert copy.deepcopy([UNDEFINED])[0] is UNDEFINED
    assert pickle.loads(pickle.dumps(UNDEFINED)) is UNDEFINED


def test_timestamp_when_spelled_is_read_back_and_ordered_by_time_first():
    """ "session.time"."""
    assert Timestamp.parse("66535.18") == Timestamp(66535, 18)
    assert str(Timestamp(66535, 18)) == "66535.18"
    assert Timestamp(1, 5).key > Timestamp(9, 4).key
    for wrong in ("", "1", "1.", ".1", "1.x", "-1.2", "1.2.3", "²․1", "9" * 50):
        with pytest.raises(ProtocolError):
            Timestamp.parse(wrong)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1 << 70, "fb4450000000000000"),
        (-(10**400), "fbfff0000000000000"),
        (0.1, "fb3fb999999999999a"),
        (math.inf, "fb7ff0000000000000"),
    ],
    ids=["large", "too large", "fraction", "infinite"],
)
def test_number_when_beyond_64_bits_is_written_as_javascript_has_it(value, text):
    """A JSON number may be of any size."""
    out = bytearray()
    write_value(out, value, service=True)

    assert out.hex() == text
