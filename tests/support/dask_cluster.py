"""A real Dask scheduler and real workers, each a process on loopback, which tests may kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Self

from synd.processors.limits import MARK

END_S = 10.0


class DaskCluster:
    """Processes of one cluster; `close` ends all of them, whatever they do."""

    def __init__(self, root: Path) -> None:
        self.root = root
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._nannies: set[int] = set()
        root.mkdir(parents=True, exist_ok=True)

    def start_scheduler(self) -> None:
        """Always at the same address."""
        port = self.address.rpartition(":")[2]
        self._scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", port)

    def start_worker(self, *, nanny: bool = False) -> int:
        """Its process; it comes to the scheduler when both are up. With a nanny, that process keeps another
        one alive, which does the work.
        """
        worker = self._start(
            "worker", self.address, "--host", "127.0.0.1", "--nthreads", "1",
            "--nanny" if nanny else "--no-nanny",
            "--local-directory", str(self.root / "scratch"), "--death-timeout", "60",
        )  # fmt: skip
        self._workers[worker.pid] = worker
        if nanny:
            self._nannies.add(worker.pid)
        return worker.pid

    def kill_worker(self, pid: int) -> None:
        """As a machine that loses its power."""
        _kill(self._workers.pop(pid), signal.SIGKILL)

    def freeze_worker(self, pid: int) -> None:
        self._workers[pid].send_signal(signal.SIGSTOP)

    def thaw_worker(self, pid: int) -> None:
        self._workers[pid].send_signal(signal.SIGCONT)

    def kill_scheduler(self) -> None:
        """Its workers end by themselves; they are not waited for."""
        if self._scheduler is not None:
            _kill(self._scheduler, signal.SIGKILL)
            self._scheduler = None

    @property
    def workers(self) -> int:
        """How many were started and not killed."""
        return len(self._workers)

    def log(self) -> str:
        return (self.root / "log").read_text(errors="replace")

    def children(self) -> list[int]:
        """Processes of jobs that live on these workers."""
        mark = f"{MARK}={self.root}/".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                marked = mark in (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if marked and state not in "ZX":
                found.append(int(folder.name))
        return found

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-P", "-m", "dask", *arguments, "--no-dashboard"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.root,
                env={**os.environ, "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "info"},
            )  # fmt: skip

    def close(self) -> None:
        for pid in list(self._workers):
            # A nanny takes its worker along, if it is let.
            how = signal.SIGTERM if pid in self._nannies else signal.SIGKILL
            _kill(self._workers.pop(pid), how)
        self.kill_scheduler()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _kill(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    process.send_signal(number)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(END_S)
