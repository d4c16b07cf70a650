"""Handlers for whoever looks on: server-sent events and Prometheus metrics."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse, StreamingResponse

from synd.clock import format_time, parse_time_ns
from synd.control import contract
from synd.errors import UsageError
from syndd.control.reply import router as empty
from syndd.control.reply import shape
from syndd.control.services import DaemonServices

SIGN_OF_LIFE_S = 15.0
"""A comment line so often, for clients to tell a quiet daemon from a dead one."""

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


def router(services: DaemonServices, ending: asyncio.Event) -> APIRouter:
    """The routes. Streams end when `ending` is set."""
    routes = empty("watch")

    @routes.get(contract.EVENTS, **shape(contract.Event))
    async def events(since: str | None = None, follow: bool = True) -> StreamingResponse:
        """Changes as server-sent events; `data` is an Event. With `since` the recent ones come first."""
        if since is not None:
            since = iso(since)
        return live(services.events(since, follow=follow), ending)

    @routes.get(contract.METRICS, response_class=PlainTextResponse)
    async def metrics() -> PlainTextResponse:
        """Counters and gauges as Prometheus reads them."""
        return PlainTextResponse(exposition(services.metrics()), media_type=PROMETHEUS)

    return routes


def live(events: AsyncIterator[contract.Event], ending: asyncio.Event) -> StreamingResponse:
    """An answer that goes on: server-sent events until the source, the listener or the daemon ends."""
    return StreamingResponse(
        stream(events, ending),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-store"},
    )


def iso(stamp: str) -> str:
    """An ISO time as events spell theirs. Raises UsageError."""
    try:
        return format_time(parse_time_ns(stamp))
    except ValueError as error:
        raise UsageError(f"{stamp!r} is no ISO time") from error


async def stream(
    events: AsyncIterator[contract.Event],
    ending: asyncio.Event,
    sign_of_life_s: float = SIGN_OF_LIFE_S,
) -> AsyncIterator[str]:
    """Events in their spelling on the wire, comments between, until the source or the daemon ends."""
    yield ": synd\n\n"
    ended = asyncio.create_task(ending.wait(), name="events-ending")
    coming: asyncio.Task[contract.Event] | None = None
    try:
        while True:
            # One pending `anext` is kept over signs of life: cancelling it would end the source.
            coming = coming or asyncio.create_task(_next(events), name="events-next")
            await asyncio.wait(
                {coming, ended}, timeout=sign_of_life_s, return_when=asyncio.FIRST_COMPLETED
            )
            if coming.done():
                try:
                    event = coming.result()
                except StopAsyncIteration:
                    return
                coming = None
                number = f"id: {event['id']}\n" if "id" in event else ""
                yield f"{number}event: {event['kind']}\ndata: {json.dumps(event)}\n\n"
            elif ended.done():
                return
            else:
                yield ": alive\n\n"
    finally:
        for task in (ended, coming):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError, StopAsyncIteration):
                    await task
        if (close := getattr(events, "aclose", None)) is not None:
            await close()


async def _next(events: AsyncIterator[contract.Event]) -> contract.Event:
    return await anext(events)


def exposition(metrics: Mapping[str, float]) -> str:
    """Prometheus text of `metrics`: families together, counters by their name's end, sorted."""
    lines: list[str] = []
    family = ""
    for name in sorted(metrics, key=lambda n: (n.partition("{")[0], n)):
        bare = name.partition("{")[0]
        if bare != family:
            family = bare
            kind = "counter" if bare.endswith("_total") else "gauge"
            lines.append(f"# TYPE synd_{bare} {kind}")
        lines.append(f"synd_{name} {float(metrics[name]):.17g}")
    return "\n".join(lines) + "\n"
