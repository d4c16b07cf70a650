"""The recorded conversations of a grid's socket: read, played against the machine, and judged."""

from __future__ import annotations

import heapq
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from synd.grid.crdt import Replica, Timestamp
from synd.grid.events import (
    Acknowledged,
    Action,
    Closed,
    Connect,
    Event,
    Fetch,
    Fetched,
    FetchFailed,
    NotOpened,
    Opened,
    Received,
    Send,
    Synced,
    Tick,
    UrlGot,
)
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import Kind, Outcome, Reason
from synd.grid.session import Conversation
from synd.grid.values import GridSnapshot
from tests.support.gridcases import spelled

FIXTURES = Path(__file__).parent.parent / "fixtures" / "grid"
FOLDER = FIXTURES / "transcripts"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))

WRITES = {"29_write_one_cell", "30_wrong_replica_patch"}
FOLLOWS = {"08_new_patch_while_syncing"}


def load(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def body_of(step: dict[str, Any]) -> bytes:
    """The bytes an `http` step answers with."""
    if step.get("body_file"):
        return (FOLDER / str(step["body_file"])).read_bytes()
    return str(step.get("body", "")).encode()


def grid_of(snapshot: GridSnapshot) -> dict[str, Any]:
    """A snapshot in the form of `grid.json`, as far as both hold it."""
    return {
        "columns": list(snapshot.columns),
        "rows": [
            {
                "rowId": row.row_id,
                "elementId": row.element_id,
                "status": row.status.value,
                "synapseRow": list(row.synapse_row) if row.synapse_row else None,
                "rowValidation": None if row.validation is None else dict(row.validation),
                "cells": spelled(row.cells),
            }
            for row in snapshot.rows()
        ],
        "summary": {
            "total": snapshot.total_rows,
            "valid": snapshot.valid_rows,
            "invalid": snapshot.invalid_rows,
            "pending": snapshot.pending_rows,
        },
    }


def grid_file(path: Path) -> dict[str, Any]:
    """`grid.json` as `grid_of` gives it: undefined cells are empty ones."""
    grid = json.loads(path.read_text())
    for row in grid["rows"]:
        cells = {column["name"]: row["cells"].get(column["name"]) for column in grid["columns"]}
        row["cells"] = {
            name: None if value == {"$undefined": True} else value for name, value in cells.items()
        }
    grid["columns"] = [column["name"] for column in grid["columns"]]
    return {key: grid[key] for key in ("columns", "rows", "summary")}


def judge(name: str, outcome: Outcome, document: Replica | None) -> None:
    """Asserts what the transcript expects."""
    expected = load(name)["expected"]
    wanted = expected["outcome"]
    said = (outcome.kind, outcome.reason, outcome.phase, outcome.message)
    if wanted == "complete":
        assert outcome.complete, said
    else:
        assert outcome.kind is (Kind.FAILED if document is None else Kind.PARTIAL), said
    if wanted == "error":
        assert outcome.reason == expected["error"], said
    if wanted == "timeout":
        assert outcome.reason is Reason.TIMEOUT, said
        assert outcome.phase == expected["phase"], said
    if "message" in expected:
        assert outcome.message == expected["message"]
    for key in ("status", "code", "errno"):
        if key in expected:
            assert getattr(outcome, key) == expected[key], said
    if "partial" in expected:
        assert (document is not None) is expected["partial"]
    if "view_file" in expected:
        assert document is not None
        assert spelled(document.view()) == json.loads((FOLDER / expected["view_file"]).read_text())
    if "view" in expected:
        assert document is not None
        assert spelled(document.view()) == expected["view"]
    if "rows" in expected:
        assert GridSnapshot(document, outcome, session="x").total_rows == expected["rows"]
    if "grid_file" in expected:
        snapshot = GridSnapshot(document, outcome, session="x")
        assert grid_of(snapshot) == grid_file(FOLDER / expected["grid_file"])


def check_request(step: dict[str, Any], text: str) -> Any:
    """Asserts that a client's message is the one the step waits for; its id."""
    message = json.loads(text)
    kind, id, method, body = message
    assert (kind, method) == (step["type"], step["method"])
    payload = step["payload"]
    if "equals" in payload:
        assert body == payload["equals"]
    if "covers" in payload:
        told = dict(map(tuple, body))
        assert body
        assert all(told.get(sid, -1) >= time for sid, time in payload["covers"]), told
    if "compact_patch" in payload:
        wanted = payload["compact_patch"]
        sid, time = body[0][0]
        assert sid == wanted["replicaId"]
        assert time > wanted["after_time"]
        assert json.loads(json.dumps(body)) == wanted["example"]
    return id


def the_patches(name: str, document: Replica) -> list[list[Any]]:
    """What the client of a transcript that writes has to write."""
    if name == "30_wrong_replica_patch":
        return [[[[70_000, 1]], [2]]]
    from synd.grid.crdt.author import Author

    wanted = load(name)
    cell = next(
        step["client"]["payload"]["compact_patch"]["sets_cell"]
        for step in wanted["steps"]
        if step.get("client", {}).get("method") == "patch"
    )
    row = Timestamp(*map(int, cell["rowId"].split(".")))
    author = Author(document, wanted["replicaId"])
    return list(author.set_cell(row, cell["column"], cell["value"]))


@dataclass
class StillClock:
    """A clock that moves when told to."""

    now: float = 1000.0

    def now_ns(self) -> int:
        return int(self.now * 1e9)

    def monotonic(self) -> float:
        return self.now


@dataclass
class Play:
    """One transcript against the machine alone, in no time at all."""

    name: str
    budget_s: float = 120.0
    timeouts: GridTimeouts = field(default_factory=GridTimeouts)
    clock: StillClock = field(default_factory=StillClock)
    stored: list[Any] = field(default_factory=list)
    count: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        self.transcript = load(self.name)
        self.steps = [step for step in self.transcript["steps"] if "http" not in step]
        self.answers = [step["http"] for step in self.transcript["steps"] if "http" in step]
        self.sent: list[str] = []
        self.due: list[tuple[float, int, Event]] = []
        self.began = self.clock.now
        options = self.transcript.get("options", {})
        self.conversation: Conversation[Replica] = Conversation(
            new=Replica,
            decode=Replica.from_snapshot,
            budget_at=self.clock.now + self.budget_s,
            timeouts=self.timeouts,
            limits=GridLimits(reconnects=options.get("max_reconnects", 3)),
            follow=self.name in WRITES | FOLLOWS,
            clock=self.clock,
        )
        self.refusal = next((s["handshake"] for s in self.steps if "handshake" in s), None)
        self.wrote = False

    @property
    def took_s(self) -> float:
        return self.clock.now - self.began

    def run(self) -> Outcome:
        self._act(self.conversation.start())
        for step in self.steps:
            if self.conversation.outcome is not None:
                break
            self._step(step)
        if self.conversation.outcome is None and self.conversation.synced:
            self._act(self.conversation.finish())
        while self.conversation.outcome is None:
            self._pass_time()
        return self.conversation.outcome

    def _step(self, step: dict[str, Any]) -> None:
        if "server" in step:
            self._give(Received(step["server"]))
        elif "client" in step:
            if (text := self._next_sent()) is not None:
                self.id = check_request(step["client"], text)
        elif "server_reply" in step:
            self._reply(step["server_reply"])
        elif "delay_s" in step:
            until = self.clock.now + step["delay_s"]
            while self._wake() < until and self.conversation.outcome is None:
                self._pass_time()
            self.clock.now = max(until, self.clock.now)
        elif "close" in step:
            self._give(Closed(step["close"]["code"], step["close"].get("reason", "")))
        elif "repeat" in step:
            while self.conversation.outcome is None:
                self.clock.now += step["repeat"]["every_s"]
                self._give(Received(step["repeat"]["message"]))
                if self.clock.now >= self._wake():
                    self._pass_time()
        elif "loop_until_client_stops" in step:
            for _ in range(step["loop_until_client_stops"]["max"]):
                text = self._next_sent()
                if text is None:
                    return
                self.id = json.loads(text)[1]
                self._reply(step["loop_until_client_stops"]["reply"])
            assert self.conversation.outcome is not None, "it goes on for ever"

    def _reply(self, reply: list[Any]) -> None:
        whole = [self.id if one == "$id" else one for one in reply]
        self._give(Received(json.dumps(whole)))

    def _next_sent(self) -> str | None:
        while not self.sent and self.conversation.outcome is None:
            self._pass_time()
        return self.sent.pop(0) if self.sent else None

    def _wake(self) -> float:
        return min([self.conversation.wake_at(), *(at for at, _, _ in self.due[:1])])

    def _pass_time(self) -> None:
        self.clock.now = max(self.clock.now, self._wake())
        if self.due and self.due[0][0] <= self.clock.now:
            self._give(heapq.heappop(self.due)[2])
        else:
            self._give(Tick())

    def _give(self, event: Event) -> None:
        self._act(self.conversation.handle(event))

    def _later(self, after_s: float, event: Event) -> None:
        heapq.heappush(self.due, (self.clock.now + after_s, next(self.count), event))

    def _act(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.sent.append(action.text)
            elif isinstance(action, Connect):
                self.sent.clear()
                self.due.clear()
                self._later(action.after_s, UrlGot())
                refused = self.refusal
                self._later(
                    action.after_s,
                    NotOpened("refused", refused["status"]) if refused else Opened(),
                )
                while self.due:
                    self._pass_time()
            elif isinstance(action, Fetch):
                self._answer(action)
            elif isinstance(action, Synced):
                self._write()
            elif isinstance(action, Acknowledged):
                self.stored.append(action.patch)

    def _write(self) -> None:
        document = self.conversation.document
        if self.name in WRITES and not self.wrote and document is not None:
            self.wrote = True
            self._act(self.conversation.store(the_patches(self.name, document)))

    def _answer(self, action: Fetch) -> None:
        answer = self.answers.pop(0)
        assert answer["url"] == action.url
        if answer.get("hang"):
            return
        if answer["status"] != 200:
            self._later(action.after_s, FetchFailed("refused", status=answer["status"]))
        elif "truncate_after" in answer:
            self._later(action.after_s, FetchFailed("broke off"))
        else:
            self._later(action.after_s, Fetched(body_of(answer)))
