"""A registry in a process of its own, for tests: `start_registry`, and the fixture `registry`.

registry = start_registry(tmp_path / "data", "--latency-ms", "5")
… registry.url, registry.token …
registry.stop()          # or registry.kill(), as a crash would
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

READY_S = 30


@dataclass(slots=True)
class Registry:
    """A running registry."""

    url: str
    token: str
    pid: int
    process: subprocess.Popen[str]
    data: Path

    def stop(self, timeout_s: float = 10) -> int:
        """Asks it to end, and waits. The exit code; killed (and -9) if it does not end in time."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return code

    def kill(self) -> None:
        """Ends it as a crash would."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def call(
        self, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> tuple[int, Any]:
        """(status, decoded JSON or text) of one request, errors too; `token` "" asks anonymously."""
        used = self.token if token is None else token
        headers = {"Content-Type": "application/json"}
        if used:
            headers["Authorization"] = f"Bearer {used}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with _OPENER.open(request, timeout=60) as answer:
                return answer.status, _decoded(answer.headers, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _decoded(error.headers, error.read())

    def fault(self, **rule: Any) -> None:
        """Installs one fault (`synd.registry.faults`)."""
        status, answer = self.call("POST", "/admin/faults", rule)
        assert status == 201, answer

    def requests(self, *, reset: bool = False) -> dict[str, Any]:
        """The request log."""
        status, answer = self.call("GET", f"/admin/requests?reset={str(reset).lower()}")
        assert status == 200, answer
        found: dict[str, Any] = answer
        return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())


def _decoded(headers: Any, body: bytes) -> Any:
    if "json" in (headers.get("Content-Type") or ""):
        return json.loads(body)
    return body.decode()


def command(*args: str) -> list[str]:
    """The command line of `synd registry …`."""
    return [sys.executable, "-m", "synd.cli.registry", *args]


def start_registry(data: Path, *args: str) -> Registry:
    """Serves `data` with further options of `synd registry serve`; returns once it answers."""
    process = subprocess.Popen(
        command("serve", "--data", str(data), "--json", *args),
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], READY_S)
    line = process.stdout.readline() if ready else ""
    if not line:
        process.kill()
        process.wait()
        process.stdout.close()
        raise RuntimeError(f"the registry did not start (exit code {process.returncode})")
    told = json.loads(line)
    return Registry(told["url"], told["token"], told["pid"], process, data)


def seed_registry(data: Path, folder: Path, project: str, *args: str) -> dict[str, Any]:
    """Imports a folder; what `synd registry seed --json` tells."""
    done = subprocess.run(
        command(
            "seed",
            "--data",
            str(data),
            "--from",
            str(folder),
            "--project",
            project,
            "--json",
            *args,
        ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"seed ended with {done.returncode}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@contextlib.contextmanager
def running(data: Path, *args: str) -> Iterator[Registry]:
    """`start_registry` for a with block."""
    registry = start_registry(data, *args)
    try:
        yield registry
    finally:
        registry.stop()


def wait_until(condition: Any, timeout_s: float = 10, what: str = "the condition") -> None:
    """Asks `condition` until it holds. Raises AssertionError after `timeout_s`."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what} did not come true within {timeout_s} s")
        time.sleep(0.01)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """An empty registry."""
    with running(tmp_path / "registry") as one:
        yield one
