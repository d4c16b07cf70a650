"""The contract's part about files made readable by region: their bytes, their state, making them.

The same rules as in `synd.control.contract`. This module has no code either.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 12):
    from typing import NotRequired, TypedDict
else:
    from typing import NotRequired

    from typing_extensions import TypedDict

from synd.control.contract import Job

DATA = "/v1/data"
"""GET or HEAD `/v1/data/{id}?raw=` → bytes, with ranges; 202, `Location` and `Retry-After` while they are made.
HEAD starts nothing: 404. Content that cannot be processed: 422, Refused. `…/{id}/status` → Readiness. `/v1/data/{id}/{name}` is the same for programs that go by names: one that
ends like an index (`.bai`) is the index, any other the data."""
INDEX = "/v1/index"
"""The same of the index; 404 for what has none. One job makes both."""
PREPARE = "/v1/prepare"
"""POST PrepareRequest → Prepared."""
FORMATS = "/v1/formats"
"""GET → Formats."""


class PrepareRequest(TypedDict):
    targets: list[str]


class AsItIs(TypedDict):
    path: str
    reason: str


class NotPrepared(TypedDict):
    """A file whose content cannot be processed."""

    path: str
    failure: str
    """Class of failure (docs/formats.md)."""
    reason: str


class Refused(TypedDict):
    """Why the bytes of a file cannot be processed: fields beside those of the problem."""

    error_class: str
    """Class of failure (docs/formats.md)."""
    error: str
    bad_line: NotRequired[int]
    """1-based, of the file."""
    raw: str
    """Where the file is read as it is."""


class NotTaken(TypedDict):
    """A file for which no job could be made now."""

    path: str
    type: str
    """Class name of `synd.errors`: QueueFull or Draining."""
    reason: str


class Prepared(TypedDict):
    """What became of the files that were named."""

    jobs: list[Job]
    """Under way; those that others asked for among them."""
    ready: list[str]
    as_they_are: list[AsItIs]
    """Need nothing: they are read as they are."""
    failed: list[NotPrepared]
    refused: list[NotTaken]
    """Ask again later. When nothing at all could be taken, that is the error itself: 429 or 503."""


class Readiness(TypedDict):
    ready: bool
    name: NotRequired[str]
    """What the bytes are named; left out: they are not there."""


class Format(TypedDict):
    """What becomes of a format on this machine."""

    format: str
    processor: str
    data: str
    indexes: list[str]
    """Suffixes that its index may have."""
    tools: list[str]
    """Who does it here."""
    missing: str
    """What has to be installed first; empty: nothing."""


class Formats(TypedDict):
    formats: list[Format]
