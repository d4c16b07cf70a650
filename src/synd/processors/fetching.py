"""The source's bytes: where they lie already, or downloaded into the work folder, their md5 checked on the way."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from synd.errors import (
    Cancelled,
    DeadlineExceeded,
    Forbidden,
    IntegrityError,
    NotFound,
    NotLoggedIn,
    ProtocolError,
    RangeNotSatisfiable,
    RateLimited,
    RemoteUnavailable,
    StageFailed,
    SyndError,
)
from synd.jobs.failures import Failure
from synd.processors.base import Source

DOWNLOAD_S: Final = 4 * 3600.0
"""As long as a job may take by default: whoever started it knows better, and ends it."""

TRIES: Final = 4
"""In a row without a byte; about two seconds. The queue waits longer between attempts."""


def at_hand(path: Path, source: Source) -> Path:
    """The file itself. Raises StageFailed(SOURCE_CHANGED) when its size is not the source's."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise StageFailed(
            f"the source cannot be read: {error.strerror}", failure=Failure.SOURCE_UNAVAILABLE
        ) from error
    if size != source.size:
        raise _changed(f"the source has {size} bytes, and {source.size} were announced")
    return path


def download(
    url: str,
    headers: Mapping[str, str],
    source: Source,
    path: Path,
    *,
    advance: Callable[[int], object],
    reserve_bytes: int = 0,
) -> Path:
    """Downloads a source to `path`. `headers` go to the place that `url` names, and not along redirects.

    Raises StageFailed: SOURCE_CHANGED, SOURCE_UNAVAILABLE, SOURCE_FORBIDDEN, SOURCE_GONE, NO_SPACE.
    """
    # Brings in http.client and ssl, which a job whose source lies here does not need.
    from synd.client.transfer import Downloader
    from synd.clock import Deadline
    from synd.retry import RetryPolicy

    if shutil.disk_usage(path.parent).free < source.size + reserve_bytes:
        raise StageFailed(
            f"there is no room for a file of {source.size / 1e6:.0f} MB", failure=Failure.NO_SPACE
        )
    hasher = hashlib.md5(usedforsecurity=False)
    size = 0
    with path.open("xb", buffering=0) as out, Downloader(headers=headers) as downloader:

        def take(offset: int, piece: memoryview) -> None:
            nonlocal size
            hasher.update(piece)
            while piece:
                piece = piece[out.write(piece) :]
            advance(offset + len(piece) - size)
            size = out.tell()
            if size > source.size:
                raise _changed(f"more than the {source.size} bytes came that were announced")

        try:
            downloader.resume(
                lambda _fresh: url,
                0,
                None,
                take,
                deadline=Deadline.after(DOWNLOAD_S, "download"),
                policy=RetryPolicy(tries=TRIES),
            )
        except StageFailed:
            raise
        except SyndError as error:
            raise StageFailed(str(error), failure=_failure(error), hint=error.hint) from error
    if size != source.size:
        raise _changed(f"{size} bytes came, and {source.size} were announced")
    if hasher.hexdigest() != source.md5.lower():
        raise _changed("the bytes that came do not have the announced md5")
    return path


def _changed(text: str) -> StageFailed:
    return StageFailed(text, failure=Failure.SOURCE_CHANGED)


def _failure(error: SyndError) -> Failure:
    match error:
        case Forbidden() | NotLoggedIn():
            return Failure.SOURCE_FORBIDDEN
        case NotFound():
            return Failure.SOURCE_GONE
        case IntegrityError() | RangeNotSatisfiable():
            return Failure.SOURCE_CHANGED
        case Cancelled():
            return Failure.CANCELLED
        case RateLimited() | RemoteUnavailable() | DeadlineExceeded() | ProtocolError():
            return Failure.SOURCE_UNAVAILABLE
    return Failure.INTERNAL
