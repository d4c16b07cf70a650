"""Following, watching and writing over a real socket; lost connections on the way."""

import asyncio
import json
import threading
from contextlib import aclosing

import pytest

from synd.clock import Deadline
from synd.errors import DeadlineExceeded, Forbidden, NotFound
from synd.grid.crdt import Replica, Timestamp
from synd.grid.crdt.author import Author
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import Kind, Phase, Reason
from synd.grid.session import Conversation
from synd.grid.snapshot import Ended, follow_grid, open_grid, read_grid, watch_grid
from synd.grid.socket import GridSocket
from tests.support.grid_service import SECRET, GridService
from tests.support.grid_transcripts import load

QUICK = GridLimits(reconnect_pauses_s=(0.01, 0.02, 0.04))
CONNECTED = {"server": '[8,"connected"]'}


def ask(payload=None):
    return {
        "client": {
            "type": 1,
            "id": "any",
            "method": "synchronize-clock",
            "payload": payload or {"any": True},
        }
    }


def reply(*parts):
    return {"server_reply": [parts[0], "$id", *parts[1:]]}


def patches(*compact):
    return reply(4, {"type": "patches", "body": list(compact)})


def a_grid(rows=2):
    """(its patches, a replica that has them, an author of the service) of a small grid, nothing validated."""
    replica = Replica()
    service = Author(replica, 66_535)
    made = list(service.new_grid(["id", "name"]))
    for row in range(rows):
        made += service.insert_row([row, f"row {row}"])
    return made, replica, service


def row_ids(replica):
    from synd.grid.crdt.document import GridDocument

    return [row.row_id for row in GridDocument(replica).rows()]


def run(steps, use, **settings):
    async def main():
        async with GridService(steps, **settings) as service, asyncio.timeout(10):
            result = await use(service)
        assert service.wrong == []
        return result, service

    return asyncio.run(main())


def soon(seconds=8.0):
    return Deadline.after(seconds, "following")


class TestFollow:
    def test_follow_when_results_come_later_then_ends_as_no_row_is_pending(self):
        """Results arrive in patches after the first complete state; following waits for the last of them."""
        made, replica, service = a_grid()
        first, second = row_ids(replica)
        one = service.set_validation(first, {"isValid": True})
        two = service.set_validation(
            second, {"isValid": False, "allValidationMessages": ["#/name: too long"]}
        )
        steps = [
            CONNECTED, ask({"equals": []}), patches(*made), ask(), reply(5),
            {"server": '[8,"new-patch"]'}, ask(), patches(*one), ask(), reply(5),
            {"server": '[8,"new-patch"]'}, ask(), patches(*two), ask(), reply(5),
        ]  # fmt: skip
        pending = []

        async def follow(grid):
            return await follow_grid(
                grid, "7", deadline=soon(), seen=lambda s: pending.append(s.pending_rows)
            )

        followed, _ = run(steps, follow)

        assert followed.ended is Ended.SETTLED
        assert pending == [2, 1, 0]
        assert followed.snapshot.outcome.complete
        assert (followed.snapshot.valid_rows, followed.snapshot.invalid_rows) == (1, 1)

    def test_follow_when_the_budget_ends_first_then_says_so(self):
        """Rows that stay pending end with the budget; the state is complete all the same, and not valid."""
        made, _, _ = a_grid()
        steps = [CONNECTED, ask(), patches(*made), ask(), reply(5), {"silence": True}]

        async def follow(grid):
            return await follow_grid(grid, "7", deadline=soon(1.0))

        followed, _ = run(steps, follow)

        assert followed.ended is Ended.BUDGET
        assert followed.snapshot.outcome.complete
        assert followed.snapshot.pending_rows == 2
        assert not followed.snapshot.is_valid

    def test_follow_when_no_schema_is_bound_then_does_not_wait(self):
        """Without a schema no result will ever come, and that is said."""
        made, _, _ = a_grid()
        steps = [CONNECTED, ask(), patches(*made), ask(), reply(5), {"silence": True}]

        async def follow(grid):
            return await follow_grid(grid, "7", deadline=soon())

        followed, _ = run(steps, follow, schema=None)

        assert followed.ended is Ended.NO_SCHEMA
        assert followed.snapshot.verdict == "no-schema"

    def test_follow_when_the_service_fails_then_ends_by_that(self):
        """An error of the service ends following with what was known."""
        made, _, _ = a_grid()
        error = '[8,"error",{"message":"gone","errno":500}]'
        steps = [CONNECTED, ask(), patches(*made), ask(), reply(5), {"server": error}]

        async def follow(grid):
            return await follow_grid(grid, "7", deadline=soon())

        followed, _ = run(steps, follow)

        assert followed.ended is Ended.STOPPED
        assert (followed.snapshot.outcome.kind, followed.snapshot.outcome.reason) == (
            Kind.PARTIAL,
            Reason.SERVER,
        )

    def test_follow_when_the_hub_forgot_the_connection_then_connects_again(self):
        """A ping without a pong is a lost connection; the same replica goes on from its clock."""
        made, replica, service = a_grid(1)
        known = [[sid, time] for sid, time in replica.clock.items()]
        (first,) = row_ids(replica)
        result = service.set_validation(first, {"isValid": True})
        steps = [
            CONNECTED, ask(), patches(*made), ask(), reply(5),
            {"client": None},
            {"new_connection": {}}, CONNECTED, ask({"covers": known}), patches(*result), ask(), reply(5),
        ]  # fmt: skip

        class Forgetful(GridService):
            async def _expect(self, socket, wanted):
                if wanted is not None:
                    return await super()._expect(socket, wanted)
                assert json.loads(await socket.recv()) == [8, "ping"]
                await socket.wait_closed()

        async def main():
            async with Forgetful(steps) as grid, asyncio.timeout(10):
                timeouts = GridTimeouts(ping_s=0.1, read_s=0.5)
                return await follow_grid(
                    grid, "7", deadline=soon(), timeouts=timeouts, limits=QUICK
                ), grid

        followed, grid = asyncio.run(main())

        assert followed.ended is Ended.SETTLED
        assert grid.wrong == []
        assert (grid.urls, grid.replicas, grid.connections) == (2, 1, 2)


def test_watch_when_patches_come_then_gives_each_complete_state():
    """The first state and one after each change; a snapshot's rows end when the next is asked for."""
    from synd.errors import Stale

    made, replica, service = a_grid(1)
    (first,) = row_ids(replica)
    result = service.set_validation(first, {"isValid": True})
    steps = [
        CONNECTED, ask(), patches(*made), ask(), reply(5),
        {"server": '[8,"new-patch"]'}, ask(), patches(*result), ask(), reply(5),
        {"close": {"code": 1001}},
        {"new_connection": {}}, CONNECTED, ask(), reply(5), {"close": {"code": 1001}},
    ]  # fmt: skip

    async def watch(grid):
        seen = []
        limits = GridLimits(reconnects=1, reconnect_pauses_s=(0.01,))
        async for snapshot in watch_grid(grid, "7", deadline=soon(), limits=limits):
            seen.append(snapshot)
            if len(seen) == 2:
                assert [row.status for row in snapshot.rows()] == ["valid"]
                with pytest.raises(Stale):
                    list(seen[0].rows())
        return seen

    seen, _ = run([*steps, {"new_connection": {}}, {"close": {"code": 1001}}], watch)

    assert [one.pending_rows for one in seen] == [1, 0, 0]
    assert [one.outcome.reason for one in seen] == [None, None, Reason.CLOSED]


class TestStore:
    @pytest.mark.req("S0-40")
    def test_store_when_the_connection_is_lost_then_sends_the_same_patch_again_first(self):
        """An unacknowledged patch goes out unchanged on the next connection, before anything is asked."""
        made, _, _ = a_grid(1)
        patch = {"client": {"type": 1, "id": "any", "method": "patch", "payload": {"any": True}}}
        steps = [
            CONNECTED, ask(), patches(*made), ask(), reply(5),
            patch, {"close": {"abrupt": True, "code": 1006}},
            {"new_connection": {}}, CONNECTED, patch, reply(5), ask(), reply(5),
        ]  # fmt: skip

        async def write(service):
            async with open_grid(service, "7", deadline=soon(), limits=QUICK) as grid:
                assert await grid.sync()
                (first,) = row_ids(grid.document)
                written = list(Author(grid.document, grid.replica).set_cell(first, 1, "new"))
                stored = await grid.store(written)
                return stored, written, (await grid.finish()).complete

        (stored, written, complete), service = run(steps, write)

        assert stored
        assert complete
        sent = [body for _, _, method, body in service.requests if method == "patch"]
        assert sent == [json.loads(json.dumps(written[0]))] * 2

    def test_store_when_a_patch_is_large_then_arrives_in_one_message(self):
        """A message above the gateway's frame goes out in several frames of one text message."""
        made, _, _ = a_grid(1)
        patch = {"client": {"type": 1, "id": "any", "method": "patch", "payload": {"any": True}}}
        steps = [CONNECTED, ask(), patches(*made), ask(), reply(5), patch, reply(5)]
        text = "é\U0001f600" * 8_000

        async def write(service):
            async with open_grid(service, "7", deadline=soon()) as grid:
                assert await grid.sync()
                time = 1 + max(grid.document.clock.values())
                return await grid.store([[[[grid.replica, time]], [0, text]]])

        stored, service = run(steps, write)

        assert stored
        assert service.requests[-1][3][1] == [0, text]


class TestConnecting:
    def test_read_when_refused_twice_with_fresh_urls_then_access_is_lost(self):
        """A refused handshake gets a second URL; refused again, access is gone and it ends."""

        async def read(service):
            return await read_grid(service, "7", deadline=soon(), limits=QUICK)

        snapshot, service = run([{"handshake": {"status": 403}}], read)

        assert service.urls == 2
        assert snapshot.outcome.reason is Reason.HANDSHAKE
        with pytest.raises(Forbidden, match="access"):
            snapshot.require_complete()

    def test_read_when_nobody_listens_then_says_so_without_the_url(self, caplog):
        """No connection is a named outcome after the allowed tries; its text holds no signature."""

        class Gone(GridService):
            async def grid_socket_url(self, session, replica, *, deadline):
                self.urls += 1
                return f"ws://127.0.0.1:1/grid?{SECRET}"

        async def main():
            async with Gone([]) as service:
                return await read_grid(service, "7", deadline=soon(), limits=QUICK), service

        snapshot, service = asyncio.run(main())

        assert snapshot.outcome.reason is Reason.HANDSHAKE
        assert snapshot.outcome.phase is Phase.OPEN
        assert service.urls == 4
        assert SECRET not in caplog.text + str(snapshot.outcome)

    def test_read_when_the_session_is_unknown_then_raises_what_rest_says(self):
        """What the REST calls refuse is an error of its own, not an outcome."""

        class Unknown(GridService):
            async def create_grid_replica(self, session, *, deadline):
                raise NotFound("no such session")

        class NoUrl(GridService):
            async def grid_socket_url(self, session, replica, *, deadline):
                raise Forbidden("not yours")

        async def read(cls):
            async with cls([]) as service:
                return await read_grid(service, "7", deadline=soon())

        with pytest.raises(NotFound):
            asyncio.run(read(Unknown))
        with pytest.raises(Forbidden):
            asyncio.run(read(NoUrl))

    def test_open_when_the_url_takes_too_long_then_raises(self):
        """`open_grid` has no outcome to give before there is a replica: it raises."""

        async def use(service):
            async with open_grid(service, "7", deadline=soon(0.2)):
                pass

        with pytest.raises(DeadlineExceeded, match="replica"):
            run([], use, hang="replica")


@pytest.mark.req("S0-50", "S0-51")
def test_read_when_the_session_is_empty_then_is_complete_with_no_rows():
    """Zero rows are an answer only when the service said complete."""

    async def read(service):
        return await read_grid(service, "7", deadline=soon())

    snapshot, _ = run([CONNECTED, ask({"equals": []}), reply(5)], read)

    assert snapshot.outcome.complete
    assert (snapshot.total_rows, snapshot.columns) == (0, ())
    assert snapshot.is_valid


def test_read_when_the_document_is_no_grid_then_fails():
    """A whole document that is not a grid is not an empty grid."""
    broken = [[[66_535, 1]], [2], [0, 1], [10, 1, [["rows", 2]]], [9, [0, 0], 1]]

    async def read(service):
        return await read_grid(service, "7", deadline=soon())

    snapshot, _ = run([CONNECTED, ask(), patches(broken), ask(), reply(5)], read)

    assert (snapshot.outcome.kind, snapshot.outcome.reason) == (Kind.FAILED, Reason.DECODE)


def test_follow_when_the_document_is_no_grid_then_stops():
    """Following, too, ends with what cannot be read; so does watching."""
    broken = [[[66_535, 1]], [2], [0, 1], [10, 1, [["rows", 2]]], [9, [0, 0], 1]]
    steps = [CONNECTED, ask(), patches(broken), ask(), reply(5), {"silence": True}]

    async def follow(service):
        return await follow_grid(service, "7", deadline=soon())

    async def watch(service):
        return [one async for one in watch_grid(service, "7", deadline=soon())]

    followed, _ = run(steps, follow)
    seen, _ = run(steps, watch)

    assert followed.ended is Ended.STOPPED
    assert [one.outcome.reason for one in (followed.snapshot, *seen)] == [Reason.DECODE] * 2


def test_watch_when_given_up_then_closes_its_connection():
    """Who stops watching leaves no connection behind."""
    made, _, _ = a_grid()
    steps = [CONNECTED, ask(), patches(*made), ask(), reply(5), {"silence": True}]

    async def watch(service):
        async with aclosing(watch_grid(service, "7", deadline=soon())) as states:
            async for snapshot in states:
                assert snapshot.total_rows == 2
                break
        async with asyncio.timeout(5):
            await service.all_closed()
        return True

    assert run(steps, watch)[0]


def test_watch_when_the_deadline_comes_then_ends_without_an_error():
    """A look that lasts until its deadline is complete."""
    made, _, _ = a_grid()
    steps = [CONNECTED, ask(), patches(*made), ask(), reply(5), {"silence": True}]

    async def watch(service):
        return [one async for one in watch_grid(service, "7", deadline=soon(1.0))]

    seen, _ = run(steps, watch)

    assert [one.outcome.complete for one in seen] == [True]


def test_read_when_the_grid_is_large_then_decodes_beside_the_event_loop():
    """Decoding a snapshot and applying long patches happen in a thread; short patches do not."""
    where = []

    class Noting(Replica):
        @classmethod
        def from_snapshot(cls, data):
            where.append(threading.current_thread() is threading.main_thread())
            return super().from_snapshot(data)

        def apply_patches(self, batch):
            where.append(threading.current_thread() is threading.main_thread())
            super().apply_patches(batch)

    steps = load("02_snapshot_then_batches")["steps"]

    async def read(service):
        deadline = soon()
        talk = Conversation(
            new=Noting, decode=Noting.from_snapshot, budget_at=deadline.at, plain_storage=True
        )

        async def url(step):
            return await service.grid_socket_url("7", 1, deadline=step)

        async with GridSocket(talk, url, deadline=deadline) as socket:
            await socket.advance(lambda: False)
        return socket.outcome

    outcome, service = run(steps, read)

    assert outcome.complete
    sizes = [len(step["server"]) for step in service.steps if '"patches"' in step.get("server", "")]
    assert where == [False, *(size <= 4096 for size in sizes)]


def test_rows_when_read_then_have_the_ids_they_are_written_by():
    """A row id in text is the id that an author takes."""
    made, replica, _ = a_grid(1)

    async def read(service):
        return await read_grid(service, "7", deadline=soon())

    snapshot, _ = run([CONNECTED, ask(), patches(*made), ask(), reply(5)], read)

    (row,) = snapshot.rows()
    assert Timestamp(*map(int, row.row_id.split("."))) == row_ids(replica)[0]
