"""What queried rows say together, and when that may be believed."""

import asyncio

import pytest

from synd.client.wire_grids import GridSession, QueriedRow
from synd.clock import Deadline
from synd.errors import DeadlineExceeded, ProtocolError
from synd.grid.outcome import COMPLETE, Kind, Outcome, Reason
from synd.grid.validation import Validation, Via, get_validation, of_rows
from synd.grid.values import Verdict

GOOD = {"isValid": True}
BAD = {"isValid": False, "allValidationMessages": ["#/a: wrong"]}


def row(number, validation=GOOD):
    return QueriedRow(f"1.{number}", {"a": number}, validation)


class Service:
    """A service with these rows, which gives at most `most` at once, and is slow from question `late` on."""

    def __init__(self, rows, *, most=1000, schema="org-a-1.0.0", stuck=False, late=None):
        self.rows, self.most, self.schema = rows, most, schema
        self.stuck, self.late = stuck, late
        self.asked = 0

    async def grid_session(self, session, *, deadline=None):
        return GridSession(session, None, self.schema, "1", "", "", "")

    async def create_grid_replica(self, session, *, deadline=None):
        return 65_536

    async def query_grid(self, session, replica, *, limit, offset=0, deadline=None):
        self.asked += 1
        if self.late is not None and self.asked >= self.late:
            raise DeadlineExceeded("too slow")
        first = 0 if self.stuck else offset
        return ["a"], self.rows[first : first + min(limit, self.most)]


def validated(service, **more):
    more = {"via": Via.REST, "deadline": Deadline.after(1.0, "the test"), **more}
    return asyncio.run(get_validation(service, "g", **more))


class TestPages:
    @pytest.mark.req("S0-51")
    def test_rows_when_pages_are_shorter_than_asked_for_are_all_read(self):
        """A service with a bound of its own gives fewer: the 250th row is not valid, and is seen."""
        rows = [row(n) for n in range(249)] + [row(249, BAD)]

        found = validated(Service(rows, most=100))

        assert (250, 249, 1) == (found.total_rows, found.valid_rows, found.invalid_rows)
        assert 250 == found.problems[0].row

    def test_rows_when_the_same_come_for_ever_are_no_grid(self):
        """A service that does not know the offset is not asked for ever, nor believed."""
        with pytest.raises(ProtocolError, match="same rows"):
            validated(Service([row(1), row(2)], stuck=True))

    def test_rows_when_a_page_overlaps_the_last_are_counted_once(self):
        """A row that was inserted meanwhile moves the others on."""

        class Moving(Service):
            async def query_grid(self, session, replica, *, limit, offset=0, deadline=None):
                names, page = await super().query_grid(session, replica, limit=limit, offset=offset)
                if offset == 0:
                    self.rows = [row(99), *self.rows]
                return names, page

        found = validated(Moving([row(n) for n in range(4)], most=2))

        assert 4 == found.total_rows

    def test_rows_when_there_are_none_are_a_whole_answer(self):
        """An empty grid was read, and is told from one that was not."""
        found = validated(Service([]))

        assert (0, True) == (found.total_rows, found.is_valid)


class TestTime:
    @pytest.mark.req("S0-51")
    def test_time_when_over_at_the_first_question_leaves_no_counts(self):
        """Failed by time-out; with its schema, as that was told."""
        found = validated(Service([row(1)], late=1))

        assert (Kind.FAILED, Reason.TIMEOUT) == (found.outcome.kind, found.outcome.reason)
        assert (None, "org-a-1.0.0") == (found.total_rows, found.schema)
        assert Verdict.INCOMPLETE is found.verdict

    @pytest.mark.req("S0-51")
    def test_time_when_over_between_two_pages_leaves_no_counts(self):
        """Half of the rows say nothing of the others."""
        found = validated(Service([row(n) for n in range(4)], most=2, late=2))

        assert found.total_rows is None
        assert not found.is_valid

    def test_time_when_over_while_rows_are_pending_keeps_what_was_seen(self):
        """The last whole answer: one row has no result."""
        found = validated(Service([row(1), row(2, None)], late=3))

        assert (2, 1, 1) == (found.total_rows, found.valid_rows, found.pending_rows)
        assert Verdict.PENDING is found.verdict
        assert not found.settled


class TestVerdict:
    @pytest.mark.req("S0-35", "S0-58")
    @pytest.mark.parametrize(
        ("validations", "schema", "verdict"),
        [
            ([GOOD, GOOD], "s", Verdict.VALID),
            ([], "s", Verdict.VALID),
            ([GOOD, BAD, None], "s", Verdict.INVALID),
            ([GOOD, None], "s", Verdict.PENDING),
            ([GOOD, {}], "s", Verdict.PENDING),
            ([{"isValid": None}], "s", Verdict.PENDING),
            ([{"isValid": "true"}], "s", Verdict.PENDING),
            ([{"isValid": 1}], "s", Verdict.PENDING),
            ([GOOD], None, Verdict.NO_SCHEMA),
            ([], None, Verdict.NO_SCHEMA),
        ],
    )
    def test_verdict_always_follows_from_every_row(self, validations, schema, verdict):
        """Only what says true or false is a result; without a schema there is none to come."""
        rows = [row(n, one) for n, one in enumerate(validations)]
        found = of_rows("g", schema, ["a"], rows)

        assert verdict is found.verdict
        assert (verdict is Verdict.VALID) is found.is_valid

    @pytest.mark.parametrize("kind", [Kind.PARTIAL, Kind.FAILED])
    def test_verdict_when_not_complete_is_never_valid(self, kind):
        """Though every row that was seen is."""
        outcome = Outcome(kind, Reason.CLOSED)
        found = Validation("g", "s", outcome, True, Via.SOCKET, 1, 1, 0, 0)

        assert Verdict.INCOMPLETE is found.verdict
        assert not found.is_valid

    def test_verdict_without_counts_is_never_valid(self):
        """Nothing was counted, whatever the outcome says."""
        found = Validation("g", "s", COMPLETE, settled=True, via=Via.REST)

        assert Verdict.INCOMPLETE is found.verdict

    def test_problem_always_has_place_id_and_column(self):
        """The place changes with every insert; the id does not."""
        found = of_rows("g", "s", ["a"], [row(5), row(7, BAD)])
        [problem] = found.problems

        assert (2, "1.7", "a", "wrong") == (
            problem.row, problem.row_id, problem.messages[0].column, problem.messages[0].text,
        )  # fmt: skip
        assert {"total_rows": 2, "valid_rows": 1, "invalid_rows": 1, "pending_rows": 0} == {
            key: value for key, value in found.validation_summary.items() if key.endswith("_rows")
        }
