"""What this machine knows of mounts, asked in ways that a dead mount cannot hang.

Whoever stats a path under a mount whose daemon is away waits with it, unkillably in the worst case.
So everything here reads ``/proc``, or asks through a child process that can be left behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from synd.errors import Busy, SyndError, ToolMissing

FSTYPE = "fuse.synd"
_OCTAL = re.compile(r"\\([0-7]{3})")
MNT_DETACH = 2


@dataclass(frozen=True, slots=True)
class MountPoint:
    """One line of mountinfo."""

    path: str
    device: str
    """major:minor"""
    fstype: str
    options: str

    @property
    def connection(self) -> str:
        """Number of the FUSE connection: a folder of /sys/fs/fuse/connections."""
        return self.device.partition(":")[2]


def all_mounts(text: str | None = None) -> list[MountPoint]:
    """Every mount of this namespace, oldest first."""
    if text is None:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            text = file.read()
    found = []
    for line in text.splitlines():
        left, _, right = line.partition(" - ")
        before, after = left.split(" "), right.split(" ")
        if len(before) < 6 or len(after) < 3:
            continue
        path = _OCTAL.sub(lambda m: chr(int(m[1], 8)), before[4])
        found.append(MountPoint(path, before[2], after[0], after[2]))
    return found


def synd_mounts() -> list[MountPoint]:
    """The mounts of synd, this user's and others'."""
    return [m for m in all_mounts() if m.fstype == FSTYPE]


def mount_at(path: str) -> MountPoint | None:
    """What is mounted on `path` itself (the topmost), or None."""
    return next((m for m in reversed(all_mounts()) if m.path == path), None)


def resolve(path: str | os.PathLike[str]) -> str:
    """`path` made absolute, its symlinks followed only as far as the first mount of synd on the way."""
    tops = {m.path for m in synd_mounts()}
    left = [p for p in os.path.join(os.getcwd(), os.path.expanduser(path)).split("/") if p]
    at = "/"
    links = 0
    while left:
        name = left.pop(0)
        if name == ".":
            continue
        if name == "..":
            at = os.path.dirname(at)
            continue
        step = os.path.join(at, name)
        if step in tops:
            # Below here only the daemon knows what is a link; dots are plain text.
            return os.path.normpath(os.path.join(step, *left))
        try:
            target = os.readlink(step)
        except OSError:
            at = step
            continue
        links += 1
        if links > 40:
            raise SyndError(os.strerror(errno.ELOOP), path=str(path))
        if target.startswith("/"):
            at = "/"
        left[:0] = [p for p in target.split("/") if p]
    return at


def answers(path: str, timeout_s: float) -> bool:
    """Whether the filesystem at `path` answers within `timeout_s`, without an error.

    Asked by a child process. One that hangs is left behind: nothing can end it before its answer.
    By statvfs as well as stat, which the kernel answers from its memory even when the daemon is dead.
    """
    child = subprocess.Popen(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import os, sys; os.stat(sys.argv[1]); os.statvfs(sys.argv[1])",
            path,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    try:
        return child.wait(timeout_s) == 0
    except subprocess.TimeoutExpired:
        child.kill()
        child.returncode = -9  # so that its destructor does not warn, nor anybody wait
        return False


@dataclass(frozen=True, slots=True)
class User:
    """A process that keeps a mount busy."""

    pid: int
    name: str
    how: str
    """cwd, root, exe, open file or mapped file, and which."""


def users(path: str) -> list[User]:
    """The processes that use a mount, as far as we may see. Reads links in /proc only."""
    prefix = path.rstrip("/") + "/"
    found = []
    with os.scandir("/proc") as listing:
        entries = list(listing)
    for entry in entries:
        if not entry.name.isdecimal():
            continue
        if (how := _use(Path(entry.path), path, prefix)) is not None:
            found.append(User(int(entry.name), _name(Path(entry.path)), how))
    return found


def _use(process: Path, path: str, prefix: str) -> str | None:
    def inside(target: str) -> bool:
        return target == path or target.startswith(prefix)

    try:
        for what in ("cwd", "root", "exe"):
            if inside(target := os.readlink(process / what)):
                return f"{what} {target}"
        for fd in os.listdir(process / "fd"):
            if inside(target := os.readlink(process / "fd" / fd)):
                return f"open file {target}"
        with open(process / "maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(maxsplit=5)
                if len(fields) == 6 and inside(fields[5]):
                    return f"mapped file {fields[5]}"
    except OSError:
        # Another user's, or gone meanwhile.
        return None
    return None


def _name(process: Path) -> str:
    try:
        return (process / "comm").read_text().strip()
    except OSError:
        return "?"


def unmount(path: str, *, lazy: bool) -> None:
    """Takes a mount away. Raises Busy when it is in use and not `lazy`, ToolMissing without fusermount3."""
    if os.geteuid() == 0:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.umount2(os.fsencode(path), MNT_DETACH if lazy else 0) == 0:
            return
        code = ctypes.get_errno()
        if code == errno.EINVAL:
            return  # nothing is mounted there any more
        if code == errno.EBUSY:
            raise busy(path)
        raise SyndError(f"cannot unmount {path}: {os.strerror(code)}", path=path)
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    if tool is None:
        raise ToolMissing("fusermount3 is not on PATH", hint="install the package fuse3")
    flags = ["-u", "-z"] if lazy else ["-u"]
    done = subprocess.run(
        [tool, *flags, "--", path], capture_output=True, text=True, timeout=30, check=False
    )
    if done.returncode != 0 and mount_at(path) is not None:
        if "busy" in done.stderr.lower():
            raise busy(path)
        raise SyndError(f"cannot unmount {path}: {done.stderr.strip()}", path=path)


def busy(path: str) -> Busy:
    """The error that says who uses a mount."""
    using = users(path)
    shown = "; ".join(f"{u.name} (pid {u.pid}, {u.how})" for u in using[:5])
    more = f" and {len(using) - 5} more" if len(using) > 5 else ""
    who = f": {shown}{more}" if using else " by a process that you may not see"
    return Busy(
        f"{path} is in use{who}",
        hint="end it or leave the folder, or use `synd down --lazy`",
        path=path,
    )
