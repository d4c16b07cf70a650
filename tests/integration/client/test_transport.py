"""The service's transport over real sockets: tries, time-outs, limits, errors, and the token's safety."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from synd.client.credentials import Endpoints, Token, from_base
from synd.client.remote import background
from synd.client.service import SynapseClient
from synd.client.throttle import Limits
from synd.client.transport import LOCAL_LIMITS
from synd.clock import Deadline
from synd.config import Config
from synd.errors import (
    Busy,
    ConfigError,
    DeadlineExceeded,
    Exists,
    Forbidden,
    NotFound,
    NotLoggedIn,
    NotSupported,
    Offline,
    ProtocolError,
    QuotaExceeded,
    RateLimited,
    RemoteUnavailable,
    Stale,
    SyndError,
    UsageError,
)
from synd.ids import EntityId
from synd.log import set_up
from synd.retry import RetryPolicy
from tests.integration.client.stub import Answer, Request, Stub, json_answer, reason

SECRET = "secret-of-the-user"
QUICK = RetryPolicy(tries=4, base_s=0.01, cap_s=0.05)
FREE = Limits(concurrent=16, per_window=0)
ROW = {"ownerId": "1", "userName": "me"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def client_of(url: str, **how: Any) -> SynapseClient:
    how.setdefault("policy", QUICK)
    how.setdefault("limits", FREE)
    token = how.pop("token", Token(SECRET, "the test"))
    return SynapseClient(from_base(url), token, **how)


def talk(url: str, work: Callable[[SynapseClient], Awaitable[Any]], **how: Any) -> Any:
    """Runs `work` with a client, in a loop of its own."""

    async def main() -> Any:
        async with client_of(url, **how) as client:
            return await work(client)

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Returns once `condition` holds; fails after 10 s."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is waited for happens in other threads
            await asyncio.sleep(0.002)


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _same(answer: Answer, _: Request) -> Answer:
    return answer


class TestAnswers:
    """What comes back is JSON, or an error that says what is wrong."""

    def test_call_when_answered_gives_its_json(self) -> None:
        """Method, path, query, body and login go out; the JSON comes back."""
        with Stub(lambda _: json_answer({"a": [1]}, 201)) as stub:
            got = talk(
                stub.url,
                lambda c: c.rest("post", "/entity", {"b": None}, query={"q": True, "n": None}),
            )

        (sent,) = stub.requests
        assert got == {"a": [1]}
        assert (sent.method, sent.path) == ("POST", "/repo/v1/entity?q=true")
        assert sent.json == {"b": None}
        assert sent.headers["authorization"] == f"Bearer {SECRET}"
        assert sent.headers["content-type"].startswith("application/json")

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("/file/v1/fileHandle/batch", "/file/v1/fileHandle/batch"),
            ("/auth/v1/x", "/auth/v1/x"),
            ("/repo/v1/entity/syn1", "/repo/v1/entity/syn1"),
            ("entity/syn1", "/repo/v1/entity/syn1"),
            ("/entity?a=b%20c&d=e f", "/repo/v1/entity?a=b%20c&d=e%20f"),
        ],
    )
    def test_rest_when_path_names_the_service_goes_there(self, path: str, expected: str) -> None:
        """A path may be written as the service's documents write it."""
        with Stub(lambda _: json_answer({})) as stub:
            talk(stub.url, lambda c: c.rest("GET", path))

        assert expected == stub.requests[0].path

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(204),
            Answer(200, b""),
        ],
    )
    def test_answer_when_empty_is_none(self, answer: Answer) -> None:
        """No content is None, not an error."""
        with Stub(lambda _: answer) as stub:
            assert talk(stub.url, lambda c: c.rest("DELETE", "/entity/syn1")) is None

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(200, gzip.compress(json.dumps(ROW).encode()), {"Content-Encoding": "gzip", "Content-Type": "application/json"}),
            Answer(raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"owner\r\n18\r\nId\":\"1\",\"userName\":\"me\"}\r\n0\r\n\r\n"),
            Answer(raw=b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + json.dumps(ROW).encode()),
            Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"),
            json_answer(ROW, pace=(7, 0.001)),
        ],
        ids=["gzip", "chunked", "until the end", "after a 100", "in pieces"],
    )  # fmt: skip
    def test_answer_in_any_framing_is_read(self, answer: Answer) -> None:
        """However an answer is packed, its JSON is the same."""
        with Stub(lambda _: answer) as stub:
            assert talk(stub.url, lambda c: c.rest("GET", "/userProfile")) in (ROW, {})

    @pytest.mark.parametrize(
        ("answer", "error", "words"),
        [
            (reason(400, "bad name"), UsageError, "bad name"),
            (reason(401, "Invalid token"), NotLoggedIn, "Invalid token"),
            (reason(403, "no"), Forbidden, "no"),
            (reason(404, "gone"), NotFound, "gone"),
            (reason(405), NotSupported, ""),
            (reason(409, "taken"), Exists, "taken"),
            (reason(410), NotSupported, ""),
            (reason(412, "etag"), Stale, "etag"),
            (reason(413), UsageError, ""),
            (reason(423), Busy, ""),
            (reason(400, errorCode="PROJECT_STORAGE_LIMIT_EXCEEDED"), QuotaExceeded, ""),
            (reason(500, "syn1 is not a table or view"), UsageError, "not a table"),
            (reason(415), ProtocolError, ""),
            (Answer(404, b"<html>", {"Content-Type": "text/html"}), NotFound, "404"),
            (Answer(200, b"<html>", {"Content-Type": "text/html"}), ProtocolError, "text/html"),
            (Answer(200, b"{]", {"Content-Type": "application/json"}), ProtocolError, "not valid JSON"),
            (Answer(302, b"", {"Location": "https://elsewhere.example/x"}), ProtocolError, "elsewhere.example"),
            (json_answer({"reason": None}, 400), UsageError, "400"),
            (json_answer(["reason"], 400), UsageError, "400"),
        ],
    )  # fmt: skip
    def test_status_when_answered_becomes_its_error(
        self, answer: Answer, error: type[SyndError], words: str
    ) -> None:
        """Each status is one of our errors, with the service's own words, asked for once."""
        with Stub(lambda _: answer) as stub, pytest.raises(SyndError) as caught:
            talk(stub.url, lambda c: c.entity(EntityId(7)))

        assert error is type(caught.value)
        assert words in str(caught.value)
        assert len(stub.requests) == 1

    @pytest.mark.parametrize(
        ("answer", "hint"),
        [
            (reason(401), "synd login"),
            (reason(403, "There are unmet access requirements"), "accept the terms on {url}/Synapse:syn7"),
            (reason(403, "Request lacks scope(s) required by this service: download, modify"), "also allows: download, modify"),
            (reason(403, "x", errorCode="USER_CERTIFICATION_REQUIRED"), "certification quiz"),
            (reason(403, "You lack READ access"), "ask for access on {url}/Synapse:syn7"),
        ],
        ids=["login", "terms", "scope", "certification", "access"],
    )  # fmt: skip
    def test_refusal_when_told_names_the_mend(self, answer: Answer, hint: str) -> None:
        """Who is refused learns what to do about it, with the page to visit."""
        with Stub(lambda _: answer) as stub, pytest.raises(SyndError) as caught:
            talk(stub.url, lambda c: c.entity(EntityId(7)))

        assert hint.format(url=stub.url) in caught.value.hint
        assert caught.value.entity == "syn7"

    def test_shape_when_unexpected_is_a_protocol_error(self) -> None:
        """JSON that is not what was asked for is told as such."""
        with (
            Stub(lambda _: json_answer({"entity": {"id": "what"}})) as stub,
            pytest.raises(ProtocolError, match="entity bundle"),
        ):
            talk(stub.url, lambda c: c.entity(EntityId(7)))

    def test_garbage_when_answered_is_retried_then_told(self) -> None:
        """What is not HTTP at all counts as a broken connection."""
        with (
            Stub(lambda _: Answer(raw=b"SSH-2.0-OpenSSH\r\n")) as stub,
            pytest.raises(RemoteUnavailable),
        ):
            talk(stub.url, lambda c: c.whoami())

        assert len(stub.requests) == QUICK.tries


class TestTries:
    """What may pass is tried again, within the deadline and no longer."""

    @pytest.mark.parametrize(
        "trouble",
        [
            reason(500),
            reason(502),
            reason(503),
            reason(504),
            Answer(raw=b""),
            json_answer(ROW, cut=3),
        ],
        ids=["500", "502", "503", "504", "drop", "cut"],
    )
    def test_trouble_when_it_passes_is_not_seen(self, trouble: Answer) -> None:
        """Two failures, then an answer: the caller gets the answer."""
        with Stub(lambda _: trouble if len(stub.requests) < 3 else json_answer(ROW)) as stub:
            talk(stub.url, lambda c: c.whoami())

        assert len(stub.requests) == 3

    def test_trouble_when_it_stays_is_told_after_the_last_try(self) -> None:
        """The policy bounds the tries."""
        with (
            Stub(lambda _: reason(503, "down for maintenance")) as stub,
            pytest.raises(RemoteUnavailable, match="maintenance"),
        ):
            talk(stub.url, lambda c: c.whoami())

        assert len(stub.requests) == QUICK.tries

    def test_retry_after_when_told_is_heeded(self) -> None:
        """A 503 that asks for a second gets it."""
        with Stub(
            lambda _: (
                json_answer(ROW)
                if len(stub.requests) > 1
                else reason(503, headers={"Retry-After": "1"})
            )
        ) as stub:
            talk(stub.url, lambda c: c.whoami())

        assert stub.requests[1].at - stub.requests[0].at >= 1

    def test_post_when_its_answer_is_lost_is_not_sent_twice_by_rest(self) -> None:
        """A raw POST may have done its work; only the caller knows whether twice is harmless."""
        with Stub(lambda _: Answer(raw=b"")) as stub, pytest.raises(RemoteUnavailable):
            talk(stub.url, lambda c: c.rest("POST", "/entity", {}))

        assert len(stub.requests) == 1

    def test_connection_when_ended_while_kept_is_replaced_at_once(self) -> None:
        """A restarted server costs no failure and no wait."""

        async def work(client: SynapseClient) -> None:
            await client.whoami()
            stub.drop_connections()
            await client.whoami()

        with Stub(lambda _: json_answer(ROW)) as stub:
            talk(stub.url, work, policy=RetryPolicy(tries=1))

        assert stub.connections == 2

    def test_connection_when_it_ends_on_reuse_is_replaced_at_once(self) -> None:
        """Even when it ends in the moment of being used."""

        async def work(client: SynapseClient) -> None:
            await client.whoami()
            await client.whoami()

        with Stub(
            lambda r: (
                Answer(raw=b"")
                if r.connection == 0 and len(stub.requests) == 2
                else json_answer(ROW)
            )
        ) as stub:
            talk(stub.url, work, policy=RetryPolicy(tries=1))

        assert [r.connection for r in stub.requests] == [0, 0, 1]

    @pytest.mark.parametrize("where", ["before", "within"])
    def test_server_when_slow_is_left_at_the_deadline(self, where: str) -> None:
        """A server that takes for ever costs the caller its deadline and no more."""
        answer = json_answer(ROW, after_s=30) if where == "before" else json_answer(ROW, stall=3)
        began = time.monotonic()

        async def work(client: SynapseClient) -> float:
            with pytest.raises(DeadlineExceeded):
                await client.whoami(deadline=Deadline.after(0.3, "the test"))
            return time.monotonic() - began

        with Stub(lambda _: answer) as stub:
            took_s = talk(stub.url, work)

        assert took_s < 3


class TestThrottling:
    """The service's limits are kept; where it still says "enough", everybody waits."""

    def test_429_when_it_passes_is_never_seen(self) -> None:
        """A storm of 429 with Retry-After ends in answers for all."""
        gate = threading.Lock()
        refused: list[float] = []

        def handler(request: Request) -> Answer:
            with gate:
                if len(refused) < 6:
                    refused.append(request.at)
                    return reason(429, "too many", headers={"Retry-After": "1"})
            return json_answer(ROW)

        async def work(client: SynapseClient) -> int:
            await asyncio.gather(*(client.whoami() for _ in range(40)))
            return client.status.throttled_total

        with Stub(handler) as stub:
            throttled = talk(stub.url, work, limits=Limits(3, 0))

        assert len(refused) == throttled
        assert len(stub.requests) == 40 + len(refused)
        # Those that did not meet a 429 themselves waited too.
        assert sum(1 for r in stub.requests if r.at < refused[0] + 0.9) <= 6

    def test_429_when_it_outlasts_the_deadline_is_rate_limited(self) -> None:
        """RateLimited is seen only when waiting would take longer than the caller does."""
        with (
            Stub(lambda _: reason(429, headers={"Retry-After": "60"})) as stub,
            pytest.raises(RateLimited),
        ):
            talk(stub.url, lambda c: c.whoami(deadline=Deadline.after(2, "the test")))

        assert len(stub.requests) == 1

    def test_limits_when_3000_calls_are_queued_are_never_exceeded(self) -> None:
        """3 at once and 600 per window, as the service counts them, with a window scaled to 0.5 s."""
        window_s, most = 0.5, 600
        gate = threading.Lock()
        seen: list[float] = []
        running = 0

        def handler(request: Request) -> Answer:
            nonlocal running
            with gate:
                now = time.monotonic()
                running += 1
                recent = sum(1 for at in reversed(seen[-most - 50 :]) if at > now - window_s)
                seen.append(now)
                over = running > 3 or recent >= most
            try:
                return reason(429) if over else json_answer(ROW)
            finally:
                with gate:
                    running -= 1

        async def work(client: SynapseClient) -> int:
            await asyncio.gather(
                *(client.whoami(deadline=Deadline.after(60, "the test")) for _ in range(3000))
            )
            return client.status.throttled_total

        with Stub(handler) as stub:
            throttled = talk(stub.url, work, limits=Limits(3, most, window_s))

        assert throttled == 0
        assert len(stub.requests) == 3000
        assert stub.at_once <= 3

    def test_foreground_when_background_fills_the_queue_goes_first(self) -> None:
        """A user's stat waits for one slot, not for all of the polling."""
        order: list[str] = []

        async def poll(client: SynapseClient) -> None:
            with background():
                await client.rest("GET", "/poll")
            order.append("poll")

        async def work(client: SynapseClient) -> None:
            polls = [asyncio.create_task(poll(client)) for _ in range(60)]
            await until(lambda: len(stub.requests) >= 6)
            await client.rest("GET", "/stat")
            order.append("stat")
            await asyncio.gather(*polls)

        with Stub(lambda _: json_answer({}, after_s=0.01)) as stub:
            talk(stub.url, work, limits=Limits(3, 0))

        assert order.index("stat") < 15

    def test_background_when_it_fills_the_window_leaves_room(self) -> None:
        """Polling never uses up the window that a user's stat needs."""

        async def work(client: SynapseClient) -> None:
            with background():
                polls = [asyncio.create_task(client.rest("GET", "/poll")) for _ in range(200)]
            await until(lambda: client.status.waiting >= 100 and not client.status.running)
            began = time.monotonic()
            await client.rest("GET", "/stat")
            assert time.monotonic() - began < 1
            for one in polls:
                one.cancel()

        with Stub(lambda _: json_answer({})) as stub:
            talk(stub.url, work, limits=Limits(3, 100, 60.0))

    def test_slot_when_its_caller_leaves_is_held_until_the_answer(self) -> None:
        """The service still counts a request whose caller has gone; so do we."""

        async def work(client: SynapseClient) -> None:
            first = asyncio.create_task(client.rest("GET", "/slow"))
            await until(lambda: bool(stub.requests))
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert client.status.running == 1
            await client.rest("GET", "/next")

        with Stub(lambda r: json_answer({}, after_s=0.3 if r.path.endswith("slow") else 0)) as stub:
            talk(stub.url, work, limits=Limits(1, 0))

        assert stub.requests[1].at - stub.requests[0].at >= 0.3
        assert stub.at_once == 1


class TestLimitsOfTheService:
    """A local registry says what it bears; the settings win."""

    @pytest.mark.parametrize(
        ("version", "config", "expected"),
        [
            ({"version": "1", "synd-registry": True, "limits": None}, Config(), LOCAL_LIMITS),
            ({"version": "1", "synd-registry": True, "limits": {"concurrent": 5, "perMinute": 900}}, Config(), Limits(5, 900)),
            ({"version": "520"}, Config(), Limits(3, 600)),
            ({"version": "1", "synd-registry": True, "limits": None}, Config(request_concurrency=2), Limits(2, 600)),
        ],
        ids=["none", "its own", "not ours", "the user's"],
    )  # fmt: skip
    def test_limits_when_first_call_succeeded_are_those_of_the_service(
        self, version: object, config: Config, expected: Limits
    ) -> None:
        """One request more, once, after the first success, and not in its way."""

        async def work(client: SynapseClient) -> Limits:
            await client.whoami()
            if config == Config():
                await until(lambda: "GET /version" in client.status.by_endpoint)
            await until(lambda: not client.status.running)
            await client.whoami()
            return client.status.limits

        with Stub(lambda r: json_answer(version if r.path.endswith("/version") else ROW)) as stub:
            assert expected == talk(stub.url, work, limits=None, config=config)

        assert sum(r.path.endswith("/version") for r in stub.requests) <= 1


class TestOffline:
    """Out of reach is told quickly, and noticed again quickly."""

    def test_service_when_unreachable_is_told_quickly(self) -> None:
        """Nobody waits for the whole deadline to learn that nobody is there."""
        began = time.monotonic()

        async def work(client: SynapseClient) -> None:
            with pytest.raises(Offline):
                await client.whoami()
            assert client.status.offline_since_ns > 0
            assert not client.status.online

        talk(f"http://127.0.0.1:{unused_port()}", work)

        assert time.monotonic() - began < 5

    def test_service_when_silent_is_told_after_one_connect_timeout(self) -> None:
        """A network that swallows everything costs one time-out, not one per try."""
        with socket.socket() as listener, contextlib.ExitStack() as fillers:
            listener.bind(("127.0.0.1", 0))
            listener.listen(0)
            port = listener.getsockname()[1]
            # A full queue of connections that nobody accepts: the kernel drops what follows.
            for _ in range(3):
                filler = fillers.enter_context(socket.socket())
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            began = time.monotonic()

            async def work(client: SynapseClient) -> None:
                with pytest.raises(Offline):
                    await client.whoami()
                assert not client.status.online

            talk(f"http://127.0.0.1:{port}", work, config=Config(connect_timeout_s=0.3))

        assert 0.25 < time.monotonic() - began < 2

    def test_background_when_offline_fails_without_a_try(self) -> None:
        """While offline, polling costs nothing between probes; the foreground tries once."""

        async def work(client: SynapseClient) -> None:
            with pytest.raises(Offline):
                await client.whoami()
            before = client.status.requests_total
            for _ in range(10):
                with background(), pytest.raises(Offline):
                    await client.whoami()
            assert before == client.status.requests_total
            with pytest.raises(Offline):
                await client.whoami()
            assert before + 1 == client.status.requests_total

        talk(f"http://127.0.0.1:{unused_port()}", work)

    def test_calls_when_queued_behind_a_failing_try_share_its_verdict(self) -> None:
        """A hundred stats do not wait for a hundred connections that nobody answers."""

        async def work(client: SynapseClient) -> int:
            with pytest.raises(Offline):
                await client.whoami()
            before = client.status.requests_total
            calls = [client.whoami() for _ in range(100)]
            got = await asyncio.gather(*calls, return_exceptions=True)
            assert {Offline} == {type(one) for one in got}
            return client.status.requests_total - before

        tries = talk(f"http://127.0.0.1:{unused_port()}", work, limits=Limits(3, 0))

        assert tries <= 3

    def test_service_when_back_is_online_with_the_first_answer(self) -> None:
        """One success ends it."""
        port = unused_port()

        async def work(client: SynapseClient) -> None:
            with pytest.raises(Offline):
                await client.whoami()
            with Stub(lambda _: json_answer(ROW), port=port):
                await client.whoami()
                assert client.status.online
                assert client.status.last_ok_at_ns > 0
                assert client.status.offline_since_ns == 0

        talk(f"http://127.0.0.1:{port}", work)

    def test_client_when_closed_fails_its_calls(self) -> None:
        """Closing ends what is under way."""

        async def work(client: SynapseClient) -> None:
            call = asyncio.create_task(client.whoami())
            await until(lambda: bool(stub.requests))
            await client.aclose()
            with pytest.raises(RemoteUnavailable):
                await call
            with pytest.raises(RemoteUnavailable):
                await client.whoami()

        with Stub(lambda _: json_answer(ROW, after_s=20)) as stub:
            talk(stub.url, work)


class TestSecrecy:
    """The token goes to the service and nowhere else."""

    def test_token_when_service_redirects_is_not_carried_along(self) -> None:
        """A redirect is not followed, so nobody else sees the login."""
        with (
            Stub(lambda _: json_answer({})) as thief,
            Stub(lambda _: Answer(307, b"", {"Location": thief.url})) as stub,
            pytest.raises(ProtocolError),
        ):
            talk(stub.url, lambda c: c.whoami())

        assert thief.requests == []

    def test_token_when_all_goes_wrong_is_in_no_log_and_no_error(self) -> None:
        """Whatever fails, at whatever level is logged, the secret does not show."""
        stream = io.StringIO()
        everything = logging.StreamHandler(stream)
        root = logging.getLogger()
        before = root.level
        root.addHandler(everything)
        root.setLevel(logging.DEBUG)
        set_up("DEBUG", stream)
        texts: list[str] = []
        echoes = [
            reason(401, f"Invalid token Bearer {SECRET}"),
            reason(400, f"authorization: Bearer {SECRET}"),
            reason(500, f"failed for {SECRET}"),
            Answer(raw=b""),
        ]
        try:
            for answer in echoes:
                with Stub(partial(_same, answer)) as stub:
                    with pytest.raises(SyndError) as caught:
                        talk(stub.url, lambda c: c.whoami())
                    error: BaseException | None = caught.value
                    while error is not None:
                        texts += [str(error), repr(error), repr(getattr(error, "hint", ""))]
                        error = error.__cause__
            client = client_of("http://127.0.0.1:9")
            texts += [repr(client), repr(client.endpoints), repr(client.status), repr(vars(client))]
        finally:
            root.removeHandler(everything)
            root.setLevel(before)
            for name in ("synd", "syndd"):
                logging.getLogger(name).handlers.clear()
                logging.getLogger(name).propagate = True

        assert "remote.retry" in stream.getvalue()
        assert "secret-of-the-user" not in stream.getvalue()
        assert "secret-of-the-user" not in "".join(texts)

    def test_call_when_nobody_is_logged_in_carries_no_login(self) -> None:
        """Without a token, public data can still be asked for; 401 says how to log in."""
        with (
            Stub(lambda _: reason(401)) as stub,
            pytest.raises(NotLoggedIn, match="wants a login"),
        ):
            talk(stub.url, lambda c: c.whoami(), token=None)

        assert "authorization" not in stub.requests[0].headers


class TestProxies:
    """The environment's proxy is used for a service that is not local."""

    def test_service_when_proxied_is_reached_through_the_proxy(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """httpx's own transport takes over there; answers are the same."""
        with Stub(lambda _: json_answer(ROW)) as proxy:
            monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
            profile = talk("http://service.invalid", lambda c: c.whoami())

        assert profile.name == "me"
        assert proxy.requests[0].path == "http://service.invalid/repo/v1/userProfile"

    def test_service_when_on_this_machine_is_asked_itself(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No proxy leads back here, whether or not NO_PROXY says so."""
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
        with Stub(lambda _: json_answer(ROW)) as stub:
            assert talk(stub.url, lambda c: c.whoami()).name == "me"

    @pytest.mark.parametrize("proxy", ["socks5://me:s3cr3t@127.0.0.1:9", "ftp://127.0.0.1:9"])
    def test_proxy_when_it_cannot_be_spoken_with_is_named_by_its_kind(
        self, monkeypatch: pytest.MonkeyPatch, proxy: str
    ) -> None:
        """A setting to mend, and no fault of synd; without its login."""
        monkeypatch.setenv("all_proxy", proxy)
        with pytest.raises(ConfigError, match=f"{proxy.partition(':')[0]}:// proxy") as error:
            talk("http://service.invalid", lambda c: c.whoami())

        assert "s3cr3t" not in f"{error.value} {error.value.hint}"


def test_counters_when_called_are_kept_by_endpoint() -> None:
    """Requests are counted by method and path without ids."""

    async def work(client: SynapseClient) -> dict[str, int]:
        for number in (1, 22):
            with pytest.raises(NotFound):
                await client.entity(EntityId(number))
        return dict(client.status.by_endpoint)

    with Stub(lambda _: reason(404)) as stub:
        assert talk(stub.url, work) == {"POST /entity/{id}/bundle2": 2}


def test_thread_when_it_calls_gets_the_result() -> None:
    """A worker thread hands its call to the client's loop and waits."""

    async def work(client: SynapseClient) -> str:
        loop = asyncio.get_running_loop()

        def thread() -> str:
            deadline = Deadline.after(5, "the test")
            return client.from_thread(client.whoami(deadline=deadline), loop, deadline).name

        return await asyncio.to_thread(thread)

    with Stub(lambda _: json_answer(ROW)) as stub:
        assert talk(stub.url, work) == "me"


def test_endpoints_when_they_differ_are_each_used() -> None:
    """Repository and file service may be different hosts; both get the login."""
    with (
        Stub(lambda _: json_answer(ROW)) as repo,
        Stub(lambda _: json_answer({"requestedFiles": []})) as file,
    ):
        service = Endpoints(
            f"{repo.url}/repo/v1", f"{repo.url}/auth/v1", f"{file.url}/file/v1", f"{repo.url}/"
        )

        async def main() -> None:
            async with SynapseClient(service, Token(SECRET), limits=FREE) as client:
                await client.whoami()
                await client.rest("POST", "/file/v1/fileHandle/batch", {})

        asyncio.run(main())

    assert [r.path for r in repo.requests] == ["/repo/v1/userProfile"]
    assert [r.path for r in file.requests] == ["/file/v1/fileHandle/batch"]
    assert "authorization" in file.requests[0].headers
