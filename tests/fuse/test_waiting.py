"""Answers that come later, never, or as an error: a reader gets its errno, and nothing hangs."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.support import mounts

pytestmark = pytest.mark.fuse


def test_many_readers_wait_at_once(mountpoint: Path) -> None:
    """Deferred answers cost no thread: 40 readers of answers 0.3 s away take hardly longer than one."""
    files = {f"f{n}": f"content {n}" for n in range(40)}
    with mounts.mounted(mountpoint, "MemoryTree", {"files": files, "defer_s": 0.3}):
        ran = mounts.python(
            "from concurrent.futures import ThreadPoolExecutor\n"
            "with ThreadPoolExecutor(40) as pool:\n"
            "    print(sorted(pool.map(lambda n: open(f'{argv[0]}/f{n}').read(), range(40)))[-1])",
            mountpoint,
            mountpoint=mountpoint,
        )

    assert ran.out == "content 9\n"
    assert ran.took_s < 8


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("offline", "No route to host"),
        ("offline-later", "No route to host"),
        ("broken", "Input/output error"),
        ("broken-later", "Input/output error"),
        ("broken-name", "Input/output error"),
        ("too-much", "Input/output error"),
        ("direct-too-much", "Input/output error"),
    ],
)
def test_errors_arrive_and_the_mount_lives(
    mountpoint: Path, transport: str, name: str, text: str
) -> None:
    """The filesystem's errors keep their errno, its bugs are EIO, and the next reader is served."""
    with mounts.mounted(mountpoint, "conformance", transport=transport):
        failed = mounts.run(["cat", mountpoint / name], mountpoint=mountpoint)
        served = mounts.run(["cat", mountpoint / "hello.txt"], mountpoint=mountpoint)

    assert (failed.status, served.out) == (1, "hello, world\n")
    assert text in failed.err


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize(
    ("name", "transports"),
    [
        ("direct-never", "kernel"),
        ("never", "kernel"),
        ("never-found", "kernel"),
        ("never", "libfuse"),
    ],
)
def test_blocked_reader_can_be_interrupted(
    mountpoint: Path, name: str, transports: str, signal_number: int
) -> None:
    """A signal ends a read, or a look-up, that would wait for ever; the request is given up."""
    with mounts.mounted(mountpoint, "conformance", transport=transports) as server:
        with subprocess.Popen(
            ["cat", str(mountpoint / name)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as reader:
            mounts.eventually(lambda: server.state()["waiting"], what="a waiting request")
            waiting = server.state()["waiting"]
            reader.send_signal(signal_number)
            reader.wait(5)
        if name != "never":
            mounts.eventually(lambda: not server.state()["waiting"], what="the request's end")
        alive = mounts.run(["cat", mountpoint / "hello.txt"], mountpoint=mountpoint)

    assert reader.returncode == -signal_number
    assert waiting[0][0] in ("read", "lookup")
    assert alive.out == "hello, world\n"


def test_interrupted_call_returns_eintr(mountpoint: Path) -> None:
    """A reader that handles the signal sees its call fail with EINTR once."""
    code = (
        "import signal, ctypes\n"
        "c = ctypes.CDLL(None, use_errno=True)\n"
        "f = os.open(argv[0], os.O_RDONLY)\n"
        "signal.signal(signal.SIGALRM, lambda *_: None)\n"
        "signal.siginterrupt(signal.SIGALRM, True)\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.3)\n"
        "b = ctypes.create_string_buffer(10)\n"
        "print(c.read(f, b, 10), errno.errorcode[ctypes.get_errno()])"
    )
    with mounts.mounted(mountpoint, "conformance") as server:
        ran = mounts.python(code, mountpoint / "direct-never", mountpoint=mountpoint)
        left = server.state()["waiting"]

    assert ran.out == "-1 EINTR\n"
    assert left == []


def test_abort_ends_every_waiting_reader(mountpoint: Path) -> None:
    """The last resort: aborting the connection fails all that wait, and the session closes."""
    with mounts.mounted(mountpoint, "conformance") as server:
        with subprocess.Popen(
            ["cat", str(mountpoint / "direct-never")], stderr=subprocess.PIPE, text=True
        ) as reader:
            mounts.eventually(lambda: server.state()["waiting"])
            mounts.abort(server.connection)
            reader.wait(5)
        closed = mounts.eventually(lambda: server.state()["closed"])

    assert reader.returncode == 1
    assert closed == "aborted"


def test_busy_threads_do_not_starve_the_mount(mountpoint: Path) -> None:
    """With another thread of the daemon busy in Python, look-ups still take well under 5 ms each."""
    with mounts.mounted(mountpoint, "WideTree", {"folders": 1, "files": 2000}, busy=1):
        ran = mounts.python(
            "t = time.perf_counter()\n"
            "for n in range(500): os.stat(f'{argv[0]}/f{n:06d}')\n"
            "print(500 / (time.perf_counter() - t))",
            mountpoint / "d0000",
            mountpoint=mountpoint,
        )

    assert float(ran.out) > 400
