"""kill -9 at any moment of an edit: every write that was answered is there, and nothing else is."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synd.cache.lazy import Lazy
from synd.cache.lazymap import BLOCK
from synd.cache.staging import Staging

pytestmark = pytest.mark.crash

NUMBER = 1 << 39
SIZE = 40 * BLOCK + 777

# Both sides run the same random changes; the child says which of them it was answered.
CHANGES = """
import random
BLOCK, SIZE = 64 << 10, (40 * (64 << 10)) + 777

def changes(seed):
    rng = random.Random(seed)
    while True:
        kind = rng.choice(("write", "write", "write", "write", "zero", "cut"))
        at = rng.choice((rng.randrange(SIZE), rng.randrange(41) * BLOCK))
        if kind == "cut":
            yield kind, rng.randrange(SIZE // 2, SIZE + 2 * BLOCK), b""
        else:
            size = rng.choice((1, 100, 4096, BLOCK, 3 * BLOCK))
            yield kind, at, rng.randbytes(size) if kind == "write" else bytes(size)
"""

CHILD = (
    CHANGES
    + """
import sys, threading, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from synd.cache.lazy import Lazy
from synd.cache.staging import Staging

root, seed = Path(sys.argv[1]), int(sys.argv[2])
base = random.Random(7).randbytes(SIZE)
network = ThreadPoolExecutor(3)

def answer(offset, size):
    time.sleep(0.0003)
    return base[offset:offset + size]

staging = Staging(root / "staged", root / "recovered")
staging.sweep()
fetch = lambda offset, size: network.submit(answer, offset, size)
if staging.exists(1 << 39):
    lazy = Lazy.open(staging, 1 << 39, SIZE, fetch)
else:
    lazy = Lazy.create(staging, 1 << 39, SIZE, fetch)
print("ready", flush=True)
if seed % 2:
    threading.Thread(target=lazy.fill, daemon=True).start()
for count, (kind, at, data) in enumerate(changes(seed)):
    if kind == "cut":
        lazy.truncate(at)
    else:
        done = lazy.write(at, data) if kind == "write" else lazy.zero(at, len(data))
        assert (done if isinstance(done, int) else done.result(20)) == len(data)
    if count % 7 == 0:
        lazy.sync()
    print(count, flush=True)
"""
)


def apply(content: bytearray, kind: str, at: int, data: bytes) -> None:
    end = at if kind == "cut" else at + len(data)
    if kind == "cut":
        del content[at:]
    content.extend(bytes(max(0, end - len(content))))
    if kind != "cut":
        content[at:end] = data


def run_until_killed(arguments: list[str], wait_s: float) -> list[bytes]:
    """What the child printed before it was killed so long after it was ready."""
    child = subprocess.Popen([sys.executable, "-c", *arguments], stdout=subprocess.PIPE)
    assert child.stdout is not None
    lines = [child.stdout.readline()]
    try:
        child.wait(timeout=wait_s)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
    lines += child.stdout.read().splitlines(keepends=True)
    child.wait(timeout=20)
    child.stdout.close()
    assert child.returncode == -signal.SIGKILL
    return [line for line in lines if line.endswith(b"\n")]


def test_killed_editor_of_a_lazy_file_keeps_every_answered_write(tmp_path: Path) -> None:
    """Killed at random, again and again, with and without a fill under way; then filled to the end."""
    scope: dict[str, object] = {}
    exec(CHANGES, scope)
    changes = scope["changes"]
    assert callable(changes)
    base = random.Random(7).randbytes(SIZE)
    content = bytearray(base)
    rng = random.Random()
    answered = 0
    for seed in range(14):
        lines = run_until_killed([CHILD, str(tmp_path), str(seed)], rng.uniform(0.0, 0.15))
        assert lines[0] == b"ready\n"
        steps = changes(seed)
        for _ in lines[1:]:
            apply(content, *next(steps))
            answered += 1
        # The one after may be done as a whole, in part or not at all.
        maybe = bytearray(content)
        apply(maybe, *next(steps))

        staging = Staging(tmp_path / "staged", tmp_path / "recovered")
        lazy = Lazy.open(staging, NUMBER, SIZE, lambda at, size: base[at : at + size])
        found = lazy.read(0, lazy.size)
        lazy.close()
        assert isinstance(found, bytes)
        assert min(len(content), len(maybe)) <= len(found) <= max(len(content), len(maybe))
        for at in range(0, len(found), 512):
            one, two = content[at : at + 512], maybe[at : at + 512]
            piece = found[at : at + 512]
            assert piece in (one, two) or all(
                byte in seen
                for byte, *seen in zip(
                    piece, one.ljust(len(piece), b"\0"), two.ljust(len(piece), b"\0"), strict=False
                )
            )
        content = bytearray(found)

    assert answered > 0
    lazy = Lazy.open(staging, NUMBER, SIZE, lambda at, size: base[at : at + size])
    assert lazy.fill()
    assert content == staging.path(NUMBER).read_bytes()


MOVER = """
import hashlib, os, random, sys
from pathlib import Path
from synd.cache.objects import ObjectStore
from synd.cache.staging import Staging

root, seed = Path(sys.argv[1]), int(sys.argv[2])
staging = Staging(root / "staged", root / "recovered")
objects = ObjectStore(root / "cache")
source = os.open(root / "source", os.O_RDONLY)
size = os.fstat(source).st_size
md5 = sys.argv[3]
rng = random.Random(seed)
print("ready", flush=True)
number = (1 << 39) + seed * 1_000_000
while True:
    number += 2
    staging.copy_in(number, source, size)
    way = rng.randrange(5)
    if way == 0:
        staging.as_object(number, objects, md5, size)
    elif way == 1:
        staging.remove(number)
    else:
        name = staging.recover(number, "data.bin")
        if way == 2:
            staging.restore_recovered(name, number + 1)
            staging.drop_recovered(name)
        elif way == 3:
            staging.put_back(number)
        elif way == 4:
            staging.drop_recovered(name)
"""


def test_killed_mover_leaves_whole_files_only(tmp_path: Path) -> None:
    """Wherever it was killed: each file in each folder is whole, and the next start mends the rest."""
    import hashlib

    data = random.Random(9).randbytes(2 << 20)
    (tmp_path / "source").write_bytes(data)
    md5 = hashlib.md5(data).hexdigest()
    rng = random.Random()
    for seed in range(14):
        run_until_killed([MOVER, str(tmp_path), str(seed), md5], rng.uniform(0.0, 0.05))

        staging = Staging(tmp_path / "staged", tmp_path / "recovered")
        staging.sweep()
        for number in list(staging.numbers()):
            assert data == staging.path(number).read_bytes()
            staging.rescue(number)
        assert staging.drop_restored() == 0
        for name in staging.recovered_names():
            assert data == staging.recovered_path(name).read_bytes()
            staging.drop_recovered(name)
        for stored in (tmp_path / "cache").rglob("*"):
            assert not stored.is_file() or data == stored.read_bytes()
        left = [p for folder in ("staged", "recovered") for p in (tmp_path / folder).rglob("*")]
        assert [p for p in left if p.is_file()] == []
