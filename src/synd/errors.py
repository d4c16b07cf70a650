"""Every error synd raises, and the one table that turns it into errno, HTTP status and exit code.

    SyndError
    ├─ UsageError, NameTooLong, ConfigError, NotSupported (SwitchedOff)
    ├─ NotFound, Exists, NotEmpty, IsDirectory, NotDirectory, RangeNotSatisfiable
    ├─ NotLoggedIn, Forbidden, NotPermitted, ReadOnly
    ├─ Stale, Conflict, Busy (QueueFull, Draining), LeaseLost, InvalidTransition
    ├─ RateLimited, DeadlineExceeded, RemoteUnavailable, ProtocolError
    ├─ QuotaExceeded, CacheFull, IntegrityError, StoreError
    ├─ ToolMissing, StageFailed
    └─ DaemonNotRunning, AlreadyRunning, Cancelled

Foreign exceptions are translated once, at the boundary where they enter, always with ``raise … from``.
Exit codes follow sysexits.h, so that the service unit can name the ones a restart cannot mend.
"""

from __future__ import annotations

import errno as _errno
import logging
from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """Whether doing the same again can help."""

    NO = "no"
    ONCE = "once"
    LATER = "later"
    AFTER_LOGIN = "after-login"


class SyndError(Exception):
    """What failed (`message`), and what the reader can do about it (`hint`).

    `entity` and `path` name what it happened to, when that is known.
    """

    errno: ClassVar[int] = _errno.EIO
    status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 70
    retry: ClassVar[Retry] = Retry.NO
    level: ClassVar[int] = logging.ERROR

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        entity: str | None = None,
        path: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.entity = entity
        self.path = path

    def __str__(self) -> str:
        return self.message

    def problem(self) -> dict[str, object]:
        """The JSON problem body (RFC 9457) of this error."""
        body: dict[str, object] = {
            "type": type(self).__name__,
            "title": self.message,
            "status": self.status,
            "errno": _errno.errorcode.get(self.errno, str(self.errno)),
            "exit_code": self.exit_code,
            "retry": self.retry.value,
        }
        if self.hint:
            body["hint"] = self.hint
        if self.entity:
            body["entity"] = self.entity
        if self.path:
            body["path"] = self.path
        return body


class UsageError(SyndError):
    """Bad arguments or field, malformed range."""

    errno = _errno.EINVAL
    status = 400
    exit_code = 64
    level = logging.INFO


class ConfigError(SyndError):
    """A setting is missing or wrong; the message names it."""

    errno = _errno.EINVAL
    status = 500
    exit_code = 78


class NotFound(SyndError):
    """No such entity, name, job or artifact."""

    errno = _errno.ENOENT
    status = 404
    exit_code = 66
    level = logging.DEBUG


class Exists(SyndError):
    """The name is taken."""

    errno = _errno.EEXIST
    status = 409
    exit_code = 73
    level = logging.INFO


class NotEmpty(SyndError):
    """A folder that must be empty is not."""

    errno = _errno.ENOTEMPTY
    status = 409
    exit_code = 65
    level = logging.INFO


class IsDirectory(SyndError):
    """A file was wanted."""

    errno = _errno.EISDIR
    status = 409
    exit_code = 65
    level = logging.INFO


class NotDirectory(SyndError):
    """A folder was wanted."""

    errno = _errno.ENOTDIR
    status = 409
    exit_code = 65
    level = logging.INFO


class RangeNotSatisfiable(SyndError):
    """A byte range lies past the end."""

    errno = _errno.EINVAL
    status = 416
    exit_code = 65
    level = logging.INFO


class NotLoggedIn(SyndError):
    """No credentials, or the service no longer accepts them."""

    errno = _errno.EACCES
    status = 401
    exit_code = 77
    retry = Retry.AFTER_LOGIN
    level = logging.WARNING


class Forbidden(SyndError):
    """Access refused, or terms of use not accepted yet."""

    errno = _errno.EACCES
    status = 403
    exit_code = 77
    level = logging.INFO


class NotPermitted(SyndError):
    """No such operation here for anybody: a hard link, a mark that is synd's own."""

    errno = _errno.EPERM
    status = 403
    exit_code = 77
    level = logging.DEBUG


class NameTooLong(SyndError):
    """A name that neither a file system nor the service can hold."""

    errno = _errno.ENAMETOOLONG
    status = 400
    exit_code = 64
    level = logging.INFO


class ReadOnly(SyndError):
    """The mount or the entity may not change."""

    errno = _errno.EROFS
    status = 403
    exit_code = 77
    level = logging.DEBUG


class Stale(SyndError):
    """The etag or version moved on under us."""

    errno = _errno.ESTALE
    status = 412
    exit_code = 75
    retry = Retry.LATER
    level = logging.INFO


class Conflict(SyndError):
    """Both sides changed. Through the mount it becomes a conflict copy, never an error."""

    errno = _errno.EIO
    status = 409
    exit_code = 65
    level = logging.WARNING


class Busy(SyndError):
    """Held by another, such as files that are open at an unmount."""

    errno = _errno.EBUSY
    status = 409
    exit_code = 75
    retry = Retry.LATER
    level = logging.INFO


class QueueFull(Busy):
    """As many jobs wait as may."""

    errno = _errno.EAGAIN
    status = 429


class Draining(Busy):
    """The daemon is about to stop and begins nothing more."""

    errno = _errno.EAGAIN
    status = 503


class LeaseLost(SyndError):
    """An old worker wrote late; nothing was changed."""

    errno = _errno.ECANCELED
    status = 409
    exit_code = 75
    level = logging.WARNING


class InvalidTransition(SyndError):
    """A state table was broken: a bug of ours."""


class RateLimited(SyndError):
    """The service throttled us past the caller's deadline."""

    errno = _errno.ETIMEDOUT
    status = 503
    exit_code = 75
    retry = Retry.LATER
    level = logging.WARNING


class DeadlineExceeded(SyndError):
    """The caller's budget of time is spent."""

    errno = _errno.ETIMEDOUT
    status = 504
    exit_code = 75
    retry = Retry.LATER
    level = logging.WARNING


class RemoteUnavailable(SyndError):
    """The service cannot be reached, or fails."""

    errno = _errno.EIO
    status = 502
    exit_code = 69
    retry = Retry.LATER
    level = logging.WARNING


class Offline(RemoteUnavailable):
    """The service cannot be reached at all; what is cached stays readable."""

    errno = _errno.EHOSTUNREACH


class ProtocolError(SyndError):
    """An answer that we do not understand."""

    errno = _errno.EPROTO
    status = 502
    exit_code = 76


class QuotaExceeded(SyndError):
    """The remote storage is full."""

    errno = _errno.EDQUOT
    status = 507
    exit_code = 73


class CacheFull(SyndError):
    """No room on the local disk, and nothing that could be evicted."""

    errno = _errno.ENOSPC
    status = 507
    exit_code = 73
    retry = Retry.LATER


class IntegrityError(SyndError):
    """A digest or a length differs from what the service promised."""

    errno = _errno.EIO
    status = 502
    exit_code = 65
    retry = Retry.ONCE


class StoreError(SyndError):
    """SQLite failed, the file is corrupt, or its schema is newer than this program."""

    errno = _errno.EIO
    status = 500
    exit_code = 74


class ToolMissing(SyndError):
    """A program that is needed is not on PATH; the message names it."""

    errno = _errno.EIO
    status = 500
    exit_code = 69


class StageFailed(SyndError):
    """A file could not be preprocessed: `failure` is the class of failure (docs/formats.md), the message says
    which step and why.
    """

    errno = _errno.EIO
    status = 422
    exit_code = 65

    def __init__(
        self,
        message: str,
        *,
        failure: str = "TOOL_FAILED",
        bad_line: int | None = None,
        hint: str = "",
        entity: str | None = None,
        path: str | None = None,
    ) -> None:
        """`bad_line`: 1-based, of the source."""
        super().__init__(message, hint=hint, entity=entity, path=path)
        self.failure = failure
        self.bad_line = bad_line

    def problem(self) -> dict[str, object]:
        body = {**super().problem(), "failure": self.failure}
        if self.bad_line is not None:
            body["bad_line"] = self.bad_line
        return body


class NotSupported(SyndError):
    """synd does not do this, by design."""

    errno = _errno.ENOTSUP
    status = 501
    exit_code = 64
    level = logging.DEBUG


class SwitchedOff(NotSupported):
    """A setting turns it off; the message names the setting."""

    status = 503


class DaemonNotRunning(SyndError):
    """No daemon answers on the socket."""

    errno = _errno.ENOTCONN
    status = 503
    exit_code = 69
    retry = Retry.LATER


class AlreadyRunning(SyndError):
    """Another daemon holds the instance lock."""

    errno = _errno.EBUSY
    status = 409
    exit_code = 75


class Cancelled(SyndError):
    """Stopped because somebody asked."""

    errno = _errno.EINTR
    status = 409
    exit_code = 130
    level = logging.DEBUG


def _walk(base: type[SyndError]) -> list[type[SyndError]]:
    found = [base]
    for sub in base.__subclasses__():
        found.extend(_walk(sub))
    return found


def table() -> tuple[type[SyndError], ...]:
    """All error classes of this module, base first: the source of docs/errors.md."""
    return tuple(cls for cls in _walk(SyndError) if cls.__module__ == __name__)


_OF_FILES: dict[int, type[SyndError]] = {
    _errno.ENOSPC: CacheFull,
    _errno.EDQUOT: CacheFull,
    _errno.EACCES: Forbidden,
    _errno.EPERM: Forbidden,
    _errno.EROFS: ReadOnly,
    _errno.ENOENT: NotFound,
    _errno.ENOTDIR: NotDirectory,
    _errno.EISDIR: IsDirectory,
    _errno.ENAMETOOLONG: NameTooLong,
}


def not_written(what: object, error: OSError) -> SyndError:
    """The error of a file for the user, `what` by its name, that the local disk did not take."""
    kind = _OF_FILES.get(error.errno or 0, StoreError)
    return kind(
        f"{what} cannot be written: {error.strerror or error}",
        hint="make room there, or name another place" if kind is CacheFull else "",
        path=str(what),
    )


def by_name(name: str) -> type[SyndError]:
    """The class of that name, or the base: a CLI gives a daemon's problem its own exit code by it."""
    return next((cls for cls in table() if cls.__name__ == name), SyndError)
