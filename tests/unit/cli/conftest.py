"""A CLI in this process, with or without a daemon behind it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from synd.cli import main
from tests.support.daemons import control_api


@dataclass(slots=True)
class Said:
    """What one command said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Said]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A SYND_HOME of the test's own."""
    monkeypatch.setenv("SYND_HOME", str(tmp_path))
    (tmp_path / "run").mkdir(mode=0o700)
    return tmp_path


@pytest.fixture
def synd(home, capsys) -> Run:
    """Runs one command."""

    def run(*argv: str) -> Said:
        code = main.run(list(argv))
        out, err = capsys.readouterr()
        return Said(code, out, err)

    return run


@pytest.fixture(scope="module")
def _served(tmp_path_factory):
    with control_api(tmp_path_factory.mktemp("c") / "s.sock") as served:
        yield served


@pytest.fixture
def daemon(_served, home):
    """Fake services behind the socket of this home."""
    vars(_served.services).clear()  # what an earlier test put in the place of methods
    _served.services.__init__()
    _served.lifecycle.stops.clear()
    (home / "run" / "synd.sock").symlink_to(_served.path)
    return _served.services
