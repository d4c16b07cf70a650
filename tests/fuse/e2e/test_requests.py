"""What browsing and reading cost the service, counted by the service itself."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuse.e2e.conftest import MakeWorld
from tests.support.mounts import eventually
from tests.support.world import Remote, World, random_file, remote, timed

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(110)]

MIB = 1 << 20
PAGE = 50
LOGIN = 4
"""Who we are, the service's limits, the top's listing: once per life of a daemon."""


@pytest.fixture(scope="module")
def throttled(ground: Path) -> Iterator[Remote]:
    """A registry with Synapse's own limits: 3 requests at once, 600 a minute."""
    with remote(ground / "throttled", "--throttle") as server:
        yield server


def quiet(server: Remote, world: World) -> None:
    """Forgets what the start cost, once it is over."""
    eventually(lambda: world.status()["service"]["user"], what="the login")
    server.forget_requests()


class TestNames:
    @pytest.mark.parametrize("count", [1, 50, 51, 500])
    def test_names_always_cost_one_request_per_fifty(
        self, server: Remote, make: MakeWorld, count: int
    ) -> None:
        """A folder of N files is listed by N/50 requests, rounded up, and one for its own name."""
        project = server.many(count, f"Names {count}", size=10)
        world = make(server, projects=[project], views="off", freshness_s=600)
        quiet(server, world)
        names = world.text("ls", "-U", world.at(f"Names {count}")).split()
        asked = server.asked()

        assert len(names) == count
        assert -(-count // PAGE) == asked.count("/entity/children")
        assert asked.count() <= -(-count // PAGE) + LOGIN

    def test_path_when_deep_in_a_big_folder_costs_a_few(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """One file of a folder of 5000 is opened without waiting for the whole listing."""
        project = server.many(5000, "Big folder", size=10)
        world = make(server, projects=[project], views="off", freshness_s=600)
        quiet(server, world)
        server.fault("/entity/children", "delay", seconds=0.3, nth=2)

        took = timed(lambda: world.text("cat", world.at("Big folder", "f0004321.bin")))
        assert took < 5
        server.heal()

    def test_listing_when_repeated_costs_nothing(self, server: Remote, make: MakeWorld) -> None:
        """What is known is not asked for again within the freshness bound."""
        project = server.many(120, "Again", size=10, per_folder=40)
        world = make(server, projects=[project], freshness_s=600)
        first = world.text("ls", "-lR", world.at("Again"))
        eventually(lambda: " 10 " in world.text("ls", "-lR", world.at("Again")))
        server.forget_requests()

        assert world.text("ls", "-lR", world.at("Again")).count("\n") == first.count("\n")
        assert server.asked().count("/entity") == 0


class TestSizes:
    def test_sizes_when_a_view_exists_come_by_one_query(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """With an EntityView of the project the sizes of all its files cost one query, not one each."""
        project = server.many(600, "Viewed", size=10, per_folder=100)
        server.view(project)
        world = make(server, projects=[project], freshness_s=600)
        quiet(server, world)
        told = world.text("find", world.at("Viewed"), "-name", "f0*", "-printf", "%s\n")
        asked = server.asked()

        assert set(told.split()) == {"10"}
        assert asked.count("bundle") <= 6
        assert asked.count("csv/async/start") == 1, asked

    def test_sizes_when_views_may_be_made_need_none_before(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """With SYND_VIEWS=create synd makes one private view and uses it."""
        project = server.many(200, "Made", size=10)
        world = make(server, projects=[project], views="create", freshness_s=600)
        quiet(server, world)
        told = world.text("find", world.at("Made"), "-name", "f0*", "-printf", "%s\n")
        asked = server.asked()

        assert set(told.split()) == {"10"}
        assert asked.count("bundle") <= 6, asked
        assert asked.count() <= 40, asked

    def test_ls_when_there_is_no_view_answers_at_once(
        self, throttled: Remote, make: MakeWorld
    ) -> None:
        """Names come at once; sizes fill in at the rate that the service permits, and never too fast."""
        project = throttled.many(300, "Filling in", size=77)
        world = make(throttled, projects=[project], views="off", freshness_s=600)
        path = world.at("Filling in")
        throttled.forget_requests()
        names = timed(lambda: world.text("ls", "-U", path))
        long = timed(lambda: world.text("ls", "-l", path))

        assert names < 3
        assert long < 8
        eventually(
            lambda: (
                set(world.text("find", path, "-name", "f0*", "-printf", "%s\n").split()) == {"77"}
            ),
            timeout_s=70,
            what="all sizes",
        )
        asked = throttled.asked()
        assert asked.count(status=429) == 0, asked
        assert asked.count("bundle") <= 310, asked

    def test_reading_when_the_size_is_not_known_yet_is_right(
        self, server: Remote, make: MakeWorld
    ) -> None:
        """A file whose size has not come in shows 0, but is read whole: no short read is served."""
        project = server.many(150, "Unknown", size=777)
        server.file(project, "me.txt", b"all of me\n" * 500)
        world = make(server, projects=[project], views="off", size_wait_s=0.1, freshness_s=600)
        server.fault("bundle2", "delay", seconds=0.5)
        world.text("ls", "-l", world.at("Unknown"))

        assert world.text("cat", world.at("Unknown", "me.txt")) == "all of me\n" * 500
        assert world.text("wc", "-c", world.at("Unknown", "f0000149.bin")).split()[0] == "777"


class TestWholeProjects:
    @pytest.mark.parametrize("views", ["use", "create"])
    def test_two_thousand_files_when_throttled_cost_150_requests(
        self, throttled: Remote, make: MakeWorld, tmp_path: Path, views: str
    ) -> None:
        """2000 small files listed with sizes and read whole: at most 150 requests, never a 429."""
        root = tmp_path / "src"
        for number in range(2000):
            path = root / f"d{number % 4}" / f"f{number:04}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{views} {number}\n" * 20)
        name = f"Two thousand {views}"
        project = throttled.seed(root, name)
        if views == "use":
            throttled.view(project)
        world = make(throttled, projects=[project], views=views, freshness_s=600)
        quiet(throttled, world)
        sizes = world.text(
            "find", world.at(name), "-name", "f*.txt", "-printf", "%s\n", timeout_s=60
        )
        read = world.text("sh", "-c", 'cat "$1"/d*/* | md5sum', "sh", world.at(name), timeout_s=90)
        asked = throttled.asked()

        assert len(sizes.split()) == 2000
        assert "0" not in sizes.split()
        assert world.text("sh", "-c", 'cat "$1"/d*/* | md5sum', "sh", str(root)) == read
        assert asked.count() <= 150, asked
        assert asked.count(status=429) == 0, asked


class TestBytes:
    @pytest.fixture
    def big(self, server: Remote, tmp_path: Path) -> tuple[str, str]:
        """(project, its name) with one file of 64 MiB."""
        name = f"Bytes {tmp_path.name}"
        random_file(tmp_path / "src" / "file.bin", 64 * MIB, seed=random.randrange(1 << 30))
        return server.seed(tmp_path / "src", name), name

    def test_random_reads_always_fetch_little_more_than_they_ask(
        self, server: Remote, big: tuple[str, str], make: MakeWorld
    ) -> None:
        """Random reads of 64 KiB fetch at most 2.5 times their bytes."""
        project, name = big
        world = make(server, projects=[project], freshness_s=600)
        world.text("ls", "-l", world.at(name))
        server.forget_requests()
        told = world.python(
            "import random\n"
            "fd = os.open(argv[0], os.O_RDONLY)\n"
            "os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)\n"
            "r = random.Random(5)\n"
            "got = sum(len(os.pread(fd, 65536, r.randrange(0, 64 * 2**20 - 65536))) for _ in range(60))\n"
            "print(got)",
            world.at(name, "file.bin"),
        )

        assert [str(60 * 65536)] == told.out.split(), told.err
        assert server.asked().bytes_sent <= 2.5 * 60 * 65536

    def test_ends_when_cold_cost_two_ranges(
        self, server: Remote, big: tuple[str, str], make: MakeWorld
    ) -> None:
        """The first byte and the last 64 KiB of a cold file come by one range each, after one URL."""
        project, name = big
        world = make(server, projects=[project], freshness_s=600)
        world.text("ls", "-l", world.at(name))
        server.forget_requests()
        told = world.python(
            "fd = os.open(argv[0], os.O_RDONLY)\n"
            "size = os.fstat(fd).st_size\n"
            "print(len(os.pread(fd, 1, 0)), len(os.pread(fd, 65536, size - 65536)))",
            world.at(name, "file.bin"),
        )
        asked = server.asked()

        assert ["1", "65536"] == told.out.split(), told.err
        assert asked.count(side="blob") <= 2, asked
        assert asked.count("fileHandle/batch") == 1, asked

    def test_sequential_reader_always_fetches_each_byte_once(
        self, server: Remote, big: tuple[str, str], make: MakeWorld
    ) -> None:
        """Reading a file once, and again, moves its bytes once."""
        project, name = big
        world = make(server, projects=[project], freshness_s=600)
        server.forget_requests()
        path = world.at(name, "file.bin")

        assert world.md5(path) == world.md5(path)
        assert 64 * MIB <= server.asked().bytes_sent <= 64 * MIB * 1.02

    def test_small_files_when_read_in_turn_get_their_urls_in_batches(
        self, server: Remote, make: MakeWorld, tmp_path: Path
    ) -> None:
        """Reading 300 small files of a folder asks for URLs a few times, not 300 times."""
        for number in range(300):
            path = tmp_path / "src" / f"f{number:03}.txt"
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"batch {tmp_path} {number}\n")
        project = server.seed(tmp_path / "src", "Batched")
        server.view(project)
        world = make(server, projects=[project], freshness_s=600)
        world.text("ls", "-l", world.at("Batched"))
        server.forget_requests()
        told = world.text("sh", "-c", 'cat "$1"/*.txt', "sh", world.at("Batched"))
        asked = server.asked()

        assert told.count("\n") == 300
        assert asked.count("fileHandle/batch") <= 15, asked
        assert 300 == asked.count(side="blob"), asked
