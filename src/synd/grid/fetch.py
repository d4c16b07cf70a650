"""The body of a snapshot, from the storage the service names.

A plain GET by httpx's own transport: no credentials of ours, no cookies, and no library that writes the URL,
which is a secret, into its log. Time is the caller's business, who cancels; `progress` tells it of bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Final
from urllib.parse import urljoin, urlsplit

import httpx

from synd.client.connections import proxy_of, proxy_refused
from synd.grid.events import FetchFailed

_REDIRECTS: Final = 3


class NotFetchedError(Exception):
    """There is no body; `failed` says why."""

    def __init__(self, failed: FetchFailed) -> None:
        super().__init__(failed.message)
        self.failed = failed


async def fetch(
    url: str, *, most: int, connect_s: float, progress: Callable[[], None] = lambda: None
) -> bytes:
    """The body at `url`, at most `most` bytes. Raises NotFetchedError, whose text holds no query."""
    for _ in range(_REDIRECTS + 1):
        transport = _transport(url)
        try:
            found = await _get(transport, url, most, connect_s, progress)
        except httpx.ConnectTimeout as error:
            failed = FetchFailed("the storage is not reached", timed_out=True)
            raise NotFetchedError(failed) from error
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            failed = FetchFailed(f"the snapshot broke off ({type(error).__name__})")
            raise NotFetchedError(failed) from None
        finally:
            with suppress(OSError, httpx.HTTPError):
                await transport.aclose()
        if isinstance(found, bytes):
            return found
        url = found
    raise NotFetchedError(FetchFailed("the snapshot is redirected too often", status=404))


async def _get(
    transport: httpx.AsyncHTTPTransport,
    url: str,
    most: int,
    connect_s: float,
    progress: Callable[[], None],
) -> bytes | str:
    """The body, or where to go on."""
    timeouts = httpx.Timeout(None, connect=connect_s)
    request = httpx.Request(
        "GET",
        url,
        headers={"Accept": "*/*", "Accept-Encoding": "identity"},
        extensions={"timeout": timeouts.as_dict()},
    )
    response = await transport.handle_async_request(request)
    response.request = request
    try:
        progress()
        status = response.status_code
        if status in (301, 302, 303, 307, 308):
            target: str = urljoin(url, response.headers.get("location", ""))
            if urlsplit(target).scheme != "https":
                failed = FetchFailed("the snapshot is redirected to no https URL", status=status)
                raise NotFetchedError(failed)
            return target
        if status != 200:
            failed = FetchFailed(f"the storage answers {status} for the snapshot", status=status)
            raise NotFetchedError(failed)
        said = response.headers.get("content-length", "")
        announced = int(said) if said.isdigit() else None
        if announced is not None and announced > most:
            raise NotFetchedError(_too_large(most))
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > most:
                raise NotFetchedError(_too_large(most))
            progress()
        if announced is not None and announced != response.num_bytes_downloaded:
            raise NotFetchedError(FetchFailed("the snapshot broke off"))
        return bytes(body)
    finally:
        # A body that was not read to its end: the connection goes with it.
        with suppress(OSError, httpx.HTTPError):
            await asyncio.shield(response.aclose())


def _too_large(most: int) -> FetchFailed:
    return FetchFailed(f"the snapshot is larger than {most:,} bytes", too_large=True)


def _transport(url: str) -> httpx.AsyncHTTPTransport:
    parts = urlsplit(url)
    proxy = proxy_of(parts.scheme, parts.netloc.rpartition("@")[2])
    if proxy:
        try:
            return httpx.AsyncHTTPTransport(proxy=proxy)
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            refused = proxy_refused(proxy)
            raise NotFetchedError(FetchFailed(refused.message)) from error
    # Nothing is verified where nothing is encrypted; making a context takes 20 ms.
    return httpx.AsyncHTTPTransport(verify=parts.scheme != "http")
