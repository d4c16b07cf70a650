"""Grids read, followed and written through the client, from the local registry: REST, socket and storage."""

import asyncio
from collections.abc import Iterator

import pytest

from synd.client.credentials import Token, from_base
from synd.client.service import SynapseClient
from synd.clock import Deadline
from synd.errors import NotFound
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import GridDocument
from synd.grid.limits import GridLimits
from synd.grid.outcome import Kind, Reason
from synd.grid.snapshot import Ended, follow_grid, open_grid, read_grid, watch_grid
from synd.grid.values import Verdict
from tests.integration.registry.conftest import Api
from tests.integration.registry.grids import people, session
from tests.support.registry import running


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with running(tmp_path_factory.mktemp("registry")) as registry:
        api = Api(registry)
        yield api
        api.http.close()


@pytest.fixture(autouse=True)
def free(api: Api) -> Iterator[None]:
    """Whatever a test sets for all grids is undone."""
    yield
    api.ok(
        "POST",
        "/admin/grids",
        {"halted": False, "pauseSeconds": 0, "shape": "patches", "urlSeconds": 900},
    )


def using(api, work):
    """What `work(client)` gives."""

    async def main():
        token = Token(api.registry.token)
        async with SynapseClient(from_base(api.registry.url), token) as client:
            async with asyncio.timeout(20):
                return await work(client)

    return asyncio.run(main())


def soon(seconds=15.0):
    return Deadline.after(seconds, "the grid")


@pytest.mark.req("S0-23", "S0-24", "S0-36", "S0-37", "S0-60")
@pytest.mark.parametrize("shape", ["patches", "patch", "bare"])
def test_follow_when_rows_are_validated_by_the_service_then_gives_their_results(api, shape):
    """A session of a record set with a schema: each row's result, with its messages and ids, in any form of patches."""
    api.ok("POST", "/admin/grids", {"shape": shape})
    grid = people(api)["sessionId"]

    followed = using(api, lambda client: follow_grid(client, grid, deadline=soon()))

    snapshot = followed.snapshot
    assert followed.ended is Ended.SETTLED
    assert [row.status for row in snapshot.rows()] == ["valid", "invalid", "invalid"]
    assert snapshot.verdict is Verdict.INVALID
    assert {message.column for _, message in snapshot.invalid()} == {"age", "sex"}
    assert next(snapshot.rows()).cells["tissues"] == ["liver", "lung"]
    assert {row_id for row_id, _ in snapshot.invalid()} == {
        row.row_id for row in snapshot.rows("invalid")
    }


def test_store_when_a_cell_is_mended_then_its_row_becomes_valid(api):
    """A patch of the client is stored, another reader sees it, and the service validates it anew."""
    grid = people(api)["sessionId"]

    async def work(client):
        await follow_grid(client, grid, deadline=soon())
        async with open_grid(client, grid, deadline=soon()) as mine:
            assert await mine.sync()
            document = GridDocument(mine.document)
            row = list(document.rows())[1]
            age = {name: index for index, name in document.columns}["age"]
            assert await mine.store(
                Author(mine.document, mine.replica).set_cell(row.row_id, age, 9)
            )
            assert (await mine.finish()).complete
        return await follow_grid(client, grid, deadline=soon())

    followed = using(api, work)

    assert [row.status for row in followed.snapshot.rows()] == ["valid", "valid", "invalid"]
    assert [row.cells["age"] for row in followed.snapshot.rows()] == [34, 9, 7]


def test_read_when_validation_has_not_run_then_rows_are_pending(api):
    """Rows without a result are pending, not valid; and without a schema they are not even that."""
    api.ok("POST", "/admin/grids", {"halted": True})
    grid = people(api)["sessionId"]
    empty = session(api)["sessionId"]

    bound = using(api, lambda client: read_grid(client, grid, deadline=soon()))
    free = using(api, lambda client: read_grid(client, empty, deadline=soon()))

    assert (bound.outcome.complete, bound.total_rows, bound.pending_rows) == (True, 3, 3)
    assert bound.verdict is Verdict.PENDING
    assert (free.outcome.complete, free.total_rows) == (True, 0)
    assert free.verdict is Verdict.NO_SCHEMA


def test_watch_when_another_writes_then_sees_it(api):
    """A change by one replica reaches another that watches, by its notification."""
    grid = people(api)["sessionId"]

    async def work(client):
        await follow_grid(client, grid, deadline=soon())
        states = watch_grid(client, grid, deadline=soon())
        before = [row.cells["individualID"] for row in (await anext(states)).rows()]
        async with open_grid(client, grid, deadline=soon()) as mine:
            assert await mine.sync()
            row = next(iter(GridDocument(mine.document).rows()))
            index = {name: i for i, name in GridDocument(mine.document).columns}["individualID"]
            assert await mine.store(
                Author(mine.document, mine.replica).set_cell(row.row_id, index, "I-9")
            )
        after = before
        while after == before:
            after = [row.cells["individualID"] for row in (await anext(states)).rows()]
        await states.aclose()
        return before, after

    before, after = using(api, work)

    assert (before, after) == (["I-1", "I-2", "I-3"], ["I-9", "I-2", "I-3"])


@pytest.mark.req("S0-40")
def test_read_when_the_connection_drops_then_goes_on_by_another(api):
    """A connection dropped in the middle is replaced; an error of the service ends the read by its name."""
    grid = people(api)["sessionId"]
    path = "/grid/socket/synchronize-clock"
    limits = GridLimits(reconnect_pauses_s=(0.05,))
    using(api, lambda client: follow_grid(client, grid, deadline=soon()))

    api.registry.fault(method="WS", path=path, action="drop-before", nth=2)
    dropped = using(api, lambda client: read_grid(client, grid, deadline=soon(), limits=limits))
    api.http.delete("/admin/faults")
    api.registry.fault(method="WS", path=path, action="status", status=500, reason="broken", nth=1)
    broken = using(api, lambda client: read_grid(client, grid, deadline=soon(), limits=limits))
    api.http.delete("/admin/faults")

    assert (dropped.outcome.complete, dropped.total_rows) == (True, 3)
    assert (broken.outcome.kind, broken.outcome.reason, broken.outcome.message) == (
        Kind.FAILED,
        Reason.SERVER,
        "broken",
    )


def test_read_when_urls_are_too_old_then_access_is_lost(api):
    """URLs that are refused, one after the other, end the read as lost access."""
    grid = people(api)["sessionId"]
    api.ok("POST", "/admin/grids", {"urlSeconds": 0})
    limits = GridLimits(reconnect_pauses_s=(0.05,))

    snapshot = using(api, lambda client: read_grid(client, grid, deadline=soon(), limits=limits))

    assert (snapshot.outcome.reason, snapshot.outcome.status) == (Reason.HANDSHAKE, 403)


def test_read_when_there_is_no_such_session_then_raises_not_found(api):
    """What the service refuses by REST is raised as it is."""
    with pytest.raises(NotFound):
        using(api, lambda client: read_grid(client, "999999", deadline=soon()))
