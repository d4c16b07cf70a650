"""Data frames as CSV: what is missing, what pandas made of integers, what lies in cells."""

import csv
import datetime as dt

import numpy as np
import pandas as pd
import pytest

from synd.errors import UsageError
from synd.grid import frames


def cells(frame, tmp_path, whole=()):
    path = tmp_path / "frame.csv"
    frames.write(frame, path, set(whole))
    with path.open(encoding="utf-8", newline="") as text:
        return list(csv.reader(text))


def test_missing_values_always_are_empty_cells(tmp_path):
    """None, NaN, NaT and NA are one thing: nothing."""
    missing = pd.Series([None, np.nan, pd.NaT, pd.NA, "x"], dtype=object)
    frame = pd.DataFrame({"a": missing, "b": 1})

    assert ["", "", "", "", "x"] == [row[0] for row in cells(frame, tmp_path)[1:]]


def test_integers_when_pandas_made_them_floats_are_integers_again(tmp_path):
    """150.0 is no INTEGER for the service; in a column of decimals it stays."""
    frame = pd.DataFrame({"n": [150, None], "d": [150.0, 1.5]})

    assert [["n", "d"], ["150", "150.0"], ["", "1.5"]] == cells(frame, tmp_path, ["n"])


def test_values_always_are_spelled_as_the_service_reads_them(tmp_path):
    """Booleans in small letters, lists as JSON, times by ISO, text as it is."""
    frame = pd.DataFrame(
        {
            "t": [True],
            "l": [["a", "ü"]],
            "v": [np.array([1, 2])],
            "d": [dt.date(2026, 1, 2)],
            "s": [pd.Timestamp("2026-01-02T03:04:05Z")],
            "i": [np.int64(7)],
            "x": ['say "x"\n'],
            5: [0.1],
        }
    )

    assert [
        ["t", "l", "v", "d", "s", "i", "x", "5"],
        ["true", '["a", "ü"]', "[1, 2]", "2026-01-02", "2026-01-02T03:04:05+00:00", "7",
         'say "x"\n', "0.1"],
    ] == cells(frame, tmp_path)  # fmt: skip


def test_columns_when_they_have_levels_are_refused():
    """A grid has one header line."""
    frame = pd.DataFrame([[1]], columns=pd.MultiIndex.from_tuples([("a", "b")]))

    with pytest.raises(UsageError, match="several levels"):
        frames.names_of(frame)


@pytest.mark.parametrize(("value", "wanted"), [([1], False), ({"a": 1}, False), ("x", False)])
def test_frame_always_is_told_from_other_values(value, wanted):
    """By what it can do: pandas need not be installed."""
    assert wanted is frames.is_frame(value)
    assert frames.is_frame(pd.DataFrame({"a": [1]}))
