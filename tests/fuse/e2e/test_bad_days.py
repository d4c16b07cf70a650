"""Bad days: everything that goes wrong around a mount ends in a clear error or in none, never in a hang."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.cli import process
from tests.fuse.e2e.conftest import MakeWorld
from tests.support.disks import mount_disk, unmount_disk
from tests.support.mounts import Ran, eventually
from tests.support.world import (
    BLOB,
    BUNDLE,
    CHILDREN,
    PRESIGN,
    Remote,
    World,
    random_file,
    remote,
    timed,
)

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(100)]

MIB = 1 << 20
LARGE = 6 * MIB


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def large(seed: int) -> bytes:
    """Content above the bound of small files."""
    block = seed.to_bytes(4) * (16 << 10)
    return b"".join(n.to_bytes(4) + block[4:] for n in range(LARGE // len(block)))


class Bad:
    """A project `P` with a small and a large file, none of them in any cache."""

    def __init__(self, server: Remote, make: MakeWorld, seed: int) -> None:
        self.server = server
        self._make = make
        self.name = f"P{seed}"
        self.project = server.project(self.name)
        self.small_data = f"small {seed}\n".encode()
        self.large_data = large(seed)
        self.small = server.file(self.project, "small.txt", self.small_data)
        self.large = server.file(self.project, "large.bin", self.large_data)

    def world(self, **options: object) -> World:
        """A world of its own, which shows this project only."""
        options = {"projects": [self.project], "freshness_s": 600} | options
        return self._make(self.server, **options)

    def at(self, world: World, *parts: str) -> str:
        """A path in the project, in a world of its own or in a shared one."""
        if self.project in world.projects:
            return world.at(self.name, *parts)
        return world.at("@id", self.project, *parts)


COUNT = iter(range(1, 1_000_000))


@pytest.fixture
def bad(server: Remote, make: MakeWorld) -> Bad:
    return Bad(server, make, next(COUNT))


@pytest.fixture(scope="module")
def calm(ground: Path, shared_server: Remote) -> Iterator[World]:
    """A world for tests that need no settings of their own: starting one costs a second or two."""
    one = World(
        ground / "calm",
        shared_server,
        projects=[shared_server.project("Calm")],
        freshness_s=1,
        verify_hold_s=20,
    )
    try:
        one.up()
        yield one
    finally:
        one.close()


def listed(world: World, bad: Bad) -> tuple[str, str]:
    """Paths of the two files, once their sizes are known."""
    world.text("ls", "-l", bad.at(world))
    return bad.at(world, "small.txt"), bad.at(world, "large.bin")


def failed(done: Ran, status: int, *words: str) -> None:
    """A command ended with this exit code and told these words."""
    text = done.out + done.err
    assert status == done.status, text
    assert not [w for w in words if w.lower() not in text.lower()], text


class TestStarting:
    def up(self, world: World, *before: str, env: dict[str, str] | None = None) -> Ran:
        """`synd up` for people, through another program."""
        return world.run(
            *before, sys.executable, "-m", "synd.cli.main", "up", "--mount", str(world.mount),
            env=world.env | (env or {}),
        )  # fmt: skip

    def test_up_when_there_is_no_device_says_so(self, bad: Bad) -> None:
        """Without /dev/fuse the error names it and what to do; nothing is left running."""
        world = bad.world(up=False)
        hide = (
            "mount -t tmpfs none /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9"
            ' && exec "$@"'
        )
        done = self.up(world, "unshare", "-m", "sh", "-c", hide, "sh")

        failed(done, 69, "/dev/fuse", "modprobe fuse")
        assert process.daemon_pid(world.folders) is None

    def test_up_when_fusermount_is_missing_says_so(self, bad: Bad) -> None:
        """A user who is not root needs fusermount3; the error names the package."""
        world = bad.world(up=False)
        # Not root, but still the owner of the interpreter's files.
        done = self.up(world, "unshare", "--user", "env", "PATH=/nowhere")

        failed(done, 69, "fusermount3", "fuse3")

    def test_up_when_the_mount_point_is_a_file_says_so(self, bad: Bad) -> None:
        """A file is no mount point."""
        world = bad.world(up=False)
        world.mount.write_text("x")

        failed(self.up(world), 78, "is not a folder", str(world.mount))

    def test_up_when_the_mount_point_is_missing_makes_it(self, bad: Bad) -> None:
        """The folder is made, with those above it."""
        world = bad.world(up=False)
        world.mount = world.mount / "deep" / "er"
        world.up()

        assert bad.name in world.text("ls", str(world.mount))

    def test_up_when_the_mount_point_is_not_empty_refuses(self, bad: Bad) -> None:
        """Files that would be hidden by the mount are told, and stay."""
        world = bad.world(up=False)
        world.mount.mkdir()
        (world.mount / "mine.txt").write_text("x")

        failed(self.up(world), 65, "not empty", str(world.mount))
        assert (world.mount / "mine.txt").read_text() == "x"

    def test_up_when_something_else_is_mounted_there_refuses(self, bad: Bad) -> None:
        """Another filesystem with files in it is not covered up."""
        world = bad.world(up=False)
        world.mount.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "none", str(world.mount)], check=True, timeout=10)
        (world.mount / "theirs.txt").write_text("x")
        try:
            failed(self.up(world), 65, "not empty", str(world.mount))
        finally:
            subprocess.run(["umount", str(world.mount)], check=True, timeout=10)

    def test_up_when_the_daemon_has_another_mount_refuses(self, bad: Bad) -> None:
        """One daemon, one mount: the error names the daemon and its mount."""
        world = bad.world()
        first = world.mount
        pid = world.daemon_pid()
        world.mount = first.parent / "second"
        done = self.up(world)
        world.mount = first

        failed(done, 75, str(first), str(pid), "synd down")
        assert bad.name in world.text("ls", str(world.mount))

    def test_up_when_another_daemon_has_that_mount_refuses(self, bad: Bad) -> None:
        """A second home does not mount over the first one's tree."""
        first, second = bad.world(), bad.world(up=False)
        second.mount = first.mount
        done = self.up(second)

        failed(done, 75, str(first.mount))
        assert bad.name in first.text("ls", str(first.mount))

    def test_up_when_the_token_is_wrong_says_so(self, bad: Bad) -> None:
        """An unknown token is exit 77 and the way to log in; nothing is mounted."""
        world = bad.world(up=False, token="synd_wrong")

        failed(self.up(world), 77, "token", "synd login")
        assert not world.mounted()

    def test_up_when_no_project_that_was_asked_for_is_there_says_so(self, bad: Bad) -> None:
        """A mistyped id is an error with the id, not an empty folder; nothing is left mounted."""
        world = bad.world(up=False, projects=["syn999999999"])

        failed(world.try_up(), 66, "syn999999999", "synd whoami")
        assert not world.mounted()

    def test_up_when_one_of_the_projects_is_not_there_shows_the_others(self, bad: Bad) -> None:
        """Which one is missing, and why, is told at once and stays in status."""
        world = bad.world(up=False, projects=[bad.project, "syn999999999"])
        [told] = world.up()["missing"]
        [problem] = world.status()["problems"]

        assert ("NotFound", "syn999999999") == (told["type"], told["entity"])
        assert told == problem
        assert [bad.name] == world.text("ls", str(world.mount)).split()

    def test_listing_when_the_token_lacks_a_scope_names_it(self, bad: Bad) -> None:
        """With a token that may not view, reading is EACCES and the CLI names the scope."""
        _, token = bad.server.user(f"narrow {bad.name}", "modify")
        world = bad.world(token=token, projects=[])

        assert world.errno("os.listdir(argv[0])", str(world.mount)) == "EACCES"
        failed(world.synd("ls", str(world.mount)), 77, "also allows: view")

    def test_reading_when_the_token_may_not_download_is_refused(self, bad: Bad) -> None:
        """With a token of scope view, names and sizes are shown, and bytes are EACCES."""
        user, token = bad.server.user(f"viewer {bad.name}", "view")
        bad.server.grant(bad.project, user, 1 | 2)
        world = bad.world(token=token)

        assert "small.txt" in world.text("ls", bad.at(world))
        assert world.read_error(bad.at(world, "small.txt")) == "EACCES"

    def test_up_when_the_home_is_read_only_says_so(self, bad: Bad) -> None:
        """A home that cannot be written to is named, with the variable to set."""
        world = bad.world(up=False)
        world.home.mkdir()
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "ro", "none", str(world.home)], check=True, timeout=10
        )
        try:
            failed(self.up(world), 78, str(world.home), "SYND_HOME")
        finally:
            subprocess.run(["umount", str(world.home)], check=True, timeout=10)


class TestServiceAway:
    def test_up_when_the_service_is_down_mounts_all_the_same(
        self, tmp_path: Path, make: MakeWorld
    ) -> None:
        """With nothing known yet the mount comes up, and asking it for names fails at once."""
        with remote(tmp_path / "registry") as own:
            own.down()
            world = make(own)

            assert world.mounted()
            took = timed(lambda: world.errno("os.listdir(argv[0])", str(world.mount)))
            assert world.errno("os.listdir(argv[0])", str(world.mount)) == "EHOSTUNREACH"
            assert took < 5
            own.up()
            eventually(
                lambda: world.errno("os.listdir(argv[0])", str(world.mount)) == "ok", timeout_s=20
            )

    def test_reading_when_the_service_goes_and_comes_back_ends_well(
        self, tmp_path: Path, make: MakeWorld
    ) -> None:
        """A short absence is waited out: the reader sees every byte and no error."""
        with remote(tmp_path / "registry", "--mbit", "24") as own:
            digest = random_file(tmp_path / "src" / "file.bin", 24 * MIB)
            project = own.seed(tmp_path / "src", "Away")
            world = make(own, projects=[project], transfer_connections=2)
            reader = world.begin("md5sum", world.at("Away", "file.bin"))
            eventually(lambda: world.metrics()["downloaded_bytes_total"] > MIB, timeout_s=20)
            own.down()
            own.up()
            done = reader.wait(60)

            assert (digest, "") == (done.out[:32], done.err)

    def test_reading_when_the_service_goes_for_good_fails_in_time(
        self, tmp_path: Path, make: MakeWorld
    ) -> None:
        """What is not here fails with EHOSTUNREACH; what is here is read on; status says offline."""
        with remote(tmp_path / "registry") as own:
            project = own.project("Gone")
            own.file(project, "here.bin", large(1))
            own.file(project, "not here.bin", large(2))
            world = make(own, projects=[project])
            world.text("ls", "-l", world.at("Gone"))
            world.md5(world.at("Gone", "here.bin"))
            own.down()
            took = timed(lambda: world.read_error(world.at("Gone", "not here.bin")))

            assert world.read_error(world.at("Gone", "not here.bin")) == "EHOSTUNREACH"
            assert took < 10
            assert md5(large(1)) == world.md5(world.at("Gone", "here.bin"))
            status = world.status()
            assert not status["service"]["online"]
            offline = next(p for p in status["problems"] if p["type"] == "Offline")
            assert offline["hint"]
            assert "cannot be reached" in world.why(world.at("Gone", "not here.bin"))["reason"]


class TestStorage:
    def test_reading_when_urls_expire_goes_on(self, tmp_path: Path, make: MakeWorld) -> None:
        """URLs that live one second: a read of many seconds gets new ones, unseen."""
        with remote(tmp_path / "registry", "--url-ttl-s", "1", "--mbit", "20") as own:
            digest = random_file(tmp_path / "src" / "file.bin", 24 * MIB)
            project = own.seed(tmp_path / "src", "Expiring")
            world = make(own, projects=[project], transfer_connections=2)

            assert digest == world.md5(world.at("Expiring", "file.bin"))

    @pytest.mark.parametrize("name", ["small.txt", "large.bin"])
    @pytest.mark.parametrize(
        ("action", "more"),
        [
            ("expire", {}),
            ("truncate", {"bytes": 5}),
            ("truncate", {"bytes": 100_000}),
            ("drop-before", {}),
            ("drop-after", {}),
            ("status", {"status": 500}),
            ("status", {"status": 503}),
            ("status", {"status": 429}),
        ],
        ids=["expired", "cut-early", "cut-late", "dropped", "no-answer", "500", "503", "429"],
    )
    def test_reading_when_storage_fails_twice_ends_well(
        self, bad: Bad, calm: World, name: str, action: str, more: dict[str, int]
    ) -> None:
        """Whatever storage does to two requests, the reader gets every byte and no error."""
        world = calm
        listed(world, bad)
        bad.server.fault(BLOB, action, times=2, **more)

        wanted = bad.small_data if name == "small.txt" else bad.large_data
        assert md5(wanted) == world.md5(bad.at(world, name), timeout_s=30)

    def test_reading_when_a_small_body_is_corrupt_once_heals(self, bad: Bad, calm: World) -> None:
        """A wrong byte of a small file is seen before it is served; the second fetch is."""
        world = calm
        small, _ = listed(world, bad)
        bad.server.fault(BLOB, "corrupt", times=1, bytes=3)

        assert md5(bad.small_data) == world.md5(small)
        assert not world.status()["problems"]

    def test_reading_when_a_large_body_is_corrupt_once_is_never_wrong(
        self, bad: Bad, calm: World
    ) -> None:
        """Who was given wrong bytes of a large file ends in EIO; the next reader gets the right ones."""
        world = calm
        _, big = listed(world, bad)
        bad.server.fault(BLOB, "corrupt", times=1, bytes=3)

        assert world.read_error(big) == "EIO"
        assert md5(bad.large_data) == world.md5(big)
        eventually(lambda: world.why(big)["state"] == "cached", timeout_s=20)
        assert not world.status()["problems"]

    @pytest.mark.parametrize("name", ["small.txt", "large.bin"])
    def test_reading_when_bytes_are_always_corrupt_is_eio(
        self, bad: Bad, calm: World, name: str
    ) -> None:
        """Twice wrong is EIO; `synd why` and status explain; once mended, `cache verify` frees it."""
        world = calm
        listed(world, bad)
        bad.server.fault(BLOB, "corrupt", bytes=3)
        path = bad.at(world, name)

        assert world.read_error(path) == "EIO"
        assert world.read_error(path) == "EIO"
        assert "not those the service promises" in world.why(path)["reason"]
        assert "synd cache verify" in world.why(path)["mend"]
        assert "IntegrityError" in {p["type"] for p in world.status()["problems"]}
        bad.server.heal()
        assert world.synd("cache", "verify").status == 0
        eventually(lambda: world.read_error(path) == "ok", timeout_s=20)
        wanted = bad.small_data if name == "small.txt" else bad.large_data
        assert md5(wanted) == world.md5(path)

    def test_reading_when_the_service_names_another_md5_is_eio(self, bad: Bad) -> None:
        """Bytes that are not what their md5 says are refused, whoever is wrong."""
        handle = bad.server.handle(b"honest bytes\n", md5=f"{int(bad.name[1:]):032x}")
        bad.server.file(bad.project, "wrong.txt", handle=handle)
        world = bad.world()

        assert world.read_error(bad.at(world, "wrong.txt")) == "EIO"
        assert bad.small_data.decode() == world.text("cat", bad.at(world, "small.txt"))

    def test_reading_when_the_blob_is_gone_is_enoent(self, bad: Bad, calm: World) -> None:
        """A file whose bytes storage has lost says so; others are not hurt."""
        handle = bad.server.handle_of("e" * 32, 77)
        bad.server.file(bad.project, "lost.txt", handle=handle)
        world = calm

        assert world.read_error(bad.at(world, "lost.txt")) == "ENOENT"
        assert bad.small_data.decode() == world.text("cat", bad.at(world, "small.txt"))


class TestServiceFails:
    KINDS = (CHILDREN, BUNDLE, PRESIGN)

    @pytest.mark.parametrize("path", KINDS, ids=["listing", "sizes", "urls"])
    @pytest.mark.parametrize("action", ["drop-before", "drop-after", "429", "503", "truncate"])
    def test_reading_when_some_requests_fail_ends_well(
        self, bad: Bad, calm: World, path: str, action: str
    ) -> None:
        """A dropped, throttled or failed request of any kind is tried again, and programs see nothing."""
        world = calm
        if action.isdigit():
            bad.server.fault(path, "status", times=2, status=int(action))
        else:
            bad.server.fault(path, action, times=2, bytes=10)

        told = world.text("sh", "-c", 'cd "$1" && ls -l && cat *', "sh", bad.at(world))
        assert bad.small_data.decode() in told
        assert not world.status()["problems"]

    @pytest.mark.parametrize("status", [429, 503])
    def test_listing_when_a_storm_passes_ends_well(
        self, bad: Bad, calm: World, status: int
    ) -> None:
        """Many refusals in a row are waited out, within the limits of patience."""
        world = calm
        bad.server.fault("/repo/v1/entity", "status", times=4, status=status)

        assert "large.bin\nsmall.txt\n" == world.text("ls", bad.at(world))

    @pytest.mark.parametrize("path", KINDS, ids=["listing", "sizes", "urls"])
    def test_reading_when_the_service_is_too_slow_times_out(self, bad: Bad, path: str) -> None:
        """With SYND_READ_TIMEOUT_S=3 whoever waits for a silent service gets ETIMEDOUT in that time."""
        world = bad.world(read_timeout_s=3)
        if path == PRESIGN:
            listed(world, bad)
        bad.server.fault(path, "delay", seconds=8)
        errors: list[str] = []
        took = timed(lambda: errors.append(world.read_error(bad.at(world, "small.txt"))))

        assert errors == ["ETIMEDOUT"]
        assert took < 6

    @pytest.mark.parametrize("name", ["small.txt", "large.bin"])
    def test_reading_when_storage_is_too_slow_times_out(self, bad: Bad, name: str) -> None:
        """The same for silent storage."""
        world = bad.world(read_timeout_s=3)
        listed(world, bad)
        bad.server.fault(BLOB, "delay", seconds=8)
        path = bad.at(world, name)
        errors: list[str] = []
        took = timed(lambda: errors.append(world.read_error(path)))

        assert errors == ["ETIMEDOUT"]
        assert took < 6

    def test_listing_when_the_service_always_fails_is_an_error_in_time(self, bad: Bad) -> None:
        """A service that only ever answers 503 ends in EIO, not in an empty folder."""
        world = bad.world(read_timeout_s=4)
        bad.server.fault(CHILDREN, "status", status=503)
        errors: list[str] = []
        took = timed(lambda: errors.append(world.errno("os.listdir(argv[0])", bad.at(world))))

        assert errors in (["EIO"], ["ETIMEDOUT"])
        assert took < 8
        bad.server.heal()
        eventually(lambda: world.errno("os.listdir(argv[0])", bad.at(world)) == "ok")


class TestDisk:
    @pytest.fixture
    def tight(self, bad: Bad) -> Iterator[World]:
        """A world whose cache is a disk of 16 MiB."""
        world = bad.world(up=False)
        folder = world.folders.cache
        mount_disk(folder, "size=16m")
        try:
            yield world
        finally:
            world.close()
            unmount_disk(folder)

    def test_reading_when_the_disk_is_full_evicts(self, bad: Bad, tight: World) -> None:
        """More files than fit are read one after another, each right."""
        names = {}
        for number in range(4):
            data = large(100 + number)
            bad.server.file(bad.project, f"{number}.bin", data)
            names[f"{number}.bin"] = md5(data)
        tight.up()
        for name, digest in names.items():
            assert digest == tight.md5(bad.at(tight, name))

        assert tight.status()["cache"]["bytes"] <= 16 * MIB

    def test_reading_when_nothing_can_be_evicted_is_enospc(self, bad: Bad, tight: World) -> None:
        """A file larger than the disk ends in ENOSPC; the daemon lives and serves others."""
        bad.server.file(bad.project, "huge.bin", b"".join(large(n) for n in range(200, 205)))
        tight.up()
        pid = tight.daemon_pid()

        assert tight.read_error(bad.at(tight, "huge.bin"), timeout_s=60) == "ENOSPC"
        assert pid == tight.daemon_pid()
        assert bad.small_data.decode() == tight.text("cat", bad.at(tight, "small.txt"))

    def test_reading_when_the_cache_was_removed_fetches_again(self, bad: Bad) -> None:
        """Whoever deletes the cache folder under the daemon costs time, not data."""
        world = bad.world()
        small, big = listed(world, bad)
        world.md5(big)
        world.text("cat", small)

        def removed() -> bool:
            # The daemon may be putting what was read there this moment.
            shutil.rmtree(world.folders.cache, ignore_errors=True)
            return not world.folders.cache.exists()

        eventually(removed)

        assert md5(bad.large_data) == world.md5(big)
        assert bad.small_data.decode() == world.text("cat", small)
        bad.server.file(bad.project, "other.bin", large(300))
        assert world.synd("status", "--json").status == 0


class TestRemoteChanges:
    """With SYND_FRESHNESS_S=1 changes of others are seen within a few seconds."""

    @pytest.fixture
    def world(self, calm: World) -> World:
        return calm

    HOLD = (
        "f = open(argv[0], 'rb', buffering=0)\n"
        "print(f.read(100), flush=True)\n"
        "sys.stdin.readline()\n"
        "rest = f.read()\n"
        "import hashlib\n"
        "f.seek(0)\n"
        "print(hashlib.md5(f.readall()).hexdigest(), os.fstat(f.fileno()).st_size)\n"
    )

    @pytest.mark.parametrize("warm", [True, False], ids=["cached", "streamed"])
    def test_new_version_when_the_file_is_open_leaves_the_reader_alone(
        self, bad: Bad, world: World, *, warm: bool
    ) -> None:
        """An open handle reads the old version to its end; a new open sees the new one; so does stat."""
        _, path = listed(world, bad)
        if warm:
            world.md5(path)
            eventually(lambda: world.why(path)["state"] == "cached")
        reader = world.begin_python(self.HOLD, path)
        reader.printed("b'")
        new = large(400) + b"longer"
        bad.server.new_version(bad.large, new)
        eventually(
            lambda: world.text("stat", "-c", "%s", path).strip() == str(len(new)), timeout_s=15
        )
        reader.say()
        done = reader.wait(30)

        assert f"{md5(bad.large_data)} {LARGE}" == done.out.splitlines()[-1], done.err
        assert md5(new) == world.md5(path)
        assert md5(bad.large_data) == world.md5(path + "@1")

    def test_delete_when_the_file_is_open_leaves_the_reader_alone(
        self, bad: Bad, world: World
    ) -> None:
        """The name vanishes; whoever has the file open and here reads on."""
        _, path = listed(world, bad)
        world.md5(path)
        eventually(lambda: world.why(path)["state"] == "cached")
        reader = world.begin_python(self.HOLD, path)
        reader.printed("b'")
        bad.server.delete(bad.large)
        eventually(lambda: world.read_error(path) == "ENOENT", timeout_s=15)
        reader.say()
        done = reader.wait(30)

        assert md5(bad.large_data) == done.out.split()[-2], done.err
        assert "large.bin" not in world.text("ls", bad.at(world))

    @pytest.mark.req("S2-47")
    def test_rename_when_seen_shows_the_new_name_only(self, bad: Bad, world: World) -> None:
        """The old name is missing and the new one shows the same bytes, without fetching them."""
        _, path = listed(world, bad)
        world.md5(path)
        reader = world.begin_python(self.HOLD, path)
        reader.printed("b'")
        bad.server.change(bad.large, name="renamed.bin")
        eventually(lambda: world.read_error(path) == "ENOENT", timeout_s=15)
        bad.server.forget_requests()

        assert md5(bad.large_data) == world.md5(bad.at(world, "renamed.bin"))
        assert bad.server.asked().count(side="blob") == 0
        reader.say()
        assert md5(bad.large_data) == reader.wait(30).out.split()[-2]

    def test_move_when_seen_shows_it_in_the_new_folder_only(self, bad: Bad, world: World) -> None:
        """A file moved to another folder is there and not here."""
        folder = bad.server.folder(bad.project, "folder")
        _, path = listed(world, bad)
        eventually(lambda: "folder" in world.text("ls", bad.at(world)), timeout_s=15)
        assert world.text("ls", bad.at(world, "folder")) == ""
        bad.server.change(bad.small, parentId=folder)
        moved = bad.at(world, "folder", "small.txt")
        eventually(lambda: world.read_error(moved) == "ok", timeout_s=15)
        eventually(lambda: world.read_error(bad.at(world, "small.txt")) == "ENOENT", timeout_s=15)

        assert bad.small_data.decode() == world.text("cat", moved)
        assert path.endswith("large.bin")

    def test_link_when_its_target_moves_or_is_another_then_leads_there(
        self, bad: Bad, world: World
    ) -> None:
        """A link, and the entity's place by its id, follow every rename above it and every new target."""
        folder = bad.server.folder(bad.project, "folder")
        target = bad.server.file(folder, "target.txt", b"target\n")
        link = bad.server.link(bad.project, "link", target)
        listed(world, bad)
        path, by_id = bad.at(world, "link"), world.at("@id", target)
        eventually(lambda: world.read_error(path) == "ok", timeout_s=15)
        assert world.text("cat", path, by_id) == "target\ntarget\n"

        bad.server.change(target, name="renamed.txt")
        bad.server.change(folder, name="moved")
        new = bad.at(world, "moved", "renamed.txt")
        eventually(lambda: world.read_error(new) == "ok", timeout_s=15)
        assert world.text("cat", path, by_id) == "target\ntarget\n"
        assert world.text("readlink", "-f", path) == world.text("readlink", "-f", new)

        bad.server.change(link, linksTo={"targetId": bad.small})
        own = bad.small_data.decode()
        eventually(lambda: world.run("cat", path).out == own, timeout_s=15)

    def test_new_file_when_seen_appears(self, bad: Bad, world: World) -> None:
        """A name that was missing, and known as missing, appears with its bytes."""
        listed(world, bad)
        path = bad.at(world, "late.txt")
        assert world.read_error(path) == "ENOENT"
        bad.server.file(bad.project, "late.txt", b"late\n")
        eventually(lambda: world.read_error(path) == "ok", timeout_s=15)

        assert world.text("cat", path) == "late\n"
        assert "late.txt" in world.text("ls", bad.at(world))

    def test_freshness_always_is_told_and_kept(self, bad: Bad, world: World) -> None:
        """Status tells how old answers may be, and how old the oldest is."""
        listed(world, bad)

        def fresh() -> bool:
            told = world.status()["freshness"]
            return (
                told["setting_s"] == 1
                and told["watched"] >= 1
                and told["oldest_s"] is not None
                and told["oldest_s"] <= told["bound_s"] + 5
            )

        eventually(fresh, timeout_s=15)


class TestPermission:
    def test_terms_when_not_accepted_are_eacces_with_the_page(self, bad: Bad, calm: World) -> None:
        """A file with unmet terms is listed, refused, and `synd why` leads to its page."""
        bad.server.rest("POST", "/admin/terms", {"entityId": bad.small, "unmet": True})
        world = calm
        small, big = listed(world, bad)

        assert world.read_error(small) == "EACCES"
        told = world.why(small)
        assert "terms" in told["reason"]
        assert bad.small in told["mend"]
        assert world.read_error(big) == "ok"

    def test_download_when_not_permitted_is_eacces(self, bad: Bad) -> None:
        """Who may see but not download gets EACCES and where to ask."""
        user, token = bad.server.user(f"reader {bad.name}", "view", "download")
        bad.server.grant(bad.project, user, 1)
        world = bad.world(token=token)
        small, _ = listed(world, bad)

        assert world.read_error(small) == "EACCES"
        told = world.why(small)
        assert "not download" in told["reason"]
        assert bad.small in told["mend"]

    def test_folder_when_restricted_is_refused(self, bad: Bad) -> None:
        """A folder that may not be listed is EACCES; its siblings are not hurt."""
        user, token = bad.server.user(f"guest {bad.name}", "view", "download")
        bad.server.grant(bad.project, user, 1 | 2)
        secret = bad.server.folder(bad.project, "secret")
        bad.server.file(secret, "x.txt", b"x")
        world = bad.world(token=token)
        assert "secret" in world.text("ls", bad.at(world))
        bad.server.grant(secret, user, 0)

        assert world.errno("os.listdir(argv[0])", bad.at(world, "secret")) in (
            "EACCES",
            "ENOENT",
        )
        assert bad.small_data.decode() == world.text("cat", bad.at(world, "small.txt"))


class TestPortable:
    """The same days over libfuse, in short."""

    @pytest.fixture
    def world(self, bad: Bad) -> World:
        return bad.world(transport="libfuse", freshness_s=1, verify_hold_s=20)

    def test_reading_when_requests_fail_ends_well(self, bad: Bad, world: World) -> None:
        """Failures of every kind are waited out."""
        for path in (CHILDREN, BUNDLE, PRESIGN, BLOB):
            bad.server.fault(path, "status", times=1, status=503)
            bad.server.fault(path, "drop-before", times=1)
        told = world.text("sh", "-c", 'cd "$1" && ls -l && md5sum *', "sh", bad.at(world))

        assert {md5(bad.small_data), md5(bad.large_data)} <= set(told.split())

    def test_reading_when_bytes_are_wrong_is_eio(self, bad: Bad, world: World) -> None:
        """Wrong bytes are refused."""
        listed(world, bad)
        bad.server.fault(BLOB, "corrupt", bytes=3)

        assert world.read_error(bad.at(world, "small.txt")) == "EIO"
        assert world.read_error(bad.at(world, "large.bin")) == "EIO"

    def test_new_version_when_seen_is_shown(self, bad: Bad, world: World) -> None:
        """A new version shows its size and bytes."""
        small, _ = listed(world, bad)
        world.text("cat", small)
        bad.server.new_version(bad.small, b"the second version\n")
        eventually(lambda: world.run("cat", small).out == "the second version\n", timeout_s=20)

        assert world.text("stat", "-c", "%s", small) == "19\n"

    def test_refusals_always_have_their_errno(self, bad: Bad, world: World) -> None:
        """Terms are EACCES, a missing name is ENOENT, a write to what synd makes is EROFS."""
        bad.server.rest("POST", "/admin/terms", {"entityId": bad.small, "unmet": True})

        assert world.read_error(bad.at(world, "small.txt")) == "EACCES"
        assert world.read_error(bad.at(world, "none.txt")) == "ENOENT"
        assert world.errno("open(argv[0], 'w')", bad.at(world, "small.txt@1")) == "EROFS"

    def test_down_when_reading_ends_all(self, bad: Bad, world: World) -> None:
        """`synd down --lazy` ends mount, daemon and holder while a program waits."""
        _, big = listed(world, bad)
        bad.server.fault(BLOB, "delay", seconds=3)
        reader = world.begin("cat", big)
        eventually(lambda: world.status()["waits"], what="the wait in status")
        pid = world.daemon_pid()

        assert world.synd("down", "--lazy").status == 0
        assert not world.mounted()
        assert not process.running(pid)
        reader.wait(20)


class TestEnding:
    def test_cat_when_interrupted_ends_at_once(self, bad: Bad, calm: World) -> None:
        """Ctrl-C of a program that waits for bytes ends it; the mount goes on."""
        world = calm
        small, big = listed(world, bad)
        bad.server.fault(BLOB, "delay", seconds=15, times=1)
        reader = world.begin("cat", big)
        eventually(lambda: world.status()["waits"], what="the wait in status")
        reader.process.send_signal(signal.SIGINT)
        took = timed(lambda: reader.wait(10))

        assert took < 2
        assert reader.process.returncode == -signal.SIGINT
        assert bad.small_data.decode() == world.text("cat", small)

    def test_status_when_something_waits_says_why_and_how_long(self, bad: Bad) -> None:
        """Each wait has its reason, its start and its deadline in status."""
        world = bad.world()
        _, big = listed(world, bad)
        bad.server.fault(BLOB, "delay", seconds=4)
        reader = world.begin("cat", big)
        waits = eventually(lambda: world.status()["waits"], what="the wait in status")

        assert waits[0]["reason"] == "reading a file"
        assert waits[0]["since_at"] < waits[0]["deadline_at"]
        reader.end()

    def test_down_when_a_program_is_inside_says_who(self, bad: Bad) -> None:
        """`synd down` of a busy mount changes nothing and names the program; --lazy goes through."""
        world = bad.world()
        listed(world, bad)
        inside = world.begin("sh", "-c", 'cd "$1" && echo in && read line', "sh", bad.at(world))
        inside.printed("in")

        failed(world.synd("down"), 75, str(inside.process.pid), "--lazy")
        assert bad.small_data.decode() == world.text("cat", bad.at(world, "small.txt"))
        leaving = world.begin(
            sys.executable, "-m", "synd.cli.main", "down", "--lazy", env=world.env
        )
        eventually(lambda: not world.mounted(), what="the unmount")
        inside.say()
        assert leaving.wait(20).status == 0

    @pytest.mark.parametrize("ends", [True, False], ids=["daemon-ends", "daemon-stays"])
    def test_up_when_the_mount_was_taken_from_open_files_then_mounts_or_says_so(
        self, bad: Bad, *, ends: bool
    ) -> None:
        """After `umount -l` `synd up` does not wait for the mount that cannot come: it waits for its daemon's end."""
        world = bad.world()
        small, _ = listed(world, bad)
        inside = world.begin("sh", "-c", 'exec 5<"$1" && echo in && read line', "sh", small)
        inside.printed("in")
        subprocess.run(["umount", "-l", str(world.mount)], check=True, timeout=10)
        told = world.status()
        assert told["mounts"] == []
        assert [p["path"] for p in told["problems"] if "unmounted" in p["title"]] == [
            str(world.mount)
        ]

        if not ends:
            failed(world.try_up("--timeout", "1"), 75, str(world.daemon_pid()), "synd down --lazy")
            return
        beginning = world.begin(
            sys.executable, "-m", "synd.cli.main", "up", "--mount", str(world.mount), env=world.env
        )
        inside.say()
        assert beginning.wait(40).status == 0
        assert bad.small_data.decode() == world.text("cat", small)

    def test_umount_when_done_from_outside_ends_the_daemon(self, bad: Bad) -> None:
        """Somebody else's umount ends daemon and holder in order, and `synd up` starts anew."""
        world = bad.world()
        pid, holder = world.daemon_pid(), world.holder_pid()
        subprocess.run(["umount", str(world.mount)], check=True, timeout=20)
        eventually(
            lambda: not os.path.exists(f"/proc/{pid}") and not os.path.exists(f"/proc/{holder}"),
            timeout_s=20,
            what="the end of daemon and holder",
        )
        world.up()

        assert bad.small_data.decode() == world.text("cat", bad.at(world, "small.txt"))

    def test_down_always_leaves_nothing_behind(self, bad: Bad) -> None:
        """After `synd down` there is no mount, no process and no socket; doing it again is fine."""
        world = bad.world()
        pid, holder = world.daemon_pid(), world.holder_pid()

        assert world.synd("down").status == 0
        assert not world.mounted()
        assert not [p for p in (pid, holder) if process.running(p)]
        assert not world.folders.socket.exists()
        assert world.synd("down").status == 0
