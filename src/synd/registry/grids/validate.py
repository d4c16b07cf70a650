"""The thread that holds rows against their grid's JSON schema, by `synd.validation`."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

log = logging.getLogger("synd.registry.grids")

BATCH_ROWS = 250
"""Rows whose results are stored, and shown to clients, together."""


class Worker:
    """The one thread that validates grids, a batch of one grid at a time, so that no grid waits for another.

    `halted` and `pause_s` are for tests: they need to see rows that are not validated yet.
    """

    def __init__(self, validate_batch: Callable[[int], bool]) -> None:
        """`validate_batch(grid)` does a batch, and says whether that grid needs another."""
        self._do = validate_batch
        self._wake = threading.Condition()
        self._waiting: dict[int, None] = {}
        self._busy: int | None = None
        self._stop = False
        self._thread: threading.Thread | None = None
        self.halted = False
        self.pause_s = 0.0

    def add(self, grid: int) -> None:
        """Has a grid validated, soon."""
        with self._wake:
            self._waiting[grid] = None
            if self._thread is None and not self._stop:
                self._thread = threading.Thread(
                    target=self._run, name="grid-validation", daemon=True
                )
                self._thread.start()
            self._wake.notify_all()

    def forget(self, grid: int) -> None:
        with self._wake:
            self._waiting.pop(grid, None)

    def control(self, *, halted: bool | None, pause_s: float | None) -> None:
        """Halts, resumes, or slows the work: `pause_s` is waited before each batch."""
        with self._wake:
            self.halted = self.halted if halted is None else halted
            self.pause_s = self.pause_s if pause_s is None else pause_s
            self._wake.notify_all()

    def state(self) -> dict[str, Any]:
        with self._wake:
            return {
                "halted": self.halted,
                "pauseSeconds": self.pause_s,
                "waiting": len(self._waiting) + (self._busy is not None),
            }

    def close(self) -> None:
        with self._wake:
            self._stop = True
            self._wake.notify_all()
            thread = self._thread
        if thread is not None:
            thread.join(timeout=10)

    def _next(self) -> int | None:
        """The grid whose turn it is; None at the end."""
        with self._wake:
            while not self._stop and (self.halted or not self._waiting):
                self._wake.wait()
            ends = time.monotonic() + self.pause_s
            while not self._stop and (left := ends - time.monotonic()) > 0:
                self._wake.wait(left)
            if self._stop:
                return None
            if self.halted or not self._waiting:
                return -1
            grid = next(iter(self._waiting))
            del self._waiting[grid]
            self._busy = grid
            return grid

    def _run(self) -> None:
        while (grid := self._next()) is not None:
            if grid < 0:
                continue
            again = False
            try:
                again = self._do(grid)
            except Exception:
                log.exception("grid.validation_failed")
            with self._wake:
                self._busy = None
                if again:
                    self._waiting[grid] = None
