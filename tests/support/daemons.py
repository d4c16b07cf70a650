"""Daemons of their own processes with the fake app, and a control server inside a test."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from synd.config import Config, Folders, folders
from synd.control import contract
from synd.control.connect import Control
from synd.errors import DaemonNotRunning
from syndd.control.loopback import Loopback, listening
from tests.support.fake_app import FakeServices

ROOT = Path(__file__).parent.parent.parent
READY_S = 20.0


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which `python -m syndd` runs the fake app in a home of its own."""
    site = ROOT / "tests" / "support" / "fake_site"
    # The code beside these tests, whichever is installed.
    path = f"{site}:{ROOT}:{ROOT / 'src'}:{ROOT / 'daemon'}"
    return os.environ | {"SYND_HOME": str(home), "PYTHONPATH": path} | more


def until(
    check: Callable[[], object], timeout_s: float = 10.0, what: str = "the condition"
) -> None:
    """Waits for a condition under a deadline."""
    end = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < end, f"{what} did not come about within {timeout_s:g} s"
        time.sleep(0.01)


@dataclass(slots=True)
class Running:
    """A daemon in a process of its own."""

    process: subprocess.Popen[bytes]
    folders: Folders
    log: Path

    @property
    def control(self) -> Control:
        return Control(self.folders.socket, timeout_s=10.0)

    def ready(self) -> contract.Status:
        """Waits until it is ready."""
        found: list[contract.Status] = []

        def look() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            with contextlib.suppress(DaemonNotRunning):
                found[:] = [self.control.get(contract.STATUS)]
            return bool(found) and found[0]["state"] == "ready"

        until(look, READY_S, "the daemon's start")
        return found[0]

    def trace(self) -> list[str]:
        """What the fake app noted, without its times."""
        path = self.folders.state / "fake.log"
        if not path.exists():
            return []
        return [line.split(" ", 1)[1] for line in path.read_text().splitlines()]


@contextlib.contextmanager
def daemon(home: Path, *flags: str, **environ: str) -> Iterator[Running]:
    """`python -m syndd serve` with the fake app, ended at the end."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "serve.log"
    env = environment(home, **environ)
    with open(log, "ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "syndd", "serve", *flags],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
        )
    try:
        yield Running(process, folders(env), log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


@dataclass(slots=True)
class FakeLifecycle:
    """What the API asks of the daemon's life, noted."""

    stops: list[dict[str, object]] = field(default_factory=list)
    state: str = "ready"
    browsers: contract.Browsers | None = None

    def process(self) -> contract.Process:
        found: contract.Process = {
            "api": contract.API,
            "version": "0",
            "pid": os.getpid(),
            "state": self.state,
            "started_at": "2023-11-14T22:13:20.000Z",
            "uptime_s": 1.0,
        }
        if self.browsers is not None:
            found["browsers"] = self.browsers
        return found

    def ask_stop(self, why: str, *, budget_s: float = 30.0, keep_mount: bool = False) -> None:
        self.stops.append({"why": why, "budget_s": budget_s, "keep_mount": keep_mount})


@dataclass(slots=True)
class Served:
    """A control API on a socket, in a thread of this process."""

    path: Path
    services: FakeServices
    lifecycle: FakeLifecycle
    loop: asyncio.AbstractEventLoop
    loopback: Loopback | None = None
    """Where genome browsers are served, if they are."""

    @property
    def control(self) -> Control:
        return Control(self.path, timeout_s=10.0)


@contextlib.contextmanager
def control_api(path: Path, config: Config | None = None) -> Iterator[Served]:
    """The real API over fake services, on a Unix socket at `path`, and where `config` says so on a loopback port."""
    with listening(config or Config(), folders({"SYND_HOME": str(path.parent)})) as loopback:
        yield from _served(path, loopback)


def _served(path: Path, loopback: Loopback | None) -> Iterator[Served]:
    from syndd.control.server import serving

    services, lifecycle = FakeServices(), FakeLifecycle()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(16)
    ready = threading.Event()
    loops: list[asyncio.AbstractEventLoop] = []
    end: list[asyncio.Event] = []

    async def live() -> None:
        async with serving(services, lifecycle, listener, loopback):
            loops.append(asyncio.get_running_loop())
            end.append(asyncio.Event())
            ready.set()
            await end[0].wait()

    thread = threading.Thread(target=lambda: asyncio.run(live()), name="control-api")
    thread.start()
    assert ready.wait(20), "the control API did not start"
    try:
        yield Served(path, services, lifecycle, loops[0], loopback)
    finally:
        loops[0].call_soon_threadsafe(end[0].set)
        thread.join(10)
        listener.close()
        path.unlink(missing_ok=True)
