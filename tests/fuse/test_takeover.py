"""The mount outlives its daemon: readers wait out its death and never see an error."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from synd.errors import SyndError
from syndd.mount import holder
from syndd.mount.fdstore import HolderStore
from tests.support import mounts

pytestmark = pytest.mark.fuse

SIZE = 160 << 20


@dataclass
class Held:
    """A mount served by a daemon that a holder keeps alive."""

    mountpoint: Path
    runtime: Path
    process: subprocess.Popen[bytes]
    store: HolderStore

    def status(self) -> dict[str, Any]:
        try:
            return self.store.status()
        except SyndError:
            return {}

    @property
    def log(self) -> str:
        return (self.runtime / "hold.log").read_text()

    def serving(self, *, besides: int = 0) -> int:
        """Waits until a daemon has taken the mount; its pid."""

        def look() -> int:
            status = self.status()
            pid = status.get("daemon") or 0
            return pid if pid != besides and status.get("names") and self.answers(pid) else 0

        return mounts.eventually(look, timeout_s=20, what="a serving daemon")

    def answers(self, pid: int) -> bool:
        return f'"ready": {pid}' in self.log

    def is_not(self, pid: int) -> bool:
        return bool(self.status().get("daemon") != pid)

    def kept(self) -> dict[str, Any]:
        """The holder's status, once it keeps a descriptor."""
        status = self.status()
        return status if status.get("names") else {}

    def kill(self) -> int:
        """kill -9 of the daemon; the pid of the next one, once it serves."""
        pid = self.serving()
        os.kill(pid, signal.SIGKILL)
        return self.serving(besides=pid)


@contextlib.contextmanager
def held(mountpoint: Path, tree: str, arguments: dict[str, Any], **options: Any) -> Iterator[Held]:
    runtime = mountpoint.parent / "run"
    runtime.mkdir(exist_ok=True)
    command = mounts.server_command(
        mountpoint,
        tree,
        arguments,
        runtime=str(runtime),
        hold=str(runtime / holder.SOCKET),
        **options,
    )
    with (runtime / "hold.log").open("ab") as sink:
        process = subprocess.Popen(
            [*holder.command_line(str(runtime)), *command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=mounts.environment(),
        )
    mount = Held(mountpoint, runtime, process, HolderStore(runtime / holder.SOCKET, guard=False))
    try:
        mount.serving()
        yield mount
    finally:
        last = mount.status()
        mounts.clear(mountpoint)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(5)
        for pid in (last.get("daemon"), last.get("pid")):
            if pid and pid != process.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file that takes a while to read, and some others."""
    folder = tmp_path_factory.mktemp("source")
    block = os.urandom(1 << 20)
    with (folder / "big").open("wb") as file:
        for number in range(SIZE >> 20):
            file.write(number.to_bytes(8, "big") + block[8:])
    for number in range(20):
        (folder / f"small{number}").write_bytes(b"%d" % number)
    return folder


SLOWLY = """
import hashlib
f = open(argv[0], 'rb', buffering=0)
m = hashlib.md5(); print('begin', flush=True)
pieces = int(argv[1])
for n in range(pieces):
    sys.stdin.readline()
    left = os.fstat(f.fileno()).st_size // pieces if n < pieces - 1 else 1 << 40
    while left and (b := f.read(min(left, 1 << 20))):
        m.update(b); left -= len(b)
    print(n, flush=True)
print(m.hexdigest())
"""


@pytest.mark.parametrize("how", ["slice", "bytes", "passthrough"])
def test_reader_survives_killed_daemons(mountpoint: Path, source: Path, how: str) -> None:
    """md5sum of a big file through four kill -9 and restarts has the right sum and no error."""
    with held(mountpoint, "FolderTree", {"root": str(source), "how": how}) as mount:
        with mounts.client(SLOWLY, mountpoint / "big", "9") as reader:
            assert reader.line() == "begin"
            for piece in range(8):
                reader.say("go")
                if piece % 2:
                    # Killed while the piece is being read, or just after: both must do.
                    mount.kill()
                assert reader.line() == str(piece)
            reader.say("go")
            assert reader.line() == "8"
            told = reader.line()

        assert told == hashlib.md5((source / "big").read_bytes()).hexdigest()
        assert "Traceback" not in mount.log


def test_waiting_requests_are_asked_again(mountpoint: Path) -> None:
    """A read, a look-up and an open that the dead daemon had taken are answered by the next."""
    tree = {"files": {"doc": "served in the end"}, "defer_s": 0.4}
    with held(mountpoint, "MemoryTree", tree) as mount:
        with mounts.client("print(open(argv[0]).read())", mountpoint / "doc") as reader:
            for _ in range(3):
                mount.kill()
            told = reader.line()

        assert told == "served in the end"


@pytest.mark.skipif(os.geteuid() != 0, reason="passthrough needs CAP_SYS_ADMIN")
def test_passthrough_handle_survives_and_is_not_mixed(mountpoint: Path, source: Path) -> None:
    """A file opened with passthrough before the death is read during it; later opens of it, asked for
    in either way, succeed; and when all is closed no handle is left."""
    with held(mountpoint, "FolderTree", {"root": str(source), "how": "passthrough"}) as mount:
        code = (
            "a = open(argv[0], 'rb'); print(len(a.read(1 << 20)), flush=True); sys.stdin.readline()\n"
            "print(len(a.read(1 << 20)), flush=True); sys.stdin.readline()\n"
            "b = open(argv[0], 'rb'); print(len(b.read(1 << 20)))\n"
            "a.close(); b.close(); c = open(argv[0], 'rb'); print(len(c.read(1 << 20)))"
        )
        with mounts.client(code, mountpoint / "big") as reader:
            assert reader.line() == str(1 << 20)
            pid = mount.serving()
            os.kill(pid, signal.SIGKILL)
            reader.say("while it is away")
            away = reader.line()
            mount.serving(besides=pid)
            mount.kill()
            reader.say("and after")
            after = [reader.line() for _ in range(2)]

        assert [away, *after] == [str(1 << 20)] * 3
        assert "passthrough_failed" not in mount.log


def test_cached_handle_keeps_later_opens_cached(mountpoint: Path, source: Path) -> None:
    """A file that is open through the cache is not opened with passthrough by the next daemon."""
    arguments = {"root": str(source), "how": "bytes"}
    with held(mountpoint, "FolderTree", arguments) as mount:
        code = (
            "a = open(argv[0], 'rb'); a.read(1); print('open', flush=True); sys.stdin.readline()\n"
            "b = open(argv[0], 'rb'); print(len(b.read(1 << 20)))"
        )
        with mounts.client(code, mountpoint / "big") as reader:
            reader.line()
            # The next daemon would rather use passthrough.
            command = mount.status()["command"]
            other = [word.replace('"how": "bytes"', '"how": "passthrough"') for word in command]
            assert other != command
            mount.store.start(other[1:])
            mount.kill()
            reader.say("go")
            told = reader.line()

        assert told == str(1 << 20)


def test_listing_goes_on_after_a_death(mountpoint: Path) -> None:
    """A folder that is half listed is listed to its end, each name once."""
    with held(mountpoint, "MemoryTree", {"wide": 5000}) as mount:
        code = (
            "d = os.scandir(argv[0]); n = [next(d).name for _ in range(1000)]\n"
            "print('half', flush=True); sys.stdin.readline()\n"
            "n += [e.name for e in d]; print(len(n), len(set(n)))"
        )
        with mounts.client(code, mountpoint / "wide") as reader:
            reader.line()
            mount.kill()
            reader.say("go")
            told = reader.line()

        assert told == "5000 5000"


def test_clean_end_ends_the_holder(mountpoint: Path) -> None:
    """A daemon that unmounts and exits 0 is not started again."""
    with held(mountpoint, "MemoryTree", {}) as mount:
        subprocess.run(["umount", mountpoint], check=True, timeout=10)
        code = mount.process.wait(10)

    assert code == 0
    assert mounts.connection_at(mountpoint) is None


def test_crash_loop_is_given_up(mountpoint: Path) -> None:
    """After five deaths within a minute the readers get an error instead of waiting for ever."""
    with held(mountpoint, "conformance", {}) as mount:
        with mounts.client(
            "try: open(argv[0]).read()\nexcept OSError as e: print(errno.errorcode[e.errno])",
            mountpoint / "direct-never",
        ) as reader:
            for _ in range(holder.DEATHS):
                pid = mount.serving()
                os.kill(pid, signal.SIGKILL)
                mounts.eventually(partial(mount.is_not, pid))
            code = mount.process.wait(10)
            told = reader.line()
        ran = mounts.run(["stat", mountpoint], timeout_s=10)

    assert code == 70
    assert told in ("ECONNABORTED", "EIO", "ENOTCONN")
    assert "not connected" in ran.err
    assert "crash_loop" in mount.log


def test_dead_holder_is_replaced(mountpoint: Path) -> None:
    """A holder that is killed is replaced by its daemon, and the next death of the daemon is survived."""
    with held(mountpoint, "MemoryTree", {"files": {"doc": "still here"}}) as mount:
        daemon = mount.serving()
        mount.process.kill()
        mount.process.wait(5)
        status = mounts.eventually(mount.kept, timeout_s=15, what="a new holder")
        with mounts.client("print(open(argv[0]).read())", mountpoint / "doc") as reader:
            after = mount.kill()
            told = reader.line()

        assert (status["daemon"], told) == (daemon, "still here")
        assert after != daemon


def test_failed_first_start_is_not_repeated(mountpoint: Path) -> None:
    """A daemon that dies before it ever had a mount fails once, with its own exit code."""
    runtime = mountpoint.parent / "run"
    ran = mounts.run([*holder.command_line(str(runtime)), "/bin/sh", "-c", "exit 78"], timeout_s=10)

    assert ran.status == 78
    assert ran.err.count("daemon_started") == 1


def test_holder_stays_small(mountpoint: Path) -> None:
    """The holder's resident memory is at most 12 MB."""
    with held(mountpoint, "MemoryTree", {}) as mount:
        status = Path(f"/proc/{mount.process.pid}/status").read_text()

    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    assert int(line.split()[1]) <= 12 * 1024


def test_second_holder_gives_way(mountpoint: Path) -> None:
    """One runtime folder has one holder."""
    with held(mountpoint, "MemoryTree", {}) as mount:
        ran = mounts.run([*holder.command_line(str(mount.runtime)), "/bin/true"], timeout_s=10)

        assert ran.status == 75
        assert mount.status()["pid"] == mount.process.pid
