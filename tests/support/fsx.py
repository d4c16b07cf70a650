"""Random operations on one file, each compared with a copy in memory: a program, run on a mount.

    python fsx.py PATH OPERATIONS SEED [unmapped]

With `unmapped` it maps nothing. After the first difference it prints the last operations and ends with 1. In the manner of the old fsx.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
from collections import deque
from collections.abc import Callable

LARGEST = 300_000
_PAGE = 4096
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)


class Difference(Exception):
    """The file is not what it should be."""


class Fsx:
    """The file, and what should be in it."""

    def __init__(self, path: str, seed: int, *, mapped: bool) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.model = bytearray()
        self.done: deque[str] = deque(maxlen=30)
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.operations: list[tuple[int, Callable[[], str]]] = [
            (20, self.read),
            (20, self.write),
            (8 * mapped, self.map_read),
            (8 * mapped, self.map_write),
            (6, self.truncate),
            (4, self.truncate_path),
            (6, self.append),
            (3, self.allocate),
            (4, self.punch),
            (2, self.zero),
            (5, self.reopen),
            (2, self.sync),
            (4, self.stat),
            (4, self.second),
        ]

    def run(self, count: int) -> None:
        weights = [weight for weight, _ in self.operations]
        acts = [act for _, act in self.operations]
        for number in range(count):
            (act,) = self.random.choices(acts, weights)
            self.done.append(f"{number} {act.__name__} {act()}")
            if number % 256 == 0:
                self.check_all()
        self.check_all()

    def _span(self) -> tuple[int, int]:
        """An offset and a length, often near pages and the end."""
        choose = self.random
        length = choose.choice((1, 7, 512, _PAGE, _PAGE + 1, choose.randrange(1, 70_000)))
        near = choose.choice(
            (0, len(self.model), choose.randrange(LARGEST), choose.randrange(LARGEST))
        )
        if choose.random() < 0.4:
            near -= near % _PAGE
        return min(near, LARGEST - length), length

    def _bytes(self, length: int) -> bytes:
        return self.random.randbytes(length)

    def _put(self, offset: int, data: bytes) -> None:
        if offset > len(self.model):
            self.model.extend(bytes(offset - len(self.model)))
        self.model[offset : offset + len(data)] = data

    def _same(self, what: str, offset: int, found: bytes, expected: bytes) -> None:
        if found != expected:
            at = next(
                (n for n, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
                min(len(found), len(expected)),
            )
            raise Difference(
                f"{what} at {offset}: {len(found)} bytes instead of {len(expected)}, first other "
                f"byte at {offset + at}"
            )

    def read(self) -> str:
        offset, length = self._span()
        found = os.pread(self.fd, length, offset)
        self._same("read", offset, found, bytes(self.model[offset : offset + length]))
        return f"{offset} {length}"

    def write(self) -> str:
        offset, length = self._span()
        data = self._bytes(length)
        if os.pwrite(self.fd, data, offset) != length:
            raise Difference("a short write")
        self._put(offset, data)
        return f"{offset} {length}"

    def second(self) -> str:
        """A read or a write by another open file."""
        offset, length = self._span()
        fd = os.open(self.path, os.O_RDWR)
        try:
            if self.random.random() < 0.5:
                data = self._bytes(length)
                os.pwrite(fd, data, offset)
                self._put(offset, data)
                return f"write {offset} {length}"
            found = os.pread(fd, length, offset)
            self._same("second", offset, found, bytes(self.model[offset : offset + length]))
            return f"read {offset} {length}"
        finally:
            os.close(fd)

    def append(self) -> str:
        length = self.random.randrange(1, 5000)
        if len(self.model) + length > LARGEST:
            return "full"
        data = self._bytes(length)
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            os.write(fd, data)
        finally:
            os.close(fd)
        self.model.extend(data)
        return str(length)

    def map_read(self) -> str:
        if not self.model:
            return "empty"
        offset, length = self._span()
        with mmap.mmap(self.fd, len(self.model), prot=mmap.PROT_READ) as view:
            found = view[offset : offset + length]
        self._same("map_read", offset, found, bytes(self.model[offset : offset + length]))
        return f"{offset} {length}"

    def map_write(self) -> str:
        if not self.model:
            return "empty"
        offset, length = self._span()
        offset = min(offset, len(self.model) - 1)
        length = min(length, len(self.model) - offset)
        data = self._bytes(length)
        with mmap.mmap(self.fd, len(self.model)) as view:
            view[offset : offset + length] = data
            if self.random.random() < 0.3:
                view.flush()
        self._put(offset, data)
        return f"{offset} {length}"

    def _resize(self, size: int) -> None:
        if size < len(self.model):
            del self.model[size:]
        else:
            self.model.extend(bytes(size - len(self.model)))

    def truncate(self) -> str:
        size = self.random.randrange(LARGEST)
        os.ftruncate(self.fd, size)
        self._resize(size)
        return str(size)

    def truncate_path(self) -> str:
        size = self.random.choice((0, self.random.randrange(LARGEST)))
        os.truncate(self.path, size)
        self._resize(size)
        return str(size)

    def _fallocate(self, mode: int, offset: int, length: int) -> None:
        if _libc.fallocate(self.fd, mode, ctypes.c_long(offset), ctypes.c_long(length)) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def allocate(self) -> str:
        offset, length = self._span()
        keep = self.random.random() < 0.3
        self._fallocate(_KEEP_SIZE if keep else 0, offset, length)
        if not keep:
            self._resize(max(len(self.model), offset + length))
        return f"{offset} {length} {keep}"

    def punch(self) -> str:
        offset, length = self._span()
        self._fallocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length)
        end = min(offset + length, len(self.model))
        if end > offset:
            self.model[offset:end] = bytes(end - offset)
        return f"{offset} {length}"

    def zero(self) -> str:
        offset, length = self._span()
        try:
            self._fallocate(_ZERO_RANGE, offset, length)
        except OSError:
            return "not here"
        self._put(offset, bytes(length))
        return f"{offset} {length}"

    def reopen(self) -> str:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)
        return ""

    def sync(self) -> str:
        os.fsync(self.fd)
        return ""

    def stat(self) -> str:
        sizes = (os.fstat(self.fd).st_size, os.stat(self.path).st_size)
        if sizes != (len(self.model),) * 2:
            raise Difference(f"sizes are {sizes} instead of {len(self.model)}")
        return str(sizes[0])

    def check_all(self) -> None:
        with open(self.path, "rb") as file:
            self._same("the whole file", 0, file.read(), bytes(self.model))


def main(path: str, operations: str, seed: str, *how: str) -> int:
    fsx = Fsx(path, int(seed), mapped="unmapped" not in how)
    try:
        fsx.run(int(operations))
    except (Difference, OSError) as error:
        print("\n".join(fsx.done))
        print(f"seed {seed}: {error}")
        return 1
    print(f"{operations} operations")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
