"""Links to files elsewhere: does the URL answer a size, so that it can be read like a file?"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from urllib.parse import urlsplit

from synd.client.drs import Links, is_drs
from synd.client.transfer import Downloader
from synd.clock import Deadline
from synd.model import FileVersion

PROBE_S = 10.0


class Probe:
    """Asks the server behind an external link for its size, by a range of one byte; a DRS host also for the md5."""

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader
        self._links = Links(downloader)

    async def look(self, file: FileVersion) -> FileVersion:
        """The link with its size, and of a DRS object with its md5, as far as its server tells them.

        Raises what asking raises: NotFound, Forbidden, RemoteUnavailable, NotSupported …
        """
        link = file.external_url
        if not link or (file.size is not None and (file.md5 is not None or not is_drs(link))):
            return file
        if is_drs(link):
            found = await asyncio.to_thread(self._links.find, link)
            file = replace(
                file,
                size=found.size if file.size is None else file.size,
                md5=file.md5 or found.md5,
            )
        elif urlsplit(link).scheme not in ("http", "https"):
            return file
        if file.size is None:
            file = replace(file, size=await asyncio.to_thread(self._ask, link))
        return file

    def _ask(self, link: str) -> int | None:
        deadline = Deadline.after(PROBE_S, "asking an external link for its size")
        return self._downloader.fetch_range(
            self._links.url(link), 0, 1, lambda _offset, _piece: None, deadline=deadline
        ).total
