# the session's notices have one signature
# ruff: noqa: ARG002  # the session's notices have one signature
"""The same filesystem over libfuse, by way of mfusepy (or fusepy): portable, slower, without passthrough.

libfuse asks by path and waits for each answer on a thread of its own, so here paths become nodes and
Futures are waited for. It cannot be told what changed, therefore the kernel's time-outs are short.

Here is the mount and its life; `pathops` and `pathchanges` answer. `session` says when to start and stop.

A file that is open when another is renamed over it is unlinked first, by libfuse: between the two
steps its name leads nowhere.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from synd.log import fields
from syndd.mount.ops import Filesystem
from syndd.mount.transport import library
from syndd.mount.transport.pathchanges import ChangingOperations
from syndd.mount.transport.paths import REMEMBER_S
from syndd.mount.transport.requests import Waiting

log = logging.getLogger(__name__)

_MAX_WRITE = 128 << 10
"""The most that libfuse 2 can take."""


class PathNotices:
    """Meets `session.SessionNotices`: drops what we remember; the kernel's memory is short anyway."""

    def __init__(self, forget: Callable[[], None]) -> None:
        self.sent = 0
        self.failed = 0
        self._forget = forget

    def entry(self, parent: int, name: bytes, *, gone: int | None = None) -> None:
        self.sent += 1
        self._forget()

    def node(self, node: int, *, data: bool) -> None:
        self.sent += 1
        self._forget()

    def everything(self) -> None:
        self._forget()

    def flush(self, timeout_s: float) -> bool:
        return True

    def waiting(self) -> int:
        return 0

    def stop(self, timeout_s: float = 5.0) -> None:
        """Nothing runs."""


class LibfuseTransport:
    """Meets `session.Transport`."""

    passthrough_off = "libfuse's Python binding has none; --transport kernel has"

    def __init__(
        self,
        fs: Filesystem,
        mountpoint: Path,
        *,
        source: str,
        allow_other: bool,
        read_only: bool,
        uid: int,
        gid: int,
    ) -> None:
        self._module = library.load()
        native = getattr(self._module, "_libfuse", None)
        self._native_interrupted = getattr(native, "fuse_interrupted", None)
        self._operations: ChangingOperations = library.callable_if_needed(
            self._module,
            ChangingOperations(fs, uid, gid, self._interrupted, self._module.fuse_get_context),
        )
        self.notices = PathNotices(self._operations.paths.forget_all)
        self._mountpoint = mountpoint
        self._options: dict[str, Any] = {
            "foreground": True,
            "raw_fi": True,
            "nothreads": False,
            "fsname": source,
            "subtype": "synd",
            "default_permissions": True,
            "use_ino": True,
            "attr_timeout": REMEMBER_S,
            "entry_timeout": REMEMBER_S,
            "negative_timeout": min(REMEMBER_S, fs.negative_ttl_s),
        }
        if library.version(self._module) == 2:
            # Version 3 does so unasked: O_TRUNC comes with the open, and writes in more than a page.
            self._options |= {"atomic_o_trunc": True, "big_writes": True, "max_write": _MAX_WRITE}
        if allow_other:
            self._options["allow_other"] = True
        if read_only:
            self._options["ro"] = True

    def _interrupted(self) -> bool:
        return bool(self._native_interrupted and self._native_interrupted())

    @property
    def ready(self) -> threading.Event:
        return self._operations.ready

    def run(self) -> str:
        """Mounts and serves until unmounted."""
        try:
            library.mend(self._module)(
                self._operations, os.fspath(self._mountpoint), **self._options
            )
        except RuntimeError as error:
            # The library has printed why; all it tells us is a number.
            log.error("mount.libfuse_failed", extra=fields(code=error))  # noqa: TRY400
            return "failed"
        return "unmounted"

    def waiting(self) -> list[Waiting]:
        found = [Waiting(*entry) for entry in list(self._operations.pending.values())]
        return sorted(found, key=lambda w: w.since)

    def open_handles(self) -> int:
        return len(self._operations.owners)

    def request_counts(self) -> dict[str, int]:
        return dict(self._operations.requests)

    def close(self) -> None:
        """Nothing is left once `run` has returned."""
