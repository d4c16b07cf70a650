"""A file that must not be written in place: the writer gets another node and never notices.

And the same over a death of the daemon: what was asked for is done once, what is open stays open.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.fuse.test_takeover import held
from tests.support import mounts
from tests.support.mounts import SCRATCH

pytestmark = pytest.mark.fuse

OPENINGS = {
    "write": ("f = os.open('a', os.O_WRONLY); os.write(f, b'NEW'); os.close(f)", "NEW content"),
    "both": ("f = os.open('a', os.O_RDWR); print(os.read(f, 3)); os.write(f, b'!')", "old!content"),
    "append": ("f = os.open('a', os.O_WRONLY | os.O_APPEND); os.write(f, b'+')", "old content+"),
    "cut": ("f = os.open('a', os.O_WRONLY | os.O_TRUNC); os.write(f, b'N')", "N"),
    "create": ("f = os.open('a', os.O_WRONLY | os.O_CREAT); os.write(f, b'N')", "Nld content"),
    "truncate": ("os.truncate('a', 3)", "old"),
    "lengthen": ("os.truncate('a', 12)", "old content\0"),
    "empty": ("os.truncate('a', 0)", ""),
}


@pytest.mark.parametrize("act", OPENINGS)
def test_sealed_file_is_written_elsewhere(mountpoint: Path, way: dict[str, Any], act: str) -> None:
    """Each way to write succeeds at once, keeps the inode number, and leaves the old bytes to who has
    them open."""
    code, expected = OPENINGS[act]
    with mounts.mounted(
        mountpoint, SCRATCH, {"folder": str(mountpoint.parent / "s")}, **way
    ) as server:
        mounts.told(
            "open(argv[0], 'w').write('old content')", mountpoint / "a", mountpoint=mountpoint
        )
        mounts.eventually(lambda: server.state()["handles"] == 0)
        before = server.ask("seal", path="a")
        seen = mounts.told(
            "os.chdir(argv[0]); old = os.open('a', os.O_RDONLY); i = os.stat('a').st_ino\n"
            f"first = os.read(old, 4)\n{code}\n"
            "print(repr(open('a').read()), os.stat('a').st_size, os.stat('a').st_ino == i)\n"
            "print(first, os.read(old, 99), os.pread(old, 3, 0))",
            mountpoint,
            mountpoint=mountpoint,
        )
        after = server.ask("node", path="a")

    *_, new, old = seen.splitlines()
    assert new == f"{expected!r} {len(expected)} True"
    # Over libfuse a path has one size, and the kernel reads no further.
    if "transport" not in way or len(expected) >= len("old content"):
        assert old == "b'old ' b'content' b'old'"
    assert after > before


def test_later_openings_write_the_same_copy(mountpoint: Path, way: dict[str, Any]) -> None:
    """The second writer of a sealed file finds what the first one wrote."""
    with mounts.mounted(
        mountpoint, SCRATCH, {"folder": str(mountpoint.parent / "s")}, **way
    ) as server:
        place = mountpoint / "a"
        mounts.told("open(argv[0], 'w').write('0' * 9)", place, mountpoint=mountpoint)
        mounts.eventually(lambda: server.state()["handles"] == 0)
        server.ask("seal", path="a")
        write = "f = os.open(argv[0], os.O_WRONLY); os.pwrite(f, argv[1].encode(), int(argv[1]))"
        for number in (3, 5):
            mounts.told(write, place, str(number), mountpoint=mountpoint)
        seen = mounts.told("print(open(argv[0]).read())", place, mountpoint=mountpoint)

    assert seen == "000305000"


BEFORE = "os.mkdir('d'); open('a', 'w').write('here'); os.symlink('x', 'l')\n"
SLOW = {
    "mkdir": ("os.mkdir('new')", "a d l new"),
    "create": (
        "f = os.open('n', os.O_CREAT | os.O_EXCL | os.O_RDWR); os.write(f, b'x')",
        "a d l n",
    ),
    "symlink": ("os.symlink('x', 'new')", "a d l new"),
    "mknod": ("os.mkfifo('p')", "a d l p"),
    "rename": ("os.rename('a', 'b')", "b d l"),
    "unlink": ("os.unlink('a')", "d l"),
    "rmdir": ("os.rmdir('d')", "a l"),
    "open": ("f = os.open('a', os.O_WRONLY | os.O_APPEND); os.write(f, b'!')", "a d l"),
    "write": ("f = os.open('a', os.O_WRONLY | os.O_APPEND); os.write(f, b'!')", "a d l"),
    "flush": (
        "f = os.open('a', os.O_WRONLY | os.O_APPEND); os.write(f, b'!'); os.close(f)",
        "a d l",
    ),
    "setattr": ("os.truncate('a', 2)", "a d l"),
}


@pytest.mark.parametrize("change", SLOW)
def test_change_survives_a_death_before_its_answer(mountpoint: Path, change: str) -> None:
    """A daemon that dies after it made a change and before it said so: the next one says so, and the
    change is made once."""
    code, names = SLOW[change]
    arguments = {"folder": str(mountpoint.parent / "s"), "defer_s": 0.6, "slow": [change]}
    with held(mountpoint, SCRATCH, arguments, passthrough=change != "write") as mount:
        before = f"os.chdir(argv[0])\n{BEFORE}"
        mounts.told(before, mountpoint, mountpoint=mountpoint)
        handed_on = mount.log.count(f"slowly {change}")
        with mounts.client(f"os.chdir(argv[0]); {code}; print('done')", mountpoint) as client:
            mounts.eventually(lambda: mount.log.count(f"slowly {change}") > handed_on)
            mount.kill()
            told = client.line()
        left = mounts.told(
            "os.chdir(argv[0]); print(*sorted(os.listdir()))\n"
            "print(open('a').read() if os.path.exists('a') else '-')",
            mountpoint,
            mountpoint=mountpoint,
        )

        assert told == "done"
        assert "Traceback" not in mount.log

    contents = {"open": "here!", "write": "here!", "flush": "here!", "setattr": "he"}
    gone = change in ("rename", "unlink")
    assert left.split("\n") == [names, "-" if gone else contents.get(change, "here")]


@pytest.mark.parametrize("passthrough", [True, False])
def test_next_daemon_hears_of_open_files_first(mountpoint: Path, passthrough: bool) -> None:
    """A file that is open for writing is written during and after the daemon's death; the next daemon
    is told of it before anything else, hears of its flush and of its release."""
    arguments = {"folder": str(mountpoint.parent / "s")}
    with held(mountpoint, SCRATCH, arguments, passthrough=passthrough) as mount:
        code = (
            "f = os.open(argv[0], os.O_CREAT | os.O_RDWR); os.write(f, b'before ')\n"
            "print('open', flush=True); sys.stdin.readline(); os.write(f, b'away ')\n"
            "print('written', flush=True); sys.stdin.readline(); os.write(f, b'after')\n"
            "print(os.pread(f, 99, 0), os.fstat(f).st_size); os.close(f); print('closed', flush=True)"
        )
        with mounts.client(code, mountpoint / "a") as client:
            assert client.line() == "open"
            pid = mount.serving()
            os.kill(pid, signal.SIGKILL)
            client.say("now")
            assert client.line() == "written"
            mount.serving(besides=pid)
            inherited = mount.log.count("handle 1 inherited")
            client.say("now")
            told = client.line()
            assert client.line() == "closed"
            mounts.eventually(lambda: "handle 1 released" in mount.log)

        events = [line for line in mount.log.splitlines() if line.startswith("handle 1 ")]

    assert told == "b'before away after' 17"
    assert inherited == 1
    assert events == [
        f"handle 1 {event}" for event in ("opened", "inherited", "flushed", "released")
    ]
