"""`synd login`, `whoami`, `logout` against the local registry."""

import os
import subprocess
import sys

import pytest

from tests.support.registry import running


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with running(tmp_path_factory.mktemp("r")) as registry:
        yield registry


@pytest.fixture
def synd(served, tmp_path):
    def run(*argv: str, stdin: str = "") -> subprocess.CompletedProcess:
        env = os.environ | {
            "HOME": str(tmp_path),
            "SYND_HOME": str(tmp_path / "h"),
            "SYND_ENDPOINT": served.url,
        }
        return subprocess.run(
            [sys.executable, "-m", "synd.cli.main", *argv],
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_login_when_the_token_is_good_is_remembered_until_logout(synd, served):
    """Asked of the service, kept for its owner only, never printed."""
    done = synd("login", "--token", "-", "--no-keyring", stdin=served.token + "\n")
    assert done.returncode == 0, done.stderr
    assert served.token not in done.stdout + done.stderr

    who = synd("whoami")
    assert who.returncode == 0, who.stderr
    assert served.url in who.stdout

    assert synd("logout").returncode == 0
    assert synd("whoami").returncode == 77


def test_login_when_the_token_is_bad_is_77_and_keeps_nothing(synd, tmp_path):
    """A token that the service refuses is not written anywhere."""
    done = synd("login", "--token", "-", stdin="not-a-token\n")

    assert done.returncode == 77
    assert not (tmp_path / ".synapseConfig").exists()
