"""The two worlds that every contract test runs in."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from synd.client.credentials import Token, from_base
from synd.client.service import SynapseClient
from tests.contract.worlds import FakeWorld, Runner, ServiceWorld, Work
from tests.support.registry import Registry, running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("contract") / "data") as registry:
        yield registry


@pytest.fixture(params=["fake", "registry"])
def world(request: pytest.FixtureRequest) -> Runner:
    """Runs a test's coroutine in a world of one of the two kinds."""
    if request.param == "fake":

        async def fake(work: Work) -> None:
            await work(FakeWorld())

        return lambda work: asyncio.run(fake(work))
    registry: Registry = request.getfixturevalue("served")

    async def real(work: Work) -> None:
        async with SynapseClient(from_base(registry.url), Token(registry.token)) as client:
            await work(ServiceWorld(client))

    return lambda work: asyncio.run(real(work))
