"""Making and unmaking mounts: what stands in the way is named with its mend, a dead mount is cleared."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.errors import Busy, ConfigError, NotDirectory, NotEmpty
from syndd.mount import mounting
from tests.support import mounts

pytestmark = pytest.mark.fuse


def test_missing_mount_point_is_refused(tmp_path: Path) -> None:
    """The error names the folder and says how to make it."""
    with pytest.raises(ConfigError, match="does not exist") as caught:
        mounting.check_mountpoint(tmp_path / "none")

    assert caught.value.hint == f"mkdir -p {tmp_path / 'none'}"


def test_file_as_mount_point_is_refused(tmp_path: Path) -> None:
    """A mount point is a folder."""
    (tmp_path / "file").write_text("")

    with pytest.raises(NotDirectory):
        mounting.check_mountpoint(tmp_path / "file")


def test_folder_with_content_is_refused(tmp_path: Path) -> None:
    """A mount would hide what is there."""
    (tmp_path / "precious").write_text("")

    with pytest.raises(NotEmpty, match="not empty"):
        mounting.check_mountpoint(tmp_path)


def test_live_mount_is_busy(mountpoint: Path) -> None:
    """Nobody mounts over a mount that answers, and it goes on answering."""
    with mounts.mounted(mountpoint, "conformance"):
        with pytest.raises(Busy, match="already mounted"):
            mounting.check_mountpoint(mountpoint)

        assert mounts.run(["cat", mountpoint / "hello.txt"]).out == "hello, world\n"


def test_dead_mount_is_cleared_and_mounted_anew(mountpoint: Path) -> None:
    """What a killed daemon without a holder left (ENOTCONN) does not stand in the way."""
    first = mounts.start(mountpoint, "conformance")
    first.kill()
    dead = mounts.run(["stat", mountpoint]).err
    first.process.communicate()

    with mounts.mounted(mountpoint, "conformance"):
        served = mounts.run(["cat", mountpoint / "hello.txt"], mountpoint=mountpoint).out

    assert "not connected" in dead
    assert served == "hello, world\n"
    assert mounts.connection_at(mountpoint) is None


def test_stop_refuses_while_files_are_open(mountpoint: Path, transport: str) -> None:
    """A mount in use is Busy; lazily it goes at once, and the open file reads to its end."""
    with mounts.mounted(mountpoint, "conformance", transport=transport) as server:
        code = (
            "f = open(argv[0]); print('open', flush=True); sys.stdin.readline(); print(f.read())\n"
            "f.close(); print('closed', flush=True); sys.stdin.readline()"
        )
        with mounts.client(code, mountpoint / "hello.txt") as reader:
            reader.line()
            with pytest.raises(AssertionError, match="Busy"):
                server.ask("stop")
            mounting.unmount(mountpoint, lazy=True)
            reader.say("go")
            told = reader.line()
        mounts.eventually(lambda: server.state()["closed"], what="the end of the session")

    assert told == "hello, world"
    assert mounts.connection_at(mountpoint) is None


def test_lazy_stop_ends_waiting_readers(mountpoint: Path) -> None:
    """A reader that would wait for ever gets an error when the patience of a lazy stop is over."""
    with (
        mounts.mounted(mountpoint, "conformance") as server,
        subprocess.Popen(
            ["cat", str(mountpoint / "direct-never")], stderr=subprocess.PIPE
        ) as reader,
    ):
        mounts.eventually(lambda: server.state()["waiting"])
        server.ask("stop", lazy=True, timeout_s=0.2)
        reader.wait(5)

    assert reader.returncode == 1


def test_unmount_from_outside_closes_the_session(mountpoint: Path, transport: str) -> None:
    """`umount` is an end like another: the session closes and says why."""
    with mounts.mounted(mountpoint, "conformance", transport=transport) as server:
        subprocess.run(["umount", mountpoint], check=True, timeout=10)
        closed = mounts.eventually(lambda: server.state()["closed"])

    assert closed == "unmounted"


def test_mount_point_with_odd_characters(tmp_path: Path, transport: str) -> None:
    """Spaces, commas, backslashes and non-ASCII in the mount point's path are only characters."""
    mountpoint = tmp_path / "a b\\c \u00e4 d"
    with mounts.mounted(mountpoint, "conformance", transport=transport):
        ran = mounts.run(["cat", mountpoint / "hello.txt"])
        there = mounting.find_mount(mountpoint)
    try:
        assert ran.out == "hello, world\n"
        assert there is not None
        assert there.path == str(mountpoint)
        assert mounting.find_mount(mountpoint) is None
    finally:
        mounting.unmount(mountpoint, lazy=True)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A temporary folder that every user may enter, as pytest's own are root's alone."""
    with tempfile.TemporaryDirectory(prefix="synd-test-", ignore_cleanup_errors=True) as name:
        os.chmod(name, 0o755)
        (Path(name) / "m").mkdir()
        yield Path(name)


@pytest.fixture
def as_user(open_folder: Path) -> list[str]:
    """What to put before a command to run it as an ordinary user who may use /dev/fuse.

    It may read what root may, as the interpreter can lie in root's home. The device is one of its own,
    in a mount namespace of its own, as the machine's may be closed to users.
    """
    missing = [t for t in ("unshare", "nsenter", "setpriv", "fusermount3") if not shutil.which(t)]
    if os.geteuid() != 0 or missing:
        pytest.skip(f"needs root and {missing or 'nothing else'}")
    device = open_folder / "fuse"
    os.mknod(device, 0o666 | stat.S_IFCHR, os.stat("/dev/fuse").st_rdev)
    device.chmod(0o666)
    for path in (open_folder, open_folder / "m"):
        os.chown(path, USER, USER)
    script = (
        f"mount --bind {device} /dev/fuse && exec setpriv --reuid={USER} --regid={USER} "
        '--clear-groups --inh-caps=+dac_override --ambient-caps=+dac_override "$@"'
    )
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]


USER = 65534


@pytest.mark.parametrize("how", ["passthrough", "slice"])
def test_user_mounts_by_fusermount(open_folder: Path, as_user: list[str], how: str) -> None:
    """A user's mount works, reads without passthrough and says why, and is gone after the stop."""
    mountpoint = open_folder / "m"
    source = open_folder / "source"
    source.mkdir()
    (source / "file").write_bytes(b"user" * 100_000)
    server = mounts.start(
        mountpoint, "FolderTree", {"root": str(source), "how": how}, before=as_user
    )
    user = ["--setuid", str(USER), "--setgid", str(USER)]
    inside = ["nsenter", "-t", str(server.pid), "--mount", *user, "--"]
    try:
        ran = mounts.run([*inside, "md5sum", mountpoint / "file", source / "file"])
        state = server.state()
        server.ask("stop")
        left = mounts.run([*inside, "cat", "/proc/self/mountinfo"]).out
    finally:
        mounts.end(server)

    sums = {line.split()[0] for line in ran.out.splitlines()}
    assert (ran.status, len(sums)) == (0, 1), ran.err
    if how == "passthrough":
        assert "CAP_SYS_ADMIN" in state["passthrough_off"]
    assert "fuse.synd" not in "".join(x for x in left.splitlines() if str(mountpoint) in x)


def test_allow_other_needs_the_configuration(open_folder: Path, as_user: list[str]) -> None:
    """Without `user_allow_other` the error names the file and the line to add."""
    conf = Path("/etc/fuse.conf")
    if conf.exists() and "user_allow_other" in [x.strip() for x in conf.read_text().splitlines()]:
        pytest.skip("user_allow_other is set on this machine")

    with pytest.raises(AssertionError, match=r"fuse\.conf"):
        mounts.start(open_folder / "m", "conformance", before=as_user, allow_other=True)


def test_unknown_transport_is_refused(mountpoint: Path) -> None:
    """A misspelled transport is an error with the right names, and mounts nothing."""
    with pytest.raises(AssertionError, match=r"kernel or libfuse|no transport"):
        mounts.start(mountpoint, "conformance", transport="carrier-pigeon")

    assert mounts.connection_at(mountpoint) is None
