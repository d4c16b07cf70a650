"""A store of the test's own, and short ways to make what a service says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.store.connect import Store
from synd.store.entities import Entities
from synd.store.folders import Folders


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = Store(tmp_path / "state.db")
    yield found
    found.close()


@pytest.fixture
def entities(store: Store) -> Entities:
    return Entities(store)


@pytest.fixture
def folders(store: Store) -> Folders:
    return Folders(store)
