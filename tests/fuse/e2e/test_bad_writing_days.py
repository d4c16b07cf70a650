"""Bad days of who writes: requests that fail one by one, a service that is away or dies, daemons that die.

Whatever happens, what was closed is on the service in the end: once, with the right bytes, as one version.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from synd.control import changes
from tests.support.crashing import die
from tests.support.mounts import eventually
from tests.support.world import Remote, World, random_file, remote
from tests.support.world import world as world_of

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

SETTLED_S = 100
SETTINGS: dict[str, object] = {
    "upload_delay_s": 0.1, "delete_delay_s": 0.1, "freshness_s": 1, "request_concurrency": 16,
    "requests_per_minute": 0, "delete_hold_count": 100_000, "delete_hold_percent": 100,
}  # fmt: skip

LONG = "BAD_DAYS" in os.environ
"""Set it, and every failure is tried at every position; else each position meets one of them."""

OURS = "^(?!/admin|/repo/v1/admin)"
"""Any request but those of the tests."""


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def settled(world: World) -> None:
    """Waits until the service has everything."""
    done = world.synd("wait", "--timeout", str(SETTLED_S), timeout_s=SETTLED_S + 30)
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"


def sh(world: World, where: str, script: str, *args: str) -> str:
    """Output of a shell script in a folder of the mount, which must succeed."""
    done = world.run("sh", "-ec", script, "sh", *args, cwd=where + "/", timeout_s=60)
    assert done.status == 0, f"{script}: {done.status} {done.out}{done.err}\n{world.log()[-3000:]}"
    return done.out


def held(server: Remote, project: str) -> dict[str, tuple[str | None, int]]:
    """Path → (md5 or None for folders, version) on the service."""
    return {path: (what.md5, what.version) for path, what in server.tree(project).items()}


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Remote]:
    """A registry that the test may end."""
    with remote(tmp_path / "mine") as server:
        yield server


def project_of(server: Remote, name: str) -> str:
    """A project with three files and a folder; its id."""
    project = server.project(name)
    folder = server.folder(project, "folder")
    server.file(project, "a.txt", b"first a\n")
    server.file(project, "c.txt", b"first c\n")
    server.file(folder, "b.txt", b"first b\n")
    return project


EDITS = """echo second > a.txt; echo more >> a.txt; echo new > n.txt; mkdir d; echo x > d/x.txt
mv folder/b.txt d/b.txt; rm c.txt; mv n.txt named.txt; cp "$1" big.bin; rmdir folder"""

AFTER: dict[str, tuple[str | None, int]] = {
    "a.txt": (md5_of(b"second\nmore\n"), 2),
    "named.txt": (md5_of(b"new\n"), 1),
    "d": (None, 1),
    "d/x.txt": (md5_of(b"x\n"), 1),
    "d/b.txt": (md5_of(b"first b\n"), 1),
}

FAILURES: dict[str, dict[str, object]] = {
    "500": {"action": "status", "status": 500},
    "lost answer": {"action": "drop-after"},
    "503": {"action": "status", "status": 503},
    "dropped": {"action": "drop-before"},
    "429": {"action": "status", "status": 429},
}


@pytest.fixture(scope="module")
def quiet(ground: Path, shared_server: Remote) -> Iterator[World]:
    """A daemon that asks nothing by itself, so that requests are counted alike each time."""
    one = World(
        ground / "each-request", shared_server,
        **SETTINGS | {"freshness_s": 3600, "idle_poll_s": 3600, "views": "off"},
    )  # fmt: skip
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def big(ground: Path) -> tuple[Path, str]:
    """A file of two parts, and its md5."""
    path = ground / "big.bin"
    return path, random_file(path, (5 << 20) + 77, seed=99)


class TestEveryRequest:
    """One edit session again and again; each time the next of its requests fails, once."""

    def one_session(
        self, world: World, big: tuple[Path, str], name: str, position: int, failure: str
    ) -> bool:
        """Edits while the request at this position fails; whether there was one."""
        server = world.remote
        project = project_of(server, name)
        where = world.at("@id", project)
        sh(world, where, "cat a.txt c.txt folder/b.txt")
        # Each time other bytes, or the service would know them already.
        own = big[0].with_name("own.bin")
        own.write_bytes(name.encode().ljust(64) + big[0].read_bytes())
        world.control.post(changes.PAUSE)
        sh(world, where, EDITS, str(own))
        server.fault(OURS, nth=position, times=1, **FAILURES[failure])
        world.control.post(changes.RESUME)
        try:
            settled(world)
            hit = any(f["hits"] for f in server.rest("GET", "/admin/faults")["faults"])
        finally:
            server.heal()

        wanted = AFTER | {"big.bin": (md5_of(own.read_bytes()), 1)}
        assert wanted == held(server, project), (failure, position)
        assert world.status()["pending"]["conflicts"] == 0
        assert own.read_bytes()[:64] == sh(world, where, "head -c 64 big.bin").encode()
        return hit

    @pytest.mark.slow
    @pytest.mark.timeout(3000 if LONG else 400)
    def test_request_when_it_fails_once_changes_nothing_in_the_end(
        self, quiet: World, big: tuple[Path, str]
    ) -> None:
        """Whichever request fails, however: the service ends the same, nothing twice."""
        kinds = list(FAILURES)
        position = 0
        hit = True
        while hit:
            position += 1
            for kind in kinds if LONG else kinds[position % len(kinds) :][:1]:
                hit = self.one_session(
                    quiet, big, f"Each {quiet.transport} {position} {kind}", position, kind
                )
        assert position > 15


class TestServiceAway:
    def test_session_when_the_service_is_away_from_its_start_works_and_is_sent_later(
        self, mine: Remote, make: Callable[..., World]
    ) -> None:
        """Offline one creates, writes, renames, deletes and reads back; it drains by itself afterwards."""
        project = project_of(mine, "Away")
        world = make(mine, **SETTINGS)
        where = world.at("@id", project)
        sh(world, where, "cat a.txt c.txt folder/b.txt")
        mine.down()
        script = """echo second > a.txt; echo more >> a.txt; echo new > n.txt; mkdir d; echo x > d/x.txt
            mv folder/b.txt d/b.txt; rm c.txt; mv n.txt named.txt; rmdir folder
            cat a.txt named.txt d/x.txt d/b.txt; ls; ! cat c.txt 2>&1"""
        told = sh(world, where, script)
        assert told.startswith("second\nmore\nnew\nx\nfirst b\na.txt\nd\nnamed.txt\n")
        eventually(
            lambda: world.status()["pending"]["offline_since_at"],
            timeout_s=40,
            what="being offline told in status",
        )
        assert world.status()["pending"]["verdict"] == "under-way"
        assert not world.status()["safe_to_stop"]
        mine.up()
        settled(world)

        assert AFTER == held(mine, project)
        assert world.status()["pending"]["offline_since_at"] is None

    @pytest.mark.parametrize("transport", ["kernel", "libfuse"])
    def test_files_that_were_only_listed_are_moved_and_removed_offline(
        self, mine: Remote, make: Callable[..., World], transport: str
    ) -> None:
        """Nothing of them is here but the name; only reading them has to wait for the service."""
        project = project_of(mine, f"Listed {transport}")
        world = make(mine, transport=transport, **SETTINGS)
        where = world.at("@id", project)
        sh(world, where, "ls . folder")
        before = held(mine, project)
        mine.down()
        told = sh(
            world,
            where,
            "mv a.txt folder/moved.txt; rm c.txt; mv folder/b.txt over; echo x > n; mv n over;"
            " cat folder/moved.txt 2>&1 || ls folder",
        )
        mine.up()
        settled(world)

        assert told.endswith("No route to host\nmoved.txt\n")
        after = held(mine, project)
        assert {"folder", "folder/moved.txt", "over"} == set(after)
        assert before["a.txt"] == after["folder/moved.txt"]

    def test_restart_when_the_service_is_away_keeps_and_shows_what_was_edited(
        self, mine: Remote, make: Callable[..., World]
    ) -> None:
        """A daemon that never saw the service shows what its predecessor was told."""
        project = project_of(mine, "Away")
        world = make(mine, **SETTINGS)
        where = world.at("@id", project)
        sh(world, where, "cat a.txt")
        mine.down()
        sh(world, where, "echo second > a.txt; mkdir d; echo x > d/x.txt")
        assert world.synd("down", "--timeout", "1").status != 0
        world.up()

        assert "second\nx\n" == sh(world, where, "cat a.txt d/x.txt; echo y > d/y.txt")
        mine.up()
        settled(world)
        found = held(mine, project)
        assert (md5_of(b"second\n"), 2) == found["a.txt"]
        assert {"d/x.txt", "d/y.txt"} <= set(found)


class Upload:
    """A large file on its way to a slow service."""

    def __init__(self, root: Path, world: World, project: str, size: int, parts: int) -> None:
        self.world = world
        self.server = world.remote
        self.project = project
        path = root / "large.bin"
        self.md5 = random_file(path, size, seed=5)
        # The later half is on its way and does not arrive.
        self.server.fault("^/part/", "delay", method="PUT", nth=parts // 2 + 1, seconds=20)
        where = world.at("@id", project)
        sh(world, where, "ls")
        done = world.run("cp", str(path), where + "/large.bin", timeout_s=300)
        assert done.status == 0, done.err
        path.unlink()

    def parts(self) -> str:
        """A sign for each part: 1, the service has it."""
        rows = self.server.db.all("SELECT parts FROM multipart ORDER BY id DESC LIMIT 1")
        return rows[0][0] if rows else ""

    def half_way(self) -> None:
        eventually(
            lambda: self.parts().count("1") * 2 >= len(self.parts()) > 0,
            timeout_s=100,
            what="half of the parts",
        )

    def puts(self) -> int:
        """Parts that storage was sent and took, since `forget_requests`."""
        counters = self.server.process.requests()["counters"]
        return sum(
            c["count"]
            for c in counters
            if c["side"] == "blob" and c["method"] == "PUT" and c["status"] == 200
        )

    def ended(self, timeout_s: float = SETTLED_S) -> None:
        """It is there, whole, as one version."""
        done = self.world.synd("wait", "--timeout", str(timeout_s), timeout_s=timeout_s + 30)
        assert done.status == 0, f"{done.out}{done.err}\n{self.world.log()[-3000:]}"
        assert {"large.bin": (self.md5, 1)} == held(self.server, self.project)


class TestCutUploads:
    """An upload of several parts goes on where it was cut."""

    def cut(
        self,
        root: Path,
        server: Remote,
        make: Callable[..., World],
        size: int,
        parts: int,
        *,
        mount: bool,
    ) -> None:
        """Kills the daemon half-way, with its mount or alone; it sends what is missing."""
        world = make(server, **SETTINGS)
        upload = Upload(root, world, server.project("Cut"), size, parts)
        upload.half_way()
        if mount:
            die(world)
        else:
            with world.without_successor():
                world.kill_daemon()
        there = upload.parts()
        server.heal()
        server.forget_requests()
        if mount:
            world.up()
        else:
            world.successor(0)
        upload.ended(600)

        assert parts - parts // 2 == there.count("0") == upload.puts()

    @pytest.mark.parametrize("mount", [False, True], ids=["daemon", "daemon and mount"])
    def test_upload_when_the_daemon_is_killed_sends_only_what_is_missing(
        self, tmp_path: Path, mine: Remote, make: Callable[..., World], mount: bool
    ) -> None:
        """64 MiB, killed with half of it there."""
        self.cut(tmp_path, mine, make, 64 << 20, 8, mount=mount)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    def test_upload_of_2_gib_when_the_daemon_is_killed_sends_only_what_is_missing(
        self, tmp_path: Path, mine: Remote, make: Callable[..., World]
    ) -> None:
        """Large files lose no more than the parts under way."""
        self.cut(tmp_path, mine, make, 2 << 30, 64, mount=True)

    def test_upload_when_the_service_dies_goes_on_by_itself(
        self, tmp_path: Path, mine: Remote, make: Callable[..., World]
    ) -> None:
        """kill -9 of the service half-way; the same data served again."""
        world = make(mine, **SETTINGS)
        upload = Upload(tmp_path, world, mine.project("Cut"), 64 << 20, 8)
        upload.half_way()
        mine.down()
        there = upload.parts()
        mine.up()
        upload.ended()

        assert 4 == there.count("0") == upload.puts()


class TestOpenFiles:
    def test_remote_change_while_a_file_is_open_for_writing_keeps_both(
        self, server: Remote, make: Callable[..., World]
    ) -> None:
        """Who writes goes on writing; at the close both versions are kept."""
        project = project_of(server, f"Open {make.__hash__()}")
        world = make(server, **SETTINGS)
        where = world.at("@id", project)
        sh(world, where, "cat a.txt")
        writer = world.begin_python(
            "f = open(argv[0], 'r+'); f.write('OURS'); f.flush(); print('open'); input(); f.close(); print('closed')",
            where + "/a.txt",
        )
        writer.printed("open")
        server.new_version(server.tree(project)["a.txt"].id, b"of others\n")
        world.synd("wait", "--timeout", "3")
        assert "OURSt a\n" == sh(world, where, "cat a.txt")
        writer.say()
        writer.printed("closed")
        settled(world)

        found = {md5 for md5, _ in held(server, project).values()}
        assert {md5_of(b"of others\n"), md5_of(b"OURSt a\n")} <= found
        assert (md5_of(b"of others\n"), 2) == held(server, project)["a.txt"]


class TestPause:
    def test_pause_holds_over_restarts_until_resumed(self, mine: Remote, tmp_path: Path) -> None:
        """Neither a new daemon, nor `synd down`, nor `synd up` sends what was told to wait."""
        project = project_of(mine, "P")
        before = held(mine, project)
        with world_of(tmp_path / "w", mine, **SETTINGS) as world:
            assert world.synd("pause").status == 0
            sh(world, world.at("P"), "echo second > a.txt")
            assert world.synd("restart").status == 0
            eventually(lambda: world.status()["state"] == "ready", timeout_s=20, what="the daemon")
            assert world.status()["pending"]["paused"]
            assert world.synd("down").status == 75
            world.up()
            assert world.synd("wait", "--timeout", "2").status == 65
            assert held(mine, project) == before
            assert world.synd("resume").status == 0
            settled(world)

            assert held(mine, project)["a.txt"] == (md5_of(b"second\n"), 2)


class TestAnotherService:
    def test_edit_is_not_sent_to_another_service(self, tmp_path: Path) -> None:
        """Two registries number alike: an unsent edit of one would be a version of a stranger's file in the other.

        The daemon does not start for the other while it lies here, and sends it when it is told of the first
        again, at whatever port that is served by then.
        """
        with remote(tmp_path / "one") as one, remote(tmp_path / "two") as two:
            mine, theirs = one.project("P"), two.project("P")
            assert one.file(mine, "a.txt", b"mine\n") == two.file(theirs, "b.txt", b"theirs\n")
            world = World(tmp_path / "w", one, **SETTINGS | {"uploads": False})
            try:
                world.up()
                sh(world, world.at("P"), "echo edited > a.txt")
                assert world.synd("down", "--timeout", "0").status == 75
                world.env |= {"SYND_UPLOADS": "true"}
                here = dict(world.env)
                world.env |= {"SYND_ENDPOINT": two.url, "SYNAPSE_AUTH_TOKEN": two.token}
                refused = world.try_up()
                assert (refused.status, one.url in refused.out) == (78, True), refused.out
                assert held(two, theirs) == {"b.txt": (md5_of(b"theirs\n"), 1)}
                one.close()
                with remote(tmp_path / "one") as again:
                    assert again.url != one.url
                    world.env = here | {"SYND_ENDPOINT": again.url}
                    world.up()
                    assert world.text("cat", world.at("P", "a.txt")) == "edited\n"
                    settled(world)
                    assert held(again, mine) == {"a.txt": (md5_of(b"edited\n"), 2)}
                    # With everything sent the other service is as good as any.
                    assert world.synd("down").status == 0
                    world.env |= {"SYND_ENDPOINT": two.url, "SYNAPSE_AUTH_TOKEN": two.token}
                    world.up()
                    assert world.text("cat", world.at("P", "b.txt")) == "theirs\n"
            finally:
                world.close()
