"""Commands that speak with the service themselves, without the daemon."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

from synd.errors import UsageError

if TYPE_CHECKING:
    from synd.client.service import SynapseClient
    from synd.ids import EntityId

T = TypeVar("T")

_ENTITY = re.compile(r"(?:syn)?([0-9]{1,12})", re.IGNORECASE)


def ask(work: Callable[[SynapseClient], Awaitable[T]]) -> T:
    """What `work` returns, done with the client that settings and environment name.

    TERM and HUP end it as Ctrl-C does: what lies aside is removed. Raises NotLoggedIn, ConfigError, what `work`
    raises, and typer.Exit for such a signal.
    """
    import asyncio

    from synd.client.service import SynapseClient

    ended: list[int] = []

    async def whole() -> T:
        task = asyncio.current_task()
        assert task is not None

        def end(number: int) -> None:
            ended.append(number)
            task.cancel()

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                # Under nohup it stays ignored.
                if signal.getsignal(number) is not signal.SIG_IGN:
                    asyncio.get_running_loop().add_signal_handler(number, end, number)
        async with SynapseClient.open() as client:
            return await work(client)

    try:
        return asyncio.run(whole())
    except asyncio.CancelledError:
        if not ended:
            raise
        raise typer.Exit(128 + ended[0]) from None


def entity(text: str) -> EntityId:
    """The entity that was named, as syn123 or 123. Raises UsageError."""
    from synd.ids import EntityId

    found = _ENTITY.fullmatch(text.strip())
    if found is None:
        raise UsageError(f"{text!r} is no Synapse id", hint="it looks like syn123")
    return EntityId(int(found[1]))
