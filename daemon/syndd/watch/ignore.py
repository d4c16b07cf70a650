"""Which files of a tracked folder stay local: `.syndignore` files as git reads `.gitignore`, and built-in patterns.

The file may lie in any folder; the deeper one decides first, in it the last line that matches. What lies in an
ignored folder cannot be called back. Patterns are `pathspec`'s business: gitignore's rules have many corners.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from pathspec import GitIgnoreSpec

from synd.paths import is_dropping
from synd.store.tracked import RelPath

NAME = ".syndignore"

BUILT_IN = (
    # Histories of version control: thousands of files that mean nothing without it.
    ".git/",
    ".git",
    ".hg/",
    ".svn/",
    ".bzr/",
    ".jj/",
    # Downloads under way; the name they end with is sent.
    "*.part",
    "*.partial",
    "*.crdownload",
    "*.download",
    "*.opdownload",
    "*.aria2",
    "*.!ut",
    ".~tmp~/",
    ".rsync-partial/",
    # Other synchronizers' own.
    ".stfolder/",
    ".stversions/",
    ".syncthing.*",
    "~syncthing~*",
    ".dropbox.cache/",
    ".sync-conflict-*",
    "lost+found/",
)
"""They come first, so `!*.part` in an ignore file calls such files back."""

_MOST_BYTES = 1 << 20
"""An ignore file past this is not one."""


class Ignore:
    """The rules of one tracked folder. Holds the compiled files until told that one changed."""

    def __init__(self, folder: Path, patterns: Iterable[str] = ()) -> None:
        """`patterns` hold for the whole tree, before those of its files."""
        self._folder = folder
        self.problems: dict[RelPath, str] = {}
        """Lines that are no patterns, by the ignore file's path."""
        self._always = self._compile((NAME,), [*BUILT_IN, *patterns])
        self._files: dict[RelPath, GitIgnoreSpec | None] = {}

    def forget(self) -> None:
        """The files may have changed: they are read again when needed."""
        self._files.clear()
        self.problems.clear()

    def covers(self, path: RelPath, *, folder: bool) -> str | None:
        """Why `path` stays local, by a rule about it or a folder it lies in; None when it is to be sent."""
        for depth in range(1, len(path)):
            if (why := self.says(path[:depth], folder=True)) is not None:
                return why
        return self.says(path, folder=folder) if path else None

    def says(self, path: RelPath, *, folder: bool) -> str | None:
        """The same by rules about `path` alone: the folders it lies in are known to be no matter."""
        name = path[-1]
        if name == NAME:
            return "an ignore file"
        if is_dropping(name):
            return "left by an editor or a desktop"
        for depth in range(len(path) - 1, -1, -1):
            spec = self._file(path[:depth])
            if spec is not None:
                ignored = _match(spec, path[depth:], folder=folder)
                if ignored is not None:
                    where = "/".join((*path[:depth], NAME))
                    return f"ignored by {where}" if ignored else None
        if _match(self._always, path, folder=folder):
            return "ignored by a built-in pattern or option"
        return None

    def _file(self, folder: RelPath) -> GitIgnoreSpec | None:
        try:
            return self._files[folder]
        except KeyError:
            pass
        lines = _read(self._folder.joinpath(*folder, NAME))
        spec = None if lines is None else self._compile((*folder, NAME), lines)
        self._files[folder] = spec
        return spec

    def _compile(self, path: RelPath, lines: Iterable[str]) -> GitIgnoreSpec:
        good = []
        for line in lines:
            # Same meaning for whoever walks from the top, and the folder itself is not taken for ignored.
            spelled = line[:-1] if line.endswith("/**") else line
            try:
                GitIgnoreSpec.from_lines([spelled])
            except ValueError:
                self.problems[path] = f"{line!r} is no pattern"
            else:
                good.append(spelled)
        return GitIgnoreSpec.from_lines(good)


def _match(spec: GitIgnoreSpec, path: RelPath, *, folder: bool) -> bool | None:
    """Whether the last rule that speaks of `path` ignores it; None when none does."""
    return spec.check_file("/".join(path) + ("/" if folder else "")).include


def _read(path: Path) -> list[str] | None:
    """Lines of an ignore file; None when there is none. One that cannot be read is none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            return None
        return os.fsdecode(os.read(fd, _MOST_BYTES)).splitlines()
    except OSError:
        return None
    finally:
        os.close(fd)
