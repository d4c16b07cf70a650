"""Where what happened in a tracked folder goes: the edits that the same deed in the mount would make.

The watcher knows files and folders; queueing, upload, conflicts and guards are behind this.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from synd.store.tracked import RelPath, Root


class Sink(Protocol):
    """Takes local changes of tracked folders. Called from the tracker's thread, one call at a time; may block
    on the local disk, never on the network.

    Paths are relative to the root; names are as `os.fsdecode` gives them. Folders come before what they hold.
    All raise SyndError: its `retry` decides whether the same is tried again by itself; either way the path is
    reported, and what could not be told is found again by the next scan. Every call may come twice, after a
    crash between the deed and its note.
    """

    def put(self, root: Root, path: RelPath, source: Path) -> None:
        """The bytes at `source` are the content of this file now: a new file, or a new version of the one there.

        The sink takes its own copy (reflink or copy) before it returns, and opens `source` with O_NOFOLLOW. The
        caller looks afterwards whether the file changed meanwhile, and then calls again.
        """
        ...

    def mkdir(self, root: Root, path: RelPath) -> None:
        """The folder is there; Exists is no failure."""
        ...

    def move(self, root: Root, old: RelPath, new: RelPath) -> None:
        """What was at `old`, with all below, is at `new`; a file that was at `new` is replaced, as rename(2) does.

        Raises NotFound when nothing is at `old`: then the content of `new` is told anew.
        """
        ...

    def remove(self, root: Root, path: RelPath) -> None:
        """It is gone, with all below it; NotFound is no failure."""
        ...
