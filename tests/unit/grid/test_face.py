"""The names that `synd.grid` offers."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import synd.grid
from tests.support.source import ROOT, imports, modules


@pytest.mark.req("S0-56")
@pytest.mark.parametrize("name", synd.grid.__all__)
def test_name_when_offered_then_can_be_imported_from_the_package(name):
    """Every public name comes from the package itself, and is the one of its module."""
    value = getattr(synd.grid, name)

    assert name in dir(synd.grid)
    assert value is not None


@pytest.mark.req("S0-56")
def test_name_when_documented_always_is_among_them():
    """What curators use needs no other import."""
    wanted = {
        *("get_snapshot", "get_validation", "import_csv", "download_csv", "synchronize", "export"),
        *("Via", "Validation", "GridSnapshot", "GridRow", "Status", "Verdict", "Outcome"),
        *("GridTimeouts", "GridLimits", "read_grid", "follow_grid", "watch_grid", "check_csv"),
        *("Column", "CsvFormat"),
    }

    assert wanted <= set(synd.grid.__all__)


def test_name_when_not_offered_then_is_no_attribute():
    """The package has nothing else, and its list is in order and without repeats."""
    with pytest.raises(AttributeError, match="nothing_such"):
        _ = synd.grid.nothing_such
    assert len(set(synd.grid.__all__)) == len(synd.grid.__all__)


def test_package_when_imported_then_loads_no_library():
    """Sockets, CBOR and HTTP are loaded by who uses them."""
    code = (
        "import sys, synd.grid; "
        "print([n for n in ('websockets', 'cbor2', 'httpx', 'pandas', 'asyncio') if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )

    assert done.stdout.strip() == "[]"


@pytest.mark.req("S0-07")
def test_grid_never_knows_curation_tasks():
    """Grids are a package of their own; tasks stand above them, and know them."""
    known = frozenset(modules())
    wrong = {
        (name, target)
        for name, path in modules().items()
        if name.startswith("synd.grid")
        for target, _ in imports(path, known)
        if target.startswith(("synd.curation", "synd.client.curation"))
    }

    assert not wrong


@pytest.mark.req("S0-08")
def test_jobs_of_the_service_always_go_one_way():
    """Starting, polling and getting is written once; all others name their path."""
    wrong = [
        name
        for name, path in modules().items()
        if name.startswith(("synd.client", "synd.grid", "synd.mirror", "syndd"))
        and name != "synd.client.asyncjobs"
        for text in ast.walk(ast.parse(Path(path).read_text(encoding="utf-8")))
        if isinstance(text, ast.Call) and "async/" in ast.unparse(text)
    ]

    assert not wrong


@pytest.mark.req("S0-44")
def test_package_always_declares_what_grids_need():
    """Sockets and JSON schema come with a plain installation; CBOR is read by our own code."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    declared = tomllib.loads(text)["project"]["dependencies"]

    assert {"websockets", "jsonschema"} <= {
        re.split(r"[^\w.-]", one, maxsplit=1)[0] for one in declared
    }
