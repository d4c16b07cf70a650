"""`synd demo`: a local registry with sample data, mounted; in the foreground until Ctrl-C.

Touches nothing of the user's: without SYND_HOME everything lies in a temporary folder, which goes at the
end, and the token of the user's own account is not looked at.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.config import Config

READY_S = 30.0
SYSTEM_MOUNT = "/mnt/synapse"


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Local registry")(demo)


def demo(
    mount: Annotated[
        str | None,
        typer.Option(
            "--mount",
            "-m",
            metavar="PATH",
            help=f"Where to mount; else {SYSTEM_MOUNT} if it can be made, else ./synapse-demo.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Serve sample data from a local registry and mount it, until Ctrl-C."""
    from synd.cli import mounts

    path = mounts.resolve(mount or default_mount())
    made = not os.path.lexists(path)
    # Ctrl-C at any moment, and TERM, unwind what has been started so far, in order.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack:
        home = stack.enter_context(_home())
        registry = stack.enter_context(_registry(home))
        if made:
            stack.callback(_remove_empty, path)
        _run(home, registry, path, as_json=as_json)


def default_mount() -> str:
    """The place that the documentation speaks of, where it can be used; else a folder here.

    Makes nothing: what the demo makes it removes, and only that.
    """
    from synd.cli import mounts

    with contextlib.suppress(OSError):
        # Asked of mountinfo first, as a dead mount there would not answer a listing.
        free = mounts.mount_at(SYSTEM_MOUNT) is None
        if free and os.path.isdir(SYSTEM_MOUNT):
            free = os.access(SYSTEM_MOUNT, os.W_OK) and not os.listdir(SYSTEM_MOUNT)
        elif free:
            free = os.access(os.path.dirname(SYSTEM_MOUNT), os.W_OK)
        if free:
            return SYSTEM_MOUNT
    return os.path.abspath("synapse-demo")


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """The folder that everything lies in; the given one stays, a temporary one goes."""
    if given := os.environ.get("SYND_HOME"):
        yield Path(given).expanduser().absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="synd-demo-"))
    os.environ["SYND_HOME"] = str(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _registry(home: Path) -> Iterator[dict[str, Any]]:
    """A served registry that holds the sample project: {"url", "token", "pid", "project_id"}."""
    from synd.cli import process
    from synd.control.connect import problem_error
    from synd.errors import SyndError

    data = home / "registry"
    project = None
    with output.waiting("filling the local registry"):
        if not data.exists():
            project = _seed(data, home)
        child = subprocess.Popen(
            [
                sys.executable,
                "-P",
                "-m",
                "synd.cli.registry",
                "serve",
                "--data",
                str(data),
                "--json",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=open(home / "registry.log", "ab"),  # the child's, until its end  # noqa: SIM115  # the child's, until its end
            start_new_session=True,
            text=True,
        )
    try:
        assert child.stdout is not None  # asked for above
        line = _first_line(child, READY_S)
        if not line:
            raise SyndError("the local registry did not start", hint=f"see {home / 'registry.log'}")
        told: dict[str, Any] = json.loads(line)
        if "error" in told:
            raise problem_error(json.dumps(told["error"]).encode())
        if project is not None:
            _enrich(told, project)
        yield {**told, "project_id": project}
    finally:
        process.end_process(child.pid, 10.0)
        child.wait()
        if child.stdout is not None:
            child.stdout.close()


def _first_line(child: subprocess.Popen[str], timeout_s: float) -> str:
    """The child's first line, or nothing when it ends or stays silent."""
    import select

    assert child.stdout is not None  # asked for by the caller
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if select.select([child.stdout], [], [], 0.2)[0]:
            return child.stdout.readline()
        if child.poll() is not None:
            break
    return ""


def _seed(data: Path, home: Path) -> str:
    from synd.cli import sample
    from synd.registry.seed import import_folder

    with tempfile.TemporaryDirectory(dir=_made(home), prefix="sample-") as folder:
        files = Path(folder) / "files"
        sample.write_files(files)
        report = import_folder(data, files, sample.PROJECT)
    return str(report.describe()["project_id"])


def _made(folder: Path) -> Path:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder


def _enrich(registry: dict[str, Any], project: str) -> None:
    import asyncio

    from synd.cli import sample
    from synd.client.credentials import Token, from_base
    from synd.client.service import SynapseClient

    async def run() -> None:
        token = Token(registry["token"], "the registry")
        async with SynapseClient(from_base(registry["url"]), token) as client:
            await sample.enrich(client, project)

    asyncio.run(run())


def _run(home: Path, registry: dict[str, Any], path: str, *, as_json: bool) -> None:
    """Mounts, says what to try, and waits."""
    from synd.cli import sample
    from synd.cli.up import Begun, bring_up, stay
    from synd.config import folders, load

    os.environ["SYND_ENDPOINT"] = registry["url"]
    os.environ["SYNAPSE_AUTH_TOKEN"] = registry["token"]
    config: Config = load(flags={"mount": path})

    def begin() -> Begun:
        result, child = bring_up(config, folders(), path, timeout_s=60.0)
        told = {
            "mount": path,
            "project": f"{path}/{sample.PROJECT}",
            "project_id": registry["project_id"],
            "url": registry["url"],
            "home": str(home),
            "pid": result["pid"],
        }
        return child, lambda: output.emit(told, as_json=as_json, human=lambda: _tell(told))

    stay(folders(), path, begin, as_json=as_json)


def _tell(told: dict[str, Any]) -> None:
    project = shlex.quote(told["project"])
    home = shlex.quote(told["home"])
    output.say(f"""
{told["mount"]} shows the sample project of a registry on this machine. In another terminal:

  ls -l {project}
  head -3 {project}/metadata/specimens.csv
  cat {project}/results/protocol.txt@1
  md5sum {project}/large/signal.bin

  export SYND_HOME={home}
  synd status
  synd ls -l {project}
  synd why {project}/large/signal.bin
""")
    sys.stdout.flush()


def _remove_empty(path: str) -> None:
    with contextlib.suppress(OSError):
        os.rmdir(path)
