"""Worlds of local changes over a service in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.testing import FakeRemote
from tests.support.pushing import World


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def worlds(tmp_path: Path, remote: FakeRemote) -> Iterator[Callable[..., World]]:
    """Makes worlds; those that a test leaves are closed."""
    made: list[World] = []

    def make(**settings: object) -> World:
        world = World(tmp_path, remote, **settings)
        made.append(world)
        return world

    yield make
    for world in made:
        if not world.loop.is_closed():
            world.close()
