"""Making and unmaking a mount: mount(2) as root, fusermount3 as a user, and what /proc and /sys tell.

Serving the mount is others' business. Every way in which a machine can refuse is an error that names
the mend. Nothing here asks the mounted filesystem anything, except `is_dead`, which bounds its wait.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path

from synd.errors import (
    Busy,
    ConfigError,
    NotDirectory,
    NotEmpty,
    SyndError,
    ToolMissing,
)

FS_TYPE = "fuse.synd"
DEVICE = Path("/dev/fuse")
_FUSE_CONF = Path("/etc/fuse.conf")
_CONNECTIONS = Path("/sys/fs/fuse/connections")
_MOUNTINFO = Path("/proc/self/mountinfo")

# linux/mount.h
_MS_RDONLY = 1
_MS_NOSUID = 2
_MS_NODEV = 4
_MNT_DETACH = 2
_UMOUNT_NOFOLLOW = 8

_TOOL_WAIT_S = 20.0
_STAT_WAIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Mounted:
    """One line of mountinfo."""

    path: str
    device: str
    """major:minor; the minor of a FUSE mount is its connection's number."""
    fs_type: str
    source: str

    @property
    def connection(self) -> int:
        return int(self.device.partition(":")[2])


def find_mount(path: Path) -> Mounted | None:
    """What is mounted at `path` itself (the topmost, if several)."""
    wanted = os.path.abspath(path)
    found = None
    for line in _MOUNTINFO.read_text(errors="surrogateescape").splitlines():
        left, _, right = line.partition(" - ")
        words, kind = left.split(" "), right.split(" ")
        if _unescape(words[4]) == wanted:
            found = Mounted(wanted, words[2], kind[0], _unescape(kind[1]))
    return found


def _unescape(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), text)


def mount(
    mountpoint: Path, *, source: str, allow_other: bool, read_only: bool, max_read: int
) -> int:
    """Mounts and returns the connection's descriptor. Raises ConfigError, ToolMissing, Busy.

    The caller has looked at the mount point with `check_mountpoint`.
    """
    check_device(allow_other=allow_other)
    if os.geteuid() == 0:
        return _mount_as_root(mountpoint, source, allow_other, read_only, max_read)
    return _mount_as_user(mountpoint, source, allow_other, read_only, max_read)


def check_device(*, allow_other: bool) -> None:
    """Makes sure that this user may mount on this machine. Raises ToolMissing, ConfigError."""
    if not DEVICE.exists():
        raise ToolMissing(
            "there is no /dev/fuse on this machine",
            hint="load the kernel module (`modprobe fuse`); in a container add `--device /dev/fuse "
            "--cap-add SYS_ADMIN`",
        )
    if os.geteuid() == 0:
        return
    _fusermount()
    if allow_other and not _others_allowed():
        raise ConfigError(
            f"{_FUSE_CONF} does not let users share their mounts (--allow-other)",
            hint=f"have root add the line `user_allow_other` to {_FUSE_CONF}",
        )


def _mount_as_root(
    mountpoint: Path, source: str, allow_other: bool, read_only: bool, max_read: int
) -> int:
    try:
        fd = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"/dev/fuse cannot be opened: {error.strerror}",
            hint="the container or unit denies the device; allow /dev/fuse",
        ) from error
    options = [
        f"fd={fd}",
        "rootmode=40000",
        f"user_id={os.geteuid()}",
        f"group_id={os.getegid()}",
        "default_permissions",
        f"max_read={max_read}",
    ]
    if allow_other:
        options.append("allow_other")
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.mount(
        source.encode(),
        os.fsencode(mountpoint),
        FS_TYPE.encode(),
        ctypes.c_ulong(_MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)),
        ",".join(options).encode(),
    )
    if done == 0:
        return fd
    code = ctypes.get_errno()
    os.close(fd)
    reason = os.strerror(code)
    hints = {
        errno.EPERM: "mounting needs CAP_SYS_ADMIN; in a container add `--cap-add SYS_ADMIN`",
        errno.ENODEV: "the kernel has no FUSE: `modprobe fuse`",
        errno.EBUSY: "something uses the folder as its own mount; choose another",
    }
    kind = Busy if code == errno.EBUSY else ConfigError
    raise kind(f"cannot mount at {mountpoint}: {reason}", hint=hints.get(code, ""))


def _fusermount() -> str:
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    if tool is None:
        raise ToolMissing(
            "fusermount3 is not on PATH, and only root can mount without it",
            hint="install fuse3 (`apt install fuse3`, `dnf install fuse3`)",
        )
    return tool


def _mount_as_user(
    mountpoint: Path, source: str, allow_other: bool, read_only: bool, max_read: int
) -> int:
    tool = _fusermount()
    options = ["ro" if read_only else "rw", "nosuid", "nodev", "default_permissions"]
    options += [f"fsname={source}", "subtype=synd", f"max_read={max_read}"]
    if allow_other:
        options.append("allow_other")
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    with ours:
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            tool_run = subprocess.Popen(
                [tool, "-o", ",".join(options), "--", os.fspath(mountpoint)],
                env=os.environ | {"_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
            )
        ours.settimeout(_TOOL_WAIT_S)
        try:
            _, fds, _, _ = socket.recv_fds(ours, 16, 1)
        except TimeoutError:
            fds = []
        try:
            _, told = tool_run.communicate(timeout=_TOOL_WAIT_S)
        except subprocess.TimeoutExpired:
            tool_run.kill()
            _, told = tool_run.communicate()
    if fds:
        os.set_inheritable(fds[0], False)
        return fds[0]
    text = told.decode(errors="replace").strip() or f"it ended with {tool_run.returncode}"
    hint = ""
    if "not permitted" in text or "Permission denied" in text:
        hint = "the folder must be yours, and the machine must let users mount FUSE filesystems"
    raise ConfigError(f"cannot mount at {mountpoint}: {text}", hint=hint)


def _others_allowed() -> bool:
    try:
        lines = _FUSE_CONF.read_text().splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)


def unmount(mountpoint: Path, *, lazy: bool = False) -> bool:
    """Unmounts; False when nothing was mounted. Raises Busy when files are open and not `lazy`.

    Lazily, the name goes at once and the connection when the last file is closed.
    """
    if find_mount(mountpoint) is None:
        return False
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
        if libc.umount2(os.fsencode(os.path.abspath(mountpoint)), flags) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOENT):
            return False
        text = os.strerror(code)
        busy = code == errno.EBUSY
    else:
        done = subprocess.run(
            [_fusermount(), "-u", *(["-z"] if lazy else []), "--", os.fspath(mountpoint)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TOOL_WAIT_S,
            check=False,
        )
        if done.returncode == 0:
            return True
        text = done.stderr.decode(errors="replace").strip()
        busy = "busy" in text
        if "not mounted" in text or "not found in" in text:
            return False
    if busy:
        raise Busy(
            f"{mountpoint} is in use",
            hint="close the files and shells in it (`fuser -vm` names them), or unmount lazily",
            path=os.fspath(mountpoint),
        )
    raise SyndError(f"cannot unmount {mountpoint}: {text}", path=os.fspath(mountpoint))


def is_dead(mountpoint: Path) -> bool:
    """Whether the mount's daemon is gone for good (ENOTCONN). Raises Busy when nobody answers.

    Asked on a thread: a mount whose daemon hangs would take the caller with it.
    """
    outcome: list[int] = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
            outcome.append(0)
        except OSError as error:
            outcome.append(error.errno or 0)

    thread = threading.Thread(target=ask, name="synd-stat", daemon=True)
    thread.start()
    thread.join(_STAT_WAIT_S)
    if not outcome:
        raise Busy(
            f"the mount at {mountpoint} does not answer",
            hint=f"end its daemon, or `umount -l {mountpoint}`",
            path=os.fspath(mountpoint),
        )
    return outcome[0] in (errno.ENOTCONN, errno.ECONNABORTED)


def check_mountpoint(mountpoint: Path) -> None:
    """Makes sure that a mount may be made here; clears away what a dead daemon left.

    Raises Busy (a live mount), NotEmpty, NotDirectory, ConfigError (missing), each with its mend.
    """
    there = find_mount(mountpoint)
    while there is not None and there.fs_type.startswith("fuse"):
        if not is_dead(mountpoint):
            raise Busy(
                f"{mountpoint} is already mounted ({there.fs_type})",
                hint="`synd status` tells whether it is synd's; else unmount it or choose another",
                path=os.fspath(mountpoint),
            )
        unmount(mountpoint, lazy=True)
        there = find_mount(mountpoint)
    try:
        mode = os.stat(mountpoint).st_mode
        if not stat.S_ISDIR(mode):
            raise NotDirectory(
                f"the mount point {mountpoint} is not a folder",
                hint="name a folder: `synd up --mount DIR`",
                path=os.fspath(mountpoint),
            )
        with os.scandir(mountpoint) as entries:
            if next(entries, None) is not None:
                raise NotEmpty(
                    f"the mount point {mountpoint} is not empty",
                    hint="a mount would hide what is in it; choose an empty folder",
                    path=os.fspath(mountpoint),
                )
    except FileNotFoundError as error:
        raise ConfigError(
            f"the mount point {mountpoint} does not exist",
            hint=f"mkdir -p {mountpoint}",
            path=os.fspath(mountpoint),
        ) from error
    except PermissionError as error:
        raise ConfigError(
            f"the mount point {mountpoint} may not be read",
            hint="choose a folder of your own",
            path=os.fspath(mountpoint),
        ) from error


def abort(connection: int) -> bool:
    """Ends every request of a connection, and the connection. False when fusectl is not there."""
    try:
        (_CONNECTIONS / str(connection) / "abort").write_text("1")
    except OSError:
        return False
    return True


def raise_readahead(connection: int, kilobytes: int) -> bool:
    """Lets the kernel read that far ahead; root only, else the bdi's 128 KiB stay."""
    setting = Path(f"/sys/class/bdi/0:{connection}/read_ahead_kb")
    try:
        if int(setting.read_text()) < kilobytes:
            setting.write_text(str(kilobytes))
    except (OSError, ValueError):
        return False
    return True
