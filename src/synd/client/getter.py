"""Small objects from storage, whole: many at once on one event loop, one request each.

A thread per connection (`transfer`) moves large bodies well, but with many small ones the threads spend
their time handing the interpreter to each other: 0.7 ms of system time a file with 64 of them, against
0.2 ms in all here. Whatever is not a plain answer of a plain server (a redirect, a proxy, any status
but 200) is left to `transfer`, which knows what to do with it.
"""

from __future__ import annotations

import httpx

from synd.client.http1 import EndedError, Http1Transport, Origin
from synd.client.transfer import Downloader, Interrupted
from synd.errors import Offline


class NotPlain(Exception):
    """The answer needs more than this module knows: ask `transfer`."""


class Getter:
    """Whole objects by their URLs. Belongs to one event loop."""

    def __init__(self, downloader: Downloader, *, connections: int) -> None:
        self._downloader = downloader
        self._http = Http1Transport(idle_per_host=connections)
        self.requests = 0
        self.received_bytes = 0

    async def get(self, url: str, size: int, *, connect_s: float, read_s: float) -> bytes:
        """The object's bytes, `size` of them.

        Raises NotPlain, Interrupted (connection broken or silent), Offline (none came about).
        """
        place = self._downloader.place(url)
        if place.origin.proxy:
            raise NotPlain
        origin = Origin(place.origin.tls, place.origin.host, place.origin.port)
        request = (
            f"GET {place.target} HTTP/1.1\r\nHost: {place.netloc}\r\nUser-Agent: synd\r\n"
            "Accept: */*\r\nAccept-Encoding: identity\r\n\r\n"
        ).encode("ascii")
        for last in (False, True):
            self.requests += 1
            try:
                status, _, body = await self._http.exchange(
                    origin, request, connect_s=connect_s, read_s=read_s
                )
            except EndedError as error:
                # The server closed a connection that had been idle; it has not seen this request.
                if last:
                    raise Interrupted("storage closed the connection") from error
                continue
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise Offline(f"cannot reach {origin.host}: {error}") from error
            except httpx.TransportError as error:
                raise Interrupted(f"{origin.host} did not send the file: {error}") from error
            break
        if status != 200 or len(body) != size:
            raise NotPlain
        self.received_bytes += len(body)
        return body

    async def aclose(self) -> None:
        await self._http.aclose()
