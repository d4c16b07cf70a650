"""Official clients to test against, each in a virtual environment of its own, made on demand and kept.

Two versions matter: the newest, pinned exactly (its own dependency ranges do not resolve together), and the
one that a plain ``pip install synapseclient`` falls back to. ``python -m tests.support.peers`` makes both.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "tests" / "fixtures"
INSTALL_S = 600

PINNED = "4.14.0"
FALLBACK = "4.5.0"
VERSIONS = (PINNED, FALLBACK)

_INSTALL = {
    PINNED: ["--no-deps", "-r", str(FIXTURES / "synapseclient-4.14.0.txt")],
    FALLBACK: ["synapseclient==4.5.0", "pandas<3"],
}


class PeerMissingError(Exception):
    """The client could not be installed: the reason is pip's."""


def _folder(version: str) -> Path:
    base = Path(os.environ.get("SYND_TEST_VENVS", ROOT / ".venvs"))
    return base / f"synapseclient-{version}"


def synapseclient(version: str = PINNED) -> Path:
    """The Python of an environment that holds that client. Installs it on the first call (some minutes of
    network); raises PeerMissingError when that fails."""
    folder = _folder(version)
    python = folder / "bin" / "python"
    done = folder / ".complete"
    if done.exists():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.parent / f".synapseclient-{version}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if done.exists():
            return python
        venv.create(folder, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            result = subprocess.run(
                [*command, *_INSTALL[version]],
                capture_output=True,
                text=True,
                timeout=INSTALL_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerMissingError(
                f"installing synapseclient {version} took over {INSTALL_S} s"
            ) from error
        if result.returncode:
            raise PeerMissingError(f"synapseclient {version}: {result.stderr.strip()[-2000:]}")
        done.touch()
    return python


if __name__ == "__main__":
    for one in sys.argv[1:] or VERSIONS:
        print(one, synapseclient(one))
