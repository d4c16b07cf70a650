"""Recorded conversations over a real socket and real storage on loopback."""

import asyncio
import logging

import pytest

from synd.clock import Deadline
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.snapshot import follow_grid, open_grid, read_grid
from tests.support.grid_service import SECRET, GridService
from tests.support.grid_transcripts import FOLLOWS, NAMES, WRITES, judge, load, the_patches

SHORT = {"connected": "connected_s", "sync": "read_s", "fetch": "fetch_s"}
"""Which wait is cut short for a transcript that ends in this phase."""


async def play(name):
    """(outcome, document, what the service saw) of one transcript."""
    transcript = load(name)
    expected = transcript["expected"]
    options = transcript.get("options", {})
    short = {SHORT[expected["phase"]]: 0.5} if expected["outcome"] == "timeout" else {}
    settings = {
        "deadline": Deadline.after(10, "the read"),
        "timeouts": GridTimeouts(**short),
        "limits": GridLimits(
            reconnects=options.get("max_reconnects", 3),
            reconnect_pauses_s=(0.01, 0.02, 0.04),
            fetch_pauses_s=(0.01,),
        ),
    }
    service = GridService(transcript["steps"], replica=transcript.get("replicaId", 66_536))
    async with service, asyncio.timeout(expected.get("at_most_s", 10)):
        if name in WRITES:
            async with open_grid(service, "1", **settings) as grid:
                if await grid.sync() and await grid.store(the_patches(name, grid.document)):
                    await grid.finish()
            return grid.outcome, grid.document, service
        if name in FOLLOWS:
            followed = await follow_grid(
                service, "1", until=lambda _: service.exhausted, **settings
            )
            return followed.snapshot.outcome, followed.snapshot.document, service
        read = await read_grid(service, "1", **settings)
        return read.outcome, read.document if read.decoded else None, service


@pytest.mark.req(
    "S0-30", "S0-31", "S0-32", "S0-33", "S0-36", "S0-40", "S0-46", "S0-47", "S0-48", "S0-51"
)
@pytest.mark.parametrize("name", NAMES)
def test_read_when_replayed_over_a_socket_then_ends_as_recorded(name, caplog):
    """Each recorded conversation ends as it should, without credentials to storage or secrets in any log."""
    caplog.set_level(logging.DEBUG)

    outcome, document, service = asyncio.run(play(name))

    judge(name, outcome, document)
    assert service.wrong == []
    assert service.exhausted or outcome.reason is not None
    assert SECRET not in caplog.text
    assert "sig=" not in caplog.text
    assert "sig=" not in outcome.message
    if load(name)["expected"].get("acknowledged"):
        assert service.requests[-1][2] == "patch"
