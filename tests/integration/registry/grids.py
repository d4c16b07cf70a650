"""What tests of schemas, record sets and grids begin with, and a plain client of a grid's socket."""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from synd.grid.crdt import Replica
from synd.grid.crdt.document import GridDocument, RowNode
from tests.integration.registry.conftest import Api

MODEL = "org.sagebionetworks.repo.model."
_numbers = itertools.count(1)

PEOPLE = {
    "type": "object",
    "properties": {
        "individualID": {"type": "string"},
        "age": {"type": "integer", "minimum": 0},
        "sex": {"type": "string", "enum": ["female", "male"]},
        "tissues": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["individualID", "sex"],
}
CSV = 'individualID,age,sex,tissues\nI-1,34,female,"[""liver"",""lung""]"\nI-2,-1,male,\nI-3,7,unknown,\n'
"""Three people: a good one, one of a bad age, one of a bad sex."""


def job(api: Api, base: str, body: dict[str, Any]) -> Any:
    """The response of a job that must end well."""
    token = api.ok("POST", f"/repo/v1{base}/async/start", body, 201)["token"]
    while True:
        answer = api.http.get(f"/repo/v1{base}/async/get/{token}")
        assert answer.is_success, answer.text
        if answer.status_code != 202:
            return answer.json()


def refused_job(api: Api, base: str, body: dict[str, Any]) -> tuple[int, str]:
    """(status, reason) of a job that must fail."""
    token = api.ok("POST", f"/repo/v1{base}/async/start", body, 201)["token"]
    while True:
        answer = api.http.get(f"/repo/v1{base}/async/get/{token}")
        if answer.status_code != 202:
            assert not answer.is_success, answer.text
            return answer.status_code, answer.json()["reason"]


def organization(api: Api) -> str:
    name = f"org.number{chr(97 + next(_numbers) % 26)}{next(_numbers)}"
    api.ok("POST", "/repo/v1/schema/organization", {"organizationName": name}, 201)
    return name


def register(api: Api, schema: dict[str, Any], uri: str, **more: Any) -> dict[str, Any]:
    """The CreateSchemaResponse."""
    body = {"schema": {**schema, "$id": uri}, **more}
    made: dict[str, Any] = job(api, "/schema/type/create", body)
    return made


def schema(api: Api, body: dict[str, Any] | None = None) -> str:
    """The $id of a new schema: of people unless told otherwise."""
    uri = f"{organization(api)}-people-1.0.0"
    register(api, PEOPLE if body is None else body, uri)
    return uri


def bind(api: Api, entity: str, uri: str) -> None:
    api.ok(
        "PUT", f"/repo/v1/entity/{entity}/schema/binding", {"entityId": entity, "schema$id": uri}
    )


def record_set(api: Api, parent: str, text: str = CSV, **more: Any) -> dict[str, Any]:
    body = {
        "concreteType": MODEL + "RecordSet",
        "name": f"people {next(_numbers)}",
        "parentId": parent,
        "dataFileHandleId": api.upload(text.encode(), "people.csv"),
        "upsertKey": ["individualID"],
        "csvDescriptor": {"separator": ",", "isFirstLineHeader": True},
        **more,
    }
    made: dict[str, Any] = api.ok("POST", "/repo/v1/entity", body, 201)
    return made


def session(api: Api, **request: Any) -> dict[str, Any]:
    """A new GridSession."""
    body = {"concreteType": MODEL + "grid.CreateGridRequest", **request}
    made: dict[str, Any] = job(api, "/grid/session", body)["gridSession"]
    return made


def people(api: Api, text: str = CSV) -> dict[str, Any]:
    """A session on a new record set with the schema of people."""
    project = api.project()
    record = record_set(api, project, text)
    bind(api, record["id"], schema(api))
    return session(api, recordSetId=record["id"])


def import_csv(api: Api, grid: str, text: str, columns: dict[str, str]) -> Any:
    models = [{"name": name, "columnType": kind} for name, kind in columns.items()]
    return job(
        api,
        "/grid/import/csv",
        {
            "concreteType": MODEL + "grid.GridCsvImportRequest",
            "sessionId": grid,
            "fileHandleId": api.upload(text.encode(), "rows.csv"),
            "csvDescriptor": {"separator": ",", "isFirstLineHeader": True},
            "schema": models,
        },
    )


def download(api: Api, handle: str) -> str:
    """The text of a file handle of the caller."""
    url = api.ok("GET", f"/file/v1/fileHandle/{handle}/url?redirect=false")
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code == 200
    return answer.text


def grid_csv(api: Api, grid: str, **more: Any) -> str:
    body = {"concreteType": MODEL + "grid.DownloadFromGridRequest", "sessionId": grid, **more}
    return download(api, job(api, "/grid/download/csv", body)["resultsFileHandleId"])


def replica(api: Api, grid: str) -> int:
    made = api.ok("POST", f"/repo/v1/grid/session/{grid}/replica", {"gridSessionId": grid}, 201)
    number: int = made["replica"]["replicaId"]
    return number


def socket_url(api: Api, grid: str, number: int) -> str:
    body = {"gridSessionId": grid, "replicaId": number}
    url: str = api.ok("POST", f"/repo/v1/grid/session/{grid}/presigned/url", body, 201)[
        "presignedUrl"
    ]
    return url


class Socket:
    """One connection, and the document that it has got."""

    def __init__(self, wire: ClientConnection, number: int) -> None:
        self.wire = wire
        self.number = number
        self.replica = Replica()
        self.notices: list[Any] = []
        self.snapshots = 0
        self.patches = 0
        self._last = 0

    def receive(self) -> Any:
        return json.loads(self.wire.recv(timeout=20))

    def send(self, message: Any) -> None:
        self.wire.send(json.dumps(message))

    def answer(self, method: str, body: Any) -> Any:
        """The one message that answers a request; notifications before it are kept."""
        self._last += 1
        self.send([1, self._last, method, body])
        while True:
            message = self.receive()
            if message[0] == 8 and message[1] != "error":
                self.notices.append(message[1])
                continue
            return message

    def notice(self, name: str) -> Any:
        """Waits for a notification."""
        while name not in self.notices:
            message = self.receive()
            assert message[0] == 8, message
            if message[1] == "error":
                return message[2]
            self.notices.append(message[1])
        self.notices.remove(name)
        return None

    def sync(self) -> GridDocument:
        """Asks until nothing is missing."""
        clock: list[list[int]] = [[sid, time] for sid, time in self.replica.clock.items()]
        while True:
            message = self.answer("synchronize-clock", clock)
            if message[0] == 5:
                return GridDocument(self.replica)
            assert message[0] == 4, message
            told = message[2]
            if told["type"] == "snapshot":
                fetched = httpx.get(told["body"], trust_env=False)
                assert fetched.status_code == 200
                self.replica = Replica.from_snapshot(fetched.content)
                self.snapshots += 1
            else:
                self.replica.apply_patches(told["body"])
                self.patches += len(told["body"])
            clock = [[sid, time] for sid, time in self.replica.clock.items()]

    def settled(self, timeout_s: float = 20) -> list[RowNode]:
        """The rows once none is pending."""
        end = time.monotonic() + timeout_s
        while True:
            rows = list(self.sync().rows())
            if all(row.status != "pending" for row in rows):
                return rows
            assert time.monotonic() < end, "rows stay pending"
            self.notice("new-patch")


@contextmanager
def connected(api: Api, grid: str, number: int | None = None) -> Iterator[Socket]:
    """A connection that has been told that it is one."""
    mine = replica(api, grid) if number is None else number
    with connect(socket_url(api, grid, mine), proxy=None, close_timeout=2) as wire:
        made = Socket(wire, mine)
        assert made.receive() == [8, "connected"]
        yield made


def cells(document: GridDocument) -> list[dict[str, Any]]:
    """The rows by column name."""
    return [{name: row.cells[index] for index, name in document.columns} for row in document.rows()]
