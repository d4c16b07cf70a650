"""`synd down`: drains, unmounts, stops the daemon and the holder; and clears away what a dead one left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from synd.cli import output, unsent
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.config import Folders
    from synd.control.changes import Pending


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Mount")(down)
    app.command(rich_help_panel="Mount")(restart)


def down(
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, help="Longest wait for uploads.")
    ] = 30.0,
    lazy: Annotated[
        bool, typer.Option("--lazy", help="Unmount although files are open there.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Send what is unsent, unmount and stop. Exit 0 only if nothing is left unsent.

    What is left when the time is up, or cannot be sent, stays on this disk and goes at the next
    `synd up`: then the exit code is 75. Example: `synd down --timeout 300`.
    """
    from synd.config import folders

    with output.waiting("sending what is unsent"):
        result = take_down(folders(), timeout_s=timeout, lazy=lazy)
    output.emit(result, as_json=as_json, human=lambda: _tell(result))
    if result["left"]:
        raise typer.Exit(unsent.LEFT)


def take_down(folders: Folders, *, timeout_s: float, lazy: bool) -> dict[str, Any]:
    """Ends everything that belongs to these folders.

    Raises Busy, having changed nothing, when the mount is in use and not `lazy`.
    """
    from synd.cli import mounts, process
    from synd.control import contract
    from synd.control.connect import Control
    from synd.errors import DaemonNotRunning, DeadlineExceeded, SyndError

    control = Control(folders.socket)
    pending: Pending | None = None
    uploads = size = 0
    path = process.last_mount(folders)
    ended: list[str] = []
    unknown = ended_early = False
    try:
        status = control.alive(timeout_s=10.0)
    except DeadlineExceeded:
        # It hangs. Stopping it by signal loses nothing that was promised, as edits are on disk.
        status = None
    if status is not None:
        path = status["mounts"][0]["path"] if status["mounts"] else path
        if path is not None and not lazy and mounts.mount_at(path) and mounts.users(path):
            raise mounts.busy(path)
        asked: contract.ShutdownRequest = {
            "timeout_s": timeout_s,
            "lazy": lazy,
            "keep_mount": False,
        }
        try:
            reply: contract.ShutdownReply = control.post(
                contract.SHUTDOWN, asked, timeout_s=timeout_s * 2 + 30.0
            )
            pending = reply["pending"]
            uploads, size = pending["uploads"] + pending["tracked"], pending["bytes"]
        except (DaemonNotRunning, DeadlineExceeded) as error:
            ended_early = True
            output.remark(f"synd: {error}; ending it by signal")
        if process.wait_gone(status["pid"], 20.0):
            ended.append(f"daemon (pid {status['pid']})")
    else:
        uploads, size, unknown = process.left_unsent(folders)
        if path is not None and not lazy:
            there = mounts.mount_at(path)
            if there is not None and there.fstype == mounts.FSTYPE and mounts.users(path):
                raise mounts.busy(path)
    ended += process.end_all(folders, path, lazy=lazy)
    if ended_early:
        uploads, size, unknown = process.left_unsent(folders)
    still = mounts.mount_at(path) if path is not None else None
    if path is not None and still is not None and still.fstype == mounts.FSTYPE:
        raise SyndError(f"{path} is still mounted", hint=f"umount -l {path}", path=path)
    return {
        "stopped": ended,
        "mount": path,
        "drained": not uploads and not unknown,
        "left": uploads > 0 or unknown,
        "unknown": unknown,
        "uploads": uploads,
        "bytes": size,
        "pending": pending or {"uploads": uploads, "bytes": size, "items": [], "changes": []},
        "state": str(folders.state),
    }


def _tell(result: dict[str, Any]) -> None:
    if not result["stopped"]:
        output.say("nothing was running")
    else:
        output.say(f"stopped: {', '.join(result['stopped'])}")
    pending: Pending = result["pending"]
    if result["uploads"]:
        changes = output.count(result["uploads"], "change")
        output.say(f"{changes} ({output.size(result['bytes'])}) not sent yet:")
        for text in unsent.lines(pending, 20):
            output.say(text)
    elif result["unknown"]:
        output.say("the daemon was not there to say whether edits are unsent")
    if result["left"]:
        output.say(f"they are safe in {result['state']} and go at the next `synd up`")


def restart(as_json: Json = False) -> None:
    """Start the daemon anew under the live mount, as after an upgrade."""
    from synd.cli import process
    from synd.cli.up import bring_up
    from synd.config import folders as find
    from synd.config import load
    from synd.control import contract
    from synd.control.connect import Control
    from synd.errors import DaemonNotRunning

    folders = find()
    control = Control(folders.socket)
    status = control.get(contract.STATUS)
    if not status["mounts"]:
        raise DaemonNotRunning("the daemon has no mount", hint="`synd down`, then `synd up`")
    in_force = control.get(contract.CONFIG)
    control.post(contract.SHUTDOWN, {"timeout_s": 0, "lazy": False, "keep_mount": True})
    process.wait_gone(status["pid"], 30.0)
    path = status["mounts"][0]["path"]
    flags = {name: in_force[name] or None for name in ("projects", "transport", "allow_other")}
    bring_up(load(flags=flags), folders, path, timeout_s=60.0)
    now = process.wait_alive(folders, 30.0)
    output.emit(
        {"mount": path, "pid": now["pid"], "before": status["pid"]},
        as_json=as_json,
        human=lambda: output.say(f"daemon {now['pid']} goes on with {path}"),
    )
