"""Lazy files for tests: a base that answers at once, later or not at all; the content as a whole."""

from __future__ import annotations

import os
import random
from concurrent.futures import Future
from pathlib import Path

from synd.cache.lazy import Lazy
from synd.cache.staging import Staging
from synd.errors import Offline

NUMBER = (1 << 39) + 0x1234
Bytes = bytes | Future[bytes]


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(f"{size}-{seed}").randbytes(size)


class Base:
    """Content of the service: given at once, later (`later`), or not at all (`offline`)."""

    def __init__(self, size: int) -> None:
        self.data = noise(size)
        self.later = False
        self.offline = False
        self.asked: list[tuple[int, int]] = []
        self.waiting: list[tuple[Future[bytes], int, int]] = []

    def __call__(self, offset: int, size: int) -> Bytes:
        assert 0 <= offset < offset + size <= len(self.data)
        self.asked.append((offset, size))
        if self.later:
            future: Future[bytes] = Future()
            self.waiting.append((future, offset, size))
            return future
        if self.offline:
            raise Offline("the service cannot be reached")
        return self.data[offset : offset + size]

    def release(self, at: int = 0) -> None:
        """The answer to one of the requests under way comes."""
        future, offset, size = self.waiting.pop(at % len(self.waiting))
        if not future.set_running_or_notify_cancel():
            return
        if self.offline:
            future.set_exception(Offline("the service cannot be reached"))
        else:
            future.set_result(self.data[offset : offset + size])

    def release_all(self) -> None:
        while self.waiting:
            self.release()


class Remembering(Staging):
    """Keeps what a disk would have for certain: each file as it was at its last flush."""

    def __init__(self, root: Path, recovered: Path) -> None:
        super().__init__(root, recovered)
        self.durable: dict[int, bytes] = {}

    def flush(self, fd: int) -> None:
        super().flush(fd)
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            self.durable[os.fstat(fd).st_ino] = file.read()

    def lose(self, path: str) -> None:
        """The file is as it was at its last flush."""
        Path(path).write_bytes(self.durable[os.stat(path).st_ino])


def staging_in(root: Path) -> Staging:
    return Staging(root / "staged", root / "recovered")


def whole(lazy: Lazy) -> bytes:
    got = lazy.read(0, lazy.size + 1)
    assert isinstance(got, bytes)
    return got
