"""The event stream and the metrics page as values."""

import asyncio
import json

import pytest

from syndd.control.watch import exposition, stream

EVENT = {"kind": "job", "at": "t", "data": {"n": 1}}


async def feed(*events, then: asyncio.Event | None = None):
    for event in events:
        yield event
    if then is not None:
        await then.wait()


def collect(events, ending, *, sign_of_life_s=5.0, most=10) -> list[str]:
    async def run() -> list[str]:
        out = []
        async for text in stream(events(), ending(), sign_of_life_s):
            out.append(text)
            if len(out) == most:
                break
        return out

    return asyncio.run(run())


def test_stream_when_the_source_ends_ends():
    """A greeting, then each event as one message."""
    out = collect(lambda: feed(EVENT, EVENT), asyncio.Event)

    assert out[0].startswith(":")
    assert out[1:] == [f"event: job\ndata: {json.dumps(EVENT)}\n\n"] * 2


def test_stream_when_nothing_happens_gives_signs_of_life():
    """A client can tell a quiet daemon from a dead one; the source is not disturbed by it."""
    forever = asyncio.Event
    out = collect(lambda: feed(then=forever()), asyncio.Event, sign_of_life_s=0.01, most=4)

    assert out[1:] == [": alive\n\n"] * 3


def test_stream_when_the_daemon_ends_ends():
    """An open dashboard does not hold the daemon up."""

    def ending() -> asyncio.Event:
        set_already = asyncio.Event()
        set_already.set()
        return set_already

    out = collect(lambda: feed(then=asyncio.Event()), ending, sign_of_life_s=30)

    assert len(out) == 1


def test_exposition_when_empty_is_still_a_page():
    """Prometheus takes an empty page."""
    assert exposition({}) == "\n"


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (0.5, "0.5"), (10**15, "1000000000000000"), (1e30, "1e+30")]
)
def test_exposition_always_writes_numbers_whole(value, text):
    """Counters do not lose their last digits."""
    assert exposition({"x_total": value}).splitlines()[1] == f"synd_x_total {text}"


def test_exposition_when_names_share_a_beginning_keeps_families_together():
    """One TYPE line per family, all its samples below it."""
    page = exposition({'a{x="1"}': 1, "a_b": 2, 'a{x="2"}': 3})

    assert page.count("# TYPE synd_a gauge") == 1
    assert page.index('synd_a{x="2"}') < page.index("# TYPE synd_a_b")
