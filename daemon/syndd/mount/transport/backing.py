"""Backing files of passthrough opens: registered with the kernel's connection, by ids.

Which node uses which id is the handle table's business.
"""

from __future__ import annotations

import errno
import fcntl
import logging

from synd.log import fields
from syndd.mount import wire

log = logging.getLogger(__name__)

TOO_OLD = "the kernel has no passthrough (Linux 6.9 and newer have)"

_OFF = {
    errno.EPERM: "needs CAP_SYS_ADMIN: run the daemon as root or as a system unit",
    errno.EOPNOTSUPP: "the kernel refuses it for this mount",
    errno.ENOTTY: TOO_OLD,
    errno.ELOOP: "the cache lies on a stacked filesystem (overlayfs)",
}
"""Refusals that stay as they are for the life of the mount."""


class Backings:
    """The ids of one connection."""

    def __init__(self, fd: int, *, off: str) -> None:
        self._fd = fd
        self.off = off
        """Why there is no passthrough; empty when there is."""

    def register(self, fd: int) -> int:
        """An id for an open file; 0 when the kernel gives none, and then `off` may say why."""
        argument = bytearray(wire.BACKING_MAP.pack(fd, 0, 0))
        try:
            given: int = fcntl.ioctl(self._fd, wire.DEV_IOC_BACKING_OPEN, argument)
        except OSError as error:
            if error.errno in _OFF:
                self.off = _OFF[error.errno]
                log.info("mount.passthrough_off", extra=fields(reason=self.off))
            else:
                log.warning("mount.passthrough_failed", extra=fields(error=error))
            return 0
        return given

    def close(self, backing: int) -> None:
        """Gives an id back. One that is closed already is no error."""
        try:
            fcntl.ioctl(self._fd, wire.DEV_IOC_BACKING_CLOSE, backing.to_bytes(4, "little"))
        except OSError as error:
            # ENOENT: closed by a daemon that died before it could write so.
            if error.errno != errno.ENOENT:
                log.warning("mount.backing_close_failed", extra=fields(error=error, id=backing))

    def probe(self) -> int:
        """The id that the kernel gives next, by taking it and giving it back; 0 without passthrough."""
        if self.off:
            return 0
        with open("/proc/self/exe", "rb") as any_file:
            number = self.register(any_file.fileno())
        if number:
            self.close(number)
        return number
