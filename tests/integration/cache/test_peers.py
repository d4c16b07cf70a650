"""The official client's own cache and lock classes, on the same folder as ours, both ways."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.cache.objects import ObjectStore
from synd.cache.synapse_cache import SynapseCache
from synd.clock import Deadline
from synd.ids import ContentKey, FileHandleId, Md5
from tests.support import peers

HANDLE = FileHandleId(5_005)
pytestmark = [pytest.mark.tools, pytest.mark.timeout(700)]

CLIENT = """
import json, sys, time
from synapseclient.core.cache import Cache
from synapseclient.core.lock import Lock

cache = Cache(sys.argv[1])
locks = {}

def lock(handle, seconds):
    held = Lock(".cacheMap", dir=cache.get_cache_dir(handle))
    held.blocking_acquire()
    locks[handle] = held

def unlock(handle, _):
    locks.pop(handle).release()

def add_many(handle, paths):
    for path in paths:
        cache.add(handle, path)

calls = {
    "get": cache.get, "contains": cache.contains, "lock": lock, "unlock": unlock,
    "add": lambda handle, path: bool(cache.add(handle, path)),
    "add_many": add_many,
    "folder": lambda handle, _: cache.get_cache_dir(handle),
}
print("ready", flush=True)
for line in sys.stdin:
    name, handle, more = json.loads(line)
    print(json.dumps(calls[name](handle, more)), flush=True)
"""


class Client:
    """The client's cache, in a process of its own."""

    def __init__(self, python: Path, root: Path) -> None:
        self._child = subprocess.Popen(
            [str(python), "-W", "ignore", "-c", CLIENT, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._child.stdout is not None
        assert self._child.stdout.readline() == "ready\n"

    def ask(self, call: str, more: object = None, handle: int = HANDLE) -> object:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        self._child.stdin.write(json.dumps([call, handle, more]) + "\n")
        self._child.stdin.flush()
        return json.loads(self._child.stdout.readline())

    def close(self) -> None:
        self._child.communicate(timeout=20)


@pytest.fixture(params=peers.VERSIONS)
def python(request: pytest.FixtureRequest) -> Path:
    """An environment that holds the official client, in each version that matters."""
    try:
        return peers.synapseclient(request.param)
    except peers.PeerMissingError as missing:
        pytest.skip(str(missing))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "synapseCache"


@pytest.fixture
def client(python: Path, root: Path) -> Iterator[Client]:
    client = Client(python, root)
    yield client
    client.close()


@pytest.fixture
def ours(root: Path) -> SynapseCache:
    return SynapseCache(root)


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "synd")


def stored(objects: ObjectStore, data: bytes) -> tuple[Md5, Path]:
    key = ContentKey(hashlib.md5(data).hexdigest())
    objects.put_bytes(key, data)
    return Md5(key), objects.path(key)


@pytest.mark.req("S3-03")
def test_client_accepts_what_we_entered(
    client: Client, ours: SynapseCache, objects: ObjectStore, tmp_path: Path
) -> None:
    """Its `contains` and all forms of `get` answer with our file; after an edit they do not."""
    md5, path = stored(objects, b"content of ours" * 1000)

    entered = ours.enter(HANDLE, "data.txt", path, md5)

    assert entered is not None
    folder = str(entered.parent)
    assert folder == client.ask("folder")
    assert client.ask("contains", str(entered))
    assert str(entered) == client.ask("get")
    assert str(entered) == client.ask("get", str(entered))
    assert str(entered) == client.ask("get", folder)

    later = int(time.time()) + 5
    with open(entered, "ab") as file:
        file.write(b"edited in place")
    os.utime(entered, (later, later))
    assert not client.ask("contains", str(entered))
    assert client.ask("get", str(entered)) is None
    assert ours.find(HANDLE, md5) is None
    assert objects.verify(ContentKey(md5))


def test_we_accept_what_the_client_added(
    client: Client, ours: SynapseCache, objects: ObjectStore, tmp_path: Path
) -> None:
    """A file that it recorded, wherever it lies, becomes our object; a modified one does not."""
    data = b"content of the client" * 5000
    md5 = Md5(hashlib.md5(data).hexdigest())
    file = tmp_path / "somewhere" / "theirs.bin"
    file.parent.mkdir()
    file.write_bytes(data)
    os.utime(file, (1_700_000_000.9999999, 1_700_000_000.9999999))
    client.ask("add", str(file))

    assert file == ours.find(HANDLE, md5)
    assert ours.adopt(HANDLE, md5, objects)
    assert objects.verify(ContentKey(md5))

    changed = data[::-1]
    file.write_bytes(changed)
    assert ours.find(HANDLE, md5) is None
    # The client records new bytes under the old handle, too: only the md5 tells.
    client.ask("add", str(file))
    assert ours.find(HANDLE, md5) is None
    assert file == ours.find(HANDLE, Md5(hashlib.md5(changed).hexdigest()))


def test_we_respect_the_clients_lock_and_it_ours(
    client: Client, ours: SynapseCache, objects: ObjectStore
) -> None:
    """While one holds the lock of a handle the other waits, or gives up at its deadline."""
    md5, path = stored(objects, b"x")
    client.ask("lock")
    assert ours.enter(HANDLE, "f", path, md5, Deadline.after(0.3, "test")) is None
    client.ask("unlock")
    assert ours.enter(HANDLE, "f", path, md5, Deadline.after(5, "test")) is not None

    answers: list[object] = []
    with ours.locked(ours.folder(HANDLE), Deadline.after(5, "test")):
        asking = threading.Thread(target=lambda: answers.append(client.ask("get")))
        asking.start()
        asking.join(timeout=1.2)
        assert answers == []
    asking.join(timeout=10)
    assert [str(ours.folder(HANDLE) / "f")] == answers


def test_no_entry_is_lost_in_contention(
    client: Client,
    python: Path,
    root: Path,
    ours: SynapseCache,
    objects: ObjectStore,
    tmp_path: Path,
) -> None:
    """Two clients and two of our threads write one map at once: every entry is there at the end."""
    second = Client(python, root)
    files = []
    for n in range(12):
        file = tmp_path / f"theirs-{n}"
        file.write_bytes(b"%d" % n)
        files.append(str(file))
    made = [stored(objects, b"ours %d" % n) for n in range(12)]
    entered: list[Path | None] = []

    def enter(part: int) -> None:
        for n in range(part, 12, 2):
            md5, path = made[n]
            entered.append(ours.enter(HANDLE, f"ours-{n}", path, md5, Deadline.after(60, "test")))

    threads = [threading.Thread(target=enter, args=(part,)) for part in range(2)] + [
        threading.Thread(target=client.ask, args=("add_many", files[:6])),
        threading.Thread(target=second.ask, args=("add_many", files[6:])),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    second.close()

    entries = json.loads((ours.folder(HANDLE) / ".cacheMap").read_text())
    assert {*files, *(str(path) for path in entered)} == set(entries)
    assert None not in entered
    assert not (ours.folder(HANDLE) / ".cacheMap.lock").exists()
    assert all(client.ask("contains", path) for path in entries)
