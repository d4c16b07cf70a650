"""The daemon's states, the manager's line, and the instance, without a process of their own."""

import os
import socket
import stat

import pytest

from synd.config import folders
from synd.errors import AlreadyRunning, ConfigError, InvalidTransition
from syndd import instance
from syndd.control.peer import may_call, peer_uid
from syndd.lifecycle import TRANSITIONS, Daemon, State
from syndd.notify import Notifier
from tests.support.fake_app import FakeApp


@pytest.fixture
def home(tmp_path):
    found = folders({"SYND_HOME": str(tmp_path / "h")})
    instance.make_folders(found)
    return found


class TestStates:
    def test_transitions_always_lead_from_start_to_stop(self):
        """Every state but the last leads on; none leads back."""
        order = list(State)

        assert set(TRANSITIONS) == set(State)
        for state, onward in TRANSITIONS.items():
            assert all(order.index(to) > order.index(state) for to in onward)
        assert TRANSITIONS[State.STOPPED] == frozenset()

    def test_advance_when_the_table_forbids_it_raises(self, home):
        """A bug of ours is not passed over."""
        from synd.config import Config

        daemon = Daemon(Config(), home, FakeApp, Notifier({}))
        with pytest.raises(InvalidTransition):
            daemon._advance(State.STOPPED)


class TestNotifier:
    @pytest.fixture
    def manager(self, tmp_path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.bind(str(tmp_path / "n"))
            line.settimeout(5)
            yield line, {"NOTIFY_SOCKET": str(tmp_path / "n")}

    def test_notifier_without_a_manager_is_silent(self):
        """Not under systemd: nothing happens."""
        notifier = Notifier({})
        notifier.ready("x")

        assert not notifier.active
        assert notifier.watchdog_s is None

    def test_notifier_when_the_text_has_lines_sends_one_field(self, manager):
        """A newline in a message would start another field."""
        line, env = manager
        Notifier(env).ready("a\nREADY=0")

        assert line.recv(100) == b"READY=1\nSTATUS=a READY=0"

    def test_notifier_when_the_address_is_abstract_finds_it(self):
        """Spelled with @ in the environment."""
        name = f"synd-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
            line.bind("\0" + name)
            line.settimeout(5)
            Notifier({"NOTIFY_SOCKET": "@" + name}).watchdog()

            assert line.recv(100) == b"WATCHDOG=1"

    @pytest.mark.parametrize(
        ("more", "wanted"),
        [
            ({"WATCHDOG_USEC": "30000000"}, 30.0),
            ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
            ({"WATCHDOG_USEC": "x"}, None),
            ({}, None),
        ],
    )
    def test_watchdog_when_meant_for_us_is_its_span(self, manager, more, wanted):
        """A child does not feed its parent's watchdog."""
        _, env = manager

        assert Notifier(env | more).watchdog_s == wanted

    @pytest.mark.announces("notify.failed")
    def test_notifier_when_the_manager_is_gone_does_not_fail(self, tmp_path):
        """The daemon's life does not hang on it."""
        Notifier({"NOTIFY_SOCKET": str(tmp_path / "none")}).ready("x")


class TestInstance:
    def test_lock_when_held_names_the_holder(self, home):
        """One daemon per state folder; freed at the end."""
        with (
            instance.instance_lock(home),
            pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}"),
            instance.instance_lock(home),
        ):
            pass
        with instance.instance_lock(home):
            pass

    def test_folders_when_open_to_others_are_closed(self, home):
        """An earlier umask does not leave data open."""
        home.cache.chmod(0o755)
        instance.make_folders(home)

        assert stat.S_IMODE(home.cache.stat().st_mode) == 0o700

    def test_socket_when_a_stale_one_lies_there_replaces_it(self, home):
        """The lock is ours, so nobody listens there."""
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(home.socket))
        left.close()
        with instance.control_socket(home.socket) as listener:
            assert listener.getsockname() == str(home.socket)
            assert stat.S_IMODE(home.socket.stat().st_mode) == 0o600
        assert not home.socket.exists()

    @pytest.mark.parametrize("what", ["file", "link"])
    def test_socket_when_something_else_lies_there_is_refused(self, home, what):
        """Nothing that is not a socket is deleted."""
        if what == "file":
            home.socket.write_text("mine")
        else:
            home.socket.symlink_to("/etc/passwd")
        with pytest.raises(ConfigError), instance.control_socket(home.socket):
            pass
        assert home.socket.is_symlink() or home.socket.read_text() == "mine"

    def test_socket_when_another_took_the_name_leaves_it(self, home):
        """At the end only our own socket is removed."""
        with instance.control_socket(home.socket):
            home.socket.unlink()
            other = socket.socket(socket.AF_UNIX)
            other.bind(str(home.socket))

        assert home.socket.exists()
        other.close()


class TestPeer:
    def test_peer_uid_always_is_the_callers(self):
        """Told by the kernel, not by the caller."""
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        with ours, theirs:
            assert peer_uid(ours) == os.geteuid()

    def test_may_call_when_owner_or_root_is_true(self):
        """Nobody else."""
        assert may_call(os.geteuid())
        assert may_call(0)
        assert not may_call(os.geteuid() + 12345)
