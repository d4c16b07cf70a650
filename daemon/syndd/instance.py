"""One daemon per state folder: its folders, its lock, its socket, its word about a failed start.

The lock is an flock in the state folder, so it ends with the process however that dies, and two
daemons that disagree about the runtime folder still cannot share one database.
Leaves to `syndd.control` what is said over the socket.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from synd.config import Folders
from synd.control.connect import socket_address
from synd.errors import AlreadyRunning, ConfigError, SyndError

STARTUP = "startup.json"
"""In the runtime folder: {"pid", "state": starting|ready|failed|stopped, "problem"?} of the latest start."""


def make_folders(folders: Folders) -> None:
    """Makes the state, cache and runtime folders, for the owner only. Raises ConfigError with the mend."""
    for what, folder, variable in (
        ("state", folders.state, "XDG_STATE_HOME"),
        ("cache", folders.cache, "XDG_CACHE_HOME"),
        ("runtime", folders.runtime, "XDG_RUNTIME_DIR"),
    ):
        mend = f"set SYND_HOME or {variable} to a folder that you may write to"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            facts = folder.stat()
            if facts.st_uid not in (os.geteuid(), 0):
                raise ConfigError(
                    f"the {what} folder {folder} belongs to uid {facts.st_uid}",
                    hint=mend,
                    path=str(folder),
                )
            if stat.S_IMODE(facts.st_mode) & 0o077:
                folder.chmod(0o700)
            # access(2) says yes to root on some filesystems that are read-only all the same.
            probe = folder / f".probe-{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise ConfigError(
                f"the {what} folder {folder} cannot be used: {error.strerror or error}",
                hint=mend,
                path=str(folder),
            ) from error


@contextlib.contextmanager
def instance_lock(folders: Folders) -> Iterator[None]:
    """Holds the right to be the daemon of this state folder. Raises AlreadyRunning naming the other."""
    path = folders.state / "daemon.lock"
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot open {path}: {error.strerror}", path=str(path)) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise ConfigError(
                    f"cannot lock {path}: {error.strerror}",
                    hint="put the state folder on a local filesystem (SYND_HOME or XDG_STATE_HOME)",
                    path=str(path),
                ) from error
            other = os.pread(fd, 32, 0).decode(errors="replace").strip()
            raise AlreadyRunning(
                f"another daemon (pid {other or 'unknown'}) uses {folders.state}",
                hint="`synd status` shows it, `synd down` stops it",
                path=str(folders.state),
            ) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(fd, 0)
    finally:
        # The file stays: removing it would let a third process lock a name that a second one holds.
        os.close(fd)


@contextlib.contextmanager
def control_socket(path: Path) -> Iterator[socket.socket]:
    """A listening socket at `path`, mode 0600, removed at the end.

    The caller holds the instance lock, so whatever lies there has no daemon behind it any more.
    Connections wait in the backlog until somebody accepts: so `synd status` right after the mount
    answers is late rather than refused. Raises ConfigError.
    """
    try:
        if path.is_symlink() or (path.exists() and not path.is_socket()):
            raise ConfigError(f"{path} is in the way of the control socket", hint=f"remove {path}")
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise ConfigError(f"cannot make {path}: {error.strerror}", path=str(path)) from error
    try:
        # Mode before address: no moment in which another user could connect.
        os.fchmod(listener.fileno(), 0o600)
        with socket_address(path) as address:
            old = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(old)
        listener.listen(128)
        mine = path.lstat().st_ino
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot make {path}: {error.strerror}", path=str(path)) from error
    try:
        yield listener
    finally:
        listener.close()
        with contextlib.suppress(OSError):
            if path.lstat().st_ino == mine:
                path.unlink()


def report_startup(folders: Folders, state: str, error: SyndError | None = None) -> None:
    """Writes how the start went, for `synd up` to read. Never fails: the log has it too."""
    body: dict[str, object] = {"pid": os.getpid(), "state": state}
    if error is not None:
        body["problem"] = error.problem()
    with contextlib.suppress(OSError):
        folders.runtime.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = folders.runtime / f"{STARTUP}.{os.getpid()}"
        aside.write_text(json.dumps(body))
        aside.replace(folders.runtime / STARTUP)
