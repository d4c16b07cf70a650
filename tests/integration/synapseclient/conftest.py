"""The official client, unmodified, against our registry: a private home, no way to the outside.

Each script of `scripts/` runs in the Python of one client version with `prelude.py` beside it. A script checks
with plain asserts; what it asked the registry is checked here afterwards, from the registry's log.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import peers
from tests.support.registry import Registry, running

SCRIPTS = Path(__file__).parent / "scripts"
RUN_S = 110


@dataclass
class Peer:
    """One client version with a home of its own, logged in to a registry."""

    version: str
    python: Path
    home: Path
    registry: Registry

    @property
    def environment(self) -> dict[str, str]:
        closed = "http://127.0.0.1:9"
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "PYTHONPATH": str(SCRIPTS),
            "REGISTRY_URL": self.registry.url,
            "PEER_VERSION": self.version,
            # The look-up of newer versions must fail fast, not leave the machine.
            "HTTPS_PROXY": closed,
            "https_proxy": closed,
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }

    def run(self, name: str, *args: str) -> str:
        """Runs a script; what it printed. Fails the test with its whole output if it fails."""
        return self._check([str(self.python), str(SCRIPTS / f"{name}.py"), *args])

    def cli(self, *args: str) -> str:
        """Runs the `synapse` command of that version."""
        return self._check([str(self.python.with_name("synapse")), "-s", *args])

    def _check(self, command: list[str]) -> str:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=RUN_S,
            check=False,
        )
        if done.returncode:
            pytest.fail(f"{command[1:]} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def asked(self) -> list[tuple[str, str]]:
        """(method, path) of all requests so far."""
        return [(r["method"], r["path"]) for r in self.registry.requests()["requests"]]


def write_config(home: Path, registry: Registry) -> None:
    (home / ".synapseConfig").write_text(
        f"[default]\nusername = synd\nauthtoken = {registry.token}\n"
        f"[authentication]\nusername = synd\nauthtoken = {registry.token}\n"
        f"[endpoints]\nrepoEndpoint = {registry.url}/repo/v1\nauthEndpoint = {registry.url}/auth/v1\n"
        f"fileHandleEndpoint = {registry.url}/file/v1\nportalEndpoint = {registry.url}/\n"
    )


@pytest.fixture(params=peers.VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def peer(version: str, tmp_path: Path) -> Iterator[Peer]:
    """A client of that version, logged in to an empty registry."""
    try:
        python = peers.synapseclient(version)
    except peers.PeerMissingError as error:
        pytest.skip(f"synapseclient {version} cannot be installed: {error}")
    home = tmp_path / "home"
    home.mkdir()
    with running(tmp_path / "registry") as registry:
        write_config(home, registry)
        yield Peer(version, python, home, registry)
