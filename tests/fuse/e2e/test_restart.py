"""The mount outlives its daemon: killed under load, restarted, adopted, and nothing was lost."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.e2e.conftest import MakeWorld
from tests.support.mounts import eventually
from tests.support.world import Remote, World, random_file, remote

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

MIB = 1 << 20
BIG = 256 * MIB
MIDDLE = 48 * MIB


@pytest.fixture(scope="module")
def slow(ground: Path) -> Iterator[Remote]:
    """A registry with latency, whose byte connections are slow."""
    with remote(ground / "slow", "--latency-ms", "3", "--mbit", "24") as server:
        yield server


@pytest.fixture
def big(slow: Remote, tmp_path: Path) -> tuple[str, str]:
    """(project id, md5) of a project with one file of 256 MiB that no cache has."""
    digest = random_file(tmp_path / "big" / "big.bin", BIG, seed=os.getpid())
    return slow.seed(tmp_path / "big", f"Big {tmp_path.name}"), digest


def downloaded(world: World) -> int:
    """Bytes that the present daemon has received."""
    return int(world.metrics()["downloaded_bytes_total"])


def begun(world: World, least: int) -> None:
    """Waits until the present daemon has received so many bytes."""
    eventually(lambda: downloaded(world) >= least, timeout_s=30, what=f"{least} bytes")


class TestKilledWhileReading:
    @pytest.mark.slow
    def test_md5sum_when_the_daemon_is_killed_again_and_again_is_right(
        self, slow: Remote, big: tuple[str, str], make: MakeWorld
    ) -> None:
        """`md5sum` of a cold file goes on through kill -9 of the daemon, three times over."""
        project, digest = big
        world = make(slow, projects=[project], transfer_connections=7)
        name = world.text("ls", str(world.mount)).strip()
        reader = world.begin("md5sum", world.at(name, "big.bin"))
        pids = {world.daemon_pid()}
        for _ in range(3):
            begun(world, 2 * MIB)
            pids.add(world.successor(world.kill_daemon()))
        done = reader.wait(100)

        assert (0, digest, "") == (done.status, done.out[:32], done.err)
        assert len(pids) == 4

    def test_download_when_the_daemon_is_killed_goes_on_where_it_was(
        self, slow: Remote, make: MakeWorld, tmp_path: Path
    ) -> None:
        """What had arrived before the kill is not fetched again: the block map survives."""
        digest = random_file(tmp_path / "src" / "file.bin", MIDDLE, seed=3)
        project = slow.seed(tmp_path / "src", "Resumed")
        world = make(slow, projects=[project], transfer_connections=4)
        path = world.at("Resumed", "file.bin")
        reader = world.begin("md5sum", path)
        begun(world, MIDDLE // 2)
        slow.forget_requests()
        world.successor(world.kill_daemon())
        done = reader.wait(60)

        assert digest == done.out[:32]
        assert slow.asked().bytes_sent < MIDDLE * 0.75

    def test_reader_when_its_file_is_complete_does_not_need_the_daemon(
        self, slow: Remote, make: MakeWorld, tmp_path: Path
    ) -> None:
        """An open complete file is read on with the daemon dead, and nobody to start it."""
        random_file(tmp_path / "src" / "file.bin", 4 * MIB, seed=4)
        project = slow.seed(tmp_path / "src", "Passed through")
        world = make(slow, projects=[project])
        if not world.status()["mounts"][0]["passthrough"]:
            pytest.skip("the kernel offers no passthrough")
        path = world.at("Passed through", "file.bin")
        digest = world.md5(path)
        eventually(lambda: world.synd("status", path, "--json").out.count('"cached"') > 0)
        reader = world.begin_python(
            "import hashlib\n"
            "file = open(argv[0], 'rb', buffering=0)\n"
            "print('open')\n"
            "sys.stdin.readline()\n"
            "os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)\n"
            "print(hashlib.md5(file.read()).hexdigest())",
            path,
        )
        reader.printed("open")
        with world.without_successor():
            world.kill_daemon()
            reader.say()
            reader.printed(digest, timeout_s=10)
        reader.wait(20)


class TestStartedAgain:
    def test_holder_when_the_daemon_dies_starts_it_again(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """Nobody needs to do anything: the holder starts a daemon that adopts the mount."""
        project = server.project("Restarted by itself")
        server.file(project, "a.txt", b"a\n")
        world = make(server, projects=[project])
        path = world.at("Restarted by itself", "a.txt")
        before = world.text("stat", "-c", "%d %i", path)
        world.successor(world.kill_daemon())

        assert before == world.text("stat", "-c", "%d %i", path)
        assert world.text("cat", path) == "a\n"

    def test_wait_when_the_daemon_dies_waits_for_the_next(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """What is unsent is sent by the daemon that its holder starts; without a holder nobody would come."""
        project = server.project("Waited for")
        world = make(server, projects=[project], upload_delay_s=4, requests_per_minute=0)
        world.text("sh", "-c", 'echo new > "$1"', "sh", world.at("Waited for", "new.txt"))
        waiting = world.begin(sys.executable, "-m", "synd.cli.main", "wait", env=world.env)
        world.successor(world.kill_daemon())
        done = waiting.wait(60)

        assert (0, "everything is sent\n") == (done.status, done.out)
        assert "new.txt" in server.tree(project)

    def test_up_when_the_daemon_lives_adopts_the_mount(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """`synd up` for a live mount changes nothing and says so."""
        world = make(server, projects=[server.project("Adopted")])
        pid = world.daemon_pid()
        again = world.up()

        assert ("adopted", pid) == (again["how"], again["pid"])

    def test_up_when_daemon_and_holder_are_dead_mounts_anew(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """A mount that everybody who served it has left is recovered by `synd up`, without a hang."""
        project = server.project("Left behind")
        server.file(project, "a.txt", b"a\n")
        world = make(server, projects=[project])
        path = world.at("Left behind", "a.txt")
        assert world.text("cat", path) == "a\n"
        # It would have a new holder at once.
        os.kill(world.daemon_pid(), signal.SIGSTOP)
        os.kill(world.holder_pid(), signal.SIGKILL)
        world.kill_daemon()
        told = world.up()

        assert "started" == told["how"]
        assert world.text("cat", path) == "a\n"

    def test_restart_always_keeps_open_files(self, server: Remote, make: MakeWorld) -> None:
        """`synd restart`, as after an upgrade: who has a file open reads on."""
        project = server.project("Upgraded")
        server.file(project, "a.txt", b"first\nsecond\n")
        world = make(server, projects=[project])
        reader = world.begin_python(
            "f = open(argv[0], 'rb', buffering=0)\n"
            "print(f.read(6))\nsys.stdin.readline()\nprint(f.read())",
            world.at("Upgraded", "a.txt"),
        )
        reader.printed("first")
        before = world.daemon_pid()
        done = world.synd("restart")
        reader.say()
        ended = reader.wait(20)

        assert (0, 0) == (done.status, ended.status), done.err + ended.err
        assert "second" in ended.out
        assert world.daemon_pid() != before

    def test_up_when_offline_shows_what_was_known(self, tmp_path: Path, make: MakeWorld) -> None:
        """After down, up without a service shows names, sizes and cached bytes of the last life."""
        with remote(tmp_path / "registry") as own:
            project = own.project("Known")
            own.file(project, "read.txt", b"read before\n")
            own.file(project, "seen.txt", b"only seen\n")
            world = make(own, projects=[project])
            listing = ("ls", "-l", "--full-time", world.at("Known"))
            before = world.text(*listing)
            world.text("cat", world.at("Known", "read.txt"))
            assert world.synd("down").status == 0
            own.down()
            world.up()

            assert before == world.text(*listing)
            assert world.text("cat", world.at("Known", "read.txt")) == "read before\n"
            assert world.read_error(world.at("Known", "seen.txt"), timeout_s=10) == "EHOSTUNREACH"
            problems = {p["type"] for p in world.status()["problems"]}
            assert "Offline" in problems
            own.up()
            eventually(
                lambda: world.read_error(world.at("Known", "seen.txt")) == "ok", timeout_s=20
            )

    @pytest.mark.req("S2-43", "S3-01")
    def test_kill_when_everything_was_read_keeps_all(self, server: Remote, make: MakeWorld) -> None:
        """After kill -9 no byte that was here is fetched again, and no name asked for."""
        project = server.project("Kept")
        for number in range(20):
            server.file(project, f"{number}.txt", f"{number}\n".encode() * 100)
        world = make(server, projects=[project], freshness_s=600)
        read_all = ("sh", "-c", 'cat "$1"/*', "sh", world.at("Kept"))
        before = world.text(*read_all)
        # Small files are answered first and stored a moment later.
        eventually(
            lambda: world.status()["cache"]["objects"] >= 20, timeout_s=20, what="20 objects"
        )
        world.successor(world.kill_daemon())
        server.forget_requests()

        assert before == world.text(*read_all)
        asked = server.asked()
        assert asked.count(side="blob") == 0
        assert asked.count("bundle") == 0


class TestStopped:
    def test_sigterm_when_programs_read_ends_in_time(
        self, slow: Remote, big: tuple[str, str], make: MakeWorld
    ) -> None:
        """SIGTERM of the daemon during reads: it unmounts and ends; the readers end with an error."""
        project, _ = big
        world = make(slow, projects=[project], transfer_connections=2)
        name = world.text("ls", str(world.mount)).strip()
        reader = world.begin("md5sum", world.at(name, "big.bin"))
        begun(world, MIB)
        pid = world.daemon_pid()
        os.kill(pid, signal.SIGTERM)
        done = reader.wait(20)

        assert done.status != 0
        eventually(lambda: not world.mounted(), timeout_s=10, what="the unmount")
        eventually(lambda: not os.path.exists(f"/proc/{pid}"), timeout_s=10, what="the end")
        assert world.control.alive() is None
