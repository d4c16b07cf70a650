"""Uploads to a real registry: what is sent, what is not sent again, and what happens when things break."""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from synd.client.credentials import Token, from_base
from synd.client.remote import Outgoing
from synd.client.service import SynapseClient
from synd.client.upload import ASK_FROM, MAX_PART, MIN_PART, part_size
from synd.clock import Deadline
from synd.errors import (
    DeadlineExceeded,
    Forbidden,
    IntegrityError,
    NotFound,
    NotSupported,
    QuotaExceeded,
    RemoteUnavailable,
    SyndError,
    UsageError,
)
from synd.ids import EntityId, FileHandleId, Md5, Version, syn
from synd.model import FileRef, FileVersion, Kind
from synd.retry import RetryPolicy
from tests.integration.client.stub import Answer, Request, Stub, json_answer
from tests.support.registry import Registry, running, wait_until

MIB = 1 << 20
QUICK = RetryPolicy(tries=5, base_s=0.01, cap_s=0.05)
PUTS = r"^/part/"
LARGE = 3 * MIN_PART + 12_345
"""Four parts."""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("uploads") / "data") as registry:
        yield registry


@pytest.fixture
def registry(served: Registry) -> Registry:
    served.call("DELETE", "/admin/faults")
    served.requests(reset=True)
    return served


@pytest.fixture
def slow_registry(tmp_path: Path) -> Iterator[Registry]:
    """One for requests that are still under way when their test is over: the next one counts its own."""
    with running(tmp_path / "slow") as registry:
        yield registry


def client(registry: Registry, **more: Any) -> SynapseClient:
    return SynapseClient(
        from_base(registry.url), Token(registry.token), policy=more.pop("policy", QUICK), **more
    )


def run(registry: Registry, work: Callable[[SynapseClient, EntityId], Awaitable[None]]) -> None:
    """Runs `work` with a client and a project of its own."""

    async def whole() -> None:
        async with client(registry) as one:
            project = await one.own_project(f"P {os.urandom(6).hex()}")
            registry.requests(reset=True)
            await work(one, project)

    asyncio.run(whole())


def outgoing(folder: Path, size: int, name: str = "a.bin") -> Outgoing:
    """A file of random bytes."""
    path = folder / f"{name}.{os.urandom(4).hex()}"
    content = os.urandom(size)
    path.write_bytes(content)
    return Outgoing(path, size, Md5(hashlib.md5(content, usedforsecurity=False).hexdigest()), name)


def counted(registry: Registry) -> dict[str, int]:
    """Requests by what they do, whatever their outcome; without those about the registry itself."""
    found: dict[str, int] = {}
    for row in registry.requests()["counters"]:
        if row["route"].startswith("/admin") or row["route"].endswith("/version"):
            continue
        name = f"{row['method']} {row['route'].rpartition('/v1')[2]}"
        found[name] = found.get(name, 0) + row["count"]
    return found


async def stored(
    one: SynapseClient, project: EntityId, what: Outgoing, handle: FileHandleId
) -> Md5:
    """The md5 of the bytes that the service gives back for a handle."""
    file = FileVersion(EntityId(0), Version(1), handle, what.md5, what.size)
    entity = await one.create(Kind.FILE, project, f"f {os.urandom(4).hex()}", file=file)
    (got,) = await one.presign([FileRef(handle, entity.id)])
    assert got.url is not None
    url = got.url
    hasher = hashlib.md5(usedforsecurity=False)
    await asyncio.to_thread(
        one.downloader.fetch_range,
        url,
        0,
        None,
        lambda _, piece: hasher.update(piece),
        deadline=Deadline.after(30, "x"),
    )
    return Md5(hasher.hexdigest())


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, MIN_PART),
        (64 * MIN_PART, MIN_PART),
        (64 * MIN_PART + 1, MIN_PART + MIB),
        (1 << 30, 16 * MIB),
        (100 << 30, 100 * MIB),
        (5 << 40, 5 << 30),
    ],
)
def test_part_size_when_file_grows_keeps_the_parts_few(size: int, expected: int) -> None:
    """Whole MiB, within the service's bounds, and a function of the size alone."""
    assert expected == part_size(size)
    assert -(-size // expected) <= 1024
    assert MAX_PART % MIB == 0


class TestRequests:
    """What an upload costs."""

    def test_small_file_when_uploaded_costs_four_requests(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """Begin, URL, add, complete; where the folder's files go is asked once for many."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            await asyncio.gather(
                *(one.upload(outgoing(tmp_path, 1000, f"{n}"), project) for n in range(10))
            )

            assert counted(registry) == {
                "GET /entity/{id}/uploadDestination": 1,
                "POST /file/multipart": 10,
                "POST /file/multipart/{upload}/presigned/url/batch": 10,
                "PUT /part": 10,
                "PUT /file/multipart/{upload}/add/{number}": 10,
                "PUT /file/multipart/{upload}/complete": 10,
            }

        run(registry, work)

    def test_large_file_when_uploaded_goes_in_parts(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """64 MiB in 8 parts with one batch of URLs; the bytes are the file's."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, 64 * MIB)
            heard: list[int] = []
            handle = await one.upload(what, project, progress=heard.append)
            found = counted(registry)

            assert [8 * MIB] * 8 == heard
            assert (found["PUT /part"], found["POST /file/multipart"]) == (8, 1)
            assert found["POST /file/multipart/{upload}/presigned/url/batch"] == 1
            assert what.md5 == await stored(one, project, what, handle)

        run(registry, work)

    def test_repeated_upload_when_complete_sends_nothing(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """The service answers with the handle that it has."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, 5000)
            first = await one.upload(what, project)
            registry.requests(reset=True)

            assert first == await one.upload(what, project)
            assert counted(registry) == {"POST /file/multipart": 1}

        run(registry, work)


class TestKnown:
    """Content that the service has already."""

    def test_content_when_known_is_copied(self, registry: Registry, tmp_path: Path) -> None:
        """Under another name, no byte is sent, and the handle is one of its own."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, ASK_FROM)
            first = await one.upload(what, project)
            file = FileVersion(EntityId(0), Version(1), first, what.md5, what.size)
            await one.create(Kind.FILE, project, "first", file=file)
            registry.requests(reset=True)
            heard: list[int] = []
            second = await one.upload(what._replace(name="b"), project, progress=heard.append)
            found = counted(registry)

            assert second != first
            assert "PUT /part" not in found
            assert [what.size] == heard
            assert found == {
                "GET /entity/md5/{md5}": 1,
                "GET /entity/{id}/version/{version}/filehandles": 1,
                "POST /filehandles/copy": 1,
            }
            assert what.md5 == await stored(one, project, what, second)

        run(registry, work)

    @pytest.mark.parametrize("path", ["entity/md5", "filehandles$", "filehandles/copy"])
    def test_copy_when_it_fails_is_a_plain_upload(
        self, registry: Registry, tmp_path: Path, path: str
    ) -> None:
        """Not to send bytes is a favour."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, ASK_FROM)
            handle = await one.upload(what, project)
            await stored(one, project, what, handle)
            registry.fault(action="status", status=403, path=path)
            other = await one.upload(what._replace(name="b"), project)

            assert other != handle
            assert counted(registry)["PUT /part"] == 2

        run(registry, work)

    def test_content_when_unreadable_is_sent(self, registry: Registry, tmp_path: Path) -> None:
        """What another user keeps to herself cannot be copied."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, ASK_FROM)
            await stored(one, project, what, await one.upload(what, project))
            _, made = registry.call("POST", "/admin/users", {"userName": os.urandom(4).hex()})
            async with SynapseClient(from_base(registry.url), Token(made["token"])) as other:
                own = await other.own_project(os.urandom(6).hex())
                registry.requests(reset=True)
                handle = await other.upload(what, own)

                assert counted(registry)["PUT /part"] == 1
                assert what.md5 == await stored(other, own, what, handle)

        run(registry, work)


SCRIPT = """
import asyncio, sys
from pathlib import Path
from synd.client.credentials import Token, from_base
from synd.client.remote import Outgoing
from synd.client.service import SynapseClient
from synd.ids import EntityId
url, token, path, size, md5, parent = sys.argv[1:]
async def main():
    async with SynapseClient(from_base(url), Token(token)) as client:
        what = Outgoing(Path(path), int(size), md5, "a.bin")
        await client.upload(what, EntityId(int(parent)), progress=lambda n: print(n, flush=True))
asyncio.run(main())
"""


def _killed_after_two(registry: Registry, what: Outgoing, project: EntityId) -> list[int]:
    """The sizes of the two parts that a process sent before it was killed."""
    args = [registry.url, registry.token, str(what.path), str(what.size), what.md5, str(project)]
    sender = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *args], stdout=subprocess.PIPE, text=True
    )
    assert sender.stdout is not None
    with sender.stdout:
        arrived = [int(sender.stdout.readline()) for _ in range(2)]
        sender.kill()
        sender.wait()
    return arrived


def _wait_for_fault(registry: Registry) -> None:
    """Until a request has met the registry's first fault."""
    wait_until(
        lambda: registry.call("GET", "/admin/faults")[1]["faults"][0]["hits"], 10, "the fault"
    )


class TestResume:
    """Attempts that were cut off."""

    def test_upload_when_its_process_was_killed_sends_only_the_rest(
        self, slow_registry: Registry, tmp_path: Path
    ) -> None:
        """Another process finds the parts that were added."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, LARGE)
            # The third and fourth part take for ever, so that exactly two arrive.
            slow_registry.fault(action="delay", seconds=60, path=PUTS, nth=3, times=2)
            arrived = await asyncio.to_thread(_killed_after_two, slow_registry, what, project)
            slow_registry.call("DELETE", "/admin/faults")
            slow_registry.requests(reset=True)
            heard: list[int] = []
            handle = await one.upload(what, project, progress=heard.append)

            assert counted(slow_registry)["PUT /part"] == 2
            assert sorted(arrived) == sorted(heard[:2])
            assert sum(heard) == what.size
            assert what.md5 == await stored(one, project, what, handle)

        run(slow_registry, work)

    def test_upload_when_cancelled_lets_go_and_can_go_on(
        self, slow_registry: Registry, tmp_path: Path
    ) -> None:
        """Threads and files are given back; what was added counts."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, LARGE)
            slow_registry.fault(action="delay", seconds=30, path=PUTS, nth=2, times=3)
            begun = asyncio.Event()
            loop = asyncio.get_running_loop()
            task = asyncio.create_task(
                one.upload(what, project, progress=lambda _: loop.call_soon_threadsafe(begun.set))
            )
            await asyncio.wait_for(begun.wait(), 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.to_thread(
                wait_until, lambda: not _open_files(what.path), 10, "the file was let go of"
            )
            slow_registry.call("DELETE", "/admin/faults")
            slow_registry.requests(reset=True)
            await one.upload(what, project)

            assert counted(slow_registry)["PUT /part"] == 3

        run(slow_registry, work)

    @pytest.mark.parametrize("size", [6000, LARGE], ids=["small", "parts"])
    def test_upload_when_its_client_is_closed_fails_at_once(
        self, slow_registry: Registry, tmp_path: Path, size: int
    ) -> None:
        """And does not seem to have been cancelled by its caller."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            slow_registry.fault(action="delay", seconds=30, path=PUTS, times=0)
            task = asyncio.create_task(one.upload(outgoing(tmp_path, size), project))
            await asyncio.to_thread(_wait_for_fault, slow_registry)
            await one.aclose()
            async with asyncio.timeout(5):
                with pytest.raises(RemoteUnavailable):
                    await task

        run(slow_registry, work)

    def test_two_uploads_when_of_the_same_share_the_result(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """Both get the handle, whoever was first to complete."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, LARGE)
            first, second = await asyncio.gather(
                one.upload(what, project), one.upload(what, project)
            )

            assert first == second
            assert what.md5 == await stored(one, project, what, first)

        run(registry, work)

    def test_parts_when_storage_forgot_them_are_sent_anew(
        self, registry: Registry, tmp_path: Path
    ) -> None:
        """An upload that storage knows no more begins from the start."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, LARGE)
            registry.fault(action="status", status=404, path=PUTS, nth=2, times=2)
            handle = await one.upload(what, project)

            assert what.md5 == await stored(one, project, what, handle)

        run(registry, work)


def _open_files(path: Path) -> int:
    """How many descriptors of this process lead to a file."""
    count = 0
    for fd in Path("/proc/self/fd").iterdir():
        try:
            count += fd.readlink() == path
        except OSError:
            continue
    return count


FAULTS: dict[str, dict[str, Any]] = {
    "part not accepted": {"action": "add-failed", "path": "/add/2", "times": 2},
    "url expired": {"action": "expire", "path": PUTS, "nth": 2},
    "many urls expired": {"action": "expire", "path": PUTS, "times": 3},
    "connection cut within a part": {
        "action": "truncate",
        "bytes": 3 * MIB,
        "path": PUTS,
        "nth": 2,
    },
    "part taken, answer lost": {"action": "drop-after", "path": PUTS},
    "connection cut at once": {"action": "drop-before", "path": PUTS, "times": 3},
    "part spoilt on the way": {"action": "corrupt", "bytes": 5000, "path": PUTS},
    "storage busy": {"action": "status", "status": 503, "path": PUTS, "times": 3},
    "storage fails": {"action": "status", "status": 500, "path": PUTS, "times": 3},
    "service fails to begin": {
        "action": "status",
        "status": 503,
        "path": "multipart[?]",
        "times": 2,
    },
    "begin, answer lost": {"action": "drop-after", "path": "multipart[?]"},
    "service fails to add": {"action": "status", "status": 503, "path": "/add/", "times": 2},
    "add, answer lost": {"action": "drop-after", "path": "/add/2"},
    "throttled": {"action": "status", "status": 429, "path": "presigned", "times": 1},
    "complete, answer lost": {"action": "drop-after", "path": "/complete"},
    "complete lacks a part": {"action": "status", "status": 400, "path": "/complete"},
}


class TestTrouble:
    """What passes over is borne."""

    @pytest.mark.parametrize("name", FAULTS)
    @pytest.mark.parametrize("size", [6000, 100_000, LARGE], ids=["small", "one part", "parts"])
    def test_trouble_when_it_passes_is_not_seen(
        self, registry: Registry, tmp_path: Path, name: str, size: int
    ) -> None:
        """The upload ends with the right bytes."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, size)
            registry.fault(**FAULTS[name])
            handle = await one.upload(what, project)

            assert what.md5 == await stored(one, project, what, handle)

        run(registry, work)

    @pytest.mark.parametrize(
        ("fault", "error"),
        [
            ({"action": "status", "status": 500, "path": PUTS}, RemoteUnavailable),
            ({"action": "expire", "path": PUTS}, Forbidden),
            ({"action": "add-failed", "path": "/add/"}, IntegrityError),
            ({"action": "status", "status": 403, "path": "multipart[?]"}, Forbidden),
            ({"action": "status", "status": 400, "path": "multipart[?]"}, UsageError),
            ({"action": "status", "status": 400, "path": "/complete"}, IntegrityError),
            (
                {
                    "action": "status",
                    "status": 403,
                    "code": "PROJECT_STORAGE_LIMIT_EXCEEDED",
                    "path": "multipart[?]",
                },
                QuotaExceeded,
            ),
        ],
        ids=["storage", "urls", "add", "forbidden", "refused", "complete", "quota"],
    )
    def test_trouble_when_it_stays_is_told(
        self, slow_registry: Registry, tmp_path: Path, fault: dict[str, Any], error: type[SyndError]
    ) -> None:
        """After a bounded number of tries, by what it is."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            slow_registry.fault(**fault, times=0)
            for size in (6000, LARGE):
                with pytest.raises(error):
                    await one.upload(outgoing(tmp_path, size), project)

        run(slow_registry, work)

    def test_deadline_when_passed_ends_the_upload(
        self, slow_registry: Registry, tmp_path: Path
    ) -> None:
        """Also in the middle of a part."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            slow_registry.fault(action="delay", seconds=3, path=PUTS, times=0)
            for size in (6000, LARGE):
                with pytest.raises((DeadlineExceeded, RemoteUnavailable)):
                    await one.upload(
                        outgoing(tmp_path, size), project, deadline=Deadline.after(0.5, "it")
                    )

        run(slow_registry, work)


class TestFile:
    """Files that do not hold still."""

    @pytest.mark.parametrize("how", ["cut off", "rewritten"])
    def test_file_when_changed_while_sent_is_refused(
        self, slow_registry: Registry, tmp_path: Path, how: str
    ) -> None:
        """What arrives is what was announced, or nothing."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, LARGE)

            def spoil(_: int) -> None:
                if how == "cut off":
                    os.truncate(what.path, MIN_PART)
                else:
                    with open(what.path, "r+b") as file:
                        file.seek(LARGE - 5)
                        file.write(b"other")

            # One part is there before the others are looked at.
            slow_registry.fault(action="delay", seconds=0.3, path=PUTS, nth=2, times=3)
            with pytest.raises(IntegrityError):
                await one.upload(what, project, progress=spoil)

            assert (await one.children(project)).headers == ()

        run(slow_registry, work)

    def test_file_when_only_touched_is_sent(self, registry: Registry, tmp_path: Path) -> None:
        """Times may be set at any moment; only the bytes count."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            what = outgoing(tmp_path, LARGE)
            handle = await one.upload(what, project, progress=lambda _: os.utime(what.path, (1, 1)))

            assert what.md5 == await stored(one, project, what, handle)

        run(registry, work)


class TestDestination:
    """Where a folder's files are kept."""

    @pytest.mark.parametrize(
        "kind", ["ExternalUploadDestination", "ExternalObjectStoreUploadDestination"]
    )
    def test_folder_when_kept_elsewhere_is_not_supported(self, tmp_path: Path, kind: str) -> None:
        """The storages that the multipart upload does not lead to are named."""

        def answer(_: Request) -> Answer:
            told = {"concreteType": f"org.sagebionetworks.repo.model.file.{kind}"}
            return json_answer({**told, "storageLocationId": 7})

        async def work() -> None:
            with Stub(answer) as stub:
                async with SynapseClient(from_base(stub.url), Token("x")) as one:
                    with pytest.raises(NotSupported, match=kind):
                        await one.upload(outgoing(tmp_path, 9), EntityId(5))

        asyncio.run(work())

    def test_folder_when_gone_is_not_found(self, registry: Registry, tmp_path: Path) -> None:
        """And asked for again the next time, as it may be back."""

        async def work(one: SynapseClient, project: EntityId) -> None:
            await one.delete(project)
            for _ in range(2):
                with pytest.raises(NotFound):
                    await one.upload(outgoing(tmp_path, 9), project)
            await one.restore(project)

            assert await one.upload(outgoing(tmp_path, 9), project)
            assert syn(project)

        run(registry, work)
