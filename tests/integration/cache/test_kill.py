"""kill -9 at any moment: what the files claim afterwards is true."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from synd.cache.objects import ObjectStore
from synd.cache.partial import PartialStore
from synd.ids import ContentKey

SIZE = 32 << 20

WRITER = """
import random, sys, threading
from pathlib import Path
from synd.cache.hashing import Hasher
from synd.cache.objects import ObjectStore
from synd.cache.partial import BLOCK, PartialStore
from synd.ids import ContentKey

root, key, seed = Path(sys.argv[1]), ContentKey(sys.argv[2]), int(sys.argv[3])
data = memoryview(random.Random(7).randbytes(int(sys.argv[4])))
objects = ObjectStore(root)
partials = PartialStore(root, objects)
partial = partials.open(key, len(data))
hasher = Hasher()
hasher.follow(partial, lambda ok: print("sealed", ok, flush=True))
print("ready", flush=True)

def fetch(seed):
    rng = random.Random(seed)
    while gaps := partial.missing(0, len(data)):
        gap = rng.choice(gaps)
        start = rng.randrange(gap.start, gap.end, BLOCK)
        end = min(gap.end, start + rng.randrange(1, 40 * BLOCK))
        piece = partial.piece(start)
        while piece.at < end:
            piece.write(data[piece.at : min(end, piece.at + rng.randrange(1, 90_000))])
            if rng.random() < 0.05:
                small = rng.randbytes(3000)
                import hashlib
                objects.put_bytes(ContentKey(hashlib.md5(small).hexdigest()), small)

threads = [threading.Thread(target=fetch, args=(seed * 10 + n,)) for n in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
sys.stdin.read()
"""


@pytest.mark.crash
def test_killed_writer_leaves_only_true_claims(tmp_path: Path) -> None:
    """Killed at random and started again, until the file is sealed: no block is ever wrong."""
    data = random.Random(7).randbytes(SIZE)
    key = ContentKey(hashlib.md5(data).hexdigest())
    rng = random.Random()
    before = 0
    for attempt in range(60):
        child = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), key, str(attempt), str(SIZE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"ready\n"
        try:
            child.wait(timeout=rng.uniform(0.001, 0.02))
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
        child.wait(timeout=20)
        child.stdin.close()
        child.stdout.close()

        objects = ObjectStore(tmp_path)
        partials = PartialStore(tmp_path, objects)
        partial = partials.open(key, SIZE)
        at = 0
        for gap in [*partial.missing(0, SIZE), None]:
            end = gap.start if gap else SIZE
            assert data[at:end] == partial.read(at, end - at)
            at = gap.end if gap else SIZE
        assert partial.have_bytes >= before
        before = partial.have_bytes
        sealed = partial.sealed
        partial.close()
        assert all(objects.verify(one.key) for one in objects.entries())
        if sealed:
            break
    else:
        # Slow machine: what is missing arrives without another kill.
        partial = partials.open(key, SIZE)
        for gap in partial.missing(0, SIZE):
            partial.write(gap.start, data[gap.start : gap.end])
        partial.seal(partial.md5())
        partial.close()

    assert ObjectStore(tmp_path).verify(key)
    assert os.listdir(tmp_path / "partial") == []
    fresh = ObjectStore(tmp_path)
    fresh.count()
    assert list(fresh.folder.rglob(".*")) == []
