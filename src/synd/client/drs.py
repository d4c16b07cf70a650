"""Links to bytes elsewhere: https as it is, and ``drs://HOST/ID`` by asking that host where the bytes lie.

The GA4GH Data Repository Service, version 1.x: an object tells its size, its checksums and how to access it; a URL
is part of that, or is asked for by an access id. Hosts are asked by https, and only addresses of https are taken
from them. Compact identifiers (``drs://PREFIX:ACCESSION``) are not resolved: that takes a registry of prefixes.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

from synd.client.transfer import Downloader
from synd.clock import Deadline
from synd.errors import NotSupported, ProtocolError
from synd.ids import Md5

ASK_S: Final = 30.0
"""A host is waited for so long."""

KEEP_S: Final = 60.0
"""An address is used again for so long: they are signed for minutes, or for ever."""

_ANSWER_MOST: Final = 1 << 20
_KEPT_MOST: Final = 10_000
_MD5 = re.compile(r"[0-9a-fA-F]{32}")
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class DrsObject:
    """What a host tells of an object, as far as it is needed."""

    size: int | None
    md5: Md5 | None
    methods: tuple[Mapping[str, Any], ...]


def is_drs(url: str) -> bool:
    return url[:6].lower() == "drs://"


def object_url(uri: str) -> str:
    """Where ``drs://HOST/ID`` is asked for. Raises NotSupported for what is no such name."""
    parts = urlsplit(uri)
    id = parts.path.removeprefix("/")
    if not is_drs(uri) or not id or _HOST.fullmatch(parts.netloc) is None:
        raise NotSupported(
            f"{uri!r} is not drs://HOST/ID", hint="compact DRS identifiers are not resolved"
        )
    # An id may hold a slash, which then is escaped already.
    return f"https://{parts.netloc}/ga4gh/drs/v1/objects/{quote(unquote(id), safe='')}"


class Links:
    """Where the bytes behind external links are. Blocks; any thread."""

    def __init__(self, downloader: Downloader) -> None:
        self._downloader = downloader
        self._lock = threading.Lock()
        """Guards the table; not held while a host is asked."""
        self._urls: dict[str, tuple[str, float]] = {}

    def url(self, link: str, *, fresh: bool = False) -> str:
        """The address to download from; `fresh`: the last one was refused.

        Raises NotFound, Forbidden, RemoteUnavailable and its kind, ProtocolError, NotSupported (no way to the bytes
        that we know).
        """
        if not is_drs(link):
            return link
        now = time.monotonic()
        with self._lock:
            kept = self._urls.get(link)
        if kept is not None and kept[1] > now and not fresh:
            return kept[0]
        found = self._address(object_url(link), self.find(link))
        with self._lock:
            if len(self._urls) >= _KEPT_MOST:
                self._urls.clear()
            self._urls[link] = (found, now + KEEP_S)
        return found

    def find(self, uri: str) -> DrsObject:
        """What the host tells of an object. Raises as `url` does."""
        told = self._ask(object_url(uri))
        size = told.get("size")
        return DrsObject(
            size=size if isinstance(size, int) and size >= 0 else None,
            md5=next(_md5s(told.get("checksums")), None),
            methods=tuple(
                one for one in _list(told.get("access_methods")) if isinstance(one, dict)
            ),
        )

    def _address(self, where: str, found: DrsObject) -> str:
        """The first address of https. Those of buckets may have one too, by their access id."""
        methods = sorted(found.methods, key=lambda one: one.get("type") != "https")
        for method in methods:
            access = method.get("access_url")
            id = method.get("access_id")
            if not isinstance(access, dict) and isinstance(id, str) and id:
                access = self._ask(f"{where}/access/{quote(id, safe='')}")
            if not isinstance(access, dict) or access.get("headers"):
                # A login of that host's own, which we have not.
                continue
            url = access.get("url")
            if isinstance(url, str) and urlsplit(url).scheme.lower() == "https":
                return url
        raise NotSupported(f"{urlsplit(where).netloc} offers no way to the bytes by plain https")

    def _ask(self, url: str) -> dict[str, Any]:
        data = bytearray()

        def keep(_offset: int, piece: memoryview) -> None:
            data.extend(piece)
            if len(data) > _ANSWER_MOST:
                raise ProtocolError(f"{urlsplit(url).netloc} says too much of an object")

        deadline = Deadline.after(ASK_S, "asking where the bytes of a link are")
        self._downloader.resume(lambda _fresh: url, 0, None, keep, deadline=deadline)
        try:
            told = json.loads(data)
        except ValueError as error:
            raise ProtocolError(f"{urlsplit(url).netloc} does not answer in JSON") from error
        if not isinstance(told, dict):
            raise ProtocolError(f"{urlsplit(url).netloc} answers with no object")
        return told


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _md5s(checksums: object) -> Iterator[Md5]:
    for one in _list(checksums):
        if isinstance(one, dict) and str(one.get("type")).lower() == "md5":
            told = str(one.get("checksum")).strip()
            if _MD5.fullmatch(told):
                yield Md5(told.lower())
