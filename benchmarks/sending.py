"""Sending what was written: against programs that only upload; and what waits while nothing can be sent."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.cold import LATENCY_MS
from benchmarks.harness import (
    MIB,
    Mount,
    Registry,
    Row,
    SkippedError,
    Spread,
    World,
    at_least,
    at_most,
    cpu_s,
    random_file,
    rate,
    rss_bytes,
    run,
    seconds,
    timed,
)
from synd.cache.staging import Staging
from synd.config import Folders, folders
from synd.store.connect import Store
from synd.store.local import Locals

UPLOAD = 0.7
MANY = 5.0
FILES = 1000
AT_ONCE = 32
DELAY_S = 0.2
PENDING = 100_000
PENDING_BYTES = 200 * MIB
STATUS_S = 1.0
ROOT = Path(__file__).resolve().parent.parent


# One large file.


def large(world: World) -> list[Row]:
    """One large file, of bytes that the service has not got, against a plain parallel multipart upload.

    The mount: from `close` (after `fsync`) to the end of `synd wait`, which is when the entity is there;
    `upload_delay_s` is 0. The client: its `upload` in a process of its own, to the file handle. The plain
    program: the standard library, as many parts of the same size at once, to the file handle. All three
    hash the file twice, as the service wants its md5 before and that of each part with it.
    """
    size = (256 if world.quick else 1024) * MIB
    what = f"upload of {size >> 30} GiB" if size >= 1 << 30 else f"upload of {size >> 20} MiB"
    found: dict[str, list[float]] = {}
    with world.registry(world.root / "upload-registry") as registry:
        project = registry.make("Project", "Upload")
        with world.mount(
            registry, project, upload_delay_s=0, requests_per_minute=0, request_concurrency=16
        ) as mount:
            upload = _Upload(world, registry, mount, project, size)
            ways: list[tuple[str, Callable[[], float]]] = [
                ("mount", upload.by_mount),
                ("client", lambda: upload.alone("client")),
                ("plain", lambda: upload.alone("plain")),
            ]
            # The first turn finds nothing warm, and is not counted.
            for turn in range(world.times(5) + 1):
                shift = turn % len(ways)
                for name, way in ways[shift:] + ways[:shift]:
                    value = size / way()
                    if turn:
                        found.setdefault(name, []).append(value)
    plain = found.pop("plain")
    return [
        at_least(
            f"{what}, {name}",
            list(zip(found[way], plain, strict=True)),
            UPLOAD,
            unit=rate,
            peer="plain multipart PUT",
        )
        for name, way in (("through the mount", "mount"), ("the client alone", "client"))
    ]


class _Upload:
    """Uploads of one large file whose bytes are others each time."""

    def __init__(
        self, world: World, registry: Registry, mount: Mount, project: str, size: int
    ) -> None:
        self.registry = registry
        self.mount = mount
        self.project = project
        self.size = size
        self.source = random_file(world.folder("upload") / "source.bin", size)
        self.turn = 0

    def _stamp(self) -> None:
        """Other bytes than ever before."""
        self.turn += 1
        with open(self.source, "r+b") as file:
            for at in range(0, self.size, 8 * MIB):
                file.seek(at)
                file.write(os.urandom(16))
            file.flush()
            os.fsync(file.fileno())
        os.sync()

    def by_mount(self) -> float:
        self._stamp()
        path = self.mount.path / "Upload" / f"file-{self.turn}.bin"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with open(self.source, "rb") as source:
            while piece := source.read(MIB):
                os.write(fd, piece)
        os.fsync(fd)
        os.sync()
        began = time.perf_counter()
        os.close(fd)
        self.mount.sent()
        took_s = time.perf_counter() - began
        self.registry.child(self.project, path.name)
        return took_s

    def alone(self, how: str) -> float:
        self._stamp()
        env = {**os.environ, "SYNAPSE_AUTH_TOKEN": self.registry.token}
        command: list[str | Path] = [
            sys.executable, "-m", "benchmarks.putting", how, self.registry.url, self.project,
            self.source,
        ]  # fmt: skip
        return float(json.loads(run(command, env=env))["took_s"])


# Many small files.


def _client() -> Path:
    """The Python of an environment with the official client. Raises SkippedError."""
    sys.path.insert(0, str(ROOT))
    try:
        from tests.support import peers
    except ImportError as error:
        raise SkippedError(f"the tests are not here: {error}") from error
    try:
        return peers.synapseclient()
    except peers.PeerMissingError as error:
        raise SkippedError(str(error)) from error


def many_small(world: World) -> list[Row]:
    """1 000 files of 1 to 8 KiB into one new folder, 20 ms per request, until the service has them all.

    synd: `cp` into the mount, then `synd wait`, with `request_concurrency` 32, `requests_per_minute` 0 and
    `upload_delay_s` 0.2. The official client: `syncToSynapse` of a manifest that is written already, with the
    threads it takes by itself and with 32. The service's own limits (3 at once, 600 a minute), which this
    registry does not have, would bound both to the same few files a second.
    """
    python = _client()
    count = 200 if world.quick else FILES
    found: dict[str, list[float]] = {}
    note = ""
    data = world.root / "small-upload"
    with world.registry(data, "--latency-ms", str(LATENCY_MS)) as registry:
        project = registry.make("Project", "Many")
        with world.mount(
            registry,
            project,
            request_concurrency=AT_ONCE,
            requests_per_minute=0,
            upload_delay_s=DELAY_S,
        ) as mount:
            for turn in range(world.times(4)):
                # Once is enough to see which of the two peers is the slower one.
                wide = [f"{AT_ONCE} threads"] if turn == 0 else []
                for name in ("synd", "own threads", *wide):
                    source = world.folder(f"many/{turn}-{name.replace(' ', '-')}")
                    for i in range(count):
                        random_file(source / f"f{i:04d}.bin", 1024 + i * 7919 % 7168)
                    registry.requests(reset=True)
                    if name == "synd":
                        took_s = _by_mount(mount, registry, project, source, count)
                        note = f"synd: {registry.rest_requests() / count:.1f} requests per file"
                    else:
                        threads = AT_ONCE if name != "own threads" else 6
                        took_s = _by_client(world, python, registry, project, source, threads)
                        _check(registry, registry.child(project, source.name), count)
                    found.setdefault(name, []).append(took_s)
                    shutil.rmtree(source)
    ours = found.pop("synd")
    best = min(found, key=lambda name: statistics.median(found[name]))
    rows = []
    for name, theirs in sorted(found.items(), key=lambda p: p[0] != best):
        ratio = Spread.of([p / s for s, p in zip(ours, theirs, strict=False)])
        rows.append(
            Row(
                f"{count:,} files of 1–8 KiB sent, {LATENCY_MS} ms",
                seconds(statistics.median(ours)),
                f"syncToSynapse, {name} {seconds(statistics.median(theirs))}",
                ratio.text(),
                f"≥ {MANY:g}" if name == best else "shown",
                ratio.median >= MANY if name == best else None,
                note,
            )
        )
        note = ""
    return rows


def _check(registry: Registry, folder: str, count: int) -> None:
    if (there := registry.count(folder)) != count:
        raise RuntimeError(f"the service has {there} of {count} files")


def _by_mount(mount: Mount, registry: Registry, project: str, source: Path, count: int) -> float:
    target = mount.path / "Many" / source.name

    def work() -> None:
        run(["cp", "-r", source, target])
        mount.sent()

    took_s = timed(work)
    _check(registry, registry.child(project, source.name), count)
    return took_s


def _by_client(
    world: World, python: Path, registry: Registry, project: str, source: Path, threads: int
) -> float:
    folder = registry.make("Folder", source.name, project)
    home = world.folder("official")
    (home / ".synapseConfig").write_text(
        f"[authentication]\nusername = synd\nauthtoken = {registry.token}\n"
        f"[default]\nusername = synd\nauthtoken = {registry.token}\n"
        f"[endpoints]\nrepoEndpoint = {registry.url}/repo/v1\nauthEndpoint = {registry.url}/auth/v1\n"
        f"fileHandleEndpoint = {registry.url}/file/v1\nportalEndpoint = {registry.url}/\n"
    )
    manifest = home / "manifest.tsv"
    lines = [f"{path}\t{folder}" for path in sorted(source.iterdir())]
    manifest.write_text("\n".join(["path\tparent", *lines]) + "\n")
    closed = "http://127.0.0.1:9"
    env = {
        "PATH": os.environ["PATH"], "HOME": str(home), "HTTPS_PROXY": closed, "https_proxy": closed,
        "NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost",
    }  # fmt: skip
    script = Path(__file__).with_name("official.py")
    out = run([python, script, manifest, str(threads)], env=env, timeout_s=600)
    return float(json.loads(out.splitlines()[-1])["took_s"])


# What waits.


def pending(world: World) -> list[Row]:
    """The daemon with 100 000 new files that it cannot send, as the registry is stopped.

    The rows and files are those that as many closed files leave, put there while no daemon runs. Status:
    `synd status`, the interpreter's own start in it. Idle: the share of a core in 20 s without any use.
    """
    count = 10_000 if world.quick else PENDING
    home = world.folder("pending-home")
    with world.registry(world.root / "pending-registry") as registry:
        project = registry.make("Project", "Pending")
        with world.mount(registry, project, home=home) as mount:
            os.listdir(mount.path / "Pending")
            few = _write_rate(mount.path / "Pending" / "few")
            mount.sent()
            where = folders(mount.env)
        registry.stop()
        _fill(where, int(project.removeprefix("syn")), count)
        with world.mount(registry, project, home=home) as mount:
            rows = _waiting(mount, count)
            top = mount.path / "Pending"
            rows.append(
                Row(
                    f"200 files of 4 KiB made, {count:,} changes wait",
                    f"{_write_rate(top / 'more'):,.0f} files/s",
                    f"when nothing waited {few:,.0f} files/s",
                    "–",
                    "shown",
                )
            )
    return rows


def _write_rate(folder: Path) -> float:
    """Files made per second, one after the other."""
    folder.mkdir()
    data = os.urandom(4096)

    def work() -> None:
        for i in range(200):
            (folder / f"f{i}").write_bytes(data + b"%d" % i)

    return 200 / timed(work)


def _fill(where: Folders, project: int, count: int) -> None:
    """Rows and staging files of new files, in new folders of 1 000."""
    store = Store(where.database)
    try:
        rows = Locals(store)
        staging = Staging(where.staged, where.recovered)
        for first in range(0, count, 1000):
            now = time.time_ns()
            waits = {"ctime_ns": now, "state": "waiting", "since_ns": now, "not_before_ns": now}
            with rows.write() as tx:
                name = b"d%05d" % (first // 1000)
                folder = rows.insert(
                    tx, born=1, parent=project, name=name, kind="folder", mode=0o755, **waits
                )
                for i in range(first, min(count, first + 1000)):
                    staged = rows.next_number(tx)
                    data = b"%016d" % i
                    fd = staging.create(staged)
                    os.write(fd, data)
                    os.close(fd)
                    rows.insert(
                        tx, born=1, parent=folder.key, name=b"f%06d" % i, kind="file", mode=0o644,
                        staged=staged, size=len(data), stamp=staging.stamp(staged).text(), edit=1,
                        **waits,
                    )  # fmt: skip
    finally:
        store.close()


def _waiting(mount: Mount, count: int) -> list[Row]:
    told = mount.cli("status")
    unsent = told["pending"]["uploads"]
    if unsent < count:
        raise RuntimeError(f"{unsent} of {count} files wait")
    times = [timed(lambda: mount.cli("status")) for _ in range(9)]
    busy, began = cpu_s(mount.pid), time.perf_counter()
    time.sleep(20)
    share = (cpu_s(mount.pid) - busy) / (time.perf_counter() - began)
    what = f"{count:,} changes wait"
    return [
        at_most(
            f"resident, {what}",
            [rss_bytes(mount.pid)],
            PENDING_BYTES,
            unit=lambda value: f"{value / MIB:.0f} MiB",
            note=f"`synd up` took {seconds(mount.up_s)}; {share:.1%} of a core while idle",
        ),
        at_most(f"`synd status`, {what}", times, STATUS_S, unit=seconds),
    ]
