"""Files and folders as they should be, for the model of edits: plain dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from synd.errors import (
    Exists,
    IsDirectory,
    NotDirectory,
    NotEmpty,
    NotFound,
    RemoteUnavailable,
    SyndError,
)
from tests.support.parts import noise
from tests.support.small_kernel import Open

TOP = "Mine"
"""The project that nobody else changes."""


@dataclass(eq=False)
class File:
    """A file of ours."""

    data: bytes = b""
    ino: int = 0
    """0: not known; -1: it has no name any more."""
    unsaved: bool = False
    """It was written to since a close acknowledged it."""
    before: bytes = b""
    """What it held before that."""


@dataclass(eq=False)
class Folder:
    """A folder of ours."""

    names: dict[str, File | Folder] = field(default_factory=dict)
    ino: int = 0

    @classmethod
    def of(cls, shape: Mapping[str, Any]) -> Folder:
        """Names to bytes, or to mappings for folders."""
        return cls({n: File(w) if isinstance(w, bytes) else cls.of(w) for n, w in shape.items()})

    def walk(self, path: str = TOP) -> Iterator[tuple[str, File | Folder]]:
        """All below it, by path."""
        for name, what in self.names.items():
            yield f"{path}/{name}", what
            if isinstance(what, Folder):
                yield from what.walk(f"{path}/{name}")

    def files(self) -> Iterator[tuple[str, File]]:
        for path, what in self.walk():
            if isinstance(what, File):
                yield path, what


@dataclass(eq=False)
class Handle:
    """An open file."""

    open: Open
    file: File
    fixed: bytes | None = None
    """What it held when it was opened, if that is what it goes on holding."""

    @property
    def writes(self) -> bool:
        return self.open.writes


class Trying:
    """What an operation of a program may end with: nothing but what was expected of it."""

    def __init__(self, *, strict: bool, offline: bool) -> None:
        """Not `strict`: others may have changed what it is about."""
        self._strict = strict
        self._offline = offline
        self._expected: type[SyndError] | None = None
        self._lacks = False

    def expects(self, error: type[SyndError]) -> None:
        """It must fail so."""
        self._expected = error

    def may_lack_bytes(self) -> None:
        """Offline it may fail for lack of bytes."""
        self._lacks = True

    def done(self) -> None:
        """It has succeeded."""
        assert self._expected is None, f"{self._expected} was to be raised"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None or not isinstance(error, SyndError):
            return False
        if self._expected is not None and isinstance(error, self._expected):
            return True
        if self._strict:
            return isinstance(error, RemoteUnavailable) and self._offline and self._lacks
        return isinstance(
            error, (NotFound, Exists, NotEmpty, IsDirectory, NotDirectory, RemoteUnavailable)
        )


def is_mine(path: str) -> bool:
    return path == TOP or path.startswith(f"{TOP}/")


def split(path: str) -> tuple[str, str]:
    """(folder, name)."""
    folder, _, name = path.rpartition("/")
    return folder, name


def is_telling(content: bytes) -> bool:
    """Whether these bytes are no other file's by chance."""
    return len(content.replace(b"\0", b"")) >= 8


def number_of(content: bytes, seeds: int) -> str:
    """Which of the contents made so far it is, for people."""
    found = [n for n in range(seeds + 1) if noise(len(content), n) == content]
    return f"content {found[0]}" if found else f"{len(content)} bytes"
