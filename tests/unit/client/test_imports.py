"""What importing parts of the client costs."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module", ["synd.client.remote", "synd.client.credentials", "synd.client.throttle"]
)
def test_import_when_light_loads_no_network_library(module: str) -> None:
    """Who needs only the protocol or the token does not pay for httpx."""
    heavy = "{'httpx', 'httpcore', 'h11', 'httptools', 'ssl', 'keyring'}"
    if module.endswith("throttle"):
        heavy = "{'httpx', 'httpcore', 'h11', 'httptools', 'keyring'}"
    code = f"import sys, {module}; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert done.stdout.strip() == "[]"
