"""Starting and stopping the daemon's processes, for `up`, `down` and `demo`.

The holder is started detached and starts the daemon; both log to ``syndd.log`` in the state folder.
Invariant: nothing here stats a path under a mount, and every wait has a bound.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synd.cli import mounts
from synd.config import Folders
from synd.control import contract
from synd.control.connect import Control, problem_error
from synd.control.hold import Holder
from synd.errors import CacheFull, ConfigError, DaemonNotRunning, DeadlineExceeded, SyndError

LOG_MAX = 8 << 20
"""A log larger than this is set aside at the next start."""
STARTUP = "startup.json"
"""How the latest start went: written by the daemon, in the runtime folder."""
LAST_UP = "last-up.json"
"""What `synd up` started, in the state folder."""
TICK_S = 0.05


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start."""

    mount: str
    flags: Sequence[str]
    """Flags of `syndd serve`."""
    environ: dict[str, str] | None = None


def log_file(folders: Folders) -> Path:
    return folders.state / "syndd.log"


def daemon_pid(folders: Folders) -> int | None:
    """The pid of a daemon that holds the instance lock, answering or not."""
    import fcntl

    try:
        with open(folders.state / "daemon.lock", "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                text = file.read(32).strip()
                return int(text) if text.isdigit() else None
    except OSError:
        return None
    return None


def startup(folders: Folders) -> dict[str, Any]:
    """The daemon's word about its latest start; empty when there is none."""
    try:
        found: dict[str, Any] = json.loads((folders.runtime / STARTUP).read_text())
    except (OSError, ValueError):
        return {}
    return found


def remember(folders: Folders, mount: str, flags: Sequence[str]) -> None:
    """Notes what was started, for a `synd down` that finds neither daemon nor holder."""
    with contextlib.suppress(OSError):
        folders.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = folders.state / f"{LAST_UP}.new"
        aside.write_text(json.dumps({"mount": mount, "flags": list(flags)}))
        aside.replace(folders.state / LAST_UP)


def last_mount(folders: Folders) -> str | None:
    """Where the latest `synd up` mounted."""
    try:
        return str(json.loads((folders.state / LAST_UP).read_text())["mount"])
    except (OSError, ValueError, KeyError):
        return None


def prepare_mount_point(path: str) -> None:
    """Makes the folder to mount on. Raises ConfigError with the mend."""
    if mounts.mount_at(path) is not None:
        return  # whatever is mounted there, a stat could hang; the daemon judges it
    try:
        os.makedirs(path, exist_ok=True)
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise ConfigError(f"the mount point {path} is not a folder", path=path) from error
        raise ConfigError(
            f"the mount point {path} cannot be made: {error.strerror}",
            hint="name a folder of yours: `synd up --mount DIR`",
            path=path,
        ) from error


def launch(folders: Folders, what: Launch, *, foreground: bool = False) -> subprocess.Popen[bytes]:
    """Starts the holder, and through it the daemon, in a session of their own."""
    try:
        folders.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = log_file(folders)
        with contextlib.suppress(FileNotFoundError):
            if log.stat().st_size > LOG_MAX:
                log.replace(log.with_suffix(".log.1"))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(
            f"the state folder {folders.state} cannot be used: {error.strerror or error}",
            hint="set SYND_HOME or XDG_STATE_HOME to a folder that you may write to",
            path=str(folders.state),
        ) from error
    forget_startup(folders)
    try:
        # -P: a folder named syndd where the user happens to stand must not be run.
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "syndd", "hold", *what.flags],
            stdin=subprocess.DEVNULL,
            stdout=None if foreground else out,
            stderr=None if foreground else out,
            cwd="/",
            env=what.environ,
            # Ctrl-C at the terminal is for the CLI, which then stops the daemon in order.
            start_new_session=True,
        )
    finally:
        os.close(out)


def wait_answers(
    folders: Folders,
    path: str,
    timeout_s: float,
    *,
    child: subprocess.Popen[bytes] | None = None,
    starting: bool = True,
    tick: Callable[[str], None] = lambda _text: None,
) -> float:
    """Waits until the mount answers; seconds it took. Without `starting`, the daemon is known to be up.

    Raises the daemon's own error when its start failed, DeadlineExceeded when it does not answer,
    DaemonNotRunning when one that was not started here has ended.
    """
    started = time.monotonic()
    while (waited := time.monotonic() - started) < timeout_s:
        if starting:
            _raise_failed_start(folders)
        running_now = child is not None or daemon_pid(folders) is not None
        if not running_now and Holder(folders.runtime).alive() is None:
            raise DaemonNotRunning("the daemon has ended meanwhile", hint="`synd up` starts it")
        there = mounts.mount_at(path)
        if there is not None and there.fstype == mounts.FSTYPE:
            tick("waiting for the mount to answer")
            if mounts.answers(path, min(5.0, max(0.5, timeout_s - waited))):
                return time.monotonic() - started
        if child is not None and child.poll() is not None and daemon_pid(folders) is None:
            # Its last word may have been written between our look and its end.
            _raise_failed_start(folders)
            if os.statvfs(folders.state).f_bavail == 0:
                # It could write neither its database nor a word into its log.
                raise CacheFull(
                    f"the daemon ended at once: the disk of {folders.state} is full",
                    hint="make room there; unsent edits on it are safe",
                    path=str(folders.state),
                )
            raise SyndError(
                f"the daemon ended at once (code {child.returncode})",
                hint=f"its log {log_file(folders)} ends with: {last_line(folders)}",
            )
        time.sleep(TICK_S)
    raise DeadlineExceeded(
        f"the mount at {path} did not answer within {timeout_s:g} s",
        hint=f"its log {log_file(folders)} ends with: {last_line(folders)}",
        path=path,
    )


def settled(folders: Folders, path: str, timeout_s: float) -> int | None:
    """The pid of a daemon that is there to stay; None: there is none, or the one that was about to end has."""
    end = time.monotonic() + timeout_s
    while (pid := daemon_pid(folders)) is not None and time.monotonic() < end:
        there = mounts.mount_at(path)
        if there is not None and there.fstype == mounts.FSTYPE:
            break
        time.sleep(TICK_S)
    return pid


def wait_alive(folders: Folders, timeout_s: float) -> contract.Status:
    """Waits until the control API answers. Raises as `wait_answers` does."""
    end = time.monotonic() + timeout_s
    while True:
        _raise_failed_start(folders)
        left_s = end - time.monotonic()
        with contextlib.suppress(DaemonNotRunning):
            status: contract.Status = Control(folders.socket).get(
                contract.STATUS, timeout_s=max(0.5, left_s)
            )
            return status
        if daemon_pid(folders) is None and Holder(folders.runtime).alive() is None:
            raise DaemonNotRunning("the daemon has ended meanwhile", hint="`synd up` starts it")
        if left_s <= 0:
            raise DeadlineExceeded(
                f"the daemon did not answer within {timeout_s:g} s",
                hint=f"its log {log_file(folders)} ends with: {last_line(folders)}",
            )
        time.sleep(TICK_S)


def _raise_failed_start(folders: Folders) -> None:
    told = startup(folders)
    if told.get("state") == "failed":
        raise problem_error(json.dumps(told.get("problem")).encode())


def forget_startup(folders: Folders) -> None:
    """Before a start: what the earlier one said must not be taken for this one's word."""
    with contextlib.suppress(OSError):
        (folders.runtime / STARTUP).unlink()


def last_line(folders: Folders) -> str:
    """The end of the daemon's log."""
    try:
        with open(log_file(folders), "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return lines[-1] if lines else "(empty)"


def wait_gone(pid: int, timeout_s: float) -> bool:
    """Waits until a process is over."""
    end = time.monotonic() + timeout_s
    while running(pid):
        if time.monotonic() >= end:
            return False
        time.sleep(TICK_S)
    return True


def running(pid: int) -> bool:
    """Whether a process runs (a zombie does not)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def end_process(
    pid: int, timeout_s: float, *, before_kill: Callable[[], object] = lambda: None
) -> None:
    """TERM, wait, KILL."""
    for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 5.0)):
        if number == signal.SIGKILL:
            before_kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        if wait_gone(pid, patience_s):
            return


def end_all(folders: Folders, path: str | None, *, lazy: bool) -> list[str]:
    """Ends what is left of the daemon, the holder and the mount, in that order; says what it ended."""
    ended: list[str] = []
    for _ in range(3):
        some, hung = _end_once(folders, path, lazy=lazy)
        ended += some
        if not hung:
            break
        # Of a daemon that hung a thread may have started another holder, and that another daemon.
    return ended


def _end_once(folders: Folders, path: str | None, *, lazy: bool) -> tuple[list[str], bool]:
    """What it ended, and whether the daemon had to be killed."""
    ended: list[str] = []
    hung = False
    holder = Holder(folders.runtime)
    held = holder.alive()

    def stop_holder() -> None:
        nonlocal held
        if held is None:
            return
        with contextlib.suppress(SyndError):
            holder.stop()
        if (keeper := held.get("pid")) and not wait_gone(int(keeper), 5.0):
            end_process(int(keeper), 2.0)
        ended.append(f"holder (pid {keeper})")
        held = None

    def without_successor() -> None:
        nonlocal hung
        hung = True
        stop_holder()

    if (pid := daemon_pid(folders)) is not None:
        end_process(pid, 10.0, before_kill=without_successor)
        ended.append(f"daemon (pid {pid})")
    if path is not None:
        there = mounts.mount_at(path)
        if there is not None and there.fstype == mounts.FSTYPE:
            # Nobody serves it any more: whoever is inside waits in vain, so no harm in lazy.
            mounts.unmount(path, lazy=lazy or held is None)
            ended.append(f"mount {path}")
    stop_holder()
    return ended, hung


def left_unsent(folders: Folders) -> tuple[int, int, bool]:
    """Changes and bytes that a daemon which is not there left unsent; and whether that cannot be told."""
    from synd.store.unsent import counts_in

    if not folders.database.exists():
        return 0, 0, _holds_files(folders)
    counts = counts_in(folders.database)
    if counts is None:
        return 0, 0, _holds_files(folders)
    return counts.all, counts.bytes, False


def _holds_files(folders: Folders) -> bool:
    """Whether files lie in the staging folder: edits that were not sent yet, perhaps."""
    with contextlib.suppress(OSError), os.scandir(folders.staged) as entries:
        return next(entries, None) is not None
    return False
