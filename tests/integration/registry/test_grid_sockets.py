"""A grid's WebSocket, by a plain client: the conversation, patches, notifications, validation, faults."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from synd.grid.crdt import Replica
from synd.grid.crdt.author import Author
from synd.grid.crdt.document import GridDocument
from tests.integration.registry.conftest import Api
from tests.integration.registry.grids import (
    CSV,
    Socket,
    bind,
    cells,
    connected,
    import_csv,
    people,
    record_set,
    replica,
    schema,
    session,
    socket_url,
)
from tests.support.registry import running

STATUSES = ["valid", "invalid", "invalid"]


@pytest.fixture(autouse=True)
def free(api: Api) -> Iterator[None]:
    """Whatever a test sets for all grids is undone."""
    yield
    told = {"halted": False, "pauseSeconds": 0, "shape": "patches", "urlSeconds": 900}
    api.ok("POST", "/admin/grids", told)


def edit(socket: Socket, row: int, name: str, value: object) -> list[list[object]]:
    """The patches of one changed cell, applied to the socket's own document."""
    document = GridDocument(socket.replica)
    index = {column: i for i, column in document.columns}
    found = list(document.rows())[row]
    return Author(socket.replica, socket.number).set_cell(found.row_id, index[name], value)


class TestConversation:
    def test_empty_session_is_in_sync_at_once(self, api: Api):
        """Without a snapshot and patches the first request is answered complete."""
        with connected(api, session(api)["sessionId"]) as socket:
            assert socket.answer("synchronize-clock", []) == [5, 1]

    @pytest.mark.req("S0-60")
    def test_snapshot_comes_first_and_nothing_is_missing_after_it(self, api: Api):
        """A grid whose rows are validated is one snapshot: the next request is answered complete."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as first:
            first.settled()

        with connected(api, grid) as socket:
            rows = list(socket.sync().rows())

        assert (socket.snapshots, socket.patches) == (1, 0)
        assert [row.status for row in rows] == STATUSES

    def test_snapshot_needs_no_credentials(self, api: Api):
        """The URL of a snapshot is presigned: a plain GET gives a CBOR map of the service's form."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            socket.settled()
            told = socket.answer("synchronize-clock", [])

        body = httpx.get(told[2]["body"], trust_env=False).content
        assert body[0] == 0xBF
        assert len(list(GridDocument(Replica.from_snapshot(body)).rows())) == 3

    def test_patches_come_in_order_and_in_answers_below_the_limit(self, api: Api):
        """What a clock lacks comes by time and session, each answer below 128,000 bytes."""
        api.ok("POST", "/admin/grids", {"halted": True})
        rows = "".join(f"I-{n},1,male,\n" for n in range(4, 3000))
        grid = people(api)["sessionId"]
        kinds = {"individualID": "STRING", "age": "INTEGER", "sex": "STRING", "tissues": "STRING"}
        with connected(api, grid) as socket:
            socket.sync()
            clock = [list(pair) for pair in socket.replica.clock.items()]
            import_csv(api, grid, "individualID,age,sex,tissues\n" + rows, kinds)

            sizes, headers = [], []
            while True:
                message = socket.answer("synchronize-clock", clock)
                if message[0] == 5:
                    break
                sizes.append(len(json.dumps(message, separators=(",", ":"))))
                headers += [tuple(reversed(patch[0][0])) for patch in message[2]["body"]]
                socket.replica.apply_patches(message[2]["body"])
                clock = [list(pair) for pair in socket.replica.clock.items()]

        assert len(sizes) > 1
        assert max(sizes) < 128_000
        assert headers == sorted(headers)
        assert len(list(GridDocument(socket.replica).rows())) == 2999

    @pytest.mark.parametrize("shape", ["patch", "bare"])
    def test_earlier_forms_of_the_answer_can_be_asked_for(self, api: Api, shape: str):
        """Tests can have the payloads of earlier services: one patch, or the bare array."""
        api.ok("POST", "/admin/grids", {"halted": True, "shape": shape})
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            told = socket.answer("synchronize-clock", [[1, 1]])[2]

        patch = told["body"] if shape == "patch" else told
        assert patch[0][0][0] == 66535
        assert shape == "bare" or told["type"] == "patch"

    def test_ping_is_answered(self, api: Api):
        """[8,"ping"] has [8,"pong"] come back."""
        with connected(api, session(api)["sessionId"]) as socket:
            socket.send([8, "ping"])
            socket.notice("pong")

    @pytest.mark.parametrize(
        ("message", "text"),
        [
            ("{", "Expecting"),
            ('{"a": 1}', "must be a JSON array"),
            ('[1, 1, "no-such-method", []]', "Unknown method"),
            ('[1, 1, "synchronize-clock", 7]', "must be an array"),
            ("[0, 1]", "Unknown message type"),
            ("[" * 100_000, "nested too deeply"),
            ('[1, 1, "patch", [[[66536, 9000]], [0, NaN]]]', "NaN is no JSON"),
            ('[1, 1, "patch", [[[66536, 9000]], [0, 1e999]]]', "JSON"),
        ],
        ids=["text", "object", "method", "body", "type", "nested", "NaN", "infinite"],
    )
    def test_what_cannot_be_understood_is_a_bad_request(self, api: Api, message: str, text: str):
        """An error notification tells what is wrong, and the connection stays usable."""
        with connected(api, session(api)["sessionId"]) as socket:
            socket.wire.send(message)
            told = socket.notice("error")
            assert (told["errno"], told["code"]) == (400, "Bad Request")
            assert text in told["message"]
            assert socket.answer("synchronize-clock", [])[0] == 5

    def test_expired_or_changed_url_is_refused_with_403(self, api: Api):
        """The handshake checks signature and age."""
        grid = session(api)["sessionId"]
        number = replica(api, grid)
        good = socket_url(api, grid, number)
        api.ok("POST", "/admin/grids", {"urlSeconds": 0})
        late = socket_url(api, grid, number)

        for url in (late, good.replace(f"replicaId={number}", "replicaId=1")):
            with pytest.raises(InvalidStatus) as refused:
                connect(url, proxy=None)
            assert refused.value.response.status_code == 403


class TestPatches:
    def test_patch_is_stored_and_others_are_told(self, api: Api):
        """A client's patch is acknowledged once; other connections are told, and get it."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as writer, connected(api, grid) as reader:
            reader.settled()
            writer.sync()
            reader.notices.clear()
            (patch,) = edit(writer, 1, "age", 5)

            assert writer.answer("patch", patch)[0] == 5
            assert writer.answer("patch", patch)[0] == 5
            reader.notice("new-patch")

            assert cells(reader.sync())[1]["age"] == 5
            assert [row.status for row in reader.settled()] == ["valid", "valid", "invalid"]

    def test_patch_of_another_replica_is_refused(self, api: Api):
        """A connection writes as its own replica alone."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            socket.sync()
            (patch,) = edit(socket, 0, "age", 5)
            patch[0][0][0] += 1  # type: ignore[index]

            told = socket.answer("patch", patch)

        assert told[:2] == [8, "error"]
        assert "does not match" in told[2]["message"]

    def test_patch_that_cannot_be_kept_leaves_no_trace(self, api: Api):
        """What cannot be stored as text is refused, and is not in the document either."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            socket.settled()
            for patch in edit(socket, 0, "sex", "male"):
                text = json.dumps([1, 99, "patch", patch]).replace('"male"', '"\\ud800"')
                socket.wire.send(text)
            assert socket.notice("error")["errno"] == 400

        with connected(api, grid) as other:
            assert cells(other.sync())[0]["sex"] == "female"

    def test_two_writers_at_once_end_with_the_same_rows(self, api: Api):
        """Rows inserted by two clients that do not wait for each other stand in one order for all."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as one, connected(api, grid) as two:
            for socket in (one, two):
                socket.sync()
            for n in range(10):
                for socket in (one, two):
                    author = Author(socket.replica, socket.number)
                    for patch in author.insert_row([f"{socket.number}-{n}", n, "male"]):
                        assert socket.answer("patch", patch)[0] == 5

            mine, theirs = cells(one.sync()), cells(two.sync())

        with connected(api, grid) as third:
            fresh = cells(third.sync())
        assert [row["individualID"] for row in mine] == [row["individualID"] for row in fresh]
        assert mine == theirs
        assert len(fresh) == 23

    def test_deleted_row_is_gone_for_all(self, api: Api):
        """A row that a client deletes is not in what others get."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            rows = list(socket.sync().rows())
            author = Author(socket.replica, socket.number)
            for patch in author.delete_rows([rows[1].element_id]):
                assert socket.answer("patch", patch)[0] == 5

        with connected(api, grid) as other:
            assert [row["individualID"] for row in cells(other.sync())] == ["I-1", "I-3"]

    def test_connections_are_told_of_each_other(self, api: Api):
        """Coming and going of a replica is announced to the others."""
        grid = session(api)["sessionId"]
        with connected(api, grid) as one:
            with connected(api, grid):
                one.notice("replica-connected")
            one.notice("replica-disconnected")

    def test_deleting_the_session_closes_its_connections(self, api: Api):
        """Who is connected to a session that is deleted is sent away."""
        grid = session(api)["sessionId"]
        with connected(api, grid) as socket:
            api.ok("DELETE", f"/repo/v1/grid/session/{grid}")
            with pytest.raises(ConnectionClosed):
                socket.receive()


class TestValidation:
    def test_rows_are_pending_until_the_service_gets_to_them(self, api: Api):
        """Validation is another's work: while it is halted rows have no result, then they get it."""
        api.ok("POST", "/admin/grids", {"halted": True})
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            assert [row.status for row in socket.sync().rows()] == ["pending"] * 3

            api.ok("POST", "/admin/grids", {"halted": False})
            socket.notice("new-patch")

            rows = socket.settled()
        assert [row.status for row in rows] == STATUSES
        assert rows[1].validation == {
            "isValid": False,
            "validationErrorMessage": "#/age: -1 is not greater or equal to 0",
            "allValidationMessages": ["#/age: -1 is not greater or equal to 0"],
        }

    def test_changed_row_is_pending_again_and_then_newer_than_its_cells(self, api: Api):
        """The result of a row is written anew after a cell changed, with an id after that cell."""
        grid = people(api)["sessionId"]
        with connected(api, grid) as socket:
            socket.settled()
            api.ok("POST", "/admin/grids", {"halted": True})
            (patch,) = edit(socket, 0, "age", 35)
            assert socket.answer("patch", patch)[0] == 5
            first = next(iter(socket.sync().rows()))
            assert (first.status, first.validation) == ("pending", {"isValid": True})

            api.ok("POST", "/admin/grids", {"halted": False})
            row = socket.settled()[0]

        assert row.status == "valid"
        assert row.newest_cell is not None and row.validation_id is not None
        assert row.validation_id.key > row.newest_cell.key

    def test_missing_required_column_and_many_faults_are_all_told(self, api: Api, project: str):
        """Each fault of a row is a message; of several the one line says how many."""
        record = record_set(api, project, "individualID,age\n7,x\n", csvDescriptor={})
        bind(api, record["id"], schema(api))
        grid = session(api, recordSetId=record["id"])["sessionId"]
        with connected(api, grid) as socket:
            (row,) = socket.settled()

        assert row.validation is not None
        assert row.validation["validationErrorMessage"] == "#: 2 schema violations found"
        assert sorted(row.validation["allValidationMessages"]) == [
            "#/age: expected type: Integer, found: String",
            "#: required key [sex] not found",
        ]

    def test_without_a_schema_no_row_gets_a_result(self, api: Api, project: str):
        """A session without a bound schema leaves its rows pending, and says so by lacking the name."""
        made = session(api, recordSetId=record_set(api, project)["id"])
        assert "gridJsonSchema$Id" not in made
        with connected(api, made["sessionId"]) as socket:
            assert [row.status for row in socket.sync().rows()] == ["pending"] * 3


class TestFaults:
    def test_handshake_can_be_refused(self, api: Api):
        """A fault on GET /grid/socket is the status of the handshake."""
        grid = session(api)["sessionId"]
        url = socket_url(api, grid, replica(api, grid))
        api.registry.fault(method="GET", path="/grid/socket", action="status", status=503)

        with pytest.raises(InvalidStatus) as refused:
            connect(url, proxy=None)

        assert refused.value.response.status_code == 503

    def test_request_can_be_dropped_failed_or_left_unanswered(self, api: Api):
        """Faults on WS messages: an error notification, a closed connection, and silence."""
        grid = session(api)["sessionId"]
        path = "/grid/socket/synchronize-clock"
        api.registry.fault(method="WS", path=path, action="status", status=500, reason="broken")
        api.registry.fault(method="WS", path=path, action="drop-before", nth=2)
        api.registry.fault(method="WS", path=path, action="silent", nth=3)

        with connected(api, grid) as socket:
            assert socket.answer("synchronize-clock", [])[2]["message"] == "broken"
            with pytest.raises(ConnectionClosed):
                socket.answer("synchronize-clock", [])
        with connected(api, grid) as socket:
            socket.send([1, 9, "synchronize-clock", []])
            socket.send([8, "ping"])
            with pytest.raises(TimeoutError):
                socket.wire.recv(timeout=0.3)


class TestRestart:
    def test_killed_registry_has_the_same_grid(self, tmp_path: Path):
        """Patches and results survive a kill; what was not validated is validated after it."""
        data = tmp_path / "data"
        with running(data) as registry:
            api = Api(registry)
            api.ok("POST", "/admin/grids", {"halted": True})
            grid = people(api)["sessionId"]
            with connected(api, grid) as socket:
                socket.sync()
                for patch in edit(socket, 2, "sex", "female"):
                    assert socket.answer("patch", patch)[0] == 5
                number = socket.number
            api.http.close()
            registry.kill()

        with running(data) as registry:
            api = Api(registry)
            with connected(api, grid, number) as socket:
                rows = socket.settled()
                found = cells(GridDocument(socket.replica))
            api.http.close()

        assert [row["sex"] for row in found] == ["female", "male", "female"]
        assert [row.status for row in rows] == ["valid", "invalid", "valid"]
        assert CSV.count("\n") - 1 == len(rows)


def test_client_that_goes_before_its_answer_is_no_failure_of_the_registry(tmp_path: Path, capfd):
    """Nobody is there to be told: nothing is logged as an error."""
    with running(tmp_path / "registry") as registry:
        api = Api(registry)
        grid = session(api)["sessionId"]
        urls = [socket_url(api, grid, replica(api, grid)) for _ in range(2)]
        with connect(urls[0]) as other:
            path = "/grid/socket/synchronize-clock"
            registry.fault(method="WS", path=path, action="hold", seconds=30, times=0)
            with connect(urls[1]) as socket:
                socket.send(json.dumps([1, 1, "synchronize-clock", []]))
            registry.call("DELETE", "/admin/faults")
            while json.loads(other.recv(20)) != [8, "replica-disconnected"]:
                pass
        api.http.close()

    assert "socket_failed" not in capfd.readouterr().err
