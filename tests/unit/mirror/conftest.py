"""A service in memory, and the mirror over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.testing import FakeRemote, FakeStorage
from tests.support.parts import Parts


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def storage(remote: FakeRemote) -> Iterator[FakeStorage]:
    with FakeStorage(remote) as found:
        yield found


@pytest.fixture
def build(tmp_path: Path, remote: FakeRemote) -> Iterator[Callable[..., Parts]]:
    """Makes the parts; those still open are closed at the end. One at a time uses the folder."""
    made: list[Parts] = []

    def make(**settings: object) -> Parts:
        parts = Parts(tmp_path, remote, **settings)  # type: ignore[arg-type]
        made.append(parts)
        return parts

    yield make
    for parts in made:
        if not parts.closed:
            parts.close()
