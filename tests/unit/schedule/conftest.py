"""A service in memory, and all parts of the daemon over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.ids import EntityId
from synd.testing import FakeRemote, FakeStorage
from tests.support.parts import Parts, noise

BIG = noise(3 << 20)


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def storage(remote: FakeRemote) -> Iterator[FakeStorage]:
    with FakeStorage(remote) as found:
        yield found


@pytest.fixture
def ids(remote: FakeRemote, storage: FakeStorage) -> dict[str, EntityId]:
    return remote.tree(
        None,
        {"P": {"d": {"a": b"aa", "b": b"bbb", "e": {"big": BIG}}, "empty": b""}, "Q": {"c": b"c"}},
    )


@pytest.fixture
def build(tmp_path: Path, remote: FakeRemote) -> Iterator[Callable[..., Parts]]:
    made: list[Parts] = []

    def make(**settings: object) -> Parts:
        made.append(Parts(tmp_path, remote, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for parts in made:
        if not parts.closed:
            parts.close()


@pytest.fixture
def parts(build: Callable[..., Parts], ids: dict[str, EntityId]) -> Parts:
    return build()
