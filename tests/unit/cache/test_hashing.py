"""The hashing thread: it follows what arrives, seals what is right, and tells what is wrong."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

import pytest

from synd.cache.hashing import Hasher, lower_priority
from synd.cache.objects import ObjectStore
from synd.cache.partial import BLOCK, PartialStore
from synd.ids import ContentKey

Make = Callable[..., tuple[ContentKey, bytes]]
WAIT_S = 20


def test_follow_seals_what_arrives_in_any_order(
    partials: PartialStore, objects: ObjectStore, hasher: Hasher, content: Make
) -> None:
    """Blocks come back to front; once all are here the file is verified, sealed and reported."""
    key, data = content(200 * BLOCK + 7)
    partial = partials.open(key, len(data))
    verdicts: queue.Queue[bool] = queue.Queue()
    hasher.follow(partial, verdicts.put)

    for start in range(200 * BLOCK, -1, -50 * BLOCK):
        assert hasher.lag_bytes(partial) == 0
        partial.write(start, data[start : start + 50 * BLOCK])

    assert verdicts.get(timeout=WAIT_S)
    assert partial.sealed
    assert objects.verify(key)
    assert hasher.lag_bytes(partial) == 0
    partial.close()
    assert partial.fd == -1


@pytest.mark.announces("content.mismatch")
def test_follow_of_wrong_bytes_reports_and_can_begin_again(
    partials: PartialStore, objects: ObjectStore, hasher: Hasher, content: Make
) -> None:
    """A mismatch is told, not sealed; after a reset the same file may be followed anew."""
    key, data = content(90 * BLOCK)
    partial = partials.open(key, len(data))
    verdicts: queue.Queue[bool] = queue.Queue()

    def mended(ok: bool) -> None:
        verdicts.put(ok)
        if not ok:
            partial.reset()
            hasher.follow(partial, mended)
            partial.write(0, data)

    hasher.follow(partial, mended)
    partial.write(0, data[:-1] + b"?")

    assert [verdicts.get(timeout=WAIT_S) for _ in range(2)] == [False, True]
    assert objects.verify(key)
    partial.close()


def test_reset_on_the_way_starts_the_digest_anew(
    partials: PartialStore, hasher: Hasher, content: Make
) -> None:
    """What was hashed of thrown-away blocks is forgotten."""
    key, data = content(100 * BLOCK)
    partial = partials.open(key, len(data))
    verdicts: queue.Queue[bool] = queue.Queue()
    hasher.follow(partial, verdicts.put)
    partial.write(0, b"?" * 50 * BLOCK)

    partial.reset()
    partial.write(0, data)

    assert verdicts.get(timeout=WAIT_S)
    partial.close()


def test_forget_calls_nobody_back(partials: PartialStore, hasher: Hasher, content: Make) -> None:
    """A forgotten file stays as it is, and its descriptors close with its last user."""
    key, data = content(64 * BLOCK)
    partial = partials.open(key, len(data))
    hasher.follow(partial, lambda _: pytest.fail("called back"))
    partial.write(0, data[: 32 * BLOCK])

    hasher.forget(partial)
    hasher.forget(partial)
    partial.write(32 * BLOCK, data[32 * BLOCK :])

    assert len(data) == hasher.lag_bytes(partial)
    assert not partial.sealed
    partial.close()


def test_complete_partial_of_an_earlier_run_is_verified_on_follow(
    partials: PartialStore, objects: ObjectStore, hasher: Hasher, content: Make
) -> None:
    """After a restart nothing is left to arrive; following alone gets it sealed."""
    key, data = content(80 * BLOCK)
    partial = partials.open(key, len(data))
    partial.write(0, data)
    verdicts: queue.Queue[bool] = queue.Queue()

    hasher.follow(partial, verdicts.put)

    assert verdicts.get(timeout=WAIT_S)
    assert objects.verify(key)
    partial.close()


@pytest.mark.parametrize("key", ["h12", "d41d8cd98f00b204e9800998ecf8427e"])
def test_content_without_md5_or_bytes_is_sealed_when_complete(
    partials: PartialStore, objects: ObjectStore, hasher: Hasher, key: str
) -> None:
    """Nothing to compare with, or nothing to hash: complete is enough."""
    size = BLOCK if key.startswith("h") else 0
    partial = partials.open(ContentKey(key), size)
    verdicts: queue.Queue[bool] = queue.Queue()
    hasher.follow(partial, verdicts.put)
    if size:
        partial.write(0, b"?" * size)

    assert verdicts.get(timeout=WAIT_S)
    assert objects.has(ContentKey(key), size)
    partial.close()


def test_object_taken_meanwhile_ends_the_hashing(
    partials: PartialStore, objects: ObjectStore, hasher: Hasher, content: Make
) -> None:
    """Content that was adopted is verified already."""
    key, data = content(64 * BLOCK)
    partial = partials.open(key, len(data))
    verdicts: queue.Queue[bool] = queue.Queue()
    hasher.follow(partial, verdicts.put)
    partial.write(BLOCK, data[BLOCK : 2 * BLOCK])

    objects.put_bytes(key, data)
    partial.take_object()

    assert verdicts.get(timeout=WAIT_S)
    partial.close()


@pytest.mark.announces("content.mismatch")
def test_many_files_are_all_verified(
    partials: PartialStore, objects: ObjectStore, hasher: Hasher, content: Make
) -> None:
    """Files that arrive at once share the thread in turns; one wrong file harms no other."""
    made = [content(70 * BLOCK + n, n) for n in range(12)]
    verdicts: queue.Queue[tuple[int, bool]] = queue.Queue()
    opened = [partials.open(key, len(data)) for key, data in made]

    def follow(n: int) -> None:
        hasher.follow(opened[n], lambda ok: verdicts.put((n, ok)))

    for n in range(len(opened)):
        follow(n)

    def send(n: int) -> None:
        data = made[n][1] if n != 5 else b"?" * len(made[n][1])
        piece = opened[n].piece(0)
        for at in range(0, len(data), 100_000):
            piece.write(data[at : at + 100_000])

    threads = [threading.Thread(target=send, args=(n,)) for n in range(len(made))]
    for thread in threads:
        thread.start()
    got = dict(verdicts.get(timeout=WAIT_S) for _ in made)
    for thread in threads:
        thread.join()

    assert {n: n != 5 for n in range(len(made))} == got
    assert [n != 5 for n in range(len(made))] == [objects.has(key) for key, _ in made]
    for partial in opened:
        partial.close()


@pytest.mark.announces("hasher.callback")
def test_caller_that_fails_does_not_stop_the_thread(
    partials: PartialStore, hasher: Hasher, content: Make
) -> None:
    """A bug in one callback is logged; the next file is served."""
    verdicts: queue.Queue[bool] = queue.Queue()

    def broken(ok: bool) -> None:
        raise RuntimeError("bug")

    def good(ok: bool) -> None:
        verdicts.put(ok)

    for seed, callback in enumerate((broken, good)):
        key, data = content(BLOCK, seed)
        partial = partials.open(key, len(data))
        hasher.follow(partial, callback)
        partial.write(0, data)
        partial.close()

    assert verdicts.get(timeout=WAIT_S)


def test_lower_priority_is_for_the_calling_thread_only() -> None:
    """Other threads keep theirs."""
    seen: list[int] = []

    def low() -> None:
        lower_priority(19)
        seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=low)
    thread.start()
    thread.join()

    assert seen == [19]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) < 19
