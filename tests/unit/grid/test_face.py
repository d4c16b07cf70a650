"""The names that `synd.grid` offers."""

import subprocess
import sys

import pytest

import synd.grid


@pytest.mark.req("S0-56")
@pytest.mark.parametrize("name", synd.grid.__all__)
def test_name_when_offered_then_can_be_imported_from_the_package(name):
    """Every public name comes from the package itself, and is the one of its module."""
    value = getattr(synd.grid, name)

    assert name in dir(synd.grid)
    assert value is not None


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
