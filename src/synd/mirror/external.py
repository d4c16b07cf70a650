"""Links to files elsewhere: does the URL answer a size, so that it can be read like a file?"""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from synd.client.transfer import Downloader
from synd.clock import Deadline
from synd.errors import SyndError
from synd.model import Entity, Store

PROBE_S = 10.0


class Probe:
    """Asks the server behind an external link for its size, by a range of one byte."""

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader

    async def size_of(self, entity: Entity) -> int | None:
        """Bytes; None when there is no such link or the server tells no size."""
        file = entity.file
        if file is None or file.store is not Store.EXTERNAL or not file.external_url:
            return None
        if file.size is not None or urlsplit(file.external_url).scheme not in ("http", "https"):
            return file.size
        return await asyncio.to_thread(self._ask, file.external_url)

    def _ask(self, url: str) -> int | None:
        deadline = Deadline.after(PROBE_S, "asking an external link for its size")
        try:
            return self._downloader.fetch_range(
                url, 0, 1, lambda _offset, _piece: None, deadline=deadline
            ).total
        except SyndError:
            return None
