"""One registry process for all tests of this folder; each test has a curator with a project of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curating import METADATA, Curator
from tests.support.registry import Registry, running


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("curation") / "data") as registry:
        yield registry


@pytest.fixture
def curator(served: Registry) -> Iterator[Curator]:
    """The registry's owner, without faults; validation goes on again after the test."""
    curator = Curator(served)
    yield curator
    served.call("DELETE", "/admin/faults")
    curator.halt(halted=False)


@pytest.fixture
def header(tmp_path: Path) -> Path:
    """The example's header line alone."""
    path = tmp_path / "header.csv"
    path.write_text(METADATA.read_text().splitlines()[0] + "\n")
    return path
