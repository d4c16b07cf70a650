"""The bytes behind a signed URL, into an open file: for what is fetched once and whole, such as a table's CSV."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable

from synd.client.transfer import Downloader
from synd.clock import Deadline
from synd.errors import DeadlineExceeded

Ask = Callable[[], Awaitable[str]]
"""Gives a fresh URL."""


async def save(
    downloader: Downloader, ask: Ask, fd: int, deadline: Deadline, *, size: int | None = None
) -> None:
    """Puts all bytes of the URL into the open file `fd`; `size` in bytes where it is known.

    Asks for another URL when one has expired. Raises what `ask` raises, RemoteUnavailable, DeadlineExceeded.
    """
    loop = asyncio.get_running_loop()
    stop = False
    first = [await ask()]
    # The thread may outlive a cancelled caller by a moment; the number of a descriptor that it
    # does not own could by then belong to another file.
    own = os.dup(fd)

    def url(fresh: bool) -> str:
        if first and not fresh:
            return first[0]
        first.clear()
        asked = asyncio.run_coroutine_threadsafe(_asked(ask), loop)
        try:
            first.append(asked.result(deadline.left_s() + 1))
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"{deadline.what} took longer than {deadline.total_s:g} s"
            ) from error
        return first[0]

    def work() -> None:
        try:
            downloader.resume(
                url,
                0,
                size,
                lambda offset, piece: os.pwrite(own, piece, offset),
                deadline=deadline,
                cancelled=lambda: stop,
            )
        finally:
            os.close(own)

    try:
        await asyncio.to_thread(work)
    finally:
        stop = True


async def _asked(ask: Ask) -> str:
    return await ask()
