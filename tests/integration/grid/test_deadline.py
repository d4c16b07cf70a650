"""A service that falls silent, at every place: the call ends at its deadline and says where it waited."""

import asyncio

import pytest

from synd.clock import Deadline
from synd.errors import DeadlineExceeded
from synd.grid.events import Received
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import Kind, Outcome, Phase, Reason
from synd.grid.session import Conversation
from synd.grid.snapshot import GridSnapshot, read_grid
from synd.grid.socket import GridSocket
from tests.support.grid_service import GridService
from tests.support.grid_transcripts import load

BUDGET_S = 1.0
GRACE_S = 0.5

STEPS = load("01_snapshot_then_complete")["steps"]
GREETED, ASKED, OFFERED, LOAD, ASKED_AGAIN, COMPLETE = range(6)
SILENCE = [{"silence": True}]

PLACES = {
    "looking at the session": (STEPS, "session", Phase.REPLICA, Kind.FAILED),
    "making the replica": (STEPS, "replica", Phase.REPLICA, Kind.FAILED),
    "giving the URL": (STEPS, "url", Phase.URL, Kind.FAILED),
    "before the handshake's reply": (STEPS, "handshake", Phase.OPEN, Kind.FAILED),
    "after the handshake": (SILENCE, "", Phase.CONNECTED, Kind.FAILED),
    "after connected": (STEPS[:ASKED] + SILENCE, "", Phase.SYNC, Kind.FAILED),
    "after the first request": (STEPS[:OFFERED] + SILENCE, "", Phase.SYNC, Kind.FAILED),
    "before the snapshot's head": (STEPS, "headers", Phase.FETCH, Kind.FAILED),
    "within the snapshot's body": (STEPS, "body", Phase.FETCH, Kind.FAILED),
    "in the middle of the sync": (STEPS[:COMPLETE] + SILENCE, "", Phase.SYNC, Kind.PARTIAL),
    "in the middle, with pings": (
        [*STEPS[:COMPLETE], {"repeat": {"every_s": 0.2, "message": '[8,"ping"]'}}],
        "", Phase.SYNC, Kind.PARTIAL,
    ),
    "before connected, with pings": (
        [{"repeat": {"every_s": 0.2, "message": '[8,"ping"]'}}], "", Phase.CONNECTED, Kind.FAILED,
    ),
}  # fmt: skip

PATIENT = GridTimeouts(*[600.0] * 8)


@pytest.mark.req("S0-46", "S0-48", "S0-52", "S0-53", "S0-51")
@pytest.mark.parametrize("place", PLACES)
def test_read_when_the_service_falls_silent_then_ends_at_its_deadline(place):
    """One deadline holds everywhere, however patient the single waits are; the outcome names the phase."""
    steps, hang, phase, kind = PLACES[place]

    async def read():
        async with GridService(steps, hang=hang) as service:
            async with asyncio.timeout(BUDGET_S + GRACE_S):
                deadline = Deadline.after(BUDGET_S, "the read")
                return await read_grid(service, "7", deadline=deadline, timeouts=PATIENT)

    snapshot = asyncio.run(read())

    assert snapshot.outcome.reason is Reason.TIMEOUT
    assert (snapshot.outcome.kind, snapshot.outcome.phase) == (kind, phase)
    assert not snapshot.is_valid
    with pytest.raises(DeadlineExceeded, match="7"):
        snapshot.require_complete()


OWN = {
    "rest_s": (STEPS, "replica", Phase.REPLICA),
    "open_s": (STEPS, "handshake", Phase.OPEN),
    "connected_s": (SILENCE, "", Phase.CONNECTED),
    "read_s": (STEPS[:OFFERED] + SILENCE, "", Phase.SYNC),
    "fetch_s": (STEPS, "body", Phase.FETCH),
}


@pytest.mark.req("S0-48")
@pytest.mark.parametrize("name", OWN)
def test_read_when_one_wait_is_short_then_ends_by_that_one(name):
    """Each wait has a setting of its own, which ends the call long before the budget does."""
    steps, hang, phase = OWN[name]
    patient = dict.fromkeys(GridTimeouts.__slots__, 600.0)
    timeouts = GridTimeouts(**{**patient, name: 0.1})

    async def read():
        async with GridService(steps, hang=hang) as service, asyncio.timeout(5):
            deadline = Deadline.after(60, "the read")
            return await read_grid(service, "7", deadline=deadline, timeouts=timeouts)

    snapshot = asyncio.run(read())

    assert (snapshot.outcome.reason, snapshot.outcome.phase) == (Reason.TIMEOUT, phase)


@pytest.mark.req("S0-49")
@pytest.mark.parametrize(
    ("budget_s", "close_s"), [(BUDGET_S, 600.0), (60.0, 0.2)], ids=["budget", "its own time"]
)
def test_read_when_the_close_is_not_answered_then_ends_within_the_budget(budget_s, close_s):
    """The closing handshake is part of the budget and has a time of its own; the result stands."""
    timeouts = GridTimeouts(close_s=close_s)

    async def read():
        async with GridService([*STEPS, {"deaf": True}]) as service:
            async with asyncio.timeout(BUDGET_S + GRACE_S):
                deadline = Deadline.after(budget_s, "the read")
                return await read_grid(service, "7", deadline=deadline, timeouts=timeouts)

    snapshot = asyncio.run(read())

    assert snapshot.outcome == Outcome(Kind.COMPLETE)
    assert snapshot.total_rows == 3


def test_read_when_decoding_outlasts_the_budget_then_ends_without_it():
    """Bytes that take too long to decode do not hold the caller, nor count as a document."""
    import threading

    hold = threading.Event()

    class SlowDocument:
        clock: dict = {}  # noqa: RUF012

        def apply_patches(self, patches):
            hold.wait(10)

    deadline = Deadline.after(0.3, "the read")
    conversation = Conversation(
        new=SlowDocument, decode=lambda body: SlowDocument(), budget_at=deadline.at
    )

    async def run():
        socket = GridSocket(conversation, None, deadline=deadline)
        big = '[4,1,{"type":"patches","body":[[[[66535,1]],[0,"' + "x" * 5000 + '"]]]}]'
        from synd.grid.events import Opened, UrlGot

        conversation.start()
        for event in (UrlGot(), Opened(), Received('[8,"connected"]')):
            conversation.handle(event)
        socket._started = True
        socket._line = line = object()
        socket._events.put_nowait((line, Received(big)))
        async with asyncio.timeout(0.3 + GRACE_S):
            await socket.advance(lambda: False)
        hold.set()
        return socket

    socket = asyncio.run(run())

    assert socket.document is None
    assert (socket.outcome.kind, socket.outcome.reason) == (Kind.FAILED, Reason.TIMEOUT)
    assert not GridSnapshot(socket.document, socket.outcome, session="7").decoded


@pytest.mark.req("S0-51")
def test_read_when_the_snapshot_is_larger_than_may_be_then_fails():
    """A ceiling on the size is kept before the body is read."""

    async def read():
        async with GridService(STEPS) as service:
            limits = GridLimits(snapshot_bytes=100)
            return await read_grid(
                service, "7", deadline=Deadline.after(10, "the read"), limits=limits
            )

    outcome = asyncio.run(read()).outcome

    assert (outcome.kind, outcome.reason, outcome.phase) == (
        Kind.FAILED,
        Reason.LIMIT,
        Phase.FETCH,
    )


@pytest.mark.parametrize("name", ["https_proxy", "ws_proxy", "all_proxy"])
def test_read_when_a_proxy_is_named_for_elsewhere_then_the_socket_takes_none(monkeypatch, name):
    """The socket goes the way of the calls before it, whatever the library would take."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def read():
        async with GridService(load("06_empty_session")["steps"]) as service:
            return await read_grid(service, "7", deadline=Deadline.after(10, "the read"))

    assert asyncio.run(read()).outcome == Outcome(Kind.COMPLETE)
