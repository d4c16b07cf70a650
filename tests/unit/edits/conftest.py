"""Local changes of a daemon's answers, for the tests beside this file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.ids import EntityId
from synd.testing import FakeRemote, FakeStorage
from tests.support.edits import Desk
from tests.support.parts import Parts


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def ids(remote: FakeRemote) -> dict[str, EntityId]:
    return remote.tree(None, {"P": {"d": {"a": b"one\ntwo\n", "b": b"\0\1"}, "e": {}}})


@pytest.fixture
def desk(tmp_path: Path, remote: FakeRemote, ids: dict[str, EntityId]) -> Iterator[Desk]:
    with FakeStorage(remote), Parts(tmp_path, remote) as parts:
        yield Desk(parts, tmp_path)
