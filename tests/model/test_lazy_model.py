"""Lazy files against a plain bytearray: random use, kills and power losses."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from synd.cache.lazy import Lazy
from synd.cache.lazymap import BLOCK
from synd.cache.staging import Staging
from synd.errors import Offline
from tests.support.lazies import NUMBER, Base, Remembering, noise, staging_in, whole

PAGE = 4096
SIZES = st.sampled_from([0, 1, BLOCK - 1, BLOCK, 2 * BLOCK + 1, 3 * BLOCK + 777, 4 * BLOCK])
EDGES = st.sampled_from([0, 1, 100, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 776])
OFFSETS = EDGES | st.integers(0, 5 * BLOCK)
LENGTHS = st.sampled_from([1, 2, PAGE, BLOCK - 1, BLOCK, 2 * BLOCK + 5]) | st.integers(1, 2 * BLOCK)
QUICK = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


class LazyMachine(RuleBasedStateMachine):
    """One file, its content as a bytearray, and what still waits."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="synd-lazy-"))
        self.seed = 0
        self.boot = "boot 0"
        self.model = bytearray()
        self.changes: list[tuple[Future[int], Callable[[], int]]] = []
        self.reads: list[tuple[Future[bytes], int, int, list[bytes]]] = []

    def staging(self) -> Staging:
        return staging_in(self.root)

    @initialize(size=SIZES)
    def begin(self, size: int) -> None:
        self.base = Base(size)
        self.model[:] = self.base.data
        self.lazy = Lazy.create(self.staging(), NUMBER, size, self.base, boot=self.boot)
        self.note()

    # The model.

    def put(self, offset: int, data: bytes) -> int:
        if len(self.model) < offset + len(data):
            self.model.extend(bytes(offset + len(data) - len(self.model)))
        self.model[offset : offset + len(data)] = data
        return len(data)

    def put_inside(self, offset: int, size: int) -> int:
        """Zeros, as far as the file goes now."""
        inside = min(size, len(self.model) - offset)
        return self.put(offset, bytes(inside)) if inside > 0 else 0

    def note(self) -> None:
        """After every step: what is done by now is in the model, and reads may see it from now on."""
        for change in list(self.changes):
            future, apply = change
            if future.done():
                self.changes.remove(change)
                if not future.cancelled() and future.exception(0) is None:
                    assert future.result(0) == apply()
                elif not future.cancelled():
                    assert isinstance(future.exception(0), Offline)
        for read in list(self.reads):
            future_read, offset, end, seen = read
            seen.append(bytes(self.model[offset:end]))
            if future_read.done():
                self.reads.remove(read)
                if future_read.exception(0) is None:
                    assert future_read.result(0) in seen
                else:
                    assert isinstance(future_read.exception(0), Offline)

    def changed(self, do: Callable[[], int | Future[int]], apply: Callable[[], int]) -> None:
        try:
            done = do()
        except Offline:
            assert self.base.offline
        else:
            if isinstance(done, int):
                assert done == apply()
            else:
                self.changes.append((done, apply))
        self.note()

    # What may happen.

    @rule(offset=OFFSETS, size=LENGTHS)
    def write(self, offset: int, size: int) -> None:
        self.seed += 1
        data = noise(size, self.seed)
        self.changed(lambda: self.lazy.write(offset, data), lambda: self.put(offset, data))

    @rule(offset=OFFSETS, size=LENGTHS, keep=st.booleans())
    def zero(self, offset: int, size: int, keep: bool) -> None:
        self.changed(
            lambda: self.lazy.zero(offset, size, keep_size=keep),
            lambda: self.put_inside(offset, size) if keep else self.put(offset, bytes(size)),
        )

    @rule(size=OFFSETS)
    def truncate(self, size: int) -> None:
        self.lazy.truncate(size)
        if size < len(self.model):
            del self.model[size:]
        else:
            self.model.extend(bytes(size - len(self.model)))
        self.note()

    @rule(offset=OFFSETS, size=LENGTHS)
    def read(self, offset: int, size: int) -> None:
        try:
            got = self.lazy.read(offset, size)
        except Offline:
            assert self.base.offline
            return
        if isinstance(got, bytes):
            assert got == self.model[offset : offset + size]
        else:
            end = min(offset + size, len(self.model))
            self.reads.append((got, offset, end, [bytes(self.model[offset:end])]))
            self.note()

    @rule(later=st.booleans(), offline=st.booleans())
    def network(self, later: bool, offline: bool) -> None:
        self.base.later, self.base.offline = later, offline

    @precondition(lambda self: self.base.waiting)
    @rule(at=st.integers(0, 20))
    def answer(self, at: int) -> None:
        self.base.release(at)
        self.note()

    @precondition(lambda self: self.changes)
    @rule(at=st.integers(0, 20))
    def give_up(self, at: int) -> None:
        future, _ = self.changes[at % len(self.changes)]
        assert future.cancel()
        self.note()

    @precondition(lambda self: not self.base.later)
    @rule(stop_after=st.integers(0, 3))
    def fill(self, stop_after: int) -> None:
        until = len(self.base.asked) + stop_after
        try:
            done = self.lazy.fill(lambda: len(self.base.asked) >= until)
        except Offline:
            assert self.base.offline
        else:
            assert done == self.lazy.complete
            assert not done or self.lazy.missing_bytes == 0
        self.note()

    @rule()
    def sync(self) -> None:
        self.lazy.sync()

    @rule()
    def kill(self) -> None:
        """The daemon is gone: what waits was never answered; what was answered is there."""
        self.lazy.close()
        for read, *_ in self.reads:
            read.cancel()
        self.changes, self.reads = [], []
        self.base.release_all()
        staging = self.staging()
        staging.sweep()
        self.lazy = Lazy.open(staging, NUMBER, len(self.base.data), self.base, boot=self.boot)

    @invariant()
    def size_is_right(self) -> None:
        if hasattr(self, "lazy"):
            assert len(self.model) == self.lazy.size

    def teardown(self) -> None:
        if hasattr(self, "lazy"):
            self.base.later = self.base.offline = False
            while self.base.waiting:
                self.answer(0)
            assert not self.changes
            assert not self.reads
            assert self.model == whole(self.lazy)
            assert self.lazy.fill()
            assert self.model == (self.root / "staged/34" / f"{NUMBER:x}").read_bytes()
            self.lazy.close()
        shutil.rmtree(self.root)


LazyMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=QUICK
)


TestRandomUse = LazyMachine.TestCase


class PowerMachine(LazyMachine):
    """As above, but the machine may lose power: of each page either what was flushed or what was not."""

    disk: Remembering

    def __init__(self) -> None:
        super().__init__()
        self.boots = 0
        self.map_inode = 0
        self.states: list[bytes] = []
        """The content at the last `sync` that was answered, and after each step since."""

    def staging(self) -> Staging:
        self.disk = Remembering(self.root / "staged", self.root / "recovered")
        return self.disk

    def note(self) -> None:
        super().note()
        self.states.append(bytes(self.model))

    @rule()
    def sync(self) -> None:
        self.lazy.sync()
        self.states = [bytes(self.model)]

    @precondition(lambda _self: False)
    @rule()
    def kill(self) -> None:
        """Not here: it would forget what the disk holds for certain."""

    @rule(seed=st.integers(0, 1 << 30), map_flushed=st.booleans())
    def lose_power(self, seed: int, map_flushed: bool) -> None:
        rng = random.Random(seed)
        path = self.disk.path(NUMBER)
        map_path = Path(self.disk.map_path(NUMBER))
        inode = os.stat(path).st_ino
        if map_path.exists():
            self.map_inode = os.stat(map_path).st_ino
        self.lazy.close()
        for read, *_ in self.reads:
            read.cancel()
        self.changes, self.reads = [], []
        self.base.release_all()

        now, then = path.read_bytes(), self.disk.durable[inode]
        size = len(rng.choice([now, then]))
        mixed = b"".join(
            rng.choice([now, then])[at : at + PAGE].ljust(PAGE, b"\0")
            for at in range(0, size, PAGE)
        )[:size]
        if map_flushed and self.map_inode in self.disk.durable:
            # Its removal may not have come to the disk either.
            map_path.write_bytes(self.disk.durable[self.map_inode])
        path.write_bytes(mixed)
        self.boots += 1
        self.boot = f"boot {self.boots}"
        self.base.later = self.base.offline = False
        staging = self.staging()
        self.lazy = Lazy.open(staging, NUMBER, len(self.base.data), self.base, boot=self.boot)
        found = whole(self.lazy)

        assert len(found) in {len(state) for state in self.states}
        padded = [state.ljust(len(found), b"\0") for state in self.states]
        for at in range(0, len(found), PAGE):
            page = found[at : at + PAGE]
            pages = [state[at : at + len(page)] for state in padded]
            # What was not synced may be torn within a page, where the base ends.
            assert page in pages or all(
                byte in seen for byte, *seen in zip(page, *pages, strict=True)
            )
        self.model[:] = found
        self.lazy.sync()
        if map_path.exists():
            fd = os.open(map_path, os.O_RDONLY)
            self.disk.flush(fd)
            os.close(fd)
        self.states = [found]


PowerMachine.TestCase.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, suppress_health_check=QUICK
)


TestPowerLoss = PowerMachine.TestCase
