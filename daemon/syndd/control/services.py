"""What the control API asks of the daemon: a protocol that the composition root implements.

Every method runs on the daemon's asyncio loop and must not block it. Methods take and return values of
`synd.control.contract` and raise only `synd.errors`. A *target* is an absolute path below the mount or
an entity id (``syn123``, ``syn123.4``); a *path* is always the former. Nothing here may touch a path
under the mount itself: the daemon would wait for its own answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

from synd.config import Config
from synd.control import contract


class DaemonServices(Protocol):
    """The daemon's abilities, one method each."""

    @property
    def config(self) -> Config:
        """The settings in force."""
        ...

    async def status(self) -> contract.AppStatus:
        """All but the process's own part. No request to the service, no disk walk."""
        ...

    async def status_of(self, path: str) -> contract.PathStatus:
        """Raises NotFound when the path is not in the mount or leads to nothing known."""
        ...

    async def why(self, path: str) -> contract.Why: ...

    async def pending(self) -> contract.Pending:
        """What is not sent yet. Cheap: asked often during a drain."""
        ...

    async def wait(self, path: str | None, timeout_s: float) -> contract.WaitReply:
        """Returns when everything (or `path` and what is below it) is sent, or `timeout_s` has passed."""
        ...

    async def unmount(self, *, lazy: bool) -> None:
        """Takes the mount away before a stop. Raises Busy (and changes nothing) when it is in use and
        not `lazy`. Done already: nothing happens.
        """
        ...

    async def info(self, target: str) -> contract.Info: ...

    async def ls(self, target: str, *, long: bool) -> contract.Listing:
        """A folder's entries by name. With `long`, sizes that are unknown are asked for."""
        ...

    async def prefetch(self, targets: Sequence[str], *, pin: bool) -> contract.Job:
        """Starts fetching files, or folders with all below; returns its job at once."""
        ...

    async def cache_usage(self) -> contract.CacheUsage: ...

    async def cache_clear(self, targets: Sequence[str]) -> contract.CacheReply:
        """Drops what is neither pinned, open nor unsent; all of the cache when `targets` is empty."""
        ...

    async def cache_pin(self, targets: Sequence[str], *, pinned: bool) -> contract.CacheReply: ...

    async def cache_verify(self, targets: Sequence[str]) -> contract.Job:
        """Starts hashing again; `result` of the finished job is {"checked", "bad", "repaired"}."""
        ...

    async def jobs(self, *, all: bool) -> Sequence[contract.Job]:
        """Newest first; only pending and running ones unless `all`."""
        ...

    async def job(self, id: str) -> contract.Job:
        """Raises NotFound."""
        ...

    async def cancel(self, id: str) -> contract.Job: ...

    async def retry(self, id: str) -> contract.Job: ...

    def events(self) -> AsyncIterator[contract.Event]:
        """A new subscription. Bounded: a subscriber that lags is given one `status` event instead of what it missed."""
        ...

    def metrics(self) -> Mapping[str, float]:
        """Name → value, without the prefix ``synd_``. A name may carry labels: ``requests_total{kind="entity"}``.

        Names that end in ``_total`` are counters, all others gauges.
        """
        ...
