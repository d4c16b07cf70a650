"""Which folders may be tracked: none that holds, or lies in, another tracked one or something of synd's own."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path

from synd.errors import Forbidden, NotFound, UsageError
from synd.store.tracked import Root


def resolve(folder: str | os.PathLike[str]) -> Path:
    """The absolute path without symbolic links. Raises NotFound, UsageError for what is not a folder, and
    Forbidden when it cannot be listed.
    """
    given = Path(folder)
    try:
        path = Path(os.path.realpath(given, strict=True))
        found = os.stat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise UsageError(
                f"{given} is not a folder", hint="track the folder it lies in", path=str(given)
            )
        with os.scandir(path):
            pass
    except PermissionError as error:
        raise Forbidden(f"{given} cannot be listed: {error.strerror}", path=str(given)) from error
    except OSError as error:
        raise NotFound(f"{given} cannot be tracked: {error.strerror}", path=str(given)) from error
    return path


def check(folder: Path, roots: Iterable[Root], reserved: Iterable[tuple[str, Path]]) -> None:
    """Raises UsageError when `folder` overlaps a tracked one or a reserved one, saying which.

    `reserved`: what each is (for the message) and where. Paths are compared without symbolic links, and
    folders by device and inode too, as bind mounts give one folder two paths.
    """
    for what, place in reserved:
        _apart(folder, Path(os.path.realpath(place)), what)
    found = os.stat(folder)
    for root in roots:
        if folder != root.folder:
            _apart(folder, root.folder, "the tracked folder")
            if (found.st_dev, found.st_ino) == (root.device, root.inode):
                raise _refused(folder, f"is the tracked folder {root.folder} under another path")


def _apart(folder: Path, other: Path, what: str) -> None:
    if folder == other:
        raise _refused(folder, f"is {what}")
    if folder.is_relative_to(other):
        raise _refused(folder, f"lies in {what} {other}")
    if other.is_relative_to(folder):
        raise _refused(folder, f"holds {what} {other}")


def _refused(folder: Path, why: str) -> UsageError:
    return UsageError(
        f"{folder} cannot be tracked: it {why}",
        hint="what is tracked must not overlap: a change would be told twice, or feed on itself",
        path=str(folder),
    )
