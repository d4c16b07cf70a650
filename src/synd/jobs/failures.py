"""Classes of failure of a job, and what each means: whether to try again, and whether it holds for the bytes."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from synd import errors


class Again(StrEnum):
    """Whether a failed attempt has a successor by itself."""

    NEVER = "never"
    ONCE = "once"
    """One more attempt, however many are allowed."""
    YES = "yes"
    """As many attempts as are allowed."""
    AFTER_CHANGE = "after-change"
    """When what stood in the way has changed: a login, an installation, REF_PATH, room on the disk."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a class of failure means."""

    again: Again
    text: str
    """For people."""
    of_content: bool = False
    """The bytes themselves are at fault: remembered against their md5, and not tried again."""


class Failure(StrEnum):
    """Why a job failed. The values are what the database and JSON hold."""

    SOURCE_UNAVAILABLE = "SOURCE_UNAVAILABLE"
    SOURCE_FORBIDDEN = "SOURCE_FORBIDDEN"
    SOURCE_GONE = "SOURCE_GONE"
    SOURCE_CHANGED = "SOURCE_CHANGED"
    SOURCE_TRUNCATED = "SOURCE_TRUNCATED"
    SOURCE_CORRUPT = "SOURCE_CORRUPT"
    FORMAT_MISMATCH = "FORMAT_MISMATCH"
    UNSUPPORTED_ENCODING = "UNSUPPORTED_ENCODING"
    INVALID_HEADER = "INVALID_HEADER"
    INVALID_RECORD = "INVALID_RECORD"
    TOOL_MISSING = "TOOL_MISSING"
    TOOL_FAILED = "TOOL_FAILED"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    NO_SPACE = "NO_SPACE"
    TIMEOUT = "TIMEOUT"
    LEASE_LOST = "LEASE_LOST"
    WORKER_DIED = "WORKER_DIED"
    NO_WORKER = "NO_WORKER"
    STORE_UNAVAILABLE = "STORE_UNAVAILABLE"
    CANCELLED = "CANCELLED"
    AFTER_FAILED = "AFTER_FAILED"
    VERIFY_FAILED = "VERIFY_FAILED"
    INTERNAL = "INTERNAL"

    @property
    def meaning(self) -> Meaning:
        return _MEANINGS[self]


_MEANINGS = {
    Failure.SOURCE_UNAVAILABLE: Meaning(Again.YES, "the service could not be reached, or was busy"),
    Failure.SOURCE_FORBIDDEN: Meaning(
        Again.AFTER_CHANGE, "the file may not be downloaded with this login"
    ),
    Failure.SOURCE_GONE: Meaning(Again.NEVER, "the file was deleted"),
    Failure.SOURCE_CHANGED: Meaning(
        Again.ONCE, "the bytes that came are not those that were announced"
    ),
    Failure.SOURCE_TRUNCATED: Meaning(Again.NEVER, "the file ends too early", of_content=True),
    Failure.SOURCE_CORRUPT: Meaning(Again.NEVER, "the file is damaged", of_content=True),
    Failure.FORMAT_MISMATCH: Meaning(
        Again.NEVER, "the content cannot be what the name says", of_content=True
    ),
    Failure.UNSUPPORTED_ENCODING: Meaning(
        Again.NEVER, "the text is UTF-16 or UTF-32", of_content=True
    ),
    Failure.INVALID_HEADER: Meaning(Again.NEVER, "the header is not valid", of_content=True),
    Failure.INVALID_RECORD: Meaning(Again.NEVER, "a record is not valid", of_content=True),
    Failure.TOOL_MISSING: Meaning(
        Again.AFTER_CHANGE, "a program, or the reference of a CRAM, that is needed is not installed"
    ),
    Failure.TOOL_FAILED: Meaning(Again.ONCE, "a program failed"),
    Failure.OUT_OF_MEMORY: Meaning(
        Again.ONCE, "the memory was too little; once more with half the caps and one thread"
    ),
    Failure.NO_SPACE: Meaning(Again.AFTER_CHANGE, "the disk is too full"),
    Failure.TIMEOUT: Meaning(Again.YES, "it took longer than a job may"),
    Failure.LEASE_LOST: Meaning(Again.YES, "its worker was not heard of any more"),
    Failure.WORKER_DIED: Meaning(Again.YES, "its worker process ended without a word"),
    Failure.NO_WORKER: Meaning(Again.YES, "no worker of the cluster took it, or could be reached"),
    Failure.STORE_UNAVAILABLE: Meaning(
        Again.YES, "the store that the machines share could not be read or written"
    ),
    Failure.CANCELLED: Meaning(Again.NEVER, "somebody asked for its end"),
    Failure.AFTER_FAILED: Meaning(
        Again.NEVER, "a job that it comes after did not complete, so it was not begun"
    ),
    Failure.VERIFY_FAILED: Meaning(Again.ONCE, "what was made is not what it should be: a bug"),
    Failure.INTERNAL: Meaning(Again.ONCE, "it failed in a way that nobody foresaw: a bug"),
}


_BY_ERROR: tuple[tuple[type[BaseException], Failure], ...] = (
    (errors.ToolMissing, Failure.TOOL_MISSING),
    (errors.NotLoggedIn, Failure.SOURCE_FORBIDDEN),
    (errors.Forbidden, Failure.SOURCE_FORBIDDEN),
    (errors.NotFound, Failure.SOURCE_GONE),
    (errors.IntegrityError, Failure.SOURCE_CHANGED),
    (errors.Stale, Failure.SOURCE_CHANGED),
    (errors.RemoteUnavailable, Failure.SOURCE_UNAVAILABLE),
    (errors.RateLimited, Failure.SOURCE_UNAVAILABLE),
    (errors.ProtocolError, Failure.SOURCE_UNAVAILABLE),
    (errors.CacheFull, Failure.NO_SPACE),
    (errors.DeadlineExceeded, Failure.TIMEOUT),
    (errors.LeaseLost, Failure.LEASE_LOST),
    (errors.Cancelled, Failure.CANCELLED),
    (MemoryError, Failure.OUT_OF_MEMORY),
)


def failure_of(error: BaseException) -> Failure:
    """The class of what a handler raised; INTERNAL for what nobody foresaw."""
    if isinstance(error, errors.StageFailed):
        return parse(error.failure)
    return next((found for kind, found in _BY_ERROR if isinstance(error, kind)), Failure.INTERNAL)


def parse(text: str) -> Failure:
    """The class of that name; INTERNAL for one that nobody knows, as a newer worker may tell."""
    try:
        return Failure(text)
    except ValueError:
        return Failure.INTERNAL
