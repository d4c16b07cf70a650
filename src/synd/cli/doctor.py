"""`synd doctor`: looks at all that synd needs of this machine, and says how to mend what is amiss.

Every check is a function that returns findings and cannot hang: each has a bound, and none stats a
path under a mount. No daemon is needed; a running one is asked what only it knows.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.config import Config, Folders

OK, WARN, FAIL = "ok", "warn", "fail"
LOW_DISK = 5 << 30
INOTIFY_WATCHES = 65536
PASSTHROUGH_KERNEL = (6, 9)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check saw."""

    check: str
    verdict: str
    """ok, warn (works, but less well) or fail (does not work)"""
    saw: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the checks look; tests point it elsewhere."""

    config: Config
    folders: Folders
    mount: str
    device: Path = Path("/dev/fuse")
    fuse_conf: Path = Path("/etc/fuse.conf")
    inotify: Path = Path("/proc/sys/fs/inotify/max_user_watches")
    which: Callable[[str], str | None] = shutil.which
    """Where a program is."""
    has: Callable[[str], bool] | None = None
    """Whether a Python package is installed; None: looks for itself."""


Check = Callable[[Machine], Iterable[Finding]]


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Set up")(doctor)


def doctor(as_json: Json = False) -> None:
    """Check this machine. Exit 69 when something does not work."""
    from synd import config as settings
    from synd.cli.mounts import resolve

    config = settings.load()
    machine = Machine(config, settings.folders(), resolve(config.mount))
    with output.waiting("looking") as tick:
        findings = []
        for name, check in CHECKS.items():
            tick(f"looking at {name}")
            findings += run_check(name, check, machine)
    failed = [f for f in findings if f.verdict == FAIL]

    def tell() -> None:
        mark = {OK: "ok  ", WARN: "warn", FAIL: "FAIL"}
        for f in findings:
            output.say(f"{mark[f.verdict]}  {f.check:<12} {f.saw}")
            if f.mend:
                output.say(f"{'':<19}mend: {f.mend}")

    output.emit(
        {"healthy": not failed, "findings": [asdict(f) for f in findings]},
        as_json=as_json,
        human=tell,
    )
    if failed:
        raise typer.Exit(69)


def run_check(name: str, check: Check, machine: Machine) -> list[Finding]:
    """A check's findings. One that breaks is a finding too."""
    from synd.errors import SyndError

    try:
        return list(check(machine))
    except SyndError as error:
        return [Finding(name, FAIL, str(error), error.hint)]
    except OSError as error:
        return [Finding(name, WARN, f"could not look: {error}")]


def check_python(_: Machine) -> Iterable[Finding]:
    # An older one does not come this far: the package refuses to be installed there.
    yield Finding("python", OK, f"Python {platform.python_version()} at {sys.executable}")


def check_fuse(machine: Machine) -> Iterable[Finding]:
    device = machine.device
    if not device.exists():
        mend = "`modprobe fuse` as root; in a container add --device /dev/fuse --cap-add SYS_ADMIN"
        yield Finding("fuse", FAIL, f"there is no {device}", mend)
    elif not os.access(device, os.R_OK | os.W_OK):
        yield Finding("fuse", FAIL, f"{device} may not be opened", f"`chmod 666 {device}` as root")
    else:
        yield Finding("fuse", OK, f"{device} can be opened")


def check_fusermount(_: Machine) -> Iterable[Finding]:
    tool = shutil.which("fusermount3") or shutil.which("fusermount")
    if os.geteuid() == 0:
        yield Finding("fusermount", OK, "not needed: root mounts by itself")
    elif tool is None:
        mend = "install the package fuse3 (apt install fuse3, dnf install fuse3)"
        yield Finding("fusermount", FAIL, "fusermount3 is not on PATH", mend)
    elif not os.stat(tool).st_mode & 0o4000:
        mend = f"`chmod u+s {tool}` as root, or install the package fuse3 again"
        yield Finding("fusermount", FAIL, f"{tool} is not setuid root", mend)
    elif _no_new_privileges():
        mend = "start synd outside of that service or container, or drop its NoNewPrivileges"
        yield Finding("fusermount", FAIL, "this process may not gain privileges", mend)
    else:
        yield Finding("fusermount", OK, tool)


def _no_new_privileges() -> bool:
    with open("/proc/self/status") as file:
        return any(line.split() == ["NoNewPrivs:", "1"] for line in file)


def check_allow_other(machine: Machine) -> Iterable[Finding]:
    try:
        lines = machine.fuse_conf.read_text().splitlines()
    except OSError:
        lines = []
    allowed = any(line.strip() == "user_allow_other" for line in lines)
    if allowed or os.geteuid() == 0:
        yield Finding("allow-other", OK, "mounts may be shared with other users")
    else:
        verdict = FAIL if machine.config.allow_other else OK
        mend = f"have root add `user_allow_other` to {machine.fuse_conf}" if verdict == FAIL else ""
        yield Finding("allow-other", verdict, "mounts cannot be shared with other users", mend)


def check_passthrough(machine: Machine) -> Iterable[Finding]:
    release = platform.release()
    numbers = tuple(int(n) for n in release.split("-")[0].split(".")[:2] if n.isdecimal())
    if machine.config.transport != "kernel" or not machine.config.passthrough:
        yield Finding("passthrough", OK, "off by setting")
    elif numbers < PASSTHROUGH_KERNEL:
        mend = "Linux 6.9 or newer; until then cached files are served from the page cache"
        yield Finding("passthrough", WARN, f"Linux {release} cannot", mend)
    elif not _has_sys_admin():
        mend = "the system unit synd@.service has it; else the page cache serves cached files"
        yield Finding("passthrough", WARN, "the kernel asks for CAP_SYS_ADMIN", mend)
    else:
        yield Finding("passthrough", OK, f"Linux {release} can")


def _has_sys_admin() -> bool:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) & 1 << 21)
    return False


def check_folders(machine: Machine) -> Iterable[Finding]:
    f = machine.folders
    for name, folder in (
        ("config", f.config),
        ("state", f.state),
        ("cache", f.cache),
        ("runtime", f.runtime),
    ):
        there = folder
        while not there.exists() and there != there.parent:
            there = there.parent
        if not os.access(there, os.W_OK | os.X_OK) or os.statvfs(there).f_flag & os.ST_RDONLY:
            mend = "set SYND_HOME to a folder that you may write to"
            verdict = WARN if name == "config" else FAIL
            yield Finding(name, verdict, f"{folder} cannot be written", mend)
        elif folder.exists() and name != "config" and folder.stat().st_mode & 0o077:
            yield Finding(name, WARN, f"{folder} is open to others", f"chmod 700 {folder}")
        else:
            yield Finding(name, OK, str(folder))


def check_disk(machine: Machine) -> Iterable[Finding]:
    there = machine.folders.cache
    while not there.exists() and there != there.parent:
        there = there.parent
    free = shutil.disk_usage(there).free
    keep = machine.config.cache_keep_free_bytes
    seen = f"{output.size(free)} free for the cache, of which {output.size(keep)} are left alone"
    if free <= keep:
        mend = "`synd cache clear`, free some space, or lower cache_keep_free_bytes"
        yield Finding("disk", FAIL, seen, mend)
    elif free < keep + LOW_DISK:
        yield Finding("disk", WARN, seen, "put the cache on a larger disk (SYND_HOME)")
    else:
        yield Finding("disk", OK, seen)


def check_mount_point(machine: Machine) -> Iterable[Finding]:
    from synd.cli import mounts

    path = machine.mount
    there = mounts.mount_at(path)
    if there is not None:
        yield Finding("mount point", OK, f"{path} is mounted ({there.fstype})")
        return
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if folder == Path(path) and not folder.is_dir():
        yield Finding("mount point", FAIL, f"{path} is not a folder", "synd config set mount DIR")
    elif folder == Path(path) and os.listdir(folder):
        mend = "choose an empty folder: `synd config set mount DIR`"
        yield Finding("mount point", FAIL, f"{path} is not empty", mend)
    elif not os.access(folder, os.W_OK):
        mend = f"`synd config set mount DIR`, or as root: install -d -o {os.geteuid()} {path}"
        yield Finding("mount point", FAIL, f"{path} cannot be made or used", mend)
    else:
        yield Finding("mount point", OK, path)


def check_stale(_: Machine) -> Iterable[Finding]:
    from synd.cli import mounts

    dead = [m.path for m in mounts.synd_mounts() if not mounts.answers(m.path, 3.0)]
    for path in dead:
        yield Finding(
            "mounts",
            WARN,
            f"{path} does not answer",
            f"`synd up` takes it over; else umount -l {path}",
        )
    if not dead:
        yield Finding("mounts", OK, "no dead mounts")


def check_inotify(machine: Machine) -> Iterable[Finding]:
    watches = int(machine.inotify.read_text())
    if watches < INOTIFY_WATCHES:
        mend = f"as root: sysctl fs.inotify.max_user_watches={INOTIFY_WATCHES * 8}"
        yield Finding("inotify", WARN, f"{watches} watches; tracked folders may need more", mend)
    else:
        yield Finding("inotify", OK, f"{watches} watches")


def check_credentials(machine: Machine) -> Iterable[Finding]:
    from synd.client.credentials import endpoints, find_token
    from synd.errors import NotLoggedIn

    service = endpoints(machine.config)
    try:
        token = find_token(service)
    except NotLoggedIn:
        yield Finding("credentials", WARN, f"no token for {service.name}", "synd login")
    else:
        yield Finding("credentials", OK, f"token for {service.name} from {token.source}")


def check_service(machine: Machine) -> Iterable[Finding]:
    import socket
    from urllib.parse import urlsplit

    from synd.client.credentials import endpoints

    service = endpoints(machine.config)
    parts = urlsplit(service.repo)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        # Reached or not is all that is asked: the client sends requests, the doctor does not.
        socket.create_connection((parts.hostname or "", port), timeout=5.0).close()
    except OSError as error:
        mend = "check the network, the proxy, or the setting `endpoint`; cached files stay readable"
        yield Finding("service", WARN, f"{service.name} cannot be reached: {error}", mend)
    else:
        yield Finding("service", OK, f"{service.name} can be reached")


def check_daemon(machine: Machine) -> Iterable[Finding]:
    from synd.cli.process import daemon_pid, log_file
    from synd.control.connect import Control

    status = Control(machine.folders.socket).alive(timeout_s=5.0)
    if status is None:
        pid = daemon_pid(machine.folders)
        if pid is not None:
            mend = f"see {log_file(machine.folders)}; `synd down` ends it"
            yield Finding("daemon", FAIL, f"pid {pid} runs, but does not answer", mend)
        else:
            yield Finding("daemon", OK, f"not running (log: {log_file(machine.folders)})")
        return
    yield Finding(
        "daemon", OK, f"{status['state']}, pid {status['pid']} (log: {log_file(machine.folders)})"
    )
    for problem in status["problems"]:
        yield Finding("daemon", WARN, problem["title"], problem.get("hint", ""))
    for mount in status["mounts"]:
        if not mount["passthrough"]:
            yield Finding("daemon", OK, f"no passthrough: {mount['passthrough_reason']}")


def check_tools(machine: Machine) -> Iterable[Finding]:
    """Who does each step of preparing files here, and what cannot be prepared."""
    from synd.errors import StageFailed
    from synd.processors.base import Tools
    from synd.processors.select import formats_table
    from synd.processors.tools import Step, Toolchain

    as_gff3 = machine.config.gtf == "gff3"
    chain = Toolchain(Tools(machine.config.tools), which=machine.which, has_module=machine.has)
    for row in chain.describe():
        step = Step(row["step"])
        if row["tool"]:
            who = " ".join(filter(None, (row["tool"], row["version"], row["path"])))
            better = f" ({row['better']})" if row["better"] else ""
            # bigBedToBed has no way to ask for its version.
            if row["path"] and not row["version"] and step is not Step.BIGBED:
                yield Finding(
                    "tools", WARN, f"{step}: {who} does not tell its version: it may not work",
                    f"mend or remove {row['path']}, or set tools = builtin",
                )  # fmt: skip
            else:
                yield Finding("tools", OK, f"{step}: {who}{better}")
        elif step is Step.GFF3 and not as_gff3:
            yield Finding(
                "tools", OK, f"{step}: nobody; it is only needed for the setting gtf=gff3"
            )
        else:
            try:
                chain.get(step)
            except StageFailed as error:
                yield Finding("tools", WARN, f"{step}: nobody; {error.message}", error.hint)
    lacking: dict[str, list[str]] = {}
    for one in formats_table(chain, gtf_as_gff3=as_gff3):
        if one.missing:
            lacking.setdefault(one.missing, []).append(str(one.format))
    for missing, formats in lacking.items():
        yield Finding("tools", WARN, f"cannot be prepared here: {', '.join(formats)}", missing)


CHECKS: dict[str, Check] = {
    "python": check_python,
    "fuse": check_fuse,
    "fusermount": check_fusermount,
    "allow-other": check_allow_other,
    "passthrough": check_passthrough,
    "folders": check_folders,
    "disk": check_disk,
    "mount point": check_mount_point,
    "mounts": check_stale,
    "inotify": check_inotify,
    "tools": check_tools,
    "credentials": check_credentials,
    "service": check_service,
    "daemon": check_daemon,
}
