"""The Python binding of libfuse that is installed, with what it forgets to pass on put right.

mfusepy drops the flags of a rename (an exchange would then replace its target) and the open file of a
truncate, chmod, chown and utimens when libfuse is version 3; both bindings turn "now" and "leave it"
of utimens into times of the year 1970. Source: mfusepy 3.1.1, fusepy 3.0.1.
"""

from __future__ import annotations

import importlib
import time
from typing import Any

from synd.errors import ToolMissing

_NS = 1_000_000_000
# bits/stat.h
_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2


def load() -> Any:
    """mfusepy, else fusepy. Raises ToolMissing when neither they nor libfuse are there."""
    for name in ("mfusepy", "fuse"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        except OSError as error:
            raise ToolMissing(
                f"libfuse is not installed ({error})",
                hint="install libfuse3 (`apt install libfuse3-3`, `dnf install fuse3-libs`), "
                "or use --transport kernel",
            ) from error
        if hasattr(module, "FUSE"):
            return module
    raise ToolMissing(
        "the Python package mfusepy is not installed",
        hint="pip install mfusepy, or use --transport kernel",
    )


def version(module: Any) -> int:
    """The major version of libfuse."""
    return int(getattr(module, "fuse_version_major", 2))


def callable_if_needed(module: Any, operations: Any) -> Any:
    """The operations as the binding wants them: fusepy calls them, by name; mfusepy warns if it could."""
    if module.__name__ != "fuse":
        return operations
    kind = type(operations)

    def call(self: Any, name: str, *args: Any) -> Any:
        return getattr(self, name)(*args)

    operations.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    return operations


def mend(module: Any) -> Any:
    """The binding's FUSE class, with all that libfuse tells passed on to the operations."""
    base = module.FUSE

    def text(self: Any, path: bytes | None) -> str | None:
        return None if path is None else path.decode(self.encoding, "surrogateescape")

    def file(pointer: Any) -> Any:
        return pointer.contents if pointer else None

    def rename(self: Any, old: bytes, new: bytes, flags: int) -> Any:
        return self.operations.rename(text(self, old), text(self, new), flags)

    def truncate(self: Any, path: bytes | None, length: int, pointer: Any) -> Any:
        return self.operations.truncate(text(self, path), length, file(pointer))

    def chmod(self: Any, path: bytes | None, mode: int, pointer: Any) -> Any:
        return self.operations.chmod(text(self, path), mode, file(pointer))

    def chown(self: Any, path: bytes | None, uid: int, gid: int, pointer: Any) -> Any:
        return self.operations.chown(text(self, path), uid, gid, file(pointer))

    def utimens(self: Any, path: bytes | None, times: Any, pointer: Any = None) -> Any:
        given = (times.contents.actime, times.contents.modtime) if times else (None, None)
        now = time.time_ns()
        return self.operations.utimens(
            text(self, path), tuple(_time(spec, now) for spec in given), file(pointer)
        )

    better = {
        "rename_fuse_3": rename,
        "truncate_fuse_3": truncate,
        "chmod_fuse_3": chmod,
        "chown_fuse_3": chown,
        "utimens_fuse_3": utimens,
        "utimens_fuse_2": utimens,
        "utimens": utimens,
    }
    return type("FUSE", (base,), {n: f for n, f in better.items() if hasattr(base, n)})


def _time(spec: Any, now: int) -> int | None:
    if spec is None or spec.tv_nsec == _UTIME_NOW:
        return now
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    return int(spec.tv_sec) * _NS + int(spec.tv_nsec)
