"""The page of figures: what is measured anew replaces what stood there, the rest stays."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.harness import Row, at_least, at_most, p99, per_s, seconds
from benchmarks.run import BENCHMARKS, page, sections


def report(*rows: Row, of: str, quick: bool = False) -> dict[str, Any]:
    """Figures of one benchmark, as `measure` tells them."""
    found = {
        "date": "2026-01-02T03:04+00:00", "load": [0.5, 1.0], "took_s": 2.0, "quick": quick,
        "rows": [row.describe() for row in rows],
    }  # fmt: skip
    return {
        "date": "2026-01-02",
        "machine": {"cpu": "one"},
        "quick": quick,
        "benchmarks": {of: found},
    }


def row(measure: str, *, met: bool) -> Row:
    return Row(measure, "1 ms", "native 2 ms", "0.50", "≥ 0.8", met)


class TestPage:
    def test_part_when_not_measured_stays_with_its_missed_targets(self):
        """Measuring one thing must not make the page forget the others."""
        before = page(report(row("slow thing", met=False), of="cold"))

        after = page(report(row("other thing", met=True), of="close"), before)

        assert ["cold", "close"] == list(sections(after))
        assert sections(before)["cold"] == sections(after)["cold"]
        assert 1 == after.count("- slow thing: 1 ms, native 2 ms, ratio 0.50, wanted ≥ 0.8")

    def test_part_when_measured_again_is_replaced_with_its_missed_targets(self):
        """A target that is met now is missed no longer."""
        before = page(report(row("thing", met=False), of="cold"))

        after = page(report(row("thing", met=True), of="cold"), before)

        assert "Targets missed" in before
        assert "Targets missed" not in after
        assert page(report(row("thing", met=True), of="cold")) == after

    def test_part_when_run_quickly_says_so(self):
        """Figures of smaller fixtures are not to be taken for others."""
        assert "took 2.0 s, quick run." in page(report(row("x", met=True), of="cold", quick=True))

    def test_parts_stand_in_the_order_of_the_benchmarks(self):
        """Whatever was measured last."""
        last, first = list(BENCHMARKS)[-1], next(iter(BENCHMARKS))
        before = page(report(row("a", met=True), of=last))

        after = page(report(row("b", met=True), of=first), before)

        assert [first, last] == list(sections(after))


class TestRows:
    def test_ratio_is_taken_within_a_turn(self):
        """Else a slow turn of one side would look like a slow side."""
        found = at_least(
            "x", [(1.0, 2.0), (10.0, 10.0), (30.0, 20.0)], 0.9, unit=per_s("x"), peer="p"
        )

        assert ("1.00 (0.50–1.50)", True) == (found.ratio, found.met)

    @pytest.mark.parametrize(("target", "met"), [(0.5, True), (0.1, False)], ids=["met", "missed"])
    def test_bound_is_compared_with_the_median(self, target, met):
        """One bad moment is noise, which is shown."""
        found = at_most("x", [0.1, 0.2, 3.0], target, unit=seconds)

        assert ("200 ms (100 ms–3.00 s)", met) == (found.synd, found.met)

    @pytest.mark.parametrize(
        ("count", "expected"), [(1, 1), (50, 50), (100, 99), (300, 297)], ids=str
    )
    def test_p99_is_exceeded_by_one_in_a_hundred(self, count, expected):
        """The nearest rank: a value that was seen."""
        assert expected == p99([float(n) for n in range(count, 0, -1)])
