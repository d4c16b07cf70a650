"""How rows stand: by the service's query and over the socket; with halted validation, without a schema, out of time."""

from __future__ import annotations

import csv
import socket
from pathlib import Path

import pytest

from synd.client.credentials import Token, from_base
from synd.client.service import SynapseClient
from synd.errors import NotSupported, RemoteUnavailable, UsageError
from synd.grid import operations
from synd.grid.check import check_csv
from synd.grid.limits import GridTimeouts
from synd.grid.operations import Via
from synd.grid.outcome import Kind, Reason
from synd.grid.values import Verdict
from synd.retry import RetryPolicy
from tests.support.curating import METADATA, SCHEMA, Curator, within

KEY = ["specimenID"]
WAYS = pytest.mark.parametrize("via", [Via.REST, Via.SOCKET], ids=str)
PEOPLE = {
    "type": "object",
    "properties": {"id": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["id"],
}


@pytest.fixture
def example(curator: Curator, header: Path) -> str:
    """A grid with the rows of the example."""
    grid = curator.session(header, KEY, SCHEMA).id
    curator.do(lambda c: operations.import_csv(c, grid, METADATA))
    return grid


@pytest.fixture
def people(curator: Curator, tmp_path: Path) -> str:
    """A grid of two people, whom nothing validates as long as the registry is halted."""
    path = tmp_path / "people.csv"
    path.write_text("id,age\na,1\nb,2\n")
    curator.halt(halted=True)
    return curator.session(path, ["id"], PEOPLE).id


class TestBothWays:
    @pytest.mark.req("S0-05", "S0-36", "S0-37", "S0-60")
    def test_rows_when_read_by_rest_and_by_socket_stand_alike(self, curator: Curator, example: str):
        """Counts, columns, ids, places and messages do not depend on the way."""
        rest = curator.do(lambda c: operations.get_validation(c, example, via=Via.REST))
        read = curator.do(lambda c: operations.get_validation(c, example, via="socket"))

        assert (8, 5, 3, 0) == (
            rest.total_rows,
            rest.valid_rows,
            rest.invalid_rows,
            rest.pending_rows,
        )
        assert {**rest.validation_summary, "via": ""} == {**read.validation_summary, "via": ""}
        assert rest.columns == read.columns
        for one, other in zip(rest.problems, read.problems, strict=True):
            assert (one.row, one.row_id, one.messages) == (other.row, other.row_id, other.messages)
        assert Verdict.INVALID is rest.verdict
        assert rest.settled
        assert read.settled

    def test_check_of_a_file_always_finds_what_the_grid_does(self, curator: Curator, example: str):
        """Rows and messages of a check before the import are those of the grid after it."""
        found = curator.do(lambda c: operations.get_validation(c, example))
        report = check_csv(METADATA, SCHEMA)

        here = [(one.row, [m.column for m in one.messages]) for one in report.invalid]
        there = [(one.row, [m.column for m in one.messages]) for one in found.problems]
        assert there == here
        texts = [m.text for one in found.problems for m in one.messages]
        assert "F is not a valid enum value" in texts
        assert "expected type: String, found: Null" in texts

    @WAYS
    def test_grid_when_it_has_no_rows_is_valid_only_if_it_was_read(
        self, curator: Curator, header: Path, via
    ):
        """The service said that there is nothing more, and a schema is bound."""
        grid = curator.session(header, KEY, SCHEMA).id

        found = curator.do(lambda c: operations.get_validation(c, grid, via=via))

        assert (0, True, True) == (found.total_rows, found.outcome.complete, found.is_valid)

    @WAYS
    def test_grid_when_no_schema_is_bound_is_neither_valid_nor_pending(
        self, curator: Curator, header: Path, via
    ):
        """Nothing will ever validate its rows, so nobody waits for it."""
        grid = curator.session(header, KEY).id
        curator.do(lambda c: operations.import_csv(c, grid, METADATA))

        found = curator.do(
            lambda c: operations.get_validation(c, grid, via=via, deadline=within(20))
        )

        assert Verdict.NO_SCHEMA is found.verdict
        assert found.settled
        assert not found.is_valid

    def test_many_rows_when_queried_come_by_pages(self, curator: Curator, tmp_path: Path):
        """All of 2,300 rows are counted though a page holds 1,000."""
        path = tmp_path / "many.csv"
        with path.open("w", newline="") as out:
            csv.writer(out).writerows([("id", "age"), *((f"p{n}", n % 90) for n in range(2300))])
        grid = curator.session(path, ["id"], PEOPLE).id

        found = curator.do(lambda c: operations.get_validation(c, grid, via=Via.REST))

        assert (2300, 2300) == (found.total_rows, found.valid_rows)


class TestPending:
    @WAYS
    def test_rows_when_validation_is_halted_are_pending(self, curator: Curator, people: str, via):
        """Without waiting the answer comes at once, and says so."""
        found = curator.do(lambda c: operations.get_validation(c, people, via=via, wait=False))

        assert (2, 0, 0, 2) == (
            found.total_rows,
            found.valid_rows,
            found.invalid_rows,
            found.pending_rows,
        )
        assert Verdict.PENDING is found.verdict
        assert not found.settled

    @WAYS
    def test_rows_when_the_time_ends_before_their_results_are_never_valid(
        self, curator: Curator, people: str, via
    ):
        """The budget's end is told as what was seen last: two rows without a result."""
        found = curator.do(
            lambda c: operations.get_validation(c, people, via=via, deadline=within(3))
        )

        assert not found.is_valid
        assert not found.settled
        assert found.verdict in (Verdict.PENDING, Verdict.INCOMPLETE)
        assert 2 == found.pending_rows

    @WAYS
    def test_rows_when_validation_goes_on_are_waited_for(self, curator: Curator, people: str, via):
        """Who waits is told how far it is, and gets the whole answer."""
        seen: list[tuple[int, int]] = []

        def tell(done: int, total: int) -> None:
            seen.append((done, total))
            if len(seen) == 1:
                curator.halt(halted=False)

        found = curator.do(lambda c: operations.get_validation(c, people, via=via, seen=tell))

        assert (0, 2) == seen[0]
        assert (2, 2) == seen[-1]
        assert found.is_valid

    def test_rows_when_they_are_imported_again_lose_their_old_results(
        self, curator: Curator, tmp_path: Path
    ):
        """A result that is older than a cell says nothing: the row is pending until it has a new one."""
        first = tmp_path / "first.csv"
        first.write_text("id,age\na,1\nb,2\n")
        grid = curator.session(first, ["id"], PEOPLE).id
        assert curator.do(lambda c: operations.get_validation(c, grid)).is_valid
        curator.halt(halted=True)
        worse = tmp_path / "worse.csv"
        worse.write_text("id,age\na,-1\n")

        curator.do(lambda c: operations.import_csv(c, grid, worse))
        for via in Via:
            found = curator.do(
                lambda c, via=via: operations.get_validation(c, grid, via=via, wait=False)
            )
            assert (1, 0, 1) == (found.valid_rows, found.invalid_rows, found.pending_rows)
        curator.halt(halted=False)

        found = curator.do(lambda c: operations.get_validation(c, grid))
        assert (1, 1, 0) == (found.valid_rows, found.invalid_rows, found.pending_rows)


class TestTrouble:
    def test_way_when_there_is_none_of_that_name_is_told(self, curator: Curator):
        """A class of ours, as for every wrong argument."""
        with pytest.raises(UsageError, match="'web' is no way"):
            curator.do(lambda c: operations.get_validation(c, "any", via="web"))

    def test_schema_when_it_leads_nowhere_stops_no_other_grid(
        self, curator: Curator, tmp_path: Path
    ):
        """Its rows stay pending; those of another grid are validated after it as before."""
        path = tmp_path / "people.csv"
        path.write_text("id,age\na,1\nb,2\n")
        loop = {"type": "object", "properties": {"age": {"$ref": "#/properties/age"}}}
        bad = curator.session(path, ["id"], loop).id
        good = curator.session(path, ["id"], PEOPLE).id

        assert curator.do(lambda c: operations.get_validation(c, good)).is_valid
        found = curator.do(lambda c: operations.get_validation(c, bad, deadline=within(3)))
        done = curator.do(lambda c: operations.import_csv(c, bad, path))

        assert (Verdict.PENDING, 2) == (found.verdict, found.pending_rows)
        assert 2 == done.updated

    def test_query_when_the_service_has_none_is_made_up_for_by_the_socket(
        self, curator: Curator, example: str
    ):
        """Of itself, or refused by name when only the query was wanted."""
        curator.registry.fault(
            method="POST", path="/grid/session/query", action="status", status=404, times=0
        )

        found = curator.do(lambda c: operations.get_validation(c, example))

        assert (Via.SOCKET, 8) == (found.via, found.total_rows)
        with pytest.raises(NotSupported, match="no grid queries"):
            curator.do(lambda c: operations.get_validation(c, example, via=Via.REST))

    @pytest.mark.req("S0-51", "S0-53")
    @pytest.mark.parametrize("path", ["/grid/session/[^/]+$", "/replica", "/query"])
    def test_rest_when_it_falls_silent_ends_in_time_and_is_no_empty_grid(
        self, curator: Curator, example: str, path
    ):
        """Whatever call gives no answer: failed by time-out, with no counts."""
        curator.registry.fault(path=path, action="delay", seconds=3, times=0)

        found = curator.do(
            lambda c: operations.get_validation(c, example, via=Via.REST, deadline=within(0.5))
        )

        assert (Kind.FAILED, Reason.TIMEOUT) == (found.outcome.kind, found.outcome.reason)
        assert found.total_rows is None
        assert Verdict.INCOMPLETE is found.verdict

    @pytest.mark.req("S0-46", "S0-51")
    @pytest.mark.announces("grid")
    def test_socket_when_it_falls_silent_ends_in_time_and_is_no_empty_grid(
        self, curator: Curator, example: str
    ):
        """No answer to the clock: failed, told, and nothing counted."""
        curator.registry.fault(
            method="WS", path="/grid/socket/synchronize-clock", action="silent", times=0
        )

        found = curator.do(
            lambda c: operations.get_validation(
                c,
                example,
                via=Via.SOCKET,
                deadline=within(3),
                timeouts=GridTimeouts(read_s=0.5),
            )
        )

        assert not found.outcome.complete
        assert found.total_rows is None
        assert not found.is_valid

    @pytest.mark.parametrize("via", list(Via), ids=str)
    def test_network_when_it_is_away_is_an_error(self, via, tmp_path: Path):
        """Nobody answers at the port: no outcome is made up."""
        import asyncio

        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]

        async def work():
            away = from_base(f"http://127.0.0.1:{port}")
            policy = RetryPolicy(tries=1)
            async with SynapseClient(away, Token("t", "test"), policy=policy) as client:
                return await operations.get_validation(client, "grid", via=via, deadline=within(20))

        with pytest.raises(RemoteUnavailable):
            asyncio.run(work())
