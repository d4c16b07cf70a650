"""`syndd hold`: the small process that keeps a mount alive while its daemon is away.

It holds duplicates of the descriptors that the daemon hands it, starts the daemon, and starts it again
when it dies. It knows nothing of Synapse, of FUSE, or of what is in the states it keeps.

It is run for months beside every mount, so it stays small: it replaces itself by an interpreter without
`site`, imports a handful of modules, and formats its own log lines. `fdstore` has its clients' side and
the protocol.

Invariants:
- a daemon that exits 0, or with a code that a restart cannot mend, is not started again;
- when it gives up it lets go of every descriptor: readers then get an error instead of waiting for
  ever.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time

TYPE_CHECKING = False  # importing `typing` would be a twelfth of this process
if TYPE_CHECKING:
    from collections.abc import Sequence

    from synd.config import Folders

SOCKET = "hold.sock"
ADOPT = "SYND_HOLD_ADOPT"
"""In the environment of a holder that replaces another: the daemon lives already, and will call."""

DEATHS = 5
WITHIN_S = 60.0
"""So many deaths in such a time are a crash loop."""
BACKOFF_S = 0.05
BACKOFF_MAX_S = 5.0
ADOPT_WAIT_S = 15.0
SOCKET_CHECK_S = 5.0
"""A socket whose name was removed is missed so long; without it the next daemon would find no mount."""

# sysexits: usage, no such tool, no permission, configuration. Trying again gives the same again.
_HOPELESS = (64, 69, 77, 78)
_GAVE_UP = 70
_RUNS_ALREADY = 75
_PEER_WAIT_S = 5.0
_SO_PEERCRED_SIZE = 12


def main(folders: Folders, command: Sequence[str]) -> int:
    """Becomes the holder of `folders`; `command` starts the daemon. Does not return."""
    os.execv(  # ourselves  # noqa: S606  # ourselves
        sys.executable, [*command_line(os.fspath(folders.runtime)), *command]
    )


def command_line(runtime: str) -> list[str]:
    """The command line of a holder, up to the daemon's command."""
    # -I, -S: without `site` and what it imports the process is a fifth smaller. The two words after the
    # file are how people and tools find the process.
    return [sys.executable, "-I", "-S", os.path.abspath(__file__), "syndd", "hold", runtime]


def _log(level: str, event: str, **values: object) -> None:
    stamp = "" if "JOURNAL_STREAM" in os.environ else time.strftime("%Y-%m-%d %H:%M:%S,000 ")
    words = "".join(f" {key}={value}" for key, value in values.items())
    os.write(2, f"{stamp}{level} syndd.mount.holder {event}{words}\n".encode())


class _Kept:
    __slots__ = ("blob", "connection", "fd")

    def __init__(self, fd: int, connection: int, blob: bytes) -> None:
        self.fd = fd
        self.connection = connection
        self.blob = blob


class Holder:
    """One thread, one loop: the socket, the daemon's pidfd, signals, and a timer for the next start."""

    def __init__(self, runtime: str, command: list[str]) -> None:
        self._runtime = runtime
        self._command = command
        self._kept: dict[str, _Kept] = {}
        self._watchers: list[socket.socket] = []
        self._pid = 0
        self._pidfd = -1
        self._ours = False
        """The daemon is our child, so that its exit code can be had."""
        self._start_at: float | None = None
        self._deaths: list[float] = []
        self._served = False
        """The present daemon has handed a descriptor over, or taken one: it came as far as a mount."""
        self._exit: int | None = None
        self._listener: socket.socket | None = None

    def run(self) -> int:
        """The process's life; its exit code."""
        listener = self._listen()
        if listener is None:
            _log("ERROR", "hold.runs_already", socket=f"{self._runtime}/{SOCKET}")
            return _RUNS_ALREADY
        self._listener = listener
        wake_r, wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
        for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(caught, lambda *_: None)
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        poller.register(wake_r, select.POLLIN)
        adopting = bool(os.environ.pop(ADOPT, ""))
        self._start_at = time.monotonic() + (ADOPT_WAIT_S if adopting else 0)
        _log("INFO", "hold.ready", pid=os.getpid(), adopting=int(adopting))
        watched = -1
        while self._exit is None:
            if self._pidfd != watched:
                watched = self._pidfd
                if watched >= 0:
                    poller.register(watched, select.POLLIN)
            left = self._until_start()
            if left is not None and left <= 0:
                self._start()
                continue
            if not os.path.lexists(f"{self._runtime}/{SOCKET}"):
                listener = self._listen_anew(poller, listener)
            wait = SOCKET_CHECK_S if left is None else min(left, SOCKET_CHECK_S)
            for fd, _ in poller.poll(wait * 1000):
                if fd == watched:
                    poller.unregister(watched)
                    # The number may be given again at once, to the next daemon's.
                    watched = -1
                    self._died()
                elif fd == wake_r:
                    for number in os.read(wake_r, 64):
                        self._signalled(number)
                elif fd == listener.fileno():
                    self._serve(listener)
        listener.close()
        try:
            os.unlink(f"{self._runtime}/{SOCKET}")
        except FileNotFoundError:
            pass
        _log("INFO", "hold.ended", code=self._exit)
        return self._exit

    def _listen(self) -> socket.socket | None:
        os.makedirs(self._runtime, mode=0o700, exist_ok=True)
        # A socket's path may have 108 bytes only, a folder's descriptor spells any.
        folder = os.open(self._runtime, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        address = f"/proc/self/fd/{folder}/{SOCKET}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(address)
                except (FileNotFoundError, ConnectionRefusedError):
                    pass
                else:
                    listener.close()
                    return None
            try:
                os.unlink(address)
            except FileNotFoundError:
                pass
            before = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(before)
        finally:
            os.close(folder)
        listener.listen(16)
        return listener

    def _listen_anew(self, poller: select.poll, listener: socket.socket) -> socket.socket:
        """The socket to go on with."""
        if not os.path.isdir(os.path.dirname(self._runtime)):
            return listener  # nobody is logged in, or all of it was thrown away
        try:
            fresh = self._listen()
        except OSError:
            return listener  # its folder cannot be made, or not yet
        if fresh is None:
            return listener
        poller.unregister(listener)
        listener.close()
        poller.register(fresh, select.POLLIN)
        self._listener = fresh
        _log("WARNING", "hold.socket_made_anew", path=f"{self._runtime}/{SOCKET}")
        return fresh

    # The daemon.

    def _until_start(self) -> float | None:
        """Seconds until the daemon is to be started; None when it is not."""
        return None if self._start_at is None else self._start_at - time.monotonic()

    def _start(self) -> None:
        self._start_at = None
        if self._pid:
            return
        # The daemon gets the default signals: ours are handled in Python and would be ignored there.
        self._pid = os.posix_spawn(
            self._command[0],
            self._command,
            os.environ,
            setsigdef=[signal.SIGTERM, signal.SIGINT, signal.SIGHUP],
        )
        self._watch(self._pid, ours=True)
        _log("INFO", "hold.daemon_started", pid=self._pid, deaths=len(self._deaths))

    def _watch(self, pid: int, *, ours: bool) -> None:
        self._pid, self._ours, self._served = pid, ours, False
        self._pidfd = os.pidfd_open(pid)

    def _died(self) -> None:
        pid, ours = self._pid, self._ours
        os.close(self._pidfd)
        self._pid, self._pidfd = 0, -1
        # Of a daemon that another holder started, only this is known: a clean end drops the mount.
        code = (
            os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            if ours
            else 0
            if not self._kept
            else -1
        )
        now = time.monotonic()
        self._deaths = [at for at in self._deaths if now - at < WITHIN_S] + [now]
        _log("WARNING" if code else "INFO", "hold.daemon_ended", pid=pid, code=code)
        if code == 0:
            self._let_go()
            self._exit = 0
        elif code in _HOPELESS or not (self._served or self._kept):
            _log("ERROR", "hold.gave_up", reason="a restart cannot mend that", code=code)
            self._let_go()
            self._exit = code if code > 0 else _GAVE_UP
        elif len(self._deaths) >= DEATHS:
            _log("ERROR", "hold.gave_up", reason="crash_loop", deaths=DEATHS, within_s=WITHIN_S)
            self._let_go()
            self._exit = _GAVE_UP
        else:
            # The first death is made good at once: readers are waiting.
            step = len(self._deaths) - 1
            self._start_at = now + (min(BACKOFF_MAX_S, BACKOFF_S * 4**step) if step else 0)

    def _let_go(self) -> None:
        for name, kept in self._kept.items():
            aborted = True
            try:
                with open(f"/sys/fs/fuse/connections/{kept.connection}/abort", "w") as file:
                    file.write("1")
            except OSError:
                aborted = False
            # The last descriptor's end aborts the connection as well.
            os.close(kept.fd)
            _log("INFO", "hold.let_go", name=name, connection=kept.connection, aborted=int(aborted))
        self._kept.clear()

    def _signalled(self, number: int) -> None:
        """Signals are for the daemon; without one, the holder ends."""
        if number == signal.SIGCHLD:
            return
        if self._pid:
            os.kill(self._pid, number)
        elif number != signal.SIGHUP:
            self._let_go()
            self._exit = 0

    # The socket.

    def _serve(self, listener: socket.socket) -> None:
        client, _ = listener.accept()
        client.settimeout(_PEER_WAIT_S)
        keep = False
        try:
            keep = self._answer(client)
        except (OSError, ValueError) as error:
            _log("WARNING", "hold.request_failed", error=error)
        finally:
            if not keep:
                client.close()

    def _answer(self, client: socket.socket) -> bool:
        """Serves one request; True when the connection stays open."""
        peer = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _SO_PEERCRED_SIZE)
        peer_pid = int.from_bytes(peer[:4], sys.byteorder)
        peer_uid = int.from_bytes(peer[4:8], sys.byteorder)
        if peer_uid not in (os.geteuid(), 0):
            _log("WARNING", "hold.refused", uid=peer_uid)
            return False
        data, fds, _, _ = socket.recv_fds(client, 65536, 4)
        for fd in fds:
            os.set_inheritable(fd, False)
        try:
            while b"\n" not in data and len(data) < 1024:
                chunk = client.recv(65536)
                if not chunk:
                    raise ValueError("a request was cut short")
                data += chunk
            head, _, blob = data.partition(b"\n")
            op, name, connection, length = head.decode().split(" ")
            while len(blob) < int(length):
                chunk = client.recv(65536)
                if not chunk:
                    raise ValueError("a request was cut short")
                blob += chunk
            if op == "watch":
                # Never answered: its end tells the daemon that the holder is gone.
                self._watchers.append(client)
                return True
            self._do(client, op, name, int(connection), blob, fds, peer_pid)
        finally:
            for fd in fds:
                os.close(fd)
        return False

    def _do(
        self,
        client: socket.socket,
        op: str,
        name: str,
        connection: int,
        blob: bytes,
        fds: list[int],
        peer_pid: int,
    ) -> None:
        verdict, body, sent = "ok", b"", []
        if op == "put" and fds:
            before = self._kept.get(name)
            self._kept[name] = _Kept(os.dup(fds[0]), connection, blob)
            if before is not None:
                os.close(before.fd)
            self._belongs_to(peer_pid)
        elif op == "take":
            kept = self._kept.get(name)
            if kept is not None:
                body, sent = kept.blob, [kept.fd]
                self._belongs_to(peer_pid)
        elif op == "drop":
            gone = self._kept.pop(name, None)
            if gone is not None:
                os.close(gone.fd)
        elif op == "start":
            if blob:
                at = self._command.index("serve") + 1 if "serve" in self._command else 1
                flags = [word.decode() for word in blob.split(b"\0")[:-1]]
                self._command[at:] = [word for word in flags if word]
            if not self._pid:
                self._deaths.clear()
                self._start_at = time.monotonic()
        elif op == "status":
            body = self._status()
        elif op == "stop":
            self._exit = 0
        else:
            verdict, body = "error", f"there is no operation {op}".encode()
        answer = f"{verdict} {len(body)}\n".encode() + body
        if sent:
            done = socket.send_fds(client, [answer], sent)
            if answer[done:]:
                client.sendall(answer[done:])
        else:
            client.sendall(answer)
        if op == "stop":
            # Descriptors end with the process. With the daemon dead that ends the connection too.
            for kept in self._kept.values():
                os.close(kept.fd)
            self._kept.clear()

    def _belongs_to(self, pid: int) -> None:
        if not self._pid:
            self._start_at = None
            self._watch(pid, ours=False)
            _log("INFO", "hold.daemon_adopted", pid=pid)
        if pid == self._pid:
            self._served = True

    def _status(self) -> bytes:
        def quoted(text: str) -> str:
            plain = text.replace("\\", "\\\\").replace('"', '\\"')
            return '"' + "".join(c if c >= " " else f"\\u{ord(c):04x}" for c in plain) + '"'

        names = ",".join(quoted(name) for name in self._kept)
        command = ",".join(quoted(word) for word in self._command)
        return (
            f'{{"pid":{os.getpid()},"daemon":{self._pid or "null"},"deaths":{len(self._deaths)},'
            f'"names":[{names}],"command":[{command}]}}'
        ).encode()


if __name__ == "__main__":
    # argv: this file, the two words that name the process, the runtime folder, the daemon's command.
    sys.exit(Holder(sys.argv[3], sys.argv[4:]).run())
