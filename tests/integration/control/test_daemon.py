"""The daemon's life in a process of its own, with a fake app: start, signals, second daemon, other users."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from synd.control import contract
from synd.errors import DaemonNotRunning
from tests.support.daemons import daemon, environment, until


def startup(home) -> dict:
    return json.loads((home / "run" / "startup.json").read_text())


class TestStart:
    def test_start_when_all_is_well_is_ready_and_private(self, tmp_path):
        """Folders 0700, socket 0600, ready told in the runtime folder."""
        with daemon(tmp_path / "h", "--mount", "/mnt/fake") as d:
            status = d.ready()

            assert status["pid"] == d.process.pid
            assert status["mounts"][0]["path"] == "/mnt/fake"
            assert startup(tmp_path / "h") == {"pid": d.process.pid, "state": "ready"}
            for folder in (d.folders.state, d.folders.cache, d.folders.runtime):
                assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            assert stat.S_IMODE(d.folders.socket.stat().st_mode) == 0o600

    def test_start_when_the_app_cannot_leaves_the_reason_and_its_exit_code(self, tmp_path):
        """`synd up` prints what the daemon wrote."""
        with daemon(tmp_path / "h", FAKE_START="config") as d:
            assert d.process.wait(20) == 78

        told = startup(tmp_path / "h")
        assert told["state"] == "failed"
        assert told["problem"]["title"] == "the mount point /x is a file"
        assert told["problem"]["hint"] == "name a folder"
        assert not d.folders.socket.exists()
        assert "the mount point /x is a file (name a folder)" in d.log.read_text()
        assert d.trace()[-1] == "stopped"

    def test_start_when_the_app_has_a_bug_leaves_that(self, tmp_path):
        """A foreign exception becomes code 70, with its traceback in the log."""
        with daemon(tmp_path / "h", FAKE_START="bug") as d:
            assert d.process.wait(20) == 70

        assert "ZeroDivisionError" in startup(tmp_path / "h")["problem"]["title"]
        assert "Traceback" in d.log.read_text()

    def test_start_when_a_setting_is_wrong_leaves_that(self, tmp_path):
        """Before anything is made."""
        with daemon(tmp_path / "h", SYND_FRESHNESS_S="soon") as d:
            assert d.process.wait(20) == 78

        assert "SYND_FRESHNESS_S" in startup(tmp_path / "h")["problem"]["title"]

    def test_start_when_a_flag_is_wrong_is_bad_usage(self, tmp_path):
        """64, so that the unit does not try again."""
        with daemon(tmp_path / "h", "--nonsense") as d:
            assert d.process.wait(20) == 64

    def test_start_when_a_folder_cannot_be_used_names_it_and_the_mend(self, tmp_path):
        """A file in the place of the state folder, as good as a read-only home."""
        (tmp_path / "h").mkdir()
        (tmp_path / "h" / "state").write_text("in the way")
        with daemon(tmp_path / "h") as d:
            assert d.process.wait(20) == 78

        assert "SYND_HOME" in startup(tmp_path / "h")["problem"]["hint"]
        assert str(tmp_path / "h" / "state") in d.log.read_text()

    def test_start_when_a_daemon_died_replaces_its_socket(self, tmp_path):
        """kill -9 leaves a socket that nobody serves; the lock tells the truth."""
        with daemon(tmp_path / "h") as first:
            first.ready()
            first.process.kill()
            first.process.wait()
            assert first.folders.socket.exists()
            with daemon(tmp_path / "h") as second:
                assert second.ready()["pid"] == second.process.pid

    @pytest.mark.parametrize("what", ["socket", "folder"])
    def test_socket_when_its_name_is_removed_is_made_anew(self, tmp_path, what):
        """A cleaner, or the end of the user's last login, must not leave a daemon that nobody can reach."""
        with daemon(tmp_path / "h") as d:
            d.ready()
            if what == "socket":
                d.folders.socket.unlink()
            else:
                # In one step: the daemon may make the socket anew at any moment.
                d.folders.runtime.rename(tmp_path / "gone")
            until(lambda: d.control.alive() is not None, 20)

            assert d.control.get(contract.STATUS)["pid"] == d.process.pid
            assert stat.S_IMODE(d.folders.socket.stat().st_mode) == 0o600
            assert stat.S_IMODE(d.folders.runtime.stat().st_mode) == 0o700
            d.process.send_signal(signal.SIGTERM)
            assert d.process.wait(20) == 0
            assert not d.folders.socket.exists()

    def test_start_when_another_runs_refuses_and_leaves_it_alone(self, tmp_path):
        """One daemon per state folder; the first one's word and socket stay."""
        with daemon(tmp_path / "h") as first:
            first.ready()
            with daemon(tmp_path / "h") as second:
                assert second.process.wait(20) == 75

            assert f"pid {first.process.pid}" in second.log.read_text()
            assert startup(tmp_path / "h")["pid"] == first.process.pid
            assert first.control.get(contract.STATUS)["pid"] == first.process.pid

    def test_start_when_the_runtime_folders_differ_still_is_one_per_state(self, tmp_path):
        """The lock lies with what it protects."""
        with daemon(tmp_path / "h") as first:
            first.ready()
            os.symlink(tmp_path / "h" / "state", tmp_path / "other-state")
            (tmp_path / "h2").mkdir()
            os.symlink(tmp_path / "h" / "state", tmp_path / "h2" / "state")
            with daemon(tmp_path / "h2") as second:
                assert second.process.wait(20) == 75

    def test_start_when_asked_to_stop_meanwhile_stops(self, tmp_path):
        """A mount that takes long can be given up."""
        with daemon(tmp_path / "h", FAKE_START="slow") as d:
            until(lambda: "start" in d.trace(), 20)
            d.process.send_signal(signal.SIGTERM)

            assert d.process.wait(20) == 0
        assert "started" not in d.trace()


class TestStop:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda n: n.name)
    def test_stop_when_asked_once_unmounts_and_ends_well(self, tmp_path, number):
        """0; nothing is left but the state."""
        with daemon(tmp_path / "h") as d:
            d.ready()
            d.process.send_signal(number)

            assert d.process.wait(20) == 0
        assert d.trace()[-2:] == ["stop keep_mount=False", "stopped"]
        assert not d.folders.socket.exists()
        assert startup(tmp_path / "h")["state"] == "stopped"

    def test_stop_when_asked_twice_skips_the_wait(self, tmp_path):
        """The first signal asks, the second insists."""
        with daemon(tmp_path / "h", FAKE_STOP="slow") as d:
            d.ready()
            d.process.send_signal(signal.SIGTERM)
            until(lambda: any(t.startswith("stop ") for t in d.trace()))
            assert d.control.get(contract.STATUS)["state"] == "draining"
            d.process.send_signal(signal.SIGTERM)

            assert d.process.wait(10) == 0
        assert d.trace()[-1] == "stop cut short"

    def test_stop_by_hangup_keeps_the_mount_and_asks_for_a_restart(self, tmp_path):
        """75 makes the holder or systemd start the next daemon under the live mount."""
        with daemon(tmp_path / "h") as d:
            d.ready()
            d.process.send_signal(signal.SIGHUP)

            assert d.process.wait(20) == 75
        assert "stop keep_mount=True" in d.trace()

    def test_stop_by_request_ends_after_the_answer(self, tmp_path):
        """The caller is told before the socket goes."""
        with daemon(tmp_path / "h") as d:
            d.ready()
            reply = d.control.post(contract.SHUTDOWN, {"timeout_s": 1})

            assert reply["pid"] == d.process.pid
            assert d.process.wait(20) == 0
        with pytest.raises(DaemonNotRunning):
            d.control.get(contract.STATUS)

    def test_stop_when_a_stream_is_open_does_not_wait_for_it(self, tmp_path):
        """A dashboard left open must not hold the daemon up."""
        with daemon(tmp_path / "h") as d:
            d.ready()
            with socket.socket(socket.AF_UNIX) as line:
                line.connect(str(d.folders.socket))
                line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
                assert b"200 OK" in line.recv(100)
                d.process.send_signal(signal.SIGTERM)

                assert d.process.wait(8) == 0

    def test_stop_when_a_part_died_ends_with_its_code_and_keeps_the_mount(self, tmp_path):
        """The daemon does not live on half dead; readers wait for the next one."""
        with daemon(tmp_path / "h", FAKE_DIES="0.2") as d:
            assert d.process.wait(20) == 70

        assert "the mount thread died" in d.log.read_text()
        assert "stop keep_mount=True" in d.trace()


class TestManager:
    def test_manager_when_it_listens_is_told_ready_watchdog_and_stopping(self, tmp_path):
        """READY comes only when both the mount and the API answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(20)
            with daemon(
                tmp_path / "h", NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="200000"
            ) as d:
                heard = [manager.recv(4096).decode() for _ in range(4)]
                d.process.send_signal(signal.SIGTERM)
                while not heard[-1].startswith("STOPPING=1"):
                    heard.append(manager.recv(4096).decode())
                assert d.process.wait(20) == 0

        assert "READY=1\nSTATUS=mounted" in heard
        assert heard.count("WATCHDOG=1") >= 2

    def test_manager_when_the_start_fails_is_told_why(self, tmp_path):
        """`systemctl status` shows the reason."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.settimeout(20)
            with daemon(
                tmp_path / "h", NOTIFY_SOCKET=str(tmp_path / "notify"), FAKE_START="config"
            ) as d:
                assert manager.recv(4096).decode() == (
                    "STATUS=the mount point /x is a file\nERRNO=22"
                )
                d.process.wait(20)


ASK = """
import contextlib, os, socket, sys
os.setgid(65534); os.setgroups([]); os.setuid(65534)
line = socket.socket(socket.AF_UNIX); line.settimeout(10)
line.connect(sys.argv[1])
with contextlib.suppress(BrokenPipeError):  # refused at once: the answer is there already
    line.sendall(b"GET /v1/status HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n")
sys.stdout.buffer.write(line.recv(65536))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestOtherUsers:
    def test_other_user_when_the_modes_hold_cannot_connect(self, tmp_path):
        """0600 in 0700: the kernel refuses."""
        with daemon(tmp_path / "h") as d:
            d.ready()
            asked = subprocess.run(
                [sys.executable, "-c", ASK, str(d.folders.socket)],
                capture_output=True,
                timeout=20,
            )

        assert b"PermissionError" in asked.stderr

    def test_other_user_when_the_modes_are_open_gets_403(self):
        """SO_PEERCRED holds where a mode was changed by somebody."""
        # Not below pytest's own folder, which others may not enter.
        with tempfile.TemporaryDirectory() as open_to_all, daemon(Path(open_to_all) / "h") as d:
            d.ready()
            for folder in (d.folders.runtime, *d.folders.runtime.parents[:2]):
                folder.chmod(0o755)
            d.folders.socket.chmod(0o666)
            asked = subprocess.run(
                [sys.executable, "-c", ASK, str(d.folders.socket)],
                capture_output=True,
                timeout=20,
            )

            assert d.control.get(contract.STATUS)["state"] == "ready"
            assert asked.stdout.startswith(b"HTTP/1.1 403 Forbidden"), asked.stderr
            assert b'"Forbidden"' in asked.stdout
            assert "control.refused uid=65534" in d.log.read_text()


def test_memory_when_idle_leaves_room_for_the_rest(tmp_path):
    """The whole daemon may take 100 MiB; lifecycle and API take no more than 70 of them."""
    with daemon(tmp_path / "h") as d:
        d.ready()
        with open(f"/proc/{d.process.pid}/status") as file:
            kib = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))

    assert kib < 70 * 1024


def test_process_always_is_found_by_its_name(tmp_path):
    """`pgrep -f syndd` finds the daemon, and no token is in its command line."""
    with daemon(tmp_path / "h", SYNAPSE_AUTH_TOKEN="s3cr3t") as d:
        d.ready()
        with open(f"/proc/{d.process.pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")

    assert b"syndd" in words
    assert not any(b"s3cr3t" in word for word in words)
    assert "s3cr3t" not in d.log.read_text()


def test_environment_always_leaves_the_users_home_alone(tmp_path):
    """The helpers of these tests start nothing in the real home."""
    assert environment(tmp_path)["SYND_HOME"] == str(tmp_path)


class TestBrowsers:
    def test_listener_lives_as_long_as_the_daemon(self, tmp_path):
        """Its address is in the status; its token in the state folder, for the owner alone; then it is closed."""
        with daemon(tmp_path / "h", SYND_HTTP_LISTEN="127.0.0.1:0") as d:
            told = d.ready()["browsers"]
            port = int(told["address"].rpartition(":")[2])
            assert "" == told["problem"]
            assert 0o600 == stat.S_IMODE(d.folders.http_token.stat().st_mode)
            with socket.create_connection(("127.0.0.1", port), 5) as line:
                line.sendall(f"GET /v1/formats HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n".encode())
                assert line.recv(100).startswith(b"HTTP/1.1 401 ")
            d.process.send_signal(signal.SIGTERM)
            assert 0 == d.process.wait(20)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port), 5)

    def test_listener_when_not_asked_for_is_not_there(self, tmp_path):
        """Off by default, and no token lies about."""
        with daemon(tmp_path / "h") as d:
            assert "browsers" not in d.ready()
            assert not d.folders.http_token.exists()

    def test_listener_for_other_machines_is_refused_at_the_start(self, tmp_path):
        """Before anything is made."""
        with daemon(tmp_path / "h", SYND_HTTP_LISTEN="0.0.0.0:8421") as d:
            assert 78 == d.process.wait(20)

        assert "SYND_HTTP_LISTEN: http_listen = '0.0.0.0:8421'" in d.log.read_text()

    def test_listener_whose_address_is_taken_is_done_without(self, tmp_path):
        """The daemon starts all the same, and says so where people look."""
        with socket.create_server(("127.0.0.1", 0)) as other:
            wanted = f"127.0.0.1:{other.getsockname()[1]}"
            with daemon(tmp_path / "h", SYND_HTTP_LISTEN=wanted) as d:
                status = d.ready()

        assert "" == status["browsers"]["address"]
        assert [status["browsers"]["problem"]] == [one["title"] for one in status["problems"]]
