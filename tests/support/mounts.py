"""Real mounts for tests: a server in a process of its own, a watchdog, commands with a time limit.

A process that waits for an unanswered FUSE request cannot be killed, so three rules hold here: client
and server are never one process; each mount has a watchdog that aborts its connection; each command
has a time limit, after which its mount is aborted before it is killed.
"""

from __future__ import annotations

import contextlib
import ctypes.util
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

REPO = Path(__file__).resolve().parents[2]
TREES = "tests.fuse.trees"
SCRATCH = "tests.support.scratchfs:ScratchFS"
"""A writable tree."""
CONNECTIONS = Path("/sys/fs/fuse/connections")
HEAD = "import errno, os, sys, time; argv = sys.argv[1:]\n"
T = TypeVar("T")
Run = Callable[..., str]
"""Runs a client and gives what it prints."""


def mount_fusectl() -> None:
    """Makes `abort` reachable; needs root once per machine."""
    if os.geteuid() == 0 and not any(CONNECTIONS.iterdir()) and not _has_fusectl():
        subprocess.run(
            ["mount", "-t", "fusectl", "none", str(CONNECTIONS)], timeout=10, check=False
        )


def _has_fusectl() -> bool:
    return any(
        line.split()[2] == "fusectl" for line in Path("/proc/mounts").read_text().splitlines()
    )


def abort(connection: int) -> None:
    with contextlib.suppress(OSError):
        (CONNECTIONS / str(connection) / "abort").write_text("1")


def connection_at(mountpoint: Path) -> int | None:
    """From mountinfo: asking the mount itself could block."""
    spelled = str(mountpoint)
    for plain in "\\ \t\n":
        spelled = spelled.replace(plain, f"\\{ord(plain):03o}")
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[4] == spelled:
            return int(words[2].partition(":")[2])
    return None


def eventually(check: Callable[[], T], *, timeout_s: float = 10.0, what: str = "") -> T:
    """The first true answer of `check`, asked again and again until the deadline."""
    end = time.monotonic() + timeout_s
    while True:
        answer = check()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"never came true: {what or check}")
        time.sleep(0.01)


@dataclass
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str
    took_s: float


@dataclass
class Server:
    """A mounted tree, served by a process of its own."""

    mountpoint: Path
    process: subprocess.Popen[str]
    ready: dict[str, Any] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def connection(self) -> int:
        return int(self.ready["connection"])

    def ask(self, what: str, **arguments: Any) -> Any:
        """Calls the tree's `do_…` method, or the session's `state`, in the server."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with self._lock:
            self.process.stdin.write(json.dumps({"do": what, "with": arguments}) + "\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise AssertionError(answer["error"])
        return answer["value"]

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("state")
        return found

    def kill(self) -> None:
        """kill -9."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(10)


def server_command(
    mountpoint: Path, tree: str, arguments: dict[str, Any] | None = None, **options: Any
) -> list[str]:
    """The command line of a server; `tree` names a factory in tests/fuse/trees.py."""
    return [
        sys.executable,
        str(Path(__file__).resolve()),
        json.dumps(
            {
                "mountpoint": str(mountpoint),
                "tree": tree,
                "arguments": arguments or {},
                "options": options,
            }
        ),
    ]


def environment(library: str = "") -> dict[str, str]:
    """Of a server; `library` names the libfuse to use."""
    path = os.pathsep.join(str(part) for part in (REPO / "src", REPO / "daemon", REPO))
    more = {"FUSE_LIBRARY_PATH": library} if library else {}
    return os.environ | {"PYTHONPATH": path, "PYTHONFAULTHANDLER": "1"} | more


def ways() -> dict[str, dict[str, Any]]:
    """The options of each way in which this machine can serve a mount, by name."""
    found: dict[str, dict[str, Any]] = {
        "kernel": {},
        "cached": {"passthrough": False},
        "libfuse": {"transport": "libfuse"},
    }
    # The binding takes version 2 when both are there.
    second, third = ctypes.util.find_library("fuse"), ctypes.util.find_library("fuse3")
    if second and third:
        found["libfuse3"] = {"transport": "libfuse", "library": third}
    return found


def knows_rename_flags(way: str) -> bool:
    """Whether a rename can exchange: libfuse 2 was made before that."""
    return way != "libfuse" or ctypes.util.find_library("fuse") is None


def start(
    mountpoint: Path,
    tree: str,
    arguments: dict[str, Any] | None = None,
    *,
    log: Path | None = None,
    before: Sequence[str] = (),
    **options: Any,
) -> Server:
    """Starts a server and waits until it says that it is ready; `before` is put before its command."""
    options.setdefault("runtime", str(mountpoint.parent))
    library = options.pop("library", "")
    where = log or mountpoint.parent / "server.log"
    with where.open("a") as sink:
        process = subprocess.Popen(
            [*before, *server_command(mountpoint, tree, arguments, **options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=sink,
            text=True,
            env=environment(library),
        )
    server = Server(mountpoint, process)
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
    finally:
        watchdog.cancel()
    if not line:
        process.communicate(timeout=10)
        raise AssertionError(f"the server did not start:\n{where.read_text()}")
    server.ready = json.loads(line)
    return server


def end(server: Server) -> None:
    """Ends the mount and its server, whatever state they are in."""
    connection = connection_at(server.mountpoint)
    if server.process.poll() is None and server.process.stdin is not None:
        with contextlib.suppress(OSError, ValueError):
            server.process.stdin.close()
        try:
            server.process.wait(5)
        except subprocess.TimeoutExpired:
            if connection is not None:
                abort(connection)
            server.process.kill()
            server.process.wait(10)
    for pipe in (server.process.stdin, server.process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    clear(server.mountpoint)


def clear(mountpoint: Path) -> None:
    """Takes a mount away by force, if there is one."""
    while (connection := connection_at(mountpoint)) is not None:
        abort(connection)
        subprocess.run(["umount", "-l", str(mountpoint)], timeout=10, check=False)


@contextlib.contextmanager
def mounted(
    mountpoint: Path,
    tree: str,
    arguments: dict[str, Any] | None = None,
    *,
    limit_s: float = 60.0,
    **options: Any,
) -> Iterator[Server]:
    """A served mount that ends with the block, and is aborted when the block takes too long."""
    mount_fusectl()
    if connection_at(mountpoint) is None:
        mountpoint.mkdir(parents=True, exist_ok=True)
    server = start(mountpoint, tree, arguments, **options)
    connection = connection_at(mountpoint)
    watchdog = threading.Timer(limit_s, lambda: abort(connection or 0))
    watchdog.daemon = True
    watchdog.start()
    try:
        yield server
    finally:
        watchdog.cancel()
        end(server)


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    timeout_s: float = 20.0,
    mountpoint: Path | None = None,
    stdin: str | None = None,
) -> Ran:
    """Runs a client program; aborts the mount first when it has to be killed."""
    began = time.monotonic()
    with subprocess.Popen(
        [os.fspath(word) for word in command],
        stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    ) as process:
        try:
            out, err = process.communicate(stdin, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            if mountpoint is not None and (connection := connection_at(mountpoint)) is not None:
                abort(connection)
            process.kill()
            out, err = process.communicate(timeout=10)
            raise AssertionError(f"{command} took over {timeout_s} s: {out} {err}") from None
    return Ran(process.returncode, out, err, time.monotonic() - began)


def python(
    code: str,
    *arguments: str | os.PathLike[str],
    timeout_s: float = 20.0,
    mountpoint: Path | None = None,
) -> Ran:
    """Runs a client in Python: `code` sees its arguments in `argv`."""
    return run(
        [sys.executable, "-S", "-c", HEAD + code, *arguments],
        timeout_s=timeout_s,
        mountpoint=mountpoint,
    )


def told(code: str, *arguments: object, mountpoint: Path, timeout_s: float = 20.0) -> str:
    """What a client in Python prints."""
    words = [str(argument) for argument in arguments]
    ran = python(code, *words, mountpoint=mountpoint, timeout_s=timeout_s)
    assert ran.status == 0, ran.err
    return ran.out.rstrip("\n")


def failing(code: str, *arguments: object, mountpoint: Path) -> str:
    """The errno's name with which a client in Python fails."""
    wrapped = (
        "try:\n"
        + "".join(f"    {line}\n" for line in code.splitlines())
        + "except OSError as error: print(errno.errorcode[error.errno])\nelse: print('succeeded')"
    )
    return told(wrapped, *arguments, mountpoint=mountpoint)


class Client:
    """A program of Python that goes on while the test does other things."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process

    def line(self, timeout_s: float = 20.0) -> str:
        """The next line that it prints. The client dies when none comes in time."""
        watchdog = threading.Timer(timeout_s, self.process.kill)
        watchdog.start()
        try:
            assert self.process.stdout is not None
            return self.process.stdout.readline().rstrip("\n")
        finally:
            watchdog.cancel()

    def say(self, text: str) -> None:
        """A line for its standard input."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()


@contextlib.contextmanager
def client(code: str, *arguments: str | os.PathLike[str]) -> Iterator[Client]:
    """Runs `code` (see `python`) beside the test; killed when the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-S", "-c", HEAD + code, *(os.fspath(a) for a in arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Client(process)
    finally:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=0.2)
        process.kill()
        process.communicate(timeout=10)


def serve(words: dict[str, Any]) -> None:
    """The server process: mounts, says so on stdout, obeys stdin, unmounts when that ends."""
    import dataclasses

    from synd.log import set_up
    from syndd.mount.fdstore import HolderStore
    from syndd.mount.session import MountOptions, MountSession, take

    set_up("DEBUG")
    module, _, name = words["tree"].rpartition(":")
    tree = getattr(importlib.import_module(module or TREES), name)(**words["arguments"])
    options = dict(words["options"])
    hold = options.pop("hold", None)
    switch_s = options.pop("switch_s", None)
    busy = options.pop("busy", 0)
    if switch_s:
        sys.setswitchinterval(switch_s)
    mountpoint = Path(words["mountpoint"])
    store = HolderStore(Path(hold)) if hold else None
    session = MountSession.start(
        tree,
        MountOptions(mountpoint=mountpoint, runtime=Path(options.pop("runtime")), **options),
        inherited=take(store, mountpoint) if store else None,
        store=store,
    )
    tree.notices = session.notices
    for _ in range(busy):
        threading.Thread(target=_burn, daemon=True).start()

    def say(value: Any) -> None:
        print(json.dumps(value), flush=True)

    def state() -> Any:
        return dataclasses.asdict(session.state())

    say(state() | {"ready": os.getpid()})
    if hold and not _piped():
        # Under a holder nobody talks to us; the mount's end is ours.
        session.wait_closed()
        return
    for line in sys.stdin:
        asked = json.loads(line)
        what, arguments = asked["do"], asked["with"]
        try:
            if what == "state":
                value = state()
            elif what == "flush":
                value = session.notices.flush(5.0)
            elif what == "stop":
                session.stop(**arguments)
                value = None
            else:
                value = getattr(tree, f"do_{what}")(**arguments)
            say({"value": value})
        except Exception as error:  # noqa: BLE001  # told to the test
            say({"error": f"{type(error).__name__}: {error}"})
    session.stop(lazy=True, timeout_s=2.0)


def _piped() -> bool:
    import stat

    return stat.S_ISFIFO(os.fstat(0).st_mode)


def _burn() -> None:
    """A thread that always wants the interpreter lock."""
    number = 0
    while True:
        number += 1


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
