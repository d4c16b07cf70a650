"""`synd up`, `down`, `restart` as programs, over a real mount with a fake tree; and `synd demo` over the real one."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from synd.cli import mounts, process
from synd.config import folders
from synd.control import contract
from synd.control.connect import Control
from synd.control.hold import Holder
from tests.support.daemons import environment, until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no /dev/fuse on this machine"),
    pytest.mark.skipif(os.geteuid() != 0, reason="these tests mount as root"),
]


READ_TWICE = """
import sys
f = open(sys.argv[1])
print(f.read(), flush=True)
sys.stdin.readline()
f.seek(0)
print(f.read())
"""


class Home:
    """A SYND_HOME with the program at hand; whatever it started is ended."""

    def __init__(self, root: Path) -> None:
        self.root = root / "h"
        self.mount = root / "mnt"
        self.env = environment(self.root, FAKE_MOUNT="1")
        self.folders = folders(self.env)

    def synd(self, *argv: str, timeout_s: float = 60, **more: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [sys.executable, "-m", "synd.cli.main", *argv],
            env=self.env | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            cwd="/",
        )

    def up(self, *argv: str, **more: str) -> dict:
        done = self.synd("up", "--mount", str(self.mount), "--json", *argv, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def mounted(self) -> bool:
        there = mounts.mount_at(str(self.mount))
        return there is not None and there.fstype == mounts.FSTYPE

    def pid(self) -> int:
        pid = process.daemon_pid(self.folders)
        assert pid is not None
        return pid

    def holder(self) -> int:
        told = Holder(self.folders.runtime).alive()
        assert told is not None
        return int(told["pid"])


@pytest.fixture
def home(tmp_path):
    made = Home(tmp_path)
    yield made
    process.end_all(made.folders, str(made.mount), lazy=True)


class TestUp:
    def test_up_when_fresh_returns_once_the_mount_answers(self, home):
        """The mount point is made, files can be read, the type is fuse.synd."""
        told = home.up()

        assert told["how"] == "started"
        assert told["pid"] == home.pid()
        assert home.mounted()
        assert mounts.answers(f"{home.mount}/hello.txt", 10)

    def test_up_when_called_again_adopts_the_mount(self, home):
        """Exit 0, says so, and starts nothing."""
        first = home.up()
        second = home.up()

        assert second["how"] == "adopted"
        assert second["pid"] == first["pid"]

    def test_up_when_the_runtime_folder_was_removed_finds_the_daemon(self, home):
        """As at the end of a last login: the daemon lives, so it is adopted, and can be restarted and ended."""
        first = home.up()
        home.folders.runtime.rename(home.folders.runtime.with_name("gone"))
        second = home.up()

        assert second["how"] == "adopted"
        assert second["pid"] == first["pid"]
        until(lambda: Holder(home.folders.runtime).alive() is not None, 20)
        restarted = home.synd("restart")
        assert restarted.returncode == 0, restarted.stderr
        assert mounts.answers(f"{home.mount}/hello.txt", 10)
        assert home.synd("down").returncode == 0

    def test_up_when_the_daemon_is_stopping_waits_and_starts_another(self, home):
        """A mount that is about to go is not one that is there."""
        first = home.up(FAKE_STOP="slow")
        os.kill(first["pid"], signal.SIGTERM)
        until(lambda: Control(home.folders.socket).get(contract.STATUS)["state"] == "draining", 20)
        second = home.up()

        assert second["how"] != "adopted"
        assert second["pid"] != first["pid"]
        assert mounts.answers(f"{home.mount}/hello.txt", 10)

    def test_up_when_the_disk_of_the_state_is_full_says_so(self, home, full_disk):
        """The daemon can write nothing, not even why it ended."""
        done = home.synd("up", "--mount", str(home.mount), SYND_HOME=str(full_disk / "h"))

        assert done.returncode == 73
        assert f"the disk of {full_disk / 'h'}/state is full" in done.stderr

    def test_up_when_another_path_is_up_refuses_and_says_what_to_do(self, home):
        """One daemon has one mount."""
        home.up()
        done = home.synd("up", "--mount", f"{home.mount}2")

        assert done.returncode == 75
        assert str(home.mount) in done.stderr
        assert "synd down" in done.stderr

    def test_up_after_the_daemons_death_goes_on_with_the_mount(self, home):
        """The holder keeps the mount; whoever was reading never noticed."""
        before = home.up()["pid"]
        connection = mounts.mount_at(str(home.mount)).connection
        os.kill(before, signal.SIGKILL)
        after = home.up()

        until(lambda: process.daemon_pid(home.folders) not in (None, before), 20)
        assert after["how"] in ("restarted", "adopted")
        assert mounts.mount_at(str(home.mount)).connection == connection
        assert mounts.answers(f"{home.mount}/hello.txt", 10)

    def test_up_after_everything_was_killed_replaces_the_dead_mount(self, home):
        """ENOTCONN at the mount point is not the user's business."""
        pid = home.up()["pid"]
        os.kill(home.holder(), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not mounts.answers(str(home.mount), 5), 20)
        home.up()

        assert mounts.answers(f"{home.mount}/hello.txt", 10)

    def test_up_when_the_daemon_cannot_start_prints_why_with_its_code(self, home):
        """And leaves nothing behind."""
        done = home.synd("up", "--mount", str(home.mount), FAKE_START="config")

        assert done.returncode == 78
        assert "the mount point /x is a file" in done.stderr
        assert "name a folder" in done.stderr
        assert process.daemon_pid(home.folders) is None

    def test_up_when_the_mount_never_answers_gives_up_and_cleans_up(self, home):
        """The message ends with the log's last line."""
        done = home.synd(
            "up", "--mount", str(home.mount), "--timeout", "2", "--json", FAKE_START="slow"
        )

        assert done.returncode == 75
        assert json.loads(done.stdout)["error"]["type"] == "DeadlineExceeded"
        assert process.daemon_pid(home.folders) is None
        assert not home.mounted()

    def test_up_when_the_mount_point_is_a_file_says_so(self, home):
        """Before anything is started."""
        home.mount.write_text("in the way")
        done = home.synd("up", "--mount", str(home.mount))

        assert done.returncode == 78
        assert "not a folder" in done.stderr

    def test_up_when_the_mount_point_has_no_name_says_so(self, home):
        """An unset variable is not the folder where one happens to stand."""
        done = home.synd("up", "--mount", "")

        assert done.returncode == 78
        assert "names no folder" in done.stderr

    def test_up_when_a_project_is_no_id_leaves_nothing_behind(self, home):
        """Bad usage is told before the mount point is made."""
        done = home.synd("up", "--mount", str(home.mount / "a" / "b"), "--project", "My Project")

        assert done.returncode == 64
        assert not home.mount.exists()

    def test_up_in_the_foreground_ends_with_ctrl_c_and_unmounts(self, home):
        """Nothing is left running."""
        child = subprocess.Popen(
            [sys.executable, "-m", "synd.cli.main", "up", "-f", "--json", "-m", str(home.mount)],
            env=home.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        told = json.loads(child.stdout.readline())
        assert home.mounted()
        child.send_signal(signal.SIGINT)

        assert child.wait(30) == 0
        child.stdout.close()
        assert not home.mounted()
        assert not process.running(told["pid"])


class TestDown:
    def test_down_when_all_is_sent_ends_everything(self, home):
        """0; no mount, no daemon, no holder."""
        pid = home.up()["pid"]
        holder = home.holder()
        done = home.synd("down", "--json")

        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["drained"] is True
        assert not home.mounted()
        assert not process.running(pid)
        assert not process.running(holder)

    def test_down_when_something_is_unsent_ends_with_75_and_names_it(self, home):
        """It stays on this disk, and the user knows."""
        home.up(FAKE_UNSENT="/mnt/x/a.csv")
        done = home.synd("down", "--timeout", "0")

        assert done.returncode == 75
        assert "/mnt/x/a.csv" in done.stdout
        assert not home.mounted()

    def test_down_when_somebody_is_inside_names_them_and_changes_nothing(self, home):
        """With --lazy it goes through."""
        home.up()
        with subprocess.Popen(["sleep", "60"], cwd=home.mount) as sleeper:
            done = home.synd("down")

            assert done.returncode == 75
            assert f"sleep (pid {sleeper.pid}" in done.stderr
            assert "--lazy" in done.stderr
            assert mounts.answers(f"{home.mount}/hello.txt", 10)
            lazy = home.synd("down", "--lazy")
            sleeper.kill()

        assert lazy.returncode == 0
        assert not home.mounted()

    def test_down_when_the_daemon_is_dead_still_cleans_up(self, home):
        """Holder and daemon killed: the dead mount goes."""
        pid = home.up()["pid"]
        os.kill(home.holder(), signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
        until(lambda: not process.running(pid))
        done = home.synd("down")

        assert done.returncode == 0, done.stderr
        assert not home.mounted()

    def test_down_when_the_daemon_hangs_ends_it_all_the_same(self, home):
        """A stopped process answers nothing; the mount and it go anyway."""
        pid = home.up()["pid"]
        os.kill(pid, signal.SIGSTOP)
        try:
            done = home.synd("down", "--timeout", "1", timeout_s=90)
        finally:
            if process.running(pid):
                os.kill(pid, signal.SIGCONT)

        assert not home.mounted()
        assert not process.running(pid)
        assert done.returncode in (0, 75), done.stderr

    def test_down_when_nothing_runs_is_fine(self, home):
        """Twice is as good as once."""
        done = home.synd("down")

        assert done.returncode == 0
        assert "nothing was running" in done.stdout


def test_restart_when_files_are_open_nobody_notices(home):
    """An upgrade under a live mount: another process, the same connection, open files stay good."""
    before = home.up()["pid"]
    connection = mounts.mount_at(str(home.mount)).connection
    reader = subprocess.Popen(
        [
            sys.executable,
            "-c",
            READ_TWICE,
            f"{home.mount}/hello.txt",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert reader.stdout.readline() == "hello\n"
    done = home.synd("restart", "--json")
    out, _ = reader.communicate("\n", timeout=20)

    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["pid"] == home.pid() != before
    assert "hello" in out
    assert mounts.mount_at(str(home.mount)).connection == connection


def test_status_right_after_up_waits_for_the_api(home):
    """The socket listens before the API is imported: late, not refused."""
    home.up()

    assert home.synd("status", "--json").returncode == 0


@pytest.mark.slow
def test_demo_when_interrupted_leaves_nothing(tmp_path):
    """Registry, sample data, mount; then Ctrl-C, and all of it is gone."""
    mount = tmp_path / "demo"
    env = {k: v for k, v in os.environ.items() if k != "SYND_HOME"} | {"TMPDIR": str(tmp_path)}
    child = subprocess.Popen(
        [sys.executable, "-m", "synd.cli.main", "demo", "--json", "--mount", str(mount)],
        env=env,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        told = json.loads(child.stdout.readline())
        assert "project" in told, told
        listed = subprocess.run(
            ["ls", told["project"]], capture_output=True, text=True, timeout=30, check=True
        )
        old = subprocess.run(
            ["cat", f"{told['project']}/results/protocol.txt@1"],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert old.returncode == 0, old.stderr
    finally:
        child.send_signal(signal.SIGINT)
        code = child.wait(60)
        child.stdout.close()

    assert code == 0
    assert "results" in listed.stdout.split()
    assert old.stdout.startswith("1. Thaw")
    assert mounts.mount_at(str(mount)) is None
    assert not mount.exists()
    assert not Path(told["home"]).exists()
    assert not process.running(told["pid"])
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(told["url"].rsplit(":", 1)[1])), timeout=2)
