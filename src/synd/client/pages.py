"""Lists that the service gives in pages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from synd.errors import ProtocolError

T = TypeVar("T")

_PAGES: Final = 1000
"""No list is longer; a service that repeats itself must not hold us for ever."""


async def all_of(
    what: str, page: Callable[[str | None], Awaitable[tuple[list[T], str | None]]]
) -> list[T]:
    """Everything on all pages. `page` takes the token of a page, None for the first, and gives what is on it and the
    next token. Raises ProtocolError for a list without an end, and what `page` raises.
    """
    found: list[T] = []
    token: str | None = None
    for _ in range(_PAGES):
        some, token = await page(token)
        found += some
        if not token:
            return found
    raise ProtocolError(f"the service's list of {what} has no end")
