"""What the base of a lazy file gives: bytes at once, or a Future of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future

from synd.errors import Cancelled, IntegrityError

Got = bytes | Future[bytes]

Fetch = Callable[[int, int], Got]
"""So many bytes of the base from an offset on, all of them. Called from any thread, never under a lock."""

_STOP_S = 0.25
"""How often whoever waits for bytes is asked whether they are still wanted."""


def pread(fd: int, size: int, offset: int) -> bytes:
    """The bytes, fewer only at the end of the file."""
    if size <= 0:
        return b""
    data = os.pread(fd, size, offset)
    while len(data) < size and (more := os.pread(fd, size - len(data), offset + len(data))):
        data += more
    return data


def fetched(got: Got, size: int) -> bytes:
    """What a settled fetch brought. Raises its error, Cancelled, IntegrityError."""
    try:
        data = got.result(0) if isinstance(got, Future) else got
    except CancelledError as error:
        raise Cancelled("nobody waits for these bytes any more") from error
    if len(data) != size:
        raise IntegrityError(f"{size} bytes of the file's base were wanted, {len(data)} came")
    return data


def waited(got: Got, size: int, stop: Callable[[], bool]) -> bytes | None:
    """What a fetch brings; None when `stop` said so first."""
    if isinstance(got, Future):
        arrived = threading.Event()
        got.add_done_callback(lambda _: arrived.set())
        while not arrived.wait(_STOP_S):
            if stop():
                got.cancel()
                return None
    return fetched(got, size)


def settle_when_all(
    answer: Future[bytes], parts: Sequence[Future[bytes]], finish: Callable[[], bytes]
) -> None:
    """Settles `answer` with `finish()` when all parts are settled. Cancelling it cancels them.

    `finish` is called once in any case.
    """
    lock, left = threading.Lock(), len(parts)

    def done(_: Future[bytes]) -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
        wanted = answer.set_running_or_notify_cancel()
        try:
            data = finish()
        except Exception as error:  # noqa: BLE001 - it belongs to the reader
            if wanted:
                answer.set_exception(error)
            return
        if wanted:
            answer.set_result(data)

    def given_up(finished: Future[bytes]) -> None:
        if finished.cancelled():
            for part in parts:
                part.cancel()

    answer.add_done_callback(given_up)
    for part in parts:
        part.add_done_callback(done)
