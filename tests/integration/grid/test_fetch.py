"""The snapshot's body from storage on loopback."""

import asyncio
import gzip

import pytest

from synd.grid.events import FetchFailed
from synd.grid.fetch import NotFetchedError, fetch

SECRET = "X-Amz-Signature=not-to-be-seen"
BODY = bytes(range(256)) * 400


def get(*answers, most=1 << 20, path="/grid.cbor"):
    """(body or failure, requests) of a fetch from storage that gives these answers (head, body)."""
    requests = []
    left = list(answers)

    async def serve(reader, writer):
        requests.append((await reader.readuntil(b"\r\n\r\n")).decode())
        head, body = left.pop(0)
        writer.write("\r\n".join([*head, "Connection: close", "", ""]).encode() + body)
        await writer.drain()
        writer.close()

    async def main():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server, asyncio.timeout(10):
            url = f"http://127.0.0.1:{port}{path}?{SECRET}"
            try:
                return await fetch(url, most=most, connect_s=5)
            except NotFetchedError as error:
                return error

    return asyncio.run(main()), requests


def ok(body, *lines):
    return ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *lines], body


@pytest.mark.req("S0-33")
def test_fetch_when_asked_then_gives_the_bytes_and_shows_nothing_of_us():
    """A plain GET: no credentials, no cookies; the bytes as they are, whatever their type is called."""
    body, (request,) = get(ok(BODY, "Content-Type: text/html"))

    assert body == BODY
    assert request.startswith(f"GET /grid.cbor?{SECRET} HTTP/1.1\r\n")
    assert not {"authorization", "cookie"} & {
        line.split(":")[0].lower() for line in request.split()
    }


def test_fetch_when_compressed_all_the_same_then_is_unpacked():
    """Storage that compresses unasked does no harm, and its ceiling is that of the unpacked bytes."""
    packed = ok(gzip.compress(BODY), "Content-Encoding: gzip")

    assert get(packed)[0] == BODY
    failed = get(packed, most=1000)[0].failed
    assert failed.too_large


@pytest.mark.parametrize(
    ("answer", "failed"),
    [
        ((["HTTP/1.1 403 No", "Content-Length: 0"], b""), {"status": 403}),
        ((["HTTP/1.1 503 Slow", "Content-Length: 0"], b""), {"status": 503}),
        ((["HTTP/1.1 206 Part", "Content-Length: 2"], b"xx"), {"status": 206}),
        ((["HTTP/1.1 200 OK", "Content-Length: 99"], b"x"), {}),
        ((["HTTP/1.1 200 OK", "Content-Length: 2000000"], b"x"), {"too_large": True}),
        ((["HTTP/1.1 200 OK"], b"x" * 2_000_000), {"too_large": True}),
        ((["not http at all"], b""), {}),
        ((["HTTP/1.1 302 There", "Location: http://127.0.0.1:9/x"], b""), {"status": 302}),
        ((["HTTP/1.1 302 There", "Content-Length: 0"], b""), {"status": 302}),
        ((["HTTP/1.1 302 There", "Location: file:///etc/passwd"], b""), {"status": 302}),
    ],
)
def test_fetch_when_there_is_no_body_then_says_why_without_the_url(answer, failed):
    """Refusals, breaks, sizes and redirects that are not to https are told apart; no text has the signature."""
    error, _ = get(answer)

    found: FetchFailed = error.failed
    wanted = {"status": None, "timed_out": False, "too_large": False, **failed}
    assert {name: getattr(found, name) for name in wanted} == wanted
    assert SECRET not in f"{error!r} {error.__cause__!r} {error.__context__!r}"


def test_fetch_when_nobody_listens_then_is_a_break():
    """Storage that is not reached may be reached by the next try."""

    async def main():
        with pytest.raises(NotFetchedError) as raised:
            await fetch(f"http://127.0.0.1:1/x?{SECRET}", most=10, connect_s=1)
        return raised.value.failed

    failed = asyncio.run(main())

    assert (failed.status, failed.timed_out) == (None, False)
    assert SECRET not in failed.message
