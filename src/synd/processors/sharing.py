"""The shared store: where workers on other machines leave what they made until the daemon has taken it.

A folder that all machines mount, or a bucket; whatever fsspec opens by its URL. Every attempt has a folder
of its own, named by its job, which nobody else writes to. What a file must be is told beside it, and checked
by whoever takes it: nothing in the store is believed. Leaves credentials to each machine's own settings.
"""

from __future__ import annotations

import errno
import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from synd.errors import ConfigError, StageFailed
from synd.jobs.failures import Failure

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass(frozen=True, slots=True)
class Left:
    """A file that lies in the store."""

    key: str
    size: int
    sha256: str

    def document(self) -> dict[str, object]:
        return {"key": self.key, "size": self.size, "sha256": self.sha256}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Left:
        """Raises KeyError, ValueError."""
        return cls(str(document["key"]), int(document["size"]), str(document["sha256"]))


class SharedStore:
    """The store behind one URL. Any thread; every call may wait for the network."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError: nothing can be opened by that URL here."""
        self.url = url
        local = "://" not in url
        if local and not os.path.isabs(url):
            raise ConfigError(
                f"artifact_store = {url!r} is neither an absolute path nor a URL",
                hint="such as /shared/synd or s3://bucket/synd",
            )
        try:
            core: Any = importlib.import_module("fsspec.core")
            options = (
                {"auto_mkdir": True} if local or url.startswith(("file://", "local://")) else {}
            )
            self._fs, self._root = core.url_to_fs(url, **options)
        except ImportError as error:
            raise ConfigError(
                f"artifact_store = {url!r} cannot be opened: {error}",
                hint="pip install 'synd[dask]', for buckets also s3fs, gcsfs or adlfs, on every machine",
            ) from error
        except ValueError as error:
            raise ConfigError(f"artifact_store = {url!r} cannot be opened: {error}") from error

    def put(self, path: Path, key: str) -> Left:
        """Copies a file into the store. Raises StageFailed(NO_SPACE, STORE_UNAVAILABLE)."""
        with _translated("written"):
            left = Left(key, *_facts(path))
            self._fs.put_file(str(path), self._path(key))
        return left

    def take(self, left: Left, path: Path) -> None:
        """Copies a file out of the store. Raises StageFailed: VERIFY_FAILED when it is not what was told,
        STORE_UNAVAILABLE, NO_SPACE.
        """
        with _translated("read"):
            self._fs.get_file(self._path(left.key), str(path))
            found = _facts(path)
        if found != (left.size, left.sha256):
            raise StageFailed(
                "what lies in the shared store is not what was put there",
                failure=Failure.VERIFY_FAILED,
            )

    def remove(self, folder: str) -> None:
        """Takes a folder with all in it away; none is as well. Raises StageFailed(STORE_UNAVAILABLE)."""
        with _translated("written"), suppress(FileNotFoundError):
            self._fs.invalidate_cache()
            self._fs.rm(self._path(folder), recursive=True)

    def names(self, folder: str) -> list[str]:
        """What lies right below a folder, sorted. Raises StageFailed(STORE_UNAVAILABLE)."""
        with _translated("read"):
            self._fs.invalidate_cache()
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(one).rstrip("/").rpartition("/")[2] for one in found)

    def _path(self, key: str) -> str:
        return f"{self._root.rstrip('/')}/{key}"


def _facts(path: Path) -> tuple[int, str]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return file.tell(), digest


@contextmanager
def _translated(done: str) -> Iterator[None]:
    """Errors of whatever service lies behind fsspec, each with classes of its own, as ours."""
    try:
        yield
    except StageFailed:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else None
        why = os.strerror(number) if number else type(error).__name__
        raise StageFailed(
            f"the shared store cannot be {done}: {why}",
            failure=Failure.NO_SPACE if number in _FULL else Failure.STORE_UNAVAILABLE,
            hint="`artifact_store` must be readable and writable from every machine",
        ) from error
