"""`synd up`: starts the daemon and returns once the mount answers; adopts a mount that lives already."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.config import Config, Folders
    from synd.control import contract

Begun = tuple["subprocess.Popen[bytes] | None", Callable[[], None]]
"""The holder if it was started here, and how to tell the user that all is ready."""

DRAINING = "draining"
"""The state of a daemon that was asked to stop."""
LETTING_GO_S = 20.0
"""A daemon that `synd down --lazy` ends serves open files for 10 s still."""


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Mount")(up)


def up(
    mount: Annotated[
        str | None, typer.Option("--mount", "-m", metavar="PATH", help="Where to mount.")
    ] = None,
    project: Annotated[
        list[str] | None,
        typer.Option(
            "--project", "-p", metavar="ID", help="Show only this project; may be repeated."
        ),
    ] = None,
    transport: Annotated[
        str | None, typer.Option("--transport", metavar="kernel|libfuse", help="How to speak FUSE.")
    ] = None,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Let other users of this machine see the mount.")
    ] = False,
    foreground: Annotated[
        bool, typer.Option("--foreground", "-f", help="Stay until Ctrl-C, then unmount.")
    ] = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Longest wait for the mount.")
    ] = 60.0,
    as_json: Json = False,
) -> None:
    """Mount Synapse and return once the mount answers."""
    from synd import config as settings
    from synd.cli import mounts
    from synd.errors import ConfigError

    config = settings.load(
        flags={
            "mount": mount,
            "projects": project or None,
            "transport": transport,
            "allow_other": allow_other or None,
        }
    )
    if not config.mount.strip():
        # Taken for a path it would be the folder where the user happens to stand.
        raise ConfigError("mount names no folder", hint="name one: `synd up --mount DIR`")
    folders = settings.folders()
    path = mounts.resolve(config.mount)

    def begin() -> Begun:
        result, child = bring_up(config, folders, path, timeout_s=timeout, foreground=foreground)
        return child, lambda: output.emit(result, as_json=as_json, human=lambda: _tell(result))

    if foreground:
        stay(folders, path, begin, as_json=as_json)
    else:
        _, tell = begin()
        tell()


def bring_up(
    config: Config,
    folders: Folders,
    path: str,
    *,
    timeout_s: float,
    foreground: bool = False,
    environ: dict[str, str] | None = None,
) -> tuple[dict[str, Any], subprocess.Popen[bytes] | None]:
    """Makes `path` a mount that answers; what was done, and the holder if it was started here.

    Raises Busy when the daemon has mounted another path, the service's error when none of the projects
    that were asked for can be shown, and the daemon's own error when it cannot start.
    """
    from synd.errors import DaemonNotRunning

    with contextlib.suppress(DaemonNotRunning):
        return _bring_up(config, folders, path, timeout_s, foreground, environ)
    # Somebody took the one that was there down meanwhile.
    return _bring_up(config, folders, path, timeout_s, foreground, environ)


def _bring_up(
    config: Config,
    folders: Folders,
    path: str,
    timeout_s: float,
    foreground: bool,
    environ: dict[str, str] | None,
) -> tuple[dict[str, Any], subprocess.Popen[bytes] | None]:
    """As `bring_up`. Raises DaemonNotRunning when a daemon that it found has ended before its mount answered."""
    from synd.cli import mounts, process
    from synd.control.connect import Control
    from synd.control.hold import Holder
    from synd.errors import Busy, DaemonNotRunning, SyndError, by_name
    from synd.ids import entity_id, syn

    flags = _flags(config, path)
    wanted = [syn(entity_id(project)) for project in config.projects]
    missing: list[contract.Problem] = []
    child: subprocess.Popen[bytes] | None = None
    before_pid: int | None = None
    how = "started"
    with output.waiting(f"mounting {path}") as tick:
        status = Control(folders.socket).alive(timeout_s=min(timeout_s, 20.0))
        if status is not None and _let_go(status, path, timeout_s):
            status = None
        if status is not None:
            held = [m["path"] for m in status["mounts"]]
            if path not in held:
                raise Busy(
                    f"the daemon (pid {status['pid']}) has mounted {', '.join(held) or 'nothing'}",
                    hint=f"`synd down` first, then `synd up --mount {path}`; "
                    "or give a second daemon its own SYND_HOME",
                    path=path,
                )
            how = "adopted"
        else:
            process.prepare_mount_point(path)
            holder = Holder(folders.runtime)
            kept = holder.alive()
            if kept is not None:
                before = process.last_mount(folders)
                if before is not None and before != path and mounts.mount_at(before):
                    raise Busy(
                        f"the mount holder (pid {kept.get('pid')}) keeps {before}",
                        hint=f"`synd down` first, then `synd up --mount {path}`",
                        path=path,
                    )
                before_pid = process.daemon_pid(folders)
                how = "restarted"
                process.forget_startup(folders)
                try:
                    holder.start(flags)
                except DaemonNotRunning:
                    kept = None
            if kept is None:
                before_pid = process.settled(folders, path, timeout_s)
            if kept is None and before_pid is None:
                _refuse_foreign(path, timeout_s)
                how = "started"
                child = process.launch(
                    folders, process.Launch(path, flags, environ), foreground=foreground
                )
            process.remember(folders, path, flags)
        try:
            took_s = process.wait_answers(
                folders, path, timeout_s, child=child, starting=how != "adopted", tick=tick
            )
            if child is None:
                # The kernel answers a stat from its memory; only the API tells that a daemon is there.
                now = process.wait_alive(folders, max(1.0, timeout_s - took_s))
                if now["state"] == DRAINING:
                    raise DaemonNotRunning("the daemon is stopping", hint="`synd up` again")
                if now["pid"] == before_pid:
                    how = "adopted"  # it was there all the time; its socket was away for a moment
            if how == "started" and wanted:
                missing = _missing(wanted, folders, path)
            if missing and len(missing) == len(set(wanted)):
                raise by_name(missing[0]["type"])(missing[0]["title"], hint=missing[0]["hint"])
        except BaseException:  # Ctrl-C too
            if child is not None:
                # What we started and what does not work is not left lying about.
                with contextlib.suppress(SyndError):
                    process.end_all(folders, path, lazy=True)
                if child.poll() is None:
                    process.end_process(child.pid, 2.0)
                    child.wait()
            raise
    told: dict[str, Any] = {
        "mount": path,
        "how": how,
        "pid": process.daemon_pid(folders),
        "took_s": round(took_s, 3),
        "log": str(process.log_file(folders)),
        "missing": missing,
    }
    return told, child


def _let_go(status: contract.Status, path: str, timeout_s: float) -> bool:
    """Whether the daemon has ended that was stopping, or only served what was open in a mount taken away from it.

    By `umount -l`, or by a `synd down --lazy` that is under way. Raises Busy when it goes on.
    """
    from synd.cli import mounts, process
    from synd.errors import Busy

    if status["state"] == DRAINING:
        if process.wait_gone(status["pid"], timeout_s):
            return True
        raise Busy(
            f"the daemon (pid {status['pid']}) is stopping, and sends what is unsent first",
            hint="`synd up` again once it has; `synd down --timeout 0` makes it hurry",
            path=path,
        )
    if status["mounts"] and path not in [m["path"] for m in status["mounts"]]:
        return False
    there = mounts.mount_at(path)
    if there is not None and there.fstype == mounts.FSTYPE:
        return False
    if process.wait_gone(status["pid"], min(timeout_s, LETTING_GO_S)):
        return True
    if not any(p.get("path") == path for p in status["problems"]):
        return False
    raise Busy(
        f"{path} was unmounted while files are open there: the daemon (pid {status['pid']}) still serves them",
        hint="`synd down --lazy` ends it; then `synd up` again",
        path=path,
    )


def _missing(wanted: Sequence[str], folders: Folders, path: str) -> list[contract.Problem]:
    """Why projects that were asked for are not shown; nothing while the service cannot be asked."""
    from synd.control import contract
    from synd.control.connect import Control
    from synd.errors import SyndError

    control = Control(folders.socket)
    try:
        status: contract.Status = control.get(contract.STATUS, timeout_s=5.0)
        if not status["service"]["user"]:
            return []
        control.get(contract.LIST, target=path, timeout_s=10.0)
        status = control.get(contract.STATUS, timeout_s=5.0)
    except SyndError:
        return []
    return [problem for problem in status["problems"] if problem.get("entity") in wanted]


def _refuse_foreign(path: str, timeout_s: float) -> None:
    """Raises Busy when another daemon serves a mount at `path`: its answers are not ours to promise."""
    from synd.cli import mounts
    from synd.errors import Busy

    there = mounts.mount_at(path)
    if there is None or there.fstype != mounts.FSTYPE:
        return
    # A dead one answers with an error, and is cleared away by the daemon.
    if mounts.answers(path, min(5.0, timeout_s)):
        raise Busy(
            f"another daemon has mounted {path}",
            hint="choose another folder by --mount, or end that daemon with its own `synd down`",
            path=path,
        )


def _flags(config: Config, path: str) -> list[str]:
    flags = ["--mount", path, "--transport", config.transport]
    for project in config.projects:
        flags += ["--project", project]
    if config.allow_other:
        flags.append("--allow-other")
    return flags


def _tell(result: dict[str, Any]) -> None:
    match result["how"]:
        case "adopted":
            output.say(f"{result['mount']} is mounted already (daemon {result['pid']})")
        case "restarted":
            output.say(f"{result['mount']} lived on without its daemon, which runs again now")
        case _:
            output.say(f"mounted at {result['mount']} in {result['took_s']:.1f} s")
    for problem in result["missing"]:
        output.remark(f"synd: {problem['title']}")


def stay(
    folders: Folders,
    path: str,
    begin: Callable[[], Begun],
    *,
    as_json: bool,
) -> None:
    """Begins, tells, waits for Ctrl-C (or TERM) or the daemon's end, then takes the mount down.

    A second Ctrl-C ends the taking down. Interrupted before it has begun, raises KeyboardInterrupt.
    """
    from synd.cli import process
    from synd.cli.down import take_down

    begun = False
    child: subprocess.Popen[bytes] | None = None
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        child, tell = begin()
        begun = True
        tell()
        if not as_json:
            output.remark("Ctrl-C unmounts and ends")
        while process.daemon_pid(folders) or (child is not None and child.poll() is None):
            time.sleep(0.2)
        output.remark("synd: the daemon has ended")
    except KeyboardInterrupt:
        if not begun:
            # Between its success and our noting it, the mount may stand already.
            take_down(folders, timeout_s=0, lazy=True)
            raise
    result = take_down(folders, timeout_s=30.0, lazy=True)
    if child is not None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(10.0)
    if not as_json:
        output.remark(f"unmounted {path}")
    if result["left"]:
        raise typer.Exit(75)
