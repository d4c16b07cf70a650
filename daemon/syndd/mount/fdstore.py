r"""Who keeps the mount's descriptor while the daemon is away, and how the next daemon gets it back.

Two keepers behind one protocol: the holder process (`syndd hold`), and systemd's descriptor store. A
descriptor comes with a state: JSON values that its next owner needs.

The holder's wire protocol, over a stream socket, one request per connection:
`OP NAME CONNECTION LENGTH\n` and LENGTH bytes; the answer is `ok LENGTH\n` or `error LENGTH\n` and
LENGTH bytes. Descriptors travel with the first byte of a `put` and of a `take`'s answer.
"""

from __future__ import annotations

import array
import json
import logging
import os
import socket
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from synd.control.connect import socket_address
from synd.errors import DaemonNotRunning, ProtocolError, SyndError
from synd.log import fields
from syndd.mount import holder

log = logging.getLogger(__name__)

_WAIT_S = 10.0
_TICK_S = 0.05


class Kept(NamedTuple):
    """A descriptor and what was said about it."""

    fd: int
    state: dict[str, Any]


class FdStore(Protocol):
    """Keeps descriptors beyond the daemon's death. Names are words without spaces."""

    def put(self, name: str, fd: int, state: Mapping[str, Any]) -> None:
        """Keeps a duplicate of `fd`; replaces an earlier one of that name."""
        ...

    def take(self, name: str) -> Kept | None:
        """A duplicate of what is kept, which stays kept; None when there is nothing of that name."""
        ...

    def drop(self, name: str) -> None:
        """Forgets it: the mount is gone."""
        ...


class HolderStore:
    """The holder behind `run/hold.sock`. Raises DaemonNotRunning when no holder answers."""

    def __init__(self, path: Path, *, guard: bool = True) -> None:
        """`guard`: replace a holder that dies while the daemon lives."""
        self.path = path
        self._guard = guard
        self._lock = threading.Lock()
        self._mine: dict[str, tuple[int, dict[str, Any]]] = {}
        """What was put, to give it to the next holder. Descriptors are the caller's."""
        self._guarding = False
        self._command: list[str] = []

    def put(self, name: str, fd: int, state: Mapping[str, Any]) -> None:
        self._put(name, fd, dict(state))
        with self._lock:
            self._mine[name] = (fd, dict(state))
            begin = self._guard and not self._guarding
            self._guarding = self._guarding or begin
        if begin:
            threading.Thread(target=self._watch, name="synd-hold-guard", daemon=True).start()

    def _put(self, name: str, fd: int, state: dict[str, Any]) -> None:
        blob = json.dumps(state).encode()
        self._ask("put", name, blob, fd=fd, connection=int(state.get("connection", 0)))

    def take(self, name: str) -> Kept | None:
        blob, fds = self._ask("take", name)
        if not fds:
            return None
        return Kept(fds[0], json.loads(blob))

    def drop(self, name: str) -> None:
        with self._lock:
            self._mine.pop(name, None)
        self._ask("drop", name)

    def _watch(self) -> None:
        """Waits for the holder's end on an open connection, and starts another as long as we need one."""
        while True:
            try:
                self._command = self.status()["command"] or self._command
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                    with socket_address(self.path) as address:
                        sock.connect(address)
                    sock.sendall(b"watch - 0 0\n")
                    sock.recv(1)
            except (OSError, SyndError):
                pass
            with self._lock:
                if not self._mine:
                    self._guarding = False
                    return
            log.warning("hold.lost", extra=fields(socket=self.path))
            try:
                self._replace()
            except (OSError, SyndError):
                log.exception("hold.replace_failed")
                time.sleep(_WAIT_S)

    def _replace(self) -> None:
        if self._command:
            environ = os.environ | {holder.ADOPT: "1"}
            subprocess.Popen(
                [*holder.command_line(os.fspath(self.path.parent)), *self._command],
                stdin=subprocess.DEVNULL,
                cwd="/",
                env=environ,
                start_new_session=True,
            )
        end = time.monotonic() + _WAIT_S
        while True:
            try:
                with self._lock:
                    for name, (fd, state) in self._mine.items():
                        self._put(name, fd, state)
                return
            except DaemonNotRunning:
                if time.monotonic() > end:
                    raise
            time.sleep(_TICK_S)

    def status(self) -> dict[str, Any]:
        """The holder's own state: pid, daemon, deaths, names kept."""
        blob, _ = self._ask("status", "-")
        found: dict[str, Any] = json.loads(blob)
        return found

    def start(self, argv: list[str] | None = None) -> None:
        """Starts the daemon now if it does not run; `argv` replaces what comes after `serve`."""
        self._ask("start", "-", b"" if argv is None else "\0".join(argv).encode() + b"\0")

    def stop(self) -> None:
        """Ends the holder, without touching the daemon."""
        self._ask("stop", "-")

    def _ask(
        self, op: str, name: str, blob: bytes = b"", *, fd: int | None = None, connection: int = 0
    ) -> tuple[bytes, list[int]]:
        head = f"{op} {name} {connection} {len(blob)}\n".encode()
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(_WAIT_S)
            try:
                with socket_address(self.path) as address:
                    sock.connect(address)
                if fd is None:
                    sock.sendall(head + blob)
                else:
                    sent = socket.send_fds(sock, [head + blob], [fd])
                    if rest := (head + blob)[sent:]:
                        sock.sendall(rest)
                answer, fds, _, _ = socket.recv_fds(sock, 65536, 1)
                while chunk := sock.recv(65536):
                    answer += chunk
            except (FileNotFoundError, ConnectionError, TimeoutError) as error:
                raise DaemonNotRunning(
                    f"no mount holder answers at {self.path}", hint="`synd up` starts one"
                ) from error
        for got in fds:
            os.set_inheritable(got, False)
        verdict, _, body = answer.partition(b"\n")
        words = verdict.split()
        if len(words) != 2 or int(words[1]) != len(body):
            for got in fds:
                os.close(got)
            raise ProtocolError(f"the mount holder's answer to {op} was cut short")
        if words[0] != b"ok":
            raise SyndError(f"the mount holder refused {op}: {body.decode(errors='replace')}")
        return body, list(fds)


class SystemdStore:
    """systemd's descriptor store; needs `FileDescriptorStoreMax=` in the unit.

    The states lie in the runtime folder, as the store keeps descriptors only.
    """

    def __init__(self, runtime: Path, environ: Mapping[str, str] | None = None) -> None:
        self._runtime = runtime
        env = os.environ if environ is None else environ
        self._notify = env.get("NOTIFY_SOCKET", "")
        self._given = _listen_fds(env)

    @property
    def usable(self) -> bool:
        return bool(self._notify)

    def put(self, name: str, fd: int, state: Mapping[str, Any]) -> None:
        path = self._state_file(name)
        fresh = path.with_suffix(".new")
        fresh.write_text(json.dumps(state))
        fresh.chmod(0o600)
        fresh.replace(path)
        # A second descriptor of one name would be kept beside the first.
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")
        self._tell(f"FDSTORE=1\nFDNAME={name}", fd)

    def take(self, name: str) -> Kept | None:
        fd = self._given.get(name)
        if fd is None:
            return None
        try:
            state = json.loads(self._state_file(name).read_text())
        except (OSError, ValueError):
            return None
        return Kept(os.dup(fd), state)

    def drop(self, name: str) -> None:
        fd = self._given.pop(name, None)
        if fd is not None:
            os.close(fd)
        self._state_file(name).unlink(missing_ok=True)
        self._tell(f"FDSTOREREMOVE=1\nFDNAME={name}")

    def _state_file(self, name: str) -> Path:
        return self._runtime / f"fd-{name}.json"

    def _tell(self, text: str, fd: int | None = None) -> None:
        if not self._notify:
            raise DaemonNotRunning("systemd gave no NOTIFY_SOCKET", hint="run as a unit")
        address = self._notify
        if address.startswith("@"):
            address = "\0" + address[1:]
        fds = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendmsg([text.encode()], fds, 0, address)


def _listen_fds(env: Mapping[str, str]) -> dict[str, int]:
    """Descriptors that systemd passed to this process, by name (sd_listen_fds(3))."""
    try:
        if int(env.get("LISTEN_PID", "0")) != os.getpid():
            return {}
        count = int(env.get("LISTEN_FDS", "0"))
    except ValueError:
        return {}
    names = env.get("LISTEN_FDNAMES", "").split(":")
    found: dict[str, int] = {}
    for number in range(count):
        fd = 3 + number
        os.set_inheritable(fd, False)
        found[names[number] if number < len(names) else f"fd{fd}"] = fd
    return found
