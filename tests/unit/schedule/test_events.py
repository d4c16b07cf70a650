"""What listeners hear; none of them slows the daemon, and none suffers for another."""

from __future__ import annotations

import asyncio
import json

from synd.cache.folder import CacheEvent, What
from synd.ids import ContentKey, JobId
from synd.jobs.model import Job, JobState
from syndd.schedule.events import BOUND, KEPT, Events


def run(work) -> None:
    asyncio.run(asyncio.wait_for(work(), 20))


async def listen(events: Events):
    """A listener that has begun to listen."""
    stream = events.subscribe()
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)
    return stream, first


def test_every_kind_of_event_is_heard_as_json():
    """With its time and its facts."""

    async def work() -> None:
        events = Events()
        events.bind(asyncio.get_running_loop())
        stream, first = await listen(events)
        events.of_content(5, "cached")
        events.of_cache(CacheEvent(What.EVICTED, ContentKey("h1"), 7))
        events.of_name(0, b"P", 5, gone=True)
        events.of_job(Job(JobId("j"), "verify", "x", {}, JobState.RUNNING, 1, done=3, total=9))
        events.of_problem("wrong", 5)
        heard = [await first] + [await anext(stream) for _ in range(4)]
        await stream.aclose()

        assert ["content", "content", "name", "job", "problem"] == [e["kind"] for e in heard]
        assert {"entity": "syn5", "state": "cached"} == heard[0]["data"]
        assert {"what": "evicted", "key": "h1", "bytes": 7} == heard[1]["data"]
        assert {"folder": "", "name": "P", "entity": "syn5", "gone": True} == heard[2]["data"]
        assert all(e["at"].endswith("Z") for e in heard)
        json.dumps(heard)

    run(work)


def test_listener_that_lags_is_told_so_and_the_others_miss_nothing():
    """Its queue is bounded; what it missed it finds in the status."""

    async def work() -> None:
        events = Events()
        events.bind(asyncio.get_running_loop())
        slow, first_slow = await listen(events)
        quick, first_quick = await listen(events)
        heard = []
        for n in range(BOUND + 5):
            events.of_content(n, "cached")
            heard.append((await (first_quick if n == 0 else anext(quick)))["data"]["entity"])
        await first_slow
        missed = await anext(slow)
        after = [await anext(slow) for _ in range(3)]
        await slow.aclose()
        await quick.aclose()

        assert [f"syn{n}" for n in range(BOUND + 5)] == heard
        assert ("status", {"missed": True}) == (missed["kind"], missed["data"])
        assert [f"syn{n}" for n in range(BOUND + 2, BOUND + 5)] == [
            e["data"]["entity"] for e in after
        ]

    run(work)


def test_listener_that_left_is_forgotten():
    """Nothing gathers for it."""

    async def work() -> None:
        events = Events()
        events.of_content(1, "nobody listens, nothing is bound")
        events.bind(asyncio.get_running_loop())
        stream, first = await listen(events)
        events.of_content(1, "cached")
        await first
        await stream.aclose()
        assert set() == events._queues
        events.of_content(2, "cached")

    run(work)


def test_listener_that_asks_for_recent_events_hears_them_first_and_once():
    """Then those to come; nothing is lost or told twice between."""

    async def work() -> None:
        events = Events()
        events.bind(asyncio.get_running_loop())
        events.of_content(1, "cached")
        events.of_content(2, "cached")
        stream = events.subscribe("")
        heard = [await anext(stream), await anext(stream)]
        events.of_content(3, "cached")
        heard.append(await anext(stream))
        await stream.aclose()

        assert ["syn1", "syn2", "syn3"] == [e["data"]["entity"] for e in heard]
        assert [1, 2, 3] == [e["id"] for e in heard]

    run(work)


def test_listener_that_does_not_follow_ends_after_the_recent_events():
    """As `synd events --no-follow`; what is older than it asked for is left out."""

    async def work() -> None:
        events = Events()
        for number in range(KEPT + 5):
            events.of_content(number, "cached")
        heard = [e async for e in events.subscribe("", follow=False)]
        late = [e async for e in events.subscribe("9999", follow=False)]

        assert KEPT == len(heard)
        assert "syn5" == heard[0]["data"]["entity"]
        assert [] == late

    run(work)
