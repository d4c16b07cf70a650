"""What end-to-end tests share: registries that run for the whole session, worlds that end with their test."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from synd.cli import sample
from tests.support.mounts import mount_fusectl
from tests.support.world import Remote, World, random_file, remote

SIGNAL_BYTES = 8 << 20
HUGE_BYTES = 5 << 30
HUGE_MD5 = "5" * 32
VERSIONS = 15_000
MANY = 10_000
DEPTH = 47
"""The service allows 50 levels, the project and the root among them."""
LONG = "n" * 252 + ".txt"
"""256 letters: one more than a file system holds."""

MakeWorld = Callable[..., World]


@pytest.fixture(autouse=True, scope="session")
def _real_mounts() -> None:
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse on this machine")
    if os.geteuid() != 0:
        pytest.skip("these tests mount as root")
    mount_fusectl()


@pytest.fixture(scope="session")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that other users of this machine may enter, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="synd-e2e-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def source(ground: Path) -> Path:
    """The plain folder behind the project `Tree`: sample files, small ones, odd ones."""
    root = ground / "source"
    root.mkdir()
    sample.write_files(root)
    (root / "large" / "signal.bin").unlink()
    random_file(root / "large" / "signal.bin", SIGNAL_BYTES)
    numbers = random.Random(7)
    for folder in ("a", "b"):
        (root / "many" / folder).mkdir(parents=True)
        for number in range(60):
            data = numbers.randbytes(numbers.randrange(1, 6000))
            (root / "many" / folder / f"part-{number:03}.dat").write_bytes(data)
    (root / "many" / "needle.txt").write_text("hay\nhay\nneedle in the hay\nhay\n")
    (root / "empty.txt").touch()
    (root / "empty folder").mkdir()
    (root / "it's (odd), + name.txt").write_text("odd\n")
    (root / "trailing dot.").write_text("dot\n")
    _repository(root / "repo")
    return root


def _repository(path: Path) -> None:
    path.mkdir()
    env = os.environ | {
        "GIT_AUTHOR_DATE": "2020-01-01T00:00:00Z",
        "GIT_COMMITTER_DATE": "2020-01-01T00:00:00Z",
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }

    def git(*words: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *words],
            cwd=path,
            env=env,
            check=True,
            timeout=20,
            capture_output=True,
        )

    if shutil.which("git") is None:
        return
    git("init", "-q", "-b", "main")
    for number in range(3):
        (path / "analysis.py").write_text(f"print({number})\n" * 50)
        (path / f"note-{number}.txt").write_text(f"note {number}\n")
        git("add", ".")
        git("commit", "-q", "-m", f"step {number}")


@dataclass
class Shown:
    """The registry behind the shared mounts, and what is in it."""

    remote: Remote
    source: Path
    projects: dict[str, str] = field(default_factory=dict)
    """Name → id."""
    entities: dict[str, str] = field(default_factory=dict)
    """Our word → id."""


@pytest.fixture(scope="session")
def shown(ground: Path, source: Path) -> Iterator[Shown]:
    """Projects that no test changes."""
    with remote(ground / "shown") as server:
        found = Shown(server, source)
        found.projects["Tree"] = server.seed(source, "Tree")
        found.projects["Many"] = server.many(MANY, "Many")
        _odd_names(found)
        _links(found)
        _extremes(found)
        yield found


def _odd_names(shown: Shown) -> None:
    server = shown.remote
    project = shown.projects["Names"] = server.project("Names")
    for name in (LONG, "..", ".", "...", "it's", "dots..", "a b", "-rf", "100+ (x), y"):
        server.file(project, name, f"I am {name}\n".encode())
    column = server.rest("POST", "/column", {"name": "n", "columnType": "INTEGER"})["id"]
    server._create("table.TableEntity", "TABLE", project, columnIds=[column])
    server.file(project, "TABLE.csv", b"I am a file\n")


def _links(shown: Shown) -> None:
    server = shown.remote
    project = shown.projects["Links"] = server.project("Links")
    other = shown.projects["Other"] = server.project("Other")
    folder = server.folder(other, "folder")
    target = shown.entities["target"] = server.file(folder, "target.txt", b"one\n")
    server.new_version(target, b"two\n")
    inside = server.folder(project, "inside")
    server.link(inside, "to other project", target)
    server.link(inside, "to first version", target, 1)
    server.link(inside, "to folder", folder)
    gone = server.file(project, "gone", b"x")
    server.link(inside, "broken", gone)
    server.delete(gone)


def _extremes(shown: Shown) -> None:
    server = shown.remote
    project = shown.projects["Extremes"] = server.project("Extremes")
    at = project
    for level in range(DEPTH):
        at = server.folder(at, f"d{level}")
    server.file(at, "bottom.txt", b"bottom\n")
    server.file(project, "zero.bin", b"")
    huge = Path(server.blobs.path(HUGE_MD5))
    with open(huge, "wb") as file:
        file.write(b"head" * (16 << 10))
        file.truncate(HUGE_BYTES - (64 << 10))
        file.seek(0, os.SEEK_END)
        file.write(b"tail" * (16 << 10))
    server.file(project, "huge.bin", handle=server.handle_of(HUGE_MD5, HUGE_BYTES))
    versioned = shown.entities["versioned"] = server.file(project, "versioned.txt", b"version 1\n")
    number = int(versioned[3:])
    handles = [server.handle(f"version {n}\n".encode()) for n in (2, VERSIONS)]
    with server.db.write() as tx:
        when, by = tx.execute(
            "SELECT modified_ns, modified_by FROM entity WHERE id = ?", (number,)
        ).fetchone()
        tx.executemany(
            "INSERT INTO entity_version (entity_id, number, label, modified_ns, modified_by,"
            " handle_id) VALUES (?, ?, ?, ?, ?, ?)",
            [
                (number, n, str(n), when + n, by, int(handles[n == VERSIONS]))
                for n in range(2, VERSIONS + 1)
            ],
        )
        tx.execute(
            "UPDATE entity SET current_version = ?, max_version = ?, modified_ns = ?, size = ?"
            " WHERE id = ?",
            (VERSIONS, VERSIONS, when + VERSIONS, len(f"version {VERSIONS}\n"), number),
        )


@pytest.fixture(scope="module")
def mounted(ground: Path, shown: Shown) -> Iterator[World]:
    """The shared projects on a mount, over the kernel's own protocol."""
    one = World(ground / "kernel", shown.remote, read_only="true")
    (ground / "kernel").chmod(0o755)
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="module")
def portable(ground: Path, shown: Shown) -> Iterator[World]:
    """The same over libfuse."""
    one = World(ground / "libfuse", shown.remote, transport="libfuse", read_only="true")
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture(scope="session")
def shared_server(ground: Path) -> Iterator[Remote]:
    with remote(ground / "server") as server:
        yield server


@pytest.fixture
def server(shared_server: Remote) -> Iterator[Remote]:
    """A registry that tests fill with projects of their own, and whose faults end with the test."""
    yield shared_server
    shared_server.heal()


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeWorld]:
    """Makes worlds that end with the test; `up=False` leaves starting them to the test."""
    worlds: list[World] = []

    def one(server: Remote, *, up: bool = True, **options: object) -> World:
        made = World(tmp_path / f"w{len(worlds)}", server, **options)
        worlds.append(made)
        if up:
            made.up()
        return made

    yield one
    for made in worlds:
        made.close()
